// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
)

// learn returns what would be learned about the GPU now. Its n-th instance has the graphics engine
// n.
func learn(t testing.TB, root Root, gpu GPU, die mig.Die) learnt.GPU {
	t.Helper()
	epoch, err := mig.ReadEpoch(root, "550.54.15")
	require.NoError(t, err)
	marks, err := mig.ReadMarks(root, gpu.Minor, epoch, gpu.Instances)
	require.NoError(t, err)
	known := learnt.GPU{UUID: strings.ToLower(gpu.UUID)}
	known.UUID = "GPU-" + known.UUID[4:]
	for n, i := range gpu.Instances {
		known.Devices = append(known.Devices, learnt.Device{UUID: die.UUID(i.GI, n), GI: i.GI, CI: i.CI, Mark: marks[n]})
	}
	return known
}

func keep(t testing.TB, root Root, gpus ...learnt.GPU) {
	t.Helper()
	file := root.Path(learnt.Path)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, learnt.Store{GPUs: gpus}.Encode(), 0o644))
}

// remake gives an instance's directory another inode, as if the instance had been destroyed and
// recreated.
func remake(t testing.TB, root Root, minor, gi int) {
	t.Helper()
	dir := root.Path(fmt.Sprintf("proc/driver/nvidia/capabilities/gpu%d/mig/gi%d", minor, gi))
	require.NoError(t, os.CopyFS(dir+".new", os.DirFS(dir)))
	require.NoError(t, os.RemoveAll(dir))
	require.NoError(t, os.Rename(dir+".new", dir))
}

func TestSelectMIGUUID(t *testing.T) {
	var (
		dieA = mig.Die{PDI: 0x145c8e416b389d3e, Chip: 0x170}
		dieB = mig.Die{PDI: 0xf98aadff6aaf1bb8, Chip: 0x180}
	)
	const (
		advice = "; run 'nvsysfs learn' as root on the host"
		none   = "unknown device: no MIG device has this UUID"
	)
	proved := func(g learnt.GPU, die mig.Die) learnt.GPU {
		g.Source, g.PDI, g.Chip = learnt.FromSMI, die.PDI, die.Chip
		return g
	}
	// A has the instances 1/0 and 9/0, with the engines 0 and 1, B 2/0 and 2/1 and 5/0, with 0, 1
	// and 2.
	for _, tt := range []struct {
		name    string
		prepare func(t *testing.T, root Root, a, b GPU)
		ask     mig.UUID
		want    string // GPU index, GI and CI
		err     string // $FILE is the file
	}{
		{
			name: "from the list", ask: dieB.UUID(2, 1), want: "1 2/1",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learn(t, root, a, dieA), learn(t, root, b, dieB))
			},
		},
		{
			name: "from the list, other GPUs not learnt", ask: dieB.UUID(2, 1), want: "1 2/1",
			prepare: func(t *testing.T, root Root, a, b GPU) { keep(t, root, learn(t, root, b, dieB)) },
		},
		{
			name: "not in the list", ask: dieB.UUID(2, 3), err: none,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learn(t, root, a, dieA), learn(t, root, b, dieB))
			},
		},
		{
			name: "the list counts more than the PDI", ask: dieA.UUID(9, 5), err: none,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learn(t, root, a, dieA), dieA), proved(learn(t, root, b, dieB), dieB))
			},
		},
		{
			name: "not in the list, other GPUs not learnt", ask: dieA.UUID(9, 1),
			err:     "unknown device: no recorded MIG device has this UUID, and those of GPU 0 are not recorded or have changed" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) { keep(t, root, learn(t, root, b, dieB)) },
		},
		{
			name: "by the PDI alone", ask: dieA.UUID(9, 5), want: "0 9/0",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learnt.GPU{UUID: uuidA}, dieA))
			},
		},
		{
			name: "by the PDI without a proof", ask: dieB.UUID(5, 7), want: "1 5/0",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learnt.GPU{UUID: uuidB, Source: learnt.FromSMI, PDI: dieB.PDI})
			},
		},
		{
			name: "by the PDI, several compute instances", ask: dieB.UUID(2, 0),
			err: "ambiguous: GPU 1, GPU instance 2 has several compute instances, which have changed since 'nvsysfs learn'" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learnt.GPU{UUID: uuidB}, dieB))
			},
		},
		{
			name: "by the PDI, an instance that is not there", ask: dieA.UUID(3, 0), err: none,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learnt.GPU{UUID: uuidA}, dieA), learn(t, root, b, dieB))
			},
		},
		{
			name: "an instance made anew has another UUID", ask: dieA.UUID(9, 5), want: "0 9/0",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learn(t, root, a, dieA), dieA))
				remake(t, root, a.Minor, 9)
			},
		},
		{
			name: "and its old one is not believed", ask: dieA.UUID(9, 1),
			err: "the record is stale: the MIG device of GPU 0 with this UUID was destroyed or recreated" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learn(t, root, a, dieA), dieA))
				remake(t, root, a.Minor, 9)
			},
		},
		{
			name: "nor is it without a PDI", ask: dieA.UUID(9, 1),
			err: "the record is stale, or the device is gone: a MIG device of GPU 0 had this UUID" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learn(t, root, a, dieA))
				remake(t, root, a.Minor, 9)
			},
		},
		{
			name: "its neighbour still is", ask: dieA.UUID(1, 0), want: "0 1/0",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learn(t, root, a, dieA))
				remake(t, root, a.Minor, 9)
			},
		},
		{
			name: "and has no other UUID", ask: dieA.UUID(1, 3), err: "unknown device: no recorded MIG device has this UUID, and those of GPU 1 are not recorded or have changed" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learn(t, root, a, dieA), dieA))
				remake(t, root, a.Minor, 9)
			},
		},
		{
			name: "a former UUID", ask: dieA.UUID(9, 5),
			err: "the record is stale: the MIG device of GPU 0 with this UUID was destroyed or recreated" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				g := proved(learnt.GPU{UUID: uuidA}, dieA)
				g.Former = []mig.UUID{dieA.UUID(9, 5)}
				keep(t, root, g)
			},
		},
		{
			name: "a former UUID of what has been learnt", ask: dieA.UUID(9, 5),
			err: "the record is stale, or the device is gone: a MIG device of GPU 0 had this UUID" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				g := proved(learn(t, root, a, dieA), dieA)
				g.Former = []mig.UUID{dieA.UUID(9, 5)}
				keep(t, root, g, learn(t, root, b, dieB))
			},
		},
		{
			name: "after a start of the machine", ask: dieA.UUID(9, 1),
			err: "the record is stale: the MIG device of GPU 0 with this UUID was destroyed or recreated" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, proved(learn(t, root, a, dieA), dieA))
				require.NoError(t, os.MkdirAll(root.Path("proc/sys/kernel/random"), 0o755))
				require.NoError(t, os.WriteFile(root.Path("proc/sys/kernel/random/boot_id"), []byte("x\n"), 0o644))
			},
		},
		{
			name: "nothing learnt", ask: dieA.UUID(9, 1),
			err:     "MIG UUIDs are not in /proc, and none are recorded (no file $FILE)" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {},
		},
		{
			name: "file that others may write", ask: dieA.UUID(9, 1),
			err: "MIG UUIDs are not in /proc, and the record is not trusted: $FILE: " +
				"users other than its owner may write it (mode 0666); remove it, then run 'nvsysfs learn' as root on the host",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learn(t, root, a, dieA))
				require.NoError(t, os.Chmod(root.Path(learnt.Path), 0o666))
			},
		},
		{
			name: "two GPUs of one UUID", ask: dieA.UUID(9, 1),
			err: "unknown device: no recorded MIG device has this UUID, and those of GPU 0, 1 are not recorded or have changed" + advice,
			prepare: func(t *testing.T, root Root, a, b GPU) {
				keep(t, root, learn(t, root, a, dieA))
				for name, text := range gpu(b.Name, b.Minor, uuidA, "") {
					require.NoError(t, os.WriteFile(root.Path(name), []byte(text), 0o644))
				}
			},
		},
		{
			name: "no MIG device at all", ask: dieA.UUID(9, 1), err: "unknown device: no GPU has a MIG device",
			prepare: func(t *testing.T, root Root, a, b GPU) {
				require.NoError(t, os.RemoveAll(root.Path("proc/driver/nvidia/capabilities")))
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, base(gpu("0000:01:00.0", 3, uuidA, ""), gpu("0000:02:00.0", 0, strings.ToUpper(uuidB), ""), gpu("0000:03:00.0", 1, uuidC, ""),
				instance(3, 1, 0), instance(3, 9, 0), instance(0, 2, 0), instance(0, 2, 1), instance(0, 5, 0)))
			inv, err := Read(root, true)
			require.NoError(t, err)
			tt.prepare(t, root, inv.GPUs[0], inv.GPUs[1])
			inv, err = Read(root, true)
			require.NoError(t, err)

			q := ParseQuery([]string{tt.ask.String(), strings.ToUpper(tt.ask.String())})
			require.True(t, q.NeedsMIGUUIDs())
			require.True(t, q.NeedsInstances())
			part, q, err := ReadForMIGUUIDs(root, q, os.Geteuid())
			require.NoError(t, err)
			got, err := part.Select(q)
			// Reading less gives the same result.
			q.MIGUUIDs = ReadMIGUUIDs(root, inv, os.Geteuid())
			whole, wholeErr := inv.Select(q)
			assert.Equal(t, whole, got)
			assert.Equal(t, wholeErr, err)
			if tt.err != "" {
				var device *DeviceError
				require.ErrorAs(t, err, &device)
				assert.Equal(t, tt.err, strings.ReplaceAll(device.Reason, root.Path(learnt.Path), "$FILE"))
				assert.Equal(t, Selection{}, got)
				return
			}
			require.NoError(t, err)
			require.Len(t, got.GPUs, 1)
			require.Len(t, got.GPUs[0].Instances, 1)
			i := got.GPUs[0].Instances[0]
			assert.Equal(t, tt.want, fmt.Sprintf("%d %d/%d", got.GPUs[0].GPU.Index, i.GI, i.CI))
			assert.False(t, got.GPUs[0].Whole)
		})
	}
}

// Only the MIG devices of the GPUs that were learned to have the UUIDs, and of those that other
// names mean, are read.
func TestReadForMIGUUIDs(t *testing.T) {
	root := tree(t, base(gpu("0000:01:00.0", 3, uuidA, ""), gpu("0000:02:00.0", 0, uuidB, ""), gpu("0000:03:00.0", 1, uuidC, ""),
		instance(3, 1, 0), instance(0, 2, 0), instance(1, 5, 0)))
	inv, err := Read(root, true)
	require.NoError(t, err)
	die := mig.Die{PDI: 1, Chip: 0x170}
	a, b, c := learn(t, root, inv.GPUs[0], die), learn(t, root, inv.GPUs[1], mig.Die{PDI: 2, Chip: 0x170}), learn(t, root, inv.GPUs[2], mig.Die{PDI: 3, Chip: 0x170})
	keep(t, root, a, b, c)
	for _, tt := range []struct{ ids, want string }{
		{a.Devices[0].UUID.String(), "1 0 0"},
		{c.Devices[0].UUID.String() + " 0 1", "0 0 1"},
		{a.Devices[0].UUID.String() + " 2:0", "1 0 1"},
		{a.Devices[0].UUID.String() + " " + b.Devices[0].UUID.String(), "1 1 0"},
		{a.Devices[0].UUID.String() + " " + die.UUID(1, 7).String(), "1 1 1"},
	} {
		inv, q, err := ReadForMIGUUIDs(root, ParseQuery(strings.Fields(tt.ids)), os.Geteuid())
		require.NoError(t, err)
		assert.Equal(t, tt.want, fmt.Sprintf("%d %d %d", len(inv.GPUs[0].Instances), len(inv.GPUs[1].Instances), len(inv.GPUs[2].Instances)), tt.ids)
		assert.NoError(t, q.MIGUUIDs.Err)
	}
	_, _, err = ReadForMIGUUIDs(tree(t, map[string]string{procDevices: "junk"}), ParseQuery([]string{a.Devices[0].UUID.String()}), os.Geteuid())
	require.Error(t, err)
}

// Without ReadMIGUUIDs the result is an error, whose list of available devices has the known UUIDs.
func TestSelectMIGUUIDHave(t *testing.T) {
	root := tree(t, base(gpu("0000:01:00.0", 3, uuidA, ""), instance(3, 1, 0), instance(3, 9, 0)))
	inv, err := Read(root, true)
	require.NoError(t, err)
	die := mig.Die{PDI: 1, Chip: 0x170}
	q := ParseQuery([]string{die.UUID(9, 1).String()})
	_, err = inv.Select(q)
	var device *DeviceError
	require.ErrorAs(t, err, &device)
	assert.Equal(t, "MIG UUIDs are not in /proc, and recorded ones were not read", device.Reason)

	keep(t, root, learn(t, root, inv.GPUs[0], die))
	q = ParseQuery([]string{die.UUID(9, 2).String()})
	q.MIGUUIDs = ReadMIGUUIDs(root, inv, os.Geteuid())
	_, err = inv.Select(q)
	require.ErrorAs(t, err, &device)
	assert.Equal(t, []string{
		"0 (" + uuidA + ", 0000:01:00.0)", "0:0 (MIG 1/0, " + die.UUID(1, 0).String() + ")", "0:1 (MIG 9/0, " + die.UUID(9, 1).String() + ")",
	}, device.Have)
	got, ok := q.MIGUUIDs.Of(inv.GPUs[0], 1)
	assert.True(t, ok)
	assert.Equal(t, die.UUID(9, 1), got)
	_, ok = q.MIGUUIDs.Of(inv.GPUs[0], 2)
	assert.False(t, ok)
	_, ok = MIGUUIDs{}.Of(inv.GPUs[0], 0)
	assert.False(t, ok)
}

// A file owned by somebody else is not read.
func TestReadMIGUUIDsOwner(t *testing.T) {
	root := tree(t, base(gpu("0000:01:00.0", 3, uuidA, ""), instance(3, 1, 0)))
	inv, err := Read(root, true)
	require.NoError(t, err)
	assert.ErrorIs(t, ReadMIGUUIDs(root, inv, os.Geteuid()).Err, fs.ErrNotExist)
	keep(t, root, learnt.GPU{UUID: uuidA})
	assert.NoError(t, ReadMIGUUIDs(root, inv, os.Geteuid()).Err)
	assert.ErrorContains(t, ReadMIGUUIDs(root, inv, os.Geteuid()+1).Err, "it belongs to user ")
}

// A hostile list of many UUIDs takes little time: the first unknown one ends it, and repeated ones
// are looked up once.
func TestSelectManyMIGUUIDs(t *testing.T) {
	files := []map[string]string{}
	for n := range 16 {
		files = append(files, gpu(fmt.Sprintf("0000:%02x:00.0", n+1), n, fmt.Sprintf("GPU-%08x-4820-abfc-e83e-94318197576e", n), ""))
		for gi := 7; gi < 14; gi++ {
			files = append(files, instance(n, gi, 0))
		}
	}
	root := tree(t, base(files...))
	inv, err := Read(root, true)
	require.NoError(t, err)
	var gpus []learnt.GPU
	var names []string
	for n, g := range inv.GPUs {
		die := mig.Die{PDI: uint64(n)}
		gpus = append(gpus, learnt.GPU{UUID: g.UUID, Source: learnt.FromSMI, PDI: die.PDI})
		die.Chip = 0x1b3 // the last one that is tried
		for gi := 7; gi < 14; gi++ {
			names = append(names, die.UUID(gi, 7).String())
		}
	}
	keep(t, root, gpus...)
	for len(names) < 100_000 {
		names = append(names, names[len(names)%112])
	}
	q := ParseQuery(names)
	q.MIGUUIDs = ReadMIGUUIDs(root, inv, os.Geteuid())
	got, err := inv.Select(q)
	require.NoError(t, err)
	assert.Len(t, got.GPUs, 16)
	for _, g := range got.GPUs {
		assert.Len(t, g.Instances, 7)
	}
}

func TestParseSerial(t *testing.T) {
	config := func(entries map[int]uint32, size int) []byte {
		data := make([]byte, size)
		for at, word := range entries {
			data[at], data[at+1], data[at+2], data[at+3] = byte(word), byte(word>>8), byte(word>>16), byte(word>>24)
		}
		return data
	}
	for _, tt := range []struct {
		name   string
		config []byte
		want   [8]byte
		ok     bool
	}{
		{name: "as of a Hopper board", config: config(map[int]uint32{0x100: 0x2f010001, 0x2f0: 0x00010003, 0x2f4: 0x2db04830, 0x2f8: 0x01020304}, 4096), want: [8]byte{0x30, 0x48, 0xb0, 0x2d, 4, 3, 2, 1}, ok: true},
		{name: "first in the list", config: config(map[int]uint32{0x100: 0x00010003, 0x104: 7}, 4096), want: [8]byte{7}, ok: true},
		{name: "none", config: config(map[int]uint32{0x100: 0x2f010001, 0x2f0: 0x00010019}, 4096)},
		{name: "no extended capabilities", config: config(nil, 4096)},
		{name: "not root", config: config(nil, 64)},
		{name: "empty"},
		{name: "fallen off the bus", config: []byte(strings.Repeat("\xff", 4096))},
		{name: "circle", config: config(map[int]uint32{0x100: 0x2f010001, 0x2f0: 0x10010019}, 4096)},
		{name: "beyond the end", config: config(map[int]uint32{0x100: 0xffc10001, 0xffc: 0x00010003}, 4096)},
		{name: "before the start", config: config(map[int]uint32{0x100: 0x04010001, 0x40: 0x00010003}, 4096)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseSerial(tt.config)
			assert.Equal(t, tt.ok, ok)
			assert.Equal(t, tt.want, got)
		})
	}
	root := tree(t, map[string]string{"sys/bus/pci/devices/0000:01:00.0/config": string(config(map[int]uint32{0x100: 0x00010003, 0x104: 7}, 4096)), "sys/bus/pci/devices/0000:03:00.0/config/x": ""})
	got, ok, err := PCISerial(root, "0000:01:00.0")
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, [8]byte{7}, got)
	_, ok, err = PCISerial(root, "0000:02:00.0")
	require.NoError(t, err)
	assert.False(t, ok)
	_, ok, err = PCISerial(root, "0000:03:00.0")
	require.Error(t, err)
	assert.False(t, ok)
}

func FuzzParseSerial(f *testing.F) {
	f.Add([]byte(strings.Repeat("\xff", 4096)))
	f.Add(append(make([]byte, 0x100), 3, 0, 1, 0, 1, 2, 3, 4, 5, 6, 7, 8))
	f.Fuzz(func(t *testing.T, config []byte) {
		serial, ok := parseSerial(config)
		if ok {
			assert.Contains(t, string(config), string(serial[:]))
			return
		}
		assert.Equal(t, [8]byte{}, serial)
	})
}
