// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
)

// hostNodes is a script that gives the namespace a /dev with the usual device nodes and those of
// the fixture t4: for a user namespace, a low-level runtime bind-mounts them.
const hostNodes = `
	d=$(mktemp -d)
	mount -t tmpfs -o mode=755 tmpfs "$d"
	for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 nvidia0:195:0 nvidiactl:195:255 nvidia-uvm:508:0 nvidia-uvm-tools:508:1; do
		minor=${n##*:} n=${n%:*}
		mknod -m 666 "$d/${n%:*}" c "${n#*:}" "$minor"
	done
	mknod -m 666 "$d/fuse" c 10 229
	ln -s /proc/self/fd "$d/fd"
	ln -s pts/ptmx "$d/ptmx"
	mkdir "$d/pts" "$d/shm"
	mount -t devpts -o newinstance,ptmxmode=0666,mode=0620 devpts "$d/pts"
	mount -t tmpfs tmpfs "$d/shm"
	mount --move "$d" /dev
	rmdir "$d"
`

// subordinate is a script that gives the namespace a user with subordinate IDs.
const subordinate = `
	echo "nvcr:x:61111:61111::/nonexistent:/bin/sh" >>/etc/passwd
	echo "nvcr:x:61111:" >>/etc/group
	echo "nvcr:200000:65536" >>/etc/subuid
	echo "nvcr:200000:65536" >>/etc/subgid
`

// lookUserns is look without the permissions: crun creates the files to bind-mount on under its
// umask.
const lookUserns = `
exec 2>&1
for n in $(ls -d /dev/nvidia* 2>/dev/null); do
	[ -c $n ] || continue
	echo "$n $(stat -c '%t:%T' $n) $( (: <$n) 2>&1 | sed 's/.*: //')"
done
`

const t4NodesUserns = `/dev/nvidia-uvm 1fc:0 No such device or address
/dev/nvidia-uvm-tools 1fc:1 No such device or address
/dev/nvidia0 c3:0 No such device or address
/dev/nvidiactl c3:ff No such device or address
`

// owners is a script that prints the owners of the files that are written into the image.
const owners = `stat -c '%n %u:%g' /usr/lib/x86_64-linux-gnu/libcuda.so.1 /etc/ld.so.cache
`

const rootOwns = `/usr/lib/x86_64-linux-gnu/libcuda.so.1 0:0
/etc/ld.so.cache 0:0
`

func TestDockerUsernsRemap(t *testing.T) {
	need.Root(t)
	levels := lowLevels(t)
	d := newDocker(t, hostNodes+subordinate, func(g *ground, config map[string]any) {
		runtimes := map[string]any{}
		for _, l := range levels {
			runtimes["t4-"+l.name] = map[string]any{"path": g.runtime("t4-"+l.name, "t4", l.path, "")}
		}
		config["runtimes"], config["userns-remap"] = runtimes, "nvcr"
	})
	for _, l := range levels {
		t.Run(l.name, func(t *testing.T) {
			assert.Equal(t, t4NodesUserns+t4Libs+rootOwns, d.run(t, "t4-"+l.name, lookUserns+libs+owners, "-e", "NVIDIA_VISIBLE_DEVICES=0"))
		})
	}
	t.Run("missing node", func(t *testing.T) {
		out, err := d.output("rm", "/dev/nvidia-uvm")
		require.NoError(t, err, "%s", out)
		out, err = d.do("run", "--rm", "--network", "none", "--runtime", "t4-runc", "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName, "true")
		require.Error(t, err)
		assert.Contains(t, out, "a user namespace needs the host's /dev/nvidia-uvm, character device 508:0: it does not exist")
	})
}

func TestPodmanUserns(t *testing.T) {
	p := newPodman(t, hostNodes+subordinate)
	p.must(t, "load", "-i", p.image())
	for _, l := range lowLevels(t) {
		t.Run(l.name, func(t *testing.T) {
			runtime := p.runtime("t4-"+l.name, "t4", l.path, "")
			got := p.run(t, runtime, lookUserns+libs+owners, "-e", "NVIDIA_VISIBLE_DEVICES=0", "--uidmap", "0:200000:65536")
			assert.Equal(t, t4NodesUserns+t4Libs+rootOwns, got)
		})
	}
}

// TestPodmanIDMappedRootFS has a root filesystem that belongs to root on disk, and that the
// container sees through an ID-mapped mount. The host's root has no ID there, so nothing can be
// written to it: what would be a link is a mount instead.
func TestPodmanIDMappedRootFS(t *testing.T) {
	p := newPodman(t, hostNodes+subordinate)
	for _, l := range lowLevels(t) {
		t.Run(l.name, func(t *testing.T) {
			rootfs := filepath.Join(p.dir, "rootfs-"+l.name)
			testimage.Build(t, rootfs, "debian")
			// podman would create this link itself, and cannot do so either.
			require.NoError(t, os.Symlink("/proc/mounts", filepath.Join(rootfs, "etc/mtab")))
			self, err := os.Executable()
			require.NoError(t, err)
			cmd := p.command(self)
			cmd.Env = append(os.Environ(), idmapVariable+"="+rootfs)
			out, err := output(cmd)
			require.NoError(t, err, "%s", out)
			runtime := p.runtime("t4-"+l.name, "t4", l.path, "")
			got := p.must(t, "--runtime", runtime, "run", "--rm", "--network", "none", "--cgroup-parent", p.cgroup(),
				"-e", "NVIDIA_VISIBLE_DEVICES=0", "-e", "PATH=/bin:/sbin", "--uidmap", "0:200000:65536",
				"--rootfs", rootfs, "sh", "-c", lookUserns+libs)
			assert.Equal(t, t4NodesUserns+t4Libs, got)
		})
	}
}

// idmapVariable turns the test binary into a program that mounts the directory in the variable on
// itself, with IDs from 0 mapped to IDs from 200000.
const idmapVariable = "NVCR_TEST_IDMAP"

func idmap(dir string) error {
	mapping := []syscall.SysProcIDMap{{ContainerID: 0, HostID: 200000, Size: 65536}}
	child := exec.Command("cat")
	child.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWUSER, UidMappings: mapping, GidMappings: mapping}
	stdin, err := child.StdinPipe()
	if err != nil {
		return err
	}
	if err := child.Start(); err != nil {
		return err
	}
	defer func() { _ = errors.Join(stdin.Close(), child.Wait()) }()
	userns, err := os.Open(fmt.Sprintf("/proc/%d/ns/user", child.Process.Pid))
	if err != nil {
		return err
	}
	defer userns.Close()
	tree, err := unix.OpenTree(unix.AT_FDCWD, dir, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("open_tree: %w", err)
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_IDMAP, Userns_fd: uint64(userns.Fd())}
	if err := unix.MountSetattr(tree, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return fmt.Errorf("mount_setattr: %w", err)
	}
	return unix.MoveMount(tree, "", unix.AT_FDCWD, dir, unix.MOVE_MOUNT_F_EMPTY_PATH)
}

// newRootlessPodman prepares podman for an ordinary user, and loads the image.
func newRootlessPodman(t *testing.T) *podman {
	t.Helper()
	need.Program(t, "newuidmap")
	p := newPodman(t, hostNodes+subordinate)
	home := filepath.Join(p.dir, "home")
	require.NoError(t, os.MkdirAll(filepath.Join(home, "run"), 0o700))
	require.NoError(t, os.Chown(home, 61111, 61111))
	require.NoError(t, os.Chown(filepath.Join(home, "run"), 61111, 61111))
	p.wrapper = []string{
		need.Program(t, "setpriv"), "--reuid", "61111", "--regid", "61111", "--clear-groups", "--inh-caps=-all",
		"env", "--chdir", home, "-i", "HOME=" + home, "XDG_RUNTIME_DIR=" + filepath.Join(home, "run"), "PATH=" + os.Getenv("PATH"),
	}
	p.options = []string{need.Program(t, "podman"), "--cgroup-manager", "cgroupfs", "--events-backend", "none"}
	// podman leaves a process that keeps the user's namespaces.
	t.Cleanup(func() { p.must(t, "system", "migrate") })
	p.must(t, "load", "-i", p.image())
	return p
}

// TestPodmanRootless runs podman as an unprivileged user with subordinate IDs.
func TestPodmanRootless(t *testing.T) {
	p := newRootlessPodman(t)
	for _, l := range lowLevels(t) {
		t.Run(l.name, func(t *testing.T) {
			runtime := p.runtime("t4-"+l.name, "t4", l.path, "")
			run := func(script string, options ...string) string {
				args := append([]string{"--runtime", runtime, "run", "--rm", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES=0"}, options...)
				return p.must(t, append(args, imageName, "sh", "-c", script)...)
			}
			t.Run("root in the container", func(t *testing.T) {
				assert.Equal(t, t4NodesUserns+t4Libs+rootOwns, run(lookUserns+libs+owners))
			})
			t.Run("keep-id", func(t *testing.T) {
				assert.Equal(t, "61111\n"+t4NodesUserns+t4Libs+rootOwns, run("id -u;"+lookUserns+libs+owners, "--userns", "keep-id"))
			})
			t.Run("failure", func(t *testing.T) {
				out, err := p.do("--runtime", runtime, "run", "--rm", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES=7", imageName, "true")
				require.Error(t, err)
				assert.Contains(t, out, failures[0].want)
			})
		})
	}
}
