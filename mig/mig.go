// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package mig reads which MIG (Multi-Instance GPU) instances exist, and which device nodes grant
// access to them, from the NVIDIA driver's files. It also parses names of instances.
//
// Start with [ReadInstances] and [ParseName].
//
// A GPU is identified by its device minor, the N of /dev/nvidiaN. File systems are rooted at the
// machine's "/".
package mig

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"
	"strings"
)

// Limits of the driver, from /proc/driver/nvidia-caps/mig-minors: GPUs 0 to 31, GPU instances 0 to
// 14, each with 8 compute instances.
const (
	maxGPUs             = 32
	maxGPUInstances     = 15
	maxComputeInstances = 8
)

const (
	capabilities = "proc/driver/nvidia/capabilities"
	minorsFile   = "proc/driver/nvidia-caps/mig-minors"
)

// Instance is one MIG device: a compute instance within a GPU instance.
type Instance struct {
	GI, CI int        // IDs of the GPU instance and of its compute instance
	GICap  Capability // from /proc/driver/nvidia/capabilities/gpuN/mig/gi<GI>/access
	CICap  Capability // from /proc/driver/nvidia/capabilities/gpuN/mig/gi<GI>/ci<CI>/access
}

// Compare orders instances as the n of the "g:n" names counts them: by GI, then CI, as numbers.
func (i Instance) Compare(other Instance) int {
	return cmp.Or(cmp.Compare(i.GI, other.GI), cmp.Compare(i.CI, other.CI))
}

// Control are the capabilities that belong to no instance; nil if they do not exist.
type Control struct {
	Config  *Capability // right to create and destroy instances, from /proc/driver/nvidia/capabilities/mig/config
	Monitor *Capability // right to monitor all instances, from /proc/driver/nvidia/capabilities/mig/monitor
}

// ReadInstances returns the instances of the GPU with the given device minor, in the order of
// [Instance.Compare]. They are the directories gi<M>/ci<K> of
//
//	/proc/driver/nvidia/capabilities/gpu<minor>/mig
//
// Without that directory or without instances the result is nil: the directory exists for every GPU
// that was opened once, MIG mode or not. A GPU instance without a compute instance is not a MIG
// device.
//
// masked are compute instances with an empty directory, of which only the IDs are known: the
// runtime of the surrounding container masks them, or they are being destroyed.
//
// The driver's 450 branch may leave the access files empty. Then the minors come from
// /proc/driver/nvidia-caps/mig-minors, or are computed if that is absent, and [Capability.Empty] is
// set.
func ReadInstances(fsys fs.FS, gpuMinor int) (instances, masked []Instance, err error) {
	gpu := fmt.Sprintf("%s/gpu%d/mig", capabilities, gpuMinor)
	gis, err := numbered(fsys, gpu, "gi")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	var table *minors
	access := func(name string, gi, ci int) (Capability, error) {
		capability, err := readCapability(fsys, name)
		if err != nil || !capability.Empty {
			return capability, err
		}
		if table == nil {
			if table, err = readMinors(fsys); err != nil {
				return Capability{}, err
			}
		}
		if capability.Minor, err = table.minor(gpuMinor, gi, ci); err != nil {
			return Capability{}, fmt.Errorf("%s: empty, and %w", name, err)
		}
		return capability, nil
	}
	for _, gi := range gis {
		dir := fmt.Sprintf("%s/gi%d", gpu, gi)
		cis, err := numbered(fsys, dir, "ci")
		if errors.Is(err, fs.ErrNotExist) {
			continue // destroyed meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		if len(cis) == 0 {
			continue
		}
		giCap, err := access(dir+"/access", gi, -1)
		if errors.Is(err, fs.ErrNotExist) && empty(fsys, dir) {
			continue // destroyed meanwhile
		}
		if err != nil {
			return nil, nil, err
		}
		for _, ci := range cis {
			ciDir := fmt.Sprintf("%s/ci%d", dir, ci)
			ciCap, err := access(ciDir+"/access", gi, ci)
			if errors.Is(err, fs.ErrNotExist) && empty(fsys, ciDir) {
				masked = append(masked, Instance{GI: gi, CI: ci})
				continue
			}
			if err != nil {
				return nil, nil, err
			}
			instances = append(instances, Instance{GI: gi, CI: ci, GICap: giCap, CICap: ciCap})
		}
	}
	return instances, masked, nil
}

// empty reports whether a directory is empty or gone.
func empty(fsys fs.FS, dir string) bool {
	entries, err := fs.ReadDir(fsys, dir)
	return len(entries) == 0 && (err == nil || errors.Is(err, fs.ErrNotExist))
}

// GPUInstances returns the IDs of a GPU's GPU instances, ascending, even those without a compute
// instance: the directories gi<M> of
//
//	/proc/driver/nvidia/capabilities/gpu<minor>/mig
func GPUInstances(fsys fs.FS, gpuMinor int) ([]int, error) {
	gis, err := numbered(fsys, fmt.Sprintf("%s/gpu%d/mig", capabilities, gpuMinor), "gi")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return gis, err
}

// ReadControl reads /proc/driver/nvidia/capabilities/mig/config and mig/monitor.
func ReadControl(fsys fs.FS) (Control, error) {
	var control Control
	for _, file := range []struct {
		name       string
		capability **Capability
	}{
		{"config", &control.Config},
		{"monitor", &control.Monitor},
	} {
		capability, err := readCapability(fsys, capabilities+"/mig/"+file.name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return Control{}, err
		}
		if capability.Empty {
			table, err := readMinors(fsys)
			if err != nil {
				return Control{}, err
			}
			capability.Minor = table.control(file.name)
		}
		*file.capability = &capability
	}
	return control, nil
}

// PossibleMinors returns the minors of all instances that the GPU with the given device minor can
// ever have, ascending: 15 GPU instances with 8 compute instances each. It is nil for a minor above
// 31, which cannot have any.
func PossibleMinors(gpuMinor int) []int {
	if gpuMinor < 0 || gpuMinor >= maxGPUs {
		return nil
	}
	all := make([]int, 0, maxGPUInstances*(1+maxComputeInstances))
	for gi := range maxGPUInstances {
		for ci := -1; ci < maxComputeInstances; ci++ {
			all = append(all, formula(gpuMinor, gi, ci))
		}
	}
	return all
}

// numbered returns the numbers of the directories in dir named prefix and a number, ascending. It
// ignores others.
func numbered(fsys fs.FS, dir, prefix string) ([]int, error) {
	entries, err := fs.ReadDir(fsys, dir)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, entry := range entries {
		digits, ok := strings.CutPrefix(entry.Name(), prefix)
		if !ok || !entry.IsDir() {
			continue
		}
		if number, ok := parseNumber(digits); ok {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// parseNumber parses the kernel's %u: at most 9 digits, without sign or leading zero.
func parseNumber(s string) (int, bool) {
	if s == "" || len(s) > 9 || s[0] == '0' && s != "0" {
		return 0, false
	}
	for _, c := range []byte(s) {
		if c < '0' || c > '9' {
			return 0, false
		}
	}
	number, err := strconv.Atoi(s)
	return number, err == nil
}

// quote quotes and shortens foreign text for a message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return strconv.Quote(s)
}
