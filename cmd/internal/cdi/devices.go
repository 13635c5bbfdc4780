// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"path"
	"slices"
)

// Device is a device of a file.
type Device struct {
	Name   string `json:"name"` // "nvidia.com/gpu=0"
	File   string `json:"file"`
	Remark string `json:"remark,omitempty"` // why no engine gives it as this file describes it
}

// Devices lists the devices of files, which are in the order of [ReadDirs]. Of a name that two
// files of one directory have, engines give no device, not even one of another directory; else the
// file in the later directory counts (pkg/cdi in the CDI library).
func Devices(found []Found) []Device {
	type place struct{ device, dir string }
	devices := []Device{}
	last := map[string]string{}  // device to file
	twice := map[string]string{} // device to what is wrong with it
	inDir := map[place]string{}  // to file
	for _, f := range found {
		if f.Err != nil {
			continue
		}
		for _, d := range f.File.Spec.Devices {
			name := f.File.Kind() + "=" + d.Name
			at := place{name, path.Dir(f.Path)}
			if other, ok := inDir[at]; ok && other != f.Path {
				twice[name] = "not given: " + other + " and " + f.Path + " have it"
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

// Rivals are the files beside name that describe devices of its names too.
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
