// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

const runtimeName = "nvidia-experimental"

// configureDocker registers the runtime with dockerd as documented.
func configureDocker(t *testing.T) {
	t.Helper()
	must(t, "nvsysfs", "configure", "docker", "--gpus", "--set-as-default")
	must(t, "nvsysfs", "cdi", "generate", "--capabilities", "compute,utility", "--output", "/etc/cdi/nvidia.yaml")
	// The runtime plain is the low-level runtime by itself.
	const file = "/etc/docker/daemon.json"
	must(t, "sh", "-ec", `jq --arg path "$(command -v $1)" '.runtimes.plain = {path: $path}' $2 >$2.new; mv $2.new $2`, "sh", levels[0], file)
	if older(t, "docker.io", "28") {
		must(t, "sh", "-ec", `jq '.features.cdi = true' $1 >$1.new; mv $1.new $1`, "sh", file)
	}
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
			for _, gpus := range []string{"all", "1", "device=0", `"device=GPU-fef8089b"`, "driver=nvidia"} {
				t.Run("--gpus "+gpus, func(t *testing.T) {
					assert.Equal(t, gpu, dockerRun(t, look, "--runtime", runtimeName, "--gpus", gpus))
				})
			}
			t.Run("--device nvidia.com gpu=0, CDI without this runtime", func(t *testing.T) {
				assert.Equal(t, gpu, dockerRun(t, lookCDI, "--runtime", "plain", "--device", "nvidia.com/gpu=0"))
			})
			t.Run("nothing requested", func(t *testing.T) {
				assert.Equal(t, gpuless, dockerRun(t, look, "--runtime", runtimeName))
			})
			t.Run("AppArmor in force", func(t *testing.T) {
				assert.Equal(t, "docker-default (enforce)\n", dockerRun(t, "cat /proc/self/attr/current", "--runtime", runtimeName, "--gpus", "all"))
			})
			dockerLife(t)
			compose(t)
			images(t)
			cdiHook(t)
		})
	}
}

// cdiHook lets dockerd find nvidia-cdi-hook: if this command of NVIDIA's exists, Docker 29 turns
// --gpus into CDI devices.
func cdiHook(t *testing.T) {
	if _, err := os.Stat(filepath.Join(os.Getenv(need.Programs), "more/dockerd")); err != nil {
		return
	}
	const hook, file = "/usr/bin/nvidia-cdi-hook", "/etc/cdi/nvidia.yaml"
	must(t, "cp", "/bin/true", hook)
	defer func() {
		assert.NoError(t, os.Remove(hook))
		must(t, "systemctl", "restart", "docker")
	}()
	must(t, "systemctl", "restart", "docker")
	t.Run("--gpus all with nvidia-cdi-hook, CDI without this runtime", func(t *testing.T) {
		assert.Equal(t, gpu, dockerRun(t, lookCDI, "--runtime", "plain", "--gpus", "all"))
	})
	t.Run("--gpus all with nvidia-cdi-hook and without a CDI file", func(t *testing.T) {
		must(t, "mv", file, file+".away")
		defer must(t, "mv", file+".away", file)
		assert.Equal(t, gpu, dockerRun(t, look, "--runtime", runtimeName, "--gpus", "all"))
	})
}

func dockerRun(t *testing.T, script string, options ...string) string {
	t.Helper()
	return must(t, append(append([]string{"docker", "run", "--rm", "--network", "none"}, options...), imageName, "sh", "-c", script)...)
}

// dockerLife takes a container through everything that may happen to it.
func dockerLife(t *testing.T) {
	id := strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", "--runtime", runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName))
	defer must(t, "docker", "rm", "-f", id)
	scope := "docker-" + id + ".scope"
	seen := func(t *testing.T) string { return must(t, "docker", "exec", id, "sh", "-c", look) }
	life(t, gpu, seen, []step{
		nothing,
		{"daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
		{"daemon-reexec", func(t *testing.T) { reload(t, "daemon-reexec") }},
		{"docker update", func(t *testing.T) { must(t, "docker", "update", "--cpus", "0.5", id) }},
		{"systemctl set-property", func(t *testing.T) { must(t, "systemctl", "set-property", "--runtime", scope, "CPUWeight=50") }},
		{"docker pause and unpause", func(t *testing.T) {
			must(t, "docker", "pause", id)
			must(t, "docker", "unpause", id)
		}},
		{"docker restart and daemon-reload", func(t *testing.T) {
			must(t, "docker", "restart", "-t", "0", id)
			reload(t, "daemon-reload")
		}},
		{"docker stop and start", func(t *testing.T) {
			must(t, "docker", "stop", "-t", "0", id)
			must(t, "docker", "start", id)
		}},
		{"dockerd restarted, live-restore", func(t *testing.T) {
			before := dockerPID(t, id)
			must(t, "systemctl", "restart", "docker")
			assert.Equal(t, before, dockerPID(t, id), "the container kept running")
		}},
		{"dockerd restarted and daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
	}...)
}

func dockerPID(t *testing.T, id string) int {
	t.Helper()
	pid, err := strconv.Atoi(strings.TrimSpace(must(t, "docker", "inspect", "--format", "{{.State.Pid}}", id)))
	require.NoError(t, err)
	return pid
}

const composeYAML = `x-gpu: &gpu {image: ` + imageName + `, network_mode: none, runtime: ` + runtimeName + `}
services:
  runtime: {<<: *gpu, environment: {NVIDIA_VISIBLE_DEVICES: "0"}}
  reservations: {<<: *gpu, deploy: {resources: {reservations: {devices: [{driver: nvidia, count: 1, capabilities: [gpu]}]}}}}
  gpus: {<<: *gpu, gpus: all}
  cdi: {<<: *gpu, runtime: plain, deploy: {resources: {reservations: {devices: [{driver: cdi, device_ids: [nvidia.com/gpu=0], capabilities: [gpu]}]}}}}
`

func compose(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "compose.yaml")
	require.NoError(t, os.WriteFile(file, []byte(composeYAML), 0o644))
	for _, tt := range []struct{ service, look string }{{"runtime", look}, {"reservations", look}, {"gpus", look}, {"cdi", lookCDI}} {
		if tt.service == "gpus" && older(t, "docker-compose", "2.30") {
			continue // this Compose does not know the key
		}
		t.Run("compose by "+tt.service, func(t *testing.T) {
			assert.Equal(t, gpu, must(t, "docker", "compose", "-f", file, "--progress", "quiet", "run", "--rm", "-T", tt.service, "sh", "-c", tt.look))
		})
	}
}

// images builds images with a GPU, and uses them with and without one.
func images(t *testing.T) {
	plain := func(t *testing.T, image string) string {
		t.Helper()
		return must(t, "docker", "run", "--rm", "--network", "none", "--runtime", "plain", image, "sh", "-c", look)
	}
	again := func(t *testing.T, image string) string {
		t.Helper()
		return must(t, "docker", "run", "--rm", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES=0", image, "sh", "-c", look)
	}
	t.Run("commit and start again", func(t *testing.T) {
		must(t, "docker", "run", "--name", "committed", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName, "true")
		defer must(t, "docker", "rm", "committed")
		must(t, "docker", "commit", "committed", "nvcr.test/committed")
		assert.Equal(t, gpuless, plain(t, "nvcr.test/committed"), "without a GPU")
		assert.Equal(t, gpu, again(t, "nvcr.test/committed"), "with a GPU")
	})
	for _, tt := range []struct{ name, buildkit, want string }{
		{"build with the classic builder", "0", gpu},
		{"build with BuildKit gives no GPU", "1", gpuless},
	} {
		t.Run(tt.name, func(t *testing.T) {
			dir := t.TempDir()
			file := "FROM " + imageName + "\nENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=compute,utility\nCOPY look /\nRUN sh /look >/seen\n"
			require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(file), 0o644))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "look"), []byte(look), 0o644))
			must(t, "env", "DOCKER_BUILDKIT="+tt.buildkit, "docker", "build", "--no-cache", "--network", "none", "-t", "nvcr.test/built", dir)
			assert.Equal(t, tt.want, must(t, "docker", "run", "--rm", "--network", "none", "--runtime", "plain", "nvcr.test/built", "cat", "/seen"), "the build")
			assert.Equal(t, gpuless, plain(t, "nvcr.test/built"), "without a GPU")
			assert.Equal(t, gpu, again(t, "nvcr.test/built"), "with a GPU")
		})
	}
}

// TestDockerUsernsRemap runs all containers in a user namespace.
func TestDockerUsernsRemap(t *testing.T) {
	configureDocker(t)
	inUserNamespaces(t)
	const file = "/etc/docker/daemon.json"
	before, err := os.ReadFile(file)
	require.NoError(t, err)
	t.Cleanup(func() {
		assert.NoError(t, os.WriteFile(file, before, 0o644))
		must(t, "systemctl", "restart", "docker")
	})
	must(t, "sh", "-ec", `jq '."userns-remap" = "user" | ."live-restore" = false' $1 >$1.new; mv $1.new $1; systemctl restart docker`, "sh", file)
	must(t, "docker", "load", "-i", image(t))
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			id := strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName))
			defer must(t, "docker", "rm", "-f", id)
			seen := func(t *testing.T) string { return must(t, "docker", "exec", id, "sh", "-c", look) }
			life(t, gpu, seen, nothing,
				step{"docker update", func(t *testing.T) { must(t, "docker", "update", "--cpus", "0.5", id) }},
				step{"docker restart", func(t *testing.T) { must(t, "docker", "restart", "-t", "0", id) }})
		})
	}
}

// TestDockerRootless uses the user's own dockerd.
func TestDockerRootless(t *testing.T) {
	inUserNamespaces(t)
	linger(t)
	docker := func(t *testing.T, args ...string) string {
		t.Helper()
		return must(t, asUser(append([]string{"docker", "--host", "unix:///run/user/1000/docker.sock"}, args...)...)...)
	}
	must(t, asUser("nvsysfs", "configure", "docker", "--config", "/home/user/.config/docker/daemon.json")...)
	must(t, "sh", "-ec", `jq '. + {iptables: false, ip6tables: false, bridge: "none"}' $1 >$1.new; mv $1.new $1; chown user: $1`, "sh", "/home/user/.config/docker/daemon.json")
	must(t, asUser("systemd-run", "--user", "--unit", "docker", "--property", "Delegate=yes", "--property", "KillMode=mixed",
		"--setenv", "PATH=/usr/sbin:/usr/bin:/sbin:/bin:/usr/share/docker.io/contrib", "--setenv", "DOCKERD_ROOTLESS_ROOTLESSKIT_NET=slirp4netns",
		"/usr/share/docker.io/contrib/dockerd-rootless.sh")...)
	defer must(t, asUser("systemctl", "--user", "stop", "docker")...)
	eventually(t, func() error {
		out, err := do(asUser("docker", "--host", "unix:///run/user/1000/docker.sock", "info")...)
		if err != nil {
			log, _ := do("journalctl", "--user-unit", "docker", "-n", "20", "--no-pager")
			return fmt.Errorf("%w: %s\n%s", err, out, log)
		}
		return nil
	})
	docker(t, "load", "-i", image(t))
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			id := strings.TrimSpace(docker(t, "run", "-d", "--network", "none", "--runtime", runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName))
			defer docker(t, "rm", "-f", id)
			seen := func(t *testing.T) string { return docker(t, "exec", id, "sh", "-c", look) }
			life(t, gpu, seen, nothing,
				step{"daemon-reload of the user", func(t *testing.T) { must(t, asUser("systemctl", "--user", "daemon-reload")...) }},
				step{"docker update", func(t *testing.T) { docker(t, "update", "--memory", "200m", "--memory-swap", "200m", id) }},
				step{"docker restart", func(t *testing.T) { docker(t, "restart", "-t", "0", id) }})
		})
	}
}

// TestDockerNegativeControl shows that these tests would detect the failure that this runtime is
// meant to prevent: a container that is given a device after its creation, through a change to its
// cgroup, loses the device when systemd applies its rules again.
func TestDockerNegativeControl(t *testing.T) {
	configureDocker(t)
	when := "daemon-reload"
	if systemd257(t) {
		when = "systemctl set-property"
	}
	for _, level := range levels {
		t.Run(level+"/a device added to the cgroup later is lost at "+when, func(t *testing.T) {
			lowLevel(t, level)
			id := strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", "--runtime", runtimeName, imageName))
			defer must(t, "docker", "rm", "-f", id)
			open := func() string {
				return must(t, "docker", "exec", id, "sh", "-c", "[ -c /dev/nvidia0 ] || mknod /dev/nvidia0 c 195 0; (: </dev/nvidia0 && echo opens) 2>&1 | sed 's/.*: //'")
			}
			assert.Equal(t, "Operation not permitted\n", open(), "before the change")
			allowDevices(t, cgroupOf(t, dockerPID(t, id)))
			assert.Equal(t, "opens\n", open(), "after the change")
			if reload(t, "daemon-reload"); systemd257(t) {
				must(t, "systemctl", "set-property", "--runtime", "docker-"+id+".scope", "CPUWeight=50")
				eventually(t, func() error {
					if open() == "opens\n" {
						return errors.New("systemd has not reapplied the device policy")
					}
					return nil
				})
			}
			assert.Equal(t, "Operation not permitted\n", open(), "reloaded")
		})
	}
}
