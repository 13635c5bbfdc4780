// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

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
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/replace"
	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// programs are where nvidia-smi may be beside PATH.
var programs = []string{"/usr/bin", "/usr/local/bin", "/opt/bin", "/usr/local/nvidia/bin", "/run/current-system/sw/bin", "/home/kubernetes/bin/nvidia/bin", "/var/lib/nvidia/bin"}

// said is what one text says.
type said struct {
	source string
	report smi.Report
}

// learnOptions are the flags of learn.
type learnOptions struct {
	root, output      string
	from              []string
	dryRun, ifChanged bool
}

func newLearn(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "learn",
		Short: "learn the UUIDs of MIG devices from nvidia-smi",
		Long: `Learns which MIG device has which UUID, which /proc does not tell, so that
containers can ask for MIG-<uuid>. It runs nvidia-smi -L and nvidia-smi -q,
compares them with /proc, and keeps the result in
/var/lib/nvidia-container-runtime/mig.learnt. Run it as root after MIG devices
were made or destroyed, or enable the systemd units nvsysfs-learn.service and
nvsysfs-learn.timer. What was known of other GPUs is kept.

Where nvidia-smi is neither in PATH nor in a usual directory, it is run inside
the driver container (root in config.toml, else /run/nvidia/driver).

The exit status is 1 if nothing could be learned of a GPU with MIG devices.`,
		Example: `  nvsysfs learn
  nvidia-smi -L | nvsysfs learn --from - --dry-run`,
		Args: noArguments,
	}
	var o learnOptions
	flags := cmd.Flags()
	flags.StringArrayVar(&o.from, "from", nil,
		"read output of nvidia-smi -L or -q, or both, from `FILE` (- is standard input) instead of running it; repeatable")
	flags.StringVar(&o.output, "output", "", "keep the UUIDs in `FILE`")
	flags.BoolVar(&o.dryRun, "dry-run", false, "print what would be kept")
	flags.BoolVar(&o.ifChanged, "if-changed", false, "do nothing if all MIG devices are known; reads only /proc")
	isFile(cmd, "from", "output")
	root := rootFlag(cmd, "")
	cmd.RunE = func(*cobra.Command, []string) error {
		o.root = *root
		return runLearn(i, o)
	}
	return cmd
}

func runLearn(i invocation, o learnOptions) error {
	cfg, err := loadConfig(i.environ, o.root)
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
	target, err := learntFile(root, o.output)
	if err != nil {
		return err
	}
	store, before, err := target.read(owners)
	if err != nil {
		return fmt.Errorf("learn: %w; remove it, or name another file with --output", err)
	}
	if o.ifChanged {
		if known, err := allKnown(root, owners); known || err != nil {
			return err
		}
	}

	reports, seen, err := hear(root, o.from, lookup(i.environ, "PATH"), cfg.DriverRoot)
	if err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	l := lesson{store: store, seen: seen}
	if err := l.learn(reports); err != nil {
		return fmt.Errorf("learn: %w", err)
	}
	for _, warning := range l.warnings {
		if _, err := fmt.Fprintf(i.stderr, "nvsysfs: note: %s\n", warning); err != nil {
			return err
		}
	}
	after := l.store.Encode()
	var out bytes.Buffer
	switch {
	case o.dryRun:
		out.Write(after)
	case bytes.Equal(before, after):
		fmt.Fprintf(&out, "%s%s is up to date\n", l.summary(), target.shown)
	default:
		if err := target.write(after); err != nil {
			return fmt.Errorf("learn: writing %s: %w", target.shown, err)
		}
		fmt.Fprintf(&out, "%swrote %s\n", l.summary(), target.shown)
	}
	if _, err := i.stdout.Write(out.Bytes()); err != nil {
		return err
	}
	return l.unlearnt()
}

// allKnown tells whether each MIG device has been learnt.
func allKnown(root sysfs.Root, owners []int) (bool, error) {
	inv, err := sysfs.Read(root, true)
	if err != nil || inv.Driver == nil || namesOnly(inv.Driver.Version) {
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

// namesOnly tells whether a driver is older than R470: its MIG devices have names made of what /proc shows, and no UUIDs.
func namesOnly(version string) bool {
	branch, _, _ := strings.Cut(version, ".")
	number, err := strconv.Atoi(branch)
	return err == nil && number < 470
}

// hear reads the texts, or asks nvidia-smi, and looks at the machine: as it was all the time while nvidia-smi spoke.
func hear(root sysfs.Root, from []string, pathVar, driverRoot string) ([]said, map[string]seenGPU, error) {
	if len(from) > 0 {
		var reports []said
		for _, name := range from {
			report, err := readText(name)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", sourceName(name), err)
			}
			reports = append(reports, said{sourceName(name), report})
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
	// The first time may change the machine: MIG devices that the driver keeps are there from the first use of the GPU on.
	const tries = 3
	for range tries {
		var reports []said
		for _, flag := range []string{"-L", "-q"} {
			text, err := program.ask(flag)
			if err != nil {
				return nil, nil, err
			}
			report, err := smi.Parse(text)
			if err != nil {
				return nil, nil, fmt.Errorf("%s %s: %w", program, flag, err)
			}
			reports = append(reports, said{program.String() + " " + flag, report})
		}
		after, err := look(root)
		if err != nil {
			return nil, nil, err
		}
		if maps.EqualFunc(before, after, seenGPU.same) {
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

// findSMI finds nvidia-smi in PATH or the usual directories, or else in the driver's container, as the GPU operator has it.
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

// seenGPU is a GPU as the driver's files show it.
type seenGPU struct {
	learnt.Seen
	index  int
	driver string
	err    error
}

func (s seenGPU) same(other seenGPU) bool {
	return s.Address == other.Address && slices.Equal(s.Marks, other.Marks)
}

// look reads the machine. The result has the UUIDs in lower case as keys.
func look(root sysfs.Root) (map[string]seenGPU, error) {
	inv, err := sysfs.Read(root, true)
	if err != nil {
		return nil, err
	}
	if inv.Driver == nil {
		return nil, fmt.Errorf("no NVIDIA kernel driver is loaded: neither %s nor %s is there", root.Path("/proc/driver/nvidia/version"), root.Path("/sys/module/nvidia/version"))
	}
	epoch, err := mig.ReadEpoch(root, inv.Driver.Version)
	if err != nil {
		return nil, err
	}
	seen := map[string]seenGPU{}
	for _, gpu := range inv.GPUs {
		if gpu.UUID == "" || gpu.Excluded {
			continue
		}
		uuid := strings.ToLower(strings.TrimPrefix(gpu.UUID, "GPU-"))
		s := seenGPU{
			Seen:  learnt.Seen{UUID: "GPU-" + uuid, Address: gpu.Address.String(), Instances: gpu.Instances},
			index: gpu.Index, driver: inv.Driver.Version, err: gpu.Err,
		}
		if other, ok := seen[s.UUID]; ok {
			s.err = fmt.Errorf("the GPU at %s has the same UUID", other.Address)
		}
		if s.err == nil {
			s.Marks, s.err = mig.ReadMarks(root, gpu.Minor, epoch, gpu.Instances)
		}
		serial, ok, err := sysfs.PCISerial(root, gpu.Name)
		if ok && err == nil {
			s.Candidates = append(s.Candidates,
				learnt.Candidate{PDI: binary.LittleEndian.Uint64(serial[:]), Source: learnt.FromSerial},
				learnt.Candidate{PDI: binary.BigEndian.Uint64(serial[:]), Source: learnt.FromSerial})
		}
		// In a vGPU guest the driver takes the first 8 bytes of the GPU's UUID, as they are in memory: kmigmgrGenerateComputeInstanceUuid_VF in
		// kernel_mig_manager.c of NVIDIA's open kernel modules.
		if bytes, err := hex.DecodeString(strings.ReplaceAll(uuid, "-", "")); err == nil && len(bytes) == 16 {
			s.Candidates = append(s.Candidates, learnt.Candidate{PDI: binary.LittleEndian.Uint64(bytes), Source: learnt.FromUUID})
		}
		seen[s.UUID] = s
	}
	return seen, nil
}

// lesson is one run of learning.
type lesson struct {
	store    learnt.Store
	seen     map[string]seenGPU
	heard    []seenGPU // GPUs that the texts speak of, in their order
	warnings []string
}

func (l *lesson) learn(reports []said) error {
	gpus, err := l.merge(reports)
	if err != nil {
		return err
	}
	for _, gpu := range gpus {
		seen := l.seen[gpu.UUID]
		if seen.err != nil {
			l.warnings = append(l.warnings, fmt.Sprintf("GPU %d at %s is left out: %v", seen.index, seen.Address, seen.err))
			continue
		}
		store, missing, err := l.store.Learn(seen.Seen, gpu)
		if err != nil {
			return err
		}
		if missing != "" {
			l.warnings = append(l.warnings, fmt.Sprintf("GPU %d at %s: %s", seen.index, seen.Address, missing))
		}
		l.store = store
		l.heard = append(l.heard, seen)
	}
	return nil
}

// merge joins what several texts say of a GPU, and checks that they are of this machine.
func (l *lesson) merge(reports []said) ([]smi.GPU, error) {
	var gpus []smi.GPU
	for _, r := range reports {
		for _, line := range r.report.Lines {
			l.warnings = append(l.warnings, fmt.Sprintf("%s, line %d: %.200q", r.source, line.Number, line.Text))
		}
		for _, gpu := range r.report.GPUs {
			seen, ok := l.seen[gpu.UUID]
			if !ok {
				return nil, fmt.Errorf("%s: %s is not a GPU of this machine: /proc/driver/nvidia/gpus has %s", r.source, gpu.UUID, strings.Join(slices.Sorted(maps.Keys(l.seen)), ", "))
			}
			if r.report.Driver != "" && r.report.Driver != seen.driver {
				return nil, fmt.Errorf("%s is of driver %.40q, this machine has %s", r.source, r.report.Driver, seen.driver)
			}
			at := slices.IndexFunc(gpus, func(other smi.GPU) bool { return other.UUID == gpu.UUID })
			if at < 0 {
				gpus = append(gpus, gpu)
				continue
			}
			if err := join(&gpus[at], gpu); err != nil {
				return nil, fmt.Errorf("%s: %w", r.source, err)
			}
		}
	}
	return gpus, nil
}

// join adds to what is known of a GPU what another text has.
func join(gpu *smi.GPU, other smi.GPU) error {
	if gpu.Listed && other.Listed && !slices.Equal(gpu.Devices, other.Devices) ||
		gpu.Queried && other.Queried && !slices.Equal(gpu.IDs, other.IDs) ||
		gpu.HasPDI && other.HasPDI && gpu.PDI != other.PDI {
		return fmt.Errorf("%s is not what another text has it", gpu.UUID)
	}
	if other.Listed {
		gpu.Listed, gpu.Devices = true, other.Devices
	}
	if other.Queried {
		gpu.Queried, gpu.IDs, gpu.Address = true, other.IDs, other.Address
	}
	if other.HasPDI {
		gpu.HasPDI, gpu.PDI = true, other.PDI
	}
	return nil
}

// known is how many of the GPU's MIG devices have been learnt, and what is known of it.
func (l *lesson) known(s seenGPU) (int, learnt.GPU) {
	gpu, _ := l.store.Find(s.UUID)
	known := 0
	for n, i := range s.Instances {
		if slices.ContainsFunc(gpu.Devices, func(d learnt.Device) bool { return d.GI == i.GI && d.CI == i.CI && d.Mark == s.Marks[n] }) {
			known++
		}
	}
	return known, gpu
}

func (l *lesson) summary() string {
	var b strings.Builder
	for _, s := range l.heard {
		known, gpu := l.known(s)
		fmt.Fprintf(&b, "GPU %d at %s: %d of %d MIG devices, ", s.index, s.Address, known, len(s.Instances))
		switch {
		case gpu.Chip != 0:
			fmt.Fprintf(&b, "PDI 0x%016x from %s, proved by a UUID\n", gpu.PDI, gpu.Source)
		case gpu.Source != "":
			fmt.Fprintf(&b, "PDI 0x%016x from %s, not proved by a UUID\n", gpu.PDI, gpu.Source)
		default:
			b.WriteString("PDI not known\n")
		}
	}
	return b.String()
}

// unlearnt is an error if there are MIG devices whose UUIDs remain unknown.
func (l *lesson) unlearnt() error {
	var none []string
	for _, s := range l.heard {
		if known, gpu := l.known(s); len(s.Instances) > 0 && known == 0 && gpu.Source == "" && !namesOnly(s.driver) {
			none = append(none, fmt.Sprintf("%d at %s", s.index, s.Address))
		}
	}
	if len(none) == 0 {
		return nil
	}
	return fmt.Errorf("learn: nothing is known of the MIG devices of GPU %s", some(none))
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

// checkMIGUUIDs: drivers since R470 give MIG devices names that /proc does not have, and those are what Kubernetes passes.
func checkMIGUUIDs(p patient) []finding {
	if !p.driverLoaded() || namesOnly(p.survey.Inventory.Driver.Version) {
		return nil
	}
	uuids, err := plan.ReadMIGUUIDs(p.root, p.survey.Inventory)
	if err != nil {
		return wrong("", "%v", err)
	}
	devices, known := 0, 0
	var unlearnt []string
	for _, gpu := range p.survey.Inventory.GPUs {
		before := known
		for n := range gpu.Instances {
			devices++
			if _, ok := uuids.Of(gpu, n); ok {
				known++
			}
		}
		if known-before < len(gpu.Instances) {
			unlearnt = append(unlearnt, strconv.Itoa(gpu.Index))
		}
	}
	file := p.root.Path(learnt.Path)
	switch {
	case devices == 0:
		return nil
	case errors.Is(uuids.Err, fs.ErrNotExist):
		return note("nvsysfs learn && systemctl enable --now nvsysfs-learn.service nvsysfs-learn.timer",
			"no container can ask for a MIG device by MIG-<uuid>, as Kubernetes does: nothing has been learnt, there is no %s", file)
	case uuids.Err != nil:
		return wrong("rm "+file+" && nvsysfs learn", "no container can ask for a MIG device by MIG-<uuid>, as Kubernetes does: %v", uuids.Err)
	case known < devices:
		return note("nvsysfs learn && systemctl enable --now nvsysfs-learn.service nvsysfs-learn.timer",
			"%d of %d MIG devices have not been learnt, or were made anew since (GPU %s): containers that ask for MIG-<uuid> may not start", devices-known, devices, some(unlearnt))
	}
	return ok("all %d MIG devices have been learnt", devices)
}
