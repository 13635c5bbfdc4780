// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestParseUUID(t *testing.T) {
	const text = "MIG-feb88891-0321-5fef-9c87-d4af3b54259e"
	want := UUID{0xfe, 0xb8, 0x88, 0x91, 0x03, 0x21, 0x5f, 0xef, 0x9c, 0x87, 0xd4, 0xaf, 0x3b, 0x54, 0x25, 0x9e}
	for _, in := range []string{text, strings.ToUpper(text), "mig-FEB88891-0321-5FEF-9c87-d4af3b54259e"} {
		got, ok := ParseUUID(in)
		assert.True(t, ok, in)
		assert.Equal(t, want, got)
		assert.Equal(t, text, got.String())
	}
	for _, in := range []string{
		"", "MIG-", text[:39], text + "0", text[4:], "GPU-" + text[4:], "MIG-GPU-" + text[8:], "MIG-feb888910-321-5fef-9c87-d4af3b54259e",
		"MIG-feb88891-0321-5fef-9c87-d4af3b54259g", "MIG-feb88891-0321-5fef-9c87-d4af3b5425\x00e", "MIG-ｆeb88891-0321-5fef-9c87-d4af3b5425",
	} {
		got, ok := ParseUUID(in)
		assert.False(t, ok, in)
		assert.Equal(t, UUID{}, got)
	}
}

// TestDieUUID compares UUIDs with those that other programs compute. For the first row:
//
//	printf '\xc8\x16\xc9\xa3\x52\x24\x56\xbf\x9d\x9a\xac\x7e\xa7\x03\xfb\x5bNVIDIA GPU\x02\x70\x01\x08\x3e\x9d\x38\x6b\x41\x8e\x5c\x14\x0bSMC\x07\0\0\0\0\0\0\0' | sha1sum
//	3d5a796ed0d5bb4b2ad05e766de68523617a62bc
//
// The UUID is the first 16 bytes, with the digit b replaced by 5 (the version), and the first digit
// of the next group, 2, by a (the variant). The other rows are from Python's hashlib and
// uuid.UUID(bytes=…, version=5). No UUID of a real MIG device with a known PDI has been published.
func TestDieUUID(t *testing.T) {
	for _, tt := range []struct {
		die      Die
		gi, pipe int
		want     string
	}{
		{Die{0x145c8e416b389d3e, 0x170}, 7, 0, "MIG-3d5a796e-d0d5-5b4b-aad0-5e766de68523"},
		{Die{0x145c8e416b389d3e, 0x170}, 7, 1, "MIG-5ebd3508-c679-5d26-a394-375b9c1b88ad"},
		{Die{0xf98aadff6aaf1bb8, 0x180}, 1, 2, "MIG-0abfe481-2bc9-5f8f-8752-e37a6a02504a"},
		{Die{1, 0x1b2}, 14, 7, "MIG-f225c158-6ae5-5626-814a-22d6a5c2a1bb"},
		{Die{1<<64 - 1, 0x3ff}, 0, 0, "MIG-c4eb6b2e-d088-5174-8254-79462c8af7fa"},
	} {
		assert.Equal(t, tt.want, tt.die.UUID(tt.gi, tt.pipe).String())
	}
}

func TestMade(t *testing.T) {
	const pdi = 0x145c8e416b389d3e
	for _, chip := range []uint16{0x170, 0x180, 0x1a0, 0x1a2, 0x1a3, 0x1a4, 0x1ab, 0x1b2, 0x1b3} {
		die := Die{pdi, chip}
		for gi := range maxGPUInstances {
			for pipe := range Pipes {
				uuid := die.UUID(gi, pipe)
				assert.True(t, die.Made(uuid, gi))
				assert.True(t, Die{PDI: pdi}.Made(uuid, gi), "the chip is not known")
				assert.False(t, die.Made(uuid, (gi+1)%maxGPUInstances))
				assert.False(t, Die{pdi + 1, chip}.Made(uuid, gi))
			}
		}
		assert.False(t, die.Made(die.UUID(1, Pipes), 1), "an engine that no chip has")
	}
	assert.False(t, Die{PDI: pdi}.Made(Die{pdi, 0x1c0}.UUID(1, 0), 1), "an unknown future chip")
}

func TestFindChip(t *testing.T) {
	const pdi = 0xf98aadff6aaf1bb8
	for _, chip := range []uint16{0x170, 0x1b3, 0x1c0, 1, maxChip - 1} {
		got, ok := FindChip(pdi, Die{pdi, chip}.UUID(5, 7), 5)
		require.True(t, ok)
		assert.Equal(t, chip, got)
		_, ok = FindChip(pdi, Die{pdi, chip}.UUID(5, 7), 6)
		assert.False(t, ok)
		_, ok = FindChip(pdi^1<<63, Die{pdi, chip}.UUID(5, 7), 5)
		assert.False(t, ok)
	}
}

// FuzzUUID checks that String is the inverse of ParseUUID.
func FuzzUUID(f *testing.F) {
	f.Add("MIG-feb88891-0321-5fef-9c87-d4af3b54259e")
	f.Add("mig-FEB88891-0321-5fef-9c87-d4af3b54259e")
	f.Add("MIG-GPU-feb88891-0321-5fef-9c87-d4af3b54259e/1/0")
	f.Fuzz(func(t *testing.T, text string) {
		uuid, ok := ParseUUID(text)
		if !ok {
			assert.Equal(t, UUID{}, uuid)
			return
		}
		assert.Equal(t, strings.ToLower(text), strings.ToLower(uuid.String()))
	})
}

// BenchmarkMade measures the worst case of a GPU: none of its seven GPU instances has the UUID. It
// must not allocate.
func BenchmarkMade(b *testing.B) {
	die := Die{0x145c8e416b389d3e, 0x170}
	uuid := die.UUID(14, 0)
	b.ReportAllocs()
	for b.Loop() {
		for gi := 7; gi < 14; gi++ {
			if die.Made(uuid, gi) {
				b.Fatal("found")
			}
		}
	}
}

// BenchmarkMadeAnyChip measures the same with an unknown chip.
func BenchmarkMadeAnyChip(b *testing.B) {
	die := Die{PDI: 0x145c8e416b389d3e}
	uuid := Die{die.PDI, 0x170}.UUID(14, 0)
	b.ReportAllocs()
	for b.Loop() {
		for gi := 7; gi < 14; gi++ {
			if die.Made(uuid, gi) {
				b.Fatal("found")
			}
		}
	}
}
