// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const gcc = "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)\n"

func TestParseBanner(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     Driver
		err      string
	}{
		{
			name: "proprietary",
			in:   "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n" + gcc,
			want: Driver{Version: "535.104.05", Arch: "x86_64"},
		},
		{
			name: "open",
			in:   "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16-I3-B03-4-3)  Tue Mar  5 22:16:25 UTC 2024\n" + gcc,
			want: Driver{Version: "550.54.15", Open: true, Arch: "x86_64"},
		},
		{
			name: "two numbers, aarch64",
			in:   "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  595.84  Release Build  (notroot@)  \n" + gcc,
			want: Driver{Version: "595.84", Open: true, Arch: "aarch64"},
		},
		{
			name: "very old",
			in:   "NVRM version: NVIDIA Linux x86 Kernel Module  96.43.09  Fri Oct 31\n",
			want: Driver{Version: "96.43.09", Arch: "x86"},
		},
		{name: "only in the second line", in: "NVRM version: NVIDIA UNIX x86_64 Kernel Module  \n" + gcc, err: `line 1: no version after "Kernel Module" in "NVRM version: NVIDIA UNIX x86_64 Kernel Module  "`},
		{name: "four numbers", in: "NVRM version: X Kernel Module  1.2.3.4\n", err: `line 1: no version after "Kernel Module" in "NVRM version: X Kernel Module  1.2.3.4"`},
		{name: "path", in: "NVRM version: X Kernel Module  ../../1.2\n", err: `line 1: no version after "Kernel Module" in "NVRM version: X Kernel Module  ../../1.2"`},
		{name: "empty", err: `line 1: "" does not begin with "NVRM version:"`},
		{name: "compiler first", in: gcc, err: `line 1: "GCC version:  gcc version 12.2.0 (Debian 12.2.0-14)" does not begin with "NVRM version:"`},
		{name: "no module", in: "NVRM version: 535.104.05\n", err: `line 1: no "Kernel Module" in "NVRM version: 535.104.05"`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseBanner(tt.in)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestReadDriver(t *testing.T) {
	const banner = "NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat\n"
	for _, tt := range []struct {
		name  string
		files map[string]string
		want  *Driver
		err   string
	}{
		{name: "none"},
		{name: "proc wins", files: map[string]string{procVersion: banner, sysVersion: "1.2\n"}, want: &Driver{Version: "535.104.05", Arch: "x86_64"}},
		{name: "sys alone", files: map[string]string{sysVersion: "595.84\n"}, want: &Driver{Version: "595.84"}},
		{name: "sys malformed", files: map[string]string{sysVersion: "x\n"}, err: `/sys/module/nvidia/version: "x" is not a driver version`},
		{name: "proc malformed", files: map[string]string{procVersion: "", sysVersion: "1.2\n"}, err: `/proc/driver/nvidia/version: line 1: "" does not begin with "NVRM version:"`},
		{name: "proc is a directory", files: map[string]string{procVersion: "/"}, err: `read /proc/driver/nvidia/version: is a directory`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			root := tree(t, tt.files)
			got, err := readDriver(root)
			if tt.err != "" {
				require.Error(t, err)
				assert.Equal(t, tt.err, strings.ReplaceAll(err.Error(), string(root), ""))
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func FuzzParseBanner(f *testing.F) {
	f.Add("NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023\n" + gcc)
	f.Add("NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build\n")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseBanner(in)
		if err != nil {
			assert.Equal(t, Driver{}, got)
			return
		}
		// The version becomes part of file names.
		assert.Regexp(t, `^[0-9]+\.[0-9]+(\.[0-9]+)?$`, got.Version)
		assert.Contains(t, strings.SplitN(in, "\n", 2)[0], got.Version)
	})
}
