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

// MIGUUIDs is what is known of the UUIDs of a machine's MIG devices. The zero value is that nothing was looked for.
type MIGUUIDs struct {
	// Err is why the file of what was learnt cannot be used: [fs.ErrNotExist] if there is none.
	Err  error
	file string // its path
	gpus map[Address]learntGPU
	all  map[mig.UUID]bool // UUIDs of MIG devices that there are
}

// learntGPU is what was learnt of a GPU, compared with what it has now.
type learntGPU struct {
	learnt.GPU
	err   error      // the marks cannot be read
	uuids []mig.UUID // of each of the GPU's instances, in their order
	known []bool     // uuids has it
}

// ReadMIGUUIDs reads what [learnt.Path] says of the GPUs of the inventory, which was read with instances, and
// compares it with the MIG devices that there are. The file has to belong to one of owners.
func ReadMIGUUIDs(root Root, inv Inventory, owners ...int) MIGUUIDs {
	store, err := ReadLearnt(root, learnt.Path, owners...)
	return compare(root, inv, store, err)
}

// ReadForMIGUUIDs is [ReadFor] for a query that [Query.NeedsMIGUUIDs], and ReadMIGUUIDs in one: it returns the
// query with what was learnt. MIG devices are read of those GPUs only that the query means, if what was learnt
// tells which these are and still holds, else of all.
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

// learntGPUs are the UUIDs of the GPUs that, by what was learnt, have the MIG devices whose UUIDs the query asks
// for; not ok if one is of none.
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

// lowerUUID is the UUID of a GPU as the file of what was learnt has it.
func lowerUUID(uuid string) string {
	return "GPU-" + strings.ToLower(strings.TrimPrefix(uuid, "GPU-"))
}

// compare compares what was learnt with the MIG devices that there are.
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

// ReadLearnt reads a file of what was learnt, below root. Its error has the file's name on the host.
func ReadLearnt(root Root, name string, owners ...int) (learnt.Store, error) {
	store, err := learnt.Read(root, name, owners...)
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return learnt.Store{}, fmt.Errorf("%s: %w", root.Path(name), pathErr.Err)
	}
	return store, err
}

// sharedUUID tells whether several GPUs have the UUID, so that it says nothing.
func sharedUUID(inv Inventory, uuid string) bool {
	count := 0
	for _, gpu := range inv.GPUs {
		if strings.EqualFold(gpu.UUID, uuid) {
			count++
		}
	}
	return count > 1
}

// find is the UUID that an instance had when it had the mark.
func (l learntGPU) find(instance mig.Instance, mark string) (mig.UUID, bool) {
	for _, d := range l.Devices {
		if d.GI == instance.GI && d.CI == instance.CI && d.Mark == mark {
			return d.UUID, true
		}
	}
	return mig.UUID{}, false
}

// Of is the UUID of the n-th of the GPU's instances, if it was learnt and the instance has not been made anew since.
func (m MIGUUIDs) Of(gpu GPU, n int) (mig.UUID, bool) {
	l, ok := m.gpus[gpu.Address]
	if !ok || n >= len(l.known) || !l.known[n] {
		return mig.UUID{}, false
	}
	return l.uuids[n], true
}

// learnAdvice ends messages that learning helps against.
const learnAdvice = "run 'nvsysfs learn' as root on the host"

// resolve finds the GPU and its instance that the UUID means, as places, or says why there is none.
//
// What was learnt of an instance that still exists is certain: that the UUID is its, or that it is not. Of an
// instance that was made since, the PDI tells the GPU instance that a UUID belongs to, and that is enough where it
// has one compute instance. A UUID that another instance had earlier is then refused: GPU instances are made again
// under the same id, and whether the new one has the same engine, and so the same UUID, cannot be told.
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
		case known == all: // none, or it is none of these
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
		return 0, 0, "which MIG device has this UUID is not in /proc, and what was learnt of it has not been looked at"
	case errors.Is(m.Err, fs.ErrNotExist):
		return 0, 0, fmt.Sprintf("which MIG device has this UUID is not in /proc, and nothing has been learnt of it (there is no %s); %s", m.file, learnAdvice)
	case m.Err != nil:
		return 0, 0, fmt.Sprintf("which MIG device has this UUID is not in /proc, and the file of what was learnt of it is not to be trusted: %v; remove it, then %s",
			m.Err, learnAdvice)
	case len(stale) > 0:
		return 0, 0, fmt.Sprintf("what was learnt is stale: a MIG device of GPU %s had this UUID, and has been destroyed since or made anew; %s", stale[0], learnAdvice)
	case len(ambiguous) > 0:
		return 0, 0, fmt.Sprintf("ambiguous: it is a compute instance of GPU %s, which has several, and they have changed since 'nvsysfs learn'; %s", ambiguous[0], learnAdvice)
	}
	for _, gpu := range gpus {
		if l := m.gpus[gpu.Address]; l.err != nil {
			return 0, 0, fmt.Sprintf("the MIG devices of GPU %d cannot be compared with what was learnt: %v", gpu.Index, l.err)
		} else if l.had(uuid) {
			return 0, 0, fmt.Sprintf("what was learnt is stale, or the device is gone: a MIG device of GPU %d had this UUID earlier; %s", gpu.Index, learnAdvice)
		}
	}
	if len(unlearnt) > 0 {
		return 0, 0, fmt.Sprintf("unknown device: no MIG device is known to have this UUID, and those of GPU %s have not been learnt or have changed since; %s",
			strings.Join(unlearnt, ", "), learnAdvice)
	}
	for _, gpu := range gpus {
		if gpu.Err != nil && !gpu.Excluded {
			return 0, 0, fmt.Sprintf("unknown device: no MIG device has this UUID; it may be one of the GPU at %s, which cannot be used: %v", gpu.Address, gpu.Err)
		}
	}
	return 0, 0, "unknown device: no MIG device has this UUID"
}

// had tells whether a device of the GPU had the UUID when it was last learnt, or before.
func (l learntGPU) had(uuid mig.UUID) bool {
	return slices.Contains(l.Former, uuid) || slices.ContainsFunc(l.Devices, func(d learnt.Device) bool { return d.UUID == uuid })
}
