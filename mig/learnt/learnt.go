// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package learnt records what procfs does not show about the UUIDs of MIG devices, MIG-<uuid>: the
// identifier of each GPU's die, and the last known UUID of each MIG device. [Read] reads the file,
// [Store.Learn] adds to it.
//
// GPUs are identified by their UUID, as text.
package learnt

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// Path is the file's path on a machine.
const Path = "var/lib/nvidia-container-runtime/mig.learnt"

// Limits of a valid file. A GPU has at most 120 UUIDs: 15 GPU instances with one of 8 engines each.
const (
	maxSize   = 1 << 20
	maxGPUs   = 256
	maxFormer = 1024
)

// Sources of a PDI.
const (
	FromSMI    = "nvidia-smi" // printed by nvidia-smi -q, R575 and later
	FromSerial = "pci-serial" // the PCIe device serial number
	FromUUID   = "gpu-uuid"   // of a vGPU guest: the first 8 bytes of the GPU's UUID
	version    = 1            // of the file
	header     = "# MIG UUIDs, written by \"nvsysfs learn\", read by nvidia-container-runtime.experimental.\n"
	endOfFile  = "end" // without this line the file is truncated
	markLength = 16    // digits of a mark
	uuidLength = 36 + len("GPU-")
)

// Store is the content of the file, GPUs sorted by UUID.
type Store struct {
	GPUs []GPU
}

// GPU is what is known about a GPU.
type GPU struct {
	UUID    string // "GPU-" and the UUID in lower case
	Address string // PCI address when it was learned; informational
	Source  string // where the PDI is from; "" if unknown
	PDI     uint64
	Chip    uint16     // chip ID, proved together with the PDI by a UUID of a MIG device; 0 if unproved
	Devices []Device   // MIG devices when it was learned, sorted by GPU instance and compute instance
	Former  []mig.UUID // UUIDs that devices had and no longer have, sorted
	Unknown []string   // lines of a later version
}

// Device is a MIG device.
type Device struct {
	UUID   mig.UUID
	GI, CI int
	Mark   string // of [mig.ReadMarks]: the UUID is valid as long as the instance has it
}

// Die returns what UUIDs are computed from, if the PDI is known.
func (g GPU) Die() (mig.Die, bool) {
	return mig.Die{PDI: g.PDI, Chip: g.Chip}, g.Source != ""
}

// Find returns the GPU with the UUID, given in lower case.
func (s Store) Find(uuid string) (GPU, bool) {
	at, ok := slices.BinarySearchFunc(s.GPUs, uuid, func(g GPU, uuid string) int {
		return strings.Compare(g.UUID, uuid)
	})
	if !ok {
		return GPU{}, false
	}
	return s.GPUs[at], true
}

// Read reads the file name of fsys. Since it decides which device a container gets, it must be a
// regular file, owned by one of the owners, and writable only by its owner. A missing file is
// [fs.ErrNotExist].
func Read(fsys fs.FS, name string, owners ...int) (Store, error) {
	file, err := fsys.Open(name)
	if err != nil {
		return Store{}, err
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return Store{}, err
	}
	if err := trusted(info, owners); err != nil {
		return Store{}, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxSize+1))
	if err != nil {
		return Store{}, err
	}
	store, err := Parse(data)
	if err != nil {
		return Store{}, &fs.PathError{Op: "read", Path: name, Err: err}
	}
	return store, nil
}

func trusted(info fs.FileInfo, owners []int) error {
	if !info.Mode().IsRegular() {
		return errors.New("not a regular file")
	}
	if perm := info.Mode().Perm(); perm&0o022 != 0 {
		return fmt.Errorf("users other than its owner may write it (mode %04o)", perm)
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if ok && !slices.Contains(owners, int(stat.Uid)) {
		return fmt.Errorf("it belongs to user %d", stat.Uid)
	}
	return nil
}

// Parse parses the file: lines of a key and its values, separated by blanks; the lines after "gpu"
// belong to that GPU:
//
//	version 1
//	gpu GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16
//	address 0000:07:00.0
//	pdi 0x145c8e416b389d3e nvidia-smi
//	chip 0x170
//	device MIG-feb88891-0321-5fef-9c87-d4af3b54259e 7 0 52f1c0de90ab3344
//	former MIG-a25704ba-3a06-5299-a795-fd7cf4d13973
//	end
//
// Empty lines and those that start with # are ignored. Unknown keys after "gpu" are preserved for
// later versions.
func Parse(data []byte) (Store, error) {
	if len(data) > maxSize {
		return Store{}, fmt.Errorf("more than %d bytes", maxSize)
	}
	var (
		store     Store
		line      int
		versioned bool
		ended     bool
	)
	for text := range bytes.Lines(data) {
		line++
		words := strings.Fields(string(text))
		if len(words) == 0 || strings.HasPrefix(words[0], "#") {
			continue
		}
		var err error
		switch {
		case text[len(text)-1] != '\n':
			err = errors.New("cut off")
		case ended:
			err = fmt.Errorf("%s after the end", quote(words[0]))
		case !versioned:
			versioned, err = true, checkVersion(words)
		case words[0] == endOfFile && len(words) == 1:
			ended = true
		case words[0] == "gpu":
			err = store.addGPU(words)
		case len(store.GPUs) == 0:
			err = fmt.Errorf("%s before the first gpu", quote(words[0]))
		default:
			err = store.GPUs[len(store.GPUs)-1].add(words)
		}
		if err != nil {
			return Store{}, fmt.Errorf("line %d: %w", line, err)
		}
	}
	if !ended {
		return Store{}, errors.New("cut off: the last line is not \"end\"")
	}
	for n := range store.GPUs {
		if err := store.GPUs[n].check(); err != nil {
			return Store{}, fmt.Errorf("%s: %w", store.GPUs[n].UUID, err)
		}
	}
	slices.SortFunc(store.GPUs, func(a, b GPU) int { return strings.Compare(a.UUID, b.UUID) })
	for n := 1; n < len(store.GPUs); n++ {
		if store.GPUs[n-1].UUID == store.GPUs[n].UUID {
			return Store{}, fmt.Errorf("second gpu %s", store.GPUs[n].UUID)
		}
	}
	return store, nil
}

func checkVersion(words []string) error {
	if len(words) != 2 || words[0] != "version" {
		return fmt.Errorf("%s instead of the version", quote(strings.Join(words, " ")))
	}
	if words[1] != strconv.Itoa(version) {
		return fmt.Errorf("version %s: this program knows version %d", quote(words[1]), version)
	}
	return nil
}

func (s *Store) addGPU(words []string) error {
	if len(words) != 2 {
		return errors.New("gpu without a UUID")
	}
	uuid, ok := gpuUUID(words[1])
	if !ok || uuid != words[1] {
		return fmt.Errorf("%s is not the UUID of a GPU", quote(words[1]))
	}
	if len(s.GPUs) == maxGPUs {
		return fmt.Errorf("more than %d GPUs", maxGPUs)
	}
	s.GPUs = append(s.GPUs, GPU{UUID: uuid})
	return nil
}

// gpuUUID returns a complete UUID of a GPU in lower case.
func gpuUUID(s string) (string, bool) {
	uuid, ok := mig.UUIDPrefix(s, "GPU-")
	if !ok || len(uuid) != uuidLength {
		return "", false
	}
	return uuid, true
}

// add parses a line of a GPU.
func (g *GPU) add(words []string) error {
	key, values := words[0], words[1:]
	wrong := fmt.Errorf("%s is not a valid value of %s", quote(strings.Join(values, " ")), quote(key))
	switch key {
	case "address":
		if len(values) != 1 || g.Address != "" {
			return wrong
		}
		g.Address = values[0]
	case "pdi":
		if len(values) != 2 || g.Source != "" || !slices.Contains([]string{FromSMI, FromSerial, FromUUID}, values[1]) {
			return wrong
		}
		pdi, ok := parseHex(values[0], 16, 64)
		if !ok {
			return wrong
		}
		g.PDI, g.Source = pdi, values[1]
	case "chip":
		if len(values) != 1 || g.Chip != 0 {
			return wrong
		}
		chip, ok := parseHex(values[0], 3, 10)
		if !ok || chip == 0 {
			return wrong
		}
		g.Chip = uint16(chip)
	case "device":
		if len(values) != 4 || len(g.Devices) == maxFormer {
			return wrong
		}
		device, ok := parseDevice(values)
		if !ok {
			return wrong
		}
		g.Devices = append(g.Devices, device)
	case "former":
		if len(values) != 1 || len(g.Former) == maxFormer {
			return wrong
		}
		uuid, ok := mig.ParseUUID(values[0])
		if !ok {
			return wrong
		}
		g.Former = append(g.Former, uuid)
	default:
		g.Unknown = append(g.Unknown, strings.Join(words, " "))
	}
	return nil
}

func parseDevice(values []string) (Device, bool) {
	uuid, ok := mig.ParseUUID(values[0])
	gi, giErr := strconv.ParseUint(values[1], 10, 16)
	ci, ciErr := strconv.ParseUint(values[2], 10, 16)
	mark := values[3]
	if !ok || giErr != nil || ciErr != nil || len(mark) != markLength || strings.Trim(mark, "0123456789abcdef") != "" {
		return Device{}, false
	}
	return Device{UUID: uuid, GI: int(gi), CI: int(ci), Mark: mark}, true
}

// parseHex parses 0x and the given number of digits.
func parseHex(s string, digits, bits int) (uint64, bool) {
	text, ok := strings.CutPrefix(s, "0x")
	number, err := strconv.ParseUint(text, 16, bits)
	return number, ok && err == nil && len(text) == digits
}

// check checks the lines together, and sorts.
func (g *GPU) check() error {
	if g.Chip != 0 && g.Source == "" {
		return errors.New("chip without pdi")
	}
	slices.SortFunc(g.Devices, compareDevices)
	seen := map[mig.UUID]bool{}
	for n, d := range g.Devices {
		if n > 0 && compareDevices(g.Devices[n-1], d) == 0 {
			return fmt.Errorf("second device %d %d", d.GI, d.CI)
		}
		if seen[d.UUID] {
			return fmt.Errorf("second device %s", d.UUID)
		}
		seen[d.UUID] = true
	}
	slices.SortFunc(g.Former, compareUUIDs)
	g.Former = slices.Compact(g.Former)
	for _, uuid := range g.Former {
		if seen[uuid] {
			return fmt.Errorf("%s is a device and a former one", uuid)
		}
	}
	return nil
}

func compareDevices(a, b Device) int {
	return mig.Instance{GI: a.GI, CI: a.CI}.Compare(mig.Instance{GI: b.GI, CI: b.CI})
}

func compareUUIDs(a, b mig.UUID) int { return bytes.Compare(a[:], b[:]) }

// Encode returns the file for [Parse]. The same store always gives the same bytes.
func (s Store) Encode() []byte {
	out := []byte(header)
	out = fmt.Appendf(out, "version %d\n", version)
	for _, g := range s.GPUs {
		out = fmt.Appendf(out, "\ngpu %s\n", g.UUID)
		if g.Address != "" {
			out = fmt.Appendf(out, "address %s\n", g.Address)
		}
		if g.Source != "" {
			out = fmt.Appendf(out, "pdi 0x%016x %s\n", g.PDI, g.Source)
		}
		if g.Chip != 0 {
			out = fmt.Appendf(out, "chip 0x%03x\n", g.Chip)
		}
		for _, d := range g.Devices {
			out = fmt.Appendf(out, "device %s %d %d %s\n", d.UUID, d.GI, d.CI, d.Mark)
		}
		for _, uuid := range g.Former {
			out = fmt.Appendf(out, "former %s\n", uuid)
		}
		for _, line := range g.Unknown {
			out = fmt.Appendf(out, "%s\n", line)
		}
	}
	return append(out, "\nend\n"...)
}

// quote quotes and shortens foreign text for a message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return strconv.Quote(s)
}
