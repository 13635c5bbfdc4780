// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// These are the UUIDs of the GPUs of the fixture mixed-mig, by index. GPU 1 is the sick one.
const (
	uuid0 = "GPU-6d0fb3a4-e271-58c9-1f46-a7d83e920c5b"
	uuid1 = "GPU-93e57c21-4fd8-b60a-c3e7-2b158d6f04a9"
	uuid2 = "GPU-1af86d05-b3c2-97e4-5d78-f60c4ea91b32"
	uuid3 = "GPU-d4729ebc-05f6-3a81-e94b-8c37d1a6520f"
)

// TestSickGPU checks that a sick GPU affects only those who request it: all other requests are
// granted as if nothing were wrong.
func TestSickGPU(t *testing.T) {
	const (
		information  = "proc/driver/nvidia/gpus/0000:41:00.0/information"
		procGPU      = "proc/driver/nvidia/gpus/0000:41:00.0"
		capabilities = "proc/driver/nvidia/capabilities/gpu1"
		pci          = "sys/bus/pci/devices/0000:41:00.0"
	)
	write := func(name, text string) func(*sick) { return func(s *sick) { s.write(name, text) } }
	edit := func(old, new string) func(*sick) {
		return func(s *sick) { s.write(information, strings.Replace(s.read(information), old, new, 1)) }
	}
	for _, tt := range []struct {
		name string
		make func(*sick)
		// Part of the error for requests of the sick GPU; empty if they get it, because nothing
		// shows its state.
		err string
		mig string // the same for its MIG devices; "" if it is err
		// The GPU is no longer listed, so that the following ones move up.
		gone bool
	}{
		// If the driver cannot wake a GPU, the file is empty, without an error: see nv-procfs.c in
		// NVIDIA's open kernel modules.
		{name: "fell off the bus, information empty", make: write(information, ""), err: "no line Device Minor"},
		{name: "fell off the bus, information cut short", make: edit("Device Minor", "\x00"), err: "no line Device Minor"},
		{name: "fell off the bus, information of question marks", make: func(s *sick) {
			s.write(information, "Model: \t\t Unknown\nIRQ:   \t\t 0\nGPU UUID: \t GPU-????????-????-????-????-????????????\nVideo BIOS: \t ??.??.??.??.??\nBus Type: \t PCI\nDevice Minor: \t 4294967295\n")
		}, err: "4294967295"},
		{name: "fell off the bus, information as before", make: func(s *sick) { s.write(pci+"/config", strings.Repeat("\xff", 64)) }},
		{name: "information gone", make: func(s *sick) { s.remove(information) }, err: "information"},
		{name: "information unreadable", make: func(s *sick) { s.eio = information }, err: "input/output error"},
		{name: "information is a directory", make: func(s *sick) { s.remove(information); s.mkdir(information) }, err: "information"},
		{name: "information is endless", make: write(information, strings.Repeat("x", 4<<20)), err: "information"},
		{name: "information is noise", make: write(information, "\x7fELF\x00\xff\n\x1b[2J"), err: "no colon"},
		{name: "UUID is an error message", make: edit(uuid1, "Unknown Error"), err: "Unknown Error"},
		{name: "no UUID", make: edit(uuid1, "GPU-????????-????-????-????-????????????")},
		{name: "MIG capability malformed", make: write(capabilities+"/mig/gi1/access", "DeviceFileMinor: x\n"), mig: "gi1/access"},
		{name: "MIG capability gone", make: func(s *sick) { s.remove(capabilities + "/mig/gi1/access") }, mig: "gi1/access"},
		{name: "MIG directory is a file", make: func(s *sick) { s.remove(capabilities + "/mig"); s.write(capabilities+"/mig", "") }, err: "not a directory"},
		{name: "unplugged, but still in /proc", make: func(s *sick) { s.remove(pci) }},
		{name: "unplugged, its device node stays", make: func(s *sick) { s.remove(procGPU); s.remove(pci); s.remove(capabilities) }, err: "unknown device", gone: true},
		{name: "unplugged, its capabilities stay", make: func(s *sick) { s.remove(procGPU); s.remove(pci) }, err: "unknown device", gone: true},
		{name: "bound to vfio-pci", make: func(s *sick) {
			s.remove(procGPU)
			s.remove(capabilities)
			s.remove(pci + "/driver")
			s.link("../../../../bus/pci/drivers/vfio-pci", pci+"/driver")
		}, err: `0000:41:00.0 \(bound to vfio-pci\)`, gone: true},
		{name: "unbound", make: func(s *sick) { s.remove(procGPU); s.remove(capabilities); s.remove(pci + "/driver") }, err: `0000:41:00.0 \(not bound to a driver\)`, gone: true},
		{name: "DRM node being removed", make: func(s *sick) { s.mkdir(pci + "/drm/card1") }},
		{name: "PCI identity unreadable", make: write(pci+"/vendor", "?")},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSick(t)
			tt.make(s)
			last := "3"
			second := "2"
			if tt.gone {
				last, second = "2", "1"
			}
			all := []string{"0", "1", "2", "3", "cap147", "cap148", "cap156", "cap157", "cap435", "cap436", "cap453", "cap454", "cap455", "cap507", "cap508"}
			healthy := []string{"0", "2", "3", "cap435", "cap436", "cap453", "cap454", "cap455", "cap507", "cap508"}
			rest := all
			if tt.err+tt.mig != "" {
				rest = healthy
			}
			for _, request := range []struct {
				devices string
				nodes   []string
			}{
				{"0", []string{"0"}},
				{second, []string{"2"}},
				{last + ":0", []string{"3", "cap435", "cap436"}},
				{last + ":2,0", []string{"0", "3", "cap453", "cap455"}},
				{uuid0, []string{"0"}},
				{uuid2 + "," + uuid3, []string{"2", "3"}},
				{"GPU-6d0fb3a4", []string{"0"}},
				{"0000:81:00.0", []string{"2"}},
				{"MIG-" + uuid3 + "/5/1", []string{"3", "cap453", "cap455"}},
				{"all", rest},
				{"none", nil},
				{"void", nil},
			} {
				every := []string{"compute,utility"}
				if slices.Contains([]string{"0", last + ":0", "all"}, request.devices) {
					every = append(every, "all")
				}
				for _, capabilities := range every {
					nodes, err := s.create(request.devices, "NVIDIA_DRIVER_CAPABILITIES="+capabilities)
					assert.Empty(t, err, "%s, %s", request.devices, capabilities)
					assert.Equal(t, request.nodes, nodes, "%s, %s", request.devices, capabilities)
				}
			}
			// A MIG monitor needs the nodes of all instances; those of the sick GPU are left out.
			_, err := s.create("0", "NVIDIA_MIG_MONITOR_DEVICES=all", "NVIDIA_REQUIRE_ARCH=arch>=8.0 brand=tesla")
			assert.Empty(t, err)

			own := []string{uuid1, "GPU-93e57c21", "0000:41:00.0", "0,0000:41:00.0"}
			if !tt.gone {
				own = append(own, "1")
			}
			if strings.Contains(tt.name, "UUID") { // only the other names work
				own = []string{"1", "0000:41:00.0"}
			}
			for _, devices := range own {
				nodes, err := s.create(devices)
				if tt.err != "" {
					assert.Regexp(t, tt.err, err, devices)
					continue
				}
				assert.Empty(t, err, devices)
				assert.Contains(t, nodes, "1", devices)
			}
			if !tt.gone && tt.err+tt.mig != "" {
				_, err := s.create("1:0")
				assert.Regexp(t, tt.err+tt.mig, err)
			}
		})
	}
}

// sick is a machine with a sick GPU.
type sick struct {
	t    *testing.T
	work string
	eio  string // a file that cannot be read
}

func newSick(t *testing.T) *sick {
	t.Helper()
	s := &sick{t: t, work: t.TempDir()}
	a, err := fixtures.Load("mixed-mig")
	require.NoError(t, err)
	require.NoError(t, os.Mkdir(s.path(""), 0o755))
	_, err = a.Unpack(s.path(""), fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	require.NoError(t, makeImage(filepath.Join(s.work, "b/rootfs"), "debian"))
	return s
}

func (s *sick) path(name string) string { return filepath.Join(s.work, "machine", name) }

func (s *sick) read(name string) string {
	s.t.Helper()
	data, err := os.ReadFile(s.path(name))
	require.NoError(s.t, err)
	return string(data)
}

func (s *sick) write(name, text string) {
	s.t.Helper()
	require.NoError(s.t, os.WriteFile(s.path(name), []byte(text), 0o644))
}

func (s *sick) mkdir(name string) {
	s.t.Helper()
	require.NoError(s.t, os.MkdirAll(s.path(name), 0o755))
}

// remove removes a file or directory; for a link to a directory of the same name, both.
func (s *sick) remove(name string) {
	s.t.Helper()
	_, err := os.Lstat(s.path(name))
	require.NoError(s.t, err)
	if target, err := filepath.EvalSymlinks(s.path(name)); err == nil && filepath.Base(target) == filepath.Base(name) {
		require.NoError(s.t, os.RemoveAll(target))
	}
	require.NoError(s.t, os.RemoveAll(s.path(name)))
}

func (s *sick) link(target, name string) {
	s.t.Helper()
	require.NoError(s.t, os.Symlink(target, s.path(name)))
}

// create does everything before the exec of the low-level runtime for a container that requests
// devices. It returns the container's nodes of GPUs and MIG capabilities, or the error message.
func (s *sick) create(devices string, env ...string) (nodes []string, message string) {
	s.t.Helper()
	quoted, err := json.Marshal(append([]string{"NVIDIA_VISIBLE_DEVICES=" + devices}, env...))
	require.NoError(s.t, err)
	config := strings.Replace(configs["docker.json"], `"env":["PATH=/bin"`, `"env":["PATH=/bin",`+string(quoted[1:len(quoted)-1]), 1)
	config = strings.Replace(config, `"CAP_MKNOD"`, `"CAP_MKNOD","CAP_SYS_ADMIN"`, 1)
	bundle := filepath.Join(s.work, "b")
	require.NoError(s.t, os.WriteFile(filepath.Join(bundle, "config.json"), []byte(config), 0o644))

	args := []string{"create", "--bundle", bundle, "id"}
	environ := []string{"XDG_CONFIG_HOME=" + s.work, "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + s.path("")}
	if s.eio == "" {
		cfg, err := plan.LoadConfig("", environ)
		require.NoError(s.t, err)
		if err := prepare(cfg, parseArgs(runcDialect, args), environ, openLog("", "", false)); err != nil {
			return nil, err.Error()
		}
	} else if message := s.createUnreadable(args, environ); message != "" {
		return nil, message
	}
	data, err := os.ReadFile(filepath.Join(bundle, "config.json"))
	require.NoError(s.t, err)
	var c configJSON
	require.NoError(s.t, json.Unmarshal(data, &c))
	return gpuNodes(c), ""
}

// createUnreadable runs this program in a mount namespace where s.eio is the memory of a process:
// reading that at offset 0 fails with EIO.
func (s *sick) createUnreadable(args, environ []string) string {
	s.t.Helper()
	need.Root(s.t)
	shim, err := built()
	require.NoError(s.t, err)
	script := `mount --bind "/proc/$PPID/mem" "$0" && exec "$@"`
	cmd := exec.Command(need.Program(s.t, "unshare"), append([]string{"--mount", "sh", "-c", script, s.path(s.eio), shim}, args...)...)
	cmd.Env = append(environ, "PATH="+os.Getenv("PATH"), "NVIDIA_CONTAINER_RUNTIME_PATH=/bin/true")
	if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
		return fmt.Sprintf("%s%v", out, err)
	}
	return ""
}
