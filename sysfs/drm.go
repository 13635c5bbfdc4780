// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// DRMNodes returns a GPU's nodes for graphics: /dev/dri/cardN and /dev/dri/renderDN. Their names
// and numbers are in
//
//	/sys/bus/pci/devices/<address>/drm/card1/dev        226:1
//	/sys/bus/pci/devices/<address>/drm/renderD129/dev   226:129
//
// the only place that relates them to a GPU. Each also appears as
// /dev/dri/by-path/pci-<address>-card or -render, a symbolic link on the host. A GPU without the
// DRM driver has none.
//
// Mode and group are those of the host's nodes below devRoot; by default a card has mode 0660, a
// render node 0666.
func DRMNodes(root, devRoot Root, gpu GPU) ([]Node, error) {
	address := gpu.Address.String()
	dir := sysPCI + "/" + address + "/drm"
	entries, err := root.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("gpu %s: reading DRM nodes: %w", gpu.Name, err)
	}
	var nodes []Node
	for _, entry := range entries {
		node := Node{Path: "/dev/dri/" + entry.Name()}
		link := "/dev/dri/by-path/pci-" + address
		if digits, ok := strings.CutPrefix(entry.Name(), "card"); ok && isNumber(digits) {
			node.Mode, link = 0o660, link+"-card"
		} else if digits, ok := strings.CutPrefix(entry.Name(), "renderD"); ok && isNumber(digits) {
			node.Mode, link = 0o666, link+"-render"
		} else {
			continue // a connector such as card1-DP-1, or another kind of node
		}
		name := dir + "/" + entry.Name() + "/dev"
		data, err := root.ReadFileMax(name, 4096)
		if errors.Is(err, fs.ErrNotExist) {
			continue // the GPU is being unplugged
		}
		if err != nil {
			return nil, fmt.Errorf("gpu %s: reading DRM nodes: %w", gpu.Name, err)
		}
		if node.Major, node.Minor, err = parseDev(string(data)); err != nil {
			return nil, fmt.Errorf("gpu %s: reading DRM nodes: %s: %w", gpu.Name, root.Path(name), err)
		}
		node = adopt(devRoot, node)
		nodes = append(nodes, node)
		node.Path = link
		if host, err := HostNode(devRoot, link); err != nil || host.Major != node.Major || host.Minor != node.Minor {
			node.OnHost, node.Instead = false, ""
		}
		nodes = append(nodes, node)
	}
	slices.SortFunc(nodes, func(a, b Node) int { return strings.Compare(a.Path, b.Path) })
	return nodes, nil
}

// parseDev parses a dev file of sysfs, "226:1\n".
func parseDev(text string) (major, minor int, err error) {
	a, b, _ := strings.Cut(strings.TrimSuffix(text, "\n"), ":")
	x, errA := strconv.ParseUint(a, 10, 12)
	y, errB := strconv.ParseUint(b, 10, 20)
	if errA != nil || errB != nil {
		return 0, 0, fmt.Errorf("%s is not a device number as in 226:1", quote(text))
	}
	return int(x), int(y), nil
}

// isNumber reports whether s consists of digits.
func isNumber(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == ""
}
