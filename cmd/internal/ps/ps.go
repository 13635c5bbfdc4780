// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package ps finds the processes that use NVIDIA GPUs: those that have one of the driver's device
// nodes open or one of its libraries mapped. It reads only /proc.
package ps

import (
	"errors"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/prometheus/procfs"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Process is a process that uses the driver.
type Process struct {
	PID       int         `json:"pid"`
	UID       int         `json:"uid"`
	User      string      `json:"user"`                // from the machine's /etc/passwd; "" if unknown
	Command   string      `json:"command"`             // /proc/PID/comm
	Args      []string    `json:"args"`                // /proc/PID/cmdline
	Container *Container  `json:"container,omitempty"` // nil if not in a known container
	Devices   []string    `json:"devices"`             // GPU ("0") or MIG device ("0:1"), else name of the node
	Libraries []Libraries `json:"libraries"`
}

// Libraries are the driver libraries of one version that a process has mapped.
type Libraries struct {
	Version string `json:"version"` // "550.54.15", from the file's name
	Deleted bool   `json:"deleted"` // the file has been removed or replaced
}

// List is the visible processes of a machine.
type List struct {
	Module    string    `json:"module"` // version of the loaded kernel module, "" if none
	Processes []Process `json:"processes"`
	Hidden    int       `json:"hidden"` // number of processes that this user may not inspect
}

// Read inspects all processes in the root's /proc. Those that end meanwhile are left out.
func Read(root sysfs.Root, inventory sysfs.Inventory) (List, error) {
	list := List{Processes: []Process{}}
	if inventory.Driver != nil {
		list.Module = inventory.Driver.Version
	}
	proc, err := procfs.NewFS(root.Path("proc"))
	if err != nil {
		return List{}, err
	}
	all, err := proc.AllProcs()
	if err != nil {
		return List{}, err
	}
	slices.SortFunc(all, func(a, b procfs.Proc) int { return a.PID - b.PID })
	users := readUsers(root)
	for _, p := range all {
		process, err := read(p, inventory)
		switch {
		case errors.Is(err, fs.ErrPermission):
			list.Hidden++
		case err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, syscall.ESRCH):
			return List{}, err
		case err == nil && len(process.Devices)+len(process.Libraries) > 0:
			process.User = users[process.UID]
			list.Processes = append(list.Processes, process)
		}
	}
	return list, nil
}

func read(p procfs.Proc, inventory sysfs.Inventory) (Process, error) {
	files, err := p.FileDescriptorTargets()
	if err != nil {
		return Process{}, err
	}
	maps, err := p.ProcMaps()
	if err != nil {
		return Process{}, err
	}
	process := Process{PID: p.PID, Devices: devices(files, inventory), Libraries: libraries(maps)}
	if len(process.Devices)+len(process.Libraries) == 0 {
		return process, nil
	}
	if process.Command, err = p.Comm(); err != nil {
		return Process{}, err
	}
	if process.Args, err = p.CmdLine(); err != nil {
		return Process{}, err
	}
	status, err := p.NewStatus()
	if err != nil {
		return Process{}, err
	}
	process.UID = int(status.UIDs[1]) //nolint:gosec // UIDs have 32 bits
	cgroups, err := p.Cgroups()
	if err != nil {
		return Process{}, err
	}
	for _, c := range cgroups {
		if container, ok := parseCgroup(c.Path); ok {
			process.Container = &container
			break
		}
	}
	return process, nil
}

// devices returns the devices to which open files belong. On a GPU with MIG devices, the open
// capabilities show which one is used. nvidiactl and nvidia-uvm are named only if there is no GPU.
func devices(files []string, inventory sysfs.Inventory) []string {
	var nodes []string
	for _, f := range files {
		name, ok := strings.CutPrefix(f, "/dev/")
		if ok && strings.HasPrefix(name, "nvidia") && !slices.Contains(nodes, name) {
			nodes = append(nodes, name)
		}
	}
	slices.Sort(nodes)
	gpus := []string{}
	known := map[string]bool{"nvidiactl": true, "nvidia-uvm": true, "nvidia-uvm-tools": true}
	for _, gpu := range inventory.GPUs {
		node := "nvidia" + strconv.Itoa(gpu.Minor)
		if gpu.Minor < 0 || gpu.Index < 0 || !slices.Contains(nodes, node) {
			continue
		}
		known[node] = true
		before := len(gpus)
		for n, instance := range gpu.Instances {
			gi, ci := capability(instance.GICap.Minor), capability(instance.CICap.Minor)
			if slices.Contains(nodes, ci) {
				gpus = append(gpus, strconv.Itoa(gpu.Index)+":"+strconv.Itoa(n))
				known[gi], known[ci] = true, true
			}
		}
		if len(gpus) == before {
			gpus = append(gpus, strconv.Itoa(gpu.Index))
		}
	}
	for _, node := range nodes {
		if !known[node] {
			gpus = append(gpus, path.Base(node))
		}
	}
	if len(gpus) > 0 {
		return gpus
	}
	return append(gpus, nodes...)
}

func capability(minor int) string { return "nvidia-caps/nvidia-cap" + strconv.Itoa(minor) }

// driverLibrary matches a library of the driver. NVIDIA's other libraries have versions below 300.
//
//	/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15 (deleted)
var driverLibrary = regexp.MustCompile(`/lib[A-Za-z0-9_.-]*\.so\.([3-9][0-9]{2,}(?:\.[0-9]+){1,2})( \(deleted\))?$`)

func libraries(maps []*procfs.ProcMap) []Libraries {
	found := []Libraries{}
	for _, m := range maps {
		if match := driverLibrary.FindStringSubmatch(m.Pathname); match != nil {
			if l := (Libraries{match[1], match[2] != ""}); !slices.Contains(found, l) {
				found = append(found, l)
			}
		}
	}
	slices.SortFunc(found, func(a, b Libraries) int { return strings.Compare(a.Version, b.Version) })
	return found
}

// readUsers reads names from the root's /etc/passwd, which may be missing.
//
//	root:x:0:0:root:/root:/bin/bash
func readUsers(root sysfs.Root) map[int]string {
	users := map[int]string{}
	data, err := root.ReadFile("etc/passwd")
	if err != nil {
		return users
	}
	for line := range strings.Lines(string(data)) {
		fields := strings.Split(line, ":")
		if len(fields) < 3 {
			continue
		}
		if uid, err := strconv.Atoi(fields[2]); err == nil && users[uid] == "" {
			users[uid] = fields[0]
		}
	}
	return users
}
