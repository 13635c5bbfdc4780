// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package plan works out what a container gets, and applies it. [New] reads and decides but changes
// nothing; [Plan.Carry] makes the changes and decides only what to do if one fails. In between, the
// plan is plain data.
//
// A container has the whole driver in [Dir], whatever its or the host's distribution. Usually this
// is one read-only mount of a directory of hard links on the host, with exactly the files of the
// container's driver capabilities. If such a directory cannot be created, each file is mounted to
// the same place. The image's loader cache and a line for ldconfig point there. What programs look
// for by path (nvidia-smi, libcuda.so.1, Vulkan's manifests) are links in the image, always the
// same ones and never removed, so that containers that share a root filesystem, and images
// committed from a container, keep working.
//
// Files by data flow: machine.go and nodes.go read the machine, image.go the image, place.go places
// the driver's files, loader.go makes loaders find them, carry.go writes.
package plan

import (
	"fmt"
	"io/fs"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver/linkdir"
)

// Container is the container to plan for.
type Container struct {
	Request       spec.Request
	Facts         spec.Facts
	Bundle        string // directory of config.json
	Path          string // PATH of the caller, searched first for the driver's programs
	SystemdCgroup bool   // the low-level runtime uses the systemd cgroup driver
}

// Plan is everything that is done for a container.
type Plan struct {
	Machine
	Nodes     []sysfs.Node // the container's device nodes
	Missing   []sysfs.Node // those of Nodes to create on the host
	CharLinks []CharLink   // missing or wrong links below /dev/char
	Image     Image
	Files     []File     // the driver's files
	Directory string     // on the host, mounted at Dir; "" if each file is mounted
	Links     []Link     // in the image, sorted
	Updates   []Update   // to files in the image
	Edits     spec.Edits // to config.json
	Notes     []string   // for the operator

	boot      linkdir.Boot
	made      bool // Directory exists and is complete
	config    Config
	container Container
	mounted   map[string]int // index of the container's last mount by destination, also with aliases resolved
}

// New plans for a container whose request is not empty. It changes nothing; the same machine, image
// and arguments give the same plan.
func New(cfg Config, c Container) (Plan, error) {
	p := Plan{config: cfg, container: c}
	inside, err := inUserNamespace()
	if err != nil {
		return Plan{}, err
	}
	classes, err := classesOf(c.Request.Capabilities)
	if err != nil {
		return Plan{}, err
	}
	if p.Machine, p.Notes, err = readMachine(cfg, c.Request, inside); err != nil {
		return Plan{}, err
	}
	if err := p.planNodes(classes, inside); err != nil {
		return Plan{}, err
	}
	if err := p.planEdits(); err != nil {
		return Plan{}, err
	}
	files, notes, err := p.files(cfg, c.Facts.NoFile, classes, c.Path)
	p.note(notes...)
	if err != nil {
		return Plan{}, err
	}
	view, err := openImage(c)
	if err != nil {
		return Plan{}, err
	}
	defer view.Close()
	p.note(view.notes...)
	p.Files = p.placeFiles(files, classes)
	p.planLoader(view)
	p.findDirectory(view)
	if err := p.checkPlaces(view); err != nil {
		return Plan{}, err
	}
	p.place()
	if err := view.fault(); err != nil {
		return Plan{}, fmt.Errorf("reading the container's root filesystem: %w", err)
	}
	return p, nil
}

// Request returns what the container asks for.
func (p Plan) Request() spec.Request { return p.container.Request }

func (p *Plan) note(notes ...string) { p.Notes = append(p.Notes, notes...) }

func (p *Plan) notef(format string, args ...any) { p.note(fmt.Sprintf(format, args...)) }

// legacyHooks are the prestart hooks of the classic runtime, which would inject everything again.
var legacyHooks = []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit"}

// planEdits plans the edits of config.json other than mounts.
func (p *Plan) planEdits() error {
	e := &p.Edits
	req, facts := p.container.Request, p.container.Facts
	e.NoCgroups = p.config.NoCgroups
	e.RemoveHooks = legacyHooks
	for _, n := range p.Nodes {
		if !p.config.ClosesNodes(p.Root) {
			e.Devices = append(e.Devices, Device(n))
		}
	}
	if !p.config.NoAdditionalGIDs {
		e.AdditionalGIDs = sysfs.Groups(p.Nodes)
	}
	p.fence()
	var err error
	switch {
	case !facts.HasMaskedPaths:
	case req.MIGConfig || req.MIGMonitor:
		e.MaskedPaths = p.Inventory.HiddenGPUs(p.Selection) // MIG management sees every instance
	default:
		e.MaskedPaths, err = p.Inventory.HiddenPaths(p.Root, p.Selection)
	}
	return err
}

// Device returns the node's entry in config.json.
func Device(n sysfs.Node) specs.LinuxDevice {
	mode := n.Mode.Perm()
	return specs.LinuxDevice{
		Path: n.Path, Type: "c", Major: int64(n.Major), Minor: int64(n.Minor),
		FileMode: (*fs.FileMode)(&mode), UID: &n.UID, GID: &n.GID,
	}
}

// fence keeps a container with CAP_MKNOD from creating the nodes of GPUs that it was not given, as
// NVIDIA's tools do unasked. They could not be opened, but confuse programs. A privileged container
// has all nodes anyway.
func (p *Plan) fence() {
	facts := p.container.Facts
	if p.config.Fence == FenceOff || !facts.HasCapability("CAP_MKNOD") || facts.HasCapability("CAP_SYS_ADMIN") {
		return
	}
	majors := p.Inventory.Majors
	for _, major := range []int{majors.Nvidia, majors.UVM, majors.Caps} {
		if major > 0 && !slices.Contains(p.Edits.FenceMajors, int64(major)) {
			p.Edits.FenceMajors = append(p.Edits.FenceMajors, int64(major))
		}
	}
	slices.Sort(p.Edits.FenceMajors)
	p.Edits.FenceAlways = p.config.Fence == FenceAlways
}

// Policy returns the part of the configuration that decides who may ask for what.
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

// Notes describes edits that did not go as planned.
func Notes(r spec.Report) []string {
	var notes []string
	for _, what := range []struct {
		format string
		list   []string
	}{
		{"the container's own mounts are kept at %q", r.KeptMounts},
		{"devices of other numbers replaced at %q", r.ReplacedDevices},
		{"mounts of an earlier driver removed from %q", r.StaleMounts},
		{"hooks of the classic runtime removed: %q", r.RemovedHooks},
		{"the seccomp profile still allows creating some device nodes: %q", r.Unfenced},
	} {
		if len(what.list) > 0 {
			notes = append(notes, fmt.Sprintf(what.format, what.list))
		}
	}
	return notes
}
