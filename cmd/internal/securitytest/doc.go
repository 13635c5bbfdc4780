// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package securitytest holds the tests that SECURITY.md names for its promises:
// hostile images and requests, faults, load, and what the source may not
// contain. They look at the built nvidia-container-runtime.experimental
// from outside, as an engine and an image do.
//
// There is no code in it but tests. make fault and make soak run the long
// forms of two of them.
package securitytest
