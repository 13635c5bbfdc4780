// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package ldcache reads and writes ld.so.cache, the index in which glibc's
// loader finds shared libraries.
//
// Most callers want [Parse] and [Cache.Lookup]; a program that adds libraries
// wants [Cache.Merge] and [Cache.Encode] as well. The text that `ldconfig -p`
// prints is read by [ParseText] and written by [Cache.WriteText].
//
// The package opens no file: the caller reads /etc/ld.so.cache below whatever
// root it has, with whatever cap it likes, and passes the bytes, which are not
// trusted. A cache that lies about a count or an offset is an error, and memory
// use is a small multiple of the input.
//
// The layout and its order come from glibc: elf/dl-cache.c reads the file in
// the loader, elf/cache.c and elf/stringtable.c write it in ldconfig, and
// sysdeps/generic/dl-cache.h has the structures.
package ldcache

import (
	"cmp"
	"math/bits"
	"runtime"
	"slices"
)

// Format is the shape of a cache file.
type Format int

// The shapes, from the oldest to the one that glibc has written by default
// since 2.32. Combined, an old cache with a new one hidden in its strings, was
// the default from 2.2 to 2.31; a loader older than 2.2 reads its old half.
const (
	New Format = iota
	Combined
	Old
)

// Cache is a parsed ld.so.cache.
type Cache struct {
	// Format is the shape that was read and will be written.
	Format Format
	// Entries are in the order of the file, which for a cache made by ldconfig
	// is the order the loader searches. Of a combined cache these are the
	// entries of the new half.
	Entries []Entry
	// Generator names the program that wrote the cache, for instance
	// "ldconfig (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36";
	// "" where the cache does not say (before glibc 2.33).
	Generator string
	// Extensions are the sections with tags unknown to this package, in the
	// order of the file.
	Extensions []Extension
}

// Extension is one section of the extension directory that this package does
// not understand. It is written back as it was read.
type Extension struct {
	Tag, Flags uint32
	Data       []byte
}

// Entry is one library of the cache.
type Entry struct {
	// Name is what programs ask for, normally the SONAME: "libcuda.so.1".
	Name string
	// Path is where it is, normally a symbolic link:
	// "/usr/lib/x86_64-linux-gnu/libcuda.so.1".
	Path string
	// Flags tell the architecture and ABI; a loader takes only entries that
	// have exactly its own, for instance [FlagX8664].
	Flags int32
	// OSVersion is the oldest kernel the library runs on, as
	// os<<24|major<<16|minor<<8|patch, os being 0 for Linux. 0 is none; glibc
	// ignores it since 2.36.
	OSVersion uint32
	// HWCap is the mask of hardware capabilities that the library wants: bits
	// of AT_HWCAP and AT_PLATFORM, and 1<<63 for a "tls" directory. 0 is none,
	// and the usual case; glibc has dropped them in 2.37. With a Subdir it
	// holds no more than the ISA level, in bits 32 to 41.
	HWCap uint64
	// Subdir is the glibc-hwcaps directory the library lies in, such as
	// "x86-64-v3"; "" for a library for every processor.
	Subdir string
}

// Flags of the libraries of one architecture each, as written by ldconfig. The
// low byte is the type of the library (1 ELF, 3 ELF for glibc 2), the next the
// ABI it needs (sysdeps/generic/ldconfig.h).
const (
	FlagELF       int32 = 0x0001 // 32 bits, no C library known; taken by i386
	Flag32        int32 = 0x0003 // i386, and every 32-bit machine not below
	FlagSPARC64   int32 = 0x0103
	FlagIA64      int32 = 0x0203
	FlagX8664     int32 = 0x0303
	FlagS390X     int32 = 0x0403
	FlagPPC64     int32 = 0x0503 // both byte orders
	FlagX32       int32 = 0x0803
	FlagARMHard   int32 = 0x0903
	FlagAArch64   int32 = 0x0a03
	FlagARMSoft   int32 = 0x0b03
	FlagRISCVSoft int32 = 0x0f03
	FlagRISCV     int32 = 0x1003
	FlagLoongSoft int32 = 0x1103
	FlagLoong     int32 = 0x1203
)

// Lookup returns the entries of exactly that name and flags, in their order:
// the first is what the loader takes, unless it has a Subdir or a hardware
// mask that the processor does not satisfy. Nil if there is none.
func (c *Cache) Lookup(name string, flags int32) []Entry {
	var found []Entry
	for i := range c.Entries {
		if c.Entries[i].Flags == flags && c.Entries[i].Name == name {
			found = append(found, c.Entries[i])
		}
	}
	return found
}

// Merge adds entries, and sorts. An entry of the cache gives way to an added
// one of the same name and flags whatever its Subdir, mask or kernel version
// are, because the loader would look at those first.
// Merging the same entries again changes nothing.
func (c *Cache) Merge(add []Entry) {
	if len(add) == 0 {
		return
	}
	add = slices.Clone(add)
	sortEntries(add)
	add = slices.CompactFunc(add, func(a, b Entry) bool { return compareEntries(&a, &b) == 0 })
	sortEntries(c.Entries)

	merged := make([]Entry, 0, len(c.Entries)+len(add))
	rest := c.Entries
	for i := 0; i < len(add); {
		group := 1
		for i+group < len(add) && compareKeys(&add[i], &add[i+group]) == 0 {
			group++
		}
		for len(rest) > 0 && compareKeys(&rest[0], &add[i]) < 0 {
			merged = append(merged, rest[0])
			rest = rest[1:]
		}
		for len(rest) > 0 && compareKeys(&rest[0], &add[i]) == 0 {
			rest = rest[1:]
		}
		merged = append(merged, add[i:i+group]...)
		i += group
	}
	c.Entries = append(merged, rest...)
}

// sortEntries puts entries into the order the loader relies on.
func sortEntries(entries []Entry) {
	if !inOrder(entries) {
		slices.SortStableFunc(entries, func(a, b Entry) int { return compareEntries(&a, &b) })
	}
}

// inOrder reports whether entries are as sortEntries leaves them.
func inOrder(entries []Entry) bool {
	for i := 1; i < len(entries); i++ {
		if compareEntries(&entries[i-1], &entries[i]) > 0 {
			return false
		}
	}
	return true
}

// compareEntries is the order of the file: compare in glibc's elf/cache.c. Of
// entries that compare equal the one that was there first stays first.
func compareEntries(a, b *Entry) int {
	if c := compareKeys(a, b); c != 0 {
		return c
	}
	if (a.Subdir == "") != (b.Subdir == "") {
		if a.Subdir != "" {
			return -1
		}
		return 1
	}
	if a.Subdir != "" {
		return cmp.Or(cmp.Compare(a.Subdir, b.Subdir), cmp.Compare(b.OSVersion, a.OSVersion))
	}
	return cmp.Or(
		cmp.Compare(bits.OnesCount64(b.HWCap), bits.OnesCount64(a.HWCap)),
		cmp.Compare(b.HWCap, a.HWCap),
		cmp.Compare(b.OSVersion, a.OSVersion),
	)
}

// compareKeys compares what the loader searches by.
func compareKeys(a, b *Entry) int {
	if c := compareNames(b.Name, a.Name); c != 0 {
		return c
	}
	return cmp.Compare(b.Flags, a.Flags)
}

// compareNames compares library names as _dl_cache_libcmp of glibc's
// elf/dl-cache.c does: runs of digits as numbers, and a digit above anything
// else. Names that differ only in leading zeros of a number are equal. As in
// the loader the numbers are 32 bits wide and wrap; its own order is none where
// two of them lie further apart than that, so it cannot be followed there.
func compareNames(a, b string) int {
	i, j := 0, 0
	for i < len(a) {
		var other byte // what C has at the end of a string
		if j < len(b) {
			other = b[j]
		}
		switch digitA, digitB := isDigit(a[i]), isDigit(other); {
		case digitA && digitB:
			var x, y int32
			for ; i < len(a) && isDigit(a[i]); i++ {
				x = x*10 + int32(a[i]-'0')
			}
			for ; j < len(b) && isDigit(b[j]); j++ {
				y = y*10 + int32(b[j]-'0')
			}
			if x != y {
				return cmp.Compare(x, y)
			}
		case digitA:
			return 1
		case digitB:
			return -1
		case a[i] != other:
			return compareChars(a[i], other)
		default:
			i++
			j++
		}
	}
	if j < len(b) {
		return compareChars(0, b[j])
	}
	return 0
}

// compareChars compares bytes as the C type char, which has a sign on x86.
func compareChars(a, b byte) int {
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "386" {
		return cmp.Compare(int8(a), int8(b))
	}
	return cmp.Compare(a, b)
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9'
}
