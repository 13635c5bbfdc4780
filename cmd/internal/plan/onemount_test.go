// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

func TestMakeOneMount(t *testing.T) {
	gbm := library("libnvidia-allocator.so.550.54.15", "libnvidia-allocator.so.1", 64,
		driver.Link{Name: "gbm/nvidia-drm_gbm.so", Target: "../libnvidia-allocator.so.1"}, driver.Link{Name: "libnvidia-allocator.so.1", Target: "libnvidia-allocator.so.550.54.15"})
	glx := library("libGLX_nvidia.so.550.54.15", "libGLX_nvidia.so.0", 64,
		driver.Link{Name: "libGLX_indirect.so.0", Target: "libGLX_nvidia.so.550.54.15"}, driver.Link{Name: "libGLX_nvidia.so.0", Target: "libGLX_nvidia.so.550.54.15"})
	core := library("libnvidia-eglcore.so.550.54.15", "libnvidia-eglcore.so.550.54.15", 64)
	below := library("libx.so.550.54.15", "libx.so.550.54.15", 64, driver.Link{Name: "sub/x.so", Target: "../libx.so.550.54.15"})
	vdpau := library("libvdpau_nvidia.so.550.54.15", "libvdpau_nvidia.so.1", 64, driver.Link{Name: "libvdpau_nvidia.so.1", Target: "libvdpau_nvidia.so.550.54.15"})
	vdpau.Subdir = "vdpau"
	smi := driver.File{Path: "/usr/bin/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"}
	m := tesla(libcuda(64), libcuda(32), gbm, glx, core, below, vdpau, smi)
	m.Linked = "/host/links"

	const dir, dir32, sub = "/usr/lib/x86_64-linux-gnu", "/usr/lib/i386-linux-gnu", "../nvidia-container-driver/"
	const source, source32 = "/driver/usr/lib64/", "/driver/usr/lib/"
	got := Make(Config{}, spec.Request{}, spec.Facts{}, m, debian())
	want := Changes{
		LibDirs: []string{dir32, dir},
		Links: []Link{
			{dir32, "libcuda.so", "libcuda.so.1", source32 + "libcuda.so.550.54.15"},
			{dir32, "libcuda.so.1", sub + "32/libcuda.so.550.54.15", source32 + "libcuda.so.550.54.15"},
			{dir + "/gbm", "nvidia-drm_gbm.so", "../libnvidia-allocator.so.1", source + "libnvidia-allocator.so.550.54.15"},
			{dir, "libGLX_indirect.so.0", sub + "64/libGLX_nvidia.so.550.54.15", source + "libGLX_nvidia.so.550.54.15"},
			{dir, "libGLX_nvidia.so.0", sub + "64/libGLX_nvidia.so.550.54.15", source + "libGLX_nvidia.so.550.54.15"},
			{dir, "libcuda.so", "libcuda.so.1", source + "libcuda.so.550.54.15"},
			{dir, "libcuda.so.1", sub + "64/libcuda.so.550.54.15", source + "libcuda.so.550.54.15"},
			{dir, "libnvidia-allocator.so.1", sub + "64/libnvidia-allocator.so.550.54.15", source + "libnvidia-allocator.so.550.54.15"},
			{dir, "libnvidia-eglcore.so.550.54.15", sub + "64/libnvidia-eglcore.so.550.54.15", source + "libnvidia-eglcore.so.550.54.15"},
			{dir, "libx.so.550.54.15", sub + "64/libx.so.550.54.15", source + "libx.so.550.54.15"},
			{dir + "/sub", "x.so", "../" + sub + "64/libx.so.550.54.15", source + "libx.so.550.54.15"},
			{dir + "/vdpau", "libvdpau_nvidia.so.1", "libvdpau_nvidia.so.550.54.15", source + "libvdpau_nvidia.so.550.54.15"},
		},
	}
	want.Edits.RemoveHooks = legacyHooks
	want.Edits.Mounts = []specs.Mount{
		file("/driver/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi"),
		file("/host/links", "/usr/lib/nvidia-container-driver"),
		file(source+"libvdpau_nvidia.so.550.54.15", dir+"/vdpau/libvdpau_nvidia.so.550.54.15"),
	}
	assert.Equal(t, want, got)

	// What an earlier start has put into the same config.json the other way goes.
	ours := func(destination string) spec.Mount {
		return spec.Mount{Destination: destination, Type: "bind", Source: "/old", Options: fileOptions}
	}
	facts := spec.Facts{Mounts: []spec.Mount{
		ours(driverPlace), ours(dir + "/libcuda.so.535.1"), ours("/usr/bin/nvidia-smi"), ours(dir + "/libmine.so"),
		{Destination: dir + "/libcuda.so.535.2", Type: "bind", Source: "/own", Options: []string{"ro"}},
	}}
	assert.Equal(t, []specs.Mount{file("/old", dir+"/libcuda.so.535.1")}, Make(Config{}, spec.Request{}, facts, m, debian()).Edits.RemoveBinds)
	m.Linked = ""
	assert.Equal(t, []specs.Mount{file("/old", driverPlace)}, Make(Config{}, spec.Request{}, facts, m, debian()).Edits.RemoveBinds)
}

func TestLinkLibraries(t *testing.T) {
	tests := []struct {
		name   string
		mounts []spec.Mount
		rootfs func(t *testing.T, dir string)
		driver func(t *testing.T, dir string)
		files  []driver.File
		want   string // in the note; "" if there is none
	}{
		{name: "good", files: []driver.File{libcuda(64), libcuda(32)}},
		{name: "our own mounts of an earlier start", mounts: []spec.Mount{{Destination: driverPlace, Options: fileOptions}}, files: []driver.File{libcuda(64), libcuda(32)}},
		{name: "other mounts", mounts: []spec.Mount{{Destination: "/"}, {Destination: "/usr/lib/x86_64-linux-gnu/libfoo.so"}, {Destination: "/usr/libexec"}}, files: []driver.File{libcuda(64), libcuda(32)}},
		{name: "one file", files: []driver.File{libcuda(64)}, want: "there is no more than one"},
		{name: "mount at the place", mounts: []spec.Mount{{Destination: "/lib/nvidia-container-driver/"}}, want: `the container mounts something at "/lib/nvidia-container-driver/"`},
		{name: "mount above", mounts: []spec.Mount{{Destination: "/usr"}}, want: `the container mounts something at "/usr"`},
		{name: "mount over the libraries", mounts: []spec.Mount{{Destination: "/lib/x86_64-linux-gnu"}}, want: `the container mounts something at "/lib/x86_64-linux-gnu"`},
		{name: "a library of the user's own", mounts: []spec.Mount{{Destination: "/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15"}}, want: "the container mounts something at"},
		{
			name: "the image has a file at the place", want: "opening directory",
			rootfs: func(t *testing.T, dir string) {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755))
				require.NoError(t, os.WriteFile(filepath.Join(dir, driverPlace), nil, 0o644))
			},
		},
		{
			name: "the image has a link to the host at the place", want: "directory",
			rootfs: func(t *testing.T, dir string) {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/lib"), 0o755))
				require.NoError(t, os.Symlink(os.TempDir(), filepath.Join(dir, driverPlace)))
			},
		},
		{
			name: "nowhere on the host", want: "others may write here",
			driver: func(t *testing.T, dir string) {
				require.NoError(t, os.Chmod(filepath.Join(dir, "usr/lib"), 0o777))
				require.NoError(t, os.RemoveAll(filepath.Join(dir, "var/lib")))
			},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := filepath.EvalSymlinks(t.TempDir())
			require.NoError(t, err)
			host, image := filepath.Join(dir, "host"), filepath.Join(dir, "image")
			for _, d := range []string{"host/usr/lib64", "host/usr/lib", "host/var/lib", "image"} {
				require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
			}
			for _, name := range []string{"usr/lib64", "usr/lib"} {
				require.NoError(t, os.WriteFile(filepath.Join(host, name, "libcuda.so.550.54.15"), nil, 0o644))
			}
			if tt.rootfs != nil {
				tt.rootfs(t, image)
			}
			if tt.driver != nil {
				tt.driver(t, host)
			}
			img := debian()
			img.FS, err = rootfs.Open(image)
			require.NoError(t, err)
			defer img.Close()
			img.Owner = rootfs.Owner{UID: os.Geteuid(), GID: os.Getegid()}
			files := tt.files
			if files == nil {
				files = []driver.File{libcuda(64), libcuda(32)}
			}
			// These have places of their own in the container.
			vdpau := library("libvdpau_nvidia.so.550.54.15", "libvdpau_nvidia.so.1", 64)
			vdpau.Subdir = "vdpau"
			smi := driver.File{Path: "/usr/bin/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"}
			m := tesla(append(files, vdpau, smi)...)
			m.DriverRoot, m.Inventory.Driver = sysfs.Root(host), &sysfs.Driver{Version: "550.54.15"}

			m.LinkLibraries(Config{DriverDirectory: DirectoryOff}, spec.Facts{Mounts: tt.mounts}, img, true)
			assert.Empty(t, m.Linked)
			assert.Empty(t, m.Notes)

			cfg := Config{DriverDirectory: DirectoryAuto}
			look := m
			look.LinkLibraries(cfg, spec.Facts{Mounts: tt.mounts}, img, false)
			assert.NoDirExists(t, filepath.Join(host, "usr/lib/nvidia-container-runtime"))

			m.LinkLibraries(cfg, spec.Facts{Mounts: tt.mounts}, img, true)
			if tt.want != "" {
				assert.Empty(t, m.Linked)
				require.Len(t, m.Notes, 1)
				assert.Contains(t, m.Notes[0], "the driver's libraries are mounted one by one: ")
				assert.Contains(t, m.Notes[0], tt.want)
				return
			}
			assert.Empty(t, m.Notes)
			assert.Equal(t, filepath.Join(host, "usr/lib/nvidia-container-runtime"), filepath.Dir(filepath.Dir(m.Linked)))
			assert.Equal(t, m.Linked, look.Linked, "what would be is told without making it")
			there, err := filepath.Glob(filepath.Join(m.Linked, "*", "*"))
			require.NoError(t, err)
			assert.Equal(t, []string{filepath.Join(m.Linked, "32/libcuda.so.550.54.15"), filepath.Join(m.Linked, "64/libcuda.so.550.54.15")}, there)
			assert.DirExists(t, filepath.Join(image, driverPlace))
		})
	}
}

func TestLinkLibrariesWithoutRootFilesystem(t *testing.T) {
	m := tesla(libcuda(64), libcuda(32))
	m.LinkLibraries(Config{DriverDirectory: DirectoryAuto}, spec.Facts{}, debian(), true)
	assert.Equal(t, []string{"the driver's libraries are mounted one by one: nothing can be written into the root filesystem"}, m.Notes)
}
