// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestLearntOwners checks that files of nobody are trusted only inside a user namespace, where the
// machine's root may have no ID of its own and appears as nobody.
func TestLearntOwners(t *testing.T) {
	assert.Equal(t, []int{0, os.Geteuid()}, learntOwners(false))
	assert.Equal(t, []int{0, os.Geteuid(), 65534}, learntOwners(true))
}
