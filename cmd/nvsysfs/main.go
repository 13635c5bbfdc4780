// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command nvsysfs is the operator's tool for nvidia-container-runtime.experimental: it shows what
// the runtime sees of a machine, sets up container engines, and runs containers on fixtures.
//
// Each command has its own file; newRoot in run.go lists them.
package main

import (
	"os"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fakesmi"
)

func main() {
	// Fixtures use a copy of this program as nvidia-smi.
	if status, ok := fakesmi.Main(os.Args, os.Stdout); ok {
		os.Exit(status)
	}
	os.Exit(exitCode(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr), os.Stderr))
}
