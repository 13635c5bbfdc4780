// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// knownKeys are the keys that the runtime reads: the tags of the struct that config.toml is decoded into.
func knownKeys(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../plan/config.go", nil, parser.SkipObjectResolution)
	require.NoError(t, err)
	var keys []string
	var collect func(prefix string, s *ast.StructType)
	collect = func(prefix string, s *ast.StructType) {
		for _, field := range s.Fields.List {
			key := prefix + reflect.StructTag(strings.Trim(field.Tag.Value, "`")).Get("toml")
			if table, ok := field.Type.(*ast.StructType); ok {
				collect(key+".", table)
				continue
			}
			keys = append(keys, key)
		}
	}
	ast.Inspect(file, func(n ast.Node) bool {
		if spec, ok := n.(*ast.TypeSpec); ok && spec.Name.Name == "configFile" {
			collect("", spec.Type.(*ast.StructType))
		}
		return true
	})
	slices.Sort(keys)
	require.Contains(t, keys, "nvidia-container-runtime.experimental.sysroot")
	return keys
}

// exampleKey is a key of config.toml as it is packed, commented out.
var exampleKey = regexp.MustCompile(`^#([a-z0-9-]+) = (.+)$`)

// load reads a text as the runtime does.
func load(t *testing.T, text string) (plan.Config, error) {
	t.Helper()
	name := filepath.Join(t.TempDir(), "config.toml")
	require.NoError(t, os.WriteFile(name, []byte(text), 0o600))
	c, err := plan.LoadConfig([]string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + name})
	c.File = ""
	if len(c.LibrarySearchPath) == 0 {
		c.LibrarySearchPath = nil
	}
	return c, err
}

// The example has each key that is known and no other, one line above that says what it does, and the true default: it
// says the same commented out, uncommented, and not there.
func TestExampleConfiguration(t *testing.T) {
	data, err := os.ReadFile("config.toml")
	require.NoError(t, err)
	defaults, err := load(t, "")
	require.NoError(t, err)
	commented, err := load(t, string(data))
	require.NoError(t, err)
	assert.Equal(t, defaults, commented)

	var keys []string
	table, before := "", ""
	all := strings.Split(string(data), "\n")
	for i, line := range all {
		if name, ok := strings.CutPrefix(line, "["); ok {
			table = strings.TrimSuffix(name, "]") + "."
		}
		if m := exampleKey.FindStringSubmatch(line); m != nil {
			assert.Regexp(t, `^# .*[^,]$`, before, "above %s", line)
			keys = append(keys, table+m[1])
			all[i] = m[1] + " = " + m[2]

			// No key takes a date: one that is read makes this an error.
			_, err := load(t, "["+strings.TrimSuffix(table, ".")+"]\n"+m[1]+" = 1979-05-27\n")
			if table == "" {
				_, err = load(t, m[1]+" = 1979-05-27\n")
			}
			assert.Error(t, err, "%s%s is not read", table, m[1])
		} else if line != "" && line[0] != '#' {
			assert.Regexp(t, `^\[[a-z.-]+\]$`, line, "this is in effect")
		}
		before = line
	}
	slices.Sort(keys)
	assert.Equal(t, knownKeys(t), keys)
	uncommented, err := load(t, strings.Join(all, "\n"))
	require.NoError(t, err)
	assert.Equal(t, defaults, uncommented)
}
