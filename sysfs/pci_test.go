// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"maps"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// function is a directory of /sys/bus/pci/devices.
func function(name, vendor, device, class, driver string) map[string]string {
	dir := sysPCI + "/" + name + "/"
	files := map[string]string{dir + "vendor": vendor + "\n", dir + "device": device + "\n", dir + "class": class + "\n"}
	if driver != "" {
		files[dir+"driver"] = "->../../../../bus/pci/drivers/" + driver
	}
	return files
}

func TestReadPCI(t *testing.T) {
	const dir = sysPCI + "/0000:01:00.0/"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  PCIFunction
		err   string
	}{
		{
			name: "T4", files: function("0000:01:00.0", "0x10de", "0x1eb8", "0x030200", "nvidia"),
			want: PCIFunction{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Vendor: 0x10de, Device: 0x1eb8, Class: 0x030200, Driver: "nvidia", NUMANode: -1},
		},
		{
			name: "no driver, NUMA", files: merge(function("0000:01:00.0", "0x8086", "0x1", "0x060000", ""), map[string]string{dir + "numa_node": "3\n"}),
			want: PCIFunction{Address: Address{0, 1, 0, 0}, Name: "0000:01:00.0", Vendor: 0x8086, Device: 1, Class: 0x060000, NUMANode: 3},
		},
		{name: "absent", err: "read /" + dir + "vendor: no such file or directory"},
		{name: "no 0x", files: function("0000:01:00.0", "10de", "0x1eb8", "0x030200", ""), err: `/` + dir + `vendor: "10de\n" is not a number of 16 bits as in 0x10de`},
		{name: "too large", files: function("0000:01:00.0", "0x10de", "0x11eb8", "0x030200", ""), err: `/` + dir + `device: "0x11eb8\n" is not a number of 16 bits as in 0x10de`},
		{name: "no class", files: function("0000:01:00.0", "0x10de", "0x1eb8", "", ""), err: `/` + dir + `class: "\n" is not a number of 24 bits as in 0x10de`},
		{name: "NUMA", files: merge(function("0000:01:00.0", "0x10de", "0x1eb8", "0x030200", ""), map[string]string{dir + "numa_node": "x"}), err: `/` + dir + `numa_node: "x" is not the number of a NUMA node`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files)
			got, err := ReadPCI(root, Address{0, 1, 0, 0})
			if tt.err != "" {
				require.Error(t, err)
				assert.Equal(t, tt.err, strings.ReplaceAll(err.Error(), string(root), ""))
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func merge(maps_ ...map[string]string) map[string]string {
	all := map[string]string{}
	for _, m := range maps_ {
		maps.Copy(all, m)
	}
	return all
}

func TestUnboundGPUs(t *testing.T) {
	root := tree(t, merge(
		function("0000:00:00.0", "0x8086", "0x3c00", "0x060000", ""),
		function("0000:01:00.0", "0x10de", "0x1eb8", "0x030200", "nvidia"),
		function("0000:02:00.0", "0x10de", "0x1eb8", "0x030200", "vfio-pci"),
		function("0000:03:00.0", "0x10de", "0x2204", "0x030000", ""),
		function("0000:03:00.1", "0x10de", "0x1aef", "0x040300", "snd_hda_intel"),
		function("0000:04:00.4", "0x10de", "0x20b0", "0x030200", "nvidia"),
		map[string]string{sysPCI + "/0000:04:00.4/physfn": "->../0000:04:00.0"},
		function("0000:05:00.0", "0x10de", "0x22a3", "0x068000", "nvidia-nvswitch"),
		function("0000:06:00.0", "0x10de", "bad", "0x030000", ""),
		map[string]string{sysPCI + "/0000:07:00.0": "/"},
		function("0000:08:00.0", "0x10de", "0x2204", "0x030000", "nvidia"),
	))
	got, err := UnboundGPUs(root, Inventory{GPUs: []GPU{{Address: Address{0, 1, 0, 0}, Name: "00000000:01:00.0"}}, Masked: []string{"00000000:08:00.0", "junk"}})
	assert.Equal(t, []PCIFunction{
		{Address: Address{0, 2, 0, 0}, Name: "0000:02:00.0", Vendor: 0x10de, Device: 0x1eb8, Class: 0x030200, Driver: "vfio-pci", NUMANode: -1},
		{Address: Address{0, 3, 0, 0}, Name: "0000:03:00.0", Vendor: 0x10de, Device: 0x2204, Class: 0x030000, NUMANode: -1},
	}, got)
	require.Error(t, err)
	assert.Equal(t, "/"+sysPCI+"/0000:06:00.0/device: \"bad\\n\" is not a number of 16 bits as in 0x10de\nread /"+sysPCI+"/0000:07:00.0/vendor: no such file or directory",
		strings.ReplaceAll(err.Error(), string(root), ""))

	got, err = UnboundGPUs(tree(t, nil), Inventory{})
	require.NoError(t, err)
	assert.Nil(t, got)
}

func TestDRMNodes(t *testing.T) {
	const dir = sysPCI + "/0000:62:00.0/drm/"
	gpu := GPU{Address: Address{0, 0x62, 0, 0}, Name: "00000000:62:00.0"}
	card := Node{Path: "/dev/dri/card10", Major: 226, Minor: 10, Mode: 0o660}
	render := Node{Path: "/dev/dri/renderD138", Major: 226, Minor: 138, Mode: 0o666}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  []Node
		err   string
	}{
		{name: "none"},
		{
			name: "both, and other entries",
			files: map[string]string{
				dir + "card10/dev": "226:10\n", dir + "renderD138/dev": "226:138\n", dir + "card10-DP-1/dev": "junk", dir + "controlD64/dev": "junk", dir + "version": "x",
				sysPCI + "/0000:63:00.0/drm/card0/dev": "226:0\n",
			},
			want: []Node{
				{Path: "/dev/dri/by-path/pci-0000:62:00.0-card", Major: 226, Minor: 10, Mode: 0o660},
				{Path: "/dev/dri/by-path/pci-0000:62:00.0-render", Major: 226, Minor: 138, Mode: 0o666},
				card, render,
			},
		},
		{name: "malformed", files: map[string]string{dir + "card0/dev": "226\n"}, err: `gpu 00000000:62:00.0: reading DRM nodes: /` + dir + `card0/dev: "226\n" is not a device number as in 226:1`},
		{name: "on its way out", files: map[string]string{dir + "card0": "/"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files)
			got, err := DRMNodes(root, tree(t, nil), gpu)
			if tt.err != "" {
				require.Error(t, err)
				assert.Equal(t, tt.err, strings.ReplaceAll(err.Error(), string(root), ""))
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

// A host's by-path entry is a link to the node.
func TestDRMNodesOnHost(t *testing.T) {
	root := tree(t, map[string]string{
		sysPCI + "/0000:62:00.0/drm/card1/dev": "226:1\n", sysPCI + "/0000:62:00.0/drm/renderD129/dev": "226:129\n",
		"dev/dri/by-path/pci-0000:62:00.0-card": "->../card1",
	})
	mknod(t, root, "/dev/dri/card1", 226, 1, 0o660, 44)
	mknod(t, root, "/dev/dri/renderD129", 226, 129, 0o660, 105)
	got, err := DRMNodes(root, root, GPU{Address: Address{0, 0x62, 0, 0}})
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/dri/by-path/pci-0000:62:00.0-card", Major: 226, Minor: 1, Mode: 0o660, GID: 44, OnHost: true},
		{Path: "/dev/dri/by-path/pci-0000:62:00.0-render", Major: 226, Minor: 129, Mode: 0o660, GID: 105},
		{Path: "/dev/dri/card1", Major: 226, Minor: 1, Mode: 0o660, GID: 44, OnHost: true},
		{Path: "/dev/dri/renderD129", Major: 226, Minor: 129, Mode: 0o660, GID: 105, OnHost: true},
	}, got)
}

func FuzzParseHex(f *testing.F) {
	f.Add("0x10de\n")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseHex(in, 16)
		if err != nil {
			assert.Zero(t, got)
			return
		}
		again, err := parseHex(fmt.Sprintf("0x%x", got), 16)
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}

func FuzzParseDev(f *testing.F) {
	f.Add("226:129\n")
	f.Fuzz(func(t *testing.T, in string) {
		major, minor, err := parseDev(in)
		if err != nil {
			assert.Equal(t, [2]int{}, [2]int{major, minor})
			return
		}
		bare := func(s string) string { return strings.ReplaceAll(s, "0", "") }
		assert.Equal(t, bare(strings.TrimSuffix(in, "\n")), bare(fmt.Sprintf("%d:%d", major, minor)))
	})
}
