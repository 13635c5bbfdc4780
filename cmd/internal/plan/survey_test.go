// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// TestSurveyAgrees checks on every fixture that a survey and a container that requests everything
// have the same device nodes and files, or the same error.
func TestSurveyAgrees(t *testing.T) {
	for _, name := range fixtures.Names() {
		t.Run(name, func(t *testing.T) {
			cfg := DefaultConfig()
			cfg.Sysroot = machine(t, name)
			if name == "driver-container" {
				cfg.DriverRoot = "/run/nvidia/driver"
			}
			survey, err := ReadSurvey(cfg, driver.All, "/usr/bin")
			require.NoError(t, err)
			p, err := New(cfg, Container{Request: spec.Request{Devices: []string{"all"}, Source: "test", Capabilities: DriverCapabilities}, Path: "/usr/bin"})
			switch {
			case survey.Inventory.Driver == nil:
				require.ErrorContains(t, err, "no NVIDIA kernel driver is loaded")
				assert.Empty(t, survey.AllNodes())
				assert.Empty(t, survey.Files)
			case err != nil:
				require.EqualError(t, survey.Err(), err.Error())
			default:
				require.NoError(t, survey.NodesErr)
				require.NoError(t, survey.FilesErr)
				assert.Equal(t, p.Nodes, survey.AllNodes())
				var files []driver.File
				for _, f := range p.Files {
					if f.Path != "" {
						files = append(files, f.File)
					}
				}
				assert.Equal(t, survey.Files, files)
				assert.NotEmpty(t, survey.Files)
			}
		})
	}
}
