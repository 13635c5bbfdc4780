// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
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
	icd := driver.File{Path: "/usr/share/vulkan/icd.d/nvidia_icd.json", Name: "nvidia_icd.json", Kind: driver.Config, Dest: "/etc/vulkan/icd.d/nvidia_icd.json"}
	gsp := driver.File{Path: "/lib/firmware/nvidia/550.54.15/gsp.bin", Name: "gsp.bin", Kind: driver.Firmware, Dest: "/lib/firmware/nvidia/550.54.15/gsp.bin"}
	glxserver := driver.File{
		Path: "/usr/lib/xorg/libglxserver_nvidia.so.550.54.15", Name: "libglxserver_nvidia.so.550.54.15", Kind: driver.XorgModule,
		Dest:  "/usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.550.54.15",
		Links: []driver.Link{{Name: "libglxserver_nvidia.so", Target: "libglxserver_nvidia.so.550.54.15"}},
	}
	socket := driver.File{Path: "/run/s", Name: "s", Kind: driver.Socket, Dest: "/run/s"}
	again := driver.File{Path: "/other/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/local/bin/nvidia-smi"}
	m := tesla(libcuda(64), libcuda(32), gbm, glx, core, below, vdpau, smi, again, icd, gsp, glxserver, socket)
	img := debian()
	m.Linked, m.LinkNames = "/host/links", linkNames(m.Files, spec.Facts{}, img.Layout)

	const dir, dir32, place = "/usr/lib/x86_64-linux-gnu", "/usr/lib/i386-linux-gnu", "/usr/lib/nvidia-container-driver/"
	const source, source32 = "/driver/usr/lib64/", "/driver/usr/lib/"
	const firmware, vulkan, xorg = "/lib/firmware/nvidia/550.54.15", "/etc/vulkan/icd.d", "/usr/lib/xorg/modules/extensions"
	got := Make(Config{}, spec.Request{}, spec.Facts{}, m, img)
	want := Changes{
		LibDirs: []string{dir32, dir},
		Links: []Link{
			{vulkan, "nvidia_icd.json", place + "share/nvidia_icd.json", "/driver/usr/share/vulkan/icd.d/nvidia_icd.json"},
			{firmware, "gsp.bin", place + "firmware/gsp.bin", "/driver/lib/firmware/nvidia/550.54.15/gsp.bin"},
			{"/usr/bin", "nvidia-smi", place + "bin/nvidia-smi", "/driver/usr/bin/nvidia-smi"},
			{dir32, "libcuda.so", place + "32/libcuda.so.550.54.15", source32 + "libcuda.so.550.54.15"},
			{dir32, "libcuda.so.1", place + "32/libcuda.so.550.54.15", source32 + "libcuda.so.550.54.15"},
			{dir + "/gbm", "nvidia-drm_gbm.so", "../libnvidia-allocator.so.1", source + "libnvidia-allocator.so.550.54.15"},
			{dir, "libGLX_indirect.so.0", place + "64/libGLX_nvidia.so.550.54.15", source + "libGLX_nvidia.so.550.54.15"},
			{dir, "libGLX_nvidia.so.0", place + "64/libGLX_nvidia.so.550.54.15", source + "libGLX_nvidia.so.550.54.15"},
			{dir, "libcuda.so", place + "64/libcuda.so.550.54.15", source + "libcuda.so.550.54.15"},
			{dir, "libcuda.so.1", place + "64/libcuda.so.550.54.15", source + "libcuda.so.550.54.15"},
			{dir, "libnvidia-allocator.so.1", place + "64/libnvidia-allocator.so.550.54.15", source + "libnvidia-allocator.so.550.54.15"},
			{dir, "libnvidia-eglcore.so.550.54.15", place + "64/libnvidia-eglcore.so.550.54.15", source + "libnvidia-eglcore.so.550.54.15"},
			{dir, "libx.so.550.54.15", place + "64/libx.so.550.54.15", source + "libx.so.550.54.15"},
			{dir + "/sub", "x.so", place + "64/libx.so.550.54.15", source + "libx.so.550.54.15"},
			{dir + "/vdpau", "libvdpau_nvidia.so.1", place + "64/libvdpau_nvidia.so.550.54.15", source + "libvdpau_nvidia.so.550.54.15"},
			{xorg, "libglxserver_nvidia.so", "libglxserver_nvidia.so.550.54.15", "/driver/usr/lib/xorg/libglxserver_nvidia.so.550.54.15"},
			{xorg, "libglxserver_nvidia.so.550.54.15", place + "xorg/libglxserver_nvidia.so.550.54.15", "/driver/usr/lib/xorg/libglxserver_nvidia.so.550.54.15"},
		},
	}
	want.Edits.RemoveHooks = legacyHooks
	want.Edits.Mounts = []specs.Mount{
		{Destination: "/run/s", Type: "bind", Source: "/driver/run/s", Options: socketOptions},
		file("/host/links", "/usr/lib/nvidia-container-driver"),
		file("/driver/other/nvidia-smi", "/usr/local/bin/nvidia-smi"), // the name is taken
	}
	assert.Equal(t, want, got)

	// What an earlier start has put into the same config.json the other way goes.
	ours := func(destination string) spec.Mount {
		return spec.Mount{Destination: destination, Type: "bind", Source: "/old", Options: fileOptions}
	}
	facts := spec.Facts{Mounts: []spec.Mount{
		ours(driverPlace), ours(dir + "/libcuda.so.535.1"), ours("/usr/bin/nvidia-smi"), ours(dir + "/libmine.so"), ours("/run/s"),
		{Destination: dir + "/libcuda.so.535.2", Type: "bind", Source: "/own", Options: []string{"ro"}},
	}}
	assert.Equal(t, []specs.Mount{file("/old", dir+"/libcuda.so.535.1"), file("/old", "/usr/bin/nvidia-smi")}, Make(Config{}, spec.Request{}, facts, m, debian()).Edits.RemoveBinds)
	m.Linked, m.LinkNames = "", nil
	assert.Equal(t, []specs.Mount{file("/old", driverPlace)}, Make(Config{}, spec.Request{}, facts, m, debian()).Edits.RemoveBinds)
}

func TestLinkNames(t *testing.T) {
	smi := driver.File{Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"}
	gsp := driver.File{Name: "gsp.bin", Kind: driver.Firmware, Dest: "/lib/firmware/nvidia/550.54.15/gsp.bin"}
	files := []driver.File{libcuda(64), libcuda(32), smi, gsp}
	all := []string{"64/libcuda.so.550.54.15", "32/libcuda.so.550.54.15", "bin/nvidia-smi", "firmware/gsp.bin"}
	without := func(gone ...int) []string {
		names := slices.Clone(all)
		for _, i := range gone {
			names[i] = ""
		}
		return names
	}
	for _, tt := range []struct {
		name   string
		mounts []spec.Mount
		want   []string
	}{
		{"nothing mounted", nil, all},
		{"our own of an earlier start", []spec.Mount{{Destination: "/usr/bin/nvidia-smi", Options: fileOptions}}, all},
		{"elsewhere", []spec.Mount{{Destination: "/"}, {Destination: "/usr/lib/x86_64-linux-gnu/libfoo.so"}, {Destination: "/usr/libexec"}, {Destination: "/usr/bi"}}, all},
		{"all of /usr, which is where /lib is, too", []spec.Mount{{Destination: "/usr"}}, without(0, 1, 2)},
		{"the 64-bit libraries", []spec.Mount{{Destination: "/lib/x86_64-linux-gnu/"}}, without(0)},
		{"a library", []spec.Mount{{Destination: "/usr/lib/i386-linux-gnu/libcuda.so.550.54.15"}}, without(1)},
		{"programs", []spec.Mount{{Destination: "/bin"}}, without(2)},
		{"a program", []spec.Mount{{Destination: "usr/bin/nvidia-smi"}}, without(2)},
		{"firmware, by the other name", []spec.Mount{{Destination: "/usr/lib/firmware"}}, without(3)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, linkNames(files, spec.Facts{Mounts: tt.mounts}, debian().Layout))
		})
	}
	layout := debian().Layout
	layout.LibDir32 = ""
	assert.Equal(t, without(1), linkNames(files, spec.Facts{}, layout))
}

func TestLinkFiles(t *testing.T) {
	tests := []struct {
		name   string
		mounts []spec.Mount
		rootfs func(t *testing.T, dir string)
		driver func(t *testing.T, dir string)
		files  []driver.File
		way    string // "" is DirectoryAlways
		few    bool   // so few that they are mounted
		want   string // in the note; "" if there is none
	}{
		{name: "good", files: []driver.File{libcuda(64), libcuda(32)}},
		{name: "our own mounts of an earlier start", mounts: []spec.Mount{{Destination: driverPlace, Options: fileOptions}}, files: []driver.File{libcuda(64), libcuda(32)}},
		{name: "mount at the place", mounts: []spec.Mount{{Destination: "/lib/nvidia-container-driver/"}}, want: `the container mounts something at "/lib/nvidia-container-driver/"`},
		{name: "mount above", mounts: []spec.Mount{{Destination: "/usr"}}, want: `the container mounts something at "/usr"`},
		{name: "few files", way: DirectoryAuto, few: true, files: []driver.File{libcuda(64), libcuda(32)}},
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
			m := tesla(files...)
			m.DriverRoot, m.Inventory.Driver = sysfs.Root(host), &sysfs.Driver{Version: "550.54.15"}

			m.LinkFiles(Config{DriverDirectory: DirectoryOff}, spec.Facts{Mounts: tt.mounts}, img, true)
			assert.Empty(t, m.Linked)
			assert.Empty(t, m.Notes)

			cfg := Config{DriverDirectory: cmp.Or(tt.way, DirectoryAlways)}
			look := m
			look.LinkFiles(cfg, spec.Facts{Mounts: tt.mounts}, img, false)
			assert.NoDirExists(t, filepath.Join(host, "usr/lib/nvidia-container-runtime"))

			m.LinkFiles(cfg, spec.Facts{Mounts: tt.mounts}, img, true)
			if tt.want != "" {
				assert.Empty(t, m.Linked)
				require.Len(t, m.Notes, 1)
				assert.Contains(t, m.Notes[0], "the driver's files are mounted one by one: ")
				assert.Contains(t, m.Notes[0], tt.want)
				return
			}
			assert.Empty(t, m.Notes)
			if tt.few {
				assert.Empty(t, m.Linked)
				return
			}
			assert.Equal(t, filepath.Join(host, "usr/lib/nvidia-container-runtime"), filepath.Dir(filepath.Dir(m.Linked)))
			assert.Equal(t, m.Linked, look.Linked, "what would be is told without making it")
			there, err := filepath.Glob(filepath.Join(m.Linked, "*", "*"))
			require.NoError(t, err)
			assert.Equal(t, []string{filepath.Join(m.Linked, "32/libcuda.so.550.54.15"), filepath.Join(m.Linked, "64/libcuda.so.550.54.15")}, there)
			assert.DirExists(t, filepath.Join(image, driverPlace))
		})
	}
}

func TestLinkFilesWithoutRootFilesystem(t *testing.T) {
	m := tesla(libcuda(64), libcuda(32))
	m.LinkFiles(Config{DriverDirectory: DirectoryAlways}, spec.Facts{}, debian(), true)
	assert.Equal(t, []string{"the driver's files are mounted one by one: nothing can be written into the root filesystem"}, m.Notes)
}
