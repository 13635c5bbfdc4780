// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// MaxIMEXChannels is the maximum number of IMEX channels, which are numbered from 0.
const MaxIMEXChannels = 1 << 20

// IMEXNodes returns the nodes /dev/nvidia-caps-imex-channels/channelN of the given channels. Their
// numbers follow from /proc/devices, but a channel exists only if the administrator created its
// node: without one below devRoot, it is an error.
func (inv Inventory) IMEXNodes(devRoot Root, channels []int) ([]Node, error) {
	var nodes []Node
	for _, channel := range channels {
		if channel < 0 || channel >= MaxIMEXChannels {
			return nil, fmt.Errorf("IMEX channel %d: not between 0 and %d", channel, MaxIMEXChannels-1)
		}
		if inv.Majors.IMEXChannels < 0 {
			return nil, fmt.Errorf("IMEX channel %d: %q is not in /proc/devices: the kernel module nvidia is too old, "+
				"or was loaded without channels (load it with %q)",
				channel, "nvidia-caps-imex-channels", "modprobe nvidia NVreg_ImexChannelCount=2048")
		}
		node := adopt(devRoot, Node{
			Path:  fmt.Sprintf("/dev/nvidia-caps-imex-channels/channel%d", channel),
			Major: inv.Majors.IMEXChannels, Minor: channel, Mode: 0o666,
		})
		if !node.OnHost {
			found := "nothing there"
			if node.Instead != "" {
				found = "found " + node.Instead
			}
			return nil, fmt.Errorf("IMEX channel %d: no character device %d:%d at %s, %s (to create the channel: %q)",
				channel, node.Major, node.Minor, devRoot.Path(node.Path), found, node.Command())
		}
		nodes = append(nodes, node)
	}
	return nodes, nil
}

// OtherNodes returns the nodes of modules other than the GPU driver, for each requested kind:
//
//	gds      /dev/nvidia-fs*                              GPUDirect Storage
//	mofed    /dev/infiniband/uverbs*, rdma_cm             RDMA
//	gdrcopy  /dev/gdrdrv
//	nvswitch /dev/nvidia-nvswitchctl, /dev/nvidia-nvswitch*
//
// They are the host's nodes below devRoot; gdrdrv and nvswitchctl need none, as /proc/devices has
// their numbers. A node whose major differs from /proc/devices is stale and omitted. The second
// result describes what is missing, one line each.
func (inv Inventory) OtherNodes(devRoot Root, gds, mofed, gdrcopy, nvswitch bool) ([]Node, []string, error) {
	var (
		nodes    []Node
		warnings []string
	)
	for _, kind := range []struct {
		asked    bool
		what     string
		dir      string
		matches  func(name string) bool
		device   string // in /proc/devices; "" for several
		byNumber Node   // exists whenever device does
	}{
		{
			asked: gds, what: "GPUDirect Storage", dir: "/dev", device: "nvidia-fs",
			matches: func(name string) bool { return strings.HasPrefix(name, "nvidia-fs") },
		},
		{
			asked: mofed, what: "RDMA", dir: "/dev/infiniband",
			matches: func(name string) bool { return name == "rdma_cm" || strings.HasPrefix(name, "uverbs") },
		},
		{
			asked: gdrcopy, what: "GDRCopy", dir: "/dev", device: "gdrdrv",
			matches:  func(name string) bool { return name == "gdrdrv" },
			byNumber: Node{Path: "/dev/gdrdrv", Mode: 0o666},
		},
		{
			asked: nvswitch, what: "NVSwitch", dir: "/dev", device: "nvidia-nvswitch",
			matches:  func(name string) bool { return strings.HasPrefix(name, "nvidia-nvswitch") },
			byNumber: Node{Path: "/dev/nvidia-nvswitchctl", Minor: 255, Mode: 0o666},
		},
	} {
		if !kind.asked {
			continue
		}
		major, loaded := inv.Majors.Lookup(kind.device)
		if kind.device != "" && !loaded {
			warnings = append(warnings, fmt.Sprintf("%s: %q is not in /proc/devices", kind.what, kind.device))
			continue
		}
		entries, err := devRoot.ReadDir(kind.dir[1:])
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, nil, fmt.Errorf("%s: %w", kind.what, err)
		}
		var found []Node
		seen := false
		for _, entry := range entries {
			if !kind.matches(entry.Name()) {
				continue
			}
			path := kind.dir + "/" + entry.Name()
			node, err := HostNode(devRoot, path)
			if err != nil {
				warnings = append(warnings, fmt.Sprintf("%s: %s: %v", kind.what, devRoot.Path(path), err))
				continue
			}
			if loaded && node.Major != major {
				warnings = append(warnings, fmt.Sprintf("%s: %s has the major %d, but %q has %d in /proc/devices",
					kind.what, devRoot.Path(path), node.Major, kind.device, major))
				continue
			}
			seen = seen || path == kind.byNumber.Path
			found = append(found, node)
		}
		if kind.byNumber.Path != "" && !seen {
			kind.byNumber.Major = major
			found = append([]Node{adopt(devRoot, kind.byNumber)}, found...)
		}
		if len(found) == 0 {
			warnings = append(warnings, fmt.Sprintf("%s: no device node in %s", kind.what, devRoot.Path(kind.dir)))
		}
		nodes = append(nodes, found...)
	}
	return nodes, warnings, nil
}

// GDSFiles returns the files that GPUDirect Storage needs, if they exist: the directory /run/udev
// and the file /etc/cufile.json, as absolute names in the root.
func GDSFiles(root Root) []string {
	var files []string
	for _, file := range []struct {
		name   string
		accept func(fs.FileMode) bool
	}{
		{"/run/udev", fs.FileMode.IsDir},
		{"/etc/cufile.json", fs.FileMode.IsRegular},
	} {
		if info, err := root.Stat(file.name[1:]); err == nil && file.accept(info.Mode()) {
			files = append(files, file.name)
		}
	}
	return files
}
