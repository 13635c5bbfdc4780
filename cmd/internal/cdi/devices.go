// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"path"
	"slices"
)

// Device is a device that a file defines.
type Device struct {
	Name   string `json:"name"` // "nvidia.com/gpu=0"
	File   string `json:"file"`
	Remark string `json:"remark,omitempty"` // why engines ignore this definition
}

// Devices lists the devices of files, which are in the order of [ReadDirs]. Engines ignore a device
// that two files in one directory define, even if another directory has it, too; otherwise the last
// directory wins (pkg/cdi in the CDI library).
func Devices(found []Found) []Device {
	type place struct{ device, dir string }
	devices := []Device{}
	last := map[string]string{}  // device to file
	twice := map[string]string{} // device to remark
	inDir := map[place]string{}  // to file
	for _, f := range found {
		if f.Err != nil {
			continue
		}
		for _, d := range f.File.Spec.Devices {
			name := f.File.Kind() + "=" + d.Name
			at := place{name, path.Dir(f.Path)}
			if other, ok := inDir[at]; ok && other != f.Path {
				twice[name] = "ignored: both " + other + " and " + f.Path + " define it"
			}
			inDir[at], last[name] = f.Path, f.Path
			devices = append(devices, Device{Name: name, File: f.Path})
		}
	}
	for n := range devices {
		d := &devices[n]
		if d.Remark = twice[d.Name]; d.Remark == "" && last[d.Name] != d.File {
			d.Remark = "hidden by " + last[d.Name]
		}
	}
	return devices
}

// Rivals returns the other files in name's directory that define devices with the same names.
func Rivals(name string, caller int) ([]string, error) {
	found, err := ReadDirs("/", []string{path.Dir(name)}, caller)
	if err != nil {
		return nil, err
	}
	devices := Devices(found)
	var files []string
	for _, d := range devices {
		own := slices.ContainsFunc(devices, func(o Device) bool { return o.File == name && o.Name == d.Name })
		if own && d.File != name && !slices.Contains(files, d.File) {
			files = append(files, d.File)
		}
	}
	return files, nil
}
