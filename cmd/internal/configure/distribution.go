// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"fmt"
	"path"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// distribution is a Kubernetes distribution whose own containerd does not read
// /etc/containerd/config.toml.
//
// k3s and RKE2 generate config.toml at each start, from the Go template config.toml.tmpl
// (containerd 1.x) or config-v3.toml.tmpl (2.x) next to it, if any, which can include their
// built-in template as "base" (since September 2023). With containerd 2.x config.toml imports
// config-v3.toml.d/*.toml (pkg/agent/templates in k3s).
//
// k0s generates /run/k0s/containerd-cri.toml from the files in /etc/k0s/containerd.d, as long as
// /etc/k0s/containerd.toml says that it is managed (pkg/component/worker/containerd in k0s).
//
// MicroK8s generates containerd.toml from args/containerd-template.toml, replacing ${…} in strings.
type distribution struct {
	name     string
	config   string // what containerd reads, or its source
	template string // the Go template of config
	dropIns  string // directory whose *.toml are always read

	generated bool   // config must not be edited
	advice    string // what to do instead
	restart   string
	notes     []string
}

const k0sRestart = "systemctl restart k0sworker (on controllers that run pods: systemctl restart k0scontroller)"

// dropInDirs returns the directories whose *.toml containerd reads.
func (d distribution) dropInDirs() []string {
	switch {
	case d.dropIns != "":
		return []string{d.dropIns}
	case d.template != "":
		return []string{path.Join(path.Dir(d.config), "config-v3.toml.d")}
	}
	return nil
}

func findDistribution(root sysfs.Root) (distribution, bool) {
	exists := func(name string) bool {
		_, err := root.Stat(strings.TrimPrefix(name, "/"))
		return err == nil
	}
	for _, d := range []struct{ name, units string }{
		{"k3s", "k3s (on agents: systemctl restart k3s-agent)"},
		{"rke2", "rke2-server (on agents: systemctl restart rke2-agent)"},
	} {
		dir := "/var/lib/rancher/" + d.name + "/agent/etc/containerd"
		if !exists(dir) {
			continue
		}
		found := distribution{
			name: d.name, config: dir + "/config.toml", template: dir + "/config.toml.tmpl", generated: true,
			advice:  "add the runtime to its template with --template, or name another file with --config",
			restart: "systemctl restart " + d.units,
			notes:   []string{ownContainerd(d.name)},
		}
		if data, _ := root.ReadFileMax(found.config, maxFile); exists(dir+"/config-v3.toml.tmpl") ||
			!exists(found.template) && bytes.Contains(data, []byte("io.containerd.cri.v1.runtime")) {
			found.template = dir + "/config-v3.toml.tmpl"
		}
		found.notes = append(found.notes, d.name+" itself registers nvidia-container-runtime and "+
			"nvidia-container-runtime-experimental (with a hyphen) from PATH, but not this runtime (with a period)")
		return found, true
	}
	if exists("/etc/k0s") {
		data, err := root.ReadFileMax("/etc/k0s/containerd.toml", maxFile)
		if err == nil && !bytes.Contains(data, []byte("k0s_managed=true")) {
			return distribution{name: "k0s", config: "/etc/k0s/containerd.toml", restart: k0sRestart}, true
		}
		return distribution{
			name: "k0s", config: "/etc/k0s/containerd.toml", dropIns: "/etc/k0s/containerd.d", generated: true,
			restart: k0sRestart,
			notes:   []string{ownContainerd("k0s")},
		}, true
	}
	if file := "/var/snap/microk8s/current/args/containerd-template.toml"; exists(file) {
		return distribution{
			name: "microk8s", config: file, restart: "snap restart microk8s.daemon-containerd",
			notes: []string{ownContainerd("MicroK8s")},
		}, true
	}
	return distribution{}, false
}

func ownContainerd(name string) string {
	return name + " has its own containerd; to configure another one, use --config /etc/containerd/config.toml"
}

// templateLine returns the line of the first Go template action in a text, 0 if none.
func templateLine(text []byte) int {
	n := 0
	for line := range bytes.Lines(text) {
		n++
		if code, _, _ := bytes.Cut(line, []byte("#")); bytes.Contains(code, []byte("{{")) {
			return n
		}
	}
	return 0
}

// base includes the built-in template of k3s or RKE2.
const base = "{{ template \"base\" . }}\n"

// planTemplate adds the runtime to the template, or shows what to add. As a template is not TOML,
// only our block at its end is parsed.
func (d distribution) planTemplate(o options, p plan, version int) (plan, error) {
	f, err := look(o.root, d.template)
	if err != nil {
		return plan{}, err
	}
	begin, end := lineOf(f.before, beginMark+o.name), lineOf(f.before, endMark+o.name)
	without := f.before
	if begin >= 0 && end > begin {
		start := begin
		if start > 0 && f.before[start-1] == '\n' {
			start--
		}
		without = splice(f.before, start, lineEnd(f.before, end), "")
	}
	if o.remove {
		f.after = without
		f.remove = string(without) == madeTemplate
		p.files = append(p.files, f)
		return p, nil
	}
	switch {
	case strings.HasSuffix(d.template, "v3.toml.tmpl"):
		version = max(version, 3)
	case bytes.Contains(f.before, []byte("plugins.cri")):
		version = 1
	default:
		version = min(version, 2)
	}
	cri := []string{"plugins", criPlugin[version], "containerd"}
	entry := append(cri[:3:3], "runtimes", o.name)
	if !o.replace {
		single := "plugins.'" + criPlugin[version] + "'.containerd.runtimes." + o.name
		for _, header := range []string{dotted(entry), single, "runtimes.\"" + o.name + "\"]"} {
			if bytes.Contains(without, []byte(header)) {
				return plan{}, o.collision(d.template, "see there")
			}
		}
	}
	settings := []setting{
		{entry, "runtime_type", runcType},
		{append(entry[:len(entry):len(entry)], "options"), "BinaryName", o.program},
	}
	if o.setDefault {
		// The built-in template has that table, and TOML allows it only once.
		p.warnings = append(p.warnings, fmt.Sprintf("a template cannot set the default runtime: "+
			"add \"default-runtime: %s\" to /etc/rancher/%s/config.yaml", o.name, d.name))
		p.reached = "all pods use it, with that line in config.yaml"
	}
	generated, err := look(o.root, d.config)
	if err != nil {
		return plan{}, err
	}
	if generated.info == nil && f.info == nil {
		return plan{}, fmt.Errorf("neither %s nor %s exists: start %s once, so that it writes its file",
			d.config, d.template, d.name)
	}
	if doc, err := parse(generated.before, o.name); err == nil {
		if v, ok := at(doc.tree, append(cri[:3:3], "runtimes", "runc", "options", "SystemdCgroup")...); ok {
			settings = append(settings, setting{append(entry[:len(entry):len(entry)], "options"), "SystemdCgroup", v})
		}
	}
	block, err := appendBlock(nil, o.name, settings)
	if err != nil {
		return plan{}, err
	}
	if f.info == nil && version == 1 {
		return plan{}, fmt.Errorf("%s is generated by a %s from before 2023, whose template cannot be extended: "+
			"copy it to %s, add this, and run %s\n%s", d.config, d.name, d.template, d.restart, block)
	}
	if !o.template {
		first := ""
		if f.info == nil {
			first = base
		}
		return plan{}, fmt.Errorf("%s is generated by %s at each start, so an edit would be lost: "+
			"use --template to add this to %s; then %s\n%s%s", d.config, d.name, d.template, d.restart, first, block)
	}
	if f.info == nil {
		without = []byte(madeTemplate)
	}
	f.after = append(append(bytes.Clone(without), '\n'), block...)
	p.files = append(p.files, f)
	return p, nil
}

// madeTemplate is a template that we created, without the runtime.
const madeTemplate = madeMark + base
