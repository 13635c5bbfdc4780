// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

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

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// engine is a container engine, as far as it can be found.
type engine struct {
	name     string
	program  string         // "/usr/bin/dockerd"; "" if only its configuration is there
	runtimes []registration // this project's, in its configuration
	errs     []error        // about files of its configuration
}

// registration is an entry for a low-level runtime in an engine's configuration.
type registration struct {
	name      string // "nvidia-experimental"
	file      string // where it stands
	program   string // what it starts
	isDefault bool
}

// engineFiles are the programs of engines and their configuration files; of a directory all files with the ending.
var engineFiles = []engineRow{
	{"docker", "dockerd", []string{"/etc/docker/daemon.json"}, nil, ""},
	{
		"containerd", "containerd",
		[]string{"/etc/containerd/config.toml"},
		[]string{"/etc/containerd/conf.d"},
		".toml",
	},
	{"crio", "crio", []string{"/etc/crio/crio.conf"}, []string{"/etc/crio/crio.conf.d"}, ""},
	{
		"podman", "podman",
		[]string{"/usr/share/containers/containers.conf", "/etc/containers/containers.conf"},
		[]string{"/usr/share/containers/containers.conf.d", "/etc/containers/containers.conf.d"},
		".conf",
	},
}

type engineRow struct {
	name, program string
	files         []string
	dirs          []string
	ending        string
}

// programDirs are where programs of engines and low-level runtimes are.
var programDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// findEngines lists the engines of a machine in the order of the table.
func findEngines(root sysfs.Root) []engine {
	var engines []engine
	rows := engineFiles
	own := configure.FindDistribution(root)
	if own.Name != "" {
		rows = append(slices.Clone(rows), engineRow{"containerd (" + own.Name + ")", "", own.Files, own.Dirs, ".toml"})
	}
	for _, row := range rows {
		e := engine{name: row.name, program: findProgram(root, row.program, programDirs)}
		if row.name == "containerd" && own.Name != "" && e.program == "" {
			continue // its files are read by nobody
		}
		files := slices.Clone(row.files)
		for _, dir := range row.dirs {
			entries, err := root.ReadDir(dir[1:])
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				e.errs = append(e.errs, err)
			}
			for _, entry := range entries {
				if strings.HasSuffix(entry.Name(), row.ending) && !strings.HasPrefix(entry.Name(), ".") && !entry.IsDir() {
					files = append(files, path.Join(dir, entry.Name()))
				}
			}
		}
		found := e.program != "" || row.program == ""
		names := map[string]bool{} // default runtimes named anywhere
		for _, file := range files {
			tree, err := readTree(root, file)
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			found = true
			if err != nil {
				e.errs = append(e.errs, err)
				continue
			}
			e.collect(file, tree, "", names)
		}
		for i := range e.runtimes {
			e.runtimes[i].isDefault = names[e.runtimes[i].name]
		}
		if found {
			engines = append(engines, e)
		}
	}
	return engines
}

// readTree reads a configuration file, JSON or TOML by its name.
func readTree(root sysfs.Root, file string) (map[string]any, error) {
	data, err := root.ReadFileMax(file, 1<<20)
	if err != nil {
		return nil, err
	}
	var tree map[string]any
	decode := toml.Unmarshal
	if path.Ext(file) == ".json" {
		decode = json.Unmarshal
		if len(strings.TrimSpace(string(data))) == 0 {
			return nil, nil // dockerd takes an empty file
		}
	}
	if err := decode(data, &tree); err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return tree, nil
}

// collect walks a configuration: a runtime's name is the key below "runtimes", whatever is around that.
func (e *engine) collect(file string, v any, name string, defaults map[string]bool) {
	switch v := v.(type) {
	case map[string]any:
		for _, key := range slices.Sorted(maps.Keys(v)) {
			if text, ok := v[key].(string); ok && slices.Contains([]string{"default-runtime", "default_runtime_name", "default_runtime", "runtime"}, key) {
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
		if base := path.Base(v); name != "" && (base == theShim || strings.HasPrefix(base, plan.RegistrationMark)) {
			e.runtimes = append(e.runtimes, registration{name: name, file: file, program: v})
		}
	}
}

// findProgram returns the path of the first executable of that name, "" if there is none.
func findProgram(root sysfs.Root, name string, dirs []string) string {
	if name == "" {
		return ""
	}
	for _, dir := range dirs {
		if file := path.Join(dir, name); executable(root, file) {
			return file
		}
	}
	return ""
}

func executable(root sysfs.Root, file string) bool {
	info, err := root.Stat(strings.TrimPrefix(path.Clean(file), "/"))
	return err == nil && info.Mode().IsRegular() && info.Mode()&0o111 != 0
}

// findLowLevel returns the low-level runtime that the runtime would hand over to, "" if there is none.
func findLowLevel(root sysfs.Root, cfg plan.Config, pathVar string) string {
	candidates := cfg.Runtimes
	if cfg.RuntimePath != "" {
		candidates = []string{cfg.RuntimePath}
	}
	dirs := programDirs
	if root == "/" {
		dirs = slices.Concat(slices.DeleteFunc(filepath.SplitList(pathVar), func(dir string) bool { return !filepath.IsAbs(dir) }), programDirs)
	}
	for _, name := range candidates {
		if filepath.IsAbs(name) {
			if executable(root, name) {
				return name
			}
			continue
		}
		if file := findProgram(root, name, dirs); file != "" && !strings.Contains(name, "/") {
			return file
		}
	}
	return ""
}
