// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	runtimeplan "github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Engine is a container engine found on the machine.
type Engine struct {
	Name     string         `json:"name"`             // "docker"; "containerd (k3s)" of a Kubernetes that has its own
	Program  string         `json:"program"`          // "/usr/bin/dockerd"; "": configuration only
	Runtimes []Registration `json:"runtimes"`         // registrations of this runtime
	Errors   []string       `json:"errors,omitempty"` // about its configuration files
}

// Argument returns the engine's name for "nvsysfs configure": "containerd" for "containerd (k3s)".
func (e Engine) Argument() string {
	name, _, _ := strings.Cut(e.Name, " ")
	return name
}

// Registration is an entry of this runtime in an engine's configuration.
type Registration struct {
	Name    string `json:"name"`    // "nvidia-experimental"
	File    string `json:"file"`    // "/etc/docker/daemon.json"
	Program string `json:"program"` // path
	Default bool   `json:"default"`
}

// engineRow is an engine's program, its configuration files, and directories of files with an
// ending.
type engineRow struct {
	name, program string
	files, dirs   []string
	ending        string
}

var engineRows = []engineRow{
	{"docker", "dockerd", []string{"/etc/docker/daemon.json"}, nil, ""},
	{"containerd", "containerd", []string{"/etc/containerd/config.toml"}, []string{"/etc/containerd/conf.d"}, ".toml"},
	{"crio", "crio", []string{"/etc/crio/crio.conf"}, []string{"/etc/crio/crio.conf.d"}, ""},
	{
		"podman", "podman",
		[]string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf"},
		[]string{"/usr/share/containers/containers.conf.d", "/etc/containers/containers.conf.d"},
		".conf",
	},
}

// FindEngines returns the engines whose program or configuration exists.
func FindEngines(root sysfs.Root) []Engine {
	engines := []Engine{}
	rows := engineRows
	own, hasOwn := findDistribution(root)
	if hasOwn {
		row := engineRow{"containerd (" + own.name + ")", "", []string{own.config}, own.dropInDirs(), ".toml"}
		rows = append(slices.Clone(rows), row)
	}
	for _, row := range rows {
		e := Engine{Name: row.name, Program: FindProgram(root, row.program, ProgramDirs), Runtimes: []Registration{}}
		if row.name == "containerd" && hasOwn && e.Program == "" {
			continue // nothing reads its files
		}
		files := slices.Clone(row.files)
		for _, dir := range row.dirs {
			entries, err := root.ReadDir(dir[1:])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				e.Errors = append(e.Errors, err.Error())
			}
			for _, entry := range entries {
				name := entry.Name()
				if strings.HasSuffix(name, row.ending) && !strings.HasPrefix(name, ".") && !entry.IsDir() {
					files = append(files, path.Join(dir, name))
				}
			}
		}
		found := e.Program != "" || row.program == ""
		names := map[string]bool{} // default runtimes in any file
		for _, file := range files {
			tree, err := readTree(root, file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			found = true
			if err != nil {
				e.Errors = append(e.Errors, err.Error())
				continue
			}
			e.collect(file, tree, "", names)
		}
		for i := range e.Runtimes {
			e.Runtimes[i].Default = names[e.Runtimes[i].Name]
		}
		if found {
			engines = append(engines, e)
		}
	}
	return engines
}

// readTree parses a configuration file, JSON or TOML by its name.
func readTree(root sysfs.Root, file string) (map[string]any, error) {
	data, err := root.ReadFileMax(file, maxFile)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	decode := toml.Unmarshal
	if path.Ext(file) == ".json" {
		decode = json.Unmarshal
		if len(strings.TrimSpace(string(data))) == 0 {
			return nil, nil // dockerd accepts an empty file
		}
	}
	if err := decode(data, &tree); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return tree, nil
}

// collect walks a configuration: a runtime's name is the key below any "runtimes".
func (e *Engine) collect(file string, v any, name string, defaults map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			text, _ := v[key].(string)
			switch key {
			case "default-runtime", "default_runtime_name", "default_runtime", "runtime":
				defaults[text] = true
			}
			below, isTable := v[key].(map[string]any)
			if key != "runtimes" || !isTable {
				e.collect(file, v[key], name, defaults)
				continue
			}
			for _, entry := range slices.Sorted(maps.Keys(below)) {
				e.collect(file, below[entry], entry, defaults)
			}
		}
	case []any:
		for _, item := range v {
			e.collect(file, item, name, defaults)
		}
	case string:
		if name != "" && isOurs(v) {
			e.Runtimes = append(e.Runtimes, Registration{Name: name, File: file, Program: v})
		}
	}
}

// ProgramDirs is the PATH that systemd gives to services.
var ProgramDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// FindProgram returns the path of the first executable of that name in dirs, "" if there is none.
func FindProgram(root sysfs.Root, name string, dirs []string) string {
	for _, dir := range dirs {
		if file := path.Join(dir, name); name != "" && IsProgram(root, file) {
			return file
		}
	}
	return ""
}

// IsProgram tells whether an absolute path is that of an executable file.
func IsProgram(root sysfs.Root, file string) bool {
	return path.IsAbs(file) && executable(root, file) == nil
}

// FindLowLevel returns the low-level runtime that the runtime would execute, "" if there is none.
func FindLowLevel(root sysfs.Root, cfg runtimeplan.Config, pathVar string) string {
	candidates := cfg.Runtimes
	if cfg.RuntimePath != "" {
		candidates = []string{cfg.RuntimePath}
	}
	dirs := ProgramDirs
	if root == "/" {
		relative := func(dir string) bool { return !path.IsAbs(dir) }
		dirs = append(slices.DeleteFunc(filepath.SplitList(pathVar), relative), dirs...)
	}
	for _, name := range candidates {
		switch {
		case IsProgram(root, name):
			return name
		case strings.Contains(name, "/"):
		default:
			if file := FindProgram(root, name, dirs); file != "" {
				return file
			}
		}
	}
	return ""
}
