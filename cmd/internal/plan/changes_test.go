// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"debug/elf"
	"io/fs"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

func library(name, soname string, bits int, links ...driver.Link) driver.File {
	dir := "/usr/lib64/"
	if bits == 32 {
		dir = "/usr/lib/"
	}
	return driver.File{Path: dir + name, Name: name, Kind: driver.Library, Class: driver.Compute, SONAME: soname, Bits: bits, Links: links}
}

// libcuda is a library with both of its links.
func libcuda(bits int) driver.File {
	return library("libcuda.so.550.54.15", "libcuda.so.1", bits,
		driver.Link{Name: "libcuda.so", Target: "libcuda.so.1"}, driver.Link{Name: "libcuda.so.1", Target: "libcuda.so.550.54.15"})
}

// tesla is a machine without a file on disk: what Make is given is data.
func tesla(files ...driver.File) Machine {
	m := Machine{Root: "/", DriverRoot: "/driver", Elf: elf.EM_X86_64, Files: files}
	m.Inventory.Majors = sysfs.Majors{Nvidia: 195, UVM: 508, Caps: 236}
	return m
}

func file(source, destination string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}}
}

func debian() *Image {
	return &Image{Layout: rootfs.Layout{LibDir: "/usr/lib/x86_64-linux-gnu", LibDir32: "/usr/lib/i386-linux-gnu"}}
}

func TestMakeNodes(t *testing.T) {
	mode := func(m fs.FileMode) *fs.FileMode { return &m }
	id := func(n uint32) *uint32 { return &n }
	m := tesla()
	m.Hidden = []string{"/proc/driver/nvidia/gpus/0000:02:00.0"}
	m.Nodes = []sysfs.Node{
		{Path: "/dev/nvidia0", Major: 195, Minor: 0, Mode: 0o660, UID: 3, GID: 44},
		{Path: "/dev/nvidia1", Major: 195, Minor: 1, Mode: 0o664, GID: 44},
		{Path: "/dev/nvidia2", Major: 195, Minor: 2, Mode: 0o662, GID: 27},
		{Path: "/dev/nvidia3", Major: 195, Minor: 3, Mode: 0o666, GID: 99},
		{Path: "/dev/nvidia4", Major: 195, Minor: 4, Mode: 0o600, GID: 0},
	}
	device := func(path string, minor int64, m fs.FileMode, uid, gid uint32) specs.LinuxDevice {
		return specs.LinuxDevice{Path: path, Type: "c", Major: 195, Minor: minor, FileMode: mode(m), UID: id(uid), GID: id(gid)}
	}
	want := spec.Edits{
		Devices: []specs.LinuxDevice{
			device("/dev/nvidia0", 0, 0o660, 3, 44),
			device("/dev/nvidia1", 1, 0o664, 0, 44),
			device("/dev/nvidia2", 2, 0o662, 0, 27),
			device("/dev/nvidia3", 3, 0o666, 0, 99),
			device("/dev/nvidia4", 4, 0o600, 0, 0),
		},
		NoCgroups:      true,
		MaskedPaths:    m.Hidden,
		AdditionalGIDs: []uint32{27, 44},
		RemoveHooks:    []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit"},
	}
	cfg, req := Config{NoCgroups: true}, spec.Request{}
	assert.Equal(t, want, Make(cfg, req, spec.Facts{}, m, debian()).Edits)

	cfg.NoAdditionalGIDs = true
	want.AdditionalGIDs = nil
	assert.Equal(t, want, Make(cfg, req, spec.Facts{}, m, debian()).Edits)
}

func TestMakeFence(t *testing.T) {
	majors := func(nvidia, uvm, caps int) sysfs.Majors { return sysfs.Majors{Nvidia: nvidia, UVM: uvm, Caps: caps} }
	tests := []struct {
		name   string
		fence  string
		caps   []string
		majors sysfs.Majors
		want   []int64
		always bool
	}{
		{name: "may make nodes", fence: FenceProfile, caps: []string{"CAP_MKNOD"}, majors: majors(195, 508, 236), want: []int64{195, 236, 508}},
		{name: "only what there is", fence: FenceProfile, caps: []string{"CAP_MKNOD"}, majors: majors(195, -1, -1), want: []int64{195}},
		{name: "each once", fence: FenceProfile, caps: []string{"CAP_MKNOD"}, majors: majors(195, 195, 0), want: []int64{195}},
		{name: "may not", fence: FenceProfile, caps: []string{"CAP_CHOWN"}, majors: majors(195, 508, 236)},
		{name: "privileged", fence: FenceAlways, caps: []string{"CAP_MKNOD", "CAP_SYS_ADMIN"}, majors: majors(195, 508, 236)},
		{name: "always", fence: FenceAlways, caps: []string{"CAP_MKNOD"}, majors: majors(195, -1, -1), want: []int64{195}, always: true},
		{name: "off", fence: FenceOff, caps: []string{"CAP_MKNOD"}, majors: majors(195, 508, 236)},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := tesla()
			m.Inventory.Majors = tt.majors
			got := Make(Config{Fence: tt.fence}, spec.Request{}, spec.Facts{Bounding: tt.caps}, m, debian()).Edits
			assert.Equal(t, tt.want, got.FenceMajors)
			assert.Equal(t, tt.always, got.FenceAlways)
		})
	}
}

func TestMakePlaces(t *testing.T) {
	gbm := library("libnvidia-allocator.so.550.54.15", "libnvidia-allocator.so.1", 64, driver.Link{Name: "gbm/nvidia-drm_gbm.so", Target: "../libnvidia-allocator.so.1"})
	vdpau := library("libvdpau_nvidia.so.550.54.15", "libvdpau_nvidia.so.1", 64, driver.Link{Name: "libvdpau_nvidia.so.1", Target: "libvdpau_nvidia.so.550.54.15"})
	vdpau.Subdir = "vdpau"
	smi := driver.File{Path: "/usr/lib/nvidia/current/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"}
	socket := driver.File{Path: "/run/nvidia-persistenced/socket", Name: "socket", Kind: driver.Socket, Dest: "/run/nvidia-persistenced/socket"}
	glx := driver.File{
		Path: "/x/libglxserver_nvidia.so.550.54.15", Name: "libglxserver_nvidia.so.550.54.15", Kind: driver.XorgModule, Dest: "/x/libglxserver_nvidia.so.550.54.15",
		Links: []driver.Link{{Name: "libglxserver_nvidia.so", Target: "libglxserver_nvidia.so.550.54.15"}},
	}
	m := tesla(libcuda(64), libcuda(32), gbm, vdpau, smi, socket, glx)
	m.GDS = []string{"/etc/cufile.json"}

	got := Make(Config{}, spec.Request{}, spec.Facts{}, m, debian())
	want := Changes{
		LibDirs: []string{"/usr/lib/i386-linux-gnu", "/usr/lib/x86_64-linux-gnu"},
		Links: []Link{
			{Dir: "/usr/lib/i386-linux-gnu", Name: "libcuda.so", Target: "libcuda.so.1", Source: "/driver/usr/lib/libcuda.so.550.54.15"},
			{Dir: "/usr/lib/i386-linux-gnu", Name: "libcuda.so.1", Target: "libcuda.so.550.54.15", Source: "/driver/usr/lib/libcuda.so.550.54.15"},
			{Dir: "/usr/lib/x86_64-linux-gnu/gbm", Name: "nvidia-drm_gbm.so", Target: "../libnvidia-allocator.so.1", Source: "/driver/usr/lib64/libnvidia-allocator.so.550.54.15"},
			{Dir: "/usr/lib/x86_64-linux-gnu", Name: "libcuda.so", Target: "libcuda.so.1", Source: "/driver/usr/lib64/libcuda.so.550.54.15"},
			{Dir: "/usr/lib/x86_64-linux-gnu", Name: "libcuda.so.1", Target: "libcuda.so.550.54.15", Source: "/driver/usr/lib64/libcuda.so.550.54.15"},
			{Dir: "/usr/lib/x86_64-linux-gnu/vdpau", Name: "libvdpau_nvidia.so.1", Target: "libvdpau_nvidia.so.550.54.15", Source: "/driver/usr/lib64/libvdpau_nvidia.so.550.54.15"},
			{Dir: "/x", Name: "libglxserver_nvidia.so", Target: "libglxserver_nvidia.so.550.54.15", Source: "/driver/x/libglxserver_nvidia.so.550.54.15"},
		},
	}
	want.Edits.RemoveHooks = legacyHooks
	want.Edits.Mounts = []specs.Mount{
		// The machine's own, not the driver's.
		file("/etc/cufile.json", "/etc/cufile.json"),
		{
			Destination: "/run/nvidia-persistenced/socket", Type: "bind", Source: "/driver/run/nvidia-persistenced/socket",
			Options: []string{"nosuid", "nodev", "rbind", "rprivate", "noexec"},
		},
		file("/driver/usr/lib/nvidia/current/nvidia-smi", "/usr/bin/nvidia-smi"),
		file("/driver/usr/lib/libcuda.so.550.54.15", "/usr/lib/i386-linux-gnu/libcuda.so.550.54.15"),
		file("/driver/usr/lib64/libcuda.so.550.54.15", "/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15"),
		file("/driver/usr/lib64/libnvidia-allocator.so.550.54.15", "/usr/lib/x86_64-linux-gnu/libnvidia-allocator.so.550.54.15"),
		file("/driver/usr/lib64/libvdpau_nvidia.so.550.54.15", "/usr/lib/x86_64-linux-gnu/vdpau/libvdpau_nvidia.so.550.54.15"),
		file("/driver/x/libglxserver_nvidia.so.550.54.15", "/x/libglxserver_nvidia.so.550.54.15"),
	}
	assert.Equal(t, want, got)

	// The order in which files come is of no consequence.
	m.Files = []driver.File{glx, socket, smi, vdpau, gbm, libcuda(32), libcuda(64)}
	assert.Equal(t, want, Make(Config{}, spec.Request{}, spec.Facts{}, m, debian()))

	// No place for 32 bits.
	m.Files = []driver.File{libcuda(32)}
	got = Make(Config{}, spec.Request{}, spec.Facts{}, m, &Image{Layout: rootfs.Layout{LibDir: "/usr/lib"}})
	assert.Equal(t, []specs.Mount{file("/etc/cufile.json", "/etc/cufile.json")}, got.Edits.Mounts)
	assert.Empty(t, got.Links)
	assert.Equal(t, []string{"/usr/lib/libcuda.so.550.54.15 left out: the image has no directory for 32-bit libraries"}, got.Notes)
}

func TestMakeSparesMounts(t *testing.T) {
	const dir = "/usr/lib/x86_64-linux-gnu"
	names := func(mounts ...spec.Mount) []string {
		var names []string
		for _, l := range Make(Config{}, spec.Request{}, spec.Facts{Mounts: mounts}, tesla(libcuda(64)), debian()).Links {
			names = append(names, l.Name)
		}
		return names
	}
	assert.Equal(t, []string{"libcuda.so", "libcuda.so.1"}, names())
	assert.Equal(t, []string{"libcuda.so"}, names(spec.Mount{Destination: dir + "/libcuda.so.1", Options: []string{"bind"}}))
	assert.Equal(t, []string{"libcuda.so"}, names(spec.Mount{Destination: dir + "/x/..//libcuda.so.1/"}))
	assert.Equal(t, []string{"libcuda.so", "libcuda.so.1"}, names(spec.Mount{Destination: dir + "/libcuda.so.1", Options: fileOptions}), "our own of an earlier start")
	assert.Equal(t, []string{"libcuda.so"}, names(spec.Mount{Destination: "/lib/x86_64-linux-gnu/libcuda.so.1"}), "where /lib is a link")
	assert.Equal(t, []string{"libcuda.so", "libcuda.so.1"}, names(spec.Mount{Destination: dir}, spec.Mount{Destination: "/opt/libcuda.so.1"}))
}

func TestMakeCache(t *testing.T) {
	entry := func(name, path string, flags int32) ldcache.Entry {
		return ldcache.Entry{Name: name, Path: path, Flags: flags}
	}
	libc := entry("libc.so.6", "/lib/x86_64-linux-gnu/libc.so.6", ldcache.FlagX8664)
	old := entry("libnvidia-old.so.1", "/usr/lib/x86_64-linux-gnu/libnvidia-old.so.1", ldcache.FlagX8664)
	own := entry("libcuda.so.1", "/opt/libcuda.so.1", ldcache.FlagX8664)
	merged := func(m Machine, compat *rootfs.Compat, have ...ldcache.Entry) []ldcache.Entry {
		img := debian()
		img.Compat = compat
		img.Cache = &ldcache.Cache{Entries: have}
		img.dead = []string{old.Path}
		c := Make(Config{}, spec.Request{}, spec.Facts{}, m, img)
		require.Len(t, c.Files, 1)
		assert.Equal(t, "/etc/ld.so.cache", c.Files[0].Path)
		got, err := ldcache.Parse(c.Files[0].Data)
		require.NoError(t, err)
		return got.Entries
	}
	vdpau := library("libvdpau_nvidia.so.550.54.15", "libvdpau_nvidia.so.1", 64)
	vdpau.Subdir = "vdpau"
	const dir, dir32 = "/usr/lib/x86_64-linux-gnu/", "/usr/lib/i386-linux-gnu/"
	assert.Equal(t, []ldcache.Entry{
		entry("libcuda.so.1", dir+"libcuda.so.1", ldcache.FlagX8664),
		entry("libcuda.so.1", dir32+"libcuda.so.1", ldcache.Flag32),
		entry("libcuda.so", dir+"libcuda.so", ldcache.FlagX8664),
		entry("libcuda.so", dir32+"libcuda.so", ldcache.Flag32),
		libc,
	}, merged(tesla(libcuda(64), libcuda(32), vdpau), nil, libc, old))

	// An entry of the image for the same name must not win.
	got := merged(tesla(libcuda(64)), nil, own, libc)
	assert.Equal(t, dir+"libcuda.so.1", got[0].Path)
	assert.Equal(t, "libcuda.so.1", got[0].Name)

	// Forward compatibility replaces, for 64 bits.
	compat := &rootfs.Compat{Dir: "/usr/local/cuda/compat", Version: "575.57.08", Libraries: []string{"libcuda.so.1", "libcudadebugger.so.1"}}
	assert.Equal(t, []ldcache.Entry{
		entry("libcudadebugger.so.1", "/usr/local/cuda/compat/libcudadebugger.so.1", ldcache.FlagX8664),
		entry("libcuda.so.1", "/usr/local/cuda/compat/libcuda.so.1", ldcache.FlagX8664),
		entry("libcuda.so.1", dir32+"libcuda.so.1", ldcache.Flag32),
		entry("libcuda.so", dir+"libcuda.so", ldcache.FlagX8664),
		entry("libcuda.so", dir32+"libcuda.so", ldcache.Flag32),
		libc,
	}, merged(tesla(libcuda(64), libcuda(32)), compat, libc))

	// An image without a cache gets none; what is there already is not written again.
	assert.Empty(t, Make(Config{}, spec.Request{}, spec.Facts{}, tesla(libcuda(64)), debian()).Files)
	img := debian()
	img.Cache = &ldcache.Cache{Entries: []ldcache.Entry{libc}}
	img.cache = Make(Config{}, spec.Request{}, spec.Facts{}, tesla(libcuda(64)), img).Files[0].Data
	assert.Empty(t, Make(Config{}, spec.Request{}, spec.Facts{}, tesla(libcuda(64)), img).Files)
}

func TestCacheFlags(t *testing.T) {
	for _, tt := range []struct {
		machine elf.Machine
		bits    int
		want    int32
		ok      bool
	}{
		{elf.EM_X86_64, 64, ldcache.FlagX8664, true},
		{elf.EM_X86_64, 32, ldcache.Flag32, true}, // i386, not x32
		{elf.EM_AARCH64, 64, ldcache.FlagAArch64, true},
		{elf.EM_AARCH64, 32, ldcache.FlagARMHard, true},
		{elf.EM_386, 32, ldcache.Flag32, true},
		{elf.EM_386, 64, 0, false},
	} {
		got, ok := cacheFlags(tt.machine, tt.bits)
		assert.Equal(t, tt.want, got, "%v %d", tt.machine, tt.bits)
		assert.Equal(t, tt.ok, ok, "%v %d", tt.machine, tt.bits)
	}
}

func TestApplicationProfile(t *testing.T) {
	m := tesla()
	gpu := func(minor int) sysfs.SelectedGPU { return sysfs.SelectedGPU{GPU: sysfs.GPU{Minor: minor}} }
	dir := t.TempDir()
	root, err := rootfs.Open(dir)
	require.NoError(t, err)
	defer root.Close()
	img := debian()
	img.FS = root
	for _, tt := range []struct {
		name string
		caps []string
		gpus []sysfs.SelectedGPU
		want string // the mask; "" is no file
	}{
		{name: "graphics", caps: []string{"graphics"}, gpus: []sysfs.SelectedGPU{gpu(0)}, want: "0x1]"},
		{name: "display", caps: []string{"display"}, gpus: []sysfs.SelectedGPU{gpu(5), gpu(3)}, want: "0x28]"},
		{name: "last bit", caps: []string{"graphics"}, gpus: []sysfs.SelectedGPU{gpu(63)}, want: "0x8000000000000000]"},
		{name: "past it", caps: []string{"graphics"}, gpus: []sysfs.SelectedGPU{gpu(0), gpu(64)}},
		{name: "no GPU", caps: []string{"graphics"}},
		{name: "no graphics", caps: []string{"compute", "utility", "video"}, gpus: []sysfs.SelectedGPU{gpu(0)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m.Selection.GPUs = tt.gpus
			files := Make(Config{}, spec.Request{Capabilities: tt.caps}, spec.Facts{}, m, img).Files
			if tt.want == "" {
				assert.Empty(t, files)
				return
			}
			require.Len(t, files, 1)
			assert.Equal(t, "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf", files[0].Path)
			assert.Contains(t, string(files[0].Data), `["EGLVisibleDGPUDevices", `+tt.want)
		})
	}
	m.Selection.GPUs = []sysfs.SelectedGPU{gpu(0)}
	assert.Empty(t, Make(Config{}, spec.Request{Capabilities: []string{"graphics"}}, spec.Facts{}, m, debian()).Files, "without a root filesystem")
}

func TestNotes(t *testing.T) {
	assert.Empty(t, Notes(spec.Report{}))
	assert.Equal(t, []string{
		`the container's own mounts stay at ["/a" "/b\n"]`,
		`devices of other numbers replaced at ["/dev/nvidia0"]`,
		`mounts of an earlier driver removed from ["/c"]`,
		`hooks of the classic runtime removed: ["/d"]`,
		`the seccomp profile still lets some device nodes be made: ["e"]`,
	}, Notes(spec.Report{
		KeptMounts: []string{"/a", "/b\n"}, ReplacedDevices: []string{"/dev/nvidia0"}, StaleMounts: []string{"/c"},
		RemovedHooks: []string{"/d"}, Fenced: true, Unfenced: []string{"e"},
	}))
}

func TestOfDriver(t *testing.T) {
	for _, name := range strings.Fields("libcuda.so libcuda.so.1 libcuda.so.550.54.15 libnvidia-tomorrow.so.1 libGLX_nvidia.so.0 libGLX_indirect.so.0 libvdpau_nvidia.so.1") {
		assert.True(t, ofDriver(name), name)
	}
	for _, name := range strings.Fields("libc.so.6 libGL.so.1 libGLX.so.0 libnvidia-ml libfoo-nvidia.so nvidia-smi libOpenCL.so.1") {
		assert.False(t, ofDriver(name), name)
	}
}
