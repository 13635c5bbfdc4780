// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tree is a directory tree: path to file. "-> target" is a link; "dir", "fifo", "socket", "zero",
// "disk" (a block device) and "size N" (a sparse file) are what they say; anything else is the
// content of a regular file. HOST stands for the path of the host's tree.
type tree map[string]string

// hostTree is what a container must neither read nor change.
var hostTree = tree{
	"etc/ld.so.cache":              "host's",
	"etc/debian_version":           "host's",
	"etc/alpine-release":           "host's",
	"etc/ld-musl-x86_64.path":      "host's",
	"etc/secret":                   "host's",
	"lib/x86_64-linux-gnu/libc":    "host's",
	"lib/libcuda.so.1":             "-> libcuda.so.535.1",
	"lib/libc.so.6":                "host's",
	"x86_64-linux-gnu/libcuda.so":  "-> libcuda.so.535.1",
	"usr/lib/x86_64-linux-gnu/x":   "host's",
	"cuda/compat/libcuda.so.1":     "-> libcuda.so.999.99",
	"cuda/compat/libcuda.so.999.9": "host's",
	"empty":                        "dir",
}

// debian is an image like Debian's, as far as the program reads it.
func debian(t testing.TB) tree {
	t.Helper()
	return tree{
		"lib": "-> usr/lib", "lib64": "-> usr/lib64", "bin": "-> usr/bin",
		"etc/debian_version":                 "12.11\n",
		"etc/ld.so.cache":                    cacheOf(t, libcEntry("/lib/x86_64-linux-gnu/libc.so.6")),
		"usr/lib/x86_64-linux-gnu/libc.so.6": "libc",
		"usr/lib64/ld-linux-x86-64.so.2":     "loader",
		"usr/bin/sh":                         "sh",
		"run":                                "dir",
		"tmp":                                "dir",
	}
}

// with returns a tree with other files at some paths; "gone" removes a path and everything below
// it.
func (content tree) with(changes tree) tree {
	all := maps.Clone(content)
	for name, what := range changes {
		maps.DeleteFunc(all, func(other, _ string) bool { return other == name || strings.HasPrefix(other, name+"/") })
		if what != "gone" {
			all[name] = what
		}
	}
	return all
}

func (content tree) build(t testing.TB, dir, host string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range slices.Sorted(maps.Keys(content)) {
		at, what := filepath.Join(dir, name), strings.ReplaceAll(content[name], "HOST", host)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		target, link := strings.CutPrefix(what, "-> ")
		size, sparse := strings.CutPrefix(what, "size ")
		switch {
		case link:
			require.NoError(t, os.Symlink(target, at))
		case sparse:
			n, err := strconv.ParseInt(size, 10, 64)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(at, nil, 0o644))
			require.NoError(t, os.Truncate(at, n))
		case what == "dir":
			require.NoError(t, os.MkdirAll(at, 0o755))
		case what == "fifo":
			require.NoError(t, unix.Mkfifo(at, 0o666))
		case what == "socket":
			require.NoError(t, unix.Mknod(at, unix.S_IFSOCK|0o666, 0))
		case what == "zero":
			mknod(t, at, 1, 5)
		case what == "disk":
			// A number that no driver has: opening it fails.
			require.NoError(t, unix.Mknod(at, unix.S_IFBLK|0o666, int(unix.Mkdev(240, 7))))
		default:
			require.NoError(t, os.WriteFile(at, []byte(what), 0o644))
		}
	}
}

// picture describes everything in a tree that a program could change, including times.
func picture(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := os.Lstat(at)
		require.NoError(t, err)
		st := info.Sys().(*syscall.Stat_t)
		got[at] = fmt.Sprintf("%v %d:%d inode %d links %d changed %d.%09d %s",
			info.Mode(), st.Uid, st.Gid, st.Ino, st.Nlink, st.Ctim.Sec, st.Ctim.Nsec, content(t, at, info))
		return nil
	}))
	return got
}

// dump describes the contents of a tree: path to content or kind.
func dump(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := os.Lstat(at)
		require.NoError(t, err)
		name, err := filepath.Rel(dir, at)
		require.NoError(t, err)
		got[name] = fmt.Sprintf("%v %s", info.Mode(), content(t, at, info))
		return nil
	}))
	return got
}

func content(t testing.TB, at string, info fs.FileInfo) string {
	t.Helper()
	switch {
	case info.Mode().Type() == fs.ModeSymlink:
		target, err := os.Readlink(at)
		require.NoError(t, err)
		return "-> " + target
	case info.Mode().IsRegular() && info.Size() < 32<<20:
		data, err := os.ReadFile(at)
		require.NoError(t, err)
		return fmt.Sprintf("%d bytes %x", len(data), sha256.Sum256(data))
	case info.Mode().IsRegular():
		return fmt.Sprintf("%d bytes", info.Size())
	}
	return ""
}

// watchHost checks at the end of the test that nobody has opened, changed or created anything in a
// tree. The kernel reports each open for reading or writing, but not lookups and O_PATH.
func watchHost(t testing.TB, dir string) {
	t.Helper()
	before := picture(t, dir)
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	require.NoError(t, filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		if err == nil && d.IsDir() {
			_, err = unix.InotifyAddWatch(fd, at, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_MODIFY|unix.IN_ATTRIB|unix.IN_CREATE|unix.IN_DELETE|unix.IN_MOVE)
		}
		return err
	}))
	// Ignore the opens that adding the watches caused. Closing is not watched, because a process
	// that was just being started may close the directories later.
	events(t, fd)
	t.Cleanup(func() {
		assert.Zero(t, events(t, fd), "files of the host were opened")
		require.NoError(t, unix.Close(fd))
		assert.Equal(t, before, picture(t, dir), "the host's tree changed")
	})
}

// events reads inotify's events and returns the number of bytes.
func events(t testing.TB, fd int) int {
	t.Helper()
	total := 0
	for buf := make([]byte, 64<<10); ; {
		n, err := unix.Read(fd, buf)
		if errors.Is(err, unix.EAGAIN) {
			return total
		}
		require.NoError(t, err)
		total += n
	}
}
