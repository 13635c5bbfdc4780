// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

const (
	shimName  = "nvidia-container-runtime.experimental"
	hookName  = "nvidia-container-runtime-hook"
	imageName = "nvcr.test/probe:1"

	// patience is how long a condition may take to come true, and deadline is how long a command
	// may run. Both are far longer than needed.
	patience = 30 * time.Second
	deadline = 2 * time.Minute
)

// programs has the directory for the programs that all tests share, and the functions that build
// the shim and a current runc there.
var programs = struct {
	dir  string
	shim func() error
	runc func() (string, error)
}{}

func TestMain(m *testing.M) {
	if dir := os.Getenv(idmapVariable); dir != "" {
		if err := idmap(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	os.Exit(testMain(m))
}

func testMain(m *testing.M) int {
	dir, err := os.MkdirTemp("", "nvcr-e-")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	// Engines also run as other users.
	if err := os.Chmod(dir, 0o755); err != nil {
		panic(err)
	}
	programs.dir = dir
	programs.shim = sync.OnceValue(func() error { return build(shimName) })
	programs.runc = sync.OnceValues(currentRunc)
	return m.Run()
}

// build builds a program of this module in the same way as make.
func build(name string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", filepath.Join(programs.dir, name), "../../"+name)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", name, err, out)
	}
	return nil
}

// runcVersion is a current release. Debian 12's runc dates from 2023.
const runcVersion = "v1.5.2"

// currentRunc builds runc with seccomp support, which needs libseccomp's headers.
func currentRunc() (string, error) {
	bin := filepath.Join(programs.dir, "runc-"+runcVersion)
	cmd := exec.Command("go", "install", "-tags", "seccomp", "github.com/opencontainers/runc@"+runcVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building runc %s, which needs libseccomp-dev and pkg-config: %w: %s", runcVersion, err, out)
	}
	return filepath.Join(bin, "runc"), nil
}

// lowLevel is a low-level runtime.
type lowLevel struct{ name, path string }

// lowLevels returns the machine's runc and crun, and a current runc.
func lowLevels(t *testing.T) []lowLevel {
	t.Helper()
	list := []lowLevel{{"runc", need.Program(t, "runc")}, {"crun", need.Program(t, "crun")}}
	path, err := programs.runc()
	if err != nil {
		if os.Getenv("NVCR_NO_SKIP") != "" {
			t.Fatal(err)
		}
		t.Logf("SKIPPED: all cases with a current runc: %v", err)
		return list
	}
	return append(list, lowLevel{"runc-" + runcVersion, path})
}

// ground is the environment of a test: a mount namespace and a PID namespace. In it, /run is empty,
// writes to /etc and /var/lib do not reach the machine, and only the version 1 cgroup hierarchies
// are mounted if there are both versions: crun refuses the mixture.
type ground struct {
	edit func(file string) // of containerd's configuration, before it starts; may be nil
	t    *testing.T
	dir  string // for everything that the test writes; short because it contains sockets
	pid  int    // of the namespaces' first process
}

// newGround creates a ground. setup is a shell script that runs in it first.
func newGround(t *testing.T, setup string) *ground {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: engines are not started with -short")
	}
	need.Root(t)
	unshare := need.Program(t, "unshare")
	need.Program(t, "nsenter")
	dir, err := os.MkdirTemp("", "nvcr-e-") //nolint:usetesting // its path is short, for sockets, and names a cgroup
	require.NoError(t, err)
	require.NoError(t, os.Chmod(dir, 0o755))
	g := &ground{t: t, dir: dir}

	script := `set -e
		read -r pid rest </proc/self/stat
		mount -t proc proc /proc
		mount -t tmpfs -o mode=755 tmpfs /run
		for d in etc var/lib; do
			mkdir -p "$0/private/$d/upper" "$0/private/$d/work"
			mount -t overlay -o lowerdir=/$d,upperdir="$0/private/$d/upper",workdir="$0/private/$d/work" overlay /$d
		done
		if [ -d /sys/fs/cgroup/unified ]; then umount /sys/fs/cgroup/unified; fi
		` + setup + `
		echo "$pid"
		cat
		:`
	// The shell is the first process of the namespace: it waits for cat, and reaps orphaned
	// processes. cat waits for the end of the test.
	cmd := exec.Command(unshare, "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", script, dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	stdout, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	t.Cleanup(func() {
		g.checkEmpty()
		assert.NoError(t, stdin.Close())
		assert.NoError(t, cmd.Wait())
		g.removeCgroups()
		assert.NoError(t, os.RemoveAll(dir))
	})
	line, err := bufio.NewReader(stdout).ReadString('\n')
	require.NoError(t, err, "%s", &stderr)
	_, err = fmt.Sscan(line, &g.pid)
	require.NoError(t, err)
	return g
}

// checkEmpty waits until only the shell and cat are running.
func (g *ground) checkEmpty() {
	assert.NoError(g.t, eventually(func() error {
		out, err := g.output("sh", "-c", `for p in /proc/[0-9]*; do
			pid=${p#/proc/}
			[ $pid != 1 ] && [ $pid != $$ ] && read -r x name state parent rest 2>/dev/null <$p/stat && [ "$name $parent" != "(cat) 1" ] && [ $state != Z ] && echo "$name"
		done; true`)
		if err != nil {
			return err
		}
		if out != "" {
			return fmt.Errorf("still running: %s", out)
		}
		return nil
	}))
}

// command returns a command that runs a program in the namespaces.
func (g *ground) command(args ...string) *exec.Cmd {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	g.t.Cleanup(cancel)
	pid := fmt.Sprint(g.pid)
	return exec.CommandContext(ctx, "nsenter", append([]string{"--mount", "--pid", "--target", pid, "--"}, args...)...)
}

// output runs a program and returns all its output. The output goes to a file because a container
// may keep a pipe open.
func (g *ground) output(args ...string) (string, error) {
	return output(g.command(args...))
}

func output(cmd *exec.Cmd) (string, error) {
	f, err := os.CreateTemp("", "nvcr-e-output-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	data, readErr := os.ReadFile(f.Name())
	return string(data), errors.Join(err, readErr)
}

// eventually waits until condition returns no error. It gives up after patience.
func eventually(condition func() error) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	end := time.Now().Add(patience)
	for {
		err := condition()
		if err == nil || time.Now().After(end) {
			return err
		}
		<-tick.C
	}
}

// daemon starts a daemon and waits until the command ready succeeds. It stops the daemon at the end
// of the test, or when the returned function is called.
func (g *ground) daemon(name string, environ []string, ready []string, args ...string) (stop func()) {
	g.t.Helper()
	pidFile, logFile := filepath.Join(g.dir, name+".pid"), filepath.Join(g.dir, name+".log")
	cmd := exec.Command("nsenter", append([]string{
		"--mount", "--pid", "--target", fmt.Sprint(g.pid), "--",
		"sh", "-c", `echo $$ >"$0.new"; mv "$0.new" "$0"; exec "$@"`, pidFile,
	}, args...)...)
	cmd.Env = append(os.Environ(), environ...)
	log, err := os.OpenFile(logFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	require.NoError(g.t, err)
	defer log.Close()
	cmd.Stdout, cmd.Stderr = log, log
	require.NoError(g.t, cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()

	ended := false
	stop = sync.OnceFunc(func() {
		if ended {
			return
		}
		out, err := g.output("sh", "-c", `kill -TERM "$(cat "$0")"`, pidFile)
		assert.NoError(g.t, err, "%s", out)
		select {
		case <-done:
		case <-time.After(patience):
			assert.Fail(g.t, "still running", "%s", name)
		}
	})
	g.t.Cleanup(func() {
		stop()
		if g.t.Failed() {
			data, _ := os.ReadFile(logFile)
			lines := slices.DeleteFunc(strings.Split(string(data), "\n"), func(line string) bool { return strings.Contains(line, "level=info") })
			g.t.Logf("the last output of %s:\n%s", name, strings.Join(lines[max(0, len(lines)-20):], "\n"))
		}
	})
	require.NoError(g.t, eventually(func() error {
		select {
		case err := <-done:
			ended = true
			data, _ := os.ReadFile(logFile)
			require.NoError(g.t, errors.Join(err, errors.New("it has exited")), "%s", data)
		default:
		}
		if out, err := g.output(ready...); err != nil {
			return fmt.Errorf("%w: %s", err, out)
		}
		return nil
	}), "waiting for %s to answer", name)
	return stop
}

// machine unpacks a fixture once per test, and returns its directory.
func (g *ground) machine(fixture string) string {
	g.t.Helper()
	dir := filepath.Join(g.dir, "machine", fixture)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	a, err := fixtures.Load(fixture)
	require.NoError(g.t, err)
	require.NoError(g.t, os.MkdirAll(dir, 0o755))
	_, err = a.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(g.t, err)
	return dir
}

// runtime creates a program that an engine can use as its runtime: the shim with a fixture's
// machine and a low-level runtime. config is for settings that exist only in config.toml.
func (g *ground) runtime(name, fixture, lowLevel, config string) string {
	g.t.Helper()
	require.NoError(g.t, programs.shim())
	dir := filepath.Join(g.dir, "runtimes")
	require.NoError(g.t, os.MkdirAll(dir, 0o755))
	path := filepath.Join(dir, name)
	require.NoError(g.t, os.WriteFile(path+".toml", []byte(config), 0o644))
	script := fmt.Sprintf(`#!/bin/sh
export NVIDIA_CTK_CONFIG_FILE_PATH=%q NVIDIA_CONTAINER_RUNTIME_SYSROOT=%q NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open NVIDIA_CONTAINER_RUNTIME_PATH=%q
exec %q "$@"
`, path+".toml", g.machine(fixture), lowLevel, filepath.Join(programs.dir, shimName))
	require.NoError(g.t, os.WriteFile(path, []byte(script), 0o755))
	return path
}

// image creates the image's archive and returns its path.
func (g *ground) image() string {
	g.t.Helper()
	file := filepath.Join(g.dir, "image.tar")
	rootfs := filepath.Join(g.dir, "rootfs")
	testimage.Build(g.t, rootfs, "debian")
	testimage.Archive(g.t, rootfs, imageName, file)
	require.NoError(g.t, os.RemoveAll(rootfs))
	return file
}

// Scripts for containers print everything to one stream because engines do not preserve the order
// between two.

// look is a script that prints, for each NVIDIA device node, its number in hexadecimal, its
// permissions, and whether the device cgroup allows opening it. There is no driver here, so opening
// a node fails with ENXIO if it is allowed, and with EPERM if it is not.
const look = `
exec 2>&1
for n in $(ls -d /dev/nvidia* /dev/nvidia-caps/* 2>/dev/null); do
	[ -c $n ] || continue
	echo "$n $(stat -c '%t:%T %a' $n) $( (: <$n) 2>&1 | sed 's/.*: //')"
done
`

// t4Nodes is what look prints in a container with the GPU of the fixture t4.
const t4Nodes = `/dev/nvidia-uvm 1fc:0 666 No such device or address
/dev/nvidia-uvm-tools 1fc:1 666 No such device or address
/dev/nvidia0 c3:0 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
`

// libs is a script that loads the driver's libraries with the image's own loader.
const libs = `
exec 2>&1
probe libcuda.so.1 libnvidia-ml.so.1
`

const t4Libs = `libcuda.so.1 => /usr/lib/nvidia-container-driver/libcuda.so.1
libnvidia-ml.so.1 => /usr/lib/nvidia-container-driver/libnvidia-ml.so.1
`

// fence is a script that tries to create three device nodes: one of a GPU that the container did
// not get, and two others.
const fence = `
exec 2>&1
mknod /tmp/nvidia7 c 195 7 && echo made 195:7
mknod /tmp/null c 1 3 && echo made 1:3
mknod /tmp/x c 194 7 && echo made 194:7
true
`

const fenced = `mknod: /tmp/nvidia7: Operation not permitted
made 1:3
made 194:7
`

// failure is a container that must fail to start, and what its user is told.
type failure struct {
	name    string
	runtime string // one of those that failureRuntimes creates
	env     string
	want    string
}

var failures = []failure{
	{"unknown device", "t4", "NVIDIA_VISIBLE_DEVICES=7", `device "7": unknown device: no GPU has the index 7; available: 0 (GPU-`},
	{"missing driver", "no-nvidia", "NVIDIA_VISIBLE_DEVICES=all", "no NVIDIA kernel driver is loaded"},
	{"version mismatch", "version-skew", "NVIDIA_VISIBLE_DEVICES=all", "kernel module has version 550.90.07, but the driver's libraries have 550.107.02"},
	{"refused request", "refused", "NVIDIA_VISIBLE_DEVICES=all", "insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES"},
	{"missing low-level runtime", "missing", "NVIDIA_VISIBLE_DEVICES=all", "no low-level runtime found: looked for /nonexistent/runc"},
	{"requirement", "t4", "NVIDIA_REQUIRE_X=driver>=999", "requirement error: unsatisfied condition: driver>=999"},
}

// failureRuntimes creates the runtimes for failures, and one with another driver.
func (g *ground) failureRuntimes(lowLevel string) map[string]string {
	paths := map[string]string{}
	for _, r := range []struct{ name, fixture, lowLevel, config string }{
		{"t4", "t4", lowLevel, ""},
		{"no-nvidia", "no-nvidia", lowLevel, ""},
		{"version-skew", "version-skew", lowLevel, ""},
		{"refused", "t4", lowLevel, "accept-nvidia-visible-devices-envvar-when-unprivileged = false\n[nvidia-container-runtime.experimental]\nrefused-request = \"error\"\n"},
		{"missing", "t4", "/nonexistent/runc", ""},
		{"other-driver", "driver-610", lowLevel, ""},
	} {
		paths[r.name] = g.runtime(r.name, r.fixture, r.lowLevel, r.config)
	}
	return paths
}

// cgroup returns the name of the parent cgroup of the test's containers.
func (g *ground) cgroup() string { return "/" + filepath.Base(g.dir) }

// removeCgroups removes what engines leave of that cgroup: nested, empty cgroups in each hierarchy.
func (g *ground) removeCgroups() {
	g.t.Helper()
	roots, err := filepath.Glob("/sys/fs/cgroup/*" + g.cgroup())
	require.NoError(g.t, err)
	for _, root := range append(roots, "/sys/fs/cgroup"+g.cgroup()) {
		var dirs []string
		_ = filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				dirs = append(dirs, path)
			}
			return nil
		})
		for _, dir := range slices.Backward(dirs) {
			awaitEmpty(g.t, dir)
			assert.NoError(g.t, os.Remove(dir))
		}
	}
}

// awaitEmpty waits until all processes of a cgroup have exited: conmon exits a while after its
// container.
func awaitEmpty(t *testing.T, dir string) {
	t.Helper()
	for {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil || len(procs) == 0 {
			return
		}
		for _, word := range strings.Fields(string(procs)) {
			pid, err := strconv.Atoi(word)
			require.NoError(t, err)
			process, err := unix.PidfdOpen(pid, 0)
			if errors.Is(err, unix.ESRCH) {
				continue
			}
			require.NoError(t, err)
			ended := 0
			for err = unix.EINTR; errors.Is(err, unix.EINTR); {
				ended, err = unix.Poll([]unix.PollFd{{Fd: int32(process), Events: unix.POLLIN}}, 60_000)
			}
			require.NoError(t, unix.Close(process))
			require.NoError(t, err)
			require.Equal(t, 1, ended, "process %d stays in %s", pid, dir)
		}
	}
}

// TestAwaitEmpty checks that a cgroup can be removed as soon as its last process has exited, and
// not before.
func TestAwaitEmpty(t *testing.T) {
	need.Root(t)
	above := "/sys/fs/cgroup"
	if _, err := os.Stat(above + "/devices"); err == nil {
		above += "/devices"
	}
	dir, err := os.MkdirTemp(above, "nvcr-await-") //nolint:usetesting // it must be a cgroup
	require.NoError(t, err)
	cmd := exec.Command("cat")
	stdin, err := cmd.StdinPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cgroup.procs"), strconv.AppendInt(nil, int64(cmd.Process.Pid), 10), 0o644))
	require.ErrorIs(t, os.Remove(dir), unix.EBUSY)
	require.NoError(t, stdin.Close())
	awaitEmpty(t, dir)
	assert.NoError(t, os.Remove(dir))
	require.NoError(t, cmd.Wait())
}

// gpuMinor returns the minor number of a machine's GPU.
func gpuMinor(t *testing.T, machine string, index int) int {
	t.Helper()
	inventory, err := sysfs.Read(sysfs.Root(machine), false)
	require.NoError(t, err)
	for _, g := range inventory.GPUs {
		if g.Index == index {
			return g.Minor
		}
	}
	t.Fatalf("no GPU %d", index)
	return 0
}

// sorted sorts lines as ls does.
func sorted(lines string) string {
	list := strings.SplitAfter(lines, "\n")
	slices.Sort(list)
	return strings.Join(list, "")
}
