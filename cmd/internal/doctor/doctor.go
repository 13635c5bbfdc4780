// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package doctor finds what keeps containers from using GPUs. Each entry of the table checks looks
// at one thing and returns its findings as data. Nothing is changed, and everything is read from
// files, except the versions of the low-level runtime and systemd.
package doctor

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/cdi"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// States of a finding.
const (
	OK    = "ok"
	Note  = "note" // worth knowing
	Wrong = "wrong"
)

// Finding is the result of a check.
type Finding struct {
	ID    string `json:"id"`    // of the check; it does not change between versions
	State string `json:"state"` // OK, Note or Wrong
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // a command, or what to do
}

// patient is what the checks look at.
type patient struct {
	root      sysfs.Root
	cfg       plan.Config
	cfgErr    error
	environ   []string
	survey    plan.Survey
	surveyErr error
	engines   []configure.Engine
	cdi       []cdi.Found
	cdiErr    error
	lowLevel  string // path
	version   string // first line of the low-level runtime's --version; "" if unknown
	systemd   string // the same of systemd: "systemd 257 (257.8-1)"
}

type check struct {
	id      string
	run     func(patient) []Finding // returns nil if the check does not apply
	machine bool                    // run it without a loaded driver, too
}

// checks are in the order of the output.
var checks = []check{
	{"config", checkConfig, true},
	{"platform", checkPlatform, true},
	{"driver", checkDriver, true},
	{"module-uvm", checkUVM, false},
	{"gpus", checkGPUs, false},
	{"nested", checkNested, false},
	{"gpu-unreadable", checkUnreadable, true},
	{"gpu-lost", checkLost, true},
	{"gpu-uuid", checkUUIDs, true},
	{"gpu-unbound", checkUnbound, true},
	{"mig-uuids", checkMIGUUIDs, false},
	{"libraries", checkLibraries, false},
	{"nodes", checkNodes, false},
	{"node-permissions", checkPermissions, false},
	{"char-links", checkCharLinks, false},
	{"fabric-manager", checkFabricManager, false},
	{"persistence", checkPersistence, false},
	{"low-level-runtime", checkLowLevel, true},
	{"cgroup", checkCgroup, true},
	{"registered", checkRegistered, true},
	{"engine-config", checkEngineConfig, true},
	{"cdi", checkCDIFiles, true},
	{"docker-gpus", checkDockerGPUs, true},
	{"classic-hook", checkClassicHook, true},
	{"selinux", checkSELinux, true},
	{"user-namespaces", checkUserNamespaces, true},
}

// Run runs all checks on the machine that the environment selects, see [plan.Below].
func Run(environ []string) ([]Finding, error) {
	p, err := examine(environ)
	if err != nil {
		return nil, err
	}
	findings := []Finding{}
	for _, c := range checks {
		if !c.machine && !p.driverLoaded() {
			continue
		}
		for _, f := range c.run(p) {
			f.ID = c.id
			findings = append(findings, f)
		}
	}
	return findings, nil
}

// examine reads all that the checks look at.
func examine(environ []string) (patient, error) {
	p := patient{environ: environ}
	if p.cfg, p.cfgErr = plan.LoadConfig("", environ); p.cfgErr != nil {
		p.cfg = plan.DefaultConfig()
		if dir := plan.Getenv(environ, "NVIDIA_CONTAINER_RUNTIME_SYSROOT"); dir != "" {
			p.cfg.Sysroot = dir
		}
	}
	var err error
	if p.root, err = sysfs.NewRoot(p.cfg.Sysroot); err != nil {
		return patient{}, err
	}
	pathVar := plan.Getenv(environ, "PATH")
	p.survey, p.surveyErr = plan.ReadSurvey(p.cfg, driver.All, pathVar)
	p.engines = configure.FindEngines(p.root)
	p.cdi, p.cdiErr = cdi.ReadDirs(p.root, cdi.Dirs, os.Geteuid())
	if p.lowLevel = configure.FindLowLevel(p.root, p.cfg, pathVar); p.lowLevel != "" && p.root == "/" {
		p.version = askVersion(p.lowLevel)
	}
	if p.root == "/" && p.exists("/run/systemd/system") {
		p.systemd = askVersion("systemctl")
	}
	return p, nil
}

// askVersion returns the first line of a program's --version: "runc version 1.1.5".
func askVersion(program string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output()
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func ok(format string, args ...any) []Finding {
	return []Finding{{State: OK, Text: fmt.Sprintf(format, args...)}}
}

func note(fix, format string, args ...any) []Finding {
	return []Finding{{State: Note, Text: fmt.Sprintf(format, args...), Fix: fix}}
}

func wrong(fix, format string, args ...any) []Finding {
	return []Finding{{State: Wrong, Text: fmt.Sprintf(format, args...), Fix: fix}}
}

// some shortens a long list: "a, b, c, d, e, f and 3 more".
func some(list []string) string {
	const few = 6
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

// driverLoaded reports whether the checks of the driver apply: unsupported platforms have a
// different one.
func (p patient) driverLoaded() bool {
	return p.surveyErr == nil && p.survey.Inventory.Driver != nil && p.platform() == nil
}

// platform returns an error on unsupported platforms.
func (p patient) platform() error {
	if p.surveyErr != nil {
		return nil //nolint:nilerr // checkDriver reports it
	}
	return sysfs.CheckPlatform(p.root, p.survey.Inventory.Driver)
}

func (p patient) exists(name string) bool {
	_, err := p.root.Stat(strings.TrimPrefix(name, "/"))
	return err == nil
}

// captured reports whether the root is a fixture: it has a machine's GPUs and nothing else.
func (p patient) captured() bool { return p.root != "/" && !p.exists("/bin/sh") }

// word returns the first word of a small file, or "" if it cannot be read.
func (p patient) word(name string) string {
	data, err := p.root.ReadFileMax(name, 4096)
	if fields := strings.Fields(string(data)); err == nil && len(fields) > 0 {
		return fields[0]
	}
	return ""
}
