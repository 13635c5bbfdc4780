// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/capture"
)

func newCapture(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "capture DIR|FILE.txtar|-",
		Short: "save a machine's GPUs and driver as a fixture",
		Long: `Saves the files that describe the machine's NVIDIA GPUs and driver as a fixture:
an archive if the name ends in .txtar, an archive on standard output for -, else
a tree in a new directory. Libraries and programs become stubs with the same
SONAMEs. Host names, user names, the driver's registry keys and serial numbers
are left out; UUIDs are kept, unless --scrub replaces them consistently. Read
the archive before you publish it.`,
		Example: `  nvsysfs capture --scrub machine.txtar
  nvsysfs capture - | less`,
		Args: arguments("DIR or FILE.txtar"),
	}
	dir := rootFlag(cmd, "")
	scrub := cmd.Flags().Bool("scrub", false, "replace UUIDs")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return runCapture(i, *dir, *scrub, args[0]) }
	return cmd
}

func runCapture(i invocation, dir string, scrub bool, to string) error {
	root, err := i.machine(dir)
	if err != nil {
		return err
	}
	machine, warnings := capture.Machine(root)
	if scrub {
		capture.Scrub(machine)
	}
	for _, warning := range warnings {
		i.warn("%s", warning)
	}
	if to != "-" && !strings.HasSuffix(to, ".txtar") {
		skipped, err := machine.Unpack(to, fixtures.UnpackOptions{})
		return errors.Join(err, tellSkipped(i.stderr, skipped))
	}
	text, err := machine.Format()
	if err != nil {
		return err
	}
	if to == "-" {
		_, err := i.stdout.Write(text)
		return err
	}
	f, err := os.OpenFile(to, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o644)
	switch {
	case errors.Is(err, fs.ErrExist):
		return fmt.Errorf("capture: %q already exists: remove it, or choose another name", to)
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("capture: no directory %q: create it first", filepath.Dir(to))
	case err != nil:
		return fmt.Errorf("capture: %w", err)
	}
	_, err = f.Write(text)
	return errors.Join(err, f.Close())
}
