// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFacts(t *testing.T) {
	tests := []struct {
		name, in string
		want     Facts
	}{
		{name: "nothing", in: `{}`},
		{name: "null everywhere", in: `{"process":null,"root":null,"mounts":null,"linux":null,"annotations":null}`},
		{
			name: "null one below", in: `{"process":{"env":null,"capabilities":null,"user":null,"rlimits":null},
			"linux":{"namespaces":null,"seccomp":null,"maskedPaths":null,"devices":null,"uidMappings":null}}`,
			want: Facts{HasLinux: true},
		},
		{
			name: "all",
			in: `{"ociVersion":"1.2.0","unknown":{"env":["X"]},
				"process":{"terminal":true,
					"user":{"uid":1000,"gid":1001,"umask":18,"additionalGids":[44,109]},
					"env":["PATH=/bin","A=1","A=2","no equals sign","=","NVIDIA_VISIBLE_DEVICES=\u0061ll"],
					"capabilities":{"bounding":["CAP_SYS_ADMIN","CAP_MKNOD"],"effective":["CAP_KILL"]},
					"rlimits":[{"type":"RLIMIT_CORE","soft":1,"hard":2},{"type":"RLIMIT_NOFILE","hard":18446744073709551615,"soft":1024}]},
				"root":{"path":"rootfs","readonly":true},
				"annotations":{"k":"v","k2":"v2"},
				"mounts":[{"destination":"/proc","type":"proc","source":"proc"},
					{"destination":"/var/run/nvidia-container-devices/all","source":"/dev/null","options":["bind","ro"]}],
				"linux":{"namespaces":[{"type":"pid"},{"type":"user","path":"/proc/7/ns/user"}],
					"uidMappings":[{"containerID":1,"hostID":1,"size":5},{"containerID":0,"hostID":100000,"size":65536}],
					"gidMappings":[{"containerID":0,"hostID":200000,"size":65536}],
					"cgroupsPath":"system.slice:docker:abc","mountLabel":"u:r:t:s0:c1,c2","seccomp":{},"maskedPaths":[],
					"devices":[{"path":"/dev/fuse","type":"c","major":10,"minor":229}]}}`,
			want: Facts{
				Env:      []string{"PATH=/bin", "A=1", "A=2", "no equals sign", "=", "NVIDIA_VISIBLE_DEVICES=all"},
				Bounding: []string{"CAP_SYS_ADMIN", "CAP_MKNOD"},
				User:     User{UID: 1000, GID: 1001, AdditionalGIDs: []uint32{44, 109}},
				NoFile:   &Limit{Soft: 1024, Hard: 18446744073709551615},
				HasRoot:  true, RootPath: "rootfs", RootReadonly: true,
				Mounts: []Mount{
					{Destination: "/proc", Type: "proc", Source: "proc"},
					{Destination: "/var/run/nvidia-container-devices/all", Source: "/dev/null", Options: []string{"bind", "ro"}},
				},
				UserNS: true, UserNSPath: "/proc/7/ns/user", ContainerUID: 100000, ContainerGID: 200000,
				HasLinux: true, HasSeccomp: true, HasMaskedPaths: true,
				CgroupsPath: "system.slice:docker:abc", MountLabel: "u:r:t:s0:c1,c2", Devices: []string{"/dev/fuse"},
			},
		},
		{
			name: "a mapping of nothing",
			in:   `{"linux":{"uidMappings":[{"containerID":0,"hostID":7,"size":0},{"containerID":0,"hostID":9,"size":1}],"gidMappings":[{"containerID":0,"hostID":7}]}}`,
			want: Facts{HasLinux: true, ContainerUID: 9},
		},
		{
			name: "capabilities of 1.0.0-rc4",
			in:   `{"process":{"capabilities":["CAP_SYS_ADMIN"]}}`,
			want: Facts{Bounding: []string{"CAP_SYS_ADMIN"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			d, err := Parse([]byte(tt.in))
			require.NoError(t, err)
			got, err := d.Facts()
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
	f := tests[3].want
	assert.True(t, f.HasCapability("CAP_MKNOD"))
	assert.False(t, f.HasCapability("CAP_KILL"))
}

func TestFactsErrors(t *testing.T) {
	for in, want := range map[string]string{
		`{"process":[]}`:                           `"process": line 1, column 12 (byte 11): an array where an object is expected`,
		`{"process":{},"process":{}}`:              `line 1, column 15 (byte 14): duplicate key "process": runtimes differ in which one counts`,
		`{"Process":{}}`:                           `line 1, column 2 (byte 1): the key "Process" is another spelling of "process": runtimes interpret it differently`,
		`{"process":{"env":{}}}`:                   `process: "env": line 1, column 19 (byte 18): an object where an array is expected`,
		`{"process":{"env":["A=1",7]}}`:            `process: env: line 1, column 26 (byte 25): a number where a string is expected`,
		`{"process":{"capabilities":"all"}}`:       `process: capabilities: line 1, column 28 (byte 27): a string where an object is expected`,
		`{"process":{"user":{"uid":-1}}}`:          `process: user: uid: line 1, column 27 (byte 26): number -1 does not fit here`,
		`{"root":{"path":1}}`:                      `root: "path": line 1, column 17 (byte 16): a number where a string is expected`,
		`{"mounts":[[]]}`:                          `mounts: line 1, column 12 (byte 11): an array where an object is expected`,
		`{"linux":{"seccomp":[]}}`:                 `linux: "seccomp": line 1, column 21 (byte 20): an array where an object is expected`,
		`{"linux":{"uidMappings":[{"size":1e3}]}}`: `linux: uidMappings: line 1, column 34 (byte 33): number 1e3 does not fit here`,
	} {
		d, err := Parse([]byte(in))
		require.NoError(t, err)
		got, err := d.Facts()
		require.EqualError(t, err, "reading config.json: "+want)
		assert.Equal(t, Facts{}, got)
	}
}
