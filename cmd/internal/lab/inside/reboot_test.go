// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// rebooted is set in the second run of the tests with Reboot in their names. They run twice, after
// all others: first they create what has to come back, and after the machine has rebooted, they
// only check that it is there.
var rebooted = os.Getenv("NVCR_LAB_BOOT") == "2"

// atBoot makes the package's unit write the CDI file at boot.
func atBoot(t *testing.T) {
	t.Helper()
	must(t, "rm", "-f", "/etc/cdi/nvidia.yaml")
	must(t, "systemctl", "enable", "--now", "nvsysfs-cdi.service")
}

// gpuGraphics is what look prints if the container gets all of the driver's capabilities, as with
// that CDI file.
const gpuGraphics = "/dev/nvidia-modeset opens\n" + gpu

// back waits until the engine reports that the container is running.
func back(t *testing.T, engine, name string) {
	t.Helper()
	eventually(t, func() error {
		out, err := do(engine, "inspect", "--format", "{{.State.Running}}", name)
		if err == nil && strings.TrimSpace(out) != "true" {
			err = fmt.Errorf("%s: running is %s", name, out)
		}
		return err
	})
}

func TestDockerReboot(t *testing.T) {
	cdi := "restart=always with CDI of nvsysfs-cdi.service"
	// Docker before 28.2 does not start it: https://github.com/moby/moby/issues/49989.
	byHand := older(t, "docker.io", "28.2")
	if byHand {
		cdi += ", by hand before Docker 28.2"
	}
	containers := []struct {
		name, title, look, want string
		options                 []string
	}{
		{"always", "restart=always", look, gpu, []string{"--runtime", runtimeName, "-e", "NVIDIA_VISIBLE_DEVICES=0"}},
		{"cdi", cdi, lookCDI, gpuGraphics, []string{"--runtime", "plain", "--device", "nvidia.com/gpu=0"}},
	}
	if !rebooted {
		configureDocker(t)
		atBoot(t)
		keepLowLevel(t, levels[0])
		for _, c := range containers {
			must(t, append(append([]string{"docker", "run", "-d", "--network", "none", "--restart", "always", "--name", c.name}, c.options...), imageName)...)
		}
	}
	for _, c := range containers {
		t.Run(levels[0]+"/"+c.title, func(t *testing.T) {
			if rebooted && byHand && c.name == "cdi" {
				assert.Equal(t, "could not select device driver \"cdi\" with capabilities: []\n",
					must(t, "docker", "inspect", "--format", "{{.State.Error}}", c.name))
				must(t, "docker", "start", c.name)
			}
			back(t, "docker", c.name)
			assert.Equal(t, c.want, must(t, "docker", "exec", c.name, "sh", "-c", c.look))
		})
	}
}

// quadlets are started again when the machine boots. Without After=, the one with CDI might start
// before the CDI file is written.
var quadlets = map[string]string{
	"quadlet": quadlet + "[Install]\nWantedBy=multi-user.target\n",
	"quadlet-cdi": "[Unit]\nAfter=nvsysfs-cdi.service\n[Container]\nImage=" + imageName +
		"\nNetwork=none\nAddDevice=nvidia.com/gpu=0\nContainerName=quadlet-cdi\nStopTimeout=1\n[Install]\nWantedBy=multi-user.target\n",
}

func TestPodmanReboot(t *testing.T) {
	p := rootPodman
	if !rebooted {
		must(t, "nvsysfs", "configure", "podman")
		atBoot(t)
		keepLowLevel(t, levels[0])
		p.must(t, "load", "-i", image(t))
		for name, text := range quadlets {
			file := filepath.Join("/etc/containers/systemd", name+".container")
			require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
			require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
		}
		must(t, "systemctl", "unmask", "podman-restart.service")
		must(t, "systemctl", "enable", "podman-restart.service")
		must(t, "systemctl", "daemon-reload")
		must(t, "systemctl", "start", "quadlet", "quadlet-cdi")
		p.must(t, "--runtime", runtimeName, "run", "-d", "--network", "none", "--restart", "always", "--stop-timeout", "1", "--name", "always",
			"-e", "NVIDIA_VISIBLE_DEVICES=0", imageName)
	}
	for _, c := range []struct{ name, title, look, want string }{
		{"always", "restart=always with podman-restart.service", look, gpu},
		{"quadlet", "a systemd unit of quadlet", look, gpu},
		{"quadlet-cdi", "a systemd unit of quadlet with CDI of nvsysfs-cdi.service", lookCDI, gpuGraphics},
	} {
		t.Run(levels[0]+"/"+c.title, func(t *testing.T) {
			back(t, "podman", c.name)
			assert.Equal(t, c.want, p.must(t, "exec", c.name, "sh", "-c", c.look))
		})
	}
}

// TestKubeletReboot creates the pod anew after the reboot, as the API server's controllers would:
// after a boot, the kubelet rejects pods whose devices it does not know yet.
func TestKubeletReboot(t *testing.T) {
	const plugin = "nvidia-plugin@envvar"
	name := "after"
	if !rebooted {
		name = "before"
		configureKubelet(t)
		keepLowLevel(t, levels[0])
		must(t, "systemctl", "enable", "kubelet", plugin)
	}
	must(t, "systemctl", "start", plugin)
	removePod(t)
	writePod(t, name)
	t.Run(levels[0]+"/a new pod", func(t *testing.T) {
		assert.Equal(t, gpu, execSync(t, container(t, "gpu", nil), look))
	})
}
