// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// GPU is one directory of /proc/driver/nvidia/gpus: a GPU that the driver is bound to. Its fields
// up to Excluded come from the file "information" in there.
type GPU struct {
	Address   Address // from the directory's name
	Name      string  // the directory's name, for paths in /proc
	Model     string  // "NVIDIA H100 80GB HBM3"; older drivers omit "NVIDIA "
	UUID      string  // "GPU-9221d5d1-b60b-a624-bf14-0a1819cfda3b"; "" until the GPU has been used once
	VideoBIOS string  // "96.00.99.00.01"; "" until the GPU has been used once
	BusType   string  // "PCIe" or "PCI", whatever the board is
	Firmware  string  // version of the GSP firmware: "535.129.03"; "" if none
	Minor     int     // of /dev/nvidiaN; unrelated to the index
	Excluded  bool    // by the administrator; it cannot be opened

	// Index is the rank in ascending address among the GPUs that are not excluded, as nvidia-smi
	// numbers them (it leaves out broken ones too, which cannot be seen here). It is -1 for an
	// excluded GPU.
	Index int

	Instances []mig.Instance // MIG devices in the order of n in "g:n"; nil unless read
	masked    []mig.Instance // hidden from this process, by ID

	// Err says why the GPU is unusable: its files could not be read or parsed. It keeps its place
	// in the list and its index; Minor is -1.
	Err error
}

const procGPUs = "proc/driver/nvidia/gpus"

// maxGPUMinor is the driver's highest minor of a GPU; 254 and 255 are control nodes.
const maxGPUMinor = 247

// readInformation reads /proc/driver/nvidia/gpus/<name>/information into the GPU of that name.
func readInformation(root Root, gpu GPU) (GPU, error) {
	name := procGPUs + "/" + gpu.Name + "/information"
	data, err := root.ReadFile(name)
	if err != nil {
		return GPU{}, err
	}
	read, err := parseInformation(bytes.NewReader(data))
	if err != nil {
		return GPU{}, fmt.Errorf("%s: %w", root.Path(name), err)
	}
	read.Address, read.Name = gpu.Address, gpu.Name
	return read, nil
}

// parseInformation parses lines of a key, a colon, tabs and blanks, and a value, as nv-procfs.c of
// NVIDIA's open kernel modules prints them:
//
//	Model: 		 NVIDIA L4
//	IRQ:   		 16
//	GPU UUID: 	 GPU-3291dfa4-fcc4-0110-615b-c894a0d7c689
//	Video BIOS: 	 95.04.65.00.13
//	Bus Type: 	 PCIe
//	DMA Size: 	 47 bits
//	DMA Mask: 	 0x7fffffffffff
//	Bus Location: 	 0000:70:00.0
//	Device Minor: 	 0
//	GPU Firmware: 	 535.129.03
//	GPU Excluded:	 No
//
// Lines vary with the driver's version; only the minor is always there. Values that the driver does
// not know yet are missing, or have question marks for digits.
func parseInformation(r io.Reader) (GPU, error) {
	var gpu GPU
	seen := map[string]bool{}
	lines := bufio.NewScanner(r)
	for line := 1; lines.Scan(); line++ {
		key, value, ok := strings.Cut(lines.Text(), ":")
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		if !ok {
			if key == "" {
				continue
			}
			return GPU{}, fmt.Errorf("line %d: no colon in %s", line, quote(key))
		}
		if key == "Blacklisted" { // up to about R450
			key = "GPU Excluded"
		}
		var err error
		switch key {
		case "Model":
			gpu.Model = value
		case "GPU UUID":
			gpu.UUID, err = parseUUID(value)
		case "Video BIOS":
			gpu.VideoBIOS = known(value)
		case "Bus Type":
			gpu.BusType = value
		case "GPU Firmware":
			gpu.Firmware = known(value)
		case "Device Minor":
			gpu.Minor, err = parseMinor(value)
		case "GPU Excluded":
			gpu.Excluded = value == "Yes"
			if value != "Yes" && value != "No" {
				err = fmt.Errorf("%s is neither Yes nor No", quote(value))
			}
		default:
			continue
		}
		if err == nil && seen[key] {
			err = errors.New("given twice")
		}
		if err != nil {
			return GPU{}, fmt.Errorf("line %d: %s: %w", line, key, err)
		}
		seen[key] = true
	}
	if err := lines.Err(); err != nil {
		return GPU{}, err
	}
	if !seen["Device Minor"] {
		return GPU{}, errors.New("no line Device Minor")
	}
	return gpu, nil
}

// known drops values that mean "unknown".
func known(value string) string {
	if value == "N/A" || strings.Contains(value, "?") {
		return ""
	}
	return value
}

// parseUUID checks a UUID; it returns "" for the question marks of an unknown one. The digits
// follow no version of RFC 9562.
func parseUUID(value string) (string, error) {
	const unknown = "GPU-????????-????-????-????-????????????"
	if value == unknown {
		return "", nil
	}
	if _, ok := mig.UUIDPrefix(value, "GPU-"); !ok || len(value) != len(unknown) {
		return "", fmt.Errorf("%s is not a UUID as in GPU-3291dfa4-fcc4-0110-615b-c894a0d7c689", quote(value))
	}
	return value, nil
}

func parseMinor(value string) (int, error) {
	minor, err := strconv.ParseUint(value, 10, 32)
	if err != nil || minor > maxGPUMinor {
		return 0, fmt.Errorf("%s is not a number up to %d", quote(value), maxGPUMinor)
	}
	return int(minor), nil
}
