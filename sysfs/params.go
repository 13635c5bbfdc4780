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
	"slices"
	"strconv"
	"strings"
)

// Params are the module's parameters for device nodes, from /proc/driver/nvidia/params. They apply
// to /dev/nvidiaN, nvidiactl and nvidia-modeset.
type Params struct {
	ModifyDeviceFiles bool        // NVIDIA's user-mode tools may create and change nodes
	DeviceFileUID     uint32      // owner
	DeviceFileGID     uint32      // group
	DeviceFileMode    fs.FileMode // permission bits
}

// defaultParams are NVIDIA's tools' defaults for a missing file or line.
var defaultParams = Params{ModifyDeviceFiles: true, DeviceFileMode: 0o666}

// MayMake reports whether the driver's parameters let programs create a node: they apply to nodes
// of the modules nvidia and nvidia-modeset.
func (inv Inventory) MayMake(n Node) bool {
	m := inv.Majors
	return inv.Params.ModifyDeviceFiles || !slices.Contains([]int{m.Nvidia, m.Ctl, m.Modeset, m.Caps}, n.Major)
}

const procParams = "proc/driver/nvidia/params"

// readParams reads /proc/driver/nvidia/params.
func readParams(root Root) (Params, error) {
	data, err := root.ReadFile(procParams)
	if errors.Is(err, fs.ErrNotExist) {
		return defaultParams, nil
	}
	if err != nil {
		return Params{}, err
	}
	params, err := parseParams(bytes.NewReader(data))
	if err != nil {
		return Params{}, fmt.Errorf("%s: %w", root.Path(procParams), err)
	}
	return params, nil
}

// parseParams parses about 45 lines of a name and a decimal number or a quoted string:
//
//	ResmanDebugLevel: 4294967295
//	ModifyDeviceFiles: 1
//	DeviceFileUID: 0
//	DeviceFileGID: 0
//	DeviceFileMode: 438
//	ExcludedGpus: ""
func parseParams(r io.Reader) (Params, error) {
	modify, mode := uint64(1), uint64(defaultParams.DeviceFileMode)
	var uid, gid uint64
	keys := []struct {
		name  string
		value *uint64
		limit uint64
		line  int
	}{
		{name: "ModifyDeviceFiles", value: &modify, limit: 1},
		{name: "DeviceFileUID", value: &uid, limit: 1<<32 - 1},
		{name: "DeviceFileGID", value: &gid, limit: 1<<32 - 1},
		{name: "DeviceFileMode", value: &mode, limit: uint64(fs.ModePerm)},
	}
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, MaxFile) // RegistryDwords can be long
	for line := 1; lines.Scan(); line++ {
		name, text, ok := strings.Cut(lines.Text(), ":")
		if !ok && strings.TrimSpace(name) != "" {
			return Params{}, fmt.Errorf("line %d: no colon in %s", line, quote(name))
		}
		name, text = strings.TrimSpace(name), strings.TrimSpace(text)
		for i := range keys {
			key := &keys[i]
			if key.name != name {
				continue
			}
			if key.line != 0 {
				return Params{}, fmt.Errorf("line %d: second %s", line, name)
			}
			value, err := strconv.ParseUint(text, 10, 64)
			if err != nil || value > key.limit {
				return Params{}, fmt.Errorf("line %d: %s is %s, not a number up to %d",
					line, name, quote(text), key.limit)
			}
			key.line, *key.value = line, value
		}
	}
	if err := lines.Err(); err != nil {
		return Params{}, err
	}
	return Params{
		ModifyDeviceFiles: modify == 1,
		DeviceFileUID:     uint32(uid),
		DeviceFileGID:     uint32(gid),
		DeviceFileMode:    fs.FileMode(mode),
	}, nil
}
