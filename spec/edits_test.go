// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io/fs"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

type mount = specs.Mount

var readOnly = []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}

// library is a mount as the runtime creates it for a library.
func library(source, destination string) mount {
	return mount{Destination: destination, Source: source, Options: readOnly}
}

// node is a device as the runtime creates it.
func node(name string, major, minor int64) specs.LinuxDevice {
	mode := fs.FileMode(0o666)
	return specs.LinuxDevice{Path: name, Type: "c", Major: major, Minor: minor, FileMode: &mode}
}

// ours is the JSON of library.
func ours(source, destination string) string {
	return fmt.Sprintf(`{"destination":%q,"source":%q,"options":["ro","nosuid","nodev","rbind","rprivate"]}`, destination, source)
}

func TestApply(t *testing.T) {
	tests := []struct {
		name, in string
		edits    Edits
		want     string
		report   Report
	}{
		{name: "no edits", in: ` {"linux" : 0x1} `[:0] + ` {"linux" : { } } `, want: ` {"linux" : { } } `},

		// Devices and rules.
		{
			name:  "devices, no linux",
			in:    `{"ociVersion":"1.0.2"}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want: `{"ociVersion":"1.0.2","linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0,"fileMode":438}],` +
				`"resources":{"devices":[{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"}]}}}`,
		},
		{
			name:  "devices, null and absent parents",
			in:    `{"linux":{"devices":null,"resources":null}}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want: `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0,"fileMode":438}],` +
				`"resources":{"devices":[{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"}]}}}`,
		},
		{
			name: "devices, null linux, no cgroups",
			in:   `{"linux":null}`,
			edits: Edits{
				Devices:   []specs.LinuxDevice{node("/dev/nvidia0", 195, 0), node("/dev/nvidia0", 195, 0)},
				NoCgroups: true,
			},
			want: `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0,"fileMode":438}]}}`,
		},
		{
			name: "devices that are there: same numbers stay, others are replaced",
			in: `{"linux":{"devices":[ {"path":"/dev//nvidia0","type":"c","major":195,"minor":0,"fileMode":384,"x":1},` +
				` {"path":"/dev/nvidia1","type":"c","major":195,"minor":7}, {"path":"/dev/fuse","type":"c","major":10,"minor":229} ]}}`,
			edits: Edits{
				Devices:   []specs.LinuxDevice{node("/dev/nvidia0", 195, 0), node("/dev/nvidia1", 195, 1), node("/dev/nvidia2", 195, 2)},
				NoCgroups: true,
			},
			want: `{"linux":{"devices":[ {"path":"/dev//nvidia0","type":"c","major":195,"minor":0,"fileMode":384,"x":1},` +
				` {"path":"/dev/nvidia1","type":"c","major":195,"minor":1,"fileMode":438}, {"path":"/dev/fuse","type":"c","major":10,"minor":229},` +
				`{"path":"/dev/nvidia2","type":"c","major":195,"minor":2,"fileMode":438} ]}}`,
			report: Report{ReplacedDevices: []string{"/dev/nvidia1"}},
		},
		{
			name: "rules: only what is not there exactly",
			in: `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0},{"path":"/dev/nvidia1","type":"c","major":195,"minor":1},` +
				`{"path":"/dev/nvidia2","type":"c","major":195,"minor":2},{"path":"/dev/nvidia3","type":"c","major":195,"minor":3}],` +
				`"resources":{"devices":[{"allow":true,"type":"c","major":195,"minor":3,"access":"rwm"},{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"m"},` +
				`{"allow":true,"type":"c","major":195,"minor":0,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":1,"access":"r"},` +
				`{"allow":true,"type":"c","major":195,"access":"rw"}],"x":1}}}`,
			edits: Edits{Devices: []specs.LinuxDevice{
				node("/dev/nvidia0", 195, 0), node("/dev/nvidia1", 195, 1), node("/dev/nvidia2", 195, 2), node("/dev/nvidia3", 195, 3),
			}},
			want: `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0},{"path":"/dev/nvidia1","type":"c","major":195,"minor":1},` +
				`{"path":"/dev/nvidia2","type":"c","major":195,"minor":2},{"path":"/dev/nvidia3","type":"c","major":195,"minor":3}],` +
				`"resources":{"devices":[{"allow":true,"type":"c","major":195,"minor":3,"access":"rwm"},{"allow":false,"access":"rwm"},{"allow":true,"type":"c","access":"m"},` +
				`{"allow":true,"type":"c","major":195,"minor":0,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":1,"access":"r"},` +
				`{"allow":true,"type":"c","major":195,"access":"rw"},` +
				`{"allow":true,"type":"c","major":195,"minor":1,"access":"rw"},{"allow":true,"type":"c","major":195,"minor":2,"access":"rw"},` +
				`{"allow":true,"type":"c","major":195,"minor":3,"access":"rw"}],"x":1}}}`,
		},
		{
			name:  "rules: everything allowed, then one denied",
			in:    `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":195,"minor":0,"access":"rwm"}]}}}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want:  `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"access":"rwm"},{"allow":false,"type":"c","major":195,"minor":0,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"}]}}}`,
		},
		{
			name:  "rules: one allowed, then one of both kinds denied",
			in:    `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"},{"allow":false,"type":"a","major":195,"minor":0,"access":"rwm"}]}}}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want:  `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"},{"allow":false,"type":"a","major":195,"minor":0,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"}]}}}`,
		},
		{
			name:  "rules: all kinds of one major are not everything",
			in:    `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"type":"a","major":1,"access":"rwm"}]}}}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want:  `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"type":"a","major":1,"access":"rwm"},{"allow":true,"type":"c","major":195,"minor":0,"access":"rw"}]}}}`,
		},
		{
			name:  "a device under the other name of its type stays",
			in:    `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"u","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want:  `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"u","major":195,"minor":0}],"resources":{"devices":[{"allow":true,"access":"rwm"}]}}}`,
		},
		{
			name:  "a mount of ours that had another type is made anew",
			in:    `{"mounts":[{"destination":"/a","type":"none","source":"/b","options":["ro"]}]}`,
			edits: Edits{Mounts: []mount{{Destination: "/a", Type: "bind", Source: "/b", Options: []string{"ro"}}}},
			want:  `{"mounts":[{"destination":"/a","type":"bind","source":"/b","options":["ro"]}]}`,
		},
		{
			name:  "rules: privileged, everything allowed last",
			in:    `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"a","major":-1,"minor":-1,"access":"rwm"}]}}}`,
			edits: Edits{Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}},
			want:  `{"linux":{"devices":[{"path":"/dev/nvidia0","type":"c","major":195,"minor":0}],"resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"a","major":-1,"minor":-1,"access":"rwm"}]}}}`,
		},

		// Mounts.
		{
			name:  "mounts, none there",
			in:    `{}`,
			edits: Edits{Mounts: []mount{library("/b", "/usr/lib/b"), library("/a", "/usr/lib/a")}},
			want:  `{"mounts":[` + ours("/b", "/usr/lib/b") + `,` + ours("/a", "/usr/lib/a") + `]}`,
		},
		{
			name: "mounts: the user's stay, in their order and spelling; our own is replaced",
			in: `{"mounts":[{"destination":"/z"}, {"destination":"/usr/lib/b/","source":"/mine","options":["ro"],"unknown":1e2},` +
				ours("/old/c", "/usr/lib/c") + `, ` + ours("/d", "/usr/lib/d") + `, {"destination":"/a"}]}`,
			edits: Edits{Mounts: []mount{
				library("/b", "/usr/lib/b"), library("/c", "/usr/lib/c"), library("/d", "/usr/lib/d"), library("/e", "/usr/lib/e"), library("/e2", "/usr/lib/e"),
			}},
			want: `{"mounts":[{"destination":"/z"}, {"destination":"/usr/lib/b/","source":"/mine","options":["ro"],"unknown":1e2},` +
				ours("/c", "/usr/lib/c") + `, ` + ours("/d", "/usr/lib/d") + `, {"destination":"/a"},` + ours("/e", "/usr/lib/e") + `]}`,
			report: Report{KeptMounts: []string{"/usr/lib/b"}},
		},
		{
			name: "mounts of an earlier edit that gave files another way go",
			in: `{"mounts":[` +
				ours("/h/libcuda.so.550.54.15", "/usr/lib64/libcuda.so.550.54.15") + `,{"destination":"/usr/lib64/libb.so.1","type":"bind","source":"/mine","options":["ro"]},` +
				ours("/h/libc.so.1", "/usr/lib64/libc.so.1") + `,` + ours("/h/libd.so.1", "/usr/lib64/libd.so.1") + `,` +
				strings.Replace(ours("/h/libe.so.1", "/usr/lib64/libe.so.1"), `"source"`, `"type":"none","source"`, 1) + `]}`,
			edits: Edits{
				Mounts: []mount{library("/h/libc.so.1", "/usr/lib64/libc.so.1")},
				RemoveBinds: []mount{
					library("", "/usr/lib64/libcuda.so.550.54.15"), library("", "/usr/lib64/libb.so.1"), library("", "/usr/lib64/libc.so.1"),
					library("", "/usr/lib64/libe.so.1"),
				},
			},
			want: `{"mounts":[{"destination":"/usr/lib64/libb.so.1","type":"bind","source":"/mine","options":["ro"]},` +
				ours("/h/libc.so.1", "/usr/lib64/libc.so.1") + `,` + ours("/h/libd.so.1", "/usr/lib64/libd.so.1") + `,` +
				strings.Replace(ours("/h/libe.so.1", "/usr/lib64/libe.so.1"), `"source"`, `"type":"none","source"`, 1) + `]}`,
			report: Report{StaleMounts: []string{"/usr/lib64/libcuda.so.550.54.15"}},
		},

		// Hooks.
		{
			name: "legacy hooks go, others stay in order",
			in: `{"hooks":{"prestart":[{"path":"/a"},{"path":"/usr/bin/nvidia-container-runtime-hook","args":["x","prestart"]},{"path":"/b/not-nvidia-container-runtime-hook"},` +
				`{"path":"/usr/bin/nvidia-container-toolkit"}],"poststop":[{"path":"/usr/bin/nvidia-container-toolkit"}]}}`,
			edits: Edits{RemoveHooks: []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit"}},
			want: `{"hooks":{"prestart":[{"path":"/a"},{"path":"/b/not-nvidia-container-runtime-hook"}],` +
				`"poststop":[{"path":"/usr/bin/nvidia-container-toolkit"}]}}`,
			report: Report{RemovedHooks: []string{"/usr/bin/nvidia-container-runtime-hook", "/usr/bin/nvidia-container-toolkit"}},
		},
		{
			name:  "no hooks to remove from",
			in:    `{"hooks":{"prestart":null}}`,
			edits: Edits{RemoveHooks: []string{"nvidia-container-runtime-hook"}},
			want:  `{"hooks":{"prestart":null}}`,
		},

		// Masked paths.
		{
			name:  "masked paths where there is a list",
			in:    `{"linux":{"maskedPaths":["/proc/kcore","/proc/b"]}}`,
			edits: Edits{MaskedPaths: []string{"/proc/a", "/proc/b", "/proc/a"}},
			want:  `{"linux":{"maskedPaths":["/proc/kcore","/proc/b","/proc/a"]}}`,
		},
		{
			name:  "masked paths, empty list",
			in:    `{"linux":{"maskedPaths":[]}}`,
			edits: Edits{MaskedPaths: []string{"/proc/a"}},
			want:  `{"linux":{"maskedPaths":["/proc/a"]}}`,
		},
		{name: "masked paths without a list", in: `{"linux":{"maskedPaths":null}}`, edits: Edits{MaskedPaths: []string{"/proc/a"}}, want: `{"linux":{"maskedPaths":null}}`},

		// Groups.
		{
			name:  "groups: only those that are missing, once",
			in:    `{"process":{"user":{"uid":0,"gid":5,"additionalGids":[10, 44]}}}`,
			edits: Edits{AdditionalGIDs: []uint32{44, 109, 5, 109}},
			want:  `{"process":{"user":{"uid":0,"gid":5,"additionalGids":[10, 44,109]}}}`,
		},
		{
			name:  "groups, no list",
			in:    `{"process":{"user":{}}}`,
			edits: Edits{AdditionalGIDs: []uint32{44}},
			want:  `{"process":{"user":{"additionalGids":[44]}}}`,
		},
		{
			name:  "groups, no user",
			in:    `{"process":{}}`,
			edits: Edits{AdditionalGIDs: []uint32{44}},
			want:  `{"process":{"user":{"uid":0,"gid":0,"additionalGids":[44]}}}`,
		},
		{name: "groups, no process", in: `{}`, edits: Edits{AdditionalGIDs: []uint32{44}}, want: `{}`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Parse([]byte(tt.in))
			require.NoError(t, err)
			report, err := d.Apply(tt.edits)
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(d.Bytes()))
			assert.Equal(t, tt.report, report)
			assert.Equal(t, tt.in != tt.want, d.Changed())

			again, err := Parse(d.Bytes())
			require.NoError(t, err)
			_, err = again.Apply(tt.edits)
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(again.Bytes()))
			assert.False(t, again.Changed())
		})
	}
}

func TestApplyErrors(t *testing.T) {
	edits := Edits{
		Devices: []specs.LinuxDevice{node("/dev/nvidia0", 195, 0)}, Mounts: []mount{library("/a", "/b")}, MaskedPaths: []string{"/x"},
		AdditionalGIDs: []uint32{1}, RemoveHooks: []string{"x"}, FenceMajors: []int64{195},
	}
	for in, want := range map[string]string{
		`{"linux":{},"linux":{}}`:                                     `duplicate key "linux"`,
		`{"linux":{},"LINUX":{}}`:                                     `the key "LINUX" is another spelling of "linux"`,
		`{"linux":{"devices":[],"Devices":[]}}`:                       `linux: line 1, column 24 (byte 23): the key "Devices" is another spelling of "devices"`,
		`{"linux":[]}`:                                                `"linux": line 1, column 10 (byte 9): an array where an object is expected`,
		`{"linux":{"devices":{}}}`:                                    `linux: "devices": `,
		`{"linux":{"devices":[1]}}`:                                   `linux: devices: line 1, column 22 (byte 21): a number where an object is expected`,
		`{"linux":{"devices":[{"path":"/dev/nvidia0","major":1.5}]}}`: `linux: devices: line 1, column 53 (byte 52): number 1.5 does not fit here`,
		`{"linux":{"resources":{"devices":[{"allow":"yes"}]}}}`:       `linux: resources: devices: "allow": line 1, column 44 (byte 43): a string where a boolean is expected`,
		`{"linux":{"maskedPaths":[1]}}`:                               `linux: maskedPaths: `,
		`{"linux":{"seccomp":{"syscalls":[{"names":"mknod"}]}}}`:      `linux: seccomp: `,
		`{"mounts":[{"destination":"/b","options":"ro"}]}`:            `mounts: "options": `,
		`{"hooks":{"prestart":[{"path":7}]}}`:                         `hooks: prestart: "path": `,
		`{"process":{"user":{"additionalGids":["video"]}}}`:           `process: user: additionalGids: line 1, column 39 (byte 38): string does not fit here`,
	} {
		if !strings.Contains(in, `"seccomp"`) {
			edits.FenceMajors = nil
		} else {
			in = strings.Replace(in, `"syscalls"`, `"defaultAction":"SCMP_ACT_ERRNO","syscalls"`, 1)
			edits.FenceMajors = []int64{195}
		}
		d, err := Parse([]byte(in))
		require.NoError(t, err)
		report, err := d.Apply(edits)
		require.ErrorContains(t, err, "editing config.json: ", in)
		require.ErrorContains(t, err, want, in)
		assert.Equal(t, Report{}, report)
		assert.Equal(t, in, string(d.Bytes()))
		assert.False(t, d.Changed())
	}
}

// everything is an Edits with every field set.
func everything() Edits {
	return Edits{
		Devices:        []specs.LinuxDevice{node("/dev/nvidiactl", 195, 255), node("/dev/nvidia0", 195, 0), node("/dev/nvidia-uvm", 509, 0)},
		Mounts:         []mount{library("/usr/lib/libcuda.so.550.54.15", "/usr/lib64/libcuda.so.550.54.15"), library("/usr/bin/nvidia-smi", "/usr/bin/nvidia-smi")},
		MaskedPaths:    []string{"/proc/driver/nvidia/gpus/0000:02:00.0"},
		AdditionalGIDs: []uint32{44},
		RemoveHooks:    []string{"nvidia-container-runtime-hook"},
		FenceMajors:    []int64{195, 509},
		FenceAlways:    true,
	}
}

// FuzzApply applies everything to any text. The result is JSON that preserves everything except
// what the edits are about, that runc's decoder still accepts, and that a second application does
// not change.
func FuzzApply(f *testing.F) {
	f.Add([]byte(`{}`))
	f.Add([]byte(dockerConfig(2)))
	f.Add([]byte(`{"process":{"user":{"additionalGids":[1]}},"mounts":[],"hooks":{"prestart":[]},"linux":{"devices":[],"resources":{"devices":[]},"maskedPaths":[],"seccomp":{"defaultAction":"SCMP_ACT_ALLOW"}}}`))
	f.Add([]byte(`{"process":{},"hooks":null,"linux":{"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":38,"syscalls":[{"names":["mknod","mknodat"],"action":"SCMP_ACT_ALLOW","args":[{"index":2,"value":5,"op":"SCMP_CMP_EQ"},{"index":2,"value":5,"valueTwo":1,"op":"SCMP_CMP_MASKED_EQ"}]}]}}}`))
	f.Add([]byte(`{"mounts":[{"destination":"/usr/lib64/libcuda.so.470.1","source":"/x","options":["ro","nosuid","nodev","rbind","rprivate"]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Parse(data)
		if err != nil {
			require.Nil(t, d)
			return
		}
		report, err := d.Apply(everything())
		if err != nil {
			require.Equal(t, Report{}, report)
			require.Equal(t, data, d.Bytes())
			return
		}
		require.True(t, json.Valid(d.Bytes()))
		var before, after specs.Spec
		if json.Unmarshal(data, &before) == nil {
			require.NoError(t, json.Unmarshal(d.Bytes(), &after))
		}
		first := bytes.Clone(d.Bytes())
		old, err := rawjson.Parse(data)
		require.NoError(t, err)
		now, err := rawjson.Parse(d.Bytes())
		require.NoError(t, err)
		survive(t, old, now, "")

		second, err := Parse(first)
		require.NoError(t, err)
		_, err = second.Apply(everything())
		require.NoError(t, err)
		require.Equal(t, string(first), string(second.Bytes()))
	})
}

// survive compares two objects: after must begin with the members of before, byte for byte, and may
// have more. Objects that edits reach into are compared in the same way. Lists that edits only
// append to must begin with their old elements; other lists that edits change are not compared.
func survive(t *testing.T, before, after rawjson.Value, path string) {
	t.Helper()
	now := slices.Collect(after.Members())
	i := 0
	for m := range before.Members() {
		require.Less(t, i, len(now), path)
		require.Equal(t, string(m.Key.Raw()), string(now[i].Key.Raw()), path)
		was, is := m.Value, now[i].Value
		i++
		switch name := path + m.Key.Text(); name {
		case "process", "process.user", "hooks", "linux", "linux.resources", "linux.seccomp":
			survive(t, was, is, name+".")
		case "linux.resources.devices", "linux.maskedPaths", "process.user.additionalGids":
			list := slices.Collect(is.Elements())
			for e := range was.Elements() {
				require.NotEmpty(t, list, name)
				require.Equal(t, string(e.Raw()), string(list[0].Raw()), name)
				list = list[1:]
			}
		case "mounts", "hooks.prestart", "linux.devices", "linux.seccomp.syscalls":
		default:
			require.Equal(t, string(was.Raw()), string(is.Raw()), name)
		}
	}
}

// dockerConfig is a config.json like dockerd's, with the given number of mounts.
func dockerConfig(mounts int) string {
	var b strings.Builder
	b.WriteString(`{"ociVersion":"1.2.0","process":{"user":{"uid":0,"gid":0,"additionalGids":[0,10]},"args":["sleep","1"],"env":["PATH=/usr/bin","NVIDIA_VISIBLE_DEVICES=all"],"cwd":"/",` +
		`"capabilities":{"bounding":["CAP_CHOWN","CAP_MKNOD"],"effective":["CAP_CHOWN","CAP_MKNOD"],"permitted":["CAP_CHOWN","CAP_MKNOD"]},"oomScoreAdj":0},` +
		`"root":{"path":"/var/lib/docker/overlay2/0123/merged"},"hostname":"0123456789ab","mounts":[`)
	for i := range mounts {
		fmt.Fprintf(&b, `{"destination":"/data/%d","type":"bind","source":"/var/lib/docker/volumes/%064d/_data","options":["rbind","rw","rprivate"]},`, i, i)
	}
	b.WriteString(`{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"]}],` +
		`"hooks":{"prestart":[{"path":"/usr/bin/dockerd","args":["libnetwork-setkey"]},{"path":"/usr/bin/nvidia-container-runtime-hook","args":["nvidia-container-runtime-hook","prestart"]}]},` +
		`"linux":{"sysctl":{"net.ipv4.ip_unprivileged_port_start":"0"},"resources":{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":5,"access":"rwm"}],"memory":{"checkBeforeUpdate":true},"cpu":{"shares":0,"burst":1}},` +
		`"cgroupsPath":"system.slice:docker:0123","namespaces":[{"type":"mount"},{"type":"pid"}],"timeOffsets":{"boottime":{"secs":1}},` +
		`"seccomp":{"defaultAction":"SCMP_ACT_ERRNO","defaultErrnoRet":1,"architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],"syscalls":[`)
	names, err := json.Marshal(ordinaryCalls)
	if err != nil {
		panic(err)
	}
	for range 3 {
		fmt.Fprintf(&b, `{"names":%s,"action":"SCMP_ACT_ALLOW"},`, names)
	}
	b.WriteString(`{"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":4294967295,"op":"SCMP_CMP_EQ"}]}]},` +
		`"maskedPaths":["/proc/asound","/proc/acpi","/proc/kcore"],"readonlyPaths":["/proc/bus"]}}`)
	return b.String()
}

func BenchmarkApply(b *testing.B) {
	for _, size := range []int{30_000, 1_000_000, 4_000_000} {
		mounts := 0
		text := dockerConfig(0)
		if len(text) < size {
			mounts = (size - len(text)) / 160
			text = dockerConfig(mounts)
		}
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			for b.Loop() {
				d, err := Parse([]byte(text))
				if err != nil {
					b.Fatal(err)
				}
				if _, err := d.Facts(); err != nil {
					b.Fatal(err)
				}
				if _, err := d.Apply(everything()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
