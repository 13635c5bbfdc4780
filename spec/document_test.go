// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// write creates a bundle with one file.
func write(t *testing.T, name, text string) string {
	t.Helper()
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o640))
	return dir
}

// names lists a directory.
func names(t *testing.T, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var list []string
	for _, e := range entries {
		list = append(list, e.Name())
	}
	return list
}

func TestOpen(t *testing.T) {
	dir := write(t, "config.json", `{"ociVersion":"1.0.2"}`)
	d, err := Open(dir)
	require.NoError(t, err)
	assert.Equal(t, `{"ociVersion":"1.0.2"}`, string(d.Bytes()))
	assert.False(t, d.Changed())
	require.NoError(t, d.Save(), "nothing to save")
	require.NoError(t, d.Close())

	d, err = OpenFile(filepath.Join(write(t, "other.json", `{}`), "other.json"))
	require.NoError(t, err)
	assert.Equal(t, `{}`, string(d.Bytes()))
	require.NoError(t, d.Close())
}

func TestOpenRefuses(t *testing.T) {
	tests := []struct {
		name  string
		place func(t *testing.T, name string)
		want  string
	}{
		{"nothing", func(*testing.T, string) {}, "no such file or directory"},
		{"directory", func(t *testing.T, name string) {
			require.NoError(t, os.Mkdir(name, 0o700))
		}, "it is a directory, not a regular file"},
		{"link", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name+".real", []byte("{}"), 0o600))
			require.NoError(t, os.Symlink("config.json.real", name))
		}, "it is a symbolic link, not a regular file"},
		{"link out of the bundle", func(t *testing.T, name string) {
			require.NoError(t, os.Symlink("/etc/passwd", name))
		}, "it is a symbolic link, not a regular file"},
		{"FIFO, which would block", func(t *testing.T, name string) {
			require.NoError(t, syscall.Mkfifo(name, 0o600))
		}, "it is a FIFO, not a regular file"},
		{"socket", func(t *testing.T, name string) {
			l, err := net.ListenUnix("unix", &net.UnixAddr{Name: name})
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, l.Close()) })
		}, "it is a socket, not a regular file"},
		{"sparse and huge", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, nil, 0o600))
			require.NoError(t, os.Truncate(name, 1<<40))
		}, "its size is 1099511627776 bytes, more than the limit of 67108864"},
		{"empty", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, nil, 0o600))
		}, "line 1, column 1 (byte 0): the text ends where a value is expected"},
		{"cut off", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte("{\n \"process\": {"), 0o600))
		}, "line 2, column 14 (byte 15): the text ends where a key is expected"},
		{"not an object", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte(" []"), 0o600))
		}, "line 1, column 2 (byte 1): an array where an object is expected"},
		{"byte order mark", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte("\xef\xbb\xbf{}"), 0o600))
		}, "line 1, column 1 (byte 0): the text starts with a UTF-8 byte order mark, which JSON does not allow"},
		{"nested deeply", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte(strings.Repeat(`{"a":`, 1_000_000)), 0o600))
		}, "line 1, column 5001 (byte 5000): values are nested deeper than 1000"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			name := filepath.Join(dir, "config.json")
			tt.place(t, name)
			d, err := Open(dir)
			require.Error(t, err)
			assert.Nil(t, d)
			assert.True(t, strings.HasPrefix(err.Error(), `opening "`+name+`": `), err.Error())
			assert.True(t, strings.HasSuffix(err.Error(), tt.want), err.Error())
		})
	}
}

// TestExchanged replaces the file after it was examined. Nothing waits for a FIFO's writer, and no
// symbolic link is followed, not even one to the same file.
func TestExchanged(t *testing.T) {
	for name, place := range map[string]func(t *testing.T, name string){
		"FIFO": func(t *testing.T, name string) { require.NoError(t, syscall.Mkfifo(name, 0o600)) },
		"link to it": func(t *testing.T, name string) {
			require.NoError(t, os.Symlink("config.json.old", name))
		},
		"another file": func(t *testing.T, name string) { require.NoError(t, os.WriteFile(name, []byte("{}"), 0o600)) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := write(t, "config.json", "{}")
			handle, err := openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
			require.NoError(t, err)
			defer unix.Close(handle)
			var before unix.Stat_t
			require.NoError(t, unix.Fstatat(handle, "config.json", &before, unix.AT_SYMLINK_NOFOLLOW))
			data, _, err := readSame(handle, "config.json", &before)
			require.NoError(t, err)
			assert.Equal(t, "{}", string(data))
			file := filepath.Join(dir, "config.json")
			require.NoError(t, os.Rename(file, file+".old"))
			place(t, file)
			data, _, err = readSame(handle, "config.json", &before)
			require.Error(t, err)
			assert.Nil(t, data)
		})
	}
}

func TestSave(t *testing.T) {
	dir := write(t, "config.json", `{"mounts": [ ], "x":1e400}`)
	name := filepath.Join(dir, "config.json")
	require.NoError(t, os.Chmod(name, 0o604))
	require.NoError(t, os.Link(name, filepath.Join(dir, "hard-link")))
	// Leftovers of a killed run, and other files.
	require.NoError(t, os.WriteFile(filepath.Join(dir, temporaryPrefix+"config.json"), []byte("{"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rootfs"), nil, 0o600))
	if os.Geteuid() == 0 {
		require.NoError(t, os.Chown(name, 12345, 54321))
	} else {
		t.Log("not root: that another owner is kept was NOT tested")
	}
	before, err := os.Lstat(name)
	require.NoError(t, err)

	d, err := Open(dir)
	require.NoError(t, err)
	_, err = d.Apply(Edits{Mounts: []mount{{Destination: "/a", Source: "/b"}}})
	require.NoError(t, err)
	assert.True(t, d.Changed())
	require.NoError(t, d.Save())
	assert.False(t, d.Changed())

	text, err := os.ReadFile(name)
	require.NoError(t, err)
	assert.Equal(t, `{"mounts": [{"destination":"/a","source":"/b"} ], "x":1e400}`, string(text))
	after, err := os.Lstat(name)
	require.NoError(t, err)
	assert.False(t, os.SameFile(before, after), "the file is replaced, not written to")
	assert.Equal(t, owner(before), owner(after))
	text, err = os.ReadFile(filepath.Join(dir, "hard-link"))
	require.NoError(t, err)
	assert.Equal(t, `{"mounts": [ ], "x":1e400}`, string(text))
	assert.Equal(t, []string{"config.json", "hard-link", "rootfs"}, names(t, dir))

	// A document can be edited and saved again; without changes it is not written.
	_, err = d.Apply(Edits{Mounts: []mount{{Destination: "/c", Source: "/d"}}})
	require.NoError(t, err)
	require.NoError(t, d.Save())
	second, err := os.Lstat(name)
	require.NoError(t, err)
	_, err = d.Apply(Edits{Mounts: []mount{{Destination: "/c", Source: "/d"}}})
	require.NoError(t, err)
	require.NoError(t, d.Save())
	third, err := os.Lstat(name)
	require.NoError(t, err)
	assert.True(t, os.SameFile(second, third))
	require.NoError(t, d.Close())
}

type ownership struct {
	Mode     fs.FileMode
	UID, GID uint32
}

func owner(info fs.FileInfo) ownership {
	stat := info.Sys().(*syscall.Stat_t)
	return ownership{info.Mode(), stat.Uid, stat.Gid}
}

func TestSaveRefuses(t *testing.T) {
	tests := []struct {
		name    string
		between func(t *testing.T, name string)
		want    string
	}{
		{"replaced", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name+"2", []byte("{ }"), 0o600))
			require.NoError(t, os.Rename(name+"2", name))
		}, "another process changed it since it was read"},
		{"written to", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte(`{ "a":2}`), 0o600))
		}, "another process changed it since it was read"},
		{"written to, of the same size", func(t *testing.T, name string) {
			require.NoError(t, os.WriteFile(name, []byte("[]"), 0o600))
			require.NoError(t, os.Chtimes(name, time.Time{}, time.Unix(1, 1)))
		}, "another process changed it since it was read"},
		{"a link now", func(t *testing.T, name string) {
			require.NoError(t, os.Rename(name, name+"2"))
			require.NoError(t, os.Symlink(name+"2", name))
		}, "another process changed it since it was read"},
		{"being replaced", func(t *testing.T, name string) {
			f, err := os.Create(filepath.Join(filepath.Dir(name), temporaryPrefix+"config.json"))
			require.NoError(t, err)
			require.NoError(t, syscall.Flock(int(f.Fd()), syscall.LOCK_EX))
			t.Cleanup(func() { assert.NoError(t, f.Close()) })
		}, "another process is replacing it"},
		{"gone", func(t *testing.T, name string) {
			require.NoError(t, os.Remove(name))
		}, "no such file or directory"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := write(t, "config.json", `{}`)
			d, err := Open(dir)
			require.NoError(t, err)
			_, err = d.Apply(Edits{Mounts: []mount{{Destination: "/a", Source: "/b"}}})
			require.NoError(t, err)
			tt.between(t, filepath.Join(dir, "config.json"))
			left := names(t, dir)
			require.ErrorContains(t, d.Save(), tt.want)
			assert.Equal(t, left, names(t, dir))
			assert.True(t, d.Changed())
			require.NoError(t, d.Close())
		})
	}
	t.Run("not from a file", func(t *testing.T) {
		d, err := Parse([]byte(`{}`))
		require.NoError(t, err)
		_, err = d.Apply(Edits{Mounts: []mount{{Destination: "/a", Source: "/b"}}})
		require.NoError(t, err)
		require.ErrorContains(t, d.Save(), "it was not read from a file")
		require.NoError(t, d.Close())
	})
	t.Run("no place for the new file", func(t *testing.T) {
		if os.Geteuid() == 0 {
			t.Skip("SKIPPED: nothing is forbidden to root")
		}
		dir := write(t, "config.json", `{}`)
		d, err := Open(dir)
		require.NoError(t, err)
		_, err = d.Apply(Edits{Mounts: []mount{{Destination: "/a", Source: "/b"}}})
		require.NoError(t, err)
		require.NoError(t, os.Chmod(dir, 0o500))
		require.ErrorIs(t, d.Save(), fs.ErrPermission)
		require.NoError(t, os.Chmod(dir, 0o700))
		assert.Equal(t, []string{"config.json"}, names(t, dir))
		require.NoError(t, d.Close())
	})
}
