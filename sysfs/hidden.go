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

// HiddenPaths are the directories below /proc/driver/nvidia that tell about devices which are not in the selection, sorted:
// those of [Inventory.HiddenGPUs]; of a GPU of whose MIG instances none is selected the directory of all of them, unless the GPU is
// selected and has none; of another the directories of the instances that are not:
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
		var shown []mig.Instance
		mine := false
		for _, selected := range sel.GPUs {
			if selected.GPU.Minor == minor {
				shown, mine = selected.Instances, true
			}
		}
		if mine && len(shown) == 0 {
			// The container's own GPU, without MIG as a rule: each masked directory is one more mount.
			inside, err := root.ReadDir(procCapabilities + "/" + name + "/mig")
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				return nil, fmt.Errorf("listing what to hide: %w", err)
			}
			if len(inside) == 0 {
				continue
			}
		}
		all := "/" + procCapabilities + "/" + name + "/mig"
		if len(shown) == 0 {
			hidden = append(hidden, all)
			continue
		}
		dirs, err := mig.Directories(root, minor)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("listing what to hide: %w", err)
		}
		if err != nil { // what is going away just now is hidden as a whole
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
	return hidden, nil
}

// HiddenGPUs are the directories of /proc/driver/nvidia/gpus whose GPUs are not in the selection, sorted: those that are masked
// here already, too, because a container within this one has a /proc of its own.
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
