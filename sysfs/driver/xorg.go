// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"path"
	"strings"
)

// xorgDirs are the trees of X server modules, with the directories of drivers and extensions below
// each; "." is the tree itself. Relative trees are below a library directory.
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

// findXorg searches for the modules of the X server. They keep the host's path, which a ModulePath
// in the configuration file names. nvidia_drv.so has no version in its name: it is taken only from
// a tree whose GLX module has the driver's version (libglxserver_nvidia.so.<version>,
// libglx.so.<version> up to the 390 branch). In RPM packages that module is called just
// libglxserver_nvidia.so.
func findXorg(t *tree, o Options, libraryDirs []string) []File {
	if o.Classes&(Graphics|Display) == 0 {
		return nil
	}
	for _, tree := range moduleTrees(libraryDirs) {
		if files := xorgModules(t, o, tree.drivers, tree.extensions); files != nil {
			return files
		}
	}
	return nil
}

// moduleTree has the directories of a tree of modules.
type moduleTree struct{ drivers, extensions string }

// moduleTrees returns the trees of modules in search order.
func moduleTrees(libraryDirs []string) []moduleTree {
	var trees []moduleTree
	for _, x := range xorgDirs {
		roots := []string{x.dir}
		if !path.IsAbs(x.dir) {
			roots = nil
			for _, dir := range libraryDirs {
				roots = append(roots, path.Join(dir, x.dir))
			}
		}
		for _, root := range roots {
			trees = append(trees, moduleTree{path.Join(root, x.drivers), path.Join(root, x.extension)})
		}
	}
	return trees
}

// xorgModules returns the modules of a tree, nil if it does not have the driver's version.
func xorgModules(t *tree, o Options, drivers, extensions string) []File {
	at := t.lookup(extensions)
	if !at.isDir() {
		return nil
	}
	const glx = "libglxserver_nvidia.so"
	versioned := glx + "." + o.Version
	var files []File
	add := func(dir string, n node, name string, links ...Link) {
		if err := checkModule(t, o, n); err != nil {
			t.note("X module %s is left out: %v", quote(t.root.Path(n.path)), err)
			return
		}
		files = append(files, File{
			Path: n.path, Name: name, Kind: XorgModule, Class: Graphics | Display,
			Dest: path.Join(dir, name), Links: links,
		})
	}
	// With alternatives, the link without a version leads to the module.
	for _, name := range []string{versioned, glx} {
		n := t.entry(at.path, name, 0)
		if !n.isRegular() {
			continue
		}
		switch path.Base(n.path) {
		case versioned:
			add(extensions, n, versioned, Link{glx, versioned})
		case glx:
			add(extensions, n, glx)
		}
		break
	}
	if files == nil && !t.entry(at.path, "libglx.so."+o.Version, 0).isRegular() {
		return nil
	}
	if n := t.lookup(path.Join(drivers, "nvidia_drv.so")); n.isRegular() {
		add(drivers, n, "nvidia_drv.so")
	}
	return files
}

// checkModule returns why a module cannot be used: it is damaged, built for another architecture,
// or needs libraries of another driver version.
func checkModule(t *tree, o Options, n node) error {
	name := t.root.Path(n.path)
	info, err := readELFFile(name)
	if err != nil {
		return err
	}
	if info.Arch != o.Arch {
		return fmt.Errorf("built for %s", info.Arch)
	}
	needed, err := ofFile(name, readNeeded)
	if err != nil {
		return err
	}
	for _, library := range needed {
		stem := stemOf(library)
		version := strings.TrimPrefix(library[len(stem):], ".so.")
		if _, known := ClassOf(stem); known && isVersion(version) && version != o.Version {
			return fmt.Errorf("it needs %s, of another version than %s", library, o.Version)
		}
	}
	return nil
}
