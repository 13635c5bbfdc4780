// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func newFixtures(i invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "fixtures",
		Short: "list the machines that nvsysfs carries",
		Long: `Lists the machines that are built into nvsysfs, with one sentence on each.
"nvsysfs unpack" and "nvsysfs demo" take their names.`,
		Example: `  nvsysfs fixtures
  nvsysfs demo --fixture a100-mig`,
		Args: noArguments,
		RunE: func(*cobra.Command, []string) error { return runFixtures(i) },
	}
}

func runFixtures(i invocation) error {
	table := tabwriter.NewWriter(i.stdout, 0, 0, 2, ' ', 0)
	for _, name := range fixtures.Names() {
		machine, err := fixtures.Load(name)
		if err != nil {
			return err
		}
		if _, err := fmt.Fprintf(table, "%s\t%s\n", name, firstSentence(machine.Comment)); err != nil {
			return err
		}
	}
	return table.Flush()
}

// firstSentence ends at a period before a blank or a newline.
func firstSentence(text string) string {
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	sentence, _, found := strings.Cut(text, ". ")
	if found {
		return sentence + "."
	}
	return sentence
}
