// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// maxMinor is the kernel's largest device minor.
const maxMinor = 1<<20 - 1

// Capability is a file below /proc/driver/nvidia/capabilities: whoever can open the node
// /dev/nvidia-caps/nvidia-cap<Minor>, of the major "nvidia-caps" in /proc/devices, has the right.
type Capability struct {
	Minor  int         // DeviceFileMinor
	Mode   fs.FileMode // DeviceFileMode, permission bits
	Modify bool        // DeviceFileModify: NVIDIA's tools may create and change the node
	// Empty reports whether the file was empty: drivers of the 450 branch check the permissions of
	// the file itself and need no node. Minor then comes from the driver's table.
	Empty bool
}

// readCapability reads one file of capabilities.
func readCapability(fsys fs.FS, name string) (Capability, error) {
	data, err := fs.ReadFile(fsys, name)
	if err != nil {
		return Capability{}, err
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return Capability{Mode: 0o444, Empty: true}, nil
	}
	capability, err := parseCapability(bytes.NewReader(data))
	if err != nil {
		return Capability{}, fmt.Errorf("%s: %w", name, err)
	}
	return capability, nil
}

// parseCapability parses the three decimal lines of an access file, which nv-caps.c of NVIDIA's
// open kernel modules prints:
//
//	DeviceFileMinor: 3
//	DeviceFileMode: 292
//	DeviceFileModify: 1
//
// Other keys are ignored.
func parseCapability(r io.Reader) (Capability, error) {
	const (
		minor = iota
		mode
		modify
	)
	keys := []struct {
		name  string
		limit int
		line  int
		value int
	}{
		minor:  {name: "DeviceFileMinor", limit: maxMinor},
		mode:   {name: "DeviceFileMode", limit: int(fs.ModePerm)},
		modify: {name: "DeviceFileModify", limit: 1},
	}
	lines := bufio.NewScanner(r)
	for line := 1; lines.Scan(); line++ {
		text := strings.TrimSpace(lines.Text())
		if text == "" {
			continue
		}
		name, text, ok := strings.Cut(text, ":")
		if !ok {
			return Capability{}, fmt.Errorf("line %d: no colon in %s", line, quote(name))
		}
		name, text = strings.TrimSpace(name), strings.TrimSpace(text)
		for i := range keys {
			key := &keys[i]
			if key.name != name {
				continue
			}
			if key.line != 0 {
				return Capability{}, fmt.Errorf("line %d: second %s", line, name)
			}
			value, ok := parseNumber(text)
			if !ok || value > key.limit {
				return Capability{}, fmt.Errorf("line %d: %s is %s, not a number up to %d",
					line, name, quote(text), key.limit)
			}
			key.line, key.value = line, value
		}
	}
	if err := lines.Err(); err != nil {
		return Capability{}, err
	}
	for _, key := range keys {
		if key.line == 0 {
			return Capability{}, fmt.Errorf("no line %s", key.name)
		}
	}
	return Capability{
		Minor:  keys[minor].value,
		Mode:   fs.FileMode(keys[mode].value),
		Modify: keys[modify].value == 1,
	}, nil
}
