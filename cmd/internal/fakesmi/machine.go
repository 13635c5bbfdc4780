// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package fakesmi is the nvidia-smi of a fixture: it prints what NVIDIA's nvidia-smi would print
// about a container's GPUs, without a driver or a GPU.
//
// [Install] creates it: a copy of a static program that calls [Main] first, with a description of
// the fixture's machine appended, where no loader looks. In a container it prints the GPUs and MIG
// devices whose device nodes exist. It supports -L, -q, --query-gpu, --version, -i and the table
// without arguments, with NVIDIA's exit statuses. Values that only a GPU can provide are [N/A], and
// are left out of -q.
package fakesmi

import (
	"debug/elf"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Machine is what nvidia-smi knows about a machine.
type Machine struct {
	Driver string // version, such as "550.54.15"
	CUDA   string // newest version that the driver supports, such as "12.4"; "" if unknown
	GPUs   []GPU  // by index
}

// GPU is one of the GPUs that nvidia-smi would list.
type GPU struct {
	Minor   int    // of /dev/nvidiaN
	Name    string // "Tesla T4"
	UUID    string
	Bus     string // "00000000:07:00.0"
	PDI     string // "0x2c5f18d0947be36a"; "" if unknown
	Devices []Device
}

// Device is a MIG device of a GPU.
type Device struct {
	GI, CI  int    // IDs of its GPU instance and compute instance
	Caps    []int  // minors of its GPU and compute instances' /dev/nvidia-caps/nvidia-capN
	Profile string // "1g.10gb"
	UUID    string
}

// listed matches a MIG device in the output of nvidia-smi -L; queried matches a line of nvidia-smi
// -q.
var (
	listed  = regexp.MustCompile(`^ +MIG (\S+) +Device +\d+: \(UUID: (MIG-[^)]+)\)$`)
	queried = regexp.MustCompile(`^ +GPU (UUID|PDI) +: (\S+)$`)
)

// Read describes the machine below root. listing is the output of its nvidia-smi -L, with the
// profiles and UUIDs of the MIG devices, optionally followed by the output of nvidia-smi -q, with
// the GPUs' PDIs. MIG devices that are not in listing get no profile, and a name in the form that
// drivers used up to R470.
func Read(root sysfs.Root, listing string) (Machine, error) {
	inventory, err := sysfs.Read(root, true)
	if err != nil || inventory.Driver == nil {
		return Machine{}, err
	}
	devices, pdis, uuid := map[string][]Device{}, map[string]string{}, ""
	for line := range strings.Lines(listing) {
		line = strings.TrimRight(line, "\n")
		if _, after, ok := strings.Cut(line, "(UUID: GPU-"); ok && strings.HasPrefix(line, "GPU ") {
			uuid = "GPU-" + strings.TrimSuffix(after, ")")
		} else if m := listed.FindStringSubmatch(line); m != nil {
			devices[uuid] = append(devices[uuid], Device{Profile: m[1], UUID: m[2]})
		} else if m := queried.FindStringSubmatch(line); m != nil && m[1] == "UUID" {
			uuid = m[2]
		} else if m != nil {
			pdis[uuid] = m[2]
		}
	}
	m := Machine{Driver: inventory.Driver.Version}
	m.CUDA, _ = sysfs.CUDAVersion(m.Driver)
	for _, g := range inventory.GPUs {
		if g.Excluded || g.Err != nil || g.Minor < 0 {
			continue
		}
		a := g.Address
		bus := fmt.Sprintf("%08X:%02X:%02X.%X", a.Domain, a.Bus, a.Device, a.Function)
		gpu := GPU{Minor: g.Minor, Name: g.Model, UUID: g.UUID, PDI: pdis[g.UUID], Bus: bus}
		known := devices[g.UUID]
		if len(known) > 0 && len(known) != len(g.Instances) {
			return Machine{}, fmt.Errorf("nvidia-smi -L lists %d MIG devices of %s, the machine has %d",
				len(known), g.UUID, len(g.Instances))
		}
		for i, instance := range g.Instances {
			d := Device{Profile: "?", UUID: fmt.Sprintf("MIG-%s/%d/%d", g.UUID, instance.GI, instance.CI)}
			if len(known) > 0 {
				d = known[i]
			}
			d.GI, d.CI, d.Caps = instance.GI, instance.CI, []int{instance.GICap.Minor, instance.CICap.Minor}
			gpu.Devices = append(gpu.Devices, d)
		}
		m.GPUs = append(m.GPUs, gpu)
	}
	return m, nil
}

// mark ends a program that Install wrote. It follows the machine as JSON and the length of that
// JSON in 8 bytes.
const mark = "\x00fixture's nvidia-smi\x00"

// maxMachine limits the JSON: 32 GPUs with 7 MIG devices each take 30 KiB.
const maxMachine = 1 << 20

// Install replaces dest with the nvidia-smi of machine: a copy of program, an executable that calls
// [Main]. The program must be static because it runs in any image.
func Install(dest, program string, machine Machine) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the fixture's nvidia-smi from %s: %w", program, err)
		}
	}()
	in, err := os.Open(program)
	if err != nil {
		return err
	}
	defer in.Close()
	file, err := elf.NewFile(in)
	if err != nil {
		return err
	}
	for _, p := range file.Progs {
		if p.Type == elf.PT_INTERP {
			return errors.New("it is not static: build it with CGO_ENABLED=0")
		}
	}
	data, err := json.Marshal(machine)
	if err != nil {
		return err
	}
	if len(data) > maxMachine {
		return fmt.Errorf("the machine's description has %d bytes, more than %d", len(data), maxMachine)
	}
	if err := os.Remove(dest); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	out, err := os.OpenFile(dest, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	if err == nil {
		_, err = out.Write(append(binary.LittleEndian.AppendUint64(data, uint64(len(data))), mark...))
	}
	return errors.Join(err, out.Chmod(0o755), out.Close())
}

// machineOf reads what Install appended to a program. It returns false if there is nothing.
func machineOf(program *os.File) (Machine, bool) {
	const tail = 8 + int64(len(mark))
	info, err := program.Stat()
	if err != nil || info.Size() < tail {
		return Machine{}, false
	}
	end := make([]byte, tail)
	if _, err := program.ReadAt(end, info.Size()-tail); err != nil || string(end[8:]) != mark {
		return Machine{}, false
	}
	size := binary.LittleEndian.Uint64(end)
	if size > maxMachine || int64(size) > info.Size()-tail {
		return Machine{}, false
	}
	data := make([]byte, size)
	if _, err := program.ReadAt(data, info.Size()-tail-int64(size)); err != nil {
		return Machine{}, false
	}
	var m Machine
	return m, json.Unmarshal(data, &m) == nil
}
