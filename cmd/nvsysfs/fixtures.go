// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fixture"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func newFixtures(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fixtures",
		Short: "list the machines that nvsysfs carries",
		Long: `Lists the machines that are built into nvsysfs, with one sentence on each.
"nvsysfs unpack", "nvsysfs demo" and "nvsysfs explain" take their names.
"-o wide" tells their drivers and GPUs.`,
		Example: `  nvsysfs fixtures
  nvsysfs fixtures show a100-mig`,
		Args: noArguments,
	}
	as := outputFlag(cmd, asWide)
	cmd.RunE = func(*cobra.Command, []string) error { return runFixtures(i, *as) }
	cmd.AddCommand(newFixturesShow(i))
	return cmd
}

func newFixturesShow(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "show what one of them is, and its GPUs",
		Long: `Shows what is known of a machine from "nvsysfs fixtures", or of an archive file,
whose name has a slash or ends in .txtar, and its GPUs.`,
		Example: `  nvsysfs fixtures show a100-mig
  nvsysfs fixtures show ./machine.txtar`,
		Args:              arguments("NAME"),
		ValidArgsFunction: completeFixture,
	}
	as := outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		machine, err := readFixture(args[0])
		if err != nil {
			return err
		}
		return as.print(i.stdout, machine, []byte(machine.Description+"\n"+machine.Text()))
	}
	return cmd
}

// shownFixture is a machine as -o json has it.
type shownFixture struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	listing.Listing
}

func readFixture(name string) (shownFixture, error) {
	machine, err := fixture.Open(name)
	if err != nil {
		return shownFixture{}, err
	}
	gpus, err := fixture.GPUs(machine)
	return shownFixture{name, machine.Comment, gpus}, err
}

func runFixtures(i invocation, as outputFormat) error {
	var machines []shownFixture
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	if as == asWide {
		fmt.Fprintln(table, "NAME\tDRIVER\tGPUS\tMIG\tMODEL\tDESCRIPTION")
	}
	for _, name := range fixtures.Names() {
		if as == asTable {
			machine, err := fixtures.Load(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(table, "%s\t%s\n", name, firstSentence(machine.Comment))
			continue
		}
		m, err := readFixture(name)
		if err != nil {
			return err
		}
		machines = append(machines, m)
		driver, model, mig := "", "", 0
		if m.Driver != nil {
			driver = m.Driver.Version
		}
		for _, g := range m.GPUs {
			model, mig = cmp.Or(model, g.Model), mig+len(g.Instances)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n", name, cmp.Or(driver, "-"), len(m.GPUs), mig, cmp.Or(model, "-"), firstSentence(m.Description))
	}
	_ = table.Flush() // to a buffer
	return as.print(i.stdout, machines, out.Bytes())
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
