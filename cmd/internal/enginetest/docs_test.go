// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.yaml.in/yaml/v3"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

const (
	noSystemd    = "there is no systemd and no journal here"
	noKubernetes = "there is no Kubernetes API server here"
	noMIG        = "this test's machine has no MIG device and no systemd: the rest of the page and TestDevicePlugin cover it"
)

// docs says how to run the commands in docs/*.md.
var docs = script{
	notRun: map[string]string{
		"journalctl -u docker":          noSystemd,
		"journalctl -u containerd":      noSystemd,
		"journalctl -u crio":            noSystemd,
		"systemctl restart crio":        "Debian 12 has no CRI-O",
		"kubectl apply -f gpu-pod.yaml": noKubernetes,
		"nvsysfs learn":                 noMIG,
		"systemctl enable --now nvsysfs-learn.service nvsysfs-learn.timer": noMIG,
		"CGO_ENABLED=0 go install github.com/nvsysfs/nvidia-container-runtime/cmd/nvsysfs@latest github.com/nvsysfs/nvidia-container-runtime/cmd/nvidia-container-runtime.experimental@latest": "it downloads the last release; TestREADME runs make instead",
		"kubectl logs gpu-pod":         noKubernetes,
		"kubectl describe pod gpu-pod": noKubernetes,
		"kubectl get events --field-selector involvedObject.name=gpu-pod": noKubernetes,
	},
	replaced: map[string]func(r *reader){
		"systemctl restart docker": func(r *reader) {
			r.restart("docker", r.startDocker)
			if out := r.must("docker images -q ubuntu"); out == "" {
				r.must("docker load -i " + r.image)
			}
		},
		"systemctl restart containerd": func(r *reader) {
			r.restart("containerd", r.startContainerd)
			r.importImage()
		},
		"nvsysfs configure containerd --runtime-class | kubectl apply -f -": applyRuntimeClass,
		"nvsysfs configure crio --runtime-class | kubectl apply -f -": func(r *reader) {
			assert.Equal(r.t, r.must("nvsysfs configure containerd --runtime-class"), r.must("nvsysfs configure crio --runtime-class"))
		},
		// Debian 12 has no Compose for this docker: run the equivalent docker command.
		"docker compose up": func(r *reader) {
			assert.YAMLEq(r.t, `{services: {gpu: {image: ubuntu, command: nvidia-smi -L, runtime: nvidia-experimental,
				environment: {NVIDIA_VISIBLE_DEVICES: "0", NVIDIA_DRIVER_CAPABILITIES: "compute,utility"}}}}`, r.must("cat compose.yaml"))
			assert.Contains(r.t, r.must("docker run --rm --runtime nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=0 -e NVIDIA_DRIVER_CAPABILITIES=compute,utility ubuntu nvidia-smi -L"), t4SMI)
		},
		"podman run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all --userns=keep-id ubuntu nvidia-smi -L": rootlessPodman,
		"docker compose --file gpu-test.yaml up": func(r *reader) {
			assert.YAMLEq(r.t, `{services: {trainer: {image: ubuntu, runtime: a100-mig, environment: {NVIDIA_VISIBLE_DEVICES: "0:1"}, command: nvidia-smi -L}}}`,
				r.must("cat gpu-test.yaml"))
			assert.Contains(r.t, r.must("docker run --rm --runtime a100-mig -e NVIDIA_VISIBLE_DEVICES=0:1 ubuntu nvidia-smi -L"), upMIG)
		},
	},
	prints: map[string]string{
		"docker run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L":               t4SMI,
		"docker run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=GPU-fef8089b ubuntu nvidia-smi -L":      t4SMI,
		"docker run --rm --runtime=nvidia-experimental --gpus all ubuntu nvidia-smi -L":                                  t4SMI,
		`docker run --rm --runtime=nvidia-experimental --gpus '"device=0"' ubuntu nvidia-smi -L`:                         t4SMI,
		`docker run --rm --runtime=nvidia-experimental --gpus 'all,"capabilities=compute,utility"' ubuntu nvidia-smi -L`: t4SMI,
		"docker exec my-gpu nvidia-smi -L":                                                                              t4SMI,
		"docker run --rm -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L":                                            t4SMI,
		"DOCKER_BUILDKIT=0 docker build -t with-gpu .":                                                                  t4SMI,
		"docker inspect --format '{{.State.Error}}' failed":                                                             `device "7": unknown device: no GPU has the index 7`,
		"podman run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L":              t4SMI,
		"podman run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0 ubuntu nvidia-smi -L": t4SMI,
		"podman run --rm -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L":                                            t4SMI,
		"podman run --rm --device nvidia.com/gpu=0 ubuntu nvidia-smi -L":                                                t4SMI,
		"nvsysfs cdi list": "nvidia.com/gpu=0",
		"docker run --rm --runtime a100-mig -e NVIDIA_VISIBLE_DEVICES=0:1 ubuntu nvidia-smi -L":                                                           upMIG,
		"docker run --rm --runtime a100-mig -e NVIDIA_VISIBLE_DEVICES=MIG-7d3d227e-33cf-5f2c-98cb-f221614e8b4e ubuntu nvidia-smi -L":                      upMIG,
		"dgx/usr/bin/nvidia-smi | nvsysfs learn --root dgx --from -":                                                                                      "GPU 0 at 0000:1b:00.0: 7 of 7 MIG devices, PDI 0x2c5f18d0947be36a from nvidia-smi, proved by a UUID",
		"nvsysfs explain --root dgx -e NVIDIA_VISIBLE_DEVICES=MIG-c0dfeed8-2d6a-5070-a31f-f401d4830986":                                                   "/dev/nvidia-caps/nvidia-cap76",
		"nvsysfs learn --root /var/lib/nvsysfs/fixtures/a100-mig/machine --from smi.txt":                                                                  "GPU 7 at 0000:bd:00.0: 5 of 5 MIG devices, PDI not known",
		"docker run --rm --runtime a100-mig -e NVIDIA_VISIBLE_DEVICES=0:1 ubuntu ls -l /dev/nvidia-caps":                                                  "nvidia-cap346",
		"docker run --rm --runtime t4 -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi --query-gpu=index,uuid,name,pci.bus_id,driver_version --format=csv": "0, " + t4UUID + ", Tesla T4, 00000000:00:1E.0, 550.54.15",
		"nvsysfs fixture ps": "/var/lib/nvsysfs/fixtures/a100-mig/machine",
		"podman run --rm --runtime a100-mig -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L": "GPU 7: ",
		"podman run --rm --device nvidia.com/gpu=0:1 ubuntu nvidia-smi -L":                      upMIG,
		"sh gpu-test.sh": "passed",
		"ctr run --rm --runc-binary /var/lib/nvsysfs/fixtures/t4/nvidia-container-runtime.experimental@t4 --env NVIDIA_VISIBLE_DEVICES=all " + ubuntu + " my-gpu nvidia-smi -L": upT4,
		"podman build -t with-gpu .": t4SMI,
		"ctr run --rm --runc-binary " + ourPath + " --env NVIDIA_VISIBLE_DEVICES=all " + ubuntu + " my-gpu nvidia-smi -L": t4SMI,
	},
}

// restart stops a daemon if it is running, and starts it.
func (r *reader) restart(name string, start func() func()) {
	if stop, ok := r.running[name]; ok {
		stop()
	}
	r.running[name] = start()
}

// rootlessPodman runs a container as an unprivileged user. The user's namespaces cannot have a
// /proc if something is mounted in the host's: until the container has exited, the machine is read
// from a directory.
func rootlessPodman(r *reader) {
	need.Program(r.t, "newuidmap")
	home := filepath.Join(r.dir, "home")
	require.NoError(r.t, os.MkdirAll(filepath.Join(home, "run"), 0o700))
	require.NoError(r.t, os.Chown(home, 61111, 61111))
	require.NoError(r.t, os.Chown(filepath.Join(home, "run"), 61111, 61111))
	machine := r.machine("t4")
	r.write("/etc/nvidia-container-runtime/config.toml", "nvidia-container-runtime.experimental.sysroot = \""+machine+"\"\n")
	r.must("umount /proc/devices /proc/driver")
	defer r.must("rm /etc/nvidia-container-runtime/config.toml && mount --bind " + machine + "/proc/devices /proc/devices && mount --bind " + machine + "/proc/driver /proc/driver")
	user := "setpriv --reuid 61111 --regid 61111 --clear-groups --inh-caps=-all env --chdir " + home + " -i HOME=" + home + " XDG_RUNTIME_DIR=" + home + "/run PATH=$PATH podman "
	r.must(user + "load -i " + r.image)
	defer r.must(user + "system migrate") // podman leaves a process that keeps the user's namespaces
	got := r.must(user + "run --rm --runtime=nvidia-experimental -e NVIDIA_VISIBLE_DEVICES=all --userns=keep-id ubuntu sh -c 'id -u; nvidia-smi -L'")
	assert.Contains(r.t, got, "61111\n")
	assert.Contains(r.t, got, t4SMI)
}

// pages returns the pages in docs by file name.
func pages(t *testing.T) map[string]string {
	t.Helper()
	files, err := filepath.Glob("../../../docs/*.md")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	all := map[string]string{}
	for _, file := range files {
		data, err := os.ReadFile(file)
		require.NoError(t, err)
		all[filepath.Base(file)] = string(data)
	}
	return all
}

// TestDocs runs what each page in docs tells its reader to type, in a directory for each page. The
// machine has the programs in /usr/local/bin and the GPU of the fixture t4. A page must not leave
// anything configured.
func TestDocs(t *testing.T) {
	all := newReader(t, privateDirectories+hostNodes+subordinate+noConfiguration+"mount -t tmpfs tmpfs /var/log\n")
	require.NoError(t, programs.shim())
	require.NoError(t, build("nvsysfs"))
	all.cwd = all.dir
	all.must("install -m 755 " + programs.dir + "/" + shimName + " " + programs.dir + "/nvsysfs /usr/local/bin")
	out, err := all.output("sh", "-c", fitGPU, all.machine("t4"))
	require.NoError(t, err, "%s", out)
	// The CRI-O package contains a file that sets the default runtime.
	all.must(`mkdir -p /etc/crio/crio.conf.d && printf '[crio.runtime]\ndefault_runtime = "crun"\n[crio.runtime.runtimes.crun]\nruntime_path = "/usr/bin/crun"\nruntime_root = "/run/crun"\n' >/etc/crio/crio.conf.d/10-crio.conf`)

	seen, done := map[string]bool{}, 0
	texts := pages(t)
	for _, name := range slices.Sorted(maps.Keys(texts)) {
		t.Run(name, func(t *testing.T) {
			g := *all.ground
			g.t = t
			r := *all
			r.ground, r.running, r.cwd = &g, map[string]func(){}, filepath.Join(r.dir, "pages", strings.TrimSuffix(name, ".md"))
			require.NoError(t, os.MkdirAll(r.cwd, 0o755))
			for line := range r.follow(readCommands(texts[name], false), docs) {
				seen[line] = true
			}
			assert.Empty(t, r.must("grep -rlsE 'nvidia-(experimental|container)' /etc/docker /etc/containerd /etc/crio /etc/containers || true"), "what is left configured")
			done++
			assert.Empty(t, r.must("find /etc/nvidia-container-runtime /etc/cdi -type f 2>/dev/null || true"))
		})
	}
	// If not all pages are done, a flag has selected some.
	if done == len(texts) {
		assert.Empty(t, slices.DeleteFunc(docs.lines(), func(line string) bool { return seen[line] }), "not on any page")
	}
}

// TestJobs checks that each job on the page about CI runs commands of that page, which TestDocs
// executes, apart from commands that install something.
func TestJobs(t *testing.T) {
	page := pages(t)["testing-without-gpu.md"]
	known := map[string]bool{}
	for _, c := range readCommands(page, false) {
		known[c.line] = true
	}
	jobs := 0
	for _, block := range regexp.MustCompile("(?s)```yaml\n(.*?)```").FindAllStringSubmatch(page, -1) {
		var job map[string]any
		require.NoError(t, yaml.Unmarshal([]byte(block[1]), &job))
		var lines []string
		var collect func(key string, v any)
		collect = func(key string, v any) {
			switch v := v.(type) {
			case map[string]any:
				for key, value := range v {
					collect(key, value)
				}
			case []any:
				for _, value := range v {
					collect(key, value)
				}
			case string:
				if key == "run" || key == "script" || key == "before_script" {
					lines = append(lines, v)
				}
			}
		}
		collect("", job)
		if len(lines) > 0 {
			jobs++
		}
		for _, line := range lines {
			line = strings.ReplaceAll(strings.TrimPrefix(line, "sudo "), `"$(go env GOPATH)/bin/nvsysfs"`, "nvsysfs")
			if !strings.HasPrefix(line, "apt-get ") {
				assert.True(t, known[line], "not among the page's commands: %s", line)
			}
		}
	}
	assert.Equal(t, 2, jobs)
}

// TestMachineTable checks that the page's table lists every machine with the first sentence of the
// machine's own description.
func TestMachineTable(t *testing.T) {
	var want [][]string
	for _, name := range fixtures.Names() {
		machine, err := fixtures.Load(name)
		require.NoError(t, err)
		line, _, _ := strings.Cut(machine.Comment, "\n")
		if sentence, _, found := strings.Cut(line, ". "); found {
			line = sentence + "."
		}
		want = append(want, []string{"`" + name + "`", line})
	}
	got := rows(sections(pages(t)["testing-without-gpu.md"], "##")["The machines"])
	assert.Equal(t, want, got[1:])
}
