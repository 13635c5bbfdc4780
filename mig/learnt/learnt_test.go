// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package learnt

import (
	"io/fs"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

const (
	gpuA = "GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16"
	gpuB = "GPU-a6e3d971-0c48-5bf2-8e19-72c1f05db384"
	migA = "MIG-feb88891-0321-5fef-9c87-d4af3b54259e"
	migB = "MIG-a25704ba-3a06-5299-a795-fd7cf4d13973"
	migC = "MIG-50f1c4c9-1508-5e8d-bb06-d08145b22e01"
)

func uuid(t testing.TB, s string) mig.UUID {
	t.Helper()
	u, ok := mig.ParseUUID(s)
	require.True(t, ok)
	return u
}

const file = header + `version 1

gpu ` + gpuA + `
address 0000:07:00.0
pdi 0x145c8e416b389d3e nvidia-smi
chip 0x170
device ` + migA + ` 7 0 52f1c0de90ab3344
device ` + migB + ` 10 0 52f1c0de90ab3345
former ` + migC + `
colour green and blue

gpu ` + gpuB + `

end
`

func full(t testing.TB) Store {
	return Store{GPUs: []GPU{
		{
			UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: 0x145c8e416b389d3e, Chip: 0x170,
			Devices: []Device{{uuid(t, migA), 7, 0, "52f1c0de90ab3344"}, {uuid(t, migB), 10, 0, "52f1c0de90ab3345"}},
			Former:  []mig.UUID{uuid(t, migC)}, Unknown: []string{"colour green and blue"},
		},
		{UUID: gpuB},
	}}
}

func TestStore(t *testing.T) {
	got, err := Parse([]byte(file))
	require.NoError(t, err)
	assert.Equal(t, full(t), got)
	assert.Equal(t, file, string(got.Encode()))

	empty, err := Parse(Store{}.Encode())
	require.NoError(t, err)
	assert.Equal(t, Store{}, empty)

	gpu, ok := got.Find(gpuB)
	assert.True(t, ok)
	assert.Equal(t, GPU{UUID: gpuB}, gpu)
	_, ok = gpu.Die()
	assert.False(t, ok)
	gpu, _ = got.Find(gpuA)
	die, ok := gpu.Die()
	assert.True(t, ok)
	assert.Equal(t, mig.Die{PDI: 0x145c8e416b389d3e, Chip: 0x170}, die)
	_, ok = got.Find("GPU-7fdaf0a5")
	assert.False(t, ok)
}

// TestParseLoose checks that the order of lines, white space, comments and empty lines do not
// matter.
func TestParseLoose(t *testing.T) {
	got, err := Parse([]byte("# x\n\nversion\t1\r\ngpu " + gpuB + "\ngpu  " + gpuA + "\nformer " + migC + "\ncolour  green and\tblue\n#\ndevice " + migB +
		" 10 0 52f1c0de90ab3345\ndevice " + migA + " 7 0 52f1c0de90ab3344\nchip 0x170\nformer " + migC + "\n\npdi 0x145c8e416b389d3e nvidia-smi\naddress 0000:07:00.0\nend\n# x\n"))
	require.NoError(t, err)
	assert.Equal(t, full(t), got)
}

func TestParseBad(t *testing.T) {
	const top = "version 1\ngpu " + gpuA + "\n"
	for _, tt := range []struct{ name, in, err string }{
		{"empty", "", `cut off: the last line is not "end"`},
		{"truncated after a line", file[:len(file)-len("end\n")], `cut off: the last line is not "end"`},
		{"truncated in a line", file[:len(file)-len("nd\n")], "line 15: cut off"},
		{"no version", "gpu " + gpuA + "\nend\n", `line 1: "gpu ` + gpuA + `" instead of the version`},
		{"later version", "version 2\nend\n", `line 1: version "2": this program knows version 1`},
		{"after the end", "version 1\nend\ngpu " + gpuA + "\n", `line 3: "gpu" after the end`},
		{"no gpu", "version 1\npdi 0x145c8e416b389d3e nvidia-smi\nend\n", `line 2: "pdi" before the first gpu`},
		{"gpu without UUID", "version 1\ngpu\nend\n", "line 2: gpu without a UUID"},
		{"gpu by prefix", "version 1\ngpu GPU-7fdaf0a5\nend\n", `line 2: "GPU-7fdaf0a5" is not the UUID of a GPU`},
		{"gpu in upper case", "version 1\ngpu GPU-7FDAF0A5-179b-f636-d15d-daf243e3ff16\nend\n", `line 2: "GPU-7FDAF0A5-179b-f636-d15d-daf243e3ff16" is not the UUID of a GPU`},
		{"gpu twice", top + "gpu " + gpuA + "\nend\n", "second gpu " + gpuA},
		{"pdi twice", top + "pdi 0x145c8e416b389d3e nvidia-smi\npdi 0x145c8e416b389d3e nvidia-smi\nend\n", `line 4: "0x145c8e416b389d3e nvidia-smi" is not a valid value of "pdi"`},
		{"pdi cut", top + "pdi 0x145c8e41 nvidia-smi\nend\n", `line 3: "0x145c8e41 nvidia-smi" is not a valid value of "pdi"`},
		{"pdi of unknown source", top + "pdi 0x145c8e416b389d3e x\nend\n", `line 3: "0x145c8e416b389d3e x" is not a valid value of "pdi"`},
		{"chip too large", top + "chip 0x400\nend\n", `line 3: "0x400" is not a valid value of "chip"`},
		{"chip without pdi", top + "chip 0x170\nend\n", gpuA + ": chip without pdi"},
		{"device without mark", top + "device " + migA + " 7 0\nend\n", `line 3: "` + migA + ` 7 0" is not a valid value of "device"`},
		{"device with a bad mark", top + "device " + migA + " 7 0 52F1c0de90ab3344\nend\n", `is not a valid value of "device"`},
		{"device with a sign", top + "device " + migA + " -7 0 52f1c0de90ab3344\nend\n", `is not a valid value of "device"`},
		{"device twice", top + "device " + migA + " 7 0 52f1c0de90ab3344\ndevice " + migB + " 7 0 52f1c0de90ab3344\nend\n", gpuA + ": second device 7 0"},
		{"UUID twice", top + "device " + migA + " 7 0 52f1c0de90ab3344\ndevice " + migA + " 8 0 52f1c0de90ab3344\nend\n", gpuA + ": second device " + migA},
		{"former device", top + "device " + migA + " 7 0 52f1c0de90ab3344\nformer " + migA + "\nend\n", gpuA + ": " + migA + " is a device and a former one"},
		{"former junk", top + "former " + strings.Repeat("x", 1<<19) + "\nend\n", `line 3: "` + strings.Repeat("x", 100) + `"… (524288 bytes) is not a valid value of "former"`},
		{"too many gpus", "version 1\n" + strings.Repeat("gpu "+gpuA+"\n", 257), "line 258: more than 256 GPUs"},
		{"huge", file + strings.Repeat("\n", maxSize), "more than 1048576 bytes"},
		{"program", "\x7fELF\x02\x01\x00\n", `line 1: "\x7fELF\x02\x01\x00" instead of the version`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.in))
			require.ErrorContains(t, err, tt.err)
			assert.Less(t, len(err.Error()), 400)
			assert.Equal(t, Store{}, got)
		})
	}
}

func TestRead(t *testing.T) {
	good := func() *fstest.MapFile {
		return &fstest.MapFile{Data: []byte(file), Mode: 0o644, Sys: &syscall.Stat_t{Uid: 0}}
	}
	for _, tt := range []struct {
		name string
		edit func(*fstest.MapFile)
		err  string
	}{
		{name: "good", edit: func(*fstest.MapFile) {}},
		{name: "owner only", edit: func(f *fstest.MapFile) { f.Mode = 0o600 }},
		{name: "of this user", edit: func(f *fstest.MapFile) { f.Sys = &syscall.Stat_t{Uid: 1000} }},
		{name: "of another user", edit: func(f *fstest.MapFile) { f.Sys = &syscall.Stat_t{Uid: 1001} }, err: "it belongs to user 1001"},
		{name: "writable by the group", edit: func(f *fstest.MapFile) { f.Mode = 0o664 }, err: "users other than its owner may write it (mode 0664)"},
		{name: "writable by all", edit: func(f *fstest.MapFile) { f.Mode = 0o646 }, err: "users other than its owner may write it (mode 0646)"},
		{name: "named pipe", edit: func(f *fstest.MapFile) { f.Mode |= fs.ModeNamedPipe }, err: "not a regular file"},
		{name: "directory", edit: func(f *fstest.MapFile) { f.Mode |= fs.ModeDir }, err: "not a regular file"},
		{name: "cut off", edit: func(f *fstest.MapFile) { f.Data = f.Data[:100] }, err: "cut off"},
		{name: "huge", edit: func(f *fstest.MapFile) { f.Data = make([]byte, 10<<20) }, err: "more than 1048576 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := good()
			tt.edit(f)
			got, err := Read(fstest.MapFS{Path: f}, Path, 0, 1000)
			if tt.err != "" {
				require.ErrorContains(t, err, "read "+Path+": ")
				require.ErrorContains(t, err, tt.err)
				assert.Equal(t, Store{}, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, full(t), got)
		})
	}
	_, err := Read(fstest.MapFS{}, Path, 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
}

// FuzzParse checks that a store survives being encoded and parsed again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(file))
	f.Add([]byte("version 1\nend\n"))
	f.Add([]byte("version 1\ngpu " + gpuA + "\npdi 0x0000000000000000 pci-serial\nlater x\nend\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		store, err := Parse(text)
		if err != nil {
			assert.Equal(t, Store{}, store)
			assert.NotContains(t, err.Error(), "\n")
			return
		}
		again, err := Parse(store.Encode())
		require.NoError(t, err)
		assert.Equal(t, store, again)
	})
}

func BenchmarkParse(b *testing.B) {
	store := full(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(store.Encode()); err != nil {
			b.Fatal(err)
		}
	}
}
