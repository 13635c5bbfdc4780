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

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

const (
	ubuntu  = "ubuntu:latest"
	t4UUID  = "GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245"
	t4SMI   = "nvidia-smi 550.54.15"
	ourPath = "/usr/local/bin/" + shimName // where README.md installs it
)

// script says how to run the commands of a text: as they are printed, with these exceptions.
type script struct {
	notRun   map[string]string          // commands that cannot run here, or are not meant to be typed, and why
	replaced map[string]func(r *reader) // commands for which something else is done
	prints   map[string]string          // what the others print, if the text does not show it
	after    func(r *reader, c command)
}

// lines returns the commands that the script knows.
func (s script) lines() []string {
	return slices.Concat(slices.Sorted(maps.Keys(s.notRun)), slices.Sorted(maps.Keys(s.replaced)), slices.Sorted(maps.Keys(s.prints)))
}

// readme says how to run the commands in README.md.
var readme = script{notRun: readmeNotRun, replaced: readmeReplaced, prints: readmePrints, after: afterDemo}

var readmeNotRun = map[string]string{
	"apt install ./dist/nvidia-container-runtime-experimental_0.1.0_amd64.deb": "TestInstallDeb runs it, in a root of its own",
	"docker update":           "names an event: see TestContainerKeepsItsGPUAfterUpdate and TestDocker",
	"systemctl daemon-reload": "names an event that needs systemd: see TestContainerKeepsItsGPUAfterUpdate",
}

var readmeReplaced = map[string]func(r *reader){
	// It compiles for minutes; CI does it.
	"make dist": func(r *reader) {
		data, err := os.ReadFile("../../../.ci/run")
		require.NoError(r.t, err)
		assert.Contains(r.t, string(data), "\nmake dist-reproducible\n")
	},
	// Configure each engine in turn, and undo it: the sections below start without any
	// configuration.
	"nvsysfs configure": func(r *reader) {
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
	// There is no systemd: the daemons start with the configuration in /etc. Command-line options
	// tell dockerd that it cannot have a bridge here, and where to put its containers' cgroups.
	"systemctl restart docker": func(r *reader) {
		r.startDocker()
		r.must("docker load -i " + r.image)
	},
	"systemctl restart containerd": func(r *reader) {
		r.startContainerd()
		assert.Contains(r.t, r.must("containerd config dump"), ourPath)
		r.importImage()
	},
	// There is no Kubernetes.
	"nvsysfs configure containerd --runtime-class | kubectl apply -f -": applyRuntimeClass,
}

var readmePrints = map[string]string{
	"docker run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L": t4SMI,
	"docker run --rm --runtime=nvidia-experimental --gpus all ubuntu nvidia-smi -L":                    t4SMI,
	"podman run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L": t4SMI,
	"nvidia-container-runtime.experimental run --bundle /path/to/bundle my-container":                  t4SMI,
	"podman run --rm --runtime a100-mig -e NVIDIA_VISIBLE_DEVICES=0:1 ubuntu nvidia-smi -L":            upMIG,
	"nvsysfs doctor":               "with docker as \"nvidia-experimental\" (/etc/docker/daemon.json); containerd as",
	"nvsysfs explain --bundle DIR": t4UUID,
}

func applyRuntimeClass(r *reader) {
	assert.YAMLEq(r.t, `{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: nvidia-experimental}, handler: nvidia-experimental}`,
		r.must("nvsysfs configure containerd --runtime-class"))
}

// startDocker starts dockerd as a unit would, and returns a function that stops it.
func (r *reader) startDocker() func() {
	return r.daemon("dockerd", r.environ, []string{"docker", "--host", "unix:///var/run/docker.sock", "version"}, "dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false",
		"--ip-forward=false", "--ip-masq=false", "--group", "root", "--cgroup-parent", r.cgroup())
}

// importImage imports the image into containerd, and also tags it without a registry.
func (r *reader) importImage() {
	r.must("ctr image import " + r.image)
	r.must("ctr image tag --force $(ctr image ls -q name~=library) " + ubuntu)
}

// startContainerd is startDocker for containerd.
func (r *reader) startContainerd() func() {
	return r.daemon("containerd", r.environ, []string{"ctr", "version"}, "containerd")
}

// These are parts of the setup for a text's commands: private copies of the directories that the
// commands write or read, apart from /etc and /run, private device nodes in /dev, and no
// configuration by the machine's owner.
const (
	privateDirectories = `
	for d in usr/bin usr/lib usr/local var/cache; do
		mkdir -p "$0/private/$d/upper" "$0/private/$d/work"
		mount -t overlay -o lowerdir=/$d,upperdir="$0/private/$d/upper",workdir="$0/private/$d/work" overlay /$d
	done
	for d in docker containerd containers; do # no overlay: engines put overlays there
		mkdir -p /var/lib/$d "$0/$d"
		mount --bind "$0/$d" /var/lib/$d
	done
`
	privateNodes = `
	mkdir "$0/dev"
	mount -t tmpfs -o mode=755 tmpfs "$0/dev"
	cp -ax /dev/. "$0/dev"
	for d in /dev/*/; do if mountpoint -q $d; then mount --rbind $d "$0$d"; fi; done
	mount --rbind "$0/dev" /dev
`
	noConfiguration = `
	rm -rf /etc/docker /etc/containerd /etc/crio /etc/cni /etc/nvidia-container-runtime /etc/containers/containers.conf*
`
)

// fitGPU is a script that gives the ground the driver of the machine $0, and what that driver
// shows.
const fitGPU = `
	set -e
	mount --bind "$0/proc/devices" /proc/devices
	mount --bind "$0/proc/driver" /proc/driver
	cp -an "$0/usr/bin/." /usr/bin
	cp -an "$0/usr/lib/." /usr/lib
	cp -an "$0/run/." /run
	/sbin/ldconfig
`

// fitPCI is a script that shows that GPU in /sys, too, where "nvsysfs doctor" looks for it. It
// rules out rootless containers: the kernel does not allow a user namespace to mount sysfs if
// something is mounted in it.
const fitPCI = `
	if [ -d /sys/bus/pci/devices ]; then
		mount --bind "$0/sys/bus/pci/devices" /sys/bus/pci/devices
		for d in system virtual; do
			mkdir -p "$0/sys/devices/$d"
			mount --bind /sys/devices/$d "$0/sys/devices/$d"
		done
		mount --rbind "$0/sys/devices" /sys/devices
	fi
`

// reader does what a text tells its reader to do.
type reader struct {
	*ground
	environ []string
	cwd     string // where commands run
	image   string
	bundle  string
	running map[string]func() // functions that stop daemons, by name
}

// command is a command in a text, with the output that the text shows for it, or a file that the
// text shows.
type command struct {
	line  string
	shows []string
	file  string
	text  string
}

// commands are the first words of commands in the text of README.md.
var commands = []string{"make", "go", "nvsysfs", "docker", "podman", "ctr", "sudo", "systemctl", shimName}

// readCommands returns the commands in a text. These are the lines of indented blocks and of fenced
// blocks, with two exceptions: in a console block, only the first line is a command, and the others
// are its output. Blocks of the kinds text, yaml, toml, dockerfile, go and mermaid only show
// something; they are files if their first line is a comment with a file name. If inline is set,
// code spans that begin with a command's name and have more words are commands, too.
func readCommands(page string, inline bool) []command {
	var list []command
	span, comment, file := regexp.MustCompile("`([^`]+)`"), regexp.MustCompile(`\s+#.*`), regexp.MustCompile(`^# (/?[\w.-]+(?:/[\w.-]+)*)$`)
	add := func(line string, shows []string) {
		line = strings.TrimSpace(comment.ReplaceAllString(line, ""))
		list = append(list, command{line: strings.TrimPrefix(line, "sudo "), shows: shows})
	}
	text := ""
	flush := func() {
		for _, m := range span.FindAllStringSubmatch(text, -1) {
			if !inline {
				break
			}
			if words := strings.Fields(m[1]); len(words) > 1 && slices.Contains(commands, words[0]) {
				add(strings.Join(words, " "), nil)
			}
		}
		text = ""
	}
	lines := strings.Split(page, "\n")
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
			case "text", "yaml", "toml", "dockerfile", "go", "mermaid":
				if m := file.FindStringSubmatch(block[0]); m != nil {
					if fence == "text" { // which has no comments
						block = block[1:]
					}
					list = append(list, command{file: m[1], text: strings.Join(block, "\n") + "\n"})
				}
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
	return list
}

// TestREADME runs, from top to bottom, what README.md tells its reader to type.
func TestREADME(t *testing.T) {
	r := newReader(t, privateDirectories+privateNodes+noConfiguration)
	r.copyRepository()
	data, err := os.ReadFile("../../../README.md")
	require.NoError(t, err)
	seen := r.follow(readCommands(string(data), true), readme)
	for _, line := range readme.lines() {
		assert.True(t, seen[line], "no longer in README.md: %s", line)
	}
	data, err = os.ReadFile(filepath.Join(r.dir, "FILE.txtar"))
	require.NoError(t, err)
	_, err = fixtures.Parse(data)
	require.NoError(t, err)
	assert.Contains(t, string(data), "550.54.15")
	assert.NotContains(t, string(data), t4UUID)
}

// newReader creates a reader on a ground that setup prepares.
func newReader(t *testing.T, setup string) *reader {
	t.Helper()
	need.Root(t)
	path := []string{filepath.Dir(need.Program(t, "go")), "/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}
	for _, name := range []string{"git", "make", "runc", "dockerd", "docker", "containerd", "ctr", "podman"} {
		need.Program(t, name)
	}
	if _, err := os.Stat("/proc/driver"); err != nil {
		need.Missing(t, "a directory /proc/driver to mount on: %v", err)
	}
	r := &reader{ground: newGround(t, setup)}
	for _, e := range os.Environ() {
		if !regexp.MustCompile(`^(DOCKER|CONTAINER|NVIDIA|XDG|GOBIN|PATH)`).MatchString(e) {
			r.environ = append(r.environ, e)
		}
	}
	// ctr's namespace is also the cgroup of its containers.
	r.environ = append(r.environ, "PATH="+strings.Join(path, ":"), "DOCKER_CONFIG="+filepath.Join(r.dir, "client"),
		"CONTAINERD_NAMESPACE="+filepath.Base(r.dir))
	r.prepare()
	return r
}

// follow does what a text says, and returns the command lines it has seen.
func (r *reader) follow(list []command, s script) map[string]bool {
	seen := map[string]bool{}
	for _, c := range list {
		if c.file != "" {
			r.t.Logf("file: %s", c.file)
			file := c.file
			if !filepath.IsAbs(file) {
				file = filepath.Join(r.cwd, file)
			}
			c.checkFile(r.t)
			r.write(file, c.text)
			continue
		}
		seen[c.line] = true
		if why, ok := s.notRun[c.line]; ok {
			r.t.Logf("not run: %s: %s", c.line, why)
			continue
		}
		if do, ok := s.replaced[c.line]; ok {
			r.t.Logf("replaced: %s", c.line)
			do(r)
			continue
		}
		r.t.Logf("run: %s", c.line)
		out, err := r.try(r.line(c.line))
		if c.fails() {
			require.Error(r.t, err, "%s: %s", c.line, out)
		} else {
			require.NoError(r.t, err, "%s: %s", c.line, out)
		}
		assert.Contains(r.t, out, s.prints[c.line], "%s", c.line)
		c.check(r.t, out)
		if s.after != nil {
			s.after(r, c)
		}
	}
	return seen
}

// checkFile parses a file that the text shows. It parses a config.toml in the same way as the
// runtime.
func (c command) checkFile(t *testing.T) {
	t.Helper()
	switch filepath.Ext(c.file) {
	case ".yaml":
		assert.YAMLEq(t, c.text, c.text) //nolint:testifylint // it parses both
	case ".toml":
		file := filepath.Join(t.TempDir(), "config.toml")
		require.NoError(t, os.WriteFile(file, []byte(c.text), 0o644))
		config, err := plan.LoadConfig("", []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + file})
		require.NoError(t, err)
		config.File = plan.DefaultConfig().File
		assert.NotEqual(t, plan.DefaultConfig(), config, "%s changes nothing", c.file)
	}
}

// fails reports whether the text shows an error.
func (c command) fails() bool {
	return slices.ContainsFunc(c.shows, func(line string) bool {
		return strings.HasPrefix(line, "nvsysfs: ") || strings.HasPrefix(line, "docker: ") || strings.HasPrefix(line, "Error: ") || strings.HasPrefix(line, "ctr: ")
	})
}

// check compares a command's output with what the text shows. "…" stands for any lines if it is
// alone on a line, and otherwise for a part of its line.
func (c command) check(t *testing.T, out string) {
	t.Helper()
	if c.shows == nil {
		return
	}
	rest, whole := out, true
	for _, line := range c.shows {
		if strings.TrimSpace(line) == "…" {
			whole = false
			continue
		}
		pattern := strings.ReplaceAll(regexp.QuoteMeta(strings.TrimRight(line, " ")), "…", ".*")
		at := regexp.MustCompile(`(?m)^` + pattern + `\s*$`).FindStringIndex(rest)
		require.NotNil(t, at, "%s does not print, in this order:\n%s\nbut:\n%s", c.line, line, rest)
		rest = rest[at[1]:]
	}
	if whole {
		assert.Len(t, lines(out), len(lines(strings.Join(c.shows, "\n"))), "%s prints more than is shown: %s", c.line, out)
	}
}

// lines returns the lines of a text that are not blank.
func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(line string) bool { return strings.TrimSpace(line) == "" })
}

// afterDemo gives the ground a GPU after "make demo", and runs that command again.
func afterDemo(r *reader, c command) {
	if c.line == "make demo" {
		out, err := r.output("sh", "-c", fitGPU+fitPCI, r.machine("t4"))
		require.NoError(r.t, err, "%s", out)
		assert.Contains(r.t, r.must(c.line), "This machine:")
	}
}

// copyRepository copies this repository. Commands run in the copy.
func (r *reader) copyRepository() {
	r.cwd = filepath.Join(r.dir, "clone")
	cmd := exec.Command("sh", "-c", `mkdir "$0" && git ls-files -coz --exclude-standard | tar -c --null -T - --ignore-failed-read | tar -x -C "$0"`, r.cwd)
	cmd.Dir = "../../.."
	out, err := cmd.CombinedOutput()
	require.NoError(r.t, err, "%s", out)
}

// prepare creates the image ubuntu and a bundle, and configures podman so that it can run here.
func (r *reader) prepare() {
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
	out, err := r.output("podman", "load", "-i", r.image)
	require.NoError(r.t, err, "%s", out)
}

// writeBundle writes the config.json of a container that requests all GPUs.
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

// line returns a command of the text with its placeholders filled in, and with what this ground
// needs: podman has only a flag, and no setting, for the cgroup of its containers. dockerd and
// podman are configured to give containers no network, which would need a bridge and plugins.
func (r *reader) line(line string) string {
	return strings.NewReplacer(
		"/path/to/bundle", r.bundle,
		"--bundle DIR", "--bundle "+r.bundle,
		"FILE.txtar", filepath.Join(r.dir, "FILE.txtar"),
		"podman run ", "podman run --cgroup-parent "+r.cgroup()+" ",
	).Replace(line)
}

// must runs a command line that must succeed.
func (r *reader) must(line string) string {
	r.t.Helper()
	out, err := r.try(line)
	require.NoError(r.t, err, "%s: %s", line, out)
	return out
}

// try runs a command line in the reader's working directory.
func (r *reader) try(line string) (string, error) {
	cmd := r.command("sh", "-c", `cd "$0" && eval "$1"`, r.cwd, line)
	cmd.Env = r.environ
	return output(cmd)
}
