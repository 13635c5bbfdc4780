// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"cmp"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// maxCache is how much of a loader's cache is read. Large desktops have 300 KiB.
const maxCache = 16 << 20

// tlsABI is the ABI note of that one of the two libnvidia-tls libraries of old drivers
// (up to the 410 branch) that works with the threads of Linux 2.6 and later.
var tlsABI = [3]uint32{2, 3, 99}

// anchors are the libraries whose presence shows that a directory has the driver.
var anchors = [...]string{"libcuda", "libnvidia-ml"}

// ownVersion are the beginnings of libraries that come with the driver but count their own
// versions: libnvidia-egl-gbm.so.1.1.2, libnvidia-nvvm70.so.4, libnvidia-api.so.1.
var ownVersion = [...]string{"libnvidia-api", "libnvidia-egl-", "libnvidia-nvvm70"}

// abi is one architecture whose libraries are wanted.
type abi struct {
	machine elf.Machine
	class   elf.Class
	bits    int
	flags   int32 // in ld.so.cache; 0 if the cache does not know it
}

// libraryKey is what makes two files the same library. Own versions are left out of name.
type libraryKey struct {
	subdir, name string
	bits         int
}

// sonameKey names a library of the cache: its real directory, its name up to and without
// ".so", its bits.
type sonameKey struct {
	dir, stem string
	bits      int
}

// finder is the state of one search for libraries.
type finder struct {
	tree   *tree
	o      Options
	want   Class
	suffix string // ".so." and the version
	abis   []abi  // the native one first

	sonames  map[sonameKey]string // from the cache; "" where it tells several
	libs     []File
	index    map[libraryKey]int // of libs
	tls      map[int]bool       // by index of libs: known to have tlsABI
	elves    map[string]elfInfo // by path, so that none is read twice
	scanned  map[string]bool    // by real directory
	dirs     []string           // real directories with libraries of the driver
	found    [2]bool            // any library, by index of abis
	anchored [2]bool            // an anchor, by index of abis

	others   map[string]string // other versions: one library of each
	searched []string
	refused  []string
}

func newFinder(t *tree, o Options) (*finder, error) {
	native := abi{machine: o.Machine, class: elf.ELFCLASS64, bits: 64}
	if o.Machine == elf.EM_386 || o.Machine == elf.EM_ARM {
		native.class, native.bits = elf.ELFCLASS32, 32
	}
	flags, ok := ldcache.Flags(native.machine, native.class)
	if !ok {
		return nil, fmt.Errorf("unknown machine %s", o.Machine)
	}
	native.flags = flags
	abis := []abi{native}
	if o.Classes&Compat32 != 0 {
		switch o.Machine {
		case elf.EM_X86_64:
			abis = append(abis, abi{machine: elf.EM_386, class: elf.ELFCLASS32, bits: 32})
		case elf.EM_AARCH64:
			abis = append(abis, abi{machine: elf.EM_ARM, class: elf.ELFCLASS32, bits: 32})
		}
	}
	if len(abis) == 2 {
		abis[1].flags, _ = ldcache.Flags(abis[1].machine, abis[1].class)
	}
	return &finder{
		tree:    t,
		o:       o,
		want:    o.Classes.implied(),
		suffix:  ".so." + o.Version,
		abis:    abis,
		sonames: make(map[sonameKey]string),
		index:   make(map[libraryKey]int),
		tls:     make(map[int]bool),
		elves:   make(map[string]elfInfo),
		scanned: make(map[string]bool),
		others:  make(map[string]string),
	}, nil
}

// find searches the configured directories, those that the cache names, and the usual
// ones, in this order, until the driver is there.
func (f *finder) find() error {
	for _, dir := range absolute(f.o.SearchPath) {
		f.searched = append(f.searched, dir)
		if err := f.scanName(dir); err != nil {
			return err
		}
	}
	cached := false
	if !f.complete() {
		configured := f.anchored[0]
		dirs, err := f.readCache()
		if err != nil {
			return err
		}
		for _, dir := range dirs {
			if err := f.scanName(dir); err != nil {
				return err
			}
		}
		cached = f.anchored[0] && !configured
	}
	// Where the cache has the native libraries and no 32-bit ones, none are installed.
	if !f.anchored[0] {
		if err := f.scanUsual(0); err != nil {
			return err
		}
	}
	if len(f.abis) == 2 && !f.anchored[1] && !cached {
		if err := f.scanUsual(1); err != nil {
			return err
		}
	}
	if f.found[0] {
		return nil
	}
	if len(f.others) > 0 {
		return f.versionError()
	}
	return &NotFoundError{Version: f.o.Version, Searched: f.searched, Refused: f.refused}
}

// complete reports whether an anchor of each architecture was found.
func (f *finder) complete() bool {
	return f.anchored[0] && (len(f.abis) == 1 || f.anchored[1])
}

// readCache reads the loader's cache and returns the directories in it that have the driver. It
// also keeps the SONAMEs, so that no ELF header has to be read for them.
func (f *finder) readCache() ([]string, error) {
	name := f.o.Cache
	if name == "" {
		name = "/etc/ld.so.cache"
	}
	name = path.Clean("/" + name)
	data, err := f.tree.root.ReadFileMax(strings.TrimPrefix(name, "/"), maxCache)
	if errors.Is(err, fs.ErrNotExist) {
		f.searched = append(f.searched, name+" (absent)")
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the loader's cache: %w", err)
	}
	cache, err := ldcache.ParseSome(data, func(library string, flags int32) bool {
		return f.bitsOf(flags) != 0 && (mayBeDriver(library) || strings.HasSuffix(library, f.suffix))
	})
	if err != nil {
		return nil, fmt.Errorf("reading the loader's cache %s: %w", quote(f.tree.root.Path(name)), err)
	}
	f.searched = append(f.searched, name)

	// The directories of anchors come first, those of the driver's other libraries after them.
	var dirs []string
	for _, firstly := range []bool{true, false} {
		for _, e := range cache.Entries {
			if e.Subdir != "" || !path.IsAbs(e.Path) {
				continue
			}
			stem := stemOf(e.Name)
			seed := slices.Contains(anchors[:], stem)
			if !firstly {
				seed = strings.HasSuffix(e.Name, f.suffix) || hasOwnVersion(stem)
			}
			if dir := path.Dir(e.Path); seed && !slices.Contains(dirs, dir) {
				dirs = append(dirs, dir)
			}
		}
	}
	resolved := make(map[string]string)
	for _, dir := range dirs {
		resolved[dir] = f.tree.lookup(dir).path
	}
	for _, e := range cache.Entries {
		bits := f.bitsOf(e.Flags)
		if e.Subdir != "" || !validName(e.Name) {
			continue
		}
		stem := stemOf(e.Name)
		dir := resolved[path.Dir(e.Path)]
		if _, known := ClassOf(stem); dir == "" || !known && !strings.HasPrefix(stem, "libnvidia-") {
			continue
		}
		if e.Name == stem+".so" {
			continue // the development link
		}
		key := sonameKey{dir, stem, bits}
		if other, ok := f.sonames[key]; ok && other != e.Name {
			f.sonames[key] = ""
		} else {
			f.sonames[key] = e.Name
		}
	}
	return dirs, nil
}

// mayBeDriver tells of most libraries, at little cost, that they are of no family of the driver.
func mayBeDriver(name string) bool {
	return strings.Contains(name, "nv") || strings.HasPrefix(name, "libcuda")
}

// bitsOf returns the bits of a wanted architecture with these flags, 0 for all others.
func (f *finder) bitsOf(flags int32) int {
	for _, a := range f.abis {
		if a.flags != 0 && a.flags == flags {
			return a.bits
		}
	}
	return 0
}

// usual64 and usual32 are the directories of libraries, where they are found without a cache. T stands
// for the multiarch triplet, M for the machine as in uname -m, B for the branch (the version
// up to the first dot), V for the version. They are those of distributions and of operating
// systems made for containers: Debian and Ubuntu with their alternatives and old packages, RHEL and
// SUSE, Arch, NixOS, Talos, Container-Optimized OS and GKE, Flatcar, Bottlerocket.
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

var triplets = [...]struct {
	machine        elf.Machine
	triplet, uname string
}{
	{elf.EM_X86_64, "x86_64-linux-gnu", "x86_64"},
	{elf.EM_AARCH64, "aarch64-linux-gnu", "aarch64"},
	{elf.EM_386, "i386-linux-gnu", "i686"},
	{elf.EM_ARM, "arm-linux-gnueabihf", "armhf"},
	{elf.EM_PPC64, "powerpc64le-linux-gnu", "powerpc64le"},
}

// scanUsual scans the usual directories of one architecture until both anchors are found.
func (f *finder) scanUsual(which int) error {
	a := f.abis[which]
	branch, _, _ := strings.Cut(f.o.Version, ".")
	expand := strings.NewReplacer("T", "unknown", "M", "unknown", "B", branch, "V", f.o.Version)
	for _, t := range triplets {
		if t.machine == a.machine {
			expand = strings.NewReplacer("T", t.triplet, "M", t.uname, "B", branch, "V", f.o.Version)
		}
	}
	dirs := usual64[:]
	if a.bits == 32 {
		dirs = usual32[:]
	}
	for _, dir := range dirs {
		if err := f.scanName(expand.Replace(dir)); err != nil {
			return err
		}
		if f.has("libcuda", a.bits) && f.has("libnvidia-ml", a.bits) {
			break
		}
	}
	return nil
}

// has reports whether a library of the driver's version was found, wanted or not.
func (f *finder) has(stem string, bits int) bool {
	_, ok := f.index[libraryKey{"", stem + f.suffix, bits}]
	return ok
}

// scanName scans a directory by a name that may lead through links.
func (f *finder) scanName(name string) error {
	n := f.tree.lookup(name)
	if !n.isDir() {
		return nil
	}
	if !slices.Contains(f.searched, name) {
		f.searched = append(f.searched, name)
	}
	return f.scan(n.path)
}

// scan takes the libraries of one real directory and of the directories that belong to it.
func (f *finder) scan(dir string) error {
	if f.scanned[dir] {
		return nil
	}
	f.scanned[dir] = true
	var own []string
	versioned, foreignVersion := false, false
	for _, e := range f.tree.list(dir) {
		name := e.Name()
		if !strings.HasPrefix(name, "lib") {
			continue
		}
		stem := stemOf(name)
		switch {
		case stem == "":
		case strings.HasSuffix(name, f.suffix) && len(name) == len(stem)+len(f.suffix):
			if err := f.library(dir, name, ""); err != nil {
				return err
			}
			versioned = true
		case hasOwnVersion(stem):
			own = append(own, name)
		case slices.Contains(anchors[:], stem):
			foreignVersion = f.otherVersion(dir, name) || foreignVersion
		}
	}
	for _, stem := range anchors {
		if err := f.follow(dir, stem); err != nil {
			return err
		}
	}
	if versioned {
		f.dirs = append(f.dirs, dir)
		for _, sub := range []string{"tls", "vdpau", "gbm"} {
			if err := f.scanBelow(dir, sub); err != nil {
				return err
			}
		}
	}
	// A directory of another driver has that driver's companions.
	if versioned || !foreignVersion {
		return f.ownVersions(dir, own)
	}
	return nil
}

// follow goes where the SONAME link of an anchor leads, if the directory has the link alone. So
// Debian's alternatives are found.
func (f *finder) follow(dir, stem string) error {
	if f.tree.has(dir, stem+f.suffix) || !f.tree.has(dir, stem+".so.1") {
		return nil
	}
	n := f.tree.entry(dir, stem+".so.1", 0)
	if !n.isRegular() {
		return nil
	}
	if path.Base(n.path) == stem+f.suffix {
		return f.scan(path.Dir(n.path))
	}
	f.otherVersion(path.Dir(n.path), path.Base(n.path))
	return nil
}

// otherVersion keeps the version of an anchor if it is a driver's version and not ours.
func (f *finder) otherVersion(dir, name string) bool {
	stem := stemOf(name)
	version := strings.TrimPrefix(name[len(stem):], ".so.")
	if !slices.Contains(anchors[:], stem) || !isVersion(version) || version == f.o.Version {
		return false
	}
	if _, ok := f.others[version]; !ok {
		f.others[version] = path.Join(dir, name)
	}
	return true
}

// scanBelow takes the libraries of a directory below one with libraries. Those in tls are other
// builds of libnvidia-tls and go where the others go.
func (f *finder) scanBelow(dir, sub string) error {
	if !f.tree.has(dir, sub) {
		return nil
	}
	n := f.tree.entry(dir, sub, 0)
	if !n.isDir() || f.scanned[n.path] {
		return nil
	}
	f.scanned[n.path] = true
	subdir := sub
	if sub == "tls" {
		subdir = ""
	}
	for _, e := range f.tree.list(n.path) {
		name := e.Name()
		stem := stemOf(name)
		if stem == "" || len(name) != len(stem)+len(f.suffix) || !strings.HasSuffix(name, f.suffix) {
			continue
		}
		if sub == "tls" && stem != "libnvidia-tls" {
			continue
		}
		if err := f.library(n.path, name, subdir); err != nil {
			return err
		}
	}
	return nil
}

// library takes one library of the driver's version, if it is wanted and can be used.
func (f *finder) library(dir, name, subdir string) error {
	stem := stemOf(name)
	if slices.Contains(foreign[:], stem) {
		return nil
	}
	class, wanted := f.wants(stem)
	if !wanted && !slices.Contains(anchors[:], stem) {
		return nil
	}
	if stem == "libvdpau_nvidia" {
		subdir = "vdpau" // where libvdpau looks for it; Debian has it beside the others
	}
	n := f.tree.entry(dir, name, 0)
	if !n.isRegular() {
		f.refuse(path.Join(dir, name), "not a regular file")
		return nil
	}
	base := path.Base(n.path)
	if s := stemOf(base); s != "" && base != name {
		if version := strings.TrimPrefix(base[len(s):], ".so."); isVersion(version) && version != f.o.Version {
			f.refuse(path.Join(dir, name), "a link to version "+version)
			return nil
		}
	}
	return f.take(n, dir, libraryKey{subdir: subdir, name: name}, File{
		Path: n.path, Name: name, Kind: Library, Class: class, Subdir: subdir,
	}, wanted)
}

// wants returns the classes of a library by its name without ".so", and whether they are asked for.
func (f *finder) wants(stem string) (Class, bool) {
	class, known := ClassOf(stem)
	if !known {
		return everything, f.want&everything == everything
	}
	return class, f.want&class != 0
}

// take completes a library with bits and SONAME and adds it, unless it is of no wanted
// architecture or there already.
func (f *finder) take(n node, dir string, key libraryKey, file File, wanted bool) error {
	soname, which, err := f.identify(n, dir, stemOf(file.Name))
	if err != nil || which < 0 {
		return err
	}
	f.found[which] = true
	file.SONAME = soname
	file.Bits = f.abis[which].bits
	key.bits = file.Bits
	stem := stemOf(file.Name)
	if slices.Contains(anchors[:], stem) {
		f.anchored[which] = true
	}
	if !wanted {
		f.index[key] = -1
		return nil
	}
	at, ok := f.index[key]
	if !ok {
		file.Links = f.links(file, dir)
		f.index[key] = len(f.libs)
		f.libs = append(f.libs, file)
		return nil
	}
	if at < 0 || stem != "libnvidia-tls" || f.libs[at].Path == file.Path {
		return nil
	}
	return f.chooseTLS(at, file)
}

// chooseTLS puts another libnvidia-tls in the place of one found before if only it has the right ABI note.
// With a single one there is nothing to choose, and a driver without notes works as well.
func (f *finder) chooseTLS(at int, file File) error {
	before, err := f.readELF(f.libs[at].Path)
	if err != nil {
		return err
	}
	now, err := f.readELF(file.Path)
	if err != nil {
		return err
	}
	if before.ABI != tlsABI && now.ABI == tlsABI {
		file.Links = f.libs[at].Links
		f.libs[at] = file
	}
	return nil
}

// identify returns the SONAME of a library and the index of its architecture, -1 if that is not
// wanted. The cache is believed where it lists exactly one library of that name in
// that directory and the entry is there; else the ELF header is read.
func (f *finder) identify(n node, dir, stem string) (string, int, error) {
	for i, a := range f.abis {
		soname := f.sonames[sonameKey{dir, stem, a.bits}]
		if soname == "" || !f.tree.has(dir, soname) {
			continue
		}
		if i+1 < len(f.abis) && f.sonames[sonameKey{dir, stem, f.abis[i+1].bits}] != "" {
			break // one directory cannot have it for both
		}
		if version := strings.TrimPrefix(soname, stem+".so."); isVersion(version) && version != f.o.Version {
			break // the name of an older driver's file
		}
		return soname, i, nil
	}
	info, err := f.readELF(n.path)
	if err != nil {
		return "", -1, err
	}
	for i, a := range f.abis {
		if a.machine == info.Machine && a.class == info.Class {
			return cmp.Or(info.SONAME, path.Base(n.path)), i, nil
		}
	}
	f.refuse(n.path, "built for "+strings.TrimPrefix(info.Machine.String(), "EM_")+
		", "+strings.TrimPrefix(info.Class.String(), "ELFCLASS")+" bits")
	return "", -1, nil
}

func (f *finder) readELF(name string) (elfInfo, error) {
	if info, ok := f.elves[name]; ok {
		return info, nil
	}
	info, err := readELFFile(f.tree.root.Path(name))
	if err != nil {
		return elfInfo{}, fmt.Errorf("reading library %s: %w", quote(f.tree.root.Path(name)), err)
	}
	f.elves[name] = info
	return info, nil
}

// ownVersions takes those libraries of a directory that have versions of their own. Of several
// versions it is the one that the SONAME link leads to, else the highest.
func (f *finder) ownVersions(dir string, names []string) error {
	for len(names) > 0 {
		stem := stemOf(names[0])
		n := 1
		for n < len(names) && stemOf(names[n]) == stem {
			n++
		}
		group := names[:n]
		names = names[n:]
		class, wanted := f.wants(stem)
		if !wanted {
			continue
		}
		slices.SortFunc(group, compareOwnVersions)
		for _, name := range group {
			if name == stem+".so" {
				continue
			}
			n := f.tree.entry(dir, name, 0)
			base := path.Base(n.path)
			if !n.isRegular() || stemOf(base) != stem || base == stem+".so" {
				continue
			}
			err := f.take(n, dir, libraryKey{name: stem}, File{Path: n.path, Name: base, Kind: Library, Class: class}, true)
			if err != nil {
				return err
			}
			break
		}
	}
	return nil
}

// compareOwnVersions puts short versions, which are SONAMEs, before long ones, and high
// ones before low ones.
func compareOwnVersions(a, b string) int {
	if c := cmp.Compare(strings.Count(a, "."), strings.Count(b, ".")); c != 0 {
		return c
	}
	return compareVersions(b, a)
}

// compareVersions compares what is between dots, numbers as numbers.
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

// links returns the further names of a library: its SONAME, its development name, and what its
// users expect beside these. A library that is its own SONAME is linked with by no program, so that its
// development name is given only if the driver's directory has it.
func (f *finder) links(file File, dir string) []Link {
	stem := stemOf(file.Name)
	development := stem + ".so"
	var links []Link
	if file.SONAME != file.Name {
		links = append(links, Link{file.SONAME, file.Name})
	}
	if file.SONAME != development && (file.SONAME != file.Name || f.tree.has(dir, development) || stem == "libnvidia-vulkan-producer") {
		target := file.SONAME
		if stem == "libnvidia-vulkan-producer" {
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

// refuse keeps a library that cannot be used and the reason, for the message should nothing be found.
func (f *finder) refuse(name, reason string) {
	const most = 8
	if len(f.refused) < most {
		f.refused = append(f.refused, quote(name)+": "+reason)
	}
}

func (f *finder) versionError() error {
	e := &VersionError{Kernel: f.o.Version}
	e.Found = slices.SortedFunc(maps.Keys(f.others), compareVersions)
	for _, version := range e.Found {
		e.Where = append(e.Where, f.others[version])
	}
	return e
}

// stemOf returns the name of a library up to and without ".so", "" if that is not in it as a word.
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
