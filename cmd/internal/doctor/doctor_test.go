// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

var update = flag.Bool("update", false, "write what doctor finds into testdata/doctor.txtar")

// diagnosed returns the findings on the machine in a directory, with $ROOT in place of dir.
func diagnosed(t *testing.T, dir string) []Finding {
	t.Helper()
	environ, err := plan.Below(dir, []string{"PATH=/usr/bin"})
	require.NoError(t, err)
	findings, err := Run(environ)
	require.NoError(t, err)
	for n := range findings {
		f := &findings[n]
		f.Text, f.Fix = strings.ReplaceAll(f.Text, dir, "$ROOT"), strings.ReplaceAll(f.Fix, dir, "$ROOT")
	}
	return findings
}

// TestDoctorFixtures compares all findings on every fixture, unpacked without device nodes, with
// testdata/doctor.txtar.
func TestDoctorFixtures(t *testing.T) {
	const golden = "testdata/doctor.txtar"
	archive, err := txtar.ParseFile(golden)
	require.NoError(t, err)
	want := map[string]string{}
	for _, f := range archive.Files {
		want[f.Name] = string(f.Data)
	}
	got := map[string]string{}
	now := &txtar.Archive{Comment: archive.Comment}
	for _, name := range fixtures.Names() {
		dir := need.Machine(t, name, false)
		for _, f := range diagnosed(t, dir) {
			got[name] += f.State + " " + f.ID + ": " + f.Text + "\n"
			if f.Fix != "" {
				got[name] += "  > " + f.Fix + "\n"
			}
		}
		now.Files = append(now.Files, txtar.File{Name: name, Data: []byte(got[name])})
	}
	if *update {
		require.NoError(t, os.WriteFile(golden, txtar.Format(now), 0o600))
		return
	}
	assert.Equal(t, want, got)
}

func TestChecks(t *testing.T) {
	const (
		config = "etc/nvidia-container-runtime/config.toml"
		shim   = "usr/bin/nvidia-container-runtime.experimental"
		docker = `{"runtimes": {"gpu": {"path": "/usr/bin/nvidia-container-runtime.experimental"}}, "default-runtime": "gpu"}`
		reload = "with the systemd cgroup driver containers may lose their GPUs on 'systemctl daemon-reload'"
		links  = "mkdir -p /dev/char && ln -sfn ../nvidia-modeset /dev/char/195:254 && ln -sfn ../nvidia-uvm /dev/char/508:0 && ln -sfn ../nvidia-uvm-tools /dev/char/508:1 && " +
			"ln -sfn ../nvidia0 /dev/char/195:0 && ln -sfn ../nvidiactl /dev/char/195:255"
	)
	tests := []struct {
		name    string
		fixture string // "" is t4
		tree    map[string]string
		id      string
		want    []Finding // without the id
	}{
		{name: "configuration", tree: map[string]string{config: "disable-require = true\n"}, id: "config", want: ok("$ROOT/" + config)},
		{
			name: "configuration with a wrong value", tree: map[string]string{config: "\ndisable-require = 1\n"}, id: "config",
			want: wrong("edit the file", "configuration $ROOT/%s: line 2, column 1: disable-require is the number 1 where true or false is expected", config),
		},
		{
			name: "invalid configuration, the driver is still checked", tree: map[string]string{config: "x"}, id: "driver",
			want: ok("version 550.54.15, open modules"),
		},
		{
			name: "WSL2", fixture: "no-nvidia", tree: map[string]string{"dev/dxg": ""}, id: "platform",
			want: wrong("", "this machine is a WSL2 guest without an NVIDIA driver (/dev/dxg exists, /usr/lib/wsl/lib/libcuda.so.1 does not): GPUs in WSL2 are not supported"),
		},
		{
			name: "Tegra", fixture: "grace-aarch64", tree: map[string]string{"etc/nv_tegra_release": ""}, id: "platform",
			want: wrong("", "this machine is a Tegra board (/etc/nv_tegra_release exists): its GPU has a different driver and is not supported; use NVIDIA's container toolkit"),
		},
		{
			name: "a damaged library", tree: map[string]string{"usr/lib/x86_64-linux-gnu/libnvidia-encode.so.550.54.15": ""}, id: "libraries",
			want: append(ok("46 files of version 550.54.15"), note("", `library "$ROOT/usr/lib/x86_64-linux-gnu/libnvidia-encode.so.550.54.15" is left out: an empty file`)...),
		},
		{
			name: "a damaged libcuda", tree: map[string]string{"usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15": "x"}, id: "libraries",
			want: wrong("", `a library of driver version 550.54.15 is damaged: "$ROOT/usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15": offset 0: not an ELF file; reinstall the libraries of version 550.54.15`),
		},
		{name: "WSL2 has no module to load", fixture: "wsl2", tree: map[string]string{"dev/dxg": ""}, id: "driver"},
		{name: "no WSL2", tree: map[string]string{"dev/dxg": ""}, id: "platform"},
		{
			name: "malformed /proc/devices", tree: map[string]string{"proc/devices": "Character devices:\nnvidia 195\n"}, id: "driver",
			want: wrong("", `reading major numbers: $ROOT/proc/devices: line 2: "nvidia 195" is not a major number and a name`),
		},
		{
			name: "nvidia-uvm not loaded", tree: map[string]string{"proc/devices": "Character devices:\n195 nvidia\n"}, id: "module-uvm",
			want: wrong("modprobe nvidia-uvm", "the kernel module nvidia-uvm is not loaded: CUDA does not work, and containers that name compute or video do not start"),
		},
		{
			name: "no GPU", tree: map[string]string{"proc/driver/nvidia/gpus": "absent"}, id: "gpus",
			want: wrong("", "no GPU can be given to a container: 0 usable"),
		},
		{
			name: "a GPU that failed to start", tree: map[string]string{"proc/driver/nvidia/gpus": "absent"}, id: "gpu-unbound",
			want: wrong("dmesg | grep -E 'NVRM|Xid'", "GPU 0000:00:1e.0 is bound to nvidia, but not in /proc/driver/nvidia/gpus: the driver could not start it"),
		},
		{
			name: "a GPU with an empty information file", tree: map[string]string{"proc/driver/nvidia/gpus/0000:00:1e.0/information": ""}, id: "gpu-unreadable",
			want: wrong("dmesg | grep -E 'NVRM|Xid'", `GPU 0000:00:1e.0 cannot be given to a container, and "all" leaves it out: $ROOT/proc/driver/nvidia/gpus/0000:00:1e.0/information: no line Device Minor`),
		},
		{
			name: "a GPU that fell off the bus", tree: map[string]string{"sys/bus/pci/devices/0000:00:1e.0/config": strings.Repeat("\xff", 256)}, id: "gpu-lost",
			want: wrong("dmesg | grep -E 'NVRM|Xid'", "GPU 0000:00:1e.0 has fallen off the bus: it does not answer, and containers that get it cannot use it until the machine is restarted"),
		},
		{name: "a GPU that answers on the bus", tree: map[string]string{"sys/bus/pci/devices/0000:00:1e.0/config": "\xde\x10" + strings.Repeat("\xff", 254)}, id: "gpu-lost"},
		{name: "a truncated configuration space", tree: map[string]string{"sys/bus/pci/devices/0000:00:1e.0/config": "\xff\xff"}, id: "gpu-lost"},
		{
			name: "a GPU that was unplugged", tree: map[string]string{"sys/bus/pci/devices/0000:00:1e.0": "absent"}, id: "gpu-lost",
			want: wrong("dmesg | grep -E 'NVRM|Xid'", "GPU 0000:00:1e.0 is in /proc/driver/nvidia/gpus, but not on the PCI bus: it was unplugged while in use, and containers that get it cannot open it"),
		},
		{
			name: "in a container of the classic runtime", fixture: "hgx-minors", id: "nested", tree: map[string]string{
				"proc/self/mountinfo": "36 35 0:32 / /proc/driver/nvidia ro,nosuid - tmpfs tmpfs rw\n",
			},
			want: note("", "this is a container with only some of the machine's GPUs: the others are hidden, and indices are renumbered"),
		},
		{
			name: "a GPU hidden from this container did not fail to start", id: "gpu-unbound", tree: map[string]string{
				"proc/driver/nvidia/gpus": "absent", "proc/self/mountinfo": "36 35 0:32 / /proc/driver/nvidia ro,nosuid - tmpfs tmpfs rw\n",
			},
		},
		{name: "another mount", id: "nested", tree: map[string]string{"proc/self/mountinfo": "36 35 0:32 /proc/driver/nvidia /mnt ro - tmpfs tmpfs rw\nx\n"}},
		{
			name: "vfio", fixture: "vfio", id: "gpu-unbound",
			want: slices.Concat(
				note("echo > /sys/bus/pci/devices/0000:71:00.0/driver_override && echo 0000:71:00.0 > /sys/bus/pci/drivers/vfio-pci/unbind && echo 0000:71:00.0 > /sys/bus/pci/drivers_probe",
					"GPU 0000:71:00.0 is bound to vfio-pci: no container gets it"),
				note("echo 0000:72:00.0 > /sys/bus/pci/drivers_probe", "GPU 0000:72:00.0 has no driver: no container gets it"),
			),
		},
		{
			name: "driver root", tree: map[string]string{config: "nvidia-container-cli.root = \"/run/nvidia/driver\"\n"}, id: "libraries",
			want: wrong("", `driver root "/run/nvidia/driver" (root in config.toml): resolve $ROOT/run/nvidia/driver: no such file or directory`),
		},
		{
			name: "a file in place of a device node", tree: map[string]string{"dev/nvidia0": "", config: "nvidia-container-cli.load-kmods = false\n"}, id: "nodes",
			want: slices.Concat(
				wrong("rm -r /dev/nvidia0 && mknod -m 666 /dev/nvidia0 c 195 0", "/dev/nvidia0 is regular file, not character device 195:0: host programs and containers in user namespaces fail"),
				note("mknod -m 666 /dev/nvidia-modeset c 195 254 && mknod -m 666 /dev/nvidia-uvm c 508 0 && mknod -m 666 /dev/nvidia-uvm-tools c 508 1 && mknod -m 666 /dev/nvidiactl c 195 255",
					"the host lacks /dev/nvidia-modeset, /dev/nvidia-uvm, /dev/nvidia-uvm-tools, /dev/nvidiactl: containers in user namespaces run without them or do not start"),
			),
		},
		{
			name: "nodes that the driver does not create", tree: map[string]string{"proc/driver/nvidia/params": "ModifyDeviceFiles: 0\n"}, id: "nodes",
			want: note("mknod -m 666 /dev/nvidia-modeset c 195 254 && mknod -m 666 /dev/nvidia-uvm c 508 0 && mknod -m 666 /dev/nvidia-uvm-tools c 508 1 && mknod -m 666 /dev/nvidia0 c 195 0 && mknod -m 666 /dev/nvidiactl c 195 255",
				"the host lacks /dev/nvidia-modeset, /dev/nvidia-uvm, /dev/nvidia-uvm-tools, /dev/nvidia0, /dev/nvidiactl: containers in user namespaces run without them or do not start"),
		},
		{
			name: "nodes for root only", tree: map[string]string{"proc/driver/nvidia/params": "ModifyDeviceFiles: 1\nDeviceFileUID: 0\nDeviceFileGID: 0\nDeviceFileMode: 384\n"}, id: "node-permissions",
			want: wrong("set NVreg_DeviceFileMode=0666 for the module nvidia, and chmod 0666 the nodes",
				"only root may open /dev/nvidia-modeset (0600, group 0), /dev/nvidia0 (0600, group 0), /dev/nvidiactl (0600, group 0): programs of other users fail in containers too"),
		},
		{
			name: "nodes for a group that is not given", fixture: "device-mode", tree: map[string]string{config: "features.no-additional-gids-for-device-nodes = true\n"}, id: "node-permissions",
			want: wrong("remove no-additional-gids-for-device-nodes from $ROOT/"+config,
				"only a group may open /dev/nvidia-modeset (0660, group 483), /dev/nvidia0 (0660, group 483), /dev/nvidiactl (0660, group 483), and containers do not get that group"),
		},
		{
			name: "links", tree: map[string]string{"run/systemd/system/": ""}, id: "char-links",
			want: note(links, "links to nodes are missing: /dev/char/195:254, /dev/char/508:0, /dev/char/508:1, /dev/char/195:0, /dev/char/195:255; they are made when a container starts with the systemd cgroup driver"),
		},
		{
			name: "links, never", tree: map[string]string{"run/systemd/system/": "", config: "nvidia-container-runtime.experimental.dev-char-links = \"never\"\n"}, id: "char-links",
			want: wrong(links, "links to nodes are missing or wrong: /dev/char/195:254, /dev/char/508:0, /dev/char/508:1, /dev/char/195:0, /dev/char/195:255; %s", reload),
		},
		{
			name: "a link with the wrong target",
			tree: map[string]string{
				"run/systemd/system/": "", "dev/char/195:254": "-> ../nvidia-modeset", "dev/char/508:0": "-> ../nvidia-uvm",
				"dev/char/508:1": "-> ../nvidia-uvm-tools", "dev/char/195:0": "-> ../nvidia0", "dev/char/195:255": "-> ../../proc/devices",
			},
			id: "char-links",
			want: wrong("mkdir -p /dev/char && ln -sfn ../nvidiactl /dev/char/195:255",
				`links to nodes are missing or wrong: /dev/char/195:255 (a link to "../../proc/devices"); %s`, reload),
		},
		{
			name: "fabric manager", fixture: "hgx-minors", tree: map[string]string{"run/nvidia-fabricmanager": "absent"}, id: "fabric-manager",
			want: note("systemctl enable --now nvidia-fabricmanager", "the machine has NVSwitches, but no socket of the fabric manager: CUDA fails with error 802 unless the fabric manager runs in its own virtual machine"),
		},
		{
			name: "persistence", tree: map[string]string{"run/nvidia-persistenced": "absent"}, id: "persistence",
			want: note("systemctl enable --now nvidia-persistenced", "nvidia-persistenced is not running: unless something else keeps a GPU open, its first use takes seconds each time"),
		},
		{
			name: "no low-level runtime", tree: map[string]string{"bin/sh": "#!", "usr/bin/runc": "not executable"}, id: "low-level-runtime",
			want: wrong("install runc or crun, or set runtime-path in $ROOT/"+config, "no low-level runtime found: looked for docker-runc, runc, crun"),
		},
		{
			name: "no low-level runtime at runtime-path", tree: map[string]string{"bin/sh": "#!", "usr/bin/runc": "#!", config: "nvidia-container-runtime.experimental.runtime-path = \"/opt/runc\"\n"}, id: "low-level-runtime",
			want: wrong("install runc or crun, or set runtime-path in $ROOT/"+config, "no low-level runtime found: looked for /opt/runc"),
		},
		{name: "low-level runtime", tree: map[string]string{"usr/bin/crun": "#!", "usr/local/bin/crun": "#!"}, id: "low-level-runtime", want: ok("/usr/local/bin/crun")},
		{name: "cgroup 2", tree: map[string]string{"sys/fs/cgroup/cgroup.controllers": "cpu\n"}, id: "cgroup", want: ok("version 2")},
		{name: "cgroup 1", tree: map[string]string{"sys/fs/cgroup/devices/": ""}, id: "cgroup", want: ok("version 1")},
		{
			name: "no cgroup", tree: map[string]string{config: "nvidia-container-cli.no-cgroups = true\n"}, id: "cgroup",
			want: note("remove no-cgroups from $ROOT/"+config, "no-cgroups is set: root's containers get device nodes that they may not open; containers in user namespaces do not need it"),
		},
		{
			name: "no engine", tree: map[string]string{"bin/sh": "#!"}, id: "registered",
			want: note("", "no container engine found: looked for dockerd, containerd, crio and podman, and their configuration"),
		},
		{
			name: "registered in a file that the containerd of k3s does not read",
			tree: map[string]string{
				"etc/containerd/config.toml": "version = 2\n[plugins.'io.containerd.grpc.v1.cri'.containerd.runtimes.nvidia-experimental.options]\n" +
					"BinaryName = '/usr/bin/nvidia-container-runtime.experimental'\n",
				"var/lib/rancher/k3s/agent/etc/containerd/config.toml": "version = 3\n",
			},
			id:   "registered",
			want: wrong("nvsysfs configure containerd", "the runtime is registered with none of containerd (k3s)"),
		},
		{
			name: "registered in a drop-in of k3s, through a link",
			tree: map[string]string{
				"var/lib/rancher/k3s/agent/etc/containerd/config.toml": "version = 3\n",
				"var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/x.toml": "[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.x.options]\n" +
					"BinaryName = '/etc/nvidia-container-runtime/nvidia-container-runtime.experimental@x'\n",
			},
			id:   "registered",
			want: ok(`with containerd (k3s) as "x" (/var/lib/rancher/k3s/agent/etc/containerd/config-v3.toml.d/x.toml)`),
		},
		{
			name: "keys without effect", tree: map[string]string{config: "refused-request = \"error\"\n"}, id: "config",
			want: wrong("edit the file", "$ROOT/%s: line 1: refused-request has no effect above the first table: it belongs in [nvidia-container-runtime.experimental]", config),
		},
		{
			name: "a malformed CDI file", tree: map[string]string{"etc/cdi/x.yaml": "["}, id: "cdi",
			want: wrong("edit the file, or remove it", "$ROOT/etc/cdi/x.yaml: engines ignore it: failed to unmarshal CDI Spec: yaml: line 1: did not find expected node content"),
		},
		{
			name: "GPUs from CDI files only", id: "registered",
			tree: map[string]string{"usr/bin/podman": "#!", "etc/cdi/nvidia.yaml": "cdiVersion: 0.5.0\nkind: nvidia.com/gpu\ndevices:\n- name: \"0\"\n  containerEdits:\n    env: [A=B]\n"},
			want: note("nvsysfs configure podman", "the runtime is registered with none of podman: they get GPUs only from CDI files"),
		},
		{
			name: "not registered", tree: map[string]string{"usr/bin/podman": "#!", "usr/bin/containerd": "#!"}, id: "registered",
			want: wrong("nvsysfs configure containerd", "the runtime is registered with none of containerd, podman"),
		},
		{
			name: "registered",
			tree: map[string]string{
				"etc/docker/daemon.json": docker,
				"etc/containerd/conf.d/99-x.toml": "version = 3\n[plugins.'io.containerd.cri.v1.runtime'.containerd.runtimes.nvidia-experimental]\nruntime_type = 'io.containerd.runc.v2'\n" +
					"options.BinaryName = '/usr/bin/nvidia-container-runtime.experimental'\n",
				"etc/crio/crio.conf.d/99-y.conf":                         "[crio.runtime.runtimes.y]\nruntime_path = '/usr/bin/nvidia-container-runtime.experimental'\n[crio.runtime]\ndefault_runtime = 'crun'\n",
				"etc/containers/containers.conf.d/99-z.conf":             "[engine]\nruntime = 'z'\n[engine.runtimes]\nz = ['/usr/bin/nvidia-container-runtime.experimental']\ncrun = ['/usr/bin/crun']\n",
				"etc/containers/containers.conf.d/README":                "[",
				"usr/bin/containerd":                                     "#!",
				"usr/share/containers/containers.conf.d/10-nothing.conf": "",
			},
			id: "registered",
			want: ok(`with docker as "gpu" (/etc/docker/daemon.json), the default; containerd as "nvidia-experimental" (/etc/containerd/conf.d/99-x.toml); ` +
				`crio as "y" (/etc/crio/crio.conf.d/99-y.conf); podman as "z" (/etc/containers/containers.conf.d/99-z.conf), the default`),
		},
		{
			name: "registered with one of two", tree: map[string]string{"etc/docker/daemon.json": docker, "usr/bin/podman": "#!"}, id: "registered",
			want: ok(`with docker as "gpu" (/etc/docker/daemon.json), the default; not with podman`),
		},
		{
			name: "a path to a missing program", tree: map[string]string{"etc/docker/daemon.json": docker}, id: "engine-config",
			want: wrong("nvsysfs configure docker --name gpu", `docker: the runtime "gpu" in /etc/docker/daemon.json starts "/usr/bin/nvidia-container-runtime.experimental", which is not a program`),
		},
		{name: "a path to the runtime", tree: map[string]string{"etc/docker/daemon.json": docker, shim: "#!"}, id: "engine-config"},
		{
			name: "broken configuration", tree: map[string]string{"etc/docker/daemon.json": "{", "etc/crio/crio.conf": "["}, id: "engine-config",
			want: slices.Concat(
				wrong("edit the file", "docker: /etc/docker/daemon.json: unexpected end of JSON input"),
				wrong("edit the file", "crio: /etc/crio/crio.conf: toml: expected key but reached end of input"),
			),
		},
		{name: "an empty daemon.json", tree: map[string]string{"etc/docker/daemon.json": " \n"}, id: "engine-config"},
		{
			name: "docker run --gpus", tree: map[string]string{"etc/docker/daemon.json": docker}, id: "docker-gpus",
			want: note("nvsysfs configure docker --gpus", "'docker run --gpus' does not work: dockerd finds no nvidia-container-runtime-hook"),
		},
		{
			name: "docker run --gpus works", id: "docker-gpus",
			tree: map[string]string{"etc/docker/daemon.json": docker, "usr/bin/nvidia-container-runtime-hook": "#!", "usr/bin/nvidia-cdi-hook": "#!"},
			want: slices.Concat(
				note("", "/usr/bin/nvidia-cdi-hook exists: with it, dockerd 29 and later handles 'docker run --gpus' with CDI files; -e NVIDIA_VISIBLE_DEVICES=all requests GPUs from this runtime"),
				ok("'docker run --gpus' works: dockerd finds /usr/bin/nvidia-container-runtime-hook"),
			),
		},
		{
			name: "classic hook", id: "classic-hook",
			tree: map[string]string{
				"usr/share/containers/oci/hooks.d/oci-nvidia-hook.json": `{"hook": {"path": "/usr/bin/nvidia-container-runtime-hook"}}`,
				"etc/containers/oci/hooks.d/other.json":                 `{"hook": {"path": "/usr/bin/other"}}`,
			},
			want: note("rm /usr/share/containers/oci/hooks.d/oci-nvidia-hook.json", "/usr/share/containers/oci/hooks.d/oci-nvidia-hook.json adds the hook of the classic runtime to containers: this runtime drops it, but others still run it"),
		},
		{name: "SELinux permissive", tree: map[string]string{"sys/fs/selinux/enforce": "0", "sys/fs/selinux/booleans/container_use_devices": "0 0"}, id: "selinux"},
		{
			name: "MIG devices without recorded UUIDs", fixture: "a100-mig", id: "mig-uuids",
			want: note("nvsysfs learn && systemctl enable --now nvsysfs-learn.service nvsysfs-learn.timer", "containers cannot request a MIG device by MIG-<uuid>, as Kubernetes does: no UUIDs are recorded (no file $ROOT/var/lib/nvidia-container-runtime/mig.learnt)"),
		},
		{
			name: "a truncated record of UUIDs", fixture: "a100-mig", tree: map[string]string{"var/lib/nvidia-container-runtime/mig.learnt": "version 1\n"}, id: "mig-uuids",
			want: wrong("rm $ROOT/var/lib/nvidia-container-runtime/mig.learnt && nvsysfs learn", "containers cannot request a MIG device by MIG-<uuid>, as Kubernetes does: $ROOT/var/lib/nvidia-container-runtime/mig.learnt: cut off: the last line is not \"end\""),
		},
		{
			name: "no MIG devices", id: "mig-uuids",
		},
		{
			name: "SELinux off for devices", tree: map[string]string{"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/container_use_devices": "0 0"}, id: "selinux",
			want: note("setsebool -P container_use_devices on", "SELinux is enforcing and container_use_devices is off: if containers cannot open a GPU (ausearch -m avc), turn it on"),
		},
		{
			name: "SELinux on for devices", tree: map[string]string{"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/container_use_devices": "1 1"}, id: "selinux",
			want: ok("enforcing, container_use_devices is on"),
		},
		{
			name: "SELinux with a boolean for GPUs", id: "selinux",
			tree: map[string]string{
				"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/container_use_devices": "0 0",
				"sys/fs/selinux/booleans/container_use_xserver_devices": "0 0",
			},
			want: note("setsebool -P container_use_xserver_devices on", "SELinux is enforcing and container_use_xserver_devices is off: if containers cannot open a GPU (ausearch -m avc), turn it on"),
		},
		{
			name: "SELinux with all devices", id: "selinux",
			tree: map[string]string{
				"sys/fs/selinux/enforce": "1", "sys/fs/selinux/booleans/container_use_devices": "1 1",
				"sys/fs/selinux/booleans/container_use_xserver_devices": "0 0",
			},
			want: ok("enforcing, container_use_devices is on"),
		},
		{name: "SELinux without container-selinux", tree: map[string]string{"sys/fs/selinux/enforce": "1"}, id: "selinux", want: ok("enforcing")},
		{
			name: "no user namespaces", tree: map[string]string{"proc/sys/user/max_user_namespaces": "0\n"}, id: "user-namespaces",
			want: note("sysctl -w user.max_user_namespaces=15000", "user namespaces are disabled: rootless containers cannot start"),
		},
		{
			name: "user namespaces for root only", tree: map[string]string{"proc/sys/kernel/unprivileged_userns_clone": "0\n"}, id: "user-namespaces",
			want: note("sysctl -w kernel.unprivileged_userns_clone=1", "only root may create user namespaces: rootless containers cannot start"),
		},
		{
			name: "podman without ids", tree: map[string]string{"usr/bin/podman": "#!", "etc/subuid": "me:100000:65536\n"}, id: "user-namespaces",
			want: note("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER", "/etc/subgid has no subordinate ids: rootless podman has only one user in a container"),
		},
	}
	seen := map[string]bool{}
	for _, tt := range tests {
		seen[tt.id] = true
		t.Run(tt.name, func(t *testing.T) {
			fixture := tt.fixture
			if fixture == "" {
				fixture = "t4"
			}
			dir := need.Machine(t, fixture, false)
			need.Files(t, dir, tt.tree)
			var got []Finding
			for _, f := range diagnosed(t, dir) {
				if f.ID == tt.id {
					f.ID = ""
					got = append(got, f)
				}
			}
			assert.Equal(t, tt.want, got)
		})
	}
	// TestDoctorFixtures covers the two exceptions.
	for _, c := range checks {
		if !seen[c.id] && c.id != "gpu-unreadable" && c.id != "gpu-uuid" {
			t.Errorf("no case for check %s", c.id)
		}
	}
}

// TestDoctorNodes needs real device nodes: one has the wrong minor, one is missing, and most belong
// to a group.
func TestDoctorNodes(t *testing.T) {
	need.Root(t)
	dir := need.Machine(t, "device-mode", true)
	need.Files(t, dir, map[string]string{"dev/nvidia-uvm": "absent", "run/systemd/system/": "", "dev/char/195:0": "-> ../nvidia0", "dev/char/195:255": "-> ../nvidia0"})
	require.NoError(t, os.Rename(filepath.Join(dir, "dev/nvidia-uvm-tools"), filepath.Join(dir, "dev/nvidia-uvm")))
	got := slices.DeleteFunc(diagnosed(t, dir), func(f Finding) bool { return !strings.HasPrefix(f.ID, "node") && f.ID != "char-links" })
	assert.Equal(t, []Finding{
		{
			"nodes", Wrong, "/dev/nvidia-uvm is character device 508:1, not character device 508:0: host programs and containers in user namespaces fail",
			"rm -r /dev/nvidia-uvm && mknod -m 666 /dev/nvidia-uvm c 508 0",
		},
		{
			"nodes", Note, "the host lacks /dev/nvidia-uvm-tools: containers in user namespaces run without them or do not start, and the first container that root starts creates them",
			"mknod -m 666 /dev/nvidia-uvm-tools c 508 1",
		},
		{
			"node-permissions", Note,
			"only a group may open /dev/nvidia-modeset (0660, group 483), /dev/nvidia0 (0660, group 483), /dev/nvidiactl (0660, group 483): containers get that group, rootless ones only if their user is in it", "",
		},
		{
			"char-links", Wrong,
			"links to nodes are missing or wrong: /dev/char/195:254, /dev/char/508:1, /dev/char/195:255 (a link to \"../nvidia0\"); with the systemd cgroup driver containers may lose their GPUs on 'systemctl daemon-reload'",
			"mkdir -p /dev/char && ln -sfn ../nvidia-modeset /dev/char/195:254 && ln -sfn ../nvidia-uvm-tools /dev/char/508:1 && ln -sfn ../nvidiactl /dev/char/195:255",
		},
	}, got)
}

// TestDoctorStrayNodes covers a device node without a GPU in /proc.
func TestDoctorStrayNodes(t *testing.T) {
	need.Root(t)
	dir := need.Machine(t, "t4", true)
	need.Files(t, dir, map[string]string{"proc/driver/nvidia/gpus": "absent"})
	got := slices.DeleteFunc(diagnosed(t, dir), func(f Finding) bool { return f.ID != "gpus" })
	assert.Equal(t, []Finding{{
		"gpus", Wrong, "no GPU can be given to a container, although /dev/nvidia0 exists: this is a container whose runtime hides /proc/driver/nvidia/gpus, " +
			"as LXD and Incus do with nvidia.runtime=true", "umount /proc/driver/nvidia",
	}}, got)
}

func TestAdviceOn(t *testing.T) {
	fixes := "it lacks security fixes, unless the distribution backported them"
	links := "with the systemd cgroup driver it leaves out devices that have no link in /dev/char; " + fixes
	reload := "with the systemd cgroup driver containers may lose their devices on 'systemctl daemon-reload'; " + fixes
	for line, want := range map[string]string{
		"": "", "crun version 1.8.1": "", "runc version unknown": "", "runc version 1": "", "runc version 1..2": "",
		"runc version 1.1.2": reload, "runc version 1.1.3": links, "runc version 1.1.5+ds1": links, "runc version 1.1.6-rc.1": links,
		"runc version 1.1.7": reload, "runc version 1.1.12": reload, "runc version 1.2.4": reload, "runc version 1.2.5": fixes, "runc version 1.2.10": fixes,
		"runc version 1.3.5": fixes, "runc version 1.3.6": "", "runc version 1.3.10": "", "runc version 1.4.0": fixes, "runc version 1.4.2": fixes, "runc version 1.4.3": "",
		"runc version 1.5.0": "", "runc version 1.10.0": "", "runc version 2.0.0": "",
	} {
		assert.Equal(t, want, adviceOn(line), line)
	}
}

// TestAskVersion covers a program that works, one that fails, and one that does not exist.
func TestAskVersion(t *testing.T) {
	dir := t.TempDir()
	need.Files(t, dir, map[string]string{"good": "#!/bin/sh\necho runc version 1.2.3; echo commit: x\n", "bad": "#!/bin/sh\necho no\nexit 1\n"})
	assert.Equal(t, "runc version 1.2.3", askVersion(filepath.Join(dir, "good")))
	assert.Empty(t, askVersion(filepath.Join(dir, "bad")))
	assert.Empty(t, askVersion(filepath.Join(dir, "none")))
}

func TestNeedsCharLinks(t *testing.T) {
	const new, old = "systemd 257 (257.8-1)", "systemd 239 (239-82.el8)"
	for _, tt := range []struct {
		lowLevel, systemd string
		want              bool
	}{
		{"runc version 1.1.2", new, false},
		{"runc version 1.1.3", new, true},
		{"runc version 1.1.6+ds1", new, true},
		{"runc version 1.1.7", new, false},
		{"runc version 1.3.6", new, false},
		{"runc version 1.3.6", "systemd 240", false},
		{"runc version 1.3.6", old, true},
		{"crun version 1.28", new, false},
		{"crun version 1.28", old, true},
		{"runc version 1.3.6", "", true},
		{"", new, true},
	} {
		assert.Equal(t, tt.want, needsCharLinks(tt.lowLevel, tt.systemd), "%s with %s", tt.lowLevel, tt.systemd)
	}
}
