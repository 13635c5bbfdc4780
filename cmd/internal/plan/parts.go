// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Parts is a machine taken apart: what every container needs that has any of
// its devices, and what is of one device alone.
type Parts struct {
	Machine              // Nodes are those that belong to no GPU; Selection is all that there is
	Devices []Part       // each GPU in the order of the index, followed by its MIG devices
	Skipped []SkippedGPU // GPUs that cannot be given, as they would be left out of "all"
	DevRoot sysfs.Root   // where the host's nodes are: Root, or a driver container's root
}

// Part is one device.
type Part struct {
	GPU      sysfs.GPU
	Rank     int          // of a MIG device among those of its GPU, from 0; -1 is the GPU itself
	Instance mig.Instance // of a MIG device
	UUID     string       // of a MIG device, "MIG-<uuid>", where it was learnt; else ""
	Nodes    []sysfs.Node // its device nodes, sorted by path; those of a MIG device have its GPU's among them
}

// SkippedGPU is a GPU that cannot be given, and why.
type SkippedGPU struct {
	GPU sysfs.GPU
	Err error
}

// ReadParts reads a machine as [ReadMachine] does for a container that asks
// for all devices with the driver capabilities classes. A GPU that cannot be
// given is no error as long as others can. extras are further devices, of [Extras].
func ReadParts(cfg Config, classes driver.Class, hostPath string, extras ...string) (Parts, error) {
	p := Parts{}
	request, err := requestExtras(extras)
	if err != nil {
		return Parts{}, err
	}
	if p.Root, err = sysfs.NewRoot(cfg.Sysroot); err != nil {
		return Parts{}, fmt.Errorf("sysroot: %w", err)
	}
	if p.DriverRoot, err = driverRoot(p.Root, cfg.DriverRoot); err != nil {
		return Parts{}, err
	}
	p.DevRoot = p.devRoot()
	if p.Inventory, err = sysfs.Read(p.Root, true); err != nil {
		return Parts{}, err
	}
	if err := sysfs.CheckPlatform(p.Root, p.Inventory.Driver); err != nil {
		return Parts{}, err
	}
	if p.Inventory.Driver == nil {
		return Parts{}, noDriver(p.Root, spec.Request{Source: "this command", Devices: []string{"all"}})
	}
	if p.Selection, err = p.Inventory.Select(sysfs.Query{All: true}); err != nil {
		return Parts{}, withUnbound(p.Root, p.Inventory, err)
	}
	for _, g := range p.Selection.Skipped {
		p.Skipped = append(p.Skipped, SkippedGPU{g, g.Err})
	}
	uuids, err := ReadMIGUUIDs(p.Root, p.Inventory)
	if err != nil {
		return Parts{}, err
	}
	if uuids.Err != nil && !errors.Is(uuids.Err, fs.ErrNotExist) {
		p.Notes = append(p.Notes, fmt.Sprintf("MIG devices have no UUIDs: %v", uuids.Err))
	}
	all := p.Selection
	p.Selection = sysfs.Selection{}
	if err := p.findNodes(request, spec.Facts{}, classes); err != nil {
		return Parts{}, err
	}
	p.Selection = all
	var errs []error
	for _, g := range all.GPUs {
		devices, err := p.partsOf(g, uuids, classes&(driver.Graphics|driver.Display) != 0)
		if err != nil {
			p.Skipped = append(p.Skipped, SkippedGPU{g.GPU, err})
			errs = append(errs, err)
			continue
		}
		p.Devices = append(p.Devices, devices...)
	}
	if len(p.Devices) == 0 {
		return Parts{}, errors.Join(errs...)
	}
	return p, p.findFiles(cfg, spec.Facts{}, classes, hostPath)
}

// Extras are the devices beside GPUs that a container can ask for by variables of its environment, NVIDIA_GDS=enabled and
// the like; imex stands for NVIDIA_IMEX_CHANNELS=all.
var Extras = []string{"gds", "mofed", "gdrcopy", "nvswitch", "imex"}

func requestExtras(extras []string) (spec.Request, error) {
	var r spec.Request
	for _, name := range extras {
		switch name {
		case "gds":
			r.GDS = true
		case "mofed":
			r.MOFED = true
		case "gdrcopy":
			r.GDRCopy = true
		case "nvswitch":
			r.NVSwitch = true
		case "imex":
			r.IMEXAll = true
		default:
			return spec.Request{}, fmt.Errorf("further devices %.100q are not known: there are %s", name, strings.Join(Extras, ", "))
		}
	}
	return r, nil
}

// partsOf is a GPU and its MIG devices. A MIG device has no graphics.
func (p *Parts) partsOf(g sysfs.SelectedGPU, uuids sysfs.MIGUUIDs, graphics bool) ([]Part, error) {
	part := func(rank int, instances ...mig.Instance) (Part, error) {
		selected := sysfs.SelectedGPU{GPU: g.GPU, Whole: rank < 0, Instances: instances}
		nodes, err := p.Inventory.SelectionNodes(p.DevRoot, sysfs.Selection{GPUs: []sysfs.SelectedGPU{selected}})
		if err == nil && graphics && rank < 0 {
			var more []sysfs.Node
			more, err = sysfs.DRMNodes(p.Root, p.DevRoot, g.GPU)
			nodes = append(nodes, more...)
		}
		slices.SortStableFunc(nodes, func(a, b sysfs.Node) int { return strings.Compare(a.Path, b.Path) })
		device := Part{GPU: g.GPU, Rank: rank, Nodes: nodes}
		if len(instances) > 0 {
			device.Instance = instances[0]
		}
		return device, err
	}
	device, err := part(-1)
	if err != nil {
		return nil, err
	}
	devices := []Part{device}
	for rank, instance := range g.Instances {
		if device, err = part(rank, instance); err != nil {
			return nil, err
		}
		if uuid, ok := uuids.Of(g.GPU, rank); ok {
			device.UUID = uuid.String()
		}
		devices = append(devices, device)
	}
	return devices, nil
}

// MountOptions are those of the mounts that [Make] adds for a file of the kind.
func MountOptions(kind driver.Kind) []string {
	if kind == driver.Socket || kind == driver.Directory {
		return slices.Clone(socketOptions)
	}
	return slices.Clone(fileOptions)
}
