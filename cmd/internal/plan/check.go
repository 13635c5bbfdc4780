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

// Finding is a mistake in a configuration file that LoadConfig does not reject.
type Finding struct {
	File string
	Line int    // 0 if unknown
	Text string // what is wrong and what to do
}

func (f Finding) String() string {
	if f.Line > 0 {
		return fmt.Sprintf("%s: line %d: %s", f.File, f.Line, f.Text)
	}
	return f.File + ": " + f.Text
}

// foreign are the keys of config.toml that only NVIDIA's programs read; a trailing period means a
// whole table. Sources: internal/config in NVIDIA's toolkit up to 1.19, and the config.toml in its
// packages.
var foreign = []string{
	"nvidia-container-cli.debug", "nvidia-container-cli.environment", "nvidia-container-cli.ldconfig",
	"nvidia-container-cli.no-pivot", "nvidia-container-cli.path", "nvidia-container-cli.user",
	"nvidia-container-runtime.mode", "nvidia-container-runtime.discover-mode",
	"nvidia-container-runtime.modes.cdi.", "nvidia-container-runtime.modes.csv.",
	"nvidia-container-runtime.modes.jit-cdi.",
	"nvidia-container-runtime.experimental.discover-mode", // of the toolkit's branch of 2022
	"nvidia-container-runtime-hook.", "nvidia-ctk.",
	"features.allow-cuda-compat-libs-from-container", "features.allow-ldconfig-from-container",
	"features.allow-unknown-oci-spec-fields", "features.disable-cuda-compat-lib-hook",
	"features.disable-imex-channel-creation", "features.gds", "features.gdrcopy", "features.mofed", "features.nvswitch",
}

// Check reads the files of a configuration again and lists what has no effect: misplaced and
// misspelled keys, unknown values, a log file that cannot be written. It ignores the keys of
// NVIDIA's programs.
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
		text := fmt.Sprintf("debug = %q: %s, so nothing is logged", c.Debug, why)
		list = append(list, Finding{File: c.File, Text: text})
	}
	return list, nil
}

// judge returns what is wrong with a key or a table of the file, "" if nothing.
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
		return "" // reported for the table
	}
	for _, prefix := range []string{ours, ""} {
		for _, k := range Keys {
			if _, word := cutLast(k.Name); word == last && strings.HasPrefix(k.Name, prefix) {
				return fmt.Sprintf("%s has no effect %s: it belongs %s", last, inTable(name), inTable(k.Name))
			}
		}
	}
	if near, ok := nearest(name, ""); ok {
		last := near[strings.LastIndex(near, ".")+1:]
		return fmt.Sprintf("%s has no effect: did you mean %s %s?", name, last, inTable(near))
	}
	if strings.HasPrefix(name, ours) {
		return fmt.Sprintf("%s has no effect: there is no such key", name)
	}
	return ""
}

// withoutEffect tells what an unknown value means.
func withoutEffect(k Key) string {
	if k.Name == "nvidia-container-runtime.modes.legacy.cuda-compat-mode" {
		return "an image's forward-compatibility libcuda is preferred where it is newer"
	}
	return "it counts as info"
}

// judgeTable finds misspelled names of tables.
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
	theirs := func(known string) bool { return strings.HasPrefix(known, name+".") }
	if best == "" || slices.ContainsFunc(foreign, theirs) {
		return ""
	}
	return fmt.Sprintf("[%s] has no effect: did you mean [%s]?", name, best)
}

// value returns the value of a dotted key, nil if there is none.
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

// unwritable tells why a log file cannot be written, "" if it can, without creating it.
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
