// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// result is what was tested on a release.
type result struct {
	release  string
	versions map[string]string // of packages, and of the kernel
	outcomes []*outcome
}

// upstream is the part of a Debian version that is the program's own.
var upstream = regexp.MustCompile(`^(?:\d+:)?(\d[\d.]*\d|\d)`)

// versions reads what the machine has told of itself.
func versions(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	data, err := os.ReadFile(filepath.Join(dir, "packages"))
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		name, version, _ := strings.Cut(strings.TrimSpace(line), " ")
		if m := upstream.FindStringSubmatch(version); m != nil {
			list[name] = m[1]
		}
	}
	data, err = os.ReadFile(filepath.Join(dir, "kernel"))
	require.NoError(t, err)
	list["linux"] = strings.TrimSpace(string(data))
	return list
}

// subjects are what top-level tests are about: how their names begin, and the heading.
var subjects = []struct{ prefix, heading string }{
	{"TestDocker", "Docker"},
	{"TestPodman", "Podman"},
	{"TestContainerd", "containerd"},
	{"TestCRI", "CRI, as the kubelet uses it"},
	{"TestContainer", "A bundle, without an engine"},
	{"TestDriver", "The driver changes"},
	{"", "The package by itself"},
}

// levels are the parts of a test's name that name a low-level runtime.
var levels = []string{"runc", "crun"}

// table writes the results as Markdown: for each engine the checks, and for each release with which
// low-level runtimes a check holds.
func table(results []result) string {
	var b strings.Builder
	b.WriteString("| |")
	for _, r := range results {
		fmt.Fprintf(&b, " %s |", r.release)
	}
	b.WriteString("\n|---|" + strings.Repeat("---|", len(results)) + "\n")
	for _, p := range []struct{ name, pkg string }{
		{"Linux", "linux"},
		{"systemd", "systemd"},
		{"Docker", "docker.io"},
		{"Compose", "docker-compose"},
		{"containerd", "containerd"},
		{"Podman", "podman"},
		{"runc", "runc"},
		{"crun", "crun"},
	} {
		fmt.Fprintf(&b, "| %s |", p.name)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", r.versions[p.pkg])
		}
		b.WriteString("\n")
	}

	type cell struct{ passed, failed []string }
	type row struct {
		subject int
		check   string
	}
	var rows []row
	cells := map[row][]cell{}
	for i, r := range results {
		for _, o := range r.outcomes {
			subject := slices.IndexFunc(subjects, func(s struct{ prefix, heading string }) bool { return strings.HasPrefix(o.name, s.prefix) })
			parts := strings.Split(strings.ReplaceAll(o.name, "_", " "), "/")
			level := "yes"
			for j, p := range parts {
				if slices.Contains(levels, p) {
					level, parts = p, slices.Delete(parts, j, j+1)
					break
				}
			}
			if rest := strings.TrimPrefix(parts[0], subjects[subject].prefix); rest != "" {
				parts[0] = words(strings.TrimPrefix(rest, "Test"))
			} else {
				parts = parts[1:]
			}
			k := row{subject, strings.Join(parts, ": ")}
			if cells[k] == nil {
				rows = append(rows, k)
				cells[k] = make([]cell, len(results))
			}
			list := &cells[k][i].failed
			if o.passed {
				list = &cells[k][i].passed
			}
			if !slices.Contains(*list, level) { // what is of no low-level runtime was run beside each
				*list = append(*list, level)
			}
		}
	}
	for i, s := range subjects {
		if !slices.ContainsFunc(rows, func(k row) bool { return k.subject == i }) {
			continue
		}
		fmt.Fprintf(&b, "\n## %s\n\n| check |", s.heading)
		for _, r := range results {
			fmt.Fprintf(&b, " %s |", r.release)
		}
		b.WriteString("\n|---|" + strings.Repeat("---|", len(results)) + "\n")
		for _, k := range rows {
			if k.subject != i {
				continue
			}
			fmt.Fprintf(&b, "| %s |", k.check)
			for _, c := range cells[k] {
				text := strings.Join(c.passed, ", ")
				if len(c.failed) > 0 {
					text += " **fails: " + strings.Join(c.failed, ", ") + "**"
				}
				fmt.Fprintf(&b, " %s |", text)
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// wordEnd is where a word ends in a name in mixed case.
var wordEnd = regexp.MustCompile(`([a-z])([A-Z])|([A-Z])([A-Z][a-z])`)

// words makes "keeps its GPU" of KeepsItsGPU.
func words(name string) string {
	list := strings.Fields(wordEnd.ReplaceAllString(name, "$1$3 $2$4"))
	for i, w := range list {
		if w != strings.ToUpper(w) {
			list[i] = strings.ToLower(w)
		}
	}
	return strings.Join(list, " ")
}

func TestTable(t *testing.T) {
	of := func(name string, passed bool) *outcome { return &outcome{name: name, leaf: true, passed: passed} }
	got := table([]result{{"forky", map[string]string{"systemd": "262", "runc": "1.3.6"}, []*outcome{
		of("TestDocker/runc/run_it", true), of("TestDockerUsernsRemap/runc/exec", true), of("TestUnits/learn", true),
		of("TestDocker/crun/run_it", true), of("TestDockerUsernsRemap/crun/exec", false), of("TestUnits/learn", true),
		of("TestContainerKeepsItsGPU/crun", true),
	}}})
	_, checks, _ := strings.Cut(got, "\n## ")
	assert.Equal(t, `Docker

| check | forky |
|---|---|
| run it | runc, crun |
| userns remap: exec | runc **fails: crun** |

## A bundle, without an engine

| check | forky |
|---|---|
| keeps its GPU | crun |

## The package by itself

| check | forky |
|---|---|
| units: learn | yes |
`, checks)
}
