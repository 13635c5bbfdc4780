// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strconv"
	"strings"
)

// PCIFunction is one directory of /sys/bus/pci/devices.
type PCIFunction struct {
	Address  Address
	Name     string // the directory's name
	Vendor   uint16 // file vendor: 0x10de is NVIDIA
	Device   uint16 // file device
	Class    uint32 // file class: 0x0300xx VGA, 0x0302xx 3D controller
	Driver   string // target of the link driver: "nvidia", "vfio-pci", "" for none
	NUMANode int    // file numa_node; -1 if unknown
}

const (
	sysPCI       = "sys/bus/pci/devices"
	nvidiaVendor = 0x10de
	classVGA     = 0x0300
	class3D      = 0x0302
)

// ReadPCI reads one function from /sys/bus/pci/devices/<address>. The kernel's spelling of the
// address may differ from that of the driver's directories.
func ReadPCI(root Root, address Address) (PCIFunction, error) {
	name := address.String()
	function := PCIFunction{Address: address, Name: name, NUMANode: -1}
	vendor, err := readHex(root, name, "vendor", 16)
	if err != nil {
		return PCIFunction{}, err
	}
	device, err := readHex(root, name, "device", 16)
	if err != nil {
		return PCIFunction{}, err
	}
	class, err := readHex(root, name, "class", 24)
	if err != nil {
		return PCIFunction{}, err
	}
	function.Vendor, function.Device, function.Class = uint16(vendor), uint16(device), uint32(class)

	driver, err := root.ReadLink(sysPCI + "/" + name + "/driver")
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return PCIFunction{}, err
	}
	if err == nil {
		function.Driver = path.Base(driver)
	}
	node, err := root.ReadFileMax(sysPCI+"/"+name+"/numa_node", 4096)
	if errors.Is(err, fs.ErrNotExist) {
		return function, nil
	}
	if err != nil {
		return PCIFunction{}, err
	}
	number, err := strconv.ParseInt(strings.TrimSpace(string(node)), 10, 16)
	if err != nil || number < -1 {
		return PCIFunction{}, fmt.Errorf("%s: %s is not the number of a NUMA node",
			root.Path(sysPCI+"/"+name+"/numa_node"), quote(string(node)))
	}
	function.NUMANode = int(number)
	return function, nil
}

// UnboundGPUs finds NVIDIA GPUs that the driver does not list in /proc: bound to another driver
// such as vfio-pci, or to none. Virtual functions (those with a link physfn) and the masked ones of
// inv are left out.
//
// It reads a file of every PCI function, so use it only to explain an error and for listing.
// Functions that cannot be read are left out, with their errors in the second result.
func UnboundGPUs(root Root, inv Inventory) ([]PCIFunction, error) {
	entries, err := root.ReadDir(sysPCI)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading PCI functions: %w", err)
	}
	have := map[Address]bool{}
	for _, gpu := range inv.GPUs {
		have[gpu.Address] = true
	}
	for _, name := range inv.Masked {
		if address, err := ParseAddress(name); err == nil {
			have[address] = true
		}
	}
	var (
		unbound []PCIFunction
		errs    []error
	)
	for _, entry := range entries {
		vendor, err := readHex(root, entry.Name(), "vendor", 16)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if vendor != nvidiaVendor {
			continue
		}
		address, err := ParseAddress(entry.Name())
		if err != nil {
			errs = append(errs, err)
			continue
		}
		function, err := ReadPCI(root, address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		if kind := function.Class >> 8; kind != classVGA && kind != class3D || have[function.Address] {
			continue
		}
		if _, err := root.Lstat(sysPCI + "/" + entry.Name() + "/physfn"); !errors.Is(err, fs.ErrNotExist) {
			continue
		}
		unbound = append(unbound, function)
	}
	return unbound, errors.Join(errs...)
}

// readHex reads a file of a PCI function with one number: "0x10de\n".
func readHex(root Root, function, file string, bits int) (uint64, error) {
	name := sysPCI + "/" + function + "/" + file
	data, err := root.ReadFileMax(name, 4096)
	if err != nil {
		return 0, err
	}
	number, err := parseHex(string(data), bits)
	if err != nil {
		return 0, fmt.Errorf("%s: %w", root.Path(name), err)
	}
	return number, nil
}

func parseHex(text string, bits int) (uint64, error) {
	digits, ok := strings.CutPrefix(strings.TrimSpace(text), "0x")
	number, err := strconv.ParseUint(digits, 16, bits)
	if !ok || err != nil {
		return 0, fmt.Errorf("%s is not a number of %d bits as in 0x10de", quote(text), bits)
	}
	return number, nil
}
