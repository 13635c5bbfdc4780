// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"cmp"
	"errors"
	"fmt"
	"strconv"
	"strings"
)

// Address is the address of a PCI function, the one identity that every GPU has. Compare addresses,
// not strings: padding and case differ between the kernel, versions of the driver and NVIDIA's
// tools.
type Address struct {
	Domain                uint32
	Bus, Device, Function uint8
}

// ParseAddress parses domain, bus, device and function as hexadecimal numbers in upper or lower
// case, with any zero padding:
//
//	0000:01:00.0
//	00010000:01:00.0
//	0:1:0.0
//
// All four are required.
func ParseAddress(s string) (Address, error) {
	malformed := fmt.Errorf("%s is not a PCI address as in 0000:01:00.0", quote(s))
	domain, rest, ok := strings.Cut(s, ":")
	if !ok {
		return Address{}, malformed
	}
	bus, rest, ok := strings.Cut(rest, ":")
	if !ok {
		return Address{}, malformed
	}
	device, function, ok := strings.Cut(rest, ".")
	if !ok || len(function) != 1 {
		return Address{}, malformed
	}
	var numbers [4]uint64
	for i, part := range []struct {
		digits string
		bits   int
	}{{domain, 32}, {bus, 8}, {device, 5}, {function, 3}} {
		number, err := strconv.ParseUint(part.digits, 16, part.bits)
		if errors.Is(err, strconv.ErrRange) {
			return Address{}, fmt.Errorf("%s is not a PCI address: %s is out of range", quote(s), quote(part.digits))
		}
		if err != nil {
			return Address{}, malformed
		}
		numbers[i] = number
	}
	return Address{
		Domain:   uint32(numbers[0]),
		Bus:      uint8(numbers[1]),
		Device:   uint8(numbers[2]),
		Function: uint8(numbers[3]),
	}, nil
}

// String returns the kernel's spelling, the name below /sys/bus/pci/devices: lower case, a domain
// of at least four digits.
func (a Address) String() string {
	return fmt.Sprintf("%04x:%02x:%02x.%x", a.Domain, a.Bus, a.Device, a.Function)
}

// Compare orders addresses as NVIDIA's tools number GPUs.
func (a Address) Compare(b Address) int {
	return cmp.Or(
		cmp.Compare(a.Domain, b.Domain),
		cmp.Compare(a.Bus, b.Bus),
		cmp.Compare(a.Device, b.Device),
		cmp.Compare(a.Function, b.Function),
	)
}
