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

	// patience is how long a condition may take to come true: far longer than any does.
	patience = 5 * time.Minute
)

// levels are the low-level runtimes that are tested: one in each machine.
var levels = []string{os.Getenv("NVCR_LAB_LEVEL")}

// tar is the image, for engines to load.
var tar string

func TestMain(m *testing.M) {
	if os.Getenv("NVCR_LAB") != "inside" {
		fmt.Fprintln(os.Stderr, "these tests are run in the machines that 'make lab' boots")
		return
	}
	if err := prepare(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	// podman takes a folder here that is named as an image for what to build that of.
	if err := os.Chdir("/"); err != nil {
		panic(err)
	}
	os.Exit(m.Run())
}

// prepare gives the machine a GPU and a driver, those of the fixture t4.
func prepare() error {
	if _, err := os.Stat(fixture); err == nil {
		return nil // another of these binaries has done so
	}
	a, err := fixtures.Load("t4")
	if err != nil {
		return err
	}
	return install(a, fixture)
}

// fixture is where the machine's GPU and driver are unpacked. The image's gpu.service loads the
// driver, and lays what the fixture has of /dev and /sys over that of the machine, at each boot.
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

// inUserNamespaces takes the fixture off /sys until the end of the test: where something is mounted
// below it, the kernel lets no user namespace mount it.
func inUserNamespaces(t *testing.T) {
	t.Helper()
	// Lazily: a daemon that has just started may be reading there.
	must(t, "umount", "-l", "/sys/bus", "/sys/devices")
	t.Cleanup(func() { must(t, "gpu", fixture) })
}

// image makes the image's archive, once.
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

// do runs a program, and returns all that it prints. It reads from a file: a container may keep a
// pipe open.
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

// must is do for what must succeed.
func must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := do(args...)
	require.NoError(t, err, "%q: %s", args, out)
	return out
}

// older says whether the machine's package is of an earlier version.
func older(t *testing.T, pkg, version string) bool {
	t.Helper()
	has := must(t, "dpkg-query", "-W", "-f", "${Version}", pkg)
	return exec.Command("dpkg", "--compare-versions", has, "lt", version).Run() == nil
}

// asUser is a command line that runs as the user, with what a session has in its environment.
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

// eventually waits for a condition.
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

// own is what the names of this runtime's own settings begin with.
const own = "nvidia-container-runtime.experimental."

// lowLevel lets the installed runtime use this low-level runtime until the end of the test, as an
// administrator would.
func lowLevel(t *testing.T, name string, settings ...string) {
	t.Helper()
	keepLowLevel(t, name, settings...)
	t.Cleanup(func() { assert.NoError(t, os.Remove(configFile)) })
}

const configFile = "/etc/nvidia-container-runtime/config.toml"

// keepLowLevel lets the runtime use it for good.
func keepLowLevel(t *testing.T, name string, settings ...string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(configFile), 0o755))
	settings = append(settings, fmt.Sprintf("%sruntime-path = %q\n", own, name))
	text := strings.Join(settings, "\n")
	require.NoError(t, os.WriteFile(configFile, []byte(text), 0o644))
}

// look opens each NVIDIA node, and lets the image's loader load the driver.
const look = `exec 2>&1
for n in $(ls -d /dev/nvidia* 2>/dev/null); do
	[ -c $n ] && echo "$n $( (: <$n && echo opens) 2>&1 | sed 's/.*: //')"
done
probe libcuda.so.1 libnvidia-ml.so.1 | sed 's/ => .*/ loads/'`

// lookCDI is look with what an image for CUDA has in its environment, by which the loader finds
// what CDI gives.
const lookCDI = "export LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64\n" + look

// step is what may happen to a container.
type step struct {
	name string
	do   func(t *testing.T)
}

// life takes a container through all steps, and looks into it after each.
func life(t *testing.T, want string, seen func(t *testing.T) string, steps ...step) {
	t.Helper()
	for _, s := range steps {
		t.Run(s.name, func(t *testing.T) {
			s.do(t)
			assert.Equal(t, want, seen(t))
		})
	}
}

// nothing is the step before the first.
var nothing = step{"exec", func(*testing.T) {}}

// gpu is what look prints in a container with the GPU, gpuless in one without.
const gpu = `/dev/nvidia-uvm opens
/dev/nvidia-uvm-tools opens
/dev/nvidia0 opens
/dev/nvidiactl opens
libcuda.so.1 loads
libnvidia-ml.so.1 loads
`

const gpuless = `libcuda.so.1: libcuda.so.1: cannot open shared object file: No such file or directory
libnvidia-ml.so.1: libnvidia-ml.so.1: cannot open shared object file: No such file or directory
`

// cgroupOf is the directory of the cgroup of the unit that a process is in.
func cgroupOf(t *testing.T, pid int) string {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	require.NoError(t, err)
	// crun makes another cgroup in the unit's own, and the policy is that one's.
	name := strings.TrimSuffix(strings.TrimSpace(strings.TrimPrefix(string(data), "0::")), "/container")
	return filepath.Join("/sys/fs/cgroup", name)
}

// canary is a container that has been robbed of its device policy.
var canary string

// systemd257 says whether the machine's systemd applies the device policy of a scope again at a
// change of its properties only, as 257 does.
func systemd257(t *testing.T) bool { t.Helper(); return older(t, "systemd", "258") }

// reload makes systemd apply its rules anew, and waits until it has: the canary's cgroup has a
// device policy again.
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
			return fmt.Errorf("systemd has not applied the device policy of %s again", canary)
		}
		return nil
	})
}
