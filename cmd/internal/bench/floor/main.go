// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command floor is the minimum that any program in front of a low-level runtime has to do: it execs
// the runtime with its own arguments. It costs what starting a static Go program costs.
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
