// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver/linkdir"
)

// Values of Config.DriverDirectory besides a path.
const (
	DirectoryAlways = "always" // below /usr/lib or /var/lib of the driver's root
	DirectoryAuto   = "auto"   // the same, if the files are many
	DirectoryOff    = "off"
)

// worthLinking is from how many files on DirectoryAuto uses a directory. For
// those of compute and utility, 18 with driver 550, it saves nothing that can be
// measured; for all, 46, it saves a sixth of the container's life.
const worthLinking = 24

// directoryName is the name of the directory of links on the host.
const directoryName = "nvidia-container-runtime"

// driverPlace is where a container has the driver's libraries if they come by
// one mount. Links in the image's library directory lead there.
const driverPlace = "/usr/lib/nvidia-container-driver"

// LinkFiles has the driver's files that come with m put into a directory of
// hard links on the host, so that Make gives them to the container by one mount
// instead of one each. Where that cannot be done, they are mounted one
// by one, and a note of m says why. Without change nothing is made: the
// result is as if it had been.
func (m *Machine) LinkFiles(cfg Config, facts spec.Facts, img *Image, change bool) {
	if cfg.DriverDirectory == DirectoryOff || cfg.DriverDirectory == "" {
		return
	}
	dir, names, err := m.linkFiles(cfg, facts, img, change)
	switch {
	case err != nil:
		m.Notes = append(m.Notes, fmt.Sprintf("the driver's files are mounted one by one: %v", err))
	case dir != "":
		m.Linked, m.LinkNames = dir, names
	}
}

// linkFiles returns no directory if the files are too few for one.
func (m *Machine) linkFiles(cfg Config, facts spec.Facts, img *Image, change bool) (string, []string, error) {
	if img.FS == nil || img.FS.IsHost() {
		return "", nil, errors.New("nothing can be written into the root filesystem")
	}
	if hidden, by := covered(facts, driverPlace); hidden {
		return "", nil, fmt.Errorf("the container mounts something at %.100q", by)
	}
	names := linkNames(m.Files, facts, img.Layout)
	var files []linkdir.File
	for i, f := range m.Files {
		if names[i] != "" {
			files = append(files, linkdir.File{Name: names[i], Source: m.DriverRoot.Path(f.Path)})
		}
	}
	if cfg.DriverDirectory == DirectoryAuto && len(files) < worthLinking {
		return "", nil, nil
	}
	boot, err := linkdir.ThisBoot()
	if err != nil {
		return "", nil, err
	}
	var errs []error
	for _, base := range m.directories(cfg) {
		var dir string
		if change {
			dir, err = linkdir.Make(base, boot, m.Inventory.Driver.Version, files)
		} else {
			dir, _, err = linkdir.Find(base, boot, m.Inventory.Driver.Version, files)
		}
		if err == nil && change {
			err = img.FS.MkdirAll(driverPlace, img.Owner)
		}
		if err == nil {
			return dir, names, nil
		}
		errs = append(errs, err)
	}
	return "", nil, errors.Join(errs...)
}

// directories are where the directory of links may be. /usr/lib is first, as
// that is where the libraries are: on the same file system, and with a
// label that SELinux lets containers look into.
func (m *Machine) directories(cfg Config) []string {
	if path.IsAbs(cfg.DriverDirectory) {
		return []string{path.Clean(cfg.DriverDirectory)}
	}
	var dirs []string
	for _, above := range []string{"/usr/lib", "/var/lib"} {
		if resolved, err := m.DriverRoot.Resolve(above); err == nil {
			dirs = append(dirs, path.Join(m.DriverRoot.Path(resolved), directoryName))
		}
	}
	return dirs
}

// linkNames are the names that files have in the directory of links, in the
// order of files. Those with an empty name are mounted: sockets, what has
// no place in the image, what would have the name of another, and files over whose
// place the container mounts something: there a mount of ours comes on top, and a
// link would be hidden.
func linkNames(files []driver.File, facts spec.Facts, layout rootfs.Layout) []string {
	names := make([]string, len(files))
	taken := make(map[string]bool, len(files))
	for i, f := range files {
		dir := linkGroup(f)
		place := placeOf(f, layout)
		if dir == "" || place == "" || taken[dir+"/"+f.Name] {
			continue
		}
		if hidden, _ := covered(facts, place); hidden {
			continue
		}
		names[i] = dir + "/" + f.Name
		taken[names[i]] = true
	}
	return names
}

// linkGroup is the directory of a file in the directory of links, or "" if it
// can only be mounted.
func linkGroup(f driver.File) string {
	switch f.Kind {
	case driver.Library:
		return strconv.Itoa(f.Bits)
	case driver.Binary:
		return "bin"
	case driver.XorgModule:
		return "xorg"
	case driver.Config:
		return "share"
	case driver.Firmware:
		return "firmware"
	}
	return ""
}

// placeOf is where a container has a file, or "" if it has no such place.
func placeOf(f driver.File, layout rootfs.Layout) string {
	if f.Kind != driver.Library {
		return f.Dest
	}
	dir := layout.LibDir
	if f.Bits == 32 {
		dir = layout.LibDir32
	}
	if dir == "" {
		return ""
	}
	return path.Join(dir, f.Subdir, f.Name)
}

// covered tells whether the container mounts something of its own at name or
// above it, and where. What has our options is ours, of an earlier start.
func covered(facts spec.Facts, name string) (bool, string) {
	for _, mount := range facts.Mounts {
		to := path.Clean("/" + mount.Destination)
		if (holds(to, name) || holds(withoutUsr(to), withoutUsr(name))) && !slices.Equal(mount.Options, fileOptions) {
			return true, mount.Destination
		}
	}
	return false, ""
}

// holds tells whether dir is name or above it. The root is no matter.
func holds(dir, name string) bool {
	return dir == name || dir != "/" && strings.HasPrefix(name, dir+"/")
}

// withoutUsr is a clean path in the container with its most usual alias undone:
// /lib is /usr/lib in most images.
func withoutUsr(name string) string {
	return "/" + strings.TrimPrefix(strings.TrimPrefix(name, "/usr/"), "/")
}

// linksTo are the links that a file in the directory of links needs in the
// container: one at its own place or, for a library, those by which it is
// looked for: its own, and its name if none of them is the one by which the
// loader asks for it. Those of one directory that lead to the same file have the
// same target, so that they can be one inode.
func linksTo(f driver.File, linkName, place, source string) []Link {
	lead := func(name string) Link {
		full := path.Join(path.Dir(place), name)
		return Link{Dir: path.Dir(full), Name: path.Base(full), Target: path.Join(driverPlace, linkName), Source: source}
	}
	var links []Link
	named := f.Kind != driver.Library
	if named {
		links = append(links, lead(f.Name))
	}
	for _, l := range f.Links {
		to := path.Join(path.Dir(l.Name), l.Target)
		if f.Kind == driver.Library && (to == f.Name || to == f.SONAME && path.Dir(l.Name) == ".") {
			links = append(links, lead(l.Name))
			named = named || l.Name == f.SONAME
			continue
		}
		other := lead(l.Name)
		other.Target = l.Target
		links = append(links, other)
	}
	if !named {
		links = append(links, lead(f.Name))
	}
	return links
}

// leadsToPlace tells whether a link in dir leads to the driver's files that
// come by one mount.
func leadsToPlace(dir, target string) bool {
	if !path.IsAbs(target) {
		target = path.Join(dir, target)
	}
	return strings.HasPrefix(target, driverPlace+"/")
}

// dropOtherWay removes the mounts by which an earlier start from the same
// config.json gave the files the other way.
func (c *Changes) dropOtherWay(facts spec.Facts, m Machine, img *Image) {
	linked := make(map[string]bool)
	for i, name := range m.LinkNames {
		if name != "" {
			linked[placeOf(m.Files[i], img.Layout)] = true
		}
	}
	for _, mount := range facts.Mounts {
		if !slices.Equal(mount.Options, fileOptions) {
			continue
		}
		to := path.Clean(mount.Destination)
		if m.Linked == "" && to == driverPlace || linked[to] || m.Linked != "" && slices.Contains(c.LibDirs, path.Dir(to)) && ofDriver(path.Base(to)) {
			c.Edits.RemoveBinds = append(c.Edits.RemoveBinds, bindMount(mount.Source, mount.Destination, fileOptions))
		}
	}
}
