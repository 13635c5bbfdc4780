// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

const testPath = "/usr/bin/" + program

var (
	testEntry    = []string{"plugins", "io.containerd.grpc.v1.cri", "containerd", "runtimes", "gpu"}
	testSettings = []setting{
		{testEntry[:3], "default_runtime_name", "gpu"},
		{testEntry, "runtime_type", runcType},
		{append(testEntry[:5:5], "options"), "BinaryName", testPath},
	}
)

const block = `# BEGIN nvsysfs configure gpu
[plugins."io.containerd.grpc.v1.cri".containerd]
default_runtime_name = "gpu"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpu]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpu.options]
BinaryName = "/usr/bin/nvidia-container-runtime.experimental"
# END nvsysfs configure gpu
`

// TestSetKeys edits a file twice, which must change it only once, and removes the edit again.
// Unless the file had an entry of ours before, it must then be the same, byte for byte.
func TestSetKeys(t *testing.T) {
	// tail is what is appended to files that already have the table of the default runtime.
	tail := "\n" + block[:strings.Index(block, "[")] + block[strings.Index(block, "[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.gpu]\n"):]
	const cri = `[plugins."io.containerd.grpc.v1.cri".containerd]` + "\n"
	tests := []struct {
		name, in, want, err string
		once                bool // the file had our entry, so removing does not restore it
	}{
		{name: "empty", in: "", want: block},
		{name: "comment", in: "# x\n", want: "# x\n\n" + block},
		{name: "no newline at the end", in: "a = 1", want: "a = 1\n" + block},
		{name: "blank lines at the end", in: "a = 1\n\n\n", want: "a = 1\n\n\n\n" + block},
		{name: "table without the key", in: cri, want: cri + "default_runtime_name = \"gpu\" # nvsysfs: added\n" + tail},
		{
			name: "table without the key and newline", in: strings.TrimSpace(cri),
			want: cri + "default_runtime_name = \"gpu\" # nvsysfs: added" + tail,
		},
		{
			name: "indented", in: "  " + cri + "\t # x\n\t snapshotter = 'x'\n",
			want: "  " + cri + "\t default_runtime_name = \"gpu\" # nvsysfs: added\n\t # x\n\t snapshotter = 'x'\n" + tail,
		},
		{
			name: "another default", in: cri + "default_runtime_name='a#b' \n",
			want: cri + "default_runtime_name=\"gpu\" # nvsysfs: was 'a#b' \n" + tail,
		},
		{
			name: "another default, with a comment and what looks like the end of our note", in: cri + "default_runtime_name = \"a ;b\"# c ; d\n",
			want: cri + "default_runtime_name = \"gpu\" # nvsysfs: was \"a ;b\" ;# c ; d\n" + tail,
		},
		{
			name: "dotted key above", in: "[plugins]\n'io.containerd.grpc.v1.cri'.containerd.default_runtime_name = \"runc\"\n",
			want: "[plugins]\n'io.containerd.grpc.v1.cri'.containerd.default_runtime_name = \"gpu\" # nvsysfs: was \"runc\"\n" + tail,
		},
		{
			name: "table with blanks in its name", in: "[ plugins . 'io.containerd.grpc.v1.cri' . containerd ]\t# x\n",
			want: "[ plugins . 'io.containerd.grpc.v1.cri' . containerd ]\t# x\ndefault_runtime_name = \"gpu\" # nvsysfs: added\n" + tail,
		},
		{
			name: "header and marks within a string", in: "a = '''\n" + block + "'''\n", want: "a = '''\n" + block + "'''\n\n" + block,
			err: "not edited: ", // the marks are mistaken for ours, and the result is found to be wrong
		},
		{name: "nothing to change", in: "a = 1\n\n" + block, want: "a = 1\n\n" + block, once: true},
		{
			name: "another path", in: strings.ReplaceAll(block, "runtime.experimental", "old"), want: block, once: true,
		},
		{name: "inline entry", in: cri + "runtimes.gpu = {}\n", err: `line 2: inline table plugins."io.containerd.grpc.v1.cri".containerd.runtimes.gpu cannot be edited`},
		{name: "inline root", in: "plugins = {}\n", err: "line 1: inline table plugins cannot be edited"},
		{name: "string for a table", in: "plugins = 'x'\n", err: "line 1: plugins is not a table"},
		{name: "array of tables", in: "[[plugins]]\n", err: "line 1: [[plugins]] is an array of tables"},
		{name: "not TOML", in: "a = \n", err: "line 1, column"},
		{name: "key twice", in: "a = 1\na = 2\n", err: "line 2"},
		{name: "not UTF-8", in: "a = '\xff'\n", err: "line 1"},
		{name: "table for a key", in: cri[:len(cri)-2] + ".default_runtime_name.x]\ny = 1\n", err: "default_runtime_name is a table"},
	}
	for _, tt := range tests {
		for _, crlf := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/crlf=%v", tt.name, crlf), func(t *testing.T) {
				in, want := tt.in, tt.want
				if crlf {
					if in == strings.TrimRight(in, "\n") {
						return // has no line ending to detect
					}
					in, want = strings.ReplaceAll(in, "\n", "\r\n"), strings.ReplaceAll(want, "\n", "\r\n")
				}
				got, err := setKeys([]byte(in), "gpu", testEntry, testSettings)
				if tt.err != "" {
					require.ErrorContains(t, err, tt.err)
					return
				}
				require.NoError(t, err)
				assert.Equal(t, want, string(got))
				again, err := setKeys(got, "gpu", testEntry, testSettings)
				require.NoError(t, err)
				assert.Equal(t, string(got), string(again), "second edit")
				if tt.once {
					return
				}
				back, what, err := unsetKeys(got, "gpu", testEntry, testSettings[:1])
				require.NoError(t, err)
				assert.Empty(t, what)
				assert.Equal(t, in, string(back), "removed")
			})
		}
	}
}

// FuzzSetKeys checks that editing a file a second time changes nothing, and that removing the edit
// restores the file byte for byte.
func FuzzSetKeys(f *testing.F) {
	seeds, err := filepath.Glob("testdata/*.txtar")
	require.NoError(f, err)
	require.NotEmpty(f, seeds)
	for _, name := range seeds {
		data, err := os.ReadFile(name)
		require.NoError(f, err)
		for part := range strings.SplitSeq(string(data), "\n-- ") {
			_, body, _ := strings.Cut(part, " --\n")
			f.Add([]byte(body))
		}
	}
	f.Add([]byte("[plugins.'io.containerd.grpc.v1.cri'.containerd]\ndefault_runtime_name='x' ; # y"))
	f.Fuzz(func(t *testing.T, in []byte) {
		if strings.Contains(string(in), "nvsysfs") || strings.Contains(string(in), "gpu") {
			return // an entry of ours is not restored
		}
		got, err := setKeys(in, "gpu", testEntry, testSettings)
		if err != nil {
			assert.Nil(t, got)
			return
		}
		again, err := setKeys(got, "gpu", testEntry, testSettings)
		require.NoError(t, err)
		require.Equal(t, string(got), string(again))
		back, _, err := unsetKeys(got, "gpu", testEntry, testSettings[:1])
		require.NoError(t, err)
		require.Equal(t, string(in), string(back))
	})
}

// TestDaemonJSON edits daemon.json twice and removes the edit again.
func TestDaemonJSON(t *testing.T) {
	const entry = `"gpu": { "path": "/usr/bin/nvidia-container-runtime.experimental" }`
	tests := []struct {
		name, in, want, err string
		left                string // after removing, if not the same as before; "-" for empty
		replace             bool
	}{
		{
			name: "another program", in: `{"runtimes":{"gpu":{"path":"/usr/bin/nvidia-container-runtime"}},"default-runtime":"gpu"}`,
			err: "already has a runtime gpu, another program: /usr/bin/nvidia-container-runtime; choose another name (--name nvsysfs), or replace it with --replace",
		},
		{name: "a containerd shim", in: `{"runtimes":{"gpu":{"runtimeType":"io.containerd.runsc.v1"}}}`, err: "another program: io.containerd.runsc.v1"},
		{
			name: "another program, replaced", replace: true, in: `{"runtimes": {"gpu": {"runtimeArgs": ["-x"], "path": "/other"}}, "default-runtime": "nvidia"}`,
			want: `{"runtimes": {"gpu": { "path": "` + testPath + `" }}, "default-runtime": "gpu"}`,
		},
		{name: "empty", in: "", want: "{\n  \"runtimes\": {\n    \"gpu\": {\n      \"path\": \"" + testPath + "\"\n    }\n  },\n  \"default-runtime\": \"gpu\"\n}"},
		{name: "blanks", in: " \n", want: "{\n  \"runtimes\": {\n    \"gpu\": {\n      \"path\": \"" + testPath + "\"\n    }\n  },\n  \"default-runtime\": \"gpu\"\n}", left: "-"},
		{name: "{}", in: "{}", want: `{"runtimes": { ` + entry + ` }, "default-runtime": "gpu"}`},
		{name: "{ }", in: "{ }\n", want: `{"runtimes": { ` + entry + " }, \"default-runtime\": \"gpu\" }\n"},
		{name: "one line", in: `{"debug":true}`, want: `{"debug":true, "runtimes": { ` + entry + ` }, "default-runtime": "gpu"}`},
		{name: "empty runtimes", in: `{"runtimes":{}}`, want: `{"runtimes":{` + entry + `}, "default-runtime": "gpu"}`},
		{name: "multiple lines", in: "{\n}\n", want: "{\n    \"runtimes\": {\n        \"gpu\": {\n            \"path\": \"" + testPath + "\"\n        }\n    },\n    \"default-runtime\": \"gpu\"\n}\n"},
		{
			name: "Windows", in: "\xef\xbb\xbf{\r\n\t\"debug\": true\r\n}\r\n",
			want: "\xef\xbb\xbf{\r\n\t\"debug\": true,\r\n\t\"runtimes\": {\r\n\t\t\"gpu\": {\r\n\t\t\t\"path\": \"" + testPath + "\"\r\n\t\t}\r\n\t},\r\n\t\"default-runtime\": \"gpu\"\r\n}\r\n",
		},
		{
			name: "leading commas", in: "{ \"a\": 1e400\n, \"b\": {}\n}",
			want: "{ \"a\": 1e400\n, \"b\": {}, \"runtimes\": { " + entry + " }, \"default-runtime\": \"gpu\"\n}",
		},
		{
			name: "another path and other keys", in: `{"runtimes":{"gpu":{"runtimeArgs":["-x"],"path":"/old/nvidia-container-runtime.experimental"},"z":{"path":"z"}},"default-runtime":"gpu"}`,
			want: `{"runtimes":{"gpu":{"runtimeArgs":["-x"],"path":"` + testPath + `"},"z":{"path":"z"}},"default-runtime":"gpu"}`,
			left: `{"runtimes":{"z":{"path":"z"}}}`,
		},
		{
			name: "no path", in: `{"runtimes":{"gpu":{}},"default-runtime":"runc"}`,
			want: `{"runtimes":{"gpu":{"path": "` + testPath + `"}},"default-runtime":"gpu"}`,
			left: `{"runtimes":{},"default-runtime":"runc"}`,
		},
		{
			name: "a name in different case is another runtime", in: `{"runtimes":{"GPU":{"path":"x"}}}`,
			want: `{"runtimes":{"GPU":{"path":"x"}, ` + entry + `}, "default-runtime": "gpu"}`,
		},
		{name: "escaped keys", in: `{"r\u0075ntimes":{"g\u0070u":{"path":"` + testPath + `"}},"default-runtime":"g\u0070u"}`, want: `{"r\u0075ntimes":{"g\u0070u":{"path":"` + testPath + `"}},"default-runtime":"g\u0070u"}`, left: "{\"r\\u0075ntimes\":{}}"},
		{name: "entry twice", in: `{"runtimes":{"gpu":{},"gpu":{}}}`, err: "duplicate key gpu"},
		{name: "null", in: `{"runtimes":null}`, err: "null"},
		{name: "array", in: `[]`, err: "an array where an object is expected"},
		{name: "entry is a string", in: `{"runtimes":{"gpu":"/x"}}`, err: "a string where an object is expected"},
		{name: "path is a number", in: `{"runtimes":{"gpu":{"path":1}}}`, err: "number"},
		{name: "default is a number", in: `{"default-runtime":1}`, err: "a number where a string is expected"},
		{name: "trailing comma", in: "{\"a\": 1,\n}", err: "line 2"},
		{name: "comment", in: "{ // x\n}", err: "line 1"},
		{name: "two values", in: "{}{}", err: "after the end"},
		{name: "UTF-16", in: "\xff\xfe{\x00}\x00", err: "line 1"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			o := options{name: "gpu", program: testPath, setDefault: true, replace: tt.replace}
			var was memorized
			got, err := addRuntime([]byte(tt.in), true, o, &was)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(got))
			again, err := addRuntime(got, true, o, &was)
			require.NoError(t, err)
			assert.Equal(t, string(got), string(again), "second edit")
			back, err := removeRuntime(got, "gpu", was)
			require.NoError(t, err)
			want := tt.in
			if tt.left == "-" {
				want = ""
			} else if tt.left != "" {
				want = tt.left
			}
			assert.Equal(t, want, string(back), "removed")
		})
	}
}

// FuzzDaemonJSON checks the same properties as FuzzSetKeys. Files whose "runtimes" has no entries
// need not be restored exactly, because it may be removed with our entry.
func FuzzDaemonJSON(f *testing.F) {
	for _, seed := range []string{"{}", "{\n}", "{\"a\": 1}", "{\n\t\"a\": [ 1e9 ],\r\n \"runtimes\": {\"x\":{}}}", `{"default-runtime":"x"}`, "\xef\xbb\xbf{ }"} {
		f.Add([]byte(seed))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		o := options{name: "gpu", program: testPath}
		var was memorized
		got, err := addRuntime(in, true, o, &was)
		if err != nil {
			assert.Nil(t, got)
			return
		}
		again, err := addRuntime(got, true, o, &was)
		require.NoError(t, err)
		require.Equal(t, string(got), string(again))
		back, err := removeRuntime(got, "gpu", was)
		require.NoError(t, err)
		body := strings.TrimPrefix(string(in), bom)
		if strings.TrimSpace(body) == "" {
			return
		}
		entry, err := jsonMember([]byte(body), "runtimes", "gpu")
		require.NoError(t, err)
		if runtimes, err := jsonMember([]byte(body), "runtimes"); err == nil && entry.Kind() == rawjson.Absent {
			if strings.TrimSpace(strings.Trim(string(runtimes.Raw()), "{}")) == "" && len(runtimes.Raw()) > 2 {
				return
			}
			if def, err := jsonMember([]byte(body), "default-runtime"); err == nil && def.Text() != "gpu" {
				require.Equal(t, string(in), string(back))
			}
		}
	})
}
