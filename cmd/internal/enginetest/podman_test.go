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

// podman is podman with storage of the test's own.
type podman struct {
	*ground
	wrapper []string // runs the command line that follows
	options []string
}

// newPodman prepares podman on a new ground. Containers run as root, with low limits on open files
// and processes because root without CAP_SYS_RESOURCE cannot set podman's default limits.
func newPodman(t *testing.T, setup string) *podman {
	t.Helper()
	need.Root(t)
	program := need.Program(t, "podman")
	// podman runs nothing, not even "load", without its default low-level runtime.
	for _, name := range []string{"runc", "crun"} {
		need.Program(t, name)
	}
	// podman warns about a network configuration whose plugins are missing.
	p := &podman{ground: newGround(t, setup+"\nrm -rf /etc/cni")}
	p.options = []string{
		program, "--root", filepath.Join(p.dir, "podman"), "--runroot", filepath.Join(p.dir, "podman.run"),
		"--tmpdir", filepath.Join(p.dir, "podman.tmp"), "--cgroup-manager", "cgroupfs", "--events-backend", "none",
	}
	conf := "[containers]\ndefault_ulimits = [\"nofile=1024:1024\", \"nproc=1024:1024\"]\nlog_driver = \"k8s-file\"\n"
	p.write("/etc/containers/containers.conf", conf)
	return p
}

// write writes a file in the namespace, such as one below /etc.
func (g *ground) write(name, text string) {
	g.t.Helper()
	out, err := g.output("sh", "-c", `mkdir -p "$(dirname "$0")" && printf %s "$1" >"$0"`, name, text)
	require.NoError(g.t, err, "%s", out)
}

func (p *podman) do(args ...string) (string, error) {
	return p.output(append(append(append([]string{}, p.wrapper...), p.options...), args...)...)
}

func (p *podman) must(t *testing.T, args ...string) string {
	t.Helper()
	out, err := p.do(args...)
	require.NoError(t, err, "podman %q: %s", args, out)
	return out
}

// run runs a script in a container.
func (p *podman) run(t *testing.T, runtime, script string, options ...string) string {
	t.Helper()
	args := append([]string{"--runtime", runtime, "run", "--rm", "--network", "none", "--cgroup-parent", p.cgroup()}, options...)
	return p.must(t, append(args, imageName, "sh", "-c", script)...)
}

func TestPodman(t *testing.T) {
	p := newPodman(t, "")
	p.must(t, "load", "-i", p.image())
	for _, l := range lowLevels(t) {
		t.Run(l.name, func(t *testing.T) {
			runtime := p.runtime("t4-"+l.name, "t4", l.path, "")
			t.Run("run", func(t *testing.T) {
				got := p.run(t, runtime, look+libs+"nvidia-smi", "-e", "NVIDIA_VISIBLE_DEVICES=0")
				assert.Contains(t, got, t4Nodes+t4Libs)
				assert.Contains(t, got, "550.54.15", "nvidia-smi runs")
			})
			t.Run("nothing requested", func(t *testing.T) {
				assert.Empty(t, p.run(t, runtime, look))
			})
			// Docker gives a privileged container all capabilities, which root without
			// CAP_SYS_RESOURCE does not have. podman gives it those that are available.
			t.Run("privileged", func(t *testing.T) {
				assert.Equal(t, t4Nodes+t4Libs, p.run(t, runtime, look+libs, "-e", "NVIDIA_VISIBLE_DEVICES=0", "--privileged"))
			})
			t.Run("fence", func(t *testing.T) {
				assert.Equal(t, fenced, p.run(t, runtime, fence, "-e", "NVIDIA_VISIBLE_DEVICES=0", "--cap-add", "MKNOD"))
			})
			t.Run("life", func(t *testing.T) { p.life(t, l, runtime) })
		})
	}
	t.Run("failures", func(t *testing.T) {
		for _, l := range lowLevels(t)[:2] {
			runtimes := p.failureRuntimes(l.path)
			for _, f := range failures {
				t.Run(l.name+"/"+f.name, func(t *testing.T) {
					out, err := p.do("--runtime", runtimes[f.runtime], "run", "--rm", "--network", "none", "--cgroup-parent", p.cgroup(),
						"-e", "NVIDIA_VISIBLE_DEVICES=all", "-e", f.env, imageName, "true")
					require.Error(t, err, "%s", out)
					assert.Contains(t, out, f.want)
					assert.NotContains(t, out, "unable to retrieve OCI runtime error")
				})
			}
		}
	})
	t.Run("build", p.build)
	t.Run("configuration in /etc", p.etc)
}

func (p *podman) life(t *testing.T, l lowLevel, runtime string) {
	name := "life-" + l.name
	do := func(args ...string) string { return p.must(t, append([]string{"--runtime", runtime}, args...)...) }
	do("run", "-d", "--name", name, "--network", "none", "--cgroup-parent", p.cgroup(), "-e", "NVIDIA_VISIBLE_DEVICES=0", imageName)
	defer do("rm", "-f", "-t", "0", name)
	check := func(when string) {
		t.Helper()
		assert.Equal(t, t4Nodes+t4Libs, do("exec", name, "sh", "-c", look+libs), when)
	}
	check("after the start")
	do("update", "--cpus", "0.5", name)
	check("after an update")
	do("stop", "-t", "0", name)
	do("start", name)
	check("after another start")
	do("restart", "-t", "0", name)
	check("after a restart")
}

// build checks that an image built with a GPU works without one, as the test of docker build does.
func (p *podman) build(t *testing.T) {
	t4 := p.runtime("build", "t4", need.Program(t, "crun"), "")
	dir := filepath.Join(p.dir, "build")
	require.NoError(t, os.Mkdir(dir, 0o755))
	dockerfile := "FROM " + imageName + `
ENV NVIDIA_VISIBLE_DEVICES=all NVIDIA_DRIVER_CAPABILITIES=all
RUN probe libcuda.so.1 libnvidia-ml.so.1 >/seen
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(dockerfile), 0o644))
	p.must(t, "--runtime", t4, "build", "--network", "none", "-t", "nvcr.test/built:1", dir)
	run := func(runtime, script string) string {
		return p.must(t, "--runtime", runtime, "run", "--rm", "--network", "none", "--cgroup-parent", p.cgroup(), "nvcr.test/built:1", "sh", "-c", script)
	}
	plain := need.Program(t, "crun")
	assert.Equal(t, t4Libs, run(plain, "cat /seen"), "the build had the driver")
	assert.Equal(t, "libm.so.6 => /usr/lib/x86_64-linux-gnu/libm.so.6\n", run(plain, "ldconfig 2>/dev/null && probe libm.so.6"))
	assert.Equal(t, t4Libs, run(t4, libs))
}

// etc tests the runtime with everything configured in /etc, and with the program itself as the
// runtime: podman starts its runtime with hardly any environment variables.
func (p *podman) etc(t *testing.T) {
	p.write("/etc/nvidia-container-runtime/config.toml", fmt.Sprintf("[nvidia-container-runtime.experimental]\nsysroot = %q\nsysroot-nodes = \"open\"\ndebug = %q\n", p.machine("t4"), filepath.Join(p.dir, "debug.log")))
	assert.Equal(t, t4Nodes+t4Libs, p.run(t, filepath.Join(programs.dir, shimName), look+libs, "-e", "NVIDIA_VISIBLE_DEVICES=0"))
	assert.FileExists(t, filepath.Join(p.dir, "debug.log"))
}

// TestPodmanRestores checks that a container that was checkpointed has its GPU again, also as a new
// container from an exported archive, and is not restored with another driver. It uses runc alone:
// crun leaves processes where they are in the unified cgroup hierarchy, and CRIU restores everything
// below, which here is other tests' as well.
func TestPodmanRestores(t *testing.T) {
	criu := need.CRIU(t)
	p := newPodman(t, fmt.Sprintf(`mkdir /run/sbin
		ln -s %s/criu /run/sbin/
		mount -t overlay -o lowerdir=/run/sbin:/usr/sbin overlay /usr/sbin`, criu))
	p.must(t, "load", "-i", p.image())
	runtime := p.runtime("restore", "t4", need.Program(t, "runc"), "")
	do := func(args ...string) string { return p.must(t, append([]string{"--runtime", runtime}, args...)...) }
	check := func() {
		t.Helper()
		assert.Equal(t, t4Nodes+t4Libs, do("exec", "restored", "sh", "-c", look+libs))
	}
	do("run", "-d", "--name", "restored", "--network", "none", "--cgroup-parent", p.cgroup(),
		"-e", "NVIDIA_VISIBLE_DEVICES=0", imageName, "probe", "libcuda.so.1", "-")
	defer do("rm", "-f", "-t", "0", "restored")
	check()
	do("container", "checkpoint", "restored")
	do("container", "restore", "restored")
	check()
	archive := filepath.Join(p.dir, "restored.tar")
	do("container", "checkpoint", "--export", archive, "restored")
	do("rm", "-f", "restored")
	do("container", "restore", "--import", archive)
	check()
	do("container", "checkpoint", "restored")
	p.runtime("restore", "driver-595", need.Program(t, "runc"), "")
	out, err := p.do("--runtime", runtime, "container", "restore", "restored")
	require.Error(t, err)
	assert.Contains(t, out, "it was checkpointed with driver 550.54.15")
}
