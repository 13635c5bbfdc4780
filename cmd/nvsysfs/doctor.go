// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/doctor"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

func newDoctor(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "find problems that keep containers from using GPUs",
		Long: `Checks the machine for problems that keep containers from using GPUs. Each check
prints ok, note (worth knowing) or wrong, and below it the command that fixes
it. Checks that do not apply are left out. The exit status is 1 if anything is
wrong. The ids in JSON do not change between versions.

Nothing is changed. On this machine, the low-level runtime and systemd are run
to get their versions; everything else is read from files.`,
		Example: `  nvsysfs doctor
  nvsysfs doctor --json | jq '.findings[] | select(.state == "wrong")'`,
		Args: noArguments,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return runDoctor(i, *dir, *as) }
	return cmd
}

func runDoctor(i invocation, dir string, as outputFormat) error {
	environ, err := plan.Below(dir, i.environ)
	if err != nil {
		return err
	}
	findings, err := doctor.Run(environ)
	if err != nil {
		return err
	}
	document := struct {
		Findings []doctor.Finding `json:"findings"`
	}{findings}
	if err := as.print(i.stdout, document, printFindings(findings)); err != nil {
		return err
	}
	wrong := 0
	for _, f := range findings {
		if f.State == doctor.Wrong {
			wrong++
		}
	}
	if wrong > 0 {
		return fmt.Errorf("doctor: %s wrong", counted(wrong, "thing is", "things are"))
	}
	return nil
}

func printFindings(findings []doctor.Finding) []byte {
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.State, f.ID, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(table, "\t\t  > %s\n", f.Fix)
		}
	}
	_ = table.Flush() // to a buffer
	return out.Bytes()
}
