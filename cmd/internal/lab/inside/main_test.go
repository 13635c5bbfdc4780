// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

const (
	imageName = "nvcr.test/probe:1"

	// patience is how long a condition may take to come true. It is far longer than any of them
	// needs.
	patience = 5 * time.Minute
)

// levels are the low-level runtimes to test: one on each machine.
var levels = []string{os.Getenv("NVCR_LAB_LEVEL")}

// tar is the path of the image's archive, which engines load.
var tar string

func TestMain(m *testing.M) {
	if os.Getenv("NVCR_LAB") != "inside" {
		fmt.Fprintln(os.Stderr, "these tests run on the machines that 'make lab' boots")
		return
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// podman takes a directory here that is named like an image for the build context of that
	// image.
	if err := os.Chdir("/"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// prepare gives the machine the GPU and the driver of the fixture t4.
func prepare() error {
	if _, err := os.Stat(fixture); err == nil {
		return nil // an earlier run of this program has done it
	}
	a, err := fixtures.Load("t4")
	if err != nil {
		return err
	}
	return install(a, fixture)
}

// fixture is where the machine's GPU and driver are unpacked. At each boot, the image's gpu.service
// loads the driver, copies the fixture's device nodes to /dev and overlays its /sys on the
// machine's.
const fixture = "/var/lib/lab/t4"

// install gives the machine the GPUs and the driver of a fixture, which it unpacks in dir.
func install(machine fixtures.Archive, dir string) error {
	if _, err := machine.Unpack(dir, fixtures.UnpackOptions{}); err != nil {
		return err
	}
	if err := writeDriver(machine); err != nil {
		return err
	}
	script := "set -e; cd " + dir + `
		cp -a usr/lib/x86_64-linux-gnu/libcuda* usr/lib/x86_64-linux-gnu/libnv* /usr/lib/x86_64-linux-gnu/
		cp -a usr/bin/nvidia* /usr/bin/
		ldconfig
		systemctl enable gpu
		gpu $PWD`
	if out, err := do("sh", "-c", script); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// inUserNamespaces unmounts the fixture from /sys until the end of the test: if anything is mounted
// below /sys, the kernel does not allow a user namespace to mount it.
func inUserNamespaces(t *testing.T) {
	t.Helper()
	// Unmount lazily: a daemon that has just started may be reading there.
	must(t, "umount", "-l", "/sys/bus", "/sys/devices")
	t.Cleanup(func() { must(t, "gpu", fixture) })
}

// image returns the path of the image's archive, which it creates once.
func image(t *testing.T) string {
	t.Helper()
	if tar == "" {
		rootfs := filepath.Join(t.TempDir(), "rootfs")
		testimage.Build(t, rootfs, "debian")
		tar = "/var/lib/lab/image.tar"
		testimage.Archive(t, rootfs, imageName, tar)
		must(t, "chmod", "-R", "go+rX", filepath.Dir(tar))
	}
	return tar
}

// do runs a program and returns all its output. The output goes to a file because a container may
// keep a pipe open.
func do(args ...string) (string, error) {
	f, err := os.CreateTemp("", "output-")
	if err != nil {
		return "", err
	}
	defer os.Remove(f.Name())
	defer f.Close()
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = f, f
	err = cmd.Run()
	data, readErr := os.ReadFile(f.Name())
	return string(data), errors.Join(err, readErr)
}

// must is do for a program that must succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := do(args...)
	require.NoError(t, err, "%q: %s", args, out)
	return out
}

// older reports whether the machine's package is older than version.
func older(t *testing.T, pkg, version string) bool {
	t.Helper()
	has := must(t, "dpkg-query", "-W", "-f", "${Version}", pkg)
	return exec.Command("dpkg", "--compare-versions", has, "lt", version).Run() == nil
}

// asUser returns a command line that runs as the user, with the environment variables that a
// session has.
func asUser(args ...string) []string {
	return append([]string{
		"runuser", "-u", "user", "--", "env", "--chdir=/home/user", "HOME=/home/user", "XDG_RUNTIME_DIR=/run/user/1000",
		"DBUS_SESSION_BUS_ADDRESS=unix:path=/run/user/1000/bus",
	}, args...)
}

// linger starts the user's own systemd.
func linger(t *testing.T) {
	t.Helper()
	must(t, "loginctl", "enable-linger", "user")
	eventually(t, func() error {
		_, err := do(asUser("systemctl", "--user", "is-active", "default.target")...)
		return err
	})
}

// eventually waits until condition returns no error.
func eventually(t *testing.T, condition func() error) {
	t.Helper()
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for end := time.Now().Add(patience); ; <-tick.C {
		err := condition()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			require.NoError(t, err)
		}
	}
}

// own is the prefix of this runtime's own settings.
const own = "nvidia-container-runtime.experimental."

// lowLevel configures the installed runtime to use this low-level runtime until the end of the
// test, as an administrator would.
func lowLevel(t *testing.T, name string, settings ...string) {
	t.Helper()
	keepLowLevel(t, name, settings...)
	t.Cleanup(func() { assert.NoError(t, os.Remove(configFile)) })
}

const configFile = "/etc/nvidia-container-runtime/config.toml"

// keepLowLevel does what lowLevel does, but permanently.
func keepLowLevel(t *testing.T, name string, settings ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(configFile), 0o755))
	settings = append(settings, fmt.Sprintf("%sruntime-path = %q\n", own, name))
	text := strings.Join(settings, "\n")
	require.NoError(t, os.WriteFile(configFile, []byte(text), 0o644))
}

// look is a script that opens each NVIDIA device node, and loads the driver's libraries with the
// image's loader.
const look = `exec 2>&1
for n in /dev/nvidia*; do
	[ -c $n ] && set -- "$@" $n
done
probe "$@" libcuda.so.1 libnvidia-ml.so.1 | sed 's/ => .*/ loads/'`

// lookCDI is look with LD_LIBRARY_PATH as a CUDA image sets it. The loader needs it to find the
// libraries that CDI mounts.
const lookCDI = "export LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64\n" + look

// step is something that may happen to a container.
type step struct {
	name string
	do   func(t *testing.T)
}

// life takes a container through all steps, and checks what the container sees after each.
func life(t *testing.T, want string, seen func(t *testing.T) string, steps ...step) {
	t.Helper()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			s.do(t)
			assert.Equal(t, want, seen(t))
		})
	}
}

// nothing is the step in which nothing happens: the first check of a container.
var nothing = step{"exec", func(*testing.T) {}}

// gpu is what look prints in a container with the GPU.
const gpu = `/dev/nvidia-uvm opens
/dev/nvidia-uvm-tools opens
/dev/nvidia0 opens
/dev/nvidiactl opens
libcuda.so.1 loads
libnvidia-ml.so.1 loads
`

// gpuless is what look prints in a container without a GPU.
const gpuless = `libcuda.so.1: libcuda.so.1: cannot open shared object file: No such file or directory
libnvidia-ml.so.1: libnvidia-ml.so.1: cannot open shared object file: No such file or directory
`

// cgroupOf returns the directory of the cgroup of the unit that a process is in.
func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	require.NoError(t, err)
	// crun creates another cgroup below the unit's. The device policy is that of the unit's cgroup.
	name := strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(string(data), "0::")), "/container")
	return filepath.Join("/sys/fs/cgroup", name)
}

// canary is the cgroup of a container whose device policy reload removes.
var canary string

// systemd257 reports whether the machine's systemd reapplies the device policy of a scope only when
// the scope's properties change, as version 257 does.
func systemd257(t *testing.T) bool { t.Helper(); return older(t, "systemd", "258") }

// reload makes systemd apply its rules again. It waits until systemd has done so, that is, until
// the canary's cgroup has a device policy again, unless systemd257 returns true.
func reload(t *testing.T, command string) {
	t.Helper()
	if systemd257(t) {
		must(t, "systemctl", command)
		return
	}
	if canary == "" {
		must(t, "docker", "load", "-i", image(t))
		id := strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", imageName))
		canary = cgroupOf(t, dockerPID(t, id))
	}
	require.NotEmpty(t, devicePrograms(t, canary))
	detachDevicePrograms(t, canary)
	must(t, "systemctl", command)
	eventually(t, func() error {
		if len(devicePrograms(t, canary)) == 0 {
			return fmt.Errorf("systemd has not reapplied the device policy of %s", canary)
		}
		return nil
	})
}
