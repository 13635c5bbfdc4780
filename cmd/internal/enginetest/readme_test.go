// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/testimage"
)

const (
	ubuntu  = "docker.io/library/ubuntu:latest" // what engines make of "ubuntu"
	t4UUID  = "GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245"
	t4SMI   = "nvidia-smi 550.54.15"
	ourPath = "/usr/local/bin/" + shimName // where README.md installs it
)

// notRun are commands of README.md that cannot be run here, or are not to be
// typed, and why.
var notRun = map[string]string{
	"make docker-cmd-nvidia-container-runtime.experimental": "it pulls golang from an image registry",
	"make bench":              "it measures for minutes, and wants a machine that does nothing else",
	"docker update":           "names an event: TestContainerKeepsItsGPUAfterUpdate, TestDocker",
	"systemctl daemon-reload": "names an event, which takes systemd: TestContainerKeepsItsGPUAfterUpdate",
}

// replaced are those for which another thing is done. All that is neither
// here nor in notRun is run as it is printed.
var replaced = map[string]func(r *reader){
	// It would run this test, too.
	"make test": func(r *reader) {
		data, err := os.ReadFile("../../../.ci/run")
		require.NoError(r.t, err)
		assert.Contains(r.t, string(data), "\nmake test\n")
	},
	// The alternatives one after the other, each of which is taken out again:
	// the sections below begin with nothing.
	"nvsysfs configure docker|containerd|crio|podman": func(r *reader) {
		for engine, file := range map[string]string{
			"docker": "/etc/docker/daemon.json", "containerd": "/etc/containerd/config.toml",
			"crio": "/etc/crio/crio.conf.d/99-nvidia-experimental.conf", "podman": "/etc/containers/containers.conf.d/99-nvidia-experimental.conf",
		} {
			r.must("nvsysfs configure " + engine)
			assert.Contains(r.t, r.must("cat "+file), ourPath)
			r.must("nvsysfs configure " + engine + " --remove")
			r.must("! test -e " + file)
		}
	},
	// There is no systemd: the daemons start with what is in /etc. dockerd is
	// told on its command line that it cannot have a bridge here, and where
	// its containers' cgroups are to be.
	"systemctl restart docker": func(r *reader) {
		assert.JSONEq(r.t, r.json, r.must("cat /etc/docker/daemon.json"), "what README.md says of daemon.json")
		r.daemon("dockerd", r.environ, []string{"docker", "--host", "unix:///var/run/docker.sock", "version"}, "dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false",
			"--ip-forward=false", "--ip-masq=false", "--group", "root", "--cgroup-parent", r.cgroup())
		r.must("docker load -i " + r.image)
	},
	"systemctl restart containerd": func(r *reader) {
		r.daemon("containerd", r.environ, []string{"ctr", "version"}, "containerd")
		assert.Contains(r.t, r.must("containerd config dump"), ourPath)
		r.must("ctr image import " + r.image)
	},
	// There is no Kubernetes.
	"nvsysfs configure containerd --runtime-class | kubectl apply -f -": func(r *reader) {
		assert.YAMLEq(r.t, `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: nvidia-experimental}, handler: nvidia-experimental}`,
			r.must("nvsysfs configure containerd --runtime-class"))
	},
	"ctr run --runc-binary /usr/local/bin/nvidia-container-runtime.experimental …": func(r *reader) {
		got := r.must("ctr run --runc-binary /usr/local/bin/nvidia-container-runtime.experimental --rm --env NVIDIA_VISIBLE_DEVICES=all " + ubuntu + " smi nvidia-smi -L")
		assert.Contains(r.t, got, t4SMI)
	},
}

// prints is what the others print.
var prints = map[string]string{
	"docker run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L": t4SMI,
	"docker run --rm --runtime=nvidia-experimental --gpus all ubuntu nvidia-smi -L":                    t4SMI,
	"podman run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L": t4SMI,
	"nvidia-container-runtime.experimental run --bundle /path/to/bundle my-container":                  t4SMI,
	"nvsysfs doctor":               "with docker as \"nvidia-experimental\" (/etc/docker/daemon.json); containerd as",
	"nvsysfs explain --bundle DIR": t4UUID,
	"nvsysfs info":                 "550.54.15",
	"nvsysfs list":                 t4UUID,
}

// readmeGround makes private what README.md's commands write or read beside
// /etc and /run, and takes away what the machine's owner has configured.
const readmeGround = `
	for d in usr/bin usr/lib usr/local/bin var/cache; do
		mkdir -p "$0/private/$d/upper" "$0/private/$d/work"
		mount -t overlay -o lowerdir=/$d,upperdir="$0/private/$d/upper",workdir="$0/private/$d/work" overlay /$d
	done
	for d in docker containerd containers; do # no overlay: engines put overlays there
		mkdir -p /var/lib/$d "$0/$d"
		mount --bind "$0/$d" /var/lib/$d
	done
	mkdir "$0/dev"
	mount -t tmpfs -o mode=755 tmpfs "$0/dev"
	cp -ax /dev/. "$0/dev"
	for d in /dev/*/; do if mountpoint -q $d; then mount --rbind $d "$0$d"; fi; done
	mount --rbind "$0/dev" /dev
	rm -rf /etc/docker /etc/containerd /etc/crio /etc/cni /etc/nvidia-container-runtime /etc/containers/containers.conf*
`

// fitGPU gives the ground the machine $0: its driver and what that shows.
const fitGPU = `
	set -e
	mount --bind "$0/proc/devices" /proc/devices
	mount --bind "$0/proc/driver" /proc/driver
	cp -an "$0/usr/bin/." /usr/bin
	cp -an "$0/usr/lib/." /usr/lib
	cp -an "$0/run/." /run
	/sbin/ldconfig
`

// reader does what README.md says.
type reader struct {
	*ground
	environ []string
	image   string
	bundle  string
	json    string // README.md's daemon.json
}

// command is what README.md tells to type, and what it says is printed then.
type command struct {
	line  string
	shows []string
}

// commands are the first words of commands in README.md's text.
var commands = []string{"make", "go", "nvsysfs", "docker", "podman", "ctr", "sudo", "systemctl", shimName}

// readmeCommands returns the commands in README.md and the text of its JSON
// block. A command is a line of an indented block or of one of another kind,
// the first line of a console block, whose others are what it prints, and
// code in the text that begins with a command's name and is more than that.
func readmeCommands(readme string) (list []command, jsonBlock string) {
	span, comment := regexp.MustCompile("`([^`]+)`"), regexp.MustCompile(`\s+#.*`)
	add := func(line string, shows []string) {
		line = strings.TrimSpace(comment.ReplaceAllString(line, ""))
		list = append(list, command{strings.TrimPrefix(line, "sudo "), shows})
	}
	text := ""
	flush := func() {
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			if words := strings.Fields(m[1]); len(words) > 1 && slices.Contains(commands, words[0]) {
				add(strings.Join(words, " "), nil)
			}
		}
		text = ""
	}
	lines := strings.Split(readme, "\n")
	for len(lines) > 0 {
		line := lines[0]
		lines = lines[1:]
		fence, isFence := strings.CutPrefix(line, "```")
		switch {
		case isFence:
			flush()
			end := slices.Index(lines, "```")
			block := lines[:end]
			lines = lines[end+1:]
			switch fence {
			case "console":
				add(strings.TrimPrefix(block[0], "$ "), block[1:])
			case "json":
				jsonBlock = strings.Join(block, "\n")
			default:
				for _, line := range block {
					add(line, nil)
				}
			}
		case strings.HasPrefix(line, "    "):
			flush()
			add(line, nil)
		default:
			text += line + "\n"
		}
	}
	flush()
	return list, jsonBlock
}

// TestREADME does, from the top to the bottom, what README.md tells its
// reader to type.
func TestREADME(t *testing.T) {
	need.Root(t)
	path := []string{filepath.Dir(need.Program(t, "go")), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	for _, name := range []string{"git", "make", "runc", "dockerd", "docker", "containerd", "ctr", "podman"} {
		need.Program(t, name)
	}
	if _, err := os.Stat("/proc/driver"); err != nil {
		need.Missing(t, "a directory /proc/driver to mount on: %v", err)
	}
	data, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	list, block := readmeCommands(string(data))

	r := &reader{ground: newGround(t, readmeGround), json: block}
	for _, e := range os.Environ() {
		if !regexp.MustCompile(`^(DOCKER|CONTAINER|NVIDIA|XDG|GOBIN|PATH)`).MatchString(e) {
			r.environ = append(r.environ, e)
		}
	}
	// ctr's namespace is the cgroup of its containers.
	r.environ = append(r.environ, "PATH="+strings.Join(path, ":"), "GOBIN="+filepath.Join(r.dir, "gobin"), "DOCKER_CONFIG="+filepath.Join(r.dir, "client"),
		"CONTAINERD_NAMESPACE="+filepath.Base(r.dir))
	r.prepare()

	seen := map[string]bool{}
	for _, c := range list {
		seen[c.line] = true
		if why, ok := notRun[c.line]; ok {
			t.Logf("not run: %s: %s", c.line, why)
			continue
		}
		if do, ok := replaced[c.line]; ok {
			t.Logf("replaced: %s", c.line)
			do(r)
			continue
		}
		t.Logf("run: %s", c.line)
		out := r.must(r.line(c.line))
		assert.Contains(t, out, prints[c.line], "%s", c.line)
		for _, line := range c.shows {
			before, after, found := strings.Cut(out, line)
			if line != "  …" {
				require.True(t, found, "%s does not print, in this order:\n%s\nbut:\n%s", c.line, line, before)
				out = after
			}
		}
		switch {
		case c.line != "make demo":
		case c.shows != nil: // that was without a GPU
			out, err := r.output("sh", "-c", fitGPU, r.machine("t4"))
			require.NoError(t, err, "%s", out)
		default: // "On a machine with a GPU it uses that one."
			assert.Contains(t, out, "This machine:")
		}
	}
	for _, line := range slices.Concat(slices.Sorted(maps.Keys(notRun)), slices.Sorted(maps.Keys(replaced)), slices.Sorted(maps.Keys(prints))) {
		assert.True(t, seen[line], "no longer in README.md: %s", line)
	}
	assert.FileExists(t, filepath.Join(r.dir, "gobin", shimName))
	data, err = os.ReadFile(filepath.Join(r.dir, "FILE.txtar"))
	require.NoError(t, err)
	_, err = fixtures.Parse(data)
	require.NoError(t, err)
	assert.Contains(t, string(data), "550.54.15")
	assert.NotContains(t, string(data), t4UUID)
}

// prepare makes a copy of this repository, in which commands run, the image
// ubuntu, and a bundle, and configures podman so that it can run here.
func (r *reader) prepare() {
	cmd := exec.Command("sh", "-c", `mkdir "$0" && git ls-files -coz --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C "$0"`, filepath.Join(r.dir, "clone"))
	cmd.Dir = "../../.."
	out, err := cmd.CombinedOutput()
	require.NoError(r.t, err, "%s", out)

	r.bundle, r.image = filepath.Join(r.dir, "bundle"), filepath.Join(r.dir, "ubuntu.tar")
	require.NoError(r.t, os.Mkdir(filepath.Join(r.dir, "client"), 0o755))
	require.NoError(r.t, os.WriteFile(filepath.Join(r.dir, "client/config.json"), []byte("{}"), 0o644))
	rootfs := filepath.Join(r.bundle, "rootfs")
	testimage.Build(r.t, rootfs, "debian")
	testimage.Archive(r.t, rootfs, ubuntu, r.image)
	r.writeBundle()

	r.write("/etc/containers/containers.conf", `[containers]
default_ulimits = ["nofile=1024:1024", "nproc=1024:1024"]
log_driver = "k8s-file"
netns = "none"
[engine]
cgroup_manager = "cgroupfs"
events_logger = "none"
`)
	out2, err := r.output("podman", "load", "-i", r.image)
	require.NoError(r.t, err, "%s", out2)
}

// writeBundle writes the config.json of a container that asks for all GPUs.
func (r *reader) writeBundle() {
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"}
	data, err := json.Marshal(specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"nvidia-smi"}, Cwd: "/", Env: []string{"PATH=/usr/bin:/bin", "NVIDIA_VISIBLE_DEVICES=all"},
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			CgroupsPath: r.cgroup() + "/my-container",
			Namespaces:  []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			Resources:   &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	})
	require.NoError(r.t, err)
	require.NoError(r.t, os.WriteFile(filepath.Join(r.bundle, "config.json"), data, 0o644))
}

// line is a command of README.md with what is to be filled in, and what this
// ground needs: podman has no setting, only a flag, for the cgroup that its
// containers are in. With dockerd's and podman's settings they have no network,
// for which it takes a bridge and plugins.
func (r *reader) line(line string) string {
	return strings.NewReplacer(
		"/path/to/bundle", r.bundle,
		"--bundle DIR", "--bundle "+r.bundle,
		"FILE.txtar", filepath.Join(r.dir, "FILE.txtar"),
		"podman run ", "podman run --cgroup-parent "+r.cgroup()+" ",
	).Replace(line)
}

// must runs a command line in the copy of the repository.
func (r *reader) must(line string) string {
	r.t.Helper()
	cmd := r.command("sh", "-c", `cd "$0" && eval "$1"`, filepath.Join(r.dir, "clone"), line)
	cmd.Env = r.environ
	out, err := output(cmd)
	require.NoError(r.t, err, "%s: %s", line, out)
	return out
}
