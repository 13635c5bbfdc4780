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

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// procCapabilities has a directory gpuN for each GPU by its device minor.
const procCapabilities = "proc/driver/nvidia/capabilities"

// HiddenPaths are the directories below /proc/driver/nvidia that tell about devices which are not in the selection,
// sorted: those of [Inventory.HiddenGPUs]; of a GPU of whose MIG instances none is selected the directory of all of
// them, unless the GPU is selected and has none; of another the directories of the instances that are not:
//
//	/proc/driver/nvidia/capabilities/gpu1/mig
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi2
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci1
//
// They are meant to be masked. A container that may change MIG instances has to see these: use HiddenGPUs there.
// What cannot be read is not taken for absent.
func (inv Inventory) HiddenPaths(root Root, sel Selection) ([]string, error) {
	hidden := inv.HiddenGPUs(sel)
	entries, err := root.ReadDir(procCapabilities)
	if errors.Is(err, fs.ErrNotExist) {
		return hidden, nil // before R450 there are none
	}
	if err != nil {
		return nil, fmt.Errorf("listing what to hide: %w", err)
	}
	// Go by the directories, not by the GPUs: of one whose information cannot be read the minor is not known.
	for _, e := range entries {
		name := e.Name()
		number, ok := strings.CutPrefix(name, "gpu")
		minor, err := strconv.Atoi(number)
		if !ok || err != nil {
			continue
		}
		var mine SelectedGPU
		for _, selected := range sel.GPUs {
			if selected.GPU.Minor == minor {
				mine = selected
			}
		}
		all := "/" + procCapabilities + "/" + name + "/mig"
		if len(mine.Instances) > 0 {
			others, err := hiddenInstances(root, mine)
			if err != nil {
				return nil, fmt.Errorf("listing what to hide: %w", err)
			}
			hidden = append(hidden, others...)
			continue
		}
		if mine.Whole {
			// The container's own GPU, without MIG as a rule: each masked directory is one more mount.
			inside, err := root.ReadDir(all[1:])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("listing what to hide: %w", err)
			}
			if len(inside) == 0 {
				continue
			}
		}
		hidden = append(hidden, all)
	}
	slices.Sort(hidden)
	return hidden, nil
}

// hiddenInstances are the directories of a GPU's instances that are not in the selection. A compute instance of a
// hidden GPU instance is hidden with it.
func hiddenInstances(root Root, selected SelectedGPU) ([]string, error) {
	gis, err := mig.GPUInstances(root, selected.GPU.Minor)
	if err != nil {
		return nil, err
	}
	var hidden []string
	shown := func(gi int) bool {
		return slices.ContainsFunc(selected.Instances, func(i mig.Instance) bool { return i.GI == gi })
	}
	dir := fmt.Sprintf("/%s/gpu%d/mig/gi", procCapabilities, selected.GPU.Minor)
	for _, gi := range gis {
		if !shown(gi) {
			hidden = append(hidden, dir+strconv.Itoa(gi))
		}
	}
	for _, i := range slices.Concat(selected.GPU.Instances, selected.GPU.masked) {
		if shown(i.GI) && !slices.ContainsFunc(selected.Instances, func(s mig.Instance) bool { return s.Compare(i) == 0 }) {
			hidden = append(hidden, fmt.Sprintf("%s%d/ci%d", dir, i.GI, i.CI))
		}
	}
	return hidden, nil
}

// HiddenGPUs are the directories of /proc/driver/nvidia/gpus whose GPUs are not in the selection, sorted: those
// that are masked here already, too, because a container within this one has a /proc of its own.
func (inv Inventory) HiddenGPUs(sel Selection) []string {
	var hidden []string
	for _, name := range inv.Masked {
		hidden = append(hidden, "/"+procGPUs+"/"+name)
	}
	for _, gpu := range inv.GPUs {
		if !slices.ContainsFunc(sel.GPUs, func(s SelectedGPU) bool { return s.GPU.Address == gpu.Address }) {
			hidden = append(hidden, "/"+procGPUs+"/"+gpu.Name)
		}
	}
	slices.Sort(hidden)
	return hidden
}
