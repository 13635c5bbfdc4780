// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command floor does what no program in front of a low-level runtime can do
// without: it starts, and execs the runtime with its own arguments. What it
// costs is what a static Go program costs.
package main

import (
	"os"
	"syscall"
)

func main() {
	runtime := os.Getenv("NVIDIA_CONTAINER_RUNTIME_PATH")
	err := syscall.Exec(runtime, append([]string{runtime}, os.Args[1:]...), os.Environ())
	println(err.Error())
	os.Exit(1)
}
