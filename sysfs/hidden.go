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

// HiddenPaths returns the directories below /proc/driver/nvidia about devices outside the
// selection, sorted: those of [Inventory.HiddenGPUs]; the mig directory of a GPU without selected
// MIG instances, unless the GPU is selected and has no instances; otherwise the directories of
// unselected instances:
//
//	/proc/driver/nvidia/capabilities/gpu1/mig
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi2
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci1
//
// They are meant to be masked. A container that may change MIG instances must see them: use
// HiddenGPUs for it. Unreadable does not count as absent.
func (inv Inventory) HiddenPaths(root Root, sel Selection) ([]string, error) {
	hidden := inv.HiddenGPUs(sel)
	entries, err := root.ReadDir(procCapabilities)
	if errors.Is(err, fs.ErrNotExist) {
		return hidden, nil // before R450
	}
	if err != nil {
		return nil, fmt.Errorf("listing what to hide: %w", err)
	}
	// Iterate over directories, not GPUs: the minor of an unreadable GPU is unknown.
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
			// The container's own GPU, usually without MIG: each masked directory costs a mount.
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

// hiddenInstances returns the directories of a GPU's unselected instances. A GPU instance includes
// its compute instances.
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
		same := func(s mig.Instance) bool { return s.Compare(i) == 0 }
		if shown(i.GI) && !slices.ContainsFunc(selected.Instances, same) {
			hidden = append(hidden, fmt.Sprintf("%s%d/ci%d", dir, i.GI, i.CI))
		}
	}
	return hidden, nil
}

// HiddenGPUs returns the directories of /proc/driver/nvidia/gpus outside the selection, sorted,
// including those masked here, because a nested container has a /proc of its own.
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
