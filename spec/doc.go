// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package spec reads and edits the config.json of an OCI bundle.
//
// [Open] reads a [Document] from a bundle, [Parse] from bytes. [Document.Facts] and [NewRequest]
// extract what matters to GPUs, [Document.Apply] adds devices, mounts and the rest, and
// [Document.Save] replaces the file. The types of runtime-spec are used only for what is added.
// Existing content is never decoded and encoded again: known to us or not, it stays in the file
// byte for byte.
//
// The package knows nothing about NVIDIA's files and does not look at the machine.
package spec
