// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// planNodes lists the container's device nodes, and those missing on the host.
func (p *Plan) planNodes(classes driver.Class, insideUserNS bool) error {
	nodes, notes, err := p.nodes(p.container.Request, p.container.Facts, classes)
	p.Nodes = nodes
	p.note(notes...)
	if err != nil {
		return err
	}
	if p.config.ClosesNodes(p.Root) {
		return nil // the host's nodes are not used
	}
	if p.config.CharLinksMatter(p.container.SystemdCgroup) && !insideUserNS {
		p.CharLinks = p.charLinks(p.Nodes)
	}
	if p.container.Facts.UserNS || insideUserNS {
		return p.checkHostNodes("/", classes)
	}
	if p.Root != "/" || !p.config.LoadKmods || os.Geteuid() != 0 {
		return nil
	}
	for _, n := range p.Nodes {
		if !n.OnHost && !strings.HasPrefix(n.Path, "/dev/dri/") && p.Inventory.MayMake(n) {
			p.Missing = append(p.Missing, n)
		}
	}
	return nil
}

// nodes returns the device nodes of the selection, sorted by path.
func (m *Machine) nodes(
	req spec.Request, facts spec.Facts, classes driver.Class,
) (_ []sysfs.Node, notes []string, _ error) {
	inv, dev := m.Inventory, m.devRoot()
	uvm := classes&(driver.Compute|driver.Video) != 0
	graphics := classes&(driver.Graphics|driver.Display) != 0

	nodes, err := inv.ControlNodes(dev, uvm, graphics)
	var module *sysfs.ModuleError
	switch {
	case errors.As(err, &module) && (len(m.Selection.GPUs) == 0 || !explicitly(facts.Env, "compute", "video")):
		// Unless compute was explicitly requested, nvidia-smi and the like are enough, and they
		// work.
		notes = append(notes, err.Error())
		if nodes, err = inv.ControlNodes(dev, false, graphics); err != nil {
			return nil, nil, err
		}
	case err != nil:
		return nil, nil, err
	}
	add := func(more []sysfs.Node, err error) error {
		nodes = append(nodes, more...)
		return err
	}
	if err := add(inv.SelectionNodes(dev, m.Selection)); err != nil {
		return nil, nil, err
	}
	if req.MIGConfig || req.MIGMonitor {
		if err := add(inv.MIGControlNodes(m.Root, dev, req.MIGConfig, req.MIGMonitor, m.Selection)); err != nil {
			return nil, nil, err
		}
	}
	if graphics {
		for _, g := range m.Selection.GPUs {
			if !g.Whole && !sysfs.MIGGraphics(m.Root, g.GPU) {
				continue
			}
			if err := add(sysfs.DRMNodes(m.Root, dev, g.GPU)); err != nil {
				return nil, nil, err
			}
		}
	}
	channels := req.IMEXChannels
	if req.IMEXAll {
		channels = allChannels(dev)
	}
	if err := add(inv.IMEXNodes(dev, channels)); err != nil {
		return nil, nil, err
	}
	other, warnings, err := inv.OtherNodes(dev, req.GDS, req.MOFED, req.GDRCopy, req.NVSwitch)
	if err != nil {
		return nil, nil, err
	}
	notes = append(notes, warnings...)
	nodes = append(nodes, other...)
	if req.GDS {
		m.GDS = sysfs.GDSFiles(m.Root)
	}

	slices.SortStableFunc(nodes, func(a, b sysfs.Node) int { return strings.Compare(a.Path, b.Path) })
	return slices.CompactFunc(nodes, func(a, b sysfs.Node) bool { return a.Path == b.Path }), notes, nil
}

// allChannels returns the IMEX channels that have a node.
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

// devRoot is the root of the host's device nodes: the driver root, if it has any, as in a driver
// container, else the machine's.
func (m *Machine) devRoot() sysfs.Root {
	if m.DriverRoot != m.Root {
		if _, err := m.DriverRoot.Stat("dev/nvidiactl"); err == nil {
			return m.DriverRoot
		}
	}
	return m.Root
}

// explicitly tells whether NVIDIA_DRIVER_CAPABILITIES names one of classes, or all.
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

// checkHostNodes checks the host's nodes below root. In a user namespace runc and crun cannot
// create devices and bind-mount the host's node of the same path instead, so it must be right;
// dispensable nodes are left out. Otherwise a node that the host lacks is only noted, to be
// created.
func (p *Plan) checkHostNodes(root sysfs.Root, classes driver.Class) error {
	var usable []sysfs.Node
	for _, n := range p.Nodes {
		host, err := sysfs.HostNode(root, n.Path)
		if err == nil && host.Major == n.Major && host.Minor == n.Minor {
			usable = append(usable, n)
			continue
		}
		fix := "rm -r " + n.Path + " && " + n.Command()
		if err == nil {
			err = fmt.Errorf("it is character device %d:%d", host.Major, host.Minor)
		} else if errors.Is(err, fs.ErrNotExist) {
			err, fix = errors.New("it does not exist"), n.Command()
		} else if errors.Is(err, fs.ErrPermission) {
			fix = "chmod a+x " + path.Dir(n.Path)
		}
		if dispensable(n, classes) {
			p.notef("%s is left out, as the host's cannot be used in a user namespace: %v", n.Path, err)
			continue
		}
		return fmt.Errorf("a user namespace needs the host's %s, character device %d:%d: %w; "+
			"run '%s' as root on the host, then start the container again",
			n.Path, n.Major, n.Minor, err, fix)
	}
	p.Nodes = usable
	return nil
}

// dispensable nodes are those without which the driver works: nvidia-modeset unless display is
// requested, nvidia-uvm-tools for memory tracing, and DRM nodes, which Mesa and Wayland use but not
// CUDA and Vulkan.
func dispensable(n sysfs.Node, classes driver.Class) bool {
	return n.Path == "/dev/nvidia-modeset" && classes&driver.Display == 0 || n.Path == "/dev/nvidia-uvm-tools" ||
		strings.HasPrefix(n.Path, "/dev/dri/")
}

// inUserNamespace tells whether this process is outside the initial user namespace, whose
// /proc/self/uid_map is "0 0 4294967295".
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

// makeNodes creates nodes that the host lacks, as nvidia-modprobe does for the first program that
// uses a GPU. The container does not depend on them, but other programs on the host do.
func makeNodes(missing []sysfs.Node) error {
	var errs []error
	for _, n := range missing {
		if err := makeNode(n); err != nil {
			errs = append(errs, fmt.Errorf("creating %s on the host: %w", n.Path, err))
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
		return nil // another start was faster, or something is in the way
	}
	if err != nil {
		return err
	}
	// mknod applied the umask and our owner.
	if err := os.Chmod(n.Path, n.Mode.Perm()); err != nil {
		return err
	}
	return os.Lchown(n.Path, int(n.UID), int(n.GID))
}
