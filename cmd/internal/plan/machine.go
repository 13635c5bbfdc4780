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

// Machine is what was read of the machine for one container.
type Machine struct {
	Root       sysfs.Root // "/", or the sysroot
	DriverRoot sysfs.Root // the same, or a driver container's root
	Inventory  sysfs.Inventory
	Selection  sysfs.Selection
	Arch       ldcache.Arch // of the driver's libraries
	GDS        []string     // files and directories that GPUDirect Storage needs, below Root
}

func openMachine(cfg Config) (m Machine, err error) {
	if m.Root, err = sysfs.NewRoot(cfg.Sysroot); err != nil {
		return Machine{}, fmt.Errorf("sysroot: %w", err)
	}
	m.DriverRoot, err = driverRoot(m.Root, cfg.DriverRoot)
	return m, err
}

// readMachine reads the machine and selects the GPUs that the container asks for.
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
				err = complete // lists all devices
			}
		}
		err = withUnbound(m.Root, m.Inventory, err)
		return Machine{}, nil, fmt.Errorf("devices requested by %s: %w", req.Source, err)
	}
	var notes []string
	for _, g := range m.Selection.Skipped {
		notes = append(notes, fmt.Sprintf("GPU %s is left out of \"all\": %v", g.Name, g.Err))
	}
	for _, g := range m.Selection.Partitioned(m.Root) {
		notes = append(notes, fmt.Sprintf("GPU %d is divided into MIG devices and none of them was requested, "+
			"so programs find no device; request %s", g.Index, strings.Join(g.MIGNames(), ", ")))
	}
	for _, name := range m.Inventory.Odd {
		name = m.Root.Path("/proc/driver/nvidia/gpus/" + name)
		notes = append(notes, fmt.Sprintf("%s is skipped: not a PCI address as the driver spells it", name))
	}
	assumed, err := m.meet(req.Requirements)
	if len(assumed) > 0 {
		notes = append(notes, "requirements assumed to be met, as this is not known here: "+strings.Join(assumed, ", "))
	}
	return m, notes, err
}

// driverRoot returns the root of the driver's files, a directory below root.
func driverRoot(root sysfs.Root, dir string) (sysfs.Root, error) {
	if path.Clean(dir) == "/" {
		return root, nil
	}
	resolved, err := root.Resolve(dir)
	if err != nil {
		return "", fmt.Errorf("driver root %q (root in config.toml): %w", dir, err)
	}
	return sysfs.NewRoot(root.Path(resolved))
}

func noDriver(root sysfs.Root, req spec.Request) error {
	return fmt.Errorf("NVIDIA GPUs were requested (%s: %s), but no NVIDIA kernel driver is loaded: "+
		"neither %s nor %s exists; load it with 'modprobe nvidia', or install it for this kernel",
		req.Source, quoteList(req.Devices),
		root.Path("/proc/driver/nvidia/version"), root.Path("/sys/module/nvidia/version"))
}

// withUnbound adds to the error about an unknown device which NVIDIA GPUs are unavailable, and why.
func withUnbound(root sysfs.Root, inv sysfs.Inventory, err error) error {
	var unknown *sysfs.DeviceError
	if !errors.As(err, &unknown) {
		return err
	}
	if stray := inv.StrayNodes(root); len(stray) > 0 {
		return fmt.Errorf("%w, although %s exists: this is a container whose runtime hides /proc/driver/nvidia/gpus, "+
			"as LXD and Incus do with nvidia.runtime; set nvidia.runtime=false there, "+
			"or run 'umount /proc/driver/nvidia' here",
			err, strings.Join(stray, ", "))
	}
	// Errors are ignored: this only adds details to another error.
	functions, _ := sysfs.UnboundGPUs(root, inv)
	var unbound, unlisted []string
	for _, f := range functions {
		switch f.Driver {
		case "":
			unbound = append(unbound, f.Name+" (not bound to a driver)")
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
		{"GPUs hidden from this container", inv.Masked},
		{"NVIDIA GPUs not bound to the nvidia driver", unbound},
		{
			"NVIDIA GPUs not in /proc/driver/nvidia/gpus (not given to this container, or failed to initialize)",
			unlisted,
		},
	} {
		if len(part.gpus) > 0 {
			err = fmt.Errorf("%w; %s: %s", err, part.text, strings.Join(part.gpus, ", "))
		}
	}
	return err
}

// meet checks NVIDIA_REQUIRE_* for each GPU, or once if there is none. It returns the requirements
// that cannot be checked, which count as met.
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
			return 0, fmt.Errorf("unknown driver capability %q", name)
		}
		classes |= c
	}
	return classes, nil
}

// absurdNoFile is the open-file limit from which on the persistence daemon's socket is left out:
// NVIDIA's RPC client loops over all possible descriptors, which takes 20 seconds at 10^9.
const absurdNoFile = 10_000_000

// files finds the driver's files for classes. hostPath is a PATH, where programs are looked up
// first; limit is the container's open-file limit, nil if it sets none.
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
			notes = append(notes, fmt.Sprintf("%s left out: the container's open-file limit of %d "+
				"would slow its clients", f.Dest, limit.Soft))
			return true
		})
	}
	return files, notes, nil
}

// advise adds a remedy to an error about the driver's libraries.
func advise(err error) error {
	var version *driver.VersionError
	var none *driver.NotFoundError
	var damaged *driver.DamagedError
	switch {
	case errors.As(err, &damaged):
		return fmt.Errorf("%w; reinstall the libraries of version %s", err, damaged.Version)
	case errors.As(err, &version):
		return fmt.Errorf("%w; reboot or reload the kernel modules, or install the libraries of version %s",
			err, version.Kernel)
	case errors.As(err, &none):
		return fmt.Errorf("%w; install this version's libraries, or set library-search-path to their directory, "+
			"or root to the root of a driver container, in config.toml", err)
	}
	return err
}

// archOf maps the architecture in the driver's banner.
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

// quoteList quotes a list from a container's configuration.
func quoteList(list []string) string {
	s := fmt.Sprintf("%.100q", strings.Join(list, ","))
	return s
}
