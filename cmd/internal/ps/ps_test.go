// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ps

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

var id = strings.Repeat("0123456789abcdef", 4)

func TestParseCgroup(t *testing.T) {
	for _, tt := range []struct {
		name, path string
		want       Container
		ok         bool
	}{
		{"docker, systemd", "/system.slice/docker-" + id + ".scope", Container{"docker", id}, true},
		{"docker, cgroupfs", "/docker/" + id, Container{"docker", id}, true},
		{"podman, systemd", "/machine.slice/libpod-" + id + ".scope/container", Container{"podman", id}, true},
		{"podman, rootless", "/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-" + id + ".scope", Container{"podman", id}, true},
		{"podman, cgroupfs", "/libpod_parent/libpod-" + id, Container{"podman", id}, true},
		{"containerd, systemd", "/kubepods.slice/kubepods-pod1.slice/cri-containerd-" + id + ".scope", Container{"containerd", id}, true},
		{"CRI-O", "/kubepods.slice/kubepods-pod1.slice/crio-" + id + ".scope", Container{"cri-o", id}, true},
		{"Kubernetes, cgroupfs", "/kubepods/burstable/pod1/" + id, Container{"kubernetes", id}, true},
		{"nerdctl", "/system.slice/nerdctl-" + id + ".scope", Container{"containerd", id}, true},
		{"a containerd namespace", "/default/" + id, Container{"", id}, true},
		{"docker in docker", "/docker/" + strings.Repeat("a", 64) + "/docker/" + id, Container{"docker", id}, true},
		{"two ids in a row", "/docker/" + strings.Repeat("a", 64) + "/" + id, Container{"", id}, true},
		{"a login session", "/user.slice/user-0.slice/session-1.scope", Container{}, false},
		{"the root cgroup", "/", Container{}, false},
		{"too short", "/docker/" + id[1:], Container{}, false},
		{"too long", "/docker/0" + id, Container{}, false},
		{"empty", "", Container{}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok := parseCgroup(tt.path)
			assert.Equal(t, tt.ok, ok)
			assert.Equal(t, tt.want, got)
		})
	}
}

func FuzzParseCgroup(f *testing.F) {
	f.Add("/docker/" + id)
	f.Add("/system.slice/docker-" + id + ".scope//")
	f.Fuzz(func(t *testing.T, path string) {
		c, ok := parseCgroup(path)
		if !ok {
			require.Equal(t, Container{}, c)
			return
		}
		require.Len(t, c.ID, 64)
		require.Contains(t, path, c.ID)
	})
}

// process creates /proc/PID below root, with an open descriptor for each of files.
func process(t *testing.T, root string, pid int, comm, cgroup, maps string, files ...string) {
	t.Helper()
	dir := filepath.Join(root, "proc", strconv.Itoa(pid))
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "fd"), 0o755))
	for name, text := range map[string]string{
		"comm": comm + "\n", "cmdline": "/usr/bin/" + comm + "\x00-x\x00", "cgroup": cgroup, "maps": maps, "status": "Name:\t" + comm + "\nUid:\t1000\t1000\t1000\t1000\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644))
	}
	for fd, target := range files {
		require.NoError(t, os.Symlink(target, filepath.Join(dir, "fd", strconv.Itoa(fd))))
	}
}

func mapped(file string) string {
	return "7f0000000000-7f0000001000 r-xp 00000000 fd:00 1234                       " + file + "\n"
}

func TestRead(t *testing.T) {
	root := sysfs.Root(need.Machine(t, "a100-mig", false))
	inventory, err := sysfs.Read(root, true)
	require.NoError(t, err)
	require.NotEmpty(t, inventory.GPUs[0].Instances)
	instance := inventory.GPUs[0].Instances[0]
	require.NoError(t, os.MkdirAll(root.Path("etc"), 0o755))
	require.NoError(t, os.WriteFile(root.Path("etc/passwd"), []byte("root:x:0:0::/:\nbad\nann:x:1000:1000::/:\n"), 0o644))
	gpu := "/dev/nvidia" + strconv.Itoa(inventory.GPUs[0].Minor)
	const lib = "/usr/lib/x86_64-linux-gnu/"

	process(t, string(root), 10, "bash", "0::/init.scope\n", mapped("/bin/bash"), "/dev/null")
	process(t, string(root), 200, "python3", "12:devices:/docker/"+id+"\n0::/x\n",
		mapped(lib+"libcuda.so.550.54.15")+mapped(lib+"libcuda.so.550.54.15")+mapped(lib+"libc.so.6")+mapped(lib+"libnvidia-egl-wayland.so.1.1.13"),
		"/dev/nvidiactl", "/dev/nvidia-uvm", gpu, "/dev/"+capability(instance.GICap.Minor), "/dev/"+capability(instance.CICap.Minor))
	process(t, string(root), 30, "old", "0::/user.slice\n", mapped(lib+"libnvidia-ml.so.535.104.05 (deleted)"), "/dev/nvidiactl")
	process(t, string(root), 40, "whole", "0::/\n", "", gpu, "/dev/nvidia-modeset", "pipe:[1]")

	got, err := Read(root, inventory)
	require.NoError(t, err)
	assert.Equal(t, List{Module: inventory.Driver.Version, Processes: []Process{
		{30, 1000, "ann", "old", []string{"/usr/bin/old", "-x"}, nil, []string{"nvidiactl"}, []Libraries{{"535.104.05", true}}},
		{40, 1000, "ann", "whole", []string{"/usr/bin/whole", "-x"}, nil, []string{"0", "nvidia-modeset"}, []Libraries{}},
		{200, 1000, "ann", "python3", []string{"/usr/bin/python3", "-x"}, &Container{"docker", id}, []string{"0:0"}, []Libraries{{"550.54.15", false}}},
	}}, got)
}

// TestReadThisMachine reads the processes of the machine that runs the test.
func TestReadThisMachine(t *testing.T) {
	_, err := Read("/", sysfs.Inventory{})
	require.NoError(t, err)
}
