// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// Query is a parsed list of device names.
type Query struct {
	All  bool // every GPU and every MIG device
	None bool // no GPU, but the driver
	// MIGUUIDs is needed if NeedsMIGUUIDs.
	MIGUUIDs MIGUUIDs
	ids      []id
}

// id is a user's name of a device.
type id struct {
	text    string
	form    form
	index   int      // byIndex, byRank
	rank    int      // byRank
	address Address  // byAddress
	uuid    string   // byUUID, byInstance: lower case, a UUID or prefix
	gi, ci  int      // byInstance
	mig     mig.UUID // byMIGUUID
	reason  string   // malformed: what is wrong
}

type form int

const (
	malformed  form = iota
	byIndex         // 0
	byUUID          // GPU-fef8089b-…
	byAddress       // 0000:01:00.0
	byRank          // 0:1
	byInstance      // MIG-GPU-fef8089b-…/1/0
	byMIGUUID       // MIG-<uuid>
)

// SelectedGPU is a GPU whose node a container gets.
type SelectedGPU struct {
	GPU       GPU
	Whole     bool           // the GPU itself was requested, not only its instances
	Instances []mig.Instance // requested MIG devices, in the order of the request
}

// Selection is what a Query selects, each GPU and instance once, in the order of the request.
type Selection struct {
	GPUs []SelectedGPU
	// Skipped are GPUs that "all" leaves out because of their Err.
	Skipped []GPU
}

// DeviceError reports a requested device that is unavailable.
type DeviceError struct {
	ID     string   // as the user wrote it
	Reason string   // why
	Have   []string // the available devices
}

// Error quotes and shortens the user's text.
func (e *DeviceError) Error() string {
	const limit = 128 // a machine of 16 GPUs with 7 instances each
	have, more := e.Have, ""
	if len(have) > limit {
		have, more = have[:limit], fmt.Sprintf(" and %d more", len(have)-limit)
	}
	if len(have) == 0 {
		return fmt.Sprintf("device %s: %s; there is no GPU to choose from", quote(e.ID), e.Reason)
	}
	return fmt.Sprintf("device %s: %s; available: %s%s", quote(e.ID), e.Reason, strings.Join(have, ", "), more)
}

// ParseQuery parses names of devices, none of them empty or with blanks:
//
//	all, none                    the first of these in the list overrides the rest
//	0                            index, decimal
//	GPU-fef8089b-4820-…          UUID of a GPU, or a prefix
//	0000:01:00.0                 PCI address in any zero padding
//	0:1                          MIG device by GPU index and rank, both from 0
//	MIG-GPU-fef8089b-4820-…/1/0  MIG device by its GPU's UUID, or a prefix, GPU instance and compute instance
//	MIG-<uuid>                   MIG device by its UUID, complete; see [Query.NeedsMIGUUIDs]
//
// Hexadecimal digits, GPU, MIG and all may be in either case. Malformed names are errors of
// [Inventory.Select], which can list the available devices.
func ParseQuery(ids []string) Query {
	for _, text := range ids {
		switch {
		case strings.EqualFold(text, "all"):
			return Query{All: true}
		case text == "none":
			return Query{None: true}
		}
	}
	var q Query
	for _, text := range ids {
		q.ids = append(q.ids, parseID(text))
	}
	return q
}

// NeedsInstances reports whether the query needs an inventory with MIG devices.
func (q Query) NeedsInstances() bool {
	return q.All || slices.ContainsFunc(q.ids, func(id id) bool {
		return id.form == byRank || id.form == byInstance || id.form == byMIGUUID
	})
}

// NeedsMIGUUIDs reports whether the query asks for a MIG device by its UUID, MIG-<uuid>. This is a
// hash of numbers that procfs and sysfs do not have (the die's identifier and the instance's place
// on it), so the query needs the MIG devices of all GPUs and the UUIDs that [ReadMIGUUIDs] reads.
func (q Query) NeedsMIGUUIDs() bool {
	return !q.All && slices.ContainsFunc(q.ids, func(id id) bool { return id.form == byMIGUUID })
}

// parseID parses one name. The forms do not overlap.
func parseID(text string) id {
	if index, ok := parseDecimal(text); ok {
		return id{text: text, form: byIndex, index: index}
	}
	if uuid, ok := mig.UUIDPrefix(text, "GPU-"); ok {
		return id{text: text, form: byUUID, uuid: uuid}
	}
	if g, m, ok := strings.Cut(text, ":"); ok {
		index, gOK := parseDecimal(g)
		rank, mOK := parseDecimal(m)
		if gOK && mOK {
			return id{text: text, form: byRank, index: index, rank: rank}
		}
		if address, err := ParseAddress(text); err == nil {
			return id{text: text, form: byAddress, address: address}
		}
	}
	if len(text) >= 4 && strings.EqualFold(text[:4], "MIG-") {
		if _, ok := mig.UUIDPrefix(text, "MIG-"); ok {
			uuid, ok := mig.ParseUUID(text)
			if !ok {
				return id{text: text, reason: "unknown device: the UUID of a MIG device must be complete"}
			}
			return id{text: text, form: byMIGUUID, mig: uuid}
		}
		name, err := mig.ParseName(text)
		if err != nil {
			return id{text: text, reason: "unknown device: " + err.Error()}
		}
		return id{text: text, form: byInstance, uuid: name.GPU, gi: name.GI, ci: name.CI}
	}
	return id{text: text, reason: "unknown device: not an index, UUID, PCI address or name of a MIG device"}
}

// parseDecimal parses digits without a sign or a leading zero.
func parseDecimal(s string) (int, bool) {
	if len(s) > 9 || s == "" || s[0] == '0' && s != "0" || strings.Trim(s, "0123456789") != "" {
		return 0, false
	}
	number, err := strconv.Atoi(s)
	return number, err == nil
}

// Select finds the devices of a query. A name without exactly one usable device is a
// [*DeviceError].
//
// An instance implies its GPU. A GPU does not imply its instances, but "all" selects every GPU with
// every instance, skipping unusable GPUs unless none is left.
func (inv Inventory) Select(q Query) (Selection, error) {
	if q.All {
		return inv.selectAll()
	}
	var sel Selection
	s := newSelector(inv)
	for _, id := range q.ids {
		at, instance, reason := s.find(id, q.MIGUUIDs)
		if reason != "" {
			return Selection{}, &DeviceError{ID: id.text, Reason: reason, Have: inv.have(q.MIGUUIDs)}
		}
		place := s.places[at]
		if place == 0 {
			sel.GPUs = append(sel.GPUs, SelectedGPU{GPU: inv.GPUs[at]})
			place = len(sel.GPUs)
			s.places[at] = place
		}
		selected := &sel.GPUs[place-1]
		if instance < 0 {
			selected.Whole = true
			continue
		}
		if taken := [2]int{at, instance}; !s.taken[taken] {
			s.taken[taken] = true
			selected.Instances = append(selected.Instances, inv.GPUs[at].Instances[instance])
		}
	}
	return sel, nil
}

func (inv Inventory) selectAll() (Selection, error) {
	var sel Selection
	for _, gpu := range inv.GPUs {
		switch {
		case gpu.Excluded:
		case gpu.Err != nil:
			sel.Skipped = append(sel.Skipped, gpu)
		default:
			sel.GPUs = append(sel.GPUs, SelectedGPU{GPU: gpu, Whole: true, Instances: slices.Clone(gpu.Instances)})
		}
	}
	if len(sel.GPUs) > 0 {
		return sel, nil
	}
	reason := "the driver has no GPU"
	if len(inv.GPUs) > 0 {
		reason = "none of the GPUs can be used"
	}
	return Selection{}, &DeviceError{ID: "all", Reason: reason, Have: inv.have(MIGUUIDs{})}
}

// Partitioned returns the selected GPUs, with their Instances, that have MIG devices none of which
// is selected: such a container gets the GPU's node but no device that programs can use.
func (sel Selection) Partitioned(root Root) []GPU {
	var gpus []GPU
	for _, selected := range sel.GPUs {
		gpu := selected.GPU
		if len(selected.Instances) > 0 || !selected.Whole {
			continue
		}
		// Errors are irrelevant: no instance is selected.
		if gpu.readInstances(root); gpu.Err == nil && len(gpu.Instances) > 0 {
			gpus = append(gpus, gpu)
		}
	}
	return gpus
}

// MIGNames returns the names "g:n" of the MIG devices of a GPU whose Instances were read.
func (gpu GPU) MIGNames() []string {
	var names []string
	for rank := range gpu.Instances {
		names = append(names, fmt.Sprintf("%d:%d", gpu.Index, rank))
	}
	return names
}

// selector is an inventory indexed for many lookups.
type selector struct {
	gpus    []GPU
	byIndex []int               // index to place in gpus
	uuids   []string            // by place in gpus, lower case
	places  []int               // by place in gpus: place in the selection, from 1
	taken   map[[2]int]bool     // place in gpus, place in its instances
	uuidOf  map[mig.UUID][2]int // requested MIG UUIDs: the same
}

func newSelector(inv Inventory) *selector {
	s := &selector{
		gpus:   inv.GPUs,
		uuids:  make([]string, len(inv.GPUs)),
		places: make([]int, len(inv.GPUs)),
		taken:  map[[2]int]bool{},
		uuidOf: map[mig.UUID][2]int{},
	}
	for at, gpu := range inv.GPUs {
		if gpu.Index >= 0 {
			s.byIndex = append(s.byIndex, at)
		}
		if gpu.UUID != "" {
			s.uuids[at], _ = mig.UUIDPrefix(gpu.UUID, "GPU-")
		}
	}
	return s
}

// find returns the places of a GPU and of its instance, -1 for the GPU itself, or why there is
// none.
func (s *selector) find(id id, uuids MIGUUIDs) (at, instance int, reason string) {
	switch id.form {
	case byIndex, byRank:
		if id.index >= len(s.byIndex) {
			return 0, 0, fmt.Sprintf("unknown device: no GPU has the index %d", id.index)
		}
		at = s.byIndex[id.index]
	case byAddress:
		at = slices.IndexFunc(s.gpus, func(gpu GPU) bool { return gpu.Address == id.address })
		if at < 0 {
			return 0, 0, fmt.Sprintf("unknown device: the driver has no GPU at %s", id.address)
		}
	case byUUID, byInstance:
		if at, reason = s.findUUID(id.uuid); reason != "" {
			return 0, 0, reason
		}
	case byMIGUUID:
		// A lookup iterates over all GPUs, and a list may repeat a device: do it once.
		if found, ok := s.uuidOf[id.mig]; ok {
			return found[0], found[1], ""
		}
		if at, instance, reason = uuids.resolve(s.gpus, id.mig); reason == "" {
			s.uuidOf[id.mig] = [2]int{at, instance}
		}
		return at, instance, reason
	default:
		return 0, 0, id.reason
	}
	gpu := s.gpus[at]
	switch {
	case gpu.Excluded:
		return 0, 0, fmt.Sprintf("the GPU at %s is excluded from use by the driver's configuration", gpu.Address)
	case gpu.Err != nil:
		return 0, 0, fmt.Sprintf("the GPU at %s cannot be used: %v", gpu.Address, gpu.Err)
	}
	switch id.form {
	case byRank:
		if id.rank >= len(gpu.Instances) {
			return 0, 0, fmt.Sprintf("unknown device: GPU %d has %s", id.index, count(len(gpu.Instances), "MIG device"))
		}
		return at, id.rank, ""
	case byInstance:
		instance = slices.IndexFunc(gpu.Instances, func(i mig.Instance) bool { return i.GI == id.gi && i.CI == id.ci })
		if instance < 0 {
			return 0, 0, fmt.Sprintf("unknown device: GPU %d has no compute instance %d in a GPU instance %d",
				gpu.Index, id.ci, id.gi)
		}
		return at, instance, ""
	}
	return at, -1, ""
}

// findUUID finds the only GPU whose UUID begins with uuid.
func (s *selector) findUUID(uuid string) (at int, reason string) {
	at = -1
	for i, other := range s.uuids {
		if !strings.HasPrefix(other, uuid) {
			continue
		}
		if at >= 0 {
			return 0, fmt.Sprintf("ambiguous: %s and %s begin with it", s.gpus[at].UUID, s.gpus[i].UUID)
		}
		at = i
	}
	if at >= 0 {
		return at, ""
	}
	reason = "unknown device: no GPU has this UUID"
	var unknown, unreadable []string
	for _, gpu := range s.gpus {
		switch {
		case gpu.UUID != "" || gpu.Index < 0:
		case gpu.Err != nil && len(unreadable) < 4:
			unreadable = append(unreadable, fmt.Sprintf("%s (%v)", gpu.Address, gpu.Err))
		case gpu.Err == nil && len(unknown) < 16:
			unknown = append(unknown, strconv.Itoa(gpu.Index))
		}
	}
	if len(unreadable) > 0 {
		reason += "; it may be that of a GPU that cannot be used: " + strings.Join(unreadable, ", ")
	}
	if len(unknown) > 0 {
		reason += fmt.Sprintf("; the UUID of GPU %s is unknown before its first use "+
			"(run nvidia-smi once, or use the index or PCI address)", strings.Join(unknown, ", "))
	}
	return 0, reason
}

// have lists the available devices and the unusable GPUs.
func (inv Inventory) have(uuids MIGUUIDs) []string {
	var have []string
	for _, gpu := range inv.GPUs {
		uuid := gpu.UUID
		if uuid == "" {
			uuid = "UUID not known"
		}
		switch {
		case gpu.Excluded:
			have = append(have, fmt.Sprintf("(excluded: %s)", gpu.Address))
			continue
		case gpu.Err != nil:
			have = append(have, fmt.Sprintf("(unusable: %d at %s)", gpu.Index, gpu.Address))
			continue
		}
		have = append(have, fmt.Sprintf("%d (%s, %s)", gpu.Index, uuid, gpu.Address))
		for rank, instance := range gpu.Instances {
			name := ""
			if uuid, ok := uuids.Of(gpu, rank); ok {
				name = ", " + uuid.String()
			}
			have = append(have, fmt.Sprintf("%d:%d (MIG %d/%d%s)", gpu.Index, rank, instance.GI, instance.CI, name))
		}
	}
	return have
}

// count formats a number and a noun.
func count(n int, noun string) string {
	switch n {
	case 0:
		return "no " + noun
	case 1:
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}
