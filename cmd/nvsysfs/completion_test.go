// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func completionScript(t *testing.T, shell string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.NoError(t, run([]string{"completion", shell}, nil, &out, &errs))
	assert.Empty(t, errs.String())
	return out.String()
}

// TestComplete runs the hidden command that the completion scripts of all shells run. The number at
// the end of its output is a directive: 4 no file names, 16 only directories, 0 file names as well.
func TestComplete(t *testing.T) {
	all := strings.Join(fixtures.Names(), "\n") + "\n" // shells filter by prefix
	for _, tt := range []struct {
		name  string
		words []string
		want  string
	}{
		{"a command", []string{"co"}, "completion\nconfig\nconfigure\n:4\n"},
		{"flags", []string{"list", "--j"}, "--json\n:4\n"},
		{"an engine", []string{"configure", "c"}, "containerd\ncrio\n:4\n"},
		{"a flag of one engine", []string{"configure", "docker", "--gp"}, "--gpus\n:4\n"},
		{"a flag of another engine", []string{"configure", "crio", "--gp"}, ":4\n"},
		{"a directory", []string{"list", "--root", ""}, ":16\n"},
		{"a file", []string{"configure", "docker", "--config", ""}, ":0\n"},
		{"a fixture", []string{"demo", "--fixture=t"}, all + ":4\n"},
		{"a fixture or a file", []string{"unpack", "t"}, all + ":0\n"},
		{"one of a few values", []string{"cdi", "generate", "--format", "j"}, "yaml\njson\n:4\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			require.NoError(t, run(append([]string{"__completeNoDesc"}, tt.words...), nil, &out, io.Discard))
			assert.Equal(t, tt.want, out.String())
		})
	}
}

// TestShellsReadCompletion checks only the syntax of the scripts: cobra generates them, and
// TestComplete tests what they offer.
func TestShellsReadCompletion(t *testing.T) {
	for _, shell := range []string{"bash", "zsh", "fish"} {
		t.Run(shell, func(t *testing.T) {
			cmd := exec.Command(need.Program(t, shell), "-n", "/dev/stdin")
			cmd.Stdin = strings.NewReader(completionScript(t, shell))
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
		})
	}
}

// TestHelp checks that the help of each command has a description, two examples, and no line longer
// than 80 columns.
func TestHelp(t *testing.T) {
	forEach(newRoot(invocation{}), func(cmd *cobra.Command) {
		if cmd.Hidden || slices.Contains([]string{"completion", "help", "version"}, strings.Fields(cmd.CommandPath() + " x x")[1]) {
			return
		}
		var out bytes.Buffer
		require.NoError(t, run(append(strings.Fields(cmd.CommandPath())[1:], "--help"), nil, &out, io.Discard))
		for line := range strings.Lines(out.String()) {
			assert.LessOrEqual(t, utf8.RuneCountInString(strings.TrimSuffix(line, "\n")), 80, "%s: %s", cmd.CommandPath(), line)
		}
		if cmd.HasParent() {
			assert.NotEmpty(t, cmd.Long, cmd.CommandPath())
			assert.Equal(t, 2, strings.Count("\n"+cmd.Example, "\n  "), cmd.CommandPath())
		}
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			assert.NotEmpty(t, f.Usage, "%s --%s", cmd.CommandPath(), f.Name)
		})
	})
}

// TestEmptyRoot checks that no command takes an empty --root, which a script with an unset variable
// passes, as this machine.
func TestEmptyRoot(t *testing.T) {
	tried := 0
	forEach(newRoot(invocation{}), func(cmd *cobra.Command) {
		if !cmd.Runnable() || cmd.Flags().Lookup("root") == nil {
			return
		}
		words := strings.Fields(cmd.CommandPath())[1:]
		for _, word := range strings.Fields(cmd.Use)[1:] {
			if 'A' <= word[0] && word[0] <= 'Z' {
				words = append(words, filepath.Join(t.TempDir(), "x"))
			}
		}
		tried++
		var out, errs bytes.Buffer
		err := run(append(words, "--root", ""), nil, &out, &errs)
		require.Error(t, err, words)
		assert.Contains(t, err.Error(), `--root is empty: omit it for this machine`, words)
		assert.Equal(t, 2, exitCode(err, &errs), words)
		assert.Empty(t, out.String(), words)
	})
	assert.Greater(t, tried, 10)
}
