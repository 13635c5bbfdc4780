// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command nvsysfs is the operator's tool beside nvidia-container-runtime.experimental: it shows
// what the runtime sees of a machine, and keeps machines as text archives.
//
// Like the runtime it only reads files. Each command has a file of its own; newRoot in run.go has
// them all.
package main

import (
	"os"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fakesmi"
)

func main() {
	// A copy of this program is the nvidia-smi of a fixture.
	if status, ok := fakesmi.Main(os.Args, os.Stdout); ok {
		os.Exit(status)
	}
	os.Exit(exitCode(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr), os.Stderr))
}
