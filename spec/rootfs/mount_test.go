// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"golang.org/x/sys/unix"
)

// inPrivateMounts runs a test in its own mount namespace.
func inPrivateMounts(t *testing.T, test func()) {
	t.Helper()
	needRoot(t, "mounts in a private mount namespace")
	done := make(chan bool)
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked, so that the thread ends here
		err := unix.Unshare(unix.CLONE_NEWNS)
		if err == nil {
			err = unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, "")
		}
		if err != nil {
			t.Logf("making a mount namespace: %v", err)
			done <- false
			return
		}
		test()
	}()
	if made, ok := <-done; ok && !made {
		t.Skipf("SKIPPED: needs a private mount namespace")
	}
}

func bind(t *testing.T, from, to string) {
	t.Helper()
	assert.NoError(t, unix.Mount(from, to, "", unix.MS_BIND, ""))
}

// TestReadOnlyRoot: on a read-only root filesystem nothing can be written, and reading works.
func TestReadOnlyRoot(t *testing.T) {
	root, _ := machine(t, tree{"d/l": "-> old", "d/f": "old"})
	inPrivateMounts(t, func() {
		bind(t, root, root)
		assert.NoError(t, unix.Mount("", root, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""))
		refused(t, root, unix.EROFS)
		f, err := Open(root)
		if assert.NoError(t, err) {
			defer f.Close()
			data, err := f.ReadFile("d/f", 100)
			assert.NoError(t, err)
			assert.Equal(t, "old", string(data))
			changed, err := link(f, "d", "l", "old", self())
			assert.NoError(t, err, "a link that is there already needs no writing")
			assert.False(t, changed)
		}
	})
}

// TestMountInRoot: a host directory mounted in the root may be read, but is never written to,
// neither by its name nor through links.
func TestMountInRoot(t *testing.T) {
	for _, d := range []string{"-> m/d", "-> /m/d", "-> other/../m/d"} {
		root, host := machine(t, tree{"m": "dir", "other": "dir", "d": d})
		build(t, filepath.Join(host, "empty"), host, tree{"d/l": "-> old", "d/f": "old"})
		t.Cleanup(func() { assert.NoError(t, os.RemoveAll(filepath.Join(host, "empty/d"))) })
		inPrivateMounts(t, func() {
			bind(t, filepath.Join(host, "empty"), filepath.Join(root, "m"))
			refused(t, root, unix.EXDEV)
			f, err := Open(root)
			if assert.NoError(t, err) {
				defer f.Close()
				data, err := f.ReadFile("d/f", 100)
				assert.NoError(t, err)
				assert.Equal(t, "old", string(data))
			}
		})
	}
}

// TestMountOnFile: a file that is a mount point is not replaced.
func TestMountOnFile(t *testing.T) {
	root, host := machine(t, tree{"etc/ld.so.cache": "old"})
	inPrivateMounts(t, func() {
		bind(t, filepath.Join(host, "etc/secret"), filepath.Join(root, "etc/ld.so.cache"))
		f, err := Open(root)
		if assert.NoError(t, err) {
			defer f.Close()
			assert.ErrorIs(t, write(f, "etc/ld.so.cache", []byte("new"), 0o644, self()), unix.EBUSY)
		}
	})
	assert.Equal(t, tree{"etc/ld.so.cache": "old"}, dump(t, root))
}

// TestHostRootMounted: the machine's root is recognized under a bind mount's name, too.
func TestHostRootMounted(t *testing.T) {
	root, _ := machine(t, nil)
	inPrivateMounts(t, func() {
		bind(t, "/", root)
		f, err := Open(root)
		if assert.NoError(t, err) {
			defer f.Close()
			assert.True(t, f.IsHost())
			assert.ErrorIs(t, write(f, "tmp/x", nil, 0o644, self()), ErrHostRoot)
		}
	})
}

// TestFalseProc: without a procfs on /proc no file is opened for reading.
func TestFalseProc(t *testing.T) {
	root, host := machine(t, tree{"x": "inside"})
	inPrivateMounts(t, func() {
		build(t, filepath.Join(host, "empty"), host, tree{"self/fd/3": "false", "self/fd/7": "false"})
		bind(t, filepath.Join(host, "empty"), "/proc")
		f, err := Open(root)
		if assert.NoError(t, err) {
			_, err := f.ReadFile("x", 100)
			assert.ErrorContains(t, err, "/proc is not a procfs")
			f.Close()
		}
		assert.NoError(t, unix.Unmount("/proc", unix.MNT_DETACH))
		assert.NoError(t, os.RemoveAll(filepath.Join(host, "empty/self")))
	})
	require.DirExists(t, host)
}

// TestHostInode: an inode number equal to that of the machine's root, as on two file systems of the
// same type, does not make a root filesystem the machine's.
func TestHostInode(t *testing.T) {
	host, _ := machine(t, tree{"rootfs": "dir"})
	inPrivateMounts(t, func() {
		for _, dir := range []string{host, host + "/rootfs"} {
			assert.NoError(t, os.MkdirAll(dir, 0o755))
			assert.NoError(t, unix.Mount("tmpfs", dir, "tmpfs", 0, ""))
		}
		assert.NoError(t, unix.Chroot(host))
		var outer, inner unix.Stat_t
		assert.NoError(t, unix.Stat("/", &outer))
		assert.NoError(t, unix.Stat("/rootfs", &inner))
		assert.Equal(t, outer.Ino, inner.Ino)
		f, err := Open("/rootfs")
		if assert.NoError(t, err) {
			assert.False(t, f.IsHost())
			f.Close()
		}
	})
}
