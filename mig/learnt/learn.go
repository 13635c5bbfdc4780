// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package learnt

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
)

// Seen is a GPU as the driver's files show it, to compare with nvidia-smi.
type Seen struct {
	UUID      string // in lower case
	Address   string
	Index     int
	Driver    string // version
	Err       error  // why nothing can be learned about it
	Instances []mig.Instance
	Marks     []string // of the instances, in their order
	// Candidates for the PDI. One that explains the UUID of a MIG device is accepted.
	Candidates []Candidate
}

// Candidate is a number that may be the PDI.
type Candidate struct {
	PDI    uint64
	Source string
}

// Learn returns the store extended by what nvidia-smi said about a GPU while the driver's files
// showed it as seen. If the two contradict each other it is an error: the MIG devices changed in
// between, or the text is from another time or machine.
//
// What is already known is kept: a PDI that the text lacks, the devices of a GPU whose list the
// text lacks, other GPUs. The second result says what could not be learned, "" if nothing is
// missing.
func (s Store) Learn(seen Seen, said smi.GPU) (Store, string, error) {
	known, _ := s.Find(seen.UUID)
	gpu := known
	gpu.UUID, gpu.Address = seen.UUID, seen.Address
	if said.HasPDI && gpu.Chip == 0 {
		gpu.PDI, gpu.Source = said.PDI, FromSMI
	}

	devices, missing, err := seen.devices(&gpu, said)
	if err != nil {
		return Store{}, "", fmt.Errorf("%s: %w", seen.UUID, err)
	}
	if devices != nil {
		gpu.replace(devices)
	}
	s.GPUs = slices.Clone(s.GPUs)
	s.GPUs = slices.DeleteFunc(s.GPUs, func(g GPU) bool { return g.UUID == gpu.UUID })
	s.GPUs = append(s.GPUs, gpu)
	slices.SortFunc(s.GPUs, func(a, b GPU) int { return strings.Compare(a.UUID, b.UUID) })
	return s, missing, nil
}

// devices returns the MIG devices of the GPU as far as they are proved, nil if unknown. In the
// process it proves the PDI of gpu.
func (seen Seen) devices(gpu *GPU, said smi.GPU) (devices []Device, missing string, err error) {
	if !said.Listed {
		if said.Queried && len(seen.Instances) > 0 && gpu.Source == "" {
			return nil, "the text has neither a PDI (R575 and later print it) nor UUIDs of MIG devices: " +
				"nvidia-smi -L is needed too", nil
		}
		return nil, "", nil
	}
	if len(said.Devices) != len(seen.Instances) {
		return nil, "", fmt.Errorf("nvidia-smi -L lists %d MIG devices, /proc/driver/nvidia/capabilities has %d: "+
			"run this again when they are not being changed",
			len(said.Devices), len(seen.Instances))
	}
	if slices.ContainsFunc(said.Devices, smi.Device.Old) {
		return nil, "", nil // their names say all that there is
	}
	if said.Queried {
		devices, err = seen.join(said)
	} else {
		devices, err = seen.derive(gpu, said)
	}
	if err != nil {
		return nil, "", err
	}
	if devices == nil && len(said.Devices) > 0 {
		return nil, "nvidia-smi -L alone does not tell which MIG device is which: nvidia-smi -q is needed too", nil
	}
	return devices, seen.prove(gpu, devices), seen.contradiction(*gpu, devices)
}

// join finds the IDs of each listed device under its index in -q.
func (seen Seen) join(said smi.GPU) ([]Device, error) {
	devices := []Device{}
	for _, d := range said.Devices {
		at := slices.IndexFunc(said.IDs, func(ids smi.IDs) bool { return ids.Index == d.Index })
		if at < 0 || len(said.IDs) != len(said.Devices) {
			return nil, fmt.Errorf("nvidia-smi -L lists %d MIG devices, one with the index %d, "+
				"and nvidia-smi -q has %d", len(said.Devices), d.Index, len(said.IDs))
		}
		device, err := seen.device(d.UUID, said.IDs[at].GI, said.IDs[at].CI)
		if err != nil {
			return nil, err
		}
		devices = append(devices, device)
	}
	slices.SortFunc(devices, compareDevices)
	return devices, nil
}

// device returns the seen instance with these IDs as a device.
func (seen Seen) device(uuid mig.UUID, gi, ci int) (Device, error) {
	at := slices.IndexFunc(seen.Instances, func(i mig.Instance) bool { return i.GI == gi && i.CI == ci })
	if at < 0 {
		return Device{}, fmt.Errorf("nvidia-smi has a MIG device with GPU instance %d and compute instance %d, "+
			"/proc/driver/nvidia/capabilities has none: run this again when they are not being changed", gi, ci)
	}
	return Device{uuid, gi, ci, seen.Marks[at]}, nil
}

// derive finds the IDs of listed devices by the PDI alone. It returns nil if the PDI does not
// explain all of them, or does not determine the compute instance.
func (seen Seen) derive(gpu *GPU, said smi.GPU) ([]Device, error) {
	devices := []Device{}
	for _, d := range said.Devices {
		var of []mig.Instance
		for _, i := range seen.Instances {
			if seen.explains(gpu, d.UUID, i.GI) {
				of = append(of, i)
			}
		}
		if len(of) != 1 {
			return nil, nil
		}
		device, err := seen.device(d.UUID, of[0].GI, of[0].CI)
		if err != nil {
			return nil, err
		}
		devices = append(devices, device)
	}
	slices.SortFunc(devices, compareDevices)
	same := func(a, b Device) bool { return compareDevices(a, b) == 0 }
	if len(slices.CompactFunc(slices.Clone(devices), same)) != len(devices) {
		return nil, errors.New("two UUIDs of nvidia-smi -L are of one GPU instance")
	}
	return devices, nil
}

const again = "they come from the list only, so run 'nvsysfs learn' after each change of MIG devices"

// prove finds a PDI that explains one of the devices unless it is already proved, and returns what
// is missing. A proved PDI that no longer explains any device is dropped.
func (seen Seen) prove(gpu *GPU, devices []Device) (missing string) {
	for _, d := range devices {
		// Do not rely on the GPU instance in the text, which may be wrong.
		for n, i := range seen.Instances {
			if (n == 0 || i.GI != seen.Instances[n-1].GI) && seen.explains(gpu, d.UUID, i.GI) {
				return ""
			}
		}
	}
	if gpu.Chip != 0 && len(devices) > 0 {
		*gpu = GPU{UUID: gpu.UUID, Address: gpu.Address, Devices: gpu.Devices, Former: gpu.Former, Unknown: gpu.Unknown}
	}
	switch {
	case len(devices) == 0:
		return ""
	case gpu.Source != "":
		return fmt.Sprintf("its PDI 0x%016x does not explain the UUIDs: %s", gpu.PDI, again)
	}
	return "its PDI is not known (R575 and later print it): " + again
}

// explains reports whether the UUID is that of an instance in the GPU instance, according to the
// PDI of gpu, which this proves, or to one of the candidates, which becomes the PDI.
func (seen Seen) explains(gpu *GPU, uuid mig.UUID, gi int) bool {
	if gpu.Chip != 0 {
		return mig.Die{PDI: gpu.PDI, Chip: gpu.Chip}.Made(uuid, gi)
	}
	candidates := seen.Candidates
	if gpu.Source != "" {
		candidates = append([]Candidate{{gpu.PDI, gpu.Source}}, candidates...)
	}
	for _, c := range candidates {
		if chip, ok := mig.FindChip(c.PDI, uuid, gi); ok {
			gpu.PDI, gpu.Source, gpu.Chip = c.PDI, c.Source, chip
			return true
		}
	}
	return false
}

// contradiction returns an error if a proved PDI explains a UUID by another GPU instance than the
// text's.
func (seen Seen) contradiction(gpu GPU, devices []Device) error {
	if gpu.Chip == 0 {
		return nil
	}
	die, _ := gpu.Die()
	for _, d := range devices {
		if die.Made(d.UUID, d.GI) {
			continue
		}
		for _, i := range seen.Instances {
			if die.Made(d.UUID, i.GI) {
				return fmt.Errorf("by the PDI %s is in GPU instance %d, by the text in %d: "+
					"run this again when they are not being changed", d.UUID, i.GI, d.GI)
			}
		}
		return fmt.Errorf("by the PDI %s is in no existing GPU instance, by the text in %d: "+
			"run this again when they are not being changed", d.UUID, d.GI)
	}
	return nil
}

// replace replaces the devices of the GPU.
func (g *GPU) replace(devices []Device) {
	former := slices.Clone(g.Former)
	for _, old := range g.Devices {
		former = append(former, old.UUID)
	}
	former = slices.DeleteFunc(former, func(uuid mig.UUID) bool {
		return slices.ContainsFunc(devices, func(d Device) bool { return d.UUID == uuid })
	})
	slices.SortFunc(former, compareUUIDs)
	g.Devices, g.Former = devices, slices.Compact(former)
	if len(g.Former) == 0 {
		g.Former = nil
	}
	if len(g.Devices) == 0 {
		g.Devices = nil
	}
}
