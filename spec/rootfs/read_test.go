// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestReadFile(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content tree
		file    string
		max     int64
		want    string
		err     string // part of the reason; what else it is, is fs.ErrNotExist
	}{
		{name: "file", content: tree{"etc/x": "inside"}, file: "etc/x", max: 100, want: "inside"},
		{name: "slash at the start", content: tree{"etc/x": "inside"}, file: "/etc/x", max: 100, want: "inside"},
		{name: "name not clean", content: tree{"etc/x": "inside"}, file: "//etc/../etc/./x", max: 100, want: "inside"},
		{name: "empty file", content: tree{"etc/x": ""}, file: "etc/x", max: 100, want: ""},
		{name: "as large as the cap", content: tree{"etc/x": "inside"}, file: "etc/x", max: 6, want: "inside"},
		{name: "relative link", content: tree{"etc/x": "-> ../usr/x", "usr/x": "inside"}, file: "etc/x", max: 100, want: "inside"},
		{name: "absolute link", content: tree{"etc/x": "-> /usr/x", "usr/x": "inside"}, file: "etc/x", max: 100, want: "inside"},
		{name: "link to the root", content: tree{"l": "-> /", "x": "inside"}, file: "l/l/x", max: 100, want: "inside"},
		{name: "absolute link in the middle", content: tree{"a/b/c": "-> /d", "d/e/x": "inside"}, file: "a/b/c/e/x", max: 100, want: "inside"},
		{name: "up in the middle of a link", content: tree{"a/b/c": "-> ../b/../../d", "d/x": "inside"}, file: "a/b/c/x", max: 100, want: "inside"},
		{name: "up and out", content: tree{"etc/x": "-> ../../../../../../../x", "x": "inside"}, file: "etc/x", max: 100, want: "inside"},
		{name: "name goes up and out", content: tree{"x": "inside"}, file: "../../../x", max: 100, want: "inside"},
		{name: "bytes of all kinds in a name", content: tree{"a b\n\xff": "inside"}, file: "a b\n\xff", max: 100, want: "inside"},
		// Not 40: the kernel keeps counting when it restarts a lookup, as on a busy machine.
		{name: "chain of 20 links", content: chain(19, "/x").with(tree{"x": "inside"}), file: "chain/0", max: 100, want: "inside"},

		{name: "missing", file: "etc/x", max: 100, err: "no such file"},
		{name: "larger than the cap", content: tree{"etc/x": "inside"}, file: "etc/x", max: 5, err: "has 6 bytes, more than 5"},
		{name: "sparse, 1 TiB", content: tree{"etc/x": "size 1099511627776"}, file: "etc/x", max: 1 << 20, err: "more than 1048576"},
		{name: "file as a directory", content: tree{"etc": "x"}, file: "etc/x", max: 100, err: "not a directory"},
		{name: "link to a file as a directory", content: tree{"etc": "-> f", "f": "x"}, file: "etc/x", max: 100, err: "not a directory"},
		{name: "link to a file with a slash at the end", content: tree{"etc/x": "-> f/", "etc/f": "x"}, file: "etc/x", max: 100, err: "not a directory"},
		{name: "FIFO", content: tree{"etc/x": "fifo"}, file: "etc/x", max: 100, err: "is a FIFO"},
		{name: "link to a FIFO", content: tree{"etc/x": "-> /f", "f": "fifo"}, file: "etc/x", max: 100, err: "is a FIFO"},
		{name: "socket", content: tree{"etc/x": "socket"}, file: "etc/x", max: 100, err: "is a socket"},
		{name: "directory", content: tree{"etc/x": "dir"}, file: "etc/x", max: 100, err: "is a directory"},
		{name: "the root", file: "/", max: 100, err: "is a directory"},
		{name: "empty name", file: "", max: 100, err: "is a directory"},
		{name: "character device", content: tree{"etc/x": "device"}, file: "etc/x", max: 100, err: "is a device"},
		{name: "link to the host's file", content: tree{"etc/x": "-> HOST/etc/secret"}, file: "etc/x", max: 100, err: "no such file"},
		{name: "link to the host's file, relative", content: tree{"etc/x": "-> ../../host/etc/secret"}, file: "etc/x", max: 100, err: "no such file"},
		{name: "directory is a link to the host", content: tree{"etc": "-> HOST/etc"}, file: "etc/secret", max: 100, err: "no such file"},
		{name: "directory is a link to the host, relative", content: tree{"etc": "-> ../host/etc"}, file: "etc/secret", max: 100, err: "no such file"},
		{name: "link to itself", content: tree{"etc/x": "-> x"}, file: "etc/x", max: 100, err: "too many levels"},
		{name: "two links in a circle", content: tree{"a": "-> b/c", "b": "-> a/d"}, file: "a/x", max: 100, err: "too many levels"},
		{name: "chain of 300 links", content: chain(299, "/x").with(tree{"x": "inside"}), file: "chain/0", max: 100, err: "too many levels"},
		{name: "NUL in the name", file: "etc/x\x00y", max: 100, err: "invalid argument"},
		{name: "component of 300 bytes", file: strings.Repeat("x", 300), max: 100, err: "file name too long"},
		{name: "name of 5000 bytes", file: strings.Repeat("x/", 2500), max: 100, err: "file name too long"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, what := range tt.content {
				if what == "device" {
					needRoot(t, "reading a device")
				}
			}
			root, _ := machine(t, tt.content)
			before := dump(t, root)
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				got, err := open(root).ReadFile(tt.file, tt.max)
				if tt.err != "" {
					assert.Nil(t, got)
					assert.ErrorIs(t, err, fs.ErrNotExist)
					assert.ErrorContains(t, err, tt.err)
					assert.Less(t, len(err.Error()), 600)
					return
				}
				require.NoError(t, err)
				assert.Equal(t, tt.want, string(got))
			})
			assert.Equal(t, before, dump(t, root))
		})
	}
}

// TestReadFileUnreadable: an unreadable file counts as absent, for instance in rootless setups.
func TestReadFileUnreadable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may read everything; TestOrdinaryUser runs this")
	}
	root, _ := machine(t, tree{"a": "x", "d/x": "x"})
	require.NoError(t, os.Chmod(filepath.Join(root, "a"), 0))
	require.NoError(t, os.Chmod(filepath.Join(root, "d"), 0))
	t.Cleanup(func() { assert.NoError(t, os.Chmod(filepath.Join(root, "d"), 0o755)) })
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		for _, name := range []string{"a", "d/x"} {
			_, err := open(root).ReadFile(name, 100)
			assert.ErrorIs(t, err, fs.ErrNotExist)
			assert.ErrorIs(t, err, fs.ErrPermission)
		}
	})
}

// TestMagicLinks uses the machine itself as the root, since only a real procfs has magic links: one
// leads to a file that no longer has a name.
func TestMagicLinks(t *testing.T) {
	f, err := os.Create(filepath.Join(t.TempDir(), "gone"))
	require.NoError(t, err)
	defer f.Close()
	require.NoError(t, os.Remove(f.Name()))
	magic := "/proc/self/fd/" + strconv.Itoa(int(f.Fd()))
	_, err = os.Stat(magic)
	require.NoError(t, err, "the kernel itself follows it")
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		f := open("/")
		_, err := f.ReadFile(magic, 100)
		assert.ErrorIs(t, err, fs.ErrNotExist)
		if !f.walkOnly {
			assert.ErrorIs(t, err, unix.ELOOP)
		}
	})
}

func TestReadDir(t *testing.T) {
	root, _ := machine(t, tree{"d/b": "x", "d/a": "-> x", "d/.c": "fifo", "d/\xff": "dir", "l": "-> /d", "out": "-> HOST/etc", "up": "-> ../host/etc", "f": "x", "e": "dir"})
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		f := open(root)
		for _, tt := range []struct {
			name string
			max  int
			want []string
			err  string
		}{
			{name: "d", max: 4, want: []string{".c", "a", "b", "\xff"}},
			{name: "/l/", max: 4, want: []string{".c", "a", "b", "\xff"}},
			{name: "e", max: 0, want: []string{}},
			{name: "/", max: 100, want: []string{"d", "e", "f", "l", "out", "up"}},
			{name: "d", max: 3, err: "more than 3 entries"},
			{name: "f", max: 3, err: "not a directory"},
			{name: "out", max: 100, err: "no such file"},
			{name: "up", max: 100, err: "no such file"},
		} {
			got, err := f.ReadDir(tt.name, tt.max)
			if tt.err != "" {
				assert.Nil(t, got)
				assert.ErrorIs(t, err, fs.ErrNotExist)
				assert.ErrorContains(t, err, tt.err)
				continue
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.True(t, f.IsDir(tt.name))
		}
		assert.False(t, f.IsDir("f"))
		assert.False(t, f.IsDir("out"))
		assert.False(t, f.IsDir("d/.c"))
	})
}

// TestReadLargeDirectory needs several reads of the directory.
func TestReadLargeDirectory(t *testing.T) {
	root, _ := machine(t, nil)
	want := make([]string, 0, 3000)
	for i := range 3000 {
		name := "name-that-is-not-short-" + strconv.Itoa(10000+i)
		want = append(want, name)
		require.NoError(t, os.WriteFile(filepath.Join(root, name), nil, 0o644))
	}
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	got, err := f.ReadDir("/", 3000)
	require.NoError(t, err)
	assert.Equal(t, want, got)
	_, err = f.ReadDir("/", 2999)
	assert.ErrorContains(t, err, "more than 2999 entries")
}

func FuzzParseDirents(f *testing.F) {
	f.Add([]byte{})
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x18\x00\x08name\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\x00\x00\x08name\x00"))
	f.Add([]byte("\x01\x00\x00\x00\x00\x00\x00\x00\x02\x00\x00\x00\x00\x00\x00\x00\xff\xff\x0aname"))
	f.Fuzz(func(t *testing.T, data []byte) {
		size := 0
		for _, e := range parseDirents(nil, data) {
			assert.NotContains(t, e.name, "\x00")
			assert.NotContains(t, []string{".", ".."}, e.name)
			size += 19 + len(e.name)
		}
		assert.LessOrEqual(t, size, len(data))
	})
}
