// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// heading describes the machine.
func heading(g *ground, o options, out io.Writer) error {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return err
	}
	var disk, run unix.Statfs_t
	if err := unix.Statfs(g.dir, &disk); err != nil {
		return err
	}
	if err := unix.Statfs(g.run, &run); err != nil {
		return err
	}
	fmt.Fprintf(out, `# Benchmarks

Printed by `+"`make bench`"+` on %s. Each round runs everything that is compared once. Times are medians, and ratios are
medians of the ratios within a round. In the single commands, the low-level runtime is a stub that exits at once.

- machine: %s, %d processors, Linux %s
- programs: %s; %s; %s
- machines and root filesystems on %s, bundles on %s; load average at the start: %s
- %d rounds of single commands, %d of whole lives
`,
		time.Now().UTC().Format("January 2, 2006"),
		cpuModel(), runtime.NumCPU(), unix.ByteSliceToString(name.Release[:]),
		runtime.Version(), versionOf("runc"), versionOf("crun"),
		fileSystem(disk.Type), fileSystem(run.Type), loadAverage(), o.rounds, o.lives)
	if o.note != "" {
		fmt.Fprintf(out, "- %s\n", o.note)
	}
	return nil
}

func cpuModel() string {
	data, _ := os.ReadFile("/proc/cpuinfo")
	for line := range strings.Lines(string(data)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}

func versionOf(program string) string {
	data, err := exec.Command(program, "--version").Output()
	if err != nil {
		return "no " + program
	}
	line, _, _ := strings.Cut(string(data), "\n")
	return line
}

func fileSystem(magic int64) string {
	switch magic {
	case unix.EXT4_SUPER_MAGIC:
		return "ext4"
	case unix.XFS_SUPER_MAGIC:
		return "xfs"
	case unix.BTRFS_SUPER_MAGIC:
		return "btrfs"
	case unix.TMPFS_MAGIC:
		return "tmpfs"
	case unix.OVERLAYFS_SUPER_MAGIC:
		return "overlay"
	}
	return fmt.Sprintf("a file system of type %#x", magic)
}

func loadAverage() string {
	data, _ := os.ReadFile("/proc/loadavg")
	return strings.Join(strings.Fields(string(data))[:3], " ")
}

// gpuEnv requests GPUs and all of the driver's files.
func gpuEnv(devices string) []string {
	return []string{"NVIDIA_VISIBLE_DEVICES=" + devices, "NVIDIA_DRIVER_CAPABILITIES=all"}
}

// create returns a create on a machine, with the links and caches of an earlier one in place.
func (g *ground) create(name, program, machine string, size int, env ...string) (subject, bundle, error) {
	return g.createBelow(g.run, name, program, machine, size, env...)
}

func (g *ground) createBelow(dir, name, program, machine string, size int, env ...string) (subject, bundle, error) {
	text, err := config(size, env...)
	if err != nil {
		return subject{}, bundle{}, err
	}
	b, err := g.bundle(dir, "bundle-"+strings.Map(letter, name), text)
	if err != nil {
		return subject{}, bundle{}, err
	}
	return subject{
		name: name, prepare: b.reset,
		argv: []string{program, "--root", "/run/bench", "create", "--bundle", b.dir, "id"},
		env:  g.environment(machine, g.stub),
	}, b, nil
}

func letter(r rune) rune {
	if r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' {
		return r
	}
	return '-'
}

// commands measures single commands.
func commands(g *ground, o options, out io.Writer) error {
	env := g.environment(g.t4, g.stub)
	subjects := []subject{
		{name: "floor: a static Go program that only execs", argv: []string{g.floor, "state", "id"}, env: env},
		{name: "the stub itself", argv: []string{g.stub, "state", "id"}, env: env},
		{name: "`state`", argv: []string{g.shim, "--root", "/run/bench", "state", "id"}, env: env},
	}
	oneGPU, allGPUs := gpuEnv("0"), gpuEnv("all")
	for _, c := range []struct {
		name    string
		machine string
		size    int
		env     []string
		dir     string
		fresh   bool
		one     bool // each of the driver's files has its own mount
	}{
		{"`create`, nothing requested", g.t4, 0, nil, g.run, false, false},
		{"`create`, one GPU", g.t4, 0, oneGPU, g.run, false, false},
		{"`create`, one GPU, bundle on disk", g.t4, 0, oneGPU, g.dir, false, false},
		{"`create`, one GPU, first time in its root filesystem", g.t4, 0, oneGPU, g.run, true, false},
		{"`create`, one GPU, driver-directory off", g.t4, 0, oneGPU, g.run, false, true},
		{"`create`, largest machine, one GPU", g.large, 0, oneGPU, g.run, false, false},
		{"`create`, largest machine, all 8 GPUs", g.large, 0, allGPUs, g.run, false, false},
		{"`create`, largest machine, all, config.json of 34 KB", g.large, 34 << 10, allGPUs, g.run, false, false},
		{"`create`, largest machine, all, config.json of 1 MB", g.large, 1 << 20, allGPUs, g.run, false, false},
		{"`create`, nothing requested, config.json of 1 MB", g.t4, 1 << 20, nil, g.run, false, false},
	} {
		s, b, err := g.createBelow(c.dir, c.name, g.shim, c.machine, c.size, c.env...)
		if err != nil {
			return err
		}
		if c.fresh {
			s.prepare = b.afresh
		}
		if c.one {
			if s.env, err = g.oneByOne(c.machine, g.stub); err != nil {
				return err
			}
		}
		subjects = append(subjects, s)
	}
	if o.nvidia != "" {
		more, err := g.nvidia(o.nvidia)
		if err != nil {
			return err
		}
		subjects = append(subjects, more...)
	}

	accounts := make([]account, len(subjects))
	for i, s := range subjects {
		for range 2 { // the second time, the links exist
			var err error
			if accounts[i], err = count(s); err != nil {
				return fmt.Errorf("counting %s: %w", s.name, err)
			}
		}
	}
	times, err := measure(o.rounds, subjects)
	if err != nil {
		return err
	}
	fmt.Fprint(out, `
## Single commands

Memory, system calls, opened files and started processes are counted until the exec of the stub.

| | median ms | least ms | ÷ floor | peak memory MiB | system calls | opened | processes |
|---|---:|---:|---:|---:|---:|---:|---:|
`)
	for i, s := range subjects {
		a, t := accounts[i], times[i]
		fmt.Fprintf(out, "| %s | %s | %s | %.2f | %.1f | %d | %d | %d |\n",
			s.name, ms(t.median()), ms(t.least()), t.times(times[0]),
			float64(a.peak)/1024, a.calls, a.opened, a.processes)
		g.figures[s.name] = times[i].times(times[0])
		g.figures["memory"] = max(g.figures["memory"], float64(a.peak)/1024)
	}
	fmt.Fprintln(out)
	for _, path := range []string{g.floor, g.shim, o.nvidia} {
		if info, err := os.Stat(path); err == nil {
			fmt.Fprintf(out, "- bytes of %s: %d\n", filepath.Base(path), info.Size())
			g.figures[filepath.Base(path)] = float64(info.Size()) / (1 << 20)
		}
	}
	return nil
}

// withPath returns our environment with a directory prepended to PATH. It replaces PATH instead of
// adding it twice: some programs use the first, others the last.
func withPath(dir string) []string {
	env := slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, "PATH=") })
	return append(env, "PATH="+dir+":"+os.Getenv("PATH"))
}

// nvidia returns commands of NVIDIA's own runtime, which finds its configuration itself. The stub
// is in the first directory of its PATH, as runc and crun.
func (g *ground) nvidia(program string) ([]subject, error) {
	bin := filepath.Join(g.dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return nil, err
	}
	for _, name := range []string{"runc", "crun", "docker-runc"} {
		if err := os.Symlink(g.stub, filepath.Join(bin, name)); err != nil {
			return nil, err
		}
	}
	env := withPath(bin)
	state := []string{program, "--root", "/run/bench", "state", "id"}
	subjects := []subject{{name: "NVIDIA's: `state`", argv: state, env: env}}
	for _, c := range []struct {
		name string
		env  []string
	}{{"NVIDIA's: `create`, nothing requested", nil}, {"NVIDIA's: `create`, one GPU", gpuEnv("0")}} {
		s, _, err := g.create(c.name, program, g.t4, 0, c.env...)
		if err != nil {
			return nil, err
		}
		s.env = env
		subjects = append(subjects, s)
	}
	return subjects, nil
}
