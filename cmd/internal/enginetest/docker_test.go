// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// docker is a dockerd of the test's own.
type docker struct {
	*ground
	client string
	hooked string // file that exists once the prestart hook of --gpus has run
}

// newDocker starts containerd and dockerd on a new ground that setup prepares. changes edits
// daemon.json.
func newDocker(t *testing.T, setup string, changes func(*ground, map[string]any)) *docker {
	t.Helper()
	need.Root(t)
	return newDockerOn(t, newGround(t, setup), changes)
}

// newDockerOn is newDocker on an existing ground.
func newDockerOn(t *testing.T, g *ground, changes func(*ground, map[string]any)) *docker {
	t.Helper()
	dockerd, containerd := need.Program(t, "dockerd"), need.Program(t, "containerd")
	d := &docker{ground: g}
	// Prefer Debian's own client, which is as old as the daemon. Other clients also work with older
	// daemons.
	d.client = "/usr/bin/docker"
	if _, err := os.Stat(d.client); err != nil {
		d.client = need.Program(t, "docker")
	}
	d.hooked = filepath.Join(d.dir, "hooked")

	// The hook's stand-in is behind a script that records that it has run.
	require.NoError(t, builtNvsysfs())
	machine := filepath.Join(d.dir, "hook")
	require.NoError(t, os.MkdirAll(filepath.Join(machine, "usr/bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(machine, "usr/bin", shimName), nil, 0o755))
	out, err := exec.Command(filepath.Join(programs.dir, "nvsysfs"), "configure", "docker", "--gpus", "--root", machine).CombinedOutput()
	require.NoError(t, err, "%s", out)
	bin := filepath.Join(d.dir, "bin")
	require.NoError(t, os.Mkdir(bin, 0o755))
	hook := fmt.Sprintf("#!/bin/sh\n: >%q\nexec %q \"$@\"\n", d.hooked, filepath.Join(machine, "usr/bin", hookName))
	require.NoError(t, os.WriteFile(filepath.Join(bin, hookName), []byte(hook), 0o755))

	sock := d.containerd(containerd, "")
	config := map[string]any{
		"bridge": "none", "iptables": false, "ip6tables": false, "ip-forward": false, "ip-masq": false,
		"hosts":     []string{"unix://" + filepath.Join(d.dir, "docker.sock")},
		"data-root": filepath.Join(d.dir, "docker"), "exec-root": filepath.Join(d.dir, "docker.run"), "pidfile": filepath.Join(d.dir, "dockerd.lock"),
		"containerd": sock, "cgroup-parent": d.cgroup(), "group": "root",
	}
	changes(d.ground, config)
	data, err := json.Marshal(config)
	require.NoError(t, err)
	file := filepath.Join(d.dir, "daemon.json")
	require.NoError(t, os.WriteFile(file, data, 0o644))
	d.daemon("dockerd", []string{"PATH=" + bin + ":" + os.Getenv("PATH")}, d.line("version"), dockerd, "--config-file", file)
	d.must(t, "load", "-i", d.image())
	return d
}

func (d *docker) line(args ...string) []string {
	return append([]string{d.client, "--host", "unix://" + filepath.Join(d.dir, "docker.sock"), "--config", filepath.Join(d.dir, "client")}, args...)
}

// do runs the client and returns all that it prints.
func (d *docker) do(args ...string) (string, error) {
	line := d.line(args...)
	cmd := d.command(line...)
	cmd.Env = append(os.Environ(), "DOCKER_BUILDKIT=0")
	return output(cmd)
}

func (d *docker) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := d.do(args...)
	require.NoError(t, err, "docker %q: %s", args, out)
	return out
}

// run runs a script in a container.
func (d *docker) run(t *testing.T, runtime, script string, options ...string) string {
	t.Helper()
	args := append([]string{"run", "--rm", "--network", "none", "--runtime", runtime}, options...)
	out, err := d.do(append(args, imageName, "sh", "-c", script)...)
	require.NoError(t, err, "%s", out)
	return out
}

func TestDocker(t *testing.T) {
	need.Root(t)
	levels := lowLevels(t)
	d := newDocker(t, "", func(g *ground, config map[string]any) {
		runtimes := map[string]any{}
		add := func(name, path string) { runtimes[name] = map[string]any{"path": path} }
		for _, l := range levels {
			add("plain-"+l.name, l.path)
			for _, fixture := range []string{"t4", "hgx-minors"} {
				name := fixture + "-" + l.name
				add(name, g.runtime(name, fixture, l.path, ""))
			}
		}
		for name, path := range g.failureRuntimes(levels[0].path) {
			add(name, path)
		}
		config["runtimes"], config["default-runtime"] = runtimes, "t4-runc"
	})
	for _, l := range levels {
		t.Run(l.name, func(t *testing.T) { d.lowLevel(t, l) })
	}
	t.Run("gpus", d.gpus)
	t.Run("failures", d.failures)
	t.Run("build", d.build)
}

func (d *docker) lowLevel(t *testing.T, l lowLevel) {
	t.Run("run", func(t *testing.T) {
		got := d.run(t, "t4-"+l.name, look+libs+"nvidia-smi", "-e", "NVIDIA_VISIBLE_DEVICES=0")
		assert.Contains(t, got, t4Nodes+t4Libs)
		assert.Contains(t, got, "550.54.15", "nvidia-smi runs")
	})
	t.Run("nothing requested", func(t *testing.T) {
		assert.Empty(t, d.run(t, "t4-"+l.name, look))
	})
	for _, tt := range []struct{ name, option string }{
		{"read-only", "--read-only"},
		{"user", "--user=1000:1000"},
		{"no new privileges", "--security-opt=no-new-privileges"},
		{"init", "--init"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, t4Nodes+t4Libs, d.run(t, "t4-"+l.name, look+libs, "-e", "NVIDIA_VISIBLE_DEVICES=0", tt.option))
		})
	}
	// Docker's own seccomp profile denies by default, and its containers may create device nodes.
	t.Run("fence", func(t *testing.T) {
		assert.Equal(t, fenced, d.run(t, "t4-"+l.name, fence, "-e", "NVIDIA_VISIBLE_DEVICES=0"))
		assert.Equal(t, "made 195:7\nmade 1:3\nmade 194:7\n", d.run(t, "t4-"+l.name, fence), "without a GPU, nothing changes")
	})
	t.Run("life", func(t *testing.T) {
		name := "life-" + l.name
		d.must(t, "run", "-d", "--name", name, "--memory", "256m", "--memory-swap", "256m", "--network", "none", "--runtime", "t4-"+l.name, "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName)
		defer d.must(t, "rm", "-f", name)
		check := func(when string) {
			t.Helper()
			assert.Equal(t, t4Nodes+t4Libs, d.must(t, "exec", name, "sh", "-c", look+libs), when)
		}
		check("after the start")
		update := []string{"update", "--cpus", "0.5"}
		if l.name == "crun" {
			// On cgroup v1, an update needs a memory limit: without one, dockerd sends a limit of
			// 0, which crun does not take to mean that the limit stays as it is.
			update = append(update, "--memory", "512m", "--memory-swap", "512m")
		}
		d.must(t, append(update, name)...)
		check("after an update")
		d.must(t, "stop", "-t", "0", name)
		d.must(t, "start", name)
		check("after another start")
		d.must(t, "restart", "-t", "0", name)
		check("after a restart")
		assert.Equal(t, "head: /tmp/n: Operation not permitted\n", d.must(t, "exec", name, "sh", "-c", "exec 2>&1; mknod /tmp/n c 194 7 && head -c0 /tmp/n; true"), "other devices stay denied")
	})
}

// gpus tests docker run --gpus: dockerd sets the variables and adds a hook, which our runtime
// removes.
func (d *docker) gpus(t *testing.T) {
	const list = `exec 2>&1; cd /dev; ls -d nvidia[0-9]* nvidia-uvm 2>/dev/null; probe libcuda.so.1 libnvidia-ml.so.1 | sed 's/.*=> //; s/: .*/ missing/'`
	minors := func(indices ...int) string {
		s := ""
		for _, i := range indices {
			s += fmt.Sprintf("nvidia%d\n", gpuMinor(t, d.machine("hgx-minors"), i))
		}
		return s
	}
	const dir = "/usr/lib/nvidia-container-driver/"
	for _, tt := range []struct{ name, gpus, want string }{
		{"all", "all", sorted(minors(0, 1, 2, 3, 4, 5, 6, 7)+"nvidia-uvm\n") + dir + "libcuda.so.1\n" + dir + "libnvidia-ml.so.1\n"},
		{"count", "2", sorted(minors(0, 1)+"nvidia-uvm\n") + dir + "libcuda.so.1\n" + dir + "libnvidia-ml.so.1\n"},
		{"devices", `"device=0,3"`, sorted(minors(0, 3)+"nvidia-uvm\n") + dir + "libcuda.so.1\n" + dir + "libnvidia-ml.so.1\n"},
		{"capabilities", "capabilities=utility", minors(0) + "libcuda.so.1 missing\n" + dir + "libnvidia-ml.so.1\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, d.run(t, "hgx-minors-runc", list, "--gpus", tt.gpus))
			assert.NoFileExists(t, d.hooked)
		})
	}
	// With a runtime that leaves the hook in place, the start fails.
	out, err := d.do("run", "--rm", "--network", "none", "--runtime", "plain-runc", "--gpus", "all", imageName, "true")
	require.Error(t, err, "%s", out)
	assert.Contains(t, out, "started with --gpus, but not with --runtime=nvidia-experimental")
	assert.FileExists(t, d.hooked)
}

func (d *docker) failures(t *testing.T) {
	for _, f := range failures {
		t.Run(f.name, func(t *testing.T) {
			out, err := d.do("run", "--rm", "--network", "none", "--runtime", f.runtime, "-e", "NVIDIA_VISIBLE_DEVICES=all", "-e", f.env, imageName, "true")
			require.Error(t, err, "%s", out)
			assert.Contains(t, out, f.want)
			assert.NotContains(t, out, "unable to retrieve OCI runtime error")
		})
	}
}

// build builds an image with this runtime as the default, so that the build has a GPU. The image
// works without a GPU, with one, and with another driver.
func (d *docker) build(t *testing.T) {
	dir := filepath.Join(d.dir, "build")
	require.NoError(t, os.Mkdir(dir, 0o755))
	dockerfile := "FROM " + imageName + `
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
RUN probe libcuda.so.1 libnvidia-ml.so.1 >/seen
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	d.must(t, "build", "--network", "none", "-t", "nvcr.test/built:1", dir)

	run := func(runtime, script string) string {
		out, err := d.do("run", "--rm", "--network", "none", "--runtime", runtime, "nvcr.test/built:1", "sh", "-c", script)
		require.NoError(t, err, "%s", out)
		return out
	}
	assert.Equal(t, t4Libs, run("plain-runc", "cat /seen"), "the build had the driver")
	assert.Equal(t, "libm.so.6 => /usr/lib/x86_64-linux-gnu/libm.so.6\n", run("plain-runc", "ldconfig 2>/dev/null && probe libm.so.6"))
	// Links for programs that look for libraries by path point to where the driver would be. There
	// is nothing else.
	assert.Equal(t, "/usr/lib/nvidia-container-driver/libcuda.so.1\n", run("plain-runc", "readlink /usr/lib/x86_64-linux-gnu/libcuda.so.1"))
	assert.Empty(t, run("plain-runc", `find / -xdev -type l ! -exec test -e {} \; -exec readlink {} \; | grep -v ^/usr/lib/nvidia-container-driver/ || true`))
	assert.Empty(t, run("plain-runc", `ls -A /usr/lib/nvidia-container-driver`))
	assert.Equal(t, t4Libs, run("t4-runc", libs))
	assert.Equal(t, t4Libs, run("other-driver", libs))
}
