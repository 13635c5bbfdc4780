// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"cmp"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
)

var (
	crioTable    = []string{"crio", "runtime"}
	crioRuntimes = []string{"crio", "runtime", "runtimes"}
)

func crio(o options) (plan, error) {
	dir := "/etc/crio/crio.conf.d"
	name := path.Join(dir, "99-"+o.name+".conf")
	if o.config != "" {
		name = o.config
	}
	f, err := look(o.root, name)
	if err != nil {
		return plan{}, err
	}
	entry := append(slices.Clone(crioRuntimes), o.name)
	reg := registration{entry, []string{"runtime_path"}, o.program}
	links, err := separate(o, o.name)
	if err != nil {
		return plan{}, err
	}
	p := plan{
		restart: "systemctl restart crio (running containers stay)",
		reached: o.reachedByPods(),
	}
	if o.remove {
		f, err = withdraw(f, o.name, reg, []setting{{crioTable, "default_runtime", o.name}}, &p)
		p.files = append([]file{f}, links.remove()...)
		return p, err
	}
	if o.setDefault {
		p.reached = "all pods use it"
	}

	// Without monitor_path CRI-O looks for conmon in its PATH, and does not start if there is none:
	// copy this and other settings from the default runtime.
	files, warnings := readFiles(o, "/etc/crio/crio.conf", dir, "")
	p.warnings = append(p.warnings, warnings...)
	def := ""
	runtimes := map[string]map[string]any{}
	for _, i := range files {
		if i.name != name {
			if err := o.refuseForeign(i, reg); err != nil {
				return plan{}, err
			}
		}
		later := i.name > name && path.Dir(i.name) == path.Dir(name)
		if s := text(i.tree, append(slices.Clone(crioTable), "default_runtime")...); s != "" && s != o.name && !later {
			def = s
		}
		for k, v := range table(i.tree, crioRuntimes...) {
			m, _ := v.(map[string]any)
			if runtimes[k] == nil {
				runtimes[k] = map[string]any{}
			}
			for key, value := range m {
				runtimes[k][key] = value
			}
		}
		if o.setDefault && later {
			if s := text(i.tree, append(slices.Clone(crioTable), "default_runtime")...); s != "" && s != o.name {
				p.warnings = append(p.warnings, overridden(i.name, s))
			}
		}
	}
	var model map[string]any
	for _, candidate := range []string{def, "crun", "runc"} {
		m := runtimes[candidate]
		if kind, _ := m["runtime_type"].(string); m != nil && (kind == "" || kind == "oci") {
			model = m
			break
		}
		if o.setDefault {
			break // only the default qualifies
		}
	}
	low, _ := model["runtime_path"].(string)
	without := []string{
		"runtime_path", "runtime_type", "runtime_config_path", "platform_runtime_paths", "inherit_default_runtime",
	}
	if o.setDefault {
		// CRI-O asks its current default runtime about pods that an earlier default started: ours
		// has to execute it.
		switch {
		case def == "":
			return plan{}, errors.New("CRI-O's files do not name its default runtime " +
				"(crun since CRI-O 1.31, runc before), whose pods this runtime must be able to stop: " +
				"first set default_runtime below [crio.runtime] in /etc/crio/crio.conf.d/10-default.conf, " +
				"and its runtime_path and runtime_root unless they are the defaults")
		case model == nil && (runtimes[def] != nil || def != "runc" && def != "crun"):
			return plan{}, fmt.Errorf("CRI-O's default runtime is %s, whose pods this runtime could not stop: "+
				"drain the node (kubectl drain), make runc or crun the default, and try again", quote(def))
		}
		p.files = append(p.files, links.write(o.program, cmp.Or(low, def))...)
		o.program = links.link.name
	} else if links.link.info != nil {
		p.files = append(p.files, links.write(o.program, "")...)
		o.program = links.link.name
	} else {
		without = append(without, "runtime_root")
		if low != "" && !slices.Contains(ProgramDirs, path.Dir(low)) && path.Base(low) != program {
			p.notes = append(p.notes, fmt.Sprintf("CRI-O's runtime %s is not in the usual directories: "+
				"unless another runc or crun is installed, set runtime-path below "+
				"[nvidia-container-runtime.experimental] in /etc/nvidia-container-runtime/config.toml", quote(low)))
		}
	}

	settings := []setting{}
	if o.setDefault {
		settings = append(settings, setting{crioTable, "default_runtime", o.name})
	}
	settings = append(settings, setting{entry, "runtime_path", o.program}, setting{entry, "runtime_type", "oci"})
	doc, err := parse(f.before, o.name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(name), err)
	}
	if table(doc.tree, entry...) == nil {
		settings = append(settings, copied(model, entry, without...)...)
	}
	if err := o.refuseForeign(importedFile{name, doc.tree}, reg); err != nil {
		return plan{}, err
	}
	f, err = enter(f, o, reg, settings)
	p.files = append(p.files, f)
	return p, err
}

// readFiles reads an engine's main file and its drop-ins with the given ending, sorted.
func readFiles(o options, main, dir, ending string) (files []importedFile, warnings []string) {
	var names []string
	if main != "" {
		names = append(names, main)
	}
	if entries, err := o.root.ReadDir(strings.TrimPrefix(dir, "/")); err == nil {
		for _, e := range entries {
			if !e.IsDir() && strings.HasSuffix(e.Name(), ending) {
				names = append(names, path.Join(dir, e.Name()))
			}
		}
	}
	for _, name := range names {
		data, err := o.root.ReadFileMax(name, maxFile)
		if err != nil {
			if name != main {
				warnings = append(warnings, fmt.Sprintf("cannot read %s: %v", quote(name), err))
			}
			continue
		}
		d, err := parse(data, o.name)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("cannot parse %s: %v", quote(name), err))
			continue
		}
		files = append(files, importedFile{name, d.tree})
	}
	return files, warnings
}
