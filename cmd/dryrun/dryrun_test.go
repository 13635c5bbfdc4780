// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package dryrun_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/dryrun"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// This example shows what a container with one MIG device gets on a machine with eight A100 GPUs.
func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	machine, err := fixtures.Load("a100-mig")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := machine.Unpack(filepath.Join(dir, "machine"), fixtures.UnpackOptions{NoDevices: true}); err != nil {
		log.Fatal(err)
	}
	result, err := dryrun.Environment(filepath.Join(dir, "machine"), "NVIDIA_VISIBLE_DEVICES=0:1", "NVIDIA_DRIVER_CAPABILITIES=utility")
	if err != nil {
		log.Fatal(err)
	}
	for _, d := range result.Edits.Devices {
		fmt.Printf("%s %d:%d\n", d.Path, d.Major, d.Minor)
	}
	for _, m := range result.Edits.Mounts {
		if strings.HasSuffix(m.Destination, "nvidia-smi") {
			fmt.Println(m.Destination)
		}
	}
	fmt.Println("/usr/bin/nvidia-smi ->", result.Links["/usr/bin/nvidia-smi"])
	_, err = dryrun.Environment(filepath.Join(dir, "machine"), "NVIDIA_VISIBLE_DEVICES=GPU-fef8089b")
	text, _, _ := strings.Cut(err.Error(), ";")
	fmt.Println(text)
	// Output:
	// /dev/nvidia-caps/nvidia-cap345 237:345
	// /dev/nvidia-caps/nvidia-cap346 237:346
	// /dev/nvidia2 195:2
	// /dev/nvidiactl 195:255
	// /usr/lib/nvidia-container-driver/bin/nvidia-smi
	// /usr/bin/nvidia-smi -> /usr/lib/nvidia-container-driver/bin/nvidia-smi
	// devices requested by NVIDIA_VISIBLE_DEVICES: device "GPU-fef8089b": unknown device: no GPU has this UUID
}

func unpacked(t *testing.T, name string) string {
	return unpack(t, name, fixtures.UnpackOptions{NoDevices: true})
}

func unpack(t *testing.T, name string, o fixtures.UnpackOptions) string {
	t.Helper()
	machine, err := fixtures.Load(name)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "machine")
	skipped, err := machine.Unpack(dir, o)
	require.NoError(t, err)
	if len(skipped) > 0 && !o.NoDevices {
		need.Missing(t, "the right to make device nodes")
	}
	return dir
}

// TestEveryMachine checks that a container that requests everything gets all that a survey of the
// fixture lists, or is refused with the same message.
func TestEveryMachine(t *testing.T) {
	for _, name := range fixtures.Names() {
		t.Run(name, func(t *testing.T) {
			dir := unpacked(t, name)
			cfg := plan.DefaultConfig()
			cfg.Sysroot = dir
			survey, err := plan.ReadSurvey(cfg, driver.All, "")
			require.NoError(t, err)
			result, err := dryrun.Environment(dir, "NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all")
			refused := ""
			if survey.Err() != nil {
				refused = survey.Err().Error()
				if survey.Inventory.Driver == nil {
					refused = "no NVIDIA kernel driver is loaded"
				}
			} else if len(survey.Notes) > 0 && strings.Contains(survey.Notes[0], "nvidia-uvm is not loaded") {
				// NVIDIA_DRIVER_CAPABILITIES=all includes compute, which needs nvidia-uvm.
				refused = survey.Notes[0]
			}
			if refused != "" {
				require.ErrorContains(t, err, refused)
				assert.Equal(t, dryrun.Result{}, result)
				return
			}
			require.NoError(t, err)
			var want, got []string
			for _, n := range survey.AllNodes() {
				want = append(want, fmt.Sprint(n.Path, n.Major, n.Minor, n.GID, n.Mode.Perm()))
			}
			for _, d := range result.Edits.Devices {
				got = append(got, fmt.Sprint(d.Path, int(d.Major), int(d.Minor), *d.GID, *d.FileMode))
			}
			assert.Equal(t, want, got)
			for _, m := range result.Edits.Mounts {
				assert.False(t, strings.HasPrefix(m.Destination, "/dev/"), m.Destination)
				assert.True(t, m.Source == "" || strings.HasPrefix(m.Source, dir+"/"), m.Source)
			}
			for _, f := range survey.Files {
				if f.Content != nil {
					continue // the runtime generates this file
				}
				assert.True(t, slices.ContainsFunc(result.Edits.Mounts, func(m specs.Mount) bool { return path.Base(m.Source) == path.Base(f.Path) }), f.Path)
			}
			assert.NotEmpty(t, result.Links["/usr/bin/nvidia-smi"])
		})
	}
}

// TestMachines checks what is special about fixtures that have no test of their own.
func TestMachines(t *testing.T) {
	for _, tt := range []struct {
		machine string
		env     []string
		want    []string // device nodes except nvidiactl, uvm, modeset and dri/by-path
		note    string
		err     string
	}{
		{machine: "dgx-h100", env: []string{"NVIDIA_VISIBLE_DEVICES=0:6"}, want: []string{"nvidia-caps/nvidia-cap120", "nvidia-caps/nvidia-cap121", "nvidia0"}},
		{
			machine: "dgx-h100", env: []string{"NVIDIA_VISIBLE_DEVICES=7", "NVIDIA_NVSWITCH=enabled"},
			want: []string{"nvidia-nvswitch0", "nvidia-nvswitch1", "nvidia-nvswitch2", "nvidia-nvswitch3", "nvidia-nvswitchctl", "nvidia7"},
		},
		{
			machine: "dgx-b200", env: []string{"NVIDIA_VISIBLE_DEVICES=7", "NVIDIA_NVSWITCH=enabled", "NVIDIA_MOFED=enabled"}, note: `NVSwitch: "nvidia-nvswitch" is not in /proc/devices`,
			want: []string{
				"infiniband/rdma_cm", "infiniband/uverbs0", "infiniband/uverbs1", "infiniband/uverbs10", "infiniband/uverbs11", "infiniband/uverbs2", "infiniband/uverbs3",
				"infiniband/uverbs4", "infiniband/uverbs5", "infiniband/uverbs6", "infiniband/uverbs7", "infiniband/uverbs8", "infiniband/uverbs9", "nvidia7",
			},
		},
		{machine: "gb200-nvl72", env: []string{"NVIDIA_VISIBLE_DEVICES=0018:01:00.0", "NVIDIA_IMEX_CHANNELS=0"}, want: []string{"nvidia-caps-imex-channels/channel0", "nvidia2"}},
		{
			machine: "rtx-pro-6000", env: []string{"NVIDIA_VISIBLE_DEVICES=2:1", "NVIDIA_DRIVER_CAPABILITIES=graphics"},
			want: []string{"dri/card3", "dri/renderD130", "nvidia-caps/nvidia-cap309", "nvidia-caps/nvidia-cap310", "nvidia2"},
		},
		{machine: "l40s", env: []string{"NVIDIA_VISIBLE_DEVICES=GPU-ab4d07f5-26c9-3e81-9d7a-5480fc61e3bd"}, want: []string{"nvidia7"}},
		{machine: "laptop", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=graphics"}, want: []string{"dri/card0", "dri/renderD128", "nvidia0"}},
		{machine: "proxmox-guest", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=graphics"}, want: []string{"dri/card1", "dri/renderD128", "nvidia0"}},
		{machine: "aks-ubuntu", env: []string{"NVIDIA_VISIBLE_DEVICES=0001:00:00.0"}, want: []string{"nvidia0"}},
		{machine: "jetson-orin", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, err: "this machine is a Tegra board (NVIDIA Jetson AGX Orin Developer Kit)"},
		{machine: "wsl2", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, err: "this machine is a WSL2 guest"},
	} {
		t.Run(tt.machine, func(t *testing.T) {
			result, err := dryrun.Environment(unpack(t, tt.machine, fixtures.UnpackOptions{}), tt.env...)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			var got []string
			for _, d := range result.Edits.Devices {
				name := strings.TrimPrefix(d.Path, "/dev/")
				if !slices.Contains([]string{"nvidiactl", "nvidia-uvm", "nvidia-uvm-tools", "nvidia-modeset"}, name) && !strings.HasPrefix(name, "dri/by-path/") {
					got = append(got, name)
				}
			}
			assert.Equal(t, tt.want, got)
			assert.Contains(t, strings.Join(result.Notes, "\n"), tt.note)
		})
	}
}

// TestContainer checks that config.json and the machine's config.toml both have their effect.
func TestContainer(t *testing.T) {
	dir := unpacked(t, "t4")
	config := func(caps ...string) []byte {
		data, err := json.Marshal(specs.Spec{
			Root:    &specs.Root{Path: "rootfs"},
			Process: &specs.Process{Env: []string{"NVIDIA_VISIBLE_DEVICES=0"}, Capabilities: &specs.LinuxCapabilities{Bounding: caps}},
			Linux:   &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.UserNamespace}}},
		})
		require.NoError(t, err)
		return data
	}
	result, err := dryrun.Container(dir, config("CAP_MKNOD"))
	require.NoError(t, err)
	assert.True(t, result.Asked)
	assert.Equal(t, []int64{195, 236, 508}, result.Edits.FenceMajors)
	assert.Empty(t, result.Edits.MaskedPaths, "config.json has no maskedPaths")

	// The image is read only if its path is absolute: the working directory is not a bundle.
	t.Chdir(t.TempDir())
	require.NoError(t, os.MkdirAll("rootfs/usr/lib64", 0o755))
	rootfs, err := filepath.Abs("rootfs")
	require.NoError(t, err)
	for path, want := range map[string]string{"rootfs": "/usr/lib/libnvidia-ml.so.1", rootfs: "/usr/lib64/libnvidia-ml.so.1"} {
		result, err = dryrun.Container(dir, bytes.Replace(config("CAP_MKNOD"), []byte(`"rootfs"`), []byte(`"`+path+`"`), 1))
		require.NoError(t, err)
		assert.Equal(t, "/usr/lib/nvidia-container-driver/libnvidia-ml.so.1", result.Links[want])
	}

	file := filepath.Join(dir, "etc/nvidia-container-runtime/config.toml")
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, []byte("accept-nvidia-visible-devices-envvar-when-unprivileged = false\n"), 0o644))
	result, err = dryrun.Container(dir, config("CAP_MKNOD"))
	require.NoError(t, err)
	assert.False(t, result.Asked)
	assert.Equal(t, spec.Edits{}, result.Edits)
	assert.Len(t, result.Notes, 1)
	result, err = dryrun.Container(dir, config("CAP_SYS_ADMIN"))
	require.NoError(t, err)
	assert.True(t, result.Asked)

	for _, tt := range []struct{ machine, config, err string }{
		{machine: "/nonexistent", config: "{}", err: "/nonexistent"},
		{machine: dir, config: "{", err: "line 1"},
		{machine: dir, config: `{"process": {"env": 1}}`, err: "env"},
	} {
		result, err := dryrun.Container(tt.machine, []byte(tt.config))
		require.ErrorContains(t, err, tt.err)
		assert.Equal(t, dryrun.Result{}, result)
	}
}
