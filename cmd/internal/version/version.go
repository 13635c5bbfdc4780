// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package version tells which build of the programs this is.
package version

import "runtime/debug"

// Set by the linker (see the Makefile); else taken from what the Go
// toolchain recorded.
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
