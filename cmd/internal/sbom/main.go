// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command sbom lists what a Go program is made of, as a CycloneDX 1.6
// document: the program with its SHA-256, and each module linked into it
// with its version and the checksum of go.sum. It reads what the linker
// recorded in the binary, so the list is that of the file and not of a
// source tree. The same file gives the same text.
//
//	sbom PROGRAM VERSION >PROGRAM.cdx.json
//
// VERSION is that of the program, which a build without a module's version does not record.
package main

import (
	"crypto/sha256"
	"debug/buildinfo"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "sbom:", err)
		os.Exit(1)
	}
}

func run(args []string, stdout io.Writer) error {
	if len(args) != 2 {
		return errors.New("usage: sbom PROGRAM VERSION")
	}
	d, err := describe(args[0], args[1])
	if err != nil {
		return err
	}
	e := json.NewEncoder(stdout)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(d)
}

// document is the part of CycloneDX that is used.
type document struct {
	Format        string       `json:"bomFormat"`
	Specification string       `json:"specVersion"`
	Version       int          `json:"version"`
	Metadata      metadata     `json:"metadata"`
	Components    []component  `json:"components"`
	Dependencies  []dependency `json:"dependencies"`
}

type metadata struct {
	Component component `json:"component"`
}

type component struct {
	Type       string     `json:"type"`
	Ref        string     `json:"bom-ref"`
	Name       string     `json:"name"`
	Version    string     `json:"version,omitempty"`
	PURL       string     `json:"purl,omitempty"`
	Hashes     []hash     `json:"hashes,omitempty"`
	Properties []property `json:"properties,omitempty"`
}

type hash struct {
	Algorithm string `json:"alg"`
	Content   string `json:"content"`
}

type property struct {
	Name  string `json:"name"`
	Value string `json:"value"`
}

type dependency struct {
	Ref string   `json:"ref"`
	On  []string `json:"dependsOn,omitempty"`
}

// describe reads a program.
func describe(path, version string) (document, error) {
	info, err := buildinfo.ReadFile(path)
	if err != nil {
		return document{}, err
	}
	data, err := os.ReadFile(path)
	if err != nil {
		return document{}, err
	}
	program := component{
		Type: "application", Name: filepath.Base(path), Version: version,
		PURL:   purl(info.Main.Path, version) + "#" + strings.TrimPrefix(strings.TrimPrefix(info.Path, info.Main.Path), "/"),
		Hashes: []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(data))}},
	}
	program.Ref = program.PURL
	for _, s := range info.Settings {
		switch s.Key {
		case "GOOS", "GOARCH", "GOAMD64", "GOARM64", "CGO_ENABLED", "-trimpath", "-ldflags":
			program.Properties = append(program.Properties, property{"go:build:" + s.Key, s.Value})
		}
	}
	d := document{Format: "CycloneDX", Specification: "1.6", Version: 1, Metadata: metadata{program}}
	std := strings.TrimPrefix(info.GoVersion, "go")
	d.Components = []component{{Type: "library", Name: "std", Version: std, PURL: purl("std", std), Ref: purl("std", std)}}
	for _, m := range info.Deps {
		if m.Replace != nil {
			m = m.Replace
		}
		c := component{Type: "library", Name: m.Path, Version: m.Version, PURL: purl(m.Path, m.Version), Ref: purl(m.Path, m.Version)}
		if m.Sum != "" {
			c.Properties = []property{{"go:sum", m.Sum}}
		}
		d.Components = append(d.Components, c)
	}
	slices.SortFunc(d.Components, func(a, b component) int { return strings.Compare(a.Ref, b.Ref) })
	all := dependency{Ref: program.Ref}
	for _, c := range d.Components {
		all.On = append(all.On, c.Ref)
	}
	d.Dependencies = []dependency{all}
	return d, nil
}

// purl is a module's package URL: pkg:golang/github.com/sirupsen/logrus@v1.10.2.
func purl(path, version string) string {
	// A pseudo-version or a build's own "(devel)" may have characters that stand for something else there.
	return "pkg:golang/" + path + "@" + strings.NewReplacer("+", "%2B", "(", "%28", ")", "%29").Replace(version)
}
