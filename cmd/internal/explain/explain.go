// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package explain shows what the runtime would change for a container, and why, without changing
// anything.
package explain

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Explanation is what a container would get.
type Explanation struct {
	Bundle    string          `json:"bundle"`
	Asks      bool            `json:"asks"`    // false: the container is left alone
	Why       string          `json:"why"`     // who asks for what, or why nothing is done
	Changes   bool            `json:"changes"` // config.json would change
	Driver    *listing.Driver `json:"driver,omitempty"`
	GPUs      []GPU           `json:"gpus,omitempty"`
	Devices   []Device        `json:"devices,omitempty"`
	Mounts    []Mount         `json:"mounts,omitempty"`
	Linked    []Mount         `json:"linked,omitempty"` // files that share one mount
	Links     []Link          `json:"links,omitempty"`
	Files     []File          `json:"files,omitempty"` // written into the root filesystem
	Masked    []string        `json:"masked_paths,omitempty"`
	Groups    []uint32        `json:"additional_gids,omitempty"`
	Fence     string          `json:"seccomp_fence,omitempty"`
	Hooks     []string        `json:"removed_hooks,omitempty"`
	Kept      []string        `json:"kept_mounts,omitempty"` // the container's own, instead of ours
	CharLinks []Link          `json:"dev_char_links,omitempty"`
	Notes     []string        `json:"notes,omitempty"`
}

// GPU is a GPU that the container gets, whole or as MIG devices.
type GPU struct {
	Index   int      `json:"index"`
	Address string   `json:"address"`
	Model   string   `json:"model"`
	UUID    string   `json:"uuid"`
	MIG     []string `json:"mig,omitempty"` // "GI 1, CI 0"
}

// Device is a device node.
type Device struct {
	Path   string `json:"path"`
	Number string `json:"number"` // "195:0"
	Mode   string `json:"mode"`   // "0666"
	Group  uint32 `json:"gid"`
	Why    string `json:"why"`
	Host   string `json:"host"` // the node on the host: "there", or what is wrong
}

// Mount is a file of the driver.
type Mount struct {
	Path   string `json:"path"`
	Source string `json:"source"`
	Why    string `json:"why"`
}

// Link is a symbolic link in the root filesystem.
type Link struct {
	Path   string `json:"path"`
	Target string `json:"target"`
	Why    string `json:"why,omitempty"`
}

// File is a file written into the root filesystem.
type File struct {
	Path string `json:"path"`
	Size int    `json:"size"`
	Why  string `json:"why"`
}

// Options are the options of [Explain].
type Options struct {
	Bundle        string
	File          string   // read instead of the bundle's config.json
	Root          string   // of the machine; "": from the configuration
	Environ       []string // of the runtime: its settings, and PATH for the driver's programs
	SystemdCgroup bool
}

// Explain does what the runtime does, short of writing.
func Explain(o Options) (Explanation, error) {
	environ, err := plan.Below(o.Root, o.Environ)
	if err != nil {
		return Explanation{}, err
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return Explanation{}, err
	}
	doc, err := openConfig(o.Bundle, o.File)
	if err != nil {
		return Explanation{}, err
	}
	defer func() { _ = doc.Close() }()
	facts, err := doc.Facts()
	if err != nil {
		return Explanation{}, err
	}
	e := Explanation{Bundle: o.Bundle}
	request, asked, err := spec.NewRequest(facts, cfg.Policy())
	if err != nil {
		return Explanation{}, err
	}
	if !asked {
		e.Why = whyNothing(cfg, request, facts)
		return e, nil
	}
	p, err := plan.New(cfg, plan.Container{
		Request: request, Facts: facts, Bundle: o.Bundle,
		Path: plan.Getenv(o.Environ, "PATH"), SystemdCgroup: o.SystemdCgroup,
	})
	if err != nil {
		return Explanation{}, err
	}
	report, err := doc.Apply(p.Edits)
	if err != nil {
		return Explanation{}, err
	}

	e.Asks, e.Changes = true, doc.Changed()
	e.Why = fmt.Sprintf("requested by %s: %.200q with driver capabilities %s",
		request.Source, strings.Join(request.Devices, ","), strings.Join(request.Capabilities, ","))
	e.Driver = listing.DriverOf(p.Inventory)
	e.explainDevices(p)
	e.explainFiles(p)
	e.Masked, e.Groups = p.Edits.MaskedPaths, p.Edits.AdditionalGIDs
	e.Fence = whatFence(cfg, facts, p.Edits, report)
	e.Hooks, e.Kept = report.RemovedHooks, report.KeptMounts
	for _, l := range p.CharLinks {
		why := "create it on the host: " + l.Command()
		if cfg.MayMakeCharLinks(p.Root) && (l.Found == "" || l.Dead) {
			why = "would be created on the host"
		}
		e.CharLinks = append(e.CharLinks, Link{l.Name, l.Target, why})
	}
	e.Mounts = slices.DeleteFunc(e.Mounts, func(m Mount) bool { return slices.Contains(e.Kept, m.Path) })
	report.RemovedHooks, report.KeptMounts = nil, nil // not repeated as notes
	e.Notes = slices.Concat(request.Notes, p.Notes, plan.Notes(report))
	return e, nil
}

func openConfig(bundle, file string) (*spec.Document, error) {
	if file != "" && file != "config.json" {
		return spec.OpenFile(file)
	}
	doc, err := spec.Open(bundle)
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("%w; a bundle exists only as long as its container; --env needs none", err)
	}
	return doc, err
}

// whyNothing tells why a container is left alone.
func whyNothing(cfg plan.Config, request spec.Request, facts spec.Facts) string {
	if len(request.Notes) > 0 {
		return strings.Join(request.Notes, "; ")
	}
	names := append([]string{"NVIDIA_VISIBLE_DEVICES"}, cfg.SwarmResources...)
	for _, name := range names {
		for _, entry := range slices.Backward(facts.Env) {
			if value, ok := strings.CutPrefix(entry, name+"="); ok {
				return fmt.Sprintf("%s is %.100q in its environment", name, value)
			}
		}
	}
	return "its environment has no " + strings.Join(names, " and no ")
}

func (e *Explanation) explainDevices(p plan.Plan) {
	why := map[string]string{
		"/dev/nvidiactl":        "every program that uses the driver",
		"/dev/nvidia-uvm":       "driver capability compute or video",
		"/dev/nvidia-uvm-tools": "driver capability compute or video",
		"/dev/nvidia-modeset":   "driver capability graphics or display",
	}
	for _, g := range p.Selection.GPUs {
		name := fmt.Sprintf("GPU %d, %s", g.GPU.Index, g.GPU.Address)
		gpu := GPU{Index: g.GPU.Index, Address: g.GPU.Address.String(), Model: g.GPU.Model, UUID: g.GPU.UUID}
		why[fmt.Sprintf("/dev/nvidia%d", g.GPU.Minor)] = name
		for _, instance := range g.Instances {
			gpu.MIG = append(gpu.MIG, fmt.Sprintf("GI %d, CI %d", instance.GI, instance.CI))
			gi := fmt.Sprintf("GPU instance %d of %s", instance.GI, name)
			why[capPath(instance.GICap.Minor)] = "MIG: " + gi
			why[capPath(instance.CICap.Minor)] = fmt.Sprintf("MIG: compute instance %d of %s", instance.CI, gi)
		}
		nodes, _ := sysfs.DRMNodes(p.Root, p.Root, g.GPU) // read before; an error would have ended that
		for _, n := range nodes {
			why[n.Path] = "driver capability graphics or display, " + name
		}
		e.GPUs = append(e.GPUs, gpu)
	}
	for _, n := range p.Nodes {
		host := "there"
		switch {
		case n.Instead != "":
			host = n.Instead + " instead"
		case slices.ContainsFunc(p.Missing, func(missing sysfs.Node) bool { return missing.Path == n.Path }):
			host = "missing, would be created"
		case !n.OnHost:
			host = "missing, needed in user namespaces only"
		}
		e.Devices = append(e.Devices, Device{
			Path: n.Path, Number: fmt.Sprintf("%d:%d", n.Major, n.Minor), Mode: fmt.Sprintf("%04o", n.Mode.Perm()),
			Group: n.GID, Why: cmp.Or(why[n.Path], whyNode(n.Path)), Host: host,
		})
	}
}

func capPath(minor int) string { return fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor) }

// whyNode names the variable that asks for a node that belongs to no GPU.
func whyNode(name string) string {
	for _, w := range []struct{ prefix, why string }{
		{"/dev/nvidia-caps/", "NVIDIA_MIG_CONFIG_DEVICES or NVIDIA_MIG_MONITOR_DEVICES"},
		{"/dev/nvidia-caps-imex-channels/", "NVIDIA_IMEX_CHANNELS"},
		{"/dev/nvidia-fs", "NVIDIA_GDS"},
		{"/dev/infiniband/", "NVIDIA_MOFED"},
		{"/dev/gdrdrv", "NVIDIA_GDRCOPY"},
		{"/dev/nvidia-nvswitch", "NVIDIA_NVSWITCH"},
	} {
		if strings.HasPrefix(name, w.prefix) {
			return w.why
		}
	}
	return ""
}

func (e *Explanation) explainFiles(p plan.Plan) {
	files := map[string]plan.File{}
	for _, f := range p.Files {
		files[f.Dest], files[path.Join(plan.Dir, f.Place)] = f, f
		if p.Directory != "" && f.Place != "" {
			e.Linked = append(e.Linked, Mount{path.Join(plan.Dir, f.Place), f.Source, whyFile(f, p)})
		}
	}
	for _, mount := range p.Edits.Mounts {
		why := "all files below, as hard links in one directory on the host"
		if mount.Destination != plan.Dir {
			why = whyFile(files[mount.Destination], p)
		}
		e.Mounts = append(e.Mounts, Mount{mount.Destination, mount.Source, why})
	}
	for _, l := range p.Links {
		e.Links = append(e.Links, Link{Path: l.Path, Target: l.Target})
	}
	for _, u := range p.Updates {
		why := "ldconfig in the container keeps them"
		switch {
		case u.Entries != nil:
			why = "loader cache with the driver's libraries"
		case u.Last:
			why = "musl's search path"
		}
		e.Files = append(e.Files, File{u.Path, len(u.New), why})
	}
}

// whyFile tells what a file is and which driver capability needs it.
func whyFile(f plan.File, p plan.Plan) string {
	switch {
	case f.Path == "" && f.Data != nil:
		return "limits EGL and Vulkan to the container's GPUs"
	case slices.Contains(p.GDS, f.Dest):
		return "NVIDIA_GDS"
	}
	return fmt.Sprintf("%s: %s", f.Kind, whichClasses(f.File, p.Request()))
}

// whichClasses returns the requested driver capabilities that need the file.
func whichClasses(f driver.File, request spec.Request) string {
	var asked driver.Class
	for _, name := range request.Capabilities {
		if class, ok := driver.ParseClass(name); ok {
			asked |= class
		}
	}
	switch {
	case f.Class == 0:
		return "always"
	case f.Class&asked == 0: // implied by one that was requested
		return f.Class.String()
	}
	return (f.Class & asked).String()
}

func whatFence(cfg plan.Config, facts spec.Facts, edits spec.Edits, report spec.Report) string {
	switch {
	case report.Fenced:
		return fmt.Sprintf("denied by the seccomp profile for majors %v", edits.FenceMajors)
	case cfg.Fence == plan.FenceOff:
		return "not fenced: seccomp-fence is off"
	case len(edits.FenceMajors) == 0 && facts.HasCapability("CAP_SYS_ADMIN"):
		return "not fenced: the container is privileged"
	case len(edits.FenceMajors) == 0:
		return "no fence needed: the container may not create device nodes"
	case !facts.HasSeccomp:
		return "not fenced: the container has no seccomp profile (seccomp-fence = \"always\" adds one)"
	}
	return "not fenced"
}
