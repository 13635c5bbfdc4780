// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"bytes"
	"encoding/json"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// maxManifest limits the size of a manifest. Those of drivers have less than 4 KiB.
const maxManifest = 64 << 10

// configs are the directories of configuration files, below /etc or a data directory, the files in
// them, and where they go in the container. Patterns are those of [path.Match]; they also cover
// files that later drivers add (09_nvidia_wayland2.json). The places are those of the container
// toolkit.
var configs = [...]struct {
	dir, base string
	names     []string
}{
	{"glvnd/egl_vendor.d", "/usr/share", []string{"10_nvidia.json"}},
	{"egl/egl_external_platform.d", "/usr/share", []string{"[0-9][0-9]_nvidia_*.json"}},
	{"nvidia", "/usr/share", []string{"nvoptix.bin"}},
	{"X11/xorg.conf.d", "/usr/share", []string{"10-nvidia.conf", "nvidia-drm-outputclass.conf"}},
	{"OpenCL/vendors", "/etc", []string{"nvidia.icd"}},
	{"vulkan/icd.d", "/etc", []string{"nvidia_icd.json", "nvidia_icd.ARCH.json", "nvidia_layers.json"}},
	{"vulkan/implicit_layer.d", "/etc", []string{"nvidia_layers.json"}},
	{"vulkansc/icd.d", "/etc", []string{"nvidia_icd_vksc.json", "nvidia_icd.ARCH.json"}},
}

// findConfigs searches for the configuration files of graphics in /etc and the data directories,
// and for those of Vulkan also directly below the root, as on Container-Optimized OS. The first
// file of a name counts. Files that name a library by its path get other content, see [File].
func findConfigs(t *tree, o Options, libs []File) []File {
	if o.Classes&(Graphics|Display) == 0 {
		return nil
	}
	var files []File
	for _, c := range configs {
		names := configNames(c.names, o)
		found := make(map[string]bool)
		for _, dir := range configDirs(c.dir, o) {
			files = append(files, configsIn(t, dir, path.Join(c.base, c.dir), names, found)...)
		}
	}
	for i := range files {
		localize(t, &files[i], libs)
	}
	return files
}

// configDirs returns the places of a directory of configuration files in search order.
func configDirs(dir string, o Options) []string {
	bases := []string{"/etc"}
	if dirs := absolute(o.DataDirs); len(dirs) > 0 {
		bases = append(bases, dirs...)
	} else {
		bases = append(bases, "/usr/local/share", "/usr/share")
	}
	bases = append(bases, "/run/opengl-driver/share") // NixOS
	if strings.HasPrefix(dir, "vulkan/") {
		bases = append(bases, "/")
	}
	for i := range bases {
		bases[i] = path.Join(bases[i], dir)
	}
	return bases
}

// localize changes a manifest's content so that the container's loader finds the libraries. RPM
// packages and NixOS write a library's path on the host:
//
//	"library_path": "/usr/lib64/libGLX_nvidia.so.0"
//
// A manifest that is malformed or has no path of a library stays unchanged.
func localize(t *tree, file *File, libs []File) {
	paths := jsonPaths
	switch path.Ext(file.Name) {
	case ".json":
	case ".icd":
		paths = icdPaths
	default:
		return
	}
	data, err := t.root.ReadFileMax(strings.TrimPrefix(file.Path, "/"), maxManifest)
	if err != nil {
		t.note("configuration file %s is passed unchanged: %v", quote(t.root.Path(file.Path)), err)
		return
	}
	var content []byte
	end := 0
	for _, p := range paths(data) {
		name := path.Base(p.name)
		at := slices.IndexFunc(libs, func(l File) bool {
			isName := func(link Link) bool { return link.Name == name }
			return l.SONAME == name || l.Name == name || slices.ContainsFunc(l.Links, isName)
		})
		if at >= 0 {
			name = libs[at].SONAME
		} else {
			t.note("configuration file %s names %s, which is not among the container's libraries",
				quote(t.root.Path(file.Path)), quote(p.name))
		}
		content = append(append(content, data[end:p.start]...), p.quote(name)...)
		end = p.end
	}
	if content != nil {
		file.Content = append(content, data[end:]...)
	}
}

// pathSpan is the path of a library in a manifest: data[start:end] spells name.
type pathSpan struct {
	start, end int
	name       string
	quote      func(string) string
}

// jsonPaths returns the values of "library_path", at any depth, that have a directory.
func jsonPaths(data []byte) []pathSpan {
	if !json.Valid(data) {
		return nil
	}
	var spans []pathSpan
	var objects []bool // for each open value: is it an object, where every other string is a key
	key, isKey := "", false
	d := json.NewDecoder(bytes.NewReader(data))
	for {
		before := int(d.InputOffset())
		token, err := d.Token()
		if err != nil {
			return spans // the end
		}
		inObject := len(objects) > 0 && objects[len(objects)-1]
		switch token := token.(type) {
		case json.Delim:
			if token == '{' || token == '[' {
				objects = append(objects, token == '{')
			} else {
				objects = objects[:len(objects)-1]
			}
			isKey = len(objects) > 0 && objects[len(objects)-1]
			continue
		case string:
			if inObject && isKey {
				key, isKey = token, false
				continue
			}
			if inObject && key == "library_path" && strings.Contains(token, "/") {
				start := before + bytes.IndexByte(data[before:], '"')
				quoted := func(name string) string { return `"` + name + `"` }
				spans = append(spans, pathSpan{start, int(d.InputOffset()), token, quoted})
			}
		}
		isKey = inObject
	}
}

// icdPaths returns the only line of an OpenCL vendor file if it has a directory.
func icdPaths(data []byte) []pathSpan {
	name := string(bytes.TrimSpace(data))
	if !strings.Contains(name, "/") || strings.ContainsAny(name, "\r\n\x00") {
		return nil
	}
	start := bytes.Index(data, []byte(name))
	return []pathSpan{{start, start + len(name), name, func(name string) string { return name }}}
}

// configNames replaces ARCH with the architectures, as RPM spells them.
func configNames(patterns []string, o Options) []string {
	var names []string
	for _, pattern := range patterns {
		name, isICD := strings.CutSuffix(pattern, "ARCH.json")
		switch {
		case !isICD:
			names = append(names, pattern)
		case o.Arch == ldcache.X8664 && o.Classes&Compat32 != 0:
			names = append(names, name+"x86_64.json", name+"i686.json")
		case o.Arch == ldcache.I386:
			names = append(names, name+"i686.json")
		default:
			names = append(names, name+string(o.Arch)+".json")
		}
	}
	return names
}

// configsIn returns the matching files of a directory that were not found before.
func configsIn(t *tree, dir, dest string, patterns []string, found map[string]bool) []File {
	at := t.lookup(dir)
	if !at.isDir() {
		return nil
	}
	var files []File
	take := func(name string) {
		if n := t.entry(at.path, name, 0); n.isRegular() && !found[name] {
			found[name] = true
			files = append(files, File{
				Path: n.path, Name: name, Kind: Config, Class: Graphics | Display, Dest: path.Join(dest, name),
			})
		}
	}
	for _, pattern := range patterns {
		if !strings.ContainsAny(pattern, "[*") {
			take(pattern)
			continue
		}
		for _, e := range t.list(at.path) {
			if ok, _ := path.Match(pattern, e.Name()); ok && validName(e.Name()) {
				take(e.Name())
			}
		}
	}
	return files
}
