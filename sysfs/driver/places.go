// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"path"
	"slices"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Places are the absolute paths below a root where [Find] searches for the driver's files, existing
// or not, in its order, without duplicates.
type Places struct {
	Libraries []string // directories of libraries, which include their "tls", "vdpau" and "gbm"
	Programs  []string // directories of programs
	Modules   []string // directories of modules of the X server
	Configs   []string // directories of manifests and other data
	Firmware  []string // directories of one version's firmware
	Sockets   []string // sockets of daemons
}

// PlacesOf returns the places for the options. libraryDirs are additional directories of libraries,
// such as those in the loader's cache.
func PlacesOf(root sysfs.Root, o Options, libraryDirs ...string) (Places, error) {
	arches, err := o.arches()
	if err != nil {
		return Places{}, err
	}
	p := Places{Libraries: slices.Concat(absolute(o.SearchPath), absolute(libraryDirs))}
	for _, arch := range arches {
		p.Libraries = append(p.Libraries, usualDirs(arch, o.Version)...)
	}
	p.Libraries = once(p.Libraries)
	p.Programs = once(programDirs(o, p.Libraries))
	for _, tree := range moduleTrees(p.Libraries) {
		p.Modules = append(p.Modules, tree.drivers, tree.extensions)
	}
	p.Modules = once(p.Modules)
	for _, c := range configs {
		p.Configs = append(p.Configs, configDirs(c.dir, o)...)
	}
	p.Configs = once(p.Configs)
	dirs, err := firmwareDirs(root, o)
	if err != nil {
		return Places{}, err
	}
	for _, dir := range once(dirs) {
		p.Firmware = append(p.Firmware, path.Join(dir, "nvidia", o.Version))
	}
	for _, name := range sockets {
		p.Sockets = append(p.Sockets, path.Join("/run", name), path.Join("/var/run", name))
	}
	return p, nil
}

// once drops duplicates.
func once(names []string) []string {
	var kept []string
	for _, name := range names {
		if !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
	}
	return kept
}
