// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// life is what lifeAlone measures: whole lives of containers, started in several ways.
type life struct {
	Dir    string // for root filesystems
	Run    string // for bundles
	Disk   string // file with a file system to mount for root filesystems; "" is none
	Rounds int
	Crun   bool
	Ways   []way
}

// way is a way to start a container.
type way struct {
	Name    string
	Program string
	Env     []string
	Config  []byte
	Again   bool // another container has run on the root filesystem before
}

// lives measures create, start, wait and delete of a container on a fresh overlay: on this
// machine's file system, and on a new ext4.
func lives(g *ground, o options, out io.Writer) error {
	fmt.Fprint(out, "\n## Whole life of a container\n\n"+
		"Create, start, wait, delete; the root filesystem is a fresh overlay each time. "+
		"The row \"floor × 3\" is the least that any program in front of a runtime costs: "+
		"a static Go program that only execs, at create, start and delete. "+
		"New inodes are counted in the container's own layer.\n")
	if os.Geteuid() != 0 {
		fmt.Fprintln(out, "\nNot measured: this takes root.")
		return nil
	}
	if err := g.livesOn(o, out, "this machine's file system", "", ""); err != nil {
		return err
	}
	disk := filepath.Join(g.dir, "ext4")
	if err := makeExt4(disk); err != nil {
		fmt.Fprintf(out, "\nNo new ext4 on this machine: %v.\n", err)
		return nil
	}
	return g.livesOn(o, out, "a new ext4", disk, ", ext4")
}

// livesOn measures on one file system: that of g, or the one in the file disk.
func (g *ground) livesOn(o options, out io.Writer, place, disk, mark string) error {
	plain, err := config(0)
	if err != nil {
		return err
	}
	asking, err := config(0, gpuEnv("0")...)
	if err != nil {
		return err
	}
	usual, err := config(0, "NVIDIA_VISIBLE_DEVICES=0")
	if err != nil {
		return err
	}
	fmt.Fprintf(out, `
On %s:

| | median ms | least ms | ÷ plain | ÷ floor × 3 | mounts added | new inodes | hooks added |
|---|---:|---:|---:|---:|---:|---:|---:|
`, place)
	for _, name := range []string{"runc", "crun"} {
		path, err := exec.LookPath(name)
		if err != nil {
			fmt.Fprintf(out, "| no %s on this machine | | | | | | | |\n", name)
			continue
		}
		off, err := g.oneByOne(g.t4, path)
		if err != nil {
			return err
		}
		env := g.environment(g.t4, path)
		ways := []way{
			{Name: "plain", Program: path, Env: os.Environ(), Config: plain},
			{Name: "floor × 3", Program: g.floor, Env: env, Config: plain},
			{Name: "nothing requested", Program: g.shim, Env: env, Config: plain},
			{Name: "compute and utility", Program: g.shim, Env: env, Config: usual},
			{Name: "all driver capabilities", Program: g.shim, Env: env, Config: asking},
			{
				Name:    "the same, second start on the root filesystem",
				Program: g.shim, Env: env, Config: asking, Again: true,
			},
			{Name: "the same, driver-directory off", Program: g.shim, Env: off, Config: asking},
		}
		if o.nvidia != "" {
			bin := filepath.Join(g.dir, "bin-"+name)
			if err := os.MkdirAll(bin, 0o755); err != nil {
				return err
			}
			for _, link := range []string{"docker-runc", "runc", "crun"} {
				if err := os.Symlink(path, filepath.Join(bin, link)); err != nil && !errors.Is(err, os.ErrExist) {
					return err
				}
			}
			ways = append(ways, way{
				Name:    "through NVIDIA's runtime, all driver capabilities",
				Program: o.nvidia, Env: withPath(bin), Config: asking,
			})
		}
		results, err := liveApart(life{
			Dir: g.dir, Run: g.run, Disk: disk, Rounds: o.lives, Crun: name == "crun", Ways: ways,
		})
		if err != nil {
			return err
		}
		for i, r := range results {
			floor := r.Times.times(results[1].Times)
			fmt.Fprintf(out, "| %s, %s | %s | %s | %.2f | %.2f | %d | %d | %d |\n",
				name, ways[i].Name, ms(r.Times.median()), ms(r.Times.least()),
				r.Times.times(results[0].Times), floor, r.Mounts, r.Inodes, r.Hooks)
			g.figures[name+", "+ways[i].Name+mark] = floor
		}
	}
	return nil
}

// makeExt4 makes a file with an empty ext4.
func makeExt4(name string) error {
	f, err := os.Create(name)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := f.Truncate(2 << 30); err != nil {
		return err
	}
	mkfs, err := exec.LookPath("mkfs.ext4")
	if err != nil {
		mkfs = "/sbin/mkfs.ext4"
	}
	return exec.Command(mkfs, "-q", name).Run()
}

// lived is the measurements of one way.
type lived struct {
	Times         samples
	Mounts, Hooks int // added to config.json
	Inodes        int // in the upper layer of the overlay
}

// liveApart runs this program again in its own mount namespace, so that no mount is left behind.
// crun refuses a hybrid cgroup hierarchy, so for crun the unified one is unmounted in there.
func liveApart(l life) ([]lived, error) {
	request, err := json.Marshal(l)
	if err != nil {
		return nil, err
	}
	cmd := exec.Command("/proc/self/exe", "-life", string(request))
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &unix.SysProcAttr{Unshareflags: unix.CLONE_NEWNS}
	answer, err := cmd.Output()
	if err != nil {
		return nil, fmt.Errorf("measuring lives: %w", err)
	}
	var results []lived
	return results, json.Unmarshal(answer, &results)
}

func lifeAlone(request string, out io.Writer) error {
	var l life
	if err := json.Unmarshal([]byte(request), &l); err != nil {
		return err
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return err
	}
	const unified = "/sys/fs/cgroup/unified"
	if _, err := os.Stat(unified); err == nil && l.Crun {
		if err := unix.Unmount(unified, unix.MNT_DETACH); err != nil {
			return err
		}
	}
	// We become the parent of a container's process when create exits.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	programs := l.Dir
	if l.Disk != "" {
		place := filepath.Join(l.Dir, "mounted")
		if err := os.MkdirAll(place, 0o755); err != nil {
			return err
		}
		if text, err := exec.Command("mount", "-o", "loop", l.Disk, place).CombinedOutput(); err != nil {
			return fmt.Errorf("mounting an ext4: %w: %s", err, text)
		}
		defer func() { _ = exec.Command("umount", place).Run() }()
		l.Dir = place
	}
	lower := filepath.Join(l.Dir, "image")
	if _, err := os.Stat(lower); err != nil {
		program, err := os.ReadFile(filepath.Join(programs, "stub"))
		if err != nil {
			return err
		}
		if err := makeImage(lower, program); err != nil {
			return err
		}
	}
	results := make([]lived, len(l.Ways))
	const warm = 1
	for round := range l.Rounds + warm {
		for i := range l.Ways {
			n := (i + round) % len(l.Ways)
			// Nothing is removed until all lives have ended: a file system may revisit each freed
			// inode before it allocates a new one.
			d, err := l.once(l.Ways[n], lower, fmt.Sprintf("bench-%d-%d-%d", os.Getpid(), round, n), &results[n])
			if err != nil {
				return fmt.Errorf("%s: %w", l.Ways[n].Name, err)
			}
			if round >= warm {
				results[n].Times = append(results[n].Times, d)
			}
		}
	}
	return json.NewEncoder(out).Encode(results)
}

// once runs one life. It measures what an engine would wait for, without mounting and unmounting
// the overlay.
func (l life) once(w way, lower, id string, r *lived) (_ time.Duration, err error) {
	dir, err := os.MkdirTemp(l.Dir, "life-")
	if err != nil {
		return 0, err
	}
	bundle, err := os.MkdirTemp(l.Run, "life-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(bundle)) }()
	for _, d := range []string{"upper", "work", "rootfs"} {
		if err := os.Mkdir(filepath.Join(dir, d), 0o755); err != nil {
			return 0, err
		}
	}
	rootfs := filepath.Join(dir, "rootfs")
	file, pidFile := filepath.Join(bundle, "config.json"), filepath.Join(bundle, "pid")
	options := fmt.Sprintf("lowerdir=%s,upperdir=%s/upper,workdir=%s/work", lower, dir, dir)
	if err := unix.Mount("overlay", rootfs, "overlay", 0, options); err != nil {
		return 0, fmt.Errorf("mounting an overlay: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Unmount(rootfs, unix.MNT_DETACH)) }()
	if err := os.WriteFile(file, withRoot(w.Config, rootfs), 0o644); err != nil {
		return 0, err
	}
	log, err := os.Create(filepath.Join(bundle, "log"))
	if err != nil {
		return 0, err
	}
	defer log.Close()
	null, err := os.Open(os.DevNull)
	if err != nil {
		return 0, err
	}
	defer null.Close()
	run := func(args ...string) error {
		argv := append([]string{w.Program, "--root", filepath.Join(l.Run, "state")}, args...)
		attr := &os.ProcAttr{Env: w.Env, Dir: bundle, Files: []*os.File{null, log, log}}
		p, err := os.StartProcess(argv[0], argv, attr)
		if err != nil {
			return err
		}
		state, err := p.Wait()
		if err == nil && !state.Success() {
			text, _ := os.ReadFile(log.Name())
			err = fmt.Errorf("%v: %v: %.1000s", args, state, text)
		}
		return err
	}
	live := func() error {
		if err := run("create", "--bundle", bundle, "--pid-file", pidFile, id); err != nil {
			return err
		}
		pid, err := readPid(pidFile)
		if err != nil {
			return err
		}
		if err := run("start", id); err != nil {
			return err
		}
		if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
			return fmt.Errorf("waiting for the container: %w", err)
		}
		return run("delete", id)
	}
	upper := filepath.Join(dir, "upper")
	before := 0
	if w.Again {
		if err := live(); err != nil {
			return 0, err
		}
		if err := os.WriteFile(file, withRoot(w.Config, rootfs), 0o644); err != nil {
			return 0, err
		}
		before = inodes(upper)
	}
	start := time.Now()
	if err := live(); err != nil {
		return 0, err
	}
	elapsed := time.Since(start)
	r.Inodes = inodes(upper) - before

	text, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	r.Mounts = strings.Count(string(text), `"destination"`) - strings.Count(string(w.Config), `"destination"`)
	var after struct{ Hooks map[string][]any }
	if err := json.Unmarshal(text, &after); err != nil {
		return 0, err
	}
	r.Hooks = 0
	for _, hooks := range after.Hooks {
		r.Hooks += len(hooks)
	}
	return elapsed, nil
}

// inodes counts the files below a directory.
func inodes(dir string) int {
	n := -1
	_ = filepath.WalkDir(dir, func(string, os.DirEntry, error) error { n++; return nil })
	return n
}

func readPid(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
