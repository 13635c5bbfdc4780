// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The variables and mounts below are those with which NVIDIA's device plugin answers the kubelet's
// Allocate call, according to getAllocateResponse and the functions it calls, in
// internal/plugin/server.go and mps.go of its 2026 source. The kubelet adds them to its CRI
// request.

// pluginRoot is the directory of the plugin's device mounts.
const pluginRoot = "/var/run/nvidia-container-devices"

// mountsOnly is the safe configuration for a cluster: environment variables, which an image can
// set, request nothing.
const mountsOnly = `accept-nvidia-visible-devices-envvar-when-unprivileged = false
accept-nvidia-visible-devices-as-volume-mounts = true
`

// gpuNodes is a script that lists the device nodes of GPUs and MIG devices.
const gpuNodes = `cd /dev && ls -d nvidia[0-9]* nvidia-caps/* 2>/dev/null; true`

// migUUID is the UUID of a MIG device of the machine mixed-mig. It appears in smiText, a shortened
// version of what nvidia-smi -L and nvidia-smi -q print about that device's GPU.
const (
	migUUID = "MIG-8e0d4b96-2a5f-5c31-8f7e-64b1a0d95c28"
	smiText = `GPU 1: NVIDIA A100-SXM4-40GB (UUID: GPU-93e57c21-4fd8-b60a-c3e7-2b158d6f04a9)
  MIG 3g.20gb     Device  0: (UUID: MIG-5fa1e2c3-71c0-5b6d-9a43-1d2f0c6e8b17)
  MIG 3g.20gb     Device  1: (UUID: ` + migUUID + `)
==============NVSMI LOG==============
Driver Version                                         : 525.85.12
Attached GPUs                                          : 1
GPU 00000000:41:00.0
    GPU UUID                                           : GPU-93e57c21-4fd8-b60a-c3e7-2b158d6f04a9
    MIG Device
        Index                                          : 0
        GPU Instance ID                                : 1
        Compute Instance ID                            : 0
    MIG Device
        Index                                          : 1
        GPU Instance ID                                : 2
        Compute Instance ID                            : 0
`
)

// deviceMounts returns the mounts of the strategy volume-mounts.
func deviceMounts(ids ...string) []object {
	var list []object
	for _, id := range ids {
		list = append(list, object{"host_path": "/dev/null", "container_path": filepath.Join(pluginRoot, id)})
	}
	return list
}

// TestDevicePlugin checks which devices a container gets for each form in which the plugin passes
// them on. The machine is a100-mig, except for the handler learnt, which uses mixed-mig. On
// a100-mig, GPU 0 has minor 2, and GPU 5 has minor 7 and MIG mode without MIG devices.
func TestDevicePlugin(t *testing.T) {
	const (
		gpu0 = "GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16"
		gpu2 = "GPU-a6e3d971-0c48-5bf2-8e19-72c1f05db384"
	)
	var levels []lowLevel
	c := newCRI(t, func(g *ground) map[string]string {
		levels = lowLevels(t)
		handlers := map[string]string{"runc": levels[0].path}
		for _, l := range levels {
			handlers["environment-"+l.name] = g.runtime("environment-"+l.name, "a100-mig", l.path, "")
			handlers["learnt-"+l.name] = g.runtime("learnt-"+l.name, "mixed-mig", l.path, "")
			handlers["mounts-"+l.name] = g.runtime("mounts-"+l.name, "a100-mig", l.path, mountsOnly)
		}
		return handlers
	})
	require.NoError(t, build("nvsysfs"))
	machine, text := c.machine("mixed-mig"), filepath.Join(c.dir, "smi.txt")
	require.NoError(t, os.WriteFile(text, []byte(smiText), 0o644))
	out, err := exec.Command(filepath.Join(programs.dir, "nvsysfs"), "learn", "--root", machine, "--from", text).CombinedOutput()
	require.NoError(t, err, "%s", out)

	pipe, shm := filepath.Join(c.dir, "mps/nvidia.com/gpu/pipe"), filepath.Join(c.dir, "mps/shm")
	for _, dir := range []string{pipe, shm} {
		require.NoError(t, os.MkdirAll(dir, 0o755))
	}
	variable := func(name, value string) object { return object{"key": name, "value": value} }
	for _, tt := range []struct {
		name, handler string
		env           []object
		more          object
		script, want  string
	}{
		{"uuid", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", gpu0)}, nil, gpuNodes, "nvidia2\n"},
		{"uuids", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", gpu2+","+gpu0)}, nil, gpuNodes, "nvidia0\nnvidia2\n"},
		{"index", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", "0")}, nil, gpuNodes, "nvidia2\n"},
		{"indices", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", "5,0")}, nil, gpuNodes, "nvidia2\nnvidia7\n"},
		{"mig uuid", "learnt", []object{variable("NVIDIA_VISIBLE_DEVICES", migUUID)}, nil, gpuNodes, "nvidia-caps/nvidia-cap156\nnvidia-caps/nvidia-cap157\nnvidia1\n"},
		{"mig index", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", "0:0")}, nil, gpuNodes, "nvidia-caps/nvidia-cap336\nnvidia-caps/nvidia-cap337\nnvidia2\n"},
		{"mig indices", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", "2:2,2:0")}, nil, gpuNodes, "nvidia-caps/nvidia-cap12\nnvidia-caps/nvidia-cap13\nnvidia-caps/nvidia-cap15\nnvidia0\n"},
		{"mig name from old drivers", "environment", []object{variable("NVIDIA_VISIBLE_DEVICES", "MIG-"+gpu2+"/1/2")}, nil, gpuNodes, "nvidia-caps/nvidia-cap12\nnvidia-caps/nvidia-cap15\nnvidia0\n"},
		{
			"volume mounts", "mounts",
			[]object{variable("NVIDIA_VISIBLE_DEVICES", pluginRoot)},
			object{"mounts": deviceMounts(gpu0, gpu2)},
			gpuNodes + "; ls " + pluginRoot + " 2>/dev/null; true",
			"nvidia0\nnvidia2\n" + strings.Join(slices.Sorted(slices.Values([]string{gpu0, gpu2})), "\n") + "\n",
		},
		{"volume mounts, mig index", "mounts", []object{variable("NVIDIA_VISIBLE_DEVICES", pluginRoot)}, object{"mounts": deviceMounts("0:0")}, gpuNodes, "nvidia-caps/nvidia-cap336\nnvidia-caps/nvidia-cap337\nnvidia2\n"},
		{"volume mounts, image requests all", "mounts", []object{variable("NVIDIA_VISIBLE_DEVICES", "all")}, nil, gpuNodes, ""},
		{
			"MPS", "environment",
			[]object{variable("NVIDIA_VISIBLE_DEVICES", gpu0), variable("CUDA_MPS_PIPE_DIRECTORY", "/mps/nvidia.com/gpu/pipe")},
			object{"mounts": []object{{"host_path": pipe, "container_path": "/mps/nvidia.com/gpu/pipe"}, {"host_path": shm, "container_path": "/dev/shm"}}},
			gpuNodes + "; ls -d $CUDA_MPS_PIPE_DIRECTORY", "nvidia2\n/mps/nvidia.com/gpu/pipe\n",
		},
		{
			"the plugin itself, with a MIG strategy", "mounts",
			[]object{variable("NVIDIA_VISIBLE_DEVICES", "all"), variable("NVIDIA_DRIVER_CAPABILITIES", "compute,utility"), variable("NVIDIA_MIG_MONITOR_DEVICES", "all")},
			object{"linux": object{"security_context": object{"capabilities": object{"add_capabilities": []string{"SYS_ADMIN"}}}}},
			"ls -d /dev/nvidia-caps/nvidia-cap2; ls -d /dev/nvidia[0-9]* | wc -l", "/dev/nvidia-caps/nvidia-cap2\n8\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for n, l := range levels[:2] {
				if n > 0 && tt.more == nil && tt.handler == "environment" {
					break // TestCRI covers all low-level runtimes
				}
				t.Run(l.name, func(t *testing.T) {
					id, err := c.createWith(t, tt.handler+"-"+l.name, tt.more, tt.env...)
					require.NoError(t, err)
					c.must(t, "StartContainer", object{"container_id": id})
					assert.Equal(t, tt.want, c.exec(t, id, tt.script))
				})
			}
		})
	}
	for _, tt := range []struct{ name, handler, value, want string }{
		{"volume mounts that are not accepted", "environment", pluginRoot, `device "/var/run/nvidia-container-devices": unknown device`},
		{"unknown mig uuid", "learnt", "MIG-00000000-2a5f-5c31-8f7e-64b1a0d95c28", `no recorded MIG device has this UUID`},
		{"mig uuid, nothing learned", "environment", migUUID, `none are recorded`},
		{"replica, which the plugin strips", "environment", gpu0 + "::1", `::1": unknown device`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			id, err := c.createWith(t, tt.handler+"-"+levels[0].name, object{"mounts": deviceMounts(gpu0)}, variable("NVIDIA_VISIBLE_DEVICES", tt.value))
			if err == nil {
				_, err = c.do("StartContainer", object{"container_id": id})
			}
			require.ErrorContains(t, err, tt.want)
		})
	}
}
