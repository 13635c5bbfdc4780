// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"io"
	"path"
	"slices"
	"strings"
)

// usualPath are the directories searched for programs after the caller's PATH. The last ones belong
// to Flatcar, NixOS, and Debian's alternatives, the only place that TrueNAS has.
var usualPath = [...]string{
	"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin", "/opt/bin",
	"/run/current-system/sw/bin", "/usr/lib/nvidia/current",
}

// programDirs returns the directories of programs in search order.
func programDirs(o Options, libraryDirs []string) []string {
	dirs := slices.Concat(absolute(o.Path), usualPath[:])
	for _, dir := range libraryDirs {
		dirs = append(dirs, path.Join(dir, "..", "bin"), dir)
	}
	return dirs
}

// findBinaries searches for programs in the caller's PATH, the usual directories, the bin next to
// each library directory, as on container operating systems (/var/lib/nvidia/bin), and among the
// libraries. The first program of a name counts; in the container it is in /usr/bin, as with the
// classic runtime. A script counts only if there is no program: it starts one at a path that the
// container lacks (Synology).
//
// A class adds only its own programs, not those of a class it implies: video gets no MPS daemon.
//
// The programs of NixOS and Guix need a loader from the host's store, which containers never get.
// For containers, NixOS also keeps the programs as NVIDIA ships them, in origBin next to bin
// (nvidia-x11/builder.sh in nixpkgs). Programs without such a copy are noted.
func findBinaries(t *tree, o Options, libraryDirs []string) []File {
	var dirs []string
	add := func(name string) {
		if n := t.lookup(name); n.isDir() && !slices.Contains(dirs, n.path) {
			dirs = append(dirs, n.path)
		}
	}
	if !slices.ContainsFunc(binaries[:], func(b namedProgram) bool { return b.class&o.Classes != 0 }) {
		return nil
	}
	for _, name := range programDirs(o, libraryDirs) {
		add(name)
	}
	var files []File
	var loader string
	var strangers []string // programs that need loader
	for _, b := range binaries {
		if b.class&o.Classes == 0 {
			continue
		}
		var script *File
		for _, dir := range dirs {
			n := t.entry(dir, b.name, 0)
			if !t.executable(n) {
				continue
			}
			file := File{Path: n.path, Name: b.name, Kind: Binary, Class: b.class, Dest: "/usr/bin/" + b.name}
			p, err := ofFile(t.root.Path(n.path), readProgram)
			if err != nil {
				t.note("program %s is left out: %v", quote(t.root.Path(n.path)), err)
				continue
			}
			if p.script {
				if script == nil {
					script = &file
				}
				continue
			}
			if p.interpreter != "" && !strings.HasPrefix(p.interpreter, "/lib") {
				if original := t.lookup(path.Join(path.Dir(n.path), "../origBin", b.name)); t.executable(original) {
					file.Path = original.path
				} else {
					loader, strangers = p.interpreter, append(strangers, b.name)
				}
			}
			files = append(files, file)
			script = nil
			break
		}
		if script != nil {
			files = append(files, *script)
		}
	}
	if strangers != nil {
		t.note("%s cannot run in images without %s, the loader that the host's programs are built for",
			strings.Join(strangers, ", "), loader)
	}
	return files
}

func (t *tree) executable(n node) bool {
	if !n.isRegular() {
		return false
	}
	full, ok := t.stat(n)
	return ok && full.mode.Perm()&0o111 != 0
}

// program is what the beginning of a program says about it.
type program struct {
	script      bool   // starts with "#!"
	interpreter string // loader of an ELF program, "" for a static one
}

func readProgram(r io.ReaderAt, size int64) (program, error) {
	interpreter, err := readInterpreter(r, size)
	if errors.Is(err, errScript) {
		return program{script: true}, nil
	}
	return program{interpreter: interpreter}, err
}
