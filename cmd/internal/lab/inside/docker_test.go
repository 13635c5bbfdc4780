// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const runtimeName = "nvidia-experimental"

// configureDocker makes the runtime known to dockerd, as the documentation says.
func configureDocker(t *testing.T) {
	t.Helper()
	must(t, "nvsysfs", "configure", "docker", "--gpus")
	must(t, "systemctl", "restart", "docker")
	must(t, "docker", "load", "-i", image(t))
}

func TestDocker(t *testing.T) {
	configureDocker(t)
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			t.Run("run", func(t *testing.T) {
				got := dockerRun(t, look+"; nvidia-smi", "--runtime", runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0")
				assert.Contains(t, got, gpu)
				assert.Contains(t, got, "550.54.15", "nvidia-smi runs")
			})
			t.Run("--gpus all", func(t *testing.T) {
				assert.Equal(t, gpu, dockerRun(t, look, "--runtime", runtimeName, "--gpus", "all"))
			})
			t.Run("nothing asked for", func(t *testing.T) {
				assert.Equal(t, gpuless, dockerRun(t, look, "--runtime", runtimeName))
			})
			t.Run("AppArmor in force", func(t *testing.T) {
				assert.Equal(t, "docker-default (enforce)\n", dockerRun(t, "cat /proc/self/attr/current", "--runtime", runtimeName, "--gpus", "all"))
			})
			dockerLife(t)
		})
	}
}

func dockerRun(t *testing.T, script string, options ...string) string {
	t.Helper()
	return must(t, append(append([]string{"docker", "run", "--rm", "--network", "none"}, options...), imageName, "sh", "-c", script)...)
}

// dockerLife follows one container through all that may happen to it.
func dockerLife(t *testing.T) {
	id := strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", "--runtime", runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName))
	defer must(t, "docker", "rm", "-f", id)
	scope := "docker-" + id + ".scope"
	for _, tt := range []struct {
		name string
		do   func(t *testing.T)
	}{
		{"exec", func(*testing.T) {}},
		{"daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
		{"daemon-reexec", func(t *testing.T) { reload(t, "daemon-reexec") }},
		{"docker update", func(t *testing.T) { must(t, "docker", "update", "--cpus", "0.5", id) }},
		{"docker update and daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
		{"systemctl set-property", func(t *testing.T) { must(t, "systemctl", "set-property", "--runtime", scope, "CPUWeight=50") }},
		{"docker pause and unpause", func(t *testing.T) {
			must(t, "docker", "pause", id)
			must(t, "docker", "unpause", id)
		}},
		{"docker restart", func(t *testing.T) { must(t, "docker", "restart", "-t", "0", id) }},
		{"docker restart and daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
		{"docker stop and start", func(t *testing.T) {
			must(t, "docker", "stop", "-t", "0", id)
			must(t, "docker", "start", id)
		}},
		{"dockerd restarted, live-restore", func(t *testing.T) {
			before := dockerPID(t, id)
			must(t, "systemctl", "restart", "docker")
			assert.Equal(t, before, dockerPID(t, id), "the container has gone on")
		}},
		{"dockerd restarted and daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.do(t)
			assert.Equal(t, gpu, must(t, "docker", "exec", id, "sh", "-c", look))
		})
	}
}

func dockerPID(t *testing.T, id string) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(must(t, "docker", "inspect", "--format", "{{.State.Pid}}", id)))
	require.NoError(t, err)
	return pid
}

// The failure that this runtime is to cure, to show that these tests would see it: a container that is given its
// device after it has been made, by a change of its cgroup, loses it when systemd applies its rules again.
func TestDockerNegativeControl(t *testing.T) {
	for _, level := range levels {
		t.Run(level+"/a device added to the cgroup later is lost at daemon-reload", func(t *testing.T) {
			lowLevel(t, level)
			id := strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", "--runtime", runtimeName, imageName))
			defer must(t, "docker", "rm", "-f", id)
			open := func() string {
				return must(t, "docker", "exec", id, "sh", "-c", "[ -c /dev/nvidia0 ] || mknod /dev/nvidia0 c 195 0; (: </dev/nvidia0) 2>&1 | sed 's/.*: //'")
			}
			assert.Equal(t, "Operation not permitted\n", open(), "before")
			allowDevices(t, cgroupOf(t, dockerPID(t, id)))
			assert.Equal(t, "No such device or address\n", open(), "added")
			reload(t, "daemon-reload")
			assert.Equal(t, "Operation not permitted\n", open(), "reloaded")
		})
	}
}
