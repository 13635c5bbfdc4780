// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package driver finds the files of the user-mode NVIDIA driver below a root: libraries, programs,
// sockets, GSP firmware and configuration files, by driver capability.
//
// The main function is [Find]. It executes nothing, follows symbolic links only inside the root,
// and takes only files of the version that the loaded kernel module reports.
package driver

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Kind is the type of a [File], which decides how to mount it.
type Kind int

// The kinds of files, in the order in which [Find] returns them.
const (
	Library    Kind = iota + 1 // shared library, in addition to the container's own
	Binary                     // program
	XorgModule                 // module of the X server
	Config                     // ICD, layer and profile files; also nvoptix.bin
	Firmware                   // GSP firmware
	Socket                     // socket of a daemon
	Directory                  // directory of sockets: MPS
)

// String returns "library", "binary" and so on.
func (k Kind) String() string {
	names := [...]string{"unknown", "library", "binary", "xorg module", "config", "firmware", "socket", "directory"}
	if k < 0 || int(k) >= len(names) {
		k = 0
	}
	return names[k]
}

// Link is a symbolic link to create next to a file. Name and Target are relative to the directory
// of the file in the container; Name may contain one directory.
type Link struct {
	Name   string // "libcuda.so.1", "gbm/nvidia-drm_gbm.so"
	Target string // "libcuda.so.550.54.14", "../libnvidia-allocator.so.1"
}

// File is one file of the driver.
type File struct {
	// Path is the path inside the root with all symbolic links resolved. The root's Path of it is
	// the source of the mount.
	Path string
	// Name is the base name in the container.
	Name string
	Kind Kind
	// Class are the classes that want the file; 0 means all of them. A library of an unknown family
	// has Compute, or Graphics if its name says so.
	Class Class
	// SONAME is the SONAME of a library, or its file name if it has none.
	SONAME string
	// Bits is 32 or 64 for libraries and 0 otherwise.
	Bits int
	// Subdir is the directory below the library directory: "vdpau", "gbm", or "".
	Subdir string
	// Dest is the absolute path in the container, except for libraries.
	Dest string
	// Links are the other names of the file, sorted by name.
	Links []Link
	// Content, if not nil, replaces the content of the file in the container: a manifest that names
	// a library by its path on the host, with that path reduced to the SONAME, so that the
	// container's loader finds the library wherever it is. Path is then the original manifest. Only
	// configuration files have it.
	Content []byte
}

// Options say what [Find] looks for. All paths are absolute paths inside the root; others are
// ignored.
type Options struct {
	// Version is the version of the kernel module, "550.54.14".
	Version string
	// Arch is the architecture of the container's programs. Compat32 adds its 32-bit one.
	Arch    ldcache.Arch
	Classes Class
	// SearchPath lists directories of libraries, searched before all others.
	SearchPath []string
	// Cache is the loader's cache, /etc/ld.so.cache by default.
	Cache string
	// Path lists directories of programs, searched before the usual ones.
	Path []string
	// DataDirs lists the directories of configuration files after /etc, by default /usr/local/share
	// and /usr/share. That of NixOS comes after them.
	DataDirs []string
	// KernelRelease is the output of uname -r, which some firmware directories have in their names.
	KernelRelease string
	// MPSDirectory is the directory of the CUDA multi-process service, /tmp/nvidia-mps by default.
	MPSDirectory string
}

// Find returns the files of the driver that o.Classes want, sorted by kind, name and place. Missing
// optional files are omitted. Each note is a sentence about something that was found but omitted,
// or may not be what the operator expects.
//
// The error is a [*VersionError] if there are only libraries of other versions, a [*NotFoundError]
// if there are none at all, and a [*DamagedError] if libcuda or libnvidia-ml is needed but damaged.
func Find(root sysfs.Root, o Options) (files []File, notes []string, err error) {
	if !isVersion(o.Version) {
		return nil, nil, errors.New("driver version " + quote(o.Version) + ": not a version")
	}
	t := newTree(root)
	f, err := newFinder(t, o)
	if err != nil {
		return nil, nil, err
	}
	if err := f.find(); err != nil {
		return nil, nil, err
	}
	files = append(f.libs, findBinaries(t, o, f.dirs)...)
	files = append(files, findXorg(t, o, f.dirs)...)
	files = append(files, findConfigs(t, o, f.libs)...)
	firmware, err := findFirmware(t, o)
	if err != nil {
		return nil, nil, err
	}
	files = append(files, firmware...)
	files = append(files, findSockets(t, o)...)
	if t.fault != nil {
		return nil, nil, fmt.Errorf("looking for the driver's files: %w", t.fault)
	}
	slices.SortFunc(files, compareFiles)
	return files, t.notes, nil
}

func compareFiles(a, b File) int {
	if a.Kind != b.Kind {
		return int(a.Kind) - int(b.Kind)
	}
	if a.Bits != b.Bits {
		return b.Bits - a.Bits
	}
	if c := strings.Compare(a.Dest, b.Dest); c != 0 {
		return c
	}
	if c := strings.Compare(a.Subdir, b.Subdir); c != 0 {
		return c
	}
	return strings.Compare(a.Name, b.Name)
}

// isVersion reports whether s is a driver version: two or three groups of digits, the first of at
// least two digits ("96.43.09", "550.54.14", "595.84"). The "1.1" of WSL's libcuda.so.1.1 is not
// one.
func isVersion(s string) bool {
	if len(s) > 32 {
		return false
	}
	groups := strings.Split(s, ".")
	if len(groups) < 2 || len(groups) > 3 || len(groups[0]) < 2 {
		return false
	}
	return !slices.ContainsFunc(groups, func(g string) bool { return !isDigits(g) })
}

func isDigits(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}

// validName reports whether s can be the name of a directory entry.
func validName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > 255 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f || r == 0xfffd })
}

// absolute returns the absolute ones among names, cleaned.
func absolute(names []string) []string {
	var clean []string
	for _, name := range names {
		if path.IsAbs(name) {
			clean = append(clean, path.Clean(name))
		}
	}
	return clean
}
