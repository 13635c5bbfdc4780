// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// builtARM64 builds both programs for arm64, once, and returns their directory.
var builtARM64 = sync.OnceValues(func() (string, error) {
	shim, err := built()
	if err != nil {
		return "", err
	}
	dir := filepath.Join(filepath.Dir(shim), "arm64")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", dir, ".", "../nvsysfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH=arm64")
	cmd.Stderr = os.Stderr
	return dir, cmd.Run()
})

// TestARM64 checks that what the programs do depends only on the machine they look at, not on the
// architecture they were built for: emulated arm64 builds produce the same bytes.
func TestARM64(t *testing.T) {
	emulator := need.Program(t, "qemu-aarch64-static")
	if runtime.GOARCH == "arm64" {
		need.Missing(t, "another architecture than arm64 to compare with")
	}
	shim, err := built()
	require.NoError(t, err)
	tool, err := builtTool()
	require.NoError(t, err)
	dir, err := builtARM64()
	require.NoError(t, err)
	programs := map[string]map[string][]string{
		"native": {program: {shim}, "nvsysfs": {tool}},
		"arm64":  {program: {emulator, filepath.Join(dir, program)}, "nvsysfs": {emulator, filepath.Join(dir, "nvsysfs")}},
	}
	for _, tt := range []struct{ fixture, image, env, directory string }{
		{"grace-aarch64", "debian-arm64", "NVIDIA_DRIVER_CAPABILITIES=all", "off"},
		{"grace-aarch64", "debian", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "off"},
		{"t4", "debian", "NVIDIA_DRIVER_CAPABILITIES=all", "off"},
		// The arm64 build creates the directory of hard links, and the native build finds it.
		{"t4", "debian", "NVIDIA_DRIVER_CAPABILITIES=all", "always"},
		{"mixed-mig", "debian", "NVIDIA_DRIVER_CAPABILITIES=compute,utility", "off"},
		{"no-nvidia", "debian", "A=b", "off"},
	} {
		t.Run(tt.fixture+"/"+tt.image+"/"+tt.env+"/"+tt.directory, func(t *testing.T) {
			work := t.TempDir()
			a, err := fixtures.Load(tt.fixture)
			require.NoError(t, err)
			bin := filepath.Join(work, "bin")
			require.NoError(t, os.Mkdir(bin, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(bin, "runc"), []byte("#!/bin/sh\necho \"runc $*\"\n"), 0o755))

			_, err = a.Unpack(filepath.Join(work, "machine"), fixtures.UnpackOptions{NoDevices: true})
			require.NoError(t, err)
			config := "[nvidia-container-runtime.experimental]\ndriver-directory = \"" + tt.directory + "\"\n"
			require.NoError(t, os.Mkdir(filepath.Join(work, "nvidia-container-runtime"), 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(work, "nvidia-container-runtime/config.toml"), []byte(config), 0o644))

			do := func(on string) map[string]string {
				result := map[string]string{}
				require.NoError(t, os.RemoveAll(filepath.Join(work, "b")))
				require.NoError(t, os.Mkdir(filepath.Join(work, "b"), 0o755))
				require.NoError(t, makeImage(filepath.Join(work, "b/rootfs"), tt.image))
				config := strings.Replace(configs["docker.json"], `"env":["PATH=/bin"`, `"env":["PATH=/bin","NVIDIA_VISIBLE_DEVICES=all","`+tt.env+`"`, 1)
				require.NoError(t, os.WriteFile(filepath.Join(work, "b/config.json"), []byte(config), 0o644))
				run := func(name, prog string, args ...string) {
					line := append(append([]string{}, programs[on][prog]...), args...)
					cmd := exec.Command(line[0], line[1:]...)
					cmd.Dir = work
					cmd.Env = []string{
						"PATH=" + bin + ":/usr/bin:/bin", "HOME=" + work, "XDG_CONFIG_HOME=" + work,
						"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + filepath.Join(work, "machine"),
					}
					out, err := cmd.CombinedOutput()
					if err != nil {
						out = append(out, err.Error()...)
					}
					result[name] = string(out)
				}
				run("list", "nvsysfs", "list", "--json")
				run("info", "nvsysfs", "info")
				run("doctor", "nvsysfs", "doctor", "--json")
				run("explain", "nvsysfs", "explain", "--json", "--bundle", "b")
				run("create", program, "--log", "l", "create", "--bundle", "b", "id")
				tree(t, filepath.Join(work, "b"), result)
				return result
			}
			arm64 := do("arm64")
			native := do("native")
			assert.Equal(t, native, arm64)
			if tt.fixture == "no-nvidia" {
				assert.Contains(t, native["create"], "no NVIDIA kernel driver is loaded")
				return
			}
			assert.Equal(t, "runc --log l create --bundle b id\n", native["create"])
			assert.Contains(t, native["config.json"], map[string]string{"off": "/libcuda.so.", "always": "/boot-"}[tt.directory])
		})
	}
}

// tree reads all files below a directory into a map. For a link, it has the target.
func tree(t *testing.T, dir string, into map[string]string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		if d.Type() == os.ModeSymlink {
			target, err := os.Readlink(path)
			into[name] = "-> " + target
			return err
		}
		data, err := os.ReadFile(path)
		into[name] = string(data)
		return err
	}))
}
