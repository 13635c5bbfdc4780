// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// modules are the kernel modules that stand in for NVIDIA's, in load order.
var modules = []string{"nvidia", "nvidia_uvm", "nvidia_modeset"}

// driverDir has the modules, and for each a list of what the module provides.
const driverDir = "/var/lib/lab/driver"

// writeDriver prepares the modules so that they provide the machine's files in /proc and open its
// device nodes.
func writeDriver(machine fixtures.Archive) error {
	lists := map[string]string{}
	made := map[string]bool{"driver": true}
	var mkdir func(dir string)
	mkdir = func(dir string) {
		if !made[dir] {
			made[dir] = true
			mkdir(path.Dir(dir))
			lists["nvidia"] += "d " + dir + "\n"
		}
	}
	for _, e := range machine.Entries {
		if name, ok := strings.CutPrefix(e.Name, "proc/driver/"); ok {
			name = "driver/" + name
			if e.Kind == fixtures.Dir {
				mkdir(name)
				continue
			}
			data, err := e.Content()
			if err != nil {
				return err
			}
			mkdir(path.Dir(name))
			lists["nvidia"] += fmt.Sprintf("f 0444 %d %s\n%s\n", len(data), name, data)
		}
		register := func(module, name string, first, count uint32) {
			lists[module] += fmt.Sprintf("c %d %d %d %s\n", e.Major, first, count, name)
		}
		switch node, _ := strings.CutPrefix(e.Name, "dev/"); {
		case node == "nvidiactl":
			register("nvidia", node, e.Minor, 1)
		case node == "nvidia-modeset":
			register("nvidia_modeset", node, e.Minor, 1)
		case node == "nvidia-uvm":
			register("nvidia_uvm", node, e.Minor, 2)
		case node == "nvidia-caps/nvidia-cap1":
			register("nvidia", "nvidia-caps", 0, 8192)
		case isGPU(node):
			register("nvidia", "nvidia", e.Minor, 1)
		}
	}
	for _, module := range modules {
		if err := writeModule(module, lists[module]); err != nil {
			return err
		}
	}
	return nil
}

// isGPU reports whether a device node is a GPU's, such as nvidia0.
func isGPU(node string) bool {
	digits, ok := strings.CutPrefix(node, "nvidia")
	return ok && digits != "" && strings.Trim(digits, "0123456789") == ""
}

func writeModule(module, list string) error {
	if err := os.MkdirAll(driverDir, 0o755); err != nil {
		return err
	}
	data, err := os.ReadFile(filepath.Join(os.Getenv(need.Programs), module+".ko"))
	if err != nil {
		return err
	}
	file := filepath.Join(driverDir, module)
	return errors.Join(os.WriteFile(file+".ko", data, 0o644), os.WriteFile(file, []byte(list), 0o644))
}

func insmod(t *testing.T, module string) {
	t.Helper()
	must(t, "insmod", filepath.Join(driverDir, module+".ko"))
}

func loadDriver(t *testing.T, machine fixtures.Archive) {
	t.Helper()
	require.NoError(t, writeDriver(machine))
	for _, module := range modules {
		insmod(t, module)
	}
}

// unplug makes the driver remove what the list says.
func unplug(t *testing.T, list string) {
	t.Helper()
	require.NoError(t, writeModule("unplug", list))
	insmod(t, "unplug")
	must(t, "rmmod", "unplug")
}

// pair is a machine with two GPUs.
const pair = `Two Tesla T4, the driver of the fixture t4.
-- [include host-ubuntu-22.04] --
-- [include kernel-550 version=550.54.15] --
-- [include driver-550 abi=x86-64 arch=x86_64 cache=lib/x86_64-linux-gnu lib=usr/lib/x86_64-linux-gnu shape=new version=550.54.15] --
-- [include driver-programs arch=x86_64 bin=usr/bin version=550.54.15] --
-- [include firmware firmware=usr/lib/firmware version=550.54.15] --
-- [include nodes caps=236 uvm=508] --
-- [include gpu address=0000:00:1e.0 irq=37 minor=0 model="Tesla T4" uuid=GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245 vbios=90.04.96.00.02] --
-- [include gpu address=0000:00:1f.0 irq=38 minor=1 model="Tesla T4" uuid=GPU-0d9f65e1-93c4-4a8e-b1f7-5c2e8d7a6034 vbios=90.04.96.00.02] --
-- [include pci above=pci0000:00 address=0000:00:1e.0 device=0x1eb8 numa=-1 subsystem=0x12a2 up=../../..] --
-- [include pci above=pci0000:00 address=0000:00:1f.0 device=0x1eb8 numa=-1 subsystem=0x12a2 up=../../..] --
-- proc/driver/nvidia/version --
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16-I3-B03-4-3)  Tue Mar  5 22:16:25 UTC 2024
GCC version:  gcc version 12.3.0 (Ubuntu 12.3.0-1ubuntu1~22.04)
`

// pairDir is the directory where pair is unpacked.
const pairDir = "/var/lib/lab/pair"

// upgraded is pair with a newer driver.
var upgraded = strings.ReplaceAll(pair, "550.54.15", "550.90.07")

// remove undoes install.
func remove(t *testing.T, dir string) {
	t.Helper()
	rmmod(t)
	must(t, "umount", "-l", "/sys/bus", "/sys/devices")
	must(t, "sh", "-ec", `rm -r /dev/nvidia*; cd "$1"
		for f in usr/lib/x86_64-linux-gnu/libcuda* usr/lib/x86_64-linux-gnu/libnv* usr/bin/nvidia*; do rm -rf "/$f"; done`, "sh", dir)
	must(t, "rm", "-r", dir)
}

func rmmod(t *testing.T) {
	t.Helper()
	must(t, "rmmod", "nvidia_modeset", "nvidia_uvm", "nvidia")
}

func parse(t *testing.T, text string) fixtures.Archive {
	t.Helper()
	machine, err := fixtures.Parse([]byte(text))
	require.NoError(t, err)
	return machine
}

// become replaces the machine that was installed from the directory from with another one, which it
// installs in dir.
func become(t *testing.T, machine fixtures.Archive, from, dir string) {
	t.Helper()
	remove(t, from)
	require.NoError(t, install(machine, dir))
}

// use starts a container that has the driver's libraries loaded and, if open is not empty, has that
// device node open.
func use(t *testing.T, open string) (id string, pid int) {
	t.Helper()
	id = strings.TrimSpace(must(t, "docker", "run", "-d", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES=1",
		imageName, "sh", "-c", "exec probe libcuda.so.1 - </dev/"+cmp.Or(open, "null")))
	t.Cleanup(func() { must(t, "docker", "rm", "-f", id) })
	pid = dockerPID(t, id)
	eventually(t, func() error {
		maps, err := os.ReadFile(fmt.Sprintf("/proc/%d/maps", pid))
		if err == nil && !strings.Contains(string(maps), "libcuda.so") {
			err = fmt.Errorf("the driver is not loaded: %s", maps)
		}
		return err
	})
	return id, pid
}

// doctor returns the findings of one check of nvsysfs doctor.
func doctor(t *testing.T, check string) string {
	t.Helper()
	// The command fails if anything is wrong.
	out, _ := do("nvsysfs", "doctor", "-o", "json")
	var report struct {
		Findings []struct{ ID, State, Text string }
	}
	require.NoError(t, json.NewDecoder(strings.NewReader(out)).Decode(&report), "%s", out)
	var found []string
	for _, f := range report.Findings {
		if f.ID == check {
			found = append(found, f.State+": "+f.Text)
		}
	}
	return strings.Join(found, "\n")
}

// fails returns the error with which starting a container with these GPUs must fail.
func fails(t *testing.T, gpus string) string {
	t.Helper()
	out, err := do("docker", "run", "--rm", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES="+gpus, imageName, "true")
	require.Error(t, err)
	_, text, _ := strings.Cut(out, "OCI runtime create failed: ")
	text, _, _ = strings.Cut(text, "\n")
	if older(t, "docker.io", "28") {
		var found bool
		text, found = strings.CutSuffix(text, ": unknown.") // the kind of error
		assert.True(t, found, out)
	}
	return text
}

func TestDriver(t *testing.T) {
	become(t, parse(t, pair), fixture, pairDir)
	t.Cleanup(func() {
		t4, err := fixtures.Load("t4")
		require.NoError(t, err)
		become(t, t4, pairDir, fixture)
	})
	configureDocker(t)
	given := func(t *testing.T, gpus string) string {
		t.Helper()
		return must(t, "docker", "run", "--rm", "--network", "none", "-e", "NVIDIA_VISIBLE_DEVICES="+gpus, imageName, "sh", "-c", look)
	}
	const second = "/dev/nvidia-uvm opens\n/dev/nvidia-uvm-tools opens\n/dev/nvidia1 opens\n/dev/nvidiactl opens\n" +
		"libcuda.so.1 loads\nlibnvidia-ml.so.1 loads\n"
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			t.Run("a container opens its GPU and no other", func(t *testing.T) {
				assert.Equal(t, "/host/nvidia0 Operation not permitted\n/host/nvidia1 opens\n", must(t, "docker", "run", "--rm", "--network", "none",
					"-e", "NVIDIA_VISIBLE_DEVICES=1", "-v", "/dev:/host", imageName, "sh", "-c",
					"for n in /host/nvidia0 /host/nvidia1; do echo $n $( (: <$n && echo opens) 2>&1 | sed 's/.*: //'); done"))
			})
			t.Run("ps names the container that keeps the module", func(t *testing.T) {
				id, pid := use(t, "nvidia1")
				out, err := do("rmmod", "nvidia")
				require.Error(t, err)
				assert.Equal(t, "rmmod: ERROR: Module nvidia is in use\n", out)
				assert.JSONEq(t, fmt.Sprintf(`{"module": "550.54.15", "hidden": 0, "processes": [{
					"pid": %d, "uid": 0, "user": "root", "command": "probe", "args": ["probe", "libcuda.so.1", "-"],
					"container": {"engine": "docker", "id": %q}, "devices": ["1"],
					"libraries": [{"version": "550.54.15", "deleted": false}]}]}`, pid, id), must(t, "nvsysfs", "ps", "-o", "json"))
			})
			t.Run("an upgrade below a running container", func(t *testing.T) {
				id, pid := use(t, "")
				const dir = pairDir + "-upgraded"
				// Install the new libraries while the old modules are still loaded.
				_, err := parse(t, upgraded).Unpack(dir, fixtures.UnpackOptions{})
				require.NoError(t, err)
				replace := func(from, to string) {
					must(t, "sh", "-ec", "rm /usr/lib/x86_64-linux-gnu/*.so."+from+`; cd "$1"
						cp -a usr/lib/x86_64-linux-gnu/libcuda* usr/lib/x86_64-linux-gnu/libnv* /usr/lib/x86_64-linux-gnu/; ldconfig`, "sh", to)
				}
				replace("550.54.15", dir)
				const skew = `the loaded kernel module has version 550.54.15, but the driver's libraries have 550.90.07 ` +
					`("/usr/lib/x86_64-linux-gnu/libcuda.so.550.90.07"); reboot or reload the kernel modules, or install the libraries of version 550.54.15`
				assert.Equal(t, "wrong: "+skew, doctor(t, "libraries"))
				assert.Equal(t, skew, fails(t, "1"))
				assert.Equal(t, second, must(t, "docker", "exec", id, "sh", "-c", look), "in the running container")
				// Load the new modules.
				rmmod(t)
				loadDriver(t, parse(t, upgraded))
				assert.Equal(t, "ok: version 550.90.07, open modules", doctor(t, "driver"))
				assert.Equal(t, "ok: 32 files of version 550.90.07", doctor(t, "libraries"))
				assert.Equal(t, fmt.Sprintf("%d root probe docker:%s - 550.54.15 (the module is 550.90.07)", pid, id[:12]), holders(t))
				assert.Equal(t, second, given(t, "1"))
				// The container gets the new driver when it is restarted.
				must(t, "docker", "restart", "-t", "0", id)
				assert.Equal(t, second, must(t, "docker", "exec", id, "sh", "-c", look), "after the restart")
				eventually(t, func() error {
					if want, got := fmt.Sprintf("%d root probe docker:%s - 550.90.07", dockerPID(t, id), id[:12]), holders(t); got != want {
						return fmt.Errorf("%s, want %s", got, want)
					}
					return nil
				})
				rmmod(t)
				replace("550.90.07", pairDir)
				loadDriver(t, parse(t, pair))
				must(t, "rm", "-r", dir)
			})
			t.Run("a GPU is unplugged in use", func(t *testing.T) {
				const address = "0000:00:1f.0"
				id, pid := use(t, "nvidia1")
				// While the GPU is open, the driver keeps showing it.
				must(t, "umount", "-l", "/sys/bus", "/sys/devices")
				must(t, "sh", "-ec", "cd "+pairDir+"; rm -r sys/bus/pci/devices/$1 sys/bus/pci/drivers/nvidia/$1 sys/devices/pci0000:00/$1; gpu $PWD", "sh", address)
				unplug(t, "u 195 1 1 nvidia\n")
				assert.Equal(t, "wrong: GPU "+address+" is in /proc/driver/nvidia/gpus, but not on the PCI bus: it was unplugged while in use, and containers that get it cannot open it", doctor(t, "gpu-lost"))
				assert.Equal(t, strings.ReplaceAll(second, "/dev/nvidia1 opens", "/dev/nvidia1 No such device or address"), given(t, "1"))
				assert.Equal(t, fmt.Sprintf("%d root probe docker:%s 1 550.54.15", pid, id[:12]), holders(t))
				// Once it is closed, the GPU is gone.
				must(t, "docker", "rm", "-f", id)
				unplug(t, "r driver/nvidia/gpus/"+address+"\nr driver/nvidia/capabilities/gpu1\n")
				assert.Equal(t, "ok: 1 usable", doctor(t, "gpus"))
				assert.Empty(t, doctor(t, "gpu-lost"))
				assert.Equal(t, `devices requested by NVIDIA_VISIBLE_DEVICES: device "1": unknown device: no GPU has the index 1; `+
					"available: 0 (GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245, 0000:00:1e.0)", fails(t, "1"))
				assert.Equal(t, gpu, given(t, "all"))
				become(t, parse(t, pair), pairDir, pairDir)
			})
			t.Run("NVreg_ModifyDeviceFiles=0 leaves the nodes to the administrator", func(t *testing.T) {
				rmmod(t)
				machine := parse(t, pair)
				for i, e := range machine.Entries {
					if e.Name == "proc/driver/nvidia/params" {
						machine.Entries[i].Body = []byte(strings.Replace(string(e.Body), "ModifyDeviceFiles: 1", "ModifyDeviceFiles: 0", 1))
					}
				}
				loadDriver(t, machine)
				must(t, "rm", "/dev/nvidia1", "/dev/nvidia-uvm")
				assert.Equal(t, second, given(t, "1"))
				out, err := do("ls", "/dev/nvidia1", "/dev/nvidia-uvm")
				require.Error(t, err)
				assert.Equal(t, "ls: cannot access '/dev/nvidia1': No such file or directory\n/dev/nvidia-uvm\n", out)
				assert.Equal(t, "note: the host lacks /dev/nvidia1: containers in user namespaces run without them or do not start", doctor(t, "nodes"))
				become(t, parse(t, pair), pairDir, pairDir)
				must(t, "rm", "/dev/nvidia1")
				assert.Equal(t, second, given(t, "1"))
				must(t, "ls", "/dev/nvidia1")
			})
		})
	}
}

// holders returns what nvsysfs ps prints below its heading, with one space between columns.
func holders(t *testing.T) string {
	t.Helper()
	_, lines, _ := strings.Cut(must(t, "nvsysfs", "ps"), "\n")
	return strings.Join(strings.Fields(lines), " ")
}
