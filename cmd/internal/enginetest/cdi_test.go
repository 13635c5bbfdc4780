// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// containerdVersion is a current release. Debian 12 has 1.6, which does not support CDI.
const containerdVersion = "v2.4.2"

// builtContainerd builds containerd with its shim and client, about 100 MB.
var builtContainerd = sync.OnceValues(func() (string, error) {
	dir := filepath.Join(programs.dir, "containerd-"+containerdVersion)
	bin := filepath.Join(dir, "bin")
	const module = "github.com/containerd/containerd/v2/cmd/"
	cmd := exec.Command("go", "install", module+"containerd@"+containerdVersion, module+"containerd-shim-runc-v2@"+containerdVersion, module+"ctr@"+containerdVersion)
	cmd.Env = append(os.Environ(), "GOBIN="+bin, "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building containerd %s: %w: %s", containerdVersion, err, out)
	}
	// containerd uses the first shim on PATH.
	script := fmt.Sprintf("#!/bin/sh\nPATH=%q:$PATH exec %q \"$@\"\n", bin, filepath.Join(bin, "containerd"))
	return dir, os.WriteFile(filepath.Join(dir, "containerd"), []byte(script), 0o755)
})

// currentContainerd returns a directory with the program containerd of containerdVersion.
func currentContainerd(t *testing.T) string {
	t.Helper()
	if testing.Short() {
		t.Skip("SKIPPED: engines are not started with -short")
	}
	dir, err := builtContainerd()
	if err != nil {
		need.Missing(t, "containerd %s: %v", containerdVersion, err)
	}
	return dir
}

// withoutCrun removes crun: Debian 12's does not support a config.json as new as that of a current
// containerd ("unknown version specified").
func withoutCrun(levels []lowLevel) []lowLevel {
	return slices.DeleteFunc(levels, func(l lowLevel) bool { return l.name == "crun" })
}

var builtNvsysfs = sync.OnceValue(func() error { return build("nvsysfs") })

// cdi writes the CDI file for a fixture's machine to a directory where engines look for it.
func (g *ground) cdi(fixture string, options ...string) {
	g.t.Helper()
	require.NoError(g.t, builtNvsysfs())
	args := append([]string{filepath.Join(programs.dir, "nvsysfs"), "cdi", "generate", "--root", g.machine(fixture), "--output", "/etc/cdi/nvidia.yaml"}, options...)
	out, err := g.output(args...)
	require.NoError(g.t, err, "%s", out)
}

// cudaLibs is a script that loads libraries as a CUDA image does.
const cudaLibs = `
exec 2>&1
export LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64
probe libcuda.so.1 libcuda.so libnvidia-ml.so.1
`

const t4CUDALibs = `libcuda.so.1 => /usr/local/nvidia/lib64/libcuda.so.1
libcuda.so => /usr/local/nvidia/lib64/libcuda.so.1
libnvidia-ml.so.1 => /usr/local/nvidia/lib64/libnvidia-ml.so.1
`

// TestPodmanCDI uses CDI devices: podman reads the CDI file, and runc or crun does the rest. Our
// runtime takes no part, except in the one subtest that is about it.
func TestPodmanCDI(t *testing.T) {
	p := newPodman(t, "")
	p.must(t, "load", "-i", p.image())
	for _, l := range lowLevels(t) {
		t.Run(l.name, func(t *testing.T) {
			p.cdi("t4", "--capabilities", "compute,utility")
			for _, device := range []string{"0", t4UUID, "all"} {
				assert.Equal(t, t4Nodes+t4CUDALibs, p.run(t, l.path, look+cudaLibs, "--device", "nvidia.com/gpu="+device), device)
			}
			assert.Contains(t, p.run(t, l.path, "nvidia-smi; echo $NVIDIA_VISIBLE_DEVICES", "--device", "nvidia.com/gpu=0"), "550.54.15")

			t.Run("directory of a distribution", func(t *testing.T) {
				p.cdi("t4", "--capabilities", "compute,utility", "--distribution", "debian")
				// The loader finds them without its cache, in the first directory it searches.
				assert.Equal(t, t4Nodes+strings.ReplaceAll(t4Libs, "/usr/lib/nvidia-container-driver/", "/lib/x86_64-linux-gnu/"), p.run(t, l.path, look+libs, "--device", "nvidia.com/gpu=0"))
			})
			t.Run("MIG", func(t *testing.T) {
				p.cdi("a100-mig", "--capabilities", "compute,utility")
				assert.Equal(t, "nvidia-caps/nvidia-cap336\nnvidia-caps/nvidia-cap337\nnvidia2\n", p.run(t, l.path, gpuNodes, "--device", "nvidia.com/gpu=0:0"))
			})
			t.Run("with our runtime", func(t *testing.T) {
				p.cdi("t4", "--capabilities", "compute,utility")
				runtime := p.runtime("hgx-minors-"+l.name, "hgx-minors", l.path, "")
				assert.Equal(t, t4Nodes+t4CUDALibs, p.run(t, runtime, look+cudaLibs, "--device", "nvidia.com/gpu=0", "-e", "NVIDIA_VISIBLE_DEVICES=all"))
			})
			t.Run("everything", func(t *testing.T) {
				p.cdi("desktop-graphics", "--cdi-version", "0.5.0")
				got := p.run(t, l.path, "ls /dev/dri; export LD_LIBRARY_PATH=/usr/local/nvidia/lib64; probe libGLX_nvidia.so.0", "--device", "nvidia.com/gpu=0")
				assert.Equal(t, "by-path\ncard2\nrenderD130\nlibGLX_nvidia.so.0 => /usr/local/nvidia/lib64/libGLX_nvidia.so.0\n", got)
			})
		})
	}
	t.Run("unknown device", func(t *testing.T) {
		out, err := p.do("run", "--rm", "--network", "none", "--device", "nvidia.com/gpu=7", imageName, "true")
		require.Error(t, err)
		assert.Contains(t, out, "nvidia.com/gpu=7")
	})
}

// TestPodmanRootlessCDI uses CDI devices without root, where the low-level runtime bind-mounts the
// host's device nodes.
func TestPodmanRootlessCDI(t *testing.T) {
	p := newRootlessPodman(t)
	p.cdi("t4", "--capabilities", "compute,utility")
	for _, l := range lowLevels(t) {
		t.Run(l.name, func(t *testing.T) {
			got := p.must(t, "--runtime", l.path, "run", "--rm", "--network", "none", "--device", "nvidia.com/gpu=0", imageName, "sh", "-c", lookUserns+cudaLibs)
			assert.Equal(t, t4NodesUserns+t4CUDALibs, got)
		})
	}
}

// TestContainerdCDI requests CDI devices as the kubelet does, through the CRI field for them, and
// with ctr --device.
func TestContainerdCDI(t *testing.T) {
	need.Root(t)
	dir := currentContainerd(t)
	levels := withoutCrun(lowLevels(t))
	c := newCRIOf(t, filepath.Join(dir, "containerd"), func(g *ground) map[string]string {
		handlers := map[string]string{}
		for _, l := range levels {
			handlers[l.name] = l.path
		}
		return handlers
	})
	image := filepath.Join(c.dir, "image.tar")
	ctr := func(t *testing.T, args ...string) string {
		t.Helper()
		out, err := c.output(append([]string{filepath.Join(dir, "bin", "ctr"), "--address", c.sock, "--namespace", filepath.Base(c.dir)}, args...)...)
		require.NoError(t, err, "%s", out)
		// ctr warns about cgroup v1.
		lines := slices.DeleteFunc(strings.SplitAfter(out, "\n"), func(line string) bool { return strings.HasPrefix(line, "time=") })
		return strings.Join(lines, "")
	}
	ctr(t, "image", "import", image)
	for _, format := range []string{"yaml", "json"} {
		t.Run(format, func(t *testing.T) {
			c.cdi("t4", "--capabilities", "compute,utility", "--output", "/etc/cdi/nvidia."+format)
			defer func() {
				out, err := c.output("rm", "/etc/cdi/nvidia."+format)
				assert.NoError(t, err, "%s", out)
			}()
			for _, l := range levels {
				t.Run("CRI/"+l.name, func(t *testing.T) {
					id, err := c.createWith(t, l.name, object{"CDI_devices": []object{{"name": "nvidia.com/gpu=0"}}})
					require.NoError(t, err)
					c.must(t, "StartContainer", object{"container_id": id})
					assert.Equal(t, t4Nodes+t4CUDALibs, c.exec(t, id, look+cudaLibs), "after the start")
					c.must(t, "UpdateContainerResources", object{"container_id": id, "linux": object{"cpu_period": 100000, "cpu_quota": 50000, "cpu_shares": 512}})
					assert.Equal(t, t4Nodes+t4CUDALibs, c.exec(t, id, look+cudaLibs), "after an update")
				})
				t.Run("ctr/"+l.name, func(t *testing.T) {
					id := strings.NewReplacer("/", "-", ".", "-").Replace(t.Name())
					got := ctr(t, "run", "--rm", "--runc-binary", l.path, "--device", "nvidia.com/gpu=0", imageName, id, "sh", "-c", look+cudaLibs)
					assert.Equal(t, t4Nodes+t4CUDALibs, got)
				})
			}
		})
	}
	t.Run("unknown device", func(t *testing.T) {
		c.cdi("t4")
		_, err := c.createWith(t, levels[0].name, object{"CDI_devices": []object{{"name": "nvidia.com/gpu=7"}}})
		require.ErrorContains(t, err, "nvidia.com/gpu=7")
	})
}
