// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import "path"

// xorgDirs are the trees of the X server's modules: the directories of drivers and extensions below
// each, "." if it has both. Those without a slash at the front are below a library directory.
var xorgDirs = [...]struct {
	dir                string
	drivers, extension string
}{
	{"nvidia/xorg", ".", "."},
	{"nvidia/xorg", "drivers", "extensions"},
	{"xorg/modules", "drivers", "extensions"},
	{"xorg/modules/updates", "drivers", "extensions"},
	{"/usr/lib/xorg/modules", "drivers", "extensions"},
	{"/usr/lib/xorg/modules/updates", "drivers", "extensions"},
	{"/usr/lib64/xorg/modules", "drivers", "extensions"},
	{"/usr/lib64/xorg/modules/updates", "drivers", "extensions"},
	{"/usr/X11R6/lib/modules", "drivers", "extensions"},
	{"/usr/X11R6/lib64/modules", "drivers", "extensions"},
}

// findXorg looks for the modules of the X server. They stay at the host's place, which is what a ModulePath in
// the configuration file names. nvidia_drv.so has no version in its name: it is taken only
// from a tree whose GLX module is of the driver's version (libglxserver_nvidia.so.<version>,
// libglx.so.<version> up to the 390 branch).
func findXorg(t *tree, o Options, libraryDirs []string) []File {
	if o.Classes&(Graphics|Display) == 0 {
		return nil
	}
	for _, tree := range xorgDirs {
		roots := []string{tree.dir}
		if !path.IsAbs(tree.dir) {
			roots = nil
			for _, dir := range libraryDirs {
				roots = append(roots, path.Join(dir, tree.dir))
			}
		}
		for _, root := range roots {
			if files := xorgModules(t, o.Version, path.Join(root, tree.drivers), path.Join(root, tree.extension)); files != nil {
				return files
			}
		}
	}
	return nil
}

// xorgModules returns the modules of one tree, nil if it is not of the driver's version.
func xorgModules(t *tree, version, drivers, extensions string) []File {
	file := func(dir string, n node, name string) File {
		return File{
			Path: n.path, Name: name, Kind: XorgModule, Class: Graphics | Display, Dest: path.Join(dir, name),
		}
	}
	at := t.lookup(extensions)
	if !at.isDir() {
		return nil
	}
	const glx = "libglxserver_nvidia.so"
	var files []File
	// The link without a version leads to the module where alternatives are used.
	for _, name := range []string{glx + "." + version, glx} {
		n := t.entry(at.path, name, 0)
		if !n.isRegular() || path.Base(n.path) != glx+"."+version {
			continue
		}
		glxserver := file(extensions, n, glx+"."+version)
		glxserver.Links = []Link{{glx, glxserver.Name}}
		files = append(files, glxserver)
		break
	}
	if files == nil && !t.entry(at.path, "libglx.so."+version, 0).isRegular() {
		return nil
	}
	if n := t.lookup(path.Join(drivers, "nvidia_drv.so")); n.isRegular() {
		files = append(files, file(drivers, n, "nvidia_drv.so"))
	}
	return files
}
