// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestContainerOnEveryHost checks that, wherever the host keeps the driver, the container gets its
// device nodes, and the image's loader finds the driver. Only the driver container needs a
// configuration.
func TestContainerOnEveryHost(t *testing.T) {
	for _, r := range lowLevels(t) {
		for _, tt := range []struct {
			fixture string
			version string
			uvm     string // major in hexadecimal, as stat prints it
			environ []string
		}{
			{fixture: "t4", version: "550.54.15", uvm: "1fc"},         // Ubuntu
			{fixture: "driver-550", version: "550.54.15", uvm: "1fc"}, // RHEL
			{fixture: "driver-595", version: "595.84", uvm: "1fe"},    // Arch
			{fixture: "debian-alternatives", version: "535.183.01", uvm: "1fd"},
			{fixture: "no-ldcache", version: "550.90.07", uvm: "f2"}, // Container-Optimized OS
			{fixture: "nixos", version: "570.172.08", uvm: "1fe"},
			{fixture: "talos", version: "570.172.08", uvm: "1ff"},
			{fixture: "flatcar", version: "535.247.01", uvm: "1fb"},
			{fixture: "bottlerocket", version: "580.126.09", uvm: "1fd"},
			{fixture: "alpine", version: "570.172.08", uvm: "1fe"},
			{fixture: "driver-container", version: "570.172.08", uvm: "1ff", environ: []string{"NVIDIA_CONTAINER_RUNTIME_ROOT=/run/nvidia/driver"}},
		} {
			t.Run(r.name+"/"+tt.fixture, func(t *testing.T) {
				w := newWorld(t, r, tt.fixture, "debian")
				w.environ = tt.environ
				got := w.run(look+`
					probe libcuda.so.1 libnvidia-ml.so.1
					readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1
					nvidia-smi`,
					[]string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)
				assert.Equal(t, fmt.Sprintf(`/dev/nvidia-uvm %[1]s:0 666 No such device or address
/dev/nvidia-uvm-tools %[1]s:1 666 No such device or address
/dev/nvidia0 c3:0 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
libnvidia-ml.so.1 => /usr/lib/nvidia-container-driver/libnvidia-ml.so.1
/usr/lib/nvidia-container-driver/libcuda.so.%[2]s
nvidia-smi %[2]s (a stub without function)
`, tt.uvm, tt.version), got)
			})
		}
	}
}
