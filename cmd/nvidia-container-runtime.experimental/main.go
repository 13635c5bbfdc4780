// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command nvidia-container-runtime.experimental stands where a container
// engine expects runc. On create, run and restore it gives the container the NVIDIA
// GPUs and driver files that its environment asks for, by editing the
// bundle's config.json; then, and for every other command at once, it execs
// the low-level runtime with the same arguments and environment.
//
// run.go is the way of the data; start there.
package main

import (
	"os"
	"runtime"
)

// The parent-death signal, which containerd sets for its runtime, belongs to a thread, and the
// kernel clears it in each new one: the exec must be made by the thread that the engine started.
// What else belongs to a thread (signal mask, capabilities, namespaces, priority) new ones inherit.
func init() {
	runtime.LockOSThread()
}

func main() {
	os.Exit(run(os.Args, os.Environ(), os.Stdout, os.Stderr))
}
