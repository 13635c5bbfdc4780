// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"path"
	"slices"
)

// usualPath are the directories of programs after those of the caller's PATH. The last two are Flatcar's
// and NixOS's.
var usualPath = [...]string{
	"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin", "/run/current-system/sw/bin",
}

// findBinaries looks for programs in the caller's PATH, in the usual directories, and in the bin beside
// each library directory, which is where the container operating systems have them
// (/var/lib/nvidia/bin). The first executable file of a name counts; in the container it is in
// /usr/bin, as the classic runtime has it.
//
// A class brings only its own programs, not those of a class it implies: video gets no MPS daemon.
func findBinaries(t *tree, o Options, libraryDirs []string) []File {
	var dirs []string
	add := func(name string) {
		if n := t.lookup(name); n.isDir() && !slices.Contains(dirs, n.path) {
			dirs = append(dirs, n.path)
		}
	}
	wanted := 0
	for _, b := range binaries {
		if b.class&o.Classes != 0 {
			wanted++
		}
	}
	if wanted == 0 {
		return nil
	}
	for _, name := range absolute(o.Path) {
		add(name)
	}
	for _, name := range usualPath {
		add(name)
	}
	for _, dir := range libraryDirs {
		add(path.Join(dir, "..", "bin"))
	}
	var files []File
	for _, b := range binaries {
		if b.class&o.Classes == 0 {
			continue
		}
		for _, dir := range dirs {
			n := t.entry(dir, b.name, 0)
			if !n.isRegular() {
				continue
			}
			if full, ok := t.stat(n); !ok || full.mode.Perm()&0o111 == 0 {
				continue
			}
			files = append(files, File{
				Path: n.path, Name: b.name, Kind: Binary, Class: b.class, Dest: "/usr/bin/" + b.name,
			})
			break
		}
	}
	return files
}
