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

// planNodes lists the device nodes that the container gets, and what is missing of them on the host.
func (p *Plan) planNodes(classes driver.Class, insideUserNS bool) error {
	nodes, notes, err := p.nodes(p.container.Request, p.container.Facts, classes)
	p.Nodes = nodes
	p.note(notes...)
	if err != nil {
		return err
	}
	if p.config.ClosesNodes(p.Root) {
		return nil // none of the host's is needed
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
		if !n.OnHost && !strings.HasPrefix(n.Path, "/dev/dri/") {
			p.Missing = append(p.Missing, n)
		}
	}
	return nil
}

// nodes lists the device nodes of what is selected, sorted by path.
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
		// Without an explicit wish for compute, programs such as nvidia-smi
		// are what is wanted, and they work.
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

// checkHostNodes looks at the host's own nodes, below root. In a user namespace no device can be made: runc and
// crun bind the host's node of the same path there, so it must be the right one. What the container can do without
// is left out. Elsewhere a node that is missing on the host is merely noted, so that it can be made.
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
			err, fix = errors.New("it is not there"), n.Command()
		} else if errors.Is(err, fs.ErrPermission) {
			fix = "chmod a+x " + path.Dir(n.Path)
		}
		if dispensable(n, classes) {
			p.notef("%s is left out, as the host's cannot be bound in a user namespace: %v", n.Path, err)
			continue
		}
		return fmt.Errorf("in a user namespace the low-level runtime binds the host's device nodes, and %s, which must be character device %d:%d, cannot be used: %w; run '%s' as root on the host, then start the container again",
			n.Path, n.Major, n.Minor, err, fix)
	}
	p.Nodes = usable
	return nil
}

// dispensable nodes are those without which the driver works: that of the display's modes unless a display is asked
// for, that of tools which trace memory, and those of DRM, which Mesa and Wayland use and CUDA and Vulkan do not need.
func dispensable(n sysfs.Node, classes driver.Class) bool {
	return n.Path == "/dev/nvidia-modeset" && classes&driver.Display == 0 || n.Path == "/dev/nvidia-uvm-tools" ||
		strings.HasPrefix(n.Path, "/dev/dri/")
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

// makeNodes makes the nodes that the host lacks, as nvidia-modprobe does
// when the first program of a machine's uptime wants a GPU. The container
// does not depend on it; other programs of the host are glad of it.
func makeNodes(missing []sysfs.Node) error {
	var errs []error
	for _, n := range missing {
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
