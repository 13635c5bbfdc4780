// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
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

// libcuda returns libcuda with both of its links.
func libcuda(bits int) driver.File {
	return library("libcuda.so.550.54.15", "libcuda.so.1", bits,
		driver.Link{Name: "libcuda.so", Target: "libcuda.so.1"}, driver.Link{Name: "libcuda.so.1", Target: "libcuda.so.550.54.15"})
}

// tesla returns a plan for an image with Debian's layout, on a machine that exists only as data.
func tesla(files ...driver.File) Plan {
	p := Plan{Machine: Machine{Root: "/", DriverRoot: "/driver", Arch: ldcache.X8664}}
	p.Inventory.Driver = &sysfs.Driver{Version: "550.54.15"}
	p.Inventory.Majors = sysfs.Majors{Nvidia: 195, UVM: 508, Caps: 236}
	p.Image = Image{Root: "/rootfs", LibDir: "/usr/lib/x86_64-linux-gnu", LibDir32: "/usr/lib/i386-linux-gnu"}
	p.Files = p.placeFiles(files, 0)
	return p
}

func file(source, destination string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}}
}

func socket(source, destination string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"nosuid", "nodev", "rbind", "rprivate", "noexec"}}
}

// all returns driver files of each kind.
func all() []driver.File {
	allocator := library("libnvidia-allocator.so.550.54.15", "libnvidia-allocator.so.1", 64,
		driver.Link{Name: "gbm/nvidia-drm_gbm.so", Target: "../libnvidia-allocator.so.1"},
		driver.Link{Name: "libnvidia-allocator.so.1", Target: "libnvidia-allocator.so.550.54.15"})
	vdpau := library("libvdpau_nvidia.so.550.54.15", "libvdpau_nvidia.so.1", 64,
		driver.Link{Name: "libvdpau_nvidia.so.1", Target: "libvdpau_nvidia.so.550.54.15"})
	vdpau.Subdir = "vdpau"
	return []driver.File{
		libcuda(64), allocator, vdpau, library("libnvidia-eglcore.so.550.54.15", "libnvidia-eglcore.so.550.54.15", 64), libcuda(32),
		{Path: "/bin/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"},
		{Path: "/usr/share/vulkan/icd.d/nvidia_icd.json", Name: "nvidia_icd.json", Kind: driver.Config, Dest: "/etc/vulkan/icd.d/nvidia_icd.json"},
		{Path: "/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin", Name: "gsp_ga10x.bin", Kind: driver.Firmware, Dest: "/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin"},
		{Path: "/lib/firmware/nvidia/550.54.15/gsp_tu10x.bin", Name: "gsp_tu10x.bin", Kind: driver.Firmware, Dest: "/lib/firmware/nvidia/550.54.15/gsp_tu10x.bin"},
		{Path: "/run/nvidia-persistenced/socket", Name: "socket", Kind: driver.Socket, Dest: "/run/nvidia-persistenced/socket"},
	}
}

// outside has the links outside Dir for the files of all. They are the same for one mount of the
// whole driver and for one mount per file.
var outside = []Link{
	{"/etc/vulkan/icd.d/nvidia_icd.json", Dir + "/share/icd.d-nvidia_icd.json", "/driver/usr/share/vulkan/icd.d/nvidia_icd.json"},
	{"/lib/firmware/nvidia/550.54.15", Dir + "/firmware", "/driver/lib/firmware/nvidia/550.54.15"},
	{"/usr/bin/nvidia-smi", Dir + "/bin/nvidia-smi", "/driver/bin/nvidia-smi"},
	{"/usr/lib/x86_64-linux-gnu/gbm/nvidia-drm_gbm.so", Dir + "/libnvidia-allocator.so.1", "/driver/usr/lib64/libnvidia-allocator.so.550.54.15"},
	{"/usr/lib/x86_64-linux-gnu/libcuda.so", Dir + "/libcuda.so", ""},
	{"/usr/lib/x86_64-linux-gnu/libcuda.so.1", Dir + "/libcuda.so.1", ""},
	{"/usr/lib/x86_64-linux-gnu/vdpau/libvdpau_nvidia.so.1", Dir + "/vdpau/libvdpau_nvidia.so.1", "/driver/usr/lib64/libvdpau_nvidia.so.550.54.15"},
}

func TestPlaceDirectory(t *testing.T) {
	p := tesla(all()...)
	p.Directory = "/driver/usr/lib/nvidia-container-runtime/boot-x/550.54.15-0"
	p.place()
	assert.Equal(t, []specs.Mount{
		socket("/driver/run/nvidia-persistenced/socket", "/run/nvidia-persistenced/socket"),
		file(p.Directory, Dir),
	}, p.Edits.Mounts)
	assert.Equal(t, outside, p.Links)

	var names []string
	for _, f := range p.directory() {
		names = append(names, strings.TrimSuffix(f.Name+" -> "+f.Target, " -> "))
	}
	assert.Equal(t, []string{
		"libcuda.so.550.54.15", "libcuda.so -> libcuda.so.1", "libcuda.so.1 -> libcuda.so.550.54.15",
		"libnvidia-allocator.so.550.54.15", "libnvidia-allocator.so.1 -> libnvidia-allocator.so.550.54.15",
		"vdpau/libvdpau_nvidia.so.550.54.15", "vdpau/libvdpau_nvidia.so.1 -> libvdpau_nvidia.so.550.54.15",
		"libnvidia-eglcore.so.550.54.15",
		"lib32/libcuda.so.550.54.15", "lib32/libcuda.so -> libcuda.so.1", "lib32/libcuda.so.1 -> libcuda.so.550.54.15",
		"bin/nvidia-smi", "share/icd.d-nvidia_icd.json", "firmware/gsp_ga10x.bin", "firmware/gsp_tu10x.bin",
	}, names)
}

func TestSharedLabel(t *testing.T) {
	for _, tt := range []struct{ mountLabel, dir, want string }{
		{"system_u:object_r:container_file_t:s0:c1,c2", "/var/lib/x", "system_u:object_r:container_file_t:s0"},
		{"system_u:object_r:container_file_t:s0", "/var/lib/x", "system_u:object_r:container_file_t:s0"},
		{"system_u:object_r:container_file_t:s0:c1,c2", "/usr/lib/x", ""},
		{"", "/var/lib/x", ""},
		{"unconfined", "/var/lib/x", ""}, // other modules, such as AppArmor and Smack, have other labels
	} {
		assert.Equal(t, tt.want, sharedLabel(tt.mountLabel, tt.dir), tt)
	}
}

// TestPlaceOneByOne checks that a container sees the same names if each file is mounted on its own.
func TestPlaceOneByOne(t *testing.T) {
	p := tesla(all()...)
	p.place()
	lib := "/driver/usr/lib64/"
	assert.Equal(t, []specs.Mount{
		socket("/driver/run/nvidia-persistenced/socket", "/run/nvidia-persistenced/socket"),
		file("/driver/bin/nvidia-smi", Dir+"/bin/nvidia-smi"),
		file("/driver/lib/firmware/nvidia/550.54.15/gsp_ga10x.bin", Dir+"/firmware/gsp_ga10x.bin"),
		file("/driver/lib/firmware/nvidia/550.54.15/gsp_tu10x.bin", Dir+"/firmware/gsp_tu10x.bin"),
		file("/driver/usr/lib/libcuda.so.550.54.15", Dir+"/lib32/libcuda.so.550.54.15"),
		file(lib+"libcuda.so.550.54.15", Dir+"/libcuda.so.550.54.15"),
		file(lib+"libnvidia-allocator.so.550.54.15", Dir+"/libnvidia-allocator.so.550.54.15"),
		file(lib+"libnvidia-eglcore.so.550.54.15", Dir+"/libnvidia-eglcore.so.550.54.15"),
		file("/driver/usr/share/vulkan/icd.d/nvidia_icd.json", Dir+"/share/icd.d-nvidia_icd.json"),
		file(lib+"libvdpau_nvidia.so.550.54.15", Dir+"/vdpau/libvdpau_nvidia.so.550.54.15"),
	}, p.Edits.Mounts)
	want := []Link{
		outside[0], outside[1], outside[2],
		{Dir + "/lib32/libcuda.so", "libcuda.so.1", ""},
		{Dir + "/lib32/libcuda.so.1", "libcuda.so.550.54.15", "/driver/usr/lib/libcuda.so.550.54.15"},
		{Dir + "/libcuda.so", "libcuda.so.1", ""},
		{Dir + "/libcuda.so.1", "libcuda.so.550.54.15", lib + "libcuda.so.550.54.15"},
		{Dir + "/libnvidia-allocator.so.1", "libnvidia-allocator.so.550.54.15", lib + "libnvidia-allocator.so.550.54.15"},
		{Dir + "/vdpau/libvdpau_nvidia.so.1", "libvdpau_nvidia.so.550.54.15", lib + "libvdpau_nvidia.so.550.54.15"},
	}
	assert.Equal(t, append(want, outside[3:]...), p.Links)
}

// TestPlaceBesideMountsOfTheContainer checks that what the container itself mounts stays visible,
// under any alias, and that driver files covered by its mounts are mounted on top.
func TestPlaceBesideMountsOfTheContainer(t *testing.T) {
	volume := t.TempDir()
	bind := func(destination string, options ...string) spec.Mount {
		return spec.Mount{Destination: destination, Type: "bind", Source: volume, Options: append([]string{"rbind"}, options...)}
	}
	smi := driver.File{Path: "/bin/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"}
	link := Link{"/usr/bin/nvidia-smi", Dir + "/bin/nvidia-smi", "/driver/bin/nvidia-smi"}
	one, on := file("/one", Dir), file("/driver/bin/nvidia-smi", "/usr/bin/nvidia-smi")
	for _, tt := range []struct {
		name   string
		mounts []spec.Mount
		want   []specs.Mount
		links  []Link
		note   string
	}{
		{name: "none", want: []specs.Mount{one}, links: []Link{link}},
		{name: "elsewhere", mounts: []spec.Mount{bind("/usr/bin/nvidia-sm"), bind("/")}, want: []specs.Mount{one}, links: []Link{link}},
		{name: "the program", mounts: []spec.Mount{bind("/usr/bin/nvidia-smi")}, want: []specs.Mount{one}, note: "/usr/bin/nvidia-smi is left out: the container mounts something there"},
		{name: "an alias of it", mounts: []spec.Mount{bind("/bin/nvidia-smi")}, want: []specs.Mount{one}, note: "(\"/bin/nvidia-smi\")"},
		{name: "without a slash", mounts: []spec.Mount{bind("usr/bin/nvidia-smi")}, want: []specs.Mount{one}, note: "(\"usr/bin/nvidia-smi\")"},
		{name: "its directory", mounts: []spec.Mount{bind("/usr/bin")}, want: []specs.Mount{on, one}},
		{name: "an alias of its directory", mounts: []spec.Mount{bind("/bin")}, want: []specs.Mount{on, one}},
		{name: "read-only", mounts: []spec.Mount{bind("/usr/bin", "ro")}, want: []specs.Mount{one}, note: "in \"/usr/bin\", which the container mounts read-only"},
		{name: "all of /usr", mounts: []spec.Mount{bind("/usr")}, want: []specs.Mount{on, one}},
		{name: "our mount from an earlier start", mounts: []spec.Mount{{Destination: "/usr/bin/nvidia-smi", Type: "bind", Options: fileOptions}}, want: []specs.Mount{one}, links: []Link{link}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tesla(smi)
			p.Directory = "/one"
			p.container.Facts.Mounts = tt.mounts
			p.place()
			assert.Equal(t, tt.want, p.Edits.Mounts)
			assert.Equal(t, tt.links, p.Links)
			assert.Contains(t, strings.Join(p.Notes, "\n"), tt.note)
			assert.Equal(t, tt.note == "", p.Notes == nil)
		})
	}
	require.NoError(t, os.WriteFile(filepath.Join(volume, "nvidia-smi"), nil, 0o644))
	p := tesla(smi)
	p.Directory = "/one"
	p.container.Facts.Mounts = []spec.Mount{bind("/usr/bin", "ro")}
	p.place()
	assert.Equal(t, []specs.Mount{on, one}, p.Edits.Mounts, "a read-only volume that has the file")
}

// TestPlaceAfterAnotherWay checks that mounts from an earlier edit of the same config.json are
// removed, whichever way that edit provided the driver.
func TestPlaceAfterAnotherWay(t *testing.T) {
	old := []spec.Mount{
		{Destination: "/usr/lib/x86_64-linux-gnu/libcuda.so.535.1", Type: "bind", Source: "/a", Options: fileOptions},
		{Destination: Dir + "/libcuda.so.535.1", Type: "bind", Source: "/b", Options: fileOptions},
		{Destination: "/usr/bin/nvidia-smi", Type: "bind", Source: "/c", Options: fileOptions},
		{Destination: "/usr/lib/x86_64-linux-gnu/libfoo.so.1", Type: "bind", Source: "/d", Options: fileOptions},
		{Destination: "/usr/lib/x86_64-linux-gnu/libcuda.so.1", Type: "bind", Source: "/e", Options: []string{"rbind", "ro"}},
		{Destination: Dir, Type: "bind", Source: "/f", Options: fileOptions},
		{Destination: "/lib/firmware/nvidia/535.1/gsp_tu10x.bin", Type: "bind", Source: "/g", Options: fileOptions},
		{Destination: "/usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.535.1", Type: "bind", Source: "/h", Options: fileOptions},
	}
	p := tesla(driver.File{Path: "/bin/nvidia-smi", Name: "nvidia-smi", Kind: driver.Binary, Dest: "/usr/bin/nvidia-smi"})
	p.container.Facts.Mounts = old
	p.Directory = "/one"
	p.place()
	removed := func(indices ...int) (mounts []specs.Mount) {
		for _, i := range indices {
			mounts = append(mounts, file(old[i].Source, old[i].Destination))
		}
		return mounts
	}
	assert.Equal(t, removed(0, 1, 2, 6, 7), p.Edits.RemoveBinds)
	p.Directory = ""
	p.place()
	assert.Equal(t, removed(0, 1, 2, 5, 6, 7), p.Edits.RemoveBinds)
}

func TestPlanEdits(t *testing.T) {
	mode := func(m fs.FileMode) *fs.FileMode { return &m }
	id := func(n uint32) *uint32 { return &n }
	nodes := []sysfs.Node{
		{Path: "/dev/nvidia0", Major: 195, Minor: 0, Mode: 0o660, UID: 3, GID: 44},
		{Path: "/dev/nvidia1", Major: 195, Minor: 1, Mode: 0o664, GID: 44},
		{Path: "/dev/nvidia2", Major: 195, Minor: 2, Mode: 0o662, GID: 27},
		{Path: "/dev/nvidia3", Major: 195, Minor: 3, Mode: 0o666, GID: 50},
		{Path: "/dev/nvidia4", Major: 195, Minor: 4, Mode: 0o660, GID: 0},
	}
	want := spec.Edits{NoCgroups: true, RemoveHooks: []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit"}, AdditionalGIDs: []uint32{27, 44}}
	for _, n := range nodes {
		want.Devices = append(want.Devices, specs.LinuxDevice{
			Path: n.Path, Type: "c", Major: int64(n.Major), Minor: int64(n.Minor), FileMode: mode(n.Mode), UID: id(n.UID), GID: id(n.GID),
		})
	}
	p := tesla()
	p.Nodes, p.config = nodes, Config{NoCgroups: true, Fence: FenceOff}
	require.NoError(t, p.planEdits())
	assert.Equal(t, want, p.Edits)

	want.AdditionalGIDs = nil
	p = tesla()
	p.Nodes, p.config = nodes, Config{NoCgroups: true, Fence: FenceOff, NoAdditionalGIDs: true}
	require.NoError(t, p.planEdits())
	assert.Equal(t, want, p.Edits)
}

func TestPlanFence(t *testing.T) {
	mknod, admin := []string{"CAP_MKNOD"}, []string{"CAP_MKNOD", "CAP_SYS_ADMIN"}
	for _, tt := range []struct {
		name, mode string
		caps       []string
		majors     []int64
		always     bool
	}{
		{"profile", FenceProfile, mknod, []int64{195, 236, 508}, false},
		{"always", FenceAlways, mknod, []int64{195, 236, 508}, true},
		{"off", FenceOff, mknod, nil, false},
		{"may make no nodes", FenceAlways, nil, nil, false},
		{"privileged", FenceAlways, admin, nil, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tesla()
			p.config.Fence, p.container.Facts.Bounding = tt.mode, tt.caps
			p.fence()
			assert.Equal(t, tt.majors, p.Edits.FenceMajors)
			assert.Equal(t, tt.always, p.Edits.FenceAlways)
		})
	}
	p := tesla()
	p.Inventory.Majors = sysfs.Majors{Nvidia: 195, UVM: -1, Caps: 195}
	p.config.Fence, p.container.Facts.Bounding = FenceProfile, mknod
	p.fence()
	assert.Equal(t, []int64{195}, p.Edits.FenceMajors)
}

func TestApplicationProfile(t *testing.T) {
	gpu := func(minor int) sysfs.SelectedGPU { return sysfs.SelectedGPU{GPU: sysfs.GPU{Minor: minor}} }
	for _, tt := range []struct {
		name    string
		classes driver.Class
		gpus    []sysfs.SelectedGPU
		want    string // the mask, or "" for no file
	}{
		{name: "graphics", classes: driver.Graphics, gpus: []sysfs.SelectedGPU{gpu(0)}, want: "0x1]"},
		{name: "display", classes: driver.Display, gpus: []sysfs.SelectedGPU{gpu(5), gpu(3)}, want: "0x28]"},
		{name: "last bit", classes: driver.Graphics, gpus: []sysfs.SelectedGPU{gpu(63)}, want: "0x8000000000000000]"},
		{name: "past the last bit", classes: driver.Graphics, gpus: []sysfs.SelectedGPU{gpu(0), gpu(64)}},
		{name: "no GPU", classes: driver.Graphics},
		{name: "no graphics", classes: driver.Compute | driver.Utility | driver.Video, gpus: []sysfs.SelectedGPU{gpu(0)}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := tesla()
			p.Selection.GPUs = tt.gpus
			files := p.placeFiles(nil, tt.classes)
			if tt.want == "" {
				assert.Empty(t, files)
				return
			}
			require.Len(t, files, 1)
			assert.Equal(t, "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf", files[0].Dest)
			assert.Contains(t, string(files[0].Data), `["EGLVisibleDGPUDevices", `+tt.want)
		})
	}
}

func TestNotes(t *testing.T) {
	assert.Empty(t, Notes(spec.Report{}))
	assert.Equal(t, []string{
		`the container's own mounts are kept at ["/a" "/b\n"]`,
		`devices of other numbers replaced at ["/dev/nvidia0"]`,
		`mounts of an earlier driver removed from ["/c"]`,
		`hooks of the classic runtime removed: ["/d"]`,
		`the seccomp profile still allows creating some device nodes: ["e"]`,
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
