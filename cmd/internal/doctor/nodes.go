// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"fmt"
	"io/fs"
	"regexp"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
)

// checkNodes: reloading the modules removes control nodes and may change the major of nvidia-uvm.
func checkNodes(p patient) []Finding {
	if p.survey.NodesErr != nil {
		return wrong("", "%v", p.survey.NodesErr)
	}
	var found []Finding
	var missing, commands []string
	for _, n := range p.survey.AllNodes() {
		switch {
		case n.Instead != "":
			fix := fmt.Sprintf("rm -r %s && %s", n.Path, n.Command())
			found = append(found, wrong(fix,
				"%s is %s, not character device %d:%d: "+
					"host programs and containers in user namespaces fail", n.Path, n.Instead, n.Major, n.Minor)...)
		case !n.OnHost && !strings.HasPrefix(n.Path, "/dev/dri/"):
			missing = append(missing, n.Path)
			commands = append(commands, n.Command())
		}
	}
	if len(missing) > 0 {
		fix := strings.Join(commands, " && ")
		if len(commands) > 6 {
			fix = "nvidia-smi -L && nvidia-modprobe -u -c 0 && nvidia-modprobe -m"
		}
		text := "containers in user namespaces run without them or do not start"
		if p.cfg.LoadKmods && p.survey.Inventory.Params.ModifyDeviceFiles {
			text += ", and the first container that root starts creates them"
		}
		found = append(found, note(fix, "the host lacks %s: %s", some(missing), text)...)
	}
	if len(found) == 0 {
		return ok("all %d exist", len(p.survey.AllNodes()))
	}
	return found
}

func checkPermissions(p patient) []Finding {
	if p.survey.NodesErr != nil {
		return nil
	}
	var closed []string
	groups := map[uint32]bool{}
	for _, n := range p.survey.AllNodes() {
		need := fs.FileMode(0o006)
		if strings.HasPrefix(n.Path, "/dev/nvidia-caps/") {
			need = 0o004
		}
		if strings.HasPrefix(n.Path, "/dev/dri/") || n.Mode&need == need {
			continue
		}
		closed = append(closed, fmt.Sprintf("%s (%04o, group %d)", n.Path, n.Mode.Perm(), n.GID))
		groups[n.GID] = true
	}
	switch {
	case len(closed) == 0:
		return ok("everyone may open the nodes")
	case groups[0]:
		return wrong("set NVreg_DeviceFileMode=0666 for the module nvidia, and chmod 0666 the nodes",
			"only root may open %s: programs of other users fail in containers too", some(closed))
	case p.cfg.NoAdditionalGIDs:
		return wrong("remove no-additional-gids-for-device-nodes from "+p.cfg.File,
			"only a group may open %s, and containers do not get that group", some(closed))
	}
	return note("",
		"only a group may open %s: containers get that group, rootless ones only if their user is in it", some(closed))
}

// checkCharLinks: with the systemd cgroup driver, containers may lose a device without a link in
// /dev/char when systemd reloads.
func checkCharLinks(p patient) []Finding {
	if p.survey.NodesErr != nil || !p.exists("/run/systemd/system") {
		return nil
	}
	links := p.survey.CharLinks()
	if len(links) == 0 {
		return ok("/dev/char has a link to each node")
	}
	if !needsCharLinks(p.version, p.systemd) {
		return ok("%s needs no links in /dev/char with %s", p.version, p.systemd)
	}
	var names, commands []string
	stuck := p.cfg.DevCharLinks == plan.CharLinksNever
	for _, l := range links {
		name := l.Name
		if l.Found != "" {
			name += " (" + l.Found + ")"
			stuck = stuck || !l.Dead
		}
		names = append(names, name)
		commands = append(commands, l.Command())
	}
	fix := "mkdir -p /dev/char && " + strings.Join(commands, " && ")
	if stuck {
		return wrong(fix,
			"links to nodes are missing or wrong: %s; "+
				"with the systemd cgroup driver containers may lose their GPUs on 'systemctl daemon-reload'",
			some(names))
	}
	return note(fix,
		"links to nodes are missing: %s; they are made when a container starts with the systemd cgroup driver",
		some(names))
}

// systemdVersion matches "systemd 257 (257.8-1)".
var systemdVersion = regexp.MustCompile(`^systemd (\d+)`)

// needsCharLinks reports whether the low-level runtime drops devices without a link in /dev/char:
// runc 1.1.3 to 1.1.6 do, and all runtimes with a systemd before 240, which does not accept device
// numbers. Unknown versions are assumed to.
func needsCharLinks(lowLevel, systemd string) bool {
	m := systemdVersion.FindStringSubmatch(systemd)
	if m == nil || lowLevel == "" || requirement.CompareVersions(m[1], "240") < 0 {
		return true
	}
	runc := runcVersion.FindStringSubmatch(lowLevel)
	return runc != nil &&
		requirement.CompareVersions(runc[1], "1.1.3") >= 0 && requirement.CompareVersions(runc[1], "1.1.7") < 0
}
