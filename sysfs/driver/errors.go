// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"fmt"
	"strconv"
	"strings"
)

// VersionError says that the driver's libraries are there, but of other versions than that of
// the kernel module: the driver was upgraded and the module not reloaded, or the other way round.
type VersionError struct {
	Kernel string   // version of the loaded module
	Found  []string // versions of the libraries, ascending
	Where  []string // a library of each, in the same order
}

func (e *VersionError) Error() string {
	var found []string
	for i, version := range e.Found {
		found = append(found, fmt.Sprintf("%s (%s)", version, quote(e.Where[i])))
	}
	return fmt.Sprintf("the loaded kernel module has version %s, but the driver's libraries have %s",
		e.Kernel, strings.Join(found, ", "))
}

// NotFoundError says that no library of the driver was found, or only such that need others.
type NotFoundError struct {
	Version  string
	Searched []string // the cache and the directories looked into
	Absent   []string // those that are not there
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

// DamagedError says that libcuda or libnvidia-ml is there and cannot be loaded: it is empty, cut
// short, or something else than a library.
type DamagedError struct {
	Version string
	Library string // path, a colon, and what is wrong
}

func (e *DamagedError) Error() string {
	return fmt.Sprintf("a library of driver version %s is damaged: %s", e.Version, e.Library)
}

// quote makes a name fit for a message: shortened and without control characters.
func quote(s string) string {
	const most = 300
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
