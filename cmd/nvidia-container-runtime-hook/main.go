// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command nvidia-container-runtime-hook does nothing. dockerd accepts "docker run --gpus" only if it
// finds a command of this name in its PATH (daemon/nvidia_linux.go in moby), and adds it to the container
// as a prestart hook; nvidia-container-runtime.experimental takes the hook out again and gives the
// container its GPUs itself.
//
// Under another runtime it is run as a hook, with the container's state on stdin. It reads
// that to its end, says on stderr what it is, and succeeds.
package main

import (
	"io"
	"os"
)

// The first sentence is how "nvsysfs configure docker --gpus" tells this command from the classic hook.
const message = "nvidia-container-runtime-hook: this is a placeholder that belongs to nvidia-container-runtime.experimental.\n" +
	"It does nothing, but dockerd wants to find a command of this name before it accepts --gpus.\n" +
	"Seen in a container's hooks, it means: the container was started with --gpus but not with\n" +
	"--runtime=nvidia-experimental, and has no GPU. \"nvsysfs configure docker --remove --gpus\" removes it.\n"

// maxState is far more than a container's state has: what follows is left to the pipe.
const maxState = 16 << 20

func main() {
	run(os.Args, os.Stdin, os.Stderr)
}

// run reads the state only where there is an argument, as there is for a hook ("prestart"): called by hand, it waits for nobody.
func run(args []string, stdin io.Reader, stderr io.Writer) {
	_, _ = io.WriteString(stderr, message)
	if len(args) > 1 {
		_, _ = io.Copy(io.Discard, io.LimitReader(stdin, maxState))
	}
}
