// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// library builds an ELF file whose only sections are two notes and their names.
func library(order binary.ByteOrder, owner, description string) []byte {
	note := func(owner, description string) []byte {
		var b []byte
		for _, n := range []uint32{uint32(len(owner) + 1), uint32(len(description) + 1), 0} {
			var number [4]byte
			order.PutUint32(number[:], n)
			b = append(b, number[:]...)
		}
		for _, s := range []string{owner, description} {
			b = append(b, s...)
			b = append(b, make([]byte, 4-len(s)%4)...)
		}
		return b
	}
	id := note("GNU", "12345678901234567890")
	compat := note(owner, description)
	names := "\x00.note.gnu.build-id\x00.note.cuda.fwd_compatibility\x00.shstrtab\x00"

	type header struct { // of a section
		Name, Type                uint32
		Flags, Addr, Offset, Size uint64
		Link, Info                uint32
		Align, EntrySize          uint64
	}
	at := func(name string) uint32 { return uint32(strings.Index(names, name)) }
	const start = 64 + 4*64
	sections := []header{
		{},
		{Name: at(".note.gnu"), Type: uint32(elf.SHT_NOTE), Offset: start, Size: uint64(len(id)), Align: 4},
		{Name: at(".note.cuda"), Type: uint32(elf.SHT_NOTE), Offset: start + uint64(len(id)), Size: uint64(len(compat)), Align: 4},
		{Name: at(".shstrtab"), Type: uint32(elf.SHT_STRTAB), Offset: start + uint64(len(id)+len(compat)), Size: uint64(len(names))},
	}
	data := elf.ELFDATA2LSB
	if order == binary.BigEndian {
		data = elf.ELFDATA2MSB
	}
	var b bytes.Buffer
	for _, part := range []any{
		elf.Header64{
			Ident: [16]byte{0x7f, 'E', 'L', 'F', byte(elf.ELFCLASS64), byte(data), 1}, Type: uint16(elf.ET_DYN), Machine: uint16(elf.EM_X86_64),
			Version: 1, Shoff: 64, Ehsize: 64, Shentsize: 64, Shnum: 4, Shstrndx: 3,
		}, sections, id, compat, []byte(names),
	} {
		if err := binary.Write(&b, order, part); err != nil {
			panic(err)
		}
	}
	return b.Bytes()
}

const note575 = `{"format":1,"CUDA version":"12.9","driver":[535,550,560,565,570,575],"device":[1,2,7,8,9,10,11,12,13,14]}`

func want575() CompatNote {
	return CompatNote{
		Format: 1, CUDA: "12.9", Drivers: []int{535, 550, 560, 565, 570, 575},
		Devices: []int{1, 2, 7, 8, 9, 10, 11, 12, 13, 14},
	}
}

func TestReadCompatNote(t *testing.T) {
	good := library(binary.LittleEndian, "NVIDIA Corporation", note575)
	patched := func(offset int, bytes ...byte) []byte {
		b := append([]byte(nil), good...)
		copy(b[offset:], bytes)
		return b
	}
	const section2, section3 = 64 + 2*64, 64 + 3*64
	const note = 64 + 4*64 + 12 + 4 + 24
	for _, tt := range []struct {
		name string
		data []byte
		want CompatNote
		err  string
	}{
		{name: "little endian", data: good, want: want575()},
		{name: "big endian", data: library(binary.BigEndian, "NVIDIA Corporation", note575), want: want575()},
		{name: "without drivers", data: library(binary.LittleEndian, "NVIDIA Corporation", `{"format":1,"CUDA version":"13.2"}`), want: CompatNote{Format: 1, CUDA: "13.2"}},
		{name: "description longer than the section", data: patched(note+4, 0xff, 0xff, 0xff, 0xff), want: want575()},

		{name: "empty", err: "reading ELF header: EOF"},
		{name: "text", data: []byte(strings.Repeat("x", 100)), err: "not a 64-bit ELF file"},
		{name: "cut in the header", data: good[:63], err: "reading ELF header: EOF"},
		{name: "cut in the section headers", data: good[:200], err: "reading section headers: EOF"},
		{name: "cut in the notes", data: good[:note+20], err: "reading section names: EOF"},
		{name: "32-bit", data: patched(4, 1), err: "not a 64-bit ELF file"},
		{name: "unknown byte order", data: patched(5, 3), err: "unknown byte order"},
		{name: "no sections", data: patched(60, 0, 0), err: "no usable section headers"},
		{name: "65535 sections", data: patched(60, 0xff, 0xff), err: "no usable section headers"},
		{name: "names in a section that is not there", data: patched(62, 4, 0), err: "no usable section headers"},
		{name: "section headers of another size", data: patched(58, 0, 0), err: "no usable section headers"},
		{name: "section headers at the end of all things", data: patched(40, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff), err: "reading section headers: offset 0xffffffffffffffff"},
		{name: "section headers far out", data: patched(40, 0xff, 0xff, 0xff, 0xff, 0xff), err: "reading section headers: EOF"},
		{name: "names of 4 GiB", data: patched(section3+32, 0xff, 0xff, 0xff, 0xff), err: "section names of 4294967295 bytes"},
		{name: "note of 4 GiB", data: patched(section2+32, 0xff, 0xff, 0xff, 0xff), err: "note of 4294967295 bytes"},
		{name: "note far out", data: patched(section2+24, 0xff, 0xff, 0xff), err: "reading note: EOF"},
		{name: "name far out", data: patched(section2, 0xff, 0xff, 0xff, 0xff), err: "no note about forward compatibility"},
		{name: "not a note", data: patched(section2+4, 1), err: "no note about forward compatibility"},
		{name: "empty note", data: patched(section2+32, 0, 0), err: "no note about forward compatibility"},
		{name: "owner of 4 GiB", data: patched(note, 0xff, 0xff, 0xff, 0xff), err: "no note about forward compatibility"},
		{name: "another owner", data: library(binary.LittleEndian, "NVIDIA Corporatiom", note575), err: "no note about forward compatibility"},
		{name: "not JSON", data: library(binary.LittleEndian, "NVIDIA Corporation", "12.9"+"}"), err: "parsing note: "},
		{name: "JSON of other types", data: library(binary.LittleEndian, "NVIDIA Corporation", `{"driver":["535"]}`), err: "parsing note: "},
		{name: "number too large", data: library(binary.LittleEndian, "NVIDIA Corporation", `{"driver":[1e400]}`), err: "parsing note: "},
		{name: "deep nesting", data: library(binary.LittleEndian, "NVIDIA Corporation", strings.Repeat("[", 30000)), err: "parsing note: "},
		{name: "CUDA version is none", data: library(binary.LittleEndian, "NVIDIA Corporation", `{"CUDA version":"12.9\n"}`), err: `parsing note: CUDA version "12.9\n"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readCompatNote(bytes.NewReader(tt.data))
			assert.Equal(t, tt.want, got)
			if tt.err != "" {
				assert.ErrorContains(t, err, tt.err)
				return
			}
			assert.NoError(t, err)
		})
	}
}

func FuzzReadCompatNote(f *testing.F) {
	f.Add(library(binary.LittleEndian, "NVIDIA Corporation", note575))
	f.Add(library(binary.BigEndian, "NVIDIA Corporation", note575))
	f.Add(library(binary.LittleEndian, "NVIDIA Corporation", `{"format":1,"CUDA version":"13.2"}`))
	f.Add(library(binary.LittleEndian, "GNU", ""))
	f.Fuzz(func(t *testing.T, data []byte) {
		note, err := readCompatNote(bytes.NewReader(data))
		if err != nil {
			assert.Zero(t, note)
			return
		}
		if note.CUDA != "" {
			_, ok := parseVersion(note.CUDA)
			assert.True(t, ok)
		}
		// A parsed note, written again, parses to the same.
		description, err := json.Marshal(note)
		require.NoError(t, err)
		again, err := readCompatNote(bytes.NewReader(library(binary.BigEndian, "NVIDIA Corporation", string(description))))
		require.NoError(t, err)
		assert.Equal(t, note, again)
	})
}

func TestCompat(t *testing.T) {
	lib := string(library(binary.LittleEndian, "NVIDIA Corporation", note575))
	note := want575()
	whole := tree{
		"usr/local/cuda":                                        "-> cuda-12.9",
		"usr/local/cuda-12.9":                                   "-> /opt/cuda",
		"opt/cuda/compat/libcuda.so":                            "-> libcuda.so.1",
		"opt/cuda/compat/libcuda.so.1":                          "-> libcuda.so.575.57.08",
		"opt/cuda/compat/libcuda.so.575.57.08":                  lib,
		"opt/cuda/compat/libcudadebugger.so.1":                  "-> libcudadebugger.so.575.57.08",
		"opt/cuda/compat/libcudadebugger.so.575.57.08":          "x",
		"opt/cuda/compat/libnvidia-nvvm.so.4":                   "-> libnvidia-nvvm.so.575.57.08",
		"opt/cuda/compat/libnvidia-nvvm.so.575.57.08":           "x",
		"opt/cuda/compat/libnvidia-ptxjitcompiler.so.1":         "-> libnvidia-ptxjitcompiler.so.575.57.08",
		"opt/cuda/compat/libnvidia-ptxjitcompiler.so.575.57.08": "x",
		"opt/cuda/compat/lib bad.so.1":                          "x",
		"opt/cuda/compat/README":                                "x",
	}
	want := Compat{
		Dir: "/opt/cuda/compat", Version: "575.57.08", Note: &note,
		Libraries: []string{"libcuda.so.1", "libcudadebugger.so.1", "libnvidia-nvvm.so.4", "libnvidia-ptxjitcompiler.so.1"},
	}
	plain := Compat{Dir: "/usr/local/cuda/compat", Version: "470.82", Libraries: []string{"libcuda.so.1"}}
	const dir = "usr/local/cuda/compat/"
	for _, tt := range []struct {
		name    string
		content tree
		want    Compat
		err     string
	}{
		{name: "with a note", content: whole, want: want},
		{name: "without a note", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "x"}, want: plain},
		{name: "damaged library", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": lib[:400]}, want: plain},
		{name: "more names", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "x", dir + "libcuda.so.x.y": "x", dir + "libcuda.so.1.99999999": "x", dir + "libcuda.so.-1": "x", dir + "libcuda.so.2.2": "-> x"}, want: plain},
		{name: "no directory", content: tree{"usr/local/x": "x"}, err: "no such file"},
		{name: "empty directory", content: tree{"usr/local/cuda/compat": "dir"}, err: "has no libcuda.so.<version>"},
		{name: "no soname", content: tree{dir + "libcuda.so.470.82": "x"}, err: "has no libcuda.so.1"},
		{name: "two versions", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "x", dir + "libcuda.so.575.1": "x"}, err: `has both "libcuda.so.470.82" and "libcuda.so.575.1"`},
		{name: "library is a FIFO", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "fifo"}, err: "is a FIFO"},
		{name: "library is a directory", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "dir"}, err: "is a directory"},
		{name: "library is a link", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "-> HOST/compat/libcuda.so.999.99"}, err: "has no libcuda.so.<version>"},
		{name: "library of 5 TiB", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "size 5497558138880"}, err: "more than"},
		{name: "library of 1 GiB", content: tree{dir + "libcuda.so.1": "x", dir + "libcuda.so.470.82": "size 1073741824"}, want: plain},
		{name: "directory is a link to the host", content: tree{"usr/local/cuda/compat": "-> HOST/compat"}, err: "no such file"},
		{name: "directory is a relative link to the host", content: tree{"usr/local/cuda": "-> ../../../host"}, err: "no such file"},
		{name: "directory is a file", content: tree{"usr/local/cuda/compat": "x"}, err: "not a directory"},
		{name: "directory is a loop", content: tree{"usr/local/cuda": "-> cuda"}, err: "too many levels"},
		{name: "directory is in proc", content: tree{"usr/local/cuda": "-> /proc/1", "proc/1/compat/libcuda.so.1": "x", "proc/1/compat/libcuda.so.1.1": "x"}, err: `resolves to "/proc/1/compat"`},
		{name: "directory has a colon", content: tree{"usr/local/cuda": "-> /a:b", "a:b/compat/libcuda.so.1": "x", "a:b/compat/libcuda.so.1.1": "x"}, err: `resolves to "/a:b/compat"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root, _ := machine(t, tt.content)
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				got, err := open(root).Compat()
				assert.Equal(t, tt.want, got)
				if tt.err != "" {
					assert.ErrorIs(t, err, fs.ErrNotExist)
					assert.ErrorContains(t, err, tt.err)
					return
				}
				assert.NoError(t, err)
			})
		})
	}
}

// TestCompatManyEntries: a huge directory is not read to its end.
func TestCompatManyEntries(t *testing.T) {
	root, _ := machine(t, tree{"usr/local/cuda/compat/libcuda.so.1": "x", "usr/local/cuda/compat/libcuda.so.470.82": "x"})
	for i := range compatMost {
		name := filepath.Join(root, compatDir, "x"+strings.Repeat("y", i%100)+string(rune('a'+i/100)))
		require.NoError(t, os.WriteFile(name, nil, 0o644))
	}
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	_, err = f.Compat()
	assert.ErrorContains(t, err, "has more than 1024 entries")
}

func TestCompatUsable(t *testing.T) {
	note := want575()
	orin := CompatNote{Format: 1, CUDA: "13.2"}
	for _, tt := range []struct {
		name         string
		driver, cuda string
		compat       Compat
		want         bool
	}{
		{"branch named, image newer", "570.211.01", "12.8", Compat{Version: "575.57.08", Note: &note}, true},
		{"branch named, old", "535.129.03", "12.2", Compat{Version: "575.57.08", Note: &note}, true},
		{"branch not named, between two", "545.23.06", "12.3", Compat{Version: "575.57.08", Note: &note}, false},
		{"branch not named, newer", "590.44.01", "13.1", Compat{Version: "575.57.08", Note: &note}, false},
		{"branch not named, older", "470.82.01", "11.4", Compat{Version: "575.57.08", Note: &note}, false},
		{"same branch, image newer", "575.10.10", "12.9", Compat{Version: "575.57.08", Note: &note}, true},
		{"same branch, numbers and not text", "575.9.10", "12.9", Compat{Version: "575.57.08", Note: &note}, true},
		{"same version", "575.57.08", "12.9", Compat{Version: "575.57.08", Note: &note}, false},
		{"same version, other zeros", "575.57.8", "12.9", Compat{Version: "575.57.08", Note: &note}, false},
		{"same branch, host newer", "575.99.99", "12.9", Compat{Version: "575.57.08", Note: &note}, false},
		{"driver unknown, CUDA older", "", "12.8", Compat{Version: "575.57.08", Note: &note}, true},
		{"driver unknown, CUDA same", "", "12.9", Compat{Version: "575.57.08", Note: &note}, false},
		{"driver unknown, CUDA newer as a number", "", "12.10", Compat{Version: "575.57.08", Note: &note}, false},
		{"nothing known", "", "", Compat{Version: "575.57.08", Note: &note}, false},
		{"driver malformed", "575.57.08-beta", "", Compat{Version: "575.57.08", Note: &note}, false},
		{"no branches, CUDA older", "540.3.0", "12.2", Compat{Version: "1.1", Note: &orin}, true},
		{"no branches, CUDA newer", "540.3.0", "13.3", Compat{Version: "1.1", Note: &orin}, false},
		{"no branches, CUDA unknown", "540.3.0", "", Compat{Version: "1.1", Note: &orin}, false},
		{"note empty", "540.3.0", "12.2", Compat{Version: "575.57.08", Note: &CompatNote{}}, false},
		{"no note, branch newer", "470.82.01", "11.4", Compat{Version: "510.39.01"}, true},
		{"no note, branch newer as a number", "99.55.66", "", Compat{Version: "110.88.99"}, true},
		{"no note, branch older as a number", "110.55.66", "", Compat{Version: "99.88.99"}, false},
		{"no note, same branch", "510.39.01", "11.6", Compat{Version: "510.47.03"}, false},
		{"no note, driver unknown", "", "11.6", Compat{Version: "510.47.03"}, false},
		{"no note, version malformed", "470.82.01", "", Compat{Version: "510"}, false},
		{"no package", "470.82.01", "11.4", Compat{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, CompatUsable(tt.driver, tt.cuda, tt.compat))
		})
	}
}

func TestParseVersion(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want []int
	}{
		{"575.57.08", []int{575, 57, 8}},
		{"12.9", []int{12, 9}},
		{"1.2.3.4", []int{1, 2, 3, 4}},
		{"0.65535", []int{0, 65535}},
		{"", nil},
		{"575", nil},
		{"1.2.3.4.5", nil},
		{"1.", nil},
		{".1", nil},
		{"1..2", nil},
		{"+1.2", nil},
		{"-1.2", nil},
		{"1.65536", nil},
		{"1.2a", nil},
		{" 1.2", nil},
		{"1_0.2", nil},
		{"0x1.2", nil},
		{strings.Repeat("1.", 100000), nil},
	} {
		got, ok := parseVersion(tt.in)
		assert.Equal(t, tt.want != nil, ok, "%.20q", tt.in)
		if ok {
			assert.Equal(t, tt.want, got)
		}
	}
}
