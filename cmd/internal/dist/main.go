// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command dist packs a release for one architecture: it writes the tar.gz, and for the .deb and the .rpm what nfpm
// (github.com/goreleaser/nfpm) is to make of the same files. "make dist" builds what goes in and runs nfpm.
//
//	dist -version 0.1.0 -arch arm64 -epoch 1700000000 -build .cache/dist/arm64 -out dist
//
// The folder of -build has the programs, NAME.cdx.json for each, nvsysfs.bash, .zsh and .fish, and in "modules" the modules
// that were linked; it gets the compressed manual pages, the modules' licences, deb.json and rpm.json. The current directory is the repository. Owners, modes, order and
// times are set here, so that the same commit gives the same bytes wherever and by whomever it is packed.
//
// No package has a script of a maintainer, and none installs to /etc: /etc/nvidia-container-runtime/config.toml
// belongs to NVIDIA's package nvidia-container-toolkit-base, and two packages cannot own one file.
package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"debug/elf"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// packageName is not that of any of NVIDIA's packages.
const packageName = "nvidia-container-runtime-experimental"

// programs are those that are built for every architecture, and where they go.
var programs = []struct{ name, dir string }{
	{"nvidia-container-runtime.experimental", "bin"},
	{"nvsysfs", "bin"},
}

// machines are the architectures there are packages for. nfpm knows what Debian and RPM call them.
var machines = map[string]elf.Machine{"amd64": elf.EM_X86_64, "arm64": elf.EM_AARCH64}

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// release is the command line.
type release struct {
	version string
	arch    string
	time    time.Time
	build   string // folder of what was built for the architecture
	out     string // folder of the release
}

func run(args []string) error {
	var r release
	var epoch int64
	set := flag.NewFlagSet("dist", flag.ContinueOnError)
	set.SetOutput(io.Discard)
	set.StringVar(&r.version, "version", "", "")
	set.StringVar(&r.arch, "arch", "", "")
	set.Int64Var(&epoch, "epoch", 0, "")
	set.StringVar(&r.build, "build", "", "")
	set.StringVar(&r.out, "out", "", "")
	switch err := set.Parse(args); {
	case err != nil:
		return err
	case set.NArg() > 0 || r.version == "" || r.build == "" || r.out == "":
		return errors.New("usage: dist -version VERSION -arch ARCH -epoch SECONDS -build DIR -out DIR")
	case strings.Trim(r.version, "0123456789.") != "":
		return fmt.Errorf("version %q: Debian and RPM agree on digits and periods alone", r.version)
	case machines[r.arch] == elf.EM_NONE:
		return fmt.Errorf("architecture %q is neither amd64 nor arm64", r.arch)
	case epoch < 0:
		return fmt.Errorf("epoch %d is before 1970", epoch)
	}
	r.time = time.Unix(epoch, 0).UTC()
	for _, p := range programs {
		if err := r.checkProgram(p.name); err != nil {
			return err
		}
	}
	if err := r.collectLicences(); err != nil {
		return err
	}
	if err := r.compressPages(); err != nil {
		return err
	}
	for _, format := range []string{"deb", "rpm"} {
		contents, err := r.files(format)
		if err != nil {
			return err
		}
		if err := writeJSON(filepath.Join(r.build, format+".json"), r.nfpm(format, contents)); err != nil {
			return err
		}
	}
	contents, err := r.files("tar.gz")
	if err != nil {
		return err
	}
	return r.writeTar(contents)
}

// file is one regular file of a package.
type file struct {
	source string
	dest   string // below /usr, or below the one folder of the tar.gz
	mode   os.FileMode
}

// files lists what a format has, sorted by destination.
func (r release) files(format string) ([]file, error) {
	var list []file
	add := func(source, dest string) { list = append(list, file{source, dest, 0o644}) }
	doc := "share/doc/" + packageName + "/"
	for _, p := range programs {
		list = append(list, file{filepath.Join(r.build, p.name), p.dir + "/" + p.name, 0o755})
		add(filepath.Join(r.build, p.name+".cdx.json"), doc+p.name+".cdx.json")
	}
	for _, name := range []string{"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"} {
		add(name, doc+name)
	}
	add(filepath.Join(r.build, licences), doc+licences)
	if format == "deb" {
		add("cmd/internal/dist/copyright", doc+"copyright")
	}
	add("cmd/internal/dist/config.toml", "share/"+packageName+"/config.toml")
	zsh := "share/zsh/site-functions/_nvsysfs"
	if format == "deb" {
		zsh = "share/zsh/vendor-completions/_nvsysfs" // Debian's zsh keeps site-functions for the administrator
	}
	add(filepath.Join(r.build, "nvsysfs.bash"), "share/bash-completion/completions/nvsysfs")
	add(filepath.Join(r.build, "nvsysfs.zsh"), zsh)
	add(filepath.Join(r.build, "nvsysfs.fish"), "share/fish/vendor_completions.d/nvsysfs.fish")
	pages, err := manualPages()
	if err != nil {
		return nil, err
	}
	for _, page := range pages {
		name := filepath.Base(page)
		add(filepath.Join(r.build, name+".gz"), "share/man/man"+strings.TrimPrefix(filepath.Ext(name), ".")+"/"+name+".gz")
	}
	for _, kind := range []string{"service", "path", "timer"} {
		units, err := filepath.Glob("cmd/internal/dist/systemd/*." + kind)
		if err != nil {
			return nil, err
		}
		for _, unit := range units {
			add(unit, "lib/systemd/system/"+filepath.Base(unit))
		}
	}
	slices.SortFunc(list, func(a, b file) int { return strings.Compare(a.dest, b.dest) })
	return list, nil
}

// checkProgram tells whether a program is a static one for the release's architecture: what is packed was built before,
// and by something else.
func (r release) checkProgram(name string) error {
	data, err := os.ReadFile(filepath.Join(r.build, name))
	if err != nil {
		return err
	}
	f, err := elf.NewFile(bytes.NewReader(data))
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	if want := machines[r.arch]; f.Machine != want || f.Class != elf.ELFCLASS64 {
		return fmt.Errorf("%s is for %v, not for %v", name, f.Machine, want)
	}
	for _, p := range f.Progs {
		if p.Type == elf.PT_INTERP || p.Type == elf.PT_DYNAMIC {
			return fmt.Errorf("%s is not static", name)
		}
	}
	return nil
}

// licences is the file with the licences of the modules that are linked into the programs.
const licences = "THIRD-PARTY-LICENSES"

// collectLicences joins the licences and notices of the modules that BUILD/modules names, a line each with path, version and
// folder.
func (r release) collectLicences() error {
	list, err := os.ReadFile(filepath.Join(r.build, "modules"))
	if err != nil {
		return err
	}
	var b bytes.Buffer
	for line := range strings.Lines(string(list)) {
		field := strings.Fields(line)
		if len(field) != 3 {
			return fmt.Errorf("%s: %q is not a path, a version and a folder", filepath.Join(r.build, "modules"), line)
		}
		entries, err := os.ReadDir(field[2])
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			if !e.Type().IsRegular() || !isLicence(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(field[2], e.Name()))
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "=== %s %s: %s\n\n%s\n\n", field[0], field[1], e.Name(), bytes.TrimSpace(text))
			found = true
		}
		if !found {
			return fmt.Errorf("%s %s has no licence in %s", field[0], field[1], field[2])
		}
	}
	return os.WriteFile(filepath.Join(r.build, licences), b.Bytes(), 0o644)
}

// isLicence goes by the names that Go modules use.
func isLicence(name string) bool {
	name, _, _ = strings.Cut(strings.ToUpper(name), ".")
	return name == "LICENSE" || name == "LICENCE" || name == "COPYING" || name == "NOTICE" || name == "PATENTS"
}

// manualPages lists the manual pages' sources.
func manualPages() ([]string, error) {
	pages, err := filepath.Glob("cmd/internal/dist/man/*.[1-9]")
	if err == nil && len(pages) == 0 {
		err = errors.New("there are no manual pages in cmd/internal/dist/man: is this the repository's root?")
	}
	return pages, err
}

// compressPages writes the manual pages as they are installed.
func (r release) compressPages() error {
	pages, err := manualPages()
	if err != nil {
		return err
	}
	for _, page := range pages {
		data, err := os.ReadFile(page)
		if err != nil {
			return err
		}
		var b bytes.Buffer
		z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
		if err != nil {
			return err
		}
		if _, err := z.Write(data); err != nil {
			return err
		}
		if err := z.Close(); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(r.build, filepath.Base(page)+".gz"), b.Bytes(), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// writeTar writes OUT/NAME-VERSION-linux-ARCH.tar.gz: one folder of that name, laid out like /usr.
func (r release) writeTar(list []file) error {
	top := fmt.Sprintf("%s-%s-linux-%s", packageName, r.version, r.arch)
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	t := tar.NewWriter(z)
	made := map[string]bool{".": true}
	for _, f := range list {
		data, err := os.ReadFile(f.source)
		if err != nil {
			return err
		}
		name := top + "/" + f.dest
		for _, dir := range missingDirs(made, path.Dir(name)) {
			if err := t.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: 0o755, ModTime: r.time, Uname: "root", Gname: "root", Format: tar.FormatGNU}); err != nil {
				return err
			}
		}
		h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: int64(len(data)), Mode: int64(f.mode), ModTime: r.time, Uname: "root", Gname: "root", Format: tar.FormatGNU}
		if err := t.WriteHeader(h); err != nil {
			return err
		}
		if _, err := t.Write(data); err != nil {
			return err
		}
	}
	if err := t.Close(); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(r.out, top+".tar.gz"), b.Bytes(), 0o644)
}

// missingDirs returns the directories up to dir that were not yet made, the outermost first, and takes them for made.
func missingDirs(made map[string]bool, dir string) []string {
	if made[dir] {
		return nil
	}
	made[dir] = true
	return append(missingDirs(made, path.Dir(dir)), dir)
}

// nfpmConfig is the part of nfpm's configuration that is used. nfpm reads YAML, of which JSON is a part.
type nfpmConfig struct {
	Name        string        `json:"name"`
	Arch        string        `json:"arch"`
	Platform    string        `json:"platform"`
	Version     string        `json:"version"`
	Schema      string        `json:"version_schema"`
	Section     string        `json:"section,omitempty"`
	Priority    string        `json:"priority,omitempty"`
	Maintainer  string        `json:"maintainer,omitempty"`
	Description string        `json:"description"`
	Homepage    string        `json:"homepage"`
	License     string        `json:"license"`
	MTime       string        `json:"mtime"`
	Recommends  []string      `json:"recommends"`
	Umask       int           `json:"umask"`
	Contents    []nfpmContent `json:"contents"`
	Deb         *nfpmDeb      `json:"deb,omitempty"`
	RPM         *nfpmRPM      `json:"rpm,omitempty"`
}

type nfpmContent struct {
	Source string       `json:"src,omitempty"`
	Dest   string       `json:"dst"`
	Type   string       `json:"type,omitempty"`
	Info   nfpmFileInfo `json:"file_info"`
}

type nfpmFileInfo struct {
	Mode  os.FileMode `json:"mode"`
	Owner string      `json:"owner"`
	Group string      `json:"group"`
	MTime string      `json:"mtime"`
}

type nfpmDeb struct {
	Compression string `json:"compression"`
}

type nfpmRPM struct {
	Group       string `json:"group"`
	Summary     string `json:"summary"`
	Compression string `json:"compression"`
	BuildHost   string `json:"buildhost"`
	Packager    string `json:"packager"`
}

const (
	authors     = "The nvidia-container-runtime authors"
	summary     = "container runtime for NVIDIA GPUs that reads /proc, /sys and /dev"
	description = "Stands where Docker, containerd, CRI-O or podman expect runc: it finds the GPUs\n" +
		"without NVML, adds what the container asked for to its config.json, and becomes\n" +
		"runc or crun. No daemon, no hook. With nvsysfs, the operator's tool, which\n" +
		"registers the runtime with an engine: the package itself changes no\n" +
		"configuration."
)

// nfpm describes the .deb or the .rpm.
func (r release) nfpm(format string, list []file) nfpmConfig {
	when := r.time.Format(time.RFC3339)
	c := nfpmConfig{
		Name: packageName, Arch: r.arch, Platform: "linux", Version: r.version, Schema: "none", Maintainer: authors,
		Homepage: "https://github.com/nvsysfs/nvidia-container-runtime", License: "Apache-2.0", MTime: when, Umask: 0o022,
	}
	switch format {
	case "deb":
		// The first line of a description is the summary.
		c.Description = summary + "\n" + description
		c.Section, c.Priority, c.Recommends = "admin", "optional", []string{"runc | crun"}
		c.Deb = &nfpmDeb{Compression: "xz"}
	case "rpm":
		c.Description, c.Recommends = description, []string{"(runc or crun)"}
		c.RPM = &nfpmRPM{Group: "System Environment/Base", Summary: summary, Compression: "xz", BuildHost: "localhost", Packager: authors}
		for _, dir := range []string{"share/", "share/doc/"} {
			c.Contents = append(c.Contents, nfpmContent{Dest: "/usr/" + dir + packageName, Type: "dir", Info: nfpmFileInfo{0o755, "root", "root", when}})
		}
	}
	for _, f := range list {
		content := nfpmContent{Source: f.source, Dest: "/usr/" + f.dest, Info: nfpmFileInfo{f.mode, "root", "root", when}}
		switch {
		case format != "rpm":
		case path.Base(f.dest) == "LICENSE":
			content.Type = "license"
		case strings.HasPrefix(f.dest, "share/doc/"), strings.HasPrefix(f.dest, "share/man/"):
			content.Type = "doc"
		}
		c.Contents = append(c.Contents, content)
	}
	return c
}

func writeJSON(name string, value any) error {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(name, append(data, '\n'), 0o644)
}
