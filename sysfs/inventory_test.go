// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// UUIDs of the GPUs in the tests; the first two begin alike.
const (
	uuidA = "GPU-fef8089b-4820-abfc-e83e-94318197576e"
	uuidB = "GPU-fef8089c-4820-abfc-e83e-94318197576e"
	uuidC = "GPU-0a1b2c3d-4820-abfc-e83e-94318197576e"
)

const driverFiles = "Character devices:\n195 nvidia\n195 nvidiactl\n236 nvidia-caps\n507 nvidia-uvm\n"

// base is a machine with a driver, no GPU, and the given files.
func base(more ...map[string]string) map[string]string {
	files := map[string]string{
		procVersion: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:16:25 UTC 2024\n",
		procDevices: driverFiles,
		procGPUs:    "/",
	}
	for _, m := range more {
		maps.Copy(files, m)
	}
	return files
}

// gpu is the information file of one GPU.
func gpu(name string, minor int, uuid, more string) map[string]string {
	text := fmt.Sprintf("Model: \t\t Tesla T4\nDevice Minor: \t %d\n", minor)
	if uuid != "" {
		text += "GPU UUID: \t " + uuid + "\n"
	}
	return map[string]string{procGPUs + "/" + name + "/information": text + more}
}

// instance is a MIG device of the GPU with the given minor.
func instance(minor, gi, ci int) map[string]string {
	dir := fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%d/mig/gi%d", minor, gi)
	first := 3 + 135*minor + 9*gi
	access := "DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n"
	return map[string]string{
		dir + "/access":                        fmt.Sprintf(access, first),
		fmt.Sprintf("%s/ci%d/access", dir, ci): fmt.Sprintf(access, first+1+ci),
	}
}

// wantInstance is the expected result of instance.
func wantInstance(minor, gi, ci int) mig.Instance {
	first := 3 + 135*minor + 9*gi
	return mig.Instance{
		GI: gi, CI: ci,
		GICap: mig.Capability{Minor: first, Mode: 0o444, Modify: true},
		CICap: mig.Capability{Minor: first + 1 + ci, Mode: 0o444, Modify: true},
	}
}

func TestRead(t *testing.T) {
	driver := &Driver{Version: "550.54.15", Arch: "x86_64"}
	majors := Majors{Nvidia: 195, Ctl: 195, Modeset: -1, UVM: 507, Caps: 236, IMEXChannels: -1, NVLink: -1, NVSwitch: -1}
	for _, tt := range []struct {
		name      string
		files     map[string]string
		instances bool
		want      Inventory
		err       string
	}{
		{
			name:  "no driver",
			files: map[string]string{procDevices: "Character devices:\n  1 mem\n"},
			want:  Inventory{Majors: noMajors, Params: defaultParams},
		},
		{
			name: "nothing at all",
			want: Inventory{Majors: noMajors, Params: defaultParams},
		},
		{
			name:  "no GPU",
			files: base(),
			want:  Inventory{Driver: driver, Majors: majors, Params: defaultParams, GPUs: []GPU{}},
		},
		{
			name:  "minors are no indices, excluded ones have none, wide domains",
			files: base(gpu("10000:01:00.0", 0, uuidA, ""), gpu("0000:81:00.0", 3, uuidB, "GPU Excluded:\t Yes\n"), gpu("00000000:09:00.0", 2, "", ""), gpu("0000:10:00.0", 1, uuidC, "Blacklisted: No\n")),
			want: Inventory{Driver: driver, Majors: majors, Params: defaultParams, GPUs: []GPU{
				{Address: Address{0, 9, 0, 0}, Name: "00000000:09:00.0", Model: "Tesla T4", Minor: 2, Index: 0},
				{Address: Address{0, 0x10, 0, 0}, Name: "0000:10:00.0", Model: "Tesla T4", UUID: uuidC, Minor: 1, Index: 1},
				{Address: Address{0, 0x81, 0, 0}, Name: "0000:81:00.0", Model: "Tesla T4", UUID: uuidB, Minor: 3, Index: -1, Excluded: true},
				{Address: Address{0x10000, 1, 0, 0}, Name: "10000:01:00.0", Model: "Tesla T4", UUID: uuidA, Minor: 0, Index: 2},
			}},
		},
		{
			name:  "instances not requested",
			files: base(gpu("0000:01:00.0", 0, uuidA, ""), instance(0, 1, 0)),
			want: Inventory{Driver: driver, Majors: majors, Params: defaultParams, GPUs: []GPU{
				{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Model: "Tesla T4", UUID: uuidA},
			}},
		},
		{
			name:      "instances belong to the minor",
			files:     base(gpu("0000:01:00.0", 1, uuidA, ""), gpu("0000:02:00.0", 0, uuidC, ""), instance(0, 10, 0), instance(0, 9, 0)),
			instances: true,
			want: Inventory{Driver: driver, Majors: majors, Params: defaultParams, GPUs: []GPU{
				{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Model: "Tesla T4", UUID: uuidA, Minor: 1},
				{
					Address: Address{0, 2, 0, 0}, Name: "0000:02:00.0", Model: "Tesla T4", UUID: uuidC, Minor: 0, Index: 1,
					Instances: []mig.Instance{wantInstance(0, 9, 0), wantInstance(0, 10, 0)},
				},
			}},
		},
		{
			name:  "parameters",
			files: base(map[string]string{procParams: params580}),
			want:  Inventory{Driver: driver, Majors: majors, Params: Params{ModifyDeviceFiles: true, DeviceFileGID: 44, DeviceFileMode: 0o660}, GPUs: []GPU{}},
		},
		{name: "malformed parameters", files: base(map[string]string{procParams: "x"}), err: `reading the driver's parameters: /proc/driver/nvidia/params: line 1: no colon in "x"`},
		{name: "malformed majors", files: base(map[string]string{procDevices: "x"}), err: `reading major numbers: /proc/devices: line 1: "x" where the character devices should begin`},
		{name: "malformed version", files: base(map[string]string{procVersion: "x"}), err: `reading the driver's version: /proc/driver/nvidia/version: line 1: "x" does not begin with "NVRM version:"`},
		{name: "a driver without /proc/devices", files: map[string]string{sysVersion: "595.84\n"}, err: `reading major numbers: read /proc/devices: no such file or directory`},
		{
			name:  "entries that are no address as the driver spells it",
			files: base(gpu("0000:01:00.0", 0, uuidA, ""), gpu("gpu0", 0, "", ""), gpu("000:01:00.0", 0, "", ""), gpu("0000:001:0.0", 0, "", ""), map[string]string{procGPUs + "/README": "x"}),
			want: Inventory{
				Driver: driver, Majors: majors, Params: defaultParams,
				GPUs: []GPU{{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Model: "Tesla T4", UUID: uuidA}},
				Odd:  []string{"0000:001:0.0", "000:01:00.0", "README", "gpu0"},
			},
		},
		{
			name:  "one address twice",
			files: base(gpu("00000000:01:00.0", 0, uuidA, ""), gpu("0000:01:00.0", 1, uuidB, ""), gpu("0000:02:00.0", 2, uuidC, "")),
			want: Inventory{Driver: driver, Majors: majors, Params: defaultParams, GPUs: []GPU{
				{Address: Address{0, 1, 0, 0}, Name: "00000000:01:00.0", Model: "Tesla T4", UUID: uuidA, Err: errors.New("its address is also that of 0000:01:00.0")},
				{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Model: "Tesla T4", UUID: uuidB, Minor: 1, Index: 1, Err: errors.New("its address is also that of 00000000:01:00.0")},
				{Address: Address{0, 2, 0, 0}, Name: "0000:02:00.0", Model: "Tesla T4", UUID: uuidC, Minor: 2, Index: 2},
			}},
		},
		{name: "gpus is a file", files: map[string]string{procVersion: base()[procVersion], procDevices: driverFiles, procGPUs: "x"}, err: `reading gpus: readdir /proc/driver/nvidia/gpus: not a directory`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files)
			got, err := Read(root, tt.instances)
			if tt.err != "" {
				require.Error(t, err)
				assert.Equal(t, tt.err, strings.ReplaceAll(err.Error(), string(root), ""))
				assert.Equal(t, Inventory{}, got)
				return
			}
			require.NoError(t, err)
			got.Majors = got.Majors.known()
			assert.Equal(t, tt.want, got)
		})
	}
}

// An unreadable GPU affects only those who request it, and does not renumber the others.
func TestReadBrokenGPU(t *testing.T) {
	root := tree(t, base(
		gpu("0000:01:00.0", 0, uuidA, ""),
		map[string]string{procGPUs + "/0000:02:00.0/information": "junk"},
		map[string]string{procGPUs + "/0000:03:00.0/registry": "Binary: \"\"\n"},
		gpu("0000:04:00.0", 5, uuidB, ""), gpu("0000:05:00.0", 5, uuidC, ""), gpu("0000:06:00.0", 5, uuidC, "GPU Excluded: Yes\n"),
		gpu("0000:07:00.0", 7, uuidC, ""), map[string]string{"proc/driver/nvidia/capabilities/gpu7/mig/gi1/ci0/access": "x"},
		gpu("0000:08:00.0", 8, uuidC, ""), map[string]string{"proc/driver/nvidia/gpus/0000:09:00.0/information": "->/dev/zero"},
	))
	inv, err := Read(root, true)
	require.NoError(t, err)
	type row struct {
		name         string
		index, minor int
		err          string
	}
	var got []row
	for _, gpu := range inv.GPUs {
		r := row{name: gpu.Name, index: gpu.Index, minor: gpu.Minor}
		if gpu.Err != nil {
			r.err = strings.ReplaceAll(gpu.Err.Error(), string(root), "")
		}
		got = append(got, r)
	}
	assert.Equal(t, []row{
		{"0000:01:00.0", 0, 0, ""},
		{"0000:02:00.0", 1, -1, `/proc/driver/nvidia/gpus/0000:02:00.0/information: line 1: no colon in "junk"`},
		{"0000:03:00.0", 2, -1, `read /proc/driver/nvidia/gpus/0000:03:00.0/information: no such file or directory`},
		{"0000:04:00.0", 3, 5, `its device minor 5 is also that of 0000:05:00.0`},
		{"0000:05:00.0", 4, 5, `its device minor 5 is also that of 0000:04:00.0`},
		{"0000:06:00.0", -1, 5, `its device minor 5 is also that of 0000:04:00.0`},
		{"0000:07:00.0", 5, -1, `reading MIG devices: read /proc/driver/nvidia/capabilities/gpu7/mig/gi1/access: no such file or directory`},
		{"0000:08:00.0", 6, 8, ""},
		{"0000:09:00.0", 7, -1, `read /proc/driver/nvidia/gpus/0000:09:00.0/information: no such file or directory`},
	}, got)
}

// Empty directories are GPUs hidden by a container's runtime.
func TestReadMaskedGPU(t *testing.T) {
	hidden := map[string]string{procGPUs + "/0000:00:00.0": "/", procGPUs + "/00000000:02:00.0": "/"}
	root := tree(t, base(hidden, gpu("0000:01:00.0", 1, uuidA, ""), gpu("0000:03:00.0", 0, uuidB, ""),
		instance(1, 5, 0), map[string]string{
			"proc/driver/nvidia/capabilities/gpu1/mig/gi5/ci1": "/", "proc/driver/nvidia/capabilities/gpu1/mig/gi3": "/", "proc/driver/nvidia/capabilities/gpu0/mig": "/",
			"proc/driver/nvidia/capabilities/gpu2/mig": "/",
		}))
	inv, err := Read(root, true)
	require.NoError(t, err)
	assert.Equal(t, []string{"00000000:02:00.0", "0000:00:00.0"}, inv.Masked)
	assert.Equal(t, []GPU{
		{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Model: "Tesla T4", UUID: uuidA, Minor: 1, Instances: []mig.Instance{wantInstance(1, 5, 0)}, masked: []mig.Instance{{GI: 5, CI: 1}}},
		{Address: Address{0, 3, 0, 0}, Name: "0000:03:00.0", Model: "Tesla T4", UUID: uuidB, Minor: 0, Index: 1},
	}, inv.GPUs)
	sel, err := inv.Select(ParseQuery([]string{"0:0"}))
	require.NoError(t, err)
	paths, err := inv.HiddenPaths(root, sel)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"/proc/driver/nvidia/capabilities/gpu0/mig", "/proc/driver/nvidia/capabilities/gpu1/mig/gi3", "/proc/driver/nvidia/capabilities/gpu1/mig/gi5/ci1",
		"/proc/driver/nvidia/capabilities/gpu2/mig",
		"/proc/driver/nvidia/gpus/00000000:02:00.0", "/proc/driver/nvidia/gpus/0000:00:00.0", "/proc/driver/nvidia/gpus/0000:03:00.0",
	}, paths)
}

func BenchmarkRead(b *testing.B) {
	files := base()
	for i := range 8 {
		maps.Copy(files, gpu(fmt.Sprintf("0000:%02x:00.0", i), i, uuidA, ""))
		for gi := range 7 {
			maps.Copy(files, instance(i, gi, 0))
		}
	}
	root := tree(b, files)
	for b.Loop() {
		if _, err := Read(root, true); err != nil {
			b.Fatal(err)
		}
	}
}

// Only the MIG devices of the requested GPUs are read.
func TestReadFor(t *testing.T) {
	machine, err := fixtures.Load("a100-mig")
	require.NoError(t, err)
	dir := t.TempDir()
	_, err = machine.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	all, err := Read(Root(dir), true)
	require.NoError(t, err)
	for at, gpu := range all.GPUs {
		for n, instance := range gpu.Instances {
			for _, name := range []string{fmt.Sprintf("%d:%d", gpu.Index, n), fmt.Sprintf("MIG-%s/%d/%d", gpu.UUID, instance.GI, instance.CI)} {
				q := ParseQuery([]string{name, "0"})
				inv, err := ReadFor(Root(dir), q)
				require.NoError(t, err)
				want := slices.Clone(all.GPUs)
				for i := range want {
					if i != at {
						want[i].Instances = nil
					}
				}
				assert.Equal(t, want, inv.GPUs, name)
				selected, err := inv.Select(q)
				require.NoError(t, err)
				wanted, err := all.Select(q)
				require.NoError(t, err)
				assert.Equal(t, wanted.GPUs[0].Instances, selected.GPUs[0].Instances)
			}
		}
	}
	inv, err := ReadFor(Root(dir), ParseQuery([]string{"all"}))
	require.NoError(t, err)
	assert.Equal(t, all, inv)
}
