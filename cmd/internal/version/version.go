// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package version identifies the build of the programs.
package version

import "runtime/debug"

// The linker sets these (see the Makefile); otherwise Line uses what the Go toolchain recorded.
var (
	version = ""
	commit  = ""
)

// Line returns "program version 0.1.0 (commit 0123456)".
func Line(program string) string {
	v, c := version, commit
	if info, ok := debug.ReadBuildInfo(); ok {
		if v == "" && info.Main.Version != "" {
			v = info.Main.Version
		}
		for _, s := range info.Settings {
			if c == "" && s.Key == "vcs.revision" {
				c = s.Value
			}
		}
	}
	if v == "" {
		v = "(devel)"
	}
	if c == "" {
		c = "unknown"
	}
	return program + " version " + v + " (commit " + c + ")"
}
