// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
)

// The machine's root has no number of its own in a user namespace; elsewhere
// nobody is just somebody.
func TestLearntOwners(t *testing.T) {
	assert.Equal(t, []int{0, os.Geteuid()}, learntOwners(false))
	assert.Equal(t, []int{0, os.Geteuid(), 65534}, learntOwners(true))
}
