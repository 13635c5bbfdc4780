// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// maxCache limits the size of a loader's cache. Large desktops have 300 KiB.
const maxCache = 16 << 20

// tlsABI is the ABI note of the libnvidia-tls for the threads of Linux 2.6 and later; old drivers
// (up to the 410 branch) have two.
var tlsABI = [3]uint32{2, 3, 99}

// anchors are the libraries that show that a directory has the driver, and in which version:
// nothing of their class works without them.
var anchors = [...]struct {
	stem  string
	class Class
}{
	{"libcuda", Compute},
	{"libnvidia-ml", Utility},
}

// anchorOf returns the index in anchors of a library, given its name without ".so", -1 if it is not
// one.
func anchorOf(stem string) int {
	for i, a := range anchors {
		if a.stem == stem {
			return i
		}
	}
	return -1
}

// ownVersion are prefixes of libraries that come with the driver but have their own versions:
// libnvidia-egl-gbm.so.1.1.2, libnvidia-nvvm70.so.4, libnvidia-api.so.1. libnvidia-nvvm.so.4.0.0 of
// R470 and R510 has the driver's version in later branches.
var ownVersion = [...]string{"libnvidia-api", "libnvidia-egl-", "libnvidia-nvvm"}

// libraryKey identifies a library. name has no version if the library has its own.
type libraryKey struct {
	subdir, name string
	bits         int
}

// finder is a search for libraries.
type finder struct {
	tree   *tree
	o      Options
	want   Class
	suffix string         // ".so." and the version
	arches []ldcache.Arch // wanted, native first

	libs     []File
	index    map[libraryKey]int   // of libs
	elves    map[string]elfInfo   // by path
	scanned  map[string]bool      // by real directory
	dirs     []string             // real directories that have libraries of the driver
	found    bool                 // any native library of the driver's version
	anchored [2][2]bool           // by index of arches and of anchors
	damaged  [2]string            // by index of anchors: an unusable one, and why
	others   [2]map[string]string // by index of anchors: other versions, one library of each

	searched []string
	absent   []string
	refused  []string
}

func newFinder(t *tree, o Options) (*finder, error) {
	arches, err := o.arches()
	if err != nil {
		return nil, err
	}
	return &finder{
		tree:    t,
		o:       o,
		want:    o.Classes.implied(),
		suffix:  ".so." + o.Version,
		arches:  arches,
		index:   make(map[libraryKey]int),
		elves:   make(map[string]elfInfo),
		scanned: make(map[string]bool),
		others:  [2]map[string]string{make(map[string]string), make(map[string]string)},
	}, nil
}

// arches returns the wanted architectures, native first.
func (o Options) arches() ([]ldcache.Arch, error) {
	if o.Arch.Flags() == 0 {
		return nil, fmt.Errorf("unknown architecture %s", quote(string(o.Arch)))
	}
	if compat := o.Arch.Compat(); compat != "" && o.Classes&Compat32 != 0 {
		return []ldcache.Arch{o.Arch, compat}, nil
	}
	return []ldcache.Arch{o.Arch}, nil
}

// find searches the configured directories, those in the cache, and the usual ones, in this order,
// until it has the anchors.
func (f *finder) find() error {
	for _, dir := range absolute(f.o.SearchPath) {
		f.scanName(dir)
	}
	cached := false
	if !f.complete(0) || len(f.arches) == 2 && !f.complete(1) {
		configured := f.anchored[0]
		for _, dir := range f.readCache() {
			f.scanName(dir)
		}
		cached = f.anchored[0] != configured
	}
	if !f.complete(0) {
		f.scanUsual(0)
	}
	// If the cache has the native libraries but no 32-bit ones, none are installed.
	if len(f.arches) == 2 && f.found && f.anchored[1] == [2]bool{} && !cached {
		f.scanUsual(1)
	}
	if f.tree.fault != nil {
		return fmt.Errorf("looking for the driver's libraries: %w", f.tree.fault)
	}
	return f.judge()
}

// complete reports whether the anchors of an architecture were found.
func (f *finder) complete(which int) bool { return f.anchored[which] == [2]bool{true, true} }

// judge decides whether the result is usable. A requested anchor must exist intact and in the
// kernel module's version: without it the container would fail later, and with less of an
// explanation. Some hosts have only one of the two because the other's package is not installed;
// that is noted.
func (f *finder) judge() error {
	var lacking []int
	for i, a := range anchors {
		if !f.anchored[0][i] && f.want&a.class != 0 {
			lacking = append(lacking, i)
			if f.damaged[i] != "" {
				return &DamagedError{Version: f.o.Version, Library: f.damaged[i]}
			}
		}
	}
	if f.anchored[0] == [2]bool{} {
		switch {
		case len(f.others[0])+len(f.others[1]) > 0:
			return f.versionError(0, 1)
		case len(lacking) > 0 || !f.found:
			return &NotFoundError{Version: f.o.Version, Searched: f.searched, Absent: f.absent, Refused: f.refused}
		}
	}
	for _, i := range lacking {
		if len(f.others[i]) > 0 {
			return f.versionError(i)
		}
		f.tree.note("%s of driver version %s, which %s needs, is missing: looked in %s",
			anchors[i].stem, f.o.Version, anchors[i].class, strings.Join(f.searched, ", "))
	}
	return nil
}

// readCache returns the directories in the loader's cache that have the driver. Like the loader it
// ignores an unusable cache.
func (f *finder) readCache() []string {
	name := f.o.Cache
	if name == "" {
		name = "/etc/ld.so.cache"
	}
	name = path.Clean("/" + name)
	data, err := f.tree.root.ReadFileMax(strings.TrimPrefix(name, "/"), maxCache)
	if errors.Is(err, fs.ErrNotExist) {
		f.absent = append(f.absent, name)
		return nil
	}
	var cache *ldcache.Cache
	if err == nil {
		cache, err = ldcache.ParseSome(data, func(library string, flags int32) bool {
			named := strings.HasPrefix(library, "libcuda.") || strings.HasPrefix(library, "libnvidia-")
			return f.isWanted(flags) && (named || strings.HasSuffix(library, f.suffix))
		})
	}
	if err != nil {
		f.tree.note("the loader's cache %s is not used, searching the usual directories instead: %v",
			quote(f.tree.root.Path(name)), err)
		f.searched = append(f.searched, name+" (unusable)")
		return nil
	}
	f.searched = append(f.searched, name)

	// Directories of anchors first, then those of the driver's other libraries.
	var dirs []string
	for _, firstly := range []bool{true, false} {
		for _, e := range cache.Entries {
			if e.Subdir != "" || !path.IsAbs(e.Path) {
				continue
			}
			stem := stemOf(e.Name)
			seed := anchorOf(stem) >= 0
			if !firstly {
				seed = strings.HasSuffix(e.Name, f.suffix) || hasOwnVersion(stem)
			}
			if dir := path.Dir(e.Path); seed && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	return dirs
}

// isWanted reports whether cache entries with these flags are of a wanted architecture.
func (f *finder) isWanted(flags int32) bool {
	return slices.ContainsFunc(f.arches, func(a ldcache.Arch) bool { return a.Flags() == flags })
}

// usual64 and usual32 are the directories searched for libraries without a cache. T stands for the
// multiarch triplet, M for the machine as in uname -m, B for the branch (the version up to the
// first dot), V for the version. They cover distributions and container operating systems: Debian
// and Ubuntu with their alternatives and old packages, RHEL and SUSE, Arch, NixOS, Talos,
// Container-Optimized OS and GKE, Flatcar, Bottlerocket.
var (
	usual64 = [...]string{
		"/usr/lib/T",
		"/usr/lib/T/nvidia/current",
		"/usr/lib/nvidia-B",
		"/usr/lib64",
		"/usr/lib64/nvidia",
		"/usr/lib",
		"/usr/lib/nvidia",
		"/lib/T",
		"/lib64",
		"/lib",
		"/run/opengl-driver/lib",
		"/usr/local/glibc/usr/lib",
		"/usr/local/glibc/usr/lib64",
		"/var/lib/nvidia/lib64",
		"/home/kubernetes/bin/nvidia/lib64",
		"/opt/nvidia/current/usr/lib64",
		"/opt/nvidia/current/usr/lib",
		"/opt/nvidia/current/lib64",
		"/opt/nvidia/current/lib",
		"/opt/nvidia/V/lib64",
		"/opt/nvidia/lib64",
		"/M-bottlerocket-linux-gnu/sys-root/usr/lib/nvidia/tesla",
		"/usr/lib/nvidia/tesla",
		"/usr/local/nvidia/lib64",
		"/usr/local/lib64",
		"/usr/local/lib",
	}
	usual32 = [...]string{
		"/usr/lib/T",
		"/usr/lib/T/nvidia/current",
		"/usr/lib32/nvidia-B",
		"/usr/lib32",
		"/usr/lib",
		"/lib/T",
		"/lib32",
		"/lib",
		"/run/opengl-driver-32/lib",
		"/usr/local/glibc/usr/lib32",
		"/var/lib/nvidia/lib",
		"/home/kubernetes/bin/nvidia/lib",
		"/opt/nvidia/current/lib32",
		"/usr/local/nvidia/lib",
	}
)

// usualDirs returns the usual directories for an architecture and a driver version.
func usualDirs(arch ldcache.Arch, version string) []string {
	branch, _, _ := strings.Cut(version, ".")
	expand := strings.NewReplacer("T", arch.Triplet(), "M", string(arch), "B", branch, "V", version)
	patterns := usual64[:]
	if arch.Bits() == 32 {
		patterns = usual32[:]
	}
	dirs := make([]string, 0, len(patterns))
	for _, pattern := range patterns {
		dirs = append(dirs, expand.Replace(pattern))
	}
	return dirs
}

// scanUsual scans the usual directories of an architecture until both anchors are found.
func (f *finder) scanUsual(which int) {
	for _, dir := range usualDirs(f.arches[which], f.o.Version) {
		if f.complete(which) {
			break
		}
		f.scanName(dir)
	}
}

// scanName scans a directory whose path may contain symbolic links.
func (f *finder) scanName(name string) {
	n := f.tree.lookup(name)
	names := &f.searched
	if !n.isDir() {
		names = &f.absent
	}
	if !slices.Contains(*names, name) {
		*names = append(*names, name)
	}
	if n.isDir() {
		f.scan(n.path)
	}
}

// scan collects the libraries of a real directory and its relevant subdirectories.
func (f *finder) scan(dir string) {
	if f.scanned[dir] {
		return
	}
	f.scanned[dir] = true
	var own, plain []string
	versioned, foreignVersion := false, false
	for _, e := range f.tree.list(dir) {
		name := e.Name()
		if !strings.HasPrefix(name, "lib") {
			continue
		}
		stem := stemOf(name)
		switch {
		case stem == "":
		case name == stem+f.suffix:
			f.library(dir, name, "")
			versioned = true
		case hasOwnVersion(stem):
			own = append(own, name)
		case anchorOf(stem) >= 0:
			foreignVersion = f.otherVersion(dir, name) || foreignVersion
		case e.Type().IsRegular() && isDigits(strings.TrimPrefix(name, stem+".so.")):
			plain = append(plain, name)
		}
	}
	for _, a := range anchors {
		f.follow(dir, a.stem)
	}
	if versioned {
		f.dirs = append(f.dirs, dir)
		f.plain(dir, plain)
		for _, sub := range []string{"tls", "vdpau", "gbm"} {
			f.scanBelow(dir, sub)
		}
	}
	// Libraries with their own versions belong to the driver in the same directory.
	if versioned || !foreignVersion {
		f.ownVersions(dir, own)
	}
}

// plain collects libraries that a package installs only under their SONAME: libGLX_nvidia.so.0.
// That they belong to the driver's version shows in the libraries of that version that they need.
func (f *finder) plain(dir string, names []string) {
	for _, name := range names {
		stem := stemOf(name)
		class, known := ClassOf(stem)
		if !known || f.want&class == 0 || f.tree.has(dir, stem+f.suffix) {
			continue
		}
		n := f.tree.entry(dir, name, 0)
		needed, err := ofFile(f.tree.root.Path(n.path), readNeeded)
		if err != nil || !slices.ContainsFunc(needed, func(s string) bool { return strings.HasSuffix(s, f.suffix) }) {
			f.tree.note("library %s is left out: nothing shows that it belongs to driver version %s",
				quote(f.tree.root.Path(n.path)), f.o.Version)
			continue
		}
		file := File{Path: n.path, Name: name, Kind: Library, Class: class}
		f.take(n, dir, libraryKey{name: stem + f.suffix}, file, true)
	}
}

// follow follows the SONAME link of an anchor if the directory does not have the library itself, as
// with Debian's alternatives.
func (f *finder) follow(dir, stem string) {
	if f.tree.has(dir, stem+f.suffix) || !f.tree.has(dir, stem+".so.1") {
		return
	}
	n := f.tree.entry(dir, stem+".so.1", 0)
	switch {
	case !n.isRegular():
	case path.Base(n.path) == stem+f.suffix:
		f.scan(path.Dir(n.path))
	default:
		f.otherVersion(path.Dir(n.path), path.Base(n.path))
	}
}

// otherVersion records an anchor of another driver version.
func (f *finder) otherVersion(dir, name string) bool {
	stem := stemOf(name)
	version := strings.TrimPrefix(name[len(stem):], ".so.")
	which := anchorOf(stem)
	if which < 0 || !isVersion(version) || version == f.o.Version {
		return false
	}
	if _, ok := f.others[which][version]; !ok {
		f.others[which][version] = path.Join(dir, name)
	}
	return true
}

// scanBelow collects the libraries of a subdirectory. Those in tls are other builds of
// libnvidia-tls and go where the others go.
func (f *finder) scanBelow(dir, sub string) {
	if !f.tree.has(dir, sub) {
		return
	}
	n := f.tree.entry(dir, sub, 0)
	if !n.isDir() || f.scanned[n.path] {
		return
	}
	f.scanned[n.path] = true
	subdir := sub
	if sub == "tls" {
		subdir = ""
	}
	for _, e := range f.tree.list(n.path) {
		name := e.Name()
		stem := stemOf(name)
		if stem == "" || name != stem+f.suffix || sub == "tls" && stem != "libnvidia-tls" {
			continue
		}
		f.library(n.path, name, subdir)
	}
}

// library collects a library of the driver's version if it is wanted and usable.
func (f *finder) library(dir, name, subdir string) {
	stem := stemOf(name)
	if slices.Contains(foreign[:], stem) {
		return
	}
	class, wanted := f.wants(stem)
	if !wanted && anchorOf(stem) < 0 {
		return
	}
	if stem == "libvdpau_nvidia" {
		subdir = "vdpau" // where libvdpau looks for it; Debian puts it next to the others
	}
	n := f.tree.entry(dir, name, 0)
	if !n.isRegular() {
		f.refuse(path.Join(dir, name), "not a regular file")
		return
	}
	base := path.Base(n.path)
	if s := stemOf(base); s != "" && base != name {
		if version := strings.TrimPrefix(base[len(s):], ".so."); isVersion(version) && version != f.o.Version {
			f.refuse(path.Join(dir, name), "a link to version "+version)
			return
		}
	}
	f.take(n, dir, libraryKey{subdir: subdir, name: name}, File{
		Path: n.path, Name: name, Kind: Library, Class: class, Subdir: subdir,
	}, wanted)
}

// wants returns the classes of a library, given its name without ".so", and whether they are
// wanted.
func (f *finder) wants(stem string) (Class, bool) {
	class, known := ClassOf(stem)
	if !known {
		class = guessClass(stem)
	}
	return class, f.want&class != 0
}

// take adds a library with its bits and SONAME, unless it is damaged, of an unwanted architecture,
// or already there.
func (f *finder) take(n node, dir string, key libraryKey, file File, wanted bool) {
	info, err := f.readELF(n.path)
	stem := stemOf(file.Name)
	anchor := anchorOf(stem)
	if err != nil {
		f.refuse(n.path, err.Error())
		name := quote(f.tree.root.Path(n.path))
		if anchor >= 0 && f.damaged[anchor] == "" {
			f.damaged[anchor] = name + ": " + err.Error()
		}
		if wanted {
			f.tree.note("library %s is left out: %v", name, err)
		}
		return
	}
	which := slices.Index(f.arches, info.Arch)
	if which < 0 {
		f.refuse(n.path, "built for "+string(info.Arch))
		return
	}
	f.found = f.found || which == 0
	if anchor >= 0 {
		f.anchored[which][anchor] = true
	}
	if !wanted {
		return
	}
	file.SONAME = cmp.Or(info.SONAME, path.Base(n.path))
	file.Bits = info.Arch.Bits()
	key.bits = file.Bits
	at, ok := f.index[key]
	switch {
	case !ok:
		file.Links = f.links(file, dir)
		f.index[key] = len(f.libs)
		f.libs = append(f.libs, file)
	case stem == "libnvidia-tls" && f.elves[f.libs[at].Path].ABI != tlsABI && info.ABI == tlsABI:
		// Of two, take the one with the right note. A driver with only one, or without notes, works
		// as well.
		file.Links = f.libs[at].Links
		f.libs[at] = file
	}
}

func (f *finder) readELF(name string) (elfInfo, error) {
	if info, ok := f.elves[name]; ok {
		return info, nil
	}
	info, err := readELFFile(f.tree.root.Path(name))
	if err != nil {
		// A failing disk says nothing about the library.
		if errno := syscall.Errno(0); errors.As(err, &errno) {
			f.tree.blame(err)
		}
		return elfInfo{}, err
	}
	f.elves[name] = info
	return info, nil
}

// ownVersions collects the libraries of a directory that have their own versions. Of several
// versions it takes the one that the SONAME link leads to, otherwise the highest.
func (f *finder) ownVersions(dir string, names []string) {
	for len(names) > 0 {
		stem := stemOf(names[0])
		n := 1
		for n < len(names) && stemOf(names[n]) == stem {
			n++
		}
		group := names[:n]
		names = names[n:]
		class, wanted := f.wants(stem)
		if !wanted || f.tree.has(dir, stem+f.suffix) {
			continue
		}
		slices.SortFunc(group, compareOwnVersions)
		for _, name := range group {
			if name == stem+".so" {
				continue
			}
			n := f.tree.entry(dir, name, 0)
			base := path.Base(n.path)
			version := strings.TrimPrefix(base, stem+".so.")
			if !n.isRegular() || stemOf(base) != stem || base == stem+".so" || isVersion(version) {
				continue // a driver version is not a version of its own
			}
			f.take(n, dir, libraryKey{name: stem}, File{Path: n.path, Name: base, Kind: Library, Class: class}, true)
			break
		}
	}
}

// compareOwnVersions sorts short versions, which are SONAMEs, before long ones, and high ones
// before low ones.
func compareOwnVersions(a, b string) int {
	if c := cmp.Compare(strings.Count(a, "."), strings.Count(b, ".")); c != 0 {
		return c
	}
	return compareVersions(b, a)
}

// compareVersions compares dot-separated parts, numbers by value.
func compareVersions(a, b string) int {
	return slices.CompareFunc(strings.Split(a, "."), strings.Split(b, "."), func(a, b string) int {
		x, errX := strconv.ParseUint(a, 10, 64)
		y, errY := strconv.ParseUint(b, 10, 64)
		if errX != nil || errY != nil {
			return strings.Compare(a, b)
		}
		return cmp.Compare(x, y)
	})
}

// links returns the other names of a library: its SONAME, its development name, and what its users
// expect in addition. Programs are not linked with a library that is its own SONAME, so it gets its
// development name only if the driver's directory has it.
func (f *finder) links(file File, dir string) []Link {
	stem := stemOf(file.Name)
	development := stem + ".so"
	var links []Link
	if file.SONAME != file.Name {
		links = append(links, Link{file.SONAME, file.Name})
	}
	producer := stem == "libnvidia-vulkan-producer"
	linked := file.SONAME != file.Name || f.tree.has(dir, development) || producer
	if file.SONAME != development && linked {
		target := file.SONAME
		if producer {
			target = file.Name
		}
		links = append(links, Link{development, target})
	}
	switch stem {
	case "libGLX_nvidia":
		links = append(links, Link{"libGLX_indirect.so.0", file.Name})
	case "libnvidia-allocator":
		if f.want&Graphics != 0 {
			links = append(links, Link{"gbm/nvidia-drm_gbm.so", "../" + file.SONAME})
		}
	}
	slices.SortFunc(links, func(a, b Link) int { return strings.Compare(a.Name, b.Name) })
	return links
}

// refuse records why a library cannot be used, for the error if nothing is found.
func (f *finder) refuse(name, reason string) {
	const most = 8
	if len(f.refused) < most {
		f.refused = append(f.refused, quote(name)+": "+reason)
	}
}

// versionError returns an error with the other versions of some anchors.
func (f *finder) versionError(which ...int) error {
	others := make(map[string]string)
	for _, i := range slices.Backward(which) {
		maps.Copy(others, f.others[i])
	}
	e := &VersionError{Kernel: f.o.Version}
	e.Found = slices.SortedFunc(maps.Keys(others), compareVersions)
	for _, version := range e.Found {
		e.Where = append(e.Where, others[version])
	}
	return e
}

// stemOf returns the name of a library before ".so", "" if ".so" does not end a word in it.
func stemOf(name string) string {
	for rest := 0; ; {
		i := strings.Index(name[rest:], ".so")
		if i < 0 {
			return ""
		}
		i += rest
		if rest = i + len(".so"); rest == len(name) || name[rest] == '.' {
			return name[:i]
		}
	}
}

func hasOwnVersion(stem string) bool {
	return slices.ContainsFunc(ownVersion[:], func(prefix string) bool { return strings.HasPrefix(stem, prefix) })
}
