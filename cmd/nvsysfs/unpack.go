// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fixture"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func newUnpack(i invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "unpack FIXTURE|FILE.txtar DIR",
		Short: "unpack a fixture, to use as --root",
		Long: `Unpacks a fixture to DIR, which must be empty or not exist. The fixture is a
name from "nvsysfs fixture list", or an archive file, whose name has a slash or
ends in .txtar. Device nodes that cannot be created are listed on standard
error; neither nvsysfs nor the runtime needs them.`,
		Example: `  nvsysfs unpack a100-mig /tmp/a100
  nvsysfs list --root /tmp/a100`,
		Args:              arguments("FIXTURE", "DIR"),
		ValidArgsFunction: completeFixture,
		RunE:              func(_ *cobra.Command, args []string) error { return runUnpack(i, args[0], args[1]) },
	}
}

func runUnpack(i invocation, name, dir string) error {
	machine, err := fixture.Open(name)
	if err != nil {
		return err
	}
	skipped, err := machine.Unpack(dir, fixtures.UnpackOptions{})
	if err != nil {
		return err
	}
	return tellSkipped(i.stderr, skipped)
}

func tellSkipped(w io.Writer, skipped []string) error {
	if len(skipped) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "nvsysfs: not allowed to create device nodes, skipped: %s\n", strings.Join(skipped, " "))
	return err
}
