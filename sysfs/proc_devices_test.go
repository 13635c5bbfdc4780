// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// known returns majors without the underlying list.
func (m Majors) known() Majors {
	m.all = nil
	return m
}

func TestParseMajors(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     Majors
		err      string
	}{
		{name: "empty", want: noMajors},
		{name: "none", in: "Character devices:\n  1 mem\n\nBlock devices:\n  8 sd\n", want: noMajors},
		{
			name: "535 server",
			in:   "Character devices:\n  1 mem\n195 nvidia-frontend\n234 nvidia-nvswitch\n235 nvidia-nvlink\n236 nvidia-caps\n510 nvidia-uvm\n\nBlock devices:\n",
			want: Majors{Nvidia: 195, Ctl: 195, Modeset: -1, UVM: 510, Caps: 236, IMEXChannels: -1, NVLink: 235, NVSwitch: 234},
		},
		{
			name: "desktop",
			in:   "Character devices:\n195 nvidia\n195 nvidia-modeset\n195 nvidiactl\n",
			want: Majors{Nvidia: 195, Ctl: 195, Modeset: 195, UVM: -1, Caps: -1, IMEXChannels: -1, NVLink: -1, NVSwitch: -1},
		},
		{
			name: "names are whole",
			in:   "Character devices:\n195 not-nvidia-frontend\n196 nvidia-frontends\n234 nvidia-caps-imex-channels\n511 nvidia-caps\n508 nvidia-uvm-tools\n",
			want: Majors{Nvidia: -1, Ctl: -1, Modeset: -1, UVM: -1, Caps: 511, IMEXChannels: 234, NVLink: -1, NVSwitch: -1},
		},
		{
			name: "nvidia before nvidia-frontend",
			in:   "Character devices:\n195 nvidia-frontend\n196 nvidia\n",
			want: Majors{Nvidia: 196, Ctl: 196, Modeset: -1, UVM: -1, Caps: -1, IMEXChannels: -1, NVLink: -1, NVSwitch: -1},
		},
		{
			name: "block devices do not count",
			in:   "Character devices:\n1 mem\nBlock devices:\n195 nvidia\n",
			want: noMajors,
		},
		{name: "block first", in: "Block devices:\n", want: noMajors, err: `line 1: "Block devices:" where the character devices should begin`},
		{name: "no name", in: "Character devices:\n195\n", want: noMajors, err: `line 2: "195" is not a major number and a name`},
		{name: "no number", in: "Character devices:\nnvidia\n", want: noMajors, err: `line 2: "nvidia" is not a major number and a name`},
		{name: "too large", in: "Character devices:\n4096 nvidia\n", want: noMajors, err: `line 2: "4096 nvidia" is not a major number and a name`},
		{name: "negative", in: "Character devices:\n-1 nvidia\n", want: noMajors, err: `line 2: "-1 nvidia" is not a major number and a name`},
		{name: "binary", in: "\x00\x01", want: noMajors, err: `line 1: "\x00\x01" where the character devices should begin`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseMajors(strings.NewReader(tt.in))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got.known())
		})
	}
}

func TestMajorsLookup(t *testing.T) {
	majors, err := parseMajors(strings.NewReader("Character devices:\n  1 mem\n238 gdrdrv\n237 nvidia-fs\n 10 a name\n237 again\n"))
	require.NoError(t, err)
	for name, want := range map[string]int{"mem": 1, "gdrdrv": 238, "nvidia-fs": 237, "a name": 10, "again": 237, "gdr": -1, "": -1} {
		got, ok := majors.Lookup(name)
		assert.Equal(t, want, got, name)
		assert.Equal(t, want >= 0, ok, name)
	}
}

// For drivers with one line for major 195 only /sys shows whether nvidia-modeset is loaded.
func TestModesetOfOldDrivers(t *testing.T) {
	const old = "Character devices:\n195 nvidia-frontend\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  int
	}{
		{"loaded", map[string]string{procDevices: old, "sys/module/nvidia": "/", "sys/module/nvidia_modeset": "/"}, 195},
		{"not loaded", map[string]string{procDevices: old, "sys/module/nvidia": "/"}, -1},
		{"no /sys", map[string]string{procDevices: old}, 195},
		{"new driver", map[string]string{procDevices: "Character devices:\n195 nvidia\n"}, -1},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := readMajors(tree(t, tt.files))
			require.NoError(t, err)
			assert.Equal(t, tt.want, got.Modeset)
		})
	}
}

func FuzzParseMajors(f *testing.F) {
	f.Add("Character devices:\n  1 mem\n195 nvidia\n195 nvidiactl\n\nBlock devices:\n")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseMajors(strings.NewReader(in))
		if err != nil {
			assert.Equal(t, noMajors, got)
			return
		}
		var text strings.Builder
		text.WriteString("Character devices:\n")
		for _, line := range got.all {
			text.WriteString(strconv.Itoa(line.number) + " " + line.name + "\n")
		}
		again, err := parseMajors(strings.NewReader(text.String()))
		require.NoError(t, err)
		assert.Equal(t, got, again)
	})
}
