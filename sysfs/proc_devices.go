// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strconv"
	"strings"
)

// Majors are the major numbers of character devices, from /proc/devices. -1 means a missing name:
// its module is not loaded, or too old. All but Nvidia may change when modules are loaded again.
type Majors struct {
	Nvidia       int // of /dev/nvidiaN: "nvidia", or "nvidia-frontend" with drivers before about 550.40
	Ctl          int // of /dev/nvidiactl: "nvidiactl", else that of Nvidia
	Modeset      int // of /dev/nvidia-modeset: "nvidia-modeset", or "nvidia-frontend" if nvidia_modeset is loaded
	UVM          int // of /dev/nvidia-uvm and -uvm-tools: "nvidia-uvm"
	Caps         int // of /dev/nvidia-caps/nvidia-capN: "nvidia-caps"
	IMEXChannels int // of /dev/nvidia-caps-imex-channels/channelN: "nvidia-caps-imex-channels"
	NVLink       int // of /dev/nvidia-nvlink: "nvidia-nvlink"
	NVSwitch     int // of /dev/nvidia-nvswitchctl and -nvswitchN: "nvidia-nvswitch"

	all []major
}

// major is one line of /proc/devices.
type major struct {
	name   string
	number int
}

const procDevices = "proc/devices"

// maxMajor is the kernel's largest major number.
const maxMajor = 1<<12 - 1

// Lookup returns the major of a character device by its full name, such as "gdrdrv" or "nvidia-fs".
func (m Majors) Lookup(name string) (int, bool) {
	for _, line := range m.all {
		if line.name == name {
			return line.number, true
		}
	}
	return -1, false
}

// readMajors reads /proc/devices and, for old drivers, /sys/module.
func readMajors(root Root) (Majors, error) {
	data, err := root.ReadFile(procDevices)
	if err != nil {
		return noMajors, err
	}
	majors, err := parseMajors(bytes.NewReader(data))
	if err != nil {
		return noMajors, fmt.Errorf("%s: %w", root.Path(procDevices), err)
	}
	if _, frontend := majors.Lookup("nvidia-frontend"); frontend && majors.Modeset < 0 {
		// Old drivers have one line for all of major 195; /sys shows whether nvidia_modeset is
		// loaded.
		_, nvidia := root.Stat("sys/module/nvidia")
		_, modeset := root.Stat("sys/module/nvidia_modeset")
		if nvidia != nil || !errors.Is(modeset, fs.ErrNotExist) {
			majors.Modeset = majors.Nvidia
		}
	}
	return majors, nil
}

var noMajors = Majors{Nvidia: -1, Ctl: -1, Modeset: -1, UVM: -1, Caps: -1, IMEXChannels: -1, NVLink: -1, NVSwitch: -1}

// parseMajors parses the first section of /proc/devices, printed by fs/char_dev.c of the kernel:
//
//	Character devices:
//	  1 mem
//	195 nvidia
//	195 nvidiactl
//	507 nvidia-uvm
//
//	Block devices:
//
// The first entry of a name counts.
func parseMajors(r io.Reader) (Majors, error) {
	majors := noMajors
	lines := bufio.NewScanner(r)
	character := false
	for line := 1; lines.Scan(); line++ {
		text := strings.TrimSpace(lines.Text())
		if !character {
			if text != "" && text != "Character devices:" {
				return noMajors, fmt.Errorf("line %d: %s where the character devices should begin", line, quote(text))
			}
			character = text != ""
			continue
		}
		if text == "" || text == "Block devices:" {
			break
		}
		digits, name, _ := strings.Cut(text, " ")
		number, err := strconv.ParseUint(digits, 10, 32)
		if err != nil || number > maxMajor || strings.TrimSpace(name) == "" {
			return noMajors, fmt.Errorf("line %d: %s is not a major number and a name", line, quote(text))
		}
		majors.all = append(majors.all, major{strings.TrimSpace(name), int(number)})
	}
	if err := lines.Err(); err != nil {
		return noMajors, err
	}
	for _, known := range []struct {
		major *int
		names []string
	}{
		{&majors.Nvidia, []string{"nvidia", "nvidia-frontend"}},
		{&majors.Ctl, []string{"nvidiactl", "nvidia", "nvidia-frontend"}},
		{&majors.Modeset, []string{"nvidia-modeset"}},
		{&majors.UVM, []string{"nvidia-uvm"}},
		{&majors.Caps, []string{"nvidia-caps"}},
		{&majors.IMEXChannels, []string{"nvidia-caps-imex-channels"}},
		{&majors.NVLink, []string{"nvidia-nvlink"}},
		{&majors.NVSwitch, []string{"nvidia-nvswitch"}},
	} {
		for _, name := range known.names {
			if number, ok := majors.Lookup(name); ok {
				*known.major = number
				break
			}
		}
	}
	return majors, nil
}
