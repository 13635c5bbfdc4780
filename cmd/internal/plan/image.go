// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// ldCachePath is the loader's cache in a container.
const ldCachePath = "/etc/ld.so.cache"

// maxCacheSize bounds the ld.so.cache of an image. That of a large desktop
// has 250 KiB; a larger one than this is treated as absent.
const maxCacheSize = 16 << 20

// Image is what is learnt from the container's root filesystem.
type Image struct {
	FS     *rootfs.FS // nil: there is none, or it cannot be opened
	Layout rootfs.Layout
	Cache  *ldcache.Cache // nil: none that can be used
	Compat *rootfs.Compat // CUDA forward-compatibility libraries that this driver may run with
	Owner  rootfs.Owner

	Notes []string

	cache  []byte // Cache as it stands in the image
	dead   []string
	linked bool // an earlier start has given the driver's files by links
}

// ReadImage looks at the container's root filesystem. Whatever is odd about
// it counts as absent: it is the image's, and no reason to fail. An error is
// the machine's: what was found is not to be relied upon.
func ReadImage(cfg Config, bundle string, facts spec.Facts, m Machine) (*Image, error) {
	img := &Image{Owner: rootfs.Owner{UID: int(facts.ContainerUID), GID: int(facts.ContainerGID)}}
	if os.Geteuid() != 0 && !facts.UserNS {
		// An ordinary user cannot give files away.
		img.Owner = rootfs.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	}
	if err := img.open(bundle, facts); err != nil {
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) && !errors.Is(err, errNoRoot) {
			return nil, fmt.Errorf("reading the container's root filesystem: %w", err)
		}
		img.note("nothing is written into the container's root filesystem: %v", err)
		img.Layout = rootfs.Layout{LibDir: "/usr/lib64", LibDir32: "/usr/lib"}
		return img, nil
	}
	flags, _ := cacheFlags(m.Elf, 64)
	flags32, _ := cacheFlags(m.Elf, 32)
	var libc, libc32 string
	data, err := img.FS.ReadFile(ldCachePath, maxCacheSize)
	if err == nil {
		img.Cache, err = ldcache.Parse(data)
	}
	if err == nil {
		img.cache = data
		libc, libc32 = libcPath(img.Cache, flags), libcPath(img.Cache, flags32)
	} else {
		img.note("the image's loader cache is not used: %v", err)
	}
	img.Layout = img.FS.Layout(m.Elf, libc, libc32)
	img.linked = img.FS.IsDir(driverPlace)
	if img.Cache != nil {
		img.findDead(m)
	}
	if cfg.CUDACompat && img.Cache != nil {
		img.findCompat(m)
	}
	if err := img.FS.Fault(); err != nil {
		img.Close()
		return nil, fmt.Errorf("reading the container's root filesystem: %w", err)
	}
	return img, nil
}

func (img *Image) note(format string, args ...any) {
	img.Notes = append(img.Notes, fmt.Sprintf(format, args...))
}

var errNoRoot = errors.New("config.json names none")

func (img *Image) open(bundle string, facts spec.Facts) error {
	if facts.RootPath == "" {
		return errNoRoot
	}
	dir := facts.RootPath
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(bundle, dir)
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return err
	}
	img.FS, err = rootfs.Open(dir)
	return err
}

// Close gives up the handle of the root filesystem.
func (img *Image) Close() {
	if img.FS != nil {
		_ = img.FS.Close()
	}
}

// libcPath is where the image's own C library is, by its cache.
func libcPath(c *ldcache.Cache, flags int32) string {
	for _, e := range c.Lookup("libc.so.6", flags) {
		return e.Path
	}
	return ""
}

// findDead lists the cache's entries for libraries of the driver whose file
// is not there any more, or is the empty file that a mount leaves behind:
// they are left from a start under another driver. Entries that give way to
// ours anyway are not looked at: their files are mounted later.
func (img *Image) findDead(m Machine) {
	type key struct {
		name  string
		flags int32
	}
	given := make(map[key]bool)
	for _, e := range cacheEntries(m, img.Layout) {
		given[key{e.Name, e.Flags}] = true
	}
	for _, e := range img.Cache.Entries {
		if given[key{e.Name, e.Flags}] {
			continue
		}
		dir, name := path.Split(e.Path)
		if dir = path.Clean(dir); dir != img.Layout.LibDir && dir != img.Layout.LibDir32 {
			continue
		}
		if !ofDriver(name) {
			continue
		}
		if size, err := img.FS.Size(e.Path); err != nil || size == 0 {
			img.dead = append(img.dead, e.Path)
		}
	}
}

// findCompat looks for CUDA forward-compatibility libraries.
func (img *Image) findCompat(m Machine) {
	compat, err := img.FS.Compat()
	if err != nil {
		return
	}
	for _, g := range m.Selection.GPUs {
		// The driver answers CUDA error 804 there, while its own libcuda works.
		if brand, _ := sysfs.Brand(g.GPU.Model, m.Inventory.Driver.Version); brand == "geforce" || brand == "titan" {
			img.note("CUDA forward-compatibility libraries %s in the image's %s are not used: %s has none", compat.Version, compat.Dir, g.GPU.Model)
			return
		}
	}
	cuda, _ := sysfs.CUDAVersion(m.Inventory.Driver.Version)
	if !rootfs.CompatUsable(m.Inventory.Driver.Version, cuda, compat) {
		img.note("CUDA forward-compatibility libraries %s in the image's %s are not for driver %s", compat.Version, compat.Dir, m.Inventory.Driver.Version)
		return
	}
	img.Compat = &compat
}

// Write makes the links and files of the changes in the root filesystem. A
// link that cannot be made becomes one more mount of the same file; the rest
// is dispensable. Nothing here fails a container.
func (img *Image) Write(c *Changes) {
	dirs := map[string]error{}
	for rest := bySameTarget(c.Links); len(rest) > 0; {
		dir, target := rest[0].Dir, rest[0].Target
		n := 1
		for n < len(rest) && rest[n].Dir == dir && rest[n].Target == target {
			n++
		}
		links := rest[:n]
		rest = rest[n:]
		err := errors.New("there is no root filesystem")
		if img.FS != nil {
			var known bool
			if err, known = dirs[dir]; !known {
				err = img.FS.MkdirAll(dir, img.Owner)
				dirs[dir] = err
			}
		}
		errs := slices.Repeat([]error{err}, n)
		if err == nil {
			names := make([]string, n)
			for i, l := range links {
				names[i] = l.Name
			}
			errs = img.FS.Symlinks(dir, names, target, img.Owner)
		}
		for i, l := range links {
			if errs[i] == nil {
				continue
			}
			c.note("%s is mounted instead of linked: %v", path.Join(l.Dir, l.Name), errs[i])
			c.Edits.Mounts = append(c.Edits.Mounts, bindMount(l.Source, path.Join(l.Dir, l.Name), fileOptions))
		}
	}
	sortMounts(c.Edits.Mounts)
	if img.FS == nil {
		return
	}
	ours := make(map[string]bool, len(c.Links))
	for _, l := range c.Links {
		ours[path.Join(l.Dir, l.Name)] = true
	}
	for _, dir := range c.linkDirs(img.linked) {
		libraries := c.holdsLibraries(dir)
		candidate := func(name string) bool {
			return (ofDriver(name) || img.linked && !libraries) && !ours[path.Join(dir, name)]
		}
		removed, err := img.FS.RemoveLinks(dir, candidate, func(_, target string) bool { return img.stale(dir, target) })
		switch {
		case err != nil:
			c.note("links of an earlier driver in %s: %v", dir, err)
		case len(removed) > 0:
			c.note("links of an earlier driver removed from %s: %q", dir, removed)
		}
	}
	if _, err := img.FS.WriteMuslPath(img.Layout, img.Owner); err != nil {
		c.note("musl's search path: %v", err)
	}
	for _, f := range c.Files {
		if err := img.FS.WriteFile(f.Path, f.Data, 0o644, img.Owner); err != nil {
			c.note("%s is not written: %v", f.Path, err)
		}
	}
}

// linkDirs are the directories in which links of an earlier driver may be:
// those of the libraries, of VDPAU's, and wherever links are now. Where an
// earlier start has put links for files that are not libraries, also those of
// such files.
func (c *Changes) linkDirs(linked bool) []string {
	var dirs []string
	for _, dir := range c.LibDirs {
		dirs = append(dirs, dir, path.Join(dir, "vdpau"))
	}
	for _, l := range c.Links {
		dirs = append(dirs, l.Dir)
	}
	if linked {
		for _, m := range c.Edits.Mounts {
			dirs = append(dirs, path.Dir(m.Destination))
		}
	}
	slices.Sort(dirs)
	return slices.Compact(dirs)
}

// holdsLibraries tells whether dir is a library directory, or is in one.
func (c *Changes) holdsLibraries(dir string) bool {
	return slices.ContainsFunc(c.LibDirs, func(lib string) bool { return holds(lib, dir) })
}

// bySameTarget brings those links together that can be one inode.
func bySameTarget(links []Link) []Link {
	return slices.SortedStableFunc(slices.Values(links), func(a, b Link) int {
		if c := strings.Compare(a.Dir, b.Dir); c != 0 {
			return c
		}
		return strings.Compare(a.Target, b.Target)
	})
}

// ofDriver tells whether a library has the name of one of the driver's: of a
// family that is known, or of one that a later driver may have.
func ofDriver(name string) bool {
	if !strings.Contains(name, ".so") {
		return false
	}
	_, known := driver.ClassOf(name)
	return known || strings.HasPrefix(name, "libnvidia-") || name == "libGLX_indirect.so.0"
}

// stale tells whether a link in a library directory was made for another
// version of the driver: it leads to the directory of an earlier start, or its
// target is one of the driver's libraries, and is gone or empty.
func (img *Image) stale(dir, target string) bool {
	if leadsToPlace(dir, target) {
		return true
	}
	if !ofDriver(path.Base(target)) {
		return false
	}
	if path.IsAbs(target) || path.Dir(target) != "." {
		return false
	}
	size, err := img.FS.Size(path.Join(dir, target))
	return errors.Is(err, fs.ErrNotExist) || err == nil && size == 0
}

// Options of the mounts that are added. A file keeps nothing but the right
// to be read and run; through a socket a container may talk.
var (
	fileOptions   = []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}
	socketOptions = []string{"nosuid", "nodev", "rbind", "rprivate", "noexec"}
)

func bindMount(source, destination string, options []string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}
