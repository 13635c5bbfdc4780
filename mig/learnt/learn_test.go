// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package learnt

import (
	"fmt"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
)

const (
	pdi  = 0x145c8e416b389d3e
	chip = 0x170
)

var die = mig.Die{PDI: pdi, Chip: chip}

// layout returns a GPU with the given instances. The marks of each generation differ.
func layout(generation int, instances ...[2]int) Seen {
	seen := Seen{UUID: gpuA, Address: "0000:07:00.0"}
	for _, i := range instances {
		seen.Instances = append(seen.Instances, mig.Instance{GI: i[0], CI: i[1]})
		seen.Marks = append(seen.Marks, mark(generation, i))
	}
	return seen
}

func mark(generation int, i [2]int) string {
	return fmt.Sprintf("%08x%04x%04x", generation, i[0], i[1])
}

// told returns what nvidia-smi -L and -q print about instances with the given UUIDs.
func told(instances [][2]int, uuids ...mig.UUID) smi.GPU {
	gpu := smi.GPU{UUID: gpuA, Listed: true, Queried: true}
	for n, i := range instances {
		gpu.Devices = append(gpu.Devices, smi.Device{Index: n, UUID: uuids[n]})
		gpu.IDs = append(gpu.IDs, smi.IDs{Index: n, GI: i[0], CI: i[1]})
	}
	return gpu
}

func TestLearn(t *testing.T) {
	three := [][2]int{{1, 0}, {1, 1}, {9, 0}}
	uuids := []mig.UUID{die.UUID(1, 0), die.UUID(1, 1), die.UUID(9, 4)}
	devices := func(generation int) []Device {
		return []Device{
			{uuids[0], 1, 0, mark(generation, three[0])}, {uuids[1], 1, 1, mark(generation, three[1])}, {uuids[2], 9, 0, mark(generation, three[2])},
		}
	}
	list := GPU{UUID: gpuA, Address: "0000:07:00.0", Devices: devices(1)}
	proved := list
	proved.Source, proved.PDI, proved.Chip = FromSMI, pdi, chip
	withPDI := func(gpu smi.GPU) smi.GPU {
		gpu.HasPDI, gpu.PDI = true, pdi
		return gpu
	}
	queryOnly := smi.GPU{UUID: gpuA, Queried: true, IDs: told(three, uuids...).IDs}
	listOnly := smi.GPU{UUID: gpuA, Listed: true, Devices: told(three, uuids...).Devices}
	singles := [][2]int{{1, 0}, {9, 0}}
	singleList := smi.GPU{UUID: gpuA, Listed: true, Devices: []smi.Device{{Index: 1, UUID: uuids[2]}, {Index: 0, UUID: uuids[0]}}}
	singleDevices := []Device{devices(1)[0], devices(1)[2]}
	former := func(g GPU, uuids ...mig.UUID) GPU {
		g.Former = uuids
		return g
	}
	const (
		noPDI   = "its PDI is not known (R575 and later print it): they come from the list only, so run 'nvsysfs learn' after each change of MIG devices"
		needQ   = "nvidia-smi -L alone does not tell which MIG device is which: nvidia-smi -q is needed too"
		changed = ": run this again when they are not being changed"
	)
	serial := func(seen Seen, candidates ...Candidate) Seen {
		seen.Candidates = candidates
		return seen
	}
	for _, tt := range []struct {
		name    string
		before  GPU // no GPU if it has no UUID
		seen    Seen
		said    smi.GPU
		want    GPU
		missing string
		err     string
	}{
		{name: "list of an old driver", seen: layout(1, three...), said: told(three, uuids...), want: list, missing: noPDI},
		{name: "list and PDI", seen: layout(1, three...), said: withPDI(told(three, uuids...)), want: proved},
		{name: "the same input again", before: proved, seen: layout(1, three...), said: withPDI(told(three, uuids...)), want: proved},
		{name: "a recorded PDI is kept", before: proved, seen: layout(1, three...), said: told(three, uuids...), want: proved},
		{
			name: "PDI only", seen: layout(1, three...), said: withPDI(queryOnly),
			want: GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: pdi},
		},
		{name: "PDI only keeps the recorded list", before: list, seen: layout(2, three...), said: withPDI(queryOnly), want: GPU{
			UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: pdi, Devices: devices(1),
		}},
		{
			name: "only -q of an old driver", seen: layout(1, three...), said: queryOnly, want: GPU{UUID: gpuA, Address: "0000:07:00.0"},
			missing: "the text has neither a PDI (R575 and later print it) nor UUIDs of MIG devices: nvidia-smi -L is needed too",
		},
		{name: "-L only", seen: layout(1, three...), said: listOnly, want: GPU{UUID: gpuA, Address: "0000:07:00.0"}, missing: needQ},
		{name: "-L only, with an ambiguous PDI", before: proved, seen: layout(2, three...), said: listOnly, want: proved, missing: needQ},
		{
			name: "-L only, with an unambiguous PDI", before: proved, seen: layout(1, singles...), said: singleList,
			want: former(GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: pdi, Chip: chip, Devices: singleDevices}, uuids[1]),
		},
		{
			name: "PCIe serial number", seen: serial(layout(1, singles...), Candidate{1, FromUUID}, Candidate{pdi, FromSerial}), said: singleList,
			want: GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromSerial, PDI: pdi, Chip: chip, Devices: singleDevices},
		},
		{
			name: "vGPU guest", seen: serial(layout(1, three...), Candidate{pdi, FromUUID}), said: told(three, uuids...),
			want: GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromUUID, PDI: pdi, Chip: chip, Devices: devices(1)},
		},
		{
			name: "vGPU guest that prints another PDI", seen: serial(layout(1, three...), Candidate{pdi, FromUUID}),
			said: func() smi.GPU { g := told(three, uuids...); g.HasPDI = true; return g }(),
			want: GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromUUID, PDI: pdi, Chip: chip, Devices: devices(1)},
		},
		{name: "candidates that explain nothing", seen: serial(layout(1, three...), Candidate{1, FromUUID}, Candidate{0, FromSerial}), said: told(three, uuids...), want: list, missing: noPDI},
		{
			name: "PDI that explains nothing", seen: layout(1, three...), said: func() smi.GPU { g := told(three, uuids...); g.HasPDI, g.PDI = true, 5; return g }(),
			want:    GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: 5, Devices: devices(1)},
			missing: "its PDI 0x0000000000000005 does not explain the UUIDs: they come from the list only, so run 'nvsysfs learn' after each change of MIG devices",
		},
		{
			name: "a proof that no longer holds", before: proved, seen: layout(1, singles...), said: told(singles, uuid(t, migA), uuid(t, migB)),
			want: former(GPU{UUID: gpuA, Address: "0000:07:00.0", Devices: []Device{
				{uuid(t, migA), 1, 0, mark(1, singles[0])}, {uuid(t, migB), 9, 0, mark(1, singles[1])},
			}}, sorted(uuids...)...), missing: noPDI,
		},
		{
			name: "all MIG devices destroyed", before: former(proved, uuid(t, migA)), seen: layout(2), said: told(nil),
			want: former(GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: pdi, Chip: chip}, sorted(append(uuids, uuid(t, migA))...)...),
		},
		{
			name: "UUIDs come back", before: former(GPU{UUID: gpuA, Source: FromSMI, PDI: pdi, Chip: chip}, sorted(uuids...)...), seen: layout(3, singles...),
			said: told(singles, uuids[0], uuids[2]),
			want: former(GPU{UUID: gpuA, Address: "0000:07:00.0", Source: FromSMI, PDI: pdi, Chip: chip, Devices: []Device{
				{uuids[0], 1, 0, mark(3, singles[0])}, {uuids[2], 9, 0, mark(3, singles[1])},
			}}, uuids[1]),
		},
		{
			name: "driver branch 450", before: proved, seen: layout(1, singles...), said: smi.GPU{UUID: gpuA, Listed: true, Queried: true, Devices: []smi.Device{
				{Index: 0, Name: mig.Name{GPU: gpuA, GI: 1}}, {Index: 1, Name: mig.Name{GPU: gpuA, GI: 9}},
			}}, want: proved,
		},
		{name: "lines of a later version are kept", before: GPU{UUID: gpuA, Unknown: []string{"x y"}}, seen: layout(1), said: told(nil), want: GPU{UUID: gpuA, Address: "0000:07:00.0", Unknown: []string{"x y"}}},

		{
			name: "-L only, with two UUIDs of one GPU instance", before: proved, seen: layout(1, singles...),
			said: smi.GPU{UUID: gpuA, Listed: true, Devices: []smi.Device{{Index: 0, UUID: uuids[0]}, {Index: 1, UUID: uuids[1]}}},
			err:  "two UUIDs of nvidia-smi -L are of one GPU instance",
		},
		{name: "fewer than in /proc", seen: layout(1, three...), said: told(singles, uuids[0], uuids[2]), err: "nvidia-smi -L lists 2 MIG devices, /proc/driver/nvidia/capabilities has 3" + changed},
		{name: "none in /proc", seen: layout(1), said: told(singles, uuids[0], uuids[2]), err: "nvidia-smi -L lists 2 MIG devices, /proc/driver/nvidia/capabilities has 0" + changed},
		{
			name: "different instances in /proc", seen: layout(1, [2]int{1, 0}, [2]int{10, 0}), said: told(singles, uuids[0], uuids[2]),
			err: "nvidia-smi has a MIG device with GPU instance 9 and compute instance 0, /proc/driver/nvidia/capabilities has none" + changed,
		},
		{
			name: "-q has another number", seen: layout(1, singles...), said: func() smi.GPU { g := told(singles, uuids[0], uuids[2]); g.IDs = g.IDs[:1]; return g }(),
			err: "nvidia-smi -L lists 2 MIG devices, one with the index 0, and nvidia-smi -q has 1",
		},
		{
			name: "-q has other indices", seen: layout(1, singles...), said: func() smi.GPU { g := told(singles, uuids[0], uuids[2]); g.IDs[1].Index = 5; return g }(),
			err: "nvidia-smi -L lists 2 MIG devices, one with the index 1, and nvidia-smi -q has 2",
		},
		{
			name: "-L and -q are in different orders", before: proved, seen: layout(1, singles...), said: told(singles, uuids[2], uuids[0]),
			err: "by the PDI " + uuids[2].String() + " is in GPU instance 9, by the text in 1" + changed,
		},
		{
			name: "different orders without an earlier proof", seen: layout(1, singles...), said: withPDI(told(singles, uuids[2], uuids[0])),
			err: "by the PDI " + uuids[2].String() + " is in GPU instance 9, by the text in 1" + changed,
		},
		{
			name: "an outdated UUID", before: proved, seen: layout(1, singles...), said: told(singles, uuids[0], die.UUID(10, 4)),
			err: "by the PDI " + die.UUID(10, 4).String() + " is in no existing GPU instance, by the text in 9" + changed,
		},
		{
			name: "a UUID of another GPU instance", before: proved, seen: layout(1, singles...), said: told(singles, uuids[0], die.UUID(1, 4)),
			err: "by the PDI " + die.UUID(1, 4).String() + " is in GPU instance 1, by the text in 9" + changed,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			other := GPU{UUID: gpuB, Address: "0000:47:00.0"}
			before := Store{GPUs: []GPU{other}}
			if tt.before.UUID != "" {
				before = Store{GPUs: []GPU{tt.before, other}}
			}
			text := before.Encode()
			got, missing, err := before.Learn(tt.seen, tt.said)
			assert.Equal(t, string(text), string(before.Encode()), "the old store stays as it is")
			if tt.err != "" {
				require.EqualError(t, err, gpuA+": "+tt.err)
				assert.Equal(t, Store{}, got)
				assert.Empty(t, missing)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.missing, missing)
			assert.Equal(t, Store{GPUs: []GPU{tt.want, other}}, got)

			again, _, err := got.Learn(tt.seen, tt.said)
			require.NoError(t, err)
			assert.Equal(t, got, again, "a second time changes nothing")
			parsed, err := Parse(got.Encode())
			require.NoError(t, err)
			assert.Equal(t, got, parsed)
		})
	}
}

func sorted(uuids ...mig.UUID) []mig.UUID {
	gpu := GPU{}
	for _, u := range uuids {
		gpu.Devices = append(gpu.Devices, Device{UUID: u})
	}
	gpu.replace(nil)
	return gpu.Former
}
