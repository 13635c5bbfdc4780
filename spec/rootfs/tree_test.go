// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// tree is a directory tree, path to content. "-> target" is a link, "dir", "fifo", "socket" and
// "device" (the null device, as root only) are those, "size N" is a sparse file of N bytes, "=
// path" is a hard link to a path outside, and everything else is the content of a file. HOST stands
// for the absolute path of the host's tree.
type tree map[string]string

// hostTree stands for the machine outside of the root filesystem, in a sibling directory of the
// root.
var hostTree = tree{
	"etc/secret":               "host's",
	"etc/ld.so.cache":          "host's",
	"etc/debian_version":       "host's",
	"lib/libc.so.6":            "host's",
	"lib/data":                 "host's",
	"lib/libcuda.so.1":         "-> libcuda.so.1.1",
	"usr/lib/libc.so.6":        "host's",
	"compat/libcuda.so.1":      "-> libcuda.so.999.99",
	"compat/libcuda.so.999.99": "host's",
	"empty":                    "dir",
}

// self is the user who runs the tests.
func self() Owner { return Owner{UID: os.Geteuid(), GID: os.Getegid()} }

// link calls Link and lets it replace every link.
func link(f *FS, dir, name, target string, o Owner) (bool, error) {
	return f.Link(dir, name, target, o, func(string) bool { return true })
}

// write calls Update and ignores the old content.
func write(f *FS, name string, data []byte, perm fs.FileMode, o Owner) error {
	return f.Update(name, 1<<20, perm, o, func([]byte, bool) ([]byte, error) { return data, nil })
}

// machine builds HOST and the root filesystem next to it, and checks at the end that HOST is
// unchanged.
func machine(t *testing.T, content tree) (root, host string) {
	t.Helper()
	top := t.TempDir()
	root, host = filepath.Join(top, "rootfs"), filepath.Join(top, "host")
	build(t, host, host, hostTree)
	build(t, root, host, content)
	before := dump(t, host)
	t.Cleanup(func() { assert.Equal(t, before, dump(t, host), "the host's tree changed") })
	return root, host
}

func build(t *testing.T, dir, host string, content tree) {
	t.Helper()
	require.NoError(t, os.MkdirAll(dir, 0o755))
	for _, name := range slices.Sorted(maps.Keys(content)) {
		at := filepath.Join(dir, strings.ReplaceAll(name, "HOST", host))
		what := strings.ReplaceAll(content[name], "HOST", host)
		require.NoError(t, os.MkdirAll(filepath.Dir(at), 0o755))
		target, link := strings.CutPrefix(what, "-> ")
		other, hard := strings.CutPrefix(what, "= ")
		size, sparse := strings.CutPrefix(what, "size ")
		switch {
		case link:
			require.NoError(t, os.Symlink(target, at))
		case hard:
			require.NoError(t, os.Link(other, at))
		case sparse:
			n, err := strconv.ParseInt(size, 10, 64)
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(at, nil, 0o644))
			require.NoError(t, os.Truncate(at, n))
		case what == "dir":
			require.NoError(t, os.Mkdir(at, 0o755))
		case what == "fifo":
			require.NoError(t, unix.Mkfifo(at, 0o644))
		case what == "device":
			require.NoError(t, unix.Mknod(at, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
		case what == "socket":
			// The name may be too long for a socket address: bind a short one and move it.
			short := filepath.Join(os.TempDir(), "rootfs-"+strconv.Itoa(os.Getpid()))
			l, err := net.Listen("unix", short)
			require.NoError(t, err)
			t.Cleanup(func() { l.Close() })
			require.NoError(t, os.Rename(short, at))
		default:
			require.NoError(t, os.WriteFile(at, []byte(what), 0o644))
		}
	}
}

// dump is the inverse of build. Directories are listed if they are empty or not 0755, with their
// permissions if not 0755; files have their permissions if not 0644.
func dump(t *testing.T, dir string) tree {
	t.Helper()
	got := tree{}
	err := filepath.WalkDir(dir, func(at string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		name, _ := filepath.Rel(dir, at)
		perm := ""
		switch info.Mode().Type() {
		case fs.ModeSymlink:
			target, err := os.Readlink(at)
			require.NoError(t, err)
			got[name] = "-> " + target
			return nil
		case fs.ModeDir:
			if info.Mode().Perm() != 0o755 {
				perm = " " + info.Mode().Perm().String()
			}
			entries, err := os.ReadDir(at)
			require.NoError(t, err)
			if len(entries) == 0 || perm != "" {
				got[name] = "dir" + perm
			}
		case 0:
			if info.Mode().Perm() != 0o644 {
				perm = info.Mode().Perm().String() + " "
			}
			if info.Size() > 1<<20 {
				got[name] = perm + "size " + strconv.FormatInt(info.Size(), 10)
				return nil
			}
			data, err := os.ReadFile(at)
			require.NoError(t, err)
			got[name] = perm + string(data)
		case fs.ModeNamedPipe:
			got[name] = "fifo"
		case fs.ModeSocket:
			got[name] = "socket"
		default:
			got[name] = "device"
		}
		return nil
	})
	require.NoError(t, err)
	return got
}

// with returns a tree with some paths changed; "gone" removes one.
func (content tree) with(changes tree) tree {
	all := maps.Clone(content)
	maps.Copy(all, changes)
	maps.DeleteFunc(all, func(_, what string) bool { return what == "gone" })
	return all
}

// bothWays runs a test with openat2, and with the walk that replaces it on old kernels.
func bothWays(t *testing.T, test func(t *testing.T, open func(root string) *FS)) {
	for _, way := range []string{"openat2", "walk"} {
		t.Run(way, func(t *testing.T) {
			test(t, func(root string) *FS {
				f, err := Open(root)
				require.NoError(t, err)
				f.walkOnly = way == "walk"
				t.Cleanup(func() {
					assert.Equal(t, way == "walk", f.walkOnly, "this kernel, or its seccomp profile, hides openat2")
					f.Close()
				})
				return f
			})
		})
	}
}

// chain is a chain of n links that ends at target.
func chain(n int, target string) tree {
	links := tree{}
	for i := range n {
		links["chain/"+strconv.Itoa(i)] = "-> " + strconv.Itoa(i+1)
	}
	links["chain/"+strconv.Itoa(n)] = "-> " + target
	return links
}

// needRoot skips, with a message, what only root can build.
func needRoot(t *testing.T, what string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("NOT TESTED, needs root: %s", what)
	}
}
