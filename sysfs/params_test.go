// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const params580 = `ResmanDebugLevel: 4294967295
RmLogonRC: 1
ModifyDeviceFiles: 1
DeviceFileUID: 0
DeviceFileGID: 44
DeviceFileMode: 432
InitializeSystemMemoryAllocations: 1
ImexChannelCount: 2048
CoherentGPUMemoryMode: ""
RegistryDwords: "a=1;b:2"
ExcludedGpus: ""
`

func TestParseParams(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     Params
		err      string
	}{
		{name: "580", in: params580, want: Params{ModifyDeviceFiles: true, DeviceFileGID: 44, DeviceFileMode: 0o660}},
		{name: "empty", want: Params{ModifyDeviceFiles: true, DeviceFileMode: 0o666}},
		{name: "container's copy", in: "ModifyDeviceFiles: 0\n", want: Params{DeviceFileMode: 0o666}},
		{name: "largest id", in: "DeviceFileUID: 4294967295\n", want: Params{ModifyDeviceFiles: true, DeviceFileUID: 1<<32 - 1, DeviceFileMode: 0o666}},
		{name: "long strings", in: "RegistryDwords: \"" + strings.Repeat("x", 1<<20) + "\"\nModifyDeviceFiles: 0\n", want: Params{DeviceFileMode: 0o666}},
		{name: "negative", in: "DeviceFileUID: -1\n", err: `line 1: DeviceFileUID is "-1", not a number up to 4294967295`},
		{name: "too large", in: "x: 1\nDeviceFileGID: 4294967296\n", err: `line 2: DeviceFileGID is "4294967296", not a number up to 4294967295`},
		{name: "setuid mode", in: "DeviceFileMode: 2541\n", err: `line 1: DeviceFileMode is "2541", not a number up to 511`},
		{name: "twice", in: "DeviceFileMode: 1\nDeviceFileMode: 2\n", err: `line 2: second DeviceFileMode`},
		{name: "no colon", in: "DeviceFileMode 1\n", err: `line 1: no colon in "DeviceFileMode 1"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseParams(strings.NewReader(tt.in))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func FuzzParseParams(f *testing.F) {
	f.Add(params580)
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseParams(strings.NewReader(in))
		if err != nil {
			assert.Equal(t, Params{}, got)
			return
		}
		modify := 0
		if got.ModifyDeviceFiles {
			modify = 1
		}
		again, err := parseParams(strings.NewReader(fmt.Sprintf("ModifyDeviceFiles: %d\nDeviceFileUID: %d\nDeviceFileGID: %d\nDeviceFileMode: %d\n",
			modify, got.DeviceFileUID, got.DeviceFileGID, got.DeviceFileMode)))
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}
