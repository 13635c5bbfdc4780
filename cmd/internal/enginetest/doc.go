// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package enginetest tests nvidia-container-runtime.experimental below real
// engines: dockerd, containerd, containerd's CRI plugin and podman, with the
// machine's GPUs taken from a fixture. There is nothing in it but tests.
//
// They need root and the engines' packages, and use nothing of the machine's
// own engines: each test has a mount namespace and a PID namespace of its
// own, with a private /run and /etc, and starts the daemons it needs there,
// on sockets and directories of its own. Whatever goes wrong, all of it ends
// with the test.
package enginetest
