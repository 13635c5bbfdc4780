// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package enginetest tests nvidia-container-runtime.experimental with real engines: dockerd,
// containerd, containerd's CRI plugin and podman. The GPUs come from fixtures. It contains only
// tests.
//
// The tests need root and the engines' packages, but do not use the engines that run on the
// machine: each test has its own mount and PID namespaces with a private /run and /etc, and starts
// its own daemons there. Everything stops with the test, whatever goes wrong.
package enginetest
