// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// device is the argument of mknod for a device, as glibc and the kernel encode it (new_encode_dev).
func device(major, minor uint64) uint64 {
	return minor&0xff | major<<8 | (minor&^0xff)<<12
}

func TestMajorMask(t *testing.T) {
	for _, minor := range []uint64{0, 1, 255, 256, 257, 0xfffff} {
		for major := range uint64(1) << majorBits {
			require.Equal(t, major<<majorShift, device(major, minor)&majorMask)
		}
	}
	assert.Equal(t, uint64(0xfff00), uint64(majorMask))
	// Why the order of arguments is not the order of majors:
	assert.Greater(t, device(195, 256), device(509, 0))
}

// TestBlocksWithout checks that every major is either in a block, or denied and in none.
func TestBlocksWithout(t *testing.T) {
	sets := [][]int64{{1}, {195}, {195, 509}, {4095}, {1, 4095}, {194, 195, 196}, {2, 3}, {195, 234, 235, 236, 507, 509, 510}}
	random := rand.New(rand.NewPCG(1, 2))
	for n := range 20 {
		var set []int64
		for range n + 1 {
			set = append(set, 1+random.Int64N(4095))
		}
		slices.Sort(set)
		sets = append(sets, slices.Compact(set))
	}
	for _, denied := range sets {
		blocks := blocksWithout(denied)
		assert.LessOrEqual(t, len(blocks), 12*len(denied), denied)
		for major := range int64(1) << majorBits {
			allowed := slices.ContainsFunc(blocks, func(b block) bool { return uint64(major)<<majorShift&b.mask == b.value })
			require.Equal(t, !slices.Contains(denied, major), allowed, "%d without %v", major, denied)
		}
	}
	assert.Equal(t, []block{{0x80000, 0x80000}, {0x40000, 0x40000}}, blocksWithout(seq(0, 1024)))
	assert.Len(t, blocksWithout([]int64{195, 236, 508}), 16)
}

func seq(from, to int64) []int64 {
	var list []int64
	for i := from; i < to; i++ {
		list = append(list, i)
	}
	return list
}

// decider returns what libseccomp's filter, as runc and crun build it, does with a call: rules that
// repeat the default are dropped; all conditions of a rule must hold, unless several are about the
// same argument: then any one suffices; an unconditional rule beats conditional ones. If
// conditional rules with different actions match a call the outcome is undefined, and the test
// fails.
func decider(t *testing.T, p specs.LinuxSeccomp, call string) func(args [6]uint64) string {
	t.Helper()
	name := func(a specs.LinuxSeccompAction, errno *uint) string {
		if a != specs.ActErrno {
			return string(a)
		}
		if errno == nil {
			return "errno 1"
		}
		return fmt.Sprint("errno ", *errno)
	}
	type rule struct {
		action string
		args   []specs.LinuxSeccompArg
	}
	normal := name(p.DefaultAction, p.DefaultErrnoRet)
	var rules []rule
	for _, r := range p.Syscalls {
		action := name(r.Action, r.ErrnoRet)
		if action == normal || !slices.Contains(r.Names, call) {
			continue
		}
		if len(r.Args) == 0 {
			return func([6]uint64) string { return action }
		}
		seen := map[uint]bool{}
		twice := false
		for _, c := range r.Args {
			twice = twice || seen[c.Index]
			seen[c.Index] = true
		}
		if !twice {
			rules = append(rules, rule{action, r.Args})
			continue
		}
		for i := range r.Args {
			rules = append(rules, rule{action, r.Args[i : i+1]})
		}
	}
	return func(args [6]uint64) string {
		outcome := ""
		for _, r := range rules {
			if slices.ContainsFunc(r.args, func(c specs.LinuxSeccompArg) bool { return !holds(c, args[c.Index]) }) {
				continue
			}
			if outcome != "" && outcome != r.action {
				t.Fatalf("%s %x: both %s and %s", call, args, outcome, r.action)
			}
			outcome = r.action
		}
		if outcome == "" {
			return normal
		}
		return outcome
	}
}

func holds(c specs.LinuxSeccompArg, a uint64) bool {
	switch c.Op {
	case specs.OpEqualTo:
		return a == c.Value
	case specs.OpNotEqual:
		return a != c.Value
	case specs.OpLessThan:
		return a < c.Value
	case specs.OpLessEqual:
		return a <= c.Value
	case specs.OpGreaterThan:
		return a > c.Value
	case specs.OpGreaterEqual:
		return a >= c.Value
	case specs.OpMaskedEqual:
		return a&c.Value == c.ValueTwo
	}
	panic(c.Op)
}

// TestFenceDecides compares, for every major and many minors, what the profile decides with and
// without the fence: EPERM for fenced majors that were allowed before, no change for others.
func TestFenceDecides(t *testing.T) {
	majors := []int64{195, 234, 509}
	const allow, errno, masked = specs.ActAllow, specs.ActErrno, specs.OpMaskedEqual
	type arg = specs.LinuxSeccompArg
	nodes := []string{"mknod", "mknodat"}
	eperm, eacces, enosys := uint(1), uint(13), uint(38)
	tests := []struct {
		name    string
		profile specs.LinuxSeccomp
		holes   []string
		rules   int // afterwards
	}{
		{"denies all", specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: allow}}}, nil, 1},
		{"denies all, otherwise than with EPERM", specs.LinuxSeccomp{DefaultAction: specs.ActKillProcess, Syscalls: []specs.LinuxSyscall{{Names: []string{"read"}, Action: allow}}}, nil, 1},
		{"allows by rule", specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{{Names: []string{"link", "mknod", "mknodat", "open"}, Action: allow}}}, nil, 1 + 2*17},
		{"allows by rules of their own", specs.LinuxSeccomp{DefaultAction: errno, DefaultErrnoRet: &eperm, Syscalls: []specs.LinuxSyscall{{Names: []string{"mknod"}, Action: allow}, {Names: []string{"mknodat"}, Action: specs.ActLog}}}, nil, 2 * 17},
		{"allows one call", specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{{Names: []string{"mknodat"}, Action: allow}}}, nil, 17},
		{"allows by rule, other error", specs.LinuxSeccomp{DefaultAction: errno, DefaultErrnoRet: &enosys, Syscalls: []specs.LinuxSyscall{{Names: nodes, Action: allow}}}, nil, 2 * (17 + 3)},
		{"allows by rule, traps", specs.LinuxSeccomp{DefaultAction: specs.ActTrap, Syscalls: []specs.LinuxSyscall{{Names: nodes, Action: allow}}}, nil, 2 * (17 + 3)},
		{"allows by default", specs.LinuxSeccomp{DefaultAction: allow}, nil, 2 * 3},
		{"allows by default and needlessly by rule", specs.LinuxSeccomp{DefaultAction: allow, Syscalls: []specs.LinuxSyscall{{Names: nodes, Action: allow}}}, nil, 1 + 2*3},
		{"allows by default, one denied", specs.LinuxSeccomp{DefaultAction: allow, Syscalls: []specs.LinuxSyscall{{Names: []string{"mknod"}, Action: errno}}}, nil, 1 + 3},
		{
			"allows by default, some majors denied otherwise", // a rule of ours for the same condition would be an error
			specs.LinuxSeccomp{DefaultAction: allow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: errno, ErrnoRet: &eacces, Args: []arg{{Index: 2, Value: majorMask, ValueTwo: 195 << 8, Op: masked}}},
				{Names: []string{"mknodat"}, Action: specs.ActKillProcess, Args: []arg{{Index: 3, Value: 0xff000, ValueTwo: 195 << 8 & 0xff000, Op: masked}}},
				{Names: []string{"mknod"}, Action: errno, ErrnoRet: &eacces, Args: []arg{
					{Index: 2, Value: majorMask, ValueTwo: 509 << 8, Op: masked}, {Index: 2, Value: majorMask, ValueTwo: 7 << 8, Op: masked},
				}},
			}}, nil, 3 + 1 + 2,
		},
		{
			"allows by default, parts of a major denied", // do not suffice
			specs.LinuxSeccomp{DefaultAction: allow, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: errno, Args: []arg{{Index: 2, Value: 0xfffff, ValueTwo: 0xc301, Op: masked}}},
				{Names: []string{"mknod"}, Action: errno, Args: []arg{{Index: 2, Value: 0xff, ValueTwo: 0xc301, Op: masked}}},
				{Names: []string{"mknod"}, Action: errno, Args: []arg{{Index: 2, Value: majorMask, ValueTwo: 234 << 8, Op: masked}, {Index: 1, Value: 0x2180, Op: specs.OpEqualTo}}},
				{Names: []string{"mknodat"}, Action: errno, Args: []arg{{Index: 2, Value: majorMask, ValueTwo: 195 << 8, Op: masked}}},
				{Names: []string{"mknodat"}, Action: errno, Args: []arg{{Index: 3, Value: 0xc300, Op: specs.OpEqualTo}}},
			}}, nil, 5 + 2*3,
		},
		{"logs by default, allows by rule", specs.LinuxSeccomp{DefaultAction: specs.ActLog, Syscalls: []specs.LinuxSyscall{{Names: nodes, Action: allow}}}, nil, 2 * (17 + 3)},
		{
			"allows by mode", // conditions on another argument stay with each part
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 1, Value: 0xf000, ValueTwo: 0x2000, Op: masked}}},
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 1, Value: 0xf000, ValueTwo: 0x6000, Op: masked}, {Index: 0, Value: 0, Op: specs.OpNotEqual}}},
				{Names: []string{"mknodat"}, Action: allow, Args: []arg{{Index: 2, Value: 0x2180, Op: specs.OpEqualTo}}},
			}}, nil, 3 * 17,
		},
		{
			"allows by one of two", // an argument named twice: either is enough
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 1, Value: 0x2180, Op: specs.OpEqualTo}, {Index: 1, Value: 0x6180, Op: specs.OpEqualTo}}},
				{Names: []string{"mknodat"}, Action: allow, Args: []arg{{Index: 3, Value: 0x103, Op: specs.OpEqualTo}, {Index: 3, Value: 0xc300, Op: specs.OpEqualTo}}},
			}}, nil, 2*17 + 1,
		},
		{
			"allows single devices",
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: nodes, Action: allow, Args: []arg{{Index: 2, Value: 0x103, Op: specs.OpEqualTo}}},
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 0xc300, Op: specs.OpEqualTo}}},
				{Names: []string{"mknodat"}, Action: allow, Args: []arg{{Index: 3, Value: 0xc3ff, Op: specs.OpEqualTo}}},
			}},
			nil, 1 + 17, // mknodat with 0x103 as mode
		},
		{
			"allows under other masks",
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 0xff, ValueTwo: 7, Op: masked}}},         // one minor of all majors
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 0xf0000, ValueTwo: 0, Op: masked}}},      // majors below 256
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 0xfff00, ValueTwo: 0xc400, Op: masked}}}, // 196
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 0xfffff, ValueTwo: 0xc301, Op: masked}}}, // 195:1
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 0xff, ValueTwo: 0x107, Op: masked}}},     // nothing at all
			}},
			nil, 17 + 11 + 1 + 1,
		},
		{
			"allows by order, below the majors",
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 195 << 8, Op: specs.OpLessThan}}},
				{Names: []string{"mknodat"}, Action: allow, Args: []arg{{Index: 3, Value: 195<<8 - 1, Op: specs.OpLessEqual}}},
			}},
			nil, 2,
		},
		{
			"allows by order",
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"read"}, Action: allow},
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 196 << 8, Op: specs.OpGreaterEqual}}},
			}},
			[]string{"rule 1 of the seccomp profile allows mknod by comparing the order of device numbers"},
			2,
		},
		{
			"allows by order, up to the first device of a major",
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{
				{Names: []string{"mknod"}, Action: allow, Args: []arg{{Index: 2, Value: 195 << 8, Op: specs.OpLessEqual}}},
			}},
			[]string{"rule 0 of the seccomp profile allows mknod by comparing the order of device numbers"},
			1,
		},
		{
			"leaves it to an agent",
			specs.LinuxSeccomp{DefaultAction: errno, Syscalls: []specs.LinuxSyscall{{Names: nodes, Action: specs.ActNotify}}},
			[]string{"rule 0 of the seccomp profile leaves mknod to another process (SCMP_ACT_NOTIFY)"},
			1,
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			before, err := json.Marshal(specs.Spec{Linux: &specs.Linux{Seccomp: &tt.profile}})
			require.NoError(t, err)
			d, err := Parse(before)
			require.NoError(t, err)
			report, err := d.Apply(Edits{FenceMajors: slices.Concat(majors, majors)})
			require.NoError(t, err)
			assert.Equal(t, Report{Fenced: tt.holes == nil, Unfenced: tt.holes}, report)
			var after specs.Spec
			require.NoError(t, json.Unmarshal(d.Bytes(), &after))
			assert.Equal(t, tt.rules, len(after.Linux.Seccomp.Syscalls)) //nolint:testifylint // the list is too long to be shown
			text := string(d.Bytes())
			_, err = d.Apply(Edits{FenceMajors: majors})
			require.NoError(t, err)
			assert.Equal(t, text, string(d.Bytes()))
			if tt.holes != nil {
				return
			}
			for _, call := range nodes {
				index := deviceArgument[call]
				was, is := decider(t, tt.profile, call), decider(t, *after.Linux.Seccomp, call)
				for major := range uint64(1) << majorBits {
					for _, minor := range []uint64{0, 1, 7, 255, 256, 0xfffff} {
						for _, high := range []uint64{0, 0xffffffff << 32} {
							for _, mode := range []uint64{0x2180, 0x6180} {
								var args [6]uint64
								args[0], args[index-1], args[index] = 1<<40, mode, device(major, minor)|high
								want := was(args)
								if slices.Contains(majors, int64(major)) && (want == string(allow) || want == string(specs.ActLog)) {
									want = "errno 1"
								}
								if got := is(args); got != want {
									t.Fatalf("%s %x (%d:%d): %s, want %s", call, args, major, minor, got, want)
								}
							}
						}
					}
				}
			}
		})
	}
}

func TestFenceText(t *testing.T) {
	deny := func(call string, index int) string {
		return fmt.Sprintf(`{"names":[%q],"action":"SCMP_ACT_ERRNO","args":[{"index":%d,"value":1048320,"valueTwo":49920,"op":"SCMP_CMP_MASKED_EQ"}]}`, call, index)
	}
	denials := deny("mknod", 2) + "," + deny("mknodat", 3)
	tests := []struct {
		name, in string
		always   bool
		want     string
		report   Report
	}{
		{name: "no profile", in: `{"linux":{}}`, want: `{"linux":{}}`},
		{name: "null profile", in: `{"linux":{"seccomp":null}}`, want: `{"linux":{"seccomp":null}}`},
		{
			name: "no default", in: `{"linux":{"seccomp":{}}}`, always: true, want: `{"linux":{"seccomp":{}}}`,
			report: Report{Unfenced: []string{"the seccomp profile has no defaultAction"}},
		},
		{
			name: "allows by default, no rules", in: `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW", "x":[1e400]}}}`,
			want:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW", "x":[1e400],"syscalls":[` + denials + `]}}}`,
			report: Report{Fenced: true},
		},
		{
			name: "allows by default, one denial there already", in: `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[ {"action":"SCMP_ACT_ERRNO","errnoRet":1,"names":["mknod"],"args":[{"index":2,"value":1048320,"valueTwo":49920,"op":"SCMP_CMP_MASKED_EQ"}]} ]}}}`,
			want:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[ {"action":"SCMP_ACT_ERRNO","errnoRet":1,"names":["mknod"],"args":[{"index":2,"value":1048320,"valueTwo":49920,"op":"SCMP_CMP_MASKED_EQ"}]},` + deny("mknodat", 3) + ` ]}}}`,
			report: Report{Fenced: true},
		},
		{
			name: "what is unknown in a rule is in its parts",
			in:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"comment":"c","names":["a", "mknod", "b"],"action":"SCMP_ACT_ALLOW","args":[],"includes":{}} , {"names":["c"]}]}}}`,
			want: `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"comment":"c","names":["a", "b"],"action":"SCMP_ACT_ALLOW","args":[],"includes":{}},` +
				allowed(195, `{"comment":"c","names":["mknod"],"action":"SCMP_ACT_ALLOW","args":[%s],"includes":{}}`) + ` , {"names":["c"]}]}}}`,
			report: Report{Fenced: true},
		},
		{
			name: "null conditions, and names that hide",
			in:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["\u006dknod"],"action":"SCMP_ACT_ALLOW","args":null}]}}}`,
			want: `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[` +
				allowed(195, `{"names":["mknod"],"action":"SCMP_ACT_ALLOW","args":[%s]}`) + `]}}}`,
			report: Report{Fenced: true},
		},
		{
			name:   "rules about other majors stay as they are spelled",
			in:     `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mknod"],"action":"SCMP_ACT_ALLOW","args":[ {"op":"SCMP_CMP_MASKED_EQ","value":1048320,"valueTwo":50176,"index":2} ]}]}}}`,
			want:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mknod"],"action":"SCMP_ACT_ALLOW","args":[ {"op":"SCMP_CMP_MASKED_EQ","value":1048320,"valueTwo":50176,"index":2} ]}]}}}`,
			report: Report{Fenced: true},
		},
		{
			name: "always", in: `{"linux":{"seccomp":null}}`, always: true,
			want:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW",` + architectures() + `"syscalls":[` + denials + `]}}}`,
			report: Report{Fenced: true},
		},
		{
			name: "always, no linux", in: `{}`, always: true,
			want:   `{"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ALLOW",` + architectures() + `"syscalls":[` + denials + `]}}}`,
			report: Report{Fenced: true},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Parse([]byte(tt.in))
			require.NoError(t, err)
			report, err := d.Apply(Edits{FenceMajors: []int64{195}, FenceAlways: tt.always})
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(d.Bytes()))
			assert.Equal(t, tt.report, report)
			_, err = d.Apply(Edits{FenceMajors: []int64{195}, FenceAlways: tt.always})
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(d.Bytes()))
		})
	}
}

// allowed returns the rules for mknod of everything but one major, most significant bit first.
func allowed(major uint64, rule string) string {
	var rules []string
	for bit := uint64(1) << (majorShift + majorBits - 1); bit >= 1<<majorShift; bit >>= 1 {
		two := ""
		if value := ^(major << majorShift) & bit; value != 0 {
			two = fmt.Sprintf(`"valueTwo":%d,`, value)
		}
		rules = append(rules, fmt.Sprintf(rule, fmt.Sprintf(`{"index":2,"value":%d,%s"op":"SCMP_CMP_MASKED_EQ"}`, bit, two)))
	}
	return strings.Join(rules, ",")
}

func architectures() string {
	switch runtime.GOARCH {
	case "amd64":
		return `"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],`
	case "arm64":
		return `"architectures":["SCMP_ARCH_AARCH64","SCMP_ARCH_ARM"],`
	}
	return ""
}

func TestFenceErrors(t *testing.T) {
	for _, major := range []int64{-1, 0, 4096} {
		d, err := Parse([]byte(`{}`))
		require.NoError(t, err)
		_, err = d.Apply(Edits{FenceMajors: []int64{195, major}, FenceAlways: true})
		require.ErrorContains(t, err, "not between 1 and 4095")
	}
	for in, want := range map[string]string{
		`{"defaultAction":7}`: `"defaultAction": line 1, column 38 (byte 37): a number where a string is expected`,
		`{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":-1}`:                                                              `defaultErrnoRet: `,
		`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mknod"],"names":[]}]}`:                                       `duplicate key "names"`,
		`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mknod"],"action":"SCMP_ACT_ALLOW","args":[{"Index":2}]}]}`:   `the key "Index" is another spelling`,
		`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":[1]}]}`:                                                        `names: `,
		`{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[{"names":["mknod"],"action":"SCMP_ACT_ALLOW","args":[{"value":"1"}]}]}`: `args: `,
	} {
		d, err := Parse([]byte(`{"linux":{"seccomp":` + in + `}}`))
		require.NoError(t, err)
		_, err = d.Apply(Edits{FenceMajors: []int64{195}})
		require.ErrorContains(t, err, "editing config.json: linux: seccomp: ", in)
		require.ErrorContains(t, err, want, in)
		assert.False(t, d.Changed())
	}
}
