// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

//go:build !amd64

package securitytest

import (
	"errors"
	"os"
)

// canInject reports whether faults can be injected on this architecture.
const canInject = false

var fileCalls, ownCalls map[uint64]string

func inject(string, []string, []string, string, *os.File, fault) (seen, error) {
	return seen{}, errors.ErrUnsupported
}
