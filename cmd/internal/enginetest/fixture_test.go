// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"errors"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// closedT4 is what look prints for the fixture t4 if its device nodes cannot be opened.
var closedT4 = strings.ReplaceAll(t4Nodes, "No such device or address", "Permission denied")

const (
	upT4 = "GPU 0: Tesla T4 (UUID: " + t4UUID + ")\n"
	// upMIG is the second MIG device of the first GPU, gi8 with its compute instance, on its own:
	// indices in a container start at 0.
	upMIG = "GPU 0: NVIDIA A100-SXM4-80GB (UUID: GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16)\n" +
		"  MIG 1g.10gb     Device  0: (UUID: MIG-7d3d227e-33cf-5f2c-98cb-f221614e8b4e)\n"
)

// nvsysfs runs the administrator's tool in the namespaces.
func (g *ground) nvsysfs(args ...string) string {
	g.t.Helper()
	require.NoError(g.t, programs.shim())
	if _, err := os.Stat(filepath.Join(programs.dir, "nvsysfs")); err != nil {
		require.NoError(g.t, build("nvsysfs"))
	}
	out, err := g.output(append([]string{filepath.Join(programs.dir, "nvsysfs")}, args...)...)
	require.NoError(g.t, err, "nvsysfs %q: %s", args, out)
	return out
}

// TestFixtureUp registers two fixtures as runtimes of one dockerd at once, and one of them with
// podman, too.
func TestFixtureUp(t *testing.T) {
	need.Root(t)
	p := newPodman(t, "")
	d := newDockerOn(t, p.ground, func(*ground, map[string]any) {})
	config := filepath.Join(d.dir, "daemon.json")
	before, err := os.ReadFile(config)
	require.NoError(t, err)

	assert.Contains(t, d.nvsysfs("fixture", "up", "a100-mig", "--engine", "docker", "--config", config), "docker run --rm --runtime=a100-mig ")
	d.nvsysfs("fixture", "up", "t4", "--engine", "docker", "--config", config, "--name", "my-t4")
	assert.Contains(t, d.nvsysfs("fixture", "up", "t4", "--engine", "podman", "--name", "my-t4"), "already up")
	assert.Equal(t, "a100-mig  /var/lib/nvsysfs/fixtures/a100-mig/machine  docker\nmy-t4     /var/lib/nvsysfs/fixtures/my-t4/machine     docker,podman\n",
		d.nvsysfs("fixture", "ps"))
	d.must(t, "info")
	_, err = d.output("sh", "-c", `kill -HUP "$(cat "$0")"`, filepath.Join(d.dir, "dockerd.pid"))
	require.NoError(t, err)
	require.NoError(t, eventually(func() error {
		if out := d.must(t, "info", "--format", "{{json .Runtimes}}"); !strings.Contains(out, "my-t4") {
			return errors.New(out)
		}
		return nil
	}))

	assert.Equal(t, closedT4+libsOf(t, d.run(t, "my-t4", libs, "-e", "NVIDIA_VISIBLE_DEVICES=all"))+upT4,
		d.run(t, "my-t4", look+libs+"nvidia-smi -L", "-e", "NVIDIA_VISIBLE_DEVICES=all"))
	assert.Equal(t, upMIG, d.run(t, "a100-mig", "nvidia-smi -L", "-e", "NVIDIA_VISIBLE_DEVICES=0:1"))
	out, err := d.do("run", "--rm", "--network", "none", "--runtime", "my-t4", "-e", "NVIDIA_VISIBLE_DEVICES=7", imageName, "true")
	require.Error(t, err)
	assert.Contains(t, out, `unknown device: no GPU has the index 7`)
	assert.Equal(t, "sh: nvidia-smi: not found\n", d.run(t, "my-t4", "nvidia-smi -L 2>&1 || true"), "no GPU was requested")

	p.must(t, "load", "-i", p.image())
	assert.Equal(t, closedT4+upT4, p.run(t, "my-t4", look+"nvidia-smi -L", "-e", "NVIDIA_VISIBLE_DEVICES=all"))
	assert.Equal(t, closedT4, p.run(t, "my-t4", look, "-e", "NVIDIA_VISIBLE_DEVICES=all", "--privileged"), "with all privileges")

	d.nvsysfs("fixture", "down", "my-t4")
	d.nvsysfs("fixture", "down", "a100-mig")
	after, err := os.ReadFile(config)
	require.NoError(t, err)
	assert.JSONEq(t, string(before), string(after))
	out, err = d.output("sh", "-c", "ls -A /var/lib/nvsysfs/fixtures /etc/containers/containers.conf.d")
	require.NoError(t, err)
	assert.Equal(t, "/etc/containers/containers.conf.d:\n\n/var/lib/nvsysfs/fixtures:\n", out)
}

// TestFixtureUpUsernsRemap runs containers in a user namespace, where a low-level runtime would
// bind-mount the host's device nodes, which are not the fixture's. The fixture's closed device
// nodes are mounts, and exist there.
func TestFixtureUpUsernsRemap(t *testing.T) {
	need.Root(t)
	levels := lowLevels(t)
	d := newDocker(t, subordinate, func(g *ground, config map[string]any) { config["userns-remap"] = "nvcr" })
	config := filepath.Join(d.dir, "daemon.json")
	closed := strings.ReplaceAll(t4NodesUserns, "No such device or address", "Permission denied")
	for _, l := range levels {
		t.Run(l.name, func(t *testing.T) {
			name := "t4-" + l.name
			d.nvsysfs("fixture", "up", "t4", "--engine", "docker", "--config", config, "--name", name)
			settings := filepath.Join("/var/lib/nvsysfs/fixtures", name, shimName+"@"+name+".toml")
			out, err := d.output("sh", "-c", `echo "runtime-path = \"$1\"" >>"$0" && kill -HUP "$(cat "$2")"`, settings, l.path, filepath.Join(d.dir, "dockerd.pid"))
			require.NoError(t, err, "%s", out)
			require.NoError(t, eventually(func() error {
				if out := d.must(t, "info", "--format", "{{json .Runtimes}}"); !strings.Contains(out, name) {
					return errors.New(out)
				}
				return nil
			}))
			got := d.run(t, name, lookUserns+owners+"nvidia-smi -L; cat /proc/self/uid_map", "-e", "NVIDIA_VISIBLE_DEVICES=all")
			assert.Regexp(t, "^"+regexp.QuoteMeta(closed+rootOwns+upT4)+` +0 +200000 +65536\n$`, got)
			d.nvsysfs("fixture", "down", name)
		})
	}
}

// TestFixtureUpCRI uses fixtures as Kubernetes would: containerd's CRI plugin has two of them as
// runtime handlers.
func TestFixtureUpCRI(t *testing.T) {
	need.Root(t)
	config, before := "", ""
	c := newCRI(t, func(g *ground) map[string]string {
		g.edit = func(file string) {
			data, err := os.ReadFile(file)
			require.NoError(t, err)
			config, before = file, string(data)
			for _, name := range []string{"t4", "dgx-h100"} {
				g.nvsysfs("fixture", "up", name, "--engine", "containerd", "--config", file)
			}
		}
		return map[string]string{"runc": lowLevels(t)[0].path}
	})
	run := func(t *testing.T, handler, devices, script string) string {
		id, err := c.create(t, handler, object{"key": "NVIDIA_VISIBLE_DEVICES", "value": devices})
		require.NoError(t, err)
		c.must(t, "StartContainer", object{"container_id": id})
		return c.exec(t, id, script)
	}
	const second = "GPU 0: NVIDIA H100 80GB HBM3 (UUID: GPU-6f1d29c8-04e7-b53a-91d6-2a8c70f4be13)\n" +
		"  MIG 1g.10gb     Device  0: (UUID: MIG-c0dfeed8-2d6a-5070-a31f-f401d4830986)\n"
	t.Run("all of one", func(t *testing.T) { assert.Equal(t, closedT4+upT4, run(t, "t4", "all", look+"nvidia-smi -L")) })
	t.Run("a MIG device of another", func(t *testing.T) { assert.Equal(t, second, run(t, "dgx-h100", "0:1", "nvidia-smi -L")) })
	// The host learns from what nvidia-smi prints about all devices, so that containers can request
	// them by the names that Kubernetes uses.
	t.Run("learn", func(t *testing.T) {
		text := filepath.Join(c.dir, "smi.txt")
		require.NoError(t, os.WriteFile(text, []byte(run(t, "dgx-h100", "all", "nvidia-smi -L; nvidia-smi -q")), 0o644))
		assert.Contains(t, c.nvsysfs("learn", "--root", "/var/lib/nvsysfs/fixtures/dgx-h100/machine", "--from", text), "7 of 7 MIG devices, PDI 0x2c5f18d0947be36a from nvidia-smi, proved by a UUID")
	})
	t.Run("its UUID", func(t *testing.T) {
		assert.Equal(t, second, run(t, "dgx-h100", "MIG-c0dfeed8-2d6a-5070-a31f-f401d4830986", "nvidia-smi -L"))
	})
	c.nvsysfs("fixture", "down", "t4")
	c.nvsysfs("fixture", "down", "dgx-h100")
	after, err := os.ReadFile(config)
	require.NoError(t, err)
	assert.Equal(t, before, string(after))
}

// libsOf checks that all libraries are found, wherever the driver's files are in a container, and
// returns printed.
func libsOf(t *testing.T, printed string) string {
	t.Helper()
	assert.NotContains(t, printed, "cannot open shared object file")
	return printed
}

// TestFixtureUpRootless runs as an ordinary user without privileges: if device nodes cannot be
// created, /dev/null stands in for them.
func TestFixtureUpRootless(t *testing.T) {
	need.Root(t)
	need.Program(t, "newuidmap")
	g := newGround(t, subordinate+"rm -rf /etc/cni\n")
	image := g.image()
	require.NoError(t, programs.shim())
	require.NoError(t, build("nvsysfs"))
	home := filepath.Join(g.dir, "home")
	require.NoError(t, os.MkdirAll(filepath.Join(home, "run"), 0o700))
	require.NoError(t, os.Chown(home, 61111, 61111))
	require.NoError(t, os.Chown(filepath.Join(home, "run"), 61111, 61111))
	user := func(script string) string {
		out, err := g.output("setpriv", "--reuid", "61111", "--regid", "61111", "--clear-groups", "--inh-caps=-all", "env", "--chdir", home, "-i",
			"HOME="+home, "XDG_RUNTIME_DIR="+home+"/run", "PATH="+programs.dir+":"+os.Getenv("PATH"), "sh", "-c", script)
		require.NoError(t, err, "%s: %s", script, out)
		return out
	}
	assert.Contains(t, user("nvsysfs fixture up t4 --engine podman"), "note: cannot create device nodes here; containers get nodes that cannot be opened")
	user("podman load -i " + image)
	defer user("podman system migrate") // podman leaves a process that keeps the user's namespaces
	got := user("podman run --rm --network none --runtime t4 -e NVIDIA_VISIBLE_DEVICES=all --userns=keep-id " + imageName +
		" sh -c 'id -u; nvidia-smi -L; stat -c \"%n %F %t:%T\" /dev/nvidia0; head -c1 /dev/nvidia0 2>&1'; true")
	assert.Equal(t, "61111\n"+upT4+"/dev/nvidia0 character special file 1:3\nhead: /dev/nvidia0: Permission denied\n", got)
	user("nvsysfs fixture down t4")
	assert.Empty(t, user("nvsysfs fixture ps; find .config/containers .local/share/nvsysfs -type f"))
}
