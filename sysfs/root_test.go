// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// tree creates a root with the given files. A value "->…" is the target of a link, "/" is a
// directory.
func tree(t testing.TB, files map[string]string) Root {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	require.NoError(t, os.Mkdir(dir, 0o755))
	for name, text := range files {
		name = filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
		switch target, link := strings.CutPrefix(text, "->"); {
		case link:
			require.NoError(t, os.Symlink(target, name))
		case text == "/":
			require.NoError(t, os.MkdirAll(name, 0o755))
		default:
			require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		}
	}
	root, err := NewRoot(dir)
	require.NoError(t, err)
	return root
}

func TestNewRoot(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for _, tt := range []struct {
		dir  string
		want Root
		err  string
	}{
		{dir: "/", want: "/"},
		{dir: dir + "/./x/..", want: Root(dir)},
		{dir: "", err: `root "": not an absolute path`},
		{dir: "relative", err: `root "relative": not an absolute path`},
		{dir: dir + "/none", err: `root "` + dir + `/none": no such file or directory`},
		{dir: dir + "/file", err: `root "` + dir + `/file": not a directory`},
	} {
		got, err := NewRoot(tt.dir)
		if tt.err != "" {
			require.EqualError(t, err, tt.err)
		} else {
			require.NoError(t, err)
		}
		assert.Equal(t, tt.want, got)
	}
}

func TestRootPath(t *testing.T) {
	for _, tt := range []struct {
		root Root
		name string
		want string
	}{
		{"/", "proc/devices", "/proc/devices"},
		{"/", "/proc/devices", "/proc/devices"},
		{"/", ".", "/"},
		{"/r", "/proc//devices/", "/r/proc/devices"},
		{"/r", "/", "/r"},
		{"/r", "", "/r"},
		{"/r", "../../etc/passwd", "/r/etc/passwd"},
		{"/r", "/a/../../..", "/r"},
	} {
		assert.Equal(t, tt.want, tt.root.Path(tt.name), "%s below %s", tt.name, tt.root)
	}
}

func TestRootResolve(t *testing.T) {
	files := map[string]string{
		"usr/lib/libcuda.so.1":         "->libcuda.so.550.54.15",
		"usr/lib/libcuda.so.550.54.15": "text",
		"lib":                          "->usr/lib",
		"absolute":                     "->/usr/lib/libcuda.so.1",
		"up":                           "->../../../../../usr/lib/libcuda.so.1",
		"host":                         "->/etc/passwd",
		"proc/self/root":               "->/",
		"usr/lib/back":                 "->../../lib/libcuda.so.1",
		"loop":                         "->loop",
		"a":                            "->b",
		"b":                            "->a",
		"dangling":                     "->nowhere",
		"slash":                        "->/",
		"double":                       "->//usr///lib/",
		"chain0":                       "usr",
		"empty":                        "/",
	}
	for i := range 60 {
		files["chain"+string(rune('A'+i))] = "->chain" + string(rune('A'+i-1))
	}
	files["chainA"] = "->chain0"
	root := tree(t, files)
	const library = "/usr/lib/libcuda.so.550.54.15"
	for _, tt := range []struct {
		name, want string
		err        error
	}{
		{name: "/usr/lib/libcuda.so.550.54.15", want: library},
		{name: "usr/lib/libcuda.so.1", want: library},
		{name: "/lib/libcuda.so.1", want: library},
		{name: "/absolute", want: library},
		{name: "/up", want: library},
		{name: "/usr/lib/back", want: library},
		{name: "/proc/self/root/absolute", want: library},
		{name: "/../../lib/./libcuda.so.1", want: library},
		{name: "/lib/../lib/libcuda.so.1", want: library},
		{name: "/double", want: "/usr/lib"},
		{name: "/slash", want: "/"},
		{name: "/", want: "/"},
		{name: "", want: "/"},
		{name: "empty/", want: "/empty"},
		{name: "/host", err: fs.ErrNotExist},
		{name: "/host/", err: fs.ErrNotExist},
		{name: "/dangling", err: fs.ErrNotExist},
		{name: "/nowhere", err: fs.ErrNotExist},
		{name: "/usr/lib/libcuda.so.1/x", err: syscall.ENOTDIR},
		{name: "/loop", err: syscall.ELOOP},
		{name: "/a/x", err: syscall.ELOOP},
		{name: "/chain" + string(rune('A'+59)), err: syscall.ELOOP},
		{name: "/chain" + string(rune('A'+20)), want: "/chain0"},
		{name: "/a\x00b", err: syscall.EINVAL},
		{name: strings.Repeat("a", 5000), err: syscall.ENAMETOOLONG},
		{name: strings.Repeat("usr/../", 1<<20), err: syscall.ENAMETOOLONG},
	} {
		t.Run(tt.name[:min(len(tt.name), 50)], func(t *testing.T) {
			got, err := root.Resolve(tt.name)
			require.ErrorIs(t, err, tt.err)
			assert.Equal(t, tt.want, got)
		})
	}
	_, err := root.Resolve("/dangling")
	assert.EqualError(t, err, "resolve "+string(root)+"/dangling: no such file or directory")
}

// Package fstest holds the root to all that io/fs promises about file systems.
func TestRootFS(t *testing.T) {
	root := tree(t, map[string]string{
		"proc/devices":  "Character devices:\n",
		"proc/empty":    "",
		"dir":           "/",
		"link":          "->/proc/devices",
		"to/dir":        "->../proc",
		"sys/a/b/c/big": strings.Repeat("x", 10000),
	})
	require.NoError(t, fstest.TestFS(root, "proc/devices", "proc/empty", "dir", "link", "sys/a/b/c/big"))
	for _, name := range []string{"", "/proc/devices", "../root/proc/devices", "proc/../proc/devices", "proc/"} {
		for call, f := range map[string]func() error{
			"Open":     func() error { _, err := root.Open(name); return err },
			"ReadFile": func() error { _, err := root.ReadFile(name); return err },
			"ReadDir":  func() error { _, err := root.ReadDir(name); return err },
			"Stat":     func() error { _, err := root.Stat(name); return err },
			"Lstat":    func() error { _, err := root.Lstat(name); return err },
			"ReadLink": func() error { _, err := root.ReadLink(name); return err },
		} {
			require.ErrorIs(t, f(), fs.ErrInvalid, "%s %q", call, name)
		}
	}
}

func TestRootReadsRegularFilesOnly(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	require.NoError(t, os.WriteFile(outside, []byte("secret"), 0o644))
	root := tree(t, map[string]string{
		"file": "text", "link": "->/file", "dir": "/", "out": "->" + outside, "relative": "->../" + filepath.Base(filepath.Dir(outside)) + "/secret",
		"full": strings.Repeat("x", 100), "tty": "->/dev/tty",
	})
	require.NoError(t, syscall.Mkfifo(root.Path("fifo"), 0o644))
	require.NoError(t, os.Symlink("fifo", root.Path("tofifo")))
	// A socket's name is limited to 108 bytes, so it is made by a name relative to nothing long.
	t.Chdir(string(root))
	socket, err := net.Listen("unix", "socket")
	require.NoError(t, err)
	defer socket.Close()
	sparse, err := os.OpenFile(root.Path("sparse"), os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o644)
	require.NoError(t, err)
	require.NoError(t, sparse.Truncate(1<<40))
	require.NoError(t, sparse.Close())

	for _, tt := range []struct{ name, want, err string }{
		{name: "file", want: "text"},
		{name: "/file", want: "text"},
		{name: "link", want: "text"},
		{name: "full", want: strings.Repeat("x", 100)},
		{name: "dir", err: "is a directory"},
		{name: ".", err: "is a directory"},
		{name: "fifo", err: "not a regular file but a named pipe"},
		{name: "tofifo", err: "not a regular file but a named pipe"},
		{name: "socket", err: "not a regular file but a socket"},
		{name: "sparse", err: "1099511627776 bytes, more than 100"},
		{name: "out", err: "no such file or directory"},
		{name: "relative", err: "no such file or directory"},
		{name: "tty", err: "no such file or directory"},
		{name: "none", err: "no such file or directory"},
		{name: "file/x", err: "not a directory"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := root.ReadFileMax(tt.name, 100)
			if tt.err != "" {
				require.EqualError(t, err, "read "+root.Path(tt.name)+": "+tt.err)
				assert.Nil(t, got)
			} else {
				require.NoError(t, err)
				assert.Equal(t, tt.want, string(got))
			}
		})
	}
	_, err = root.Open("fifo")
	require.Error(t, err)
	_, err = root.ReadDir("fifo")
	require.ErrorIs(t, err, syscall.ENOTDIR)
	_, err = Root("/").ReadFileMax("dev/null", 100)
	require.EqualError(t, err, "read /dev/null: not a regular file but a device")
}

// A file of procfs has no size, so the limit must hold while reading.
func TestRootLimitWithoutSize(t *testing.T) {
	whole, err := Root("/").ReadFile("proc/self/status")
	require.NoError(t, err)
	require.Greater(t, len(whole), 200)
	_, err = Root("/").ReadFileMax("/proc/self/status", 200)
	require.EqualError(t, err, "read /proc/self/status: more than 200 bytes")
}

func TestRootLstat(t *testing.T) {
	root := tree(t, map[string]string{"a/link": "->/etc/shadow", "b": "->/a"})
	info, err := root.Lstat("b/link")
	require.NoError(t, err)
	assert.Equal(t, fs.ModeSymlink, info.Mode().Type())
	target, err := root.ReadLink("b/link")
	require.NoError(t, err)
	assert.Equal(t, "/etc/shadow", target)
	_, err = root.Stat("b/link")
	require.ErrorIs(t, err, fs.ErrNotExist)
	_, err = root.ReadLink("a")
	require.ErrorIs(t, err, syscall.EINVAL)
}

// Whatever is in the tree, a resolved name is below the root, exists, and contains no link.
func FuzzRootResolve(f *testing.F) {
	f.Add("x/link", "/x/../..//file", "link/../x")
	f.Add("file", "link", "../../../../etc/passwd")
	f.Fuzz(func(t *testing.T, first, second, name string) {
		root := tree(t, map[string]string{"file": "inside", "x/file": "inside"})
		for at, target := range map[string]string{"link": first, "x/link": second} {
			if err := os.Symlink(target, root.Path(at)); err != nil {
				return // an empty target, or one with NUL
			}
		}
		resolved, err := root.Resolve(name)
		if err != nil {
			var pathErr *fs.PathError
			require.ErrorAs(t, err, &pathErr)
			assert.Empty(t, resolved)
			return
		}
		require.True(t, strings.HasPrefix(resolved, "/"))
		assert.Equal(t, filepath.Clean(resolved), resolved)
		real, err := filepath.EvalSymlinks(root.Path(resolved))
		require.NoError(t, err)
		base, err := filepath.EvalSymlinks(string(root))
		require.NoError(t, err)
		assert.Equal(t, filepath.Join(base, resolved), real)
	})
}
