// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

const x86 = ldcache.FlagX8664

// cacheOf encodes entries as the text of an ld.so.cache; entriesOf decodes it.
func cacheOf(t *testing.T, entries ...ldcache.Entry) string {
	t.Helper()
	cache := ldcache.Cache{}
	cache.Merge(entries)
	data, err := cache.Encode()
	require.NoError(t, err)
	return string(data)
}

func entriesOf(t *testing.T, data []byte) []ldcache.Entry {
	t.Helper()
	cache, err := ldcache.Parse(data)
	require.NoError(t, err)
	return cache.Entries
}

func image(t *testing.T, tree map[string]string) string {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "rootfs")
	require.NoError(t, os.Mkdir(dir, 0o755))
	for name, text := range tree {
		full := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(full), 0o755))
		require.NoError(t, os.WriteFile(full, []byte(text), 0o644))
	}
	return dir
}

// planned runs planLoader for an image and returns the plan.
func planned(t *testing.T, dir string, mounts ...spec.Mount) Plan {
	t.Helper()
	p := tesla(libcuda(64), libcuda(32))
	p.config.CUDACompat = true
	p.container = Container{Bundle: t.TempDir(), Facts: spec.Facts{RootPath: dir, Mounts: mounts}}
	v, err := openImage(p.container)
	require.NoError(t, err)
	defer v.Close()
	p.planLoader(v)
	require.NoError(t, v.fault())
	return p
}

func TestPlanLoader(t *testing.T) {
	libc := ldcache.Entry{Name: "libc.so.6", Path: "/lib/x86_64-linux-gnu/libc.so.6", Flags: x86}
	theirs := ldcache.Entry{Name: "libcuda.so.1", Path: "/opt/libcuda.so.1", Flags: x86}
	ours := []ldcache.Entry{
		{Name: "libcuda.so.1", Path: Dir + "/lib32/libcuda.so.1", Flags: ldcache.Flag32},
		{Name: "libcuda.so", Path: Dir + "/lib32/libcuda.so", Flags: ldcache.Flag32},
		{Name: "libcuda.so.1", Path: Dir + "/libcuda.so.1", Flags: x86},
		{Name: "libcuda.so", Path: Dir + "/libcuda.so", Flags: x86},
	}
	old := ldcache.Entry{Name: "libnvidia-eglcore.so.535.1", Path: Dir + "/libnvidia-eglcore.so.535.1", Flags: x86}
	neighbor := ldcache.Entry{Name: "libnvidia-eglcore.so.550.54.15", Path: Dir + "/libnvidia-eglcore.so.550.54.15", Flags: x86}
	const lines = Dir + "\n" + Dir + "/lib32\n"
	const include = "include /etc/ld.so.conf.d/*.conf\n"
	compat := map[string]string{"usr/local/cuda-12.9/compat/libcuda.so.1": "x", "usr/local/cuda-12.9/compat/libcuda.so.575.57.08": "x"}
	glibc := map[string]string{"lib64/ld-linux-x86-64.so.2": "x"}
	for _, tt := range []struct {
		name  string
		tree  []map[string]string
		cache map[string][]ldcache.Entry // path of a cache to its new entries
		lists map[string]string
	}{
		{name: "no loader"},
		{
			name: "Debian", tree: []map[string]string{glibc, {"etc/ld.so.cache": cacheOf(t, libc, theirs), "etc/ld.so.conf": include}},
			cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": append(ours, libc)},
			lists: map[string]string{"/etc/ld.so.conf.d/00-nvidia-container-driver.conf": lines},
		},
		{
			name: "Fedora, with lines of its own", tree: []map[string]string{{"etc/ld.so.cache": cacheOf(t, libc), "etc/ld.so.conf": "# x\n/opt/lib\n  include ld.so.conf.d/*.conf"}},
			cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": append(ours, libc)},
			lists: map[string]string{"/etc/ld.so.conf.d/00-nvidia-container-driver.conf": lines},
		},
		{
			name: "no include", tree: []map[string]string{glibc, {"etc/ld.so.conf": "/opt/lib\n"}},
			cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": ours}, lists: map[string]string{"/etc/ld.so.conf": lines + "/opt/lib\n"},
		},
		{name: "no cache", tree: []map[string]string{glibc}, cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": ours}, lists: map[string]string{"/etc/ld.so.conf": lines}},
		{
			name: "broken cache", tree: []map[string]string{glibc, {"etc/ld.so.cache": "ld.so-1.7.0 and no more"}},
			cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": ours}, lists: map[string]string{"/etc/ld.so.conf": lines},
		},
		{
			name: "a second start", tree: []map[string]string{{
				"etc/ld.so.cache": cacheOf(t, append(ours, libc, neighbor)...), "etc/ld.so.conf": include, "etc/ld.so.conf.d/00-nvidia-container-driver.conf": lines,
			}},
		},
		{
			name: "another driver, and a neighbor with more capabilities", tree: []map[string]string{{
				"etc/ld.so.cache": cacheOf(t, append(ours, libc, old, neighbor)...), "etc/ld.so.conf": include, "etc/ld.so.conf.d/00-nvidia-container-driver.conf": lines,
			}},
			cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": append(ours, libc, neighbor)},
		},
		{
			name: "CUDA's forward compatibility", tree: []map[string]string{compat, {"etc/ld.so.cache": cacheOf(t, libc), "etc/ld.so.conf": include}},
			cache: map[string][]ldcache.Entry{"/etc/ld.so.cache": {
				ours[0], ours[1], {Name: "libcuda.so.1", Path: "/usr/local/cuda-12.9/compat/libcuda.so.1", Flags: x86}, ours[3], libc,
			}},
			lists: map[string]string{"/etc/ld.so.conf.d/00-nvidia-container-driver.conf": "/usr/local/cuda-12.9/compat\n" + lines},
		},
		{
			name: "musl", tree: []map[string]string{{"lib/ld-musl-x86_64.so.1": "x"}},
			lists: map[string]string{"/etc/ld-musl-x86_64.path": "/lib\n/usr/local/lib\n/usr/lib\n" + Dir + "\n"},
		},
		{
			name: "musl with gcompat and a path", tree: []map[string]string{glibc, {"lib/ld-musl-x86_64.so.1": "x", "etc/ld-musl-x86_64.path": "/lib:/opt/lib"}},
			lists: map[string]string{"/etc/ld-musl-x86_64.path": "/lib:/opt/lib\n" + Dir + "\n"},
		},
		{
			name: "musl beside glibc", tree: []map[string]string{{
				"lib/ld-musl-x86_64.so.1": "x", "usr/glibc-compat/lib/ld-linux-x86-64.so.2": "x", "usr/glibc-compat/etc/ld.so.conf": "/usr/local/lib\n",
			}},
			cache: map[string][]ldcache.Entry{"/usr/glibc-compat/etc/ld.so.cache": ours},
			lists: map[string]string{
				"/etc/ld-musl-x86_64.path": "/lib\n/usr/local/lib\n/usr/lib\n" + Dir + "\n", "/usr/glibc-compat/etc/ld.so.conf": lines + "/usr/local/lib\n",
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tree := map[string]string{}
			for _, part := range tt.tree {
				maps.Copy(tree, part)
			}
			dir := image(t, tree)
			if tree["usr/local/cuda-12.9/compat/libcuda.so.1"] != "" {
				require.NoError(t, os.Symlink("cuda-12.9", filepath.Join(dir, "usr/local/cuda")))
			}
			cache, lists := map[string][]ldcache.Entry{}, map[string]string{}
			for _, u := range planned(t, dir).Updates {
				old, there := tree[strings.TrimPrefix(u.Path, "/")]
				assert.Equal(t, there, u.Old != nil)
				assert.Equal(t, old, string(u.Old))
				if u.Entries != nil {
					cache[u.Path] = entriesOf(t, u.New)
				} else {
					lists[u.Path] = string(u.New)
				}
				again, err := u.merge(u.New, "550.54.15")
				require.NoError(t, err)
				assert.Equal(t, u.New, again)
			}
			for name, entries := range tt.cache {
				tt.cache[name] = entriesOf(t, []byte(cacheOf(t, entries...)))
			}
			assert.Len(t, cache, len(tt.cache))
			for name := range tt.cache {
				assert.Equal(t, tt.cache[name], cache[name])
			}
			assert.Len(t, lists, len(tt.lists))
			for name := range tt.lists {
				assert.Equal(t, tt.lists[name], lists[name])
			}
		})
	}
}

// TestPlanLoaderCovered checks that a file of the loader that one of the container's mounts covers
// is read from that mount, and that its new version is mounted instead of written.
func TestPlanLoaderCovered(t *testing.T) {
	here := ldcache.Entry{Name: "libhere.so.1", Path: "/x/libhere.so.1", Flags: x86}
	image := image(t, map[string]string{"lib64/ld-linux-x86-64.so.2": "x", "etc/ld.so.conf": "include ld.so.conf.d/*.conf\n"})
	volume := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(volume, "ld.so.cache"), []byte(cacheOf(t, here)), 0o644))

	p := planned(t, image, spec.Mount{Destination: "/etc", Type: "bind", Source: volume, Options: []string{"rbind"}})
	require.Len(t, p.Updates, 1)
	assert.True(t, p.Updates[0].Covered)
	assert.True(t, slices.Contains(entriesOf(t, p.Updates[0].New), here))

	p = planned(t, image, spec.Mount{Destination: "/etc/ld.so.cache", Type: "bind", Source: volume + "/ld.so.cache", Options: []string{"rbind"}})
	require.Len(t, p.Updates, 1)
	assert.Equal(t, "/etc/ld.so.conf.d/00-nvidia-container-driver.conf", p.Updates[0].Path)
	assert.Contains(t, strings.Join(p.Notes, "\n"), "/etc/ld.so.cache is unchanged: the container mounts something there")
}

func TestCompatOnConsumerBoards(t *testing.T) {
	dir := image(t, map[string]string{"usr/local/cuda/compat/libcuda.so.1": "x", "usr/local/cuda/compat/libcuda.so.575.57.08": "x"})
	for model, want := range map[string]bool{"NVIDIA GeForce RTX 4090": false, "NVIDIA TITAN V": false, "NVIDIA H100 PCIe": true} {
		p := tesla()
		p.config.CUDACompat = true
		p.Selection.GPUs = []sysfs.SelectedGPU{{GPU: sysfs.GPU{Model: model}}}
		v, err := openImage(Container{Facts: spec.Facts{RootPath: dir}})
		require.NoError(t, err)
		_, ok := p.findCompat(v)
		v.Close()
		assert.Equal(t, want, ok, model)
		assert.Equal(t, want, p.Notes == nil)
	}
}

func TestLibDirs(t *testing.T) {
	for _, tt := range []struct {
		dirs        []string
		arch        ldcache.Arch
		dir, dir32  string
		description string
	}{
		{nil, ldcache.X8664, "/usr/lib", "", "none"},
		{[]string{"usr/lib/x86_64-linux-gnu", "usr/lib/i386-linux-gnu"}, ldcache.X8664, "/usr/lib/x86_64-linux-gnu", "/usr/lib/i386-linux-gnu", "Debian"},
		{[]string{"usr/lib64", "usr/lib"}, ldcache.X8664, "/usr/lib64", "/usr/lib", "Fedora"},
		{[]string{"usr/lib", "usr/lib32"}, ldcache.X8664, "/usr/lib", "/usr/lib32", "Arch"},
		{[]string{"usr/lib/aarch64-linux-gnu"}, ldcache.AArch64, "/usr/lib/aarch64-linux-gnu", "", "Debian on Arm"},
		{[]string{"usr/lib64"}, ldcache.AArch64, "/usr/lib64", "", "RHEL on Arm"},
	} {
		dir := t.TempDir()
		for _, d := range tt.dirs {
			require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
		}
		v, err := openImage(Container{Facts: spec.Facts{RootPath: dir}})
		require.NoError(t, err)
		v.findLibDirs(tt.arch)
		v.Close()
		assert.Equal(t, []string{tt.dir, tt.dir32}, []string{v.LibDir, v.LibDir32}, tt.description)
	}
}

func TestCacheFlags(t *testing.T) {
	for _, tt := range []struct {
		arch ldcache.Arch
		bits int
		want int32
	}{
		{ldcache.X8664, 64, ldcache.FlagX8664},
		{ldcache.X8664, 32, ldcache.Flag32}, // i386, not x32
		{ldcache.AArch64, 64, ldcache.FlagAArch64},
		{ldcache.AArch64, 32, ldcache.FlagARMHard},
		{ldcache.I386, 32, ldcache.Flag32},
		{ldcache.I386, 64, 0},
	} {
		assert.Equal(t, tt.want, cacheFlags(tt.arch, tt.bits), "%v %d", tt.arch, tt.bits)
	}
}
