// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package dryrun tells what a container would be given on a machine, and changes nothing. It is
// for tests: the machine is usually one of package fixtures, unpacked, and no GPU, engine or
// privilege is needed.
//
//	result, err := dryrun.Environment(machine, "NVIDIA_VISIBLE_DEVICES=0:1")
//
// An error is the one with which the container's start would fail.
//
// # Stability
//
// The module has version 0. What will stay: both functions, and that a result is what the runtime
// does, by the same code. What may change in any release, and is in the changelog: which files of
// the driver are given, and where they are in the container; the texts of notes and errors. A test
// that looks for a device node or a group in the result is good for long; one that compares all
// mounts is not.
package dryrun

import (
	"encoding/json"
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Result is what a container would be given.
type Result struct {
	// Asked tells whether the container asks for anything at all. If not, only Notes may be set.
	Asked bool
	// Edits are those of config.json. Devices have the numbers, modes and owners of the machine;
	// the source of a mount is a path below it, or "" for a file that the runtime makes. Files of
	// the driver are mounted one by one: a container that is really started sees the same, mostly
	// by the mount of one directory.
	Edits spec.Edits
	// Links are symbolic links that would be made in the container's root filesystem, by path.
	Links map[string]string
	// Notes are what the operator may want to know: what was left out, and why.
	Notes []string
}

// Environment tells what a container with these variables, each "NAME=VALUE", would be given on the
// machine whose files are below a directory ("/" is this one). It is an unprivileged container, as
// an engine starts it without further options, with an empty root filesystem.
func Environment(machine string, env ...string) (Result, error) {
	config, err := json.Marshal(specs.Spec{
		Process: &specs.Process{Env: env},
		Linux:   &specs.Linux{MaskedPaths: []string{"/proc/kcore"}},
	})
	if err != nil {
		return Result{}, err
	}
	return Container(machine, config)
}

// Container is [Environment] for a container with the config.json of an OCI bundle: its mounts,
// capabilities and namespaces count. Settings are those of etc/nvidia-container-runtime/config.toml
// below the machine, if that is there. The root filesystem is looked at if its path is absolute.
func Container(machine string, config []byte) (Result, error) {
	root, err := sysfs.NewRoot(machine)
	if err != nil {
		return Result{}, err
	}
	cfg, err := settings(root)
	if err != nil {
		return Result{}, err
	}
	doc, err := spec.Parse(config)
	if err != nil {
		return Result{}, err
	}
	facts, err := doc.Facts()
	if err != nil {
		return Result{}, err
	}
	request, asked, err := spec.NewRequest(facts, cfg.Policy())
	if err != nil || !asked {
		return Result{Notes: request.Notes}, err
	}
	if !path.IsAbs(facts.RootPath) {
		facts.RootPath = ""
	}
	p, err := plan.New(cfg, plan.Container{Request: request, Facts: facts, Path: searchPath})
	if err != nil {
		return Result{}, err
	}
	result := Result{Asked: true, Edits: p.Edits, Links: map[string]string{}, Notes: slices.Concat(request.Notes, p.Notes)}
	result.Edits.Devices = nil
	for _, n := range p.Nodes {
		result.Edits.Devices = append(result.Edits.Devices, plan.Device(n))
	}
	// Those of another machine come as mounts; they are told as what they are there.
	result.Edits.Mounts = slices.DeleteFunc(result.Edits.Mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(p.Nodes, func(n sysfs.Node) bool { return n.Path == m.Destination })
	})
	for _, l := range p.Links {
		result.Links[l.Path] = l.Target
	}
	return result, nil
}

// searchPath is where the driver's programs are looked up, as in the services that engines are.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// settings are the configuration of the machine below root.
func settings(root sysfs.Root) (plan.Config, error) {
	environ, err := plan.Below(string(root), nil)
	if err != nil {
		return plan.Config{}, err
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return plan.Config{}, err
	}
	cfg.SysrootNodes, cfg.DriverDirectory = plan.NodesClosed, plan.DirectoryOff
	return cfg, nil
}
