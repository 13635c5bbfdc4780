// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// The bare host has nothing but busybox, a low-level runtime, our two programs and the driver's
// files: no C library, no loader, no ld.so.cache, no ldconfig, no /etc, no /usr. Its root
// filesystem is its own and read-only. It is not a chroot: pivot_root was called, and the host's
// mounts are gone.

// staticRunc builds a current, statically linked runc, once. It needs gcc and libseccomp-dev.
var staticRunc = sync.OnceValues(func() (string, error) {
	shim, err := built()
	if err != nil {
		return "", err
	}
	dir := filepath.Dir(shim) // removed after all tests
	cmd := exec.Command("go", "install", "-tags", "seccomp netgo osusergo",
		"-ldflags", "-linkmode external -extldflags -static", "github.com/opencontainers/runc@v1.5.2")
	cmd.Env = append(os.Environ(), "GOBIN="+dir, "GOFLAGS=", "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building a static runc: %w: %s", err, out)
	}
	return filepath.Join(dir, "runc"), nil
})

// builtTool builds nvsysfs as make does, once.
var builtTool = sync.OnceValues(func() (string, error) {
	shim, err := built()
	if err != nil {
		return "", err
	}
	path := filepath.Join(filepath.Dir(shim), "nvsysfs")
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "../nvsysfs")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building nvsysfs: %w: %s", err, out)
	}
	return path, nil
})

// bareRunc installs runc on the bare host.
func bareRunc(t *testing.T, host string) {
	t.Helper()
	need.Program(t, "gcc")
	runc, err := staticRunc()
	if err != nil {
		need.Missing(t, "%v", err)
	}
	copyFile(t, runc, filepath.Join(host, "bin/runc"))
}

// bareCrun installs crun on the bare host. Debian's is linked dynamically, so its loader and
// libraries go to a directory that no other program knows, and the loader's path in the binary is
// patched. The libraries are found through LD_LIBRARY_PATH, which the runtime passes on.
func bareCrun(t *testing.T, host string) {
	t.Helper()
	crun := need.Program(t, "crun")
	require.NoError(t, os.Mkdir(filepath.Join(host, "crun"), 0o755))
	program, err := os.ReadFile(crun)
	require.NoError(t, err)
	file, err := elf.NewFile(bytes.NewReader(program))
	require.NoError(t, err)
	at := slices.IndexFunc(file.Progs, func(p *elf.Prog) bool { return p.Type == elf.PT_INTERP })
	if at >= 0 { // dynamically linked
		const loader = "/crun/ld.so"
		interp := program[file.Progs[at].Off:][:file.Progs[at].Filesz]
		copyFile(t, string(bytes.TrimRight(interp, "\x00")), filepath.Join(host, loader))
		require.Less(t, len(loader), len(interp))
		clear(interp)
		copy(interp, loader)
		out, err := exec.Command("ldd", crun).Output()
		require.NoError(t, err)
		for line := range strings.Lines(string(out)) {
			if fields := strings.Fields(line); len(fields) >= 3 && fields[1] == "=>" {
				copyFile(t, fields[2], filepath.Join(host, "crun", fields[0]))
			}
		}
	}
	require.NoError(t, os.WriteFile(filepath.Join(host, "bin/crun"), program, 0o755))
}

// enterBare makes the directory $1 the root of a mount namespace and runs the script $2 there.
// /proc is mounted anew; /proc/devices, /proc/driver and /sys come from the machine $3; /bundle is
// $4.
const enterBare = `set -e
	host=$1 script=$2 machine=$3 bundle=$4 procopts=$5
	mount --make-rprivate /
	mount --bind "$host" "$host"
	mount --bind "$bundle" "$host/bundle"
	mount -t proc -o "$procopts" proc "$host/proc"
	mount --bind "$machine/proc/devices" "$host/proc/devices"
	mount --bind "$machine/proc/driver" "$host/proc/driver"
	mount --bind "$machine/sys" "$host/sys"
	if mountpoint -q /sys/fs/cgroup/devices; then
		# cgroup v1 only: crun refuses the hybrid hierarchy.
		mount -t tmpfs tmpfs "$host/sys/fs/cgroup"
		for c in /sys/fs/cgroup/*; do
			if [ -L "$c" ] || [ "$c" = /sys/fs/cgroup/unified ]; then continue; fi
			mkdir "$host$c"
			mount --bind "$c" "$host$c"
		done
	else
		mount --bind /sys/fs/cgroup "$host/sys/fs/cgroup"
	fi
	mount -t tmpfs -o mode=755 tmpfs "$host/dev"
	for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0; do
		IFS=: ; set -- $n; unset IFS
		mknod -m 666 "$host/dev/$1" c "$2" "$3"
	done
	mount -t tmpfs -o mode=755 tmpfs "$host/run"
	mount -o remount,bind,ro "$host"
	cd "$host"
	pivot_root . old
	exec /bin/busybox env -i PATH=/bin LD_LIBRARY_PATH=/crun /bin/busybox sh -c "/bin/busybox umount -l /old; $script"
`

// bare is a bare host.
type bare struct {
	t       *testing.T
	host    string // its root file system
	machine string // the source of its /proc and /sys
	bundle  string // its /bundle, which is writable
}

// newBare makes a bare host with the GPUs of a fixture and its driver, in the given directories.
func newBare(t *testing.T, fixture string, driver ...string) *bare {
	t.Helper()
	need.Root(t)
	need.Program(t, "unshare")
	need.Program(t, "pivot_root")
	dir := t.TempDir()
	b := &bare{t: t, host: filepath.Join(dir, "host"), machine: filepath.Join(dir, "machine"), bundle: filepath.Join(dir, "bundle")}
	for _, d := range []string{"bin", "bundle", "dev", "old", "proc", "run", "sys"} {
		require.NoError(t, os.MkdirAll(filepath.Join(b.host, d), 0o755))
	}
	a, err := fixtures.Load(fixture)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(b.machine, 0o755))
	_, err = a.Unpack(b.machine, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(filepath.Join(b.machine, "sys/fs/cgroup"), 0o755))
	for _, d := range driver {
		to := filepath.Join(b.host, d)
		require.NoError(t, os.MkdirAll(filepath.Dir(to), 0o755))
		require.NoError(t, os.Rename(filepath.Join(b.machine, d), to))
	}
	copyFile(t, need.Program(t, "busybox"), filepath.Join(b.host, "bin/busybox"))
	require.NoError(t, os.Symlink("busybox", filepath.Join(b.host, "bin/sh")))
	shim, err := built()
	require.NoError(t, err)
	copyFile(t, shim, filepath.Join(b.host, "bin", program))
	tool, err := builtTool()
	require.NoError(t, err)
	copyFile(t, tool, filepath.Join(b.host, "bin/nvsysfs"))
	testimage.Build(t, filepath.Join(b.bundle, "rootfs"), "debian")
	return b
}

// run runs a script on the bare host and returns what it prints.
func (b *bare) run(procOptions, script string) string {
	b.t.Helper()
	cmd := exec.Command("unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", enterBare,
		"sh", b.host, script, b.machine, b.bundle, procOptions)
	out, err := cmd.CombinedOutput()
	require.NoError(b.t, err, "%s", out)
	return string(out)
}

// files returns the paths of all files on the bare host.
func (b *bare) files() []string {
	b.t.Helper()
	var files []string
	require.NoError(b.t, filepath.WalkDir(b.host, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			files = append(files, strings.TrimPrefix(path, b.host))
		}
		return err
	}))
	return files
}

// TestBareHost checks that a container on the bare host gets its GPU and that nvsysfs works there,
// also if /proc is mounted with hidepid, which hides the processes of others.
func TestBareHost(t *testing.T) {
	for _, tt := range []struct {
		name    string
		runtime func(*testing.T, string)
		options string
	}{
		{"runc", bareRunc, "rw"},
		{"crun", bareCrun, "rw"},
		{"runc", bareRunc, "hidepid=2"},
		{"crun", bareCrun, "hidepid=2"},
	} {
		t.Run(tt.name+"/"+tt.options, func(t *testing.T) {
			const driver = "/home/kubernetes/bin/nvidia"
			b := newBare(t, "no-ldcache", "home/kubernetes/bin/nvidia")
			tt.runtime(t, b.host)
			files := slices.DeleteFunc(b.files(), func(f string) bool {
				return strings.HasPrefix(f, driver+"/") || tt.name == "crun" && strings.HasPrefix(f, "/crun/")
			})
			want := []string{"/bin/busybox", "/bin/nvidia-container-runtime.experimental", "/bin/nvsysfs", "/bin/" + tt.name, "/bin/sh"}
			slices.Sort(want)
			assert.Equal(t, want, files, "there is nothing else on this host")

			w := &world{t: t, bundle: b.bundle, id: fmt.Sprintf("nvcr-bare-%d-%s", os.Getpid(), tt.name)}
			w.config("exec 2>&1\n"+look+"probe libcuda.so.1 libnvidia-ml.so.1\nnvidia-smi", []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)
			// The directory of hard links cannot be created here, so the driver's files are mounted
			// one by one.
			all := &world{t: t, bundle: filepath.Join(b.bundle, "all"), id: w.id + "-all"}
			require.NoError(t, os.Mkdir(all.bundle, 0o755))
			all.config("exec 2>&1\nprobe libcuda.so.1 libGLX_nvidia.so.0 libnvidia-encode.so.1",
				[]string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"}, func(s *specs.Spec) { s.Root.Path = "/bundle/rootfs" })
			got := b.run(tt.options, strings.NewReplacer("ID", w.id).Replace(`
				cd /bundle
				busybox touch /x 2>&1
				busybox ls / | busybox tr "\n" " "; echo
				nvsysfs explain --bundle /bundle >explain || echo explain fails
				nvidia-container-runtime.experimental --root /run/state run --bundle /bundle ID || echo run fails
				nvidia-container-runtime.experimental --root /run/state run --bundle /bundle/all ID-all || echo run fails
				nvsysfs list
				nvsysfs info >info || echo info fails
				nvsysfs doctor >doctor; echo doctor $?
				echo /dev/nvidia*`))
			root := "bin bundle dev home old proc run sys"
			if tt.name == "crun" {
				root = "bin bundle crun dev home old proc run sys"
			}
			assert.Equal(t, `touch: /x: Read-only file system
`+root+` 
/dev/nvidia-uvm f2:0 666 No such device or address
/dev/nvidia-uvm-tools f2:1 666 No such device or address
/dev/nvidia0 c3:0 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
libnvidia-ml.so.1 => /usr/lib/nvidia-container-driver/libnvidia-ml.so.1
nvidia-smi 550.90.07 (a stub without function)
libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
libGLX_nvidia.so.0 => /usr/lib/nvidia-container-driver/libGLX_nvidia.so.0
libnvidia-encode.so.1 => /usr/lib/nvidia-container-driver/libnvidia-encode.so.1
GPU 0: Tesla T4 (UUID: GPU-38ce91b5-6f7d-02ea-b4d3-e91806c57af2) 0000:00:04.0, minor 0
doctor 0
/dev/nvidia-modeset /dev/nvidia-uvm /dev/nvidia-uvm-tools /dev/nvidia0 /dev/nvidiactl
`, got)
			for file, want := range map[string]string{
				"explain": "/usr/lib/nvidia-container-driver/libcuda.so.550.90.07",
				"info":    "Low-level runtime: /bin/" + tt.name + "\n",
				"doctor":  "ok    libraries          39 files of version 550.90.07\n",
			} {
				text, err := os.ReadFile(filepath.Join(b.bundle, file))
				require.NoError(t, err)
				assert.Contains(t, string(text), want)
			}
		})
	}
}

// TestBareHostInUserNamespace checks that a container on the bare host also gets its GPU in a user
// namespace with hidepid. Device nodes cannot be created there, so the host's are bind-mounted, and
// the command in the error about a missing node creates it.
func TestBareHostInUserNamespace(t *testing.T) {
	b := newBare(t, "no-ldcache", "home/kubernetes/bin/nvidia")
	bareRunc(t, b.host)
	w := &world{t: t, bundle: b.bundle, id: fmt.Sprintf("nvcr-bare-%d-userns", os.Getpid())}
	w.config("exec 2>&1\n"+look+"probe libcuda.so.1", []string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) {
		// A user namespace cannot mount a new /proc if parts of the present one are covered, and
		// there is no cgroup to write to.
		s.Mounts[0] = specs.Mount{Destination: "/proc", Type: "bind", Source: "/proc", Options: []string{"rbind"}}
		s.Linux.Namespaces = []specs.LinuxNamespace{{Type: "ipc"}, {Type: "uts"}, {Type: "mount"}}
		s.Linux.CgroupsPath, s.Linux.Resources, s.Linux.MaskedPaths = "", nil, nil
	})
	const start = "/bin/busybox unshare -U -r -m nvidia-container-runtime.experimental --root /run/state run --bundle /bundle "
	got := b.run("hidepid=2", `
		cd /bundle
		mknod() { busybox mknod "$@"; }
		for i in 1 2 3 4; do
			out=$(`+start+w.id+` 2>&1) && break
			echo "$out"
			eval "$(echo "$out" | busybox sed -n "s/.*; run '\\([^']*\\)' as root on the host, then start the container again.*/\\1/p")"
		done
		echo run succeeds; echo "$out"`)
	before, after, ok := strings.Cut(got, "\nrun succeeds\n")
	require.True(t, ok, "%s", got)
	for _, node := range []string{
		"/dev/nvidia-uvm, character device 242:0: it does not exist; run 'mknod -m 666 /dev/nvidia-uvm c 242 0'",
		"/dev/nvidia0, character device 195:0: it does not exist; run 'mknod -m 666 /dev/nvidia0 c 195 0'",
		"/dev/nvidiactl, character device 195:255: it does not exist; run 'mknod -m 666 /dev/nvidiactl c 195 255'",
	} {
		assert.Contains(t, before, "a user namespace needs the host's "+node)
	}
	assert.Equal(t, `/dev/nvidia-uvm f2:0 666 No such device or address
/dev/nvidia0 c3:0 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
`, after)
}
