// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"math"
	"slices"
	"strings"
)

// Encode returns the bytes of the cache in its Format, with the entries in the order that the
// loader relies on. For entries and generator of glibc 2.33 or later they are the bytes that its
// ldconfig writes.
//
// The old format, and the old half of the combined one, cannot express a Subdir or a hardware mask,
// so entries with one are omitted there. The old format has no kernel versions, generator and
// extensions either.
//
// Input that [Parse] would not read back is an error: a name or path with a NUL or as long as
// PATH_MAX, a hardware mask that looks like an index of a Subdir, an extension with a tag that this
// package writes itself.
func (c *Cache) Encode() ([]byte, error) {
	out, err := c.encode()
	if err != nil {
		return nil, fmt.Errorf("encoding ld.so.cache: %w", err)
	}
	return out, nil
}

func (c *Cache) encode() ([]byte, error) {
	entries := c.Entries
	if !inOrder(entries) {
		entries = slices.Clone(entries)
		sortEntries(entries)
	}
	for i := range entries {
		if err := entries[i].check(); err != nil {
			return nil, fmt.Errorf("entry %d: %w", i, err)
		}
	}
	if err := checkLengths(entries); err != nil {
		return nil, err
	}
	for _, x := range c.Extensions {
		if x.Tag <= extTagHWCaps {
			return nil, fmt.Errorf("extension with reserved tag %d", x.Tag)
		}
	}
	var subdirs []string
	if c.Format != Old {
		for i := range entries {
			if s := entries[i].Subdir; s != "" && (len(subdirs) == 0 || s != subdirs[len(subdirs)-1]) {
				subdirs = append(subdirs, s)
			}
		}
		slices.Sort(subdirs)
		subdirs = slices.Compact(subdirs)
	}
	table := newStringTable(entries, subdirs)

	old := 0
	if c.Format != New {
		for i := range entries {
			if entries[i].plain() {
				old++
			}
		}
	}
	oldSize := 0
	switch c.Format {
	case Old:
		oldSize = oldHeaderSize + old*oldEntrySize
	case Combined:
		// An even count puts the new half at the same place for loaders that align it to 8 bytes
		// and to 4.
		oldSize = oldHeaderSize + (old+old%2)*oldEntrySize
	}
	newSize := 0
	if c.Format != Old {
		newSize = newHeaderSize + len(entries)*newEntrySize
	}
	extStart := align4(oldSize + newSize + table.size)
	size := oldSize + newSize + table.size
	if c.Format != Old {
		size = extStart + c.extensionsSize(len(subdirs))
	}
	if size > math.MaxInt32 {
		return nil, fmt.Errorf("%d bytes are more than its offsets can tell", size)
	}

	out := make([]byte, 0, size)
	if c.Format != New {
		out = appendOld(out, entries, table, (oldSize-oldHeaderSize)/oldEntrySize, newSize)
	}
	if c.Format == Old {
		return table.appendTo(out), nil
	}
	out = append(out, newMagic...)
	out = binary.NativeEndian.AppendUint32(out, uint32(len(entries)))
	out = binary.NativeEndian.AppendUint32(out, uint32(table.size))
	out = append(out, nativeEndian(), 0, 0, 0)
	if size == extStart {
		out = binary.NativeEndian.AppendUint32(out, 0)
	} else {
		out = binary.NativeEndian.AppendUint32(out, uint32(extStart))
	}
	out = append(out, make([]byte, 12)...)
	for i := range entries {
		e := &entries[i]
		hwcap := e.HWCap
		if e.Subdir != "" {
			index, _ := slices.BinarySearch(subdirs, e.Subdir)
			hwcap |= hwcapExtension | uint64(index)
		}
		out = binary.NativeEndian.AppendUint32(out, uint32(e.Flags))
		out = binary.NativeEndian.AppendUint32(out, uint32(newSize)+table.name(i))
		out = binary.NativeEndian.AppendUint32(out, uint32(newSize)+table.path(i))
		out = binary.NativeEndian.AppendUint32(out, e.OSVersion)
		out = binary.NativeEndian.AppendUint64(out, hwcap)
	}
	out = table.appendTo(out)
	out = append(out, make([]byte, extStart-len(out))...)
	if size == extStart {
		return out, nil
	}
	names := make([]uint32, len(subdirs))
	for i := range names {
		names[i] = uint32(oldSize+newSize) + table.subdir(i)
	}
	return c.appendExtensions(out, names), nil
}

// check rejects what would not be read back unchanged.
func (e *Entry) check() error {
	for _, s := range []string{e.Name, e.Path, e.Subdir} {
		if len(s) >= maxString {
			return fmt.Errorf("string of %d bytes: %q…", len(s), s[:100])
		}
		if strings.IndexByte(s, 0) >= 0 {
			return fmt.Errorf("string with a NUL: %q", s[:min(len(s), 100)])
		}
	}
	if e.Subdir != "" && e.HWCap&^hwcapLevels != 0 {
		return fmt.Errorf("hardware mask %#x together with a glibc-hwcaps name", e.HWCap)
	}
	if e.Subdir == "" && isExtension(e.HWCap) {
		return fmt.Errorf("hardware mask %#x without a glibc-hwcaps name", e.HWCap)
	}
	return nil
}

// plain reports whether the old format can express the entry.
func (e *Entry) plain() bool {
	return e.HWCap == 0 && e.Subdir == ""
}

// appendOld appends an old cache of count entries, repeating the last one if there are fewer. The
// string table follows after gap bytes.
func appendOld(out []byte, entries []Entry, table *stringTable, count, gap int) []byte {
	out = append(out, oldMagic...)
	out = append(out, 0)
	out = binary.NativeEndian.AppendUint32(out, uint32(count))
	end := len(out) + count*oldEntrySize
	for i := range entries {
		if !entries[i].plain() {
			continue
		}
		out = binary.NativeEndian.AppendUint32(out, uint32(entries[i].Flags))
		out = binary.NativeEndian.AppendUint32(out, uint32(gap)+table.name(i))
		out = binary.NativeEndian.AppendUint32(out, uint32(gap)+table.path(i))
	}
	if len(out) < end {
		out = append(out, out[len(out)-oldEntrySize:]...)
	}
	return out
}

// extensionsSize returns how many bytes appendExtensions appends.
func (c *Cache) extensionsSize(subdirs int) int {
	sections, size := len(c.Extensions), 4*subdirs
	if subdirs > 0 {
		sections++
	}
	if c.Generator != "" {
		sections++
		size += len(c.Generator)
	}
	if sections == 0 {
		return 0
	}
	for _, x := range c.Extensions {
		size = align4(size) + len(x.Data)
	}
	return extHeaderSize + sections*extSectionSize + size
}

// appendExtensions appends the extension directory and its sections to a file; subdirs are the file
// offsets of the glibc-hwcaps names.
func (c *Cache) appendExtensions(out []byte, subdirs []uint32) []byte {
	type section struct{ tag, flags, at, size uint32 }
	sections := make([]section, 0, 2+len(c.Extensions))
	if c.Generator != "" {
		sections = append(sections, section{tag: extTagGenerator, size: uint32(len(c.Generator))})
	}
	if len(subdirs) > 0 {
		sections = append(sections, section{tag: extTagHWCaps, size: uint32(4 * len(subdirs))})
	}
	for _, x := range c.Extensions {
		sections = append(sections, section{tag: x.Tag, flags: x.Flags, size: uint32(len(x.Data))})
	}
	// The contents are in the order of the directory, except that ldconfig puts the generator after
	// the glibc-hwcaps names to align those.
	at := uint32(len(out) + extHeaderSize + len(sections)*extSectionSize)
	place := func(s *section) {
		s.at = at
		at += s.size
	}
	known := sections[:len(sections)-len(c.Extensions)]
	for i := range known {
		place(&known[len(known)-1-i])
	}
	for i := range sections[len(known):] {
		at = uint32(align4(int(at)))
		place(&sections[len(known)+i])
	}

	out = binary.NativeEndian.AppendUint32(out, extMagic)
	out = binary.NativeEndian.AppendUint32(out, uint32(len(sections)))
	for _, s := range sections {
		out = binary.NativeEndian.AppendUint32(out, s.tag)
		out = binary.NativeEndian.AppendUint32(out, s.flags)
		out = binary.NativeEndian.AppendUint32(out, s.at)
		out = binary.NativeEndian.AppendUint32(out, s.size)
	}
	for _, name := range subdirs {
		out = binary.NativeEndian.AppendUint32(out, name)
	}
	out = append(out, c.Generator...)
	for _, x := range c.Extensions {
		out = append(out, make([]byte, align4(len(out))-len(out))...)
		out = append(out, x.Data...)
	}
	return out
}

func align4(n int) int {
	return (n + 3) &^ 3
}

// stringTable is a table of NUL-terminated strings in which a string shares the bytes of another
// one that it is a suffix of, laid out as in elf/stringtable.c of glibc.
type stringTable struct {
	sorted  []tableString
	offsets []uint32 // of name and path of each entry, then of the subdirs
	entries int
	size    int
}

type tableString struct {
	s    string
	tail uint64 // of s, which decides most comparisons
	slot int    // in offsets
}

func newStringTable(entries []Entry, subdirs []string) *stringTable {
	n := 2*len(entries) + len(subdirs)
	t := &stringTable{
		sorted:  make([]tableString, 0, n),
		offsets: make([]uint32, n),
		entries: len(entries),
	}
	for i := range entries {
		name, path := entries[i].Name, entries[i].Path
		t.sorted = append(t.sorted, tableString{name, tail(name), 2 * i}, tableString{path, tail(path), 2*i + 1})
	}
	for i, s := range subdirs {
		t.sorted = append(t.sorted, tableString{s, tail(s), 2*len(entries) + i})
	}
	slices.SortFunc(t.sorted, func(a, b tableString) int {
		if a.tail != b.tail {
			return cmp.Compare(b.tail, a.tail)
		}
		return compareTails(a.s, b.s)
	})
	for i, s := range t.sorted {
		at := t.size
		if i > 0 && strings.HasSuffix(t.sorted[i-1].s, s.s) {
			at -= len(s.s) + 1
		} else {
			t.size += len(s.s) + 1
		}
		t.offsets[s.slot] = uint32(at)
	}
	return t
}

func (t *stringTable) name(entry int) uint32 { return t.offsets[2*entry] }

func (t *stringTable) path(entry int) uint32 { return t.offsets[2*entry+1] }

func (t *stringTable) subdir(i int) uint32 { return t.offsets[2*t.entries+i] }

// appendTo appends the table.
func (t *stringTable) appendTo(out []byte) []byte {
	for i, s := range t.sorted {
		if i > 0 && strings.HasSuffix(t.sorted[i-1].s, s.s) {
			continue
		}
		out = append(out, s.s...)
		out = append(out, 0)
	}
	return out
}

// compareTails compares strings without NULs from their ends: the greater byte first, and a string
// before its suffixes.
func compareTails(a, b string) int {
	for {
		if x, y := tail(a), tail(b); x != y {
			return cmp.Compare(y, x)
		}
		if len(a) <= 8 || len(b) <= 8 {
			return cmp.Compare(len(b), len(a))
		}
		a, b = a[:len(a)-8], b[:len(b)-8]
	}
}

// tail returns the last eight bytes of a string as a number, the last byte being the most
// significant; shorter strings are padded with zeros.
func tail(s string) uint64 {
	if len(s) < 8 {
		var n uint64
		for i := range len(s) {
			n = n>>8 | uint64(s[i])<<56
		}
		return n
	}
	t := s[len(s)-8:]
	return uint64(t[0]) | uint64(t[1])<<8 | uint64(t[2])<<16 | uint64(t[3])<<24 |
		uint64(t[4])<<32 | uint64(t[5])<<40 | uint64(t[6])<<48 | uint64(t[7])<<56
}
