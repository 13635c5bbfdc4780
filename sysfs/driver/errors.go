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

// NotFoundError says that no library of the driver was found.
type NotFoundError struct {
	Version  string
	Searched []string // the cache and the directories looked into
	Refused  []string // libraries that could not be used, with the reason after a colon
}

func (e *NotFoundError) Error() string {
	text := fmt.Sprintf("no library of driver version %s found in %s", e.Version, strings.Join(e.Searched, ", "))
	if len(e.Refused) > 0 {
		text += "; not usable: " + strings.Join(e.Refused, ", ")
	}
	return text
}

// quote makes a name fit for a message: shortened and without control characters.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
