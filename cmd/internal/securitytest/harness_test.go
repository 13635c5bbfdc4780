// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

const program = "nvidia-container-runtime.experimental"

// deadline is for one run of the program. It distinguishes a hanging run from a slow machine, and
// does not measure speed.
const deadline = 2 * time.Minute

// common is what all tests share and none may change.
var common struct {
	dir string
	sync.Mutex
}

// hidden is the environment variable with common.dir in the process that TestMain starts.
const hidden = "NVCR_TEST_HIDDEN"

// TestMain runs the tests in a mount namespace of their own, with common.dir a tmpfs that no other
// program sees: what watchHost watches there is opened by nobody else.
func TestMain(m *testing.M) {
	code, err := runTests(m)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		code = 1
	}
	os.Exit(code)
}

func runTests(m *testing.M) (code int, err error) {
	if common.dir = os.Getenv(hidden); common.dir != "" {
		if err := unix.Mount("tmpfs", common.dir, "tmpfs", 0, "mode=0755"); err != nil {
			return 0, err
		}
		return m.Run(), nil
	}
	if common.dir, err = os.MkdirTemp("", "nvcr-trust-"); err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(common.dir)) }()
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), hidden+"="+common.dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Unshareflags: syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); errors.Is(err, fs.ErrPermission) {
		return m.Run(), nil // most tests will be skipped without root
	} else if err != nil {
		return 0, err
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode(), nil
}

// share is n, or a tenth of it with go test -short, which is mostly used with the race detector:
// that does not see other programs.
func share(n int) int {
	if testing.Short() {
		return max(1, n/10)
	}
	return n
}

// built returns the program as make builds it.
func built(t testing.TB) string {
	t.Helper()
	path, err := build()
	require.NoError(t, err)
	return path
}

var build = sync.OnceValues(func() (string, error) {
	path := filepath.Join(common.dir, program)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "../../"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return path, nil
})

// stub returns a low-level runtime that prints its arguments, one a line in quotes.
func stub(t testing.TB, name string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\nfor a; do echo \"'$a'\"; done\n"), 0o755))
	return path
}

// machineOf unpacks a fixture, without device nodes.
func machineOf(t testing.TB, fixture string) string {
	t.Helper()
	common.Lock()
	defer common.Unlock()
	dir := filepath.Join(common.dir, "machine-"+fixture)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	a, err := fixtures.Load(fixture)
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(dir, 0o755))
	_, err = a.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	return dir
}

// bundle is a bundle with a root filesystem, next to a tree that stands for the rest of the host.
type bundle struct {
	dir     string // holds config.json
	rootfs  string
	host    string // must stay as it is
	log     string // the program's own
	machine string // sysroot
	runtime string // the low-level one
}

// newBundle makes a bundle whose image is tree, and checks at the end that nothing outside was read
// or changed.
func newBundle(t testing.TB, fixture string, image tree) *bundle {
	t.Helper()
	top := t.TempDir()
	host, err := os.MkdirTemp(common.dir, "host-")
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, os.RemoveAll(host)) })
	b := &bundle{
		dir: filepath.Join(top, "b"), rootfs: filepath.Join(top, "b/rootfs"), host: filepath.Join(host, "host"),
		log: filepath.Join(top, "log"), machine: machineOf(t, fixture), runtime: stub(t, "runc"),
	}
	hostTree.build(t, b.host, b.host)
	image.build(t, b.rootfs, b.host)
	watchHost(t, b.host)
	return b
}

// result is the result of a run of the program.
type result struct {
	code   int // exit status; -1: killed
	stdout string
	stderr string
	maxRSS int64         // in KiB
	cpu    time.Duration // of the processor, for it and the kernel on its behalf
}

// reached reports whether the low-level runtime was started with args.
func (r result) reached(args ...string) bool {
	return r.code == 0 && r.stdout == "'"+strings.Join(args, "'\n'")+"'\n"
}

// environ is the program's environment, which hides the machine's own configuration.
func (b *bundle) environ() []string {
	return []string{
		"PATH=/usr/bin:/bin",
		"XDG_CONFIG_HOME=" + filepath.Dir(b.dir),
		"NVIDIA_CONTAINER_RUNTIME_PATH=" + b.runtime,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + b.machine,
		"NVIDIA_CONTAINER_RUNTIME_DEBUG=" + b.log,
	}
}

// run runs the program and fails the test if it does not end.
func (b *bundle) run(t testing.TB, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, built(t), args...)
	cmd.Env = b.environ()
	cmd.Dir = filepath.Dir(b.dir)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		require.NoError(t, err)
	}
	require.NoError(t, ctx.Err(), "it does not end")
	r := result{cpu: cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime(), code: cmd.ProcessState.ExitCode(), stdout: stdout.String(), stderr: stderr.String()}
	if usage, ok := cmd.ProcessState.SysUsage().(*syscall.Rusage); ok {
		r.maxRSS = usage.Maxrss
	}
	return r
}

// create writes config.json and creates a container.
func (b *bundle) create(t testing.TB, config []byte) result {
	t.Helper()
	require.NoError(t, os.WriteFile(b.configFile(), config, 0o644))
	return b.run(t, "create", "--bundle", "b", "id")
}

func (b *bundle) configFile() string { return filepath.Join(b.dir, "config.json") }

// starts creates a container that must start, and returns its new config.json.
func (b *bundle) starts(t testing.TB, config []byte) *specs.Spec {
	t.Helper()
	r := b.create(t, config)
	require.True(t, r.reached("create", "--bundle", "b", "id"), "%+v", r)
	assert.Empty(t, r.stderr)
	return b.spec(t)
}

// fails creates a container that must be refused with one line of reasonable length and an
// unchanged config.json. It returns the line.
func (b *bundle) fails(t testing.TB, config []byte) string {
	t.Helper()
	r := b.create(t, config)
	assert.Equal(t, 1, r.code, "%+v", r)
	assert.Empty(t, r.stdout)
	assertLine(t, r.stderr)
	after, err := os.ReadFile(b.configFile())
	require.NoError(t, err)
	assert.True(t, bytes.Equal(config, after), "config.json changed")
	return r.stderr
}

// assertLine checks that text is one error line of reasonable length.
func assertLine(t testing.TB, text string) {
	t.Helper()
	assert.True(t, strings.HasPrefix(text, program+": "), "%.300q", text)
	assert.Equal(t, 1, strings.Count(text, "\n"), "%.300q", text)
	assert.Less(t, len(text), 4096)
	assertPrintable(t, text)
}

// assertPrintable checks that text cannot fool a terminal or a log reader: it has no control
// characters except newlines.
func assertPrintable(t testing.TB, text string) {
	t.Helper()
	assert.True(t, utf8.ValidString(text), "%.300q", text)
	for i, c := range text {
		if c < ' ' && c != '\n' || c == 0x7f || c >= 0x80 && c < 0xa0 || c == 0x2028 || c == 0x202e {
			assert.Failf(t, "a character that does not belong there", "%U in %.300q", c, text[max(0, i-100):])
			return
		}
	}
}

func (b *bundle) spec(t testing.TB) *specs.Spec {
	t.Helper()
	data, err := os.ReadFile(b.configFile())
	require.NoError(t, err)
	spec := new(specs.Spec)
	require.NoError(t, json.Unmarshal(data, spec))
	return spec
}

// logged returns the program's log, and checks that no line of it is forged.
func (b *bundle) logged(t testing.TB) string {
	t.Helper()
	data, err := os.ReadFile(b.log)
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	assertPrintable(t, string(data))
	for line := range strings.Lines(string(data)) {
		assert.True(t, strings.HasPrefix(line, "time=") && strings.HasSuffix(line, "\"\n"), "%.300q", line)
		assert.Less(t, len(line), 64<<10)
	}
	return string(data)
}

// config is the config.json of a docker run, with additional variables.
func config(env ...string) []byte {
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"sh"}, Env: append([]string{"PATH=/bin"}, env...), Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: []string{"CAP_CHOWN", "CAP_MKNOD"}},
		},
		Mounts: []specs.Mount{{Destination: "/proc", Type: "proc", Source: "proc"}},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "mount"}},
			MaskedPaths: []string{"/proc/kcore"},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		panic(err) // nothing in it that JSON has not
	}
	return data
}

// gpu0 requests one GPU.
const gpu0 = "NVIDIA_VISIBLE_DEVICES=0"

// libcuda is where a config.json mounts the driver, or its main library, or "".
func libcuda(spec *specs.Spec) string {
	for _, m := range spec.Mounts {
		if m.Destination == plan.Dir {
			return plan.Dir
		}
		if strings.HasPrefix(filepath.Base(m.Destination), "libcuda.so.") {
			return filepath.Dir(m.Destination)
		}
	}
	return ""
}

// cacheOf is the text of an ld.so.cache.
func cacheOf(t testing.TB, entries ...ldcache.Entry) string {
	t.Helper()
	cache := ldcache.Cache{Entries: entries}
	data, err := cache.Encode()
	require.NoError(t, err)
	return string(data)
}

// mknod makes a character device that does nothing.
func mknod(t testing.TB, path string, major, minor uint32) {
	t.Helper()
	require.NoError(t, unix.Mknod(path, unix.S_IFCHR|0o666, int(unix.Mkdev(major, minor))))
}

// libcEntry is the C library's entry in an image's cache.
func libcEntry(path string) ldcache.Entry {
	return ldcache.Entry{Name: "libc.so.6", Path: path, Flags: ldcache.FlagX8664}
}
