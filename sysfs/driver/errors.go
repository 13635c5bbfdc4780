// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"strconv"
	"strings"
)

// VersionError says that the driver's libraries have other versions than the kernel module: the
// driver was upgraded and the module not reloaded, or vice versa.
type VersionError struct {
	Kernel string   // version of the loaded module
	Found  []string // versions of the libraries, ascending
	Where  []string // a library of each version, in the same order
}

func (e *VersionError) Error() string {
	var found []string
	for i, version := range e.Found {
		found = append(found, fmt.Sprintf("%s (%s)", version, quote(e.Where[i])))
	}
	return fmt.Sprintf("the loaded kernel module has version %s, but the driver's libraries have %s",
		e.Kernel, strings.Join(found, ", "))
}

// NotFoundError says that no library of the driver was found, or only ones that need others.
type NotFoundError struct {
	Version  string
	Searched []string // the cache and directories that were searched
	Absent   []string // those that do not exist
	Refused  []string // libraries that could not be used, with the reason after a colon
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("no libcuda or libnvidia-ml of driver version %s found", e.Version)
	if len(e.Searched) > 0 {
		text += " in " + strings.Join(e.Searched, ", ")
	}
	if len(e.Refused) > 0 {
		text += "; not usable: " + strings.Join(e.Refused, ", ")
	}
	if len(e.Absent) > 0 {
		text += "; looked for and absent: " + strings.Join(e.Absent, ", ")
	}
	return text
}

// DamagedError says that libcuda or libnvidia-ml exists but cannot be loaded: it is empty,
// truncated, or not a library.
type DamagedError struct {
	Version string
	Library string // path, a colon, and what is wrong
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("a library of driver version %s is damaged: %s", e.Version, e.Library)
}

// quote quotes a name for a message, shortened.
func quote(s string) string {
	const most = 300
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
