// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestSymlink(t *testing.T) {
	for _, tt := range []struct {
		name      string
		content   tree
		dir, link string
		target    string
		changes   tree // to content
		err       string
		is        error
		occupied  *OccupiedError
	}{
		{
			name: "new", content: tree{"usr/lib/x": "x"},
			dir: "/usr/lib", link: "libcuda.so.1", target: "libcuda.so.550.54.15",
			changes: tree{"usr/lib/libcuda.so.1": "-> libcuda.so.550.54.15"},
		},
		{
			name: "there already", content: tree{"usr/lib/libcuda.so.1": "-> libcuda.so.550.54.15"},
			dir: "/usr/lib", link: "libcuda.so.1", target: "libcuda.so.550.54.15",
		},
		{
			name: "of an older driver", content: tree{"usr/lib/libcuda.so.1": "-> libcuda.so.470.1", "usr/lib/libcuda.so.470.1": "x"},
			dir: "/usr/lib", link: "libcuda.so.1", target: "libcuda.so.550.54.15",
			changes: tree{"usr/lib/libcuda.so.1": "-> libcuda.so.550.54.15"},
		},
		{
			name: "link to the host's file", content: tree{"usr/lib/l": "-> HOST/etc/secret"},
			dir: "/usr/lib", link: "l", target: "new", changes: tree{"usr/lib/l": "-> new"},
		},
		{
			name: "link to a directory", content: tree{"usr/lib/l": "-> d", "usr/lib/d": "dir"},
			dir: "/usr/lib", link: "l", target: "new", changes: tree{"usr/lib/l": "-> new"},
		},
		{
			name: "link to itself", content: tree{"usr/lib/l": "-> l"},
			dir: "/usr/lib", link: "l", target: "new", changes: tree{"usr/lib/l": "-> new"},
		},
		{
			name: "target of any kind is but text", content: tree{"d/x": "x"},
			dir: "d", link: "l", target: "../../../../HOST/etc/../\n", changes: tree{"d/l": "-> ../../../../HOST/etc/../\n"},
		},
		{
			name: "directory is a link in the root", content: tree{"usr/lib/x": "x", "lib": "-> /usr/lib", "lib64": "-> lib"},
			dir: "/lib64", link: "l", target: "new", changes: tree{"usr/lib/l": "-> new"},
		},
		{
			name: "in the root itself", content: tree{"x": "x"},
			dir: "/", link: "l", target: "new", changes: tree{"l": "-> new"},
		},
		{
			name: "directory leads up and out", content: tree{"usr/lib": "-> ../../../../../..", "x": "x"},
			dir: "/usr/lib", link: "l", target: "new", changes: tree{"l": "-> new"},
		},
		{
			name: "directory is a link to the host", content: tree{"usr/lib": "-> HOST/lib"},
			dir: "/usr/lib", link: "l", target: "new", is: fs.ErrNotExist,
		},
		{
			name: "directory is a relative link to the host", content: tree{"usr/lib": "-> ../../host/lib"},
			dir: "/usr/lib", link: "l", target: "new", is: fs.ErrNotExist,
		},
		{
			name: "usr is a link to the host", content: tree{"usr": "-> HOST/usr"},
			dir: "/usr/lib", link: "l", target: "new", is: fs.ErrNotExist,
		},
		{
			name: "directory is missing", content: tree{"usr/x": "x"},
			dir: "/usr/lib", link: "l", target: "new", is: fs.ErrNotExist,
		},
		{
			name: "directory is a file", content: tree{"usr/lib": "x"},
			dir: "/usr/lib", link: "l", target: "new", is: unix.ENOTDIR,
		},
		{
			name: "directory is a FIFO", content: tree{"usr/lib": "fifo"},
			dir: "/usr/lib", link: "l", target: "new", is: unix.ENOTDIR,
		},
		{
			name: "directory is a loop", content: tree{"usr/lib": "-> lib"},
			dir: "/usr/lib", link: "l", target: "new", is: unix.ELOOP,
		},
		{
			name: "file of that name", content: tree{"d/l": "x"},
			dir: "d", link: "l", target: "new", occupied: &OccupiedError{Name: "/d/l", Mode: 0o644, Size: 1},
		},
		{
			name: "empty file left by a mount", content: tree{"d/l": ""},
			dir: "d", link: "l", target: "new", occupied: &OccupiedError{Name: "/d/l", Mode: 0o644},
		},
		{
			name: "directory of that name", content: tree{"d/l/x": "x"},
			dir: "d", link: "l", target: "new", occupied: &OccupiedError{Name: "/d/l", Mode: fs.ModeDir | 0o755},
		},
		{
			name: "FIFO of that name", content: tree{"d/l": "fifo"},
			dir: "d", link: "l", target: "new", occupied: &OccupiedError{Name: "/d/l", Mode: fs.ModeNamedPipe | 0o644},
		},
		{name: "name with a slash", content: tree{"d/x": "x"}, dir: "d", link: "../l", target: "new", err: `"../l" is not the name of a file`},
		{name: "name is up", content: tree{"d/x": "x"}, dir: "d", link: "..", target: "new", err: `".." is not the name of a file`},
		{name: "name is here", content: tree{"d/x": "x"}, dir: "d", link: ".", target: "new", err: `"." is not the name of a file`},
		{name: "no name", content: tree{"d/x": "x"}, dir: "d", link: "", target: "new", err: `"" is not the name of a file`},
		{name: "NUL in the name", content: tree{"d/x": "x"}, dir: "d", link: "a\x00b", target: "new", err: `"a\x00b" is not the name of a file`},
		{name: "NUL in the target", content: tree{"d/x": "x"}, dir: "d", link: "l", target: "a\x00b", is: unix.EINVAL},
		{name: "NUL in the directory", content: tree{"d/x": "x"}, dir: "d\x00", link: "l", target: "new", is: unix.EINVAL},
		{name: "no target", content: tree{"d/x": "x"}, dir: "d", link: "l", target: "", is: unix.ENOENT},
		{name: "target of 5000 bytes", content: tree{"d/x": "x"}, dir: "d", link: "l", target: strings.Repeat("x", 5000), is: unix.ENAMETOOLONG},
		{name: "name of 300 bytes", content: tree{"d/x": "x"}, dir: "d", link: strings.Repeat("x", 300), target: "new", is: unix.ENAMETOOLONG},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				root, _ := machine(t, tt.content)
				want := dump(t, root).with(tt.changes)
				f := open(root)
				changed, err := link(f, tt.dir, tt.link, tt.target, self())
				assert.Equal(t, tt.changes != nil, changed)
				assert.Equal(t, want, dump(t, root))
				var occupied *OccupiedError
				switch {
				case tt.occupied != nil:
					require.ErrorAs(t, err, &occupied)
					if occupied.Mode.IsDir() {
						occupied.Size = 0 // not the same on all file systems
					}
					assert.Equal(t, tt.occupied, occupied)
				case tt.is != nil:
					require.ErrorIs(t, err, tt.is)
				case tt.err != "":
					require.ErrorContains(t, err, tt.err)
				default:
					require.NoError(t, err)
				}
			})
		})
	}
}

// TestSymlinkTwice: the second time there is nothing to do.
func TestSymlinkTwice(t *testing.T) {
	root, _ := machine(t, tree{"a/x": "x", "b/x": "x"})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	for _, want := range []bool{true, false} {
		for _, dir := range []string{"a", "b", "a"} {
			changed, err := link(f, dir, "of-"+dir, "new", self())
			require.NoError(t, err)
			assert.Equal(t, want, changed)
			want = want && dir != "b"
		}
	}
	assert.Equal(t, tree{"a/x": "x", "a/of-a": "-> new", "b/x": "x", "b/of-b": "-> new"}, dump(t, root))
}

func TestWriteFile(t *testing.T) {
	for _, tt := range []struct {
		name     string
		content  tree
		file     string
		perm     fs.FileMode
		changes  tree
		err      string
		is       error
		occupied *OccupiedError
	}{
		{name: "new", content: tree{"etc/x": "x"}, file: "/etc/ld.so.cache", perm: 0o644, changes: tree{"etc/ld.so.cache": "new"}},
		{name: "permissions", content: tree{"etc/x": "x"}, file: "etc/f", perm: 0o666, changes: tree{"etc/f": "-rw-rw-rw- new"}},
		{name: "only permissions", content: tree{"etc/x": "x"}, file: "etc/f", perm: fs.ModeSetuid | 0o644, changes: tree{"etc/f": "new"}},
		{name: "in the root", content: tree{"x": "x"}, file: "f", perm: 0o644, changes: tree{"f": "new"}},
		{name: "directories made", content: tree{"x": "x"}, file: "/etc/a/b/f", perm: 0o644, changes: tree{"etc/a/b/f": "new"}},
		{name: "replaced", content: tree{"etc/f": "old"}, file: "etc/f", perm: 0o644, changes: tree{"etc/f": "new"}},
		{name: "link to the host's file", content: tree{"etc/ld.so.cache": "-> HOST/etc/ld.so.cache"}, file: "etc/ld.so.cache", perm: 0o644, changes: tree{"etc/ld.so.cache": "new"}},
		{name: "relative link to the host's file", content: tree{"etc/f": "-> ../../host/etc/secret"}, file: "etc/f", perm: 0o644, changes: tree{"etc/f": "new"}},
		{name: "link in the root", content: tree{"etc/f": "-> g", "etc/g": "old"}, file: "etc/f", perm: 0o644, changes: tree{"etc/f": "new"}},
		{name: "link that leads nowhere", content: tree{"etc/f": "-> g"}, file: "etc/f", perm: 0o644, changes: tree{"etc/f": "new"}},
		{name: "hard link to the host's file", content: tree{"etc/f": "= HOST/etc/secret"}, file: "etc/f", perm: 0o644, changes: tree{"etc/f": "new"}},
		{name: "directory is a link in the root", content: tree{"etc": "-> /data/etc", "data/etc/x": "x"}, file: "etc/f", perm: 0o644, changes: tree{"data/etc/f": "new"}},
		{name: "directory leads up and out", content: tree{"etc": "-> ../../..", "x": "x"}, file: "etc/f", perm: 0o644, changes: tree{"f": "new"}},
		{name: "directory is a link to the host", content: tree{"etc": "-> HOST/etc"}, file: "etc/ld.so.cache", perm: 0o644, is: fs.ErrNotExist},
		{name: "directory is a relative link to the host", content: tree{"etc": "-> ../host/etc"}, file: "etc/ld.so.cache", perm: 0o644, is: fs.ErrNotExist},
		{name: "directory above is a link to the host", content: tree{"etc": "-> HOST/etc"}, file: "etc/a/b/f", perm: 0o644, is: fs.ErrNotExist},
		{name: "directory is a file", content: tree{"etc": "x"}, file: "etc/f", perm: 0o644, is: unix.ENOTDIR},
		{name: "directory is a loop", content: tree{"etc": "-> etc"}, file: "etc/f", perm: 0o644, is: unix.ELOOP},
		{name: "FIFO of that name", content: tree{"etc/f": "fifo"}, file: "etc/f", perm: 0o644, occupied: &OccupiedError{Name: "/etc/f", Mode: fs.ModeNamedPipe | 0o644}},
		{name: "directory of that name", content: tree{"etc/f": "dir"}, file: "etc/f", perm: 0o644, occupied: &OccupiedError{Name: "/etc/f", Mode: fs.ModeDir | 0o755}},
		{name: "the root", content: tree{"x": "x"}, file: "/", perm: 0o644, err: `"" is not the name of a file`},
		{name: "NUL in the name", content: tree{"x": "x"}, file: "a\x00b", perm: 0o644, err: `"a\x00b" is not the name of a file`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				root, _ := machine(t, tt.content)
				want := dump(t, root).with(tt.changes)
				old := syscall.Umask(0o077)
				err := write(open(root), tt.file, []byte("new"), tt.perm, self())
				syscall.Umask(old)
				assert.Equal(t, want, dump(t, root))
				var occupied *OccupiedError
				switch {
				case tt.occupied != nil:
					require.ErrorAs(t, err, &occupied)
					occupied.Size = 0 // not the same on all file systems
					assert.Equal(t, tt.occupied, occupied)
				case tt.is != nil:
					assert.ErrorIs(t, err, tt.is)
				case tt.err != "":
					assert.ErrorContains(t, err, tt.err)
				default:
					assert.NoError(t, err)
				}
			})
		})
	}
}

func TestMkdirAll(t *testing.T) {
	for _, tt := range []struct {
		name    string
		content tree
		dir     string
		changes tree
		is      error
	}{
		{name: "new", content: tree{"usr/x": "x"}, dir: "/usr/lib/x86_64-linux-gnu", changes: tree{"usr/lib/x86_64-linux-gnu": "dir"}},
		{name: "there", content: tree{"usr/lib/x": "x"}, dir: "usr/lib"},
		{name: "there, through a link", content: tree{"usr/lib/x": "x", "usr/lib64": "-> lib"}, dir: "usr/lib64"},
		{name: "the root", content: tree{"x": "x"}, dir: "/"},
		{name: "below a link", content: tree{"usr/lib/x": "x", "lib": "-> /usr/lib"}, dir: "lib/a/b", changes: tree{"usr/lib/a/b": "dir"}},
		{name: "link that leads nowhere", content: tree{"usr/lib": "-> /nowhere"}, dir: "usr/lib", is: fs.ErrNotExist},
		{name: "below a link that leads nowhere", content: tree{"usr/lib": "-> /nowhere"}, dir: "usr/lib/a", is: fs.ErrNotExist},
		{name: "below a link to the host", content: tree{"usr": "-> HOST/usr"}, dir: "usr/new", is: fs.ErrNotExist},
		{name: "below a relative link to the host", content: tree{"usr": "-> ../host"}, dir: "usr/new", is: fs.ErrNotExist},
		{name: "below a file", content: tree{"usr": "x"}, dir: "usr/lib", is: unix.ENOTDIR},
		{name: "a file", content: tree{"usr/lib": "x"}, dir: "usr/lib", is: unix.ENOTDIR},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				root, _ := machine(t, tt.content)
				want := dump(t, root).with(tt.changes)
				old := syscall.Umask(0o077)
				err := open(root).MkdirAll(tt.dir, self())
				syscall.Umask(old)
				assert.Equal(t, want, dump(t, root))
				if tt.is != nil {
					assert.ErrorIs(t, err, tt.is)
					return
				}
				assert.NoError(t, err)
			})
		})
	}
}

// TestLinkOfOthers: a link is replaced only if its target says that it is ours.
func TestLinkOfOthers(t *testing.T) {
	root, _ := machine(t, tree{"d/ours": "-> ours", "d/theirs": "-> theirs"})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	ours := func(target string) bool { return target == "ours" }
	changed, err := f.Link("d", "ours", "new", self(), ours)
	require.NoError(t, err)
	assert.True(t, changed)
	var occupied *OccupiedError
	_, err = f.Link("d", "theirs", "new", self(), ours)
	require.ErrorAs(t, err, &occupied)
	assert.Equal(t, tree{"d/ours": "-> new", "d/theirs": "-> theirs"}, dump(t, root))
}

// TestUpdateAtOnce: none of many concurrent additions to a file is lost.
func TestUpdateAtOnce(t *testing.T) {
	for _, content := range []tree{{"etc/x": "x"}, {"etc/x": "x", "etc/f": "old\n"}} {
		root, _ := machine(t, content)
		const writers, lines = 8, 20
		var group sync.WaitGroup
		for w := range writers {
			group.Go(func() {
				f, err := Open(root)
				if !assert.NoError(t, err) {
					return
				}
				defer f.Close()
				for i := range lines {
					assert.NoError(t, f.Update("etc/f", 1<<20, 0o644, self(), func(old []byte, _ bool) ([]byte, error) {
						return fmt.Appendf(old, "%d.%d\n", w, i), nil
					}))
				}
			})
		}
		group.Wait()
		data, err := os.ReadFile(filepath.Join(root, "etc/f"))
		require.NoError(t, err)
		assert.Len(t, strings.Fields(string(data)), writers*lines+len(content)-1)
		assert.Len(t, dump(t, root), 2, "nothing else is left")
	}
}

// TestUpdateLocked: holding a file's lock forever does not prevent writing.
func TestUpdateLocked(t *testing.T) {
	root, _ := machine(t, tree{"etc/f": "old"})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	holder, err := os.Open(filepath.Join(root, "etc/f"))
	require.NoError(t, err)
	defer holder.Close()
	require.NoError(t, unix.Flock(int(holder.Fd()), unix.LOCK_EX))
	require.NoError(t, write(f, "etc/f", []byte("new"), 0o644, self()))
	assert.Equal(t, tree{"etc/f": "new"}, dump(t, root))
}

// TestUpdateGivesUp: an error of the caller leaves everything unchanged.
func TestUpdateGivesUp(t *testing.T) {
	root, _ := machine(t, tree{"etc/f": "old"})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	err = f.Update("etc/f", 1<<20, 0o644, self(), func(old []byte, there bool) ([]byte, error) {
		assert.Equal(t, "old", string(old))
		assert.True(t, there)
		return nil, fs.ErrInvalid
	})
	require.ErrorIs(t, err, fs.ErrInvalid)
	assert.Equal(t, tree{"etc/f": "old"}, dump(t, root))
}

// TestLeftovers: leftovers of a killed run are removed unless somebody is still writing them. Only
// regular files are opened, and if all names are taken nothing is written.
func TestLeftovers(t *testing.T) {
	root, _ := machine(t, tree{
		"d/f": "old", "d/.nvidia-container-runtime-0": "fifo", "d/.nvidia-container-runtime-1": "killed",
		"d/.nvidia-container-runtime-2": "writing", "d/.nvidia-container-runtime-3": "killed",
	})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	writing, err := os.Open(filepath.Join(root, "d/.nvidia-container-runtime-2"))
	require.NoError(t, err)
	require.NoError(t, unix.Flock(int(writing.Fd()), unix.LOCK_EX))
	require.NoError(t, write(f, "d/f", []byte("new"), 0o644, self()))
	assert.Equal(t, tree{"d/f": "new", "d/.nvidia-container-runtime-0": "fifo", "d/.nvidia-container-runtime-2": "writing"}, dump(t, root))

	for _, name := range []string{"1", "3"} {
		require.NoError(t, unix.Mkfifo(filepath.Join(root, "d/.nvidia-container-runtime-"+name), 0o644))
	}
	before := dump(t, root)
	assert.ErrorIs(t, write(f, "d/f", []byte("newer"), 0o644, self()), errAgain)
	assert.Equal(t, before, dump(t, root))
	require.NoError(t, writing.Close())
	require.NoError(t, write(f, "d/f", []byte("newer"), 0o644, self()))
}

// TestOwner: new objects have the requested owner. Without the permission for that, nothing is
// created, and a link of ours may be lost.
func TestOwner(t *testing.T) {
	o := Owner{UID: 100000, GID: 100001}
	root, _ := machine(t, tree{"d/old": "-> old", "d/f": "old"})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()

	_, new := link(f, "d", "new", "target", o)
	_, replaced := link(f, "d", "old", "target", o)
	written := write(f, "d/f", []byte("new"), 0o640, o)
	if os.Geteuid() != 0 {
		for _, err := range []error{new, replaced, written} {
			assert.ErrorIs(t, err, fs.ErrPermission)
		}
		assert.Equal(t, tree{"d/f": "old"}, dump(t, root))
		return
	}
	for _, err := range []error{new, replaced, written, f.MkdirAll("d/a/b", o)} {
		require.NoError(t, err)
	}
	assert.Equal(t, tree{"d/new": "-> target", "d/old": "-> target", "d/f": "-rw-r----- new", "d/a/b": "dir"}, dump(t, root))
	for _, name := range []string{"d/new", "d/old", "d/f", "d/a", "d/a/b"} {
		info, err := os.Lstat(filepath.Join(root, name))
		require.NoError(t, err)
		st := info.Sys().(*syscall.Stat_t)
		assert.Equal(t, Owner{UID: int(st.Uid), GID: int(st.Gid)}, o, name)
	}
	info, err := os.Lstat(filepath.Join(root, "d"))
	require.NoError(t, err)
	assert.Zero(t, info.Sys().(*syscall.Stat_t).Uid, "what was there keeps its owner")
}

// TestNotWritable: a directory without write permission, as for an unprivileged user, is an error.
func TestNotWritable(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root may write everywhere; TestOrdinaryUser runs this")
	}
	root, _ := machine(t, tree{"d/l": "-> old", "d/f": "old"})
	require.NoError(t, os.Chmod(filepath.Join(root, "d"), 0o555))
	t.Cleanup(func() { assert.NoError(t, os.Chmod(filepath.Join(root, "d"), 0o755)) })
	refused(t, root, fs.ErrPermission)
}

// refused checks that nothing can be written to the directory d of the root, which contains a link
// l and a file f.
func refused(t *testing.T, root string, reason error) {
	t.Helper()
	before := dump(t, root)
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	for range 2 {
		_, err = link(f, "d", "new", "target", self())
		assert.ErrorIs(t, err, reason)
		_, err = link(f, "d", "l", "target", self())
		assert.ErrorIs(t, err, reason)
		assert.ErrorIs(t, write(f, "d/f", []byte("new"), 0o644, self()), reason)
		assert.ErrorIs(t, f.MkdirAll("d/dir", self()), reason)
		f.forget()
		f.walkOnly = true
	}
	assert.Equal(t, before, dump(t, root))
}

// TestImmutable: files and directories that not even root may change.
func TestImmutable(t *testing.T) {
	needRoot(t, "immutable files")
	chattr := func(t *testing.T, flag, name string) bool {
		output, err := exec.Command("chattr", flag, name).CombinedOutput()
		if err != nil {
			t.Logf("chattr %s: %v: %s", flag, err, output)
		}
		return err == nil
	}
	root, _ := machine(t, tree{"d/l": "-> old", "d/f": "old"})
	d, file := filepath.Join(root, "d"), filepath.Join(root, "d/f")
	if !chattr(t, "+i", d) {
		t.Skipf("SKIPPED: needs chattr that works, for immutable files")
	}
	t.Cleanup(func() { chattr(t, "-i", d) })
	refused(t, root, fs.ErrPermission)
	require.True(t, chattr(t, "-i", d))

	require.True(t, chattr(t, "+i", file))
	t.Cleanup(func() { chattr(t, "-i", file) })
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	before := dump(t, root)
	assert.ErrorIs(t, write(f, "d/f", []byte("new"), 0o644, self()), fs.ErrPermission)
	assert.Equal(t, before, dump(t, root))
}

// TestFullDisk: an error of the write itself is reported.
func TestFullDisk(t *testing.T) {
	if _, err := os.Stat("/dev/full"); err != nil {
		t.Skipf("SKIPPED: needs /dev/full, for a disk that is full")
	}
	fd, err := unix.Open("/dev/full", unix.O_WRONLY|unix.O_CLOEXEC, 0)
	require.NoError(t, err)
	defer unix.Close(fd)
	assert.ErrorIs(t, (&FS{self: self()}).fill(fd, []byte("new"), 0o644, self()), unix.ENOSPC)
}

func TestOccupiedError(t *testing.T) {
	for _, tt := range []struct {
		mode fs.FileMode
		want string
	}{
		{0o644, `"/d/l" is taken by a regular file`},
		{fs.ModeDir, `"/d/l" is taken by a directory`},
		{fs.ModeSymlink, `"/d/l" is taken by a link`},
		{fs.ModeNamedPipe, `"/d/l" is taken by a FIFO`},
		{fs.ModeSocket, `"/d/l" is taken by a socket`},
		{fs.ModeDevice | fs.ModeCharDevice, `"/d/l" is taken by a device`},
	} {
		assert.EqualError(t, error(&OccupiedError{Name: "/d/l", Mode: tt.mode}), tt.want)
	}
	assert.NotErrorIs(t, &OccupiedError{}, fs.ErrExist)
}

// BenchmarkSymlinks opens a root filesystem and requests 60 links in a directory. A new link costs
// two system calls; one that exists, as from the second round on, costs one.
func BenchmarkSymlinks(b *testing.B) {
	root := b.TempDir()
	if err := os.Mkdir(filepath.Join(root, "lib"), 0o755); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		f, err := Open(root)
		if err != nil {
			b.Fatal(err)
		}
		for i := range 60 {
			if _, err := link(f, "/lib", "libnvidia-"+strconv.Itoa(i)+".so.1", "libnvidia.so.550.54.15", self()); err != nil {
				b.Fatal(err)
			}
		}
		f.Close()
	}
}

// TestUpdateRaced: what replaces the file while its new content is computed is left alone.
func TestUpdateRaced(t *testing.T) {
	for _, content := range []tree{{"d/f": "old"}, {"d/x": "x"}} {
		root, _ := machine(t, content)
		f, err := Open(root)
		require.NoError(t, err)
		defer f.Close()
		err = f.Update("d/f", 1<<20, 0o644, self(), func([]byte, bool) ([]byte, error) {
			require.NoError(t, os.RemoveAll(filepath.Join(root, "d/f")))
			return []byte("new"), os.MkdirAll(filepath.Join(root, "d/f/theirs"), 0o755)
		})
		var occupied *OccupiedError
		require.ErrorAs(t, err, &occupied)
		assert.True(t, occupied.Mode.IsDir())
		want := tree{"d/f/theirs": "dir"}
		if _, ok := content["d/x"]; ok {
			want["d/x"] = "x"
		}
		assert.Equal(t, want, dump(t, root))
	}
}

// TestNotWhatWasMade: what replaces a link or directory that was just created does not get its
// owner.
func TestNotWhatWasMade(t *testing.T) {
	needRoot(t, "files of another user")
	o := Owner{UID: 100000, GID: 100001}
	root, _ := machine(t, tree{"file": "x", "link": "-> x", "twice": "-> x", "theirs": "-> x", "dir": "dir", "full/sub": "dir", "open": "dir", "their-dir": "dir"})
	at := func(name string) string { return filepath.Join(root, name) }
	require.NoError(t, os.Link(at("twice"), at("thrice")))
	require.NoError(t, os.Lchown(at("theirs"), 12345, 0))
	require.NoError(t, os.Chown(at("their-dir"), 12345, 0))
	require.NoError(t, os.Chmod(at("open"), 0o775))
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	for name, good := range map[string]bool{"file": false, "twice": false, "theirs": false, "link": true} {
		assert.Equal(t, good, f.own(f.root, name, o) == nil, name)
	}
	for name, good := range map[string]bool{"full": false, "open": false, "their-dir": false, "dir": true} {
		made, err := openat(f.root, name, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		require.NoError(t, err)
		assert.Equal(t, good, f.adopt(made, o) == nil, name)
		require.NoError(t, unix.Close(made))
	}
	for _, name := range []string{"file", "twice", "theirs", "full", "open", "their-dir", "link", "dir"} {
		var st unix.Stat_t
		require.NoError(t, unix.Lstat(at(name), &st))
		assert.Equal(t, name == "link" || name == "dir", Owner{int(st.Uid), int(st.Gid)} == o, name)
	}
}
