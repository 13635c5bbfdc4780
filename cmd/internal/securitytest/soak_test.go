// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
)

// soakTime is how long TestSoak starts new containers; NVCR_SOAK overrides it.
const soakTime = 15 * time.Second

// soak is what one worker of TestSoak counts.
type soak struct {
	created, started, executed, updated, deleted int
	failures                                     []string
}

// TestSoak creates, starts, inspects, updates, kills and deletes real containers with the real
// runc, many at a time and two on each root filesystem. In the end all have started and nothing is
// left of them.
func TestSoak(t *testing.T) {
	need.Root(t)
	runc := need.Program(t, "runc")
	duration, err := time.ParseDuration(cmp.Or(os.Getenv("NVCR_SOAK"), time.Duration(share(int(soakTime))).String()))
	require.NoError(t, err)
	w := &soakWorld{
		program: built(t), runc: runc, machine: machineOf(t, "t4"), dir: t.TempDir(),
		prefix: fmt.Sprintf("nvcr-soak-%d", os.Getpid()),
	}
	workers := 4 * runtime.NumCPU()
	for i, layout := range []string{"debian", "fedora", "arch"} {
		testimage.Build(t, w.rootfs(i), layout) // what some containers get, others beside them do not
	}
	before := w.around(t)

	ctx, cancel := context.WithTimeout(t.Context(), duration)
	defer cancel()
	results := make([]soak, workers)
	var wg sync.WaitGroup
	for i := range workers {
		wg.Go(func() {
			for n := 0; ctx.Err() == nil && len(results[i].failures) < 5; n++ {
				if err := w.cycle(&results[i], i, n); err != nil {
					results[i].failures = append(results[i].failures, fmt.Sprintf("worker %d, container %d: %v", i, n, err))
				}
			}
		})
	}
	wg.Wait()

	var all soak
	for _, r := range results {
		all.created += r.created
		all.started += r.started
		all.executed += r.executed
		all.updated += r.updated
		all.deleted += r.deleted
		all.failures = append(all.failures, r.failures...)
	}
	// A killed process needs a moment to be gone.
	require.Eventually(t, func() bool { return len(w.processes(t)) == 0 }, time.Minute, 50*time.Millisecond, "processes are left: %q", w.processes(t))
	after := w.around(t)
	t.Logf("%d workers for %v: %d created, %d started, %d looked into, %d updated, %d deleted, %d failures",
		workers, duration, all.created, all.started, all.executed, all.updated, all.deleted, len(all.failures))
	t.Logf("left: %d descriptors, %d mounts, %d cgroups, %d processes, %d temporary files, %d states",
		after.descriptors-before.descriptors, len(after.mounts)-len(before.mounts), len(after.cgroups), len(w.processes(t)), len(after.temporary), len(after.states))
	for _, f := range all.failures {
		t.Error(f)
	}
	assert.Positive(t, all.started)
	assert.Equal(t, before, after)
}

// soakWorld is the machine of TestSoak.
type soakWorld struct {
	program, runc, machine string
	dir                    string // of bundles, root filesystems and runc's states
	prefix                 string // of the containers' names
}

func (w *soakWorld) rootfs(i int) string { return filepath.Join(w.dir, "rootfs", strconv.Itoa(i)) }

// surroundings is what containers must not change.
type surroundings struct {
	descriptors                        int
	mounts, cgroups, temporary, states []string
}

func (w *soakWorld) around(t *testing.T) surroundings {
	t.Helper()
	s := surroundings{descriptors: len(names(t, "/proc/self/fd"))}
	for line := range strings.Lines(string(read(t, "/proc/self/mountinfo"))) {
		s.mounts = append(s.mounts, line)
	}
	require.NoError(t, filepath.WalkDir("/sys/fs/cgroup", func(at string, d fs.DirEntry, err error) error {
		if err == nil && strings.HasPrefix(d.Name(), w.prefix) {
			s.cgroups = append(s.cgroups, at)
		}
		return nil // cgroups come and go
	}))
	require.NoError(t, filepath.WalkDir(w.dir, func(at string, d fs.DirEntry, err error) error {
		if err == nil && (strings.HasPrefix(d.Name(), ".nvidia-container-runtime-") || strings.HasPrefix(at, filepath.Join(w.dir, "bundle")+"/")) {
			s.temporary = append(s.temporary, at)
		}
		return err
	}))
	if _, err := os.Stat(filepath.Join(w.dir, "state")); err == nil {
		s.states = names(t, filepath.Join(w.dir, "state"))
	}
	return s
}

// processes lists our processes, by a variable in their environment.
func (w *soakWorld) processes(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, pid := range names(t, "/proc") {
		environ, err := os.ReadFile("/proc/" + pid + "/environ")
		if err == nil && bytes.Contains(environ, []byte("NVCR_SOAK_ID="+w.prefix)) {
			found = append(found, pid)
		}
	}
	return found
}

// want is what each kind of container must see.
var soakKinds = []struct {
	env  []string
	want string
}{
	{env: []string{gpu0, "NVIDIA_DRIVER_CAPABILITIES=all"}, want: "nvidia-modeset nvidia-uvm nvidia-uvm-tools nvidia0 nvidiactl ; libcuda.so.1 libnvidia-ml.so.1 libGLX_nvidia.so.0 ; 0 1 2 3\n"},
	{env: nil, want: "; ; 0 1 2 3\n"},
	{env: []string{gpu0, "NVIDIA_DRIVER_CAPABILITIES=compute"}, want: "nvidia-uvm nvidia-uvm-tools nvidia0 nvidiactl ; libcuda.so.1 ; 0 1 2 3\n"},
	{env: []string{gpu0, "NVIDIA_DRIVER_CAPABILITIES=utility"}, want: "nvidia0 nvidiactl ; libnvidia-ml.so.1 ; 0 1 2 3\n"},
	{env: []string{gpu0, "NVIDIA_DRIVER_CAPABILITIES=graphics"}, want: "nvidia-modeset nvidia0 nvidiactl ; libGLX_nvidia.so.0 ; 0 1 2 3\n"},
	{env: []string{gpu0}, want: "nvidia-uvm nvidia-uvm-tools nvidia0 nvidiactl ; libcuda.so.1 libnvidia-ml.so.1 ; 0 1 2 3\n"},
	{env: []string{"NVIDIA_VISIBLE_DEVICES=none"}, want: "nvidia-uvm nvidia-uvm-tools nvidiactl ; libcuda.so.1 libnvidia-ml.so.1 ; 0 1 2 3\n"},
}

const soakLook = `cd /dev; for n in nvidia*; do [ -c $n ] && echo -n "$n "; done; echo -n "; "
for l in libcuda.so.1 libnvidia-ml.so.1 libGLX_nvidia.so.0; do probe $l | grep -q '=> /' && echo -n "$l "; done; echo "; "$(cd /proc/self/fd; for n in ?; do echo $n; done)`

// cycle is the life of one container.
func (w *soakWorld) cycle(s *soak, worker, n int) (err error) {
	id := fmt.Sprintf("%s-%d-%d", w.prefix, worker, n)
	bundle := filepath.Join(w.dir, "bundle", id)
	kind := soakKinds[(worker+n)%len(soakKinds)]
	if err := w.write(bundle, id, w.rootfs(worker%3), kind.env); err != nil {
		return err
	}
	defer os.RemoveAll(bundle)
	// A container keeps what it inherits open, so that must not be a pipe of ours.
	if out, err := w.do(bundle, "create", "--bundle", bundle, "--pid-file", filepath.Join(bundle, "pid"), id); err != nil || out != "" {
		_, _ = w.do(bundle, "delete", "--force", id)
		return fmt.Errorf("create: %w: %s", err, out)
	}
	s.created++
	defer func() {
		if err != nil {
			_, _ = w.do(bundle, "delete", "--force", id)
		}
	}()
	if out, err := w.do(bundle, "start", id); err != nil || out != "" {
		return fmt.Errorf("start: %w: %s", err, out)
	}
	s.started++
	out, err := w.do(bundle, "exec", id, "/bin/sh", "-c", soakLook)
	if err != nil || normal(out) != normal(kind.want) {
		return fmt.Errorf("exec: %w: %q instead of %q", err, out, kind.want)
	}
	s.executed++
	if out, err := w.do(bundle, "update", "--pids-limit", strconv.Itoa(100+n%50), id); err != nil || out != "" {
		return fmt.Errorf("update: %w: %s", err, out)
	}
	s.updated++
	// An update must not take devices away.
	if out, err := w.do(bundle, "exec", id, "/bin/sh", "-c", soakLook); err != nil || normal(out) != normal(kind.want) {
		return fmt.Errorf("exec after update: %w: %q instead of %q", err, out, kind.want)
	}
	if left := leftovers(bundle); len(left) > 0 {
		return fmt.Errorf("left in the bundle: %q", left)
	}
	if n%2 == 0 {
		if out, err := w.do(bundle, "kill", id, "KILL"); err != nil || out != "" {
			return fmt.Errorf("kill: %w: %s", err, out)
		}
	}
	if out, err := w.do(bundle, "delete", "--force", id); err != nil || out != "" {
		return fmt.Errorf("delete: %w: %s", err, out)
	}
	s.deleted++
	return nil
}

// normal makes a shell's output comparable.
func normal(s string) string { return strings.Join(strings.Fields(s), " ") }

func leftovers(bundle string) []string {
	entries, err := os.ReadDir(bundle)
	if err != nil {
		return []string{err.Error()}
	}
	var left []string
	for _, e := range entries {
		if !slices.Contains([]string{"config.json", "output", "pid"}, e.Name()) {
			left = append(left, e.Name())
		}
	}
	return left
}

func (w *soakWorld) write(bundle, id, rootfs string, env []string) error {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: rootfs},
		Process: &specs.Process{
			Args: []string{"/bin/sleep", "10000"}, Cwd: "/",
			Env:          append([]string{"PATH=/bin:/sbin", "NVCR_SOAK_ID=" + w.prefix}, env...),
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: "/" + id,
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}},
			MaskedPaths: []string{"/proc/kcore"},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
		},
	}
	data, err := json.Marshal(spec)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(bundle, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o644)
}

// do runs the program with runc's arguments and returns what it prints.
func (w *soakWorld) do(bundle string, args ...string) (string, error) {
	output, err := os.OpenFile(filepath.Join(bundle, "output"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return "", err
	}
	defer output.Close()
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, w.program, append([]string{"--root", filepath.Join(w.dir, "state")}, args...)...)
	cmd.Env = []string{
		"PATH=" + os.Getenv("PATH"), "XDG_CONFIG_HOME=" + w.dir, "NVCR_SOAK_ID=" + w.prefix,
		"NVIDIA_CONTAINER_RUNTIME_PATH=" + w.runc, "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + w.machine,
	}
	cmd.Stdout, cmd.Stderr = output, output
	err = cmd.Run()
	text, readErr := os.ReadFile(output.Name())
	return string(text), cmp.Or(err, readErr)
}
