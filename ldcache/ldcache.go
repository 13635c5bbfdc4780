// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package ldcache reads and writes ld.so.cache, the index that glibc's loader uses to find shared
// libraries.
//
// Most callers want [Parse] and [Cache.Lookup]; programs that add libraries also want [Cache.Merge]
// and [Cache.Encode]. [ParseText] reads the output of `ldconfig -p`, and [Cache.WriteText] writes
// it.
//
// The package opens no files: the caller reads /etc/ld.so.cache below any root, with any size
// limit, and passes the bytes, which are not trusted. A wrong count or offset is an error, and
// memory use is a small multiple of the input.
//
// The format and its order come from glibc: elf/dl-cache.c reads the file in the loader,
// elf/cache.c and elf/stringtable.c write it in ldconfig, and sysdeps/generic/dl-cache.h has the
// structures.
package ldcache

import (
	"cmp"
	"math/bits"
	"runtime"
	"slices"
)

// Format is the format of a cache file.
type Format int

// The formats. New has been glibc's default since 2.32. Combined, an old cache with a new one
// hidden in its strings, was the default from 2.2 to 2.31; a loader older than 2.2 reads its old
// half.
const (
	New Format = iota
	Combined
	Old
)

// Cache is a parsed ld.so.cache.
type Cache struct {
	// Format is the format that was read and will be written.
	Format Format
	// Entries are in the order of the file, which is the loader's search order if ldconfig wrote
	// it. Those of a combined cache are from its new half.
	Entries []Entry
	// Generator names the program that wrote the cache, for instance "ldconfig (Debian GLIBC
	// 2.36-9+deb12u14) stable release version 2.36"; "" if the cache does not say (before glibc
	// 2.33).
	Generator string
	// Extensions are the sections with tags that this package does not know, in the order of the
	// file.
	Extensions []Extension
}

// Extension is a section of the extension directory that this package does not know. It is written
// back unchanged.
type Extension struct {
	Tag, Flags uint32
	Data       []byte
}

// Entry is a library in the cache.
type Entry struct {
	// Name is what programs ask for, normally the SONAME: "libcuda.so.1".
	Name string
	// Path is the library's path, normally a symbolic link:
	// "/usr/lib/x86_64-linux-gnu/libcuda.so.1".
	Path string
	// Flags encode the architecture and ABI; a loader only uses entries with exactly its own flags,
	// for instance [FlagX8664].
	Flags int32
	// OSVersion is the oldest kernel that the library runs on, as os<<24|major<<16|minor<<8|patch,
	// where os is 0 for Linux. 0 means any; glibc ignores it since 2.36.
	OSVersion uint32
	// HWCap is the mask of hardware capabilities that the library requires: bits of AT_HWCAP and
	// AT_PLATFORM, and 1<<63 for a "tls" directory. It is usually 0, none; glibc dropped it in
	// 2.37. With a Subdir it has only the ISA level, in bits 32 to 41.
	HWCap uint64
	// Subdir is the glibc-hwcaps directory that contains the library, such as "x86-64-v3"; "" for a
	// library for every processor.
	Subdir string
}

// Flags of the libraries of each architecture, as written by ldconfig. The low byte is the type of
// the library (1 ELF, 3 ELF for glibc 2), the next the ABI that it needs
// (sysdeps/generic/ldconfig.h).
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

// Lookup returns the entries with exactly that name and flags, in their order, nil if there are
// none. The loader takes the first one that has no Subdir or hardware mask that the processor does
// not satisfy.
func (c *Cache) Lookup(name string, flags int32) []Entry {
	var found []Entry
	for i := range c.Entries {
		if c.Entries[i].Flags == flags && c.Entries[i].Name == name {
			found = append(found, c.Entries[i])
		}
	}
	return found
}

// Merge adds entries and sorts. Added entries replace those of the same name and flags, whatever
// their Subdir, mask or kernel version, because the loader might prefer those. Merging the same
// entries again changes nothing.
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

// sortEntries sorts entries into the order that the loader relies on.
func sortEntries(entries []Entry) {
	if !inOrder(entries) {
		slices.SortStableFunc(entries, func(a, b Entry) int { return compareEntries(&a, &b) })
	}
}

// inOrder reports whether entries are sorted as by sortEntries.
func inOrder(entries []Entry) bool {
	for i := 1; i < len(entries); i++ {
		if compareEntries(&entries[i-1], &entries[i]) > 0 {
			return false
		}
	}
	return true
}

// compareEntries is the order of the file: compare in glibc's elf/cache.c. Sorting is stable.
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

// compareKeys compares what the loader searches for.
func compareKeys(a, b *Entry) int {
	if c := compareNames(b.Name, a.Name); c != 0 {
		return c
	}
	return cmp.Compare(b.Flags, a.Flags)
}

// compareNames compares library names as _dl_cache_libcmp of glibc's elf/dl-cache.c does: runs of
// digits as numbers, and a digit above anything else. Names that differ only in leading zeros of a
// number are equal. As in the loader, numbers are 32 bits wide and wrap. If two of them are further
// apart than that, the loader's comparison is not an order and cannot be followed.
func compareNames(a, b string) int {
	i, j := 0, 0
	for i < len(a) {
		var other byte // the NUL at the end of a C string
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

// compareChars compares bytes as the C type char, which is signed on x86.
func compareChars(a, b byte) int {
	if runtime.GOARCH == "amd64" || runtime.GOARCH == "386" {
		return cmp.Compare(int8(a), int8(b))
	}
	return cmp.Compare(a, b)
}

func isDigit(c byte) bool {
	return '0' <= c && c <= '9'
}
