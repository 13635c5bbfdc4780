// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package driver finds the files of the user-mode NVIDIA driver below a root: libraries, programs,
// sockets, GSP firmware and configuration files, by driver capability.
//
// [Find] does it all. It executes nothing, follows links only inside the root, and
// takes exactly the version that the loaded kernel module reports.
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

// Kind tells what a [File] is, and so how it is to be mounted.
type Kind int

// The kinds of files, in the order in which [Find] returns them.
const (
	Library    Kind = iota + 1 // shared library, beside the container's own libraries
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

// Link is a symbolic link to be made beside a file. Name and Target are relative to the
// directory that holds the file in the container; Name may have one directory in it.
type Link struct {
	Name   string // "libcuda.so.1", "gbm/nvidia-drm_gbm.so"
	Target string // "libcuda.so.550.54.14", "../libnvidia-allocator.so.1"
}

// File is one file of the driver.
type File struct {
	// Path is the name inside the root with every link resolved; the root's Path of
	// it is the source of the mount.
	Path string
	// Name is the base name in the container.
	Name string
	Kind Kind
	// Class tells which classes want the file; 0 means all do. A library of no known family has
	// Compute, or Graphics if its name says so.
	Class Class
	// SONAME is what a library calls itself; its file name if it does not tell.
	SONAME string
	// Bits is 32 or 64 for libraries and 0 for all else.
	Bits int
	// Subdir is the directory below the library directory: "vdpau", "gbm", or "".
	Subdir string
	// Dest is the absolute path in the container, for all but libraries.
	Dest string
	// Links are the further names of the file, sorted by name.
	Links []Link
	// Content, where it is not nil, is what the container gets at Dest instead of the file at Path:
	// a manifest that names a library by a path of the host, with the SONAME in that path's place,
	// so that the container's loader finds the library wherever it is put. Path then tells what it
	// was made from. Only configuration files have it.
	Content []byte
}

// Options say what [Find] looks for. All names are absolute names inside the root; others
// are passed over.
type Options struct {
	// Version is the version of the kernel module, "550.54.14".
	Version string
	// Arch is the architecture of the container's programs. With Compat32 its 32-bit one joins it.
	Arch    ldcache.Arch
	Classes Class
	// SearchPath has directories of libraries, looked into before all others.
	SearchPath []string
	// Cache is the loader's cache, by default /etc/ld.so.cache.
	Cache string
	// Path has directories of programs, looked into before the usual ones.
	Path []string
	// DataDirs has the directories of configuration files after /etc, by
	// default /usr/local/share and /usr/share. That of NixOS comes after them.
	DataDirs []string
	// KernelRelease is what uname -r prints; some firmware directories have it in their names.
	KernelRelease string
	// MPSDirectory is the directory of the CUDA multi-process service, by
	// default /tmp/nvidia-mps.
	MPSDirectory string
}

// Find returns the files of the driver that o.Classes want, sorted by kind, name and place.
// Optional files that are missing are missing in the result too. The notes say, a sentence each,
// what was found and is not among the files, or is not as the operator may expect it.
//
// The error is a [*VersionError] if only libraries of other versions are there and a
// [*NotFoundError] if there are none at all. A loader's cache or a library that is there but
// malformed is an error as well.
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
// least two digits ("96.43.09", "550.54.14", "595.84"). So the "1.1" of WSL's libcuda.so.1.1 is
// none.
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

// validName reports whether s can be the name of a file in one directory.
func validName(s string) bool {
	if s == "" || s == "." || s == ".." || len(s) > 255 {
		return false
	}
	return !strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f || r == 0xfffd })
}

// absolute returns the clean form of those names that are absolute.
func absolute(names []string) []string {
	var clean []string
	for _, name := range names {
		if path.IsAbs(name) {
			clean = append(clean, path.Clean(name))
		}
	}
	return clean
}
