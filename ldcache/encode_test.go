// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"fmt"
	"math"
	"runtime/metrics"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// many returns a cache with n sorted entries like those of a large machine.
func many(n int) *Cache {
	c := &Cache{Generator: "ldconfig (GNU libc) stable release version 2.40"}
	for i := range n {
		name := fmt.Sprintf("libsome%s%d.so.%d", strings.Repeat("x", i%23), i/7, i%5)
		e := Entry{Name: name, Path: lib + name, Flags: FlagX8664}
		switch i % 50 {
		case 1:
			e.Flags, e.Path = Flag32, "/usr/lib/i386-linux-gnu/"+name
		case 2:
			e.Subdir, e.Path = "x86-64-v3", lib+"glibc-hwcaps/x86-64-v3/"+name
		}
		c.Entries = append(c.Entries, e)
	}
	sortEntries(c.Entries)
	return c
}

// bytesAllocated returns how much f allocates on the heap: the minimum of several runs, because the
// count is process-wide and includes the fuzzer.
func bytesAllocated(f func()) uint64 {
	sample := []metrics.Sample{{Name: "/gc/heap/allocs:bytes"}}
	least := uint64(math.MaxUint64)
	for range 5 {
		metrics.Read(sample)
		before := sample[0].Value.Uint64()
		f()
		metrics.Read(sample)
		least = min(least, sample[0].Value.Uint64()-before)
	}
	return least
}

// TestEncodeCaptured requires exactly ldconfig's bytes. Skipped are caches of 2.31, which shares no
// strings and has no byte order, and the one with misplaced names.
func TestEncodeCaptured(t *testing.T) {
	same := 0
	for name, data := range captured(t) {
		t.Run(name, func(t *testing.T) {
			c, err := Parse(data)
			require.NoError(t, err)
			encoded, err := c.Encode()
			require.NoError(t, err)
			again, err := Parse(encoded)
			require.NoError(t, err)
			assert.Equal(t, c, again)
			if !strings.HasPrefix(name, "glibc-2.31") && name != "glibc-2.41-combined" {
				assert.Equal(t, data, encoded)
				same++
			}
		})
	}
	assert.Equal(t, 5, same)
}

func TestEncodeRoundTrip(t *testing.T) {
	plain := Entry{Name: "liba.so", Path: "/lib/liba.so", Flags: FlagAArch64}
	masked := Entry{Name: "liba.so", Path: "/lib/tls/liba.so", Flags: FlagAArch64, HWCap: 1 << 63}
	level := Entry{Name: "liba.so", Path: "/lib/glibc-hwcaps/v9/liba.so", Flags: FlagAArch64, Subdir: "v9", HWCap: 3 << 32}
	kernel := Entry{Name: "libb.so", Path: "/lib/libb.so", Flags: FlagAArch64, OSVersion: 0x030700}
	extensions := []Extension{{Tag: 9, Flags: 5, Data: []byte("odd")}, {Tag: 2, Data: []byte{}}, {Tag: 9, Data: []byte("four")}}

	for _, tt := range []struct {
		name     string
		in, want Cache
	}{
		{"empty", Cache{}, Cache{}},
		{"empty old", Cache{Format: Old}, Cache{Format: Old}},
		{"empty combined", Cache{Format: Combined}, Cache{Format: Combined}},
		{
			"everything",
			Cache{Entries: []Entry{plain, kernel, masked, level}, Generator: "us", Extensions: extensions},
			Cache{Entries: []Entry{kernel, level, masked, plain}, Generator: "us", Extensions: extensions},
		},
		{
			"everything combined",
			Cache{Format: Combined, Entries: []Entry{plain, kernel, masked, level}, Generator: "us", Extensions: extensions},
			Cache{Format: Combined, Entries: []Entry{kernel, level, masked, plain}, Generator: "us", Extensions: extensions},
		},
		{
			"what old can hold",
			Cache{Format: Old, Entries: []Entry{plain, kernel, masked, level}, Generator: "us", Extensions: extensions},
			Cache{Format: Old, Entries: []Entry{{Name: "libb.so", Path: "/lib/libb.so", Flags: FlagAArch64}, plain}},
		},
		{
			"the order of one name",
			Cache{Entries: []Entry{{OSVersion: 1}, {HWCap: 1}, {HWCap: 1 << 63}, {OSVersion: 2}, {HWCap: 3}, {Subdir: "b"}, {Subdir: "b", OSVersion: 1}, {Subdir: "a"}, {Flags: 1}, {Flags: -1}}},
			Cache{Entries: []Entry{{Flags: 1}, {Subdir: "a"}, {Subdir: "b", OSVersion: 1}, {Subdir: "b"}, {HWCap: 3}, {HWCap: 1 << 63}, {HWCap: 1}, {OSVersion: 2}, {OSVersion: 1}, {Flags: -1}}},
		},
		{
			"the order of equals",
			Cache{Entries: []Entry{plain, {Name: "liba.so", Path: "/0/liba.so", Flags: FlagAArch64}}},
			Cache{Entries: []Entry{plain, {Name: "liba.so", Path: "/0/liba.so", Flags: FlagAArch64}}},
		},
		{"empty strings", Cache{Entries: []Entry{{}}}, Cache{Entries: []Entry{{}}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			before := slices.Clone(tt.in.Entries)
			data, err := tt.in.Encode()
			require.NoError(t, err)
			assert.Equal(t, before, tt.in.Entries, "the cache stays as it is")
			got, err := Parse(data)
			require.NoError(t, err)
			assert.Equal(t, &tt.want, got)
		})
	}
}

// TestEncodeOldHalf reads the old half of a combined cache like a loader that does not know the new
// one.
func TestEncodeOldHalf(t *testing.T) {
	for _, n := range []int{1, 2} {
		entries := []Entry{
			{Name: "libb.so", Path: "/libb.so", Flags: FlagX8664},
			{Name: "liba.so", Path: "/v3/liba.so", Flags: FlagX8664, Subdir: "x86-64-v3"},
			{Name: "liba.so", Path: "/tls/liba.so", Flags: FlagX8664, HWCap: 1 << 63},
			{Name: "liba.so", Path: "/liba.so", Flags: FlagX8664},
		}[:3*n-2]
		data, err := (&Cache{Format: Combined, Entries: entries}).Encode()
		require.NoError(t, err)
		old, err := parseOld(data, 2, oldHeaderSize+2*oldEntrySize, nil)
		require.NoError(t, err)
		want := []Entry{entries[0], entries[len(entries)-1]}
		assert.Equal(t, &Cache{Format: Old, Entries: want}, old)
	}
}

func TestEncodeShares(t *testing.T) {
	data, err := (&Cache{Entries: []Entry{
		{Name: "libb.so", Path: "/lib/libb.so"},
		{Name: "libb", Path: "/lib/libb.so"},
		{Name: "b.so", Path: "/lib/b.so"},
	}}).Encode()
	require.NoError(t, err)
	assert.Equal(t, "/lib/libb.so\x00/lib/b.so\x00libb\x00", string(data[48+3*24:48+3*24+28]))
}

func TestEncodeHostile(t *testing.T) {
	long := strings.Repeat("x", 4096)
	for _, tt := range []struct {
		name string
		in   Cache
		err  string
	}{
		{"NUL in a name", Cache{Entries: []Entry{{Name: "a\x00b"}}}, `entry 0: string with a NUL: "a\x00b"`},
		{"NUL in a path", Cache{Entries: []Entry{{Path: "/a\x00"}}}, "string with a NUL"},
		{"NUL in a directory", Cache{Entries: []Entry{{Subdir: "\x00"}}}, "string with a NUL"},
		{"long name", Cache{Entries: []Entry{{Name: long}}}, "string of 4096 bytes"},
		{"long path", Cache{Entries: []Entry{{Path: long}}}, "string of 4096 bytes"},
		{"mask that is an index", Cache{Entries: []Entry{{HWCap: 1 << 62}}}, "without a glibc-hwcaps name"},
		{"mask that is an index and level", Cache{Entries: []Entry{{HWCap: 1<<62 | 1<<41 | 5}}}, "without a glibc-hwcaps name"},
		{"mask beside a directory", Cache{Entries: []Entry{{HWCap: 1, Subdir: "v"}}}, "together with a glibc-hwcaps name"},
		{"generator as extension", Cache{Extensions: []Extension{{Tag: 0}}}, "reserved tag 0"},
		{"names as extension", Cache{Extensions: []Extension{{Tag: 1}}}, "reserved tag 1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			data, err := tt.in.Encode()
			assert.Nil(t, data)
			require.ErrorContains(t, err, tt.err)
			require.ErrorContains(t, err, "encoding ld.so.cache: ")
			assert.Less(t, len(err.Error()), 300)
		})
	}
}

func BenchmarkParse(b *testing.B) {
	data, err := many(5000).Encode()
	require.NoError(b, err)
	b.SetBytes(int64(len(data)))
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkEncode(b *testing.B) {
	c := many(5000)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Encode(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkMerge(b *testing.B) {
	c := many(5000)
	all := c.Entries
	var add []Entry
	for i := range 80 {
		name := fmt.Sprintf("libnvidia-part%d.so.1", i)
		add = append(add, Entry{Name: name, Path: lib + name, Flags: FlagX8664})
	}
	b.ReportAllocs()
	for b.Loop() {
		c.Entries = all
		c.Merge(add)
	}
}

func BenchmarkLookup(b *testing.B) {
	c := many(5000)
	b.ReportAllocs()
	for b.Loop() {
		c.Lookup("libcuda.so.1", FlagX8664)
	}
}
