// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Update changes or creates a file of the image so that a loader finds [Dir]: a loader cache gets
// Entries, a list of directories gets Lines.
type Update struct {
	Path    string
	Entries []ldcache.Entry // replace those of the same name
	Lines   []string
	Last    bool   // append Lines instead of prepending them
	Old     []byte // current content, nil if none
	New     []byte // content after the update
	Covered bool   // hidden by a mount of the container
}

// Limits on what is read from an image. The ld.so.cache of a large desktop has 250 KiB.
const (
	maxCacheSize = 16 << 20
	maxListSize  = 64 << 10
)

// glibc is a GNU C library that an image may have: its loader, and the directory of its cache and
// ld.so.conf.
type glibc struct{ loader, etc string }

// glibcs are the usual one and that of the glibc packages for Alpine.
var glibcs = map[ldcache.Arch][]glibc{
	ldcache.X8664: {
		{"/lib64/ld-linux-x86-64.so.2", "/etc"},
		{"/usr/glibc-compat/lib/ld-linux-x86-64.so.2", "/usr/glibc-compat/etc"},
	},
	ldcache.AArch64: {
		{"/lib/ld-linux-aarch64.so.1", "/etc"},
		{"/usr/glibc-compat/lib/ld-linux-aarch64.so.1", "/usr/glibc-compat/etc"},
	},
	ldcache.I386:    {{"/lib/ld-linux.so.2", "/etc"}},
	ldcache.PPC64LE: {{"/lib64/ld64.so.2", "/etc"}},
}

// planLoader makes the image's loaders find Dir. A glibc image without a cache gets one with our
// entries only: glibc still finds everything else in its default directories.
func (p *Plan) planLoader(v *view) {
	v.findLibDirs(p.Arch)
	p.Image = v.Image
	entries, lines := p.cacheEntries(), []string{Dir, path.Join(Dir, lib32)}
	if compat, ok := p.findCompat(v); ok {
		flags := p.Arch.Flags()
		for _, name := range compat.Libraries {
			entries = slices.DeleteFunc(entries, func(e ldcache.Entry) bool {
				return e.Name == name && e.Flags == flags
			})
			entries = append(entries, ldcache.Entry{Name: name, Path: path.Join(compat.Dir, name), Flags: flags})
		}
		lines = slices.Insert(lines, 0, compat.Dir)
		p.notef("CUDA forward-compatibility libraries of %s in the image come first in the loader cache",
			compat.Version)
	}
	musl := strings.Replace(string(p.Arch), "ppc64", "powerpc64", 1) // LDSO_ARCH in musl's source
	hasMusl := func() bool { return v.isRegular("/lib/ld-musl-" + musl + ".so.1") }
	usual := false
	for i, libc := range glibcs[p.Arch] {
		data, there := p.read(v, libc.etc+"/ld.so.cache", maxCacheSize)
		if _, err := ldcache.Parse(data); !there || err != nil {
			// Alpine's gcompat has a loader of glibc's name, which reads no cache.
			if !v.isRegular(libc.loader) || i == 0 && hasMusl() {
				continue
			}
		}
		usual = usual || i == 0
		p.planUpdate(Update{Path: libc.etc + "/ld.so.cache", Entries: entries, Old: present(data, there)})
		p.updateConf(v, libc.etc, lines)
	}
	if !usual && hasMusl() {
		p.updateMusl(v, "/etc/ld-musl-"+musl+".path")
	}
	if v.isDir("/nix/store") {
		// Programs built by Nix do not read /etc/ld.so.cache; this directory is in their search
		// path.
		p.Image.Nix = true
	}
}

// updateConf preserves the cache entries when ldconfig runs in the container.
func (p *Plan) updateConf(v *view, etc string, lines []string) {
	conf, there := p.read(v, etc+"/ld.so.conf", maxListSize)
	for line := range bytes.Lines(conf) {
		words := strings.Fields(string(line))
		if len(words) > 1 && words[0] == "include" && strings.Contains(words[1], "ld.so.conf.d/") {
			name := etc + "/ld.so.conf.d/00-nvidia-container-driver.conf"
			p.planUpdate(Update{Path: name, Lines: lines, Old: present(p.read(v, name, maxListSize))})
			return
		}
	}
	p.planUpdate(Update{Path: etc + "/ld.so.conf", Lines: lines, Old: present(conf, there)})
}

// updateMusl extends the search path of musl's loader: directories separated by colons or newlines,
// which replace the default /lib:/usr/local/lib:/usr/lib (ldso/dynlink.c).
func (p *Plan) updateMusl(v *view, name string) {
	u := Update{Path: name, Lines: []string{Dir}, Last: true}
	if u.Old = present(p.read(v, name, maxListSize)); u.Old == nil {
		u.Lines = []string{"/lib", "/usr/local/lib", "/usr/lib", Dir}
	}
	p.planUpdate(u)
}

// present returns data, nil only if there is no file.
func present(data []byte, there bool) []byte {
	if there && data == nil {
		return []byte{}
	}
	return data
}

// planUpdate adds an update unless the file already has all of it.
func (p *Plan) planUpdate(u Update) {
	cover, own := p.cover(u.Path)
	switch {
	case own:
		p.notef("%s is unchanged: the container mounts something there (%q)", u.Path, cover.Destination)
		return
	case cover != nil && u.Entries == nil:
		return // only ldconfig needs it
	}
	u.Covered = cover != nil
	var err error
	if u.New, err = u.merge(u.Old, p.Inventory.Driver.Version); err != nil {
		p.notef("%s is unchanged: %v", u.Path, err)
		return
	}
	if u.Old == nil || !bytes.Equal(u.Old, u.New) {
		p.Updates = append(p.Updates, u)
	}
}

// merge returns the updated content of the file. A cache that cannot be parsed counts as empty, as
// it does for glibc. Our earlier entries stay, for other containers on the same root filesystem,
// except those of another driver version.
func (u Update) merge(old []byte, version string) ([]byte, error) {
	if u.Entries != nil {
		cache, err := ldcache.Parse(old)
		if err != nil {
			cache = &ldcache.Cache{}
		}
		before := slices.Clone(cache.Entries)
		cache.Entries = slices.DeleteFunc(cache.Entries, func(e ldcache.Entry) bool {
			_, suffix, _ := strings.Cut(e.Name, ".so.")
			return strings.HasPrefix(e.Path, Dir+"/") && strings.Contains(suffix, ".") && suffix != version
		})
		cache.Merge(u.Entries)
		if err == nil && slices.Equal(before, cache.Entries) {
			return old, nil
		}
		return cache.Encode()
	}
	words := strings.FieldsFunc(string(old), func(r rune) bool { return r == ':' || r == '\n' })
	missing := slices.DeleteFunc(slices.Clone(u.Lines), func(line string) bool { return slices.Contains(words, line) })
	switch added := []byte(strings.Join(missing, "\n") + "\n"); {
	case len(missing) == 0:
		return old, nil
	case !u.Last:
		return append(added, old...), nil
	case len(old) > 0 && old[len(old)-1] != '\n':
		return append(append(slices.Clone(old), '\n'), added...), nil
	default:
		return append(slices.Clone(old), added...), nil
	}
}

// cacheEntries returns the entries that ldconfig would write for the driver's libraries: one for
// the SONAME and one for each other name, without subdirectories.
func (p *Plan) cacheEntries() []ldcache.Entry {
	entries := []ldcache.Entry{}
	for _, f := range p.Files {
		flags := cacheFlags(p.Arch, f.Bits)
		if f.Kind != driver.Library || f.Subdir != "" || flags == 0 || f.Place == "" {
			continue
		}
		names := []string{f.SONAME}
		for _, l := range f.Beside {
			if l.Name != f.SONAME {
				names = append(names, l.Name)
			}
		}
		for _, name := range names {
			file := path.Join(Dir, path.Dir(f.Place), name)
			entries = append(entries, ldcache.Entry{Name: name, Path: file, Flags: flags})
		}
	}
	return entries
}

// cacheFlags returns the loader cache flags of the driver's libraries of 32 or 64 bits.
func cacheFlags(arch ldcache.Arch, bits int) int32 {
	if bits != arch.Bits() {
		arch = arch.Compat()
	}
	return arch.Flags()
}

// findCompat finds CUDA forward-compatibility libraries that work with this driver.
func (p *Plan) findCompat(v *view) (rootfs.Compat, bool) {
	if !p.config.CUDACompat || v.fs == nil {
		return rootfs.Compat{}, false
	}
	compat, err := v.fs.Compat()
	if err != nil {
		return rootfs.Compat{}, false
	}
	for _, g := range p.Selection.GPUs {
		// They would fail with CUDA error 804, while the driver's own libcuda works.
		if brand, _ := sysfs.Brand(g.GPU.Model, p.Inventory.Driver.Version); brand == "geforce" || brand == "titan" {
			p.notef("CUDA forward-compatibility libraries %s in the image's %s are not used: %s does not support them",
				compat.Version, compat.Dir, g.GPU.Model)
			return rootfs.Compat{}, false
		}
	}
	version := p.Inventory.Driver.Version
	cuda, _ := sysfs.CUDAVersion(version)
	if !rootfs.CompatUsable(version, cuda, compat) {
		p.notef("CUDA forward-compatibility libraries %s in the image's %s are not for driver %s",
			compat.Version, compat.Dir, version)
		return rootfs.Compat{}, false
	}
	return compat, true
}
