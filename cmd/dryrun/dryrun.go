// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package dryrun computes what a container would get on a machine, without changing anything. It is
// for tests: the machine is usually an unpacked fixture, and no GPU, engine or privilege is needed.
//
//	result, err := dryrun.Environment(machine, "NVIDIA_VISIBLE_DEVICES=0:1")
//
// An error is the one with which the container would fail to start.
//
// # Stability
//
// The module has version 0. Both functions will stay, and results will be computed by the runtime's
// own code. Each release may change, and its changelog says so: the driver files that a container
// gets and their paths in it, and the texts of notes and errors. A test that looks for a device
// node or a group in the result will last; one that compares all mounts will not.
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

// Result is what a container would get.
type Result struct {
	// Asked reports whether the container requests anything. If not, only Notes may be set.
	Asked bool
	// Edits are the changes of config.json. Devices have the numbers, modes and owners of the
	// machine. The source of a mount is a path below the machine's directory, or "" for a file that
	// the runtime generates. The driver's files are mounted one by one; a real container sees the
	// same files, but mostly through the mount of one directory.
	Edits spec.Edits
	// Links are the symbolic links that would be created in the container's root filesystem: path
	// to target.
	Links map[string]string
	// Notes are for the operator: what was left out, and why.
	Notes []string
}

// Environment computes what a container with the variables env, each "NAME=VALUE", would get on the
// machine with the root directory machine ("/" is this one). The container is unprivileged, like
// one that an engine starts without further options, and has an empty root filesystem.
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

// Container is [Environment] for a container with the config.json of an OCI bundle, including its
// mounts, capabilities and namespaces. It reads the machine's
// etc/nvidia-container-runtime/config.toml, if that exists, and the container's root filesystem, if
// its path is absolute.
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
	result := Result{
		Asked: true, Edits: p.Edits, Links: map[string]string{}, Notes: slices.Concat(request.Notes, p.Notes),
	}
	result.Edits.Devices = nil
	for _, n := range p.Nodes {
		result.Edits.Devices = append(result.Edits.Devices, plan.Device(n))
	}
	// Nodes of another machine come as mounts, which Devices replaces.
	result.Edits.Mounts = slices.DeleteFunc(result.Edits.Mounts, func(m specs.Mount) bool {
		return slices.ContainsFunc(p.Nodes, func(n sysfs.Node) bool { return n.Path == m.Destination })
	})
	for _, l := range p.Links {
		result.Links[l.Path] = l.Target
	}
	return result, nil
}

// searchPath is the PATH of a service such as an engine.
const searchPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// settings reads the configuration of the machine below root.
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
