// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestSettings(t *testing.T) {
	const x = "nvidia-container-runtime.experimental."
	tests := []struct {
		name    string
		file    string // "" for no file
		environ []string
		change  map[string]Setting // what differs from the defaults, by key
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
			name: "the first of two keys wins, and the environment overrides both",
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
			cfg, err := LoadConfig("", environ)
			require.NoError(t, err)
			got, there, err := cfg.Settings(environ)
			require.NoError(t, err)
			assert.Equal(t, tt.file != "", there)

			var want []Setting
			used := 0
			for _, k := range Keys {
				if slices.ContainsFunc(Keys, func(other Key) bool { return other.Over == k.Name }) {
					continue
				}
				w := Setting{Key: k.Name, Value: k.get(DefaultConfig()), Origin: "default"}
				if c, ok := tt.change[w.Key]; ok {
					w.Value, w.Origin = c.Value, c.Origin
					used++
					if isKey(w.Origin) {
						w.File = file
					}
				}
				want = append(want, w)
			}
			assert.Equal(t, want, got)
			assert.Len(t, tt.change, used)
		})
	}
}

// TestSettingsOfRegistration checks that a value from a registration's file comes with that file's
// name.
func TestSettingsOfRegistration(t *testing.T) {
	dir := t.TempDir()
	base, link := filepath.Join(dir, "config.toml"), filepath.Join(dir, RegistrationMark+"x")
	require.NoError(t, os.WriteFile(base, []byte("nvidia-container-runtime.debug = \"/a\"\nnvidia-container-cli.root = \"/b\""), 0o600))
	require.NoError(t, os.WriteFile(link+".toml", []byte("nvidia-container-cli.root = \"/c\""), 0o600))
	environ := []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + base, "NVIDIA_CONTAINER_RUNTIME_ROOT=/d", "NVIDIA_CONTAINER_RUNTIME_DEBUG=/e"}
	cfg, err := LoadConfig(link, environ)
	require.NoError(t, err)
	got, there, err := cfg.Settings(environ)
	require.NoError(t, err)
	assert.True(t, there)
	got = slices.DeleteFunc(got, func(s Setting) bool { return s.Origin == "default" })
	assert.Equal(t, []Setting{
		{Key: ours + "debug", Value: "/e", Origin: "NVIDIA_CONTAINER_RUNTIME_DEBUG"},
		{Key: ours + "root", Value: "/c", Origin: "nvidia-container-cli.root", File: link + ".toml"},
	}, got)
}

// TestKeys checks that each key has a description, and the default value that applies without a
// file.
func TestKeys(t *testing.T) {
	for i, k := range Keys {
		assert.NotEmpty(t, k.Doc, k.Name)
		assert.Equal(t, i, slices.IndexFunc(Keys, func(other Key) bool { return other.Name == k.Name }), "%s is listed twice", k.Name)
		f := configFile{name: "/default", data: []byte(k.Name + " = " + k.Default)}
		require.NoError(t, f.decode(), k.Name)
		c := DefaultConfig()
		require.NoError(t, f.apply(&c), k.Name)
		want := DefaultConfig()
		assert.ElementsMatch(t, want.LibrarySearchPath, c.LibrarySearchPath)
		c.LibrarySearchPath = nil
		assert.Equal(t, want, c, k.Name)
		findings := f.judge(k.Name)
		assert.Empty(t, findings, k.Name)
		// The key is read: no key takes a date.
		f.data = []byte(k.Name + " = 1979-05-27")
		f.tree = nil
		require.NoError(t, f.decode())
		require.ErrorContains(t, f.apply(&c), "is a date or time where ", k.Name)
	}
}
