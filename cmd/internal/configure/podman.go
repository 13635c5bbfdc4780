// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"fmt"
	"path"
	"slices"
)

// jsonRuntimes are the runtimes with --log-format json that any version of podman has built in
// (containers/common, pkg/config/default.go); those not installed do no harm.
var jsonRuntimes = []string{"crun", "runc", "kata", "runsc", "youki", "krun", "ocijail"}

func podman(o options) (plan, error) {
	dir := "/etc/containers/containers.conf.d"
	name := path.Join(dir, "99-"+o.name+".conf")
	if o.config != "" {
		name = o.config
	}
	f, err := look(o.root, name)
	if err != nil {
		return plan{}, err
	}
	engine := []string{"engine"}
	runtimes := []string{"engine", "runtimes"}
	entry := append(slices.Clone(runtimes), o.name)
	reg := registration{entry, nil, o.program}
	p := plan{
		notes:   []string{"podman needs no restart, except a podman system service (systemctl restart podman)"},
		reached: fmt.Sprintf("podman run --rm --runtime=%s -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L", o.name),
	}
	if o.remove {
		f, err = withdraw(f, o.name, reg, []setting{
			{engine, "runtime", o.name},
			{engine, "runtime_supports_json", nil},
		}, &p)
		p.files = []file{f}
		return p, err
	}
	if o.setDefault {
		p.reached = "podman run --rm -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L"
	}
	files, warnings := readFiles(o, "/etc/containers/containers.conf", dir, ".conf")
	const share = "/usr/share/containers/containers.conf"
	shared, more := readFiles(o, share, share+".d", ".conf")
	p.warnings = append(append(p.warnings, warnings...), more...)

	json := slices.Clone(jsonRuntimes)
	doc, err := parse(f.before, o.name)
	if err != nil {
		return plan{}, fmt.Errorf("%s: %w", quote(name), err)
	}
	for _, i := range append(append(shared, files...), importedFile{name, doc.tree}) {
		if err := o.refuseForeign(i, reg); err != nil {
			return plan{}, err
		}
		v, _ := at(i.tree, "engine", "runtime_supports_json")
		for _, r := range list(v) {
			if !slices.Contains(json, r) && r != o.name {
				json = append(json, r)
			}
		}
		if i.name > name && path.Dir(i.name) == path.Dir(name) {
			if s := text(i.tree, "engine", "runtime"); o.setDefault && s != "" && s != o.name {
				p.warnings = append(p.warnings, overridden(i.name, s))
			}
			if v != nil && !slices.Contains(list(v), o.name) {
				p.warnings = append(p.warnings, fmt.Sprintf("%s is read later, and its runtime_supports_json "+
					"lacks %s: podman will not show the runtime's errors", i.name, o.name))
			}
		}
	}
	names := []any{}
	for _, r := range append(json, o.name) {
		names = append(names, r)
	}
	settings := []setting{}
	if o.setDefault {
		settings = append(settings, setting{engine, "runtime", o.name})
	}
	settings = append(settings,
		setting{engine, "runtime_supports_json", names},
		setting{runtimes, o.name, []any{o.program}},
	)
	f, err = enter(f, o, reg, settings)
	p.files = []file{f}
	return p, err
}
