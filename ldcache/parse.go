// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
)

const (
	oldMagic = "ld.so-1.7.0"
	newMagic = "glibc-ld.so.cache1.1"

	oldHeaderSize = 16
	oldEntrySize  = 12
	newHeaderSize = 48
	newEntrySize  = 24

	extMagic         = 0xeaa42174
	extHeaderSize    = 8
	extSectionSize   = 16
	extTagGenerator  = 0
	extTagHWCaps     = 1
	maxString        = 4096    // PATH_MAX with the NUL
	maxStrings       = 1 << 20 // bytes of all names and paths,
	maxAverage       = 512     // plus this per entry
	hwcapExtension   = 1 << 62
	hwcapLevels      = 0x3ff << 32
	hwcapIndex       = 1<<32 - 1
	endianLittle     = 2
	endianBig        = 3
	endianMask       = 3
	newOffCount      = 20
	newOffStrings    = 24
	newOffEndian     = 28
	newOffExtensions = 32
)

// Parse parses the bytes of an ld.so.cache in any of its formats:
//
//	old       "ld.so-1.7.0" 1 pad, count u32, entries of 12 bytes, strings
//	combined  old, then at the next boundary of 8 or 4 bytes, new
//	new       "glibc-ld.so.cache1.1", count u32, length of strings u32,
//	          byte order u8, 3 pad, extension offset u32, 12 unused,
//	          entries of 24 bytes, strings, extension directory
//
// Integers are in the machine's byte order; a cache that declares the other one is an error. So are
// counts and offsets beyond the data, unterminated strings, strings longer than a path can be,
// entries that all share long strings to keep a reader busy, and glibc-hwcaps indices without a
// name. The old half of a combined cache is ignored. The entries share one copy of the string
// table, and data is not retained.
func Parse(data []byte) (*Cache, error) {
	return ParseSome(data, nil)
}

// ParseSome is [Parse] for the entries that want accepts by name and flags, and takes a fraction of
// the time if there are few. Only the names of other entries are checked. The result must not be
// encoded. A nil want accepts all.
func ParseSome(data []byte, want func(name string, flags int32) bool) (*Cache, error) {
	c, err := parse(data, want)
	if err != nil {
		return nil, fmt.Errorf("parsing ld.so.cache: %w", err)
	}
	return c, nil
}

// parse detects the format.
func parse(data []byte, want func(string, int32) bool) (*Cache, error) {
	if bytes.HasPrefix(data, []byte(newMagic)) {
		return parseNew(data, 0, New, want)
	}
	if !bytes.HasPrefix(data, []byte(oldMagic)) {
		return nil, errors.New("no known magic number at the start")
	}
	if len(data) < oldHeaderSize {
		return nil, fmt.Errorf("header of 16 bytes cut off at %d", len(data))
	}
	count := binary.NativeEndian.Uint32(data[12:])
	if uint64(count) > uint64(len(data)-oldHeaderSize)/oldEntrySize {
		return nil, fmt.Errorf("%d old entries in %d bytes", count, len(data))
	}
	end := oldHeaderSize + int(count)*oldEntrySize
	for _, align := range []int{8, 4} {
		start := (end + align - 1) &^ (align - 1)
		if start <= len(data) && bytes.HasPrefix(data[start:], []byte(newMagic)) {
			return parseNew(data, start, Combined, want)
		}
	}
	return parseOld(data, int(count), end, want)
}

// parseOld parses the entries of an old cache; its strings start at end.
func parseOld(data []byte, count, end int, want func(string, int32) bool) (*Cache, error) {
	c := &Cache{Format: Old}
	if count == 0 {
		return c, nil
	}
	table := string(data[end:])
	if want == nil {
		c.Entries = make([]Entry, 0, count)
	}
	for i := range count {
		raw := data[oldHeaderSize+i*oldEntrySize:][:oldEntrySize]
		e := Entry{Flags: int32(binary.NativeEndian.Uint32(raw))}
		var err error
		if e.Name, err = cString(table, 0, binary.NativeEndian.Uint32(raw[4:])); err == nil {
			if want != nil && !want(e.Name, e.Flags) {
				continue
			}
			e.Path, err = cString(table, 0, binary.NativeEndian.Uint32(raw[8:]))
		}
		if err != nil {
			return nil, fmt.Errorf("old entry %d: %w", i, err)
		}
		c.Entries = append(c.Entries, e)
	}
	if err := checkLengths(c.Entries); err != nil {
		return nil, err
	}
	return c, nil
}

// parseNew parses the new cache that starts at start.
func parseNew(data []byte, start int, format Format, want func(string, int32) bool) (*Cache, error) {
	header := data[start:]
	if len(header) < newHeaderSize {
		return nil, fmt.Errorf("header of 48 bytes at %d cut off at %d", start, len(data))
	}
	if order := header[newOffEndian]; order != 0 && order&endianMask != nativeEndian() {
		return nil, fmt.Errorf("byte order %d is not that of this machine", order)
	}
	count := binary.NativeEndian.Uint32(header[newOffCount:])
	if uint64(count) > uint64(len(header)-newHeaderSize)/newEntrySize {
		return nil, fmt.Errorf("%d entries in %d bytes", count, len(header))
	}
	stringsStart := newHeaderSize + int(count)*newEntrySize
	length := binary.NativeEndian.Uint32(header[newOffStrings:])
	if uint64(length) > uint64(len(header)-stringsStart) {
		return nil, fmt.Errorf("%d bytes of strings in %d bytes", length, len(header))
	}
	table := string(header[stringsStart : stringsStart+int(length)])

	c := &Cache{Format: format}
	var subdirs []string
	if off := binary.NativeEndian.Uint32(header[newOffExtensions:]); off != 0 {
		var err error
		if subdirs, err = c.parseExtensions(data, off, table, start, start+stringsStart); err != nil {
			return nil, fmt.Errorf("extensions at %d: %w", off, err)
		}
	}
	if count == 0 {
		return c, nil
	}
	if want == nil {
		c.Entries = make([]Entry, 0, count)
	}
	for i := range int(count) {
		raw := header[newHeaderSize+i*newEntrySize:][:newEntrySize]
		e := Entry{Flags: int32(binary.NativeEndian.Uint32(raw))}
		var err error
		if e.Name, err = cString(table, stringsStart, binary.NativeEndian.Uint32(raw[4:])); err == nil {
			if want != nil && !want(e.Name, e.Flags) {
				continue
			}
			err = e.parse(raw, table, stringsStart, subdirs)
		}
		if err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
		c.Entries = append(c.Entries, e)
	}
	if err := checkLengths(c.Entries); err != nil {
		return nil, err
	}
	return c, nil
}

// checkLengths rejects entries whose strings are together so long that sorting takes seconds. The
// file's size is no bound, since strings may overlap.
func checkLengths(entries []Entry) error {
	total := 0
	for i := range entries {
		total += len(entries[i].Name) + len(entries[i].Path)
	}
	if total > maxStrings+maxAverage*len(entries) {
		return fmt.Errorf("%d entries with names and paths of %d bytes", len(entries), total)
	}
	return nil
}

// parse sets the fields of a new cache's entry other than name and flags. String offsets count from
// base bytes before the table.
func (e *Entry) parse(raw []byte, table string, base int, subdirs []string) (err error) {
	if e.Path, err = cString(table, base, binary.NativeEndian.Uint32(raw[8:])); err != nil {
		return err
	}
	e.OSVersion = binary.NativeEndian.Uint32(raw[12:])
	e.HWCap = binary.NativeEndian.Uint64(raw[16:])
	if !isExtension(e.HWCap) {
		return nil
	}
	index := e.HWCap & hwcapIndex
	if index >= uint64(len(subdirs)) {
		return fmt.Errorf("glibc-hwcaps name %d of %d", index, len(subdirs))
	}
	e.Subdir = subdirs[index]
	e.HWCap &= hwcapLevels
	return nil
}

// isExtension reports whether a capability mask is an index into the glibc-hwcaps names instead:
// bit 62 is set and, in the upper half, otherwise only the ISA level.
func isExtension(hwcap uint64) bool {
	return hwcap&^(hwcapLevels|hwcapIndex) == hwcapExtension
}

// parseExtensions parses the extension directory at off, whose offsets count from the start of the
// file, and returns the glibc-hwcaps names. The new cache starts at start in the file, the string
// table at base.
func (c *Cache) parseExtensions(data []byte, off uint32, table string, start, base int) ([]string, error) {
	if off%4 != 0 || uint64(off)+extHeaderSize > uint64(len(data)) {
		return nil, fmt.Errorf("not a multiple of 4 inside %d bytes", len(data))
	}
	dir := data[off:]
	if magic := binary.NativeEndian.Uint32(dir); magic != extMagic {
		return nil, fmt.Errorf("magic number %#x", magic)
	}
	count := binary.NativeEndian.Uint32(dir[4:])
	if uint64(count) > uint64(len(dir)-extHeaderSize)/extSectionSize {
		return nil, fmt.Errorf("%d sections in %d bytes", count, len(dir))
	}
	var (
		subdirs []string
		seen    [2]bool
		total   uint64
	)
	for i := range int(count) {
		raw := dir[extHeaderSize+i*extSectionSize:][:extSectionSize]
		tag, flags := binary.NativeEndian.Uint32(raw), binary.NativeEndian.Uint32(raw[4:])
		at, size := uint64(binary.NativeEndian.Uint32(raw[8:])), uint64(binary.NativeEndian.Uint32(raw[12:]))
		// Sections must not overlap, or a few bytes of directory could request the whole file over
		// and over.
		if total += size; at+size > uint64(len(data)) || total > uint64(len(data)) {
			return nil, fmt.Errorf("section %d: %d bytes at %d of %d", i, size, at, len(data))
		}
		section := data[at : at+size]
		if tag <= extTagHWCaps {
			if seen[tag] {
				return nil, fmt.Errorf("section %d: second one with tag %d", i, tag)
			}
			seen[tag] = true
		}
		switch tag {
		case extTagGenerator:
			c.Generator = string(section)
		case extTagHWCaps:
			if at%4 != 0 || size%4 != 0 {
				return nil, fmt.Errorf("section %d: glibc-hwcaps names not aligned to 4 bytes", i)
			}
			subdirs = make([]string, size/4)
			for j := range subdirs {
				name, err := subdirName(table, base, binary.NativeEndian.Uint32(section[j*4:]), start)
				if err != nil {
					return nil, fmt.Errorf("glibc-hwcaps name %d: %w", j, err)
				}
				subdirs[j] = name
			}
		default:
			c.Extensions = append(c.Extensions, Extension{Tag: tag, Flags: flags, Data: bytes.Clone(section)})
		}
	}
	return subdirs, nil
}

// subdirName returns a glibc-hwcaps name. Loaders count its offset from the start of the file, but
// in combined caches ldconfig (2.33 to at least 2.41) counts it from the start of the new one.
func subdirName(table string, base int, off uint32, start int) (string, error) {
	name, err := cString(table, base, off)
	if (err != nil || name == "") && start > 0 {
		name, err = cString(table, base-start, off)
	}
	if err == nil && name == "" {
		err = errors.New("empty")
	}
	if err != nil {
		return "", err
	}
	return name, nil
}

// cString returns the string at an offset that counts from base bytes before the table.
func cString(table string, base int, off uint32) (string, error) {
	at := int64(off) - int64(base)
	if at < 0 || at >= int64(len(table)) {
		return "", fmt.Errorf("string at %d outside of the string table", off)
	}
	s := table[at:min(int64(len(table)), at+maxString)]
	n := strings.IndexByte(s, 0)
	if n < 0 {
		return "", fmt.Errorf("string at %d does not end within %d bytes", off, len(s))
	}
	return s[:n], nil
}

// nativeEndian returns the byte order of this machine as in a cache's header.
func nativeEndian() byte {
	if binary.NativeEndian.Uint16([]byte{1, 0}) == 1 {
		return endianLittle
	}
	return endianBig
}
