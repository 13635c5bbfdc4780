// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"io/fs"
	"path"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Dirs are the directories that engines read by default. Later ones take precedence.
var Dirs = []string{"/etc/cdi", "/var/run/cdi"}

// Found is a file in a directory that engines read.
type Found struct {
	Path string // on the host
	File File
	Err  error // why the file is ignored
}

// ReadDirs reads the .yaml and .json files in directories of a machine, in the order of the
// directories and of the files' names. A missing directory has no files.
func ReadDirs(root sysfs.Root, dirs []string, caller int) ([]Found, error) {
	var list []Found
	for _, dir := range dirs {
		dir = path.Clean(dir)
		entries, err := root.ReadDir(strings.TrimPrefix(dir, "/"))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if ext := path.Ext(e.Name()); ext != ".yaml" && ext != ".json" || strings.ContainsAny(e.Name(), "\n\r") {
				continue
			}
			found := Found{Path: root.Path(path.Join(dir, e.Name()))}
			found.File, _, found.Err = Read(root, path.Join(dir, e.Name()), caller)
			list = append(list, found)
		}
	}
	return list, nil
}
