// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package sysfs reads what the NVIDIA kernel driver tells about one machine in /proc, /sys and /dev,
// and picks GPUs from it.
//
// Most callers want [Read], which makes the [Inventory] of a [Root], and [Inventory.Select], which finds the
// devices that a user named. What has to be in a container for them is told by the methods of Inventory that
// return a [Node] list.
//
// Numbers of device nodes come from /proc; /dev is only asked who may use a node, and whether
// it is there. No GPU is ever opened.
package sysfs
