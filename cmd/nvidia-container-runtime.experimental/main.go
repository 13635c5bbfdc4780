// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command nvidia-container-runtime.experimental takes the place of runc in a container engine. On
// create, run and restore it gives the container the NVIDIA GPUs and driver files that its
// environment requests, by editing the bundle's config.json. Then, and at once for every other
// command, it execs the low-level runtime with the same arguments and environment.
//
// Start reading in run.go.
package main

import (
	"os"
	"runtime"
)

// containerd sets a parent-death signal for its runtime. It belongs to a thread, and new threads do
// not inherit it, so the exec must happen in the thread that the engine started. Everything else
// that belongs to a thread (signal mask, capabilities, namespaces, priority) is inherited.
func init() {
	runtime.LockOSThread()
}

func main() {
	os.Exit(run(os.Args, os.Environ(), os.Stdout, os.Stderr))
}
