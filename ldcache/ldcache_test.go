// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"debug/elf"
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

const lib = "/usr/lib/x86_64-linux-gnu/"

func TestArch(t *testing.T) {
	type facts struct {
		flags   int32
		bits    int
		triplet string
		compat  Arch
	}
	for _, tt := range []struct {
		machine elf.Machine
		class   elf.Class
		arch    Arch
		want    facts
	}{
		{elf.EM_X86_64, elf.ELFCLASS64, X8664, facts{0x0303, 64, "x86_64-linux-gnu", I386}},
		{elf.EM_X86_64, elf.ELFCLASS32, "x32", facts{0x0803, 32, "x86_64-linux-gnux32", ""}},
		{elf.EM_386, elf.ELFCLASS32, I386, facts{0x0003, 32, "i386-linux-gnu", ""}},
		{elf.EM_AARCH64, elf.ELFCLASS64, AArch64, facts{0x0a03, 64, "aarch64-linux-gnu", ARM}},
		{elf.EM_ARM, elf.ELFCLASS32, ARM, facts{0x0903, 32, "arm-linux-gnueabihf", ""}},
		{elf.EM_PPC64, elf.ELFCLASS64, PPC64LE, facts{0x0503, 64, "powerpc64le-linux-gnu", ""}},
		{elf.EM_S390, elf.ELFCLASS64, "s390x", facts{0x0403, 64, "s390x-linux-gnu", ""}},
		{elf.EM_RISCV, elf.ELFCLASS64, "riscv64", facts{0x1003, 64, "riscv64-linux-gnu", ""}},
		{elf.EM_LOONGARCH, elf.ELFCLASS64, "loongarch64", facts{0x1203, 64, "loongarch64-linux-gnu", ""}},
		{elf.EM_386, elf.ELFCLASS64, "machine 3, class 2", facts{}},
		{elf.EM_BPF, elf.ELFCLASS64, "machine 247, class 2", facts{}},
	} {
		arch := ArchOf(uint16(tt.machine), byte(tt.class))
		assert.Equal(t, tt.arch, arch)
		assert.Equal(t, tt.want, facts{arch.Flags(), arch.Bits(), arch.Triplet(), arch.Compat()}, arch)
	}
}

func TestLookup(t *testing.T) {
	c := &Cache{Entries: []Entry{
		{Name: "libcuda.so.1", Path: "/opt/v3/libcuda.so.1", Flags: FlagX8664, Subdir: "x86-64-v3"},
		{Name: "libcuda.so.1", Path: lib + "libcuda.so.1", Flags: FlagX8664},
		{Name: "libcuda.so.1", Path: "/usr/lib32/libcuda.so.1", Flags: Flag32},
		{Name: "libcuda.so", Path: lib + "libcuda.so", Flags: FlagX8664},
	}}
	assert.Equal(t, c.Entries[:2], c.Lookup("libcuda.so.1", FlagX8664))
	assert.Equal(t, c.Entries[2:3], c.Lookup("libcuda.so.1", Flag32))
	assert.Nil(t, c.Lookup("libcuda.so.1", FlagAArch64))
	assert.Nil(t, c.Lookup("libcuda.so.01", FlagX8664))
}

func TestCompareNames(t *testing.T) {
	// Each name is less than the next.
	names := []string{
		"", "-", "lib", "lib-x.so", "lib-1.so", "lib.so", "libA.so", "lib_.so", "liba-1.so", "liba.so",
		"liba.so.1", "liba.so.1.a", "liba.so.1.2", "liba.so.1.10", "liba.so.2", "liba.so.10",
		"libaa.so", "liba0.so", "liba09.so", "liba10.so", "libb.so", "lib0", "lib1",
	}
	for i := range names {
		for j := range names {
			assert.Equal(t, compareInts(i, j), compareNames(names[i], names[j]), "%q %q", names[i], names[j])
		}
	}
	assert.Zero(t, compareNames("liba.so.01", "liba.so.1"))
	assert.Zero(t, compareNames("liba.so.4294967297", "liba.so.1"), "numbers wrap as in the loader")
}

func compareInts(a, b int) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	}
	return 0
}

func TestMerge(t *testing.T) {
	libc := Entry{Name: "libc.so.6", Path: lib + "libc.so.6", Flags: FlagX8664}
	libz := Entry{Name: "libz.so.1", Path: lib + "libz.so.1", Flags: FlagX8664}
	cuda := Entry{Name: "libcuda.so.1", Path: lib + "libcuda.so.1", Flags: FlagX8664}
	cuda32 := Entry{Name: "libcuda.so.1", Path: "/usr/lib/i386-linux-gnu/libcuda.so.1", Flags: Flag32}
	theirs := func(e Entry, change func(*Entry)) Entry {
		e.Path = "/theirs/" + e.Name
		change(&e)
		return e
	}
	for _, tt := range []struct {
		name            string
		have, add, want []Entry
	}{
		{"nothing", nil, nil, nil},
		{"nothing added", []Entry{libz, libc}, nil, []Entry{libz, libc}},
		{"into an empty cache", nil, []Entry{cuda32, cuda}, []Entry{cuda, cuda32}},
		{"in the middle", []Entry{libz, libc}, []Entry{cuda, cuda32}, []Entry{libz, cuda, cuda32, libc}},
		{"at both ends", []Entry{cuda}, []Entry{libc, libz}, []Entry{libz, cuda, libc}},
		{"into another order", []Entry{libc, libz}, []Entry{cuda}, []Entry{libz, cuda, libc}},
		{"again", []Entry{libz, cuda, libc}, []Entry{cuda, cuda}, []Entry{libz, cuda, libc}},
		{
			"over entries that the loader would look at first",
			[]Entry{
				libz,
				theirs(cuda, func(e *Entry) { e.Subdir = "x86-64-v2" }),
				theirs(cuda, func(e *Entry) { e.HWCap = 1 << 63 }),
				theirs(cuda, func(e *Entry) { e.OSVersion = 0x030200 }),
				theirs(cuda, func(*Entry) {}),
				cuda32,
				libc,
			},
			[]Entry{cuda},
			[]Entry{libz, cuda, cuda32, libc},
		},
		{
			"over a name the loader takes for the same",
			[]Entry{theirs(cuda, func(e *Entry) { e.Name = "libcuda.so.01" }), libc},
			[]Entry{cuda},
			[]Entry{cuda, libc},
		},
		{
			"several of one name",
			[]Entry{libz, libc},
			[]Entry{
				cuda,
				theirs(cuda, func(e *Entry) { e.Path = "/second" }),
				theirs(cuda, func(e *Entry) { e.Subdir = "x86-64-v4" }),
				theirs(cuda, func(e *Entry) { e.Subdir = "x86-64-v3" }),
			},
			[]Entry{
				libz,
				theirs(cuda, func(e *Entry) { e.Subdir = "x86-64-v3" }),
				theirs(cuda, func(e *Entry) { e.Subdir = "x86-64-v4" }),
				cuda,
				libc,
			},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := &Cache{Format: Combined, Entries: slices.Clone(tt.have), Generator: "them"}
			add := slices.Clone(tt.add)
			c.Merge(add)
			assert.Equal(t, &Cache{Format: Combined, Entries: tt.want, Generator: "them"}, c)
			assert.Equal(t, tt.add, add, "the argument stays as it is")
			c.Merge(add)
			assert.Equal(t, &Cache{Format: Combined, Entries: tt.want, Generator: "them"}, c, "merged again")
		})
	}
}
