// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/replace"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// shim creates a program to register and returns its path.
func shim(t *testing.T) string {
	t.Helper()
	name := filepath.Join(t.TempDir(), program)
	require.NoError(t, os.WriteFile(name, []byte("#!/bin/sh\n[ \"$1\" = --version ] && echo shim version 1\n"), 0o755))
	return name
}

func configure(t *testing.T, args ...string) (stdout string) {
	t.Helper()
	var out, errs bytes.Buffer
	require.NoError(t, runWords(args, &out, &errs), "%s", errs.String())
	assert.Empty(t, errs.String())
	return out.String()
}

// TestContainerdReads checks what a real containerd reads from the files that we write.
func TestContainerdReads(t *testing.T) {
	ctrd := need.Program(t, "containerd")
	version, err := exec.Command(ctrd, "--version").Output()
	require.NoError(t, err)
	old := strings.Contains(string(version), " v1.") || strings.Contains(string(version), " 1.")
	tests := []struct{ name, text string }{
		{"version 1", "oom_score = 0\n"},
		{"version 2", "version = 2\n[plugins.\"io.containerd.grpc.v1.cri\"]\n  sandbox_image = \"x\"\n"},
		{"no file", ""},
	}
	if !old {
		tests = append(tests, struct{ name, text string }{"version 3", "version = 3\n"})
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			path := shim(t)
			config := filepath.Join(t.TempDir(), "config.toml")
			if tt.text != "" {
				require.NoError(t, os.WriteFile(config, []byte(tt.text), 0o644))
			}
			configure(t, "containerd", "--config", config, "--runtime-path", path, "--set-as-default")
			dump, err := exec.Command(ctrd, "--config", config, "config", "dump").Output()
			require.NoError(t, err)
			var tree map[string]any
			require.NoError(t, toml.Unmarshal(dump, &tree))
			plugin := "io.containerd.grpc.v1.cri"
			if !old {
				plugin = "io.containerd.cri.v1.runtime"
			}
			cri := table(tree, "plugins", plugin, "containerd")
			require.NotNil(t, cri, "%s", dump)
			assert.Equal(t, "nvidia-experimental", cri["default_runtime_name"])
			assert.Equal(t, runcType, text(cri, "runtimes", "nvidia-experimental", "runtime_type"))
			assert.Equal(t, path, text(cri, "runtimes", "nvidia-experimental", "options", "BinaryName"))
			assert.Equal(t, runcType, text(cri, "runtimes", "runc", "runtime_type"), "the built-in runtime is kept")
		})
	}
}

// TestPodmanReads checks what a real podman reads from the file that we write.
func TestPodmanReads(t *testing.T) {
	bin := need.Program(t, "podman")
	path := shim(t)
	config := filepath.Join(t.TempDir(), "containers.conf")
	configure(t, "podman", "--config", config, "--runtime-path", path, "--set-as-default")
	dir := t.TempDir()
	cmd := exec.Command(bin, "--root", dir+"/root", "--runroot", dir+"/run", "--storage-driver", "vfs",
		"info", "--format", "{{.Host.OCIRuntime.Name}} {{.Host.OCIRuntime.Path}}")
	cmd.Env = append(os.Environ(), "CONTAINERS_CONF="+config, "HOME="+dir, "XDG_RUNTIME_DIR="+dir)
	var errs bytes.Buffer
	cmd.Stderr = &errs
	out, err := cmd.Output()
	require.NoError(t, err, "%s", errs.String())
	assert.Equal(t, "nvidia-experimental "+path+"\n", string(out))
}

// TestOwner checks that a file of another user keeps its owner and mode.
func TestOwner(t *testing.T) {
	need.Root(t)
	path := shim(t)
	config := filepath.Join(t.TempDir(), "daemon.json")
	require.NoError(t, os.WriteFile(config, []byte("{}"), 0o600))
	require.NoError(t, os.Chown(config, 65534, 12))
	require.NoError(t, os.Chmod(config, 0o664))
	configure(t, "docker", "--config", config, "--runtime-path", path)
	info, err := os.Lstat(config)
	require.NoError(t, err)
	s := info.Sys().(*syscall.Stat_t)
	assert.Equal(t, []uint32{65534, 12, 0o664}, []uint32{s.Uid, s.Gid, uint32(info.Mode().Perm())})
}

// TestChangedMeanwhile checks that a file is not overwritten if it changed between reading and
// writing.
func TestChangedMeanwhile(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, name string)
		change func(t *testing.T, name string)
	}{
		{"created", func(*testing.T, string) {}, func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, nil, 0o644))
		}},
		{"written", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte("{}"), 0o644))
		}, func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte("{\"debug\":true}"), 0o644))
		}},
		{"removed", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte("{}"), 0o644))
		}, func(t *testing.T, name string) {
			require.NoError(t, os.Remove(name))
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(dir, tt.name)
			tt.before(t, name)
			f, err := look("/", name)
			require.NoError(t, err)
			f.after = []byte("ours")
			tt.change(t, name)
			want, _ := os.ReadFile(name)
			require.ErrorContains(t, f.save("/"), "changed while being edited")
			got, _ := os.ReadFile(name)
			assert.Equal(t, string(want), string(got))
			left, err := filepath.Glob(filepath.Join(dir, replace.Prefix+"*"))
			require.NoError(t, err)
			assert.Empty(t, left)
		})
	}
}

// TestSweep checks that files left over from a killed run are removed, and nothing else is.
func TestSweep(t *testing.T) {
	dir := t.TempDir()
	config := filepath.Join(dir, "99-nvidia-experimental.conf")
	require.NoError(t, os.WriteFile(filepath.Join(dir, replace.Prefix+"OLD"), []byte("[crio"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
	require.NoError(t, os.Mkdir(filepath.Join(dir, replace.Prefix+"DIR"), 0o700))
	configure(t, "crio", "--config", config, "--runtime-path", shim(t))
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	assert.Equal(t, []string{replace.Prefix + "DIR", filepath.Base(config), "other"}, names)
}

// TestCannotWrite checks the error if the directory is not writable.
func TestCannotWrite(t *testing.T) {
	if os.Geteuid() == 0 {
		// Root can write despite a directory's mode, but not in /proc.
		f := file{name: "/proc/sys/x.json", after: []byte("{}")}
		require.Error(t, f.save(sysfs.Root("/")))
		return
	}
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o500))
	f, err := look("/", filepath.Join(dir, "x", "daemon.json"))
	require.NoError(t, err)
	f.after = []byte("{}")
	err = f.save("/")
	require.ErrorIs(t, err, fs.ErrPermission)
	assert.ErrorContains(t, err, "are you root?")
}
