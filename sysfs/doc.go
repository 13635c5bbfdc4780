// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package sysfs reads what the NVIDIA kernel driver exposes in /proc, /sys and /dev, and selects
// GPUs.
//
// Start with [Read], which returns the [Inventory] of a [Root], and [Inventory.Select], which finds
// the devices that a user named. Methods of Inventory return the [Node] list that a container needs
// for them.
//
// Device numbers come from /proc; /dev only shows whether a node exists and who may use it. No GPU
// is ever opened.
package sysfs
