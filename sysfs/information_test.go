// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const h100 = "Model: \t\t NVIDIA H100 80GB HBM3\n" +
	"IRQ:   \t\t 10\n" +
	"GPU UUID: \t GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b\n" +
	"Video BIOS: \t 96.00.99.00.01\n" +
	"Bus Type: \t PCIe\n" +
	"DMA Size: \t 52 bits\n" +
	"DMA Mask: \t 0xfffffffffffff\n" +
	"Bus Location: \t 0000:62:00.0\n" +
	"Device Minor: \t 5\n" +
	"GPU Firmware: \t 535.129.03\n" +
	"GPU Excluded:\t No\n"

func TestParseInformation(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     GPU
		err      string
	}{
		{
			name: "H100",
			in:   h100,
			want: GPU{
				Model: "NVIDIA H100 80GB HBM3", UUID: "GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b",
				VideoBIOS: "96.00.99.00.01", BusType: "PCIe", Firmware: "535.129.03", Minor: 5,
			},
		},
		{
			name: "blanks for tabs, PCI, old key, no firmware",
			in: "Model:           Tesla K80\nIRQ:             33\nGPU UUID:        GPU-c6398fd0-9366-8e15-5d6a-369da852f85b\n" +
				"Video BIOS:      80.21.25.00.02\nBus Type:        PCI\nDevice Minor:    0\nBlacklisted:     No\n",
			want: GPU{Model: "Tesla K80", UUID: "GPU-c6398fd0-9366-8e15-5d6a-369da852f85b", VideoBIOS: "80.21.25.00.02", BusType: "PCI"},
		},
		{
			name: "never used, old driver",
			in:   "Model: \t\t Tesla T4\nGPU UUID: \t GPU-????????-????-????-????-????????????\nVideo BIOS: \t ??.??.??.??.??\nDevice Minor: \t 3\nGPU Firmware: \t N/A\n",
			want: GPU{Model: "Tesla T4", Minor: 3},
		},
		{name: "only the minor", in: "Device Minor: 247", want: GPU{Minor: 247}},
		{name: "excluded", in: "Device Minor: 1\nGPU Excluded:\t Yes\n", want: GPU{Minor: 1, Excluded: true}},
		{name: "debug lines, colon in the model", in: "Model: a:b\nBAR0: x:y\nDevice Minor: 1\n\n", want: GPU{Model: "a:b", Minor: 1}},
		{name: "upper-case UUID", in: "GPU UUID: GPU-A126170B-5A87-11EF-BDDA-59B6DA7F9CD4\nDevice Minor: 1", want: GPU{UUID: "GPU-A126170B-5A87-11EF-BDDA-59B6DA7F9CD4", Minor: 1}},
		{name: "empty", err: "no line Device Minor"},
		{name: "no colon", in: "Device Minor: 1\njunk\n", err: `line 2: no colon in "junk"`},
		{name: "no minor", in: "Model: x\n", err: "no line Device Minor"},
		{name: "minor of a control node", in: "Device Minor: 255\n", err: `line 1: Device Minor: "255" is not a number up to 247`},
		{name: "minor with junk", in: "Device Minor: 1 2\n", err: `line 1: Device Minor: "1 2" is not a number up to 247`},
		{name: "negative minor", in: "Device Minor: -1\n", err: `line 1: Device Minor: "-1" is not a number up to 247`},
		{name: "two minors", in: "Device Minor: 1\nDevice Minor: 2\n", err: `line 2: Device Minor: given twice`},
		{name: "both keys of excluded", in: "GPU Excluded: No\nBlacklisted: Yes\n", err: `line 2: GPU Excluded: given twice`},
		{name: "excluded unclear", in: "GPU Excluded: yes\n", err: `line 1: GPU Excluded: "yes" is neither Yes nor No`},
		{name: "short UUID", in: "GPU UUID: GPU-9221d5d1\n", err: `line 1: GPU UUID: "GPU-9221d5d1" is not a UUID as in GPU-3291dfa4-fcc4-0110-615b-c894a0d7c689`},
		{name: "UUID with a path", in: "GPU UUID: ../../etc\n", err: `line 1: GPU UUID: "../../etc" is not a UUID as in GPU-3291dfa4-fcc4-0110-615b-c894a0d7c689`},
		{name: "one question mark", in: "GPU UUID: GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3?\n", err: `line 1: GPU UUID: "GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3?" is not a UUID as in GPU-3291dfa4-fcc4-0110-615b-c894a0d7c689`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parseInformation(strings.NewReader(tt.in))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func FuzzParseInformation(f *testing.F) {
	f.Add(h100)
	f.Add("GPU UUID: GPU-????????-????-????-????-????????????\nDevice Minor: 3\nBlacklisted: Yes\n")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := parseInformation(strings.NewReader(in))
		if err != nil {
			assert.Equal(t, GPU{}, got)
			return
		}
		assert.GreaterOrEqual(t, got.Minor, 0)
		assert.LessOrEqual(t, got.Minor, maxGPUMinor)
		if got.UUID != "" {
			assert.Regexp(t, `^(?i)GPU-[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$`, got.UUID)
		}
		assert.NotContains(t, got.Model, "\n")
	})
}
