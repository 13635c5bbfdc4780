// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// repository is the top directory, from this package's.
const repository = "../../.."

// folders are the top-level directories with Go packages, and the other folders whose packages they
// may import. Only cmd may import all.
var folders = map[string][]string{
	"cmd":      {"fixtures", "ldcache", "mig", "spec", "sysfs"},
	"fixtures": {"ldcache"},
	"ldcache":  nil,
	"mig":      nil,
	"spec":     nil,
	"sysfs":    {"mig"},
}

// further are packages that may import more than their folder.
var further = map[string][]string{
	"fixtures/capture": {"sysfs"},
	"sysfs/driver":     {"ldcache"},
}

// libraries are the modules that packages outside cmd may import, besides the standard library.
var libraries = map[string][]string{
	"fixtures": {"golang.org/x/tools/txtar"},
	"mig":      {"golang.org/x/sys/unix"},
	"spec":     {"github.com/opencontainers/runtime-spec/specs-go", "golang.org/x/sys/unix"},
	"sysfs":    {"golang.org/x/sys/unix"},
}

// TestImports: packages import only what the layout in CONTRIBUTING.md allows. The runtime contains
// nothing of the operator's tool and of fixtures.
func TestImports(t *testing.T) {
	out, err := exec.Command("go", "list", "-json=ImportPath,Imports,Standard", module+"/...").Output()
	require.NoError(t, err)
	seen := map[string]bool{}
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		folder, _, _ := strings.Cut(name, "/")
		require.Contains(t, folders, folder, "%s: a new top-level directory", name)
		seen[folder] = true
		for _, imported := range p.Imports {
			ours, isOurs := strings.CutPrefix(imported, module+"/")
			other, _, _ := strings.Cut(ours, "/")
			switch {
			case isOurs && other == folder:
			case isOurs:
				assert.Contains(t, slices.Concat(folders[folder], further[name]), other, "%s imports %s", name, ours)
			case folder != "cmd" && strings.Contains(strings.Split(imported, "/")[0], "."):
				assert.Contains(t, libraries[folder], imported, "%s imports %s", name, imported)
			}
		}
	}
	assert.Len(t, seen, len(folders))
	for _, p := range closure(t) {
		name := strings.TrimPrefix(p.ImportPath, module+"/")
		for _, other := range []string{"fixtures", "cmd/nvsysfs", "cmd/internal/cdi", "cmd/internal/configure", "cmd/internal/doctor", "cmd/internal/learn"} {
			assert.False(t, name == other || strings.HasPrefix(name, other+"/"), "%s is in the runtime", name)
		}
	}
}

// TestExamples: each package that others can import has an example.
func TestExamples(t *testing.T) {
	out, err := exec.Command("go", "list", "-f", "{{if ne .Name \"main\"}}{{.ImportPath}} {{.Dir}}{{end}}", module+"/...").Output()
	require.NoError(t, err)
	packages := 0
	for line := range strings.Lines(string(out)) {
		name, dir, _ := strings.Cut(strings.TrimSpace(line), " ")
		if strings.Contains(name, "/internal/") {
			continue
		}
		packages++
		tests, err := filepath.Glob(filepath.Join(dir, "*_test.go"))
		require.NoError(t, err)
		assert.True(t, slices.ContainsFunc(tests, func(file string) bool { return bytes.Contains(read(t, file), []byte("\nfunc Example")) }), name)
	}
	assert.Greater(t, packages, 10)
}

// checkout copies the files that git has, or would add, to a new directory, in which make can
// build.
func checkout(t *testing.T) string {
	t.Helper()
	need.Program(t, "git")
	dir := filepath.Join(t.TempDir(), "checkout")
	cmd := exec.Command("sh", "-c", `mkdir "$0" && git ls-files -coz --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C "$0"`, dir)
	cmd.Dir = repository
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	return dir
}

// TestMakeHelp: "make help" lists each target with a description, on lines that fit a terminal.
func TestMakeHelp(t *testing.T) {
	cmd := exec.Command(need.Program(t, "make"), "help")
	cmd.Dir = repository
	out, err := cmd.Output()
	require.NoError(t, err)
	var want []string
	for _, m := range regexp.MustCompile(`(?m)^([^\s:]+):.*## `).FindAllSubmatch(read(t, filepath.Join(repository, "Makefile")), -1) {
		want = append(want, string(m[1]))
	}
	var got []string
	for line := range strings.Lines(string(out)) {
		assert.LessOrEqual(t, len(line), len("\n")+80, "%s", line)
		if target, ok := strings.CutPrefix(line, "  "); ok {
			got = append(got, strings.Fields(target)[0])
		}
	}
	assert.Equal(t, want, got)
	assert.Contains(t, got, "help")
}

// TestMakeInstall: where "make install" puts files, that they work from there, and that the units
// name these paths.
func TestMakeInstall(t *testing.T) {
	dir, dest := checkout(t), t.TempDir()
	cmd := exec.Command(need.Program(t, "make"), "install", "PREFIX=/opt/gpu", "DESTDIR="+dest)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)

	const name = "nvidia-container-runtime-experimental"
	want := map[string]fs.FileMode{
		"bin/nvidia-container-runtime.experimental": 0o755,
		"bin/nvsysfs":                                  0o755,
		"share/" + name + "/config.toml":               0o644,
		"share/bash-completion/completions/nvsysfs":    0o644,
		"share/fish/vendor_completions.d/nvsysfs.fish": 0o644,
		"share/zsh/site-functions/_nvsysfs":            0o644,
	}
	pages, err := filepath.Glob(filepath.Join(dir, "cmd/internal/dist/man/*"))
	require.NoError(t, err)
	require.NotEmpty(t, pages)
	for _, page := range pages {
		want["share/man/man"+filepath.Ext(page)[1:]+"/"+filepath.Base(page)] = 0o644
	}
	for from, to := range map[string]string{"": "share/doc/" + name, "docs": "share/doc/" + name, "cmd/internal/dist/systemd": "lib/systemd/system"} {
		files, err := os.ReadDir(filepath.Join(dir, from))
		require.NoError(t, err)
		for _, f := range files {
			if from != "" || slices.Contains([]string{"LICENSE", "README.md", "CHANGELOG.md", "SECURITY.md"}, f.Name()) {
				want[to+"/"+f.Name()] = 0o644
			}
		}
	}
	got := map[string]fs.FileMode{}
	require.NoError(t, filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		rest, below := strings.CutPrefix(path, dest+"/opt/gpu/")
		assert.True(t, below, "%s is not below the prefix", path)
		got[rest] = info.Mode()
		return err
	}))
	assert.Equal(t, want, got)

	at := filepath.Join(dest, "opt/gpu")
	for _, p := range []string{"nvidia-container-runtime.experimental --version", "nvsysfs version"} {
		words := strings.Fields(p)
		cmd := exec.Command(filepath.Join(at, "bin", words[0]), words[1:]...)
		cmd.Env = []string{"PATH=/nonexistent"}
		out, err := cmd.CombinedOutput()
		require.NoError(t, err, "%s: %s", p, out)
		assert.Regexp(t, `^`+regexp.QuoteMeta(words[0])+` version \d`, string(out))
	}
	units, err := filepath.Glob(filepath.Join(at, "lib/systemd/system/*.service"))
	require.NoError(t, err)
	require.NotEmpty(t, units)
	for _, unit := range units {
		assert.Regexp(t, `(?m)^ExecStart=/opt/gpu/bin/nvsysfs `, string(read(t, unit)), "%s", unit)
	}
	for _, f := range []string{"bash-completion/completions/nvsysfs", "fish/vendor_completions.d/nvsysfs.fish", "zsh/site-functions/_nvsysfs"} {
		assert.Contains(t, string(read(t, filepath.Join(at, "share", f))), "nvsysfs", "%s", f)
	}
}

// TestForms: GitHub's forms and workflow are YAML, ask for the machine where they should, and name
// only things that exist.
func TestForms(t *testing.T) {
	forms, err := filepath.Glob(filepath.Join(repository, ".github/ISSUE_TEMPLATE/*.yml"))
	require.NoError(t, err)
	require.Greater(t, len(forms), 1)
	for _, form := range forms {
		text := read(t, form)
		var f struct {
			Name, Description string
			Body              []struct {
				Type, ID   string
				Attributes map[string]any
			}
			Links []struct{ Name, URL, About string } `yaml:"contact_links"`
		}
		require.NoError(t, yaml.Unmarshal(text, &f), "%s", form)
		if filepath.Base(form) == "config.yml" {
			assert.NotEmpty(t, f.Links)
			continue
		}
		assert.NotEmpty(t, f.Name, "%s", form)
		assert.NotEmpty(t, f.Description, "%s", form)
		assert.Contains(t, string(text), "`nvsysfs capture --scrub machine.txtar`", "%s", form)
		ids := map[string]bool{}
		for _, item := range f.Body {
			assert.Contains(t, []string{"markdown", "textarea", "input", "checkboxes", "dropdown"}, item.Type, "%s", form)
			if item.Type != "markdown" {
				assert.NotEmpty(t, item.Attributes["label"], "%s", form)
				assert.False(t, item.ID == "" || ids[item.ID], "%s: id %q", form, item.ID)
				ids[item.ID] = true
			}
		}
		namesWhatIsThere(t, form, string(text))
	}
	var workflow struct {
		Jobs map[string]struct{ Steps []struct{ Uses, Run string } }
	}
	require.NoError(t, yaml.Unmarshal(read(t, filepath.Join(repository, ".github/workflows/ci.yml")), &workflow))
	steps := workflow.Jobs["run"].Steps
	require.NotEmpty(t, steps)
	assert.Equal(t, ".ci/run", steps[len(steps)-1].Run)
}

// TestContributing: what CONTRIBUTING.md names exists.
func TestContributing(t *testing.T) {
	text := string(read(t, filepath.Join(repository, "CONTRIBUTING.md")))
	namesWhatIsThere(t, "CONTRIBUTING.md", text)
	for folder := range folders {
		assert.Contains(t, text, "`"+folder+"`")
	}
	for _, m := range regexp.MustCompile(`\]\(([^)#:]+)\)`).FindAllStringSubmatch(text, -1) {
		assert.FileExists(t, filepath.Join(repository, m[1]))
	}
}

// toolHelp is what "nvsysfs COMMAND --help" prints.
func toolHelp(t *testing.T, command string) string {
	t.Helper()
	tool, err := buildTool()
	require.NoError(t, err)
	out, err := exec.Command(tool, command, "--help").CombinedOutput()
	require.NoError(t, err, "nvsysfs %s: %s", command, out)
	return string(out)
}

var buildTool = sync.OnceValues(func() (string, error) {
	path := filepath.Join(common.dir, "nvsysfs")
	out, err := exec.Command("go", "build", "-o", path, "../../nvsysfs").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("building nvsysfs: %w: %s", err, out)
	}
	return path, nil
})

// namesWhatIsThere checks that the things exist that a text has in backquotes or in indented lines:
// make targets, tests or prefixes of their names, paths with a slash, environment variables, and
// commands of nvsysfs with their flags.
func namesWhatIsThere(t *testing.T, where, text string) {
	t.Helper()
	var sources strings.Builder // all that can have a test, a target or a variable in it
	require.NoError(t, filepath.WalkDir(repository, func(path string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && (d.Name() == ".git" || d.Name() == ".cache" || d.Name() == "dist" && filepath.Dir(path) == repository):
			return filepath.SkipDir
		case d.Type().IsRegular() && (strings.HasSuffix(path, "_test.go") || strings.Contains(path, "/.ci/") || d.Name() == "Makefile"):
			sources.Write(read(t, path))
		}
		return nil
	}))
	source := sources.String()
	path, variable := regexp.MustCompile(`^[\w.-]+(/[\w.-]+)+/?$`), regexp.MustCompile(`\b(?:NVCR_|UPDATE_|GLIBC_)[A-Z_]+\b`)
	test := regexp.MustCompile(`\b(?:Test|Fuzz)[A-Z]\w*`)
	for _, m := range regexp.MustCompile("(?m)`([^`\n]+)`|^    (\\S.*)$").FindAllStringSubmatch(text, -1) {
		code := m[1] + m[2]
		code, _, _ = strings.Cut(code, "  #")
		words := strings.Fields(code)
		for _, name := range test.FindAllString(code, -1) {
			assert.True(t, strings.Contains(source, "func "+name), "%s: there is no %s", where, name) //nolint:testifylint // or all sources would be printed
		}
		for _, name := range variable.FindAllString(code, -1) {
			assert.True(t, strings.Contains(source, name), "%s: nothing reads %s", where, name) //nolint:testifylint // as above
		}
		for i, word := range words {
			switch {
			case word == "make" && i+1 < len(words):
				makefile := string(read(t, filepath.Join(repository, "Makefile")))
				rule, _, _ := strings.Cut(words[i+1], "cmd-") // "docker-cmd-%:" makes docker-cmd-nvsysfs
				known := regexp.MustCompile(`(?m)^(` + regexp.QuoteMeta(words[i+1]) + `|` + regexp.QuoteMeta(rule) + `cmd-%):`).MatchString(makefile)
				assert.True(t, known, "%s: no such target: %s", where, code)
			case word == "nvsysfs" && i+1 < len(words) && i == 0:
				text := toolHelp(t, words[1])
				for _, flag := range words[2:] {
					if strings.HasPrefix(flag, "--") {
						assert.Contains(t, text, flag, "%s: %s", where, code)
					}
				}
			}
		}
		if len(words) == 1 && path.MatchString(code) && !strings.Contains(code, "NAME") {
			_, err := os.Stat(filepath.Join(repository, code))
			assert.NoError(t, err, "%s: %s", where, code)
		}
	}
}
