// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// machine returns a file system with the given files below /proc/driver. The text "/" stands for a
// directory.
func machine(files map[string]string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for name, text := range files {
		if text == "/" {
			fsys["proc/driver/"+name] = &fstest.MapFile{Mode: fs.ModeDir | 0o555}
			continue
		}
		fsys["proc/driver/"+name] = &fstest.MapFile{Data: []byte(text), Mode: 0o444}
	}
	return fsys
}

func access(minor, mode int) string {
	return fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: %d\nDeviceFileModify: 1\n", minor, mode)
}

func capability(minor int) Capability {
	return Capability{Minor: minor, Mode: 0o444, Modify: true}
}

func TestReadInstances(t *testing.T) {
	const gpu0 = "nvidia/capabilities/gpu0/mig/"
	for _, tt := range []struct {
		name   string
		gpu    int
		files  map[string]string
		want   []Instance
		masked []Instance
		err    string
	}{
		{name: "no driver"},
		{
			name:  "MIG off",
			files: map[string]string{gpu0 + ".keep": ""},
		},
		{
			name: "two CIs in one GI",
			files: map[string]string{
				gpu0 + "gi1/access":     access(12, 292),
				gpu0 + "gi1/ci1/access": access(14, 292),
				gpu0 + "gi1/ci0/access": access(13, 292),
			},
			want: []Instance{
				{GI: 1, CI: 0, GICap: capability(12), CICap: capability(13)},
				{GI: 1, CI: 1, GICap: capability(12), CICap: capability(14)},
			},
		},
		{
			name: "a CI and a GI hidden from this container",
			files: map[string]string{
				gpu0 + "gi1/access":     access(12, 292),
				gpu0 + "gi1/ci0/access": access(13, 292),
				gpu0 + "gi1/ci1":        "/",
				gpu0 + "gi2":            "/",
			},
			want:   []Instance{{GI: 1, CI: 0, GICap: capability(12), CICap: capability(13)}},
			masked: []Instance{{GI: 1, CI: 1}},
		},
		{
			name: "a CI without its access file",
			files: map[string]string{
				gpu0 + "gi1/access":    access(12, 292),
				gpu0 + "gi1/ci1/other": "",
			},
			err: "open proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci1/access: file does not exist",
		},
		{
			name: "numeric order with gaps",
			files: map[string]string{
				gpu0 + "gi10/access":     access(93, 292),
				gpu0 + "gi10/ci0/access": access(94, 292),
				gpu0 + "gi9/access":      access(84, 292),
				gpu0 + "gi9/ci0/access":  access(85, 256),
			},
			want: []Instance{
				{GI: 9, CI: 0, GICap: capability(84), CICap: Capability{Minor: 85, Mode: 0o400, Modify: true}},
				{GI: 10, CI: 0, GICap: capability(93), CICap: capability(94)},
			},
		},
		{
			name:  "a GI without a CI is no device, its file is not read",
			files: map[string]string{gpu0 + "gi1/access": "junk"},
		},
		{
			name: "another GPU's instances",
			gpu:  1,
			files: map[string]string{
				gpu0 + "gi1/access":     access(12, 292),
				gpu0 + "gi1/ci0/access": access(13, 292),
			},
		},
		{
			name: "unrelated names",
			files: map[string]string{
				gpu0 + "gi01/ci0/access": "junk", gpu0 + "gix/ci0/access": "junk", gpu0 + "gi-1/ci0/access": "junk",
				gpu0 + "gi/ci0/access": "junk", gpu0 + "gi9999999999/ci0/access": "junk", gpu0 + "gi2": "a file",
				gpu0 + "gi1/access": access(12, 292), gpu0 + "gi1/ci0x/access": "junk",
			},
		},
		{
			name: "empty files and a table",
			gpu:  3,
			files: map[string]string{
				"nvidia-caps/mig-minors":                           "config 1\nmonitor 2\ngpu3/gi3/access 500\ngpu3/gi3/ci3/access 501\n",
				"nvidia/capabilities/gpu3/mig/gi3/access":          "",
				"nvidia/capabilities/gpu3/mig/gi3/ci3/access":      "\n",
				"nvidia/capabilities/gpu3/mig/gi3/ci3/unknown/one": "",
			},
			want: []Instance{{
				GI: 3, CI: 3,
				GICap: Capability{Minor: 500, Mode: 0o444, Empty: true},
				CICap: Capability{Minor: 501, Mode: 0o444, Empty: true},
			}},
		},
		{
			name: "empty files without a table",
			gpu:  3,
			files: map[string]string{
				"nvidia/capabilities/gpu3/mig/gi3/access":     "",
				"nvidia/capabilities/gpu3/mig/gi3/ci3/access": "",
			},
			want: []Instance{{
				GI: 3, CI: 3,
				GICap: Capability{Minor: 435, Mode: 0o444, Empty: true},
				CICap: Capability{Minor: 439, Mode: 0o444, Empty: true},
			}},
		},
		{
			name: "empty file, not in the table",
			files: map[string]string{
				"nvidia-caps/mig-minors": "config 1\n",
				gpu0 + "gi1/access":      "", gpu0 + "gi1/ci0/access": "",
			},
			err: `proc/driver/nvidia/capabilities/gpu0/mig/gi1/access: empty, and no line gpu0/gi1/access in proc/driver/nvidia-caps/mig-minors`,
		},
		{
			name: "empty file beyond the formula",
			gpu:  32,
			files: map[string]string{
				"nvidia/capabilities/gpu32/mig/gi0/access":     "",
				"nvidia/capabilities/gpu32/mig/gi0/ci0/access": "",
			},
			err: `proc/driver/nvidia/capabilities/gpu32/mig/gi0/access: empty, and no minor is known for gpu32/gi0/ci-1`,
		},
		{
			name:  "no access file",
			files: map[string]string{gpu0 + "gi1/ci0/access": access(13, 292)},
			err:   "open proc/driver/nvidia/capabilities/gpu0/mig/gi1/access: file does not exist",
		},
		{
			name: "malformed",
			files: map[string]string{
				gpu0 + "gi1/access":     access(12, 292),
				gpu0 + "gi1/ci0/access": "DeviceFileMinor: 13 junk\n",
			},
			err: `proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci0/access: line 1: DeviceFileMinor is "13 junk", not a number up to 1048575`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, masked, err := ReadInstances(machine(tt.files), tt.gpu)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.masked, masked)
		})
	}
}

// unsteady is a file system that returns the given errors for some names: they disappeared after
// their directory was listed, or cannot be read.
type unsteady struct {
	fstest.MapFS
	errs map[string]error
}

func (u unsteady) ReadDir(name string) ([]fs.DirEntry, error) {
	if err := u.errs[name]; err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: err}
	}
	return u.MapFS.ReadDir(name)
}

func (u unsteady) ReadFile(name string) ([]byte, error) {
	if err := u.errs[name]; err != nil {
		return nil, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return u.MapFS.ReadFile(name)
}

// later is a directory that disappears after it was listed.
type later struct {
	unsteady
	dir    string
	listed *bool
}

func (l later) ReadDir(name string) ([]fs.DirEntry, error) {
	if name == l.dir && *l.listed {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrNotExist}
	}
	*l.listed = *l.listed || name == l.dir
	return l.unsteady.ReadDir(name)
}

// TestReadInstancesDestroyed checks that instances destroyed during the read are skipped.
func TestReadInstancesDestroyed(t *testing.T) {
	const dir = "proc/driver/nvidia/capabilities/gpu0/mig/"
	files := machine(map[string]string{
		"nvidia/capabilities/gpu0/mig/gi1/access": access(12, 292), "nvidia/capabilities/gpu0/mig/gi1/ci0/access": access(13, 292),
		"nvidia/capabilities/gpu0/mig/gi2/access": access(21, 292), "nvidia/capabilities/gpu0/mig/gi2/ci0/access": access(22, 292),
	})
	both := []Instance{{GI: 1, GICap: capability(12), CICap: capability(13)}, {GI: 2, GICap: capability(21), CICap: capability(22)}}
	for _, tt := range []struct {
		name   string
		errs   map[string]error
		gone   string // directory that disappears after it was listed
		want   []Instance
		masked []Instance
		err    string
	}{
		{name: "none", want: both},
		{name: "GI, before it is listed", errs: map[string]error{dir + "gi1": fs.ErrNotExist}, want: both[1:]},
		{name: "GI, between listing and reading", errs: map[string]error{dir + "gi1/access": fs.ErrNotExist}, gone: dir + "gi1", want: both[1:]},
		{name: "CI", errs: map[string]error{dir + "gi1/ci0/access": fs.ErrNotExist, dir + "gi1/ci0": fs.ErrNotExist}, want: both[1:], masked: []Instance{{GI: 1}}},
		{name: "GI that cannot be listed", errs: map[string]error{dir + "gi1": fs.ErrPermission}, err: "readdir " + dir + "gi1: permission denied"},
		{name: "GI that cannot be read", errs: map[string]error{dir + "gi1/access": fs.ErrPermission}, err: "read " + dir + "gi1/access: permission denied"},
		{name: "CI that cannot be read", errs: map[string]error{dir + "gi1/ci0/access": fs.ErrPermission}, err: "read " + dir + "gi1/ci0/access: permission denied"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, masked, err := ReadInstances(later{unsteady{files, tt.errs}, tt.gone, new(bool)}, 0)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.masked, masked)
		})
	}
}

func TestReadControl(t *testing.T) {
	const dir = "nvidia/capabilities/mig/"
	one, two := Capability{Minor: 1, Mode: 0o400, Modify: true}, Capability{Minor: 2, Mode: 0o444, Modify: true}
	emptyOne, emptyTwo := Capability{Minor: 1, Mode: 0o444, Empty: true}, Capability{Minor: 7, Mode: 0o444, Empty: true}
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  Control
		err   string
	}{
		{name: "none"},
		{name: "both", files: map[string]string{dir + "config": access(1, 256), dir + "monitor": access(2, 292)}, want: Control{&one, &two}},
		{name: "one", files: map[string]string{dir + "monitor": access(2, 292)}, want: Control{nil, &two}},
		{
			name:  "empty",
			files: map[string]string{dir + "config": "", dir + "monitor": "", "nvidia-caps/mig-minors": "monitor 7\n"},
			want:  Control{&emptyOne, &emptyTwo},
		},
		{
			name:  "malformed",
			files: map[string]string{dir + "config": "x"},
			err:   `proc/driver/nvidia/capabilities/mig/config: line 1: no colon in "x"`,
		},
		{
			name:  "malformed table",
			files: map[string]string{dir + "config": "", "nvidia-caps/mig-minors": "config\n"},
			err:   `proc/driver/nvidia-caps/mig-minors: line 1: "config" is not a name and a number`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := ReadControl(machine(tt.files))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestGPUInstances(t *testing.T) {
	fsys := fstest.MapFS{}
	for _, name := range []string{"gi10/access", "gi2/ci0/access", "gi2/access", "gi3", "gi01/access", "gix/access", "other/access"} {
		fsys["proc/driver/nvidia/capabilities/gpu2/mig/"+name] = &fstest.MapFile{}
	}
	got, err := GPUInstances(fsys, 2)
	require.NoError(t, err)
	assert.Equal(t, []int{2, 10}, got)
	none, err := GPUInstances(fsys, 3)
	require.NoError(t, err)
	assert.Empty(t, none)
}

func TestParseCapability(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     Capability
		err      string
	}{
		{name: "plain", in: access(4323, 256), want: Capability{Minor: 4323, Mode: 0o400, Modify: true}},
		{name: "tabs, order, unknown line", in: "DeviceFileModify:\t0\nNew: x\n\nDeviceFileMode:438\nDeviceFileMinor:  3", want: Capability{Minor: 3, Mode: 0o666}},
		{name: "missing", in: "DeviceFileMinor: 3\nDeviceFileMode: 292\n", err: "no line DeviceFileModify"},
		{name: "twice", in: "DeviceFileMinor: 3\nDeviceFileMinor: 4\n", err: "line 2: second DeviceFileMinor"},
		{name: "negative", in: "DeviceFileMinor: -3\n", err: `line 1: DeviceFileMinor is "-3", not a number up to 1048575`},
		{name: "too large", in: "DeviceFileMinor: 1048576\n", err: `line 1: DeviceFileMinor is "1048576", not a number up to 1048575`},
		{name: "setuid mode", in: "DeviceFileMode: 2048\n", err: `line 1: DeviceFileMode is "2048", not a number up to 511`},
		{name: "octal", in: "DeviceFileMode: 0444\n", err: `line 1: DeviceFileMode is "0444", not a number up to 511`},
		{name: "modify", in: "DeviceFileModify: 2\n", err: `line 1: DeviceFileModify is "2", not a number up to 1`},
		{name: "binary", in: "\x7fELF\x00", err: `line 1: no colon in "\x7fELF\x00"`},
		{name: "endless line", in: strings.Repeat("a", 1<<20), err: "bufio.Scanner: token too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseCapability(strings.NewReader(tt.in))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestParseMinors(t *testing.T) {
	got, err := parseMinors(strings.NewReader("config 1\n\n gpu0/gi0/ci0/access\t4 \n"))
	require.NoError(t, err)
	assert.Equal(t, map[string]int{"config": 1, "gpu0/gi0/ci0/access": 4}, got)

	for in, want := range map[string]string{
		"a 1\na 2\n":     `line 2: second "a"`,
		"a 1 2\n":        `line 1: "a 1 2" is not a name and a number`,
		"a x\n":          `line 1: minor "x" is not a number up to 1048575`,
		"a 1048576\n":    `line 1: minor "1048576" is not a number up to 1048575`,
		"a 99999999999":  `line 1: minor "99999999999" is not a number up to 1048575`,
		"ok 1\na\x00b c": `line 2: minor "c" is not a number up to 1048575`,
	} {
		got, err := parseMinors(strings.NewReader(in))
		require.EqualError(t, err, want)
		assert.Nil(t, got)
	}
}

// TestFormula checks lines of the table that real drivers print.
func TestFormula(t *testing.T) {
	for _, tt := range []struct{ gpu, gi, ci, want int }{
		{0, 0, -1, 3}, {0, 0, 0, 4}, {0, 1, -1, 12}, {0, 1, 0, 13}, {3, 3, 3, 439}, {6, 11, 5, 918}, {31, 14, 7, 4322},
	} {
		assert.Equal(t, tt.want, formula(tt.gpu, tt.gi, tt.ci), tt)
	}
}

func TestPossibleMinors(t *testing.T) {
	var all []int
	for gpu := range maxGPUs {
		minors := PossibleMinors(gpu)
		assert.Len(t, minors, 135)
		all = append(all, minors...)
	}
	assert.True(t, slices.IsSorted(all))
	assert.Equal(t, []int{3, 4322}, []int{all[0], all[len(all)-1]})
	assert.Len(t, slices.Compact(all), 4320)
	assert.Nil(t, PossibleMinors(-1))
	assert.Nil(t, PossibleMinors(maxGPUs))
}

func TestParseName(t *testing.T) {
	const uuid = "cd9ee947-34d2-d0fe-93e0-2195b3f2fd52"
	for _, tt := range []struct {
		in   string
		want Name
		err  string
	}{
		{in: "MIG-GPU-" + uuid + "/1/0", want: Name{"GPU-" + uuid, 1, 0}},
		{in: "mig-gpu-" + strings.ToUpper(uuid) + "/13/7", want: Name{"GPU-" + uuid, 13, 7}},
		{in: "MIG-GPU-cd9ee947/0/0", want: Name{"GPU-cd9ee947", 0, 0}},
		{in: "MIG-GPU-cd9ee947-/0/0", want: Name{"GPU-cd9ee947-", 0, 0}},
		{in: "MIG-GPU-" + uuid, err: "not of the form MIG-GPU-<uuid>/<gi>/<ci>"},
		{in: "MIG-GPU-" + uuid + "/1", err: "not of the form MIG-GPU-<uuid>/<gi>/<ci>"},
		{in: "MIG-" + uuid + "/1/0", err: "not of the form MIG-GPU-<uuid>/<gi>/<ci>"},
		{in: "MIG-GPU-" + uuid + "/1/0/0", err: `compute instance "0/0" is not a number`},
		{in: "MIG-GPU-" + uuid + "/01/0", err: `GPU instance "01" is not a number`},
		{in: "MIG-GPU-" + uuid + "/1/-0", err: `compute instance "-0" is not a number`},
		{in: "MIG-GPU-" + uuid + "/1/ 0", err: `compute instance " 0" is not a number`},
		{in: "MIG-GPU-" + uuid + "/1/", err: `compute instance "" is not a number`},
		{in: "MIG-GPU-/1/0", err: `"GPU-" is not a prefix of a GPU's UUID`},
		{in: "MIG-GPU-" + uuid + "0/1/0", err: `"GPU-cd9ee947-34d2-d0fe-93e0-2195b3f2fd520" is not a prefix of a GPU's UUID`},
		{in: "MIG-GPU-../1/0", err: `"GPU-.." is not a prefix of a GPU's UUID`},
		{in: "MIG-GPU-" + strings.Repeat("a", 200) + "/1/0", err: `"GPU-` + strings.Repeat("a", 96) + `"… (204 bytes) is not a prefix of a GPU's UUID`},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseName(tt.in)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func FuzzParseCapability(f *testing.F) {
	f.Add(access(3, 292))
	f.Add("DeviceFileMinor: 1\nDeviceFileMinor: 1\n")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseCapability(strings.NewReader(in))
		if err != nil {
			assert.Equal(t, Capability{}, got)
			return
		}
		assert.LessOrEqual(t, got.Minor, maxMinor)
		assert.Equal(t, got.Mode, got.Mode&fs.ModePerm)
		modify := 0
		if got.Modify {
			modify = 1
		}
		again, err := parseCapability(strings.NewReader(fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: %d\nDeviceFileModify: %d\n", got.Minor, got.Mode, modify)))
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}

func FuzzParseMinors(f *testing.F) {
	f.Add("config 1\nmonitor 2\ngpu0/gi0/access 3\ngpu0/gi0/ci0/access 4\n")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseMinors(strings.NewReader(in))
		if err != nil {
			assert.Nil(t, got)
			return
		}
		var text strings.Builder
		for name, minor := range got {
			fmt.Fprintf(&text, "%s %d\n", name, minor)
		}
		again, err := parseMinors(strings.NewReader(text.String()))
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}

func FuzzParseName(f *testing.F) {
	f.Add("MIG-GPU-cd9ee947-34d2-d0fe-93e0-2195b3f2fd52/1/0")
	f.Add("mig-gpu-C/10/2")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := ParseName(in)
		if err != nil {
			assert.Equal(t, Name{}, got)
			return
		}
		assert.True(t, strings.EqualFold(in, got.String()), "%q is not %q", in, got)
	})
}
