// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command nvidia-container-runtime.experimental stands where a container
// engine expects runc. On create and run it gives the container the NVIDIA
// GPUs and driver files that its environment asks for, by editing the
// bundle's config.json; then, and for every other command at once, it execs
// the low-level runtime with the same arguments and environment.
//
// run.go is the way of the data; start there.
package main

import "os"

func main() {
	os.Exit(run(os.Args[1:], os.Environ(), os.Stdout, os.Stderr))
}
