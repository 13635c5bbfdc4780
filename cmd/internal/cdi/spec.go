// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package cdi writes and checks Container Device Interface files, with which docker, podman,
// containerd and CRI-O give containers GPUs without our runtime.
//
// [Make] describes a machine, [File.Encode] serializes the description, [Read] reads any CDI file,
// and [Compare] compares two.
package cdi

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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

// Options are the options of generating a file. The file records them, so that it can be generated
// again.
type Options struct {
	Root         string   `json:"root,omitempty"`        // of the machine, if not "/"
	ClosedNodes  bool     `json:"closedNodes,omitempty"` // device nodes cannot be opened: plan.ClosedNode
	DriverRoot   string   `json:"driverRoot,omitempty"`  // of the driver's files, below Root; "": as in config.toml
	Vendor       string   `json:"vendor"`                // "nvidia.com"
	Class        string   `json:"class"`                 // "gpu"
	Names        []string `json:"names"`                 // naming strategies: ByIndex, ByUUID, ByType
	Capabilities []string `json:"capabilities"`          // driver capabilities, as in NVIDIA_DRIVER_CAPABILITIES
	Extras       []string `json:"extras,omitempty"`      // more devices, from plan.Extras
	Distribution string   `json:"distribution,omitempty"`
	LibraryDir   string   `json:"libraryDir,omitempty"`   // instead of the distribution's
	LibraryDir32 string   `json:"libraryDir32,omitempty"` // for 32-bit libraries; needs LibraryDir
	MaxVersion   string   `json:"maxVersion,omitempty"`   // newest CDI version that the engines support
}

// Naming strategies.
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
			return 0, fmt.Errorf("unknown driver capability %.100q; "+
				"known: compute, compat32, display, graphics, ngx, utility, video, all", name)
		}
		classes |= class
	}
	if classes == 0 {
		return 0, errors.New("no driver capability given")
	}
	return classes, nil
}

// Check validates the options.
func (o Options) Check() error {
	if err := parser.ValidateVendorName(o.Vendor); err != nil {
		return err
	}
	if err := parser.ValidateClassName(o.Class); err != nil {
		return err
	}
	for _, name := range o.Names {
		if name != ByIndex && name != ByUUID && name != ByType {
			return fmt.Errorf("unknown naming strategy %.100q; known: %s, %s, %s", name, ByIndex, ByUUID, ByType)
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
			return errors.New("a library directory and a distribution are mutually exclusive")
		}
		if _, ok := distributions[o.Distribution]; !ok {
			return fmt.Errorf("unknown distribution %.100q; known: %s",
				o.Distribution, strings.Join(Distributions(), ", "))
		}
	}
	if o.DriverRoot != "" && !path.IsAbs(o.DriverRoot) {
		return fmt.Errorf("driver root %.100q is not an absolute path", o.DriverRoot)
	}
	if o.LibraryDir == "" && o.LibraryDir32 != "" {
		return errors.New("a directory for 32-bit libraries needs one for the others")
	}
	odd := func(r rune) bool { return r <= ' ' || r == ':' || r >= 0x7f }
	for _, dir := range []string{o.LibraryDir, o.LibraryDir32} {
		clean := path.IsAbs(dir) && path.Clean(dir) == dir && dir != "/" && !strings.ContainsFunc(dir, odd)
		if dir != "" && !clean {
			return fmt.Errorf("library directory %.100q is not a clean absolute path", dir)
		}
	}
	if o.MaxVersion != "" && !slices.Contains(versions, o.MaxVersion) {
		return fmt.Errorf("unknown CDI version %.100q; known: %s", o.MaxVersion, strings.Join(versions, ", "))
	}
	return nil
}

// versions of CDI, beginning with the first that allows a device to be named 0.
var versions = []string{"0.5.0", "0.6.0", "0.7.0", "0.8.0", "1.0.0", "1.1.0"}

func older(a, b string) bool { return slices.Index(versions, a) < slices.Index(versions, b) }

// In CUDA images these directories are in LD_LIBRARY_PATH.
const (
	cudaDir   = "/usr/local/nvidia/lib64"
	cudaDir32 = "/usr/local/nvidia/lib"
)

// distributions maps names to the directories of native and of 32-bit libraries; * is Debian's
// architecture triplet.
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

// Distributions lists the known distributions.
func Distributions() []string { return slices.Sorted(maps.Keys(distributions)) }

// libraryDirs returns the container's directories for native and for 32-bit libraries; "" if there
// is none.
func (o Options) libraryDirs(arch ldcache.Arch) (dir, dir32 string) {
	switch {
	case o.LibraryDir != "":
		return o.LibraryDir, o.LibraryDir32
	case o.Distribution != "":
		d := distributions[o.Distribution]
		compat := cmp.Or(arch.Compat(), arch)
		return strings.Replace(d[0], "*", arch.Triplet(), 1), strings.Replace(d[1], "*", compat.Triplet(), 1)
	}
	return cudaDir, cudaDir32
}

type maker struct {
	options Options
	parts   plan.Survey
	notes   []string // warnings
	gids    bool     // the CDI version has supplementary groups
}

func (m *maker) note(format string, args ...any) {
	m.notes = append(m.notes, fmt.Sprintf(format, args...))
}

// Make describes a machine, and returns notes about what it left out. It reads nothing from the
// machine; the same arguments give the same description.
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
		// CUDA images request all GPUs in their environment. Our runtime and NVIDIA's must not
		// add them.
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
		m.note("non-root processes need the groups %v for some device nodes, which CDI %s cannot express",
			m.allGroups(), o.MaxVersion)
	}
	return f, m.notes, nil
}

// devices returns a device for each name of each part, and "all".
func (m *maker) devices() []specs.Device {
	var devices []specs.Device
	taken := map[string]bool{"all": true}
	add := func(name string, nodes []sysfs.Node) {
		if err := parser.ValidateDeviceName(name); err != nil {
			m.note("no device is named %.100q: CDI does not allow the name", name)
			return
		}
		if taken[name] {
			m.note("two devices are named %s: only the first one can be requested by that name", name)
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

// nameOf returns a device's name, or "" if the strategy has none for it.
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

// closed returns mounts for device nodes that cannot be opened.
func (m *maker) closed(nodes []sysfs.Node) []*specs.Mount {
	if !m.options.ClosedNodes {
		return nil
	}
	var list []*specs.Mount
	for _, n := range nodes {
		mount := plan.ClosedNode(n, m.parts.DevRoot)
		list = append(list, &specs.Mount{
			HostPath: mount.Source, ContainerPath: mount.Destination, Options: mount.Options,
		})
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
		// In user namespaces, engines bind-mount the host's node.
		if n.OnHost && m.parts.DevRoot != "/" {
			node.HostPath = m.parts.DevRoot.Path(n.Path)
		}
		list = append(list, node)
	}
	return list
}

// noteHostNodes adds notes about wrong device nodes of the host. They only matter for containers in
// user namespaces, which get the host's nodes.
func (m *maker) noteHostNodes() {
	told := map[string]bool{}
	for _, n := range m.allNodes() {
		if n.Instead != "" && !told[n.Path] {
			told[n.Path] = true
			m.note("the host's %s is a %s, not character device %d:%d: containers in user namespaces cannot use it",
				n.Path, n.Instead, n.Major, n.Minor)
		}
	}
}

func (m *maker) allNodes() []sysfs.Node {
	nodes := slices.Clone(m.parts.Common)
	for _, p := range m.parts.Devices {
		nodes = append(nodes, p.Nodes...)
	}
	return nodes
}

func (m *maker) groups(nodes []sysfs.Node) []uint32 {
	if !m.gids {
		return nil
	}
	return sysfs.Groups(nodes)
}

func (m *maker) allGroups() []uint32 { return sysfs.Groups(m.allNodes()) }

// linkedWith are the libraries that programs are linked with or open by the name without a version.
// Only these get a mount under that name.
var linkedWith = []string{"libcuda", "libnvcuvid", "libnvidia-encode", "libnvidia-ml", "libnvidia-opticalflow"}

// mounts returns the driver's files. Since no hook creates links, each name by which programs open
// a library is a mount of the same file: its SONAME and its useful links. The name with the
// driver's version is left out unless it is the SONAME, because nothing opens it.
func (m *maker) mounts() []*specs.Mount {
	dir, dir32 := m.options.libraryDirs(m.parts.Arch)
	var list []*specs.Mount
	left32 := false
	for _, f := range m.parts.Files {
		mount := func(name string) {
			list = append(list, &specs.Mount{
				HostPath: m.parts.DriverRoot.Path(f.Path), ContainerPath: name, Options: plan.MountOptions(f.Kind),
			})
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
		list = append(list, &specs.Mount{
			HostPath: m.parts.Root.Path(name), ContainerPath: name, Options: plan.MountOptions(driver.Library),
		})
	}
	if left32 {
		m.note("32-bit libraries are left out: there is no directory for them")
	}
	slices.SortStableFunc(list, func(a, b *specs.Mount) int {
		return strings.Compare(a.ContainerPath, b.ContainerPath)
	})
	return slices.CompactFunc(list, func(a, b *specs.Mount) bool { return a.ContainerPath == b.ContainerPath })
}
