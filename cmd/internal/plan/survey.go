// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"cmp"
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

// Survey is everything that a machine could give to containers, by device, for display and for CDI
// files. Errors that would stop a container are fields.
type Survey struct {
	Machine
	DevRoot sysfs.Root   // root of the host's nodes: Root, or a driver container's root
	Common  []sysfs.Node // device nodes that belong to no GPU
	Devices []Part       // each GPU by index, followed by its MIG devices
	Skipped []SkippedGPU // unusable GPUs, left out of "all"
	Files   []driver.File
	Unbound []sysfs.PCIFunction
	Notes   []string

	NodesErr   error // why device nodes are not known
	FilesErr   error // why Files are not known: the error with which a container would fail
	UnboundErr error
}

// Part is one device.
type Part struct {
	GPU      sysfs.GPU
	Rank     int          // of a MIG device on its GPU, from 0; -1 for the GPU itself
	Instance mig.Instance // of a MIG device
	UUID     string       // of a MIG device, "MIG-<uuid>"; "" unless recorded by "nvsysfs learn"
	Nodes    []sysfs.Node // sorted by path; a MIG device's include its GPU's
}

// SkippedGPU is an unusable GPU, and why.
type SkippedGPU struct {
	GPU sysfs.GPU
	Err error
}

// ReadSurvey reads a machine as [New] does for a container that asks for all devices with the
// driver capabilities classes, but continues after errors, unless the inventory cannot be read.
// Without a driver there are no nodes and no files. extras are names from [Extras].
func ReadSurvey(cfg Config, classes driver.Class, hostPath string, extras ...string) (Survey, error) {
	var s Survey
	request, err := requestExtras(extras)
	if err != nil {
		return Survey{}, err
	}
	s.Machine, s.FilesErr = openMachine(cfg)
	if s.DriverRoot == "" && s.Root == "" {
		return Survey{}, s.FilesErr
	}
	if s.FilesErr != nil {
		s.DriverRoot = s.Root
	}
	s.DevRoot = s.devRoot()
	if s.Inventory, err = sysfs.Read(s.Root, true); err != nil {
		return Survey{}, err
	}
	s.Unbound, s.UnboundErr = sysfs.UnboundGPUs(s.Root, s.Inventory)
	if s.Inventory.Driver == nil {
		s.FilesErr = nil
		return s, nil
	}
	s.Arch = archOf(s.Inventory.Driver.Arch)
	if s.NodesErr = s.FilesErr; s.NodesErr != nil {
		return s, nil //nolint:nilerr // the error is part of the survey
	}
	s.NodesErr = s.readDevices(request, classes)
	var notes []string
	s.Files, notes, s.FilesErr = s.files(cfg, nil, classes, hostPath)
	s.Notes = append(s.Notes, notes...)
	return s, nil
}

// Err returns why a container that asks for everything would not start.
func (s Survey) Err() error {
	if err := sysfs.CheckPlatform(s.Root, s.Inventory.Driver); err != nil {
		return err
	}
	if s.Inventory.Driver == nil {
		return noDriver(s.Root, spec.Request{Source: "this command", Devices: []string{"all"}})
	}
	return cmp.Or(s.NodesErr, s.FilesErr)
}

// readDevices finds the nodes of each device. It fails if there are GPUs but none is usable.
func (s *Survey) readDevices(request spec.Request, classes driver.Class) error {
	query := sysfs.Query{All: true}
	if len(s.Inventory.GPUs) == 0 {
		query = sysfs.Query{None: true}
	}
	all, err := s.Inventory.Select(query)
	if err != nil {
		return withUnbound(s.Root, s.Inventory, err)
	}
	for _, g := range all.Skipped {
		s.Skipped = append(s.Skipped, SkippedGPU{g, g.Err})
	}
	var notes []string
	s.Common, notes, err = s.nodes(request, spec.Facts{}, classes)
	s.Notes = append(s.Notes, notes...)
	if err != nil {
		return err
	}
	s.Selection = all
	uuids, err := ReadMIGUUIDs(s.Root, s.Inventory)
	if err != nil {
		return err
	}
	if uuids.Err != nil && !errors.Is(uuids.Err, fs.ErrNotExist) {
		s.Notes = append(s.Notes, fmt.Sprintf("MIG devices have no UUIDs: %v", uuids.Err))
	}
	var errs []error
	for _, g := range all.GPUs {
		devices, err := s.partsOf(g, uuids, classes&(driver.Graphics|driver.Display) != 0)
		if err != nil {
			s.Skipped = append(s.Skipped, SkippedGPU{g.GPU, err})
			errs = append(errs, err)
			continue
		}
		s.Devices = append(s.Devices, devices...)
	}
	if len(s.Devices) == 0 {
		return errors.Join(errs...)
	}
	return nil
}

// Extras are the devices other than GPUs that environment variables such as NVIDIA_GDS=enabled ask
// for; imex is NVIDIA_IMEX_CHANNELS=all.
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
			return spec.Request{}, fmt.Errorf("unknown devices %.100q; known: %s", name, strings.Join(Extras, ", "))
		}
	}
	return r, nil
}

// partsOf returns a GPU and its MIG devices.
func (s *Survey) partsOf(g sysfs.SelectedGPU, uuids sysfs.MIGUUIDs, graphics bool) ([]Part, error) {
	part := func(rank int, instances ...mig.Instance) (Part, error) {
		selected := sysfs.SelectedGPU{GPU: g.GPU, Whole: rank < 0, Instances: instances}
		nodes, err := s.Inventory.SelectionNodes(s.DevRoot, sysfs.Selection{GPUs: []sysfs.SelectedGPU{selected}})
		if err == nil && graphics && (rank < 0 || sysfs.MIGGraphics(s.Root, g.GPU)) {
			var more []sysfs.Node
			more, err = sysfs.DRMNodes(s.Root, s.DevRoot, g.GPU)
			nodes = append(nodes, more...)
		}
		sortNodes(nodes)
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

// AllNodes returns the nodes of a container that gets everything.
func (s Survey) AllNodes() []sysfs.Node {
	nodes := slices.Clone(s.Common)
	for _, d := range s.Devices {
		nodes = append(nodes, d.Nodes...)
	}
	sortNodes(nodes)
	return slices.CompactFunc(nodes, func(a, b sysfs.Node) bool { return a.Path == b.Path })
}

// CharLinks returns the missing or wrong /dev/char links of such a container.
func (s Survey) CharLinks() []CharLink { return s.charLinks(s.AllNodes()) }

func sortNodes(nodes []sysfs.Node) {
	slices.SortStableFunc(nodes, func(a, b sysfs.Node) int { return strings.Compare(a.Path, b.Path) })
}
