// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// Inventory describes the NVIDIA driver and GPUs of a machine.
type Inventory struct {
	Driver *Driver // nil if no NVIDIA driver is loaded
	Majors Majors  // from /proc/devices
	Params Params  // from /proc/driver/nvidia/params, or the driver's defaults
	GPUs   []GPU   // of /proc/driver/nvidia/gpus, in ascending address

	// Masked are the names of empty directories of /proc/driver/nvidia/gpus, sorted: this process
	// is in a container whose runtime hides those GPUs, as this one does. They are not in GPUs and
	// have no index, as NVIDIA's tools do not count what they cannot open.
	Masked []string

	// Odd are other names in /proc/driver/nvidia/gpus, which are not PCI addresses as the driver
	// spells them, sorted.
	Odd []string
}

// Read reads the inventory of a machine, each file once; with instances also the MIG devices of
// every GPU.
//
// Without a driver, Inventory.Driver is nil, which is not an error. A GPU whose files cannot be
// read or parsed has its Err set. A malformed file that all GPUs share is an error.
func Read(root Root, instances bool) (Inventory, error) {
	driver, err := readDriver(root)
	if err != nil {
		return Inventory{}, fmt.Errorf("reading the driver's version: %w", err)
	}
	majors, err := readMajors(root)
	if err != nil && (driver != nil || !errors.Is(err, fs.ErrNotExist)) {
		return Inventory{}, fmt.Errorf("reading major numbers: %w", err)
	}
	params, err := readParams(root)
	if err != nil {
		return Inventory{}, fmt.Errorf("reading the driver's parameters: %w", err)
	}
	inv := Inventory{Driver: driver, Majors: majors, Params: params}
	if driver == nil {
		return inv, nil
	}
	if err := inv.readGPUs(root, instances); err != nil {
		return Inventory{}, fmt.Errorf("reading gpus: %w", err)
	}
	return inv, nil
}

// ReadFor is [Read] with the MIG devices of only the GPUs that the query may mean.
func ReadFor(root Root, q Query) (Inventory, error) {
	if q.All || !q.NeedsInstances() {
		return Read(root, q.All)
	}
	inv, err := Read(root, false)
	if err != nil {
		return Inventory{}, err
	}
	s := newSelector(inv)
	read := make([]bool, len(inv.GPUs))
	for _, id := range q.ids {
		at := -1
		switch {
		case id.form == byRank && id.index < len(s.byIndex):
			at = s.byIndex[id.index]
		case id.form == byInstance:
			if found, reason := s.findUUID(id.uuid); reason == "" {
				at = found
			}
		}
		if at >= 0 && !read[at] && inv.GPUs[at].Err == nil {
			read[at] = true
			inv.GPUs[at].readInstances(root)
		}
	}
	return inv, nil
}

// readGPUs reads the directories of /proc/driver/nvidia/gpus.
func (inv *Inventory) readGPUs(root Root, instances bool) error {
	entries, err := root.ReadDir(procGPUs)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	gpus := make([]GPU, 0, len(entries))
	for _, entry := range entries {
		address, err := parseDirectory(entry.Name())
		if err != nil {
			inv.Odd = append(inv.Odd, entry.Name())
			continue
		}
		gpu := readGPU(root, GPU{Address: address, Name: entry.Name()}, instances)
		if errors.Is(gpu.Err, fs.ErrNotExist) {
			if inside, err := root.ReadDir(procGPUs + "/" + entry.Name()); err == nil && len(inside) == 0 {
				inv.Masked = append(inv.Masked, entry.Name())
				continue
			}
		}
		gpus = append(gpus, gpu)
	}
	slices.SortStableFunc(gpus, func(a, b GPU) int { return a.Address.Compare(b.Address) })

	// The minor decides which GPU a container gets: do not trust GPUs with equal minors or
	// addresses.
	index := 0
	byMinor := map[int]*GPU{}
	for i := range gpus {
		gpu := &gpus[i]
		gpu.Index = -1
		if !gpu.Excluded {
			gpu.Index = index
			index++
		}
		if i > 0 && gpus[i-1].Address == gpu.Address {
			disagree(&gpus[i-1], gpu, "its address")
		}
		if gpu.Err != nil {
			continue
		}
		if other := byMinor[gpu.Minor]; other != nil {
			disagree(other, gpu, fmt.Sprintf("its device minor %d", gpu.Minor))
			continue
		}
		byMinor[gpu.Minor] = gpu
	}
	inv.GPUs = gpus
	return nil
}

// disagree marks two GPUs as unusable because of something that they share.
func disagree(a, b *GPU, both string) {
	if a.Err == nil {
		a.Err = errors.New(both + " is also that of " + b.Name)
	}
	b.Err = errors.New(both + " is also that of " + a.Name)
}

// readGPU reads the files of one GPU.
func readGPU(root Root, gpu GPU, instances bool) GPU {
	read, err := readInformation(root, gpu)
	if err != nil {
		gpu.Minor, gpu.Err = -1, err
		return gpu
	}
	if instances {
		read.readInstances(root)
	}
	return read
}

// readInstances reads the MIG devices of a GPU.
func (gpu *GPU) readInstances(root Root) {
	if gpu.Excluded {
		return
	}
	instances, masked, err := mig.ReadInstances(root, gpu.Minor)
	if err != nil {
		gpu.Minor, gpu.Err = -1, fmt.Errorf("reading MIG devices: %w", err)
		return
	}
	gpu.Instances, gpu.masked = instances, masked
}

// parseDirectory parses the name of a directory of /proc/driver/nvidia/gpus. The driver pads the
// domain to four digits; some older ones use eight.
func parseDirectory(name string) (Address, error) {
	address, err := ParseAddress(name)
	if err != nil {
		return Address{}, err
	}
	domain := strings.IndexByte(name, ':')
	if domain < 4 || domain > 8 || len(name) != domain+len(":01:00.0") || name[domain+3] != ':' {
		return Address{}, fmt.Errorf("%s is not a PCI address as the driver spells it", quote(name))
	}
	return address, nil
}
