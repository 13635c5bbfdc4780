// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// Limits for reading an ELF file. Real libraries of the driver have about ten program headers,
// forty dynamic entries and names of forty bytes.
const (
	elfPage       = 4096      // bytes read at once: header, program headers, notes
	maxSegments   = 128       // program headers
	maxDynamic    = 64 << 10  // bytes of the dynamic section
	maxNotes      = 16 << 10  // bytes of one note segment
	maxSONAME     = 255       // bytes of the name, as for any file name
	maxNeeded     = 64        // libraries that a library needs
	maxInterp     = 4096      // bytes of the path of a program's loader
	maxStringSize = 256 << 20 // bytes of the dynamic string table
)

// errScript says that a program is a script.
var errScript = errors.New("offset 0: a script")

// Constants of the ELF format (elf.h). Package ldcache says why debug/elf is not used.
const (
	atClass, atOrder        = 4, 5
	class32, class64        = 1, 2
	littleEndian, bigEndian = 1, 2
	etExec, etDyn           = 2, 3

	ptLoad, ptDynamic, ptInterp, ptNote           = 1, 2, 3, 4
	dtNull, dtNeeded, dtStrtab, dtStrsz, dtSONAME = 0, 1, 5, 10, 14
)

// elfInfo is what the headers of a shared library say.
type elfInfo struct {
	Arch   ldcache.Arch
	SONAME string    // "" if the file has none
	ABI    [3]uint32 // oldest kernel of the NT_GNU_ABI_TAG note, {2, 3, 99}; zero without one
}

// readELFFile is readELF for a regular file.
func readELFFile(name string) (elfInfo, error) { return ofFile(name, readELF) }

// ofFile calls read with a regular file and its size.
func ofFile[T any](name string, read func(io.ReaderAt, int64) (T, error)) (T, error) {
	var none T
	// The caller saw a regular file. If it was replaced since, do not follow a symbolic link or
	// block on a named pipe.
	var fd int
	err := uninterrupted(func() (err error) {
		fd, err = syscall.Open(name, syscall.O_RDONLY|syscall.O_NOFOLLOW|syscall.O_NONBLOCK|syscall.O_CLOEXEC, 0)
		return err
	})
	if err != nil {
		return none, err
	}
	defer syscall.Close(fd)
	var st syscall.Stat_t
	if err := syscall.Fstat(fd, &st); err != nil {
		return none, err
	}
	if st.Mode&syscall.S_IFMT != syscall.S_IFREG {
		return none, errors.New("not a regular file")
	}
	return read(descriptor(fd), st.Size)
}

// descriptor is an open file. It is not an os.File, which would register it with the poller.
type descriptor int

// ReadAt implements [io.ReaderAt].
func (d descriptor) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := syscall.Pread(int(d), p[done:], off+int64(done))
		switch {
		case errors.Is(err, syscall.EINTR):
		case err != nil:
			return done, err
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

// elfFile is an ELF file being read.
type elfFile struct {
	r        io.ReaderAt
	wide     bool   // 64 bits
	size     uint64 // of the file
	page     []byte // its first bytes
	order    binary.ByteOrder
	segments []elfSegment
}

type elfSegment struct {
	kind                     uint32
	offset, address, fileLen uint64
}

// readELF reads architecture, SONAME and ABI note of a shared library of size bytes. Like the
// loader it uses the program headers, not the section headers, which a stripped library may lack.
// Whatever the file says, memory and reads are bounded by the limits above.
//
// The layouts are those of elf.h; errors give the offset of the problem.
func readELF(r io.ReaderAt, size int64) (elfInfo, error) {
	f, info, err := openELF(r, size, false)
	if err != nil {
		return elfInfo{}, err
	}
	d, err := f.dynamic()
	if err != nil {
		return elfInfo{}, err
	}
	if d.soname != nil {
		if info.SONAME, err = f.name(d, *d.soname, "SONAME"); err != nil {
			return elfInfo{}, err
		}
	}
	if info.ABI, err = f.abiTag(); err != nil {
		return elfInfo{}, err
	}
	return info, nil
}

// readNeeded reads the names of the libraries that a shared library needs (DT_NEEDED), in the order
// of the file.
func readNeeded(r io.ReaderAt, size int64) ([]string, error) {
	f, _, err := openELF(r, size, false)
	if err != nil {
		return nil, err
	}
	d, err := f.dynamic()
	if err != nil {
		return nil, err
	}
	var names []string
	for _, at := range d.needed {
		name, err := f.name(d, at, "NEEDED")
		if err != nil {
			return nil, err
		}
		names = append(names, name)
	}
	return names, nil
}

// readInterpreter reads the path of a program's loader (PT_INTERP), "" for a static program.
func readInterpreter(r io.ReaderAt, size int64) (string, error) {
	f, _, err := openELF(r, size, true)
	if err != nil {
		return "", err
	}
	s, ok := f.segment(ptInterp)
	if !ok {
		return "", nil
	}
	if s.fileLen > maxInterp {
		return "", fmt.Errorf("interpreter of %d bytes, more than %d", s.fileLen, maxInterp)
	}
	text, err := f.read(s.offset, s.fileLen)
	if err != nil {
		return "", fmt.Errorf("interpreter: %w", err)
	}
	name, _, ended := strings.Cut(string(text), "\x00")
	if !ended || !path.IsAbs(name) {
		return "", fmt.Errorf("interpreter %s: not an absolute path", quote(string(text)))
	}
	return name, nil
}

// openELF reads the header and the program headers, and checks that the file has all segments that
// the loader maps.
func openELF(r io.ReaderAt, size int64, program bool) (*elfFile, elfInfo, error) {
	f := &elfFile{r: r, size: uint64(max(size, 0))}
	page, err := f.read(0, min(f.size, elfPage))
	if err != nil {
		return nil, elfInfo{}, err
	}
	f.page = page
	info, err := f.header(program)
	if err != nil {
		return nil, elfInfo{}, err
	}
	for _, s := range f.segments {
		if s.kind == ptLoad && (s.offset > f.size || s.fileLen > f.size-s.offset) {
			return nil, elfInfo{}, fmt.Errorf("truncated: a segment of %d bytes at %d in a file of %d",
				s.fileLen, s.offset, f.size)
		}
	}
	return f, info, nil
}

// read returns n bytes at offset, from the first page if it has them.
func (f *elfFile) read(offset, n uint64) ([]byte, error) {
	if offset > f.size || n > f.size-offset {
		return nil, fmt.Errorf("offset %d: %d bytes wanted of a file of %d", offset, n, f.size)
	}
	if offset+n <= uint64(len(f.page)) {
		return f.page[offset : offset+n], nil
	}
	data := make([]byte, n)
	if got, err := f.r.ReadAt(data, int64(offset)); got < len(data) {
		if err == nil || errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF // truncated while we read
		}
		return nil, fmt.Errorf("offset %d: %w", offset, err)
	}
	return data, nil
}

// header checks the ELF header and reads the program headers.
func (f *elfFile) header(program bool) (elfInfo, error) {
	ident := f.page
	if len(ident) == 0 {
		return elfInfo{}, errors.New("an empty file")
	}
	if program && bytes.HasPrefix(ident, []byte("#!")) {
		return elfInfo{}, errScript
	}
	if len(ident) < 16 || string(ident[:4]) != "\x7fELF" {
		return elfInfo{}, errors.New("offset 0: not an ELF file")
	}
	headerSize, segmentSize := 64, 56
	switch class := ident[atClass]; class {
	case class64:
		f.wide = true
	case class32:
		headerSize, segmentSize = 52, 32
	default:
		return elfInfo{}, fmt.Errorf("offset %d: unknown class %d", atClass, class)
	}
	switch order := ident[atOrder]; order {
	case littleEndian:
		f.order = binary.LittleEndian
	case bigEndian:
		f.order = binary.BigEndian
	default:
		return elfInfo{}, fmt.Errorf("offset %d: unknown byte order %d", atOrder, order)
	}
	if len(f.page) < headerSize {
		return elfInfo{}, fmt.Errorf("offset %d: header truncated", len(f.page))
	}
	switch kind := f.order.Uint16(f.page[16:]); {
	case kind == etDyn || program && kind == etExec:
	case program:
		return elfInfo{}, fmt.Errorf("offset 16: type %d is not a program", kind)
	default:
		return elfInfo{}, fmt.Errorf("offset 16: type %d is not a shared library", kind)
	}
	info := elfInfo{Arch: ldcache.ArchOf(f.order.Uint16(f.page[18:]), ident[atClass])}

	var offset uint64
	var entrySize, count uint16
	if f.wide {
		offset = f.order.Uint64(f.page[32:])
		entrySize, count = f.order.Uint16(f.page[54:]), f.order.Uint16(f.page[56:])
	} else {
		offset = uint64(f.order.Uint32(f.page[28:]))
		entrySize, count = f.order.Uint16(f.page[42:]), f.order.Uint16(f.page[44:])
	}
	if count > maxSegments {
		return elfInfo{}, fmt.Errorf("%d program headers, more than %d", count, maxSegments)
	}
	if count > 0 && int(entrySize) != segmentSize {
		return elfInfo{}, fmt.Errorf("program headers of %d bytes instead of %d", entrySize, segmentSize)
	}
	table, err := f.read(offset, uint64(count)*uint64(segmentSize))
	if err != nil {
		return elfInfo{}, fmt.Errorf("program headers: %w", err)
	}
	for ; len(table) > 0; table = table[segmentSize:] {
		s := elfSegment{kind: f.order.Uint32(table)}
		if f.wide {
			s.offset, s.address = f.order.Uint64(table[8:]), f.order.Uint64(table[16:])
			s.fileLen = f.order.Uint64(table[32:])
		} else {
			s.offset = uint64(f.order.Uint32(table[4:]))
			s.address = uint64(f.order.Uint32(table[8:]))
			s.fileLen = uint64(f.order.Uint32(table[16:]))
		}
		f.segments = append(f.segments, s)
	}
	return info, nil
}

// segment returns the first segment of a kind.
func (f *elfFile) segment(kind uint32) (elfSegment, bool) {
	for _, s := range f.segments {
		if s.kind == kind {
			return s, true
		}
	}
	return elfSegment{}, false
}

// dynamicSection has offsets of names in the string table, and the place of that table.
type dynamicSection struct {
	soname  *uint64 // nil without one
	needed  []uint64
	strtab  *uint64 // address; nil without one
	strsize uint64
}

// dynamic reads the dynamic section.
func (f *elfFile) dynamic() (dynamicSection, error) {
	s, ok := f.segment(ptDynamic)
	if !ok {
		return dynamicSection{}, errors.New("no dynamic section")
	}
	if s.fileLen > maxDynamic {
		return dynamicSection{}, fmt.Errorf("dynamic section of %d bytes, more than %d", s.fileLen, maxDynamic)
	}
	table, err := f.read(s.offset, s.fileLen)
	if err != nil {
		return dynamicSection{}, fmt.Errorf("dynamic section: %w", err)
	}
	entrySize := 16
	if !f.wide {
		entrySize = 8
	}
	var d dynamicSection
	for ; len(table) >= entrySize; table = table[entrySize:] {
		var tag, value uint64
		if f.wide {
			tag, value = f.order.Uint64(table), f.order.Uint64(table[8:])
		} else {
			tag, value = uint64(f.order.Uint32(table)), uint64(f.order.Uint32(table[4:]))
		}
		switch tag {
		case dtNull:
			return d, nil
		case dtSONAME:
			d.soname = &value
		case dtNeeded:
			if len(d.needed) < maxNeeded {
				d.needed = append(d.needed, value)
			}
		case dtStrtab:
			d.strtab = &value
		case dtStrsz:
			d.strsize = value
		}
	}
	return d, nil
}

// name reads a name of the dynamic section, which must be a valid file name. Errors call it what.
func (f *elfFile) name(d dynamicSection, at uint64, what string) (string, error) {
	if d.strtab == nil {
		return "", fmt.Errorf("dynamic section: %s without a string table", what)
	}
	if d.strsize > maxStringSize || at >= d.strsize {
		return "", fmt.Errorf("dynamic section: %s at %d of a string table of %d bytes", what, at, d.strsize)
	}
	offset, rest, err := f.offsetOf(*d.strtab)
	if err != nil {
		return "", fmt.Errorf("dynamic string table: %w", err)
	}
	if at >= rest {
		return "", fmt.Errorf("dynamic string table: %s at %d of %d bytes", what, at, rest)
	}
	most := min(d.strsize-at, rest-at, maxSONAME+1)
	text, err := f.read(offset+at, most)
	if err != nil {
		return "", fmt.Errorf("dynamic string table: %w", err)
	}
	end := bytes.IndexByte(text, 0)
	if end < 0 {
		return "", fmt.Errorf("offset %d: %s is not terminated", offset+at, what)
	}
	if name := string(text[:end]); validName(name) {
		return name, nil
	}
	return "", fmt.Errorf("offset %d: %s %s is not a file name", offset+at, what, quote(string(text[:end])))
}

// offsetOf returns the file offset that an address is loaded from, and how many bytes of the
// segment follow.
func (f *elfFile) offsetOf(address uint64) (offset, rest uint64, err error) {
	for _, s := range f.segments {
		if s.kind == ptLoad && address >= s.address && address-s.address < s.fileLen {
			into := address - s.address
			return s.offset + into, s.fileLen - into, nil
		}
	}
	return 0, 0, fmt.Errorf("address %#x is not in the file", address)
}

// abiTag returns the kernel version in the NT_GNU_ABI_TAG note: name size 4, data size 16, type 1,
// "GNU\0", then four words: system (0 is Linux), version, patch level, sublevel.
func (f *elfFile) abiTag() ([3]uint32, error) {
	for _, s := range f.segments {
		if s.kind != ptNote || s.fileLen > maxNotes {
			continue
		}
		notes, err := f.read(s.offset, s.fileLen)
		if err != nil {
			return [3]uint32{}, fmt.Errorf("notes: %w", err)
		}
		for len(notes) >= 12 {
			nameSize, dataSize, kind := f.order.Uint32(notes), f.order.Uint32(notes[4:]), f.order.Uint32(notes[8:])
			notes = notes[12:]
			nameLen, dataLen := (uint64(nameSize)+3)&^3, (uint64(dataSize)+3)&^3
			if nameLen+dataLen > uint64(len(notes)) {
				break
			}
			name, data := notes[:nameSize], notes[nameLen:nameLen+uint64(dataSize)]
			notes = notes[nameLen+dataLen:]
			if kind != 1 || string(name) != "GNU\x00" || len(data) < 16 || f.order.Uint32(data) != 0 {
				continue
			}
			return [3]uint32{f.order.Uint32(data[4:]), f.order.Uint32(data[8:]), f.order.Uint32(data[12:])}, nil
		}
	}
	return [3]uint32{}, nil
}
