// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"cmp"
	"regexp"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
)

func checkLowLevel(p patient) []Finding {
	switch {
	case p.lowLevel == "" && p.captured():
		return nil
	case p.lowLevel == "":
		candidates := p.cfg.Runtimes
		if p.cfg.RuntimePath != "" {
			candidates = []string{p.cfg.RuntimePath}
		}
		return wrong("install runc or crun, or set runtime-path in "+p.cfg.File,
			"no low-level runtime found: looked for %s", strings.Join(candidates, ", "))
	}
	advice := adviceOn(p.version)
	switch {
	case advice != "":
		return note("install runc 1.3.6, 1.4.3, 1.5.0 or later", "%s, %s: %s", p.lowLevel, p.version, advice)
	case p.version == "":
		return ok("%s", p.lowLevel)
	}
	return ok("%s, %s", p.lowLevel, p.version)
}

// adviceOn returns the known problems of a version of runc, according to its CHANGELOG.md; "" for
// recent versions and other runtimes.
func adviceOn(line string) string {
	numbers := runcVersion.FindStringSubmatch(line)
	if numbers == nil {
		return ""
	}
	before := func(version string) bool { return requirement.CompareVersions(numbers[1], version) < 0 }
	const fixes = "it lacks security fixes, unless the distribution backported them"
	switch {
	case !before("1.1.3") && before("1.1.7"):
		return "with the systemd cgroup driver it leaves out devices that have no link in /dev/char; " + fixes
	case before("1.2.5"):
		return "with the systemd cgroup driver containers may lose their devices on 'systemctl daemon-reload'; " + fixes
	case before("1.3.6"), !before("1.4.0") && before("1.4.3"):
		return fixes
	}
	return ""
}

// runcVersion matches "runc version 1.1.12+ds1-5".
var runcVersion = regexp.MustCompile(`^runc version (\d+\.\d+\.\d+)`)

func checkCgroup(p patient) []Finding {
	version := ""
	switch {
	case p.exists("/sys/fs/cgroup/cgroup.controllers"):
		version = "version 2"
	case p.exists("/sys/fs/cgroup/devices"):
		version = "version 1"
	}
	switch {
	case p.cfg.NoCgroups:
		return note("remove no-cgroups from "+p.cfg.File,
			"no-cgroups is set: root's containers get device nodes that they may not open; "+
				"containers in user namespaces do not need it")
	case version == "":
		return nil
	}
	return ok("%s", version)
}

// checkSELinux: the policy may deny containers access to bind-mounted device nodes. Since May 2024
// container-selinux has a boolean for GPUs only, before that it had one for all devices.
func checkSELinux(p patient) []Finding {
	if p.word("/sys/fs/selinux/enforce") != "1" {
		return nil
	}
	off := ""
	for _, boolean := range []string{"container_use_xserver_devices", "container_use_devices"} {
		switch p.word("/sys/fs/selinux/booleans/" + boolean) {
		case "1":
			return ok("enforcing, %s is on", boolean)
		case "0":
			off = cmp.Or(off, boolean)
		}
	}
	if off == "" {
		return ok("enforcing")
	}
	return note("setsebool -P "+off+" on",
		"SELinux is enforcing and %s is off: if containers cannot open a GPU (ausearch -m avc), turn it on", off)
}

// checkUserNamespaces checks what rootless containers need besides device nodes.
func checkUserNamespaces(p patient) []Finding {
	if p.word("/proc/sys/user/max_user_namespaces") == "0" {
		return note("sysctl -w user.max_user_namespaces=15000",
			"user namespaces are disabled: rootless containers cannot start")
	}
	if p.word("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
		return note("sysctl -w kernel.unprivileged_userns_clone=1",
			"only root may create user namespaces: rootless containers cannot start")
	}
	if slices.ContainsFunc(p.engines, func(e configure.Engine) bool { return e.Name == "podman" && e.Program != "" }) {
		for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
			if p.word(file) == "" {
				return note("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER",
					"%s has no subordinate ids: rootless podman has only one user in a container", file)
			}
		}
	}
	return nil
}
