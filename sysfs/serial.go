// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"encoding/binary"
	"errors"
	"io/fs"
)

// PCISerial reads the device serial number of a PCI function from its configuration space,
// /sys/bus/pci/devices/<name>/config: 8 bytes after the header of the extended capability 0x0003.
// ok is false without one: few boards have it, and only root may read more than 64 bytes of the
// file.
func PCISerial(root Root, name string) (serial [8]byte, ok bool, err error) {
	const maxConfig = 4096 // of PCI Express
	config, err := root.ReadFileMax(sysPCI+"/"+name+"/config", maxConfig)
	if errors.Is(err, fs.ErrNotExist) {
		return serial, false, nil
	}
	if err != nil {
		return serial, false, err
	}
	serial, ok = parseSerial(config)
	return serial, ok, nil
}

// parseSerial follows the list of extended capabilities: each begins with 32 bits, little endian,
// with its ID in the lower 16 and the offset of the next one in the upper 12, 0 at the end. A
// function that has fallen off the bus reads as ones.
func parseSerial(config []byte) (serial [8]byte, ok bool) {
	const (
		first    = 0x100
		serialID = 0x0003
	)
	// Each has at least 4 bytes, which limits a circular list.
	for at, seen := first, 0; at >= first && at+12 <= len(config) && seen < len(config)/4; seen++ {
		header := binary.LittleEndian.Uint32(config[at:])
		if header == 0xffffffff {
			return serial, false
		}
		if header&0xffff == serialID {
			return [8]byte(config[at+4 : at+12]), true
		}
		at = int(header >> 20)
	}
	return serial, false
}
