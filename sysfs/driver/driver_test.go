// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"encoding/json"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// files is a tree of files as text, by name.
type files map[string]string

// with returns a new tree with more files.
func (f files) with(more ...files) files {
	all := maps.Clone(f)
	for _, m := range more {
		maps.Copy(all, m)
	}
	return all
}

// libraries returns a directory with libraries, each "SONAME" or "SONAME file", with the links that
// ldconfig and the driver's installer create. The version is appended to a name that ends in
// ".so.".
func libraries(dir, machine, version string, names ...string) files {
	tree := files{}
	for _, name := range names {
		stem := name
		if i := strings.Index(name, ".so"); i >= 0 {
			stem = name[:i]
		}
		file := stem + ".so." + version
		soname := strings.TrimSuffix(name, ".")
		if strings.HasSuffix(name, ".so.") {
			soname = file
		}
		tree[path.Join(dir, file)] = "lib " + machine + " " + path.Base(soname)
		if path.Base(soname) != path.Base(file) {
			tree[path.Join(dir, path.Dir(name), path.Base(soname))] = "-> " + path.Base(file)
		}
	}
	return tree
}

// make creates the tree in a temporary directory.
func (f files) make(t testing.TB) sysfs.Root {
	t.Helper()
	dir := t.TempDir()
	for _, name := range slices.Sorted(maps.Keys(f)) {
		at := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		what := f[name]
		words := strings.Fields(what)
		switch {
		case strings.HasPrefix(what, "-> "):
			require.NoError(t, os.Symlink(words[1], at))
		case strings.HasPrefix(what, "lib "):
			info := elfInfo{Arch: ldcache.Arch(words[1]), SONAME: words[2]}
			require.NotZero(t, info.Arch.Bits(), what)
			needed := words[3:]
			if len(needed) > 0 && needed[0] == "tls" {
				info.ABI, needed = tlsABI, needed[1:]
			}
			require.NoError(t, os.WriteFile(at, writeELF(info, needed...), 0o755))
		case strings.HasPrefix(what, "program "):
			require.NoError(t, os.WriteFile(at, writeProgram(strings.TrimPrefix(what, "program ")), 0o755))
		case strings.HasPrefix(what, "cache\n"):
			var cache ldcache.Cache
			for _, line := range strings.Split(strings.TrimSpace(what), "\n")[1:] {
				words := strings.Fields(line)
				flags := ldcache.Arch(words[1]).Flags()
				require.NotZero(t, flags, line)
				cache.Entries = append(cache.Entries, ldcache.Entry{Name: words[0], Path: words[2], Flags: flags})
			}
			data, err := cache.Encode()
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(at, data, 0o644))
		case what == "exe":
			require.NoError(t, os.WriteFile(at, []byte("#!/bin/sh\n"), 0o755))
		case what == "dir":
			require.NoError(t, os.MkdirAll(at, 0o755))
		case what == "fifo":
			require.NoError(t, syscall.Mknod(at, syscall.S_IFIFO|0o644, 0))
		case what == "socket":
			require.NoError(t, syscall.Mknod(at, syscall.S_IFSOCK|0o666, 0))
		default:
			require.NoError(t, os.WriteFile(at, []byte(what), 0o644))
		}
	}
	root, err := sysfs.NewRoot(dir)
	require.NoError(t, err)
	return root
}

// dump renders files one per line: kind, bits, place in the container, "<" and the path, links.
func dump(found []File) []string {
	var lines []string
	for _, f := range found {
		line := f.Kind.String()
		if f.Bits != 0 {
			line += fmt.Sprintf("%d %s", f.Bits, path.Join(f.Subdir, f.Name))
		} else {
			line += " " + f.Dest
		}
		line += " < " + f.Path
		for _, l := range f.Links {
			line += fmt.Sprintf(", %s > %s", l.Name, l.Target)
		}
		lines = append(lines, line)
	}
	return lines
}

const debian = "usr/lib/x86_64-linux-gnu"

func TestFindLibraries(t *testing.T) {
	const version = "550.54.14"
	both := []string{"libcuda.so.1", "libnvidia-ml.so.1"}
	bothOf64 := []string{
		"library64 libcuda.so.550.54.14 < /usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
		"library64 libnvidia-ml.so.550.54.14 < /usr/lib64/libnvidia-ml.so.550.54.14, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.550.54.14",
	}
	tomorrow := libraries("usr/lib64", "x86_64", "700.10", "libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-tomorrow.so.3", "libnvidia-mncc.so.", "libnvcuextend.so.1",
		"libnvidia-wayland-client.so.", "libnvidia-x-glnext.so.")
	merged := files{"lib": "-> usr/lib", "lib64": "-> usr/lib64", "usr/lib64/dir": "dir", "usr/lib/dir": "dir"}
	for _, tt := range []struct {
		name  string
		tree  files
		o     Options // Version, Machine and Classes have defaults
		want  []string
		notes []string // nil: not looked at, but for a library that is left out
		fails string
	}{
		{
			name: "Debian multiarch with cache",
			tree: merged.with(libraries(debian, "x86_64", version, both...), files{
				"etc/ld.so.cache": "cache\nlibnvidia-ml.so.1 x86_64 /lib/x86_64-linux-gnu/libnvidia-ml.so.1\n" +
					"libcuda.so.1 x86_64 /lib/x86_64-linux-gnu/libcuda.so.1\nlibcuda.so x86_64 /lib/x86_64-linux-gnu/libcuda.so",
				debian + "/libcuda.so": "-> libcuda.so.1",
			}),
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library64 libnvidia-ml.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.14, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.550.54.14",
			},
		},
		{
			name: "a damaged anchor, with a cache",
			tree: files{
				debian + "/libcuda.so.550.54.14": "not read", debian + "/libcuda.so.1": "-> libcuda.so.550.54.14",
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1\nlibcuda.so x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so",
			},
			fails: `a library of driver version 550.54.14 is damaged: "ROOT/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14": offset 0: not an ELF file`,
		},
		{
			name: "the cache is not believed when it tells two names",
			tree: files{
				debian + "/libcuda.so.550.54.14": "lib x86_64 libcuda.so.2",
				debian + "/libcuda.so.1":         "-> libcuda.so.550.54.14", debian + "/libcuda.so.2": "-> libcuda.so.550.54.14",
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1\nlibcuda.so.2 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.2",
			},
			want: []string{"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.2, libcuda.so.2 > libcuda.so.550.54.14"},
		},
		{
			name: "the cache is not believed when the link is gone",
			tree: files{
				debian + "/libcuda.so.550.54.14": "lib x86_64 libcuda.so.2",
				"etc/ld.so.cache":                "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1",
			},
			want: []string{"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.2, libcuda.so.2 > libcuda.so.550.54.14"},
		},
		{
			name: "the cache is not believed when it is an older driver's",
			tree: libraries(debian, "x86_64", version, "libcuda.so.1", "libnvidia-glcore.so.").with(libraries(debian, "x86_64", "535.104.05", "libnvidia-glcore.so."), files{
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1\n" +
					"libnvidia-glcore.so.535.104.05 x86_64 /usr/lib/x86_64-linux-gnu/libnvidia-glcore.so.535.104.05",
			}),
			o:    Options{Classes: Graphics},
			want: []string{"library64 libnvidia-glcore.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libnvidia-glcore.so.550.54.14"},
		},
		{
			name: "the cache is not believed when it has both architectures in one place",
			tree: libraries(debian, "i386", version, "libcuda.so.1").with(libraries("opt", "x86_64", version, "libcuda.so.1"), files{
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /opt/libcuda.so.1\nlibcuda.so.1 i386 /usr/lib/x86_64-linux-gnu/libcuda.so.1\n" +
					"libcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1",
			}),
			o: Options{Classes: Compute | Compat32},
			want: []string{
				"library64 libcuda.so.550.54.14 < /opt/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library32 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
			},
		},
		{
			name: "a configured directory with one architecture, a cache with neither",
			tree: libraries("opt/driver", "x86_64", version, "libcuda.so.1").with(libraries("usr/lib32", "i386", version, "libcuda.so.1"),
				files{"etc/ld.so.cache": "cache\nlibc.so.6 x86_64 /usr/lib/libc.so.6"}),
			o: Options{Classes: Compute | Compat32, SearchPath: []string{"/opt/driver"}},
			want: []string{
				"library64 libcuda.so.550.54.14 < /opt/driver/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library32 libcuda.so.550.54.14 < /usr/lib32/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
			},
		},
		{
			name: "32-bit libraries that the cache does not have are not installed",
			tree: libraries(debian, "x86_64", version, "libcuda.so.1").with(libraries("usr/lib32", "i386", version, "libcuda.so.1"),
				files{"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1"}),
			o:    Options{Classes: Compute | Compat32},
			want: []string{"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "no cache",
			tree: libraries(debian, "x86_64", version, both...),
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library64 libnvidia-ml.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.14, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.550.54.14",
			},
		},
		{
			name: "RHEL, both architectures, cache without the driver",
			tree: merged.with(libraries("usr/lib64", "x86_64", version, "libcuda.so.1"), libraries("usr/lib", "i386", version, "libcuda.so.1"),
				files{"etc/ld.so.cache": "cache\nlibc.so.6 x86_64 /lib64/libc.so.6"}),
			o: Options{Classes: Compute | Compat32},
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library32 libcuda.so.550.54.14 < /usr/lib/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
			},
		},
		{
			name: "RHEL without compat32",
			tree: merged.with(libraries("usr/lib64", "x86_64", version, "libcuda.so.1"), libraries("usr/lib", "i386", version, "libcuda.so.1")),
			o:    Options{Classes: Compute},
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
			},
		},
		{
			name: "both architectures in the cache",
			tree: files{
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1\n" +
					"libcuda.so.1 i386 /usr/lib/i386-linux-gnu/libcuda.so.1",
				debian + "/libcuda.so.550.54.14": "lib x86_64 libcuda.so.1", debian + "/libcuda.so.1": "-> libcuda.so.550.54.14",
				"usr/lib/i386-linux-gnu/libcuda.so.550.54.14": "lib i386 libcuda.so.1", "usr/lib/i386-linux-gnu/libcuda.so.1": "-> libcuda.so.550.54.14",
			},
			o: Options{Classes: Compute | Compat32},
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library32 libcuda.so.550.54.14 < /usr/lib/i386-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
			},
		},
		{
			name: "aarch64",
			tree: libraries("usr/lib/aarch64-linux-gnu", "aarch64", "580.105.08", "libcuda.so.1").with(
				files{"etc/ld.so.cache": "cache\nlibcuda.so.1 aarch64 /usr/lib/aarch64-linux-gnu/libcuda.so.1"}),
			o: Options{Version: "580.105.08", Arch: ldcache.AArch64},
			want: []string{
				"library64 libcuda.so.580.105.08 < /usr/lib/aarch64-linux-gnu/libcuda.so.580.105.08, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.580.105.08",
			},
		},
		{
			name: "Debian alternatives",
			tree: merged.with(libraries(debian+"/nvidia/current", "x86_64", version, both...),
				libraries(debian, "x86_64", version, "libnvidia-ptxjitcompiler.so.1"), files{
					debian + "/libcuda.so.1":                                      "-> /etc/alternatives/nvidia--libcuda.so.1-x86_64-linux-gnu",
					"etc/alternatives/nvidia--libcuda.so.1-x86_64-linux-gnu":      "-> /usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.1",
					debian + "/libnvidia-ml.so.1":                                 "-> /etc/alternatives/nvidia--libnvidia-ml.so.1-x86_64-linux-gnu",
					"etc/alternatives/nvidia--libnvidia-ml.so.1-x86_64-linux-gnu": "-> /usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.1",
					"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /lib/x86_64-linux-gnu/libcuda.so.1\n" +
						"libnvidia-ml.so.1 x86_64 /lib/x86_64-linux-gnu/libnvidia-ml.so.1\n" +
						"libnvidia-ptxjitcompiler.so.1 x86_64 /lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.1",
				}),
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/nvidia/current/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library64 libnvidia-ml.so.550.54.14 < /usr/lib/x86_64-linux-gnu/nvidia/current/libnvidia-ml.so.550.54.14, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.550.54.14",
				"library64 libnvidia-ptxjitcompiler.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libnvidia-ptxjitcompiler.so.550.54.14, libnvidia-ptxjitcompiler.so > libnvidia-ptxjitcompiler.so.1, libnvidia-ptxjitcompiler.so.1 > libnvidia-ptxjitcompiler.so.550.54.14",
			},
		},
		{
			name: "old Ubuntu, one directory per branch",
			tree: libraries("usr/lib/nvidia-390", "x86_64", "390.157", "libnvidia-ml.so.1").with(
				libraries("usr/lib/nvidia-384", "x86_64", "384.130", "libnvidia-ml.so.1"),
				libraries(debian, "x86_64", "390.157", "libcuda.so.1")),
			o: Options{Version: "390.157"},
			want: []string{
				"library64 libcuda.so.390.157 < /usr/lib/x86_64-linux-gnu/libcuda.so.390.157, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.390.157",
				"library64 libnvidia-ml.so.390.157 < /usr/lib/nvidia-390/libnvidia-ml.so.390.157, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.390.157",
			},
		},
		{
			name: "NixOS",
			tree: libraries("nix/store/aaa-nvidia-x11-550.54.14-6.6.8/lib", "x86_64", version, both...).with(files{
				"run/opengl-driver": "-> /nix/store/bbb-graphics-drivers",
				"nix/store/bbb-graphics-drivers/lib/libcuda.so.1":              "-> /nix/store/aaa-nvidia-x11-550.54.14-6.6.8/lib/libcuda.so.1",
				"nix/store/bbb-graphics-drivers/lib/libcuda.so.550.54.14":      "-> /nix/store/aaa-nvidia-x11-550.54.14-6.6.8/lib/libcuda.so.550.54.14",
				"nix/store/bbb-graphics-drivers/lib/libnvidia-ml.so.550.54.14": "-> /nix/store/aaa-nvidia-x11-550.54.14-6.6.8/lib/libnvidia-ml.so.550.54.14",
				"nix/store/bbb-graphics-drivers/lib/libGLX_mesa.so.0":          "lib x86_64 libGLX_mesa.so.0",
			}),
			want: []string{
				"library64 libcuda.so.550.54.14 < /nix/store/aaa-nvidia-x11-550.54.14-6.6.8/lib/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library64 libnvidia-ml.so.550.54.14 < /nix/store/aaa-nvidia-x11-550.54.14-6.6.8/lib/libnvidia-ml.so.550.54.14, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.550.54.14",
			},
		},
		{
			name: "Talos, a cache without the driver",
			tree: libraries("usr/local/glibc/usr/lib", "x86_64", version, "libcuda.so.1").with(
				files{"etc/ld.so.cache": "cache\nlibc.so.6 x86_64 /usr/local/glibc/lib/libc.so.6"}),
			want: []string{"library64 libcuda.so.550.54.14 < /usr/local/glibc/usr/lib/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "Talos since its driver is an extension of its own",
			tree: libraries("usr/local/glibc/usr/lib64", "x86_64", version, "libcuda.so.1"),
			want: []string{"library64 libcuda.so.550.54.14 < /usr/local/glibc/usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "Container-Optimized OS",
			tree: libraries("var/lib/nvidia/lib64", "x86_64", version, "libcuda.so.1"),
			want: []string{"library64 libcuda.so.550.54.14 < /var/lib/nvidia/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "GKE, the driver's directory as root",
			tree: libraries("lib64", "x86_64", version, "libcuda.so.1"),
			want: []string{"library64 libcuda.so.550.54.14 < /lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "Bottlerocket",
			tree: libraries("x86_64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia/tesla", "x86_64", version, "libcuda.so.1"),
			want: []string{"library64 libcuda.so.550.54.14 < /x86_64-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia/tesla/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "configured directory before the cache",
			tree: libraries("opt/driver", "x86_64", version, "libcuda.so.1").with(libraries(debian, "x86_64", version, "libcuda.so.1"),
				files{"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1"}),
			o:    Options{SearchPath: []string{"relative", "/absent", "/opt/../opt/driver"}},
			want: []string{"library64 libcuda.so.550.54.14 < /opt/driver/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "configured cache",
			tree: libraries("opt/driver", "x86_64", version, "libcuda.so.1").with(
				files{"opt/cache": "cache\nlibcuda.so.1 x86_64 /opt/driver/libcuda.so.1"}),
			o:    Options{Cache: "/opt/cache"},
			want: []string{"library64 libcuda.so.550.54.14 < /opt/driver/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "driver container with absolute links",
			tree: libraries("drivers/550", "x86_64", version, "libcuda.so.1").with(files{
				debian:            "-> /drivers/550",
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1",
			}),
			want: []string{"library64 libcuda.so.550.54.14 < /drivers/550/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "two versions in one directory",
			tree: libraries(debian, "x86_64", "535.104.05", "libcuda.so.1").with(libraries(debian, "x86_64", version, "libcuda.so.1"), files{
				debian + "/libcuda.so.1": "-> libcuda.so.535.104.05",
				"etc/ld.so.cache":        "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1",
			}),
			want: []string{"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "a version that is the beginning of another",
			tree: libraries(debian, "x86_64", "595.8", "libcuda.so.1").with(libraries(debian, "x86_64", "595.84", "libcuda.so.1")),
			o:    Options{Version: "595.8"},
			want: []string{"library64 libcuda.so.595.8 < /usr/lib/x86_64-linux-gnu/libcuda.so.595.8, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.595.8"},
		},
		{
			name: "a forward compatibility package on the host",
			tree: libraries(debian, "x86_64", version, "libcuda.so.1").with(libraries("usr/local/cuda/compat", "x86_64", "560.35.05", "libcuda.so.1"), files{
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/local/cuda/compat/libcuda.so.1\n" +
					"libcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1",
			}),
			want: []string{"library64 libcuda.so.550.54.14 < /usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "only other versions",
			tree: libraries(debian, "x86_64", "535.104.05", both...).with(libraries("usr/lib64", "x86_64", "9999.1", "libcuda.so.1"),
				files{"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1"}),
			fails: "the loaded kernel module has version 550.54.14, but the driver's libraries have " +
				`535.104.05 ("/usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05"), 9999.1 ("/usr/lib64/libcuda.so.9999.1")`,
		},
		{
			name: "only another version, through alternatives",
			tree: libraries("opt/x", "x86_64", "535.104.05", "libcuda.so.1").with(files{debian + "/libcuda.so.1": "-> /opt/x/libcuda.so.1"}),
			fails: "the loaded kernel module has version 550.54.14, but the driver's libraries have " +
				`535.104.05 ("/opt/x/libcuda.so.535.104.05")`,
		},
		{
			name:  "nothing at all",
			tree:  merged,
			fails: "no libcuda or libnvidia-ml of driver version 550.54.14 found in /usr/lib64, /usr/lib, /lib64, /lib",
		},
		{
			name:  "of another machine",
			tree:  libraries("usr/lib64", "aarch64", version, "libcuda.so.1"),
			fails: `no libcuda or libnvidia-ml of driver version 550.54.14 found in /usr/lib64; not usable: "/usr/lib64/libcuda.so.550.54.14": built for aarch64`,
		},
		{
			name:  "x32 is not x86-64",
			tree:  libraries("usr/lib64", "x32", version, "libcuda.so.1"),
			fails: `no libcuda or libnvidia-ml of driver version 550.54.14 found in /usr/lib64; not usable: "/usr/lib64/libcuda.so.550.54.14": built for x32`,
		},
		{
			name: "directories, pipes, sockets and dead links named like libraries",
			tree: libraries("usr/lib64", "x86_64", version, "libnvidia-ml.so.1").with(files{
				"usr/lib64/libcuda.so.550.54.14":            "dir",
				"usr/lib64/libnvidia-opencl.so.550.54.14":   "fifo",
				"usr/lib64/libnvidia-nvvm.so.550.54.14":     "socket",
				"usr/lib64/libnvidia-compiler.so.550.54.14": "-> nowhere",
				"usr/lib64/libnvidia-cfg.so.550.54.14":      "-> libnvidia-cfg.so.550.54.14",
				"usr/lib64/vdpau":                           "fifo",
				"usr/lib64/libnvidia-ml.so.1.so.550.54.14":  "lib x86_64 libnvidia-ml.so.1",
				"usr/lib64/libnvidia-ml.so550.54.14":        "lib x86_64 libnvidia-ml.so.1",
				"usr/lib64/libnvidia-ml.so.550.54.14.old":   "lib x86_64 libnvidia-ml.so.1",
				"usr/lib64/.so.550.54.14":                   "lib x86_64 libnvidia-ml.so.1",
				"usr/lib64/tls":                             "-> tls",
			}),
			want: []string{
				"library64 libnvidia-ml.so.550.54.14 < /usr/lib64/libnvidia-ml.so.550.54.14, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.550.54.14",
			},
		},
		{
			name:  "a pipe in the place of the only library",
			tree:  files{"usr/lib64/libcuda.so.550.54.14": "fifo"},
			fails: `no libcuda or libnvidia-ml of driver version 550.54.14 found in /usr/lib64; not usable: "/usr/lib64/libcuda.so.550.54.14": not a regular file`,
		},
		{
			name: "links that lead out of the root end in it",
			tree: files{
				"usr/lib64/libcuda.so.550.54.14":      "-> ../../../../../../../../outside/libcuda.so.550.54.14",
				"usr/lib64/libnvidia-ml.so.550.54.14": "-> /outside/libnvidia-ml.so.550.54.14",
				"outside/libcuda.so.550.54.14":        "lib x86_64 libcuda.so.1",
			},
			want: []string{"library64 libcuda.so.550.54.14 < /outside/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14"},
		},
		{
			name: "a link that lies about its version",
			tree: libraries("usr/lib64", "x86_64", "535.104.05", "libcuda.so.1").with(files{"usr/lib64/libcuda.so.550.54.14": "-> libcuda.so.535.104.05"}),
			fails: "the loaded kernel module has version 550.54.14, but the driver's libraries have " +
				`535.104.05 ("/usr/lib64/libcuda.so.535.104.05")`,
		},
		{
			name:  "malformed library",
			tree:  files{"usr/lib64/libcuda.so.550.54.14": "\x7fELF"},
			fails: `a library of driver version 550.54.14 is damaged: "ROOT/usr/lib64/libcuda.so.550.54.14": offset 0: not an ELF file`,
		},
		{
			name: "damaged libraries beside intact anchors, with a cache",
			tree: libraries("usr/lib64", "x86_64", version, both...).with(files{
				"usr/lib64/libnvidia-cfg.so.550.54.14": "", "usr/lib64/libnvidia-opencl.so.550.54.14": "text", "usr/lib64/libnvcuvid.so.550.54.14": "",
				"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib64/libcuda.so.1\nlibnvidia-ml.so.1 x86_64 /usr/lib64/libnvidia-ml.so.1\n" +
					"libnvidia-opencl.so.1 x86_64 /usr/lib64/libnvidia-opencl.so.1\nlibnvidia-cfg.so.1 x86_64 /usr/lib64/libnvidia-cfg.so.1",
			}),
			want: bothOf64,
			notes: []string{
				`library "ROOT/usr/lib64/libnvidia-cfg.so.550.54.14" is left out: an empty file`,
				`library "ROOT/usr/lib64/libnvidia-opencl.so.550.54.14" is left out: offset 0: not an ELF file`,
			},
		},
		{
			name: "damaged libraries beside intact anchors, without a cache",
			tree: libraries("usr/lib64", "x86_64", version, both...).with(files{
				"usr/lib64/libnvidia-cfg.so.550.54.14": "", "usr/lib64/libnvidia-opencl.so.550.54.14": "text", "usr/lib64/libnvcuvid.so.550.54.14": "",
			}),
			want: bothOf64,
			notes: []string{
				`library "ROOT/usr/lib64/libnvidia-cfg.so.550.54.14" is left out: an empty file`,
				`library "ROOT/usr/lib64/libnvidia-opencl.so.550.54.14" is left out: offset 0: not an ELF file`,
			},
		},
		{
			name: "a damaged anchor that is not requested",
			tree: libraries("usr/lib64", "x86_64", version, both...).with(files{"usr/lib64/libcuda.so.550.54.14": ""}),
			o:    Options{Classes: Utility},
			want: bothOf64[1:],
		},
		{
			name:  "a damaged anchor beside an intact one",
			tree:  libraries("usr/lib64", "x86_64", version, both...).with(files{"usr/lib64/libnvidia-ml.so.550.54.14": ""}),
			fails: `a library of driver version 550.54.14 is damaged: "ROOT/usr/lib64/libnvidia-ml.so.550.54.14": an empty file`,
		},
		{
			name:  "a damaged anchor and an intact copy",
			tree:  libraries("usr/lib64", "x86_64", version, both...).with(files{"usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14": ""}),
			want:  bothOf64,
			notes: []string{`library "ROOT/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.14" is left out: an empty file`},
		},
		{
			name:  "video needs libcuda",
			tree:  libraries("usr/lib64", "x86_64", version, both...).with(files{"usr/lib64/libcuda.so.550.54.14": ""}),
			o:     Options{Classes: Video},
			fails: `a library of driver version 550.54.14 is damaged: "ROOT/usr/lib64/libcuda.so.550.54.14": an empty file`,
		},
		{
			name: "left-over libraries of the module's version beside another driver",
			tree: libraries(debian, "x86_64", "535.104.05", both...).with(libraries(debian, "x86_64", version, "libnvidia-gpucomp.so.", "libnvidia-eglcore.so."),
				files{"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/x86_64-linux-gnu/libcuda.so.1\n" +
					"libnvidia-gpucomp.so.550.54.14 x86_64 /usr/lib/x86_64-linux-gnu/libnvidia-gpucomp.so.550.54.14"}),
			fails: "the loaded kernel module has version 550.54.14, but the driver's libraries have " +
				`535.104.05 ("/usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05")`,
		},
		{
			name: "the same, for graphics alone",
			tree: libraries(debian, "x86_64", "535.104.05", both...).with(libraries(debian, "x86_64", version, "libnvidia-eglcore.so.")),
			o:    Options{Classes: Graphics},
			fails: "the loaded kernel module has version 550.54.14, but the driver's libraries have " +
				`535.104.05 ("/usr/lib/x86_64-linux-gnu/libcuda.so.535.104.05")`,
		},
		{
			name: "one anchor of another version",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1").with(libraries("usr/lib64", "x86_64", "535.104.05", "libnvidia-ml.so.1")),
			fails: "the loaded kernel module has version 550.54.14, but the driver's libraries have " +
				`535.104.05 ("/usr/lib64/libnvidia-ml.so.535.104.05")`,
		},
		{
			name: "one anchor of another version, not requested",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1").with(libraries("usr/lib64", "x86_64", "535.104.05", "libnvidia-ml.so.1")),
			o:    Options{Classes: Compute},
			want: bothOf64[:1],
		},
		{
			name:  "libraries without any anchor",
			tree:  libraries("usr/lib64", "x86_64", version, "libnvidia-gpucomp.so.", "libnvidia-eglcore.so."),
			fails: "no libcuda or libnvidia-ml of driver version 550.54.14 found in /usr/lib64",
		},
		{
			name: "libraries without any anchor, for graphics",
			tree: libraries("usr/lib64", "x86_64", version, "libnvidia-eglcore.so."),
			o:    Options{Classes: Graphics},
			want: []string{"library64 libnvidia-eglcore.so.550.54.14 < /usr/lib64/libnvidia-eglcore.so.550.54.14"},
		},
		{
			name: "anchors in two places, the cache has one",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1").with(libraries("var/lib/nvidia/lib64", "x86_64", version, "libnvidia-ml.so.1"),
				files{"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib64/libcuda.so.1"}),
			want: []string{bothOf64[0], strings.ReplaceAll(bothOf64[1], "/usr/lib64", "/var/lib/nvidia/lib64")},
		},
		{
			name:  "malformed cache",
			tree:  libraries("usr/lib64", "x86_64", version, both...).with(files{"etc/ld.so.cache": "junk"}),
			want:  bothOf64,
			notes: []string{`the loader's cache "ROOT/etc/ld.so.cache" is not used, searching the usual directories instead: parsing ld.so.cache: no known magic number at the start`},
		},
		{
			name:  "empty cache",
			tree:  libraries("usr/lib64", "x86_64", version, both...).with(files{"etc/ld.so.cache": ""}),
			want:  bothOf64,
			notes: []string{`the loader's cache "ROOT/etc/ld.so.cache" is not used, searching the usual directories instead: parsing ld.so.cache: no known magic number at the start`},
		},
		{
			name:  "a pipe in the place of the cache",
			tree:  libraries("usr/lib64", "x86_64", version, both...).with(files{"etc/ld.so.cache": "fifo"}),
			want:  bothOf64,
			notes: []string{`the loader's cache "ROOT/etc/ld.so.cache" is not used, searching the usual directories instead: read ROOT/etc/ld.so.cache: not a regular file but a named pipe`},
		},
		{name: "not a version", o: Options{Version: "550.54.14/.."}, fails: `driver version "550.54.14/..": not a version`},
		{name: "unknown machine", o: Options{Arch: "m68k"}, fails: `unknown architecture "m68k"`},
		{
			name: "host libraries of Mesa and glvnd stay",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1", "libGLX_nvidia.so.0", "libGL.so.1", "libEGL.so.1",
				"libGLESv1_CM.so.1", "libGLESv2.so.2", "libGLX.so.0", "libOpenGL.so.0", "libGLdispatch.so.0", "libOpenCL.so.1").with(files{
				"usr/lib64/libGLX_mesa.so.0.0.0": "lib x86_64 libGLX_mesa.so.0", "usr/lib64/libEGL_mesa.so.0.0.0": "lib x86_64 libEGL_mesa.so.0",
				"usr/lib64/libGLX_indirect.so.0": "-> libGLX_mesa.so.0.0.0", "usr/lib64/libgbm.so.1.0.0": "lib x86_64 libgbm.so.1",
				"usr/lib64/libc.so.6":                     "lib x86_64 libc.so.6",
				"usr/lib64/libnvidia-container.so.1.17.8": "lib x86_64 libnvidia-container.so.1",
			}),
			o: Options{Classes: All},
			want: []string{
				"library64 libGLX_nvidia.so.550.54.14 < /usr/lib64/libGLX_nvidia.so.550.54.14, libGLX_indirect.so.0 > libGLX_nvidia.so.550.54.14, libGLX_nvidia.so > libGLX_nvidia.so.0, libGLX_nvidia.so.0 > libGLX_nvidia.so.550.54.14",
				"library64 libcuda.so.550.54.14 < /usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
			},
		},
		{
			name: "libGLX_nvidia as one file of its SONAME",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1", "libnvidia-glcore.so.").with(
				libraries("usr/lib", "i386", version, "libcuda.so.1"), files{
					"usr/lib64/libGLX_nvidia.so.0":       "lib x86_64 libGLX_nvidia.so.0 libc.so.6 libnvidia-glcore.so.550.54.14",
					"usr/lib/libGLX_nvidia.so.0":         "lib i386 libGLX_nvidia.so.0 libnvidia-glcore.so.550.54.14",
					"usr/lib64/libEGL_nvidia.so.0":       "lib x86_64 libEGL_nvidia.so.0 libnvidia-glsi.so.535.104.05",
					"usr/lib64/libGLESv2_nvidia.so.2":    "lib x86_64 libGLESv2_nvidia.so.2",
					"usr/lib64/libnvidia-unknown.so.1":   "lib x86_64 libnvidia-unknown.so.1 libnvidia-glcore.so.550.54.14",
					"usr/lib64/libnvidia-container.so.1": "lib x86_64 libnvidia-container.so.1",
				}),
			o: Options{Classes: Graphics | Compat32},
			want: []string{
				"library64 libGLX_nvidia.so.0 < /usr/lib64/libGLX_nvidia.so.0, libGLX_indirect.so.0 > libGLX_nvidia.so.0",
				"library64 libnvidia-glcore.so.550.54.14 < /usr/lib64/libnvidia-glcore.so.550.54.14",
				"library32 libGLX_nvidia.so.0 < /usr/lib/libGLX_nvidia.so.0, libGLX_indirect.so.0 > libGLX_nvidia.so.0",
			},
			notes: []string{
				`library "ROOT/usr/lib64/libEGL_nvidia.so.0" is left out: nothing shows that it belongs to driver version 550.54.14`,
				`library "ROOT/usr/lib64/libGLESv2_nvidia.so.2" is left out: nothing shows that it belongs to driver version 550.54.14`,
			},
		},
		{
			name: "libGLX_nvidia whose name with the version is the link",
			tree: libraries("usr/lib64", "x86_64", version, "libnvidia-glcore.so.").with(files{
				"usr/lib64/libGLX_nvidia.so.0":         "lib x86_64 libGLX_nvidia.so.0",
				"usr/lib64/libGLX_nvidia.so.550.54.14": "-> libGLX_nvidia.so.0",
			}),
			o: Options{Classes: Graphics},
			want: []string{
				"library64 libGLX_nvidia.so.550.54.14 < /usr/lib64/libGLX_nvidia.so.0, libGLX_indirect.so.0 > libGLX_nvidia.so.550.54.14, libGLX_nvidia.so > libGLX_nvidia.so.0, libGLX_nvidia.so.0 > libGLX_nvidia.so.550.54.14",
				"library64 libnvidia-glcore.so.550.54.14 < /usr/lib64/libnvidia-glcore.so.550.54.14",
			},
		},
		{
			name: "links of graphics libraries",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1", "libnvidia-allocator.so.1", "libnvidia-vulkan-producer.so.",
				"libnvidia-glcore.so.", "libnvidia-opticalflow.so.1", "libnvidia-fbc.so.1", "libnvidia-gpucomp.so.").with(files{
				"usr/lib64/libnvidia-gpucomp.so":  "-> libnvidia-gpucomp.so.550.54.14",
				"usr/lib64/gbm/nvidia-drm_gbm.so": "-> ../libnvidia-allocator.so.1",
				"usr/lib64/gbm/dri_gbm.so":        "lib x86_64 dri_gbm.so",
			}),
			o: Options{Classes: Graphics | Video},
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library64 libnvidia-allocator.so.550.54.14 < /usr/lib64/libnvidia-allocator.so.550.54.14, gbm/nvidia-drm_gbm.so > ../libnvidia-allocator.so.1, libnvidia-allocator.so > libnvidia-allocator.so.1, libnvidia-allocator.so.1 > libnvidia-allocator.so.550.54.14",
				"library64 libnvidia-fbc.so.550.54.14 < /usr/lib64/libnvidia-fbc.so.550.54.14, libnvidia-fbc.so > libnvidia-fbc.so.1, libnvidia-fbc.so.1 > libnvidia-fbc.so.550.54.14",
				"library64 libnvidia-glcore.so.550.54.14 < /usr/lib64/libnvidia-glcore.so.550.54.14",
				"library64 libnvidia-gpucomp.so.550.54.14 < /usr/lib64/libnvidia-gpucomp.so.550.54.14, libnvidia-gpucomp.so > libnvidia-gpucomp.so.550.54.14",
				"library64 libnvidia-opticalflow.so.550.54.14 < /usr/lib64/libnvidia-opticalflow.so.550.54.14, libnvidia-opticalflow.so > libnvidia-opticalflow.so.1, libnvidia-opticalflow.so.1 > libnvidia-opticalflow.so.550.54.14",
				"library64 libnvidia-vulkan-producer.so.550.54.14 < /usr/lib64/libnvidia-vulkan-producer.so.550.54.14, libnvidia-vulkan-producer.so > libnvidia-vulkan-producer.so.550.54.14",
			},
		},
		{
			name: "no link for GBM without graphics",
			tree: libraries("usr/lib64", "x86_64", version, "libnvidia-ml.so.1", "libnvidia-allocator.so.1"),
			o:    Options{Classes: Compute},
			want: []string{
				"library64 libnvidia-allocator.so.550.54.14 < /usr/lib64/libnvidia-allocator.so.550.54.14, libnvidia-allocator.so > libnvidia-allocator.so.1, libnvidia-allocator.so.1 > libnvidia-allocator.so.550.54.14",
			},
		},
		{
			name: "VDPAU in its directory, and beside the others as Debian has it",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1", "vdpau/libvdpau_nvidia.so.1").with(
				libraries("usr/lib", "i386", version, "libcuda.so.1", "libvdpau_nvidia.so.1")),
			o: Options{Classes: Video | Compat32},
			want: []string{
				"library64 libcuda.so.550.54.14 < /usr/lib64/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library64 vdpau/libvdpau_nvidia.so.550.54.14 < /usr/lib64/vdpau/libvdpau_nvidia.so.550.54.14, libvdpau_nvidia.so > libvdpau_nvidia.so.1, libvdpau_nvidia.so.1 > libvdpau_nvidia.so.550.54.14",
				"library32 libcuda.so.550.54.14 < /usr/lib/libcuda.so.550.54.14, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.550.54.14",
				"library32 vdpau/libvdpau_nvidia.so.550.54.14 < /usr/lib/libvdpau_nvidia.so.550.54.14, libvdpau_nvidia.so > libvdpau_nvidia.so.1, libvdpau_nvidia.so.1 > libvdpau_nvidia.so.550.54.14",
			},
		},
		{
			name: "the libnvidia-tls with the ABI note",
			tree: files{
				"usr/lib64/libcuda.so.390.157":           "lib x86_64 libcuda.so.1",
				"usr/lib64/libnvidia-tls.so.390.157":     "lib x86_64 libnvidia-tls.so.390.157",
				"usr/lib64/tls/libnvidia-tls.so.390.157": "lib x86_64 libnvidia-tls.so.390.157 tls",
				"usr/lib64/tls/libcuda.so.390.157":       "lib x86_64 libcuda.so.1",
				"usr/lib64/tls/libnvidia-fbc.so.390.157": "lib x86_64 libnvidia-fbc.so.1",
			},
			o: Options{Version: "390.157", Classes: Graphics},
			want: []string{
				"library64 libnvidia-tls.so.390.157 < /usr/lib64/tls/libnvidia-tls.so.390.157",
			},
		},
		{
			name: "the libnvidia-tls with the ABI note, the other way round",
			tree: files{
				"usr/lib64/libnvidia-tls.so.390.157":     "lib x86_64 libnvidia-tls.so.390.157 tls",
				"usr/lib64/tls/libnvidia-tls.so.390.157": "lib x86_64 libnvidia-tls.so.390.157",
			},
			o: Options{Version: "390.157", Classes: Graphics},
			want: []string{
				"library64 libnvidia-tls.so.390.157 < /usr/lib64/libnvidia-tls.so.390.157",
			},
		},
		{
			name: "of two libnvidia-tls without the ABI note, the first",
			tree: files{
				"usr/lib64/libnvidia-tls.so.390.157":     "lib x86_64 libnvidia-tls.so.390.157",
				"usr/lib64/tls/libnvidia-tls.so.390.157": "lib x86_64 libnvidia-tls.so.390.157",
			},
			o:    Options{Version: "390.157", Classes: Graphics},
			want: []string{"library64 libnvidia-tls.so.390.157 < /usr/lib64/libnvidia-tls.so.390.157"},
		},
		{
			name: "of two libnvidia-tls with the ABI note, the first",
			tree: files{
				"usr/lib64/libnvidia-tls.so.390.157":     "lib x86_64 libnvidia-tls.so.390.157 tls",
				"usr/lib64/tls/libnvidia-tls.so.390.157": "lib x86_64 libnvidia-tls.so.390.157 tls",
			},
			o:    Options{Version: "390.157", Classes: Graphics},
			want: []string{"library64 libnvidia-tls.so.390.157 < /usr/lib64/libnvidia-tls.so.390.157"},
		},
		{
			name: "libraries with versions of their own",
			tree: libraries("usr/lib64", "x86_64", "610.43.02", "libcuda.so.1").with(files{
				"usr/lib64/libnvidia-egl-gbm.so.1":          "-> libnvidia-egl-gbm.so.1.1.2",
				"usr/lib64/libnvidia-egl-gbm.so.1.1.2":      "lib x86_64 libnvidia-egl-gbm.so.1",
				"usr/lib64/libnvidia-egl-gbm.so.1.1.1":      "lib x86_64 libnvidia-egl-gbm.so.1",
				"usr/lib64/libnvidia-egl-wayland.so.1.1.9":  "lib x86_64 libnvidia-egl-wayland.so.1",
				"usr/lib64/libnvidia-egl-wayland.so.1.1.13": "lib x86_64 libnvidia-egl-wayland.so.1",
				"usr/lib64/libnvidia-egl-tomorrow.so.2":     "lib x86_64 libnvidia-egl-tomorrow.so.2",
				"usr/lib64/libnvidia-api.so.1":              "lib x86_64 libnvidia-api.so.1",
				"usr/lib64/libnvidia-nvvm70.so.4":           "lib x86_64 libnvidia-nvvm70.so.4",
			}),
			o: Options{Version: "610.43.02", Classes: Graphics | Compute},
			want: []string{
				"library64 libcuda.so.610.43.02 < /usr/lib64/libcuda.so.610.43.02, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.610.43.02",
				"library64 libnvidia-api.so.1 < /usr/lib64/libnvidia-api.so.1",
				"library64 libnvidia-egl-gbm.so.1.1.2 < /usr/lib64/libnvidia-egl-gbm.so.1.1.2, libnvidia-egl-gbm.so > libnvidia-egl-gbm.so.1, libnvidia-egl-gbm.so.1 > libnvidia-egl-gbm.so.1.1.2",
				"library64 libnvidia-egl-tomorrow.so.2 < /usr/lib64/libnvidia-egl-tomorrow.so.2",
				"library64 libnvidia-egl-wayland.so.1.1.13 < /usr/lib64/libnvidia-egl-wayland.so.1.1.13, libnvidia-egl-wayland.so > libnvidia-egl-wayland.so.1, libnvidia-egl-wayland.so.1 > libnvidia-egl-wayland.so.1.1.13",
				"library64 libnvidia-nvvm70.so.4 < /usr/lib64/libnvidia-nvvm70.so.4",
			},
		},
		{
			name: "companions of another driver stay",
			tree: libraries("usr/lib/nvidia-390", "x86_64", "390.157", "libcuda.so.1").with(
				libraries("usr/lib/nvidia-384", "x86_64", "384.130", "libcuda.so.1"), files{
					"usr/lib/nvidia-384/libnvidia-egl-wayland.so.1.0.1": "lib x86_64 libnvidia-egl-wayland.so.1",
					"etc/ld.so.cache": "cache\nlibcuda.so.1 x86_64 /usr/lib/nvidia-384/libcuda.so.1\nlibcuda.so.1 x86_64 /usr/lib/nvidia-390/libcuda.so.1",
				}),
			o:    Options{Version: "390.157", Classes: Graphics | Compute},
			want: []string{"library64 libcuda.so.390.157 < /usr/lib/nvidia-390/libcuda.so.390.157, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.390.157"},
		},
		{
			name: "tomorrow's libraries come with compute",
			tree: tomorrow,
			o:    Options{Version: "700.10", Classes: Compute},
			want: []string{
				"library64 libcuda.so.700.10 < /usr/lib64/libcuda.so.700.10, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.700.10",
				"library64 libnvcuextend.so.700.10 < /usr/lib64/libnvcuextend.so.700.10, libnvcuextend.so > libnvcuextend.so.1, libnvcuextend.so.1 > libnvcuextend.so.700.10",
				"library64 libnvidia-mncc.so.700.10 < /usr/lib64/libnvidia-mncc.so.700.10",
				"library64 libnvidia-tomorrow.so.700.10 < /usr/lib64/libnvidia-tomorrow.so.700.10, libnvidia-tomorrow.so > libnvidia-tomorrow.so.3, libnvidia-tomorrow.so.3 > libnvidia-tomorrow.so.700.10",
			},
		},
		{
			name: "tomorrow's libraries for graphics come with graphics",
			tree: tomorrow,
			o:    Options{Version: "700.10", Classes: Graphics},
			want: []string{
				"library64 libnvidia-wayland-client.so.700.10 < /usr/lib64/libnvidia-wayland-client.so.700.10",
				"library64 libnvidia-x-glnext.so.700.10 < /usr/lib64/libnvidia-x-glnext.so.700.10",
			},
		},
		{
			name: "tomorrow's libraries come with nothing else",
			tree: tomorrow,
			o:    Options{Version: "700.10", Classes: Utility},
			want: []string{"library64 libnvidia-ml.so.700.10 < /usr/lib64/libnvidia-ml.so.700.10, libnvidia-ml.so > libnvidia-ml.so.1, libnvidia-ml.so.1 > libnvidia-ml.so.700.10"},
		},
		{
			name: "NVVM of R470, which counts its own versions, beside that of another driver",
			tree: libraries("usr/lib64", "x86_64", "470.256.02", "libcuda.so.1").with(files{
				"usr/lib64/libnvidia-nvvm.so": "-> libnvidia-nvvm.so.4", "usr/lib64/libnvidia-nvvm.so.4": "-> libnvidia-nvvm.so.4.0.0",
				"usr/lib64/libnvidia-nvvm.so.4.0.0": "lib x86_64 libnvidia-nvvm.so.4", "usr/lib64/libnvidia-nvvm.so.535.104.05": "lib x86_64 libnvidia-nvvm.so.4",
			}),
			o: Options{Version: "470.256.02", Classes: Compute},
			want: []string{
				"library64 libcuda.so.470.256.02 < /usr/lib64/libcuda.so.470.256.02, libcuda.so > libcuda.so.1, libcuda.so.1 > libcuda.so.470.256.02",
				"library64 libnvidia-nvvm.so.4.0.0 < /usr/lib64/libnvidia-nvvm.so.4.0.0, libnvidia-nvvm.so > libnvidia-nvvm.so.4, libnvidia-nvvm.so.4 > libnvidia-nvvm.so.4.0.0",
			},
		},
		{
			name: "NVVM of later drivers, which has the driver's version",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1", "libnvidia-nvvm.so.4"),
			o:    Options{Classes: Compute},
			want: []string{
				bothOf64[0],
				"library64 libnvidia-nvvm.so.550.54.14 < /usr/lib64/libnvidia-nvvm.so.550.54.14, libnvidia-nvvm.so > libnvidia-nvvm.so.4, libnvidia-nvvm.so.4 > libnvidia-nvvm.so.550.54.14",
			},
		},
		{
			name: "NVVM of another driver alone",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1").with(libraries("usr/lib64", "x86_64", "535.104.05", "libnvidia-nvvm.so.4")),
			o:    Options{Classes: Compute},
			want: bothOf64[:1],
		},
		{
			name: "the driver is there, the class is not",
			tree: libraries("usr/lib64", "x86_64", version, "libcuda.so.1"),
			o:    Options{Classes: NGX},
			want: nil,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tt.tree.make(t)
			o := tt.o
			if o.Version == "" {
				o.Version = version
			}
			if o.Arch == "" {
				o.Arch = ldcache.X8664
			}
			if o.Classes == 0 {
				o.Classes = Compute | Utility
			}
			got, notes, err := Find(root, o)
			if tt.fails != "" {
				require.Error(t, err)
				text, _, _ := strings.Cut(err.Error(), "; looked for and absent: ") // TestErrors has it
				assert.Equal(t, tt.fails, strings.ReplaceAll(text, string(root), "ROOT"))
				assert.Nil(t, got)
				assert.Nil(t, notes)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, dump(got))
			for i := range notes {
				notes[i] = strings.ReplaceAll(notes[i], string(root), "ROOT")
			}
			if tt.notes != nil || strings.Contains(strings.Join(notes, " "), "left out") {
				assert.Equal(t, tt.notes, notes)
			}
			for _, f := range got {
				info, err := os.Lstat(root.Path(f.Path))
				require.NoError(t, err)
				assert.True(t, info.Mode().IsRegular())
			}
			again, _, err := Find(root, o)
			require.NoError(t, err)
			assert.Equal(t, got, again)
		})
	}
}

// desktop is a Debian-like machine with everything a driver installs.
func desktop() files {
	const v = "470.256.02"
	return libraries(debian, "x86_64", v,
		"libcuda.so.1", "libnvidia-ml.so.1", "libnvidia-cfg.so.1", "libnvidia-nscq.so.2", "libnvidia-opencl.so.1", "libnvidia-ptxjitcompiler.so.1",
		"libnvidia-compiler.so.", "libnvidia-allocator.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1", "libnvidia-opticalflow.so.1",
		"vdpau/libvdpau_nvidia.so.1", "libGLX_nvidia.so.0", "libEGL_nvidia.so.0", "libGLESv1_CM_nvidia.so.1", "libGLESv2_nvidia.so.2",
		"libnvidia-eglcore.so.", "libnvidia-glcore.so.", "libnvidia-tls.so.", "libnvidia-glsi.so.", "libnvidia-fbc.so.1", "libnvidia-ifr.so.1",
		"libnvidia-rtcore.so.", "libnvoptix.so.1", "libnvidia-glvkspirv.so.", "libnvidia-cbl.so.", "libnvidia-ngx.so.1", "libnvidia-gtk3.so.").with(
		libraries("usr/lib/i386-linux-gnu", "i386", v, "libcuda.so.1", "libnvidia-ml.so.1", "libGLX_nvidia.so.0"), files{
			"bin": "-> usr/bin", "sbin": "-> usr/sbin", "lib": "-> usr/lib", "var/run": "-> /run",
			"usr/bin/nvidia-smi": "exe", "usr/bin/nvidia-debugdump": "exe", "usr/bin/nvidia-cuda-mps-control": "exe",
			"usr/bin/nvidia-cuda-mps-server": "exe", "usr/sbin/nvidia-persistenced": "exe", "usr/bin/nvidia-xconfig": "exe",
			"usr/bin/nv-fabricmanager": "not executable", "usr/bin/nvidia-imex": "dir", "usr/bin/nvidia-settings": "exe",
			"run/nvidia-persistenced/socket": "socket", "run/nvidia-fabricmanager/socket": "fifo", "tmp/nvidia-mps": "dir",
			"usr/lib/firmware/nvidia/470.256.02/gsp.bin": "firmware", "usr/lib/firmware/nvidia/470.256.02/readme": "text",
			"usr/lib/firmware/nvidia/535.104.05/gsp_ga10x.bin":                  "firmware",
			"usr/share/glvnd/egl_vendor.d/10_nvidia.json":                       "{}",
			"usr/share/glvnd/egl_vendor.d/50_mesa.json":                         "{}",
			"usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json":      "{}",
			"usr/share/egl/egl_external_platform.d/20_nvidia_tomorrow.json":     "{}",
			"usr/share/egl/egl_external_platform.d/30_other.json":               "{}",
			"usr/share/nvidia/nvoptix.bin":                                      "weights",
			"usr/share/X11/xorg.conf.d/10-nvidia.conf":                          "conf",
			"usr/share/X11/xorg.conf.d/nvidia-drm-outputclass.conf":             "conf",
			"usr/share/X11/xorg.conf.d/40-libinput.conf":                        "conf",
			"etc/OpenCL/vendors/nvidia.icd":                                     "libnvidia-opencl.so.1",
			"etc/OpenCL/vendors/pocl.icd":                                       "libpocl.so",
			"usr/share/vulkan/icd.d/nvidia_icd.json":                            "{}",
			"usr/share/vulkan/icd.d/radeon_icd.json":                            "{}",
			"usr/share/vulkan/icd.d/nvidia_icd.x86_64.json":                     "{}",
			"usr/share/vulkan/icd.d/nvidia_icd.i686.json":                       "{}",
			"usr/share/vulkan/icd.d/nvidia_icd.aarch64.json":                    "{}",
			"usr/share/vulkan/implicit_layer.d/nvidia_layers.json":              "{}",
			"etc/vulkan/implicit_layer.d/nvidia_layers.json":                    "{}",
			"usr/lib/xorg/modules/drivers/nvidia_drv.so":                        "lib x86_64 nvidia_drv.so",
			"usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.470.256.02": "lib x86_64 libglxserver_nvidia.so",
			"usr/lib/xorg/modules/extensions/libglxserver_nvidia.so":            "-> libglxserver_nvidia.so.470.256.02",
		})
}

// TestFindByClass checks what each class adds, by name in the container.
func TestFindByClass(t *testing.T) {
	root := desktop().make(t)
	const v = "470.256.02"
	firmware := []string{"/lib/firmware/nvidia/470.256.02/gsp.bin"}
	compute := []string{"libcuda", "libnvidia-allocator", "libnvidia-compiler", "libnvidia-opencl", "libnvidia-ptxjitcompiler"}
	graphics := []string{
		"libEGL_nvidia", "libGLESv1_CM_nvidia", "libGLESv2_nvidia", "libGLX_nvidia", "libnvidia-allocator", "libnvidia-cbl",
		"libnvidia-eglcore", "libnvidia-fbc", "libnvidia-glcore", "libnvidia-glsi", "libnvidia-glvkspirv", "libnvidia-gtk3", "libnvidia-ifr",
		"libnvidia-rtcore", "libnvidia-tls", "libnvoptix",
		"/usr/bin/nvidia-xconfig",
		"/usr/lib/xorg/modules/drivers/nvidia_drv.so",
		"/usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.470.256.02",
		"/etc/OpenCL/vendors/nvidia.icd",
		"/etc/vulkan/icd.d/nvidia_icd.json",
		"/etc/vulkan/icd.d/nvidia_icd.x86_64.json",
		"/etc/vulkan/implicit_layer.d/nvidia_layers.json",
		"/usr/share/X11/xorg.conf.d/10-nvidia.conf",
		"/usr/share/X11/xorg.conf.d/nvidia-drm-outputclass.conf",
		"/usr/share/egl/egl_external_platform.d/10_nvidia_wayland.json",
		"/usr/share/egl/egl_external_platform.d/20_nvidia_tomorrow.json",
		"/usr/share/glvnd/egl_vendor.d/10_nvidia.json",
		"/usr/share/nvidia/nvoptix.bin",
	}
	video := []string{"libnvcuvid", "libnvidia-encode", "libnvidia-opticalflow", "libvdpau_nvidia"}
	computeOnly := []string{"/usr/bin/nvidia-cuda-mps-control", "/usr/bin/nvidia-cuda-mps-server", "/tmp/nvidia-mps"}
	utility := []string{
		"libnvidia-cfg", "libnvidia-ml", "libnvidia-nscq", "/usr/bin/nvidia-debugdump", "/usr/bin/nvidia-persistenced", "/usr/bin/nvidia-smi",
		"/run/nvidia-persistenced/socket",
	}
	compat := []string{"32:libGLX_nvidia", "32:libcuda", "32:libnvidia-ml", "/etc/vulkan/icd.d/nvidia_icd.i686.json"}
	for _, tt := range []struct {
		classes Class
		want    []string
	}{
		{0, firmware},
		{Compat32, firmware},
		{Compute, slices.Concat(firmware, compute, computeOnly)},
		{Utility, slices.Concat(firmware, utility)},
		{Video, slices.Concat(firmware, compute, video)},
		{Graphics, slices.Concat(firmware, graphics)},
		{Display, slices.Concat(firmware, graphics)},
		{NGX, slices.Concat(firmware, []string{"libnvidia-ngx"})},
		{Compute | Utility, slices.Concat(firmware, compute, computeOnly, utility)},
		{Utility | Compat32, slices.Concat(firmware, utility, []string{"32:libnvidia-ml"})},
		{All, slices.Concat(firmware, compute, computeOnly, graphics, video, utility, compat, []string{"libnvidia-ngx"})},
	} {
		t.Run(tt.classes.String(), func(t *testing.T) {
			found, _, err := Find(root, Options{Version: v, Arch: ldcache.X8664, Classes: tt.classes})
			require.NoError(t, err)
			var got []string
			for _, f := range found {
				name := f.Dest
				if f.Kind == Library {
					name = strings.TrimSuffix(f.Name, ".so."+v)
					if f.Bits == 32 {
						name = "32:" + name
					}
				}
				got = append(got, name)
			}
			slices.Sort(tt.want)
			slices.Sort(got)
			assert.Equal(t, slices.Compact(tt.want), got)
		})
	}
}

func TestFindWholeValues(t *testing.T) {
	root := desktop().make(t)
	got, _, err := Find(root, Options{Version: "470.256.02", Arch: ldcache.X8664, Classes: Utility})
	require.NoError(t, err)
	want := []File{
		{
			Path: "/usr/lib/x86_64-linux-gnu/libnvidia-cfg.so.470.256.02", Name: "libnvidia-cfg.so.470.256.02", Kind: Library, Class: Utility,
			SONAME: "libnvidia-cfg.so.1", Bits: 64,
			Links: []Link{{"libnvidia-cfg.so", "libnvidia-cfg.so.1"}, {"libnvidia-cfg.so.1", "libnvidia-cfg.so.470.256.02"}},
		},
		{
			Path: "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.470.256.02", Name: "libnvidia-ml.so.470.256.02", Kind: Library, Class: Utility,
			SONAME: "libnvidia-ml.so.1", Bits: 64,
			Links: []Link{{"libnvidia-ml.so", "libnvidia-ml.so.1"}, {"libnvidia-ml.so.1", "libnvidia-ml.so.470.256.02"}},
		},
		{
			Path: "/usr/lib/x86_64-linux-gnu/libnvidia-nscq.so.470.256.02", Name: "libnvidia-nscq.so.470.256.02", Kind: Library, Class: Utility,
			SONAME: "libnvidia-nscq.so.2", Bits: 64,
			Links: []Link{{"libnvidia-nscq.so", "libnvidia-nscq.so.2"}, {"libnvidia-nscq.so.2", "libnvidia-nscq.so.470.256.02"}},
		},
		{Path: "/usr/bin/nvidia-debugdump", Name: "nvidia-debugdump", Kind: Binary, Class: Utility, Dest: "/usr/bin/nvidia-debugdump"},
		{Path: "/usr/sbin/nvidia-persistenced", Name: "nvidia-persistenced", Kind: Binary, Class: Utility, Dest: "/usr/bin/nvidia-persistenced"},
		{Path: "/usr/bin/nvidia-smi", Name: "nvidia-smi", Kind: Binary, Class: Utility, Dest: "/usr/bin/nvidia-smi"},
		{Path: "/usr/lib/firmware/nvidia/470.256.02/gsp.bin", Name: "gsp.bin", Kind: Firmware, Dest: "/lib/firmware/nvidia/470.256.02/gsp.bin"},
		{Path: "/run/nvidia-persistenced/socket", Name: "socket", Kind: Socket, Class: Utility, Dest: "/run/nvidia-persistenced/socket"},
	}
	assert.Equal(t, want, got)
}

// TestFindOthers covers everything except libraries. The tree also has a libcuda.
func TestFindOthers(t *testing.T) {
	for _, tt := range []struct {
		name string
		tree files
		o    Options
		want []string

		notes []string
	}{
		{
			name: "the caller's PATH first, one name once",
			tree: files{"opt/bin/nvidia-smi": "exe", "usr/bin/nvidia-smi": "exe", "usr/local/bin/nvidia-smi": "exe"},
			o:    Options{Classes: Utility, Path: []string{"", "bin", "/opt/bin", "/usr/bin"}},
			want: []string{"binary /usr/bin/nvidia-smi < /opt/bin/nvidia-smi"},
		},
		{
			name: "program through alternatives",
			tree: files{"usr/bin/nvidia-smi": "-> /etc/alternatives/smi", "etc/alternatives/smi": "-> ../../usr/lib/nvidia/current/nvidia-smi", "usr/lib/nvidia/current/nvidia-smi": "exe"},
			o:    Options{Classes: Utility},
			want: []string{"binary /usr/bin/nvidia-smi < /usr/lib/nvidia/current/nvidia-smi"},
		},
		{
			name: "programs beside the libraries",
			tree: libraries("var/lib/nvidia/lib64", "x86_64", "550.54.14", "libnvidia-ml.so.1").with(files{
				"usr/lib64/libcuda.so.550.54.14": "-> nowhere", "usr/lib64/libcuda.so.1": "-> nowhere", "var/lib/nvidia/bin/nvidia-cuda-mps-server": "exe",
			}),
			o:     Options{Classes: Compute},
			want:  []string{"binary /usr/bin/nvidia-cuda-mps-server < /var/lib/nvidia/bin/nvidia-cuda-mps-server"},
			notes: []string{"libcuda of driver version 550.54.14, which compute needs, is missing: looked in /usr/lib64, /var/lib/nvidia/lib64"},
		},
		{
			name: "sockets below /var/run where that is a directory",
			tree: files{"var/run/nvidia-persistenced/socket": "socket", "run/nvidia-persistenced/socket": "a file", "run/nvidia-fabricmanager/socket": "dir"},
			o:    Options{Classes: Utility},
			want: []string{"socket /var/run/nvidia-persistenced/socket < /var/run/nvidia-persistenced/socket"},
		},
		{
			name: "MPS elsewhere",
			tree: files{"run/mps/pipe": "dir"},
			o:    Options{Classes: Compute, MPSDirectory: "/run/mps/../mps/pipe/"},
			want: []string{"directory /run/mps/pipe < /run/mps/pipe"},
		},
		{
			name: "MPS is a link that anybody may have made",
			tree: files{"tmp/nvidia-mps": "-> /root", "root/.ssh": "dir"},
			o:    Options{Classes: Compute},
		},
		{
			name: "MPS is a file",
			tree: files{"tmp/nvidia-mps": "file"},
			o:    Options{Classes: Compute},
		},
		{
			name: "MPS is everything",
			o:    Options{Classes: Compute, MPSDirectory: "/.."},
		},
		{
			name: "MPS of a relative name",
			tree: files{"mps": "dir"},
			o:    Options{Classes: Compute, MPSDirectory: "mps"},
		},
		{
			name: "firmware: first directory of the kernel's order",
			tree: files{
				"sys/module/firmware_class/parameters/path":                 "/opt/fw\n",
				"opt/fw/nvidia/550.54.14/gsp_ga10x.bin":                     "x",
				"lib/firmware/updates/6.1.0/nvidia/550.54.14/gsp_tu10x.bin": "x",
				"lib/firmware/updates/nvidia/550.54.14/gsp_tu10x.bin":       "x",
				"lib/firmware/updates/nvidia/550.54.14/gsp_ad10x.bin":       "x",
				"lib/firmware/6.1.0/nvidia/550.54.14/gsp_ad10x.bin":         "x",
				"lib/firmware/nvidia/550.54.14/gsp_ad10x.bin":               "x",
				"lib/firmware/nvidia/550.54.14/gsp_gh100.bin":               "x",
				"lib/firmware/6.1.0/nvidia/550.54.14/gsp_gh100.bin":         "x",
				"lib/firmware/nvidia/550.54.14/gsp_ga10x.bin":               "x",
				"lib/firmware/nvidia/550.54.14/gsp_link.bin":                "-> gsp_ga10x.bin",
				"lib/firmware/nvidia/550.54.14/gsp_dir.bin":                 "dir",
				"lib/firmware/nvidia/550.54.14/notgsp.bin":                  "x",
			},
			o: Options{KernelRelease: "6.1.0"},
			want: []string{
				"firmware /lib/firmware/6.1.0/nvidia/550.54.14/gsp_gh100.bin < /lib/firmware/6.1.0/nvidia/550.54.14/gsp_gh100.bin",
				"firmware /lib/firmware/nvidia/550.54.14/gsp_link.bin < /lib/firmware/nvidia/550.54.14/gsp_ga10x.bin",
				"firmware /lib/firmware/updates/6.1.0/nvidia/550.54.14/gsp_tu10x.bin < /lib/firmware/updates/6.1.0/nvidia/550.54.14/gsp_tu10x.bin",
				"firmware /lib/firmware/updates/nvidia/550.54.14/gsp_ad10x.bin < /lib/firmware/updates/nvidia/550.54.14/gsp_ad10x.bin",
				"firmware /opt/fw/nvidia/550.54.14/gsp_ga10x.bin < /opt/fw/nvidia/550.54.14/gsp_ga10x.bin",
			},
		},
		{
			name: "firmware: hostile names",
			tree: files{"sys/module/firmware_class/parameters/path": "relative/../..\n", "etc/nvidia/550.54.14/gsp.bin": "x"},
			o:    Options{KernelRelease: "../../etc"},
		},
		{
			name: "configuration: /etc, then the data directories in order",
			tree: files{
				"etc/glvnd/egl_vendor.d/10_nvidia.json":                        "{}",
				"usr/share/glvnd/egl_vendor.d/10_nvidia.json":                  "{}",
				"run/opengl-driver/share/nvidia/nvoptix.bin":                   "x",
				"usr/share/nvidia/nvoptix.bin":                                 "x",
				"run/opengl-driver/share/vulkan/icd.d/nvidia_icd.aarch64.json": "{}",
				"run/opengl-driver/share/vulkan/icd.d/nvidia_icd.x86_64.json":  "-> /nix/icd.json",
				"nix/icd.json": "{}",
			},
			o: Options{Classes: Graphics, DataDirs: []string{"share", "/run/opengl-driver/share", "/usr/share"}},
			want: []string{
				"config /etc/vulkan/icd.d/nvidia_icd.x86_64.json < /nix/icd.json",
				"config /usr/share/glvnd/egl_vendor.d/10_nvidia.json < /etc/glvnd/egl_vendor.d/10_nvidia.json",
				"config /usr/share/nvidia/nvoptix.bin < /run/opengl-driver/share/nvidia/nvoptix.bin",
			},
		},
		{
			name: "configuration: Vulkan below the root, of the machine",
			tree: files{"vulkan/icd.d/nvidia_icd.json": "{}", "glvnd/egl_vendor.d/10_nvidia.json": "{}"},
			o:    Options{Classes: Display},
			want: []string{"config /etc/vulkan/icd.d/nvidia_icd.json < /vulkan/icd.d/nvidia_icd.json"},
		},
		{
			name: "configuration: not files",
			tree: files{
				"etc/vulkan/icd.d/nvidia_icd.json": "fifo", "usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json": "dir",
				"usr/share/nvidia": "fifo", "etc/OpenCL/vendors": "-> vendors",
			},
			o: Options{Classes: Graphics},
		},
		{
			name: "X modules of Ubuntu, beside the libraries",
			tree: files{
				"usr/lib64/nvidia/xorg/nvidia_drv.so":                            "lib x86_64 nvidia_drv.so",
				"usr/lib64/nvidia/xorg/libglxserver_nvidia.so.550.54.14":         "lib x86_64 libglxserver_nvidia.so",
				"usr/lib64/xorg/modules/drivers/nvidia_drv.so":                   "lib x86_64 nvidia_drv.so",
				"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.535.1": "lib x86_64 libglxserver_nvidia.so",
			},
			o: Options{Classes: Graphics},
			want: []string{
				"xorg module /usr/lib64/nvidia/xorg/libglxserver_nvidia.so.550.54.14 < /usr/lib64/nvidia/xorg/libglxserver_nvidia.so.550.54.14, libglxserver_nvidia.so > libglxserver_nvidia.so.550.54.14",
				"xorg module /usr/lib64/nvidia/xorg/nvidia_drv.so < /usr/lib64/nvidia/xorg/nvidia_drv.so",
			},
		},
		{
			name: "X modules of Debian, through alternatives",
			tree: files{
				"usr/lib/xorg/modules/drivers/nvidia_drv.so":              "-> ../../../nvidia/nvidia_drv.so",
				"usr/lib/xorg/modules/extensions/libglxserver_nvidia.so":  "-> ../../../nvidia/libglxserver_nvidia.so",
				"usr/lib/nvidia/nvidia_drv.so":                            "-> current/nvidia_drv.so",
				"usr/lib/nvidia/libglxserver_nvidia.so":                   "-> current/libglxserver_nvidia.so.550.54.14",
				"usr/lib/nvidia/current/nvidia_drv.so":                    "lib x86_64 nvidia_drv.so",
				"usr/lib/nvidia/current/libglxserver_nvidia.so.550.54.14": "lib x86_64 libglxserver_nvidia.so",
			},
			o: Options{Classes: Graphics},
			want: []string{
				"xorg module /usr/lib/xorg/modules/drivers/nvidia_drv.so < /usr/lib/nvidia/current/nvidia_drv.so",
				"xorg module /usr/lib/xorg/modules/extensions/libglxserver_nvidia.so.550.54.14 < /usr/lib/nvidia/current/libglxserver_nvidia.so.550.54.14, libglxserver_nvidia.so > libglxserver_nvidia.so.550.54.14",
			},
		},
		{
			name: "X modules of the 390 branch",
			tree: files{"usr/lib64/xorg/modules/drivers/nvidia_drv.so": "lib x86_64 nvidia_drv.so", "usr/lib64/xorg/modules/extensions/libglx.so.550.54.14": "module"},
			o:    Options{Classes: Graphics},
			want: []string{"xorg module /usr/lib64/xorg/modules/drivers/nvidia_drv.so < /usr/lib64/xorg/modules/drivers/nvidia_drv.so"},
		},
		{
			name: "X modules of RPM packages, without a version in their names",
			tree: files{
				"usr/lib64/xorg/modules/drivers/nvidia_drv.so":             "lib x86_64 nvidia_drv.so",
				"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so": "lib x86_64 libglxserver_nvidia.so libnvidia-tls.so.550.54.14 libc.so.6",
			},
			o: Options{Classes: Graphics},
			want: []string{
				"xorg module /usr/lib64/xorg/modules/drivers/nvidia_drv.so < /usr/lib64/xorg/modules/drivers/nvidia_drv.so",
				"xorg module /usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so < /usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so",
			},
		},
		{
			name: "X modules of RPM packages, of another version",
			tree: files{
				"usr/lib64/xorg/modules/drivers/nvidia_drv.so":             "lib x86_64 nvidia_drv.so",
				"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so": "lib x86_64 libglxserver_nvidia.so libnvidia-tls.so.535.104.05",
			},
			o:     Options{Classes: Graphics},
			notes: []string{`X module "ROOT/usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so" is left out: it needs libnvidia-tls.so.535.104.05, of another version than 550.54.14`},
		},
		{
			name: "damaged and foreign X modules",
			tree: files{
				"usr/lib64/xorg/modules/drivers/nvidia_drv.so":                       "",
				"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.550.54.14": "lib x86_64 libglxserver_nvidia.so",
				"usr/lib64/nvidia/xorg/libglxserver_nvidia.so.550.54.14":             "lib i386 libglxserver_nvidia.so",
			},
			o: Options{Classes: Graphics},
			want: []string{
				"xorg module /usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.550.54.14 < /usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.550.54.14, libglxserver_nvidia.so > libglxserver_nvidia.so.550.54.14",
			},
			notes: []string{
				`X module "ROOT/usr/lib64/nvidia/xorg/libglxserver_nvidia.so.550.54.14" is left out: built for i386`,
				`X module "ROOT/usr/lib64/xorg/modules/drivers/nvidia_drv.so" is left out: an empty file`,
			},
		},
		{
			name: "a program before a script, wherever it is",
			tree: files{"usr/bin/nvidia-smi": "exe", "usr/lib64/nvidia-smi": "program /lib64/ld-linux-x86-64.so.2"},
			o:    Options{Classes: Utility},
			want: []string{"binary /usr/bin/nvidia-smi < /usr/lib64/nvidia-smi"},
		},
		{
			name: "programs in the directory of alternatives alone",
			tree: files{"usr/lib/nvidia/current/nvidia-smi": "program /lib64/ld-linux-x86-64.so.2"},
			o:    Options{Classes: Utility},
			want: []string{"binary /usr/bin/nvidia-smi < /usr/lib/nvidia/current/nvidia-smi"},
		},
		{
			name: "NixOS's programs, and as they were",
			tree: files{
				"nix/store/nvidia-bin/bin/nvidia-smi":     "program /nix/store/glibc/lib/ld-linux-x86-64.so.2",
				"nix/store/nvidia-bin/origBin/nvidia-smi": "program /lib64/ld-linux-x86-64.so.2",
				"run/current-system/sw/bin/nvidia-smi":    "-> /nix/store/nvidia-bin/bin/nvidia-smi",
			},
			o:    Options{Classes: Utility},
			want: []string{"binary /usr/bin/nvidia-smi < /nix/store/nvidia-bin/origBin/nvidia-smi"},
		},
		{
			name: "NixOS's programs alone",
			tree: files{
				"nix/store/nvidia-bin/bin/nvidia-smi":  "program /nix/store/glibc/lib/ld-linux-x86-64.so.2",
				"run/current-system/sw/bin/nvidia-smi": "-> /nix/store/nvidia-bin/bin/nvidia-smi",
			},
			o:    Options{Classes: Utility},
			want: []string{"binary /usr/bin/nvidia-smi < /nix/store/nvidia-bin/bin/nvidia-smi"},
			notes: []string{
				"nvidia-smi cannot run in images without /nix/store/glibc/lib/ld-linux-x86-64.so.2, the loader that the host's programs are built for",
			},
		},
		{
			name:  "a damaged program",
			tree:  files{"usr/bin/nvidia-smi": "program ", "bin/nvidia-smi": "exe"},
			o:     Options{Classes: Utility},
			want:  []string{"binary /usr/bin/nvidia-smi < /bin/nvidia-smi"},
			notes: []string{`program "ROOT/usr/bin/nvidia-smi" is left out: interpreter "\x00": not an absolute path`},
		},
		{
			name: "X modules of another version",
			tree: files{
				"usr/lib64/xorg/modules/drivers/nvidia_drv.so":                   "lib x86_64 nvidia_drv.so",
				"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so.535.1": "lib x86_64 libglxserver_nvidia.so",
				"usr/lib64/xorg/modules/extensions/libglxserver_nvidia.so":       "-> libglxserver_nvidia.so.535.1",
				"nvidia_drv.so": "lib x86_64 nvidia_drv.so",
			},
			o: Options{Classes: Graphics},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := libraries("usr/lib64", "x86_64", "550.54.14", "libcuda.so.1", "libnvidia-ml.so.1").with(tt.tree).make(t)
			o := tt.o
			o.Version, o.Arch = "550.54.14", ldcache.X8664
			found, notes, err := Find(root, o)
			require.NoError(t, err)
			for i := range notes {
				notes[i] = strings.ReplaceAll(notes[i], string(root), "ROOT")
			}
			assert.Equal(t, tt.notes, notes)
			found = slices.DeleteFunc(found, func(f File) bool { return f.Kind == Library })
			assert.Equal(t, tt.want, dump(found))
		})
	}
}

// The container's loader must find what a manifest names: a path of the host becomes the SONAME.
func TestFindManifests(t *testing.T) {
	const icd = "etc/vulkan/icd.d/nvidia_icd.json"
	for _, tt := range []struct {
		name, file, in string
		want           string // "": as it is
		notes          []string
	}{
		{name: "as NVIDIA's installer has it", file: icd, in: `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`},
		{
			name: "RPM", file: icd, in: `{ "ICD" : { "library_path" : "/usr/lib64/libGLX_nvidia.so.0", "api_version" : "1.4" } }` + "\n",
			want: `{ "ICD" : { "library_path" : "libGLX_nvidia.so.0", "api_version" : "1.4" } }` + "\n",
		},
		{name: "32 bit", file: "usr/share/vulkan/icd.d/nvidia_icd.i686.json", in: `{"ICD": {"library_path": "/usr/lib/libGLX_nvidia.so.0"}}`, want: `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`},
		{name: "NixOS", file: icd, in: `{"ICD": {"library_path": "/nix/store/aaa-nvidia-x11/lib/libGLX_nvidia.so.0"}}`, want: `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`},
		{name: "versioned name", file: icd, in: `{"ICD": {"library_path": "/usr/lib64/libGLX_nvidia.so.550.54.14"}}`, want: `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`},
		{name: "relative", file: icd, in: `{"ICD": {"library_path": "../../lib/libGLX_nvidia.so.0"}}`, want: `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`},
		{name: "escaped", file: icd, in: `{"ICD": {"library_path": "\/usr\/lib64\/libGLX_nvidia.so.0"}}`, want: `{"ICD": {"library_path": "libGLX_nvidia.so.0"}}`},
		{
			name: "layers", file: "usr/share/vulkan/implicit_layer.d/nvidia_layers.json",
			in:   `{"layers": [{"library_path": "/l/libGLX_nvidia.so.0", "functions": {"a": "/b"}, "n": [1, "x/y"]}, {"library_path": "libnvidia-present.so.1"}, {"x": {"library_path": "/l/libnvidia-present.so.550.54.14"}}], "library_path": 7}`,
			want: `{"layers": [{"library_path": "libGLX_nvidia.so.0", "functions": {"a": "/b"}, "n": [1, "x/y"]}, {"library_path": "libnvidia-present.so.1"}, {"x": {"library_path": "libnvidia-present.so.550.54.14"}}], "library_path": 7}`,
		},
		{name: "EGL", file: "usr/share/glvnd/egl_vendor.d/10_nvidia.json", in: `{"ICD": {"library_path": "/l/libEGL_nvidia.so.0"}}`, want: `{"ICD": {"library_path": "libEGL_nvidia.so.0"}}`},
		{name: "EGL platform", file: "usr/share/egl/egl_external_platform.d/15_nvidia_gbm.json", in: `{"ICD": {"library_path": "/l/libnvidia-egl-gbm.so.1.1.2"}}`, want: `{"ICD": {"library_path": "libnvidia-egl-gbm.so.1"}}`},
		{name: "VulkanSC", file: "etc/vulkansc/icd.d/nvidia_icd_vksc.json", in: `{"ICD": {"library_path": "/l/libnvidia-vksc-core.so.1"}}`, want: `{"ICD": {"library_path": "libnvidia-vksc-core.so.1"}}`},
		{name: "OpenCL", file: "etc/OpenCL/vendors/nvidia.icd", in: "/usr/lib64/libnvidia-opencl.so.1\n", want: "libnvidia-opencl.so.1\n"},
		{name: "OpenCL, by name", file: "etc/OpenCL/vendors/nvidia.icd", in: "libnvidia-opencl.so.1\n"},
		{
			name: "a library that is not there", file: icd, in: `{"ICD": {"library_path": "/usr/lib64/libabsent.so.0"}}`, want: `{"ICD": {"library_path": "libabsent.so.0"}}`,
			notes: []string{`configuration file "ROOT/etc/vulkan/icd.d/nvidia_icd.json" names "/usr/lib64/libabsent.so.0", which is not among the container's libraries`},
		},
		{name: "malformed", file: icd, in: `{"ICD": {"library_path": "/usr/lib64/libGLX_nvidia.so.0"`},
		{name: "another value", file: icd, in: `["library_path", "/usr/lib64/libGLX_nvidia.so.0", {"library_path": ["/a"], "/b": "/c"}]`},
		{
			name: "huge", file: icd, in: `{"ICD": {"library_path": "/usr/lib64/libGLX_nvidia.so.0"}}` + strings.Repeat(" ", maxManifest),
			notes: []string{`configuration file "ROOT/etc/vulkan/icd.d/nvidia_icd.json" is passed unchanged: read ROOT/etc/vulkan/icd.d/nvidia_icd.json: 65594 bytes, more than 65536`},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := libraries("usr/lib64", "x86_64", "550.54.14", "libcuda.so.1", "libnvidia-ml.so.1", "libGLX_nvidia.so.0", "libEGL_nvidia.so.0",
				"libnvidia-opencl.so.1", "libnvidia-present.so.", "libnvidia-vksc-core.so.1").with(files{
				"usr/lib64/libnvidia-egl-gbm.so.1.1.2": "lib x86_64 libnvidia-egl-gbm.so.1", tt.file: tt.in,
			}).make(t)
			found, notes, err := Find(root, Options{Version: "550.54.14", Arch: ldcache.X8664, Classes: All})
			require.NoError(t, err)
			at := slices.IndexFunc(found, func(f File) bool { return f.Kind == Config })
			require.GreaterOrEqual(t, at, 0)
			assert.Equal(t, "/"+tt.file, found[at].Path)
			assert.Equal(t, tt.want, string(found[at].Content))
			assert.Equal(t, tt.want == "", found[at].Content == nil)
			for i := range notes {
				notes[i] = strings.ReplaceAll(notes[i], string(root), "ROOT")
			}
			assert.Equal(t, tt.notes, notes)
		})
	}
}

func FuzzLocalize(f *testing.F) {
	f.Add([]byte(`{"ICD": {"library_path": "\/usr/lib64/libGLX_nvidia.so.0", "a": [1, {"library_path": "/x/y"}]}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		end := 0
		for _, p := range jsonPaths(data) {
			require.GreaterOrEqual(t, p.start, end)
			var name string
			require.NoError(t, json.Unmarshal(data[p.start:p.end], &name))
			assert.Equal(t, name, p.name)
			end = p.end
		}
	})
}

func TestErrors(t *testing.T) {
	root := libraries("usr/lib64", "x86_64", "535.104.05", "libcuda.so.1").make(t)
	_, _, err := Find(root, Options{Version: "550.54.14", Arch: ldcache.X8664})
	var version *VersionError
	require.ErrorAs(t, err, &version)
	assert.Equal(t, &VersionError{
		Kernel: "550.54.14", Found: []string{"535.104.05"}, Where: []string{"/usr/lib64/libcuda.so.535.104.05"},
	}, version)

	_, _, err = Find(files{}.make(t), Options{Version: "550.54.14", Arch: ldcache.X8664})
	var missing *NotFoundError
	require.ErrorAs(t, err, &missing)
	assert.Equal(t, &NotFoundError{Version: "550.54.14", Absent: missing.Absent}, missing)
	require.Len(t, missing.Absent, 1+len(usual64))
	assert.Equal(t, []string{"/etc/ld.so.cache", "/usr/lib/x86_64-linux-gnu"}, missing.Absent[:2])
	assert.True(t, strings.HasPrefix(err.Error(), "no libcuda or libnvidia-ml of driver version 550.54.14 found; looked for and absent: /etc/ld.so.cache, "+
		"/usr/lib/x86_64-linux-gnu, "), err.Error())
}

// packaged are the libraries in packages of the drivers from R470 to R615 (NVIDIA's installer and
// packages for Debian and RHEL, those of Debian, Arch, Gentoo, openSUSE, negativo17 and
// Bottlerocket), with the classes that want them.
var packaged = map[string]string{
	"compute": "libcuda libcudadebugger libnvcuextend libnvidia-compiler libnvidia-compiler-next libnvidia-fatbinaryloader libnvidia-mncc libnvidia-nvvm " +
		"libnvidia-nvvm70 libnvidia-opencl libnvidia-pkcs11 libnvidia-pkcs11-openssl3 libnvidia-ptxjitcompiler libnvidia-tileiras",
	"compute,graphics": "libnvidia-allocator libnvidia-gpucomp",
	"graphics": "libEGL_nvidia libGLESv1_CM_nvidia libGLESv2_nvidia libGLX_nvidia libglxserver_nvidia libnvidia-api libnvidia-cbl libnvidia-egl-gbm " +
		"libnvidia-egl-wayland libnvidia-egl-wayland2 libnvidia-egl-xcb libnvidia-egl-xlib libnvidia-eglcore libnvidia-fbc libnvidia-glcore libnvidia-glsi " +
		"libnvidia-glvkspirv libnvidia-gtk2 libnvidia-gtk3 libnvidia-ifr libnvidia-present libnvidia-rtcore libnvidia-tls libnvidia-vksc-core " +
		"libnvidia-vulkan-producer libnvidia-wayland-client libnvidia-wfb libnvoptix",
	"ngx":     "libnvidia-ngx",
	"utility": "libnvidia-cfg libnvidia-ml libnvidia-nscq libnvidia-sandboxutils libnvsdm",
	"video":   "libnvcuvid libnvidia-encode libnvidia-opticalflow libvdpau_nvidia",
}

func TestPackagedLibraries(t *testing.T) {
	for want, names := range packaged {
		for _, name := range strings.Fields(names) {
			class, _ := (&finder{}).wants(name)
			assert.Equal(t, want, class.String(), name)
		}
	}
}

func TestClasses(t *testing.T) {
	for _, tt := range []struct {
		name  string
		class string
		known bool
	}{
		{"libcuda.so.550.54.14", "compute", true},
		{"libcudadebugger.so.1", "compute", true},
		{"libnvidia-ml", "utility", true},
		{"libnvidia-gpucomp.so.550.54.14", "compute,graphics", true},
		{"libnvidia-egl-xlib.so.1", "graphics", true},
		{"libnvidia-eglcore.so.1", "graphics", true},
		{"libnvidia-encode.so.1", "video", true},
		{"libnvidia-nvvm70.so.4", "compute", true},
		{"libnvidia-pkcs11-openssl3.so.550.54.14", "compute", true},
		{"libnvidia-ngx.so.1", "ngx", true},
		{"nvidia-smi", "utility", true},
		{"nvidia-cuda-mps-server", "compute", true},
		{"libnvidia-sandboxutils.so.1", "utility", true},
		{"libnvidia-vksc-core.so.1", "graphics", true},
		{"nvidia-imex", "compute,utility", true},
		{"nvidia-imex-ctl", "compute,utility", true},
		{"libnvidia-tomorrow.so.1", "", false},
		{"libc.so.6", "", false},
		{"", "", false},
	} {
		class, known := ClassOf(tt.name)
		assert.Equal(t, tt.known, known, tt.name)
		assert.Equal(t, tt.class, class.String(), tt.name)
	}
	assert.Equal(t, "compute,compat32,display,graphics,ngx,utility,video", All.String())
	for _, word := range []string{"compute", "compat32", "display", "graphics", "ngx", "utility", "video"} {
		class, ok := ParseClass(word)
		assert.True(t, ok)
		assert.Equal(t, word, class.String())
	}
	all, ok := ParseClass("all")
	assert.True(t, ok)
	assert.Equal(t, All, all)
	for _, word := range []string{"", "Compute", "compute ", "none", "compute,utility"} {
		class, ok := ParseClass(word)
		assert.False(t, ok, word)
		assert.Zero(t, class, word)
	}
}

// The tree must resolve every name like the root, or like the kernel.
func TestTree(t *testing.T) {
	tree := files{
		"a/b/file": "x", "a/link": "-> b", "a/up": "-> ../a/link/..", "abs": "-> /a/b", "out": "-> ../../../a/b/file",
		"loop": "-> loop", "loop1": "-> loop2", "loop2": "-> /loop1", "dead": "-> nowhere",
		"self": "-> .", "root": "-> /", "slash": "-> a/b/", "pipe": "fifo", "many0": "-> a",
		"through": "-> a/b/file/..", "fileslash": "-> a/b/file/",
	}
	for i := 1; i <= 60; i++ {
		tree[fmt.Sprintf("many%d", i)] = fmt.Sprintf("-> many%d", i-1)
	}
	root := tree.make(t)
	for _, listed := range []bool{false, true} {
		looked := newTree(root)
		if listed {
			looked.list("/")
			looked.list("/a")
			looked.list("/a/b")
		}
		for _, name := range []string{
			"/", "/a", "/a/b", "/a/b/file", "/a/link/file", "/a/up", "/a/up/b", "/abs/file", "/out", "/loop", "/loop1", "/dead",
			"/self/self/self/a", "/root/root/abs/file", "/slash", "/slash/file", "/a/b/file/x", "/pipe", "/many60", "/many1", "/a//b/./file",
		} {
			want, err := root.Resolve(name)
			if err != nil {
				want = ""
			}
			assert.Equal(t, want, looked.lookup(name).path, "%s, listed: %t", name, listed)
		}
		for _, name := range []string{"/through", "/fileslash", "/absent/../a", "/pipe/"} {
			assert.Zero(t, looked.lookup(name), "%s, listed: %t", name, listed)
		}
	}
}

// Each name is examined once.
func TestTreeRemembers(t *testing.T) {
	root := files{"a/b/file": "x", "link": "-> a/b"}.make(t)
	looked := newTree(root)
	want := looked.lookup("/link/file")
	require.Equal(t, "/a/b/file", want.path)
	require.NoError(t, os.RemoveAll(root.Path("/")))
	assert.Equal(t, want, looked.lookup("/link/file"))
	assert.Equal(t, fs.FileMode(0), looked.lookup("/a/b/file").mode.Type())
}

func BenchmarkFind(b *testing.B) {
	tree := desktop()
	cache := "cache\n"
	for name := range tree {
		if strings.HasPrefix(name, debian+"/lib") && !strings.Contains(name, "470") {
			cache += path.Base(name) + " x86_64 /" + name + "\n"
		}
	}
	root := tree.with(files{"etc/ld.so.cache": cache}).make(b)
	for b.Loop() {
		if _, _, err := Find(root, Options{Version: "470.256.02", Arch: ldcache.X8664, Classes: All}); err != nil {
			b.Fatal(err)
		}
	}
}

// Every user of the machine can write to the parent of the MPS directory: what others put there is
// not mounted.
func TestFindMPSOfAnotherUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED: needs root, to make a directory that belongs to another user")
	}
	root := files{"tmp/nvidia-mps": "dir", "usr/lib64/libcuda.so.550.54.14": "lib x86_64 libcuda.so.1"}.make(t)
	o := Options{Version: "550.54.14", Arch: ldcache.X8664, Classes: Compute}
	has := func(f File) bool { return f.Kind == Directory }
	got, _, err := Find(root, o)
	require.NoError(t, err)
	assert.True(t, slices.ContainsFunc(got, has))
	require.NoError(t, os.Chown(root.Path("/tmp/nvidia-mps"), 12345, 12345))
	got, _, err = Find(root, o)
	require.NoError(t, err)
	assert.False(t, slices.ContainsFunc(got, has))
}

// Entries whose type changed since they were listed are rejected, and nothing blocks.
func TestReadELFFileRefuses(t *testing.T) {
	root := files{"pipe": "fifo", "socket": "socket", "dir": "dir", "link": "-> lib.so", "lib.so": "lib x86_64 lib.so"}.make(t)
	for _, name := range []string{"pipe", "socket", "dir", "link", "absent"} {
		got, err := readELFFile(root.Path(name))
		assert.Error(t, err, name)
		assert.Zero(t, got, name)
	}
	got, err := readELFFile(root.Path("lib.so"))
	require.NoError(t, err)
	assert.Equal(t, elfInfo{Arch: ldcache.X8664, SONAME: "lib.so"}, got)
}
