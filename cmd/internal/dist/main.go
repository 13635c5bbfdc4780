// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command dist prints the licenses and notices of the modules linked into the programs, for the
// packages. Standard input has a line for each module, as "go list -deps" prints it:
//
//	github.com/sirupsen/logrus v1.10.2 /root/go/pkg/mod/github.com/sirupsen/logrus@v1.10.2
//
// "make dist" and .goreleaser.yaml build the rest of a release; this directory contains the files
// that they install.
package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

func main() {
	list, err := io.ReadAll(os.Stdin)
	if err == nil {
		err = licenses(string(list), os.Stdout)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "dist:", err)
		os.Exit(1)
	}
}

// licenses writes the licenses of the modules in list. A module without one is an error.
func licenses(list string, out io.Writer) error {
	var b bytes.Buffer
	for line := range strings.Lines(list) {
		field := strings.Fields(line)
		if len(field) != 3 {
			return fmt.Errorf("%q is not a path, a version and a directory", line)
		}
		entries, err := os.ReadDir(field[2])
		if err != nil {
			return err
		}
		found := false
		for _, e := range entries {
			if !e.Type().IsRegular() || !isLicense(e.Name()) {
				continue
			}
			text, err := os.ReadFile(filepath.Join(field[2], e.Name()))
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, "=== %s %s: %s\n\n%s\n\n", field[0], field[1], e.Name(), bytes.TrimSpace(text))
			found = true
		}
		if !found {
			return fmt.Errorf("%s %s has no license in %s", field[0], field[1], field[2])
		}
	}
	_, err := b.WriteTo(out)
	return err
}

// isLicense knows the names that Go modules use.
func isLicense(name string) bool {
	name, extension, _ := strings.Cut(strings.ToUpper(name), ".")
	return extension != "GO" && slices.Contains([]string{"LICENSE", "LICENCE", "COPYING", "NOTICE", "PATENTS"}, name)
}
