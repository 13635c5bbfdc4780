// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package spec reads and edits the config.json of an OCI bundle.
//
// A [Document] is opened with [Open] (or made from bytes with [Parse]). What matters to GPUs is
// read from it with [Document.Facts] and [Document.Request]; [Document.Apply] puts devices, mounts
// and the rest in; [Document.Save] replaces the file. The types of runtime-spec are used for what
// is added only. What is already there is never decoded and encoded again: it stays in the file
// byte for byte, known to us or not.
//
// The package knows nothing of NVIDIA's files and does not look at the machine.
package spec
