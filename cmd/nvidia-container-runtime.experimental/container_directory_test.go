// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// configToml writes config.toml.
func (w *world) configToml(text string) {
	w.t.Helper()
	dir := filepath.Join(w.bundle, "nvidia-container-runtime")
	require.NoError(w.t, os.MkdirAll(dir, 0o755))
	require.NoError(w.t, os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o644))
}

// ways has the config.toml for both ways to provide the driver: one mount for all of it, or one
// mount per file.
var ways = map[string]string{"directory": "", "mounts": "[nvidia-container-runtime.experimental]\ndriver-directory = \"off\"\n"}

var allCapabilities = []string{"NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=all"}

// log returns what this program has logged.
func (w *world) log() string {
	text, _ := os.ReadFile(filepath.Join(w.bundle, "log"))
	return string(text)
}

// TestContainerDirectory checks that a container finds the libraries of its driver capabilities and
// no others, by name and at the usual paths, before and after it runs ldconfig, and with the
// LD_LIBRARY_PATH of CUDA images. Both ways look the same to it.
func TestContainerDirectory(t *testing.T) {
	const script = `
		probe libcuda.so.1 libnvidia-ml.so.1 libGLX_nvidia.so.0 libnvidia-eglcore.so.550.54.15
		nvidia-smi
		readlink -f LIBDIR/libcuda.so.1
		ldconfig 2>&1
		LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64 probe libcuda.so.1
		ldconfig -p | grep 'libcuda.so.1 ' | head -n 1
		echo x 2>/dev/null >/usr/lib/nvidia-container-driver/libcuda.so.550.54.15 || echo read-only`
	usual := `libcuda.so.1 => DIR/libcuda.so.1
libnvidia-ml.so.1 => DIR/libnvidia-ml.so.1
libGLX_nvidia.so.0: libGLX_nvidia.so.0: cannot open shared object file: No such file or directory
libnvidia-eglcore.so.550.54.15: libnvidia-eglcore.so.550.54.15: cannot open shared object file: No such file or directory
`
	all := `libcuda.so.1 => DIR/libcuda.so.1
libnvidia-ml.so.1 => DIR/libnvidia-ml.so.1
libGLX_nvidia.so.0 => DIR/libGLX_nvidia.so.0
libnvidia-eglcore.so.550.54.15 => DIR/libnvidia-eglcore.so.550.54.15
`
	rest := `nvidia-smi 550.54.15 (a stub without function)
DIR/libcuda.so.550.54.15
libcuda.so.1 => DIR/libcuda.so.1
	libcuda.so.1 (libc6,x86-64) => DIR/libcuda.so.1
read-only
`
	for _, r := range lowLevels(t) {
		for way, text := range ways {
			for layout, dir := range map[string]string{"debian": "/usr/lib/x86_64-linux-gnu", "fedora": "/usr/lib64", "arch": "/usr/lib"} {
				t.Run(r.name+"/"+way+"/"+layout, func(t *testing.T) {
					w := newWorld(t, r, "t4", layout)
					w.configToml(text)
					path := strings.NewReplacer("LIBDIR", dir, "DIR", plan.Dir)
					assert.Equal(t, path.Replace(usual+rest), w.run(path.Replace(script), []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil))
					assert.Equal(t, path.Replace(all+rest), w.run(path.Replace(script), allCapabilities, nil))
					assert.Equal(t, way == "mounts", strings.Contains(strings.Join(w.mounts(), " "), "libcuda.so.550.54.15"))
				})
			}
		}
	}
}

// mounts returns the mount destinations in config.json.
func (w *world) mounts() []string {
	w.t.Helper()
	data, err := os.ReadFile(filepath.Join(w.bundle, "config.json"))
	require.NoError(w.t, err)
	var spec specs.Spec
	require.NoError(w.t, json.Unmarshal(data, &spec))
	var destinations []string
	for _, m := range spec.Mounts {
		destinations = append(destinations, m.Destination)
	}
	return destinations
}

// TestContainerChangesItsDriver switches between both ways and between two drivers on the same root
// filesystem. Each step ends with another run of the same config.json.
func TestContainerChangesItsDriver(t *testing.T) {
	const script = `
		probe libcuda.so.1 libnvidia-ml.so.1
		readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1
		ldconfig -p | grep "nvidia-container-driver.*\.so\.[0-9]*\.[0-9.]*$" | grep -v VERSION
		ldconfig 2>/dev/null
		probe libcuda.so.1`
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			versions := map[string]string{"t4": "550.54.15", "driver-595": "595.84"}
			for i, step := range []struct{ fixture, way string }{
				{"t4", "directory"}, {"t4", "mounts"}, {"t4", "directory"}, {"driver-595", "directory"}, {"t4", "mounts"}, {"driver-595", "mounts"},
			} {
				w.unpack(step.fixture)
				w.configToml(ways[step.way])
				version := versions[step.fixture]
				out := w.run(strings.ReplaceAll(script, "VERSION", version), allCapabilities, nil)
				assert.Equal(t, strings.NewReplacer("DIR", plan.Dir, "VERSION", version).Replace(`libcuda.so.1 => DIR/libcuda.so.1
libnvidia-ml.so.1 => DIR/libnvidia-ml.so.1
DIR/libcuda.so.VERSION
libcuda.so.1 => DIR/libcuda.so.1
`), out, "step %d: %v", i, step)
				// Some engines keep the edited config.json and use it again.
				out, err := w.do("run", "--bundle", w.bundle, w.id)
				require.NoError(t, err, "%s", out)
			}
		})
	}
}

// TestContainerOfAnEarlierVersion checks an image as an earlier version of this program left it in
// either of its ways: with links to empty files beside them, or with links to a directory below
// ours.
func TestContainerOfAnEarlierVersion(t *testing.T) {
	const lib = "usr/lib/x86_64-linux-gnu/"
	for _, r := range lowLevels(t)[:1] {
		for way, text := range ways {
			t.Run(way, func(t *testing.T) {
				w := newWorld(t, r, "t4", "debian")
				w.configToml(text)
				at := func(name string) string { return filepath.Join(w.rootfs, name) }
				require.NoError(t, os.WriteFile(at(lib+"libcuda.so.550.54.15"), nil, 0o644))
				require.NoError(t, os.Symlink("libcuda.so.550.54.15", at(lib+"libcuda.so.1")))
				require.NoError(t, os.Symlink(plan.Dir+"/64/libnvidia-ml.so.550.54.15", at(lib+"libnvidia-ml.so.1")))
				require.NoError(t, os.Symlink("libGLX_nvidia.so.535.1", at(lib+"libGLX_nvidia.so.0")))
				require.NoError(t, os.MkdirAll(at("usr/bin"), 0o755))
				require.NoError(t, os.WriteFile(at("usr/bin/nvidia-smi"), nil, 0o755))
				assert.Equal(t, strings.ReplaceAll(`libcuda.so.1 => DIR/libcuda.so.1
libnvidia-ml.so.1 => DIR/libnvidia-ml.so.1
DIR/libcuda.so.550.54.15
DIR/libnvidia-ml.so.550.54.15
DIR/libGLX_nvidia.so.550.54.15
nvidia-smi 550.54.15 (a stub without function)
`, "DIR", plan.Dir), w.run("cd /"+lib+"; probe libcuda.so.1 libnvidia-ml.so.1; for l in libcuda.so.1 libnvidia-ml.so.1 libGLX_nvidia.so.0; do readlink -f $l; done; nvidia-smi", allCapabilities, nil))
			})
		}
	}
}

// TestContainersOnOneRootFilesystem checks that containers that share a root filesystem do not
// disturb each other, whatever driver capabilities they have.
func TestContainersOnOneRootFilesystem(t *testing.T) {
	const script = "probe libcuda.so.1 libGLX_nvidia.so.0 libnvidia-encode.so.1"
	want := strings.ReplaceAll("libcuda.so.1 => DIR/libcuda.so.1\nlibGLX_nvidia.so.0 => DIR/libGLX_nvidia.so.0\nlibnvidia-encode.so.1 => DIR/libnvidia-encode.so.1\n", "DIR", plan.Dir)
	for _, r := range lowLevels(t)[:1] {
		for way, text := range ways {
			t.Run(way, func(t *testing.T) {
				w := newWorld(t, r, "t4", "debian")
				w.configToml(text)
				w.start(allCapabilities, nil)
				require.Equal(t, want, w.inside(script))

				other := *w
				other.bundle, other.id = t.TempDir(), w.id+"-2"
				for _, capabilities := range []string{"utility", "compute,utility", "graphics"} {
					for _, way := range ways {
						other.configToml(way)
						other.run("true", []string{"NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=" + capabilities}, other.onRootfs)
						assert.Equal(t, want, w.inside(script), capabilities)
					}
				}
				assert.Equal(t, want, w.inside("ldconfig; "+script))
			})
		}
	}
}

// onRootfs sets the absolute path of the root filesystem.
func (w *world) onRootfs(s *specs.Spec) { s.Root.Path = w.rootfs }

// TestContainerVolumes checks that a volume over a directory through which the driver is found
// hides nothing, and that what the container itself mounts stays visible under any alias.
func TestContainerVolumes(t *testing.T) {
	for _, r := range lowLevels(t) {
		for _, place := range []string{"/usr", "/usr/lib/x86_64-linux-gnu", "/lib/x86_64-linux-gnu", "/etc", "/usr/lib"} {
			t.Run(r.name+place, func(t *testing.T) {
				w := newWorld(t, r, "t4", "debian")
				volume := filepath.Join(w.bundle, "volume")
				out, err := exec.Command("cp", "-a", filepath.Join(w.rootfs, place), volume).CombinedOutput()
				require.NoError(t, err, "%s", out)
				got := w.run("probe libcuda.so.1 libnvidia-ml.so.1; nvidia-smi", []string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, specs.Mount{Destination: place, Type: "bind", Source: volume, Options: []string{"rbind"}})
				})
				assert.Equal(t, strings.ReplaceAll("libcuda.so.1 => DIR/libcuda.so.1\nlibnvidia-ml.so.1 => DIR/libnvidia-ml.so.1\nnvidia-smi 550.54.15 (a stub without function)\n", "DIR", plan.Dir), got)
			})
		}
		t.Run(r.name+"/the user's own", func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			own := filepath.Join(w.bundle, "own")
			require.NoError(t, os.WriteFile(own, []byte("#!/bin/sh\necho mine\n"), 0o755))
			got := w.run("/usr/bin/nvidia-smi; cat /lib/x86_64-linux-gnu/libcuda.so.550.54.15; cat /usr/lib/x86_64-linux-gnu/libcuda.so.1", []string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) {
				for _, place := range []string{"/usr/bin/nvidia-smi", "/lib/x86_64-linux-gnu/libcuda.so.550.54.15", "/lib/x86_64-linux-gnu/libcuda.so.1"} {
					s.Mounts = append(s.Mounts, specs.Mount{Destination: place, Type: "bind", Source: own, Options: []string{"rbind"}})
				}
			})
			assert.Equal(t, "mine\n#!/bin/sh\necho mine\n#!/bin/sh\necho mine\n", got)
		})
	}
}

// TestContainerBuilds builds programs in a container of this machine's own system: with -lcuda, as
// a compiler finds it, and as Triton's JIT does, which looks in the directory where "ldconfig -p"
// has libcuda.so.1. The programs must load, also after ldconfig has run.
func TestContainerBuilds(t *testing.T) {
	need.Program(t, "gcc")
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			scratch := t.TempDir()
			require.NoError(t, unix.Mount("tmpfs", scratch, "tmpfs", 0, ""))
			t.Cleanup(func() { assert.NoError(t, unix.Unmount(scratch, unix.MNT_DETACH)) })
			for _, dir := range []string{"upper", "work"} {
				require.NoError(t, os.Mkdir(filepath.Join(scratch, dir), 0o755))
			}
			require.NoError(t, os.RemoveAll(w.rootfs))
			require.NoError(t, os.Mkdir(w.rootfs, 0o755))
			require.NoError(t, unix.Mount("overlay", w.rootfs, "overlay", 0,
				fmt.Sprintf("lowerdir=/,upperdir=%s/upper,workdir=%s/work", scratch, scratch)))
			t.Cleanup(func() { assert.NoError(t, unix.Unmount(w.rootfs, unix.MNT_DETACH)) })

			got := w.run(`set -e
cd /var/tmp
echo 'int main() { return 0; }' >x.c
gcc -o usual x.c -Wl,--no-as-needed -lcuda -lnvidia-ml
dir=$(dirname $(ldconfig -p | sed -n 's/.*libcuda.so.1 .* => //p' | head -1))
gcc -o triton x.c -Wl,--no-as-needed -L$dir -l:libcuda.so.1
for program in usual triton; do ldd $program | grep -o 'lib.*'"$dir"'[^ ]*'; ./$program; done
ldconfig
ldd usual | grep -c "$dir"
`, []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)
			assert.Equal(t, strings.ReplaceAll(`libcuda.so.1 => DIR/libcuda.so.1
libnvidia-ml.so.1 => DIR/libnvidia-ml.so.1
libcuda.so.1 => DIR/libcuda.so.1
2
`, "DIR", plan.Dir), got)
		})
	}
}

// TestContainerDirectoryRefused checks that where one mount cannot be used, the files are mounted
// one by one or the container is refused, with the reason.
func TestContainerDirectoryRefused(t *testing.T) {
	for _, r := range lowLevels(t) {
		t.Run(r.name+"/planted", func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			for _, dir := range []string{"usr/lib", "var/lib"} {
				name := filepath.Join(w.machine, dir, "nvidia-container-runtime")
				require.NoError(t, os.MkdirAll(name, 0o755))
				require.NoError(t, os.Chown(name, 12345, 12345))
			}
			assert.Equal(t, "libcuda.so.1 => "+plan.Dir+"/libcuda.so.1\n", w.run("probe libcuda.so.1", []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil))
			assert.Contains(t, w.log(), "the driver's files are mounted one by one")
			assert.Contains(t, w.log(), "belongs to user 12345")
		})
		t.Run(r.name+"/a mount by the user", func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			assert.Equal(t, "libcuda.so.1 => "+plan.Dir+"/libcuda.so.1\n", w.run("probe libcuda.so.1", []string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) {
				s.Mounts = append(s.Mounts, specs.Mount{Destination: plan.Dir, Type: "tmpfs", Source: "tmpfs", Options: []string{"nodev"}})
			}))
		})
		t.Run(r.name+"/a file in the image", func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			require.NoError(t, os.WriteFile(filepath.Join(w.rootfs, plan.Dir), nil, 0o644))
			w.config("true", []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil)
			out, err := w.do("run", "--bundle", w.bundle, w.id)
			require.Error(t, err)
			assert.Contains(t, out, "which is not a directory in the image")
		})
	}
}

// TestContainerDirectoryInUserNamespace checks that the low-level runtime can access the directory
// from a user namespace.
func TestContainerDirectoryInUserNamespace(t *testing.T) {
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			r.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", hostDevices}
			w := newWorld(t, r, "t4", "debian")
			for dir := w.machine; dir != "/"; dir = filepath.Dir(dir) {
				if info, err := os.Stat(dir); err == nil && info.Mode().Perm()&0o005 != 0o005 {
					require.NoError(t, os.Chmod(dir, 0o755))
				}
			}
			require.NoError(t, filepath.WalkDir(w.rootfs, func(path string, _ os.DirEntry, err error) error {
				if err != nil {
					return err
				}
				return os.Lchown(path, 100000, 100000)
			}))
			assert.Equal(t, strings.ReplaceAll(`libcuda.so.1 => DIR/libcuda.so.1
DIR/libcuda.so.550.54.15
/usr/lib/x86_64-linux-gnu/libcuda.so.1 0:0
`, "DIR", plan.Dir), w.run("probe libcuda.so.1; readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1; stat -c '%n %u:%g' /usr/lib/x86_64-linux-gnu/libcuda.so.1",
				[]string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
					mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
					s.Linux.UIDMappings, s.Linux.GIDMappings = mapping, mapping
				}))
		})
	}
}
