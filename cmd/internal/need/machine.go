// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package need

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// Machine unpacks a fixture into a new directory. If nodes is set, it also creates the device
// nodes, which needs root.
func Machine(t testing.TB, fixture string, nodes bool) string {
	t.Helper()
	a, err := fixtures.Load(fixture)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "machine")
	skipped, err := a.Unpack(dir, fixtures.UnpackOptions{NoDevices: !nodes})
	require.NoError(t, err)
	if nodes {
		require.Empty(t, skipped)
	}
	return dir
}

// Files writes files below dir. "-> x" creates a link, "absent" removes the file, a name that ends
// in a slash is a directory, and a file that starts with #! is executable.
func Files(t testing.TB, dir string, tree map[string]string) {
	t.Helper()
	for name, content := range tree {
		file := filepath.Join(dir, name)
		if content == "absent" {
			require.NoError(t, os.RemoveAll(file))
			continue
		}
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		target, isLink := strings.CutPrefix(content, "-> ")
		switch {
		case isLink:
			require.NoError(t, os.Symlink(target, file))
		case strings.HasSuffix(name, "/"):
			require.NoError(t, os.MkdirAll(file, 0o755))
		case strings.HasPrefix(content, "#!"):
			require.NoError(t, os.WriteFile(file, []byte(content), 0o755)) //nolint:gosec // a program
		default:
			require.NoError(t, os.WriteFile(file, []byte(content), 0o644)) //nolint:gosec // others read it
		}
	}
}
