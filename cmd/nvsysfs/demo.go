// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// theShim is the program that is demonstrated.
const theShim = "nvidia-container-runtime.experimental"

func newDemo(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "start a container through the runtime, with or without a GPU",
		Long: `Starts a container through nvidia-container-runtime.experimental, which must be
beside this program or in PATH, and shows what it got. Where this machine has no
NVIDIA driver, or with --fixture, a fixture stands in for the machine: the
container really starts, but its device nodes lead to nothing.

Starting a container takes root and runc or crun; without these the edited
config.json is shown instead. Everything is made in a temporary directory and
removed again.`,
		Example: `  nvsysfs demo
  nvsysfs demo --fixture a100-mig`,
		Args: noArguments,
	}
	fixture := cmd.Flags().String("fixture", "", "the machine: a `NAME` from \"nvsysfs fixtures\"")
	isOneOf(cmd, "fixture", fixtures.Names()...)
	inside := cmd.Flags().Bool("inside", false, "what the container runs")
	must(cmd.Flags().MarkHidden("inside"))
	cmd.RunE = func(*cobra.Command, []string) error {
		if *inside {
			return tellFromInside(i.stdout)
		}
		return runDemo(i, *fixture)
	}
	return cmd
}

func runDemo(i invocation, fixture string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	shim := filepath.Join(filepath.Dir(self), theShim)
	if _, err := os.Stat(shim); err != nil {
		if shim, err = exec.LookPath(theShim); err != nil {
			return fmt.Errorf("%s is neither beside %s nor on PATH: run make first", theShim, self)
		}
	}
	dir, err := os.MkdirTemp("", "nvsysfs-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)

	sysroot, err := demoMachine(i.stdout, fixture, dir)
	if err != nil {
		return err
	}
	bundle := filepath.Join(dir, "bundle")
	if err := demoBundle(bundle, self); err != nil {
		return err
	}
	return startDemo(i, shim, sysroot, bundle)
}

// demoMachine returns the directory that stands for "/": this machine's own if it has a GPU, else a fixture's.
func demoMachine(out io.Writer, name, dir string) (string, error) {
	sysroot := "/"
	if name == "" {
		if inventory, err := sysfs.Read("/", false); err == nil && inventory.Driver != nil && len(inventory.GPUs) > 0 {
			fmt.Fprintln(out, "This machine:")
		} else if runtime.GOARCH == "arm64" {
			name = "grace-aarch64"
		} else {
			name = "t4"
		}
	}
	if name != "" {
		machine, err := loadMachine(name)
		if err != nil {
			return "", err
		}
		sysroot = filepath.Join(dir, "machine")
		if _, err := machine.Unpack(sysroot, fixtures.UnpackOptions{NoDevices: true}); err != nil {
			return "", err
		}
		fmt.Fprintf(out, "The machine is the text archive %s:\n", name)
	}
	inventory, err := sysfs.Read(sysfs.Root(sysroot), true)
	if err != nil {
		return "", err
	}
	var list bytes.Buffer
	printList(&list, inventory, nil, sysfs.MIGUUIDs{})
	for line := range strings.Lines(list.String()) {
		fmt.Fprint(out, "  ", line)
	}
	return sysroot, nil
}

// demoBundle makes a bundle whose root filesystem is laid out like Debian's and holds nothing but this program.
func demoBundle(bundle, self string) error {
	triplet, flags := "x86_64-linux-gnu", ldcache.FlagX8664
	if runtime.GOARCH == "arm64" {
		triplet, flags = "aarch64-linux-gnu", ldcache.FlagAArch64
	}
	libDir := "/usr/lib/" + triplet
	cache := ldcache.Cache{Entries: []ldcache.Entry{{Name: "libc.so.6", Path: libDir + "/libc.so.6", Flags: flags}}}
	cacheData, err := cache.Encode()
	if err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"}
	config, err := json.Marshal(specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/nvsysfs", "demo", "--inside"}, Cwd: "/",
			Env:          []string{"PATH=/usr/bin:/bin", "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			Resources:  &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	})
	if err != nil {
		return err
	}
	for _, f := range []struct {
		name string
		data []byte
		mode os.FileMode
	}{
		{"config.json", config, 0o644},
		{"rootfs/nvsysfs", program, 0o755},
		{"rootfs/etc/debian_version", []byte("12.11\n"), 0o644},
		{"rootfs/etc/ld.so.cache", cacheData, 0o644},
		{"rootfs" + libDir + "/libc.so.6", []byte("stands for the C library\n"), 0o644},
		{"rootfs/proc/.keep", nil, 0o644},
		{"rootfs/dev/.keep", nil, 0o644},
	} {
		path := filepath.Join(bundle, f.name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.data, f.mode); err != nil {
			return err
		}
	}
	return nil
}

// startDemo runs the container, or, where that cannot be, has config.json edited and shows it.
func startDemo(i invocation, shim, sysroot, bundle string) error {
	lowLevel, why := demoRuntime()
	args := []string{"run", "--bundle", bundle, fmt.Sprintf("nvsysfs-demo-%d", os.Getpid())}
	switch {
	case lowLevel == "":
		// Any program that ends well does for a runtime that is to do nothing.
		nothing, err := exec.LookPath("true")
		if err != nil {
			return errors.New("neither a low-level runtime nor true(1) is on PATH")
		}
		lowLevel = nothing
	case filepath.Base(lowLevel) == "crun":
		// A cgroup of the container's own may not be had, and shows nothing.
		args = append([]string{"--cgroup-manager=disabled"}, args...)
	}
	fmt.Fprintf(i.stdout, "\n$ NVIDIA_VISIBLE_DEVICES=all, NVIDIA_DRIVER_CAPABILITIES=compute,utility in the container\n$ %s run --bundle … (then: %s)\n\n", theShim, lowLevel)
	cmd := exec.Command(shim, args...)
	cmd.Env = append(i.environ,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT="+sysroot,
		"NVIDIA_CONTAINER_RUNTIME_PATH="+lowLevel)
	cmd.Stdout, cmd.Stderr = i.stdout, i.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", shim, err)
	}
	if why == "" {
		return nil
	}
	fmt.Fprintf(i.stdout, "No container is started: %s. This is config.json as the runtime would get it:\n\n", why)
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	if err != nil {
		return err
	}
	var out bytes.Buffer
	if err := json.Indent(&out, data, "", "  "); err != nil {
		return err
	}
	fmt.Fprintln(i.stdout, out.String())
	return nil
}

// demoRuntime returns runc or crun, or why no container can be started.
func demoRuntime() (path, why string) {
	if os.Geteuid() != 0 {
		return "", "that takes root"
	}
	if path, err := exec.LookPath("runc"); err == nil {
		return path, ""
	}
	path, err := exec.LookPath("crun")
	if err != nil {
		return "", "neither runc nor crun is on PATH"
	}
	// The hierarchies that systemd calls hybrid.
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		return "", "runc is not on PATH, and crun refuses a host with both versions of cgroups"
	}
	return path, ""
}

// tellFromInside prints what the container has that it did not bring along.
func tellFromInside(out io.Writer) error {
	fmt.Fprintln(out, "Inside the container:")
	for _, pattern := range []string{"/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dri/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
				fmt.Fprintf(out, "  device   %s (%d:%d)\n", name, unix.Major(st.Rdev), unix.Minor(st.Rdev))
			}
		}
	}
	data, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		return err
	}
	cache, err := ldcache.Parse(data)
	if err != nil {
		return err
	}
	for _, e := range cache.Entries {
		if info, err := os.Stat(e.Path); err == nil && strings.Contains(e.Name, ".so.") && e.Name != "libc.so.6" {
			real, err := filepath.EvalSymlinks(e.Path)
			if err != nil {
				return err
			}
			fmt.Fprintf(out, "  library  %s => %s, %d bytes\n", e.Name, real, info.Size())
		}
	}
	for _, dir := range []string{"/usr/bin", "/run", "/lib/firmware/nvidia"} {
		err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && !d.IsDir() {
				fmt.Fprintf(out, "  file     %s\n", path)
			}
			return nil //nolint:nilerr // what cannot be listed is not there
		})
		if err != nil {
			return err
		}
	}
	if _, err := os.Stat("/usr/bin/nvidia-smi"); err == nil {
		fmt.Fprintln(out, "$ nvidia-smi")
		cmd := exec.Command("/usr/bin/nvidia-smi")
		cmd.Stdout, cmd.Stderr = out, out
		if err := cmd.Run(); err != nil {
			fmt.Fprintln(out, err)
		}
	}
	return nil
}
