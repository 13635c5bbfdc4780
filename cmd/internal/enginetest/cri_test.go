// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// cri is containerd's CRI plugin, used as the kubelet uses it.
type cri struct {
	*ground
	sock   string
	client string
}

// object is a JSON object.
type object = map[string]any

// newCRI starts containerd with runtime handlers, a map from names to programs.
func newCRI(t *testing.T, handlers func(*ground) map[string]string) *cri {
	t.Helper()
	need.Root(t)
	return newCRIOf(t, need.Program(t, "containerd"), handlers)
}

// newCRIOf is newCRI with the given containerd program.
func newCRIOf(t *testing.T, program string, handlers func(*ground) map[string]string) *cri {
	t.Helper()
	need.Root(t)
	need.Program(t, "ctr")
	c := &cri{ground: newGround(t, "")}
	c.client = filepath.Join(c.dir, "cri")
	build := exec.Command("go", "build", "-buildvcs=false", "-o", c.client, ".")
	build.Dir = "cri"
	build.Env = append(os.Environ(), "GOFLAGS=", "GOWORK=off", "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		need.Missing(t, "the CRI client, which cannot be built: %v: %s", err, out)
	}
	// A root without CAP_SYS_RESOURCE may not lower a container's oom_score_adj.
	config := fmt.Sprintf("[plugins.\"io.containerd.grpc.v1.cri\"]\nsandbox_image = %q\nrestrict_oom_score_adj = true\n", imageName)
	for name, path := range handlers(c.ground) {
		config += fmt.Sprintf("[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%[1]q]\nruntime_type = \"io.containerd.runc.v2\"\n"+
			"[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.%[1]q.options]\nBinaryName = %[2]q\n", name, path)
	}
	c.sock = c.containerd(program, config)
	out, err := c.output("ctr", "--address", c.sock, "--namespace", "k8s.io", "image", "import", c.image())
	require.NoError(t, err, "%s", out)
	require.NoError(t, eventually(func() error {
		_, err := c.do("Version", object{})
		return err
	}), "waiting for the CRI plugin to answer")
	return c
}

// do makes one call. Its error is what the kubelet would show.
func (c *cri) do(method string, request object) (object, error) {
	data, err := json.Marshal(request)
	if err != nil {
		return nil, err
	}
	out, err := c.output(c.client, c.sock, method, string(data))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, out)
	}
	var response object
	return response, json.Unmarshal([]byte(out), &response)
}

func (c *cri) must(t *testing.T, method string, request object) object {
	t.Helper()
	response, err := c.do(method, request)
	require.NoError(t, err, "%s", method)
	return response
}

// create starts a pod on the host's network and creates a container in it.
func (c *cri) create(t *testing.T, handler string, env ...object) (string, error) {
	t.Helper()
	return c.createWith(t, handler, object{}, env...)
}

// createWith is create with more fields of the container's configuration.
func (c *cri) createWith(t *testing.T, handler string, more object, env ...object) (string, error) {
	t.Helper()
	config := object{
		"metadata":      object{"name": strings.ReplaceAll(t.Name(), "/", "-"), "uid": "uid", "namespace": "default"},
		"log_directory": filepath.Join(c.dir, "logs"),
		"linux": object{
			"cgroup_parent":    c.cgroup(),
			"security_context": object{"namespace_options": object{"network": 2}},
		},
	}
	response, err := c.do("RunPodSandbox", object{"config": config, "runtime_handler": handler})
	if err != nil {
		return "", err
	}
	pod := response["pod_sandbox_id"]
	t.Cleanup(func() {
		c.must(t, "StopPodSandbox", object{"pod_sandbox_id": pod})
		c.must(t, "RemovePodSandbox", object{"pod_sandbox_id": pod})
	})
	container := object{
		"metadata": object{"name": "gpu"}, "image": object{"image": imageName}, "envs": env, "log_path": t.Name() + ".log",
		"linux": object{"security_context": object{"seccomp": object{"profile_type": 0}}},
	}
	maps.Copy(container, more)
	response, err = c.do("CreateContainer", object{"pod_sandbox_id": pod, "sandbox_config": config, "config": container})
	if err != nil {
		return "", err
	}
	return response["container_id"].(string), nil
}

// exec runs a script in a container and returns its standard output.
func (c *cri) exec(t *testing.T, id, script string) string {
	t.Helper()
	response := c.must(t, "ExecSync", object{"container_id": id, "cmd": []string{"sh", "-c", script}, "timeout": 60})
	var stdout []byte
	if text, ok := response["stdout"].(string); ok {
		require.NoError(t, json.Unmarshal(fmt.Appendf(nil, "%q", text), &stdout))
	}
	return string(stdout)
}

func TestCRI(t *testing.T) {
	need.Root(t)
	t.Run("containerd", func(t *testing.T) { testCRI(t, need.Program(t, "containerd"), lowLevels(t)) })
	t.Run("containerd-"+containerdVersion, func(t *testing.T) {
		testCRI(t, filepath.Join(currentContainerd(t), "containerd"), withoutCrun(lowLevels(t)))
	})
}

func testCRI(t *testing.T, containerd string, levels []lowLevel) {
	c := newCRIOf(t, containerd, func(g *ground) map[string]string {
		handlers := g.failureRuntimes(levels[0].path)
		handlers["runc"] = levels[0].path // the default handler
		for _, l := range levels {
			handlers["t4-"+l.name] = g.runtime("t4-"+l.name, "t4", l.path, "")
		}
		return handlers
	})
	for _, l := range levels {
		t.Run(l.name, func(t *testing.T) {
			id, err := c.create(t, "t4-"+l.name, object{"key": "NVIDIA_VISIBLE_DEVICES", "value": "0"})
			require.NoError(t, err)
			c.must(t, "StartContainer", object{"container_id": id})
			assert.Equal(t, t4Nodes+t4Libs, c.exec(t, id, look+libs), "after the start")
			// The kubelet's CPU manager makes this call, too.
			c.must(t, "UpdateContainerResources", object{"container_id": id, "linux": object{"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512}})
			assert.Equal(t, t4Nodes+t4Libs, c.exec(t, id, look+libs), "after an update")
			assert.Equal(t, fenced, c.exec(t, id, fence))
			c.must(t, "StopContainer", object{"container_id": id})
			c.must(t, "RemoveContainer", object{"container_id": id})
		})
	}
	t.Run("failures", func(t *testing.T) {
		for _, f := range failures {
			t.Run(f.name, func(t *testing.T) {
				key, value, _ := strings.Cut(f.env, "=")
				id, err := c.create(t, f.runtime, object{"key": "NVIDIA_VISIBLE_DEVICES", "value": "all"}, object{"key": key, "value": value})
				if err == nil {
					_, err = c.do("StartContainer", object{"container_id": id})
				}
				require.Error(t, err)
				assert.Contains(t, err.Error(), f.want)
				assert.NotContains(t, err.Error(), "unable to retrieve OCI runtime error")
			})
		}
	})
}
