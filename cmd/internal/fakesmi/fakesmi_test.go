// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package fakesmi

import (
	"debug/elf"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/elfstub"
	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// read describes a fixture and returns the output of the fixture's own nvidia-smi.
func read(t *testing.T, name string) (Machine, string) {
	t.Helper()
	archive, err := fixtures.Load(name)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "machine")
	_, err = archive.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	listing := ""
	if data, err := os.ReadFile(filepath.Join(dir, "usr/bin/nvidia-smi")); err == nil {
		stub, err := elfstub.Parse(data)
		require.NoError(t, err)
		listing = stub.Output
	}
	m, err := Read(sysfs.Root(dir), listing)
	require.NoError(t, err)
	return m, listing
}

func container(nodes ...string) fstest.MapFS {
	fsys := fstest.MapFS{}
	for _, n := range nodes {
		fsys["dev/"+n] = &fstest.MapFile{}
	}
	return fsys
}

func TestRun(t *testing.T) {
	machines := map[string]Machine{}
	for _, name := range []string{"t4", "a100-mig", "mixed-mig", "dgx-h100"} {
		machines[name], _ = read(t, name)
	}
	uuid := machines["t4"].GPUs[0].UUID
	for _, tt := range []struct {
		name    string
		machine string
		nodes   []string
		args    string
		status  int
		want    string
	}{
		{name: "no driver", machine: "t4", args: "-L", status: 9, want: noDriver},
		{name: "no device", machine: "t4", nodes: []string{"nvidiactl"}, args: "-L", status: 6, want: "No devices were found\n"},
		{name: "one GPU", machine: "t4", nodes: []string{"nvidiactl", "nvidia0"}, args: "-L", want: "GPU 0: Tesla T4 (UUID: " + uuid + ")\n"},
		{
			name: "query", machine: "t4", nodes: []string{"nvidiactl", "nvidia0"}, args: "--query-gpu=index,uuid,name,pci.bus_id,driver_version --format=csv",
			want: "index, uuid, name, pci.bus_id, driver_version\n0, " + uuid + ", Tesla T4, 00000000:00:1E.0, 550.54.15\n",
		},
		{
			name: "query without a header", machine: "t4", nodes: []string{"nvidiactl", "nvidia0"}, args: "--format=csv,noheader --query-gpu name,memory.total,mig.mode.current,count",
			want: "Tesla T4, [N/A], [N/A], 1\n",
		},
		{
			name: "full query", machine: "dgx-h100", nodes: []string{"nvidiactl", "nvidia0", "nvidia-caps/nvidia-cap75", "nvidia-caps/nvidia-cap76"}, args: "-q",
			want: "\n==============NVSMI LOG==============\n\nDriver Version                                         : 580.95.05\n" +
				"CUDA Version                                           : 13.0\n\nAttached GPUs                                          : 1\n" +
				"GPU 00000000:1B:00.0\n    Product Name                                       : NVIDIA H100 80GB HBM3\n" +
				"    MIG Device\n        Index                                          : 0\n        GPU Instance ID                                : 8\n" +
				"        Compute Instance ID                            : 0\n" +
				"    GPU UUID                                           : GPU-6f1d29c8-04e7-b53a-91d6-2a8c70f4be13\n" +
				"    GPU PDI                                            : 0x2c5f18d0947be36a\n",
		},
		{name: "query without a format", machine: "t4", args: "--query-gpu=name", status: 2, want: "\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help.\n"},
		{name: "misspelled field", machine: "t4", args: "--query-gpu=nmae --format=csv", status: 2, want: "Field \"nmae\" is not a valid field to query.\n"},
		{name: "option without a value", machine: "t4", args: "-i", status: 2, want: "Option -i needs a value. Please run 'nvidia-smi -h' for help.\n"},
		{name: "unknown GPU", machine: "t4", nodes: []string{"nvidiactl", "nvidia0"}, args: "-L -i 1", status: 6, want: "No devices were found\n"},
		{
			name: "version", machine: "t4", nodes: []string{"nvidiactl"}, args: "--version",
			want: "NVIDIA-SMI version  : 550.54.15\nNVML version        : 550.54\nDRIVER version      : 550.54.15\nCUDA Version        : 12.4\n",
		},
		{
			// Minor numbers are not indices, and the container has its own indices.
			name: "two MIG devices of a GPU, and another GPU", machine: "a100-mig",
			nodes: []string{"nvidiactl", "nvidia" + minor(machines, 3), "nvidia" + minor(machines, 6), capOf(machines, 3, 1, 0), capOf(machines, 3, 1, 1), capOf(machines, 3, 2, 0), capOf(machines, 3, 2, 1)},
			args:  "-L",
			want: "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-5c8472fb-de10-93a6-4f75-e0b6128c9d3a)\n" +
				"  MIG 2g.20gb     Device  0: (UUID: MIG-1ef45ce0-0305-54e8-b5a4-63c89ec7e513)\n" +
				"  MIG 1g.10gb     Device  1: (UUID: MIG-dc1d7035-5ac0-5a08-95a7-86891e039a3b)\n" +
				"GPU 1: NVIDIA A100-SXM4-80GB (UUID: " + machines["a100-mig"].GPUs[6].UUID + ")\n",
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			status := run(container(tt.nodes...), machines[tt.machine], strings.Fields(tt.args), &out)
			assert.Equal(t, tt.want, out.String())
			assert.Equal(t, tt.status, status)
		})
	}
}

func minor(machines map[string]Machine, gpu int) string {
	return strconv.Itoa(machines["a100-mig"].GPUs[gpu].Minor)
}

func capOf(machines map[string]Machine, gpu, device, which int) string {
	return "nvidia-caps/nvidia-cap" + strconv.Itoa(machines["a100-mig"].GPUs[gpu].Devices[device].Caps[which])
}

// TestListing checks that a container with all devices sees what the machine's own nvidia-smi -L
// prints, and that package smi can parse the output.
func TestListing(t *testing.T) {
	for _, name := range fixtures.Names() {
		t.Run(name, func(t *testing.T) {
			m, listing := read(t, name)
			nodes := []string{"nvidiactl"}
			for _, g := range m.GPUs {
				nodes = append(nodes, "nvidia"+strconv.Itoa(g.Minor))
				for _, d := range g.Devices {
					for _, c := range d.Caps {
						nodes = append(nodes, "nvidia-caps/nvidia-cap"+strconv.Itoa(c))
					}
				}
			}
			var out strings.Builder
			status := run(container(nodes...), m, []string{"-L"}, &out)
			if len(m.GPUs) == 0 {
				assert.Equal(t, exitNotFound, status)
				return
			}
			assert.Zero(t, status)
			if list, query, found := strings.Cut(listing, "\n=="); strings.HasPrefix(listing, "GPU 0: ") {
				var queried strings.Builder
				assert.Zero(t, run(container(nodes...), m, []string{"-q"}, &queried))
				assert.Equal(t, list, out.String())
				assert.True(t, !found || "\n=="+query == queried.String(), "nvidia-smi -q prints\n%s", &queried)
			}
			if !strings.Contains(out.String(), "(UUID: )") && !strings.Contains(out.String(), "?") {
				_, err := smi.Parse([]byte(out.String()))
				require.NoError(t, err)
			}
			out.Reset()
			assert.Zero(t, run(container(nodes...), m, nil, &out))
			assert.Contains(t, out.String(), m.Driver)
			for line := range strings.Lines(out.String()) {
				assert.Len(t, line, 92)
			}
		})
	}
}

func TestInstall(t *testing.T) {
	dir := t.TempDir()
	program, dest := filepath.Join(dir, "program"), filepath.Join(dir, "nvidia-smi")
	stub, err := elfstub.File{Machine: elf.EM_X86_64, Executable: true, Output: "x"}.Encode()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(program, stub, 0o755))
	require.NoError(t, os.WriteFile(dest, []byte("what was there"), 0o444))
	want, _ := read(t, "a100-mig")
	require.NoError(t, Install(dest, program, want))
	f, err := os.Open(dest)
	require.NoError(t, err)
	defer f.Close()
	got, ok := machineOf(f)
	assert.True(t, ok)
	assert.Equal(t, want, got)

	f, err = os.Open(program)
	require.NoError(t, err)
	defer f.Close()
	_, ok = machineOf(f)
	assert.False(t, ok, "the program has no machine appended")
	assert.ErrorContains(t, Install(dest, "fakesmi_test.go", want), "making the fixture's nvidia-smi from fakesmi_test.go: bad magic number")
	_, ok = Main([]string{"/usr/bin/nvidia-smi", "-L"}, os.Stdout)
	assert.False(t, ok, "the test binary has no machine appended")
}
