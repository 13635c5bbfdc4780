// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"slices"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// HiddenPaths are the directories below /proc/driver/nvidia that tell about devices which are not in the selection, sorted:
// those of [Inventory.HiddenGPUs], and of MIG instances
//
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi2
//	/proc/driver/nvidia/capabilities/gpu0/mig/gi1/ci1
//
// They are meant to be masked. A container that may change MIG instances has to see these: use HiddenGPUs there.
func (inv Inventory) HiddenPaths(root Root, sel Selection) []string {
	hidden := inv.HiddenGPUs(sel)
	for _, gpu := range inv.GPUs {
		if gpu.Minor < 0 {
			continue
		}
		var shown []mig.Instance
		for _, selected := range sel.GPUs {
			if selected.GPU.Address == gpu.Address {
				shown = selected.Instances
			}
		}
		dirs, err := mig.Directories(root, gpu.Minor)
		if err != nil { // what cannot be listed is hidden as a whole
			hidden = append(hidden, fmt.Sprintf("/proc/driver/nvidia/capabilities/gpu%d/mig", gpu.Minor))
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
