// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// configToml writes the configuration.
func (w *world) configToml(text string) {
	w.t.Helper()
	dir := filepath.Join(w.bundle, "nvidia-container-runtime")
	require.NoError(w.t, os.MkdirAll(dir, 0o755))
	require.NoError(w.t, os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o644))
}

const (
	oneMount    = "[nvidia-container-runtime.experimental]\ndriver-directory = \"always\"\n"
	eachMounted = "[nvidia-container-runtime.experimental]\ndriver-directory = \"off\"\n"
)

// With driver-directory the libraries come by one mount. A container sees the
// libraries of the driver capabilities that it got, and no others; the loader
// finds them with and without a cache, and ldconfig keeps them.
func TestContainerWithOneMount(t *testing.T) {
	const script = `
		probe libcuda.so.1 libnvidia-ml.so.1 libcuda.so libGLX_nvidia.so.0 libnvidia-eglcore.so.550.54.15
		nvidia-smi
		ls /usr/lib/nvidia-container-driver/64
		cat /proc/self/mountinfo >/tmp/mounts
		echo x >/usr/lib/nvidia-container-driver/64/x || echo read-only
		rm /etc/ld.so.cache
		probe libcuda.so.1
		ldconfig
		ldconfig -p | grep libcuda
		[ -L %s/libcuda.so.1 ] && echo link`
	compute := `libcuda.so.550.54.15
libcudadebugger.so.550.54.15
libnvidia-allocator.so.550.54.15
libnvidia-cfg.so.550.54.15
libnvidia-gpucomp.so.550.54.15
libnvidia-ml.so.550.54.15
`
	for _, r := range lowLevels(t) {
		for _, tt := range []struct {
			layout, dir string
			capable     string
		}{
			{layout: "debian", dir: "/usr/lib/x86_64-linux-gnu", capable: "compute,utility"},
			{layout: "fedora", dir: "/usr/lib64", capable: "compute,utility"},
			{layout: "arch", dir: "/usr/lib", capable: "compute,utility"},
			{layout: "debian", dir: "/usr/lib/x86_64-linux-gnu", capable: "all"},
		} {
			t.Run(r.name+"/"+tt.layout+"/"+tt.capable, func(t *testing.T) {
				w := newWorld(t, r, "t4", tt.layout)
				w.configToml(oneMount)
				out := w.run(strings.ReplaceAll(script, "%s", tt.dir), []string{"NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_DRIVER_CAPABILITIES=" + tt.capable}, nil)
				for _, line := range []string{"libcuda.so.1", "libnvidia-ml.so.1"} {
					assert.Contains(t, out, line+" => "+tt.dir+"/"+line+"\n")
				}
				assert.Contains(t, out, "libcuda.so => "+tt.dir+"/libcuda.so.1\n")
				assert.Contains(t, out, "550.54.15", "nvidia-smi runs")
				assert.Contains(t, out, "\nread-only\n")
				assert.Contains(t, out, "\tlibcuda.so.1 (libc6,x86-64) => ")
				assert.Contains(t, out, "\nlink\n", "ldconfig keeps the links")
				graphics := []string{"libGLX_nvidia.so.0 => " + tt.dir, "libnvidia-eglcore.so.550.54.15 => " + tt.dir, "libGLX_nvidia.so.550.54.15\n", "libnvidia-ngx.so.550.54.15\n"}
				for _, text := range graphics {
					assert.Equal(t, tt.capable == "all", strings.Contains(out, text), "%s in\n%s", text, out)
				}
				if tt.capable != "all" {
					for name := range strings.Lines(compute) {
						assert.Contains(t, out, "\n"+name)
					}
					assert.NotRegexp(t, `(?m)^lib.*(GL|egl|encode|ngx|vdpau|rtcore|optix).*\.so\.550\.54\.15$`, out)
				}
				mounts, err := os.ReadFile(filepath.Join(w.rootfs, "tmp/mounts"))
				require.NoError(t, err)
				assert.Len(t, regexp.MustCompile(`(?m)^\S+ \S+ \S+ \S+ /usr/lib/nvidia-container-driver ro,nosuid,nodev\S* `).FindAll(mounts, -1), 1, "%s", mounts)
				assert.NotRegexp(t, `/lib[^ ]*/lib(cuda|nvidia-ml|GLX_nvidia)[^ ]*\.so`, string(mounts))
				log, _ := os.ReadFile(filepath.Join(w.bundle, "log"))
				assert.NotContains(t, string(log), "mounted one by one")
			})
		}
	}
}

// Each way of giving the libraries follows upon the other, and one driver upon
// another, in the same root filesystem and, as the last step, the same config.json.
func TestContainerChangesItsMounts(t *testing.T) {
	const list = `
		probe libcuda.so.1 libnvidia-ml.so.1
		for f in /usr/lib/x86_64-linux-gnu/*nvidia*.so* /usr/lib/x86_64-linux-gnu/vdpau/* /usr/lib/x86_64-linux-gnu/libcuda*; do
			if [ -L $f ] && ! [ -s $f ]; then echo "dangling: $f"; fi
		done
		readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1
		readlink -f /usr/lib/x86_64-linux-gnu/libnvidia-eglcore.so.*[0-9]
		ldconfig -p | grep -v nvidia-container | grep $OTHER
		ldconfig 2>/dev/null
		ldconfig -p | grep 'libcuda.so.1 '`
	want := func(version string, one bool) string {
		dir := "/usr/lib/x86_64-linux-gnu/"
		if one {
			dir = "/usr/lib/nvidia-container-driver/64/"
		}
		return `libcuda.so.1 => /usr/lib/x86_64-linux-gnu/libcuda.so.1
libnvidia-ml.so.1 => /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1
` + dir + "libcuda.so." + version + "\n" + dir + "libnvidia-eglcore.so." + version + `
	libcuda.so.1 (libc6,x86-64) => /usr/lib/x86_64-linux-gnu/libcuda.so.1
`
	}
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			w := newWorld(t, r, "t4", "debian")
			env := []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all"}
			versions := map[string]string{"t4": "550.54.15", "driver-595": "595.84"}
			for i, step := range []struct {
				fixture string
				one     bool
			}{
				{"t4", true}, {"t4", false}, {"t4", true}, {"driver-595", true}, {"t4", false}, {"driver-595", true}, {"t4", true}, {"driver-595", false},
			} {
				w.unpack(step.fixture)
				w.configToml(eachMounted)
				if step.one {
					w.configToml(oneMount)
				}
				// Empty files at which another driver's libraries were mounted stay; they are
				// in nobody's way, so the one of this version is asked for.
				version := versions[step.fixture]
				other := versions[map[string]string{"t4": "driver-595", "driver-595": "t4"}[step.fixture]]
				script := strings.NewReplacer("*[0-9]", version, "$OTHER", other).Replace(list)
				out := w.run(script, env, nil)
				// Where a file was mounted once, an empty one stays, and is mounted upon again.
				out = strings.ReplaceAll(out, "/usr/lib/x86_64-linux-gnu/libnvidia-eglcore", "EGL")
				expected := strings.ReplaceAll(want(version, step.one), "/usr/lib/x86_64-linux-gnu/libnvidia-eglcore", "EGL")
				if i > 0 && step.one {
					out = strings.ReplaceAll(out, "/usr/lib/nvidia-container-driver/64/libnvidia-eglcore", "EGL")
					expected = strings.ReplaceAll(expected, "/usr/lib/nvidia-container-driver/64/libnvidia-eglcore", "EGL")
				}
				assert.Equal(t, expected, out, "step %d: %v", i, step)

				// The same again, as engines do that keep config.json.
				out, err := w.do("run", "--bundle", w.bundle, w.id)
				require.NoError(t, err, "%s", out)
			}
		})
	}
}

// What cannot be done falls back to a mount a file, and the log says why.
func TestContainerWithOneMountRefused(t *testing.T) {
	for _, r := range lowLevels(t) {
		for _, tt := range []struct {
			name    string
			prepare func(t *testing.T, w *world)
			edit    func(*specs.Spec)
			want    string
		}{
			{
				name: "planted", want: "belongs to user 12345",
				prepare: func(t *testing.T, w *world) {
					for _, dir := range []string{"usr/lib", "var/lib"} {
						name := filepath.Join(w.machine, dir, "nvidia-container-runtime")
						require.NoError(t, os.MkdirAll(name, 0o755))
						require.NoError(t, os.Chown(name, 12345, 12345))
					}
				},
			},
			{
				name: "file in the image", want: "mounted one by one",
				prepare: func(t *testing.T, w *world) {
					require.NoError(t, os.WriteFile(filepath.Join(w.rootfs, "usr/lib/nvidia-container-driver"), nil, 0o644))
				},
			},
			{
				name: "mount of the user's", want: "the container mounts something at",
				prepare: func(*testing.T, *world) {},
				edit: func(s *specs.Spec) {
					s.Mounts = append(s.Mounts, specs.Mount{Destination: "/usr/lib/nvidia-container-driver", Type: "tmpfs", Source: "tmpfs", Options: []string{"nodev"}})
				},
			},
		} {
			t.Run(r.name+"/"+tt.name, func(t *testing.T) {
				w := newWorld(t, r, "t4", "debian")
				w.configToml(oneMount)
				tt.prepare(t, w)
				out := w.run("probe libcuda.so.1; readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1", []string{"NVIDIA_VISIBLE_DEVICES=0"}, tt.edit)
				assert.Equal(t, "libcuda.so.1 => /usr/lib/x86_64-linux-gnu/libcuda.so.1\n/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15\n", out)
				log, err := os.ReadFile(filepath.Join(w.bundle, "log"))
				require.NoError(t, err)
				assert.Contains(t, string(log), tt.want)
			})
		}
	}
}

// In a user namespace the low-level runtime, too, has to get at the directory.
func TestContainerWithOneMountInUserNamespace(t *testing.T) {
	for _, r := range lowLevels(t) {
		t.Run(r.name, func(t *testing.T) {
			r.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", hostDevices}
			w := newWorld(t, r, "t4", "debian")
			w.configToml(oneMount)
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
			assert.Equal(t, `libcuda.so.1 => /usr/lib/x86_64-linux-gnu/libcuda.so.1
/usr/lib/nvidia-container-driver/64/libcuda.so.550.54.15
/usr/lib/x86_64-linux-gnu/libcuda.so.1 0:0
`, w.run("probe libcuda.so.1; readlink -f /usr/lib/x86_64-linux-gnu/libcuda.so.1; stat -c '%n %u:%g' /usr/lib/x86_64-linux-gnu/libcuda.so.1",
				[]string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) {
					s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: "user"})
					mapping := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}
					s.Linux.UIDMappings, s.Linux.GIDMappings = mapping, mapping
				}))
		})
	}
}
