// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

func page(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join("man", name))
	require.NoError(t, err)
	return string(data)
}

// TestManualKeys checks the keys in the page of config.toml, which are generated from plan.Keys.
func TestManualKeys(t *testing.T) {
	var out strings.Builder
	for _, k := range plan.Keys {
		// In mdoc, each sentence starts a new line.
		doc := strings.ReplaceAll(code.ReplaceAllString(k.Doc, `\(oq$1\(cq`), ". ", ".\n")
		value := strings.Trim(k.Default, `"`)
		switch value {
		case "", "[]":
			value = "none"
		}
		fmt.Fprintf(&out, ".It Cm %s\n%s\nDefault: %s.\n", k.Name, doc, value)
	}
	written(t, filepath.Join("man", "nvidia-container-runtime-config.toml.5"), ".Bl -tag -width Ds\n", ".El\n", out.String())
}

// TestManualVariables checks that the runtime's page has every variable that the sources name, and
// that the page of config.toml has those that override keys.
func TestManualVariables(t *testing.T) {
	variable := regexp.MustCompile(`^(NVIDIA|CUDA|XDG)_[A-Z_]+$|^PATH$`)
	variables := map[string]bool{}
	for _, dir := range []string{"../../nvidia-container-runtime.experimental", "../plan", "../../../spec", "../../../spec/requirement"} {
		names, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		require.NotEmpty(t, names)
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if literal, ok := n.(*ast.BasicLit); ok && literal.Kind == token.STRING {
					if text, err := strconv.Unquote(literal.Value); err == nil && variable.MatchString(text) {
						variables[text] = true
					}
				}
				return true
			})
		}
	}
	require.True(t, variables["NVIDIA_VISIBLE_DEVICES"] && variables["XDG_CONFIG_HOME"] && variables["NVIDIA_CONTAINER_RUNTIME_SYSROOT"])
	runtime, config := page(t, "nvidia-container-runtime.experimental.8"), page(t, "nvidia-container-runtime-config.toml.5")
	for name := range variables {
		assert.Regexp(t, `(?m)^\.(It )?Ev (.*[ ])?`+name, runtime)
		if strings.HasPrefix(name, "NVIDIA_CONTAINER_RUNTIME_") {
			assert.Contains(t, config, ".Ev "+name)
		}
	}
}

// TestManualForm checks that mandoc and groff accept all pages. Those of nvsysfs are generated from
// its commands (see cmd/nvsysfs); the others are mdoc.
func TestManualForm(t *testing.T) {
	pages, err := filepath.Glob("man/*")
	require.NoError(t, err)
	require.Contains(t, pages, "man/nvsysfs.8")
	for _, name := range []string{"man/nvidia-container-runtime-config.toml.5", "man/nvidia-container-runtime.experimental.8"} {
		require.Contains(t, pages, name)
		text := page(t, filepath.Base(name))
		assert.True(t, strings.HasPrefix(text, ".\\\" SPDX-FileCopyrightText: The nvidia-container-runtime authors\n.\\\" SPDX-License-Identifier: Apache-2.0\n.Dd "), name)
		title, section, _ := strings.Cut(strings.ToUpper(filepath.Base(name)), ".")
		if at := strings.LastIndex(section, "."); at >= 0 {
			title, section = title+"."+section[:at], section[at+1:]
		}
		assert.Contains(t, text, "\n.Dt "+title+" "+section+"\n", name)
		// Every page of ours that it refers to exists.
		for _, m := range regexp.MustCompile(`(?m)^\.Xr (nv(?:idia-container|sysfs)\S*) (\d)`).FindAllStringSubmatch(text, -1) {
			assert.Contains(t, pages, "man/"+m[1]+"."+m[2], name)
		}
	}
	for _, tool := range []struct {
		name string
		args []string
	}{
		{"mandoc", []string{"-T", "lint", "-W", "warning"}},
		{"groff", []string{"-mandoc", "-ww", "-z", "-T", "utf8"}},
	} {
		t.Run(tool.name, func(t *testing.T) {
			program := need.Program(t, tool.name)
			for _, name := range pages {
				out, err := exec.Command(program, append(tool.args, name)...).CombinedOutput()
				assert.NoError(t, err, name)
				// Findings about other packages' pages and about style do not count.
				for line := range strings.Lines(string(out)) {
					if !strings.Contains(line, "outdated mandoc.db") && !strings.Contains(line, ": STYLE: ") {
						t.Errorf("%s: %s", name, line)
					}
				}
			}
		})
	}
}
