// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	root, _ := machine(t, tree{"file": "x"})
	slash := filepath.Join(filepath.Dir(root), "slash")
	require.NoError(t, os.Symlink("/", slash))
	link := filepath.Join(filepath.Dir(root), "link")
	require.NoError(t, os.Symlink("rootfs", link))
	for _, tt := range []struct {
		name, dir string
		host      bool
		err       error
		message   string
	}{
		{name: "directory", dir: root},
		{name: "link to a directory", dir: link},
		{name: "the machine's root", dir: "/", host: true},
		{name: "the machine's root by another name", dir: "/usr/..", host: true},
		{name: "the machine's root through a link", dir: slash, host: true},
		{name: "the machine's root through proc", dir: "/proc/self/root", host: true},
		{name: "missing", dir: root + "/missing", err: fs.ErrNotExist},
		{name: "not a directory", dir: root + "/file", err: unix.ENOTDIR},
		{name: "relative", dir: "rootfs", message: "path is not absolute"},
		{name: "dot", dir: ".", message: "path is not absolute"},
		{name: "empty", dir: "", message: "path is not absolute"},
		{name: "NUL", dir: "/a\x00b", err: unix.EINVAL},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Open(tt.dir)
			if tt.err != nil || tt.message != "" {
				assert.Nil(t, f)
				require.Error(t, err)
				assert.ErrorContains(t, err, tt.message)
				if tt.err != nil {
					assert.ErrorIs(t, err, tt.err)
				}
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.host, f.IsHost())
			require.NoError(t, f.Close())
		})
	}
}

// TestHostRoot shows that nothing is written to the machine's own root, under any name.
func TestHostRoot(t *testing.T) {
	f, err := Open("/proc/self/root")
	require.NoError(t, err)
	defer f.Close()
	dir := t.TempDir()
	build(t, dir, "", tree{"old": "-> x"})

	_, err = link(f, dir, "new", "target", self())
	assert.ErrorIs(t, err, ErrHostRoot)
	assert.ErrorIs(t, write(f, dir+"/file", nil, 0o644, self()), ErrHostRoot)
	assert.ErrorIs(t, f.MkdirAll(dir+"/dir", self()), ErrHostRoot)
	assert.Equal(t, tree{"old": "-> x"}, dump(t, dir))
}

// TestDescriptors checks that no call leaks a descriptor, whether it succeeds or fails, and that
// descriptors that are kept are close-on-exec.
func TestDescriptors(t *testing.T) {
	root, _ := machine(t, tree{
		"etc/debian_version": "12", "etc/fifo": "fifo", "loop": "-> loop", "up": "-> ../../../../etc",
		"usr/lib/x86_64-linux-gnu/libc.so.6":     "x",
		"usr/local/cuda/compat/libcuda.so.1":     "-> libcuda.so.999.1",
		"usr/local/cuda/compat/libcuda.so.999.1": "x",
	})
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		f := open(root)
		_, err := f.procfs()
		require.NoError(t, err)
		require.NoError(t, f.MkdirAll("usr/lib", self()))
		before := descriptors(t)
		for _, name := range []string{"etc/debian_version", "etc/fifo", "loop", "up/debian_version", "missing/x", "etc/debian_version/x", "etc"} {
			_, _ = f.ReadFile(name, 2)
			_, _ = f.ReadFile(name, 1)
			_, _ = f.ReadDir(name, 1)
			_ = f.IsDir(name)
			_, _ = link(f, name, "name", "target", self())
			_ = write(f, name, nil, 0o644, self())
			_ = f.MkdirAll(name, self())
			_, _ = f.Kind(name)
		}
		_, _ = f.Compat()
		assert.Equal(t, before, descriptors(t))
	})
}

// descriptors counts the open descriptors and checks that all except the standard ones are
// close-on-exec.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	require.NoError(t, err)
	for _, e := range entries {
		fd, err := strconv.Atoi(e.Name())
		require.NoError(t, err)
		if flags, err := unix.FcntlInt(uintptr(fd), unix.F_GETFD, 0); err == nil && fd > 2 {
			target, _ := os.Readlink("/proc/self/fd/" + e.Name())
			if strings.Contains(target, "rootfs") {
				assert.Equal(t, unix.FD_CLOEXEC, flags&unix.FD_CLOEXEC, target)
			}
		}
	}
	return len(entries)
}

// TestOrdinaryUser reruns all other tests as a user without privileges if we are root.
func TestOrdinaryUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Log("is one")
		return
	}
	dir, err := os.MkdirTemp("", "rootfs-user")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	bin := filepath.Join(dir, "test")
	self, err := os.Open("/proc/self/exe")
	require.NoError(t, err)
	defer self.Close()
	out, err := os.OpenFile(bin, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	require.NoError(t, err)
	_, err = io.Copy(out, self)
	require.NoError(t, err)
	require.NoError(t, out.Close())
	tmp := filepath.Join(dir, "tmp")
	require.NoError(t, os.Mkdir(tmp, 0o755))
	const nobody = 65534
	require.NoError(t, os.Chown(tmp, nobody, nobody))

	cmd := exec.Command(bin, "-test.run=^Test", "-test.v")
	cmd.Dir = tmp
	cmd.Env = []string{"TMPDIR=" + tmp, "PATH=/usr/bin:/bin"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: nobody, Gid: nobody}}
	output, err := cmd.CombinedOutput()
	for line := range strings.Lines(string(output)) {
		switch line := strings.TrimSpace(line); {
		case strings.HasPrefix(line, "=== "), strings.HasPrefix(line, "--- PASS"):
		case err != nil, strings.Contains(line, "NOT TESTED"):
			t.Log(line)
		}
	}
	require.NoError(t, err)
}
