// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// header is e_machine and the class of an architecture.
func header(arch ldcache.Arch) (machine elf.Machine, class elf.Class) {
	for class = range elf.Class(3) {
		for machine = range elf.Machine(1 << 9) {
			if ldcache.ArchOf(uint16(machine), byte(class)) == arch {
				return machine, class
			}
		}
	}
	_, err := fmt.Sscanf(string(arch), "machine %d, class %d", &machine, &class)
	if err != nil {
		panic(err)
	}
	return machine, class
}

// writeELF returns the smallest shared library that readELF learns something from: header, program
// headers, one dynamic section and, for a nonzero ABI, one note.
func writeELF(info elfInfo, needed ...string) []byte {
	var order interface {
		binary.ByteOrder
		binary.AppendByteOrder
	} = binary.LittleEndian
	data := elf.ELFDATA2LSB
	machine, class := header(info.Arch)
	if info.Arch == "s390x" {
		order, data = binary.BigEndian, elf.ELFDATA2MSB
	}
	headerSize, segmentSize, wide := 64, 56, true
	if class == elf.ELFCLASS32 {
		headerSize, segmentSize, wide = 52, 32, false
	}
	var note []byte
	if info.ABI != [3]uint32{} {
		for _, word := range []uint32{4, 16, 1} {
			note = order.AppendUint32(note, word)
		}
		note = append(note, "GNU\x00"...)
		for _, word := range []uint32{0, info.ABI[0], info.ABI[1], info.ABI[2]} {
			note = order.AppendUint32(note, word)
		}
	}
	word := func(b []byte, v uint64) []byte {
		if wide {
			return order.AppendUint64(b, v)
		}
		return order.AppendUint32(b, uint32(v))
	}
	text := "\x00" + info.SONAME + "\x00"
	const base = 0x10000 // so that addresses are not offsets
	noteAt := headerSize + 3*segmentSize
	dynamicAt := noteAt + len(note)
	dynamicAt += -dynamicAt & 7
	entries := []uint64{uint64(elf.DT_STRSZ), uint64(len(text)), uint64(elf.DT_STRTAB), 0, 0, 0}
	for _, name := range needed {
		entries = slices.Concat([]uint64{uint64(elf.DT_NEEDED), uint64(len(text))}, entries)
		text += name + "\x00"
	}
	entries[2*len(needed)+1] = uint64(len(text))
	if info.SONAME != "" {
		entries = slices.Concat([]uint64{uint64(elf.DT_SONAME), 1}, entries)
	}
	dynamicSize := len(entries) * 8
	if !wide {
		dynamicSize = len(entries) * 4
	}
	textAt := dynamicAt + dynamicSize
	entries[len(entries)-3] = uint64(base + textAt)
	size := textAt + len(text)

	out := []byte(elf.ELFMAG)
	out = append(out, byte(class), byte(data), byte(elf.EV_CURRENT))
	out = append(out, make([]byte, elf.EI_NIDENT-len(out))...)
	out = order.AppendUint16(out, uint16(elf.ET_DYN))
	out = order.AppendUint16(out, uint16(machine))
	out = order.AppendUint32(out, uint32(elf.EV_CURRENT))
	out = word(out, 0)                  // entry
	out = word(out, uint64(headerSize)) // program headers
	out = word(out, 0)                  // section headers
	out = order.AppendUint32(out, 0)    // flags
	for _, v := range []int{headerSize, segmentSize, 3, 0, 0, 0} {
		out = order.AppendUint16(out, uint16(v))
	}
	segment := func(kind elf.ProgType, offset, length int) {
		out = order.AppendUint32(out, uint32(kind))
		if wide {
			out = order.AppendUint32(out, uint32(elf.PF_R))
		}
		for _, v := range []int{offset, base + offset, base + offset, length, length} {
			out = word(out, uint64(v))
		}
		if !wide {
			out = order.AppendUint32(out, uint32(elf.PF_R))
		}
		out = word(out, 4)
	}
	segment(elf.PT_LOAD, 0, size)
	segment(elf.PT_DYNAMIC, dynamicAt, dynamicSize)
	segment(elf.PT_NOTE, noteAt, len(note))
	out = append(out, note...)
	out = append(out, make([]byte, dynamicAt-len(out))...)
	for _, v := range entries {
		out = word(out, v)
	}
	return append(out, text...)
}

// writeProgram returns the beginning of a program with a loader.
func writeProgram(interpreter string) []byte {
	data := writeELF(elfInfo{Arch: ldcache.X8664})
	binary.LittleEndian.PutUint16(data[16:], uint16(elf.ET_EXEC))
	const note = 64 + 2*56 // becomes the segment of the loader's name
	binary.LittleEndian.PutUint32(data[note:], uint32(elf.PT_INTERP))
	binary.LittleEndian.PutUint64(data[note+8:], uint64(len(data)))
	binary.LittleEndian.PutUint64(data[note+32:], uint64(len(interpreter)+1))
	return append(data, interpreter+"\x00"...)
}

func TestReadInterpreter(t *testing.T) {
	good := writeProgram("/lib64/ld-linux-x86-64.so.2")
	const interp = 64 + 2*56
	static := edit(good, interp, byte(elf.PT_NOTE))
	for _, tt := range []struct {
		name      string
		in        []byte
		want, err string
	}{
		{name: "program", in: good, want: "/lib64/ld-linux-x86-64.so.2"},
		{name: "position-independent program", in: edit(good, 16, byte(elf.ET_DYN)), want: "/lib64/ld-linux-x86-64.so.2"},
		{name: "static program", in: static},
		{name: "empty", err: "an empty file"},
		{name: "object file", in: edit(good, 16, byte(elf.ET_REL)), err: "offset 16: type 1 is not a program"},
		{name: "relative", in: writeProgram("ld.so"), err: `interpreter "ld.so\x00": not an absolute path`},
		{name: "without end", in: edit(good, len(good)-1, 'x'), err: `interpreter "/lib64/ld-linux-x86-64.so.2x": not an absolute path`},
		{name: "cut", in: good[:len(good)-1], err: "interpreter: offset 282: 28 bytes wanted of a file of 309"},
		{name: "long", in: edit(good, interp+32, 0, 0, 1), err: "interpreter of 65536 bytes, more than 4096"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readInterpreter(bytes.NewReader(tt.in), int64(len(tt.in)))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestReadNeeded(t *testing.T) {
	for _, arch := range []ldcache.Arch{ldcache.X8664, ldcache.I386} {
		data := writeELF(elfInfo{Arch: arch, SONAME: "liba.so.1"}, "libb.so.1", "libc.so.6")
		got, err := readNeeded(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		assert.Equal(t, []string{"libc.so.6", "libb.so.1"}, got) // the writer puts the last one first
		got, err = readNeeded(bytes.NewReader(data[:100]), int64(len(data)))
		require.Error(t, err)
		assert.Nil(t, got)
	}
	data := writeELF(elfInfo{Arch: ldcache.X8664}, "../x")
	got, err := readNeeded(bytes.NewReader(data), int64(len(data)))
	require.ErrorContains(t, err, `NEEDED "../x" is not a file name`)
	assert.Nil(t, got)
}

func TestReadELF(t *testing.T) {
	for _, want := range []elfInfo{
		{Arch: ldcache.X8664, SONAME: "libcuda.so.1"},
		{Arch: ldcache.X8664},
		{Arch: ldcache.X8664, SONAME: "libnvidia-tls.so.390.157", ABI: [3]uint32{2, 3, 99}},
		{Arch: ldcache.I386, SONAME: "libcuda.so.1", ABI: [3]uint32{2, 3, 99}},
		{Arch: ldcache.AArch64, SONAME: strings.Repeat("x", 255)},
		{Arch: "s390x", SONAME: "libbig.so.1", ABI: [3]uint32{3, 2, 0}},
	} {
		data := writeELF(want)
		got, err := readELF(bytes.NewReader(data), int64(len(data)))
		require.NoError(t, err)
		assert.Equal(t, want, got)
	}
}

// edit returns data with bytes from offset replaced.
func edit(data []byte, offset int, by ...byte) []byte {
	data = slices.Clone(data)
	copy(data[offset:], by)
	return data
}

func TestReadELFErrors(t *testing.T) {
	good := writeELF(elfInfo{Arch: ldcache.X8664, SONAME: "libcuda.so.1"})
	// The program headers begin at 64 and have 56 bytes; offset, address and length are at 8, 16
	// and 32.
	const load, dynamic = 64, 64 + 56
	huge := []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x7f}
	at := bytes.Index(good, []byte("libcuda.so.1"))
	table := bytes.Index(good, []byte{byte(elf.DT_SONAME), 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0})
	require.Positive(t, at)
	require.Positive(t, table)
	for _, tt := range []struct {
		name string
		in   []byte
		err  string
	}{
		{"empty", nil, "an empty file"},
		{"text", []byte("/* GNU ld script */\nGROUP ( libm.so.6 )\n"), "offset 0: not an ELF file"},
		{"magic alone", good[:4], "offset 0: not an ELF file"},
		{"half a header", good[:40], "offset 40: header truncated"},
		{"class", edit(good, 4, 3), "offset 4: unknown class 3"},
		{"byte order", edit(good, 5, 0), "offset 5: unknown byte order 0"},
		{"executable", edit(good, 16, 2), "offset 16: type 2 is not a shared library"},
		{"program headers beyond the end", edit(good, 32, huge...), "program headers: offset 9223372036854775807: 168 bytes wanted of a file of 310"},
		{"program headers of another size", edit(good, 54, 55), "program headers of 55 bytes instead of 56"},
		{"65535 program headers", edit(good, 56, 0xff, 0xff), "65535 program headers, more than 128"},
		{"no program headers", edit(good, 56, 0, 0), "no dynamic section"},
		{"dynamic section beyond the end", edit(good, dynamic+8, huge...), "dynamic section: offset 9223372036854775807: 64 bytes wanted of a file of 310"},
		{"endless dynamic section", edit(good, dynamic+32, huge...), "dynamic section of 9223372036854775807 bytes, more than 65536"},
		{"SONAME beyond the strings", edit(good, table+8, 200), "dynamic section: SONAME at 200 of a string table of 14 bytes"},
		{"endless strings", edit(edit(good, table+8, 200), table+24, huge...), "dynamic section: SONAME at 200 of a string table of 9223372036854775807 bytes"},
		{"strings nowhere", edit(good, table+40, huge...), "dynamic string table: address 0x7fffffffffffffff is not in the file"},
		{"segment beyond the end", edit(good, load+8, huge...), "truncated: a segment of 310 bytes at 9223372036854775807 in a file of 310"},
		{"SONAME without end", edit(good, len(good)-1, 'x'), "offset 297: SONAME is not terminated"},
		{"SONAME with a slash", edit(good, at, []byte("../../cuda..")...), `offset 297: SONAME "../../cuda.." is not a file name`},
		{"SONAME with a newline", edit(good, at, '\n'), `offset 297: SONAME "\nibcuda.so.1" is not a file name`},
		{"SONAME is empty", edit(good, at, 0), `offset 297: SONAME "" is not a file name`},
		{"SONAME without strings", edit(good, table+32, 1), "dynamic section: SONAME without a string table"},
		{"cut in the strings", good[:len(good)-3], "truncated: a segment of 310 bytes at 0 in a file of 307"},
		{"notes beyond the end", edit(good, 64+2*56+8, huge...), "notes: offset 9223372036854775807: 0 bytes wanted of a file of 310"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readELF(bytes.NewReader(tt.in), int64(len(tt.in)))
			assert.EqualError(t, err, tt.err)
			assert.Zero(t, got)
		})
	}
}

// A library that is truncated while being read must not look complete.
func TestReadELFShrinks(t *testing.T) {
	good := writeELF(elfInfo{Arch: ldcache.X8664, SONAME: "libcuda.so.1"})
	got, err := readELF(bytes.NewReader(good[:100]), int64(len(good)))
	require.ErrorIs(t, err, io.ErrUnexpectedEOF)
	assert.Zero(t, got)
}

// The SONAMEs of this machine's libraries must be those that debug/elf reads, which uses section
// headers where we use program headers.
func TestReadELFOfThisMachine(t *testing.T) {
	var names []string
	for _, dir := range []string{"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib64", "/usr/lib"} {
		found, err := filepath.Glob(dir + "/*.so.*")
		require.NoError(t, err)
		names = append(names, found...)
	}
	compared := 0
	for _, name := range names {
		info, err := os.Stat(name)
		if err != nil || !info.Mode().IsRegular() {
			continue
		}
		name, err = filepath.EvalSymlinks(name)
		require.NoError(t, err)
		file, err := elf.Open(name)
		if err != nil {
			continue
		}
		sonames, err := file.DynString(elf.DT_SONAME)
		arch := ldcache.ArchOf(uint16(file.Machine), byte(file.Class))
		require.NoError(t, file.Close())
		if err != nil || len(sonames) > 1 {
			continue
		}
		got, err := readELFFile(name)
		require.NoError(t, err, name)
		want := elfInfo{Arch: arch, SONAME: strings.Join(sonames, ""), ABI: got.ABI}
		assert.Equal(t, want, got, name)
		compared++
	}
	if compared == 0 {
		t.Skip("SKIPPED: this machine has no shared library in a usual directory to compare with debug/elf")
	}
}

func FuzzReadELF(f *testing.F) {
	for _, info := range []elfInfo{
		{Arch: ldcache.X8664, SONAME: "libcuda.so.1"},
		{Arch: ldcache.I386, SONAME: "libcuda.so.1", ABI: [3]uint32{2, 3, 99}},
		{Arch: "s390x", SONAME: "libbig.so.1", ABI: [3]uint32{3, 2, 0}},
	} {
		f.Add(writeELF(info))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		counter := countingReader{data: data}
		got, err := readELF(&counter, int64(len(data)))
		// Whatever the file says, little of it is read, and nothing after its end.
		assert.LessOrEqual(t, counter.bytes, elfPage+maxSegments*56+maxDynamic+maxSONAME+1+maxSegments*maxNotes)
		assert.False(t, counter.beyond)
		if err != nil {
			assert.Zero(t, got)
			return
		}
		assert.True(t, got.SONAME == "" || validName(got.SONAME))
		// Reading, writing and reading again gives the same.
		again := writeELF(got)
		reread, err := readELF(bytes.NewReader(again), int64(len(again)))
		require.NoError(t, err)
		assert.Equal(t, got, reread)
	})
}

// countingReader counts how much of a file is read.
type countingReader struct {
	data   []byte
	bytes  int
	beyond bool
}

func (r *countingReader) ReadAt(p []byte, offset int64) (int, error) {
	r.bytes += len(p)
	if offset < 0 || offset > int64(len(r.data)) || int64(len(p)) > int64(len(r.data))-offset {
		r.beyond = true
		return 0, errors.New("beyond the end")
	}
	return copy(p, r.data[offset:]), nil
}
