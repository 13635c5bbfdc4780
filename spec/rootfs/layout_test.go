// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"debug/elf"
	"path"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	debian64 = "/usr/lib/x86_64-linux-gnu"
	debian32 = "/usr/lib/i386-linux-gnu"
)

func TestLayout(t *testing.T) {
	debian := tree{
		"etc/debian_version": "12.5\n", "lib": "-> usr/lib", "lib64": "-> usr/lib64",
		"usr/lib/x86_64-linux-gnu/libc.so.6":            "x",
		"usr/lib64/ld-linux-x86-64.so.2":                "-> ../lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
		"usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2": "x",
	}
	unmerged := tree{
		"etc/debian_version": "10.1\n", "lib/x86_64-linux-gnu/libc.so.6": "-> libc-2.28.so",
		"lib/x86_64-linux-gnu/libc-2.28.so": "x", "usr/lib/x86_64-linux-gnu/libz.so.1": "x", "lib64/ld-linux-x86-64.so.2": "x",
	}
	fedora := tree{"lib": "-> usr/lib", "lib64": "-> usr/lib64", "usr/lib64/libc.so.6": "x", "usr/lib/os-release": "x"}
	arch := tree{"lib": "-> usr/lib", "lib64": "-> usr/lib", "usr/lib64": "-> lib", "usr/lib/libc.so.6": "x"}
	alpine := tree{"etc/alpine-release": "3.20.0\n", "lib/ld-musl-x86_64.so.1": "x", "lib/libc.musl-x86_64.so.1": "-> ld-musl-x86_64.so.1", "usr/lib/libz.so.1": "x"}
	long := "/" + strings.Repeat("very-long/", 40) + "lib"
	fedoraLayout := Layout{LibDir: "/usr/lib64", LibDir32: "/usr/lib"}
	debianLayout := Layout{Debian: true, LibDir: debian64, LibDir32: debian32}

	for _, tt := range []struct {
		name         string
		content      tree
		machine      elf.Machine // x86-64 if 0
		libc, libc32 string
		want         Layout
	}{
		{name: "Debian", content: debian, libc: "/lib/x86_64-linux-gnu/libc.so.6", want: debianLayout},
		{name: "Debian without cache", content: debian, want: debianLayout},
		{name: "Debian without libc", content: tree{"etc/debian_version": "12\n"}, want: debianLayout},
		{name: "Debian with 32-bit libc", content: debian.with(tree{"usr/lib/i386-linux-gnu/libc.so.6": "x"}), libc: "/lib/x86_64-linux-gnu/libc.so.6", libc32: "/lib/i386-linux-gnu/libc.so.6", want: debianLayout},
		{name: "Debian with lib32 in the cache", content: debian.with(tree{"usr/lib32/libc.so.6": "x"}), libc32: "/usr/lib32/libc.so.6", want: Layout{Debian: true, LibDir: debian64, LibDir32: "/usr/lib32"}},
		{name: "Debian before merged usr", content: unmerged, libc: "/lib/x86_64-linux-gnu/libc.so.6", want: debianLayout},
		{name: "Debian before merged usr, without cache", content: unmerged, want: debianLayout},
		{name: "no usr form", content: tree{"lib/x86_64-linux-gnu/libc.so.6": "x"}, libc: "/lib/x86_64-linux-gnu/libc.so.6", want: Layout{Debian: true, LibDir: "/lib/x86_64-linux-gnu", LibDir32: debian32}},
		{name: "distroless: multiarch without debian_version", content: debian.with(tree{"etc/debian_version": "gone"}), want: debianLayout},
		{
			name: "Debian on arm64", machine: elf.EM_AARCH64, libc: "/lib/aarch64-linux-gnu/libc.so.6",
			content: tree{"etc/debian_version": "12\n", "lib": "-> usr/lib", "usr/lib/aarch64-linux-gnu/libc.so.6": "x"},
			want:    Layout{Debian: true, LibDir: "/usr/lib/aarch64-linux-gnu"},
		},
		{name: "Debian of another machine", machine: elf.EM_S390, content: tree{"etc/debian_version": "12\n"}, want: Layout{Debian: true, LibDir: "/usr/lib64"}},
		{name: "Fedora", content: fedora, libc: "/lib64/libc.so.6", want: fedoraLayout},
		{name: "Fedora without cache", content: fedora, want: fedoraLayout},
		{name: "Fedora with 32-bit libc", content: fedora.with(tree{"usr/lib/libc.so.6": "x"}), libc: "/lib64/libc.so.6", libc32: "/lib/libc.so.6", want: fedoraLayout},
		{name: "Fedora on arm64", machine: elf.EM_AARCH64, content: fedora, libc: "/lib64/libc.so.6", want: Layout{LibDir: "/usr/lib64"}},
		{name: "CentOS 6 before merged usr", content: tree{"lib64/libc.so.6": "x", "usr/lib64/libz.so": "x", "lib/x": "x", "usr/lib/x": "x"}, libc: "/lib64/libc.so.6", want: fedoraLayout},
		{name: "SUSE", content: tree{"lib64/libc.so.6": "x", "usr/lib64/libz.so": "x", "usr/lib/x": "x"}, want: fedoraLayout},
		{name: "Arch", content: arch, libc: "/usr/lib/libc.so.6", want: Layout{LibDir: "/usr/lib"}},
		{name: "Arch without cache", content: arch, want: Layout{LibDir: "/usr/lib"}},
		{name: "Arch with multilib", content: arch.with(tree{"usr/lib32/libc.so.6": "x"}), libc: "/usr/lib/libc.so.6", libc32: "/usr/lib32/libc.so.6", want: Layout{LibDir: "/usr/lib", LibDir32: "/usr/lib32"}},
		{name: "Arch with multilib, without cache", content: arch.with(tree{"usr/lib32/x": "x"}), want: Layout{LibDir: "/usr/lib", LibDir32: "/usr/lib32"}},
		{name: "Buildroot: lib64 is lib, no usr form", content: tree{"lib/libc.so.6": "x", "lib64": "-> lib"}, want: Layout{LibDir: "/lib", LibDir32: "/usr/lib"}},
		{name: "Yocto: only lib", content: tree{"lib/libc.so.6": "x", "usr/lib/x": "x"}, want: Layout{LibDir: "/usr/lib"}},
		{name: "NixOS: the cache names a store path", content: tree{"nix/store/abc-glibc-2.39/lib/libc.so.6": "x"}, libc: "/nix/store/abc-glibc-2.39/lib/libc.so.6", want: Layout{LibDir: "/nix/store/abc-glibc-2.39/lib", LibDir32: "/usr/lib"}},
		{name: "empty", content: nil, want: fedoraLayout},
		{name: "static program only", content: tree{"app": "x"}, want: fedoraLayout},
		{name: "Alpine", content: alpine, want: Layout{LibDir: "/usr/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "Alpine with merged usr", content: tree{"lib": "-> usr/lib", "usr/lib/ld-musl-x86_64.so.1": "x"}, want: Layout{LibDir: "/usr/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "Alpine on arm64", machine: elf.EM_AARCH64, content: tree{"lib/ld-musl-aarch64.so.1": "x", "usr/lib/x": "x"}, want: Layout{LibDir: "/usr/lib", Musl: "ld-musl-aarch64.so.1"}},
		{name: "Alpine for another machine", machine: elf.EM_AARCH64, content: alpine, want: Layout{LibDir: "/usr/lib64"}},
		{name: "Alpine with gcompat", content: alpine.with(tree{"lib/libc.so.6": "-> libgcompat.so.0", "lib/libgcompat.so.0": "x"}), want: Layout{LibDir: "/usr/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "musl without usr/lib", content: tree{"lib/ld-musl-x86_64.so.1": "x"}, want: Layout{LibDir: "/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "musl with a path file", content: alpine.with(tree{"etc/ld-musl-x86_64.path": "/lib:/opt/lib\n/proc:/missing", "opt/lib/x": "x"}), want: Layout{LibDir: "/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "musl with a path file of one directory", content: alpine.with(tree{"etc/ld-musl-x86_64.path": "/missing\n/proc\n/opt/lib\n", "opt/lib/x": "x", "proc/x": "x"}), want: Layout{LibDir: "/opt/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "musl with a path file that is a FIFO", content: alpine.with(tree{"etc/ld-musl-x86_64.path": "fifo"}), want: Layout{LibDir: "/usr/lib", Musl: "ld-musl-x86_64.so.1"}},
		{name: "musl loader is a FIFO", content: tree{"lib/ld-musl-x86_64.so.1": "fifo"}, want: fedoraLayout},
		{name: "musl beside glibc", content: debian.with(tree{"usr/lib/ld-musl-x86_64.so.1": "x"}), libc: "/lib/x86_64-linux-gnu/libc.so.6", want: debianLayout},

		{name: "debian_version is a FIFO", content: fedora.with(tree{"etc/debian_version": "fifo"}), want: fedoraLayout},
		{name: "debian_version is a directory", content: fedora.with(tree{"etc/debian_version": "dir"}), want: fedoraLayout},
		{name: "debian_version is a socket", content: fedora.with(tree{"etc/debian_version": "socket"}), want: fedoraLayout},
		{name: "debian_version is a link to the host", content: fedora.with(tree{"etc/debian_version": "-> HOST/etc/debian_version"}), want: fedoraLayout},
		{name: "etc is a link to the host", content: fedora.with(tree{"etc": "-> HOST/etc"}), want: fedoraLayout},

		{name: "libc up and out", content: fedora.with(tree{"x/libc.so.6": "x"}), libc: "/../x/libc.so.6", want: fedoraLayout},
		{name: "libc through dot", content: fedora.with(tree{"x/libc.so.6": "x"}), libc: "/./x/libc.so.6", want: fedoraLayout},
		{name: "libc relative", content: fedora.with(tree{"x/libc.so.6": "x"}), libc: "x/libc.so.6", want: fedoraLayout},
		{name: "libc in proc", content: fedora.with(tree{"proc/1/root/lib/libc.so.6": "x"}), libc: "/proc/1/root/lib/libc.so.6", want: fedoraLayout},
		{name: "libc in sys", content: fedora.with(tree{"sys/libc.so.6": "x"}), libc: "/sys/libc.so.6", want: fedoraLayout},
		{name: "libc in dev", content: fedora.with(tree{"dev/shm/libc.so.6": "x"}), libc: "/dev/shm/libc.so.6", want: fedoraLayout},
		{name: "libc in dev through a link", content: fedora.with(tree{"dev/shm/libc.so.6": "x", "x": "-> /dev/shm"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc in proc, the hidden way", content: fedora.with(tree{"proc/x/libc.so.6": "x", "x": "-> ../../../proc/./x"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc in the root", content: fedora.with(tree{"libc.so.6": "x"}), libc: "/libc.so.6", want: fedoraLayout},
		{name: "libc in the root through a link", content: fedora.with(tree{"libc.so.6": "x", "x": "-> /"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc on the host", content: fedora.with(tree{"x": "-> HOST/lib"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc on the host, relative", content: fedora.with(tree{"x": "-> ../host/lib"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc on the host by name", content: fedora, libc: "HOST/lib/libc.so.6", want: fedoraLayout},
		{name: "libc is a link to the host", content: fedora.with(tree{"x/libc.so.6": "-> HOST/lib/libc.so.6"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc is a directory", content: fedora.with(tree{"x/libc.so.6": "dir"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc is a FIFO", content: fedora.with(tree{"x/libc.so.6": "fifo"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc is missing", content: fedora.with(tree{"x": "dir"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc of another name", content: fedora.with(tree{"x/libd.so.6": "x"}), libc: "/x/libd.so.6", want: fedoraLayout},
		{name: "libc in a name of 400 bytes", content: fedora.with(tree{long[1:] + "/libc.so.6": "x"}), libc: long + "/libc.so.6", want: fedoraLayout},
		{name: "libc in what resolves to a name of 400 bytes", content: fedora.with(tree{long[1:] + "/libc.so.6": "x", "x": "-> " + long}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc in a name of 4 KiB", content: fedora, libc: "/" + strings.Repeat("x", 4096) + "/libc.so.6", want: fedoraLayout},
		{name: "libc in a name with a newline", content: fedora.with(tree{"x\ny/libc.so.6": "x"}), libc: "/x\ny/libc.so.6", want: fedoraLayout},
		{name: "libc in what resolves to a name with a colon", content: fedora.with(tree{"x:y/libc.so.6": "x", "x": "-> x:y"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc in a loop", content: fedora.with(tree{"x": "-> x"}), libc: "/x/libc.so.6", want: fedoraLayout},
		{name: "libc with a NUL", content: fedora, libc: "/x\x00/libc.so.6", want: fedoraLayout},
		{name: "usr form is a link elsewhere", content: tree{"lib64/libc.so.6": "x", "usr/lib64": "-> /opt", "opt/x": "x"}, libc: "/lib64/libc.so.6", want: Layout{LibDir: "/lib64", LibDir32: "/usr/lib"}},
		{name: "usr form leads into proc", content: tree{"lib64/libc.so.6": "x", "usr/lib64": "-> /proc", "proc/x": "x"}, libc: "/lib64/libc.so.6", want: Layout{LibDir: "/lib64", LibDir32: "/usr/lib"}},
		{name: "32-bit libc where the other is", content: fedora, libc: "/lib64/libc.so.6", libc32: "/lib64/libc.so.6", want: Layout{LibDir: "/usr/lib64"}},
		{name: "32-bit libc on the host", content: fedora.with(tree{"lib32": "-> HOST/lib"}), libc: "/lib64/libc.so.6", libc32: "/lib32/libc.so.6", want: fedoraLayout},
		{name: "the rule's directory is a file", content: tree{"usr/lib64": "x"}, want: Layout{LibDir: "/usr/lib"}},
		{name: "the rule's directory leads into dev", content: tree{"usr/lib64": "-> /dev", "dev/x": "x"}, want: Layout{LibDir: "/usr/lib"}},
		{name: "all directories are bad", content: tree{"usr": "x"}, want: fedoraLayout},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, host := machine(t, tt.content)
			before := dump(t, root)
			if tt.machine == 0 {
				tt.machine = elf.EM_X86_64
			}
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				got := open(root).Layout(tt.machine, strings.ReplaceAll(tt.libc, "HOST", host), tt.libc32)
				assert.Equal(t, tt.want, got)
			})
			assert.Equal(t, before, dump(t, root))
		})
	}
}

// TestLayoutOfThisMachine looks at a system that is surely real.
func TestLayoutOfThisMachine(t *testing.T) {
	f, err := Open("/")
	require.NoError(t, err)
	defer f.Close()
	l := f.Layout(elf.EM_X86_64, "", "")
	assert.True(t, path.IsAbs(l.LibDir))
	assert.NotEqual(t, l.LibDir, l.LibDir32)
}

func FuzzPlaceable(f *testing.F) {
	for _, dir := range []string{"/usr/lib", "/lib/x86_64-linux-gnu", "", "/", "//", "/a/../b", "/a/./b", "/proc", "/proc/1/root", "/procs", "/sys/x", "/dev", "/a\x00", "/a:b", "relative", "/a/"} {
		f.Add(dir)
	}
	f.Fuzz(func(t *testing.T, dir string) {
		if !placeable(dir) {
			return
		}
		assert.True(t, path.IsAbs(dir))
		assert.Equal(t, path.Clean(dir), dir)
		assert.LessOrEqual(t, len(dir), 255)
		assert.False(t, strings.ContainsAny(dir, "\x00\n:,\"\\ "))
		for _, bad := range []string{"/proc/", "/sys/", "/dev/"} {
			assert.False(t, strings.HasPrefix(dir+"/", bad))
		}
	})
}
