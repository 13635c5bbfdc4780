// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"debug/elf"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// Layout says where an image's loader looks for libraries.
type Layout struct {
	// Debian is set if the libraries of several architectures lie side by side, as in
	// /usr/lib/x86_64-linux-gnu: etc/debian_version is a regular file, or libc is in such a
	// directory.
	Debian bool
	// LibDir is the directory for libraries of the machine: a path in the container, all links in it
	// resolved, that may be missing. It is never empty.
	LibDir string
	// LibDir32 is the directory for libraries of 32-bit x86 on x86-64. It is empty on other
	// machines, and where the image has but one directory for both.
	LibDir32 string
	// Musl is the name of the loader, such as ld-musl-x86_64.so.1, if the image's C library is
	// musl.
	Musl string
}

// arch is what the layout of an image depends on.
type arch struct {
	multiarch string // as printed by gcc -print-multiarch, the directory below /usr/lib on Debian
	lib       string // where others have the libraries of this machine
	musl      string // in the name of musl's loader, LDSO_ARCH in its source
}

var archs = map[elf.Machine]arch{
	elf.EM_X86_64:  {"x86_64-linux-gnu", "/usr/lib64", "x86_64"},
	elf.EM_AARCH64: {"aarch64-linux-gnu", "/usr/lib64", "aarch64"},
	elf.EM_386:     {"i386-linux-gnu", "/usr/lib", "i386"},
	elf.EM_ARM:     {"arm-linux-gnueabihf", "/usr/lib", "armhf"},
	elf.EM_PPC64:   {"powerpc64le-linux-gnu", "/usr/lib64", "powerpc64le"},
	elf.EM_RISCV:   {"riscv64-linux-gnu", "/usr/lib64", "riscv64"},
}

// Layout looks where the libraries of the image are. The arguments libc and libc32 are where the
// image's own ld.so.cache has libc.so.6 for the machine and for 32-bit x86, and empty if it does
// not say. They are hostile: used is only the directory, and only if it and what it resolves to are
// absolute, clean, short paths outside /proc, /sys and /dev, if it is a directory with a regular
// file of that name. A directory such as /lib64 counts as /usr/lib64 where there is one.
//
// Without them the loader's usual directories are searched for libc.so.6. An image that has none,
// but has musl's loader, gets a directory that musl searches. Else it is the distribution's rule:
// /usr/lib/<multiarch> if there is etc/debian_version, /usr/lib64 if not.
//
// The result depends on nothing else, nothing is executed, and odd things count as absent.
func (f *FS) Layout(machine elf.Machine, libc, libc32 string) Layout {
	a, known := archs[machine]
	if !known {
		a.lib = "/usr/lib64"
	}
	l := Layout{Debian: f.isRegular("etc/debian_version")}

	// Directories in the order in which the distribution would be asked.
	dirs := []string{a.lib, "/usr/lib"}
	if known {
		multiarch := "/usr/lib/" + a.multiarch
		if l.Debian {
			dirs = []string{multiarch, a.lib, "/usr/lib"}
		} else {
			dirs = []string{a.lib, multiarch, "/usr/lib"}
		}
	}

	dir, ok := f.libcDir(libc)
	if !ok && !l.Debian && known {
		if loader := "ld-musl-" + a.musl + ".so.1"; f.isRegular("lib/" + loader) {
			l.Musl = loader
			dir, ok = f.muslDir(loader), true
		}
	}
	for _, d := range dirs {
		if !ok {
			dir, ok = f.libcDir(d + "/libc.so.6")
		}
		if !ok {
			dir, ok = f.libcDir(strings.TrimPrefix(d, "/usr") + "/libc.so.6")
		}
	}
	if !ok {
		if !l.Debian {
			dirs = []string{a.lib, "/usr/lib"}
		}
		dir = f.firstDir(dirs)
	}
	l.LibDir = dir
	if known && path.Base(dir) == a.multiarch {
		l.Debian = true
	}

	if machine != elf.EM_X86_64 || l.Musl != "" {
		return l
	}
	dir, ok = f.libcDir(libc32)
	if !ok {
		dirs := []string{"/usr/lib"}
		switch {
		case l.Debian:
			dirs = []string{"/usr/lib/i386-linux-gnu", "/usr/lib32", "/usr/lib"}
		case f.IsDir("usr/lib32"):
			dirs = []string{"/usr/lib32", "/usr/lib"}
		}
		dir = f.firstDir(dirs)
	}
	if dir != l.LibDir {
		l.LibDir32 = dir
	}
	return l
}

// libcDir returns the directory of a libc.so.6, if it may be used and the file is there.
func (f *FS) libcDir(libc string) (string, bool) {
	if path.Base(libc) != "libc.so.6" || path.Clean(libc) != libc || !placeable(path.Dir(libc)) || !f.isRegular(libc) {
		return "", false
	}
	return f.libraryDir(path.Dir(libc))
}

// firstDir returns the first of the directories that may be used, or that is not there and so can be
// made; the first of all if there is none.
func (f *FS) firstDir(dirs []string) string {
	for _, d := range dirs {
		if real, ok := f.libraryDir(d); ok {
			return real
		}
		if handle, err := f.open(d, 0, false); err == nil {
			unix.Close(handle)
		} else if err == unix.ENOENT {
			return d
		}
	}
	return dirs[0]
}

// libraryDir resolves a directory in the root, to its form below /usr if it has one, and reports
// whether libraries may be placed there.
func (f *FS) libraryDir(dir string) (string, bool) {
	real, ok := f.realDir(dir)
	if !ok || strings.HasPrefix(real, "/usr/") {
		return real, ok
	}
	if usr, ok := f.realDir("/usr" + real); ok && strings.HasPrefix(usr, "/usr/") {
		return usr, true
	}
	return real, true
}

func (f *FS) realDir(dir string) (string, bool) {
	handle, err := f.open(dir, unix.O_DIRECTORY, false)
	if err != nil {
		return "", false
	}
	defer unix.Close(handle)
	real, err := f.realName(handle)
	if err != nil || !placeable(real) {
		return "", false
	}
	return real, true
}

// placeable reports whether a name that an image chose may be used as a directory in the container:
// absolute, clean, short, of harmless characters, and no place where the kernel's or the runtime's
// own file systems are mounted.
func placeable(dir string) bool {
	const most = 255
	if len(dir) < 2 || len(dir) > most || dir[0] != '/' || path.Clean(dir) != dir {
		return false
	}
	for _, c := range []byte(dir) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		case strings.IndexByte("/._+-~@=", c) >= 0:
		default:
			return false
		}
	}
	switch first, _, _ := strings.Cut(dir[1:], "/"); first {
	case "proc", "sys", "dev":
		return false
	}
	return true
}
