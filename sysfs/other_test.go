// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func majors(t *testing.T, lines string) Majors {
	t.Helper()
	majors, err := parseMajors(strings.NewReader("Character devices:\n" + lines))
	require.NoError(t, err)
	return majors
}

func TestIMEXNodes(t *testing.T) {
	root := tree(t, map[string]string{"dev/nvidia-caps-imex-channels/channel2": "/"})
	inv := Inventory{Majors: majors(t, "234 nvidia-caps-imex-channels\n511 nvidia-caps\n")}
	for _, tt := range []struct {
		name     string
		inv      Inventory
		channels []int
		err      string
	}{
		{name: "none", inv: inv},
		{name: "absent", inv: inv, channels: []int{3}, err: "IMEX channel 3: no character device 234:3 at /dev/nvidia-caps-imex-channels/channel3, nothing there (to create the channel: \"mkdir -p /dev/nvidia-caps-imex-channels && mknod -m 666 /dev/nvidia-caps-imex-channels/channel3 c 234 3\")"},
		{name: "directory", inv: inv, channels: []int{2}, err: "IMEX channel 2: no character device 234:2 at /dev/nvidia-caps-imex-channels/channel2, found directory (to create the channel: \"mkdir -p /dev/nvidia-caps-imex-channels && mknod -m 666 /dev/nvidia-caps-imex-channels/channel2 c 234 2\")"},
		{name: "negative", inv: inv, channels: []int{-1}, err: "IMEX channel -1: not between 0 and 1048575"},
		{name: "too large", inv: inv, channels: []int{1 << 20}, err: "IMEX channel 1048576: not between 0 and 1048575"},
		{name: "nvidia-caps is another name", inv: Inventory{Majors: majors(t, "511 nvidia-caps\n")}, channels: []int{0}, err: `IMEX channel 0: "nvidia-caps-imex-channels" is not in /proc/devices: the kernel module nvidia is too old, or was loaded without channels (load it with "modprobe nvidia NVreg_ImexChannelCount=2048")`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.inv.IMEXNodes(root, tt.channels)
			if tt.err != "" {
				require.Error(t, err)
				assert.Equal(t, tt.err, strings.ReplaceAll(err.Error(), string(root), ""))
			} else {
				require.NoError(t, err)
			}
			assert.Nil(t, got)
		})
	}
}

func TestIMEXNodesOnHost(t *testing.T) {
	root := tree(t, nil)
	mknod(t, root, "/dev/nvidia-caps-imex-channels/channel0", 234, 0, 0o666, 0)
	mknod(t, root, "/dev/nvidia-caps-imex-channels/channel2047", 234, 2047, 0o600, 0)
	mknod(t, root, "/dev/nvidia-caps-imex-channels/channel5", 233, 5, 0o600, 0)
	inv := Inventory{Majors: majors(t, "234 nvidia-caps-imex-channels\n")}
	got, err := inv.IMEXNodes(root, []int{2047, 0})
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/nvidia-caps-imex-channels/channel2047", Major: 234, Minor: 2047, Mode: 0o600, OnHost: true},
		{Path: "/dev/nvidia-caps-imex-channels/channel0", Major: 234, Minor: 0, Mode: 0o666, OnHost: true},
	}, got)
	_, err = inv.IMEXNodes(root, []int{5})
	require.ErrorContains(t, err, "found character device 233:5")
}

func TestOtherNodes(t *testing.T) {
	root := tree(t, map[string]string{"dev/nvidia-fs0": "text", "dev/infiniband": "/"})
	inv := Inventory{Majors: majors(t, "238 gdrdrv\n237 nvidia-fs\n234 nvidia-nvswitch\n")}

	got, warnings, err := inv.OtherNodes(root, false, false, false, false)
	require.NoError(t, err)
	assert.Nil(t, got)
	assert.Nil(t, warnings)

	got, warnings, err = inv.OtherNodes(root, true, true, true, true)
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/gdrdrv", Major: 238, Minor: 0, Mode: 0o666},
		{Path: "/dev/nvidia-nvswitchctl", Major: 234, Minor: 255, Mode: 0o666},
	}, got)
	assert.Equal(t, []string{
		"GPUDirect Storage: " + string(root) + "/dev/nvidia-fs0: regular file",
		"GPUDirect Storage: no device node in " + string(root) + "/dev",
		"RDMA: no device node in " + string(root) + "/dev/infiniband",
	}, warnings)

	got, warnings, err = Inventory{Majors: noMajors}.OtherNodes(root, true, false, true, true)
	require.NoError(t, err)
	assert.Nil(t, got)
	assert.Equal(t, []string{
		`GPUDirect Storage: "nvidia-fs" is not in /proc/devices`, `GDRCopy: "gdrdrv" is not in /proc/devices`, `NVSwitch: "nvidia-nvswitch" is not in /proc/devices`,
	}, warnings)
}

func TestOtherNodesOnHost(t *testing.T) {
	root := tree(t, nil)
	mknod(t, root, "/dev/nvidia-fs0", 237, 0, 0o600, 0)
	mknod(t, root, "/dev/nvidia-fs1", 200, 1, 0o600, 0)
	mknod(t, root, "/dev/infiniband/uverbs0", 231, 192, 0o666, 0)
	mknod(t, root, "/dev/infiniband/rdma_cm", 10, 58, 0o666, 0)
	mknod(t, root, "/dev/infiniband/umad0", 231, 0, 0o600, 0)
	mknod(t, root, "/dev/gdrdrv", 238, 0, 0o660, 44)
	mknod(t, root, "/dev/nvidia-nvswitch0", 234, 0, 0o666, 0)
	inv := Inventory{Majors: majors(t, "238 gdrdrv\n237 nvidia-fs\n234 nvidia-nvswitch\n")}
	got, warnings, err := inv.OtherNodes(root, true, true, true, true)
	require.NoError(t, err)
	assert.Equal(t, []Node{
		{Path: "/dev/nvidia-fs0", Major: 237, Minor: 0, Mode: 0o600, OnHost: true},
		{Path: "/dev/infiniband/rdma_cm", Major: 10, Minor: 58, Mode: 0o666, OnHost: true},
		{Path: "/dev/infiniband/uverbs0", Major: 231, Minor: 192, Mode: 0o666, OnHost: true},
		{Path: "/dev/gdrdrv", Major: 238, Minor: 0, Mode: 0o660, GID: 44, OnHost: true},
		{Path: "/dev/nvidia-nvswitchctl", Major: 234, Minor: 255, Mode: 0o666},
		{Path: "/dev/nvidia-nvswitch0", Major: 234, Minor: 0, Mode: 0o666, OnHost: true},
	}, got)
	assert.Equal(t, []string{
		"GPUDirect Storage: " + string(root) + `/dev/nvidia-fs1 has the major 200, but "nvidia-fs" has 237 in /proc/devices`,
	}, warnings)
}

func TestGDSFiles(t *testing.T) {
	assert.Nil(t, GDSFiles(tree(t, map[string]string{"run/udev": "a file", "etc/cufile.json": "->/nowhere"})))
	assert.Equal(t, []string{"/run/udev", "/etc/cufile.json"}, GDSFiles(tree(t, map[string]string{"run/udev": "/", "etc/cufile.json": "{}"})))
}
