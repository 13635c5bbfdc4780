// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package learnt

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
)

// Report is an output of nvidia-smi.
type Report struct {
	Source string // where it comes from, for messages
	smi.Report
}

// Lesson is the result of learning.
type Lesson struct {
	Store Store
	Notes []string // what could not be learned
	heard []Seen   // GPUs in the texts, in their order
}

// Take returns the store extended by what outputs of nvidia-smi say about a machine's GPUs, which
// seen has by UUID. If they contradict the machine or each other, it is an error.
func (s Store) Take(seen map[string]Seen, reports []Report) (Lesson, error) {
	l := Lesson{Store: s}
	gpus, err := l.merge(seen, reports)
	if err != nil {
		return Lesson{}, err
	}
	for _, gpu := range gpus {
		seen := seen[gpu.UUID]
		if seen.Err != nil {
			l.note("GPU %d at %s is left out: %v", seen.Index, seen.Address, seen.Err)
			continue
		}
		store, missing, err := l.Store.Learn(seen, gpu)
		if err != nil {
			return Lesson{}, err
		}
		if missing != "" {
			l.note("GPU %d at %s: %s", seen.Index, seen.Address, missing)
		}
		l.Store = store
		l.heard = append(l.heard, seen)
	}
	return l, nil
}

func (l *Lesson) note(format string, args ...any) {
	l.Notes = append(l.Notes, fmt.Sprintf(format, args...))
}

// merge combines what several texts say about a GPU, and checks that they are from this machine.
func (l *Lesson) merge(machine map[string]Seen, reports []Report) ([]smi.GPU, error) {
	var gpus []smi.GPU
	for _, r := range reports {
		for _, line := range r.Lines {
			l.note("%s, line %d: %.200q", r.Source, line.Number, line.Text)
		}
		for _, gpu := range r.GPUs {
			seen, ok := machine[gpu.UUID]
			if !ok {
				return nil, fmt.Errorf("%s: %s is not a GPU of this machine: /proc/driver/nvidia/gpus has %s",
					r.Source, gpu.UUID, strings.Join(slices.Sorted(maps.Keys(machine)), ", "))
			}
			if r.Driver != "" && r.Driver != seen.Driver {
				return nil, fmt.Errorf("%s is of driver %.40q, this machine has %s", r.Source, r.Driver, seen.Driver)
			}
			at := slices.IndexFunc(gpus, func(other smi.GPU) bool { return other.UUID == gpu.UUID })
			if at < 0 {
				gpus = append(gpus, gpu)
				continue
			}
			if err := joinTexts(&gpus[at], gpu); err != nil {
				return nil, fmt.Errorf("%s: %w", r.Source, err)
			}
		}
	}
	return gpus, nil
}

// joinTexts adds to what is known about a GPU what another text says.
func joinTexts(gpu *smi.GPU, other smi.GPU) error {
	if gpu.Listed && other.Listed && !slices.Equal(gpu.Devices, other.Devices) ||
		gpu.Queried && other.Queried && !slices.Equal(gpu.IDs, other.IDs) ||
		gpu.HasPDI && other.HasPDI && gpu.PDI != other.PDI {
		return fmt.Errorf("%s differs from what another text says", gpu.UUID)
	}
	if other.Listed {
		gpu.Listed, gpu.Devices = true, other.Devices
	}
	if other.Queried {
		gpu.Queried, gpu.IDs, gpu.Address = true, other.IDs, other.Address
	}
	if other.HasPDI {
		gpu.HasPDI, gpu.PDI = true, other.PDI
	}
	return nil
}

// known returns how many of the GPU's MIG devices have been learned, and what is known about it.
func (l Lesson) known(s Seen) (int, GPU) {
	gpu, _ := l.Store.Find(s.UUID)
	known := 0
	for n, i := range s.Instances {
		if slices.ContainsFunc(gpu.Devices, func(d Device) bool {
			return d.GI == i.GI && d.CI == i.CI && d.Mark == s.Marks[n]
		}) {
			known++
		}
	}
	return known, gpu
}

// String returns a line for each GPU in the texts.
func (l Lesson) String() string {
	var b strings.Builder
	for _, s := range l.heard {
		known, gpu := l.known(s)
		fmt.Fprintf(&b, "GPU %d at %s: %d of %d MIG devices, ", s.Index, s.Address, known, len(s.Instances))
		switch {
		case gpu.Chip != 0:
			fmt.Fprintf(&b, "PDI 0x%016x from %s, proved by a UUID\n", gpu.PDI, gpu.Source)
		case gpu.Source != "":
			fmt.Fprintf(&b, "PDI 0x%016x from %s, not proved by a UUID\n", gpu.PDI, gpu.Source)
		default:
			b.WriteString("PDI not known\n")
		}
	}
	return b.String()
}

// Unknown returns the GPUs in the texts about whose MIG devices nothing is known.
func (l Lesson) Unknown() []string {
	var unknown []string
	for _, s := range l.heard {
		if known, gpu := l.known(s); len(s.Instances) > 0 && known == 0 && gpu.Source == "" && mig.HasUUIDs(s.Driver) {
			unknown = append(unknown, fmt.Sprintf("%d at %s", s.Index, s.Address))
		}
	}
	return unknown
}
