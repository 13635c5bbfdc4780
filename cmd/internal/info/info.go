// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package info describes a machine as the runtime sees it: driver, GPUs, device nodes, driver
// files, container engines and configuration.
package info

import (
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// Info describes a machine.
type Info struct {
	listing.Listing
	CUDA       string             `json:"cuda,omitempty"` // newest version that the driver supports
	Modules    []string           `json:"modules"`        // loaded kernel modules of the driver
	Majors     map[string]int     `json:"majors"`         // by name in /proc/devices
	Parameters *Parameters        `json:"parameters"`     // null without a driver
	Nodes      []Node             `json:"nodes"`
	NodesError string             `json:"nodes_error,omitempty"`
	DriverRoot string             `json:"driver_root"`
	Files      []Files            `json:"files"`
	FilesError string             `json:"files_error,omitempty"`
	Engines    []configure.Engine `json:"engines"`
	LowLevel   string             `json:"low_level_runtime"` // path; "" if none is found
	Config     Config             `json:"config"`
}

// Parameters are the kernel module's parameters for device nodes.
type Parameters struct {
	Mode   string `json:"mode"` // "0666"
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Modify bool   `json:"modify"` // NVIDIA's tools create the nodes
}

// Node is a device node.
type Node struct {
	Path   string `json:"path"`
	Number string `json:"number"` // "195:0"
	Mode   string `json:"mode"`   // "0666"
	UID    uint32 `json:"uid"`
	GID    uint32 `json:"gid"`
	Host   string `json:"host"` // "there", "missing", or what is there instead
}

// Files are the driver's files for one driver capability in one directory.
type Files struct {
	Capability string `json:"capability"` // "always": every container gets them
	Dir        string `json:"dir"`
	Count      int    `json:"count"`
}

// Config is the configuration in effect.
type Config struct {
	File     string         `json:"file"`
	Exists   bool           `json:"exists"`
	Settings []plan.Setting `json:"settings"`
}

// Read describes this machine, or the one whose root directory is dir unless that is "".
func Read(dir string, environ []string) (Info, error) {
	environ, err := plan.Below(dir, environ)
	if err != nil {
		return Info{}, err
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return Info{}, err
	}
	survey, err := plan.ReadSurvey(cfg, driver.All, plan.Getenv(environ, "PATH"))
	if err != nil {
		return Info{}, err
	}
	i := Info{
		Listing: listing.Of(survey.Inventory, survey.Unbound, sysfs.MIGUUIDs{}),
		Modules: []string{}, Majors: map[string]int{}, Nodes: []Node{},
		DriverRoot: string(survey.DriverRoot), Files: files(survey.Files),
		Engines:  configure.FindEngines(survey.Root),
		LowLevel: configure.FindLowLevel(survey.Root, cfg, plan.Getenv(environ, "PATH")),
	}
	i.addDriver(survey)
	if survey.NodesErr != nil {
		i.NodesError = survey.NodesErr.Error()
	}
	if survey.FilesErr != nil {
		i.FilesError = survey.FilesErr.Error()
	}
	for _, n := range survey.AllNodes() {
		host := "missing"
		switch {
		case n.Instead != "":
			host = n.Instead
		case n.OnHost:
			host = "there"
		}
		number, mode := fmt.Sprintf("%d:%d", n.Major, n.Minor), fmt.Sprintf("%04o", n.Mode.Perm())
		i.Nodes = append(i.Nodes, Node{n.Path, number, mode, n.UID, n.GID, host})
	}
	i.Config, err = config(cfg, environ, dir != "")
	return i, err
}

func (i *Info) addDriver(s plan.Survey) {
	d := s.Inventory.Driver
	if d == nil {
		return
	}
	i.CUDA, _ = sysfs.CUDAVersion(d.Version)
	entries, err := s.Root.ReadDir("sys/module")
	for _, e := range entries {
		if err == nil && (strings.HasPrefix(e.Name(), "nvidia") || e.Name() == "gdrdrv") {
			i.Modules = append(i.Modules, e.Name())
		}
	}
	m, p := s.Inventory.Majors, s.Inventory.Params
	for name, major := range map[string]int{
		"nvidia": m.Nvidia, "nvidiactl": m.Ctl, "nvidia-modeset": m.Modeset, "nvidia-uvm": m.UVM, "nvidia-caps": m.Caps,
		"nvidia-caps-imex-channels": m.IMEXChannels, "nvidia-nvlink": m.NVLink, "nvidia-nvswitch": m.NVSwitch,
	} {
		if major >= 0 {
			i.Majors[name] = major
		}
	}
	mode := fmt.Sprintf("%04o", p.DeviceFileMode.Perm())
	i.Parameters = &Parameters{mode, p.DeviceFileUID, p.DeviceFileGID, p.ModifyDeviceFiles}
}

// files counts the driver's files by driver capability and directory.
func files(list []driver.File) []Files {
	counts := []Files{}
	for _, class := range []driver.Class{
		driver.Compute, driver.Utility, driver.Video, driver.Graphics, driver.Display, driver.NGX, driver.Compat32, 0,
	} {
		name := class.String()
		if class == 0 {
			name = "always"
		}
		first := len(counts)
		for _, f := range list {
			if f.Class&class == 0 && f.Class != class {
				continue
			}
			dir := path.Dir(f.Path)
			at := slices.IndexFunc(counts[first:], func(c Files) bool { return c.Dir == dir })
			if at < 0 {
				at = len(counts) - first
				counts = append(counts, Files{Capability: name, Dir: dir})
			}
			counts[first+at].Count++
		}
		slices.SortFunc(counts[first:], func(a, b Files) int { return strings.Compare(a.Dir, b.Dir) })
	}
	return counts
}

func config(cfg plan.Config, environ []string, below bool) (Config, error) {
	settings, exists, err := cfg.Settings(environ)
	if err != nil {
		return Config{}, err
	}
	for n := range settings {
		switch s := &settings[n]; {
		case s.Origin == s.Key:
			s.Origin = "file"
		case below && strings.HasPrefix(s.Origin, "NVIDIA_CONTAINER_RUNTIME_SYSROOT"):
			s.Origin = "--root"
		}
	}
	return Config{cfg.File, exists, settings}, nil
}
