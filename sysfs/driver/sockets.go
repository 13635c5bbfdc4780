// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"io/fs"
	"os"
	"path"
)

// sockets are the sockets of the driver's daemons, below /run.
var sockets = [...]string{"nvidia-fabricmanager/socket", "nvidia-persistenced/socket"}

// findSockets searches for the sockets of the daemons in /run, and in /var/run in case that is
// another directory, and for the directory of the multi-process service. They have the same path in
// the container.
func findSockets(t *tree, o Options) []File {
	var files []File
	if o.Classes&Utility != 0 {
		for _, name := range sockets {
			for _, run := range []string{"/run", "/var/run"} {
				dest := path.Join(run, name)
				n := t.lookup(dest)
				if n.path == "" || n.mode.Type() != fs.ModeSocket {
					continue
				}
				files = append(files, File{
					Path: n.path, Name: path.Base(dest), Kind: Socket, Class: Utility, Dest: dest,
				})
				break
			}
		}
	}
	if o.Classes&Compute != 0 {
		if file, ok := findMPS(t, o.MPSDirectory); ok {
			files = append(files, file)
		}
	}
	return files
}

// findMPS searches for the directory of the sockets of the multi-process service.
//
// Its usual place is in /tmp, where any user of the machine can create a directory or symbolic link
// of that name, and replace it before it is mounted. So a link is not followed there, and the
// directory must be owned by root or by us.
func findMPS(t *tree, name string) (File, bool) {
	if name == "" {
		name = "/tmp/nvidia-mps"
	}
	if !path.IsAbs(name) || path.Clean(name) == "/" {
		return File{}, false
	}
	name = path.Clean(name)
	parent := t.lookup(path.Dir(name))
	if !parent.isDir() {
		return File{}, false
	}
	n := t.entry(parent.path, path.Base(name), 0)
	if !n.isDir() || n.path != path.Join(parent.path, path.Base(name)) {
		return File{}, false
	}
	n, ok := t.stat(n)
	if !ok || n.uid != 0 && int(n.uid) != os.Geteuid() {
		return File{}, false
	}
	return File{Path: n.path, Name: path.Base(name), Kind: Directory, Class: Compute, Dest: name}, true
}
