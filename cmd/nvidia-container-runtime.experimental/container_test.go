// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"maps"
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
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Tests in this file start containers with the real runc and crun through a real build of this
// program, on a machine from a fixture, and check what the container sees. They need root.

// built builds this program as make does, once; builtNow reports whether it was built here.
var (
	builtNow bool
	built    = sync.OnceValues(build)
)

func build() (string, error) {
	if os.Getenv(need.Programs) != "" {
		return "/usr/bin/" + program, nil // the package's
	}
	builtNow = true
	dir, err := os.MkdirTemp("", "nvcr-built-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, program)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return path, nil
}

// lowLevel is a real low-level runtime, with what this machine needs to run it.
type lowLevel struct {
	name    string
	path    string
	wrapper []string // a prefix of the command line
}

// lowLevels returns runc and crun. crun refuses a hybrid cgroup hierarchy, so it runs in a mount
// namespace without the unified one.
func lowLevels(t *testing.T) []lowLevel {
	t.Helper()
	need.Root(t)
	crun := lowLevel{name: "crun", path: need.Program(t, "crun")}
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		crun.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", `umount /sys/fs/cgroup/unified && exec "$0" "$@"`}
	}
	return []lowLevel{{name: "runc", path: need.Program(t, "runc")}, crun}
}

// world is a machine, an image and a bundle in temporary directories.
type world struct {
	t       *testing.T
	runtime lowLevel
	machine string // sysroot
	rootfs  string
	bundle  string
	state   string   // --root of the low-level runtime
	environ []string // added to the environment of this program
	id      string
}

// newWorld unpacks a fixture and builds an image with the given layout and this machine's C library
// and loader.
func newWorld(t *testing.T, r lowLevel, fixture, layout string) *world {
	t.Helper()
	dir := t.TempDir()
	w := &world{
		t: t, runtime: r, bundle: dir,
		machine: filepath.Join(dir, "machine"), rootfs: filepath.Join(dir, "rootfs"), state: filepath.Join(dir, "state"),
		id: fmt.Sprintf("nvcr-%d-%s", os.Getpid(), filepath.Base(filepath.Dir(dir))),
	}
	w.id = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '-'
	}, w.id)
	w.unpack(fixture)
	testimage.Build(t, w.rootfs, layout)
	return w
}

func (w *world) unpack(fixture string) {
	w.t.Helper()
	a, err := fixtures.Load(fixture)
	require.NoError(w.t, err)
	require.NoError(w.t, os.RemoveAll(w.machine))
	require.NoError(w.t, os.Mkdir(w.machine, 0o755))
	_, err = a.Unpack(w.machine, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(w.t, err)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o755))
}

// config writes a config.json that runs a shell script as an ordinary Docker container would,
// changed by edit.
func (w *world) config(script string, env []string, edit func(*specs.Spec)) {
	w.t.Helper()
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT", "CAP_KILL"}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script},
			Env:  append([]string{"PATH=/bin:/sbin:/usr/bin"}, env...), Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			MaskedPaths: []string{"/proc/kcore"},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			CgroupsPath: "/" + w.id,
		},
	}
	if edit != nil {
		edit(spec)
	}
	data, err := json.Marshal(spec)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(filepath.Join(w.bundle, "config.json"), data, 0o644))
}

// command returns a command that runs this program with a low-level runtime's arguments.
func (w *world) command(args ...string) *exec.Cmd {
	w.t.Helper()
	path, err := built()
	require.NoError(w.t, err)
	line := append(append([]string{}, w.runtime.wrapper...), path, "--root", w.state)
	line = append(line, args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(),
		"XDG_CONFIG_HOME="+w.bundle,
		"NVIDIA_CONTAINER_RUNTIME_PATH="+w.runtime.path,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT="+w.machine,
		"NVIDIA_CONTAINER_RUNTIME_DEBUG="+filepath.Join(w.bundle, "log"))
	cmd.Env = append(cmd.Env, w.environ...)
	return cmd
}

// do runs this program and returns all of its output.
func (w *world) do(args ...string) (string, error) {
	w.t.Helper()
	out, err := w.command(args...).CombinedOutput()
	return string(out), err
}

// run runs the script in a container and returns its output.
func (w *world) run(script string, env []string, edit func(*specs.Spec)) string {
	w.t.Helper()
	// runc copies stdout and stderr through two pipes, in any order, so use only one.
	w.config("exec 2>&1\n"+script, env, edit)
	out, err := w.do("run", "--bundle", w.bundle, w.id)
	require.NoError(w.t, err, "%s", out)
	return out
}

// start creates and starts a container that keeps running, and deletes it after the test.
func (w *world) start(env []string, edit func(*specs.Spec)) {
	w.t.Helper()
	w.config("exec sleep 1000", env, edit)
	// The container keeps its inherited descriptors open, so none may be a pipe of ours.
	output, err := os.CreateTemp(w.bundle, "output")
	require.NoError(w.t, err)
	defer output.Close()
	cmd := w.command("create", "--bundle", w.bundle, w.id)
	cmd.Stdout, cmd.Stderr = output, output
	w.t.Cleanup(func() {
		out, err := w.do("delete", "--force", w.id)
		assert.NoError(w.t, err, "%s", out)
	})
	err = cmd.Run()
	text, _ := os.ReadFile(output.Name())
	require.NoError(w.t, err, "%s", text)
	out, err := w.do("start", w.id)
	require.NoError(w.t, err, "%s", out)
	assert.Empty(w.t, out+string(text), "nothing is printed on success")
}

// inside runs a script in the started container.
func (w *world) inside(script string) string {
	w.t.Helper()
	out, err := w.do("exec", w.id, "/bin/sh", "-c", script)
	require.NoError(w.t, err, "%s", out)
	return out
}

// look prints the number in hexadecimal and the permissions of each NVIDIA device node, and how
// opening it fails: there is no driver here, so the error is ENXIO if the device cgroup allows it,
// and EPERM otherwise.
const look = `
for n in $(ls -d /dev/nvidia* /dev/nvidia-caps/* 2>/dev/null); do
	[ -c $n ] || continue
	echo "$n $(stat -c '%t:%T %a' $n) $( (: <$n) 2>&1 | sed 's/.*: //')"
done
`

func TestContainerSeesItsGPU(t *testing.T) {
	const nodes = `/dev/nvidia-uvm 1fc:0 666 No such device or address
/dev/nvidia-uvm-tools 1fc:1 666 No such device or address
/dev/nvidia0 c3:0 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
`
	for _, r := range lowLevels(t) {
		for _, tt := range []struct {
			name, layout      string
			readonly, noCache bool
		}{
			{name: "debian", layout: "debian"},
			{name: "fedora", layout: "fedora"},
			{name: "arch", layout: "arch"},
			{name: "read-only", layout: "debian", readonly: true},
			// The loader finds other libraries in its default directories, as it did without us.
			{name: "no ld.so.cache", layout: "debian", noCache: true},
		} {
			t.Run(r.name+"/"+tt.name, func(t *testing.T) {
				w := newWorld(t, r, "t4", tt.layout)
				if tt.noCache {
					require.NoError(t, os.Remove(filepath.Join(w.rootfs, "etc/ld.so.cache")))
				}
				got := w.run(look+`
					probe libcuda.so.1 libnvidia-ml.so.1 libcuda.so
					nvidia-smi
					ls /proc/1/fd`,
					[]string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) { s.Root.Readonly = tt.readonly })
				want := nodes + fmt.Sprintf("libcuda.so.1 => %[1]s/libcuda.so.1\nlibnvidia-ml.so.1 => %[1]s/libnvidia-ml.so.1\nlibcuda.so => %[1]s/libcuda.so.1\n", plan.Dir)
				before, after, ok := strings.Cut(got, want)
				assert.True(t, ok && before == "", "want\n%s\nas the head of\n%s", want, got)
				assert.Contains(t, after, "550.54.15", "nvidia-smi runs")
				assert.Contains(t, after, "\n0\n1\n2\n", "no descriptor is left open")
			})
		}
	}
}

// TestContainerKeepsItsGPUAfterUpdate checks that the device rules survive when the cgroup of a
// running container is rewritten, as Docker and the kubelet do: the low-level runtime applies its
// rules again, and ours must be among them.
func TestContainerKeepsItsGPUAfterUpdate(t *testing.T) {
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, r, "hgx-minors", "debian")
			w.start([]string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)
			allowed := w.inside("ls /dev/nvidia[0-9]*; " + tryOpen("/dev/nvidia[0-9]*"))
			assert.Regexp(t, `^/dev/nvidia\d+\nNo such device or address\n$`, allowed)

			out, err := w.do("update", "--cpu-quota", "50000", "--cpu-period", "100000", w.id)
			require.NoError(t, err, "%s", out)
			assert.Equal(t, allowed, w.inside("ls /dev/nvidia[0-9]*; "+tryOpen("/dev/nvidia[0-9]*")))

			// Another GPU's node can be created, but not opened.
			other := "/dev/nvidia7"
			if strings.Contains(allowed, other) {
				other = "/dev/nvidia6"
			}
			minor := strings.TrimPrefix(other, "/dev/nvidia")
			assert.Equal(t, "Operation not permitted\n", w.inside(fmt.Sprintf("mknod %s c 195 %s; %s", other, minor, tryOpen(other))))
		})
	}
}

// tryOpen returns a script that prints how opening devices fails.
func tryOpen(path string) string {
	return fmt.Sprintf(`for n in %s; do head -c0 $n 2>&1 | while read -r line; do echo "${line##*: }"; done; done`, path)
}

func TestContainerSeesMIGCapabilities(t *testing.T) {
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, r, "mixed-mig", "debian")
			inventory := mustRead(t, w.machine)
			var index int
			for _, g := range inventory.GPUs {
				if len(g.Instances) > 1 {
					index = g.Index
					break
				}
			}
			gpu := inventory.GPUs[index]
			instance := gpu.Instances[1]
			got := w.run("ls -d /dev/nvidia[0-9]* /dev/nvidia-caps/*; "+tryOpen("/dev/nvidia-caps/*"),
				[]string{fmt.Sprintf("NVIDIA_VISIBLE_DEVICES=%d:1", index)}, nil)
			caps := []string{
				fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", instance.GICap.Minor),
				fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", instance.CICap.Minor),
			}
			slices.Sort(caps)
			want := strings.Join(append(caps, fmt.Sprintf("/dev/nvidia%d", gpu.Minor)), "\n") +
				"\nNo such device or address\nNo such device or address\n"
			assert.Equal(t, want, got)
		})
	}
}

func mustRead(t *testing.T, root string) sysfs.Inventory {
	t.Helper()
	inventory, err := sysfs.Read(sysfs.Root(root), true)
	require.NoError(t, err)
	return inventory
}

// TestContainerCannotMakeOtherNodes checks that the container's seccomp profile denies creating the
// nodes of other GPUs, which NVIDIA's tools try, and nothing else.
func TestContainerCannotMakeOtherNodes(t *testing.T) {
	const script = `
		mknod /dev/nvidia7 c 195 7 && echo made 195:7
		mknod /dev/x c 1 3 && echo made 1:3
		mknod /dev/y c 194 7 && echo made 194:7
		mknod /dev/z c 196 7 && echo made 196:7
		mknod /dev/p p && echo made a FIFO`
	deny := uint(1)
	profiles := map[string]*specs.LinuxSeccomp{
		"default-allow": {
			DefaultAction: specs.ActAllow, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{{Names: []string{"reboot"}, Action: specs.ActErrno}},
		},
		"default-deny": {
			DefaultAction: specs.ActErrno, DefaultErrnoRet: &deny, Architectures: []specs.Arch{specs.ArchX86_64},
			Syscalls: []specs.LinuxSyscall{{Names: manySyscalls(), Action: specs.ActAllow}},
		},
	}
	for _, r := range lowLevels(t) {
		for _, name := range slices.Sorted(maps.Keys(profiles)) {
			t.Run(r.name+"/"+name, func(t *testing.T) {
				profile := profiles[name]
				w := newWorld(t, r, "t4", "debian")
				got := w.run(script+" 2>&1 || true", []string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) { s.Linux.Seccomp = profile })
				assert.Equal(t, "mknod: /dev/nvidia7: Operation not permitted\nmade 1:3\nmade 194:7\nmade 196:7\nmade a FIFO\n", got)
			})
		}
	}
}

// manySyscalls returns at least the system calls that a busybox shell, runc and crun need, for an
// allow list like Docker's.
func manySyscalls() []string {
	return strings.Fields(`access arch_prctl bind brk capget capset chdir chmod chown clone clone3 close close_range connect dup dup2 dup3
		epoll_create1 epoll_ctl epoll_pwait epoll_wait eventfd2 execve exit exit_group faccessat faccessat2 fchdir fchmod fchmodat fchown
		fchownat fcntl fstat fstatfs futex getcwd getdents64 getegid geteuid getgid getgroups getpgrp getpid getppid getrandom getrlimit
		getsockopt gettid getuid ioctl kill lseek lstat madvise mkdir mkdirat mknod mknodat mmap mprotect mremap munmap nanosleep newfstatat
		open openat openat2 pause pipe pipe2 poll ppoll prctl pread64 prlimit64 pselect6 read readlink readlinkat recvfrom recvmsg
		rename renameat2 rseq rt_sigaction rt_sigprocmask rt_sigreturn rt_sigtimedwait sched_getaffinity sched_yield seccomp sendmsg sendto
		set_robust_list set_tid_address setfsgid setfsuid setgid setgroups setpgid setresgid setresuid setsid setuid sigaltstack socket socketpair stat statfs statx symlink
		symlinkat sysinfo tgkill time umask uname unlink unlinkat utimensat vfork wait4 waitid write writev`)
}

// TestContainerWithMusl checks that musl's loader finds the driver's libraries.
func TestContainerWithMusl(t *testing.T) {
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			loader := need.Program(t, "/lib/ld-musl-x86_64.so.1")
			require.NoError(t, os.RemoveAll(filepath.Join(w.rootfs, "usr/lib/x86_64-linux-gnu")))
			require.NoError(t, os.RemoveAll(filepath.Join(w.rootfs, "etc")))
			require.NoError(t, os.Mkdir(filepath.Join(w.rootfs, "etc"), 0o755))
			copyFile(t, loader, filepath.Join(w.rootfs, "lib/ld-musl-x86_64.so.1"))
			// musl's loader lists what it would load. The libraries are built for glibc, so it can
			// only find them.
			got := w.run("/lib/ld-musl-x86_64.so.1 --list --preload libcuda.so.1 /bin/probe 2>&1", []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)
			assert.Contains(t, got, "/libcuda.so.1")
			assert.NotContains(t, got, "Error loading shared library libcuda.so.1")
		})
	}
}

// hostDevices runs its arguments in a mount namespace whose /dev has the usual nodes and those of
// GPU 0 of the fixture.
const hostDevices = `set -e
	mount --make-rprivate /
	d=$(mktemp -d)
	mount -t tmpfs -o mode=755 tmpfs "$d"
	for n in null:1:3 zero:1:5 full:1:7 random:1:8 urandom:1:9 tty:5:0 nvidia0:195:0 nvidiactl:195:255 nvidia-uvm:508:0 nvidia-uvm-tools:508:1; do
		IFS=:; set -- $n "$@"; mknod -m 666 "$d/$1" c "$2" "$3"; shift 3; unset IFS
	done
	ln -s /proc/self/fd "$d/fd"
	mkdir "$d/pts" "$d/shm"
	mount --move "$d" /dev
	rmdir "$d"
	if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
	exec "$0" "$@"`

// TestContainerInUserNamespace checks that in a user namespace the low-level runtime bind-mounts
// the host's nodes, and that files written to the root filesystem belong to the container's root.
func TestContainerInUserNamespace(t *testing.T) {
	userns := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = mapping, mapping
	}
	// Leave out the permissions: crun creates its own nodes, under its umask.
	script := strings.Replace(look, "%t:%T %a", "%t:%T", 1) + `
		probe libcuda.so.1
		stat -c '%n %u:%g' /usr/lib/x86_64-linux-gnu/libcuda.so.1 /etc/ld.so.cache /etc/ld.so.conf.d/00-nvidia-container-driver.conf`
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			r.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", hostDevices}
			w := newWorld(t, r, "t4", "debian")
			// Like an engine, let the mapped user reach the root filesystem and own its files.
			for dir := w.machine; dir != "/"; dir = filepath.Dir(dir) {
				if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o005 != 0o005 {
					require.NoError(t, os.Chmod(dir, 0o755))
				}
			}
			require.NoError(t, filepath.WalkDir(w.rootfs, func(path string, _ os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return os.Lchown(path, 100000, 100000)
			}))
			assert.Equal(t, `/dev/nvidia-uvm 1fc:0 No such device or address
/dev/nvidia-uvm-tools 1fc:1 No such device or address
/dev/nvidia0 c3:0 No such device or address
/dev/nvidiactl c3:ff No such device or address
libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
/usr/lib/x86_64-linux-gnu/libcuda.so.1 0:0
/etc/ld.so.cache 0:0
/etc/ld.so.conf.d/00-nvidia-container-driver.conf 0:0
`, w.run(script, []string{"NVIDIA_VISIBLE_DEVICES=0"}, userns))

			// Without the host's nodes, the error gives the reason.
			r.wrapper = lowLevels(t)[0].wrapper
			w.runtime = r
			w.config("true", []string{"NVIDIA_VISIBLE_DEVICES=0"}, userns)
			out, err := w.do("run", "--bundle", w.bundle, w.id)
			require.Error(t, err)
			assert.Contains(t, out, "a user namespace needs the host's /dev/nvidia-uvm, character device 508:0")
		})
	}
}
