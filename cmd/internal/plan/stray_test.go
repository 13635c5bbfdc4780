// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// TestNodesWithoutGPUs checks the error inside LXD or Incus with nvidia.runtime, which provides
// device nodes but hides the list of GPUs.
func TestNodesWithoutGPUs(t *testing.T) {
	if os.Geteuid() != 0 {
		need.Missing(t, "root, to make a device node")
	}
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "dev"), 0o755))
	require.NoError(t, unix.Mknod(filepath.Join(dir, "dev/nvidia0"), unix.S_IFCHR|0o666, int(unix.Mkdev(195, 0))))
	inv := sysfs.Inventory{Majors: sysfs.Majors{Nvidia: 195}}
	_, err := inv.Select(sysfs.Query{All: true})
	assert.EqualError(t, withUnbound(sysfs.Root(dir), inv, err), `device "all": the driver has no GPU; there is no GPU to choose from, although /dev/nvidia0 exists: `+
		`this is a container whose runtime hides /proc/driver/nvidia/gpus, as LXD and Incus do with nvidia.runtime; `+
		`set nvidia.runtime=false there, or run 'umount /proc/driver/nvidia' here`)
}
