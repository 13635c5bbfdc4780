// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package plan works out what one container gets: it joins the machine
// (package sysfs and its driver), the container's wishes and its
// configuration (package spec) and its root filesystem (spec/rootfs).
//
// [ReadMachine] and [ReadImage] read, [Make] decides and does nothing else,
// [Image.Write] and the caller's spec.Document write.
package plan

import (
	"bytes"
	"debug/elf"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Changes is all that is done for one container.
type Changes struct {
	Edits   spec.Edits // of config.json
	Links   []Link     // in the root filesystem, sorted
	Files   []File     // in the root filesystem
	LibDirs []string   // directories of the root filesystem that hold our links
	Notes   []string
}

// Link is a symbolic link in the container.
type Link struct {
	Dir, Name, Target string
	Source            string // file of the host that it leads to: what to mount if it cannot be made
}

// File is a file written into the root filesystem.
type File struct {
	Path string
	Data []byte
}

func (c *Changes) note(format string, args ...any) {
	c.Notes = append(c.Notes, fmt.Sprintf(format, args...))
}

// legacyHooks are the prestart hooks of the classic runtime, which would
// inject everything a second time.
var legacyHooks = []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit"}

// Policy is the part of the configuration that decides who may ask for what.
func (c Config) Policy() spec.Policy {
	return spec.Policy{
		EnvWhenUnprivileged: c.EnvWhenUnprivileged,
		VolumeMounts:        c.VolumeMounts,
		SwarmResources:      c.SwarmResources,
		Supported:           c.SupportedCapabilities,
		DisableRequire:      c.DisableRequire,
		IgnoreIMEX:          c.IgnoreIMEX,
		RefuseUnprivileged:  c.RefuseUnprivileged,
	}
}

// Make decides what is changed for a container. It reads nothing and changes
// nothing; the same arguments give the same changes.
func Make(cfg Config, req spec.Request, facts spec.Facts, m Machine, img *Image) Changes {
	c := Changes{}
	c.Edits.NoCgroups = cfg.NoCgroups
	c.Edits.RemoveHooks = legacyHooks
	c.Edits.MaskedPaths = m.Hidden
	for _, n := range m.Nodes {
		if cfg.ClosesNodes(m.Root) {
			c.Edits.Mounts = append(c.Edits.Mounts, ClosedNode(n, m.devRoot()))
		} else {
			c.Edits.Devices = append(c.Edits.Devices, linuxDevice(n))
		}
		// Others may not open it: the group that may has to be the container's.
		if n.Mode.Perm()&0o006 != 0o006 && n.GID != 0 && !cfg.NoAdditionalGIDs && !slices.Contains(c.Edits.AdditionalGIDs, n.GID) {
			c.Edits.AdditionalGIDs = append(c.Edits.AdditionalGIDs, n.GID)
		}
	}
	slices.Sort(c.Edits.AdditionalGIDs)
	c.fence(cfg, facts, m)
	c.place(m, img)
	c.dropOtherWay(facts, m, img)
	c.spareMounts(facts)
	c.cache(m, img)
	c.applicationProfile(req, m, img)
	return c
}

func linuxDevice(n sysfs.Node) specs.LinuxDevice {
	mode := n.Mode.Perm()
	return specs.LinuxDevice{
		Path: n.Path, Type: "c", Major: int64(n.Major), Minor: int64(n.Minor),
		FileMode: (*fs.FileMode)(&mode), UID: &n.UID, GID: &n.GID,
	}
}

// Notes puts into words what of the edits did not go as asked.
func Notes(r spec.Report) []string {
	var notes []string
	for _, what := range []struct {
		format string
		list   []string
	}{
		{"the container's own mounts stay at %q", r.KeptMounts},
		{"devices of other numbers replaced at %q", r.ReplacedDevices},
		{"mounts of an earlier driver removed from %q", r.StaleMounts},
		{"hooks of the classic runtime removed: %q", r.RemovedHooks},
		{"the seccomp profile still lets some device nodes be made: %q", r.Unfenced},
	} {
		if len(what.list) > 0 {
			notes = append(notes, fmt.Sprintf(what.format, what.list))
		}
	}
	return notes
}

// fence keeps a container that may make device nodes from making those of
// GPUs that it was not given: NVIDIA's own tools do so unasked. The nodes
// would be useless, but confuse. A privileged container has them anyway.
func (c *Changes) fence(cfg Config, facts spec.Facts, m Machine) {
	if cfg.Fence == FenceOff || !facts.HasCapability("CAP_MKNOD") || facts.HasCapability("CAP_SYS_ADMIN") {
		return
	}
	majors := m.Inventory.Majors
	for _, major := range []int{majors.Nvidia, majors.UVM, majors.Caps} {
		if major > 0 && !slices.Contains(c.Edits.FenceMajors, int64(major)) {
			c.Edits.FenceMajors = append(c.Edits.FenceMajors, int64(major))
		}
	}
	slices.Sort(c.Edits.FenceMajors)
	c.Edits.FenceAlways = cfg.Fence == FenceAlways
}

// place gives each file of the driver its place in the container.
func (c *Changes) place(m Machine, img *Image) {
	for i, f := range m.Files {
		source := m.DriverRoot.Path(f.Path)
		place := placeOf(f, img.Layout)
		if place == "" {
			c.note("%s left out: the image has no directory for 32-bit libraries", f.Path)
			continue
		}
		options := fileOptions
		switch f.Kind {
		case driver.Library:
			if dir := strings.TrimSuffix(path.Dir(place), "/"+f.Subdir); !slices.Contains(c.LibDirs, dir) {
				c.LibDirs = append(c.LibDirs, dir)
			}
		case driver.Socket, driver.Directory:
			options = socketOptions
		}
		if m.Linked != "" && m.LinkNames[i] != "" {
			c.Links = append(c.Links, linksTo(f, m.LinkNames[i], place, source)...)
			continue
		}
		c.Edits.Mounts = append(c.Edits.Mounts, bindMount(source, place, options))
		for _, l := range f.Links {
			name := path.Join(path.Dir(place), l.Name)
			c.Links = append(c.Links, Link{Dir: path.Dir(name), Name: path.Base(name), Target: l.Target, Source: source})
		}
	}
	if m.Linked != "" {
		c.Edits.Mounts = append(c.Edits.Mounts, bindMount(m.Linked, driverPlace, fileOptions))
	}
	for _, name := range m.GDS {
		c.Edits.Mounts = append(c.Edits.Mounts, bindMount(m.Root.Path(name), name, fileOptions))
	}
	sortMounts(c.Edits.Mounts)
	slices.SortFunc(c.Links, func(a, b Link) int { return strings.Compare(a.Dir+"/"+a.Name, b.Dir+"/"+b.Name) })
	c.Links = slices.CompactFunc(c.Links, func(a, b Link) bool { return a.Dir == b.Dir && a.Name == b.Name })
	slices.Sort(c.LibDirs)
}

// spareMounts drops the links at whose place the container mounts something of
// its own: the low-level runtime would follow the link, and mount that where
// the library goes, on which then ours would come. A mount with our own options is
// of an earlier start, when the link could not be made.
func (c *Changes) spareMounts(facts spec.Facts) {
	// /lib is /usr/lib in most images.
	place := func(name string) string { return strings.TrimPrefix(path.Clean(name), "/usr") }
	taken := make(map[string]bool, len(facts.Mounts))
	for _, m := range facts.Mounts {
		if !slices.Equal(m.Options, fileOptions) {
			taken[place(m.Destination)] = true
		}
	}
	c.Links = slices.DeleteFunc(c.Links, func(l Link) bool {
		name := path.Join(l.Dir, l.Name)
		if taken[place(name)] {
			c.note("no link is put at %s: the container mounts something there", name)
			return true
		}
		return false
	})
}

func sortMounts(mounts []specs.Mount) {
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
}

// cache merges the driver's libraries into the image's loader cache. An
// image without one gets none: its loader searches the library directory
// anyway.
func (c *Changes) cache(m Machine, img *Image) {
	if img.Cache == nil {
		return
	}
	entries := cacheEntries(m, img.Layout)
	if img.Compat != nil {
		flags, _ := cacheFlags(m.Elf, 64)
		for _, name := range img.Compat.Libraries {
			entries = slices.DeleteFunc(entries, func(e ldcache.Entry) bool { return e.Name == name && e.Flags == flags })
			entries = append(entries, ldcache.Entry{Name: name, Path: path.Join(img.Compat.Dir, name), Flags: flags})
		}
		c.note("CUDA forward-compatibility libraries of %s in the image come first in the loader cache", img.Compat.Version)
	}
	merged := *img.Cache
	dead := slices.Sorted(slices.Values(img.dead)) // an image may have very many
	merged.Entries = slices.DeleteFunc(slices.Clone(merged.Entries), func(e ldcache.Entry) bool {
		_, found := slices.BinarySearch(dead, e.Path)
		return found
	})
	merged.Merge(entries)
	if slices.Equal(merged.Entries, img.Cache.Entries) {
		return // an earlier start of this container has done it
	}
	data, err := merged.Encode()
	if err != nil {
		c.note("the image's loader cache is left as it is: %v", err)
		return
	}
	if !bytes.Equal(data, img.cache) {
		c.Files = append(c.Files, File{Path: ldCachePath, Data: data})
	}
}

// cacheEntries are the lines of a loader cache for the driver's libraries, as
// ldconfig would write them: one by the SONAME and one by each development
// link. It does not look into subdirectories.
func cacheEntries(m Machine, layout rootfs.Layout) []ldcache.Entry {
	var entries []ldcache.Entry
	for _, f := range m.Files {
		if f.Kind != driver.Library || f.Subdir != "" {
			continue
		}
		dir := layout.LibDir
		if f.Bits == 32 {
			dir = layout.LibDir32
		}
		flags, ok := cacheFlags(m.Elf, f.Bits)
		if !ok || dir == "" {
			continue
		}
		entries = append(entries, ldcache.Entry{Name: f.SONAME, Path: path.Join(dir, f.SONAME), Flags: flags})
		for _, l := range f.Links {
			if l.Target == f.SONAME && !strings.Contains(l.Name, "/") {
				entries = append(entries, ldcache.Entry{Name: l.Name, Path: path.Join(dir, l.Name), Flags: flags})
			}
		}
	}
	return entries
}

// cacheFlags are the flags that libraries have in the loader's cache: those of
// a machine's own programs or, of 32 bits, those of its 32-bit sister.
func cacheFlags(machine elf.Machine, bits int) (int32, bool) {
	if bits != 32 {
		return ldcache.Flags(machine, elf.ELFCLASS64)
	}
	switch machine {
	case elf.EM_X86_64:
		machine = elf.EM_386
	case elf.EM_AARCH64:
		machine = elf.EM_ARM
	}
	return ldcache.Flags(machine, elf.ELFCLASS32)
}

// applicationProfile limits EGL and Vulkan to the container's GPUs, as the
// classic runtime does: they otherwise find every GPU of the machine through
// the driver and fail on the first that they may not open. The bits of the
// mask are device minors.
func (c *Changes) applicationProfile(req spec.Request, m Machine, img *Image) {
	if img.FS == nil || !slices.Contains(req.Capabilities, "graphics") && !slices.Contains(req.Capabilities, "display") {
		return
	}
	var mask uint64
	for _, g := range m.Selection.GPUs {
		if g.GPU.Minor >= 64 {
			return // not expressible
		}
		mask |= 1 << g.GPU.Minor
	}
	if mask == 0 {
		return
	}
	c.Files = append(c.Files, File{
		Path: "/etc/nvidia/nvidia-application-profiles-rc.d/10-container.conf",
		Data: fmt.Appendf(nil, `{"profiles": [{"name": "_container_", "settings": ["EGLVisibleDGPUDevices", 0x%x]}], "rules": [{"pattern": [], "profile": "_container_"}]}`+"\n", mask),
	})
}
