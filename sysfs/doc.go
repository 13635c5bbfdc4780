// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package sysfs reads what the NVIDIA kernel driver shows of a machine in /proc, /sys and /dev,
// and picks GPUs from it.
//
// Most callers want [Read], which makes the [Inventory] of a [Root], and [Inventory.Select], which finds the
// devices that a user named. The methods of Inventory that return a [Node] list say what a container needs
// for them.
//
// Numbers of device nodes come from /proc; /dev only shows who may use a node, and whether
// it exists. No GPU is ever opened.
package sysfs
