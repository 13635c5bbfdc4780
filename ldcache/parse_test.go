// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// captured returns the caches in testdata by name. Each was written by the ldconfig of the glibc in
// its name, for a directory of tiny libraries; the text of the same name is what that ldconfig
// printed. "plain" ones have no hardware-specific entries.
func captured(tb testing.TB) map[string][]byte {
	tb.Helper()
	if nativeEndian() != endianLittle {
		tb.Skip("SKIPPED: the captured caches are little-endian, this machine is not")
	}
	names, err := filepath.Glob("testdata/*.cache")
	require.NoError(tb, err)
	require.NotEmpty(tb, names, "no captured caches")
	caches := make(map[string][]byte)
	for _, name := range names {
		data, err := os.ReadFile(name)
		require.NoError(tb, err)
		caches[strings.TrimSuffix(filepath.Base(name), ".cache")] = data
	}
	return caches
}

func TestParseCaptured(t *testing.T) {
	for name, data := range captured(t) {
		t.Run(name, func(t *testing.T) {
			want, err := os.ReadFile("testdata/" + name + ".txt")
			require.NoError(t, err)
			c, err := Parse(data)
			require.NoError(t, err)
			switch {
			case strings.HasSuffix(name, "-old"):
				assert.Equal(t, Old, c.Format)
			case strings.HasSuffix(name, "-combined"):
				assert.Equal(t, Combined, c.Format)
			default:
				assert.Equal(t, New, c.Format)
			}
			if name == "glibc-2.41-combined" {
				// ldconfig prints no names because it reads them from elsewhere than where it wrote
				// them: see subdirName.
				want, err = os.ReadFile("testdata/glibc-2.41-new.txt")
				require.NoError(t, err)
			}
			var text bytes.Buffer
			require.NoError(t, c.WriteText(&text))
			assert.Equal(t, string(want), text.String())
		})
	}
}

func TestParseValue(t *testing.T) {
	c, err := Parse(captured(t)["glibc-2.36-new"])
	require.NoError(t, err)
	assert.Equal(t, &Cache{
		Format: New,
		Entries: []Entry{
			{Name: "libcuda.so.1", Path: "/opt/lib/libcuda.so.1", Flags: FlagX8664},
			{Name: "libbeta.so.1", Path: lib + "glibc-hwcaps/x86-64-v2/libbeta.so.1", Flags: FlagX8664, Subdir: "x86-64-v2"},
			{Name: "libbeta.so.1", Path: lib + "glibc-hwcaps/x86-64-v3/libbeta.so.1", Flags: FlagX8664, Subdir: "x86-64-v3"},
			{Name: "libbeta.so.1", Path: lib + "tls/libbeta.so.1", Flags: FlagX8664, HWCap: 1 << 63},
			{Name: "libbeta.so.1", Path: lib + "haswell/libbeta.so.1", Flags: FlagX8664, HWCap: 1 << 50},
			{Name: "libbeta.so.1", Path: lib + "libbeta.so.1", Flags: FlagX8664},
			{Name: "libbeta.so.1", Path: "/opt/lib/libbeta.so.1", Flags: FlagX8664},
			{Name: "libalpha.so.10", Path: lib + "libalpha.so.10", Flags: FlagX8664},
			{Name: "libalpha.so.9", Path: lib + "glibc-hwcaps/x86-64-v3/libalpha.so.9.0", Flags: FlagX8664, Subdir: "x86-64-v3"},
			{Name: "libalpha.so.9", Path: lib + "libalpha.so.9", Flags: FlagX8664},
			{Name: "libalpha-x.so.1", Path: lib + "libalpha-x.so.1", Flags: FlagX8664},
		},
		Generator: "ldconfig (Debian GLIBC 2.36-9+deb12u14) stable release version 2.36",
	}, c)
}

// TestParseOverlapping gives all entries the same long string: little for the file, but much to
// sort. ParseSome returns what Parse returns, without what is not wanted.
func TestParseSome(t *testing.T) {
	all := Cache{Format: Combined, Generator: "g", Entries: []Entry{
		{Name: "libcuda.so.1", Path: "/l/libcuda.so.1", Flags: FlagX8664},
		{Name: "libc.so.6", Path: "/l/libc.so.6", Flags: FlagX8664},
		{Name: "libc.so.6", Path: "/l32/libc.so.6", Flags: Flag32},
	}}
	for _, format := range []Format{Old, Combined, New} {
		all.Format = format
		data, err := all.Encode()
		require.NoError(t, err)
		want, err := Parse(data)
		require.NoError(t, err)
		want.Entries = slices.DeleteFunc(want.Entries, func(e Entry) bool { return e.Name != "libc.so.6" || e.Flags != FlagX8664 })
		got, err := ParseSome(data, func(name string, flags int32) bool { return name == "libc.so.6" && flags == FlagX8664 })
		require.NoError(t, err)
		assert.Equal(t, want, got)
		assert.Len(t, got.Entries, 1)
	}
}

func TestParseOverlapping(t *testing.T) {
	const count = 1000
	data := append([]byte(oldMagic), 0)
	data = binary.NativeEndian.AppendUint32(data, count)
	for range count {
		data = append(data, make([]byte, oldEntrySize)...)
	}
	data = append(data, bytes.Repeat([]byte{'x'}, maxString-1)...)
	data = append(data, 0)
	c, err := Parse(data)
	assert.Nil(t, c)
	require.EqualError(t, err, "parsing ld.so.cache: 1000 entries with names and paths of 8190000 bytes")

	long := Entry{Name: strings.Repeat("x", maxString-1)}
	encoded, err := (&Cache{Entries: slices.Repeat([]Entry{long}, 400)}).Encode()
	assert.Nil(t, encoded)
	require.EqualError(t, err, "encoding ld.so.cache: 400 entries with names and paths of 1638000 bytes")
}

// put returns a copy of data with a u32 at an offset replaced.
func put(data []byte, at int, n uint32) []byte {
	data = bytes.Clone(data)
	binary.NativeEndian.PutUint32(data[at:], n)
	return data
}

func TestParseHostile(t *testing.T) {
	caches := captured(t)
	plain, hwcaps, old, combined := caches["glibc-2.36-plain-new"], caches["glibc-2.36-new"], caches["glibc-2.36-plain-old"], caches["glibc-2.31-combined"]
	dir := int(binary.NativeEndian.Uint32(hwcaps[newOffExtensions:]))
	embedded := bytes.Index(combined, []byte(newMagic))
	lastByte := len(old) - 1
	require.Zero(t, old[lastByte])
	huge := slices.Concat(old[:lastByte], bytes.Repeat([]byte{'x'}, 1<<20), []byte{0})

	for _, tt := range []struct {
		name string
		in   []byte
		err  string
	}{
		{"nothing", nil, "no known magic"},
		{"text", []byte("# not a cache\n"), "no known magic"},
		{"old magic alone", old[:11], "cut off at 11"},
		{"old header alone", put(old[:16], 12, 0xffffffff), "4294967295 old entries in 16 bytes"},
		{"old entries cut off", old[:16+12*6-1], "6 old entries in 87 bytes"},
		{"old entries without strings", old[:16+12*6], "outside of the string table"},
		{"old name outside", put(old, 20, uint32(len(old))), "outside of the string table"},
		{"old path outside", put(old, 24, 0xffffffff), "outside of the string table"},
		{"old string without end", old[:lastByte], "does not end"},
		{"old string of a megabyte", put(huge, 20, 180), "does not end within 4096 bytes"},
		{"new magic alone", plain[:20], "cut off at 20"},
		{"103 GB of entries", put(plain[:48], 20, 0xffffffff), "4294967295 entries in 48 bytes"},
		{"one entry more than fit", put(plain, 20, uint32(len(plain)-48)/24+1), " entries in 491 bytes"},
		{"entries that reach into the strings", put(plain, 20, uint32(len(plain)-48)/24), "bytes of strings in"},
		{"strings longer than the file", put(plain, 24, uint32(len(plain))), "bytes of strings in"},
		{"strings of 4 GiB", put(plain, 24, 0xffffffff), "4294967295 bytes of strings"},
		{"no strings", put(plain, 24, 0), "outside of the string table"},
		{"name in the header", put(plain, 52, 0), "string at 0 outside"},
		{"name in the entries", put(plain, 52, 48), "string at 48 outside"},
		{"name behind the strings", put(plain, 52, uint32(len(plain))), "outside of the string table"},
		{"path at the end of the numbers", put(plain, 56, 0xffffffff), "string at 4294967295 outside"},
		{"path without end", put(plain, 24, binary.NativeEndian.Uint32(plain[24:])-1), "entry 3: string at 383 does not end within"},
		{"big endian", slices.Concat(plain[:28], []byte{3}, plain[29:]), "byte order 3"},
		{"no endian at all", slices.Concat(plain[:28], []byte{1}, plain[29:]), "byte order 1"},
		{"extensions not aligned", put(plain, 32, 50), "extensions at 50"},
		{"extensions in the header", put(plain, 32, 4), "extensions at 4: magic number"},
		{"extensions behind the end", put(plain, 32, 0xfffffffc), "not a multiple of 4 inside"},
		{"extensions cut off", put(plain[:len(plain)-1], 32, uint32(len(plain)&^3-4)), "not a multiple of 4 inside"},
		{"too many sections", put(hwcaps, dir+4, 0xffffffff), "4294967295 sections"},
		{"section behind the end", put(hwcaps, dir+16, uint32(len(hwcaps))), "section 0: "},
		{"section of 4 GiB", put(hwcaps, dir+20, 0xffffffff), "section 0: 4294967295 bytes"},
		{
			"sections on top of each other", put(put(put(hwcaps, dir+24, 77), dir+32, 0), dir+36, uint32(len(hwcaps))),
			fmt.Sprintf("section 1: %d bytes at 0 of", len(hwcaps)),
		},
		{"section twice", put(hwcaps, dir+24, 0), "second one with tag 0"},
		{"names not aligned", put(hwcaps, dir+36, 6), "not aligned to 4 bytes"},
		{"too few names", put(hwcaps, dir+36, 4), "glibc-hwcaps name 1 of 1"},
		{"no names", put(hwcaps, dir+24, 77), "glibc-hwcaps name 0 of 0"},
		{"name of a directory outside", put(hwcaps, dir+40, 0), "glibc-hwcaps name 0: string at 0 outside"},
		{"embedded header cut off", combined[:embedded+40], "header of 48 bytes at 88 cut off at 128"},
		{"embedded entries that lie", put(combined, embedded+20, 0xffffffff), "4294967295 entries"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c, err := Parse(tt.in)
			assert.Nil(t, c)
			require.ErrorContains(t, err, tt.err)
			require.ErrorContains(t, err, "parsing ld.so.cache: ")
		})
	}
}

// Before glibc 2.33, ldconfig left the byte order unset.
func TestParseWithoutByteOrder(t *testing.T) {
	plain := captured(t)["glibc-2.36-plain-new"]
	want, err := Parse(plain)
	require.NoError(t, err)
	got, err := Parse(slices.Concat(plain[:newOffEndian], []byte{0}, plain[newOffEndian+1:]))
	require.NoError(t, err)
	assert.Equal(t, want, got)
}

// TestParseEmbedded finds the new half at both alignments, and nowhere else.
func TestParseEmbedded(t *testing.T) {
	half, err := (&Cache{Entries: []Entry{{Name: "libnew.so", Path: "/libnew.so", Flags: FlagX8664}}}).Encode()
	require.NoError(t, err)
	for _, tt := range []struct {
		name string
		gap  int // behind one old entry, which ends at 28
		want string
	}{
		{"32-bit x86", 0, "libnew.so"},
		{"others", 4, "libnew.so"},
		{"too far", 8, "libold.so"},
		{"not aligned", 1, "libold.so"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data := append([]byte(oldMagic), 0, 1, 0, 0, 0, 3, 0, 0, 0)
			data = binary.NativeEndian.AppendUint32(data, uint32(tt.gap+len(half)))
			data = binary.NativeEndian.AppendUint32(data, uint32(tt.gap+len(half)))
			data = append(data, make([]byte, tt.gap)...)
			data = append(append(data, half...), "libold.so\x00"...)
			c, err := Parse(data)
			require.NoError(t, err)
			assert.Equal(t, tt.want, c.Entries[0].Name)
		})
	}
}

// TestParseAllocations checks that neither large nor lying caches make Parse allocate more than a
// small multiple of its input.
func TestParseAllocations(t *testing.T) {
	data, err := many(5000).Encode()
	require.NoError(t, err)
	allocations := testing.AllocsPerRun(10, func() {
		_, err = Parse(data)
	})
	require.NoError(t, err)
	assert.LessOrEqual(t, allocations, 5.0, "cache, strings, entries, generator, glibc-hwcaps names")

	liar := put(data, newOffCount, 0xffffffff)
	assert.Less(t, bytesAllocated(func() { _, err = Parse(liar) }), uint64(1<<16))
	require.Error(t, err)
}

func FuzzParse(f *testing.F) {
	for _, data := range captured(f) {
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	for _, format := range []Format{New, Combined, Old} {
		c := many(3)
		c.Format = format
		c.Extensions = []Extension{{Tag: 7, Flags: 1, Data: []byte("future")}}
		data, err := c.Encode()
		require.NoError(f, err)
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var (
			c   *Cache
			err error
		)
		allocated := bytesAllocated(func() { c, err = Parse(data) })
		if limit := uint64(16*len(data) + 1<<17); allocated > limit {
			t.Fatalf("%d bytes allocated for %d", allocated, len(data))
		}
		if err != nil {
			require.Nil(t, c)
			return
		}
		encoded, err := c.Encode()
		require.NoError(t, err)
		again, err := Parse(encoded)
		require.NoError(t, err)
		sortEntries(c.Entries)
		require.Equal(t, c, again)
		twice, err := again.Encode()
		require.NoError(t, err)
		require.Equal(t, encoded, twice)
		again.Merge(again.Entries)
		merged, err := again.Encode()
		require.NoError(t, err)
		again.Merge(again.Entries)
		twice, err = again.Encode()
		require.NoError(t, err)
		require.Equal(t, merged, twice)
	})
}
