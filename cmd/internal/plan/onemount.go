// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver/linkdir"
)

// Values of Config.DriverDirectory besides a path.
const (
	DirectoryAuto = "auto" // below /usr/lib or /var/lib of the driver's root
	DirectoryOff  = "off"
)

// directoryName is the name of the directory of links on the host.
const directoryName = "nvidia-container-runtime"

// driverPlace is where a container has the driver's libraries if they come by
// one mount. Links in the image's library directory lead there.
const driverPlace = "/usr/lib/nvidia-container-driver"

// LinkLibraries has the libraries that come with m put into a directory of
// hard links on the host, so that Make gives them to the container by one mount
// instead of one each. Where that cannot be done, they are mounted one
// by one, and a note of m says why. Without change nothing is made: the
// result is as if it had been.
func (m *Machine) LinkLibraries(cfg Config, facts spec.Facts, img *Image, change bool) {
	if cfg.DriverDirectory == DirectoryOff || cfg.DriverDirectory == "" {
		return
	}
	dir, err := m.linkLibraries(cfg, facts, img, change)
	if err != nil {
		m.Notes = append(m.Notes, fmt.Sprintf("the driver's libraries are mounted one by one: %v", err))
		return
	}
	m.Linked = dir
}

func (m *Machine) linkLibraries(cfg Config, facts spec.Facts, img *Image, change bool) (string, error) {
	if err := m.mayLink(facts, img); err != nil {
		return "", err
	}
	var files []linkdir.File
	for _, f := range m.Files {
		if linkable(f) && (f.Bits != 32 || img.Layout.LibDir32 != "") {
			files = append(files, linkdir.File{Name: linkedName(f), Source: m.DriverRoot.Path(f.Path)})
		}
	}
	if len(files) < 2 {
		return "", errors.New("there is no more than one")
	}
	boot, err := linkdir.ThisBoot()
	if err != nil {
		return "", err
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
			return dir, nil
		}
		errs = append(errs, err)
	}
	return "", errors.Join(errs...)
}

// directories are where the directory of links may be. /usr/lib is first, as
// that is where the libraries are: on the same file system, and with a
// label that SELinux lets containers look into.
func (m *Machine) directories(cfg Config) []string {
	if cfg.DriverDirectory != DirectoryAuto {
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

// mayLink tells why links in this container would not do what mounts do.
func (m *Machine) mayLink(facts spec.Facts, img *Image) error {
	if img.FS == nil || img.FS.IsHost() {
		return errors.New("nothing can be written into the root filesystem")
	}
	places := []string{driverPlace, img.Layout.LibDir, img.Layout.LibDir32}
	for _, mount := range facts.Mounts {
		if slices.Equal(mount.Options, fileOptions) {
			continue // of an earlier start
		}
		to := path.Clean("/" + mount.Destination)
		for _, p := range places {
			if p == "" {
				continue
			}
			hides := holds(to, p) || holds(withoutUsr(to), withoutUsr(p))
			replaces := withoutUsr(path.Dir(to)) == withoutUsr(p) &&
				slices.ContainsFunc(m.Files, func(f driver.File) bool { return linkable(f) && f.Name == path.Base(to) })
			if hides || replaces {
				return fmt.Errorf("the container mounts something at %.100q", mount.Destination)
			}
		}
	}
	return nil
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

// linkable tells whether a file can come by the directory. The others are
// few: what has a place of its own in the container stays a mount.
func linkable(f driver.File) bool {
	return f.Kind == driver.Library && f.Subdir == ""
}

// linkedName is the name of a file in the directory of links.
func linkedName(f driver.File) string {
	return strconv.Itoa(f.Bits) + "/" + f.Name
}

// linksTo are the links that a library in the directory of links needs in the
// container's library directory: its own, which lead there, and its name, if none
// of the others is the one by which the loader asks for it.
func linksTo(f driver.File, libDir, source string) []Link {
	var links []Link
	lead := func(name string) Link {
		l := Link{Dir: path.Join(libDir, path.Dir(name)), Name: path.Base(name), Source: source}
		l.Target, _ = filepath.Rel(l.Dir, path.Join(driverPlace, linkedName(f))) // both are absolute
		return l
	}
	named := false
	for _, l := range f.Links {
		if path.Join(path.Dir(l.Name), l.Target) == f.Name {
			links = append(links, lead(l.Name))
			named = named || l.Name == f.SONAME
			continue
		}
		name := path.Join(libDir, l.Name)
		links = append(links, Link{Dir: path.Dir(name), Name: path.Base(name), Target: l.Target, Source: source})
	}
	if !named {
		links = append(links, lead(f.Name))
	}
	return links
}

// leadsToPlace tells whether a link in dir leads to the driver's libraries that
// come by one mount.
func leadsToPlace(dir, target string) bool {
	return strings.HasPrefix(path.Join(dir, target), driverPlace+"/")
}

// dropOtherWay removes the mounts by which an earlier start from the same
// config.json gave the libraries the other way.
func (c *Changes) dropOtherWay(facts spec.Facts, m Machine) {
	for _, mount := range facts.Mounts {
		if !slices.Equal(mount.Options, fileOptions) {
			continue
		}
		to := path.Clean(mount.Destination)
		if m.Linked == "" && to == driverPlace || m.Linked != "" && slices.Contains(c.LibDirs, path.Dir(to)) && ofDriver(path.Base(to)) {
			c.Edits.RemoveBinds = append(c.Edits.RemoveBinds, bindMount(mount.Source, mount.Destination, fileOptions))
		}
	}
}
