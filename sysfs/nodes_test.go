// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// mknod creates a character device in the tree, or skips the test if that is not permitted.
func mknod(t *testing.T, root Root, path string, major, minor int, mode fs.FileMode, gid int) {
	t.Helper()
	name := root.Path(path)
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	err := syscall.Mknod(name, syscall.S_IFCHR|0o600, major<<8|minor&0xff|minor&^0xff<<12)
	if errors.Is(err, syscall.EPERM) {
		t.Skipf("SKIPPED: making a device node needs CAP_MKNOD: %v", err)
	}
	require.NoError(t, err)
	require.NoError(t, os.Chmod(name, mode))
	if err := os.Chown(name, 0, gid); err != nil {
		t.Skipf("SKIPPED: changing a node's group needs CAP_CHOWN: %v", err)
	}
}

var suse = Params{ModifyDeviceFiles: true, DeviceFileUID: 1, DeviceFileGID: 44, DeviceFileMode: 0o660}

func TestControlNodes(t *testing.T) {
	all := Majors{Nvidia: 195, Ctl: 195, Modeset: 195, UVM: 507, Caps: 236, IMEXChannels: -1, NVLink: -1, NVSwitch: -1}
	noModules := all
	noModules.UVM, noModules.Modeset = -1, -1
	ctl := Node{Path: "/dev/nvidiactl", Major: 195, Minor: 255, Mode: 0o660, UID: 1, GID: 44}
	modeset := Node{Path: "/dev/nvidia-modeset", Major: 195, Minor: 254, Mode: 0o660, UID: 1, GID: 44}
	uvm := Node{Path: "/dev/nvidia-uvm", Major: 507, Minor: 0, Mode: 0o666}
	tools := Node{Path: "/dev/nvidia-uvm-tools", Major: 507, Minor: 1, Mode: 0o666}
	for _, tt := range []struct {
		name         string
		majors       Majors
		uvm, modeset bool
		want         []Node
		err          error
	}{
		{name: "least", majors: all, want: []Node{ctl}},
		{name: "all", majors: all, uvm: true, modeset: true, want: []Node{ctl, uvm, tools, modeset}},
		{name: "module of modeset not loaded", majors: noModules, modeset: true, want: []Node{ctl}},
		{name: "module of uvm not loaded, not requested", majors: noModules, want: []Node{ctl}},
		{name: "module of uvm not loaded", majors: noModules, uvm: true, err: &ModuleError{"nvidia-uvm", "nvidia-uvm", "modprobe nvidia-uvm"}},
		{name: "no driver", majors: noMajors, err: &ModuleError{"nvidia", "nvidia", "modprobe nvidia"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Inventory{Majors: tt.majors, Params: suse}.ControlNodes(tree(t, nil), tt.uvm, tt.modeset)
			assert.Equal(t, tt.err, err)
			assert.Equal(t, tt.want, got)
		})
	}
	assert.EqualError(t, &ModuleError{"nvidia-uvm", "nvidia-uvm", "modprobe nvidia-uvm"},
		`"nvidia-uvm" is not in /proc/devices: the kernel module nvidia-uvm is not loaded (load it with "modprobe nvidia-uvm")`)
}

func TestHostNodes(t *testing.T) {
	// Files other than nodes can be created without privileges.
	root := tree(t, map[string]string{"dev/nvidiactl": "text", "dev/nvidia-uvm": "/", "dev/nvidia-uvm-tools": "->/etc/passwd", "dev/nvidia-modeset": "->nvidia-modeset"})
	inv := Inventory{Majors: Majors{Ctl: 195, UVM: 507, Modeset: 195}, Params: defaultParams}
	got, err := inv.ControlNodes(root, true, true)
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/nvidiactl", Major: 195, Minor: 255, Mode: 0o666, Instead: "regular file"},
		{Path: "/dev/nvidia-uvm", Major: 507, Minor: 0, Mode: 0o666, Instead: "directory"},
		{Path: "/dev/nvidia-uvm-tools", Major: 507, Minor: 1, Mode: 0o666},
		{Path: "/dev/nvidia-modeset", Major: 195, Minor: 254, Mode: 0o666, Instead: "stat " + string(root) + "/dev/nvidia-modeset: too many levels of symbolic links"},
	}, got)

	// Every machine has /dev/null.
	null := Node{Path: "/dev/null", Major: 1, Minor: 3, Mode: 0o600, UID: 7, GID: 8}
	info, err := os.Stat("/dev/null")
	require.NoError(t, err)
	stat := info.Sys().(*syscall.Stat_t)
	assert.Equal(t, Node{Path: "/dev/null", Major: 1, Minor: 3, Mode: info.Mode().Perm(), UID: 7, GID: stat.Gid, OnHost: true}, adopt("/", null))
	null.Minor = 4
	assert.Equal(t, Node{Path: "/dev/null", Major: 1, Minor: 4, Mode: 0o600, UID: 7, GID: 8, Instead: "character device 1:3"}, adopt("/", null))
}

func TestHostNodesWithNumbers(t *testing.T) {
	root := tree(t, nil)
	mknod(t, root, "/dev/nvidiactl", 195, 255, 0o640, 44)
	mknod(t, root, "/dev/nvidia-uvm", 510, 0, 0o666, 0)
	mknod(t, root, "/dev/nvidia0", 195, 0, 0o660, 33)
	mknod(t, root, "/dev/nvidia-caps/nvidia-cap4322", 236, 4322, 0o600, 0)
	inv := Inventory{Majors: Majors{Nvidia: 195, Ctl: 195, UVM: 507, Caps: 236}, Params: defaultParams}
	got, err := inv.ControlNodes(root, true, false)
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/nvidiactl", Major: 195, Minor: 255, Mode: 0o640, GID: 44, OnHost: true},
		{Path: "/dev/nvidia-uvm", Major: 507, Minor: 0, Mode: 0o666, Instead: "character device 510:0"},
		{Path: "/dev/nvidia-uvm-tools", Major: 507, Minor: 1, Mode: 0o666},
	}, got)

	got, err = inv.SelectionNodes(root, Selection{GPUs: []SelectedGPU{{GPU: GPU{Minor: 0}, Instances: []mig.Instance{{
		GI: 14, CI: 7, GICap: mig.Capability{Minor: 4314, Mode: 0o444}, CICap: mig.Capability{Minor: 4322, Mode: 0o444},
	}}}}})
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/nvidia0", Major: 195, Minor: 0, Mode: 0o660, GID: 33, OnHost: true},
		{Path: "/dev/nvidia-caps/nvidia-cap4314", Major: 236, Minor: 4314, Mode: 0o444},
		{Path: "/dev/nvidia-caps/nvidia-cap4322", Major: 236, Minor: 4322, Mode: 0o444, OnHost: true}, // the mode is that of the file in /proc
	}, got)
}

func TestSelectionNodes(t *testing.T) {
	majors := Majors{Nvidia: 195, Ctl: 195, UVM: 507, Caps: 236}
	noCaps := Majors{Nvidia: 195, Ctl: 195, UVM: 507, Caps: -1}
	empty := mig.Instance{GI: 1, CI: 0, GICap: mig.Capability{Minor: 12, Mode: 0o444, Empty: true}, CICap: mig.Capability{Minor: 13, Mode: 0o444, Empty: true}}
	node := func(path string, major, minor int, mode fs.FileMode) Node {
		return Node{Path: path, Major: major, Minor: minor, Mode: mode}
	}
	for _, tt := range []struct {
		name   string
		majors Majors
		gpus   []SelectedGPU
		want   []Node
		err    string
	}{
		{name: "none", majors: majors},
		{
			name: "node by minor, not index", majors: majors,
			gpus: []SelectedGPU{{GPU: GPU{Index: 0, Minor: 7}, Whole: true}, {GPU: GPU{Index: 1, Minor: 10}, Whole: true}},
			want: []Node{node("/dev/nvidia7", 195, 7, 0o666), node("/dev/nvidia10", 195, 10, 0o666)},
		},
		{
			name: "two CIs in one GI, another GI", majors: majors,
			gpus: []SelectedGPU{{GPU: GPU{Minor: 0}, Instances: []mig.Instance{wantInstance(0, 1, 0), wantInstance(0, 1, 1), wantInstance(0, 9, 0)}}},
			want: []Node{
				node("/dev/nvidia0", 195, 0, 0o666),
				node("/dev/nvidia-caps/nvidia-cap12", 236, 12, 0o444), node("/dev/nvidia-caps/nvidia-cap13", 236, 13, 0o444),
				node("/dev/nvidia-caps/nvidia-cap14", 236, 14, 0o444),
				node("/dev/nvidia-caps/nvidia-cap84", 236, 84, 0o444), node("/dev/nvidia-caps/nvidia-cap85", 236, 85, 0o444),
			},
		},
		{
			name: "450 without capability nodes", majors: noCaps,
			gpus: []SelectedGPU{{GPU: GPU{Minor: 0}, Instances: []mig.Instance{empty}}},
			want: []Node{node("/dev/nvidia0", 195, 0, 0o666)},
		},
		{
			name: "450 with capability nodes", majors: majors,
			gpus: []SelectedGPU{{GPU: GPU{Minor: 0}, Instances: []mig.Instance{empty}}},
			want: []Node{node("/dev/nvidia0", 195, 0, 0o666), node("/dev/nvidia-caps/nvidia-cap12", 236, 12, 0o444), node("/dev/nvidia-caps/nvidia-cap13", 236, 13, 0o444)},
		},
		{
			name: "capabilities without a major", majors: noCaps,
			gpus: []SelectedGPU{{GPU: GPU{Name: "0000:01:00.0"}, Instances: []mig.Instance{wantInstance(0, 1, 0)}}},
			err:  `gpu 0000:01:00.0: MIG device 1/0: "nvidia-caps" is not in /proc/devices`,
		},
		{name: "no driver", majors: noMajors, gpus: []SelectedGPU{{}}, err: (&ModuleError{"nvidia", "nvidia", "modprobe nvidia"}).Error()},
		{name: "broken GPU", majors: majors, gpus: []SelectedGPU{{GPU: GPU{Name: "0000:01:00.0", Err: errors.New("junk")}}}, err: "gpu 0000:01:00.0: junk"},
		{name: "no minor", majors: majors, gpus: []SelectedGPU{{GPU: GPU{Name: "0000:01:00.0", Minor: -1}}}, err: "gpu 0000:01:00.0: no device minor"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Inventory{Majors: tt.majors, Params: defaultParams}.SelectionNodes(tree(t, nil), Selection{GPUs: tt.gpus})
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestMIGControlNodes(t *testing.T) {
	const dir = "proc/driver/nvidia/capabilities/mig/"
	files := map[string]string{
		dir + "config":                  "DeviceFileMinor: 1\nDeviceFileMode: 256\nDeviceFileModify: 1\n",
		dir + "monitor":                 "DeviceFileMinor: 2\nDeviceFileMode: 292\nDeviceFileModify: 1\n",
		sysPCI + "/0000:01:00.0/vendor": "0x10de\n", sysPCI + "/0000:01:00.0/device": "0x1eb8\n", sysPCI + "/0000:01:00.0/class": "0x030200\n", // T4
		sysPCI + "/0000:02:00.0/vendor": "0x10de\n", sysPCI + "/0000:02:00.0/device": "0x20b0\n", sysPCI + "/0000:02:00.0/class": "0x030200\n", // A100
	}
	root := tree(t, files)
	inv := Inventory{Majors: Majors{Nvidia: 195, Ctl: 195, UVM: -1, Caps: 236}}
	t4 := SelectedGPU{GPU: GPU{Address: Address{0, 1, 0, 0}, Minor: 0}, Whole: true}
	a100 := SelectedGPU{GPU: GPU{Address: Address{0, 2, 0, 0}, Minor: 1}, Whole: true}
	unknown := SelectedGPU{GPU: GPU{Address: Address{0, 3, 0, 0}, Minor: 2}, Whole: true}
	config := Node{Path: "/dev/nvidia-caps/nvidia-cap1", Major: 236, Minor: 1, Mode: 0o400}
	monitor := Node{Path: "/dev/nvidia-caps/nvidia-cap2", Major: 236, Minor: 2, Mode: 0o444}

	for _, tt := range []struct {
		name            string
		config, monitor bool
		gpus            []SelectedGPU
		want            []Node
		more            []int // the minors after want
	}{
		{name: "neither", gpus: []SelectedGPU{a100}},
		{name: "config, no GPU", config: true, want: []Node{config}},
		{name: "both, no MIG on a T4", config: true, monitor: true, gpus: []SelectedGPU{t4}, want: []Node{config, monitor}},
		{name: "monitor, two that may have MIG", monitor: true, gpus: []SelectedGPU{a100, unknown}, want: []Node{monitor}, more: append(mig.PossibleMinors(1), mig.PossibleMinors(2)...)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := inv.MIGControlNodes(root, root, tt.config, tt.monitor, Selection{GPUs: tt.gpus})
			require.NoError(t, err)
			assert.Equal(t, tt.want, got[:min(len(got), len(tt.want)):len(tt.want)])
			var more []int
			for _, node := range got[len(tt.want):] {
				more = append(more, node.Minor)
			}
			assert.Equal(t, tt.more, more)
		})
	}
	selected := a100
	selected.Instances = []mig.Instance{wantInstance(1, 1, 0)}
	got, err := inv.MIGControlNodes(root, root, true, false, Selection{GPUs: []SelectedGPU{selected}})
	require.NoError(t, err)
	assert.Len(t, got, 1+135-2)

	_, err = inv.MIGControlNodes(tree(t, nil), root, true, false, Selection{})
	require.ErrorContains(t, err, "the driver has no capability mig/config, like those before R450 (see 'cat /proc/driver/nvidia/version'): no file ")
	inv.Majors.Caps = -1
	_, err = inv.MIGControlNodes(root, root, true, false, Selection{})
	require.EqualError(t, err, `"nvidia-caps" is not in /proc/devices`)
}

// One board per chip; unknown chips may have MIG.
func TestMIGCapable(t *testing.T) {
	for device, want := range map[string]struct{ mig, graphics bool }{
		"0x20b0": {true, false}, "0x2331": {true, false}, "0x2901": {true, false}, "0x3182": {true, false}, "0x2bb5": {true, true}, "0xfffe": {true, false},
		"0x1eb8": {false, false}, "0x1db6": {false, false}, "0x2236": {false, false}, "0x2684": {false, false}, "0x2e12": {false, false},
	} {
		root := tree(t, map[string]string{
			sysPCI + "/0000:01:00.0/vendor": "0x10de\n", sysPCI + "/0000:01:00.0/device": device, sysPCI + "/0000:01:00.0/class": "0x030200\n",
		})
		// The name is the driver's, the files are the kernel's.
		gpu := GPU{Address: Address{0, 1, 0, 0}, Name: "00000000:01:00.0"}
		assert.Equal(t, want.mig, migCapable(root, gpu), device)
		assert.Equal(t, want.graphics, MIGGraphics(root, gpu), device)
	}
	assert.True(t, migCapable(tree(t, nil), GPU{}))
	assert.False(t, MIGGraphics(tree(t, nil), GPU{}))
}

func TestStrayNodes(t *testing.T) {
	root := tree(t, map[string]string{"dev/nvidia1": "a file", "dev/nvidia-caps/x": ""})
	mknod(t, root, "dev/nvidia0", 195, 0, 0o666, 0)
	mknod(t, root, "dev/nvidia2", 196, 2, 0o666, 0)
	mknod(t, root, "dev/nvidiactl", 195, 255, 0o666, 0)
	assert.Equal(t, []string{"/dev/nvidia0"}, Inventory{Majors: Majors{Nvidia: 195}}.StrayNodes(root))
	assert.Nil(t, Inventory{Majors: Majors{Nvidia: 195}, GPUs: []GPU{{}}}.StrayNodes(root))
	assert.Nil(t, Inventory{Majors: Majors{Nvidia: -1}}.StrayNodes(root))
	assert.Nil(t, Inventory{Majors: Majors{Nvidia: 195}}.StrayNodes(tree(t, nil)))
}

func TestHiddenPaths(t *testing.T) {
	root := tree(t, base(
		gpu("0000:01:00.0", 1, uuidA, ""), gpu("0000:02:00.0", 0, uuidB, ""), gpu("00000000:03:00.0", 2, uuidC, "GPU Excluded: Yes\n"),
		map[string]string{procGPUs + "/0000:04:00.0/information": "junk"},
		instance(0, 1, 0), instance(0, 1, 1), instance(0, 10, 0), instance(1, 0, 0),
		map[string]string{"proc/driver/nvidia/capabilities/gpu0/mig/gi5/access": "", "proc/driver/nvidia/capabilities/gpu2/mig": "a file"},
	))
	inv, err := Read(root, true)
	require.NoError(t, err)
	const gpus, caps = "/proc/driver/nvidia/gpus/", "/proc/driver/nvidia/capabilities/"
	for _, tt := range []struct {
		ids  string
		want []string
	}{
		{"none", []string{
			caps + "gpu0/mig", caps + "gpu1/mig", caps + "gpu2/mig",
			gpus + "00000000:03:00.0", gpus + "0000:01:00.0", gpus + "0000:02:00.0", gpus + "0000:04:00.0",
		}},
		{"1", []string{
			caps + "gpu0/mig", caps + "gpu1/mig", caps + "gpu2/mig",
			gpus + "00000000:03:00.0", gpus + "0000:01:00.0", gpus + "0000:04:00.0",
		}},
		{"1:1", []string{
			caps + "gpu0/mig/gi1/ci0", caps + "gpu0/mig/gi10", caps + "gpu0/mig/gi5", caps + "gpu1/mig", caps + "gpu2/mig",
			gpus + "00000000:03:00.0", gpus + "0000:01:00.0", gpus + "0000:04:00.0",
		}},
		{"all", []string{caps + "gpu0/mig/gi5", caps + "gpu2/mig", gpus + "00000000:03:00.0", gpus + "0000:04:00.0"}},
	} {
		t.Run(tt.ids, func(t *testing.T) {
			sel, err := inv.Select(ParseQuery([]string{tt.ids}))
			require.NoError(t, err)
			hidden, err := inv.HiddenPaths(root, sel)
			require.NoError(t, err)
			assert.Equal(t, tt.want, hidden)
			var only []string
			for _, path := range tt.want {
				if strings.HasPrefix(path, gpus) {
					only = append(only, path)
				}
			}
			assert.Equal(t, only, inv.HiddenGPUs(sel))
		})
	}
}

// Nodes open to everybody need no group.
func TestGroups(t *testing.T) {
	for _, tt := range []struct {
		mode fs.FileMode
		gid  uint32
		want []uint32
	}{
		{0o666, 44, nil}, {0o660, 44, []uint32{44}}, {0o664, 44, []uint32{44}}, {0o662, 44, []uint32{44}}, {0o660, 0, nil},
	} {
		assert.Equal(t, tt.want, Groups([]Node{{Mode: tt.mode, GID: tt.gid}}), "%o %d", tt.mode, tt.gid)
	}
	assert.Equal(t, []uint32{27, 44}, Groups([]Node{{GID: 44}, {GID: 27}, {GID: 44}}))
}
