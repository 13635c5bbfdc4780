// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// explanation is what --json prints.
type explanation struct {
	Bundle    string            `json:"bundle"`
	Asks      bool              `json:"asks"`    // false: the container is left as it is
	Why       string            `json:"why"`     // who asks for what, or why nothing is done
	Changes   bool              `json:"changes"` // config.json would be another one
	Driver    *listedDriver     `json:"driver,omitempty"`
	GPUs      []explainedGPU    `json:"gpus,omitempty"`
	Devices   []explainedDevice `json:"devices,omitempty"`
	Mounts    []explainedMount  `json:"mounts,omitempty"`
	Linked    []explainedMount  `json:"linked,omitempty"` // files that come by one mount
	Links     []explainedLink   `json:"links,omitempty"`
	Files     []explainedFile   `json:"files,omitempty"` // written into the root filesystem
	Masked    []string          `json:"masked_paths,omitempty"`
	Groups    []uint32          `json:"additional_gids,omitempty"`
	Fence     string            `json:"seccomp_fence,omitempty"`
	Hooks     []string          `json:"removed_hooks,omitempty"`
	Kept      []string          `json:"kept_mounts,omitempty"` // the container's own, in the place of ours
	CharLinks []explainedLink   `json:"dev_char_links,omitempty"`
	Notes     []string          `json:"notes,omitempty"`
}

type explainedGPU struct {
	Index   int      `json:"index"`
	Address string   `json:"address"`
	Model   string   `json:"model"`
	UUID    string   `json:"uuid"`
	MIG     []string `json:"mig,omitempty"` // "GI 1, CI 0"
}

type explainedDevice struct {
	Path   string `json:"path"`
	Number string `json:"number"` // "195:0"
	Mode   string `json:"mode"`   // "0666"
	Group  uint32 `json:"gid"`
	Why    string `json:"why"`
	Host   string `json:"host"` // what the host has of it
}

type explainedMount struct {
	Path   string `json:"path"`
	Source string `json:"source"`
	Why    string `json:"why"`
}

type explainedLink struct {
	Path   string `json:"path"`
	Target string `json:"target"`
	Why    string `json:"why,omitempty"`
}

type explainedFile struct {
	Path string `json:"path"`
	Size int    `json:"size"`
	Why  string `json:"why"`
}

func newExplain(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "explain",
		Short: "show what a container would get, and why",
		Long: `Shows what nvidia-container-runtime.experimental would change for the container
in a bundle, and why. Nothing is changed: neither the bundle, nor its root
filesystem, nor a device node. Configuration and environment count as they do
for the runtime; where the runtime would fail, this fails with the same message.

With --env there need be no bundle: it is as if a container with these variables
were started. Its image is laid out like Debian's unless --image names another.`,
		Example: `  nvsysfs explain -e NVIDIA_VISIBLE_DEVICES=0:1 --fixture a100-mig
  nvsysfs explain --bundle /run/containerd/io.containerd.runtime.v2.task/moby/ID`,
		Args: noArguments,
	}
	bundle := cmd.Flags().String("bundle", ".", "the bundle's directory `DIR`")
	file := cmd.Flags().String("config", "", "read `FILE` instead of the bundle's config.json")
	systemd := cmd.Flags().Bool("systemd-cgroup", false,
		"assume the systemd cgroup driver, for which links in /dev/char matter")
	variables := cmd.Flags().StringArrayP("env", "e", nil, "explain a container with the variable `NAME=VALUE`; repeatable")
	image := cmd.Flags().String("image", "", "with --env: `DIR` is the container's root filesystem")
	fixture := cmd.Flags().String("fixture", "", "look at the machine `NAME` from \"nvsysfs fixtures\"")
	isDirectory(cmd, "bundle", "image")
	isOneOf(cmd, "fixture", fixtures.Names()...)
	must(cmd.RegisterFlagCompletionFunc("env", completeVariable))
	cmd.MarkFlagsMutuallyExclusive("env", "bundle")
	cmd.MarkFlagsMutuallyExclusive("env", "config")
	isFile(cmd, "config")
	root, as := rootFlag(cmd, ""), outputFlag(cmd)
	cmd.MarkFlagsMutuallyExclusive("root", "fixture")
	cmd.RunE = func(*cobra.Command, []string) error {
		if *image != "" && len(*variables) == 0 {
			return &usageError{"explain: --image goes with --env"}
		}
		if len(*variables) == 0 && *fixture == "" {
			return runExplain(i, *bundle, *file, *root, *systemd, *as)
		}
		return withScratch(i, func(i invocation, dir string) error {
			if *fixture != "" {
				*root = filepath.Join(dir, "machine")
				if err := unpackFixture(*fixture, *root); err != nil {
					return err
				}
			}
			if len(*variables) > 0 {
				*bundle = filepath.Join(dir, "bundle")
				if err := writeBundle(*bundle, *image, *variables); err != nil {
					return err
				}
			}
			return runExplain(i, *bundle, *file, *root, *systemd, *as)
		})
	}
	return cmd
}

func runExplain(i invocation, bundle, file, root string, systemd bool, as outputFormat) error {
	cfg, err := loadConfig(i.environ, root)
	if err != nil {
		return err
	}
	e, err := explain(cfg, bundle, file, systemd, plan.Getenv(i.environ, "PATH"))
	if err != nil {
		return err
	}
	if as != asTable {
		return as.write(i.stdout, e)
	}
	_, err = i.stdout.Write(e.text())
	return err
}

// explain goes the runtime's way up to where that begins to write.
func explain(cfg plan.Config, bundle, file string, systemd bool, hostPath string) (explanation, error) {
	doc, err := openConfig(bundle, file)
	if err != nil {
		return explanation{}, err
	}
	defer func() { _ = doc.Close() }()
	facts, err := doc.Facts()
	if err != nil {
		return explanation{}, err
	}
	e := explanation{Bundle: bundle}
	request, asked, err := spec.NewRequest(facts, cfg.Policy())
	if err != nil {
		return explanation{}, err
	}
	if !asked {
		e.Why = whyNothing(cfg, request, facts)
		return e, nil
	}
	p, err := plan.New(cfg, plan.Container{Request: request, Facts: facts, Bundle: bundle, Path: hostPath, SystemdCgroup: systemd})
	if err != nil {
		return explanation{}, err
	}
	report, err := doc.Apply(p.Edits)
	if err != nil {
		return explanation{}, err
	}

	e.Asks, e.Changes = true, doc.Changed()
	e.Why = fmt.Sprintf("asked for by %s: %.200q with driver capabilities %s", request.Source, strings.Join(request.Devices, ","), strings.Join(request.Capabilities, ","))
	d := p.Inventory.Driver
	e.Driver = &listedDriver{d.Version, d.Open, d.Arch}
	e.explainDevices(p)
	e.explainFiles(p)
	e.Masked, e.Groups = p.Edits.MaskedPaths, p.Edits.AdditionalGIDs
	e.Fence = whatFence(cfg, facts, p.Edits, report)
	e.Hooks, e.Kept = report.RemovedHooks, report.KeptMounts
	for _, l := range p.CharLinks {
		why := "an administrator has to make it: " + l.Command()
		if cfg.MayMakeCharLinks(p.Root) && (l.Found == "" || l.Dead) {
			why = "would be made on the host"
		}
		e.CharLinks = append(e.CharLinks, explainedLink{l.Name, l.Target, why})
	}
	e.Mounts = slices.DeleteFunc(e.Mounts, func(m explainedMount) bool { return slices.Contains(e.Kept, m.Path) })
	report.RemovedHooks, report.KeptMounts = nil, nil // these have been told
	e.Notes = slices.Concat(request.Notes, p.Notes, plan.Notes(report))
	return e, nil
}

func openConfig(bundle, file string) (*spec.Document, error) {
	if file == "" || file == "config.json" {
		return spec.Open(bundle)
	}
	return spec.OpenFile(file)
}

// whyNothing tells why a container is none of ours.
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

func (e *explanation) explainDevices(p plan.Plan) {
	why := map[string]string{
		"/dev/nvidiactl":        "every program that uses the driver",
		"/dev/nvidia-uvm":       "driver capability compute or video",
		"/dev/nvidia-uvm-tools": "driver capability compute or video",
		"/dev/nvidia-modeset":   "driver capability graphics or display",
	}
	for _, g := range p.Selection.GPUs {
		name := fmt.Sprintf("GPU %d, %s", g.GPU.Index, g.GPU.Address)
		gpu := explainedGPU{Index: g.GPU.Index, Address: g.GPU.Address.String(), Model: g.GPU.Model, UUID: g.GPU.UUID}
		why[fmt.Sprintf("/dev/nvidia%d", g.GPU.Minor)] = name
		for _, instance := range g.Instances {
			gpu.MIG = append(gpu.MIG, fmt.Sprintf("GI %d, CI %d", instance.GI, instance.CI))
			why[capPath(instance.GICap.Minor)] = fmt.Sprintf("MIG: GPU instance %d of %s", instance.GI, name)
			why[capPath(instance.CICap.Minor)] = fmt.Sprintf("MIG: compute instance %d of GPU instance %d of %s", instance.CI, instance.GI, name)
		}
		// What cannot be read now has been read before, or would have been an error.
		nodes, _ := sysfs.DRMNodes(p.Root, p.Root, g.GPU)
		for _, n := range nodes {
			why[n.Path] = "driver capability graphics or display, " + name
		}
		e.GPUs = append(e.GPUs, gpu)
	}
	for _, n := range p.Nodes {
		host := "there"
		switch {
		case slices.ContainsFunc(p.Missing, func(missing sysfs.Node) bool { return missing.Path == n.Path }) && n.Instead == "":
			host = "missing, would be made"
		case n.Instead != "":
			host = n.Instead + " instead"
		case !n.OnHost:
			host = "missing, needed in user namespaces only"
		}
		e.Devices = append(e.Devices, explainedDevice{
			Path: n.Path, Number: fmt.Sprintf("%d:%d", n.Major, n.Minor), Mode: fmt.Sprintf("%04o", n.Mode.Perm()), Group: n.GID,
			Why: cmp.Or(why[n.Path], whyNode(n.Path)), Host: host,
		})
	}
}

func capPath(minor int) string { return fmt.Sprintf("/dev/nvidia-caps/nvidia-cap%d", minor) }

// whyNode tells why a node of no GPU is given: which variable asks for it.
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

func (e *explanation) explainFiles(p plan.Plan) {
	files := map[string]plan.File{}
	for _, f := range p.Files {
		files[f.Dest], files[path.Join(plan.Dir, f.Place)] = f, f
		if p.Directory != "" && f.Place != "" {
			e.Linked = append(e.Linked, explainedMount{path.Join(plan.Dir, f.Place), f.Source, whyFile(f, p)})
		}
	}
	for _, mount := range p.Edits.Mounts {
		why := "all files below, as hard links in one directory of the host"
		if mount.Destination != plan.Dir {
			why = whyFile(files[mount.Destination], p)
		}
		e.Mounts = append(e.Mounts, explainedMount{mount.Destination, mount.Source, why})
	}
	for _, l := range p.Links {
		e.Links = append(e.Links, explainedLink{Path: l.Path, Target: l.Target})
	}
	for _, u := range p.Updates {
		why := "ldconfig in the container keeps them"
		switch {
		case u.Entries != nil:
			why = "loader cache with the driver's libraries"
		case u.Last:
			why = "musl's search path"
		}
		e.Files = append(e.Files, explainedFile{u.Path, len(u.New), why})
	}
}

// whyFile tells what a file is and which driver capability wants it.
func whyFile(f plan.File, p plan.Plan) string {
	switch {
	case f.Path == "" && f.Data != nil:
		return "keeps EGL and Vulkan to the container's GPUs"
	case slices.Contains(p.GDS, f.Dest):
		return "NVIDIA_GDS"
	}
	return fmt.Sprintf("%s: %s", f.Kind, whichClasses(f.File, p.Request()))
}

// whichClasses are the driver capabilities asked for that want the file.
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
	case f.Class&asked == 0: // one of those asked for brings another
		return f.Class.String()
	}
	return (f.Class & asked).String()
}

func whatFence(cfg plan.Config, facts spec.Facts, edits spec.Edits, report spec.Report) string {
	switch {
	case report.Fenced:
		return fmt.Sprintf("the seccomp profile denies making nodes of majors %v", edits.FenceMajors)
	case cfg.Fence == plan.FenceOff:
		return "none: seccomp-fence is off"
	case len(edits.FenceMajors) == 0 && facts.HasCapability("CAP_SYS_ADMIN"):
		return "none: the container is privileged"
	case len(edits.FenceMajors) == 0:
		return "none: the container may make no device nodes"
	case !facts.HasSeccomp:
		return "none: the container has no seccomp profile (seccomp-fence = \"always\" gives it one)"
	}
	return "none"
}

func (e *explanation) text() []byte {
	var out bytes.Buffer
	if !e.Asks {
		fmt.Fprintf(&out, "Nothing is changed, the container asks for nothing: %s.\n", e.Why)
		return out.Bytes()
	}
	fmt.Fprintf(&out, "Driver %s, %s.\n", e.Driver.Version, e.Why)
	if !e.Changes {
		out.WriteString("config.json has all of it already.\n")
	}
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	section := func(title string, rows ...[]string) {
		if len(rows) == 0 {
			return
		}
		fmt.Fprintf(table, "\n%s:\n", title)
		for _, row := range rows {
			fmt.Fprintf(table, "  %s\n", strings.Join(row, "\t"))
		}
		// A section's columns are its own. Writing to a buffer does not fail.
		_ = table.Flush()
	}
	var gpus, devices, mounts, libraries, links, files, chars [][]string
	for _, g := range e.GPUs {
		gpus = append(gpus, []string{fmt.Sprint(g.Index), g.Address, g.Model, g.UUID, strings.Join(g.MIG, "; ")})
	}
	for _, d := range e.Devices {
		devices = append(devices, []string{d.Path, d.Number, d.Mode, "on the host: " + d.Host, d.Why})
	}
	for _, m := range e.Mounts {
		mounts = append(mounts, []string{m.Path, m.Why, m.Source})
	}
	for _, l := range e.Linked {
		libraries = append(libraries, []string{l.Path, l.Why, l.Source})
	}
	for _, l := range e.Links {
		links = append(links, []string{l.Path, "-> " + l.Target})
	}
	for _, f := range e.Files {
		files = append(files, []string{f.Path, fmt.Sprintf("%d bytes", f.Size), f.Why})
	}
	for _, l := range e.CharLinks {
		chars = append(chars, []string{l.Path, "-> " + l.Target, l.Why})
	}
	section("GPUs", trimmed(gpus)...)
	section("Device nodes, each with a rule that allows it", devices...)
	section("Mounts", mounts...)
	section("Files in "+plan.Dir+", which comes by one mount", libraries...)
	section("Links in the root filesystem; what cannot be written there is mounted instead", links...)
	section("Files in the root filesystem", files...)
	section("Masked, as they tell about other GPUs", column(e.Masked)...)
	section("Groups added, which may open the nodes", column(e.Groups)...)
	section("Making other GPUs' nodes", []string{e.Fence})
	section("Hooks of the classic runtime, removed", column(e.Hooks)...)
	section("The container's own mounts, which stay in the place of ours", column(e.Kept)...)
	section("Links below /dev/char, for the systemd cgroup driver", chars...)
	section("Notes", column(e.Notes)...)
	return out.Bytes()
}

func column[T any](items []T) [][]string {
	var rows [][]string
	for _, item := range items {
		rows = append(rows, []string{fmt.Sprint(item)})
	}
	return rows
}

// trimmed drops empty cells at the end of rows.
func trimmed(rows [][]string) [][]string {
	for i, row := range rows {
		for len(row) > 0 && row[len(row)-1] == "" {
			row = row[:len(row)-1]
		}
		rows[i] = row
	}
	return rows
}

// loadConfig reads the configuration as the runtime would; with a root, the one in there, for the machine in there.
func loadConfig(environ []string, dir string) (plan.Config, error) {
	environ, err := plan.Below(dir, environ)
	if err != nil {
		return plan.Config{}, err
	}
	return plan.LoadConfig("", environ)
}
