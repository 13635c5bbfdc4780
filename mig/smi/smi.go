// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package smi parses what nvidia-smi prints about MIG devices. [Parse] takes the output of
// "nvidia-smi -L", of "nvidia-smi -q", or a concatenation of several.
package smi

import (
	"bytes"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// MaxSize is the longest text that is parsed, in bytes. A machine of 16 GPUs with 7 MIG devices
// each has less than 1 MiB.
const MaxSize = 16 << 20

// Limits of plausible text.
const (
	maxGPUs    = 256
	maxDevices = 128 // of a GPU
)

// Report is the content of the text.
type Report struct {
	Driver string // version of the kernel module, from -q; "" without it
	GPUs   []GPU  // each once, in the order of their first mention
	Lines  []Line // complaints about a GPU
}

// Line is a line of the text.
type Line struct {
	Number int
	Text   string
}

// GPU is a GPU in the text.
type GPU struct {
	UUID    string // "GPU-" and the UUID in lower case
	Address string // from -q, as printed: "00000000:07:00.0"
	PDI     uint64
	HasPDI  bool // -q of R575 and later
	Listed  bool // -L has the GPU, and Devices are complete
	Devices []Device
	Queried bool // -q has the GPU, and IDs are complete
	IDs     []IDs
}

// Device is a MIG device as -L lists it.
type Device struct {
	Index int
	UUID  mig.UUID
	Name  mig.Name // with drivers before R470, instead of a UUID: MIG-GPU-<uuid>/<gi>/<ci>
}

// IDs are the IDs of the MIG device with an index, from -q.
type IDs struct {
	Index, GI, CI int
}

// Old reports whether the driver names the device by its instances instead of a UUID.
func (d Device) Old() bool { return d.Name.GPU != "" }

// parser is the state between lines.
type parser struct {
	report Report
	line   int

	listed *GPU // in -L: the GPU whose MIG devices follow

	query    bool   // within -q
	driver   string // version, of this -q
	attached int    // GPUs that -q announces; -1 unknown
	counted  int    // GPUs that -q has had
	queried  *GPU   // of -q, not yet in the report
	indent   int    // of the keys of this GPU; 0 not yet known
	inner    int    // of the keys below a section; 0 not yet known
	section  string
	partial  *[3]int // index, GI, CI of the current MIG device; -1 not yet known
}

const (
	logHeader = "==============NVSMI LOG=============="
	indexKey  = "Index"
	giKey     = "GPU Instance ID"
	ciKey     = "Compute Instance ID"
)

// complaints are the beginnings of lines that nvidia-smi mixes into its output when a GPU is
// faulty.
var complaints = []string{"WARNING:", "Unable to determine the device handle"}

// Parse parses text of nvidia-smi. The forms that it knows, of R450 to R610:
//
//	GPU 0: NVIDIA A100 80GB PCIe (UUID: GPU-41255406-c9af-f94b-4ebf-9d57ad1853da)
//	  MIG 2g.20gb     Device  0: (UUID: MIG-a65afc88-50b5-5ccf-b0a8-f93b3247ae9e)
//	  MIG 1g.5gb Device 1: (UUID: MIG-GPU-9de3d0e8-33f5-10dc-0c79-2c88a7ab0a23/9/0)
//
//	==============NVSMI LOG==============
//	Driver Version                                         : 610.57.04 [Deprecated; will be …]
//	KMD Version                                            : 610.57.04
//	Attached GPUs                                          : 1
//	GPU 00000000:81:00.0
//	    MIG Device
//	        Index                                          : 0
//	        GPU Instance ID                                : 1
//	        Compute Instance ID                            : 0
//	    GPU UUID                                           : GPU-41255406-c9af-f94b-4ebf-9d57ad1853da
//	    GPU PDI                                            : 0x145c8e416b389d3e
//
// Other keys of -q are ignored; every line of -L must be understood. Text that ends within a line,
// or before the last GPU that it announces, is an error.
func Parse(text []byte) (Report, error) {
	if len(text) > MaxSize {
		return Report{}, fmt.Errorf("more than %d bytes", MaxSize)
	}
	p := parser{attached: -1}
	for line := range bytes.Lines(text) {
		p.line++
		if line[len(line)-1] != '\n' {
			return Report{}, fmt.Errorf("line %d: cut off: %s", p.line, quote(string(line)))
		}
		if err := p.take(strings.TrimRight(string(line), " \t\r\n")); err != nil {
			return Report{}, fmt.Errorf("line %d: %w", p.line, err)
		}
	}
	if err := p.endQuery(); err != nil {
		return Report{}, err
	}
	if len(p.report.GPUs) == 0 {
		return Report{}, errors.New("neither the output of nvidia-smi -L nor that of nvidia-smi -q: " +
			"there is no GPU in it")
	}
	return p.report, nil
}

func (p *parser) take(line string) error {
	switch line {
	case "":
		return nil
	case logHeader:
		err := p.endQuery()
		p.query, p.driver, p.attached, p.counted = true, "", -1, 0
		return err
	}
	for _, c := range complaints {
		if strings.HasPrefix(line, c) {
			p.report.Lines = append(p.report.Lines, Line{p.line, line})
			return nil
		}
	}
	if isListing(line) {
		if err := p.endQuery(); err != nil {
			return err
		}
		return p.takeGPU(line)
	}
	if p.query {
		return p.takeQuery(line)
	}
	return p.takeDevice(line)
}

// isListing recognizes the line of a GPU in -L: "GPU 0: ", where -q has "GPU 00000000:81:00.0".
func isListing(line string) bool {
	rest, ok := strings.CutPrefix(line, "GPU ")
	index, _, colon := strings.Cut(rest, ": ")
	_, err := strconv.ParseUint(index, 10, 16)
	return ok && colon && err == nil
}

// takeGPU parses "GPU 0: NVIDIA A100 80GB PCIe (UUID: GPU-41255406-c9af-f94b-4ebf-9d57ad1853da)".
func (p *parser) takeGPU(line string) error {
	text, ok := uuidOf(line)
	uuid, valid := gpuUUID(text)
	if !ok || !valid {
		return fmt.Errorf("%s does not end in the UUID of a GPU", quote(line))
	}
	gpu := p.gpu(uuid)
	if gpu.Listed || len(p.report.GPUs) > maxGPUs {
		return fmt.Errorf("%s is listed twice, or there are too many GPUs", uuid)
	}
	gpu.Listed = true
	p.listed = gpu
	return nil
}

// takeDevice parses "  MIG 2g.20gb     Device  0: (UUID:
// MIG-a65afc88-50b5-5ccf-b0a8-f93b3247ae9e)".
func (p *parser) takeDevice(line string) error {
	words := strings.Fields(line)
	text, ok := uuidOf(line)
	if !ok || len(words) != 6 || words[0] != "MIG" || words[2] != "Device" || !strings.HasSuffix(words[3], ":") {
		return fmt.Errorf("%s is not what nvidia-smi -L prints", quote(line))
	}
	index, err := strconv.ParseUint(strings.TrimSuffix(words[3], ":"), 10, 16)
	if err != nil {
		return fmt.Errorf("%s has no index", quote(line))
	}
	if p.listed == nil || len(p.listed.Devices) == maxDevices {
		return fmt.Errorf("%s comes before the first GPU, or is one of too many", quote(line))
	}
	device := Device{Index: int(index)}
	if device.UUID, ok = mig.ParseUUID(text); !ok {
		if device.Name, err = mig.ParseName(text); err != nil || device.Name.GPU != p.listed.UUID {
			return fmt.Errorf("%s is not the UUID of a MIG device of %s", quote(text), p.listed.UUID)
		}
	}
	for _, gpu := range p.report.GPUs {
		for _, other := range gpu.Devices {
			if device.UUID == other.UUID && device.Name == other.Name ||
				gpu.UUID == p.listed.UUID && device.Index == other.Index {
				return fmt.Errorf("%s: its UUID or index is also that of another MIG device", quote(line))
			}
		}
	}
	p.listed.Devices = append(p.listed.Devices, device)
	return nil
}

// uuidOf returns the UUID in the "(UUID: …)" at the end of a line.
func uuidOf(line string) (string, bool) {
	at := strings.LastIndex(line, "(UUID: ")
	if at < 0 || !strings.HasSuffix(line, ")") {
		return "", false
	}
	return line[at+len("(UUID: ") : len(line)-1], true
}

// gpuUUID returns a complete UUID of a GPU in lower case.
func gpuUUID(s string) (string, bool) {
	uuid, ok := mig.UUIDPrefix(s, "GPU-")
	if !ok || len(uuid) != len("GPU-41255406-c9af-f94b-4ebf-9d57ad1853da") {
		return "", false
	}
	return uuid, true
}

// gpu finds a GPU in the report, or adds it. The result is valid until the next call.
func (p *parser) gpu(uuid string) *GPU {
	for n := range p.report.GPUs {
		if p.report.GPUs[n].UUID == uuid {
			return &p.report.GPUs[n]
		}
	}
	p.report.GPUs = append(p.report.GPUs, GPU{UUID: uuid})
	return &p.report.GPUs[len(p.report.GPUs)-1]
}

// takeQuery parses a line of -q.
func (p *parser) takeQuery(line string) error {
	text := strings.TrimLeft(line, " \t")
	indent := len(line) - len(text)
	key, value, colon := strings.Cut(text, ":")
	value, _, _ = strings.Cut(value, " [") // "[Deprecated; will be removed in CUDA 14.0. …]"
	key, value = strings.TrimSpace(key), strings.TrimSpace(value)
	if indent == 0 {
		return p.takeTop(text, key, value)
	}
	if p.queried == nil {
		return nil // below a key of the whole machine
	}
	if p.indent == 0 {
		p.indent = indent
	}
	if indent <= p.indent {
		if err := p.endDevice(); err != nil {
			return err
		}
		p.section, p.inner = key, 0
		return p.takeKey(key, value)
	}
	if p.inner == 0 {
		p.inner = indent
	}
	if indent != p.inner || !colon || p.section != "MIG Device" && p.section != "MIG Devices" {
		return nil
	}
	return p.takeID(key, value)
}

// takeTop parses a line that is not indented.
func (p *parser) takeTop(text, key, value string) error {
	switch {
	case key == "Driver Version", key == "KMD Version":
		p.driver = value // the later one counts
	case key == "Attached GPUs":
		if p.report.Driver != "" && p.report.Driver != p.driver {
			return fmt.Errorf("of two drivers: %s and %s", quote(p.report.Driver), quote(p.driver))
		}
		p.report.Driver = p.driver
		attached, err := strconv.ParseUint(value, 10, 16)
		if err != nil {
			return fmt.Errorf("%s attached GPUs is not a number", quote(value))
		}
		p.attached = int(attached)
	case strings.HasPrefix(text, "GPU "):
		if err := p.endGPU(); err != nil {
			return err
		}
		p.counted++
		p.queried = &GPU{Address: strings.TrimPrefix(text, "GPU "), Queried: true}
		p.indent, p.inner, p.section = 0, 0, ""
	}
	return nil
}

// takeKey parses a key of a GPU.
func (p *parser) takeKey(key, value string) error {
	switch key {
	case "GPU UUID":
		uuid, ok := gpuUUID(value)
		if !ok || p.queried.UUID != "" {
			return fmt.Errorf("%s is not the UUID of a GPU, or its second one", quote(value))
		}
		p.queried.UUID = uuid
	case "GPU PDI":
		if value == "N/A" || value == "" {
			return nil
		}
		digits, ok := strings.CutPrefix(value, "0x")
		pdi, err := strconv.ParseUint(digits, 16, 64)
		if !ok || err != nil || p.queried.HasPDI {
			return fmt.Errorf("%s is not a PDI, or a second one", quote(value))
		}
		p.queried.PDI, p.queried.HasPDI = pdi, true
	}
	return nil
}

// takeID parses a key of a MIG device.
func (p *parser) takeID(key, value string) error {
	var place int
	switch key {
	case indexKey:
		if err := p.endDevice(); err != nil {
			return err
		}
		p.partial, place = &[3]int{-1, -1, -1}, 0
	case giKey:
		place = 1
	case ciKey:
		place = 2
	default:
		return nil
	}
	number, err := strconv.ParseUint(value, 10, 16)
	if err != nil || p.partial == nil || p.partial[place] >= 0 {
		return fmt.Errorf("%s %s of a MIG device: not a number, or in the wrong place", key, quote(value))
	}
	p.partial[place] = int(number)
	return nil
}

// endDevice completes the current MIG device.
func (p *parser) endDevice() error {
	if p.partial == nil {
		return nil
	}
	ids := IDs{p.partial[0], p.partial[1], p.partial[2]}
	p.partial = nil
	if ids.GI < 0 || ids.CI < 0 || len(p.queried.IDs) == maxDevices {
		return fmt.Errorf("the MIG device before it, with the index %d, has no %s or no %s, or is one of too many",
			ids.Index, giKey, ciKey)
	}
	for _, other := range p.queried.IDs {
		if other.Index == ids.Index || other.GI == ids.GI && other.CI == ids.CI {
			return fmt.Errorf("the MIG device before it, with the index %d, is a duplicate", ids.Index)
		}
	}
	p.queried.IDs = append(p.queried.IDs, ids)
	return nil
}

// endGPU completes the current GPU.
func (p *parser) endGPU() error {
	if p.queried == nil {
		return nil
	}
	if err := p.endDevice(); err != nil {
		return err
	}
	read := p.queried
	p.queried = nil
	if read.UUID == "" {
		p.report.Lines = append(p.report.Lines, Line{p.line, fmt.Sprintf("GPU %s has no UUID", quote(read.Address))})
		return nil
	}
	gpu := p.gpu(read.UUID)
	if gpu.Queried || len(p.report.GPUs) > maxGPUs {
		return fmt.Errorf("%s is described twice, or there are too many GPUs", read.UUID)
	}
	listed, devices := gpu.Listed, gpu.Devices
	*gpu = *read
	gpu.Listed, gpu.Devices = listed, devices
	return nil
}

// endQuery completes the output of -q.
func (p *parser) endQuery() error {
	if err := p.endGPU(); err != nil {
		return err
	}
	if p.query && p.attached != p.counted {
		if p.attached < 0 {
			return errors.New("cut off: nvidia-smi -q says nowhere how many GPUs are attached")
		}
		return fmt.Errorf("cut off: nvidia-smi -q announces %d GPUs and describes %d", p.attached, p.counted)
	}
	p.query = false
	return nil
}

// quote quotes text that we did not write, and shortens it to what one reads in a message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return strconv.Quote(s)
}
