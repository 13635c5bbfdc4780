// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	_ "embed"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
	"github.com/spf13/pflag"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// manual is the directory of the manual pages that are packaged.
const manual = "../internal/dist/man"

// tail is the end of the page of nvsysfs, which does not come from the commands.
//
//go:embed testdata/nvsysfs.8.tail
var tail string

// option matches a flag as cobra writes it: its name, its value, and a tab before the text.
var option = regexp.MustCompile(`(?m)(?:^\.PP\n)?^(\\fB-.*\\fP)="?(.*?)"?\n\t`)

// TestManualPages checks the pages of nvsysfs, which are generated from the commands' help. -update
// writes them.
func TestManualPages(t *testing.T) {
	root := newRoot(invocation{})
	escape := strings.NewReplacer("<", `\<`, "*", `\*`)
	forEach(root, func(cmd *cobra.Command) {
		cmd.DisableAutoGenTag = true
		cmd.Hidden = cmd.Hidden || cmd.Name() == "completion" || cmd.Name() == "version"
		text, inList := "", false
		for line := range strings.Lines(cmd.Long) {
			// A list, indented by two spaces, is shown verbatim.
			switch list := strings.HasPrefix(line, "  "); {
			case list && !inList:
				text += "\n  " + line
			case list:
				text += "  " + line
			default:
				text += escape.Replace(line)
			}
			inList = strings.HasPrefix(line, "  ")
		}
		cmd.Long = text
		cmd.InitDefaultHelpFlag()
		cmd.Flags().Lookup("help").Hidden = true
		cmd.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			value, usage := pflag.UnquoteUsage(f)
			if usage = escape.Replace(usage); f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
				usage += " (default " + f.DefValue + ")"
			}
			f.DefValue, f.Usage, f.NoOptDefVal = value, usage, ""
		})
	})
	made, date := t.TempDir(), time.Date(2026, time.November, 1, 0, 0, 0, 0, time.UTC)
	require.NoError(t, doc.GenManTree(root, &doc.GenManHeader{Section: "8", Source: "nvsysfs", Manual: "nvidia-container-runtime", Date: &date}, made))

	pages := func(dir string) map[string]string {
		files, err := filepath.Glob(filepath.Join(dir, "nvsysfs*.8"))
		require.NoError(t, err)
		texts := map[string]string{}
		for _, file := range files {
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			texts[filepath.Base(file)] = string(text)
		}
		return texts
	}
	want := pages(made)
	for name, text := range want {
		text = strings.ReplaceAll(option.ReplaceAllString(text, ".TP\n$1=$2\n"), "\\fP=\n", "\\fP\n")
		want[name] = ".\\\" SPDX-FileCopyrightText: The nvidia-container-runtime authors\n.\\\" SPDX-License-Identifier: Apache-2.0\n" +
			strings.Replace(text, "Nov 2026", "2026-11-01", 1)
	}
	want["nvsysfs.8"] += tail
	if !*update {
		assert.Equal(t, want, pages(manual), "go test ./cmd/nvsysfs -run TestManualPages -update writes the pages")
		return
	}
	for name := range pages(manual) {
		require.NoError(t, os.Remove(filepath.Join(manual, name)))
	}
	for name, text := range want {
		require.NoError(t, os.WriteFile(filepath.Join(manual, name), []byte(text), 0o644))
	}
}
