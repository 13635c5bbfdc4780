// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"debug/buildinfo"
	"fmt"
	"io"
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
	name, kube := "/etc/containerd/config.toml", distribution{}
	if o.config != "" {
		name = o.config
	} else if d, ok := findDistribution(o.root); ok {
		kube, name = d, d.config
	}
	main, err := look(o.root, name)
	if err != nil {
		return plan{}, err
	}
	if line := templateLine(main.before); line > 0 {
		return plan{}, fmt.Errorf("%s: line %d: this is a Go template, not TOML: k3s and RKE2 make their config.toml of it; "+
			"\"nvsysfs configure containerd --template\" adds the runtime to the template that they read", quote(name), line)
	}
	doc, err := parse(main.before, o.name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(name), err)
	}
	p := plan{
		restart: "systemctl restart containerd (running containers stay)",
		reached: fmt.Sprintf("pods with runtimeClassName: %s use it, once \"nvsysfs configure containerd --runtime-class --name %[1]s | kubectl apply -f -\" has been run", o.name),
	}
	if kube.name != "" {
		p.restart = kube.restart
		p.notes = append(p.notes, kube.notes...)
	}
	if o.setDefault {
		p.reached = "all pods use it"
	}
	imported, warnings := readImports(o, name, doc.tree)
	p.warnings = append(p.warnings, warnings...)
	if kube.dropIns != "" {
		more, warnings := readFiles(o, "", kube.dropIns, ".toml")
		imported, p.warnings = append(imported, more...), append(p.warnings, warnings...)
		o.dropInVersion = 2
		if o.installed("/var/lib/k0s/bin/containerd") == 2 {
			o.dropInVersion = 3
		}
	}
	importer, importing := o.importer(name)
	form, err := o.form(doc, imported, importer)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(name), err)
	}
	p.warnings = append(p.warnings, form.warnings...)
	plugin := []string{"plugins", criPlugin[form.version]}
	cri := append(slices.Clone(plugin), "containerd")
	runtimes := append(slices.Clone(cri), "runtimes")
	entry := append(slices.Clone(runtimes), o.name)
	reg := registration{entry, []string{"options", "BinaryName"}, o.program}

	dropIn := importsDirectory(o, path.Dir(name), doc.tree)
	if kube.dropIns != "" {
		dropIn = path.Join(kube.dropIns, o.name+".toml")
	}
	useDropIn := dropIn != "" && (form.version >= 3 || kube.dropIns != "")
	if kube.template != "" && !useDropIn {
		return kube.planTemplate(o, p, form.version)
	}
	var drop file
	if useDropIn {
		if drop, err = look(o.root, dropIn); err != nil {
			return plan{}, err
		}
	}

	if o.remove {
		// In containerd 1.x the built-in runc entry had to be repeated. It stays where other runtimes rely on it.
		settings := []setting{
			{nil, "version", nil},
			{cri, "default_runtime_name", o.name},
			{append(slices.Clone(cri), "default_runtime", "options"), "BinaryName", nil},
		}
		if others := table(doc.tree, runtimes...); len(others) == 2 && others[o.name] != nil && others["runc"] != nil {
			settings = append(settings, setting{append(slices.Clone(runtimes), "runc"), "runtime_type", nil})
		}
		for _, f := range []file{main, drop} {
			if f.name == "" || f.name == main.name && kube.generated {
				continue
			}
			if f, err = withdraw(f, o.name, reg, settings, &p); err != nil {
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

	// What the new entry is made after: the default runtime's, for things like SystemdCgroup. Files come in the order in
	// which containerd reads them.
	trees := append([]importedFile{{name, doc.tree}}, imported...)
	if importing != nil {
		trees = append([]importedFile{{importer.name, importer.tree}}, trees...)
	}
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
	if useDropIn && (kube.dropIns != "" || drop.info != nil || table(doc.tree, entry...) == nil) {
		target = &drop
	}
	if target == &main && kube.generated {
		return plan{}, fmt.Errorf("%s is written by %s, which would undo a change: %s", quote(name), kube.name, kube.advice)
	}
	tdoc, err := parse(target.before, o.name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(target.name), err)
	}
	for _, t := range append(slices.Clone(imported), importedFile{target.name, tdoc.tree}, importedFile{name, doc.tree}) {
		if err := o.refuseForeign(t, reg); err != nil {
			return plan{}, err
		}
	}
	if importing != nil && form.version < 3 && table(tdoc.tree, plugin...) == nil && table(importer.tree, plugin...) != nil {
		return plan{}, fmt.Errorf("%s is imported by %s, which has the CRI plugin's table: containerd 1.x would take the table here instead of the one there; register the runtime in %[2]s",
			quote(name), importer.name)
	}
	var settings []setting
	if len(tdoc.list) == 0 {
		settings = append(settings, setting{nil, "version", int64(form.version)})
	}
	if target == &main && form.version < 3 && len(table(doc.tree, runtimes...)) == 0 {
		settings = append(settings, setting{append(slices.Clone(runtimes), "runc"), "runtime_type", runcType})
	}
	if o.setDefault {
		settings = append(settings, setting{cri, "default_runtime_name", o.name})
		more, err := defaultTable(trees, target.name, cri, o)
		if err != nil {
			return plan{}, err
		}
		settings = append(settings, more...)
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
	f, err := enter(*target, o, reg, settings)
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
		case form.version < 3 && kube.name == "" && (table(i.tree, "plugins", criPlugin[1]) != nil || table(i.tree, "plugins", criPlugin[2]) != nil):
			p.warnings = append(p.warnings, fmt.Sprintf("%s is imported and has the CRI plugin's table: containerd 1.x takes that table instead of the one in %s, and will not see %s; put the two together, or register the runtime in the imported file with --config %[1]s", i.name, name, o.name))
		case later && o.setDefault && text(i.tree, append(slices.Clone(cri), "default_runtime_name")...) != "" && text(i.tree, append(slices.Clone(cri), "default_runtime_name")...) != o.name:
			p.warnings = append(p.warnings, fmt.Sprintf("%s is read later and makes %s the default runtime: that one counts", i.name, quote(text(i.tree, append(slices.Clone(cri), "default_runtime_name")...))))
		}
	}
	return p, nil
}

// defaultTable handles the table default_runtime, deprecated since containerd 1.3 and read by all of 1.x, which
// comes before default_runtime_name (pkg/cri/config: ValidatePluginConfig). In the file that is edited its program
// is replaced.
func defaultTable(trees []importedFile, target string, cri []string, o options) ([]setting, error) {
	path := append(slices.Clone(cri), "default_runtime")
	var settings []setting
	for _, t := range trees {
		old := table(t.tree, path...)
		if kind, _ := old["runtime_type"].(string); kind == "" {
			continue
		} else if t.name != target || !strings.HasPrefix(kind, "io.containerd.runc.") {
			return nil, fmt.Errorf("%s has a table [%s], which containerd 1.x takes instead of default_runtime_name: remove it, then run this again", t.name, dotted(path))
		}
		if text(old, "options", "BinaryName") != o.program {
			settings = append(settings, setting{append(slices.Clone(path), "options"), "BinaryName", o.program})
		}
	}
	return settings, nil
}

// form is how a file names its plugins.
type form struct {
	version  int // of criPlugin
	warnings []string
}

// form finds the form of a file, and whether the installed containerd reads it.
//
// The versions of all files that containerd 1.x reads make one, the last that is given; without any it is 1, and
// tables with another version's names have no effect (1) or stop the start (2). containerd 2.x converts each file
// by its own version, and one without a version by the names in it. All this was seen with "containerd config dump"
// of 1.6.20, 1.7.29 and 2.4.2.
func (o options) form(d document, imported []importedFile, importer importedFile) (form, error) {
	if len(d.list) == 0 && importer.tree == nil && (len(imported) == 0 || o.dropInVersion > 0) {
		if o.dropInVersion > 0 {
			return form{version: o.dropInVersion}, nil
		}
		return form{version: 2}, nil // all containerd since 1.3 read it
	}
	version, err := fileVersion(d.tree)
	if err != nil {
		return form{}, err
	}
	others := imported
	if importer.tree != nil {
		others = []importedFile{importer}
	}
	given := version
	named := namedForm(d.tree)
	for _, t := range others {
		// A broken one is the owner's affair: containerd says so.
		if v, err := fileVersion(t.tree); err == nil && v > 0 && given == 0 {
			version = v
		}
	}
	switch {
	case version > 1 && named == 1, given == 1 && named > 1:
		return form{}, fmt.Errorf("its tables have the names of version %d, and it counts as version %d: containerd 1.x would not start, or not see them; make them one, and try again", named, version)
	case given == 0 && named > 0:
		f := form{version: named}
		if named == 1 || version > 0 {
			return f, nil
		}
		line := fmt.Sprintf("version = %d", named)
		switch o.installed("/usr/bin/containerd", "/usr/local/bin/containerd") {
		case 1:
			return form{}, fmt.Errorf("the file has no %q, so the installed containerd 1.x takes it for version 1 and ignores its tables [plugins.\"io.containerd.…\"]: put that line at its beginning, and try again", line)
		case 0:
			f.warnings = append(f.warnings, fmt.Sprintf("the file has no %q: containerd before 2.0 takes it for version 1 and ignores its tables; put that line at its beginning", line))
		}
		return f, nil
	}
	return form{version: max(version, 1)}, nil
}

// fileVersion is the version that a file gives, 0 if none.
func fileVersion(tree map[string]any) (int, error) {
	v, ok := tree["version"]
	if !ok {
		return 0, nil
	}
	n, ok := v.(int64)
	switch {
	case !ok:
		return 0, fmt.Errorf("version is not a number")
	case n < 0 || n > newest:
		return 0, fmt.Errorf("version is %d: only 1 to %d are known here", n, newest)
	}
	return int(n), nil
}

// namedForm tells the version whose names a file's plugins have, 0 if it has none.
func namedForm(tree map[string]any) int {
	plugins := table(tree, "plugins")
	form := 0
	for name := range plugins {
		switch {
		case strings.HasPrefix(name, "io.containerd.cri.v1."):
			return 3
		case strings.HasPrefix(name, "io.containerd."):
			form = max(form, 2)
		case form == 0:
			form = 1
		}
	}
	return form
}

// importer finds the main file, if --config names one that it imports.
func (o options) importer(name string) (main importedFile, imported *importedFile) {
	const usual = "/etc/containerd/config.toml"
	if o.config == "" || path.Clean(name) == usual {
		return importedFile{}, nil
	}
	data, err := o.root.ReadFileMax(usual, maxFile)
	if err != nil {
		return importedFile{}, nil //nolint:nilerr // there is none
	}
	d, err := parse(data, o.name)
	if err != nil {
		return importedFile{}, nil //nolint:nilerr // containerd does not read it either
	}
	files, _ := readImports(o, usual, d.tree)
	for _, i := range files {
		if i.name == path.Clean(name) {
			return importedFile{usual, d.tree}, &i
		}
	}
	return importedFile{}, nil
}

// installed tells the major version of the containerd that is installed, from what Go's linker wrote into it; 0 if it
// is not known. Nothing is run.
func (o options) installed(names ...string) int {
	for _, name := range names {
		f, err := o.root.Open(strings.TrimPrefix(name, "/"))
		if err != nil {
			continue
		}
		data, ok := f.(io.ReaderAt)
		if !ok {
			continue
		}
		info, err := buildinfo.Read(data)
		_ = f.Close()
		if err != nil {
			continue
		}
		switch info.Path {
		case "github.com/containerd/containerd/cmd/containerd":
			return 1
		case "github.com/containerd/containerd/v2/cmd/containerd":
			return 2
		}
	}
	return 0
}

// importedFile is a file that config.toml's imports lead to.
type importedFile struct {
	name string
	tree map[string]any
}

// readImports reads the files that the imports of a file name, and theirs, in containerd's order: a name with * stands
// for the sorted names that match, a relative one counts from the file's directory. What cannot be read is a
// warning: containerd would not start either.
func readImports(o options, main string, tree map[string]any) (files []importedFile, warnings []string) {
	seen := map[string]bool{main: true}
	pending := []importedFile{{main, tree}}
	for len(pending) > 0 {
		names := o.importNames(path.Dir(pending[0].name), pending[0].tree)
		pending = pending[1:]
		for _, name := range names {
			if seen[name] {
				continue
			}
			seen[name] = true
			data, err := o.root.ReadFileMax(name, maxFile)
			if err == nil {
				var d document
				if d, err = parse(data, o.name); err == nil {
					files = append(files, importedFile{name, d.tree})
					pending = append(pending, importedFile{name, d.tree})
					continue
				}
			}
			warnings = append(warnings, fmt.Sprintf("%s is imported and cannot be used: %v", quote(name), err))
		}
	}
	return files, warnings
}

// importNames lists the files that a file imports.
func (o options) importNames(dir string, tree map[string]any) []string {
	var names []string
	for _, pattern := range list(tree["imports"]) {
		if pattern = path.Clean(pattern); !path.IsAbs(pattern) {
			pattern = path.Join(dir, pattern)
		}
		if !strings.Contains(pattern, "*") {
			names = append(names, pattern)
			continue
		}
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
	return names
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
func enter(f file, o options, reg registration, settings []setting) (file, error) {
	base := f.before
	if f.info == nil {
		base = []byte(madeMark)
	}
	d, err := parse(base, o.name)
	if err != nil {
		return file{}, fmt.Errorf("%s: %w", quote(f.name), err)
	}
	entry := reg.entry
	if state, _ := reg.state(d); state == foreign || state == replaced {
		entry = nil // so that what it was is noted
	}
	out, err := setKeys(base, o.name, entry, settings)
	if err != nil {
		return file{}, fmt.Errorf("%s: %w", quote(f.name), err)
	}
	f.after = out
	return f, nil
}

// withdraw takes them out again; a file that enter made goes. An entry that is another program's stays, and what
// enter replaced in one comes back.
func withdraw(f file, name string, reg registration, settings []setting, p *plan) (file, error) {
	if f.info == nil {
		return f, nil
	}
	d, err := parse(f.before, name)
	if err != nil {
		return file{}, fmt.Errorf("%s: %w", quote(f.name), err)
	}
	entry := reg.entry
	switch state, other := reg.state(d); state {
	case foreign:
		p.notes = append(p.notes, fmt.Sprintf("the runtime %s in %s is another program's (%s), and is left alone; --runtime-path with that program removes it", name, f.name, quote(other)))
		return f, nil
	case replaced:
		entry = nil
		for _, e := range d.list {
			if !e.header && hasPrefix(e.path, reg.entry) {
				settings = append(settings, setting{e.path[:len(e.path)-1], e.path[len(e.path)-1], nil})
			}
		}
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
