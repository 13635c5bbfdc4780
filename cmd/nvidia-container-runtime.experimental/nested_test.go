// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
)

// hostDriver makes a mount namespace a host with the GPUs of the machine $MACHINE: it has that
// machine's /proc/devices and /proc/driver, and its own /dev without any NVIDIA device nodes.
const hostDriver = `set -e
	mount --make-rprivate /
	mount --bind "$MACHINE/proc/devices" /proc/devices
	mount --bind "$MACHINE/proc/driver" /proc/driver
	if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
	d=$(mktemp -d)
	mount -t tmpfs -o mode=755 tmpfs "$d"
	for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 ptmx:5:2; do
		IFS=:; set -- $n "$@"; mknod -m 666 "$d/$1" c "$2" "$3"; shift 3; unset IFS
	done
	ln -s /proc/self/fd "$d/fd"
	mkdir "$d/pts" "$d/shm"
	mount --move "$d" /dev
	rmdir "$d"
`

const hostExec = `exec "$0" "$@"`

// nest prepares the image of w to run containers: it adds this program, nvsysfs, a static runc, and
// the bundle /inner with a minimal image, whose config.json requests GPU 0. The function it returns
// gives the outer container the necessary privileges, but leaves it the masked paths of an ordinary
// container. Its /proc is the host's, with the fixture's driver; its /sys is the fixture's.
func nest(t *testing.T, w *world) func(*specs.Spec) {
	t.Helper()
	runc, err := staticRunc()
	if err != nil {
		need.Missing(t, "%v", err)
	}
	shim, err := built()
	require.NoError(t, err)
	tool, err := builtTool()
	require.NoError(t, err)
	copyFile(t, runc, filepath.Join(w.rootfs, "bin/runc"))
	copyFile(t, shim, filepath.Join(w.rootfs, "bin", program))
	copyFile(t, tool, filepath.Join(w.rootfs, "bin/nvsysfs"))

	inner := &world{t: t, bundle: filepath.Join(w.rootfs, "inner"), rootfs: filepath.Join(w.rootfs, "inner/rootfs"), id: w.id + "-inner"}
	require.NoError(t, os.Mkdir(inner.bundle, 0o755))
	testimage.Build(t, inner.rootfs, "debian")
	inner.config("exec 2>&1\n"+look+"probe libcuda.so.1\nnvidia-smi", []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)

	require.NoError(t, os.MkdirAll(filepath.Join(w.machine, "sys/fs/cgroup"), 0o755))
	return func(s *specs.Spec) {
		all := strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER CAP_FSETID CAP_KILL CAP_MKNOD CAP_NET_ADMIN CAP_SETFCAP CAP_SETGID CAP_SETPCAP " +
			"CAP_SETUID CAP_SYS_ADMIN CAP_SYS_CHROOT CAP_SYS_PTRACE")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: all, Effective: all, Permitted: all}
		s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind"}}
		s.Mounts = append(s.Mounts,
			specs.Mount{Destination: "/sys", Type: "bind", Source: filepath.Join(w.machine, "sys"), Options: []string{"bind", "ro"}},
			specs.Mount{Destination: "/sys/fs/cgroup", Type: "bind", Source: "/sys/fs/cgroup", Options: []string{"rbind"}},
			specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"})
		// No PID namespace, because /proc is the host's.
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}}
	}
}

// nested is the script for the outer container. It runs a container with the first GPU, and one
// that requests a GPU of the host that the outer container does not have.
const nested = `
	nvsysfs list | grep -v '^GPU -'
	nvsysfs doctor >/dev/null; echo doctor $?
	nvidia-container-runtime.experimental --root /run/state run --bundle /inner $id-inner
	mkdir /run/other
	sed 's/NVIDIA_VISIBLE_DEVICES=0/NVIDIA_VISIBLE_DEVICES=0000:1b:00.0/; s,"rootfs","/inner/rootfs",' /inner/config.json >/run/other/config.json
	nvidia-container-runtime.experimental --root /run/state run --bundle /run/other $id-other || true`

// wantNested is the output of nested up to the error.
const wantNested = `GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b) 0000:62:00.0, minor 5
doctor 0
/dev/nvidia-uvm 1fe:0 666 No such device or address
/dev/nvidia-uvm-tools 1fe:1 666 No such device or address
/dev/nvidia5 c3:5 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
nvidia-smi 535.129.03 (a stub without function)
`

// innerMasks returns the masked paths of the inner container.
func innerMasks(t *testing.T, w *world) []string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(w.rootfs, "inner/config.json"))
	require.NoError(t, err)
	var c configJSON
	require.NoError(t, json.Unmarshal(data, &c))
	return c.Linux.MaskedPaths
}

// TestContainerInContainer runs a container inside a container created by this program, where other
// GPUs are masked and must not be counted.
func TestContainerInContainer(t *testing.T) {
	r := lowLevels(t)[0]
	r.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", hostDriver + hostExec}
	w := newWorld(t, r, "hgx-minors", "debian")
	w.environ = []string{"MACHINE=" + w.machine, "NVIDIA_CONTAINER_RUNTIME_SYSROOT=/", "NVIDIA_CONTAINER_RUNTIME_ROOT=" + w.machine}
	edit := nest(t, w)
	got := w.run("id="+w.id+nested, []string{"NVIDIA_VISIBLE_DEVICES=3"}, edit)
	after, ok := strings.CutPrefix(got, wantNested)
	assert.True(t, ok, "want\n%s\nas the head of\n%s", wantNested, got)
	assert.Contains(t, after, `device "0000:1b:00.0": unknown device: the driver has no GPU at 0000:1b:00.0; available: 0 (GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b, 0000:62:00.0); GPUs hidden from this container: 0000:1b:00.0, `)
	assert.Equal(t, []string{
		"/proc/kcore",
		"/proc/driver/nvidia/capabilities/gpu0/mig", "/proc/driver/nvidia/capabilities/gpu1/mig", "/proc/driver/nvidia/capabilities/gpu2/mig",
		"/proc/driver/nvidia/capabilities/gpu3/mig", "/proc/driver/nvidia/capabilities/gpu4/mig", "/proc/driver/nvidia/capabilities/gpu6/mig",
		"/proc/driver/nvidia/capabilities/gpu7/mig",
		"/proc/driver/nvidia/gpus/0000:1b:00.0", "/proc/driver/nvidia/gpus/0000:43:00.0", "/proc/driver/nvidia/gpus/0000:52:00.0",
		"/proc/driver/nvidia/gpus/0000:9d:00.0", "/proc/driver/nvidia/gpus/0000:c3:00.0", "/proc/driver/nvidia/gpus/0000:d1:00.0",
		"/proc/driver/nvidia/gpus/0000:df:00.0",
	}, innerMasks(t, w), "what is hidden from the outer container is hidden from the inner one")
}

// TestContainerInClassicContainer runs a container inside one that the classic runtime would
// create. That runtime mounts a small read-only tmpfs with one GPU over /proc/driver/nvidia, and
// bind-mounts device nodes and single files in the image's library directory; the image's
// ld.so.cache does not list those here. The test imitates the classic runtime, which is not
// available.
func TestContainerInClassicContainer(t *testing.T) {
	const classic = `
		p=/proc/driver/nvidia
		d=$(mktemp -d)
		mkdir -p "$d/gpus"
		cp -r $p/version "$d"
		sed 's/ModifyDeviceFiles: 1/ModifyDeviceFiles: 0/' $p/params >"$d/params"
		cp -r $p/gpus/0000:62:00.0 "$d/gpus/"
		mount -t tmpfs tmpfs $p
		cp -r "$d/." $p
		rm -r "$d"
		mount -o remount,ro $p
		for n in nvidia5:195:5 nvidiactl:195:255 nvidia-uvm:510:0 nvidia-uvm-tools:510:1; do
			IFS=:; set -- $n "$@"; mknod -m 666 "/dev/$1" c "$2" "$3"; shift 3; unset IFS
		done
	`
	r := lowLevels(t)[0]
	r.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", hostDriver + classic + hostExec}
	w := newWorld(t, r, "hgx-minors", "debian")
	w.environ = []string{"MACHINE=" + w.machine}
	edit := nest(t, w)
	const version, lib = "535.129.03", "/usr/lib/x86_64-linux-gnu/"
	for _, name := range []string{"libcuda", "libnvidia-ml"} {
		require.NoError(t, os.Symlink(name+".so."+version, filepath.Join(w.rootfs, lib, name+".so.1")))
	}
	got := w.run("id="+w.id+nested, nil, func(s *specs.Spec) {
		edit(s)
		bind := func(from, to string) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: to, Type: "bind", Source: from, Options: []string{"bind", "ro", "nosuid", "nodev"}})
		}
		for _, name := range []string{"libcuda", "libnvidia-ml", "libnvidia-ptxjitcompiler"} {
			bind(filepath.Join(w.machine, "usr/lib64", name+".so."+version), lib+name+".so."+version)
		}
		bind(filepath.Join(w.machine, "usr/bin/nvidia-smi"), "/usr/bin/nvidia-smi")
		allow := func(path string, major, minor int64) {
			s.Mounts = append(s.Mounts, specs.Mount{Destination: path, Type: "bind", Source: path, Options: []string{"bind", "nosuid", "noexec"}})
			s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rw"})
		}
		allow("/dev/nvidia5", 195, 5)
		allow("/dev/nvidiactl", 195, 255)
		allow("/dev/nvidia-uvm", 510, 0)
		allow("/dev/nvidia-uvm-tools", 510, 1)
	})
	after, ok := strings.CutPrefix(got, wantNested)
	assert.True(t, ok, "want\n%s\nas the head of\n%s", wantNested, got)
	assert.Contains(t, after, `device "0000:1b:00.0": unknown device: the driver has no GPU at 0000:1b:00.0; available: 0 (GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b, 0000:62:00.0); `+
		`NVIDIA GPUs not in /proc/driver/nvidia/gpus (not given to this container, or failed to initialize): 0000:1b:00.0, `)
	assert.Equal(t, []string{"/proc/kcore"}, innerMasks(t, w))
}
