// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// podman is root's or the user's podman.
type podman struct{ prefix []string }

var (
	rootPodman = podman{[]string{"podman"}}
	userPodman = podman{asUser("podman")}
)

func (p podman) must(t *testing.T, args ...string) string {
	t.Helper()
	return must(t, append(p.prefix[:len(p.prefix):len(p.prefix)], args...)...)
}

// run runs a script in a container with that runtime.
func (p podman) run(t *testing.T, runtime, script string, options ...string) string {
	t.Helper()
	args := append([]string{"--runtime", runtime, "run", "--rm", "--network", "none"}, options...)
	return p.must(t, append(args, imageName, "sh", "-c", script)...)
}

// start starts a container that is removed at the end of the test. It returns the container's ID
// and a function that runs look in it.
func (p podman) start(t *testing.T, runtime string, options ...string) (string, func(t *testing.T) string) {
	t.Helper()
	args := append([]string{"--runtime", runtime, "run", "-d", "--network", "none"}, options...)
	out := p.must(t, append(args, imageName)...)
	id := strings.TrimSpace(out)
	t.Cleanup(func() { p.must(t, "rm", "-f", "-t", "0", id) })
	return id, func(t *testing.T) string { t.Helper(); return p.must(t, "exec", id, "sh", "-c", look) }
}

// life returns what may happen to a podman container.
func (p podman) life(id string, reload func(t *testing.T)) []step {
	return []step{
		nothing,
		{"daemon-reload", reload},
		{"podman update", func(t *testing.T) { p.must(t, "update", "--memory", "200m", id) }},
		{"podman restart and daemon-reload", func(t *testing.T) {
			p.must(t, "restart", "-t", "0", id)
			reload(t)
		}},
	}
}

const kubeYAML = `apiVersion: v1
kind: Pod
metadata: {name: kube}
spec:
  hostNetwork: true
  containers:
  - name: gpu
    image: ` + imageName + `
    env: [{name: NVIDIA_VISIBLE_DEVICES, value: "0"}]
`

const quadlet = `[Container]
Image=` + imageName + `
Network=none
Environment=NVIDIA_VISIBLE_DEVICES=0
ContainerName=quadlet
StopTimeout=1
GlobalArgs=--runtime ` + runtimeName + `
`

func TestPodman(t *testing.T) {
	p := rootPodman
	must(t, "nvsysfs", "configure", "podman")
	must(t, "nvsysfs", "cdi", "generate", "--capabilities", "compute,utility", "--output", "/etc/cdi/nvidia.yaml")
	p.must(t, "load", "-i", image(t))
	systemd := func(t *testing.T) { reload(t, "daemon-reload") }
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			t.Run("run", func(t *testing.T) {
				assert.Equal(t, gpu, p.run(t, runtimeName, look, "-e", "NVIDIA_VISIBLE_DEVICES=0"))
			})
			t.Run("nothing requested", func(t *testing.T) {
				assert.Equal(t, gpuless, p.run(t, runtimeName, look))
			})
			t.Run("CDI without this runtime", func(t *testing.T) {
				assert.Equal(t, gpu, p.run(t, level, lookCDI, "--device", "nvidia.com/gpu=0"))
			})
			t.Run("CDI names in the variable", func(t *testing.T) {
				assert.Equal(t, gpu, p.run(t, runtimeName, look, "-e", "NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0"))
			})
			id, seen := p.start(t, runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0")
			life(t, gpu, seen, append(p.life(id, systemd),
				step{"podman pause and unpause", func(t *testing.T) {
					p.must(t, "pause", id)
					p.must(t, "unpause", id)
				}})...)
			p.pods(t)
			t.Run("a systemd unit of quadlet", func(t *testing.T) {
				unit(t, "/etc/containers/systemd/quadlet.container", quadlet)
				must(t, "systemctl", "daemon-reload")
				must(t, "systemctl", "start", "quadlet.service")
				defer must(t, "systemctl", "stop", "quadlet.service")
				seen := func(t *testing.T) string { return p.must(t, "exec", "quadlet", "sh", "-c", look) }
				life(t, gpu, seen, nothing, step{"daemon-reload", systemd},
					step{"systemctl restart", func(t *testing.T) { must(t, "systemctl", "restart", "quadlet.service") }})
			})
		})
	}
}

// pods tests what podman has besides single containers.
func (p podman) pods(t *testing.T) {
	t.Run("a pod", func(t *testing.T) {
		p.must(t, "pod", "create", "--network", "none", "gpus")
		defer p.must(t, "pod", "rm", "-f", "-t", "0", "gpus")
		assert.Equal(t, gpu, p.must(t, "--runtime", runtimeName, "run", "--rm", "--pod", "gpus", "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName, "sh", "-c", look))
	})
	t.Run("kube play", func(t *testing.T) {
		file := filepath.Join("/tmp", "kube.yaml")
		require.NoError(t, os.WriteFile(file, []byte(kubeYAML), 0o644))
		p.must(t, "--runtime", runtimeName, "kube", "play", file)
		defer p.must(t, "kube", "down", "--force", file)
		assert.Equal(t, gpu, p.must(t, "exec", "kube-gpu", "sh", "-c", look))
	})
}

// unit writes a file for systemd's generators and removes it at the end of the test.
func unit(t *testing.T, name, text string) {
	t.Helper()
	require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
	require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	t.Cleanup(func() { assert.NoError(t, os.Remove(name)) })
}

func TestPodmanRootless(t *testing.T) {
	inUserNamespaces(t)
	p := userPodman
	must(t, "nvsysfs", "configure", "podman")
	linger(t)
	p.must(t, "load", "-i", image(t))
	user := func(t *testing.T) { must(t, asUser("systemctl", "--user", "daemon-reload")...) }
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			t.Run("run", func(t *testing.T) {
				assert.Equal(t, gpu, p.run(t, runtimeName, look, "-e", "NVIDIA_VISIBLE_DEVICES=0"))
			})
			t.Run("keep-id", func(t *testing.T) {
				assert.Equal(t, "1000\n"+gpu, p.run(t, runtimeName, "id -u;"+look, "-e", "NVIDIA_VISIBLE_DEVICES=0", "--userns", "keep-id"))
			})
			id, seen := p.start(t, runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0")
			life(t, gpu, seen, p.life(id, user)...)
			p.pods(t)
		})
	}
}

// TestPodmanRootlessWithConfigurationsThatDiffer has two configurations that differ in the
// low-level runtime. Rootless podman calls create with HOME and XDG_CONFIG_HOME set, but start,
// delete and update without: the configuration that those find may name another low-level runtime
// than the one that has the container.
func TestPodmanRootlessWithConfigurationsThatDiffer(t *testing.T) {
	inUserNamespaces(t)
	p := userPodman
	must(t, "nvsysfs", "configure", "podman")
	linger(t)
	p.must(t, "load", "-i", image(t))
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, map[string]string{"runc": "crun", "crun": "runc"}[level])
			const dir = "/home/user/.config/nvidia-container-runtime"
			must(t, "sh", "-ec", `mkdir -p $1; sed "s/\(runtime-path = \).*/\1\"$2\"/" /etc/nvidia-container-runtime/config.toml >$1/config.toml; chown -R user: $1`, "sh", dir, level)
			defer must(t, "rm", "-r", dir)
			id, seen := p.start(t, runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0")
			life(t, gpu, seen, nothing,
				step{"podman update", func(t *testing.T) { p.must(t, "update", "--memory", "200m", id) }},
				step{"podman restart", func(t *testing.T) { p.must(t, "restart", "-t", "0", id) }})
			// Each low-level runtime keeps its containers in a directory with its own name.
			assert.Contains(t, must(t, "ls", "/run/user/1000/"+level), id)
		})
	}
}
