// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

const fixturesHelp = `Lists the machines that are built into this program as text archives, with the first sentence on each.
Each name can be given to nvsysfs unpack.`

func runFixtures(i invocation) error {
	if err := i.parse(i.flags(), 0); err != nil {
		return err
	}
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
