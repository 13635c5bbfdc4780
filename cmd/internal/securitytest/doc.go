// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package securitytest contains the tests of the promises in SECURITY.md: hostile images and
// requests, faults, load, and what the source must not contain. They run the built
// nvidia-container-runtime.experimental from outside, as an engine does.
//
// It contains only tests. "make fault" and "make soak" run the long forms of two of them.
package securitytest
