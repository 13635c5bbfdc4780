// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// program builds testdata/mknod.
func program(t *testing.T, arch string) string {
	t.Helper()
	file := filepath.Join(t.TempDir(), "mknod")
	build := exec.Command("go", "build", "-o", file, "./testdata/mknod")
	build.Env = append(os.Environ(), "CGO_ENABLED=0", "GOARCH="+arch)
	output, err := build.CombinedOutput()
	require.NoError(t, err, string(output))
	return file
}

// bundle creates a bundle whose only process is the program with the arguments, and returns its
// directory and its config.json, which is not written.
func bundle(t *testing.T, program string, args []string) (string, *specs.Spec) {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"proc", "tmp", "dev", "bin"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, "rootfs", name), 0o755))
	}
	binary, err := os.ReadFile(program)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "rootfs/bin/mknod"), binary, 0o755))

	capabilities := []string{"CAP_MKNOD", "CAP_DAC_OVERRIDE"}
	return dir, &specs.Spec{
		Version: "1.0.2",
		Process: &specs.Process{
			Args: append([]string{"/bin/mknod"}, args...),
			Env:  []string{"PATH=/bin"},
			Cwd:  "/",
			Capabilities: &specs.LinuxCapabilities{
				Bounding: capabilities, Effective: capabilities, Permitted: capabilities,
			},
		},
		Root:   &specs.Root{Path: "rootfs"},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: specs.PIDNamespace}, {Type: specs.MountNamespace}},
		},
	}
}

// runIn runs the bundle with a runtime and returns what the container wrote.
func runIn(t *testing.T, low, dir string) string {
	t.Helper()
	root := t.TempDir()
	id := fmt.Sprintf("fence-%d-%s", os.Getpid(), filepath.Base(dir))
	argv := []string{low, "--root", root, "run", "--bundle", dir, id}
	if low == "crun" {
		// crun rejects machines with both versions of cgroups. It gets its own mount namespace,
		// where version 2 is hidden.
		argv = []string{
			"unshare", "--mount", "--propagation", "private", "sh", "-c",
			`umount /sys/fs/cgroup/unified 2>/dev/null; exec crun --cgroup-manager=disabled "$@"`, "sh",
			"--root", root, "run", "--bundle", dir, id,
		}
	}
	command := exec.Command(argv[0], argv[1:]...)
	var stderr strings.Builder
	command.Stderr = &stderr
	stdout, err := command.Output()
	require.NoError(t, err, stderr.String())
	return string(stdout)
}

// needRuntime skips, with a message, where containers cannot be created.
func needRuntime(t *testing.T, low string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skipf("SKIPPED: needs root, for %s to make device nodes in a container", low)
	}
	if _, err := exec.LookPath(low); err != nil {
		t.Skipf("SKIPPED: needs %s, to try the fence with it", low)
	}
}

func save(t *testing.T, dir string, s any) {
	t.Helper()
	text, err := json.Marshal(s)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), text, 0o600))
}

// TestFenceInContainers checks inside containers that the fence denies exactly what it should.
func TestFenceInContainers(t *testing.T) {
	parent := t
	majors := []int64{195, 234, 235, 507, 509, 510}
	// Expected results: the device registers of the fenced majors with small and large minors, with
	// garbage in bits that the kernel ignores, and their neighbors.
	attempts := map[string]string{
		"c:0xc307":     "1",  // 195:7
		"c:0xc3ff":     "1",  // 195:255
		"c:0x10c300":   "1",  // 195:256
		"c:0xfff0c3ff": "1",  // 195:1048575
		"c:0x1fd00":    "1",  // 509:0
		"c:0x1fe01":    "1",  // 510:1
		"c:0x1fb00":    "1",  // 507:0
		"c:0xea02":     "1",  // 234:2
		"c:0xeb02":     "1",  // 235:2
		"c:0x103":      "ok", // 1:3
		"c:0xc207":     "ok", // 194:7
		"c:0xc407":     "ok", // 196:7
		"c:0xe900":     "ok", // 233:0
		"c:0xec00":     "ok", // 236:0
		"c:0x1fc00":    "ok", // 508:0
		"c:0x1ff00":    "ok", // 511:0
		"c:0xfff00":    "ok", // 4095:0
		"c:0xfff00103": "ok", // 1:1048323
		"p:0":          "ok",
		"f:0":          "ok",
		"b:0x800":      "ok", // 8:0
	}
	// As in the engines' profiles, one rule allows what the runtimes and the Go program itself need
	// under a default-deny profile.
	ordinary := ordinaryCalls
	eperm, enosys := uint(1), uint(38)
	arches := []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	if runtime.GOARCH == "arm64" {
		arches = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	profiles := []struct {
		name    string
		always  bool
		profile *specs.LinuxSeccomp
		results map[string]string // where they are not those of attempts
	}{
		{
			name: "like Docker's", // deny with EPERM, one long list
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, DefaultErrnoRet: &eperm, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{{Names: ordinary, Action: specs.ActAllow}},
			},
		},
		{
			name: "like Podman's", // deny with ENOSYS, some calls with EPERM
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, DefaultErrnoRet: &enosys, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{
					{Names: []string{"bdflush", "swapon"}, Action: specs.ActErrno, ErrnoRet: &eperm},
					{Names: ordinary, Action: specs.ActAllow},
				},
			},
		},
		{
			name: "kills by default",
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActKillProcess, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{{Names: ordinary, Action: specs.ActAllow}},
			},
		},
		{
			name: "allows by kind", // conditions on the mode: character devices, other than them
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{
					{Names: without(ordinary, "mknod", "mknodat"), Action: specs.ActAllow},
					{Names: []string{"mknod"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0x7fff, Op: specs.OpLessEqual}}},
					{Names: []string{"mknod"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 1, Value: 0x7fff, Op: specs.OpGreaterThan}}},
					{Names: []string{"mknodat"}, Action: specs.ActAllow, Args: []specs.LinuxSeccompArg{{Index: 2, Value: 0, Op: specs.OpNotEqual}}},
				},
			},
		},
		{
			name: "allows by default",
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"swapon"}, Action: specs.ActErrno}},
			},
		},
		{
			name: "logs by default and allows nodes", // the unconditional rule would beat the denials
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActLog, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{{Names: []string{"mknod", "mknodat"}, Action: specs.ActAllow}},
			},
		},
		{
			name: "allows by default, denies a major otherwise", // libseccomp takes one answer for a condition
			profile: &specs.LinuxSeccomp{
				DefaultAction: specs.ActAllow, Architectures: arches,
				Syscalls: []specs.LinuxSyscall{
					{Names: []string{"mknod"}, Action: specs.ActErrno, ErrnoRet: &enosys, Args: denial("mknod", 510).Args},
					{Names: []string{"mknodat"}, Action: specs.ActErrno, ErrnoRet: &enosys, Args: denial("mknodat", 510).Args},
				},
			},
			results: map[string]string{"c:0x1fe01": "38"},
		},
		{name: "none", always: true},
	}
	guests := []string{runtime.GOARCH}
	programs := map[string]string{} // by architecture, built when first needed
	if runtime.GOARCH == "amd64" {
		// Not every kernel runs 32-bit programs: virtual machines with encrypted memory do not.
		programs["386"] = program(parent, "386")
		if err := exec.Command(programs["386"]).Run(); errors.Is(err, syscall.ENOEXEC) {
			t.Log("the kernel runs no 32-bit programs: no 32-bit system call to be fenced")
		} else {
			guests = append(guests, "386")
		}
	}
	for _, low := range []string{"runc", "crun"} {
		for _, p := range profiles {
			for _, guest := range guests {
				t.Run(low+"/"+p.name+"/"+guest, func(t *testing.T) {
					needRuntime(t, low)
					if programs[guest] == "" {
						programs[guest] = program(parent, guest)
					}
					if errors.Is(exec.Command(programs[guest]).Run(), unix.ENOEXEC) {
						t.Skipf("SKIPPED: this kernel runs no programs for %s", guest)
					}
					var args []string
					want := map[string]string{}
					for _, call := range nodeCalls {
						for device, result := range attempts {
							if other, ok := p.results[device]; ok {
								result = other
							}
							if call == "mknod" && guest == "arm64" {
								result = "absent"
							}
							args = append(args, call+":"+device)
							want[call+":"+device] = result
							// The kernel does not see the upper half of a register.
							if guest != "386" {
								high := call + ":" + strings.Replace(device, "0x", "0xabcd0000", 1)
								if strings.HasPrefix(device, "c:0x") && len(device) < len("c:0x12345678") {
									args = append(args, high)
									want[high] = want[call+":"+device]
								}
							}
						}
					}
					dir, s := bundle(t, programs[guest], args)
					s.Linux.Seccomp = p.profile
					save(t, dir, s)

					// Without the fence everything works.
					got := runIn(t, low, dir)
					assert.NotContains(t, got, " 1\n")

					d, err := Open(dir)
					require.NoError(t, err)
					report, err := d.Apply(Edits{FenceMajors: majors, FenceAlways: p.always})
					require.NoError(t, err)
					assert.Equal(t, Report{Fenced: true}, report)
					require.NoError(t, d.Save())
					require.NoError(t, d.Close())
					results := map[string]string{}
					for line := range strings.Lines(runIn(t, low, dir)) {
						name, result, _ := strings.Cut(strings.TrimSpace(line), " ")
						results[name] = result
					}
					assert.Equal(t, want, results)
				})
			}
		}
	}
}

func without(list []string, names ...string) []string {
	var kept []string
	for _, s := range list {
		keep := true
		for _, n := range names {
			keep = keep && s != n
		}
		if keep {
			kept = append(kept, s)
		}
	}
	return kept
}

// ordinaryCalls is what a small static program and the last steps of the runtimes need.
var ordinaryCalls = []string{
	"access", "arch_prctl", "brk", "capget", "capset", "chdir", "chmod", "chown", "clock_gettime", "clone", "clone3", "close",
	"close_range", "dup", "dup2", "dup3", "epoll_create", "epoll_create1", "epoll_ctl", "epoll_ctl_old", "epoll_pwait",
	"epoll_wait", "eventfd2", "execve", "execveat", "exit", "exit_group", "faccessat", "faccessat2", "fchdir", "fchmod",
	"fchown", "fcntl", "fcntl64", "fstat", "fstat64", "fstatfs", "futex", "futex_time64", "getcwd", "getdents", "getdents64",
	"getegid", "geteuid", "getgid", "getpgrp", "getpid", "getppid", "getrandom", "getrlimit", "gettid", "getuid", "getxattr",
	"ioctl", "kill", "lseek", "lstat", "madvise", "mincore", "mkdir", "mknod", "mknodat", "mmap", "mmap2", "mount", "mprotect",
	"munmap", "nanosleep", "newfstatat", "open", "openat", "openat2", "pipe", "pipe2", "poll", "ppoll", "prctl", "pread64",
	"prlimit64", "pwrite64", "read", "readlink", "readlinkat", "rt_sigaction", "rt_sigprocmask", "rt_sigreturn",
	"sched_getaffinity", "sched_yield", "seccomp", "sendmsg", "set_robust_list", "set_thread_area", "set_tid_address",
	"setgid", "setgroups", "setresgid", "setresuid", "setsid", "setuid", "sigaltstack", "stat", "statfs", "statx",
	"tgkill", "timer_create", "timer_delete", "timer_settime", "ugetrlimit", "umask", "uname", "unlink", "unlinkat",
	"wait4", "write", "writev",
}
