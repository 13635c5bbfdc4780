// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// TestCheckHostNodes checks that a container in a user namespace needs the host's device nodes,
// except those that the driver works without.
func TestCheckHostNodes(t *testing.T) {
	need.Root(t)
	all := []sysfs.Node{
		{Path: "/dev/dri/card0", Major: 226, Minor: 0, Mode: 0o666},
		{Path: "/dev/nvidia-caps/nvidia-cap12", Major: 236, Minor: 12, Mode: 0o444},
		{Path: "/dev/nvidia-modeset", Major: 195, Minor: 254, Mode: 0o660, GID: 44},
		{Path: "/dev/nvidia-uvm", Major: 508, Minor: 0, Mode: 0o666},
		{Path: "/dev/nvidia-uvm-tools", Major: 508, Minor: 1, Mode: 0o666},
	}
	const binds = "a user namespace needs the host's "
	const again = " as root on the host, then start the container again"
	for _, tt := range []struct {
		name    string
		lacks   string // the node that the host does not have
		has     func(t *testing.T, name string)
		classes driver.Class
		user    bool // check as an unprivileged user
		note    string
		err     string
	}{
		{name: "all present", classes: driver.All},
		{
			name: "no display, no modeset", lacks: "/dev/nvidia-modeset", classes: driver.Compute | driver.Graphics,
			note: "/dev/nvidia-modeset is left out, as the host's cannot be used in a user namespace: it does not exist",
		},
		{
			name: "a display needs modeset", lacks: "/dev/nvidia-modeset", classes: driver.Display,
			err: binds + "/dev/nvidia-modeset, character device 195:254: it does not exist; run 'mknod -m 660 /dev/nvidia-modeset c 195 254 && chgrp 44 /dev/nvidia-modeset'" + again,
		},
		{
			name: "tools", lacks: "/dev/nvidia-uvm-tools", classes: driver.All,
			note: "/dev/nvidia-uvm-tools is left out, as the host's cannot be used in a user namespace: it does not exist",
		},
		{
			name: "DRM", lacks: "/dev/dri/card0", classes: driver.All,
			note: "/dev/dri/card0 is left out, as the host's cannot be used in a user namespace: it does not exist",
		},
		{
			name: "a capability", lacks: "/dev/nvidia-caps/nvidia-cap12",
			err: binds + "/dev/nvidia-caps/nvidia-cap12, character device 236:12: it does not exist; run 'mkdir -p /dev/nvidia-caps && mknod -m 444 /dev/nvidia-caps/nvidia-cap12 c 236 12'" + again,
		},
		{
			name: "an old major", lacks: "/dev/nvidia-uvm", has: func(t *testing.T, name string) {
				require.NoError(t, unix.Mknod(name, unix.S_IFCHR|0o666, int(unix.Mkdev(510, 0))))
			},
			err: binds + "/dev/nvidia-uvm, character device 508:0: it is character device 510:0; run 'rm -r /dev/nvidia-uvm && mknod -m 666 /dev/nvidia-uvm c 508 0'" + again,
		},
		{
			name: "a file", lacks: "/dev/nvidia-uvm", has: func(t *testing.T, name string) {
				require.NoError(t, os.WriteFile(name, nil, 0o600))
			},
			err: binds + "/dev/nvidia-uvm, character device 508:0: regular file; run 'rm -r /dev/nvidia-uvm && mknod -m 666 /dev/nvidia-uvm c 508 0'" + again,
		},
		{
			name: "unreadable directory", user: true, has: func(t *testing.T, name string) {
				require.NoError(t, os.Chmod(filepath.Join(filepath.Dir(name), "nvidia-caps"), 0o700))
			},
			err: binds + "/dev/nvidia-caps/nvidia-cap12, character device 236:12: stat ROOT/dev/nvidia-caps/nvidia-cap12: permission denied; run 'chmod a+x /dev/nvidia-caps'" + again,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := os.MkdirTemp("", "nodes")
			require.NoError(t, err)
			t.Cleanup(func() { assert.NoError(t, os.RemoveAll(dir)) })
			require.NoError(t, os.Chmod(dir, 0o755))
			var want []sysfs.Node
			for _, n := range all {
				name := filepath.Join(dir, n.Path)
				require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
				if n.Path != tt.lacks {
					require.NoError(t, unix.Mknod(name, unix.S_IFCHR|uint32(n.Mode), int(unix.Mkdev(uint32(n.Major), uint32(n.Minor)))))
					want = append(want, n)
				}
			}
			if tt.has != nil {
				tt.has(t, filepath.Join(dir, "dev/nvidia-uvm"))
			}
			p := Plan{Nodes: all}
			if tt.user {
				runtime.LockOSThread()
				defer runtime.UnlockOSThread()
				_, err := unix.SetfsuidRetUid(65534)
				require.NoError(t, err)
			}
			err = p.checkHostNodes(sysfs.Root(dir), tt.classes)
			if tt.user {
				_, err := unix.SetfsuidRetUid(0)
				require.NoError(t, err)
			}
			if tt.err != "" {
				require.Error(t, err)
				assert.Equal(t, tt.err, strings.ReplaceAll(err.Error(), dir, "ROOT"))
				return
			}
			require.NoError(t, err)
			assert.Equal(t, want, p.Nodes)
			if tt.note != "" {
				assert.Equal(t, []string{tt.note}, p.Notes)
			}
		})
	}
}
