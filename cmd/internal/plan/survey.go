// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Survey is all that a machine could give, for the operator's eyes.
type Survey struct {
	Machine          // what a container would get that asks for all and may have it
	NodesErr   error // why Nodes are not known
	FilesErr   error // why Files are not known, in the words in which a container's start would fail
	Unbound    []sysfs.PCIFunction
	UnboundErr error
}

// ReadSurvey reads a machine as [ReadMachine] does, but goes on where that
// gives up. It fails only if the inventory itself cannot be read. A machine
// without driver has neither nodes nor files.
func ReadSurvey(cfg Config, hostPath string) (Survey, error) {
	var s Survey
	var err error
	if s.Root, err = sysfs.NewRoot(cfg.Sysroot); err != nil {
		return Survey{}, fmt.Errorf("sysroot: %w", err)
	}
	s.DriverRoot = s.Root
	if s.Inventory, err = sysfs.Read(s.Root, true); err != nil {
		return Survey{}, err
	}
	s.Unbound, s.UnboundErr = sysfs.UnboundGPUs(s.Root, s.Inventory)
	if s.Inventory.Driver == nil {
		return s, nil
	}
	if s.DriverRoot, s.FilesErr = driverRoot(s.Root, cfg.DriverRoot); s.FilesErr != nil {
		s.DriverRoot, s.NodesErr = s.Root, s.FilesErr
		return s, nil //nolint:nilerr // the error is part of the survey
	}
	query := sysfs.Query{All: true}
	if len(s.Inventory.GPUs) == 0 {
		query = sysfs.Query{None: true}
	}
	if s.Selection, s.NodesErr = s.Inventory.Select(query); s.NodesErr == nil {
		s.NodesErr = s.findNodes(spec.Request{}, spec.Facts{}, driver.All)
	}
	s.FilesErr = s.findFiles(cfg, spec.Facts{}, driver.All, hostPath)
	return s, nil
}
