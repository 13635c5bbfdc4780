// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"debug/buildinfo"
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

// result is what a test run on a release found.
type result struct {
	release  string
	versions map[string]string // of packages, and of the kernel
	outcomes []*outcome
}

// upstream matches the upstream version in a Debian version.
var upstream = regexp.MustCompile(`^(?:\d+:)?(\d[\d.]*\d|\d)`)

// provides maps programs from other sources to the packages under which the table shows them.
var provides = map[string]string{"dockerd": "docker.io", "kubelet": "kubelet"}

// versions reads the versions that the machine has reported.
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
	more, err := filepath.Glob(filepath.Join(dir, "programs/more/*"))
	require.NoError(t, err)
	for _, file := range more {
		if pkg := provides[filepath.Base(file)]; pkg != "" {
			info, err := buildinfo.ReadFile(file)
			require.NoError(t, err)
			list[pkg] = info.Main.Path + " " + info.Main.Version
		}
	}
	return list
}

// subjects are the prefixes of top-level test names and their headings. The first match counts.
var subjects = []struct{ prefix, heading string }{
	{"TestDocker", "Docker"},
	{"TestPodman", "Podman"},
	{"TestContainerd", "containerd"},
	{"TestCRI", "CRI, as the kubelet uses it"},
	{"TestContainer", "A bundle, without an engine"},
	{"TestKubelet", "The kubelet, without an API server"},
	{"TestDriver", "The driver changes"},
	{"", "The package by itself"},
}

// levels are the parts of a test's name that stand for a low-level runtime.
var levels = []string{"runc", "crun"}

// column is the column of a release on the page.
type column struct {
	name  string
	cells []cell
}

// cell says with which low-level runtimes a check passes. A cell without a heading has the version
// of a program instead.
type cell struct{ heading, check, text string }

// checks returns the cells without the versions, in an order that does not depend on the table.
func (c column) checks() []cell {
	list := slices.DeleteFunc(slices.Clone(c.cells), func(c cell) bool { return c.heading == "" })
	slices.SortFunc(list, func(a, b cell) int { return cmp.Or(cmp.Compare(a.heading, b.heading), cmp.Compare(a.check, b.check)) })
	return list
}

func (r result) column() column {
	c := column{name: r.release}
	for _, p := range []struct{ name, pkg string }{
		{"Linux", "linux"},
		{"systemd", "systemd"},
		{"Docker", "docker.io"},
		{"Compose", "docker-compose"},
		{"containerd", "containerd"},
		{"kubelet", "kubelet"},
		{"Podman", "podman"},
		{"runc", "runc"},
		{"crun", "crun"},
	} {
		if version := r.versions[p.pkg]; version != "" {
			c.cells = append(c.cells, cell{check: p.name, text: version})
		}
	}
	passed, failed := map[cell][]string{}, map[cell][]string{}
	for _, o := range r.outcomes {
		subject := subjects[slices.IndexFunc(subjects, func(s struct{ prefix, heading string }) bool { return strings.HasPrefix(o.name, s.prefix) })]
		parts := strings.Split(strings.ReplaceAll(o.name, "_", " "), "/")
		level := "yes"
		for j, p := range parts {
			if slices.Contains(levels, p) {
				level, parts = p, slices.Delete(parts, j, j+1)
				break
			}
		}
		if rest := strings.TrimPrefix(parts[0], subject.prefix); rest != "" {
			parts[0] = words(strings.TrimPrefix(rest, "Test"))
		} else {
			parts = parts[1:]
		}
		k := cell{heading: subject.heading, check: strings.Join(parts, ": ")}
		if !slices.Contains(c.cells, k) {
			c.cells = append(c.cells, k)
		}
		list := failed
		if o.passed {
			list = passed
		}
		// A check without a low-level runtime in its name ran on the machine of each.
		if !slices.Contains(list[k], level) {
			list[k] = append(list[k], level)
		}
	}
	for i, k := range c.cells {
		if k.heading == "" {
			continue
		}
		c.cells[i].text = strings.Join(passed[k], ", ")
		if list := failed[k]; list != nil {
			c.cells[i].text += " **fails: " + strings.Join(list, ", ") + "**"
		}
	}
	return c
}

// table formats columns as Markdown. A heading's table has the columns with a cell below that
// heading.
func table(columns []column) string {
	var b strings.Builder
	line := func(cells []string) { fmt.Fprintf(&b, "| %s |\n", strings.Join(cells, " | ")) }
	headings := []string{""} // for the versions
	for _, s := range subjects {
		headings = append(headings, s.heading)
	}
	for _, heading := range headings {
		var names, checks []string
		texts := map[string]map[string]string{} // by check and column
		for _, c := range columns {
			next := 0
			for _, of := range c.cells {
				if of.heading != heading {
					continue
				}
				if !slices.Contains(names, c.name) {
					names = append(names, c.name)
				}
				if texts[of.check] == nil {
					texts[of.check] = map[string]string{}
					checks = slices.Insert(checks, next, of.check)
				}
				texts[of.check][c.name] = of.text
				next = slices.Index(checks, of.check) + 1
			}
		}
		if len(names) == 0 {
			continue
		}
		first := ""
		if heading != "" {
			fmt.Fprintf(&b, "\n## %s\n\n", heading)
			first = "check"
		}
		line(append([]string{first}, names...))
		b.WriteString(strings.Repeat("|---", len(names)+1) + "|\n")
		for _, check := range checks {
			row := []string{check}
			for _, name := range names {
				row = append(row, texts[check][name])
			}
			line(row)
		}
	}
	return b.String()
}

// parse reads columns from what table returned.
func parse(text string) []column {
	var list []column
	heading, names := "", []string(nil)
	for line := range strings.Lines(text) {
		line = strings.TrimSpace(line)
		if h, ok := strings.CutPrefix(line, "## "); ok {
			heading, names = h, nil
		}
		row, ok := strings.CutPrefix(line, "| ")
		if !ok {
			continue
		}
		cells := strings.Split(strings.TrimSuffix(row, " |"), " | ")
		if names == nil {
			names = cells
			continue
		}
		for i, name := range names[1:] {
			if cells[i+1] == "" {
				continue
			}
			j := slices.IndexFunc(list, func(c column) bool { return c.name == name })
			if j < 0 {
				j, list = len(list), append(list, column{name: name})
			}
			list[j].cells = append(list[j].cells, cell{heading, cells[0], cells[i+1]})
		}
	}
	return list
}

// wordEnd matches the end of a word in a mixed-case name.
var wordEnd = regexp.MustCompile(`([a-z])([A-Z])|([A-Z])([A-Z][a-z])`)

// words turns KeepsItsGPU into "keeps its GPU".
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
	columns := []column{
		result{"forky", map[string]string{"systemd": "262", "runc": "1.3.6"}, []*outcome{
			of("TestDocker/runc/run_it", true), of("TestDockerUsernsRemap/runc/exec", true),
			of("TestDocker/crun/run_it", true), of("TestDockerUsernsRemap/crun/exec", false),
			of("TestContainerKeepsItsGPU/crun", true), of("TestUnits/learn", true), of("TestUnits/learn", true),
		}}.column(),
		result{"other", map[string]string{"systemd": "257"}, []*outcome{
			of("TestDocker/runc/run_it", true), of("TestDocker/runc/another", true), of("TestDockerUsernsRemap/runc/exec", true),
		}}.column(),
	}
	const want = `|  | forky | other |
|---|---|---|
| systemd | 262 | 257 |
| runc | 1.3.6 |  |

## Docker

| check | forky | other |
|---|---|---|
| run it | runc, crun | runc |
| another |  | runc |
| userns remap: exec | runc **fails: crun** | runc |

## A bundle, without an engine

| check | forky |
|---|---|
| keeps its GPU | crun |

## The package by itself

| check | forky |
|---|---|
| units: learn | yes |
`
	assert.Equal(t, want, table(columns))
	assert.Equal(t, columns, parse(want))
}
