// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package fakesmi is the nvidia-smi of a fixture: a program that prints what NVIDIA's would about the GPUs that a
// container has, without a driver or a GPU.
//
// [Install] makes it: a copy of a static program that calls [Main] first, with a description of the fixture's machine
// behind its end, where no loader looks. In a container it looks which of that machine's device nodes are there,
// and prints those GPUs and MIG devices. It knows -L, -q, --query-gpu, --version, -i, and the table that it
// prints without arguments; exit statuses are NVIDIA's. What only a GPU can tell is [N/A], or not in -q.
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

// Machine is what nvidia-smi knows of a machine.
type Machine struct {
	Driver string // version: "550.54.15"
	CUDA   string // newest that the driver knows: "12.4", "" unknown
	GPUs   []GPU  // by index
}

// GPU is one GPU of a machine.
type GPU struct {
	Minor   int    // of /dev/nvidiaN
	Name    string // "Tesla T4"
	UUID    string
	Bus     string // "00000000:07:00.0"
	PDI     string // "0x2c5f18d0947be36a", "" unknown
	Devices []Device
}

// Device is a MIG device.
type Device struct {
	GI, CI  int    // its GPU instance and compute instance
	Caps    []int  // minors of /dev/nvidia-caps/nvidia-capN of its GPU instance and its compute instance
	Profile string // "1g.10gb"
	UUID    string
}

// listed is a MIG device in the output of nvidia-smi -L, queried a line of -q.
var (
	listed  = regexp.MustCompile(`^ +MIG (\S+) +Device +\d+: \(UUID: (MIG-[^)]+)\)$`)
	queried = regexp.MustCompile(`^ +GPU (UUID|PDI) +: (\S+)$`)
)

// Read describes the machine below root. listing is the output of its nvidia-smi -L, which names the profiles and UUIDs
// of MIG devices, and perhaps of -q, which has the GPUs' PDIs; where it has none of a GPU, MIG devices have the names
// that drivers before R470 gave them, and no profile.
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
			return Machine{}, fmt.Errorf("nvidia-smi -L lists %d MIG devices of %s, the machine has %d", len(known), g.UUID, len(g.Instances))
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

// A program ends in the machine as JSON, its length in 8 bytes, and this.
const mark = "\x00fixture's nvidia-smi\x00"

// maxMachine bounds the JSON: a machine of 32 GPUs with 7 MIG devices each has 30 KiB.
const maxMachine = 1 << 20

// Install makes dest, whatever was there, the nvidia-smi of machine: a copy of program, an executable file that calls
// [Main]. It has to be static, as it will run in any image.
func Install(dest, program string, machine Machine) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making the fixture's nvidia-smi of %s: %w", program, err)
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
		return fmt.Errorf("the machine takes %d bytes to describe, of %d", len(data), maxMachine)
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

// machineOf reads what Install has put behind the end of a program; false if nothing is there.
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
