// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"errors"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

const (
	manifests = "/etc/kubernetes/manifests"
	podFile   = manifests + "/gpu.yaml"

	// kubeletYAML configures a kubelet without an API server: its pods come from files.
	kubeletYAML = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix://` + containerdSocket + `
staticPodPath: ` + manifests + `
fileCheckFrequency: 1s
enableServer: false
authentication: {webhook: {enabled: false}}
authorization: {mode: AlwaysAllow}
makeIPTablesUtilChains: false
`
	// This kernel has no cpuset controller. Without one, the kubelet can use the cgroup of all pods
	// but cannot create it.
	podsUnit = `[Slice]
CPUWeight=100
MemoryAccounting=yes
TasksAccounting=yes
`
	kubeletUnit = `[Unit]
Wants=containerd.service
Requires=kubepods.slice
After=containerd.service kubepods.slice

[Service]
Type=notify
# The kubelet wants to know the clock speed, which UML does not report.
ExecStartPre=sh -ec "{ cat /proc/cpuinfo; echo cpu MHz: 2000.0; } >/run/cpuinfo; mount --bind /run/cpuinfo /proc/cpuinfo"
ExecStart=/usr/sbin/kubelet --config /etc/kubernetes/kubelet.yaml
ExecStopPost=umount /proc/cpuinfo
KillMode=process
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
`
	// The instances of the template are device list strategies.
	pluginUnit = `[Unit]
BindsTo=kubelet.service
PartOf=kubelet.service
After=kubelet.service

[Service]
Type=notify
ExecStart=/usr/sbin/deviceplugin %i GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245
TimeoutStartSec=infinity

[Install]
WantedBy=multi-user.target
`
	podYAML = `apiVersion: v1
kind: Pod
metadata: {name: NAME}
spec:
  hostNetwork: true
  terminationGracePeriodSeconds: 1
  containers:
  - {name: gpu, image: "` + imageName + `", imagePullPolicy: Never, resources: {limits: {nvidia.com/gpu: 1}}}
  - name: none
    image: ` + imageName + `
    imagePullPolicy: Never
    volumeMounts: [{name: dev, mountPath: /host}]
  volumes: [{name: dev, hostPath: {path: /dev}}]
`
)

// configureKubelet installs a kubelet whose containers use this runtime by default: a RuntimeClass
// would need the API server.
func configureKubelet(t *testing.T) {
	t.Helper()
	configureContainerd(t, "--set-as-default")
	require.NoError(t, os.MkdirAll(manifests, 0o755))
	for name, text := range map[string]string{
		"/etc/kubernetes/kubelet.yaml":               kubeletYAML,
		"/etc/systemd/system/kubepods.slice":         podsUnit,
		"/etc/systemd/system/kubelet.service":        kubeletUnit,
		"/etc/systemd/system/nvidia-plugin@.service": pluginUnit,
	} {
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
	}
	must(t, "systemctl", "daemon-reload")
}

// writePod gives the kubelet a pod with that name.
func writePod(t *testing.T, name string) {
	t.Helper()
	require.NoError(t, os.WriteFile(podFile, []byte(strings.Replace(podYAML, "NAME", name, 1)), 0o644))
}

// removePod removes the pod and waits until its containers have exited.
func removePod(t *testing.T) {
	t.Helper()
	must(t, "rm", "-f", podFile)
	eventually(t, func() error {
		if len(running(t, "")) > 0 {
			return errors.New("the pod's containers are still running")
		}
		return nil
	})
}

// running returns the IDs of the kubelet's running containers, either those with a name or all.
func running(t *testing.T, name string) []any {
	t.Helper()
	labels := object{"io.kubernetes.pod.namespace": "default"}
	if name != "" {
		labels["io.kubernetes.container.name"] = name
	}
	response := call(t, "ListContainers", object{"filter": object{"state": object{"state": 1}, "label_selector": labels}})
	var ids []any
	containers, _ := response["containers"].([]any)
	for _, c := range containers {
		ids = append(ids, c.(object)["id"])
	}
	return ids
}

// container waits until the pod's container with that name is running, with an ID other than
// before, and returns its ID.
func container(t *testing.T, name string, before any) (id any) {
	t.Helper()
	defer func() {
		if id == nil {
			t.Log(do("journalctl", "-u", "kubelet", "-u", "nvidia-plugin@*", "-n", "40", "--no-pager"))
		}
	}()
	eventually(t, func() error {
		ids := running(t, name)
		if len(ids) != 1 || ids[0] == before {
			return errors.New("the pod's container is not running")
		}
		id = ids[0]
		return nil
	})
	return id
}

// TestKubelet runs the kubelet itself, with a device plugin that answers as NVIDIA's does.
func TestKubelet(t *testing.T) {
	configureKubelet(t)
	must(t, "systemctl", "start", "kubelet")
	defer must(t, "systemctl", "stop", "kubelet")
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level, "accept-nvidia-visible-devices-as-volume-mounts = true")
			for _, tt := range []struct{ strategy, look string }{{"envvar", look}, {"volume-mounts", look}, {"cdi-cri", lookCDI}} {
				t.Run("pod by "+tt.strategy, func(t *testing.T) {
					plugin := "nvidia-plugin@" + tt.strategy
					must(t, "systemctl", "start", plugin)
					defer must(t, "systemctl", "stop", plugin)
					writePod(t, tt.strategy)
					defer removePod(t)
					id := container(t, "gpu", nil)
					seen := func(t *testing.T) string { return execSync(t, id, tt.look) }
					life(t, gpu, seen, nothing, step{"daemon-reload", func(t *testing.T) { reload(t, "daemon-reload") }})
					if tt.strategy != "envvar" {
						return
					}
					t.Run("a container without a GPU and with the host's dev", func(t *testing.T) {
						assert.Equal(t, "Operation not permitted\n", execSync(t, container(t, "none", nil), "(: </host/nvidia0) 2>&1 | sed 's/.*: //'"))
					})
					life(t, gpu, seen,
						step{"the kubelet restarted", func(t *testing.T) {
							must(t, "systemctl", "restart", "kubelet")
							must(t, "systemctl", "start", plugin)
							assert.Equal(t, []any{id}, running(t, "gpu"), "the container kept running")
						}},
						step{"containerd restarted and daemon-reload", func(t *testing.T) {
							must(t, "systemctl", "restart", "containerd")
							reload(t, "daemon-reload")
						}},
						step{"the container restarted by the kubelet", func(t *testing.T) {
							call(t, "StopContainer", object{"container_id": id})
							id = container(t, "gpu", id)
						}})
				})
			}
		})
	}
}
