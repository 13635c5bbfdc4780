// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"path"
	"slices"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Places are the absolute names below a root where [Find] looks for the driver's files, whether
// they are there or not, each once and in its order.
type Places struct {
	Libraries []string // directories of libraries; their "tls", "vdpau" and "gbm" belong to them
	Programs  []string // directories of programs
	Modules   []string // directories of modules of the X server
	Configs   []string // directories of manifests and other data
	Firmware  []string // directories of one version's firmware
	Sockets   []string // sockets of daemons
}

// PlacesOf returns the places for the options. libraryDirs are directories of libraries that are
// known beside the usual ones, such as those that the loader's cache names.
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

// once drops what was there before.
func once(names []string) []string {
	var kept []string
	for _, name := range names {
		if !slices.Contains(kept, name) {
			kept = append(kept, name)
		}
	}
	return kept
}
