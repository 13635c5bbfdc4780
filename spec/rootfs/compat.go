// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Compat is the forward compatibility package of an image, in /usr/local/cuda/compat: user-mode
// driver libraries that may be newer than the host's driver. We neither mount nor execute anything
// in it; it is for the container's own loader.
type Compat struct {
	// Dir is the directory in the container, links resolved, such as /usr/local/cuda-12.9/compat.
	Dir string
	// Version is the driver version of the libraries, from the name libcuda.so.575.57.08.
	Version string
	// Libraries are the sonames in Dir, such as libcuda.so.1, sorted.
	Libraries []string
	// Note is what libcuda says about the drivers it works with, nil if there is no valid note:
	// packages before CUDA 12.9 have none.
	Note *CompatNote
}

// CompatNote is the content of the ELF section .note.cuda.fwd_compatibility of libcuda: one note of
// the owner "NVIDIA Corporation", type 0, whose description is JSON and a NUL:
//
//	{"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1,2,7,8,9,10,11,12,13,14]}
//
// The names come from test data of the NVIDIA Container Toolkit (testdata/compat); "device" is not
// interpreted there, nor here.
type CompatNote struct {
	Format  int    `json:"format"`
	CUDA    string `json:"CUDA version"`
	Drivers []int  `json:"driver"`
	Devices []int  `json:"device"`
}

const (
	compatDir  = "usr/local/cuda/compat"
	compatMost = 1024 // entries in the directory; real ones have about ten
)

// Compat looks for the image's forward compatibility package. If it is missing, malformed, or has
// libcuda in more than one version, the error is an [fs.ErrNotExist].
//
// Apart from the note of libcuda the libraries are not checked: they are the image's business.
func (f *FS) Compat() (Compat, error) {
	c, err := f.compat()
	if err != nil {
		return Compat{}, absent("/"+compatDir, err)
	}
	return c, nil
}

func (f *FS) compat() (_ Compat, err error) {
	defer func() { f.blame(err) }()
	dir, err := f.open(compatDir, unix.O_DIRECTORY, false)
	if err != nil {
		return Compat{}, err
	}
	defer unix.Close(dir)
	real, err := f.realName(dir)
	if err != nil {
		return Compat{}, err
	}
	if !placeable(real) {
		return Compat{}, fmt.Errorf("resolves to %s", quote(real))
	}
	entries, err := readDir(dir, compatMost)
	if err != nil {
		return Compat{}, err
	}
	c := Compat{Dir: real}
	libcuda := ""
	for _, e := range entries {
		if soname(e.name) {
			c.Libraries = append(c.Libraries, e.name)
			continue
		}
		version, ok := strings.CutPrefix(e.name, "libcuda.so.")
		if !ok || e.kind == unix.DT_LNK {
			continue
		}
		if _, ok := parseVersion(version); !ok {
			continue
		}
		if libcuda != "" {
			return Compat{}, fmt.Errorf("has both %s and %s", quote(libcuda), quote(e.name))
		}
		libcuda, c.Version = e.name, version
	}
	if libcuda == "" {
		return Compat{}, fmt.Errorf("has no libcuda.so.<version>: %w", fs.ErrNotExist)
	}
	if !slices.Contains(c.Libraries, "libcuda.so.1") {
		return Compat{}, fmt.Errorf("has no libcuda.so.1: %w", fs.ErrNotExist)
	}

	handle, err := openat(dir, libcuda, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return Compat{}, err
	}
	defer unix.Close(handle)
	const most = 4 << 30 // little of it is read; real ones have less than 200 MiB
	lib, _, err := f.reopen(handle, most)
	if err != nil {
		return Compat{}, fmt.Errorf("%s: %w", quote(libcuda), err)
	}
	defer unix.Close(int(lib))
	if note, err := readCompatNote(lib); err == nil {
		c.Note = &note
	}
	return c, nil
}

// soname reports whether a name has the form lib*.so.<number>, without characters that could
// corrupt a cache.
func soname(name string) bool {
	stem, number, ok := strings.Cut(name, ".so.")
	if !ok || !strings.HasPrefix(stem, "lib") || !placeable("/"+name) {
		return false
	}
	_, err := strconv.ParseUint(number, 10, 16)
	return err == nil
}

// CompatUsable reports whether the libraries of an image's forward compatibility package take
// precedence over the host's. driver is the version of the host's driver, such as 550.54.15, and
// cuda the highest CUDA version it supports, such as 12.4; an empty or malformed version is
// unknown.
//
// With a note the package is usable if the note names the branch of the host's driver and the
// package is newer than that driver. If the driver's version is unknown or the note names no branch
// (Orin's does not), the CUDA version of the note must be newer than the host's. Without a note the
// branch of the package must be newer than the host's. Versions are compared number by number: 99
// is older than 110.
//
// These are the rules of the cuda-compat hook of the NVIDIA Container Toolkit
// (cmd/nvidia-cdi-hook/cudacompat). They do not look at the GPU: the driver refuses forward
// compatibility on consumer boards with CUDA error 804.
func CompatUsable(driver, cuda string, c Compat) bool {
	host, hostOK := parseVersion(driver)
	image, imageOK := parseVersion(c.Version)
	known := hostOK && imageOK
	if c.Note == nil {
		return known && image[0] > host[0]
	}
	if known && len(c.Note.Drivers) > 0 {
		return slices.Contains(c.Note.Drivers, host[0]) && compareVersions(image, host) > 0
	}
	hostCUDA, hostOK := parseVersion(cuda)
	imageCUDA, imageOK := parseVersion(c.Note.CUDA)
	return hostOK && imageOK && compareVersions(imageCUDA, hostCUDA) > 0
}

// parseVersion parses a version of two to four decimal numbers: "575.57.08" is 575, 57, 8.
func parseVersion(s string) ([]int, bool) {
	const least, most = 2, 4
	var v []int
	for part := range strings.SplitSeq(s, ".") {
		n, err := strconv.ParseUint(part, 10, 16)
		if err != nil || len(v) == most {
			return nil, false
		}
		v = append(v, int(n))
	}
	if len(v) < least {
		return nil, false
	}
	return v, true
}

// compareVersions compares number by number; a missing number counts as 0.
func compareVersions(a, b []int) int {
	for i := range max(len(a), len(b)) {
		var x, y int
		if i < len(a) {
			x = a[i]
		}
		if i < len(b) {
			y = b[i]
		}
		if c := cmp.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

var errNoNote = errors.New("no note about forward compatibility")

// readCompatNote reads the note of a library. Whatever its headers say, little of the file is read:
// 64 bytes, at most 256 KiB of section headers, 64 KiB of section names, 64 KiB of notes. It does
// not use debug/elf, which trusts the counts in the headers.
func readCompatNote(r io.ReaderAt) (CompatNote, error) {
	const (
		mostSections = 4096
		mostNames    = 64 << 10
		mostNotes    = 64 << 10
	)
	var head [64]byte
	if _, err := r.ReadAt(head[:], 0); err != nil {
		return CompatNote{}, fmt.Errorf("reading ELF header: %w", err)
	}
	if string(head[:5]) != "\x7fELF\x02" {
		return CompatNote{}, errors.New("not a 64-bit ELF file")
	}
	var order binary.ByteOrder
	switch head[5] {
	case 1:
		order = binary.LittleEndian
	case 2:
		order = binary.BigEndian
	default:
		return CompatNote{}, errors.New("ELF file of unknown byte order")
	}
	const (
		headerSize = 64 // of a section header
		shtNote    = 7
	)
	offset := order.Uint64(head[40:])
	count := int(order.Uint16(head[60:]))
	names := int(order.Uint16(head[62:]))
	if order.Uint16(head[58:]) != headerSize || count == 0 || count > mostSections || names >= count {
		return CompatNote{}, errors.New("no usable section headers")
	}
	headers, err := readAt(r, offset, uint64(count)*headerSize)
	if err != nil {
		return CompatNote{}, fmt.Errorf("reading section headers: %w", err)
	}
	section := func(i int) (name, kind uint32, offset, size uint64) {
		h := headers[i*headerSize:][:headerSize]
		return order.Uint32(h), order.Uint32(h[4:]), order.Uint64(h[24:]), order.Uint64(h[32:])
	}
	_, _, namesOffset, namesSize := section(names)
	if namesSize > mostNames {
		return CompatNote{}, fmt.Errorf("section names of %d bytes", namesSize)
	}
	table, err := readAt(r, namesOffset, namesSize)
	if err != nil {
		return CompatNote{}, fmt.Errorf("reading section names: %w", err)
	}
	want := []byte(".note.cuda.fwd_compatibility\x00")
	for i := range count {
		name, kind, offset, size := section(i)
		if kind != shtNote || uint64(name) > uint64(len(table)) || !bytes.HasPrefix(table[name:], want) {
			continue
		}
		if size > mostNotes {
			return CompatNote{}, fmt.Errorf("note of %d bytes", size)
		}
		data, err := readAt(r, offset, size)
		if err != nil {
			return CompatNote{}, fmt.Errorf("reading note: %w", err)
		}
		return parseCompatNote(data, order)
	}
	return CompatNote{}, errNoNote
}

func readAt(r io.ReaderAt, offset, size uint64) ([]byte, error) {
	const farthest = 1 << 40
	if offset > farthest {
		return nil, fmt.Errorf("offset %#x", offset)
	}
	data := make([]byte, size)
	if n, err := r.ReadAt(data, int64(offset)); n < len(data) {
		return nil, err
	}
	return data, nil
}

// parseCompatNote parses a section of ELF notes: length of the owner, length of the description and
// type, u32 each; owner and description, each padded to a multiple of 4. A description is cut at
// the end of the section, because that of Orin's libcuda claims to be longer than it is.
func parseCompatNote(data []byte, order binary.ByteOrder) (CompatNote, error) {
	const header = 12
	for len(data) >= header {
		nameSize, descSize := uint64(order.Uint32(data)), uint64(order.Uint32(data[4:]))
		data = data[header:]
		left := uint64(len(data))
		name := data[:min(nameSize, left)]
		desc := data[min(align4(nameSize), left):]
		next := desc[min(align4(descSize), uint64(len(desc))):]
		desc = desc[:min(descSize, uint64(len(desc)))]
		data = next
		if string(bytes.TrimRight(name, "\x00")) != "NVIDIA Corporation" {
			continue
		}
		var n CompatNote
		if err := json.Unmarshal(bytes.TrimRight(desc, "\x00"), &n); err != nil {
			return CompatNote{}, fmt.Errorf("parsing note: %w", err)
		}
		if _, ok := parseVersion(n.CUDA); !ok && n.CUDA != "" {
			return CompatNote{}, fmt.Errorf("parsing note: CUDA version %s", quote(n.CUDA))
		}
		return n, nil
	}
	return CompatNote{}, errNoNote
}

func align4(n uint64) uint64 { return (n + 3) &^ 3 }

// placeable reports whether a name chosen by an image may be used as a directory in the container:
// absolute, clean, short, of harmless characters, and not below a mount point of the kernel's or
// the runtime's file systems.
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
