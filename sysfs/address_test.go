// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseAddress(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want Address
		err  string
	}{
		{in: "0000:01:00.0", want: Address{0, 1, 0, 0}},
		{in: "00000000:01:00.0", want: Address{0, 1, 0, 0}},
		{in: "0:1:0.0", want: Address{0, 1, 0, 0}},
		{in: "10000:01:00.0", want: Address{0x10000, 1, 0, 0}},
		{in: "FFFFFFFF:fF:1f.7", want: Address{0xffffffff, 0xff, 0x1f, 7}},
		{in: "0000000000000000000000001:0001:0000.0", want: Address{1, 1, 0, 0}},
		{in: "0000:01:00", err: `"0000:01:00" is not a PCI address as in 0000:01:00.0`},
		{in: "01:00.0", err: `"01:00.0" is not a PCI address as in 0000:01:00.0`},
		{in: "", err: `"" is not a PCI address as in 0000:01:00.0`},
		{in: ":::.", err: `":::." is not a PCI address as in 0000:01:00.0`},
		{in: ":01:00.0", err: `":01:00.0" is not a PCI address as in 0000:01:00.0`},
		{in: "0000:01:00.00", err: `"0000:01:00.00" is not a PCI address as in 0000:01:00.0`},
		{in: "0000:01:00.0 ", err: `"0000:01:00.0 " is not a PCI address as in 0000:01:00.0`},
		{in: "+000:01:00.0", err: `"+000:01:00.0" is not a PCI address as in 0000:01:00.0`},
		{in: "0x0:01:00.0", err: `"0x0:01:00.0" is not a PCI address as in 0000:01:00.0`},
		{in: "0_0:01:00.0", err: `"0_0:01:00.0" is not a PCI address as in 0000:01:00.0`},
		{in: "0000:01:00.0:0", err: `"0000:01:00.0:0" is not a PCI address as in 0000:01:00.0`},
		{in: "0000:100:00.0", err: `"0000:100:00.0" is not a PCI address: "100" is out of range`},
		{in: "100000000:01:00.0", err: `"100000000:01:00.0" is not a PCI address: "100000000" is out of range`},
		{in: "0000:01:20.0", err: `"0000:01:20.0" is not a PCI address: "20" is out of range`},
		{in: "0000:01:00.8", err: `"0000:01:00.8" is not a PCI address: "8" is out of range`},
	} {
		t.Run(tt.in, func(t *testing.T) {
			got, err := ParseAddress(tt.in)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
			} else {
				require.NoError(t, err)
			}
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestAddressOrder(t *testing.T) {
	ascending := []Address{{0, 1, 0, 0}, {0, 1, 0, 1}, {0, 1, 2, 0}, {0, 9, 0, 0}, {0, 0x10, 0, 0}, {9, 0, 0, 0}, {0x10, 0, 0, 0}, {0x10000, 0, 0, 0}}
	for i, a := range ascending {
		for j, b := range ascending {
			want := 0
			if i < j {
				want = -1
			} else if i > j {
				want = 1
			}
			assert.Equal(t, want, a.Compare(b), "%v %v", a, b)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	f.Add("0000:01:00.0")
	f.Add("00010000:Af:1F.7")
	f.Fuzz(func(t *testing.T, in string) {
		got, err := ParseAddress(in)
		if err != nil {
			assert.Equal(t, Address{}, got)
			return
		}
		again, err := ParseAddress(got.String())
		require.NoError(t, err)
		assert.Equal(t, got, again)
		// Without zeros both spellings are the same text.
		bare := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "0", "") }
		assert.Equal(t, bare(in), bare(got.String()))
	})
}
