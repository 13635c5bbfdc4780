// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Machine is what was read of a machine for one container.
type Machine struct {
	Root       sysfs.Root // stands for "/" when the machine is read
	DriverRoot sysfs.Root // the same, or a driver container's root
	Inventory  sysfs.Inventory
	Selection  sysfs.Selection
	Arch       ldcache.Arch // of the driver's libraries
	GDS        []string     // files and directories that GPUDirect Storage needs, below Root
}

// openMachine finds the roots of a machine.
func openMachine(cfg Config) (m Machine, err error) {
	if m.Root, err = sysfs.NewRoot(cfg.Sysroot); err != nil {
		return Machine{}, fmt.Errorf("sysroot: %w", err)
	}
	m.DriverRoot, err = driverRoot(m.Root, cfg.DriverRoot)
	return m, err
}

// readMachine reads the machine and picks the GPUs that the container asks for.
func readMachine(cfg Config, req spec.Request, insideUserNS bool) (Machine, []string, error) {
	m, err := openMachine(cfg)
	if err != nil {
		return Machine{}, nil, err
	}
	query := sysfs.ParseQuery(req.Devices)
	switch {
	case query.NeedsMIGUUIDs():
		m.Inventory, query, err = sysfs.ReadForMIGUUIDs(m.Root, query, learntOwners(insideUserNS)...)
	case req.MIGConfig || req.MIGMonitor:
		m.Inventory, err = sysfs.Read(m.Root, true)
	default:
		m.Inventory, err = sysfs.ReadFor(m.Root, query)
	}
	if err != nil {
		return Machine{}, nil, err
	}
	if err := sysfs.CheckPlatform(m.Root, m.Inventory.Driver); err != nil {
		return Machine{}, nil, err
	}
	if m.Inventory.Driver == nil {
		return Machine{}, nil, noDriver(m.Root, req)
	}
	m.Arch = archOf(m.Inventory.Driver.Arch)
	if m.Selection, err = m.Inventory.Select(query); err != nil {
		if all, readErr := sysfs.Read(m.Root, query.NeedsInstances()); readErr == nil {
			if _, complete := all.Select(query); complete != nil {
				err = complete // it lists all that there is
			}
		}
		return Machine{}, nil, fmt.Errorf("devices asked for by %s: %w", req.Source, withUnbound(m.Root, m.Inventory, err))
	}
	var notes []string
	for _, g := range m.Selection.Skipped {
		notes = append(notes, fmt.Sprintf("GPU %s is left out of \"all\": %v", g.Name, g.Err))
	}
	for _, g := range m.Selection.Partitioned(m.Root) {
		notes = append(notes, fmt.Sprintf("GPU %d is divided into MIG devices and none of them was asked for, so programs find no device; ask for %s",
			g.Index, strings.Join(g.MIGNames(), ", ")))
	}
	for _, name := range m.Inventory.Odd {
		notes = append(notes, fmt.Sprintf("%s is passed over: not a PCI address as the driver spells it", m.Root.Path("/proc/driver/nvidia/gpus/"+name)))
	}
	assumed, err := m.meet(req.Requirements)
	if len(assumed) > 0 {
		notes = append(notes, "requirements count as met where this is not known of the machine: "+strings.Join(assumed, ", "))
	}
	return m, notes, err
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

// meet checks NVIDIA_REQUIRE_* for each GPU, or once where there is none. It returns what is not known of the
// machine and counts as met.
func (m *Machine) meet(requirements []requirement.Requirement) ([]string, error) {
	if len(requirements) == 0 {
		return nil, nil
	}
	properties := requirement.Properties{Driver: m.Inventory.Driver.Version}
	properties.CUDA, _ = sysfs.CUDAVersion(properties.Driver)
	var gpus []requirement.GPU
	for _, g := range m.Selection.GPUs {
		gpu := requirement.GPU{Name: "GPU " + g.GPU.Name}
		gpu.Brand, _ = sysfs.Brand(g.GPU.Model, m.Inventory.Driver.Version)
		if function, err := sysfs.ReadPCI(m.Root, g.GPU.Address); err == nil {
			gpu.Arch, _ = sysfs.ComputeCapability(function.Device)
		}
		gpus = append(gpus, gpu)
	}
	return requirement.Check(requirements, properties, gpus)
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

// absurdNoFile is the open-file limit from which on the persistence
// daemon's socket is left out: NVIDIA's RPC client does work for every
// descriptor that there may be, 20 seconds of it at 10^9.
const absurdNoFile = 10_000_000

// files finds the driver's files for classes. hostPath is a PATH, in which its programs are looked up first; limit is
// the container's open-file limit, nil if it has none of its own.
func (m *Machine) files(
	cfg Config, limit *spec.Limit, classes driver.Class, hostPath string,
) ([]driver.File, []string, error) {
	release, err := m.Root.ReadFileMax("/proc/sys/kernel/osrelease", 4096)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	files, notes, err := driver.Find(m.DriverRoot, driver.Options{
		Version:       m.Inventory.Driver.Version,
		Arch:          m.Arch,
		Classes:       classes,
		SearchPath:    cfg.LibrarySearchPath,
		Cache:         cfg.LDCache,
		Path:          filepath.SplitList(hostPath),
		DataDirs:      cfg.DataDirs,
		MPSDirectory:  cfg.MPSDirectory,
		KernelRelease: strings.TrimSpace(string(release)),
	})
	if err != nil {
		return nil, nil, advise(err)
	}
	if limit != nil && limit.Soft >= absurdNoFile {
		files = slices.DeleteFunc(files, func(f driver.File) bool {
			if f.Kind != driver.Socket || f.Name != "socket" || !strings.Contains(f.Dest, "nvidia-persistenced") {
				return false
			}
			notes = append(notes, fmt.Sprintf("%s left out: the container's open-file limit of %d would make its clients slow", f.Dest, limit.Soft))
			return true
		})
	}
	return files, notes, nil
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

// archOf maps the architecture word of the driver's banner.
func archOf(word string) ldcache.Arch {
	switch cmp.Or(word, runtime.GOARCH) {
	case "aarch64", "arm64":
		return ldcache.AArch64
	case "x86", "i386", "386":
		return ldcache.I386
	case "ppc64le", "ppc64":
		return ldcache.PPC64LE
	}
	return ldcache.X8664
}

// quoteList shows a list that comes from a container.
func quoteList(list []string) string {
	s := fmt.Sprintf("%.100q", strings.Join(list, ","))
	return s
}
