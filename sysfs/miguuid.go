// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
)

// MIGUUIDs are the recorded UUIDs of a machine's MIG devices. The zero value means that none were
// read.
type MIGUUIDs struct {
	// Err says why the file of recorded UUIDs is unusable: [fs.ErrNotExist] if there is none.
	Err  error
	file string // its path
	gpus map[Address]learntGPU
	all  map[mig.UUID]bool // UUIDs of existing MIG devices
}

// learntGPU is what was recorded about a GPU, compared with its current state.
type learntGPU struct {
	learnt.GPU
	err   error      // the marks cannot be read
	uuids []mig.UUID // of each of the GPU's instances, in their order
	known []bool     // uuids has it
}

// ReadMIGUUIDs reads [learnt.Path] and compares it with the MIG devices of the inventory, which
// must have been read with instances. The file must be owned by one of owners.
func ReadMIGUUIDs(root Root, inv Inventory, owners ...int) MIGUUIDs {
	store, err := ReadLearnt(root, learnt.Path, owners...)
	return compare(root, inv, store, err)
}

// ReadForMIGUUIDs combines [ReadFor] and ReadMIGUUIDs for a query that [Query.NeedsMIGUUIDs], and
// returns the query with the recorded UUIDs. It reads the MIG devices of only the GPUs that the
// query means, if the record is current.
func ReadForMIGUUIDs(root Root, q Query, owners ...int) (Inventory, Query, error) {
	store, storeErr := ReadLearnt(root, learnt.Path, owners...)
	if of, ok := q.learntGPUs(store); ok && storeErr == nil {
		inv, err := ReadFor(root, q)
		if err != nil {
			return Inventory{}, Query{}, err
		}
		for n := range inv.GPUs {
			if gpu := &inv.GPUs[n]; of[lowerUUID(gpu.UUID)] && gpu.Err == nil && gpu.Instances == nil {
				gpu.readInstances(root)
			}
		}
		q.MIGUUIDs = compare(root, inv, store, nil)
		if !slices.ContainsFunc(q.ids, func(id id) bool { return id.form == byMIGUUID && !q.MIGUUIDs.all[id.mig] }) {
			return inv, q, nil
		}
	}
	inv, err := Read(root, true)
	if err != nil {
		return Inventory{}, Query{}, err
	}
	q.MIGUUIDs = compare(root, inv, store, storeErr)
	return inv, q, nil
}

// learntGPUs returns the UUIDs of the GPUs that have the requested MIG devices on record; ok is
// false if one is unknown.
func (q Query) learntGPUs(store learnt.Store) (of map[string]bool, ok bool) {
	owner := map[mig.UUID]string{}
	for _, gpu := range store.GPUs {
		for _, d := range gpu.Devices {
			owner[d.UUID] = gpu.UUID
		}
	}
	of = map[string]bool{}
	for _, id := range q.ids {
		if id.form != byMIGUUID {
			continue
		}
		uuid, ok := owner[id.mig]
		if !ok {
			return nil, false
		}
		of[uuid] = true
	}
	return of, true
}

// lowerUUID returns the UUID of a GPU as the record spells it.
func lowerUUID(uuid string) string {
	return "GPU-" + strings.ToLower(strings.TrimPrefix(uuid, "GPU-"))
}

// compare compares the record with the current MIG devices.
func compare(root Root, inv Inventory, store learnt.Store, err error) MIGUUIDs {
	m := MIGUUIDs{file: root.Path(learnt.Path), Err: err}
	if err != nil || inv.Driver == nil {
		return m
	}
	epoch, err := mig.ReadEpoch(root, inv.Driver.Version)
	if err != nil {
		m.Err = err
		return m
	}
	m.gpus, m.all = map[Address]learntGPU{}, map[mig.UUID]bool{}
	for _, gpu := range inv.GPUs {
		if gpu.UUID == "" || len(gpu.Instances) == 0 || sharedUUID(inv, gpu.UUID) {
			continue
		}
		known, ok := store.Find(lowerUUID(gpu.UUID))
		if !ok {
			continue
		}
		l := learntGPU{GPU: known, uuids: make([]mig.UUID, len(gpu.Instances)), known: make([]bool, len(gpu.Instances))}
		marks, err := mig.ReadMarks(root, gpu.Minor, epoch, gpu.Instances)
		l.err = err
		for n := range marks {
			if l.uuids[n], l.known[n] = l.find(gpu.Instances[n], marks[n]); l.known[n] {
				m.all[l.uuids[n]] = true
			}
		}
		m.gpus[gpu.Address] = l
	}
	return m
}

// ReadLearnt reads a file of recorded UUIDs below root. Errors have the file's name on the host.
func ReadLearnt(root Root, name string, owners ...int) (learnt.Store, error) {
	store, err := learnt.Read(root, name, owners...)
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return learnt.Store{}, fmt.Errorf("%s: %w", root.Path(name), pathErr.Err)
	}
	return store, err
}

// sharedUUID reports whether several GPUs have the UUID, which makes it useless.
func sharedUUID(inv Inventory, uuid string) bool {
	count := 0
	for _, gpu := range inv.GPUs {
		if strings.EqualFold(gpu.UUID, uuid) {
			count++
		}
	}
	return count > 1
}

// find returns the UUID that an instance had when it had the mark.
func (l learntGPU) find(instance mig.Instance, mark string) (mig.UUID, bool) {
	for _, d := range l.Devices {
		if d.GI == instance.GI && d.CI == instance.CI && d.Mark == mark {
			return d.UUID, true
		}
	}
	return mig.UUID{}, false
}

// Of returns the UUID of the GPU's n-th instance if it was recorded and the instance has not been
// recreated since.
func (m MIGUUIDs) Of(gpu GPU, n int) (mig.UUID, bool) {
	l, ok := m.gpus[gpu.Address]
	if !ok || n >= len(l.known) || !l.known[n] {
		return mig.UUID{}, false
	}
	return l.uuids[n], true
}

// learnAdvice is the remedy for missing or stale records.
const learnAdvice = "run 'nvsysfs learn' as root on the host"

// resolve returns the places of the GPU and the instance with the UUID, or the reason why there is
// none.
//
// For an instance that still exists, the record is certain. For one created since, the PDI
// identifies the GPU instance that the UUID belongs to, which suffices if it has one compute
// instance. A UUID that another instance had before is refused: a recreated GPU instance has the
// same ID, but perhaps another engine and UUID.
func (m MIGUUIDs) resolve(gpus []GPU, uuid mig.UUID) (at, instance int, reason string) {
	var stale, ambiguous, unlearnt []string
	devices := 0
	for at, gpu := range gpus {
		if gpu.Excluded || gpu.Err != nil || len(gpu.Instances) == 0 {
			continue
		}
		devices += len(gpu.Instances)
		l := m.gpus[gpu.Address]
		if n := slices.Index(l.uuids, uuid); n >= 0 && l.known[n] {
			return at, n, ""
		}
		name := fmt.Sprintf("%d", gpu.Index)
		die, ok := l.Die()
		if !ok || l.err != nil {
			if len(l.known) == 0 || slices.Contains(l.known, false) {
				unlearnt = append(unlearnt, name)
			}
			continue
		}
		first, known, all := -1, 0, 0
		for n, i := range gpu.Instances {
			switch {
			case first < 0 && die.Made(uuid, i.GI):
				first = n
			case first < 0 || i.GI != gpu.Instances[first].GI:
				continue
			}
			all++
			if l.known[n] {
				known++
			}
		}
		switch {
		case known == all: // none has this UUID
		case l.had(uuid):
			stale = append(stale, name)
		case all > 1:
			ambiguous = append(ambiguous, fmt.Sprintf("%s, GPU instance %d", name, gpu.Instances[first].GI))
		default:
			return at, first, ""
		}
	}
	switch {
	case devices == 0:
		return 0, 0, "unknown device: no GPU has a MIG device"
	case m.file == "":
		return 0, 0, "MIG UUIDs are not in /proc, and recorded ones were not read"
	case errors.Is(m.Err, fs.ErrNotExist):
		return 0, 0, fmt.Sprintf("MIG UUIDs are not in /proc, and none are recorded (no file %s); %s",
			m.file, learnAdvice)
	case m.Err != nil:
		return 0, 0, fmt.Sprintf("MIG UUIDs are not in /proc, and the record is not trusted: %v; remove it, then %s",
			m.Err, learnAdvice)
	case len(stale) > 0:
		return 0, 0, fmt.Sprintf("the record is stale: the MIG device of GPU %s with this UUID was destroyed or "+
			"recreated; %s", stale[0], learnAdvice)
	case len(ambiguous) > 0:
		return 0, 0, fmt.Sprintf("ambiguous: GPU %s has several compute instances, which have changed since "+
			"'nvsysfs learn'; %s", ambiguous[0], learnAdvice)
	}
	for _, gpu := range gpus {
		if l := m.gpus[gpu.Address]; l.err != nil {
			return 0, 0, fmt.Sprintf("cannot compare the MIG devices of GPU %d with the record: %v", gpu.Index, l.err)
		} else if l.had(uuid) {
			return 0, 0, fmt.Sprintf("the record is stale, or the device is gone: a MIG device of GPU %d had "+
				"this UUID; %s", gpu.Index, learnAdvice)
		}
	}
	if len(unlearnt) > 0 {
		return 0, 0, fmt.Sprintf("unknown device: no recorded MIG device has this UUID, and those of GPU %s are "+
			"not recorded or have changed; %s", strings.Join(unlearnt, ", "), learnAdvice)
	}
	for _, gpu := range gpus {
		if gpu.Err != nil && !gpu.Excluded {
			return 0, 0, fmt.Sprintf("unknown device: no MIG device has this UUID; it may be on the "+
				"unusable GPU at %s: %v", gpu.Address, gpu.Err)
		}
	}
	return 0, 0, "unknown device: no MIG device has this UUID"
}

// had reports whether a device of the GPU has or had the UUID on record.
func (l learntGPU) had(uuid mig.UUID) bool {
	has := func(d learnt.Device) bool { return d.UUID == uuid }
	return slices.Contains(l.Former, uuid) || slices.ContainsFunc(l.Devices, has)
}
