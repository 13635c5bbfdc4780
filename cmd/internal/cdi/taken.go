// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"fmt"
	"path"
)

// Taken tells which devices of the file at name no engine gives as it describes them, and why: by the device's whole name.
// Of a name that two files of one directory have, engines give no device, not even one of another directory; else
// the file in the later directory counts (pkg/cdi in the CDI library). found are all files, in the order of [ReadDirs].
func Taken(found []Found, name string) map[string]string {
	type place struct{ device, dir string }
	taken := map[string]string{}
	last := map[string]string{} // device to file
	twice := map[string]string{}
	inDir := map[place]string{}
	own := map[string]bool{}
	for _, f := range found {
		if f.Err != nil {
			continue
		}
		for _, d := range f.File.Spec.Devices {
			device := f.File.Kind() + "=" + d.Name
			own[device] = own[device] || f.Path == name
			at := place{device, path.Dir(f.Path)}
			if other, ok := inDir[at]; ok && other != f.Path {
				twice[device] = fmt.Sprintf("not given: %s and %s have it", other, f.Path)
			}
			inDir[at], last[device] = f.Path, f.Path
		}
	}
	for device := range own {
		switch {
		case !own[device]:
		case twice[device] != "":
			taken[device] = twice[device]
		case last[device] != name:
			taken[device] = "hidden by " + last[device]
		}
	}
	return taken
}
