// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// TestClosedNodes checks that the device nodes of another machine cannot be opened, because their
// numbers may belong to a real device here. Its machine has GPUs with major 1, one of them with
// minor 5, which is /dev/zero everywhere. The container must not be able to open that node, neither
// with all privileges nor in a user namespace, where this machine's own node would be bind-mounted.
func TestClosedNodes(t *testing.T) {
	privileged := func(s *specs.Spec) {
		s.Linux.Resources.Devices = []specs.LinuxDeviceCgroup{{Allow: true, Access: "rwm"}}
		every := append(s.Process.Capabilities.Bounding, "CAP_SYS_ADMIN", "CAP_SYS_RAWIO")
		s.Process.Capabilities = &specs.LinuxCapabilities{Bounding: every, Effective: every, Permitted: every}
	}
	userns := func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
		ids := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200000, Size: 65536}}
		s.Linux.UIDMappings, s.Linux.GIDMappings = ids, ids
	}
	const read = `for n in /dev/nvidia5 /dev/nvidiactl /dev/nvidia-uvm; do echo "$n $(stat -c '%F %t:%T' $n) $(head -c1 $n 2>&1 >/dev/null | sed 's/.*: //')"; done`
	const closed = "/dev/nvidia5 character special file 1:5 Permission denied\n" +
		"/dev/nvidiactl character special file 1:ff Permission denied\n" +
		"/dev/nvidia-uvm character special file 1fc:0 Permission denied\n"
	for _, r := range lowLevels(t) {
		for _, tt := range []struct {
			name  string
			open  bool
			nodes bool // the fixture is unpacked with its device nodes
			edit  func(*specs.Spec)
			want  string
		}{
			{name: "open", open: true, want: "/dev/nvidia5 character special file 1:5 \n" +
				"/dev/nvidiactl character special file 1:ff No such device or address\n" +
				"/dev/nvidia-uvm character special file 1fc:0 No such device or address\n"},
			{name: "ordinary", nodes: true, want: closed},
			{name: "privileged", nodes: true, edit: privileged, want: closed},
			{name: "user namespace", nodes: true, edit: userns, want: closed},
			{name: "without nodes", edit: privileged, want: "/dev/nvidia5 character special file 1:3 Permission denied\n" +
				"/dev/nvidiactl character special file 1:3 Permission denied\n" +
				"/dev/nvidia-uvm character special file 1:3 Permission denied\n"},
			{name: "without nodes, user namespace", edit: userns, want: "/dev/nvidia5 character special file 1:3 Permission denied\n" +
				"/dev/nvidiactl character special file 1:3 Permission denied\n" +
				"/dev/nvidia-uvm character special file 1:3 Permission denied\n"},
		} {
			t.Run(r.name+"/"+tt.name, func(t *testing.T) {
				w := newWorld(t, r, "t4", "debian")
				machine, err := fixtures.Load("t4")
				require.NoError(t, err)
				data, err := machine.Format()
				require.NoError(t, err)
				text := strings.NewReplacer("195 nvidia\n", "1 nvidia\n", "195 nvidiactl\n", "1 nvidiactl\n", "Device Minor: \t 0", "Device Minor: \t 5",
					"dev/nvidia0 [char 195:0 ", "dev/nvidia5 [char 1:5 ", "nvidiactl [char 195:255 ", "nvidiactl [char 1:255 ").Replace(string(data))
				machine, err = fixtures.Parse([]byte(text))
				require.NoError(t, err)
				require.NoError(t, os.RemoveAll(w.machine))
				skipped, err := machine.Unpack(w.machine, fixtures.UnpackOptions{NoDevices: !tt.nodes})
				require.NoError(t, err)
				if tt.nodes {
					require.Empty(t, skipped)
				}
				if !tt.open {
					w.environ = []string{"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=closed"}
				}
				edit := func(s *specs.Spec) {
					if tt.edit != nil {
						tt.edit(s)
					}
					if len(s.Linux.UIDMappings) > 0 {
						chownTree(t, w.rootfs, 200000)
						for dir := w.bundle; dir != "/tmp" && dir != "/"; dir = filepath.Dir(dir) {
							require.NoError(t, os.Chmod(dir, 0o755))
						}
					}
				}
				assert.Equal(t, tt.want, w.run(read, []string{"NVIDIA_VISIBLE_DEVICES=0"}, edit))
			})
		}
	}
}

func chownTree(t *testing.T, dir string, id int) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(name string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Lchown(name, id, id)
	}))
}
