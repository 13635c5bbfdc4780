// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/require"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Machine is what the machine has of what one container asks for.
type Machine struct {
	Root       sysfs.Root // stands for "/" when the machine is read
	DriverRoot sysfs.Root // the same, or a driver container's root
	Inventory  sysfs.Inventory
	Selection  sysfs.Selection
	Elf        elf.Machine // of the driver's libraries

	Nodes     []sysfs.Node  // device nodes for the container
	Missing   []sysfs.Node  // those of Nodes that the host lacks and that we may make
	Files     []driver.File // the user-mode driver, by driver capability
	GDS       []string      // files and directories that GPUDirect Storage needs, below Root
	Hidden    []string      // entries of /proc/driver/nvidia that are not for the container
	Linked    string        // directory with hard links to Files; see LinkFiles
	LinkNames []string      // the names in it, "" for a file that is mounted; in the order of Files

	Notes []string // what the operator may want to know

	userNS *bool // what insideUserNamespace has found
}

// ReadMachine reads the machine and picks what the container asks for.
// hostPath is the PATH of the caller, in which the driver's programs are
// looked up first.
func ReadMachine(cfg Config, req spec.Request, facts spec.Facts, hostPath string) (Machine, error) {
	query := sysfs.ParseQuery(req.Devices)
	m := Machine{}
	var err error
	if m.Root, err = sysfs.NewRoot(cfg.Sysroot); err != nil {
		return Machine{}, fmt.Errorf("sysroot: %w", err)
	}
	if m.DriverRoot, err = driverRoot(m.Root, cfg.DriverRoot); err != nil {
		return Machine{}, err
	}
	switch {
	case query.NeedsMIGUUIDs():
		inside, err := m.insideUserNamespace()
		if err != nil {
			return Machine{}, err
		}
		if m.Inventory, query, err = sysfs.ReadForMIGUUIDs(m.Root, query, learntOwners(inside)...); err != nil {
			return Machine{}, err
		}
	case req.MIGConfig || req.MIGMonitor:
		m.Inventory, err = sysfs.Read(m.Root, true)
	default:
		m.Inventory, err = sysfs.ReadFor(m.Root, query)
	}
	if err != nil {
		return Machine{}, err
	}
	if err := sysfs.CheckPlatform(m.Root, m.Inventory.Driver); err != nil {
		return Machine{}, err
	}
	if m.Inventory.Driver == nil {
		return Machine{}, noDriver(m.Root, req)
	}
	if m.Selection, err = m.Inventory.Select(query); err != nil {
		if all, readErr := sysfs.Read(m.Root, query.NeedsInstances()); readErr == nil {
			if _, complete := all.Select(query); complete != nil {
				err = complete // it lists all that there is
			}
		}
		return Machine{}, fmt.Errorf("devices asked for by %s: %w", req.Source, withUnbound(m.Root, m.Inventory, err))
	}
	for _, g := range m.Selection.Skipped {
		m.Notes = append(m.Notes, fmt.Sprintf("GPU %s is left out of \"all\": %v", g.Name, g.Err))
	}
	for _, g := range m.Selection.Partitioned(m.Root) {
		m.Notes = append(m.Notes, fmt.Sprintf("GPU %d is divided into MIG devices and none of them was asked for, so programs find no device; ask for %s",
			g.Index, strings.Join(g.MIGNames(), ", ")))
	}
	for _, name := range m.Inventory.Odd {
		m.Notes = append(m.Notes, fmt.Sprintf("%s is passed over: not a PCI address as the driver spells it", m.Root.Path("/proc/driver/nvidia/gpus/"+name)))
	}
	if err := m.meet(req.Requirements); err != nil {
		return Machine{}, err
	}
	classes, err := classesOf(req.Capabilities)
	if err != nil {
		return Machine{}, err
	}
	if err := m.findNodes(req, facts, classes); err != nil {
		return Machine{}, err
	}
	if err := m.checkHostNodes(cfg, facts); err != nil {
		return Machine{}, err
	}
	switch {
	case !facts.HasMaskedPaths:
	case req.MIGConfig || req.MIGMonitor:
		m.Hidden = m.Inventory.HiddenGPUs(m.Selection) // every instance is to be seen
	default:
		if m.Hidden, err = m.Inventory.HiddenPaths(m.Root, m.Selection); err != nil {
			return Machine{}, err
		}
	}
	return m, m.findFiles(cfg, facts, classes, hostPath)
}

// driverRoot is the root of the driver's files, a directory below root.
func driverRoot(root sysfs.Root, dir string) (sysfs.Root, error) {
	if path.Clean(dir) == "/" {
		return root, nil
	}
	resolved, err := root.Resolve(dir)
	if err != nil {
		return "", fmt.Errorf("driver root %q (nvidia-container-runtime.experimental.root or nvidia-container-cli.root): %w", dir, err)
	}
	return sysfs.NewRoot(root.Path(resolved))
}

func noDriver(root sysfs.Root, req spec.Request) error {
	return fmt.Errorf("NVIDIA GPUs were asked for (%s: %s), but no NVIDIA kernel driver is loaded: neither %s nor %s is there; load it with 'modprobe nvidia', or install it for this kernel",
		req.Source, quoteList(req.Devices), root.Path("/proc/driver/nvidia/version"), root.Path("/sys/module/nvidia/version"))
}

// withUnbound adds to an unknown device's error the NVIDIA GPUs that are not
// to be had here, and why: they are what people look for.
func withUnbound(root sysfs.Root, inv sysfs.Inventory, err error) error {
	var unknown *sysfs.DeviceError
	if !errors.As(err, &unknown) {
		return err
	}
	if stray := inv.StrayNodes(root); len(stray) > 0 {
		return fmt.Errorf("%w, although %s is there: the runtime of the container that this is hides /proc/driver/nvidia/gpus, as LXD and Incus do with nvidia.runtime; set nvidia.runtime=false there, or run 'umount /proc/driver/nvidia' here",
			err, strings.Join(stray, ", "))
	}
	// What can be read of the PCI functions is what there is to tell.
	functions, _ := sysfs.UnboundGPUs(root, inv)
	var unbound, unlisted []string
	for _, f := range functions {
		switch f.Driver {
		case "":
			unbound = append(unbound, f.Name+" (bound to no driver)")
		case "nvidia":
			unlisted = append(unlisted, f.Name)
		default:
			unbound = append(unbound, f.Name+" (bound to "+f.Driver+")")
		}
	}
	for _, part := range []struct {
		text string
		gpus []string
	}{
		{"GPUs that are hidden from this container", inv.Masked},
		{"NVIDIA GPUs that the nvidia driver does not hold", unbound},
		{"NVIDIA GPUs without an entry in /proc/driver/nvidia/gpus, which were not given to this container or which the driver could not start", unlisted},
	} {
		if len(part.gpus) > 0 {
			err = fmt.Errorf("%w; %s: %s", err, part.text, strings.Join(part.gpus, ", "))
		}
	}
	return err
}

// meet checks NVIDIA_REQUIRE_* for each GPU, or once where there is none.
func (m *Machine) meet(requirements []require.Requirement) error {
	if len(requirements) == 0 {
		return nil
	}
	properties := require.Properties{Driver: m.Inventory.Driver.Version}
	properties.CUDA, _ = sysfs.CUDAVersion(properties.Driver)
	var gpus []require.GPU
	for _, g := range m.Selection.GPUs {
		gpu := require.GPU{Name: "GPU " + g.GPU.Name}
		gpu.Brand, _ = sysfs.Brand(g.GPU.Model, m.Inventory.Driver.Version)
		if function, err := sysfs.ReadPCI(m.Root, g.GPU.Address); err == nil {
			gpu.Arch, _ = sysfs.ComputeCapability(function.Device)
		}
		gpus = append(gpus, gpu)
	}
	assumed, err := require.Check(requirements, properties, gpus)
	if len(assumed) > 0 {
		m.Notes = append(m.Notes, "requirements count as met where this is not known of the machine: "+strings.Join(assumed, ", "))
	}
	return err
}

func classesOf(names []string) (driver.Class, error) {
	var classes driver.Class
	for _, name := range names {
		c, ok := driver.ParseClass(name)
		if !ok {
			return 0, fmt.Errorf("driver capability %q is not known", name)
		}
		classes |= c
	}
	return classes, nil
}

// findNodes lists the device nodes that the container gets.
func (m *Machine) findNodes(req spec.Request, facts spec.Facts, classes driver.Class) error {
	inv, dev := m.Inventory, m.devRoot()
	uvm := classes&(driver.Compute|driver.Video) != 0
	graphics := classes&(driver.Graphics|driver.Display) != 0

	nodes, err := inv.ControlNodes(dev, uvm, graphics)
	var module *sysfs.ModuleError
	switch {
	case errors.As(err, &module) && (len(m.Selection.GPUs) == 0 || !explicitly(facts.Env, "compute", "video")):
		// Without an explicit wish for compute, programs such as nvidia-smi
		// are what is wanted, and they work.
		m.Notes = append(m.Notes, err.Error())
		if nodes, err = inv.ControlNodes(dev, false, graphics); err != nil {
			return err
		}
	case err != nil:
		return err
	}
	add := func(more []sysfs.Node, err error) error {
		nodes = append(nodes, more...)
		return err
	}
	if err := add(inv.SelectionNodes(dev, m.Selection)); err != nil {
		return err
	}
	if req.MIGConfig || req.MIGMonitor {
		if err := add(inv.MIGControlNodes(m.Root, dev, req.MIGConfig, req.MIGMonitor, m.Selection)); err != nil {
			return err
		}
	}
	if graphics {
		for _, g := range m.Selection.GPUs {
			if !g.Whole && !sysfs.MIGGraphics(m.Root, g.GPU) {
				continue
			}
			if err := add(sysfs.DRMNodes(m.Root, dev, g.GPU)); err != nil {
				return err
			}
		}
	}
	channels := req.IMEXChannels
	if req.IMEXAll {
		channels = allChannels(dev)
	}
	if err := add(inv.IMEXNodes(dev, channels)); err != nil {
		return err
	}
	other, warnings, err := inv.OtherNodes(dev, req.GDS, req.MOFED, req.GDRCopy, req.NVSwitch)
	if err != nil {
		return err
	}
	m.Notes = append(m.Notes, warnings...)
	nodes = append(nodes, other...)
	if req.GDS {
		m.GDS = sysfs.GDSFiles(m.Root)
	}

	slices.SortStableFunc(nodes, func(a, b sysfs.Node) int { return strings.Compare(a.Path, b.Path) })
	m.Nodes = slices.CompactFunc(nodes, func(a, b sysfs.Node) bool { return a.Path == b.Path })
	return nil
}

// allChannels lists the IMEX channels that have a node.
func allChannels(dev sysfs.Root) []int {
	entries, err := dev.ReadDir("dev/nvidia-caps-imex-channels")
	if err != nil {
		return nil
	}
	var channels []int
	for _, e := range entries {
		number, ok := strings.CutPrefix(e.Name(), "channel")
		if n, err := strconv.Atoi(number); ok && err == nil {
			channels = append(channels, n)
		}
	}
	slices.Sort(channels)
	return channels
}

// devRoot is where the host's nodes are: below the driver root, as in a
// driver container, if it has any, else below the machine's.
func (m *Machine) devRoot() sysfs.Root {
	if m.DriverRoot != m.Root {
		if _, err := m.DriverRoot.Stat("dev/nvidiactl"); err == nil {
			return m.DriverRoot
		}
	}
	return m.Root
}

// explicitly tells whether NVIDIA_DRIVER_CAPABILITIES is set and names one
// of classes or all.
func explicitly(env []string, classes ...string) bool {
	for _, e := range slices.Backward(env) {
		if list, ok := strings.CutPrefix(e, "NVIDIA_DRIVER_CAPABILITIES="); ok {
			return slices.ContainsFunc(split(list), func(name string) bool {
				return name == "all" || slices.Contains(classes, name)
			})
		}
	}
	return false
}

// checkHostNodes looks at the host's own nodes. In a user namespace no
// device can be made: runc and crun bind the host's node of the same path
// there, so it must be the right one. Elsewhere a node that is missing
// on the host is merely noted, so that it can be made.
func (m *Machine) checkHostNodes(cfg Config, facts spec.Facts) error {
	inside, err := m.insideUserNamespace()
	if err != nil {
		return err
	}
	if cfg.ClosesNodes(m.Root) {
		return nil // none is needed
	}
	if facts.UserNS || inside {
		for _, n := range m.Nodes {
			var st unix.Stat_t
			err := unix.Stat(n.Path, &st)
			if err == nil && st.Mode&unix.S_IFMT == unix.S_IFCHR && st.Rdev == unix.Mkdev(uint32(n.Major), uint32(n.Minor)) {
				continue
			}
			found := "it is not there"
			if err == nil {
				found = fmt.Sprintf("it is %s", describe(st))
			}
			return fmt.Errorf("in a user namespace the low-level runtime binds the host's device nodes, and %s, which must be character device %d:%d, cannot be used: %s; run 'nvidia-modprobe -u -c 0' or 'nvidia-smi' as root on the host, then start the container again",
				n.Path, n.Major, n.Minor, found)
		}
		return nil
	}
	if m.Root != "/" || !cfg.LoadKmods || os.Geteuid() != 0 {
		return nil
	}
	for _, n := range m.Nodes {
		if !n.OnHost && !strings.HasPrefix(n.Path, "/dev/dri/") {
			m.Missing = append(m.Missing, n)
		}
	}
	return nil
}

func describe(st unix.Stat_t) string {
	if st.Mode&unix.S_IFMT == unix.S_IFCHR {
		return fmt.Sprintf("character device %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev))
	}
	return "no character device"
}

// insideUserNamespace is inUserNamespace, read once.
func (m *Machine) insideUserNamespace() (bool, error) {
	if m.userNS == nil {
		inside, err := inUserNamespace()
		if err != nil {
			return false, err
		}
		m.userNS = &inside
	}
	return *m.userNS, nil
}

// inUserNamespace tells whether this program runs in a user namespace of
// its own. /proc/self/uid_map of the first one is "0 0 4294967295".
func inUserNamespace() (bool, error) {
	data, err := sysfs.Root("/").ReadFileMax("/proc/self/uid_map", 64<<10)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // a kernel without user namespaces
	}
	if err != nil {
		return false, fmt.Errorf("looking for a user namespace: %w", err)
	}
	return strings.Join(strings.Fields(string(data)), " ") != "0 0 4294967295", nil
}

// MakeNodes makes the nodes that the host lacks, as nvidia-modprobe does
// when the first program of a machine's uptime wants a GPU. The container
// does not depend on it; other programs of the host are glad of it.
func (m *Machine) MakeNodes() error {
	var errs []error
	for _, n := range m.Missing {
		if err := makeNode(n); err != nil {
			errs = append(errs, fmt.Errorf("making %s on the host: %w", n.Path, err))
		}
	}
	return errors.Join(errs...)
}

func makeNode(n sysfs.Node) error {
	if dir := filepath.Dir(n.Path); dir != "/dev" {
		if err := os.Mkdir(dir, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	dev := unix.Mkdev(uint32(n.Major), uint32(n.Minor))
	err := unix.Mknod(n.Path, unix.S_IFCHR|uint32(n.Mode.Perm()), int(dev))
	if errors.Is(err, fs.ErrExist) {
		return nil // another start was faster, or an old one is in the way
	}
	if err != nil {
		return err
	}
	// The umask has been at the mode, and the owner is ours.
	if err := os.Chmod(n.Path, n.Mode.Perm()); err != nil {
		return err
	}
	return os.Lchown(n.Path, int(n.UID), int(n.GID))
}

// absurdNoFile is the open-file limit from which on the persistence
// daemon's socket is left out: NVIDIA's RPC client does work for every
// descriptor that there may be, 20 seconds of it at 10^9.
const absurdNoFile = 10_000_000

// findFiles finds the driver's files for classes.
func (m *Machine) findFiles(cfg Config, facts spec.Facts, classes driver.Class, hostPath string) error {
	m.Elf = elfMachine(m.Inventory.Driver.Arch)
	release, err := m.Root.ReadFileMax("/proc/sys/kernel/osrelease", 4096)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	files, notes, err := driver.Find(m.DriverRoot, driver.Options{
		Version:       m.Inventory.Driver.Version,
		Machine:       m.Elf,
		Classes:       classes,
		SearchPath:    cfg.LibrarySearchPath,
		Cache:         cfg.LDCache,
		Path:          filepath.SplitList(hostPath),
		DataDirs:      cfg.DataDirs,
		MPSDirectory:  cfg.MPSDirectory,
		KernelRelease: strings.TrimSpace(string(release)),
	})
	if err != nil {
		return advise(err)
	}
	m.Files = files
	m.Notes = append(m.Notes, notes...)
	if limit := facts.NoFile; limit != nil && limit.Soft >= absurdNoFile {
		m.Files = slices.DeleteFunc(m.Files, func(f driver.File) bool {
			if f.Kind != driver.Socket || f.Name != "socket" || !strings.Contains(f.Dest, "nvidia-persistenced") {
				return false
			}
			m.Notes = append(m.Notes, fmt.Sprintf("%s left out: the container's open-file limit of %d would make its clients slow", f.Dest, limit.Soft))
			return true
		})
	}
	return nil
}

// advise adds to an error about the driver's libraries what can be done.
func advise(err error) error {
	var version *driver.VersionError
	var none *driver.NotFoundError
	var damaged *driver.DamagedError
	switch {
	case errors.As(err, &damaged):
		return fmt.Errorf("%w; install the libraries of version %s again", err, damaged.Version)
	case errors.As(err, &version):
		return fmt.Errorf("%w; reboot or reload the kernel modules, or install the libraries of version %s", err, version.Kernel)
	case errors.As(err, &none):
		return fmt.Errorf("%w; install the libraries of this version, or name their directory with library-search-path, or the root of a driver container with root, in config.toml", err)
	}
	return err
}

// elfMachine maps the architecture word of the driver's banner.
func elfMachine(arch string) elf.Machine {
	if arch == "" {
		arch = runtime.GOARCH
	}
	switch arch {
	case "aarch64", "arm64":
		return elf.EM_AARCH64
	case "x86", "i386", "386":
		return elf.EM_386
	case "ppc64le", "ppc64":
		return elf.EM_PPC64
	}
	return elf.EM_X86_64
}

// quoteList shows a list that comes from a container.
func quoteList(list []string) string {
	s := fmt.Sprintf("%.100q", strings.Join(list, ","))
	return s
}
