// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// Edits is what to add to a container and what to remove. The zero value changes nothing.
type Edits struct {
	// Devices are added to linux.devices, and each with one exact rule to linux.resources.devices.
	Devices []specs.LinuxDevice
	// NoCgroups leaves linux.resources.devices alone.
	NoCgroups bool
	// Mounts are appended to the existing mounts, in this order.
	Mounts []specs.Mount
	// MaskedPaths are added to linux.maskedPaths if the document has that list.
	MaskedPaths []string
	// AdditionalGIDs are added to process.user.additionalGids if the document has a process.
	AdditionalGIDs []uint32
	// RemoveHooks are base names of programs whose hooks.prestart entries are removed.
	RemoveHooks []string
	// RemoveBinds are bind mounts of an earlier edit to remove: every mount with the destination,
	// type and options of one of these, unless Mounts has that destination too.
	RemoveBinds []specs.Mount
	// FenceMajors are the device majors whose nodes the container must not create: see fence.
	FenceMajors []int64
	// FenceAlways adds a profile with nothing but the fence to a container that has no seccomp
	// profile.
	FenceAlways bool
}

// Report says where the result of the edits differs from what was asked. All lists are in the order
// of the edits or of the document.
type Report struct {
	// KeptMounts are destinations where the document's own, different mount was kept.
	KeptMounts []string
	// ReplacedDevices are paths at which the document had a different device.
	ReplacedDevices []string
	// StaleMounts are the destinations of the RemoveBinds mounts that were removed.
	StaleMounts []string
	// RemovedHooks are the paths of the hooks that were removed.
	RemovedHooks []string
	// Fenced reports whether the seccomp profile denies creating the nodes.
	Fenced bool
	// Unfenced says why the profile still allows creating some of the nodes.
	Unfenced []string
}

// Apply applies the edits to the document. On an error the document is unchanged. Applying the same
// edits a second time changes nothing.
//
// Existing entries are kept:
//
//   - A mount at one of the destinations stays and ours is dropped, unless it has exactly our
//     options: then it comes from an earlier edit, and ours replaces it.
//   - A device with the same path stays if its numbers are the same, and is replaced otherwise.
//   - No rule is added for a device if an existing rule allows exactly that device, or everything.
func (d *Document) Apply(e Edits) (Report, error) {
	report, err := d.apply(e)
	if err != nil {
		return Report{}, fmt.Errorf("editing %s: %w", d.label(), err)
	}
	return report, nil
}

// Changed reports whether edits have changed the document since it was read or saved.
func (d *Document) Changed() bool {
	return !bytes.Equal(d.original, d.text)
}

func (d *Document) apply(e Edits) (Report, error) {
	var (
		r                             Report
		s                             rawjson.Splices
		process, mounts, hooks, linux rawjson.Value
		devices, resources, masked    rawjson.Value
		seccomp                       rawjson.Value
	)
	whole, err := d.value()
	if err != nil {
		return r, err
	}
	err = fields(whole,
		want{"process", rawjson.Object, &process},
		want{"mounts", rawjson.Array, &mounts},
		want{"hooks", rawjson.Object, &hooks},
		want{"linux", rawjson.Object, &linux})
	if err != nil {
		return r, err
	}
	err = fields(linux,
		want{"devices", rawjson.Array, &devices},
		want{"resources", rawjson.Object, &resources},
		want{"maskedPaths", rawjson.Array, &masked},
		want{"seccomp", rawjson.Object, &seccomp})
	if err != nil {
		return r, fmt.Errorf("linux: %w", err)
	}

	top := object{splices: &s, value: whole}
	if err := addGIDs(&s, process, e.AdditionalGIDs); err != nil {
		return r, fmt.Errorf("process: %w", err)
	}
	if err := d.editMounts(top, mounts, e, &r); err != nil {
		return r, fmt.Errorf("mounts: %w", err)
	}
	if err := removeHooks(&s, hooks, e.RemoveHooks, &r); err != nil {
		return r, fmt.Errorf("hooks: %w", err)
	}
	inLinux := object{splices: &s, value: linux}
	if err := addDevices(&inLinux, devices, e.Devices, &r); err != nil {
		return r, fmt.Errorf("linux: devices: %w", err)
	}
	if !e.NoCgroups {
		if err := addRules(&inLinux, resources, e.Devices); err != nil {
			return r, fmt.Errorf("linux: resources: %w", err)
		}
	}
	if err := addMasked(&s, masked, e.MaskedPaths); err != nil {
		return r, fmt.Errorf("linux: maskedPaths: %w", err)
	}
	if err := fence(&inLinux, seccomp, e, &r); err != nil {
		return r, fmt.Errorf("linux: seccomp: %w", err)
	}
	if len(inLinux.added) > 0 {
		top.put("linux", linux, inLinux.text())
	}
	if s.Empty() {
		return r, nil
	}
	text, err := s.Apply(d.text)
	if err != nil {
		return r, err
	}
	d.text, d.top, d.mounts = text, rawjson.Value{}, nil
	return r, nil
}

// object is an object to add members to. If it does not exist yet, they are collected in added.
type object struct {
	splices *rawjson.Splices
	value   rawjson.Value
	added   [][]byte // `"name":value`, if value is missing or null
}

// put sets a member whose old value is missing or null.
func (o *object) put(name string, old rawjson.Value, text []byte) {
	switch {
	case old.Kind() == rawjson.Null:
		o.splices.Replace(old, text)
	case o.value.Present():
		o.splices.AddMember(o.value, name, text)
	default:
		o.added = append(o.added, slices.Concat([]byte(`"`+name+`":`), text))
	}
}

// text returns the collected members as a new object.
func (o *object) text() []byte {
	return slices.Concat([]byte("{"), bytes.Join(o.added, []byte(",")), []byte("}"))
}

// extend adds elements to an array member of o, which may be missing or null.
func (o *object) extend(name string, old rawjson.Value, added [][]byte) {
	switch {
	case len(added) == 0:
	case old.Present():
		o.splices.EditArray(old, func(int, rawjson.Value) rawjson.Change { return rawjson.Change{} }, added)
	default:
		o.put(name, old, list(added))
	}
}

func list(elements [][]byte) []byte {
	return slices.Concat([]byte("["), bytes.Join(elements, []byte(",")), []byte("]"))
}

func addGIDs(s *rawjson.Splices, process rawjson.Value, gids []uint32) error {
	if len(gids) == 0 || !process.Present() {
		return nil
	}
	user, err := field(process, "user", rawjson.Object)
	if err != nil {
		return err
	}
	var primary, more rawjson.Value
	err = fields(user, want{"gid", rawjson.Number, &primary}, want{"additionalGids", rawjson.Array, &more})
	if err != nil {
		return fmt.Errorf("user: %w", err)
	}
	var gid uint32
	if err := decode(primary, &gid); err != nil {
		return fmt.Errorf("user: gid: %w", err)
	}
	have, err := readGIDs(more)
	if err != nil {
		return fmt.Errorf("user: additionalGids: %w", err)
	}
	have = append(have, gid)
	var added [][]byte
	for _, gid := range gids {
		if slices.Contains(have, gid) {
			continue
		}
		have = append(have, gid)
		text, err := encode(gid)
		if err != nil {
			return err
		}
		added = append(added, text)
	}
	if len(added) == 0 {
		return nil
	}
	in := object{splices: s, value: user}
	in.extend("additionalGids", more, added)
	if len(in.added) > 0 {
		// The runtime-spec requires both numbers in every user; missing ones count as 0.
		in.added = slices.Insert(in.added, 0, []byte(`"uid":0`), []byte(`"gid":0`))
		parent := object{splices: s, value: process}
		parent.put("user", user, in.text())
	}
	return nil
}

func (d *Document) editMounts(top object, array rawjson.Value, e Edits, r *Report) error {
	if len(e.Mounts)+len(e.RemoveBinds) == 0 {
		return nil
	}
	have, err := d.readMounts(array)
	if err != nil {
		return err
	}
	ours := make(map[string]specs.Mount, len(e.Mounts)) // by destination
	for _, m := range e.Mounts {
		if _, twice := ours[path.Clean(m.Destination)]; !twice {
			ours[path.Clean(m.Destination)] = m
		}
	}
	taken := make(map[string]bool) // destinations that get no new entry
	changes := make([]rawjson.Change, len(have))
	for i, m := range have {
		to := path.Clean(m.Destination)
		our, wanted := ours[to]
		switch {
		case !wanted && slices.ContainsFunc(e.RemoveBinds, func(b specs.Mount) bool {
			return b.Destination == m.Destination && b.Type == m.Type && slices.Equal(b.Options, m.Options)
		}):
			changes[i].Drop = true
			r.StaleMounts = append(r.StaleMounts, m.Destination)
		case !wanted:
		case taken[to]:
			// A second entry for the same destination is the user's business.
		case !slices.Equal(m.Options, our.Options):
			taken[to] = true
			r.KeptMounts = append(r.KeptMounts, our.Destination)
		default:
			taken[to] = true
			if m.Source != our.Source || m.Type != our.Type || m.Destination != our.Destination {
				if changes[i].Replace, err = encode(our); err != nil {
					return err
				}
			}
		}
	}
	var added [][]byte
	for _, m := range e.Mounts {
		if taken[path.Clean(m.Destination)] {
			continue
		}
		taken[path.Clean(m.Destination)] = true
		text, err := encode(m)
		if err != nil {
			return err
		}
		added = append(added, text)
	}
	switch {
	case array.Present():
		top.splices.EditArray(array, func(i int, _ rawjson.Value) rawjson.Change { return changes[i] }, added)
	case len(added) > 0:
		top.put("mounts", array, list(added))
	}
	return nil
}

func removeHooks(s *rawjson.Splices, hooks rawjson.Value, names []string, r *Report) error {
	if len(names) == 0 {
		return nil
	}
	prestart, err := field(hooks, "prestart", rawjson.Array)
	if err != nil {
		return err
	}
	var drop []bool
	for e := range prestart.Elements() {
		file, err := field(e, "path", rawjson.String)
		if err != nil {
			return fmt.Errorf("prestart: %w", err)
		}
		found := file.Present() && slices.Contains(names, path.Base(file.Text()))
		drop = append(drop, found)
		if found {
			r.RemovedHooks = append(r.RemovedHooks, file.Text())
		}
	}
	s.EditArray(prestart, func(i int, _ rawjson.Value) rawjson.Change { return rawjson.Change{Drop: drop[i]} }, nil)
	return nil
}

func addDevices(linux *object, array rawjson.Value, devices []specs.LinuxDevice, r *Report) error {
	if len(devices) == 0 {
		return nil
	}
	type place struct {
		same  bool // the document already has the device
		index int  // otherwise: the entry to replace, -1 if none
	}
	places := make(map[string]*place, len(devices))
	wanted := make(map[string]specs.LinuxDevice, len(devices))
	for _, d := range devices {
		name := path.Clean(d.Path)
		if _, twice := wanted[name]; !twice {
			wanted[name], places[name] = d, &place{index: -1}
		}
	}
	count := 0
	for e := range array.Elements() {
		var file, kind, major, minor rawjson.Value
		err := fields(e,
			want{"path", rawjson.String, &file},
			want{"type", rawjson.String, &kind},
			want{"major", rawjson.Number, &major},
			want{"minor", rawjson.Number, &minor})
		if err != nil {
			return err
		}
		name := path.Clean(file.Text())
		if d, ok := wanted[name]; ok {
			same, err := sameNumbers(major, minor, d.Major, d.Minor)
			if err != nil {
				return err
			}
			switch p := places[name]; {
			case same && charOrBlock(kind.Text()) == charOrBlock(d.Type):
				p.same = true
			case p.index < 0:
				p.index = count
			}
		}
		count++
	}
	var added [][]byte
	changes := make([]rawjson.Change, count)
	done := make(map[string]bool, len(devices))
	for _, d := range devices {
		name := path.Clean(d.Path)
		p := places[name]
		if p.same || done[name] {
			continue
		}
		done[name] = true
		text, err := encode(d)
		if err != nil {
			return err
		}
		if p.index < 0 {
			added = append(added, text)
			continue
		}
		changes[p.index].Replace = text
		r.ReplacedDevices = append(r.ReplacedDevices, d.Path)
	}
	if !array.Present() {
		linux.extend("devices", array, added)
		return nil
	}
	linux.splices.EditArray(array, func(i int, _ rawjson.Value) rawjson.Change { return changes[i] }, added)
	return nil
}

// charOrBlock maps "u", the other name of character devices (unbuffered), to "c".
func charOrBlock(kind string) string {
	if kind == "u" {
		return "c"
	}
	return kind
}

func sameNumbers(major, minor rawjson.Value, wantMajor, wantMinor int64) (bool, error) {
	var gotMajor, gotMinor int64
	if err := decode(major, &gotMajor); err != nil {
		return false, err
	}
	if err := decode(minor, &gotMinor); err != nil {
		return false, err
	}
	return gotMajor == wantMajor && gotMinor == wantMinor, nil
}

// rule is an entry of linux.resources.devices; -1 stands for every number.
type rule struct {
	allow        bool
	kind         string // "a", "b", "c"
	major, minor int64
	access       string
}

func addRules(linux *object, resources rawjson.Value, devices []specs.LinuxDevice) error {
	if len(devices) == 0 {
		return nil
	}
	array, err := field(resources, "devices", rawjson.Array)
	if err != nil {
		return err
	}
	type key struct {
		kind         string
		major, minor int64
	}
	// allowed is what the rules so far allow to read and write. A later rule beats an earlier one.
	// A denied range is taken as denying everything here: at worst we add a rule that is not
	// needed.
	allowed := make(map[key]bool)
	everything := false
	for e := range array.Elements() {
		r, err := readRule(e)
		if err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		exact := r.major >= 0 && r.minor >= 0 && r.kind != "a"
		useful := strings.Contains(r.access, "r") && strings.Contains(r.access, "w")
		switch {
		case r.allow && useful && exact:
			allowed[key{r.kind, r.major, r.minor}] = true
		case r.allow && useful && r.kind == "a" && r.major < 0 && r.minor < 0:
			everything = true
		case !r.allow && exact:
			delete(allowed, key{r.kind, r.major, r.minor})
			everything = false
		case !r.allow:
			clear(allowed)
			everything = false
		}
	}
	if everything {
		return nil
	}
	var added [][]byte
	for _, d := range devices {
		k := key{charOrBlock(d.Type), d.Major, d.Minor}
		if allowed[k] || k.kind != "c" && k.kind != "b" {
			continue
		}
		allowed[k] = true
		// No "m": both runtimes let every container create nodes anyway, and none of ours should be
		// created inside.
		rule := specs.LinuxDeviceCgroup{Allow: true, Type: k.kind, Major: &d.Major, Minor: &d.Minor, Access: "rw"}
		text, err := encode(rule)
		if err != nil {
			return err
		}
		added = append(added, text)
	}
	in := object{splices: linux.splices, value: resources}
	in.extend("devices", array, added)
	if len(in.added) > 0 {
		linux.put("resources", resources, in.text())
	}
	return nil
}

func readRule(e rawjson.Value) (rule, error) {
	var allow, kind, major, minor, access rawjson.Value
	err := fields(e,
		want{"allow", rawjson.Bool, &allow},
		want{"type", rawjson.String, &kind},
		want{"major", rawjson.Number, &major},
		want{"minor", rawjson.Number, &minor},
		want{"access", rawjson.String, &access})
	if err != nil {
		return rule{}, err
	}
	r := rule{kind: kind.Text(), major: -1, minor: -1, access: access.Text()}
	if r.kind == "" {
		r.kind = "a"
	}
	if err := decode(allow, &r.allow); err != nil {
		return rule{}, err
	}
	if err := decode(major, &r.major); err != nil {
		return rule{}, err
	}
	if err := decode(minor, &r.minor); err != nil {
		return rule{}, err
	}
	return r, nil
}

func addMasked(s *rawjson.Splices, array rawjson.Value, paths []string) error {
	if len(paths) == 0 || !array.Present() {
		return nil
	}
	have, err := texts(array)
	if err != nil {
		return err
	}
	seen := make(map[string]bool, len(have))
	for _, p := range have {
		seen[p] = true
	}
	var added [][]byte
	for _, p := range paths {
		if seen[p] {
			continue
		}
		seen[p] = true
		text, err := encode(p)
		if err != nil {
			return err
		}
		added = append(added, text)
	}
	in := object{splices: s}
	in.extend("maskedPaths", array, added)
	return nil
}
