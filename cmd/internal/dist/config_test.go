// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// written checks that the part of a file between begin and end is want, a text generated from
// plan.Keys. UPDATE_SCRIPTS=1 rewrites that part.
func written(t *testing.T, file, begin, end, want string) {
	t.Helper()
	data, err := os.ReadFile(file)
	require.NoError(t, err)
	head, rest, found := strings.Cut(string(data), begin)
	require.True(t, found, "%s has no %q", file, begin)
	tail := ""
	if end != "" {
		i := strings.Index(rest, end)
		require.GreaterOrEqual(t, i, 0, "%s has no %q", file, end)
		rest, tail = rest[:i], rest[i:]
	}
	if os.Getenv("UPDATE_SCRIPTS") != "" {
		require.NoError(t, os.WriteFile(file, []byte(head+begin+want+tail), 0o644))
		return
	}
	assert.Equal(t, want, rest, "%s does not match plan.Keys: UPDATE_SCRIPTS=1 updates it", file)
}

// wrap breaks text into lines of at most 110 characters, each after "# ".
func wrap(text string) string {
	var out strings.Builder
	line := "#"
	for word := range strings.FieldsSeq(text) {
		if len(line)+1+len(word) > 112 {
			out.WriteString(line + "\n")
			line = "#"
		}
		line += " " + word
	}
	return out.String() + line + "\n"
}

var code = regexp.MustCompile("`([^`]*)`")

// exampleConfiguration returns every key with its default, commented out.
func exampleConfiguration() string {
	var out strings.Builder
	before := ""
	for _, k := range plan.Keys {
		table, name := "", k.Name
		if i := strings.LastIndex(k.Name, "."); i >= 0 {
			table, name = k.Name[:i], k.Name[i+1:]
		}
		if table != before {
			if table == "nvidia-container-runtime.experimental" {
				out.WriteString("\n# This table overrides the ones above. NVIDIA's programs do not know it.")
			}
			fmt.Fprintf(&out, "\n[%s]\n", table)
			before = table
		}
		// Words that are values are quoted, as in the file.
		doc := code.ReplaceAllStringFunc(k.Doc, func(s string) string {
			if word := s[1 : len(s)-1]; regexp.MustCompile(`^[a-z]+$`).MatchString(word) {
				return `"` + word + `"`
			}
			return s[1 : len(s)-1]
		})
		fmt.Fprintf(&out, "\n%s#%s = %s\n", wrap(doc), name, k.Default)
	}
	return out.String()
}

// load parses a configuration as the runtime does.
func load(t *testing.T, text string) plan.Config {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	c, err := plan.LoadConfig("", []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + name})
	require.NoError(t, err)
	c.File = ""
	if len(c.LibrarySearchPath) == 0 {
		c.LibrarySearchPath = nil
	}
	return c
}

// TestExampleConfiguration checks that the example gives the defaults, as it is and uncommented.
func TestExampleConfiguration(t *testing.T) {
	written(t, "config.toml", "leave the others alone.\n", "", exampleConfiguration())
	data, err := os.ReadFile("config.toml")
	require.NoError(t, err)
	assert.Equal(t, plan.DefaultConfig(), load(t, string(data)))
	uncommented := regexp.MustCompile(`(?m)^#([a-z0-9-]+ = )`).ReplaceAllString(string(data), "$1")
	assert.NotEqual(t, string(data), uncommented)
	assert.Equal(t, plan.DefaultConfig(), load(t, uncommented))
}

// TestConfigurationPage checks that docs/configuration.md lists the same keys.
func TestConfigurationPage(t *testing.T) {
	var out strings.Builder
	for _, k := range plan.Keys {
		doc := k.Doc
		if k.Variable != "" {
			doc += " Variable: `" + k.Variable + "`."
		}
		fmt.Fprintf(&out, "| `%s` | `%s` | %s |\n", k.Name, k.Default, doc)
	}
	written(t, "../../../docs/configuration.md", "| key | default | |\n|---|---|---|\n", "\nOne program", out.String())
}
