// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package demo is "nvsysfs demo": it starts a container that prints what the runtime gave it.
package demo

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/explain"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fixture"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Run starts the container or, where that is impossible, explains what it would get. Without a
// fixture's name the machine is this one or, if it has no GPU, a default fixture.
func Run(name string, environ []string, stdout, stderr io.Writer) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "nvsysfs-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sysroot, devices := filepath.Join(dir, "machine"), "all"
	if name == "" {
		if inventory, err := sysfs.Read("/", false); err == nil && inventory.Driver != nil && len(inventory.GPUs) > 0 {
			sysroot = "/"
			fmt.Fprintln(stdout, "This machine:")
		} else if name = "a100-mig"; runtime.GOARCH == "arm64" {
			name = "grace-aarch64"
		}
	}
	if name != "" {
		if err := fixture.Unpack(name, sysroot); err != nil {
			return err
		}
		fmt.Fprintf(stdout, "The machine is the fixture %s:\n", name)
	}
	if name == "a100-mig" {
		devices = "0:1"
	}
	if err := printFirstGPU(stdout, sysfs.Root(sysroot)); err != nil {
		return err
	}
	bundleDir := filepath.Join(dir, "bundle")
	variables := []string{"NVIDIA_VISIBLE_DEVICES=" + devices, "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
	if err := demoBundle(bundleDir, self, variables); err != nil {
		return err
	}
	fmt.Fprintf(stdout, "\nA container with %s.\n", strings.Join(variables, ", "))
	lowLevel, why := demoRuntime()
	if lowLevel != "" {
		err = start(sysroot, bundleDir, lowLevel, environ, stdout, stderr)
	} else {
		fmt.Fprintf(stdout, "It cannot be started here: %s. This is what it would get:\n\n", why)
		err = explained(bundleDir, sysroot, environ, stdout)
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(stdout, `
Next:
  nvsysfs explain -e NVIDIA_VISIBLE_DEVICES=2:0 --fixture a100-mig
  nvsysfs doctor
  nvsysfs configure docker --dry-run
`)
	return err
}

func explained(bundle, sysroot string, environ []string, out io.Writer) error {
	e, err := explain.Explain(explain.Options{Bundle: bundle, Root: sysroot, Environ: environ})
	if err != nil {
		return err
	}
	text := e.Text()
	if sysroot != "/" {
		text = bytes.ReplaceAll(text, []byte(sysroot), nil)
	}
	_, err = out.Write(text)
	return err
}

// printFirstGPU prints the first GPU of a machine as "nvsysfs list" does.
func printFirstGPU(out io.Writer, root sysfs.Root) error {
	inventory, err := sysfs.Read(root, true)
	if err != nil {
		return err
	}
	list := listing.Of(inventory, nil, sysfs.MIGUUIDs{})
	more := max(len(list.GPUs)-1, 0)
	list.GPUs = list.GPUs[:len(list.GPUs)-more]
	for line := range strings.Lines(list.Text()) {
		fmt.Fprint(out, "  ", line)
	}
	if more > 0 {
		fmt.Fprintf(out, "  and %d more\n", more)
	}
	return nil
}

// demoBundle writes a bundle whose root filesystem holds little but this program.
func demoBundle(dir, self string, environ []string) error {
	if err := explain.WriteBundle(dir, "", environ); err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "rootfs/nvsysfs"), program, 0o755) //nolint:gosec // a program
}

func start(sysroot, bundle, lowLevel string, environ []string, stdout, stderr io.Writer) error {
	shim, err := configure.FindRuntime("/", "")
	if err != nil {
		return err
	}
	args := []string{"run", "--bundle", bundle, fmt.Sprintf("nvsysfs-demo-%d", os.Getpid())}
	if filepath.Base(lowLevel) == "crun" {
		// Without systemd there may be no delegated cgroup, and the demo needs none.
		args = append([]string{"--cgroup-manager=disabled"}, args...)
	}
	fmt.Fprintf(stdout, "$ %s run --bundle … (then: %s)\n\n", filepath.Base(shim), lowLevel)
	cmd := exec.Command(shim, args...)
	cmd.Env = append(environ,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT="+sysroot,
		"NVIDIA_CONTAINER_RUNTIME_PATH="+lowLevel)
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", shim, err)
	}
	return nil
}

// demoRuntime returns runc or crun, or why no container can be started.
func demoRuntime() (path, why string) {
	if os.Geteuid() != 0 {
		return "", "it takes root"
	}
	if path, err := exec.LookPath("runc"); err == nil {
		return path, ""
	}
	path, err := exec.LookPath("crun")
	if err != nil {
		return "", "neither runc nor crun is on PATH"
	}
	// systemd's hybrid cgroup hierarchy.
	if _, err := os.Stat("/sys/fs/cgroup/unified/cgroup.procs"); err == nil {
		return "", "runc is not on PATH, and crun refuses a host with both versions of cgroups"
	}
	return path, ""
}

// Inside runs in the container and prints what the runtime added to it.
func Inside(out io.Writer) error {
	fmt.Fprintln(out, "Inside the container:")
	for _, pattern := range []string{"/dev/nvidia*", "/dev/nvidia-caps/*", "/dev/dri/*"} {
		names, err := filepath.Glob(pattern)
		if err != nil {
			return err
		}
		for _, name := range names {
			var st unix.Stat_t
			if err := unix.Stat(name, &st); err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR {
				number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
				if number == "1:3" { // /dev/null stands in for a fixture's device: see sysroot-nodes
					number = "a fixture's, cannot be opened"
				}
				fmt.Fprintf(out, "  device   %s (%s)\n", name, number)
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
			return nil //nolint:nilerr // what cannot be listed is skipped
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
