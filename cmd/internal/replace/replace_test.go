// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package replace

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// contents returns the names in a directory, with mode and content.
func contents(t *testing.T, dir string) map[string]string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	got := map[string]string{}
	for _, e := range entries {
		info, err := e.Info()
		require.NoError(t, err)
		got[e.Name()] = info.Mode().String()
		if info.Mode().IsRegular() {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			require.NoError(t, err)
			got[e.Name()] += " " + string(data)
		}
	}
	return got
}

func TestWrite(t *testing.T) {
	// The umask must have no effect.
	defer syscall.Umask(syscall.Umask(0o077))
	broken := errors.New("broken")
	for _, tt := range []struct {
		name   string
		before func(t *testing.T, dir string)
		file   File
		want   map[string]string
		is     error
	}{
		{name: "new", file: File{Data: []byte("new"), Perm: 0o644}, want: map[string]string{"f": "-rw-r--r-- new"}},
		{
			name: "old", file: File{Data: []byte("new"), Perm: 0o640}, want: map[string]string{"f": "-rw-r----- new"},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("older and longer"), 0o600))
			},
		},
		{
			name: "link that is not followed", file: File{Data: []byte("new"), Perm: 0o644}, want: map[string]string{"f": "-rw-r--r-- new", "g": "-rw------- g"},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "g"), []byte("g"), 0o600))
				require.NoError(t, os.Symlink("g", filepath.Join(dir, "f")))
			},
		},
		{
			name: "leftovers", file: File{Data: []byte("new"), Perm: 0o644},
			want: map[string]string{"f": "-rw-r--r-- new", Prefix + "DIR": "drwx------", Prefix + "FIFO": "prw-------", "other": "-rw------- "},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, Prefix+"KILLED"), []byte("x"), 0o600))
				require.NoError(t, os.WriteFile(filepath.Join(dir, "other"), nil, 0o600))
				require.NoError(t, os.Mkdir(filepath.Join(dir, Prefix+"DIR"), 0o700))
				require.NoError(t, unix.Mkfifo(filepath.Join(dir, Prefix+"FIFO"), 0o600))
			},
		},
		{
			name: "rejected by the check", file: File{Data: []byte("new"), Perm: 0o644, Check: func(string) error { return broken }}, is: broken,
			want: map[string]string{"f": "-rw------- old"},
			before: func(t *testing.T, dir string) {
				require.NoError(t, os.WriteFile(filepath.Join(dir, "f"), []byte("old"), 0o600))
			},
		},
		{
			name: "directory in its place", file: File{Data: []byte("new"), Perm: 0o644}, is: syscall.EEXIST,
			want:   map[string]string{"f": "drwx------"},
			before: func(t *testing.T, dir string) { require.NoError(t, os.Mkdir(filepath.Join(dir, "f"), 0o700)) },
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			if tt.before != nil {
				tt.before(t, dir)
			}
			d, err := os.OpenRoot(dir)
			require.NoError(t, err)
			defer d.Close()
			assert.ErrorIs(t, Write(d, "f", tt.file), tt.is)
			assert.Equal(t, tt.want, contents(t, dir))
		})
	}
}

// TestWriteBesideAnother checks that the temporary file of a write in progress is not removed.
func TestWriteBesideAnother(t *testing.T) {
	dir := t.TempDir()
	d, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer d.Close()
	other := File{Data: []byte("other"), Perm: 0o644}
	inner := File{Data: []byte("inner"), Perm: 0o644}
	other.Check = func(temp string) error {
		err := Write(d, "g", inner)
		assert.Contains(t, contents(t, dir), temp)
		return err
	}
	require.NoError(t, Write(d, "f", other))
	assert.Equal(t, map[string]string{"f": "-rw-r--r-- other", "g": "-rw-r--r-- inner"}, contents(t, dir))
}

func TestWriteOwner(t *testing.T) {
	need.Root(t)
	dir := t.TempDir()
	d, err := os.OpenRoot(dir)
	require.NoError(t, err)
	defer d.Close()
	require.NoError(t, Write(d, "f", File{Perm: 0o644, Owner: &syscall.Stat_t{Uid: 12, Gid: 34}}))
	var st unix.Stat_t
	require.NoError(t, unix.Stat(filepath.Join(dir, "f"), &st))
	assert.Equal(t, [2]uint32{12, 34}, [2]uint32{st.Uid, st.Gid})
}

func TestDir(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "real/place"), 0o755))
	require.NoError(t, os.Symlink("/real", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("../../../../../../"+outside, filepath.Join(dir, "out")))
	require.NoError(t, os.Symlink("nowhere", filepath.Join(dir, "dangling")))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o644))
	for _, tt := range []struct{ dir, made string }{
		{"/real/place", "real/place"},
		{"/real/new/one", "real/new/one"},
		{"/link/place/x", "real/place/x"},
		{"new", "new"},
		{"/", "."},
		{"/dangling/x", "nowhere/x"},
		{"/file/x", ""},
		{"/out/x", ""},
	} {
		d, err := Dir(sysfs.Root(dir), tt.dir)
		if tt.made == "" {
			assert.Error(t, err, tt.dir)
			continue
		}
		require.NoError(t, err, tt.dir)
		require.NoError(t, d.WriteFile("mark", []byte(tt.dir), 0o644))
		require.NoError(t, d.Close())
		data, err := os.ReadFile(filepath.Join(dir, tt.made, "mark"))
		require.NoError(t, err, tt.dir)
		assert.Equal(t, tt.dir, string(data))
	}
	assert.Empty(t, contents(t, outside))
	_, err := Dir(sysfs.Root(filepath.Join(dir, "none")), "/x")
	assert.ErrorIs(t, err, fs.ErrNotExist)
}
