// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
)

// TestMadeByUs checks that links made by any version of this program are recognized: they follow
// the driver, while the image's own links stay.
func TestMadeByUs(t *testing.T) {
	root := t.TempDir()
	for name, text := range map[string]string{"lib/libcuda.so.1.0": "the image's", "lib/libcuda.so.535.1": "", "lib/libfoo.so": ""} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o644))
	}
	image, err := rootfs.Open(root)
	require.NoError(t, err)
	defer image.Close()
	for target, want := range map[string]bool{
		Dir + "/libcuda.so.1":   true,
		Dir + "-2/libcuda.so.1": false,
		"libcuda.so.470.1":      true,  // no such file
		"libcuda.so.535.1":      true,  // the empty file that a mount left behind
		"libcuda.so.1.0":        false, // a file with content
		"libfoo.so":             false,
		"libfoo.so.1":           false,
		"libcuda.so.d/libfoo":   false, // no such file, in another directory
		"/opt/libcuda.so.1":     false,
		"../libcuda.so.1":       false,
	} {
		assert.Equal(t, want, madeByUs(image, "/lib", target), target)
	}
}
