// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"

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

Starting a container takes root and runc or crun; without these a table of
what it would get is shown instead. Everything is made in a temporary directory
and removed again.`,
		Example: `  nvsysfs demo
  nvsysfs demo --fixture t4`,
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
	dir, err := os.MkdirTemp("", "nvsysfs-demo-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	sysroot, devices := filepath.Join(dir, "machine"), "all"
	if fixture == "" {
		if inventory, err := sysfs.Read("/", false); err == nil && inventory.Driver != nil && len(inventory.GPUs) > 0 {
			sysroot = "/"
			fmt.Fprintln(i.stdout, "This machine:")
		} else if fixture = "a100-mig"; runtime.GOARCH == "arm64" {
			fixture = "grace-aarch64"
		}
	}
	if fixture != "" {
		if err := unpackFixture(fixture, sysroot); err != nil {
			return err
		}
		fmt.Fprintf(i.stdout, "The machine is the fixture %s:\n", fixture)
	}
	if fixture == "a100-mig" {
		devices = "0:1"
	}
	if err := printFirstGPU(i.stdout, sysfs.Root(sysroot)); err != nil {
		return err
	}
	bundle := filepath.Join(dir, "bundle")
	environ := []string{"NVIDIA_VISIBLE_DEVICES=" + devices, "NVIDIA_DRIVER_CAPABILITIES=compute,utility"}
	if err := demoBundle(bundle, self, environ); err != nil {
		return err
	}
	fmt.Fprintf(i.stdout, "\nA container has %s.\n", strings.Join(environ, ", "))
	lowLevel, why := demoRuntime()
	if lowLevel != "" {
		err = startDemo(i, self, sysroot, bundle, lowLevel)
	} else {
		fmt.Fprintf(i.stdout, "It is not started, as %s. This is what it would get:\n\n", why)
		err = withoutPaths(i, []string{filepath.Join(dir, "machine")},
			func(i invocation) error { return runExplain(i, bundle, "", sysroot, false, asTable) })
	}
	if err != nil {
		return err
	}
	_, err = fmt.Fprint(i.stdout, `
Next:
  nvsysfs explain -e NVIDIA_VISIBLE_DEVICES=2:0 --fixture a100-mig
  nvsysfs doctor
  nvsysfs configure docker --dry-run
`)
	return err
}

// printFirstGPU prints the first GPU of a machine as "nvsysfs list" does.
func printFirstGPU(out io.Writer, root sysfs.Root) error {
	inventory, err := sysfs.Read(root, true)
	if err != nil {
		return err
	}
	var list bytes.Buffer
	printList(&list, inventory, nil, sysfs.MIGUUIDs{})
	gpus := 0
	for line := range strings.Lines(list.String()) {
		if strings.HasPrefix(line, "GPU") {
			gpus++
		}
		if gpus < 2 {
			fmt.Fprint(out, "  ", line)
		}
	}
	if gpus > 1 {
		fmt.Fprintf(out, "  and %d more\n", gpus-1)
	}
	return nil
}

// demoBundle makes a bundle whose root filesystem holds nothing but this program.
func demoBundle(bundle, self string, environ []string) error {
	if err := writeBundle(bundle, "", environ); err != nil {
		return err
	}
	program, err := os.ReadFile(self)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(bundle, "rootfs/nvsysfs"), program, 0o755) //nolint:gosec // a program
}

// startDemo runs the container.
func startDemo(i invocation, self, sysroot, bundle, lowLevel string) error {
	shim := filepath.Join(filepath.Dir(self), theShim)
	if _, err := os.Stat(shim); err != nil {
		if shim, err = exec.LookPath(theShim); err != nil {
			return fmt.Errorf("%s is neither beside %s nor in PATH: run make first", theShim, self)
		}
	}
	args := []string{"run", "--bundle", bundle, fmt.Sprintf("nvsysfs-demo-%d", os.Getpid())}
	if filepath.Base(lowLevel) == "crun" {
		// A cgroup of the container's own may not be had, and shows nothing.
		args = append([]string{"--cgroup-manager=disabled"}, args...)
	}
	fmt.Fprintf(i.stdout, "$ %s run --bundle … (then: %s)\n\n", theShim, lowLevel)
	cmd := exec.Command(shim, args...)
	cmd.Env = append(i.environ,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT="+sysroot,
		"NVIDIA_CONTAINER_RUNTIME_PATH="+lowLevel)
	cmd.Stdout, cmd.Stderr = i.stdout, i.stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: %w", shim, err)
	}
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
				number := fmt.Sprintf("%d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
				if number == "1:3" { // that of /dev/null, see sysroot-nodes
					number = "closed, being a fixture's"
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
