// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package smi

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

const (
	gpuA = "GPU-41255406-c9af-f94b-4ebf-9d57ad1853da"
	gpuB = "GPU-20bed2f5-819b-69ad-8d42-d3e1446080c1"
	migA = "MIG-a65afc88-50b5-5ccf-b0a8-f93b3247ae9e"
	migB = "MIG-90443af0-2fe6-57fb-86fe-54186d5a6581"
)

func uuid(t *testing.T, s string) mig.UUID {
	t.Helper()
	u, ok := mig.ParseUUID(s)
	require.True(t, ok)
	return u
}

const list = "GPU 0: NVIDIA A100 80GB PCIe (UUID: " + gpuA + ")\n" +
	"  MIG 2g.20gb     Device  0: (UUID: " + migA + ")\n" +
	"  MIG 1c.3g.40gb  Device  1: (UUID: " + migB + ")\n" +
	"GPU 1: NVIDIA A100 80GB PCIe (UUID: " + gpuB + ")\n"

// query returns output of nvidia-smi -q for GPUs from described. It has other keys in between,
// including misleading ones: other indices, and the instance IDs of processes.
func query(gpus ...string) string {
	return "\n" + logHeader + "\n\nTimestamp                                              : Thu Sep 25 10:00:00 2025\n" +
		"Driver Version                                         : 610.57.04 [Deprecated; will be removed in CUDA 14.0. Use KMD Version instead]\n" +
		"CUDA Version                                           : 13.3 [Deprecated; will be removed in CUDA 14.0. Use CUDA UMD Version instead]\n" +
		"KMD Version                                            : 610.57.04\nCUDA UMD Version                                       : 13.3\n\n" +
		fmt.Sprintf("Attached GPUs                                          : %d\n", len(gpus)) + strings.Join(gpus, "")
}

func described(bus, uuid, pdi string, devices ...[3]string) string {
	var b strings.Builder
	b.WriteString("GPU 00000000:" + bus + ":00.0\n    Product Name                                       : NVIDIA A100 80GB PCIe\n")
	b.WriteString("    MIG Mode\n        Current                                        : Enabled\n        Pending                                        : Enabled\n")
	for _, d := range devices {
		b.WriteString("    MIG Device\n        Index                                          : " + d[0] + "\n" +
			"        GPU Instance ID                                : " + d[1] + "\n        Compute Instance ID                            : " + d[2] + "\n" +
			"        Device Attributes\n            Shared\n                Multiprocessor count                   : 28\n                Index                                  : 9\n" +
			"        ECC Errors\n            Volatile\n                SRAM Uncorrectable                     : 0\n        FB Memory Usage\n            Total                                      : 19968 MiB\n")
	}
	b.WriteString("    Serial Number                                      : 1321121040000\n    GPU UUID                                           : " + uuid + "\n")
	if pdi != "" {
		b.WriteString("    GPU PDI                                            : " + pdi + "\n")
	}
	b.WriteString("    Minor Number                                       : 0\n    Processes\n        GPU instance ID                                : 1\n" +
		"        Compute instance ID                            : 0\n        Process ID                                     : 4338\n            Name                                       : C:\\x: y\n")
	return b.String()
}

func TestParse(t *testing.T) {
	listed := GPU{UUID: gpuA, Listed: true, Devices: []Device{{Index: 0, UUID: uuid(t, migA)}, {Index: 1, UUID: uuid(t, migB)}}}
	queried := GPU{UUID: gpuA, Address: "00000000:31:00.0", PDI: 0x145c8e416b389d3e, HasPDI: true, Queried: true, IDs: []IDs{{0, 3, 0}, {1, 5, 1}}}
	both := queried
	both.Listed, both.Devices = true, listed.Devices
	q := query(described("31", gpuA, "0x145c8e416b389d3e", [3]string{"0", "3", "0"}, [3]string{"1", "5", "1"}), described("B1", gpuB, ""))
	other := GPU{UUID: gpuB, Address: "00000000:B1:00.0", Queried: true}
	otherBoth := other
	otherBoth.Listed = true
	const mode = "Driver Version : 610.57.04\n"
	for _, tt := range []struct {
		name, in string
		want     Report
		err      string
	}{
		{name: "-L", in: list, want: Report{GPUs: []GPU{listed, {UUID: gpuB, Listed: true}}}},
		{name: "-L of Windows", in: strings.ReplaceAll(list, "\n", "\r\n"), want: Report{GPUs: []GPU{listed, {UUID: gpuB, Listed: true}}}},
		{name: "-q", in: q, want: Report{Driver: "610.57.04", GPUs: []GPU{queried, other}}},
		{
			name: "-q before R610",
			in: strings.NewReplacer(" [Deprecated; will be removed in CUDA 14.0. Use KMD Version instead]", "", " [Deprecated; will be removed in CUDA 14.0. Use CUDA UMD Version instead]", "",
				"KMD Version                                            : 610.57.04\nCUDA UMD Version                                       : 13.3\n", "", "610.57.04", "595.84").Replace(q),
			want: Report{Driver: "595.84", GPUs: []GPU{queried, other}},
		},
		{
			name: "the KMD version takes precedence", in: strings.ReplaceAll(q, "Driver Version                                         : 610.57.04 ", "Driver Version : 1 "),
			want: Report{Driver: "610.57.04", GPUs: []GPU{queried, other}},
		},
		{name: "-L, -q", in: list + q, want: Report{Driver: "610.57.04", GPUs: []GPU{both, otherBoth}}},
		{name: "-q, -L", in: q + list, want: Report{Driver: "610.57.04", GPUs: []GPU{both, otherBoth}}},
		{name: "plural, with value", in: strings.ReplaceAll(q, "    MIG Device\n", "    MIG Devices : \n"), want: Report{Driver: "610.57.04", GPUs: []GPU{queried, other}}},
		{name: "PDI not available", in: query(described("B1", gpuB, "N/A")), want: Report{Driver: "610.57.04", GPUs: []GPU{other}}},
		{
			name: "R450", in: "GPU 0: A100-PCIE-40GB (UUID: " + gpuA + ")\n  MIG 4g.20gb Device 0: (UUID: MIG-" + gpuA + "/2/0)\n",
			want: Report{GPUs: []GPU{{UUID: gpuA, Listed: true, Devices: []Device{{Index: 0, Name: mig.Name{GPU: gpuA, GI: 2}}}}}},
		},
		{
			name: "upper case", in: strings.ToUpper("GPU 0: x (")[:10] + "(UUID: " + strings.ToUpper(gpuA) + ")\n",
			want: Report{GPUs: []GPU{{UUID: gpuA, Listed: true}}},
		},
		{
			name: "failed GPUs are reported", in: list + "WARNING: infoROM is corrupted at gpu 0000:31:00.0\nUnable to determine the device handle for gpu 0000:65:00.0: GPU is lost.\n",
			want: Report{GPUs: []GPU{listed, {UUID: gpuB, Listed: true}}, Lines: []Line{
				{5, "WARNING: infoROM is corrupted at gpu 0000:31:00.0"}, {6, "Unable to determine the device handle for gpu 0000:65:00.0: GPU is lost."},
			}},
		},
		{
			name: "GPU without UUID", in: query("GPU 00000000:65:00.0\n    Product Name : x\n", described("B1", gpuB, "")),
			want: Report{Driver: "610.57.04", GPUs: []GPU{other}, Lines: []Line{{13, `GPU "00000000:65:00.0" has no UUID`}}},
		},

		{name: "empty", in: "", err: "neither the output of nvidia-smi -L nor that of nvidia-smi -q: there is no GPU in it"},
		{name: "blank", in: "\n\n \n", err: "neither the output of nvidia-smi -L nor that of nvidia-smi -q: there is no GPU in it"},
		{name: "no GPU", in: query(), err: "neither the output of nvidia-smi -L nor that of nvidia-smi -q: there is no GPU in it"},
		{name: "cut off in -L", in: list[:100], err: `line 2: cut off: "  MIG 2g.20gb     Devi"`},
		{name: "cut off in -q", in: q[:len(q)-1], err: fmt.Sprintf("line %d: cut off: ", strings.Count(q, "\n"))},
		{name: "cut off between GPUs", in: q[:strings.Index(q, "GPU 00000000:B1")], err: "cut off: nvidia-smi -q announces 2 GPUs and describes 1"},
		{name: "cut off before the count", in: logHeader + "\n" + mode, err: "cut off: nvidia-smi -q says nowhere how many GPUs are attached"},
		{name: "cut off in a device", in: q[:strings.Index(q, "        Compute Instance")], err: "the MIG device before it, with the index 0, has no GPU Instance ID or no Compute Instance ID, or is one of too many"},
		{name: "driver not running", in: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.\n", err: `line 1: "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver." is not what nvidia-smi -L prints`},
		{name: "program", in: "\x7fELF\x02\x01\n", err: `line 1: "\x7fELF\x02\x01" is not what nvidia-smi -L prints`},
		{name: "MIG device first", in: "  MIG 2g.20gb     Device  0: (UUID: " + migA + ")\n", err: `line 1: "  MIG 2g.20gb     Device  0: (UUID: ` + migA + `)" comes before the first GPU, or is one of too many`},
		{name: "GPU twice", in: list + list, err: "line 5: " + gpuA + " is listed twice, or there are too many GPUs"},
		{name: "GPU twice in -q", in: query(described("31", gpuA, ""), described("B1", gpuA, "")), err: gpuA + " is described twice, or there are too many GPUs"},
		{name: "UUID twice", in: strings.ReplaceAll(list, migB, migA), err: `line 3: "  MIG 1c.3g.40gb  Device  1: (UUID: ` + migA + `)": its UUID or index is also that of another MIG device`},
		{name: "index twice", in: strings.ReplaceAll(list, "  1:", "  0:"), err: `line 3: "  MIG 1c.3g.40gb  Device  0: (UUID: ` + migB + `)": its UUID or index is also that of another MIG device`},
		{name: "ids twice", in: query(described("31", gpuA, "", [3]string{"0", "3", "0"}, [3]string{"1", "3", "0"})), err: "line 42: the MIG device before it, with the index 1, is a duplicate"},
		{name: "name of another GPU", in: "GPU 0: x (UUID: " + gpuA + ")\n  MIG 4g.20gb Device 0: (UUID: MIG-" + gpuB + "/2/0)\n", err: `line 2: "MIG-` + gpuB + `/2/0" is not the UUID of a MIG device of ` + gpuA},
		{name: "incomplete UUID", in: "GPU 0: x (UUID: " + gpuA[:20] + ")\n", err: `line 1: "GPU 0: x (UUID: GPU-41255406-c9af-f9)" does not end in the UUID of a GPU`},
		{name: "incomplete MIG UUID", in: "GPU 0: x (UUID: " + gpuA + ")\n  MIG 4g.20gb Device 0: (UUID: MIG-a65afc88)\n", err: `line 2: "MIG-a65afc88" is not the UUID of a MIG device of ` + gpuA},
		{name: "no index", in: "GPU 0: x (UUID: " + gpuA + ")\n  MIG 4g.20gb Device -1: (UUID: " + migA + ")\n", err: `line 2: "  MIG 4g.20gb Device -1: (UUID: ` + migA + `)" has no index`},
		{name: "id is no number", in: query(described("31", gpuA, "", [3]string{"0", "N/A", "0"})), err: `line 18: GPU Instance ID "N/A" of a MIG device: not a number, or in the wrong place`},
		{name: "PDI is no number", in: query(described("31", gpuA, "0x1g")), err: `line 18: "0x1g" is not a PDI, or a second one`},
		{name: "PDI too long", in: query(described("31", gpuA, "0x1145c8e416b389d3e")), err: `line 18: "0x1145c8e416b389d3e" is not a PDI, or a second one`},
		{name: "two drivers", in: q + strings.ReplaceAll(query(), "610", "580"), err: `line 73: of two drivers: "610.57.04" and "580.57.04"`},
		{name: "long line", in: strings.Repeat("x", 1<<20) + "\n", err: "line 1: \"" + strings.Repeat("x", 100) + "\"… (1048576 bytes) is not what nvidia-smi -L prints"},
		{name: "huge", in: strings.Repeat("\n", MaxSize+1), err: "more than 16777216 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := Parse([]byte(tt.in))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.Less(t, len(err.Error()), 400)
				assert.Equal(t, Report{}, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

// TestParseMany checks that too many GPUs or MIG devices are rejected early.
func TestParseMany(t *testing.T) {
	var b strings.Builder
	b.WriteString("GPU 0: x (UUID: " + gpuA + ")\n")
	for n := range 100_000 {
		fmt.Fprintf(&b, "  MIG 1g.5gb Device %d: (UUID: MIG-00000000-0000-5000-8000-%012x)\n", n%65536, n)
	}
	_, err := Parse([]byte(b.String()))
	require.ErrorContains(t, err, "line 130: ")
	b.Reset()
	for n := range 100_000 {
		fmt.Fprintf(&b, "GPU %d: x (UUID: GPU-00000000-0000-5000-8000-%012x)\n", n%65536, n)
	}
	_, err = Parse([]byte(b.String()))
	require.ErrorContains(t, err, "line 257: ")
}

// FuzzParse checks that a parsed report is consistent, and survives being printed in the form of
// nvidia-smi -L and parsed again.
func FuzzParse(f *testing.F) {
	f.Add([]byte(list))
	f.Add([]byte(query(described("31", gpuA, "0x145c8e416b389d3e", [3]string{"0", "3", "0"}))))
	f.Add([]byte(list + query(described("B1", gpuB, "N/A"))))
	f.Add([]byte("GPU 0: A100-PCIE-40GB (UUID: " + gpuA + ")\n  MIG 4g.20gb Device 0: (UUID: MIG-" + gpuA + "/2/0)\n"))
	f.Fuzz(func(t *testing.T, text []byte) {
		report, err := Parse(text)
		if err != nil {
			assert.Equal(t, Report{}, report)
			assert.NotContains(t, err.Error(), "\n")
			return
		}
		require.NotEmpty(t, report.GPUs)
		var b strings.Builder
		var want []GPU
		seen := map[string]bool{}
		for n, gpu := range report.GPUs {
			assert.False(t, seen[gpu.UUID])
			seen[gpu.UUID] = true
			assert.True(t, gpu.Listed || gpu.Queried)
			fmt.Fprintf(&b, "GPU %d: x (UUID: %s)\n", n, gpu.UUID)
			for _, d := range gpu.Devices {
				name := d.UUID.String()
				if d.Old() {
					name = d.Name.String()
				}
				fmt.Fprintf(&b, "  MIG x Device %d: (UUID: %s)\n", d.Index, name)
			}
			want = append(want, GPU{UUID: gpu.UUID, Listed: true, Devices: gpu.Devices})
		}
		again, err := Parse([]byte(b.String()))
		require.NoError(t, err)
		assert.Equal(t, want, again.GPUs)
	})
}
