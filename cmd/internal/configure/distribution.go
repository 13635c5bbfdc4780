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

// distribution is a Kubernetes that brings its own containerd, which does not read /etc/containerd/config.toml.
//
// k3s and RKE2 write config.toml at each start, from config.toml.tmpl (containerd 1.x) or config-v3.toml.tmpl (2.x)
// beside it, a Go template, if there is one. Their own template is "base" to it (since the releases of September
// 2023). With containerd 2.x config.toml imports config-v3.toml.d/*.toml (pkg/agent/templates in k3s).
//
// k0s writes /run/k0s/containerd-cri.toml from the files in /etc/k0s/containerd.d, as long as /etc/k0s/containerd.toml
// says that it is managed (pkg/component/worker/containerd in k0s).
//
// MicroK8s makes containerd.toml of args/containerd-template.toml, replacing ${…} in strings.
type distribution struct {
	name     string
	config   string // what containerd reads, or what that is made of
	template string // the Go template for config
	dropIns  string // a directory whose *.toml are read always

	generated bool   // config is not to be edited
	advice    string // what to do instead
	restart   string
	notes     []string
}

const k0sRestart = "systemctl restart k0sworker (on controllers that run pods: systemctl restart k0scontroller)"

// dropInDirs are the directories of whose files containerd reads those that end in .toml.
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
			advice:  "put the runtime into the template that it reads, with --template, or give your own file with --config",
			restart: "systemctl restart " + d.units,
			notes:   []string{fmt.Sprintf("%s has its own containerd, which does not read /etc/containerd/config.toml; name that with --config if you want it", d.name)},
		}
		if data, _ := root.ReadFileMax(found.config, maxFile); exists(dir+"/config-v3.toml.tmpl") ||
			!exists(found.template) && bytes.Contains(data, []byte("io.containerd.cri.v1.runtime")) {
			found.template = dir + "/config-v3.toml.tmpl"
		}
		found.notes = append(found.notes, fmt.Sprintf("%s registers programs that it finds in PATH: nvidia-container-runtime as nvidia, and nvidia-container-runtime-experimental, with a hyphen, as nvidia-experimental; not this one, with a period", d.name))
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
			notes:   []string{"k0s has its own containerd, which does not read /etc/containerd/config.toml; name that with --config if you want it"},
		}, true
	}
	if file := "/var/snap/microk8s/current/args/containerd-template.toml"; exists(file) {
		return distribution{
			name: "microk8s", config: file, restart: "snap restart microk8s.daemon-containerd",
			notes: []string{"MicroK8s has its own containerd, which does not read /etc/containerd/config.toml; name that with --config if you want it"},
		}, true
	}
	return distribution{}, false
}

// templateLine is the line of the first action of a Go template in a text, 0 if there is none.
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

// base is the template of a template's own that has what k3s or RKE2 would write.
const base = "{{ template \"base\" . }}\n"

// planTemplate adds the runtime to the template, or says what to put there. A template is no TOML: what we add
// stands at its end, between our marks, and is all that is looked at.
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
		for _, header := range []string{dotted(entry), "plugins.'" + criPlugin[version] + "'.containerd.runtimes." + o.name, "runtimes.\"" + o.name + "\"]"} {
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
		// What the file is made of has that table already, and TOML allows it once.
		p.warnings = append(p.warnings, fmt.Sprintf("the default runtime is not set by a template: write \"default-runtime: %s\" into /etc/rancher/%s/config.yaml", o.name, d.name))
		p.reached = "all pods use it, if config.yaml says so"
	}
	generated, err := look(o.root, d.config)
	if err != nil {
		return plan{}, err
	}
	if generated.info == nil && f.info == nil {
		return plan{}, fmt.Errorf("neither %s nor %s is there: start %s once, so that it shows in which form it writes its file", d.config, d.template, d.name)
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
		return plan{}, fmt.Errorf("%s is written by %s, from a form of before 2023 that cannot be added to: copy it to %s, add this, and run %s\n%s",
			d.config, d.name, d.template, d.restart, block)
	}
	if !o.template {
		first := ""
		if f.info == nil {
			first = base
		}
		return plan{}, fmt.Errorf("%s is written by %s at each start, and an edit would be lost: --template puts this into %s, which it reads; then %s\n%s%s",
			d.config, d.name, d.template, d.restart, first, block)
	}
	if f.info == nil {
		without = []byte(madeTemplate)
	}
	f.after = append(append(bytes.Clone(without), '\n'), block...)
	p.files = append(p.files, f)
	return p, nil
}

// madeTemplate is a template of ours without the runtime.
const madeTemplate = madeMark + base
