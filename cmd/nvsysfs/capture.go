// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/elfstub"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

func newCapture(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "capture DIR|FILE.txtar|-",
		Short: "save what a machine shows of its GPUs as a fixture",
		Long: `Saves what the machine shows of its NVIDIA GPUs and driver as a fixture: an
archive if the name ends in .txtar, on standard output for -, else a tree in a
new directory. Libraries and programs are kept as stubs with their SONAMEs.
Host names, user names, the driver's registry keys and serial numbers are not
kept; UUIDs are, unless --scrub replaces each by the same one everywhere.
Read the archive before you publish it.`,
		Example: `  nvsysfs capture --scrub machine.txtar
  nvsysfs capture - | less`,
		Args: arguments("DIR or FILE.txtar"),
	}
	dir := rootFlag(cmd, "")
	scrub := cmd.Flags().Bool("scrub", false, "replace UUIDs")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return runCapture(i, *dir, *scrub, args[0]) }
	return cmd
}

func runCapture(i invocation, dir string, scrub bool, to string) error {
	root, err := i.machine(dir)
	if err != nil {
		return err
	}
	machine, warnings := capture(root)
	if scrub {
		scrubMachine(machine)
	}
	for _, warning := range warnings {
		if _, err := fmt.Fprintf(i.stderr, "nvsysfs: warning: %s\n", warning); err != nil {
			return err
		}
	}
	if to != "-" && !strings.HasSuffix(to, ".txtar") {
		skipped, err := machine.Unpack(to, fixtures.UnpackOptions{})
		return errors.Join(err, tellSkipped(i.stderr, skipped))
	}
	text, err := machine.Format()
	if err != nil {
		return err
	}
	if to == "-" {
		_, err := i.stdout.Write(text)
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	if err != nil {
		return err
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}

// capture reads a machine into an archive. Files that cannot be read are left out and come as warnings.
func capture(root sysfs.Root) (fixtures.Archive, []string) {
	inventory, err := sysfs.Read(root, false)
	if err != nil {
		// A machine with a malformed file is the one most worth keeping.
		inventory = sysfs.Inventory{}
	}
	c := &collector{root: root, entries: map[string]fixtures.Entry{}}
	if inventory.Driver != nil {
		c.version = inventory.Driver.Version
	}
	if release, err := root.ReadFile("proc/sys/kernel/osrelease"); err == nil {
		c.release = strings.TrimSpace(string(release))
	}
	c.proc()
	c.sys()
	c.dev()
	c.driver()
	if nested, err := sysfs.NewRoot(root.Path(driverContainer)); err == nil {
		inner := &collector{root: nested, entries: map[string]fixtures.Entry{}, version: c.version, release: c.release}
		inner.dev()
		inner.driver()
		for _, name := range slices.Sorted(maps.Keys(inner.entries)) {
			e := inner.entries[name]
			e.Name = path.Join(driverContainer, e.Name)
			c.entries[e.Name] = e
		}
		c.warnings = append(c.warnings, inner.warnings...)
	}

	var machine fixtures.Archive
	for _, name := range slices.Sorted(maps.Keys(c.entries)) {
		e := c.entries[name]
		if link := aboveIt(c.entries, name); link != "" {
			c.warnings = append(c.warnings, fmt.Sprintf("leaving out %q: %q above it is a link", name, link))
			continue
		}
		machine.Entries = append(machine.Entries, e)
	}
	machine.Comment = describe(inventory)
	return machine, c.warnings
}

// scrubMachine replaces the UUIDs in all files, in place.
func scrubMachine(machine fixtures.Archive) {
	replaced := map[string]string{}
	for i := range machine.Entries {
		e := &machine.Entries[i]
		if e.Kind == fixtures.Text || e.Kind == fixtures.Hex {
			e.Body = scrubUUIDs(e.Body, replaced)
		}
	}
}

// aboveIt returns the entry that would have to be a directory for name to exist and is something else, "" if there is none.
func aboveIt(entries map[string]fixtures.Entry, name string) string {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if e, ok := entries[dir]; ok && e.Kind != fixtures.Dir {
			return dir
		}
	}
	return ""
}

// driverContainer is where a driver in a container has its root.
const driverContainer = "run/nvidia/driver"

func describe(inventory sysfs.Inventory) string {
	var models []string
	for _, gpu := range inventory.GPUs {
		if gpu.Model != "" && !slices.Contains(models, gpu.Model) {
			models = append(models, gpu.Model)
		}
	}
	text := "A machine captured by nvsysfs capture"
	if inventory.Driver != nil {
		text += fmt.Sprintf(": %d GPUs (%s), driver %s", len(inventory.GPUs), strings.Join(models, ", "), inventory.Driver.Version)
	}
	return strings.Map(func(r rune) rune {
		if r < ' ' {
			return ' '
		}
		return r
	}, text) + ".\n"
}

// collector gathers entries by name. Names are in the form of io/fs.
type collector struct {
	root     sysfs.Root
	entries  map[string]fixtures.Entry
	warnings []string
	version  string // of the driver, "" if it is not known
	release  string // of the kernel
}

func (c *collector) warn(name string, err error) {
	text := fmt.Sprintf("leaving out %q: %s", name, err)
	if !errors.Is(err, fs.ErrNotExist) && !slices.Contains(c.warnings, text) {
		c.warnings = append(c.warnings, text)
	}
}

// list returns the names in a directory, none if it cannot be read.
func (c *collector) list(dir string) []string {
	entries, err := c.root.ReadDir(dir)
	if err != nil {
		if !errors.Is(err, syscall.ENOTDIR) {
			c.warn(dir, err)
		}
		return nil
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

// text keeps a file as it is, or what edit makes of it.
func (c *collector) text(name string, edit func([]byte) []byte) {
	data, err := c.root.ReadFile(name)
	if err != nil {
		c.warn(name, err)
		return
	}
	if edit != nil {
		data = edit(data)
	}
	c.add(fixtures.FileEntry(name, 0o644, data))
}

func (c *collector) add(e fixtures.Entry) { c.entries[e.Name] = e }

// tree keeps all regular files below a directory, and directories without any.
func (c *collector) tree(dir string) {
	for _, base := range c.list(dir) {
		name := path.Join(dir, base)
		info, err := c.root.Lstat(name)
		if err != nil {
			c.warn(name, err)
			continue
		}
		switch {
		case info.Mode().IsRegular():
			c.text(name, nil)
		case info.IsDir():
			before := len(c.entries)
			c.tree(name)
			if len(c.entries) == before {
				c.add(fixtures.Entry{Name: name, Kind: fixtures.Dir, Mode: 0o755})
			}
		}
	}
}

// proc keeps the NVIDIA part of /proc, without what an administrator typed into it.
func (c *collector) proc() {
	const nvidia = "proc/driver/nvidia"
	c.text("proc/devices", nil)
	c.text(nvidia+"/version", withoutBuilder)
	c.text(nvidia+"/params", withoutStrings)
	for _, gpu := range c.list(nvidia + "/gpus") {
		for _, file := range []string{"information", "power", "numa_status", "offline_pages", "unbindLock"} {
			c.text(path.Join(nvidia, "gpus", gpu, file), nil)
		}
	}
	c.tree(nvidia + "/capabilities")
	for _, dir := range []string{"proc/driver/nvidia-caps", "proc/driver/nvidia-nvlink", "proc/driver/nvidia-nvswitch"} {
		c.tree(dir)
	}
}

// withoutBuilder replaces the name of who built an open kernel module, user@host in parentheses, which is not NVIDIA's own
// if the module was built on the machine.
//
//	NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  555.58.02  Release Build  (root@workstation)  …
func withoutBuilder(data []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		before, after, opened := bytes.Cut(line, []byte("("))
		inside, rest, closed := bytes.Cut(after, []byte(")"))
		foreign := bytes.Contains(inside, []byte("@")) && !bytes.HasPrefix(inside, []byte("dvs-builder@"))
		if bytes.HasPrefix(line, []byte("NVRM version:")) && opened && closed && foreign {
			line = slices.Concat(before, []byte("(builder@)"), rest)
		}
		out.Write(line)
	}
	return out.Bytes()
}

// withoutStrings empties the values in quotes, which are registry keys and paths, but for those made of UUIDs.
//
//	RegistryDwords: "key=1;…"
func withoutStrings(data []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		key, value, ok := bytes.Cut(line, []byte(":"))
		kept := slices.Contains([]string{"ExcludedGpus", "GpuBlacklist", "CoherentGPUMemoryMode"}, string(key))
		if ok && !kept && bytes.Contains(value, []byte(`"`)) {
			line = slices.Concat(key, []byte(": \"\"\n"))
		}
		out.Write(line)
	}
	return out.Bytes()
}

// sys keeps the PCI functions of NVIDIA and the modules. PCI config space is left out: the serial number is in there.
func (c *collector) sys() {
	for _, module := range c.list("sys/module") {
		if module != "nvidia" && !strings.HasPrefix(module, "nvidia_") {
			continue
		}
		for _, file := range []string{"version", "initstate", "parameters/modeset"} {
			c.text(path.Join("sys/module", module, file), nil)
		}
	}
	c.text("sys/module/firmware_class/parameters/path", nil)

	const devices = "sys/bus/pci/devices"
	for _, name := range c.list(devices) {
		vendor, err := c.root.ReadFile(path.Join(devices, name, "vendor"))
		if err != nil || strings.TrimSpace(string(vendor)) != "0x10de" {
			continue
		}
		c.function(devices, name)
	}
}

// function keeps one PCI function: the link to its directory, and there the files and links that are looked at.
func (c *collector) function(devices, name string) {
	target, err := c.root.ReadLink(path.Join(devices, name))
	dir := path.Join(devices, target)
	if err != nil || path.IsAbs(target) || !fs.ValidPath(dir) {
		c.warn(path.Join(devices, name), errors.New("not a relative link to a directory of the device"))
		return
	}
	c.add(fixtures.Entry{Name: path.Join(devices, name), Kind: fixtures.Link, Target: target})
	for _, file := range []string{
		"vendor", "device", "class", "revision", "subsystem_vendor", "subsystem_device", "numa_node", "local_cpulist",
	} {
		c.text(path.Join(dir, file), nil)
	}
	for _, link := range []string{"driver", "physfn"} {
		target, err := c.root.ReadLink(path.Join(dir, link))
		if err != nil {
			c.warn(path.Join(dir, link), err)
			continue
		}
		c.add(fixtures.Entry{Name: path.Join(dir, link), Kind: fixtures.Link, Target: target})
		if link != "driver" {
			continue
		}
		bound := path.Join("sys/bus/pci/drivers", path.Base(target), name)
		if target, err := c.root.ReadLink(bound); err == nil {
			c.add(fixtures.Entry{Name: bound, Kind: fixtures.Link, Target: target})
		}
	}
	for _, node := range c.list(path.Join(dir, "drm")) {
		if !strings.HasPrefix(node, "card") && !strings.HasPrefix(node, "renderD") || strings.Contains(node, "-") {
			continue // the connectors of a board have directories like card0-DP-1
		}
		c.text(path.Join(dir, "drm", node, "dev"), nil)
		if target, err := c.root.ReadLink(path.Join(dir, "drm", node, "device")); err == nil {
			c.add(fixtures.Entry{Name: path.Join(dir, "drm", node, "device"), Kind: fixtures.Link, Target: target})
		}
		c.node("dev/dri/" + node)
		kind := strings.TrimRight(node, "0123456789")
		byPath := "dev/dri/by-path/pci-" + name + "-" + map[string]string{"card": "card", "renderD": "render"}[kind]
		if target, err := c.root.ReadLink(byPath); err == nil {
			c.add(fixtures.Entry{Name: byPath, Kind: fixtures.Link, Target: target})
		}
	}
}

// dev keeps device nodes of NVIDIA and of what works with it. None is opened.
func (c *collector) dev() {
	for _, base := range c.list("dev") {
		switch {
		case base == "nvidia-caps" || base == "nvidia-caps-imex-channels":
			for _, node := range c.list("dev/" + base) {
				c.node(path.Join("dev", base, node))
			}
		case strings.HasPrefix(base, "nvidia") || base == "gdrdrv" || base == "dxg":
			c.node("dev/" + base)
		}
	}
	for _, base := range c.list("dev/infiniband") {
		c.node("dev/infiniband/" + base)
	}
}

func (c *collector) node(name string) {
	info, err := c.root.Lstat(name)
	if err != nil {
		c.warn(name, err)
		return
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok || info.Mode()&fs.ModeCharDevice == 0 {
		return
	}
	c.add(fixtures.Device(name, info.Mode().Perm(), uint64(stat.Rdev), stat.Uid, stat.Gid))
}

// driver keeps the files of the user-mode driver wherever it is looked for, and the loader's cache with its entries and those of libc.
func (c *collector) driver() {
	libraries := c.cache()
	seen := map[string]bool{}
	unseen := func(dirs []string) []string {
		var names []string
		for _, dir := range dirs {
			real, err := c.root.Resolve(dir)
			if err == nil && !seen[real] {
				seen[real] = true
				names = append(names, strings.TrimPrefix(dir, "/"))
			}
		}
		return names
	}
	for _, arch := range []ldcache.Arch{ldcache.X8664, ldcache.AArch64} {
		places, err := driver.PlacesOf(c.root, driver.Options{
			Version: c.version, Arch: arch, Classes: driver.All, KernelRelease: c.release,
		}, libraries...)
		if err != nil {
			c.warnings = append(c.warnings, err.Error())
			continue
		}
		clear(seen)
		for _, dir := range unseen(places.Libraries) {
			for _, below := range []string{"", "vdpau", "gbm", "tls"} {
				for _, base := range c.list(path.Join(dir, below)) {
					if isDriverLibrary(base) {
						c.follow(path.Join(dir, below, base), c.stub)
					}
				}
			}
		}
		clear(seen)
		for _, dir := range unseen(places.Modules) {
			for _, base := range c.list(dir) {
				if isDriverLibrary(base) || base == "nvidia_drv.so" {
					c.follow(path.Join(dir, base), c.stub)
				}
			}
		}
		clear(seen)
		for _, dir := range unseen(places.Programs) {
			for _, base := range c.list(dir) {
				if strings.HasPrefix(base, "nvidia-") || base == "nv-fabricmanager" {
					c.follow(path.Join(dir, base), c.stub)
				}
			}
		}
		clear(seen)
		for _, dir := range unseen(places.Configs) {
			for _, base := range c.list(dir) {
				switch {
				case base == "nvoptix.bin":
					c.follow(path.Join(dir, base), c.standIn)
				case strings.Contains(base, "nvidia"):
					c.follow(path.Join(dir, base), func(name string) { c.text(name, nil) })
				}
			}
		}
		var versions []string
		for _, dir := range places.Firmware {
			versions = append(versions, path.Dir(dir)) // others than the one that counts tell something, too
		}
		clear(seen)
		for _, dir := range unseen(versions) {
			for _, version := range c.list(dir) {
				for _, base := range c.list(path.Join(dir, version)) {
					if strings.HasPrefix(base, "gsp") {
						c.follow(path.Join(dir, version, base), c.standIn)
					}
				}
			}
		}
		clear(seen)
		for _, name := range unseen(places.Sockets) {
			info, err := c.root.Lstat(name)
			if err == nil && info.Mode().Type() == fs.ModeSocket {
				c.add(fixtures.Entry{Name: name, Kind: fixtures.Socket, Mode: info.Mode().Perm()})
			}
		}
	}
	c.follow("etc/os-release", func(name string) { c.text(name, distribution) })
	c.follow("etc/debian_version", func(name string) { c.text(name, nil) })
	c.follow("etc/nv_tegra_release", func(name string) { c.text(name, nil) })
}

// isDriverLibrary goes by the names NVIDIA gives its libraries.
func isDriverLibrary(base string) bool {
	if !strings.Contains(base, ".so") || strings.HasPrefix(base, "libnvidia-container") {
		return false
	}
	_, known := driver.ClassOf(base)
	return known || base == "nvidia-drm_gbm.so" || strings.HasPrefix(base, "lib") && strings.Contains(base, "nvidia")
}

// cache keeps /etc/ld.so.cache with the driver's entries and those of libc alone, and returns the driver's directories.
func (c *collector) cache() (directories []string) {
	const name = "etc/ld.so.cache"
	data, err := c.root.ReadFile(name)
	if err != nil {
		c.warn(name, err)
		return nil
	}
	cache, err := ldcache.Parse(data)
	if err != nil {
		c.warn(name, err)
		return nil
	}
	kept := &ldcache.Cache{Format: cache.Format, Generator: cache.Generator}
	for _, e := range cache.Entries {
		libc := e.Name == "libc.so.6" || e.Name == "libm.so.6" || strings.HasPrefix(e.Name, "ld-linux")
		library := isDriverLibrary(e.Name)
		if !libc && !library {
			continue
		}
		kept.Entries = append(kept.Entries, e)
		file := strings.TrimPrefix(path.Clean(e.Path), "/")
		c.follow(file, c.stub)
		if library {
			directories = append(directories, path.Dir("/"+file))
		}
	}
	encoded, err := kept.Encode()
	if err != nil {
		c.warn(name, err)
		return nil
	}
	c.add(fixtures.FileEntry(name, 0o644, encoded))
	return directories
}

// follow keeps every link on the way to a name, then lets keep have the regular file at its end under its real name.
func (c *collector) follow(name string, keep func(real string)) {
	const maxLinks = 40
	done, rest := ".", strings.Split(name, "/")
	for links := 0; len(rest) > 0; {
		part := rest[0]
		rest = rest[1:]
		if part == "" || part == "." {
			continue
		}
		if part == ".." {
			done = path.Dir(done)
			continue
		}
		next := path.Join(done, part)
		info, err := c.root.Lstat(next)
		if err != nil {
			c.warn(name, err)
			return
		}
		if info.Mode().Type() != fs.ModeSymlink {
			done = next
			continue
		}
		target, err := c.root.ReadLink(next)
		if links++; err != nil || links > maxLinks {
			c.warn(name, errors.Join(err, errors.New("following links")))
			return
		}
		c.add(fixtures.Entry{Name: next, Kind: fixtures.Link, Target: target})
		if path.IsAbs(target) {
			done = "."
		}
		rest = append(strings.Split(target, "/"), rest...)
	}
	info, err := c.root.Lstat(done)
	if _, known := c.entries[done]; err != nil || known || !info.Mode().IsRegular() {
		return
	}
	keep(done)
}

// stub keeps an ELF file as a stub. A script keeps its place and nothing else.
func (c *collector) stub(name string) {
	f, err := c.root.Open(name)
	if err != nil {
		c.warn(name, err)
		return
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		c.warn(name, err)
		return
	}
	reader, ok := f.(io.ReaderAt)
	if !ok {
		c.warn(name, errors.New("it cannot be read at an offset"))
		return
	}
	start := make([]byte, 2)
	if _, err := reader.ReadAt(start, 0); err == nil && string(start) == "#!" {
		c.add(fixtures.FileEntry(name, info.Mode().Perm(), []byte("#!/bin/sh\n")))
		return
	}
	stub, err := elfstub.Describe(reader)
	if err != nil {
		c.warn(name, err)
		return
	}
	if stub.Executable {
		stub.Output = path.Base(name) + " (a stub without function)\n"
	}
	content, err := stub.Encode()
	if err != nil {
		c.warn(name, err)
		return
	}
	c.add(fixtures.FileEntry(name, info.Mode().Perm(), content))
}

// standIn keeps the place of a large file.
func (c *collector) standIn(name string) {
	c.add(fixtures.FileEntry(name, 0o644, []byte(path.Base(name)+" (stand-in)\n")))
}

// distribution keeps of /etc/os-release what decides where libraries are. Images write build and variant ids there too.
func distribution(data []byte) []byte {
	var out bytes.Buffer
	for line := range bytes.Lines(data) {
		key, _, _ := bytes.Cut(line, []byte("="))
		if slices.Contains([]string{"NAME", "ID", "ID_LIKE", "VERSION_ID"}, string(key)) {
			out.Write(line)
		}
	}
	return out.Bytes()
}

// scrubUUIDs replaces whatever has the form of a UUID, 8-4-4-4-12 hexadecimal digits, by one that counts them. The map makes
// it the same in every file.
func scrubUUIDs(data []byte, replaced map[string]string) []byte {
	const length = 36
	var out bytes.Buffer
	for i := 0; i < len(data); {
		if i+length > len(data) || !isUUID(data[i:i+length]) {
			out.WriteByte(data[i])
			i++
			continue
		}
		uuid := strings.ToLower(string(data[i : i+length]))
		if replaced[uuid] == "" {
			n := len(replaced) + 1
			replaced[uuid] = fmt.Sprintf("%08x-0000-4000-8000-%012x", n, n)
		}
		out.WriteString(replaced[uuid])
		i += length
	}
	return out.Bytes()
}

func isUUID(s []byte) bool {
	for i, b := range s {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		hex := b >= '0' && b <= '9' || b >= 'a' && b <= 'f' || b >= 'A' && b <= 'F'
		if dash != (b == '-') || !dash && !hex {
			return false
		}
	}
	return true
}
