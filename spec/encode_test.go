// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"io/fs"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The hand-written encoders agree with encoding/json.
func TestEncode(t *testing.T) {
	mode, id, number, negative := fs.FileMode(0o666), uint32(1<<32-1), int64(1<<62), int64(-1)
	for _, v := range []any{
		"", "plain", "é\x00\"\\\n<>&\u2028\xff\x7f", uint32(0), id,
		specs.Mount{},
		specs.Mount{Destination: "/a", Type: "bind", Source: "/b \"", Options: []string{"ro", "ü", ""}},
		specs.Mount{Destination: "/a", Options: []string{}},
		specs.Mount{Destination: "/a", UIDMappings: []specs.LinuxIDMapping{{ContainerID: 1}}, GIDMappings: []specs.LinuxIDMapping{{}}},
		specs.LinuxDevice{},
		specs.LinuxDevice{Path: "/dev/nvidia0", Type: "c", Major: 195, Minor: negative, FileMode: &mode, UID: &id, GID: &id},
		specs.LinuxDeviceCgroup{},
		specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &number, Minor: &negative, Access: "rw"},
		[]condition(nil),
		[]condition{},
		[]condition{{}, {Index: 2, Value: 1<<64 - 1, ValueTwo: 1 << 63, Op: specs.OpMaskedEqual}},
		[]string{"mknod"},
		denial("mknodat", 195),
	} {
		want, err := marshal(v)
		require.NoError(t, err)
		got, err := encode(v)
		require.NoError(t, err)
		assert.Equal(t, string(want), string(got))
	}
}

func FuzzEncodeText(f *testing.F) {
	f.Add("/usr/lib/libcuda.so.1")
	f.Add("é\x00\"\\\n<>&\u2028\xff")
	f.Fuzz(func(t *testing.T, s string) {
		want, err := marshal(s)
		require.NoError(t, err)
		got, err := encode(s)
		require.NoError(t, err)
		require.Equal(t, string(want), string(got))
	})
}
