// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheckPlatform(t *testing.T) {
	const tegra = ": its GPU has a different driver and is not supported; use NVIDIA's container toolkit"
	x86, arm := &Driver{Version: "550.54.15", Arch: "x86_64"}, &Driver{Version: "540.4.0", Arch: "aarch64"}
	for _, tt := range []struct {
		name   string
		tree   map[string]string
		driver *Driver
		err    string
	}{
		{name: "nothing"},
		{name: "x86", driver: x86},
		{name: "server of another vendor", tree: map[string]string{"sys/devices/soc0/family": "jep106:036b\n", "proc/device-tree/compatible": "nvidia,grace\x00"}, driver: arm},
		{
			name:   "Orin, with a driver for its display",
			tree:   map[string]string{"etc/nv_tegra_release": "# R36 (release), REVISION: 4.3\n", "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\x00"},
			driver: arm,
			err:    "this machine is a Tegra board (NVIDIA Jetson Orin Nano Developer Kit) (/etc/nv_tegra_release exists)" + tegra,
		},
		{
			name: "Xavier, without /proc/driver/nvidia", tree: map[string]string{"sys/devices/soc0/family": "Tegra\n"},
			err: "this machine is a Tegra board (/sys/devices/soc0/family says so)" + tegra,
		},
		{
			name: "of the device tree alone", tree: map[string]string{"proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\x00nvidia,p3767-0005\x00nvidia,tegra234\x00"},
			err: "this machine is a Tegra board (/proc/device-tree/compatible says so)" + tegra,
		},
		{
			name: "WSL2", tree: map[string]string{"dev/dxg": "", "usr/lib/wsl/lib/libcuda.so.1": "x"},
			err: "this machine is a WSL2 guest (/dev/dxg exists, /proc/driver/nvidia does not): GPUs in WSL2 are not supported",
		},
		{
			name: "WSL2 without NVIDIA's driver", tree: map[string]string{"dev/dxg": ""},
			err: "this machine is a WSL2 guest without an NVIDIA driver (/dev/dxg exists, /usr/lib/wsl/lib/libcuda.so.1 does not): GPUs in WSL2 are not supported",
		},
		{name: "an ordinary machine with dxg", tree: map[string]string{"dev/dxg": ""}, driver: x86},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := CheckPlatform(tree(t, tt.tree), tt.driver)
			if tt.err == "" {
				require.NoError(t, err)
				return
			}
			var platform *PlatformError
			require.ErrorAs(t, err, &platform)
			assert.EqualError(t, err, tt.err)
		})
	}
}
