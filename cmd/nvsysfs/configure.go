// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
)

// runConfigure hands all over, the flags included: those differ by engine.
func runConfigure(i invocation) error {
	err := configure.Run(i.args, i.stdout, i.stderr)
	if errors.Is(err, configure.ErrUsage) {
		return &usageError{i.name + ": " + strings.TrimPrefix(err.Error(), configure.ErrUsage.Error()+": ")}
	}
	return err
}
