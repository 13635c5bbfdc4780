// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/need"
)

// Tests in this file start containers with the real runc and the real crun
// through a real build of this program, on a machine from a fixture, and look
// at what the container sees. They need root.

// built is the program as make builds it.
var built = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nvcr-built-")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, program)
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, ".")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w: %s", err, out)
	}
	return path, nil
})

// probe is a program for a container: it loads each library that it is
// given with the image's real loader and tells where that found it.
const probeSource = `
#define _GNU_SOURCE
#include <dlfcn.h>
#include <link.h>
#include <stdio.h>
int main(int argc, char **argv) {
	for (int i = 1; i < argc; i++) {
		void *handle = dlopen(argv[i], RTLD_NOW);
		struct link_map *map;
		if (handle == NULL) { printf("%s: %s\n", argv[i], dlerror()); continue; }
		if (dlinfo(handle, RTLD_DI_LINKMAP, &map) != 0) return 1;
		printf("%s => %s\n", argv[i], map->l_name);
	}
	return 0;
}
`

var probe = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "nvcr-probe-")
	if err != nil {
		return "", err
	}
	source, path := filepath.Join(dir, "probe.c"), filepath.Join(dir, "probe")
	if err := os.WriteFile(source, []byte(probeSource), 0o644); err != nil {
		return "", err
	}
	if out, err := exec.Command("gcc", "-o", path, source).CombinedOutput(); err != nil {
		return "", fmt.Errorf("gcc: %w: %s", err, out)
	}
	return path, nil
})

// lowLevel is a real low-level runtime as this machine can run it.
type lowLevel struct {
	name    string
	path    string
	wrapper []string // runs the command line that follows
}

// lowLevels are runc and crun. crun refuses a hybrid cgroup hierarchy, so it
// runs in a mount namespace without the unified one.
func lowLevels(t *testing.T) []lowLevel {
	t.Helper()
	need.Root(t)
	crun := lowLevel{name: "crun", path: need.Program(t, "crun")}
	if _, err := os.Stat("/sys/fs/cgroup/unified"); err == nil {
		crun.wrapper = []string{need.Program(t, "unshare"), "--mount", "sh", "-c", `umount /sys/fs/cgroup/unified && exec "$0" "$@"`}
	}
	return []lowLevel{{name: "runc", path: need.Program(t, "runc")}, crun}
}

// world is a machine, an image and a bundle in temporary directories.
type world struct {
	t       *testing.T
	runtime lowLevel
	machine string // sysroot
	rootfs  string
	bundle  string
	state   string   // --root of the low-level runtime
	environ []string // added to the environment of this program
	id      string
}

// newWorld unpacks a fixture and builds an image of one layout, with the C
// library and loader of this machine.
func newWorld(t *testing.T, r lowLevel, fixture, layout string) *world {
	t.Helper()
	need.Program(t, "gcc")
	dir := t.TempDir()
	w := &world{
		t: t, runtime: r, bundle: dir,
		machine: filepath.Join(dir, "machine"), rootfs: filepath.Join(dir, "rootfs"), state: filepath.Join(dir, "state"),
		id: fmt.Sprintf("nvcr-%d-%s", os.Getpid(), filepath.Base(filepath.Dir(dir))),
	}
	w.id = strings.Map(func(c rune) rune {
		if c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9' || c == '-' {
			return c
		}
		return '-'
	}, w.id)
	w.unpack(fixture)
	w.makeImage(layout)
	return w
}

func (w *world) unpack(fixture string) {
	w.t.Helper()
	a, err := fixtures.Load(fixture)
	require.NoError(w.t, err)
	require.NoError(w.t, os.RemoveAll(w.machine))
	require.NoError(w.t, os.Mkdir(w.machine, 0o755))
	_, err = a.Unpack(w.machine, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(w.t, err)
}

// makeImage builds the root filesystem: busybox, the loader, libc, ldconfig
// and the probe.
func (w *world) makeImage(layout string) {
	t := w.t
	t.Helper()
	busybox := need.Program(t, "busybox")
	if out, err := exec.Command("ldd", busybox).CombinedOutput(); err == nil && !bytes.Contains(out, []byte("not a dynamic")) {
		need.Missing(t, "a static busybox")
	}
	bin, err := probe()
	require.NoError(t, err)

	dirs := []string{"bin", "dev", "proc", "sys", "etc", "tmp", "usr/lib64", "usr/lib", "sbin"}
	links := map[string]string{"lib": "usr/lib", "lib64": "usr/lib64"}
	var libDir string
	switch layout {
	case "debian":
		libDir = "usr/lib/x86_64-linux-gnu"
		dirs = append(dirs, libDir)
	case "fedora":
		libDir = "usr/lib64"
	case "arch":
		libDir = "usr/lib"
		dirs = []string{"bin", "dev", "proc", "sys", "etc", "tmp", "usr/lib", "sbin"}
		links = map[string]string{"lib": "usr/lib", "lib64": "usr/lib", "usr/lib64": "lib"}
	default:
		t.Fatalf("no layout %s", layout)
	}
	for _, d := range dirs {
		require.NoError(t, os.MkdirAll(filepath.Join(w.rootfs, d), 0o755))
	}
	for name, target := range links {
		require.NoError(t, os.Symlink(target, filepath.Join(w.rootfs, name)))
	}
	if layout == "debian" {
		require.NoError(t, os.WriteFile(filepath.Join(w.rootfs, "etc/debian_version"), []byte("12.11\n"), 0o644))
	}
	copyFile(t, busybox, filepath.Join(w.rootfs, "bin/busybox"))
	for _, name := range []string{"sh", "stat", "ls", "cat", "head", "mknod", "readlink", "sleep", "id", "rm", "true"} {
		require.NoError(t, os.Symlink("busybox", filepath.Join(w.rootfs, "bin", name)))
	}
	copyFile(t, bin, filepath.Join(w.rootfs, "bin/probe"))
	copyFile(t, "/lib64/ld-linux-x86-64.so.2", filepath.Join(w.rootfs, "lib64/ld-linux-x86-64.so.2"))
	for _, lib := range []string{"libc.so.6", "libm.so.6"} {
		copyFile(t, "/lib/x86_64-linux-gnu/"+lib, filepath.Join(w.rootfs, libDir, lib))
	}
	ldconfig := need.Program(t, "/sbin/ldconfig")
	copyFile(t, ldconfig, filepath.Join(w.rootfs, "sbin/ldconfig"))
	require.NoError(t, os.WriteFile(filepath.Join(w.rootfs, "etc/ld.so.conf"), []byte("/"+libDir+"\n"), 0o644))
	w.ldconfig()
}

// ldconfig lets the machine's own ldconfig make the cache of the image.
func (w *world) ldconfig() {
	w.t.Helper()
	out, err := exec.Command("/sbin/ldconfig", "-r", w.rootfs).CombinedOutput()
	require.NoError(w.t, err, "%s", out)
}

func copyFile(t *testing.T, from, to string) {
	t.Helper()
	data, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, data, 0o755))
}

// config writes config.json: a shell script as an ordinary container of
// Docker would run it, changed by edit.
func (w *world) config(script string, env []string, edit func(*specs.Spec)) {
	w.t.Helper()
	caps := []string{"CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_MKNOD", "CAP_SETGID", "CAP_SETUID", "CAP_SYS_CHROOT", "CAP_KILL"}
	spec := &specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/bin/sh", "-c", script},
			Env:  append([]string{"PATH=/bin:/sbin:/usr/bin"}, env...), Cwd: "/",
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			MaskedPaths: []string{"/proc/kcore"},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			CgroupsPath: "/" + w.id,
		},
	}
	if edit != nil {
		edit(spec)
	}
	data, err := json.Marshal(spec)
	require.NoError(w.t, err)
	require.NoError(w.t, os.WriteFile(filepath.Join(w.bundle, "config.json"), data, 0o644))
}

// command is this program with a low-level runtime's arguments.
func (w *world) command(args ...string) *exec.Cmd {
	w.t.Helper()
	path, err := built()
	require.NoError(w.t, err)
	line := append(append([]string{}, w.runtime.wrapper...), path, "--root", w.state)
	line = append(line, args...)
	cmd := exec.Command(line[0], line[1:]...)
	cmd.Env = append(os.Environ(),
		"XDG_CONFIG_HOME="+w.bundle,
		"NVIDIA_CONTAINER_RUNTIME_PATH="+w.runtime.path,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT="+w.machine,
		"NVIDIA_CONTAINER_RUNTIME_DEBUG="+filepath.Join(w.bundle, "log"))
	cmd.Env = append(cmd.Env, w.environ...)
	return cmd
}

// do runs this program and returns all it prints.
func (w *world) do(args ...string) (string, error) {
	w.t.Helper()
	out, err := w.command(args...).CombinedOutput()
	return string(out), err
}

// run starts a container for the script and returns what it prints.
func (w *world) run(script string, env []string, edit func(*specs.Spec)) string {
	w.t.Helper()
	w.config(script, env, edit)
	out, err := w.do("run", "--bundle", w.bundle, w.id)
	require.NoError(w.t, err, "%s", out)
	return out
}

// start creates and starts a container that stays, and deletes it in the end.
func (w *world) start(env []string, edit func(*specs.Spec)) {
	w.t.Helper()
	w.config("exec sleep 1000", env, edit)
	// The container keeps what it has inherited open: it must not be a pipe
	// of ours.
	output, err := os.CreateTemp(w.bundle, "output")
	require.NoError(w.t, err)
	defer output.Close()
	cmd := w.command("create", "--bundle", w.bundle, w.id)
	cmd.Stdout, cmd.Stderr = output, output
	w.t.Cleanup(func() {
		out, err := w.do("delete", "--force", w.id)
		assert.NoError(w.t, err, "%s", out)
	})
	err = cmd.Run()
	text, _ := os.ReadFile(output.Name())
	require.NoError(w.t, err, "%s", text)
	out, err := w.do("start", w.id)
	require.NoError(w.t, err, "%s", out)
	assert.Empty(w.t, out+string(text), "nothing is printed on success")
}

// inside runs a script in the started container.
func (w *world) inside(script string) string {
	w.t.Helper()
	out, err := w.do("exec", w.id, "/bin/sh", "-c", script)
	require.NoError(w.t, err, "%s", out)
	return out
}

// look tells of each NVIDIA node its number in hexadecimal and permissions,
// and whether the device cgroup lets it be opened: there is no driver
// behind it here, so what is allowed fails with ENXIO and what is
// not with EPERM.
const look = `
for n in $(ls -d /dev/nvidia* /dev/nvidia-caps/* 2>/dev/null); do
	[ -c $n ] || continue
	echo "$n $(stat -c '%t:%T %a' $n) $( (: <$n) 2>&1 | sed 's/.*: //')"
done
`

func TestContainerSeesItsGPU(t *testing.T) {
	const nodes = `/dev/nvidia-uvm 1fc:0 666 No such device or address
/dev/nvidia-uvm-tools 1fc:1 666 No such device or address
/dev/nvidia0 c3:0 666 No such device or address
/dev/nvidiactl c3:ff 666 No such device or address
`
	for _, r := range lowLevels(t) {
		for _, tt := range []struct {
			layout   string
			dir      string
			readonly bool
			noCache  bool
		}{
			{layout: "debian", dir: "/usr/lib/x86_64-linux-gnu"},
			{layout: "fedora", dir: "/usr/lib64"},
			{layout: "arch", dir: "/usr/lib"},
			{layout: "debian", dir: "/usr/lib/x86_64-linux-gnu", readonly: true},
			// The loader searches its own directory without being told.
			{layout: "debian", dir: "/lib/x86_64-linux-gnu", noCache: true},
		} {
			t.Run(fmt.Sprintf("%s/%s/readonly=%v,nocache=%v", r.name, tt.layout, tt.readonly, tt.noCache), func(t *testing.T) {
				w := newWorld(t, r, "t4", tt.layout)
				require.NoError(t, os.Symlink("busybox", filepath.Join(w.rootfs, "bin/sed")))
				if tt.noCache {
					require.NoError(t, os.Remove(filepath.Join(w.rootfs, "etc/ld.so.cache")))
				}
				got := w.run(look+`
					probe libcuda.so.1 libnvidia-ml.so.1 libcuda.so
					nvidia-smi
					ls /proc/1/fd`,
					[]string{"NVIDIA_VISIBLE_DEVICES=0"}, func(s *specs.Spec) { s.Root.Readonly = tt.readonly })
				want := nodes + fmt.Sprintf("libcuda.so.1 => %[1]s/libcuda.so.1\nlibnvidia-ml.so.1 => %[1]s/libnvidia-ml.so.1\nlibcuda.so => %[1]s/libcuda.so.1\n", tt.dir)
				before, after, ok := strings.Cut(got, want)
				assert.True(t, ok && before == "", "want\n%s\nas the head of\n%s", want, got)
				assert.Contains(t, after, "550.54.15", "nvidia-smi runs")
				assert.Contains(t, after, "\n0\n1\n2\n", "no descriptor is left open")
			})
		}
	}
}
