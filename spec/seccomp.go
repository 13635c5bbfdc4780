// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"fmt"
	"runtime"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// The fence: NVIDIA's programs create nodes in /dev for all GPUs, even those that the container was
// not given. The device cgroup makes such a node useless, but it confuses, so the container's
// seccomp profile denies creating it. The fence is a convenience, not a boundary.
//
// A profile compares the device argument of mknod(path, mode, dev) and mknodat(dirfd, path, mode,
// dev) as the program passes it. The kernel looks at its lower 32 bits (include/linux/kdev_t.h,
// new_decode_dev):
//
//	bits  0 to  7  lower part of the minor
//	bits  8 to 19  major
//	bits 20 to 31  upper part of the minor
//
// so the order of majors is not the order of arguments: 195:256 is 0x10c300, which is above 509:0,
// 0x1fd00. Only masked comparisons tell majors apart, whatever the other bits are. In the profile,
// SCMP_CMP_MASKED_EQ takes the mask as value and the wanted bits as valueTwo (libseccomp's datum_a
// and datum_b; runc and crun pass them in this order).
//
// If several conditions of a rule are about the same argument, both runtimes turn them into
// separate rules, any of which suffices. So "this major or above, and below that one" cannot be
// expressed. "Any major but these" can, independent of the order of the rules: the 4096 majors
// without the denied ones are covered with blocks of majors that share some bits, and one rule
// allows one block. There are few blocks, because each costs crun 0.08 ms: 16 for majors 195, 236
// and 508.
const (
	majorShift = 8
	majorBits  = 12
	majorMask  = (1<<majorBits - 1) << majorShift // 0xfff00
)

const maskedEqual = "SCMP_CMP_MASKED_EQ"

// deviceArgument is the index of the device argument of the calls that create nodes.
var deviceArgument = map[string]uint{"mknod": 2, "mknodat": 3}

// nodeCalls are the keys of deviceArgument, sorted.
var nodeCalls = []string{"mknod", "mknodat"}

// block is the set of arguments a with a&mask == value.
type block struct {
	mask, value uint64
}

// blocksWithout covers with blocks the majors that are not denied. At least one must be denied. A
// major may be in several blocks.
//
// A bit that is equal in all denied majors makes one block: the majors with the opposite bit. Two
// bits that are equal to each other in every denied major, or different in every one, make two
// blocks: the majors where that does not hold. The remaining majors agree with the denied ones in
// all but one bit of each such group; these few bits are split like routes into prefixes.
func blocksWithout(denied []int64) []block {
	var blocks []block
	allow := func(mask, value int64) {
		blocks = append(blocks, block{mask: uint64(mask) << majorShift, value: uint64(value) << majorShift})
	}
	first := denied[0]
	// Keyed by which of the denied majors differ from the first in a bit; the last such bit.
	groups := make(map[string]int64)
	var free []int64
	for bit := int64(1) << (majorBits - 1); bit > 0; bit >>= 1 {
		pattern := make([]byte, len(denied))
		for i, major := range denied {
			pattern[i] = '='
			if (major^first)&bit != 0 {
				pattern[i] = '!'
			}
		}
		last, again := groups[string(pattern)]
		groups[string(pattern)] = bit
		switch {
		case !slices.Contains(pattern, '!'):
			allow(bit, ^first&bit)
		case again:
			allow(last|bit, first&last|^first&bit)
			allow(last|bit, ^first&last|first&bit)
		default:
			free = append(free, bit)
		}
	}
	var cut func(mask, value int64)
	cut = func(mask, value int64) {
		if !slices.ContainsFunc(denied, func(m int64) bool { return m&mask == value }) {
			allow(mask, value)
			return
		}
		for _, bit := range free {
			if mask&bit == 0 {
				cut(mask|bit, value)
				cut(mask|bit, value|bit)
				return
			}
		}
	}
	cut(0, 0)
	return blocks
}

// condition is a specs.LinuxSeccompArg; unknown operators are preserved.
type condition = specs.LinuxSeccompArg

// action is what a profile does, with the error number if it matters.
type action struct {
	name  specs.LinuxSeccompAction
	errno uint64
}

// effective reads action and errnoRet as runc and crun do: the default is EPERM, and other actions
// have no number.
func effective(name, errnoRet rawjson.Value) (action, error) {
	a := action{name: specs.LinuxSeccompAction(name.Text())}
	if a.name != specs.ActErrno && a.name != specs.ActTrace {
		return a, nil
	}
	a.errno = 1
	return a, decode(errnoRet, &a.errno)
}

// permits reports whether the kernel executes the call.
func (a action) permits() bool {
	return a.name == specs.ActAllow || a.name == specs.ActLog
}

// fence adds the fence for e.FenceMajors to the profile.
func fence(linux *object, profile rawjson.Value, e Edits, r *Report) error {
	if len(e.FenceMajors) == 0 {
		return nil
	}
	majors := slices.Clone(e.FenceMajors)
	slices.Sort(majors)
	majors = slices.Compact(majors)
	if majors[0] < 1 || majors[len(majors)-1] >= 1<<majorBits {
		return fmt.Errorf("device majors %d: not between 1 and %d", majors, 1<<majorBits-1)
	}
	if !profile.Present() {
		if !e.FenceAlways {
			return nil
		}
		text, err := encode(minimalProfile(majors))
		if err != nil {
			return err
		}
		linux.put("seccomp", profile, text)
		r.Fenced = true
		return nil
	}
	f := fencer{splices: linux.splices, majors: majors, blocks: blocksWithout(majors)}
	if err := f.profile(profile); err != nil {
		return err
	}
	r.Fenced, r.Unfenced = len(f.holes) == 0, f.holes
	return nil
}

// minimalProfile denies creating nodes of the majors and nothing else. It names all architectures
// of the machine: without them it would kill programs of the other ones (32-bit programs on amd64).
func minimalProfile(majors []int64) specs.LinuxSeccomp {
	p := specs.LinuxSeccomp{DefaultAction: specs.ActAllow}
	switch runtime.GOARCH {
	case "amd64":
		p.Architectures = []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32}
	case "arm64":
		p.Architectures = []specs.Arch{specs.ArchAARCH64, specs.ArchARM}
	}
	for _, call := range nodeCalls {
		for _, m := range majors {
			p.Syscalls = append(p.Syscalls, denial(call, m))
		}
	}
	return p
}

// denial is the rule that denies one call for one major. Without errnoRet the error is EPERM, even
// in runtimes that do not know that field.
func denial(call string, major int64) specs.LinuxSyscall {
	return specs.LinuxSyscall{
		Names:  []string{call},
		Action: specs.ActErrno,
		Args: []condition{{
			Index:    deviceArgument[call],
			Value:    majorMask,
			ValueTwo: uint64(major) << majorShift,
			Op:       maskedEqual,
		}},
	}
}

// fencer edits one profile.
type fencer struct {
	splices *rawjson.Splices
	majors  []int64
	blocks  []block
	holes   []string

	normal  action // of calls that no rule matches
	allowed map[string]bool
	denied  map[string]map[int64]bool // by call: the majors that the profile itself denies
}

func (f *fencer) profile(profile rawjson.Value) error {
	var name, errnoRet, calls rawjson.Value
	err := fields(profile,
		want{"defaultAction", rawjson.String, &name},
		want{"defaultErrnoRet", rawjson.Number, &errnoRet},
		want{"syscalls", rawjson.Array, &calls})
	if err != nil {
		return err
	}
	if f.normal, err = effective(name, errnoRet); err != nil {
		return fmt.Errorf("defaultErrnoRet: %w", err)
	}
	if f.normal.name == "" {
		// runc ignores such a profile, crun rejects it; we change neither.
		f.holes = append(f.holes, "the seccomp profile has no defaultAction")
		return nil
	}
	f.allowed = map[string]bool{}
	f.denied = map[string]map[int64]bool{}
	for _, call := range nodeCalls {
		f.allowed[call] = f.normal.permits()
		f.denied[call] = map[int64]bool{}
	}
	var changes []rawjson.Change
	for e := range calls.Elements() {
		change, err := f.rule(e, len(changes))
		if err != nil {
			return fmt.Errorf("syscalls: %w", err)
		}
		changes = append(changes, change)
	}
	added, err := f.denials()
	if err != nil {
		return err
	}
	if calls.Present() {
		f.splices.EditArray(calls, func(i int, _ rawjson.Value) rawjson.Change { return changes[i] }, added)
		return nil
	}
	in := object{splices: f.splices, value: profile}
	in.extend("syscalls", calls, added)
	return nil
}

// denials returns the rules that deny explicitly what no rule allows any more. They are needed
// unless the default is EPERM: libseccomp rejects rules that repeat the default. Calls that the
// profile did not allow before are not our concern.
func (f *fencer) denials() ([][]byte, error) {
	if f.normal == (action{specs.ActErrno, 1}) {
		return nil, nil
	}
	var added [][]byte
	for _, call := range nodeCalls {
		if !f.allowed[call] {
			continue
		}
		for _, m := range f.majors {
			if f.denied[call][m] {
				continue
			}
			text, err := encode(denial(call, m))
			if err != nil {
				return nil, err
			}
			added = append(added, text)
		}
	}
	return added, nil
}

// rule returns the change for one of syscalls.
func (f *fencer) rule(e rawjson.Value, number int) (rawjson.Change, error) {
	var unchanged rawjson.Change
	var names, name, errnoRet, args rawjson.Value
	err := fields(e,
		want{"names", rawjson.Array, &names},
		want{"action", rawjson.String, &name},
		want{"errnoRet", rawjson.Number, &errnoRet},
		want{"args", rawjson.Array, &args})
	if err != nil {
		return unchanged, err
	}
	calls, err := nodeCallsIn(names)
	if err != nil || len(calls) == 0 {
		return unchanged, err
	}
	does, err := effective(name, errnoRet)
	if err != nil {
		return unchanged, fmt.Errorf("errnoRet: %w", err)
	}
	conditions, err := readConditions(args)
	if err != nil {
		return unchanged, fmt.Errorf("args: %w", err)
	}
	if does == f.normal {
		return unchanged, nil // runc and crun skip rules that repeat the default
	}
	if does.name == specs.ActNotify || does.name == specs.ActTrace {
		f.holes = append(f.holes, fmt.Sprintf("rule %d of the seccomp profile leaves %s to another process (%s)",
			number, calls[0], does.name))
		return unchanged, nil
	}
	if !does.permits() {
		f.note(calls, conditions)
		return unchanged, nil
	}

	var split []string // calls that cannot stay in the rule
	parts := map[string][][]condition{}
	for _, call := range calls {
		f.allowed[call] = true
		kept, changed, ok := f.narrow(conditions, deviceArgument[call])
		switch {
		case !ok:
			f.holes = append(f.holes, fmt.Sprintf("rule %d of the seccomp profile allows %s "+
				"by comparing the order of device numbers", number, call))
		case changed:
			split = append(split, call)
			parts[call] = kept
		}
	}
	if len(split) == 0 {
		return unchanged, nil
	}
	return replacement(e, names, split, parts)
}

// note records the majors that a rule denies by any action: ours would be redundant, and libseccomp
// rejects two rules of different actions for the same condition. Only rules that deny a whole
// major, or everything, matter.
func (f *fencer) note(calls []string, conditions []condition) {
	for _, call := range calls {
		for _, all := range alternatives(conditions) {
			switch {
			case len(all) == 0:
				f.allowed[call] = false
			case len(all) > 1 || all[0].Index != deviceArgument[call]:
			case all[0].Op != maskedEqual || all[0].Value&^majorMask != 0:
			default:
				for _, m := range f.majors {
					if (all[0].ValueTwo^uint64(m)<<majorShift)&all[0].Value == 0 && all[0].ValueTwo&^all[0].Value == 0 {
						f.denied[call][m] = true
					}
				}
			}
		}
	}
}

// nodeCallsIn returns the nodeCalls among names.
func nodeCallsIn(names rawjson.Value) ([]string, error) {
	var found []string
	for e := range names.Elements() {
		if err := e.Want(rawjson.String); err != nil {
			return nil, fmt.Errorf("names: %w", err)
		}
		if raw := e.Raw(); raw[1] != 'm' && raw[1] != '\\' {
			continue // neither of them, in any spelling
		}
		if name := e.Text(); slices.Contains(nodeCalls, name) && !slices.Contains(found, name) {
			found = append(found, name)
		}
	}
	return found, nil
}

// readConditions reads args.
func readConditions(args rawjson.Value) ([]condition, error) {
	var list []condition
	for e := range args.Elements() {
		var index, value, valueTwo, op rawjson.Value
		err := fields(e,
			want{"index", rawjson.Number, &index},
			want{"value", rawjson.Number, &value},
			want{"valueTwo", rawjson.Number, &valueTwo},
			want{"op", rawjson.String, &op})
		if err != nil {
			return nil, err
		}
		c := condition{Op: specs.LinuxSeccompOperator(op.Text())}
		if err := decode(index, &c.Index); err != nil {
			return nil, err
		}
		if err := decode(value, &c.Value); err != nil {
			return nil, err
		}
		if err := decode(valueTwo, &c.ValueTwo); err != nil {
			return nil, err
		}
		list = append(list, c)
	}
	return list, nil
}

// alternatives returns the conditions as the runtimes understand them: any alternative suffices,
// and all conditions in it must hold.
func alternatives(conditions []condition) [][]condition {
	seen := map[uint]bool{}
	for _, c := range conditions {
		if seen[c.Index] {
			single := make([][]condition, len(conditions))
			for i, c := range conditions {
				single[i] = []condition{c}
			}
			return single
		}
		seen[c.Index] = true
	}
	return [][]condition{conditions}
}

// narrow excludes the denied majors, in the argument of the given index, from what the conditions
// match, and returns the alternatives that remain; changed is false if the conditions match none of
// the majors, and ok is false if they cannot be narrowed.
func (f *fencer) narrow(conditions []condition, index uint) (kept [][]condition, changed, ok bool) {
	for _, all := range alternatives(conditions) {
		i := slices.IndexFunc(all, func(c condition) bool { return c.Index == index })
		if i < 0 {
			changed = true
			for _, b := range f.blocks {
				more := condition{Index: index, Value: b.mask, ValueTwo: b.value, Op: maskedEqual}
				kept = append(kept, append(slices.Clone(all), more))
			}
			continue
		}
		c := all[i]
		if !f.matches(c) {
			kept = append(kept, all)
			continue
		}
		changed = true
		switch c.Op {
		case specs.OpEqualTo: // one of the denied devices
		case maskedEqual:
			for _, b := range f.blocks {
				if (c.ValueTwo^b.value)&c.Value&b.mask != 0 {
					continue // no argument is in both
				}
				part := slices.Clone(all)
				part[i].Value, part[i].ValueTwo = c.Value|b.mask, c.ValueTwo|b.value
				kept = append(kept, part)
			}
		default:
			return nil, false, false
		}
	}
	return kept, changed, true
}

// matches reports whether a condition on the device argument holds, or may hold, for one of the
// majors.
func (f *fencer) matches(c condition) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return slices.Contains(f.majors, int64(c.Value&majorMask>>majorShift))
	case maskedEqual:
		return c.ValueTwo&^c.Value == 0 && slices.ContainsFunc(f.majors, func(m int64) bool {
			return (c.ValueTwo^uint64(m)<<majorShift)&c.Value&majorMask == 0
		})
	case specs.OpLessThan:
		return c.Value > uint64(f.majors[0])<<majorShift
	case specs.OpLessEqual:
		return c.Value >= uint64(f.majors[0])<<majorShift
	}
	return true
}

// replacement returns the rules that replace e: the rule itself for the names that stay, and one
// per call and alternative. All keep the other members of e.
func replacement(e, names rawjson.Value, split []string, parts map[string][][]condition) (rawjson.Change, error) {
	var all [][]byte
	stay := false
	var without rawjson.Splices
	without.EditArray(names, func(_ int, name rawjson.Value) rawjson.Change {
		drop := slices.Contains(split, name.Text())
		stay = stay || !drop
		return rawjson.Change{Drop: drop}
	}, nil)
	if stay {
		text, err := without.ApplyTo(e)
		if err != nil {
			return rawjson.Change{}, err
		}
		all = append(all, text)
	}
	for _, call := range split {
		rules, err := copyRule(e, names, call, parts[call])
		if err != nil {
			return rawjson.Change{}, err
		}
		all = append(all, rules...)
	}
	if len(all) == 0 {
		return rawjson.Change{Drop: true}, nil // everything it allowed is denied now
	}
	return rawjson.Change{Replace: bytes.Join(all, []byte(","))}, nil
}

// copyRule returns copies of the rule e for one call, each with other conditions. They are copied
// from a version whose names, perhaps hundreds, are already reduced to that call.
func copyRule(e, names rawjson.Value, call string, alternatives [][]condition) ([][]byte, error) {
	var renamed rawjson.Splices
	name, err := encode([]string{call})
	if err != nil {
		return nil, err
	}
	renamed.Replace(names, name)
	text, err := renamed.ApplyTo(e)
	if err != nil {
		return nil, err
	}
	rule, err := rawjson.Parse(text)
	if err != nil {
		return nil, err
	}
	args, err := field(rule, "args", rawjson.Absent)
	if err != nil {
		return nil, err
	}
	var rules [][]byte
	for _, conditions := range alternatives {
		var changed rawjson.Splices
		text, err := encode(conditions)
		if err != nil {
			return nil, err
		}
		if args.Kind() == rawjson.Absent {
			changed.AddMember(rule, "args", text)
		} else {
			changed.Replace(args, text)
		}
		if text, err = changed.ApplyTo(rule); err != nil {
			return nil, err
		}
		rules = append(rules, text)
	}
	return rules, nil
}
