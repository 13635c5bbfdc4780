// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// A file beside config.json replaces that of an earlier start and has the container's SELinux label.
func TestWriteBeside(t *testing.T) {
	bundle := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(
		`{"linux":{"mountLabel":"system_u:object_r:container_file_t:s0:c1,c2"}}`), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(bundle, "nvidia-x"), []byte("earlier"), 0o600))
	doc, err := Open(bundle)
	require.NoError(t, err)
	defer doc.Close()
	facts, err := doc.Facts()
	require.NoError(t, err)

	path, err := doc.WriteBeside("nvidia-x", []byte("now"), facts.MountLabel)
	require.NoError(t, err)
	assert.Equal(t, filepath.Join(bundle, "nvidia-x"), path)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, "now", string(data))
	info, err := os.Stat(path)
	require.NoError(t, err)
	assert.Equal(t, os.FileMode(0o644), info.Mode())

	_, err = doc.WriteBeside("config.json", nil, "")
	require.ErrorContains(t, err, "not the name of a file of ours")

	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, whom a kernel without SELinux lets set labels")
	}
	var label [256]byte
	n, err := unix.Getxattr(path, "security.selinux", label[:])
	require.NoError(t, err)
	assert.Equal(t, "system_u:object_r:container_file_t:s0:c1,c2", string(label[:n]))
}
