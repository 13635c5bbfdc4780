// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// maxArchive is what is read of an archive file; the longest one here has 30 KiB.
const maxArchive = 64 << 20

func newUnpack(i invocation) *cobra.Command {
	return &cobra.Command{
		Use:   "unpack FIXTURE|FILE.txtar DIR",
		Short: "unpack a fixture, to use as --root",
		Long: `Unpacks a fixture to DIR, which must be absent or empty. The fixture is a name
from "nvsysfs fixtures", or an archive file, whose name has a slash or ends in
.txtar. Device nodes that may not be made are named on standard error; neither
nvsysfs nor the runtime needs them.`,
		Example: `  nvsysfs unpack a100-mig /tmp/a100
  nvsysfs list --root /tmp/a100`,
		Args:              arguments("FIXTURE", "DIR"),
		ValidArgsFunction: completeFixture,
		RunE:              func(_ *cobra.Command, args []string) error { return runUnpack(i, args[0], args[1]) },
	}
}

func runUnpack(i invocation, name, dir string) error {
	machine, err := loadMachine(name)
	if err != nil {
		return err
	}
	skipped, err := machine.Unpack(dir, fixtures.UnpackOptions{})
	if err != nil {
		return err
	}
	return tellSkipped(i.stderr, skipped)
}

func loadMachine(name string) (fixtures.Archive, error) {
	if !strings.Contains(name, "/") && !strings.HasSuffix(name, ".txtar") {
		machine, err := fixtures.Load(name)
		if errors.Is(err, fs.ErrNotExist) {
			return fixtures.Archive{}, fmt.Errorf("%w\nAn archive file is given with a slash in its name, or ends in .txtar", err)
		}
		return machine, err
	}
	info, err := os.Stat(name)
	if err != nil {
		return fixtures.Archive{}, err
	}
	if !info.Mode().IsRegular() {
		return fixtures.Archive{}, fmt.Errorf("%q: not a regular file", name)
	}
	f, err := os.Open(name)
	if err != nil {
		return fixtures.Archive{}, err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxArchive+1))
	if err != nil {
		return fixtures.Archive{}, err
	}
	if len(data) > maxArchive {
		return fixtures.Archive{}, fmt.Errorf("%q: larger than %d bytes", name, maxArchive)
	}
	machine, err := fixtures.Parse(data)
	if err != nil {
		return fixtures.Archive{}, fmt.Errorf("%q: %w", name, err)
	}
	return machine, nil
}

func tellSkipped(w io.Writer, skipped []string) error {
	if len(skipped) == 0 {
		return nil
	}
	_, err := fmt.Fprintf(w, "nvsysfs: not allowed to make device nodes, left out: %s\n", strings.Join(skipped, " "))
	return err
}
