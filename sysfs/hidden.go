// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// procCapabilities has a directory gpuN for each GPU by its device minor.
const procCapabilities = "proc/driver/nvidia/capabilities"

// HiddenPaths are the directories below /proc/driver/nvidia that tell about devices which are not in the selection, sorted:
// those of [Inventory.HiddenGPUs]; of a GPU of whose MIG instances none is selected the directory of all of them; of another
// the directories of the instances that are not:
//
//	/proc/driver/nvidia/capabilities/gpu1/mig
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi2
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci1
//
// They are meant to be masked. A container that may change MIG instances has to see these: use HiddenGPUs there.
func (inv Inventory) HiddenPaths(root Root, sel Selection) []string {
	hidden := inv.HiddenGPUs(sel)
	entries, err := root.ReadDir(procCapabilities)
	if err != nil {
		return hidden // before R450 there are none
	}
	for _, gpu := range inv.GPUs {
		name := fmt.Sprintf("gpu%d", gpu.Minor)
		if !slices.ContainsFunc(entries, func(e fs.DirEntry) bool { return e.Name() == name }) {
			continue
		}
		var shown []mig.Instance
		for _, selected := range sel.GPUs {
			if selected.GPU.Address == gpu.Address {
				shown = selected.Instances
			}
		}
		all := "/" + procCapabilities + "/" + name + "/mig"
		if len(shown) == 0 {
			hidden = append(hidden, all)
			continue
		}
		dirs, err := mig.Directories(root, gpu.Minor)
		if err != nil { // what cannot be listed is hidden as a whole
			hidden = append(hidden, all)
			continue
		}
		for _, dir := range dirs {
			shows := slices.ContainsFunc(shown, func(i mig.Instance) bool {
				return i.GI == dir.GI && (dir.CI < 0 || i.CI == dir.CI)
			})
			// A compute instance of a hidden GPU instance is hidden with it.
			parent := dir.CI < 0 || slices.ContainsFunc(shown, func(i mig.Instance) bool { return i.GI == dir.GI })
			if !shows && parent {
				hidden = append(hidden, "/"+dir.Path)
			}
		}
	}
	slices.Sort(hidden)
	return hidden
}

// HiddenGPUs are the directories of /proc/driver/nvidia/gpus whose GPUs are not in the selection, sorted.
func (inv Inventory) HiddenGPUs(sel Selection) []string {
	var hidden []string
	for _, gpu := range inv.GPUs {
		if !slices.ContainsFunc(sel.GPUs, func(s SelectedGPU) bool { return s.GPU.Address == gpu.Address }) {
			hidden = append(hidden, "/"+procGPUs+"/"+gpu.Name)
		}
	}
	slices.Sort(hidden)
	return hidden
}
