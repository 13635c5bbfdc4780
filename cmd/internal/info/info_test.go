// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package info

import (
	"bytes"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// TestOnePage checks that the output for every fixture fits a page and shows each GPU, and that the
// wide output has each device node and each setting.
func TestOnePage(t *testing.T) {
	for _, name := range fixtures.Names() {
		t.Run(name, func(t *testing.T) {
			machine, err := Read(need.Machine(t, name, false), nil)
			require.NoError(t, err)
			page := machine.Text(false)
			assert.LessOrEqual(t, bytes.Count(page, []byte("\n")), 40)
			for _, line := range bytes.Split(page, []byte("\n")) {
				assert.Equal(t, bytes.TrimRight(line, " "), line)
			}
			wide := string(machine.Text(true))
			for _, g := range machine.GPUs {
				assert.Contains(t, string(page), g.Address)
			}
			for _, n := range machine.Nodes {
				assert.Contains(t, wide, n.Path)
			}
			for _, s := range machine.Config.Settings {
				assert.Contains(t, wide, s.Key)
			}
		})
	}
}
