// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package plan works out what one container gets, and gives it. [New] reads and decides, and changes nothing;
// [Plan.Carry] changes what the plan says, and decides nothing but what to do where the machine refuses. Between
// them the plan is plain data, which can be printed and compared.
//
// A container has the whole driver in [Dir], whatever its distribution or the host's is. Nearly always one read-only
// mount brings it there: of a directory of hard links on the host, with exactly the files of the driver capabilities
// that the container may have. Where such a directory cannot be made, the files are mounted one by one, into the same
// place. The image's loader cache and one line for ldconfig lead there. What programs look for by path (nvidia-smi,
// libcuda.so.1, Vulkan's manifests) are links in the image that lead there, always the same ones, which are never
// removed: so containers that share a root filesystem, and images made of one that ran, come to no harm.
//
// The files are in the order of the data: machine.go and nodes.go read the machine, place.go gives files their place,
// loader.go makes the loader find them, image.go looks at the image, carry.go writes.
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

// Container is what is to be planned for.
type Container struct {
	Request       spec.Request
	Facts         spec.Facts
	Bundle        string // directory of config.json
	Path          string // PATH of the caller, in which the driver's programs are looked up first
	SystemdCgroup bool   // the low-level runtime is to use the systemd cgroup driver
}

// Plan is all that is done for one container.
type Plan struct {
	Machine
	Nodes     []sysfs.Node // device nodes for the container
	Missing   []sysfs.Node // those of Nodes that are made on the host
	CharLinks []CharLink   // links below /dev/char that are missing or lead elsewhere
	Image     Image
	Files     []File     // the driver, with the places of its files
	Directory string     // of the host, mounted at Dir; "" where Files are mounted one by one
	Links     []Link     // in the image, sorted
	Updates   []Update   // of files in the image
	Edits     spec.Edits // of config.json
	Notes     []string   // what the operator may want to know

	boot      linkdir.Boot
	made      bool // Directory is there, complete
	config    Config
	container Container
	mounted   map[string]int // by destination, and that with its alias undone: the last of the container's own mounts
}

// New plans for a container whose request asks for something. It changes nothing, and the same machine, image and
// arguments give the same plan.
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

// Request is what the container asks for.
func (p Plan) Request() spec.Request { return p.container.Request }

func (p *Plan) note(notes ...string) { p.Notes = append(p.Notes, notes...) }

func (p *Plan) notef(format string, args ...any) { p.note(fmt.Sprintf(format, args...)) }

// legacyHooks are the prestart hooks of the classic runtime, which would
// inject everything a second time.
var legacyHooks = []string{"nvidia-container-runtime-hook", "nvidia-container-toolkit"}

// planEdits decides what is edited besides mounts.
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
		e.MaskedPaths = p.Inventory.HiddenGPUs(p.Selection) // every instance is to be seen
	default:
		e.MaskedPaths, err = p.Inventory.HiddenPaths(p.Root, p.Selection)
	}
	return err
}

// Device is a node as config.json has it.
func Device(n sysfs.Node) specs.LinuxDevice {
	mode := n.Mode.Perm()
	return specs.LinuxDevice{
		Path: n.Path, Type: "c", Major: int64(n.Major), Minor: int64(n.Minor),
		FileMode: (*fs.FileMode)(&mode), UID: &n.UID, GID: &n.GID,
	}
}

// fence keeps a container that may make device nodes from making those of
// GPUs that it was not given: NVIDIA's own tools do so unasked. The nodes
// would be useless, but confuse. A privileged container has them anyway.
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
