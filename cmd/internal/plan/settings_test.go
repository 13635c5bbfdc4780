// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestSettingsComplete finds keys that configFile has and settings has not, and the reverse.
func TestSettingsComplete(t *testing.T) {
	var keys []string
	var walk func(of reflect.Type, prefix string)
	walk = func(of reflect.Type, prefix string) {
		for i := range of.NumField() {
			f := of.Field(i)
			key := prefix + f.Tag.Get("toml")
			if f.Type.Kind() == reflect.Struct {
				walk(f.Type, key+".")
				continue
			}
			keys = append(keys, key)
		}
	}
	walk(reflect.TypeFor[configFile](), "")
	var known []string
	for _, s := range settings {
		known = append(known, s.keys...)
	}
	slices.Sort(keys)
	slices.Sort(known)
	assert.Equal(t, keys, known)
}

func TestSettings(t *testing.T) {
	const x = "nvidia-container-runtime.experimental."
	tests := []struct {
		name    string
		file    string // "" is no file
		environ []string
		change  map[string]Setting // of the defaults, by key
	}{
		{name: "no file"},
		{
			name: "the file",
			file: `
disable-require = false
swarm-resource = "A,B"
[nvidia-container-cli]
root = "/run/nvidia/driver"
unknown = 1
[nvidia-container-runtime]
debug = "/var/log/x"
log-level = " "
runtimes = ["crun"]
modes.legacy.cuda-compat-mode = "disabled"
[nvidia-container-runtime.experimental]
refused-request = "error"
dev-char-links = "never"
[features]
ignore-imex-channel-requests = true
`,
			environ: []string{"NVIDIA_CONTAINER_RUNTIME_PATH= ", "NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL=debug"},
			change: map[string]Setting{
				"disable-require":                   {Value: false, Origin: "disable-require"},
				"swarm-resource":                    {Value: []string{"A", "B"}, Origin: "swarm-resource"},
				x + "root":                          {Value: "/run/nvidia/driver", Origin: "nvidia-container-cli.root"},
				x + "debug":                         {Value: "/var/log/x", Origin: "nvidia-container-runtime.debug"},
				x + "log-level":                     {Value: "debug", Origin: "NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL"},
				"nvidia-container-runtime.runtimes": {Value: []string{"crun"}, Origin: "nvidia-container-runtime.runtimes"},
				"nvidia-container-runtime.modes.legacy.cuda-compat-mode": {Value: "disabled", Origin: "nvidia-container-runtime.modes.legacy.cuda-compat-mode"},
				x + "refused-request":                   {Value: "error", Origin: x + "refused-request"},
				x + "dev-char-links":                    {Value: "never", Origin: x + "dev-char-links"},
				"features.ignore-imex-channel-requests": {Value: true, Origin: "features.ignore-imex-channel-requests"},
			},
		},
		{
			name: "the first of two keys counts, and the environment more",
			file: "[nvidia-container-cli]\nroot = \"/a\"\n[nvidia-container-runtime.experimental]\nroot = \"/b\"\ndebug = \"/c\"\nsysroot = \"/d\"\n",
			environ: []string{
				"NVIDIA_CONTAINER_RUNTIME_DEBUG=/e", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=/f",
			},
			change: map[string]Setting{
				x + "root":    {Value: "/b", Origin: x + "root"},
				x + "debug":   {Value: "/e", Origin: "NVIDIA_CONTAINER_RUNTIME_DEBUG"},
				x + "sysroot": {Value: "/f", Origin: "NVIDIA_CONTAINER_RUNTIME_SYSROOT"},
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.toml")
			if tt.file != "" {
				require.NoError(t, os.WriteFile(file, []byte(tt.file), 0o600))
			}
			environ := append(tt.environ, "NVIDIA_CTK_CONFIG_FILE_PATH="+file)
			cfg, err := LoadConfig(environ)
			require.NoError(t, err)
			got, there, err := cfg.Settings(environ)
			require.NoError(t, err)
			assert.Equal(t, tt.file != "", there)

			var want []Setting
			used := 0
			for _, s := range settings {
				w := Setting{Key: s.keys[0], Value: s.value(DefaultConfig()), Origin: "default"}
				if c, ok := tt.change[w.Key]; ok {
					w.Value, w.Origin = c.Value, c.Origin
					used++
				}
				want = append(want, w)
			}
			assert.Equal(t, want, got)
			assert.Len(t, tt.change, used)
		})
	}
}
