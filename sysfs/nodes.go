// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// Node is a character device that a container needs.
type Node struct {
	Path         string      // in the container: "/dev/nvidia0"
	Major, Minor int         // from /proc and /sys, otherwise from the host's node
	Mode         fs.FileMode // permission bits
	UID, GID     uint32

	// OnHost reports whether the host has this character device at Path, below the root of its
	// devices.
	OnHost bool
	// Instead is what the host has at Path instead, if anything: "character device 510:0",
	// "directory".
	Instead string
}

// Command is the shell command that creates the node: "mknod -m 666 /dev/nvidia0 c 195 0".
func (n Node) Command() string {
	command := fmt.Sprintf("mknod -m %o %s c %d %d", n.Mode.Perm(), n.Path, n.Major, n.Minor)
	if n.GID != 0 {
		command += fmt.Sprintf(" && chgrp %d %s", n.GID, n.Path)
	}
	if dir := path.Dir(n.Path); dir != "/dev" {
		command = "mkdir -p " + dir + " && " + command
	}
	return command
}

// Groups returns the groups that may open nodes that are closed to others, sorted.
func Groups(nodes []Node) []uint32 {
	var gids []uint32
	for _, n := range nodes {
		if n.Mode.Perm()&0o006 != 0o006 && n.GID != 0 {
			gids = append(gids, n.GID)
		}
	}
	slices.Sort(gids)
	return slices.Compact(gids)
}

// ModuleError reports a required kernel module that is not loaded.
type ModuleError struct {
	Module  string // "nvidia-uvm"
	Name    string // missing from /proc/devices
	Command string // loads the module
}

func (e *ModuleError) Error() string {
	return fmt.Sprintf("%q is not in /proc/devices: the kernel module %s is not loaded (load it with %q)",
		e.Name, e.Module, e.Command)
}

// Minors of the driver's control nodes.
const (
	ctlMinor      = 255
	modesetMinor  = 254
	uvmMinor      = 0
	uvmToolsMinor = 1
)

// ControlNodes returns the nodes that belong to no GPU: /dev/nvidiactl; with uvm also
// /dev/nvidia-uvm and /dev/nvidia-uvm-tools, or a [*ModuleError] if their module is not loaded;
// with modeset also /dev/nvidia-modeset if its module is loaded.
//
// Mode and group are those of the host's node below devRoot, else from the driver's parameters,
// except that UVM's nodes have mode 0666.
func (inv Inventory) ControlNodes(devRoot Root, uvm, modeset bool) ([]Node, error) {
	if inv.Majors.Ctl < 0 {
		return nil, &ModuleError{Module: "nvidia", Name: "nvidia", Command: "modprobe nvidia"}
	}
	nodes := []Node{inv.driverNode(devRoot, "/dev/nvidiactl", inv.Majors.Ctl, ctlMinor)}
	if uvm {
		if inv.Majors.UVM < 0 {
			return nil, &ModuleError{Module: "nvidia-uvm", Name: "nvidia-uvm", Command: "modprobe nvidia-uvm"}
		}
		major := inv.Majors.UVM
		nodes = append(nodes,
			adopt(devRoot, Node{Path: "/dev/nvidia-uvm", Major: major, Minor: uvmMinor, Mode: 0o666}),
			adopt(devRoot, Node{Path: "/dev/nvidia-uvm-tools", Major: major, Minor: uvmToolsMinor, Mode: 0o666}),
		)
	}
	if modeset && inv.Majors.Modeset >= 0 {
		nodes = append(nodes, inv.driverNode(devRoot, "/dev/nvidia-modeset", inv.Majors.Modeset, modesetMinor))
	}
	return nodes, nil
}

// SelectionNodes returns the nodes of the selected devices: /dev/nvidiaN for each GPU, and for each
// MIG device the /dev/nvidia-caps/nvidia-capN of its GPU instance and compute instance, with the
// modes of their capability files.
//
// Drivers of the 450 branch without capability nodes get none: they check the permissions of the
// files in /proc.
func (inv Inventory) SelectionNodes(devRoot Root, sel Selection) ([]Node, error) {
	var nodes []Node
	done := map[int]bool{}
	for _, selected := range sel.GPUs {
		gpu := selected.GPU
		if gpu.Err != nil {
			return nil, fmt.Errorf("gpu %s: %w", gpu.Name, gpu.Err)
		}
		if gpu.Minor < 0 {
			return nil, fmt.Errorf("gpu %s: no device minor", gpu.Name)
		}
		if inv.Majors.Nvidia < 0 {
			return nil, &ModuleError{Module: "nvidia", Name: "nvidia", Command: "modprobe nvidia"}
		}
		name := fmt.Sprintf("/dev/nvidia%d", gpu.Minor)
		nodes = append(nodes, inv.driverNode(devRoot, name, inv.Majors.Nvidia, gpu.Minor))
		for _, instance := range selected.Instances {
			for _, capability := range []mig.Capability{instance.GICap, instance.CICap} {
				if capability.Empty && inv.Majors.Caps < 0 || done[capability.Minor] {
					continue
				}
				done[capability.Minor] = true
				node, err := inv.capabilityNode(devRoot, capability)
				if err != nil {
					return nil, fmt.Errorf("gpu %s: MIG device %d/%d: %w", gpu.Name, instance.GI, instance.CI, err)
				}
				nodes = append(nodes, node)
			}
		}
	}
	return nodes, nil
}

// MIGControlNodes returns the nodes for changing MIG instances (config) or monitoring all of them
// (monitor), and those of every instance that the selected GPUs can ever have, except the selected
// ones. A GPU whose chip is known not to support MIG adds none.
func (inv Inventory) MIGControlNodes(root, devRoot Root, config, monitor bool, sel Selection) ([]Node, error) {
	if !config && !monitor {
		return nil, nil
	}
	control, err := mig.ReadControl(root)
	if err != nil {
		return nil, fmt.Errorf("reading MIG capabilities: %w", err)
	}
	var nodes []Node
	add := func(capability mig.Capability) error {
		if capability.Empty && inv.Majors.Caps < 0 {
			return nil
		}
		node, err := inv.capabilityNode(devRoot, capability)
		nodes = append(nodes, node)
		return err
	}
	for _, right := range []struct {
		asked      bool
		name       string
		capability *mig.Capability
	}{
		{config, "config", control.Config},
		{monitor, "monitor", control.Monitor},
	} {
		if !right.asked {
			continue
		}
		if right.capability == nil {
			return nil, fmt.Errorf("the driver has no capability mig/%s, like those before R450 "+
				"(see 'cat /proc/driver/nvidia/version'): no file %s", right.name,
				root.Path("proc/driver/nvidia/capabilities/mig/"+right.name))
		}
		if err := add(*right.capability); err != nil {
			return nil, err
		}
	}
	if inv.Majors.Caps < 0 {
		return nodes, nil
	}
	for _, selected := range sel.GPUs {
		if !migCapable(root, selected.GPU) {
			continue
		}
		given := map[int]bool{}
		for _, instance := range selected.Instances {
			given[instance.GICap.Minor], given[instance.CICap.Minor] = true, true
		}
		for _, minor := range mig.PossibleMinors(selected.GPU.Minor) {
			if given[minor] {
				continue
			}
			if err := add(mig.Capability{Minor: minor, Mode: 0o444}); err != nil {
				return nil, err
			}
		}
	}
	return nodes, nil
}

// migCapable is false for chips known not to support MIG.
func migCapable(root Root, gpu GPU) bool {
	if len(gpu.Instances) > 0 {
		return true
	}
	function, err := ReadPCI(root, gpu.Address)
	if err != nil {
		return true
	}
	capability, ok := ComputeCapability(function.Device)
	if !ok {
		return true
	}
	switch capability {
	case "8.0", "9.0", "10.0", "10.3", "12.0":
		return true
	}
	return false
}

// MIGGraphics reports whether MIG devices of a GPU can support graphics: those with "+gfx" profiles
// on Blackwell RTX PRO boards. No file has the profile of a MIG device.
func MIGGraphics(root Root, gpu GPU) bool {
	function, err := ReadPCI(root, gpu.Address)
	if err != nil {
		return false
	}
	capability, _ := ComputeCapability(function.Device)
	return capability == "12.0"
}

// StrayNodes returns the /dev/nvidiaN below devRoot that have no entry in /proc/driver/nvidia/gpus:
// in a container whose runtime hides the entries.
func (inv Inventory) StrayNodes(devRoot Root) []string {
	if len(inv.GPUs) > 0 || inv.Majors.Nvidia < 0 {
		return nil
	}
	entries, err := devRoot.ReadDir("dev")
	if err != nil {
		return nil
	}
	var stray []string
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry.Name(), "nvidia")
		if !ok || !isNumber(digits) {
			continue
		}
		if node, err := HostNode(devRoot, "/dev/"+entry.Name()); err == nil && node.Major == inv.Majors.Nvidia {
			stray = append(stray, node.Path)
		}
	}
	return stray
}

// driverNode returns a node that the driver's parameters apply to.
func (inv Inventory) driverNode(devRoot Root, path string, major, minor int) Node {
	return adopt(devRoot, Node{
		Path: path, Major: major, Minor: minor,
		Mode: inv.Params.DeviceFileMode,
		UID:  inv.Params.DeviceFileUID,
		GID:  inv.Params.DeviceFileGID,
	})
}

// capabilityNode returns the node of a capability, with the mode of its file.
func (inv Inventory) capabilityNode(devRoot Root, capability mig.Capability) (Node, error) {
	if inv.Majors.Caps < 0 {
		return Node{}, errors.New(`"nvidia-caps" is not in /proc/devices`)
	}
	node := Node{
		Path:  fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", capability.Minor),
		Major: inv.Majors.Caps, Minor: capability.Minor, Mode: capability.Mode,
	}
	host := adopt(devRoot, node)
	node.OnHost, node.Instead = host.OnHost, host.Instead
	return node, nil
}

// adopt copies mode and group from the host's node, if that has the same numbers.
func adopt(devRoot Root, node Node) Node {
	host, err := HostNode(devRoot, node.Path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		node.Instead = err.Error()
	case host.Major != node.Major || host.Minor != node.Minor:
		node.Instead = fmt.Sprintf("character device %d:%d", host.Major, host.Minor)
	default:
		node.OnHost, node.Mode, node.GID = true, host.Mode, host.GID
	}
	return node
}

// HostNode describes a character device of the host, without its owner. For anything else the error
// is what it is: "regular file".
func HostNode(devRoot Root, path string) (Node, error) {
	info, err := devRoot.Stat(path[1:])
	if err != nil {
		return Node{}, err
	}
	if info.Mode()&fs.ModeCharDevice == 0 {
		return Node{}, errors.New(kind(info.Mode()))
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return Node{}, errors.New("no device number")
	}
	number := uint64(stat.Rdev)
	return Node{
		Path:   path,
		Major:  int(number>>8&0xfff | number>>32&^0xfff),
		Minor:  int(number&0xff | number>>12&0xffffff00),
		Mode:   info.Mode().Perm(),
		GID:    stat.Gid,
		OnHost: true,
	}, nil
}

// kind describes the type of a file that is not a character device.
func kind(mode fs.FileMode) string {
	switch {
	case mode.IsDir():
		return "directory"
	case mode.IsRegular():
		return "regular file"
	case mode&fs.ModeNamedPipe != 0:
		return "named pipe"
	case mode&fs.ModeSocket != 0:
		return "socket"
	case mode&fs.ModeDevice != 0:
		return "block device"
	}
	return "file of an unknown kind"
}
