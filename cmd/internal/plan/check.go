// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Finding is something in a configuration file that has no effect, or not the one that was probably wanted.
type Finding struct {
	File string // the file
	Line int    // in it; 0 if the file has no such line
	Text string // what is wrong and what to do
}

// String is the finding as one line.
func (f Finding) String() string {
	if f.Line > 0 {
		return fmt.Sprintf("%s: line %d: %s", f.File, f.Line, f.Text)
	}
	return f.File + ": " + f.Text
}

// foreign are the keys of config.toml that NVIDIA's programs read and this runtime does not, and tables of
// which all keys are theirs, with a period at the end. Sources: internal/config in NVIDIA's toolkit up to 1.19, and the
// config.toml that its packages install.
var foreign = []string{
	"nvidia-container-cli.debug", "nvidia-container-cli.environment", "nvidia-container-cli.ldconfig",
	"nvidia-container-cli.no-pivot", "nvidia-container-cli.path", "nvidia-container-cli.user",
	"nvidia-container-runtime.mode", "nvidia-container-runtime.discover-mode",
	"nvidia-container-runtime.modes.cdi.", "nvidia-container-runtime.modes.csv.", "nvidia-container-runtime.modes.jit-cdi.",
	"nvidia-container-runtime.experimental.discover-mode", // of the toolkit's branch of 2022
	"nvidia-container-runtime-hook.", "nvidia-ctk.",
	"features.allow-cuda-compat-libs-from-container", "features.allow-ldconfig-from-container",
	"features.allow-unknown-oci-spec-fields", "features.disable-cuda-compat-lib-hook",
	"features.disable-imex-channel-creation", "features.gds", "features.gdrcopy", "features.mofed", "features.nvswitch",
}

// Check reads the files of a configuration once more, and lists what is in them without effect: keys in a wrong table,
// misspelt ones, values that are not known, a log that cannot be written. Keys of NVIDIA's programs are left alone.
func (c Config) Check() ([]Finding, error) {
	files, err := c.files()
	if err != nil {
		return nil, err
	}
	var list []Finding
	for _, f := range files {
		for name, at := range f.positions() {
			if text := f.judge(name); text != "" {
				list = append(list, Finding{f.name, at.Line, text})
			}
		}
	}
	if why := unwritable(c.Debug); why != "" {
		list = append(list, Finding{File: c.File, Text: fmt.Sprintf("debug = %q: %s, and nothing is logged", c.Debug, why)})
	}
	return list, nil
}

// judge says what is wrong about a key or a table of the file, "" if nothing.
func (f configFile) judge(name string) string {
	value := f.value(name)
	if i := slices.IndexFunc(Keys, func(k Key) bool { return k.Name == name }); i >= 0 {
		k := Keys[i]
		if text, ok := value.(string); ok && strings.TrimSpace(text) != "" {
			if err := k.unknownWord(text); err != nil {
				return err.Error() + ": " + withoutEffect(k)
			}
		}
		if k.Name == ours+"library-search-path" {
			for _, item := range value.([]any) {
				if dir, _ := item.(string); !filepath.IsAbs(dir) {
					return fmt.Sprintf("library-search-path has %q, which is not an absolute path", dir)
				}
			}
		}
		return ""
	}
	if _, isTable := value.(map[string]any); isTable {
		return judgeTable(name)
	}
	for _, known := range foreign {
		if name == known || strings.HasSuffix(known, ".") && strings.HasPrefix(name, known) {
			return ""
		}
	}
	table, last := cutLast(name)
	if len(table) > 0 && judgeTable(table) != "" {
		return "" // said of the table
	}
	for _, prefix := range []string{ours, ""} {
		for _, k := range Keys {
			if _, word := cutLast(k.Name); word == last && strings.HasPrefix(k.Name, prefix) {
				return fmt.Sprintf("%s has no effect %s: it belongs %s", last, inTable(name), inTable(k.Name))
			}
		}
	}
	if near, ok := nearest(name, ""); ok {
		return fmt.Sprintf("%s has no effect: did you mean %s %s?", name, near[strings.LastIndex(near, ".")+1:], inTable(near))
	}
	if strings.HasPrefix(name, ours) {
		return fmt.Sprintf("%s has no effect: there is no such key", name)
	}
	return ""
}

// withoutEffect says what becomes of a value that is not known.
func withoutEffect(k Key) string {
	if k.Name == "nvidia-container-runtime.modes.legacy.cuda-compat-mode" {
		return "an image's forward-compatibility libcuda is preferred where it is newer"
	}
	return "it counts as info"
}

// judgeTable finds tables whose names are nearly those of tables that have keys of ours.
func judgeTable(name string) string {
	fold := func(s string) string { return strings.ReplaceAll(strings.ToLower(s), "_", "-") }
	best, distance := "", 3
	for _, k := range Keys {
		for table, _ := cutLast(k.Name); table != ""; table, _ = cutLast(table) {
			if table == name {
				return ""
			}
			if d := editDistance(fold(name), fold(table)); d < distance {
				best, distance = table, d
			}
		}
	}
	if best == "" || slices.ContainsFunc(foreign, func(known string) bool { return strings.HasPrefix(known, name+".") }) {
		return ""
	}
	return fmt.Sprintf("[%s] has no effect: did you mean [%s]?", name, best)
}

// value is the value of a key with dots, as far as its tables are tables.
func (f configFile) value(name string) any {
	v, _, _ := Key{Name: name}.find(f.tree)
	return v
}

func cutLast(name string) (table, last string) {
	if i := strings.LastIndex(name, "."); i >= 0 {
		return name[:i], name[i+1:]
	}
	return "", name
}

func inTable(key string) string {
	if table, _ := cutLast(key); table != "" {
		return "in [" + table + "]"
	}
	return "above the first table"
}

// unwritable says why a log cannot be written, "" if it can or if there is none. It makes no file.
func unwritable(name string) string {
	if name == "" || name == "/dev/null" {
		return ""
	}
	if !filepath.IsAbs(name) {
		return "it is not an absolute path"
	}
	info, err := sysfs.Root("/").Stat(name[1:])
	switch {
	case err == nil && info.IsDir():
		return "it is a directory"
	case err == nil:
		if err := unix.Access(name, unix.W_OK); err != nil {
			return "it cannot be written: " + err.Error()
		}
		return ""
	}
	dir := filepath.Dir(name)
	if err := unix.Access(dir, unix.W_OK|unix.X_OK); err != nil {
		return fmt.Sprintf("its directory %s: %v", dir, err)
	}
	return ""
}
