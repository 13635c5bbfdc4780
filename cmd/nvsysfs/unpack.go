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

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

const unpackHelp = `Makes the files of a machine below DIR, which must be absent or empty. FIXTURE is a name that nvsysfs fixtures lists, or
an archive file, whose name has a slash or ends in .txtar. Device nodes are made where that is allowed, and named on
standard error where it is not; nvsysfs list and the runtime do not need them.`

// maxArchive is what is read of an archive file; the longest one here has 30 KiB.
const maxArchive = 64 << 20

func runUnpack(i invocation) error {
	set := i.flags()
	if err := i.parse(set, 2); err != nil {
		return err
	}
	machine, err := loadMachine(set.Arg(0))
	if err != nil {
		return err
	}
	skipped, err := machine.Unpack(set.Arg(1), fixtures.UnpackOptions{})
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
