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
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// life is what lifeAlone measures: whole lives of containers, in each of some
// ways.
type life struct {
	Dir    string // for root filesystems
	Run    string // for bundles
	Rounds int
	Crun   bool
	Ways   []way
}

// way is one of the ways to start a container.
type way struct {
	Name    string
	Program string
	Env     []string
	Config  []byte
	Create  bool // that alone: the low-level runtime is a stub
}

// lives measures create, start, wait and delete of a container on a fresh
// overlay.
func lives(g *ground, o options, out io.Writer) error {
	fmt.Fprint(out, "\n## Whole life of a container\n\nCreate, start, wait, delete; the root filesystem is a fresh overlay each time; the driver has all its files.\n\n")
	if os.Geteuid() != 0 {
		fmt.Fprintln(out, "Not measured: this takes root.")
		return nil
	}
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
	link, err := linkTime(g.dir)
	if err != nil {
		return err
	}
	var spent strings.Builder
	fmt.Fprint(out, "| | median ms | least ms | ÷ plain | mounts added | hooks added |\n|---|---:|---:|---:|---:|---:|\n")
	for _, name := range []string{"runc", "crun"} {
		path, err := exec.LookPath(name)
		if err != nil {
			fmt.Fprintf(out, "| no %s on this machine | | | | | |\n", name)
			continue
		}
		one, err := g.oneMount(g.t4, path)
		if err != nil {
			return err
		}
		ways := []way{
			{Name: name + ", plain", Program: path, Env: os.Environ(), Config: plain},
			{Name: name + ", nothing asked", Program: g.shim, Env: g.environment(g.t4, path), Config: plain},
			{Name: name + ", one GPU, compute and utility", Program: g.shim, Env: g.environment(g.t4, path), Config: usual},
			{Name: name + ", one GPU, all driver capabilities", Program: g.shim, Env: g.environment(g.t4, path), Config: asking},
			{Name: name + ", the same with driver-directory", Program: g.shim, Env: one, Config: asking},
		}
		listed := len(ways)
		ways = append(ways,
			way{Name: "create, nothing asked", Program: g.shim, Env: g.environment(g.t4, g.stub), Config: plain, Create: true},
			way{Name: "create, all", Program: g.shim, Env: g.environment(g.t4, g.stub), Config: asking, Create: true},
		)
		if o.nvidia != "" {
			bin := filepath.Join(g.dir, "bin-"+name)
			if err := os.MkdirAll(bin, 0o755); err != nil {
				return err
			}
			for _, link := range []string{"docker-runc", "runc", "crun"} {
				if err := os.Symlink(path, filepath.Join(bin, link)); err != nil {
					return err
				}
			}
			env := append([]string{"PATH=" + bin + ":" + os.Getenv("PATH")}, os.Environ()...)
			ways = slices.Insert(ways, listed, way{Name: name + ", through NVIDIA's runtime, one GPU", Program: o.nvidia, Env: env, Config: asking})
			listed++
		}
		results, err := liveApart(life{Dir: g.dir, Run: g.run, Rounds: o.lives, Crun: name == "crun", Ways: ways})
		if err != nil {
			return err
		}
		for i, r := range results[:listed] {
			fmt.Fprintf(out, "| %s | %s | %s | %.2f | %d | %d |\n", ways[i].Name, ms(r.Times.median()), ms(r.Times.least()), r.Times.times(results[0].Times), r.Mounts, r.Hooks)
			g.figures[ways[i].Name] = r.Times.times(results[0].Times)
		}
		median := func(i int) time.Duration { return results[i].Times.median() }
		starts := median(1) - median(0)
		work := median(listed+1) - median(listed)
		fmt.Fprintf(&spent, "| %s | %s | %s | %s | %s |\n", name, ms(median(3)-median(0)), ms(starts), ms(work), ms(median(3)-median(0)-starts-work))
	}
	fmt.Fprintf(out, "\nWhere the time goes that a container with one GPU and all driver capabilities takes more than a plain one, in milliseconds. Starting this "+
		"program for create, start and delete is what no program in front of a runtime gets around. Its own work in create is measured with a stub as runtime, on the "+
		"same overlay, where links and directories have to be made first; a symbolic link takes this file system %d µs.\n\n"+
		"| | more | three starts of a program | its work in create | in the runtime: devices, rules, mounts |\n|---|---:|---:|---:|---:|\n%s", link.Microseconds(), spent.String())
	return nil
}

// linkTime is what a symbolic link costs in a directory.
func linkTime(dir string) (time.Duration, error) {
	dir, err := os.MkdirTemp(dir, "links-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	const links = 60
	start := time.Now()
	for i := range links {
		if err := os.Symlink("/usr/lib/nvidia-container-driver/64/libcuda.so.550.54.15", filepath.Join(dir, strconv.Itoa(i))); err != nil {
			return 0, err
		}
	}
	return time.Since(start) / links, nil
}

// lived is what was measured of one way.
type lived struct {
	Times         samples
	Mounts, Hooks int // in config.json, more than before
}

// liveApart runs this program again in a mount namespace of its own, so that
// no mount is left behind. crun refuses a hybrid cgroup hierarchy, so for it
// the unified one is taken away in there.
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
	// The process of a container comes to us when create has ended.
	if err := unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0); err != nil {
		return err
	}
	lower := filepath.Join(l.Dir, "image")
	if _, err := os.Stat(lower); err != nil {
		program, err := os.ReadFile(filepath.Join(l.Dir, "stub"))
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

// once lives one life. What is measured is what an engine would wait for; the
// overlay is mounted before and taken away after that.
func (l life) once(w way, lower, id string, r *lived) (_ time.Duration, err error) {
	dir, err := os.MkdirTemp(l.Dir, "life-")
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
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
	rootfs, file, pidFile := filepath.Join(dir, "rootfs"), filepath.Join(bundle, "config.json"), filepath.Join(bundle, "pid")
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
		p, err := os.StartProcess(argv[0], argv, &os.ProcAttr{Env: w.Env, Dir: bundle, Files: []*os.File{null, log, log}})
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

	start := time.Now()
	if err := run("create", "--bundle", bundle, "--pid-file", pidFile, id); err != nil {
		return 0, err
	}
	if w.Create {
		return time.Since(start), nil
	}
	pid, err := readPid(pidFile)
	if err != nil {
		return 0, err
	}
	if err := run("start", id); err != nil {
		return 0, err
	}
	if _, err := unix.Wait4(pid, nil, 0, nil); err != nil {
		return 0, fmt.Errorf("waiting for the container: %w", err)
	}
	if err := run("delete", id); err != nil {
		return 0, err
	}
	elapsed := time.Since(start)

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

func readPid(file string) (int, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(strings.TrimSpace(string(data)))
}
