// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"debug/elf"
	"path"
	"strings"
)

// configs are the directories of configuration files, below /etc or a data directory, the
// files in them, and where they go in the container. A pattern is one of [path.Match]; patterns take
// what later drivers add (09_nvidia_wayland2.json). The places are those of the container toolkit.
var configs = [...]struct {
	dir, base string
	names     []string
}{
	{"glvnd/egl_vendor.d", "/usr/share", []string{"10_nvidia.json"}},
	{"egl/egl_external_platform.d", "/usr/share", []string{"[0-9][0-9]_nvidia_*.json"}},
	{"nvidia", "/usr/share", []string{"nvoptix.bin"}},
	{"X11/xorg.conf.d", "/usr/share", []string{"10-nvidia.conf", "nvidia-drm-outputclass.conf"}},
	{"OpenCL/vendors", "/etc", []string{"nvidia.icd"}},
	{"vulkan/icd.d", "/etc", []string{"nvidia_icd.json", "nvidia_icd.ARCH.json", "nvidia_layers.json"}},
	{"vulkan/implicit_layer.d", "/etc", []string{"nvidia_layers.json"}},
}

// icdNames are the architectures in the names of Vulkan drivers, as RPM spells them.
var icdNames = [...]struct {
	machine elf.Machine
	name    string
	compat  string // of the 32-bit sister
}{
	{elf.EM_X86_64, "x86_64", "i686"},
	{elf.EM_AARCH64, "aarch64", ""},
	{elf.EM_386, "i686", ""},
}

// findConfigs looks for the configuration files of graphics in /etc and the data directories, those of
// Vulkan also directly below the root, where Container-Optimized OS has them. The first of a
// name counts.
func findConfigs(t *tree, o Options) []File {
	if o.Classes&(Graphics|Display) == 0 {
		return nil
	}
	bases := []string{"/etc"}
	if dirs := absolute(o.DataDirs); len(dirs) > 0 {
		bases = append(bases, dirs...)
	} else {
		bases = append(bases, "/usr/local/share", "/usr/share")
	}
	var files []File
	for _, c := range configs {
		names := configNames(c.names, o)
		found := make(map[string]bool)
		for _, base := range bases {
			files = append(files, configsIn(t, path.Join(base, c.dir), path.Join(c.base, c.dir), names, found)...)
		}
		if strings.HasPrefix(c.dir, "vulkan/") {
			files = append(files, configsIn(t, "/"+c.dir, path.Join(c.base, c.dir), names, found)...)
		}
	}
	return files
}

// configNames puts the architectures in the place of ARCH.
func configNames(patterns []string, o Options) []string {
	var names []string
	for _, pattern := range patterns {
		if !strings.Contains(pattern, "ARCH") {
			names = append(names, pattern)
			continue
		}
		for _, icd := range icdNames {
			if icd.machine != o.Machine {
				continue
			}
			names = append(names, strings.Replace(pattern, "ARCH", icd.name, 1))
			if o.Classes&Compat32 != 0 && icd.compat != "" {
				names = append(names, strings.Replace(pattern, "ARCH", icd.compat, 1))
			}
		}
	}
	return names
}

// configsIn returns the files of one directory that match and were not found before.
func configsIn(t *tree, dir, dest string, patterns []string, found map[string]bool) []File {
	at := t.lookup(dir)
	if !at.isDir() {
		return nil
	}
	var files []File
	take := func(name string) {
		if n := t.entry(at.path, name, 0); n.isRegular() && !found[name] {
			found[name] = true
			files = append(files, File{
				Path: n.path, Name: name, Kind: Config, Class: Graphics | Display, Dest: path.Join(dest, name),
			})
		}
	}
	for _, pattern := range patterns {
		if !strings.ContainsAny(pattern, "[*") {
			take(pattern)
			continue
		}
		for _, e := range t.list(at.path) {
			if ok, _ := path.Match(pattern, e.Name()); ok && validName(e.Name()) {
				take(e.Name())
			}
		}
	}
	return files
}
