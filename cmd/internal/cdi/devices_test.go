// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

func TestDevices(t *testing.T) {
	file := func(name, kind string, devices ...string) Found {
		f := Found{Path: name, File: File{Spec: specs.Spec{Kind: kind}}}
		for _, d := range devices {
			f.File.Spec.Devices = append(f.File.Spec.Devices, specs.Device{Name: d})
		}
		return f
	}
	const gpu, ours = "nvidia.com/gpu", "/etc/cdi/nvidia.yaml"
	for _, tt := range []struct {
		name  string
		found []Found
		want  map[string]string
	}{
		{"alone", []Found{file(ours, gpu, "0", "all")}, map[string]string{}},
		{"other kind", []Found{file("/etc/cdi/a.yaml", "nvidia.com/mig", "0"), file(ours, gpu, "0")}, map[string]string{}},
		{"beside", []Found{file("/etc/cdi/a.yaml", gpu, "0"), file(ours, gpu, "0", "1")}, map[string]string{
			"nvidia.com/gpu=0": "ignored: both /etc/cdi/a.yaml and /etc/cdi/nvidia.yaml define it",
		}},
		{"later directory", []Found{file(ours, gpu, "0", "1"), file("/var/run/cdi/n.yaml", gpu, "1")}, map[string]string{
			"nvidia.com/gpu=1": "hidden by /var/run/cdi/n.yaml",
		}},
		{"two files in a later directory", []Found{file(ours, gpu, "0"), file("/var/run/cdi/a.yaml", gpu, "0"), file("/var/run/cdi/b.yaml", gpu, "0")}, map[string]string{
			"nvidia.com/gpu=0": "ignored: both /var/run/cdi/a.yaml and /var/run/cdi/b.yaml define it",
		}},
		{"a file that engines ignore", []Found{{Path: "/etc/cdi/a.yaml", Err: errors.New("broken")}, file(ours, gpu, "0")}, map[string]string{}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			remarks := map[string]string{}
			for _, d := range Devices(tt.found) {
				if d.File == ours && d.Remark != "" {
					remarks[d.Name] = d.Remark
				}
			}
			assert.Equal(t, tt.want, remarks)
		})
	}
}

// TestExtras checks that other devices are in the file only if they are requested.
func TestExtras(t *testing.T) {
	o := usual
	o.Extras = []string{"nvswitch", "imex"}
	dir := need.Machine(t, "imex-nvswitch", false)
	nodes := func(o Options) []string {
		p, err := parts(t, dir, o)
		assert.NoError(t, err)
		f, _, err := Make(p, o)
		assert.NoError(t, err)
		var names []string
		for _, n := range f.Spec.ContainerEdits.DeviceNodes {
			names = append(names, n.Path)
		}
		return names
	}
	assert.NotContains(t, nodes(usual), "/dev/nvidia-nvswitchctl")
	assert.Contains(t, nodes(o), "/dev/nvidia-nvswitchctl")
	o.Extras = []string{"tpu"}
	assert.ErrorContains(t, o.Check(), `unknown devices "tpu"; known: gds, mofed, gdrcopy, nvswitch, imex`)
}
