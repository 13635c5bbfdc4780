// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"encoding/binary"
	"errors"
	"io/fs"
)

// PCISerial reads the device serial number of a PCI function, as it is in its configuration space, from
// /sys/bus/pci/devices/<name>/config: the 8 bytes behind the header of the extended capability 0x0003. Few boards
// have it, and beyond 64 bytes only root may read the file; then ok is false.
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

// parseSerial follows the list of extended capabilities: each begins with 32 bits, little endian, of which the
// lower 16 are its id and the upper 12 where the next one is. Its end is 0; a function that has fallen off the bus
// reads as all ones.
func parseSerial(config []byte) (serial [8]byte, ok bool) {
	const (
		first    = 0x100
		serialID = 0x0003
	)
	// Each has 4 bytes of its own at least, so that a list that runs in a circle ends here too.
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
