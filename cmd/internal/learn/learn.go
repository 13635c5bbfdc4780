// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package learn is "nvsysfs learn": it asks nvidia-smi which MIG device has which UUID, and adds
// the answer to the file of package mig/learnt.
package learn

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/replace"
	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Options are the flags of the command.
type Options struct {
	Root      string
	Output    string   // "" is [learnt.Path] below Root
	From      []string // files with output of nvidia-smi, "-" being standard input; it is run if there are none
	DryRun    bool
	IfChanged bool
}

// programs are where nvidia-smi may be beside PATH.
var programs = []string{"/usr/bin", "/usr/local/bin", "/opt/bin", "/usr/local/nvidia/bin", "/run/current-system/sw/bin", "/home/kubernetes/bin/nvidia/bin", "/var/lib/nvidia/bin"}

// Run learns and prints what came of it. It is an error if nothing is known of a GPU with MIG
// devices.
func Run(o Options, environ []string, stdout, stderr io.Writer) error {
	environ, err := plan.Below(o.Root, environ)
	if err != nil {
		return err
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return err
	}
	root, err := sysfs.NewRoot(cfg.Sysroot)
	if err != nil {
		return err
	}
	owners, err := plan.LearntOwners()
	if err != nil {
		return err
	}
	target, err := learntFile(root, o.Output)
	if err != nil {
		return err
	}
	store, before, err := target.read(owners)
	if err != nil {
		return fmt.Errorf("learn: %w; remove it, or name another file with --output", err)
	}
	if o.IfChanged {
		if known, err := allKnown(root, owners); known || err != nil {
			return err
		}
	}

	reports, seen, err := hear(root, o.From, plan.Getenv(environ, "PATH"), cfg.DriverRoot)
	if err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	lesson, err := store.Take(seen, reports)
	if err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	for _, note := range lesson.Notes {
		if _, err := fmt.Fprintf(stderr, "nvsysfs: note: %s\n", note); err != nil {
			return err
		}
	}
	after := lesson.Store.Encode()
	var out bytes.Buffer
	switch {
	case o.DryRun:
		out.Write(after)
	case bytes.Equal(before, after):
		fmt.Fprintf(&out, "%s%s is up to date\n", lesson, target.shown)
	default:
		if err := target.write(after); err != nil {
			return fmt.Errorf("learn: writing %s: %w", target.shown, err)
		}
		fmt.Fprintf(&out, "%swrote %s\n", lesson, target.shown)
	}
	if _, err := stdout.Write(out.Bytes()); err != nil {
		return err
	}
	if unknown := lesson.Unknown(); len(unknown) > 0 {
		return fmt.Errorf("learn: nothing is known of the MIG devices of GPU %s", strings.Join(unknown, ", "))
	}
	return nil
}

// allKnown tells whether each MIG device has been learnt.
func allKnown(root sysfs.Root, owners []int) (bool, error) {
	inv, err := sysfs.Read(root, true)
	if err != nil || inv.Driver == nil || !mig.HasUUIDs(inv.Driver.Version) {
		return true, err
	}
	uuids := sysfs.ReadMIGUUIDs(root, inv, owners...)
	for _, gpu := range inv.GPUs {
		for n := range gpu.Instances {
			if _, ok := uuids.Of(gpu, n); !ok {
				return false, nil
			}
		}
	}
	return true, nil
}

// hear reads the texts, or asks nvidia-smi, and looks at the machine: as it was all the time while
// nvidia-smi spoke.
func hear(root sysfs.Root, from []string, pathVar, driverRoot string) ([]learnt.Report, map[string]learnt.Seen, error) {
	if len(from) > 0 {
		var reports []learnt.Report
		for _, name := range from {
			report, err := readText(name)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", sourceName(name), err)
			}
			reports = append(reports, learnt.Report{Source: sourceName(name), Report: report})
		}
		seen, err := look(root)
		return reports, seen, err
	}
	program, err := findSMI(root, pathVar, driverRoot)
	if err != nil {
		return nil, nil, err
	}
	before, err := look(root)
	if err != nil {
		return nil, nil, err
	}
	// The first time may change the machine: MIG devices that the driver keeps are there from the
	// first use of the GPU on.
	const tries = 3
	for range tries {
		var reports []learnt.Report
		for _, flag := range []string{"-L", "-q"} {
			text, err := program.ask(flag)
			if err != nil {
				return nil, nil, err
			}
			report, err := smi.Parse(text)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", program, flag, err)
			}
			reports = append(reports, learnt.Report{Source: program.String() + " " + flag, Report: report})
		}
		after, err := look(root)
		if err != nil {
			return nil, nil, err
		}
		if maps.EqualFunc(before, after, func(a, b learnt.Seen) bool {
			return a.Address == b.Address && slices.Equal(a.Marks, b.Marks)
		}) {
			return reports, after, nil
		}
		before = after
	}
	return nil, nil, errors.New("MIG devices are being made or destroyed: run this again when that is over")
}

// sourceName is the name of a file that stands on the command line.
func sourceName(name string) string {
	if name == "-" {
		return "standard input"
	}
	return fmt.Sprintf("%.200q", name)
}

func readText(name string) (smi.Report, error) {
	in := os.Stdin
	if name != "-" {
		file, err := os.Open(name)
		if err != nil {
			return smi.Report{}, errors.Unwrap(err)
		}
		defer file.Close()
		in = file
	}
	text, err := io.ReadAll(io.LimitReader(in, smi.MaxSize+1))
	if err != nil {
		return smi.Report{}, err
	}
	return smi.Parse(text)
}

// smiProgram is nvidia-smi.
type smiProgram struct {
	path   string
	chroot string // root of the driver's container, in which path is; "" is this machine's
}

func (p smiProgram) String() string {
	if p.chroot != "" {
		return "chroot " + p.chroot + " " + p.path
	}
	return p.path
}

// findSMI finds nvidia-smi in PATH or the usual directories, or else in the driver's container, as
// the GPU operator has it.
func findSMI(root sysfs.Root, pathVar, driverRoot string) (smiProgram, error) {
	dirs := append(filepath.SplitList(pathVar), programs...)
	for _, dir := range dirs {
		name := filepath.Join(dir, "nvidia-smi")
		if info, err := os.Stat(name); filepath.IsAbs(dir) && err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return smiProgram{path: name}, nil
		}
	}
	if path.Clean(driverRoot) == "/" {
		driverRoot = "/run/nvidia/driver"
	}
	if resolved, err := root.Resolve(driverRoot); err == nil {
		container := sysfs.Root(root.Path(resolved))
		if info, err := container.Stat("usr/bin/nvidia-smi"); err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0 {
			return smiProgram{path: "/usr/bin/nvidia-smi", chroot: string(container)}, nil
		}
	}
	return smiProgram{}, fmt.Errorf("nvidia-smi is not in PATH (%s), not in %s, and not in a driver container at %s: give its output, of -L and of -q, with --from",
		pathVar, strings.Join(programs, ", "), root.Path(driverRoot))
}

// ask runs the program.
func (p smiProgram) ask(flag string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, p.path, flag)
	command.Env = append(os.Environ(), "LC_ALL=C")
	if p.chroot != "" {
		command.SysProcAttr = &syscall.SysProcAttr{Chroot: p.chroot}
		command.Dir = "/"
	}
	text, err := command.Output()
	if err != nil {
		first, _, _ := strings.Cut(strings.TrimSpace(string(text)), "\n")
		return nil, fmt.Errorf("%s %s: %w: %.200q", p, flag, err, first)
	}
	return text, nil
}

// look reads the machine. The result has the UUIDs in lower case as keys.
func look(root sysfs.Root) (map[string]learnt.Seen, error) {
	inv, err := sysfs.Read(root, true)
	if err != nil {
		return nil, err
	}
	if inv.Driver == nil {
		return nil, fmt.Errorf("no NVIDIA kernel driver is loaded: neither %s nor %s exists", root.Path("/proc/driver/nvidia/version"), root.Path("/sys/module/nvidia/version"))
	}
	epoch, err := mig.ReadEpoch(root, inv.Driver.Version)
	if err != nil {
		return nil, err
	}
	seen := map[string]learnt.Seen{}
	for _, gpu := range inv.GPUs {
		if gpu.UUID == "" || gpu.Excluded {
			continue
		}
		uuid := strings.ToLower(strings.TrimPrefix(gpu.UUID, "GPU-"))
		s := learnt.Seen{
			UUID: "GPU-" + uuid, Address: gpu.Address.String(), Index: gpu.Index, Driver: inv.Driver.Version, Instances: gpu.Instances, Err: gpu.Err,
		}
		if other, ok := seen[s.UUID]; ok {
			s.Err = fmt.Errorf("the GPU at %s has the same UUID", other.Address)
		}
		if s.Err == nil {
			s.Marks, s.Err = mig.ReadMarks(root, gpu.Minor, epoch, gpu.Instances)
		}
		serial, ok, err := sysfs.PCISerial(root, gpu.Name)
		if ok && err == nil {
			s.Candidates = append(s.Candidates,
				learnt.Candidate{PDI: binary.LittleEndian.Uint64(serial[:]), Source: learnt.FromSerial},
				learnt.Candidate{PDI: binary.BigEndian.Uint64(serial[:]), Source: learnt.FromSerial})
		}
		// In a vGPU guest the driver takes the first 8 bytes of the GPU's UUID, as they are in
		// memory: kmigmgrGenerateComputeInstanceUuid_VF in kernel_mig_manager.c of NVIDIA's open
		// kernel modules.
		if bytes, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", "")); err == nil && len(bytes) == 16 {
			s.Candidates = append(s.Candidates, learnt.Candidate{PDI: binary.LittleEndian.Uint64(bytes), Source: learnt.FromUUID})
		}
		seen[s.UUID] = s
	}
	return seen, nil
}

// learntTarget is the file that is read and written.
type learntTarget struct {
	root  sysfs.Root
	name  string // below root
	shown string
}

func learntFile(root sysfs.Root, output string) (learntTarget, error) {
	if output == "" {
		return learntTarget{root, learnt.Path, root.Path(learnt.Path)}, nil
	}
	absolute, err := filepath.Abs(output)
	return learntTarget{"/", strings.TrimPrefix(absolute, "/"), absolute}, err
}

// read reads what has been learnt before, also as it stands in the file.
func (t learntTarget) read(owners []int) (learnt.Store, []byte, error) {
	store, err := sysfs.ReadLearnt(t.root, t.name, owners...)
	if errors.Is(err, fs.ErrNotExist) {
		return learnt.Store{}, nil, nil
	}
	if err != nil {
		return learnt.Store{}, nil, err
	}
	data, err := t.root.ReadFile(t.name)
	return store, data, err
}

// write replaces the file whole: who reads meanwhile sees the old one or the new one.
func (t learntTarget) write(data []byte) (err error) {
	defer func() {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (are you root?)", err)
		}
	}()
	d, err := replace.Dir(t.root, path.Dir("/"+t.name))
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	base := path.Base(t.name)
	if info, err := d.Lstat(base); err == nil && !info.Mode().IsRegular() {
		return errors.New("it is not a regular file")
	}
	return replace.Write(d, base, replace.File{Data: data, Perm: 0o644})
}
