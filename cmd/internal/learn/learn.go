// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package learn is "nvsysfs learn": it gets the UUIDs of MIG devices from nvidia-smi, and records
// them in the file of package mig/learnt.
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
	From      []string // files with output of nvidia-smi, "-" is standard input; if empty, nvidia-smi is run
	DryRun    bool
	IfChanged bool
}

// programDirs are searched for nvidia-smi after PATH.
var programDirs = []string{
	"/usr/bin", "/usr/local/bin", "/opt/bin", "/usr/local/nvidia/bin", "/run/current-system/sw/bin",
	"/home/kubernetes/bin/nvidia/bin", "/var/lib/nvidia/bin",
}

// Run records UUIDs and prints the result. It returns an error if nothing is known about a GPU with
// MIG devices.
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

	reports, seen, err := ask(root, o.From, plan.Getenv(environ, "PATH"), cfg.DriverRoot)
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
		return fmt.Errorf("learn: nothing is known about the MIG devices of GPU %s", strings.Join(unknown, ", "))
	}
	return nil
}

// allKnown reports whether the UUIDs of all MIG devices are recorded.
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

// ask reads the files, or else runs nvidia-smi, and returns their reports and the machine's state,
// which did not change while nvidia-smi ran.
func ask(root sysfs.Root, from []string, pathVar, driverRoot string) ([]learnt.Report, map[string]learnt.Seen, error) {
	if len(from) > 0 {
		var reports []learnt.Report
		for _, name := range from {
			report, err := readText(name)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", sourceName(name), err)
			}
			reports = append(reports, learnt.Report{Source: sourceName(name), Report: report})
		}
		seen, err := readMachine(root)
		return reports, seen, err
	}
	program, err := findSMI(root, pathVar, driverRoot)
	if err != nil {
		return nil, nil, err
	}
	before, err := readMachine(root)
	if err != nil {
		return nil, nil, err
	}
	// The first run may change the machine: the driver creates persistent MIG devices when the GPU
	// is first used.
	const tries = 3
	for range tries {
		var reports []learnt.Report
		for _, flag := range []string{"-L", "-q"} {
			text, err := program.run(flag)
			if err != nil {
				return nil, nil, err
			}
			report, err := smi.Parse(text)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", program, flag, err)
			}
			reports = append(reports, learnt.Report{Source: program.String() + " " + flag, Report: report})
		}
		after, err := readMachine(root)
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
	return nil, nil, errors.New("MIG devices are being created or destroyed: try again later")
}

// sourceName describes a file from the command line.
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
	chroot string // root of the driver container that has path; "" is this machine
}

func (p smiProgram) String() string {
	if p.chroot != "" {
		return "chroot " + p.chroot + " " + p.path
	}
	return p.path
}

// findSMI finds nvidia-smi in PATH, in the usual directories, or else in the driver container of
// the GPU operator.
func findSMI(root sysfs.Root, pathVar, driverRoot string) (smiProgram, error) {
	isProgram := func(info fs.FileInfo, err error) bool {
		return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
	}
	dirs := append(filepath.SplitList(pathVar), programDirs...)
	for _, dir := range dirs {
		name := filepath.Join(dir, "nvidia-smi")
		if filepath.IsAbs(dir) && isProgram(os.Stat(name)) {
			return smiProgram{path: name}, nil
		}
	}
	if path.Clean(driverRoot) == "/" {
		driverRoot = "/run/nvidia/driver"
	}
	if resolved, err := root.Resolve(driverRoot); err == nil {
		container := sysfs.Root(root.Path(resolved))
		if isProgram(container.Stat("usr/bin/nvidia-smi")) {
			return smiProgram{path: "/usr/bin/nvidia-smi", chroot: string(container)}, nil
		}
	}
	return smiProgram{}, fmt.Errorf("nvidia-smi is not in PATH (%s), not in %s, and not in a driver container at %s: "+
		"pass its output, of -L and of -q, with --from",
		pathVar, strings.Join(programDirs, ", "), root.Path(driverRoot))
}

func (p smiProgram) run(flag string) ([]byte, error) {
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

// readMachine reads the machine's GPUs and MIG devices, by lower-case UUID.
func readMachine(root sysfs.Root) (map[string]learnt.Seen, error) {
	inv, err := sysfs.Read(root, true)
	if err != nil {
		return nil, err
	}
	if inv.Driver == nil {
		return nil, fmt.Errorf("no NVIDIA kernel driver is loaded: neither %s nor %s exists",
			root.Path("/proc/driver/nvidia/version"), root.Path("/sys/module/nvidia/version"))
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
			UUID: "GPU-" + uuid, Address: gpu.Address.String(), Index: gpu.Index, Driver: inv.Driver.Version,
			Instances: gpu.Instances, Err: gpu.Err,
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
		// In a vGPU guest, the driver uses the first 8 bytes of the GPU's UUID in memory order:
		// kmigmgrGenerateComputeInstanceUuid_VF in kernel_mig_manager.c of NVIDIA's open kernel
		// modules.
		if id, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", "")); err == nil && len(id) == 16 {
			s.Candidates = append(s.Candidates,
				learnt.Candidate{PDI: binary.LittleEndian.Uint64(id), Source: learnt.FromUUID})
		}
		seen[s.UUID] = s
	}
	return seen, nil
}

// learntTarget is the file with the records.
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

// read returns the previous records and the file's bytes.
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

// write replaces the file atomically.
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
