// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

const containerdSocket = "/run/containerd/containerd.sock"

// criConfig tells containerd's CRI plugin which image to use for pod sandboxes, and to use the
// systemd cgroup driver.
const criConfig = `version = 3
[plugins."io.containerd.cri.v1.images".pinned_images]
sandbox = "` + imageName + `"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
SystemdCgroup = true
`

// criConfig1 is criConfig for containerd 1.
const criConfig1 = `version = 2
[plugins."io.containerd.grpc.v1.cri"]
enable_cdi = true
sandbox_image = "` + imageName + `"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = true
`

// configureContainerd registers the runtime with the CRI plugin as documented.
func configureContainerd(t *testing.T, options ...string) {
	t.Helper()
	config := criConfig
	if older(t, "containerd", "2") {
		config = criConfig1
	}
	require.NoError(t, os.WriteFile("/etc/containerd/config.toml", []byte(config), 0o644))
	must(t, append([]string{"nvsysfs", "configure", "containerd"}, options...)...)
	must(t, "nvsysfs", "cdi", "generate", "--capabilities", "compute,utility", "--output", "/etc/cdi/nvidia.yaml")
	must(t, "systemctl", "restart", "containerd")
	for _, namespace := range []string{"k8s.io", "default"} {
		must(t, "ctr", "--namespace", namespace, "image", "import", image(t))
	}
}

// ctr runs a container, or a command in one, and returns what script prints there. The output goes
// through a file because ctr may lose the output of a container that exits at once.
func ctr(t *testing.T, script string, args ...string) string {
	t.Helper()
	const dir = "/var/lib/lab/out"
	require.NoError(t, os.MkdirAll(dir, 0o755))
	require.NoError(t, os.WriteFile(dir+"/script", []byte(script), 0o644))
	for i, arg := range args {
		if arg == "RUN" {
			args = slices.Replace(slices.Clone(args), i, i+1, "run", "--mount", "type=bind,src="+dir+",dst=/out,options=rbind:rw")
		}
	}
	must(t, slices.Concat([]string{"ctr"}, args, []string{"sh", "-c", "sh /out/script >/out/printed"})...)
	data, err := os.ReadFile(dir + "/printed")
	require.NoError(t, err)
	return string(data)
}

func TestContainerd(t *testing.T) {
	configureContainerd(t)
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			const runtime = "/usr/bin/nvidia-container-runtime.experimental"
			t.Run("ctr run", func(t *testing.T) {
				assert.Equal(t, gpu, ctr(t, look, "RUN", "--rm", "--runc-binary", runtime, "--env", "NVIDIA_VISIBLE_DEVICES=0", imageName, "run-"+level))
			})
			t.Run("nothing requested", func(t *testing.T) {
				assert.Equal(t, gpuless, ctr(t, look, "RUN", "--rm", "--runc-binary", runtime, imageName, "nothing-"+level))
			})
			// The ctr of containerd 1 cannot request CDI devices.
			if !older(t, "containerd", "2") {
				t.Run("CDI without this runtime", func(t *testing.T) {
					assert.Equal(t, gpu, ctr(t, lookCDI, "RUN", "--rm", "--runc-binary", level, "--device", "nvidia.com/gpu=0", imageName, "cdi-"+level))
				})
			}
			id := "life-" + level
			start := func(t *testing.T) {
				must(t, "ctr", "run", "--detach", "--runc-binary", runtime, "--runc-systemd-cgroup", "--cgroup", "system.slice:lab:"+id,
					"--mount", "type=bind,src=/var/lib/lab/out,dst=/out,options=rbind:rw", "--env", "NVIDIA_VISIBLE_DEVICES=0", imageName, id)
			}
			remove := func() {
				must(t, "ctr", "task", "delete", "--force", id)
				must(t, "ctr", "container", "delete", id)
			}
			start(t)
			defer remove()
			seen := func(t *testing.T) string { return ctr(t, look, "task", "exec", "--exec-id", "look", id) }
			life(t, gpu, seen, []step{
				nothing,
				{"daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }},
				{"pause and resume", func(t *testing.T) {
					must(t, "ctr", "task", "pause", id)
					must(t, "ctr", "task", "resume", id)
				}},
				{"containerd restarted", func(t *testing.T) { must(t, "systemctl", "restart", "containerd") }},
			}...)
		})
	}
}

// object is a JSON object.
type object = map[string]any

// call makes one CRI call to containerd, as the kubelet would.
func call(t *testing.T, method string, request object) object {
	t.Helper()
	data, err := json.Marshal(request)
	require.NoError(t, err)
	var response object
	require.NoError(t, json.Unmarshal([]byte(must(t, filepath.Join(os.Getenv(need.Programs), "cri"), containerdSocket, method, string(data))), &response))
	return response
}

// execSync runs a script in a container.
func execSync(t *testing.T, id any, script string) string {
	t.Helper()
	response := call(t, "ExecSync", object{"container_id": id, "cmd": []string{"sh", "-c", script}, "timeout": 60})
	var stdout []byte
	require.NoError(t, json.Unmarshal(fmt.Appendf(nil, "%q", response["stdout"]), &stdout))
	return string(stdout)
}

// TestCRI makes the calls that the kubelet makes with the systemd cgroup driver.
func TestCRI(t *testing.T) {
	configureContainerd(t)
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level, "accept-nvidia-visible-devices-as-volume-mounts = true")
			for _, tt := range []struct {
				name string
				more object // what a device plugin adds to the container
				look string
			}{
				{"envvar", object{"envs": []object{{"key": "NVIDIA_VISIBLE_DEVICES", "value": "0"}}}, look},
				{"volume-mounts", object{
					"envs":   []object{{"key": "NVIDIA_VISIBLE_DEVICES", "value": "/var/run/nvidia-container-devices"}},
					"mounts": []object{{"container_path": "/var/run/nvidia-container-devices/0", "host_path": "/dev/null"}},
				}, look},
				{"cdi-cri", object{"CDI_devices": []object{{"name": "nvidia.com/gpu=0"}}}, lookCDI},
			} {
				t.Run("pod by "+tt.name, func(t *testing.T) { pod(t, tt.name+"-"+level, tt.more, tt.look, tt.name == "envvar") })
			}
		})
	}
}

// pod takes a pod's container through what the kubelet does to it: its whole life, or only the
// beginning.
func pod(t *testing.T, uid string, more object, look string, whole bool) {
	slice := "kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice"
	config := object{
		"metadata":      object{"name": uid, "uid": uid, "namespace": "default"},
		"log_directory": "/var/log/pods/" + uid,
		"linux": object{
			"cgroup_parent":    "/kubepods.slice/" + slice,
			"security_context": object{"namespace_options": object{"network": 2}},
		},
	}
	sandbox := call(t, "RunPodSandbox", object{"config": config, "runtime_handler": runtimeName})["pod_sandbox_id"]
	defer func() {
		call(t, "StopPodSandbox", object{"pod_sandbox_id": sandbox})
		call(t, "RemovePodSandbox", object{"pod_sandbox_id": sandbox})
	}()
	start := func(attempt int) any {
		container := object{
			"metadata": object{"name": "gpu", "attempt": attempt}, "image": object{"image": imageName}, "log_path": fmt.Sprintf("%d.log", attempt),
			"linux": object{
				"security_context": object{"seccomp": object{"profile_type": 0}},
				"resources":        object{"cpu_period": 100000, "cpu_quota": 100000, "cpu_shares": 1024, "memory_limit_in_bytes": 256 << 20},
			},
		}
		maps.Copy(container, more)
		id := call(t, "CreateContainer", object{"pod_sandbox_id": sandbox, "sandbox_config": config, "config": container})["container_id"]
		call(t, "StartContainer", object{"container_id": id})
		return id
	}
	id := start(0)
	update := func(resources object) func(t *testing.T) {
		return func(t *testing.T) {
			call(t, "UpdateContainerResources", object{"container_id": id, "linux": resources})
		}
	}
	seen := func(t *testing.T) string { return execSync(t, id, look) }
	// The CPU manager sends cpuset_cpus, for which this kernel has no controller. containerd and
	// the low-level runtime handle cpu_shares in the same way.
	manager := update(object{"cpu_shares": 1000})
	life(t, gpu, seen, []step{
		nothing,
		{"an update as the CPU manager's", manager},
		{"the same again and daemon-reload", func(t *testing.T) {
			manager(t)
			reload(t, "daemon-reload")
		}},
	}...)
	if !whole {
		return
	}
	life(t, gpu, seen, []step{
		{"resize", update(object{"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512, "memory_limit_in_bytes": 300 << 20})},
		{"containerd restarted", func(t *testing.T) { must(t, "systemctl", "restart", "containerd") }},
		{"the container restarted", func(t *testing.T) {
			call(t, "StopContainer", object{"container_id": id})
			call(t, "RemoveContainer", object{"container_id": id})
			id = start(1)
		}},
	}...)
}
