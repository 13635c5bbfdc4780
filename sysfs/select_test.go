// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// eight is a machine whose indices, minors and order of names all differ.
func eight() Inventory {
	return Inventory{GPUs: []GPU{
		{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", UUID: uuidA, Minor: 7, Index: 0},
		{Address: Address{0, 2, 0, 0}, Name: "0000:02:00.0", UUID: uuidB, Minor: 6, Index: 1, Instances: []mig.Instance{
			wantInstance(6, 1, 0), wantInstance(6, 1, 1), wantInstance(6, 10, 0),
		}},
		{Address: Address{0, 3, 0, 0}, Name: "0000:03:00.0", UUID: "GPU-EEEEEEEE-4820-abfc-e83e-94318197576e", Minor: 5, Index: -1, Excluded: true},
		{Address: Address{0, 4, 0, 0}, Name: "0000:04:00.0", Minor: 4, Index: 2},
		{Address: Address{0, 5, 0, 0}, Name: "0000:05:00.0", Minor: -1, Index: 3, Err: errors.New("line 1: junk")},
		{Address: Address{0x10000, 6, 0, 0}, Name: "10000:06:00.0", UUID: strings.ToUpper(uuidC)[:3] + strings.ToUpper(uuidC)[3:], Minor: 2, Index: 4},
	}}
}

func TestSelect(t *testing.T) {
	inv := eight()
	type gpu = SelectedGPU
	whole := func(at int, instances ...int) gpu {
		s := gpu{GPU: inv.GPUs[at], Whole: true}
		for _, i := range instances {
			s.Instances = append(s.Instances, inv.GPUs[at].Instances[i])
		}
		return s
	}
	part := func(at int, instances ...int) gpu {
		s := whole(at, instances...)
		s.Whole = false
		return s
	}
	const (
		have = "; available: 0 (" + uuidA + ", 0000:01:00.0), 1 (" + uuidB + ", 0000:02:00.0), 1:0 (MIG 1/0), 1:1 (MIG 1/1), 1:2 (MIG 10/0), " +
			"(excluded: 0000:03:00.0), 2 (UUID not known, 0000:04:00.0), (unusable: 3 at 0000:05:00.0), " +
			"4 (GPU-0A1B2C3D-4820-ABFC-E83E-94318197576E, 10000:06:00.0)"
		form      = "unknown device: not an index, UUID, PCI address or name of a MIG device"
		noUUID    = "unknown device: no GPU has this UUID; it may be that of a GPU that cannot be used: 0000:05:00.0 (line 1: junk); the UUID of GPU 2 is unknown before its first use (run nvidia-smi once, or use the index or PCI address)"
		excluded  = "the GPU at 0000:03:00.0 is excluded from use by the driver's configuration"
		broken    = "the GPU at 0000:05:00.0 cannot be used: line 1: junk"
		ambiguous = "ambiguous: " + uuidA + " and " + uuidB + " begin with it"
		migUUID   = "MIG UUIDs are not in /proc, and recorded ones were not read"
	)
	for _, tt := range []struct {
		ids  string
		want []gpu
		err  string // without the list of what there is
	}{
		{ids: ""},
		{ids: "none"},
		{ids: "0", want: []gpu{whole(0)}},
		{ids: "4 2", want: []gpu{whole(5), whole(3)}},
		{ids: "1 0 1", want: []gpu{whole(1), whole(0)}},
		{ids: uuidA, want: []gpu{whole(0)}},
		{ids: strings.ToUpper(uuidA), want: []gpu{whole(0)}},
		{ids: strings.ToLower(uuidC), want: []gpu{whole(5)}},
		{ids: "GPU-fef8089b", want: []gpu{whole(0)}},
		{ids: "gpu-FEF8089C-48", want: []gpu{whole(1)}},
		{ids: "GPU-0", want: []gpu{whole(5)}},
		{ids: "0000:01:00.0", want: []gpu{whole(0)}},
		{ids: "0:1:0.0", want: []gpu{whole(0)}},
		{ids: "00010000:06:00.0 10000:6:0.0", want: []gpu{whole(5)}},
		{ids: "0 0000:01:00.0 GPU-fef8089b " + uuidA, want: []gpu{whole(0)}},
		{ids: "1:0", want: []gpu{part(1, 0)}},
		{ids: "1:2 1:0 1:2", want: []gpu{part(1, 2, 0)}},
		{ids: "1:2 0 1", want: []gpu{whole(1, 2), whole(0)}},
		{ids: "MIG-" + uuidB + "/10/0", want: []gpu{part(1, 2)}},
		{ids: "mig-gpu-fef8089c/1/1 1:1 MIG-GPU-FEF8089C/1/0", want: []gpu{part(1, 1, 0)}},
		{ids: "all", want: []gpu{whole(0), whole(1, 0, 1, 2), whole(3), whole(5)}},
		{ids: "ALL", want: []gpu{whole(0), whole(1, 0, 1, 2), whole(3), whole(5)}},
		{ids: "0 all", want: []gpu{whole(0), whole(1, 0, 1, 2), whole(3), whole(5)}},
		{ids: "none all"},
		{ids: "0 none"},
		{ids: "all none", want: []gpu{whole(0), whole(1, 0, 1, 2), whole(3), whole(5)}},

		{ids: "3", err: broken},
		{ids: "0000:05:00.0", err: broken},
		{ids: "3:0", err: broken},
		{ids: "0 5 1", err: "unknown device: no GPU has the index 5"},
		{ids: "999999999", err: "unknown device: no GPU has the index 999999999"},
		{ids: "9999999999", err: form},
		{ids: "00", err: form},
		{ids: "01", err: form},
		{ids: "+1", err: form},
		{ids: "-1", err: form},
		{ids: "1.0", err: form},
		{ids: "0x1", err: form},
		{ids: "1\x00", err: form},
		{ids: "1\n", err: form},
		{ids: "١", err: form},
		{ids: "None", err: form},
		{ids: "Void", err: form},
		{ids: "GPU-", err: form},
		{ids: "GPU", err: form},
		{ids: "GPU-fef8089x", err: form},
		{ids: "GPU-fef8089b4820", err: form},
		{ids: uuidA + "0", err: form},
		{ids: uuidA + "/../..", err: form},
		{ids: "fef8089b-4820-abfc-e83e-94318197576e", err: form},
		{ids: "../../etc", err: form},
		{ids: "0/../..", err: form},
		{ids: "GPU-fef8089", err: ambiguous},
		{ids: "GPU-f", err: ambiguous},
		{ids: "MIG-GPU-fef8089/1/0", err: ambiguous},
		{ids: "GPU-eeeeeeee", err: excluded},
		{ids: "0000:03:00.0", err: excluded},
		{ids: "GPU-12345678", err: noUUID},
		{ids: "GPU-????????-????-????-????-????????????", err: form},
		{ids: "0000:01:00.1", err: "unknown device: the driver has no GPU at 0000:01:00.1"},
		{ids: "0001:01:00.0", err: "unknown device: the driver has no GPU at 0001:01:00.0"},
		{ids: "10000:01:00.0", err: "unknown device: the driver has no GPU at 10000:01:00.0"},
		{ids: "0:1:0", err: form},
		{ids: "01:00.0", err: form},
		{ids: "0:1:0.00", err: form},
		{ids: "0:1:0.7x", err: form},
		{ids: "0:0", err: "unknown device: GPU 0 has no MIG device"},
		{ids: "1:3", err: "unknown device: GPU 1 has 3 MIG devices"},
		{ids: "5:0", err: "unknown device: no GPU has the index 5"},
		{ids: "1:00", err: form},
		{ids: "1:0 ", want: []gpu{part(1, 0)}},
		{ids: "1:0x", err: form},
		{ids: "1:", err: form},
		{ids: ":1", err: form},
		{ids: "1:-1", err: form},
		{ids: "MIG-" + uuidB + "/2/0", err: "unknown device: GPU 1 has no compute instance 0 in a GPU instance 2"},
		{ids: "MIG-" + uuidA + "/0/0", err: "unknown device: GPU 0 has no compute instance 0 in a GPU instance 0"},
		{ids: "MIG-" + uuidB + "/1", err: "unknown device: not of the form MIG-GPU-<uuid>/<gi>/<ci>"},
		{ids: "MIG-" + uuidB + "/1/0/0", err: `unknown device: compute instance "0/0" is not a number`},
		{ids: "MIG-" + uuidB + "/01/0", err: `unknown device: GPU instance "01" is not a number`},
		{ids: "MIG-GPU-eeeeeeee/1/0", err: excluded},
		{ids: "MIG-GPU-12345678/1/0", err: noUUID},
		{ids: "MIG-cd9ee947-34d2-50fe-93e0-2195b3f2fd52", err: migUUID},
		{ids: "mig-cd9ee947", err: "unknown device: the UUID of a MIG device must be complete"},
		{ids: "MIG-cd9ee947-34d2-50fe-93e0-2195b3f2fd520", err: "unknown device: not of the form MIG-GPU-<uuid>/<gi>/<ci>"},
		{ids: "MIG-", err: "unknown device: not of the form MIG-GPU-<uuid>/<gi>/<ci>"},
		{ids: "nvidia.com/gpu=0", err: form},
	} {
		t.Run(tt.ids, func(t *testing.T) {
			ids := strings.Split(strings.TrimSuffix(tt.ids, " "), " ")
			if tt.ids == "" {
				ids = nil
			}
			got, err := inv.Select(ParseQuery(ids))
			if tt.err != "" {
				var device *DeviceError
				require.ErrorAs(t, err, &device)
				assert.Equal(t, tt.err, device.Reason)
				assert.Contains(t, ids, device.ID)
				assert.Equal(t, fmt.Sprintf("device %q: %s%s", device.ID, tt.err, have), err.Error())
				assert.Equal(t, Selection{}, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.GPUs)
		})
	}
}

func TestSelectAll(t *testing.T) {
	inv := eight()
	got, err := inv.Select(ParseQuery([]string{"all"}))
	require.NoError(t, err)
	assert.Equal(t, []GPU{inv.GPUs[4]}, got.Skipped)

	_, err = Inventory{}.Select(ParseQuery([]string{"all"}))
	require.EqualError(t, err, `device "all": the driver has no GPU; there is no GPU to choose from`)

	_, err = Inventory{GPUs: inv.GPUs[4:5]}.Select(ParseQuery([]string{"all"}))
	require.EqualError(t, err, `device "all": none of the GPUs can be used; available: (unusable: 3 at 0000:05:00.0)`)
}

// Nothing in a UUID distinguishes two GPUs with the same UUID.
func TestPartitioned(t *testing.T) {
	root := tree(t, base(gpu("0000:01:00.0", 1, uuidA, ""), gpu("0000:02:00.0", 0, uuidB, ""), gpu("0000:03:00.0", 2, uuidC, ""),
		instance(0, 1, 0), instance(0, 2, 0), instance(2, 1, 0), map[string]string{"proc/driver/nvidia/capabilities/gpu1/mig": "/"}))
	for ids, want := range map[string][]string{
		"0": nil, "1": {"1:0", "1:1"}, "1:0": nil, "1,1:1": nil, "all": nil, "0,1,2": {"1:0", "1:1", "2:0"}, "none": nil, uuidC: {"2:0"},
	} {
		query := ParseQuery(strings.Split(ids, ","))
		inv, err := ReadFor(root, query)
		require.NoError(t, err)
		sel, err := inv.Select(query)
		require.NoError(t, err)
		var got []string
		for _, gpu := range sel.Partitioned(root) {
			got = append(got, gpu.MIGNames()...)
		}
		assert.Equal(t, want, got, ids)
	}
}

func TestSelectSameUUID(t *testing.T) {
	inv := Inventory{GPUs: []GPU{{UUID: uuidA, Index: 0}, {UUID: uuidA, Index: 1}}}
	_, err := inv.Select(ParseQuery([]string{uuidA}))
	var device *DeviceError
	require.ErrorAs(t, err, &device)
	assert.Equal(t, "ambiguous: "+uuidA+" and "+uuidA+" begin with it", device.Reason)
}

func TestNeedsInstances(t *testing.T) {
	for ids, want := range map[string]bool{
		"all": true, "0:1": true, "MIG-GPU-f/0/0": true, "0 0:1": true,
		"none": false, "": false, "0": false, "0:1:0.0": false, uuidA: false, "MIG-cd9ee947": false, "junk": false,
		"0 MIG-cd9ee947-34d2-50fe-93e0-2195b3f2fd52": true,
	} {
		q := ParseQuery(strings.Fields(ids))
		assert.Equal(t, want, q.NeedsInstances(), ids)
		assert.Equal(t, strings.Contains(ids, "fd52"), q.NeedsMIGUUIDs(), ids)
	}
}

// Hostile names are quoted and cut in messages, and long lists cause no trouble.
func TestSelectHostile(t *testing.T) {
	inv := eight()
	_, err := inv.Select(ParseQuery([]string{"\x1b[2J\nlevel=error " + strings.Repeat("x", 1<<20)}))
	require.Error(t, err)
	assert.Less(t, len(err.Error()), 2000)
	assert.True(t, strings.HasPrefix(err.Error(), `device "\x1b[2J\nlevel=error xxx`), err.Error())

	_, err = inv.Select(ParseQuery([]string{"MIG-GPU-" + strings.Repeat("f", 1<<20) + "/1/0"}))
	require.Error(t, err)
	assert.Less(t, len(err.Error()), 2000)

	many := make([]string, 0, 100_000)
	for i := range cap(many) {
		many = append(many, []string{"0", "1:0", uuidB, "0:1:0.0", "GPU-0A"}[i%5])
	}
	got, err := inv.Select(ParseQuery(many))
	require.NoError(t, err)
	assert.Len(t, got.GPUs, 3)
}

func FuzzSelect(f *testing.F) {
	for _, seed := range []string{"0", "1:2", uuidA, "GPU-fef8089b", "0000:02:00.0", "MIG-" + uuidB + "/1/0", "all", "none", "MIG-cd9ee947", "MIG-cd9ee947-34d2-50fe-93e0-2195b3f2fd52"} {
		f.Add(seed)
	}
	inv := eight()
	f.Fuzz(func(t *testing.T, text string) {
		got, err := inv.Select(ParseQuery([]string{text}))
		if err != nil {
			var device *DeviceError
			require.ErrorAs(t, err, &device)
			assert.Equal(t, Selection{}, got)
			assert.Less(t, len(err.Error()), 3000)
			assert.NotContains(t, err.Error(), "\n")
			return
		}
		if strings.EqualFold(text, "all") || text == "none" {
			return
		}
		// One name selects one GPU, and at most one instance, which the name spells out.
		require.Len(t, got.GPUs, 1)
		selected := got.GPUs[0]
		assert.False(t, selected.GPU.Excluded)
		assert.NoError(t, selected.GPU.Err)
		names := []string{fmt.Sprint(selected.GPU.Index), selected.GPU.UUID, selected.GPU.Address.String()}
		if selected.Whole {
			assert.Empty(t, selected.Instances)
		} else {
			require.Len(t, selected.Instances, 1)
			i := selected.Instances[0]
			names = nil
			for rank, other := range selected.GPU.Instances {
				if other == i {
					names = append(names, fmt.Sprintf("%d:%d", selected.GPU.Index, rank))
				}
			}
			prefix, ids, _ := strings.Cut(strings.ToLower(text), "/")
			if ids == fmt.Sprintf("%d/%d", i.GI, i.CI) && strings.HasPrefix(strings.ToLower("MIG-"+selected.GPU.UUID), prefix) {
				return
			}
		}
		for _, name := range names {
			bare := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "0", "") }
			if name == text || len(text) > len("GPU-") && strings.HasPrefix(strings.ToLower(name), strings.ToLower(text)) || strings.Contains(text, ".") && bare(name) == bare(text) {
				return
			}
		}
		t.Errorf("%q selects %v", text, selected)
	})
}

func BenchmarkSelect(b *testing.B) {
	inv := eight()
	for b.Loop() {
		if _, err := inv.Select(ParseQuery([]string{"0", "1:1", "GPU-0a1b2c3d", "0000:04:00.0"})); err != nil {
			b.Fatal(err)
		}
	}
}
