// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package cdi describes a machine's GPUs as a file of the Container Device
// Interface, which engines read themselves: docker, podman, containerd and
// CRI-O then give a container a GPU without a runtime of ours.
//
// [Make] makes the description of a machine and [File.Encode] the bytes of it;
// [Read] reads such files, of whomever, and [Compare] tells two apart.
package cdi

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"tags.cncf.io/container-device-interface/pkg/parser"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Options say what the description is to be like. They are kept in the file,
// so that it can be made again.
type Options struct {
	Root         string   `json:"root,omitempty"`        // the machine's, if it is not "/"
	ClosedNodes  bool     `json:"closedNodes,omitempty"` // nobody can open the device nodes: plan.ClosedNode
	DriverRoot   string   `json:"driverRoot,omitempty"`  // of the driver's files, inside Root; "" is what config.toml says
	Vendor       string   `json:"vendor"`                // "nvidia.com"
	Class        string   `json:"class"`                 // "gpu"
	Names        []string `json:"names"`                 // of the strategies ByIndex, ByUUID, ByType
	Capabilities []string `json:"capabilities"`          // driver capabilities, as in NVIDIA_DRIVER_CAPABILITIES
	Extras       []string `json:"extras,omitempty"`      // further devices, of plan.Extras
	Distribution string   `json:"distribution,omitempty"`
	LibraryDir   string   `json:"libraryDir,omitempty"`   // in place of the distribution's
	LibraryDir32 string   `json:"libraryDir32,omitempty"` // for 32-bit libraries, with LibraryDir
	MaxVersion   string   `json:"maxVersion,omitempty"`   // of CDI that the engines understand
}

// Strategies of names.
const (
	ByIndex = "index"      // 0, 0:1
	ByUUID  = "uuid"       // GPU-<uuid>, MIG-<uuid>
	ByType  = "type-index" // gpu0, mig0:1
)

// Classes returns the driver capabilities as a set.
func (o Options) Classes() (driver.Class, error) {
	var classes driver.Class
	for _, name := range o.Capabilities {
		class, ok := driver.ParseClass(name)
		if !ok {
			return 0, fmt.Errorf("driver capability %.100q is not known: there are compute, compat32, display, graphics, ngx, utility, video and all", name)
		}
		classes |= class
	}
	if classes == 0 {
		return 0, errors.New("no driver capability is given")
	}
	return classes, nil
}

// Check tells what of the options cannot be.
func (o Options) Check() error {
	if err := parser.ValidateVendorName(o.Vendor); err != nil {
		return err
	}
	if err := parser.ValidateClassName(o.Class); err != nil {
		return err
	}
	for _, name := range o.Names {
		if name != ByIndex && name != ByUUID && name != ByType {
			return fmt.Errorf("strategy of names %.100q is not known: there are %s, %s and %s", name, ByIndex, ByUUID, ByType)
		}
	}
	if _, err := o.Classes(); err != nil {
		return err
	}
	for _, name := range o.Extras {
		if !slices.Contains(plan.Extras, name) {
			return fmt.Errorf("unknown devices %.100q; known: %s", name, strings.Join(plan.Extras, ", "))
		}
	}
	if o.Distribution != "" {
		if o.LibraryDir != "" {
			return errors.New("a library directory and a distribution exclude each other")
		}
		if _, ok := distributions[o.Distribution]; !ok {
			return fmt.Errorf("distribution %.100q is not known: there are %s", o.Distribution, strings.Join(Distributions(), ", "))
		}
	}
	if o.DriverRoot != "" && !path.IsAbs(o.DriverRoot) {
		return fmt.Errorf("driver root %.100q is not an absolute path", o.DriverRoot)
	}
	if o.LibraryDir == "" && o.LibraryDir32 != "" {
		return errors.New("a directory of 32-bit libraries goes with one of the others")
	}
	for _, dir := range []string{o.LibraryDir, o.LibraryDir32} {
		if dir != "" && (!path.IsAbs(dir) || path.Clean(dir) != dir || dir == "/" || strings.ContainsFunc(dir, func(r rune) bool { return r <= ' ' || r == ':' || r >= 0x7f })) {
			return fmt.Errorf("library directory %.100q is not the clean absolute path of a directory", dir)
		}
	}
	if o.MaxVersion != "" {
		if !slices.Contains(versions, o.MaxVersion) {
			return fmt.Errorf("version %.100q of CDI is none that can be written: there are %s", o.MaxVersion, strings.Join(versions, ", "))
		}
	}
	return nil
}

// versions of CDI from the first one in which a device may be named 0.
var versions = []string{"0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"}

func older(a, b string) bool { return slices.Index(versions, a) < slices.Index(versions, b) }

// Where CUDA images look for the driver: LD_LIBRARY_PATH has these two there.
const (
	cudaDir   = "/usr/local/nvidia/lib64"
	cudaDir32 = "/usr/local/nvidia/lib"
)

// distributions are where those have libraries of the machine and 32-bit
// ones; * stands for the name that Debian gives to the architecture.
var distributions = map[string][2]string{
	"alpine":   {"/usr/lib", ""},
	"amazon":   {"/usr/lib64", "/usr/lib"},
	"arch":     {"/usr/lib", "/usr/lib32"},
	"debian":   {"/usr/lib/*", "/usr/lib/*"},
	"fedora":   {"/usr/lib64", "/usr/lib"},
	"opensuse": {"/usr/lib64", "/usr/lib"},
	"rhel":     {"/usr/lib64", "/usr/lib"},
	"ubuntu":   {"/usr/lib/*", "/usr/lib/*"},
}

// Distributions lists those that are known.
func Distributions() []string {
	var names []string
	for name := range distributions {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// libraryDirs are the directories of the container for libraries of the
// machine and for 32-bit ones; "" is none.
func (o Options) libraryDirs(arch ldcache.Arch) (dir, dir32 string) {
	switch {
	case o.LibraryDir != "":
		return o.LibraryDir, o.LibraryDir32
	case o.Distribution != "":
		d := distributions[o.Distribution]
		return strings.Replace(d[0], "*", arch.Triplet(), 1), strings.Replace(d[1], "*", cmp.Or(arch.Compat(), arch).Triplet(), 1)
	}
	return cudaDir, cudaDir32
}

// maker collects what is worth a warning.
type maker struct {
	options Options
	parts   plan.Survey
	notes   []string
	gids    bool // supplementary groups may be given
}

func (m *maker) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// Make describes a machine, and tells what of it is left out. It reads
// nothing; the same arguments give the same description.
func Make(parts plan.Survey, o Options) (File, []string, error) {
	if err := o.Check(); err != nil {
		return File{}, nil, err
	}
	m := maker{options: o, parts: parts, gids: o.MaxVersion == "" || !older(o.MaxVersion, "0.7.0")}
	m.notes = slices.Clone(parts.Notes)
	for _, g := range parts.Skipped {
		m.note("GPU %s is left out: %v", g.GPU.Name, g.Err)
	}
	m.noteHostNodes()
	spec := specs.Spec{Kind: o.Vendor + "/" + o.Class, Devices: m.devices()}
	spec.ContainerEdits = specs.ContainerEdits{
		// Images for CUDA ask for all GPUs in their environment. Where the engine's
		// runtime is ours or NVIDIA's, it is to add nothing.
		Env:            []string{"NVIDIA_VISIBLE_DEVICES=void"},
		DeviceNodes:    m.nodes(parts.Common),
		AdditionalGIDs: m.groups(parts.Common),
		Mounts:         append(m.closed(parts.Common), m.mounts()...),
	}
	version, err := specs.MinimumRequiredVersion(&spec)
	if err != nil {
		return File{}, nil, err
	}
	spec.Version = max(version, versions[0])
	f := File{Spec: spec, Record: Record{Driver: parts.Inventory.Driver.Version, Options: o}}
	if f.Record.Fingerprint, err = f.fingerprint(); err != nil {
		return File{}, nil, err
	}
	if !m.gids && len(m.allGroups()) > 0 {
		m.note("processes that are not root need the groups %v for some of the device nodes, which CDI %s cannot give them", m.allGroups(), o.MaxVersion)
	}
	return f, m.notes, nil
}

// devices are the parts under each of their names, and "all".
func (m *maker) devices() []specs.Device {
	var devices []specs.Device
	taken := map[string]bool{"all": true}
	add := func(name string, nodes []sysfs.Node) {
		if err := parser.ValidateDeviceName(name); err != nil {
			m.note("no device has the name %.100q, which CDI does not allow", name)
			return
		}
		if taken[name] {
			m.note("two devices have the name %s: only the first one can be asked for by it", name)
			return
		}
		taken[name] = true
		devices = append(devices, specs.Device{Name: name, ContainerEdits: m.edits(nodes)})
	}
	names := m.options.Names
	if len(names) == 0 {
		names = []string{ByIndex, ByUUID}
	}
	var all []sysfs.Node
	for _, p := range m.parts.Devices {
		for _, strategy := range names {
			name := nameOf(p, strategy)
			if name == "" {
				if len(names) == 1 {
					m.note("%s has no name: its UUID is not known", nameOf(p, ByType))
				}
				continue
			}
			add(name, p.Nodes)
		}
		all = append(all, p.Nodes...)
	}
	slices.SortStableFunc(all, func(a, b sysfs.Node) int { return strings.Compare(a.Path, b.Path) })
	all = slices.CompactFunc(all, func(a, b sysfs.Node) bool { return a.Path == b.Path })
	return append(devices, specs.Device{Name: "all", ContainerEdits: m.edits(all)})
}

func (m *maker) edits(nodes []sysfs.Node) specs.ContainerEdits {
	return specs.ContainerEdits{DeviceNodes: m.nodes(nodes), AdditionalGIDs: m.groups(nodes), Mounts: m.closed(nodes)}
}

// nameOf is a device's name by one strategy; "" if it has none.
func nameOf(p plan.Part, strategy string) string {
	mig := p.Rank >= 0
	switch {
	case strategy == ByUUID && mig:
		return p.UUID
	case strategy == ByUUID:
		return p.GPU.UUID
	case strategy == ByType && mig:
		return fmt.Sprintf("mig%d:%d", p.GPU.Index, p.Rank)
	case strategy == ByType:
		return fmt.Sprintf("gpu%d", p.GPU.Index)
	case mig:
		return fmt.Sprintf("%d:%d", p.GPU.Index, p.Rank)
	}
	return fmt.Sprint(p.GPU.Index)
}

// closed are the nodes where nobody is to open them.
func (m *maker) closed(nodes []sysfs.Node) []*specs.Mount {
	var list []*specs.Mount
	for _, n := range nodes {
		if m.options.ClosedNodes {
			mount := plan.ClosedNode(n, m.parts.DevRoot)
			list = append(list, &specs.Mount{HostPath: mount.Source, ContainerPath: mount.Destination, Options: mount.Options})
		}
	}
	return list
}

func (m *maker) nodes(nodes []sysfs.Node) []*specs.DeviceNode {
	if m.options.ClosedNodes {
		return nil
	}
	var list []*specs.DeviceNode
	for _, n := range nodes {
		mode, uid, gid := n.Mode.Perm(), n.UID, n.GID
		node := &specs.DeviceNode{
			Path: n.Path, Type: "c", Major: int64(n.Major), Minor: int64(n.Minor),
			FileMode: (*fs.FileMode)(&mode), UID: &uid, GID: &gid, Permissions: "rw",
		}
		// With a user namespace engines bind the host's node.
		if n.OnHost && m.parts.DevRoot != "/" {
			node.HostPath = m.parts.DevRoot.Path(n.Path)
		}
		list = append(list, node)
	}
	return list
}

// noteHostNodes tells of nodes of the host that are another thing. Only
// containers with a user namespace are given the host's own.
func (m *maker) noteHostNodes() {
	told := map[string]bool{}
	nodes := slices.Clone(m.parts.Common)
	for _, p := range m.parts.Devices {
		nodes = append(nodes, p.Nodes...)
	}
	for _, n := range nodes {
		if n.Instead != "" && !told[n.Path] {
			told[n.Path] = true
			m.note("%s of the host is no character device %d:%d but a %s: containers with a user namespace cannot use it", n.Path, n.Major, n.Minor, n.Instead)
		}
	}
}

func (m *maker) groups(nodes []sysfs.Node) []uint32 {
	if !m.gids {
		return nil
	}
	return sysfs.Groups(nodes)
}

func (m *maker) allGroups() []uint32 {
	nodes := slices.Clone(m.parts.Common)
	for _, p := range m.parts.Devices {
		nodes = append(nodes, p.Nodes...)
	}
	return sysfs.Groups(nodes)
}

// linkedWith are the libraries that programs are linked with, or open by the
// name without a version; the others have no use for that name.
var linkedWith = []string{"libcuda", "libnvcuvid", "libnvidia-encode", "libnvidia-ml", "libnvidia-opticalflow"}

// mounts are the driver's files. No hook makes links, so each name that
// programs open a library by is a mount of the same file: its SONAME, and
// those of its links that are of use. The name with the driver's version is
// not among them unless it is the SONAME: nothing opens it.
func (m *maker) mounts() []*specs.Mount {
	dir, dir32 := m.options.libraryDirs(m.parts.Arch)
	var list []*specs.Mount
	left32 := false
	for _, f := range m.parts.Files {
		mount := func(name string) {
			list = append(list, &specs.Mount{HostPath: m.parts.DriverRoot.Path(f.Path), ContainerPath: name, Options: plan.MountOptions(f.Kind)})
		}
		beside := path.Dir(f.Dest)
		if f.Kind == driver.Library {
			base := dir
			if f.Bits == 32 {
				base = dir32
			}
			if base == "" {
				left32 = true
				continue
			}
			beside = path.Join(base, f.Subdir)
			mount(path.Join(beside, f.SONAME))
		} else {
			mount(f.Dest)
		}
		for _, l := range f.Links {
			stem, development := strings.CutSuffix(l.Name, ".so")
			development = development && f.Kind == driver.Library && l.Target == f.SONAME
			if l.Name == f.SONAME || development && !slices.Contains(linkedWith, stem) {
				continue
			}
			mount(path.Join(beside, l.Name))
		}
	}
	for _, name := range m.parts.GDS {
		list = append(list, &specs.Mount{HostPath: m.parts.Root.Path(name), ContainerPath: name, Options: plan.MountOptions(driver.Library)})
	}
	if left32 {
		m.note("32-bit libraries are left out: there is no directory for them")
	}
	slices.SortStableFunc(list, func(a, b *specs.Mount) int { return strings.Compare(a.ContainerPath, b.ContainerPath) })
	return slices.CompactFunc(list, func(a, b *specs.Mount) bool { return a.ContainerPath == b.ContainerPath })
}
