// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// newest is the last version of config.toml that is known here: that of containerd 2.3.
const newest = 4

// criPlugin is the name of the plugin that has the runtimes, by the version of config.toml.
var criPlugin = [newest + 1]string{
	1: "cri",
	2: "io.containerd.grpc.v1.cri",
	3: "io.containerd.cri.v1.runtime",
	4: "io.containerd.cri.v1.runtime",
}

const runcType = "io.containerd.runc.v2"

func containerd(o options) (plan, error) {
	name := "/etc/containerd/config.toml"
	if o.config != "" {
		name = o.config
	}
	main, err := look(o.root, name)
	if err != nil {
		return plan{}, err
	}
	doc, err := parse(main.before, o.name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(name), err)
	}
	p := plan{
		restart: "systemctl restart containerd (running containers stay)",
		reached: fmt.Sprintf("pods with runtimeClassName: %s use it, once \"nvsysfs configure containerd --runtime-class --name %[1]s | kubectl apply -f -\" has been run", o.name),
	}
	if o.setDefault {
		p.reached = "all pods use it"
	}
	version, err := containerdVersion(doc)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(name), err)
	}
	plugin := []string{"plugins", criPlugin[version]}
	cri := append(slices.Clone(plugin), "containerd")
	runtimes := append(slices.Clone(cri), "runtimes")
	entry := append(slices.Clone(runtimes), o.name)

	imported, warnings := readImports(o, path.Dir(name), doc.tree)
	p.warnings = append(p.warnings, warnings...)
	dropIn := importsDirectory(o, path.Dir(name), doc.tree)
	var drop file
	if dropIn != "" && version >= 3 {
		if drop, err = look(o.root, dropIn); err != nil {
			return plan{}, err
		}
	}

	if o.remove {
		// In containerd 1.x the built-in runc entry had to be repeated. It stays where other runtimes rely on it.
		settings := []setting{
			{nil, "version", nil},
			{cri, "default_runtime_name", o.name},
		}
		if others := table(doc.tree, runtimes...); len(others) == 2 && others[o.name] != nil && others["runc"] != nil {
			settings = append(settings, setting{append(slices.Clone(runtimes), "runc"), "runtime_type", nil})
		}
		for _, f := range []file{main, drop} {
			if f.name == "" {
				continue
			}
			if f, err = withdraw(f, o.name, entry, settings, &p); err != nil {
				return plan{}, err
			}
			p.files = append(p.files, f)
		}
		return p, nil
	}

	for _, disabled := range list(doc.tree["disabled_plugins"]) {
		if disabled == "cri" || disabled == "io.containerd.grpc.v1.cri" || disabled == "io.containerd.cri.v1.runtime" {
			p.warnings = append(p.warnings, fmt.Sprintf("%s disables the plugin %s, so that Kubernetes cannot use containerd: Docker's packages do that; take it out of disabled_plugins if Kubernetes is to run here", name, disabled))
		}
	}

	// What the new entry is made after: the default runtime's, for things like SystemdCgroup.
	trees := append([]importedFile{{name, doc.tree}}, imported...)
	var model map[string]any
	modelName := "runc"
	for _, t := range trees {
		if s := text(t.tree, append(slices.Clone(cri), "default_runtime_name")...); s != "" && s != o.name {
			modelName = s
		}
	}
	for _, t := range trees {
		for _, name := range []string{modelName, "runc"} {
			m := table(t.tree, append(slices.Clone(runtimes), name)...)
			if kind, _ := m["runtime_type"].(string); m != nil && strings.HasPrefix(kind, "io.containerd.runc.") {
				model = m
				break
			}
		}
	}

	target := &main
	if dropIn != "" && version >= 3 && (drop.info != nil || table(doc.tree, entry...) == nil) {
		target = &drop
	}
	tdoc, err := parse(target.before, o.name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(target.name), err)
	}
	var settings []setting
	if len(tdoc.list) == 0 {
		settings = append(settings, setting{nil, "version", int64(version)})
	}
	if target == &main && version < 3 && len(table(doc.tree, runtimes...)) == 0 {
		settings = append(settings, setting{append(slices.Clone(runtimes), "runc"), "runtime_type", runcType})
	}
	if o.setDefault {
		settings = append(settings, setting{cri, "default_runtime_name", o.name})
	}
	settings = append(settings, setting{entry, "runtime_type", runcType})
	optionsTable := append(slices.Clone(entry), "options")
	if table(tdoc.tree, entry...) == nil {
		settings = append(settings, copied(model, entry, "runtime_type", "runtime_path", "runtime_engine", "runtime_root")...)
	}
	settings = append(settings, setting{optionsTable, "BinaryName", o.program})
	if table(tdoc.tree, entry...) == nil {
		settings = append(settings, copied(table(model, "options"), optionsTable, "BinaryName")...)
	}
	f, err := enter(*target, o.name, entry, settings)
	if err != nil {
		return plan{}, err
	}
	p.files = append(p.files, f)

	for _, i := range imported {
		if i.name == target.name {
			continue
		}
		later := target == &main || i.name > target.name
		switch {
		case version < 3 && (table(i.tree, "plugins", criPlugin[1]) != nil || table(i.tree, "plugins", criPlugin[2]) != nil):
			p.warnings = append(p.warnings, fmt.Sprintf("%s is imported and has the CRI plugin's table: containerd 1.x takes that table instead of the one in %s, and will not see %s; put the two together, or register the runtime in the imported file with --config %[1]s", i.name, name, o.name))
		case later && table(i.tree, entry...) != nil && text(i.tree, append(slices.Clone(entry), "options", "BinaryName")...) != o.program:
			p.warnings = append(p.warnings, fmt.Sprintf("%s is read later and has another %s: that one counts", i.name, o.name))
		case later && o.setDefault && text(i.tree, append(slices.Clone(cri), "default_runtime_name")...) != "" && text(i.tree, append(slices.Clone(cri), "default_runtime_name")...) != o.name:
			p.warnings = append(p.warnings, fmt.Sprintf("%s is read later and makes %s the default runtime: that one counts", i.name, quote(text(i.tree, append(slices.Clone(cri), "default_runtime_name")...))))
		}
	}
	return p, nil
}

// containerdVersion is the version of config.toml: without the key it is 1, in an empty file the one that all
// containerd since 1.3 read.
func containerdVersion(d document) (int, error) {
	v, ok := d.tree["version"]
	if !ok {
		if len(d.list) == 0 {
			return 2, nil
		}
		return 1, nil
	}
	n, ok := v.(int64)
	switch {
	case !ok:
		return 0, fmt.Errorf("version is not a number")
	case n == 0:
		return 1, nil
	case n < 0 || n > newest:
		return 0, fmt.Errorf("version is %d: only 1 to %d are known here", n, newest)
	}
	return int(n), nil
}

// importedFile is a file that config.toml's imports lead to.
type importedFile struct {
	name string
	tree map[string]any
}

// readImports reads the files that imports names, in containerd's order: a name with * stands for the sorted
// names that match, a relative one counts from the file's directory. Imports of imports are not
// followed. What cannot be read is a warning: containerd would not start either.
func readImports(o options, dir string, tree map[string]any) (files []importedFile, warnings []string) {
	for _, pattern := range list(tree["imports"]) {
		if pattern = path.Clean(pattern); !path.IsAbs(pattern) {
			pattern = path.Join(dir, pattern)
		}
		names := []string{pattern}
		if strings.Contains(pattern, "*") {
			names = nil
			entries, err := o.root.ReadDir(strings.TrimPrefix(path.Dir(pattern), "/"))
			if err != nil {
				continue // no such directory: nothing is imported
			}
			for _, e := range entries {
				if ok, err := path.Match(path.Base(pattern), e.Name()); ok && err == nil {
					names = append(names, path.Join(path.Dir(pattern), e.Name()))
				}
			}
		}
		for _, name := range names {
			data, err := o.root.ReadFileMax(name, maxFile)
			if err == nil {
				var d document
				if d, err = parse(data, o.name); err == nil {
					files = append(files, importedFile{name, d.tree})
					continue
				}
			}
			warnings = append(warnings, fmt.Sprintf("%s is imported and cannot be used: %v", quote(name), err))
		}
	}
	return files, warnings
}

// importsDirectory is where a drop-in of ours would be read, "" if nowhere.
func importsDirectory(o options, dir string, tree map[string]any) string {
	if o.config != "" {
		return ""
	}
	for _, pattern := range list(tree["imports"]) {
		if pattern = path.Clean(pattern); !path.IsAbs(pattern) {
			pattern = path.Join(dir, pattern)
		}
		name := path.Join(path.Dir(pattern), "99-"+o.name+".toml")
		if ok, err := path.Match(path.Base(pattern), path.Base(name)); ok && err == nil && !strings.ContainsAny(path.Dir(pattern), "*?[\\") && strings.Contains(pattern, "*") {
			return name
		}
	}
	return ""
}

// list is a list of strings, as far as a value is one.
func list(v any) []string {
	items, _ := v.([]any)
	var out []string
	for _, item := range items {
		if s, ok := item.(string); ok {
			out = append(out, s)
		}
	}
	return out
}

// enter puts settings into a file, which is made if it is not there.
func enter(f file, name string, entry []string, settings []setting) (file, error) {
	base := f.before
	if f.info == nil {
		base = []byte(madeMark)
	}
	out, err := setKeys(base, name, entry, settings)
	if err != nil {
		return file{}, fmt.Errorf("%s: %w", quote(f.name), err)
	}
	f.after = out
	return f, nil
}

// withdraw takes them out again; a file that enter made goes.
func withdraw(f file, name string, entry []string, settings []setting, p *plan) (file, error) {
	if f.info == nil {
		return f, nil
	}
	out, what, err := unsetKeys(f.before, name, entry, settings)
	if err != nil {
		return file{}, fmt.Errorf("%s: %w", quote(f.name), err)
	}
	for _, w := range what {
		p.notes = append(p.notes, f.name+": "+w)
	}
	f.after = out
	f.remove = string(out) == madeMark
	return f, nil
}
