// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestRegistration checks that a link named program@NAME is a runtime with its own settings,
// whatever the environment of the command.
func TestRegistration(t *testing.T) {
	shim, err := built()
	require.NoError(t, err)
	dir := t.TempDir()
	link := func(name, settings string) string {
		path := filepath.Join(dir, program+"@"+name)
		require.NoError(t, os.Symlink(shim, path))
		if settings != "" {
			require.NoError(t, os.WriteFile(path+".toml", []byte(settings), 0o644))
		}
		return path
	}
	for _, name := range []string{"runc", "crun"} {
		script := fmt.Sprintf("#!/bin/sh\necho %s \"$@\"\n", name)
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o755))
	}
	crun := link("crun", fmt.Sprintf("[nvidia-container-runtime.experimental]\nruntime-path = %q\n", filepath.Join(dir, "crun")))
	other := link("other", "[nvidia-container-runtime.experimental]\nlog-level = \"debug\"\n")
	none := link("none", "")
	config := filepath.Join(dir, "config.toml")
	require.NoError(t, os.WriteFile(config, fmt.Appendf(nil, "nvidia-container-runtime.runtimes = [%q]\n", filepath.Join(dir, "runc")), 0o644))
	base := "NVIDIA_CTK_CONFIG_FILE_PATH=" + config
	for _, tt := range []struct {
		name, program string
		environ       []string
		want, err     string
	}{
		{name: "no registration", program: shim, environ: []string{base}, want: "runc state id"},
		{name: "a setting of the registration", program: crun, environ: []string{base, "NVIDIA_CONTAINER_RUNTIME_PATH=/nonexistent"}, want: "crun state id"},
		{name: "without environment", program: crun, want: "crun state id"},
		{name: "a setting of config.toml", program: other, environ: []string{base}, want: "runc state id"},
		{name: "without settings", program: none, environ: []string{base}, err: none + ".toml is missing: write it, or unregister the runtime"},
		{name: "bare name", program: filepath.Base(crun), environ: []string{base}, err: "register the runtime by its absolute path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Cmd{Path: filepath.Join(dir, filepath.Base(tt.program)), Args: []string{tt.program, "state", "id"}, Env: append(tt.environ, "A=B")}
			if tt.program == shim {
				cmd.Path = shim
			}
			out, err := cmd.CombinedOutput()
			if tt.err != "" {
				require.Error(t, err)
				assert.Contains(t, string(out), tt.err)
				return
			}
			require.NoError(t, err, "%s", out)
			assert.Equal(t, tt.want, strings.TrimSpace(string(out)))
		})
	}
}
