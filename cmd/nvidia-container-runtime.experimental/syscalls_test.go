// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bufio"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// trace is what strace saw of one run of this program, up to the exec of the low-level runtime.
type trace struct {
	calls     int            // system calls
	own       []string       // their names from our first one on, without the Go runtime's
	reads     map[string]int // how often each file was opened for reading
	processes int            // number of processes started
	execs     []string
}

// runtimeCalls are system calls that threads of the Go runtime make at any time.
var runtimeCalls = strings.Fields("clone clone3 epoll_pwait futex getpid gettid madvise mmap munmap nanosleep prctl prlimit64 restart_syscall " +
	"rt_sigaction rt_sigprocmask rt_sigreturn sched_getaffinity sched_yield sigaltstack tgkill")

var (
	anyCall  = regexp.MustCompile(`^\d+ +(\w+)\(`)
	openCall = regexp.MustCompile(`\b(?:open|openat|openat2)\((.*)\) += \d+<(.*)>$`)
	// The Go runtime checks once a second whether the CPU limit of its cgroup has changed.
	limitCall = regexp.MustCompile(`\bpread64\(\d+</sys/fs/cgroup/`)
	execCall  = regexp.MustCompile(`\bexecve\("([^"]*)"`)
	newCall   = regexp.MustCompile(`\b(?:fork|vfork|clone|clone3)\((.*)`)
)

// largeMachine unpacks the largest machine, with 8 GPUs, 56 MIG instances and an ld.so.cache of
// 5,000 entries, and makes a bundle with an image laid out like Debian's.
func largeMachine(t testing.TB) (machine, bundle string) {
	t.Helper()
	dir := t.TempDir()
	machine, bundle = filepath.Join(dir, "machine"), filepath.Join(dir, "bundle")
	_, err := fixtures.Large().Unpack(machine, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)

	cache := ldcache.Cache{Entries: []ldcache.Entry{{Name: "libc.so.6", Path: "/lib/x86_64-linux-gnu/libc.so.6", Flags: ldcache.FlagX8664}}}
	data, err := cache.Encode()
	require.NoError(t, err)
	for name, content := range map[string][]byte{
		"rootfs/etc/debian_version":                 []byte("12.11\n"),
		"rootfs/etc/ld.so.cache":                    data,
		"rootfs/usr/lib/x86_64-linux-gnu/libc.so.6": []byte("libc"),
	} {
		path := filepath.Join(bundle, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, content, 0o644))
	}
	return machine, bundle
}

func writeLargeConfig(t testing.TB, bundle, devices string) {
	t.Helper()
	config := fmt.Sprintf(`{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":["sh"],"env":["NVIDIA_VISIBLE_DEVICES=%s",`+
		`"NVIDIA_DRIVER_CAPABILITIES=all"],"cwd":"/"},"root":{"path":"rootfs"},"linux":{"maskedPaths":["/proc/kcore"],`+
		`"resources":{"devices":[{"allow":false,"access":"rwm"}]}}}`, devices)
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644))
}

// traced runs this program under strace, with a low-level runtime that does nothing.
func traced(t testing.TB, machine string, args ...string) trace {
	t.Helper()
	strace := need.Program(t, "strace")
	path, err := built()
	require.NoError(t, err)
	nothing := need.Program(t, "true")
	log := filepath.Join(t.TempDir(), "strace")
	cmd := exec.Command(strace, append([]string{"-f", "-y", "-s", "4096", "-o", log, path}, args...)...)
	cmd.Env = []string{
		"NVIDIA_CONTAINER_RUNTIME_PATH=" + nothing, "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + machine,
		"NVIDIA_CTK_CONFIG_FILE_PATH=" + filepath.Join(filepath.Dir(log), "config.toml"),
	}
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	f, err := os.Open(log)
	require.NoError(t, err)
	defer f.Close()
	tr := trace{reads: map[string]int{}}
	ours := false // our first call opens config.toml
	for s := bufio.NewScanner(f); s.Scan(); {
		line := s.Text()
		if m := execCall.FindStringSubmatch(line); m != nil {
			tr.execs = append(tr.execs, m[1])
			if len(tr.execs) == 2 {
				break // what follows is the low-level runtime
			}
		}
		tr.calls++
		if m := anyCall.FindStringSubmatch(line); m != nil && !slices.Contains(runtimeCalls, m[1]) && !limitCall.MatchString(line) {
			if ours = ours || strings.Contains(line, "config.toml"); ours {
				tr.own = append(tr.own, m[1])
			}
		}
		if m := newCall.FindStringSubmatch(line); m != nil && !strings.Contains(m[1], "CLONE_THREAD") && !strings.Contains(line, "resumed") {
			tr.processes++
		}
		m := openCall.FindStringSubmatch(line)
		if m == nil || strings.Contains(m[1], "O_PATH") || strings.Contains(m[1], "O_DIRECTORY") || strings.Contains(m[1], "O_WRONLY") {
			continue
		}
		tr.reads[m[2]]++
	}
	return tr
}

// mostReads returns how often a create may read a file. That is once, except for config.json, which
// is searched up to the first hint of a request and then read, and for changed files of the image,
// which are read again under their lock.
func mostReads(bundle, file string) int {
	if file == filepath.Join(bundle, "config.json") || strings.HasPrefix(file, filepath.Join(bundle, "rootfs/etc/ld.so.c")) {
		return 2
	}
	return 1
}

// TestCreateReadsNothingTwice checks that creating a container on the largest machine starts no
// process and reads no file more often than mostReads allows.
func TestCreateReadsNothingTwice(t *testing.T) {
	machine, bundle := largeMachine(t)
	for _, devices := range []string{"0", "all"} {
		t.Run(devices, func(t *testing.T) {
			writeLargeConfig(t, bundle, devices)
			tr := traced(t, machine, "create", "--bundle", bundle, "id")
			assert.Zero(t, tr.processes)
			assert.Len(t, tr.execs, 2)
			for file, n := range tr.reads {
				if info, err := os.Stat(file); err == nil && info.IsDir() {
					continue
				}
				assert.LessOrEqual(t, n, mostReads(bundle, file), file)
			}
			t.Logf("NVIDIA_VISIBLE_DEVICES=%s: %d system calls, %d files read", devices, tr.calls, len(tr.reads))
		})
	}
}

// TestPassThroughReadsNothing checks that a command that does not create a container looks only at
// its configuration and the low-level runtime.
func TestPassThroughReadsNothing(t *testing.T) {
	machine, _ := largeMachine(t)
	tr := traced(t, machine, "--root", "/r", "state", "id")
	assert.Zero(t, tr.processes)
	assert.Len(t, tr.execs, 2)
	for file := range tr.reads {
		// On startup, Go reads the size of huge pages and its cgroup. We look at our own program so
		// that we do not exec it.
		ok := strings.HasPrefix(file, "/sys/kernel/mm/transparent_hugepage/") || strings.HasPrefix(file, "/sys/fs/cgroup/") ||
			regexp.MustCompile(`^/proc/\d+/(cgroup|mountinfo)$`).MatchString(file) || file == tr.execs[0]
		assert.True(t, ok, "%s is read", file)
	}
	// The calls open config.toml, which is missing; stat this program; stat the low-level runtime
	// and check that it is executable; and look for the container in its state directory and, as it
	// is not there, in that of another runtime.
	want := []string{"openat", "newfstatat", "newfstatat", "faccessat", "faccessat", "faccessat"}
	if runtime.GOARCH == "arm64" {
		want = []string{"openat", "fstatat", "fstatat", "faccessat", "faccessat", "faccessat"}
	}
	assert.Equal(t, want, tr.own)
	t.Logf("state: %d system calls, files read: %d", tr.calls, len(tr.reads))
}

// BenchmarkCreate also reports how many system calls it takes to create a container on the largest
// machine, and how many files are read.
func BenchmarkCreate(b *testing.B) {
	path, err := built()
	require.NoError(b, err)
	machine, bundle := largeMachine(b)
	nothing := need.Program(b, "true")
	for _, devices := range []string{"", "0", "all"} {
		b.Run("devices="+devices, func(b *testing.B) {
			writeLargeConfig(b, bundle, devices)
			tr := traced(b, machine, "create", "--bundle", bundle, "id")
			for b.Loop() {
				cmd := exec.Command(path, "create", "--bundle", bundle, "id")
				cmd.Env = []string{"NVIDIA_CONTAINER_RUNTIME_PATH=" + nothing, "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + machine, "XDG_CONFIG_HOME=" + bundle}
				if out, err := cmd.CombinedOutput(); err != nil {
					b.Fatalf("%v: %s", err, out)
				}
			}
			b.ReportMetric(float64(tr.calls), "syscalls/op")
			b.ReportMetric(float64(len(tr.reads)), "files/op")
		})
	}
}
