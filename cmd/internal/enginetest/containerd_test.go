// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// containerd starts program, a containerd, and returns its socket. cri is the configuration of the
// CRI plugin; if it is empty, the plugin is disabled.
func (g *ground) containerd(program, cri string) string {
	g.t.Helper()
	sock := filepath.Join(g.dir, "containerd.sock")
	config := fmt.Sprintf("version = 2\nroot = %q\nstate = %q\n[grpc]\naddress = %q\n", filepath.Join(g.dir, "containerd"), filepath.Join(g.dir, "containerd.run"), sock)
	if cri == "" {
		config = "disabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n" + config
	}
	file := filepath.Join(g.dir, "containerd.toml")
	require.NoError(g.t, os.WriteFile(file, []byte(config+cri), 0o644))
	if g.edit != nil {
		g.edit(file)
	}
	g.daemon("containerd", nil, []string{"ctr", "--address", sock, "version"}, program, "--config", file)
	return sock
}

// ctr is containerd's own client, in a containerd namespace of the test's own.
type ctr struct {
	*ground
	sock string
}

func (c *ctr) do(args ...string) (string, error) {
	return c.output(append([]string{"ctr", "--address", c.sock, "--namespace", filepath.Base(c.dir)}, args...)...)
}

func (c *ctr) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.do(args...)
	require.NoError(t, err, "ctr %q: %s", args, out)
	return out
}

func TestContainerd(t *testing.T) {
	need.Root(t)
	program := need.Program(t, "containerd")
	need.Program(t, "ctr")
	levels := lowLevels(t)
	c := &ctr{ground: newGround(t, "")}
	c.sock = c.containerd(program, "")
	c.must(t, "image", "import", c.image())
	for _, l := range levels {
		t.Run(l.name, func(t *testing.T) {
			runtime := c.runtime("t4-"+l.name, "t4", l.path, "")
			run := func(id, script string, options ...string) string {
				args := append([]string{"run", "--rm", "--runc-binary", runtime}, options...)
				return c.must(t, append(args, imageName, id+"-"+l.name, "sh", "-c", script)...)
			}
			t.Run("run", func(t *testing.T) {
				got := run("run", look+libs+"nvidia-smi", "--env", "NVIDIA_VISIBLE_DEVICES=0")
				assert.Contains(t, got, t4Nodes+t4Libs)
				assert.Contains(t, got, "550.54.15", "nvidia-smi runs")
			})
			t.Run("nothing requested", func(t *testing.T) {
				assert.Empty(t, run("nothing", look))
			})
			t.Run("fence", func(t *testing.T) {
				assert.Equal(t, fenced, run("fence", fence, "--env", "NVIDIA_VISIBLE_DEVICES=0", "--seccomp"))
			})
			t.Run("life", func(t *testing.T) {
				id := "life-" + l.name
				c.must(t, "run", "--detach", "--runc-binary", runtime, "--env", "NVIDIA_VISIBLE_DEVICES=0", imageName, id)
				defer c.must(t, "container", "delete", id)
				for _, when := range []string{"after the start", "after another start"} {
					assert.Equal(t, t4Nodes+t4Libs, c.must(t, "task", "exec", "--exec-id", "look", id, "sh", "-c", look+libs), when)
					c.must(t, "task", "delete", "--force", id)
					if when == "after the start" {
						c.must(t, "task", "start", "--detach", id)
					}
				}
			})
		})
	}
	runtimes := c.failureRuntimes(levels[0].path)
	for i, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			out, err := c.do("run", "--rm", "--runc-binary", runtimes[f.runtime], "--env", "NVIDIA_VISIBLE_DEVICES=all", "--env", f.env,
				imageName, fmt.Sprint("failure-", i), "true")
			require.Error(t, err, "%s", out)
			assert.Contains(t, out, f.want)
			assert.NotContains(t, out, "unable to retrieve OCI runtime error")
		})
	}
}
