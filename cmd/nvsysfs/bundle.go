// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// withScratch runs a command that needs a machine or a bundle for a moment, in a directory that is removed.
func withScratch(i invocation, do func(i invocation, dir string) error) error {
	dir, err := os.MkdirTemp("", "nvsysfs-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return withoutPaths(i, []string{filepath.Join(dir, "machine"), filepath.Join(dir, "bundle")},
		func(i invocation) error { return do(i, dir) })
}

// withoutPaths drops directories that are gone soon from the beginning of the names that a command prints: those of a
// fixture's files are their names on that machine.
func withoutPaths(i invocation, dirs []string, do func(i invocation) error) error {
	stdout := i.stdout
	var out bytes.Buffer
	i.stdout = &out
	if err := do(i); err != nil {
		return err
	}
	text := out.Bytes()
	for _, dir := range dirs {
		text = bytes.ReplaceAll(text, []byte(dir), nil)
	}
	_, err := stdout.Write(text)
	return err
}

func unpackFixture(name, dir string) error {
	machine, err := loadMachine(name)
	if err != nil {
		return err
	}
	_, err = machine.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	return err
}

// writeBundle makes a bundle of a container with an environment. Its root filesystem is the image or, without one, laid
// out like Debian's and all but empty.
func writeBundle(bundle, image string, environ []string) error {
	for _, variable := range environ {
		if name, _, found := strings.Cut(variable, "="); !found || name == "" {
			return &usageError{fmt.Sprintf("%.100q is not NAME=VALUE", variable)}
		}
	}
	root := "rootfs"
	if image != "" {
		absolute, err := filepath.Abs(image)
		if err != nil {
			return err
		}
		info, err := os.Stat(absolute)
		if err != nil {
			return fmt.Errorf("looking for the image's root filesystem: %w", err)
		}
		if !info.IsDir() {
			return fmt.Errorf("the image %q is no directory: unpack it first", image)
		}
		root = absolute
	}
	triplet, flags := "x86_64-linux-gnu", ldcache.FlagX8664
	if runtime.GOARCH == "arm64" {
		triplet, flags = "aarch64-linux-gnu", ldcache.FlagAArch64
	}
	libDir := "/usr/lib/" + triplet
	cache := ldcache.Cache{Entries: []ldcache.Entry{{Name: "libc.so.6", Path: libDir + "/libc.so.6", Flags: flags}}}
	cacheData, err := cache.Encode()
	if err != nil {
		return err
	}
	caps := []string{"CAP_CHOWN", "CAP_KILL", "CAP_MKNOD"}
	config, err := json.Marshal(specs.Spec{
		Version: "1.0.2",
		Root:    &specs.Root{Path: root},
		Process: &specs.Process{
			Args: []string{"/nvsysfs", "demo", "--inside"}, Cwd: "/",
			Env:          append([]string{"PATH=/usr/bin:/bin"}, environ...),
			Capabilities: &specs.LinuxCapabilities{Bounding: caps, Effective: caps, Permitted: caps},
		},
		Mounts: []specs.Mount{
			{Destination: "/proc", Type: "proc", Source: "proc"},
			{Destination: "/dev", Type: "tmpfs", Source: "tmpfs", Options: []string{"nosuid", "strictatime", "mode=755", "size=65536k"}},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"}},
			Resources:  &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
		},
	})
	if err != nil {
		return err
	}
	for name, data := range map[string][]byte{
		"config.json":                    config,
		"rootfs/etc/debian_version":      []byte("12.11\n"),
		"rootfs/etc/ld.so.cache":         cacheData,
		"rootfs" + libDir + "/libc.so.6": []byte("stands for the C library\n"),
		"rootfs/proc/.keep":              nil,
		"rootfs/dev/.keep":               nil,
	} {
		path := filepath.Join(bundle, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, data, 0o644); err != nil {
			return err
		}
	}
	return nil
}

// completeVariable completes NVIDIA_VISIBLE_DEVICES with the devices of the machine.
func completeVariable(cmd *cobra.Command, _ []string, _ string) ([]string, cobra.ShellCompDirective) {
	words := []string{"NVIDIA_VISIBLE_DEVICES=all"}
	dir := cmd.Flag("root").Value.String()
	if root, err := plan.OpenRoot(orRoot(dir)); err == nil {
		inventory, _ := sysfs.Read(root, true) // nothing to offer then
		for _, gpu := range inventory.GPUs {
			if gpu.Index < 0 {
				continue
			}
			words = append(words, fmt.Sprintf("NVIDIA_VISIBLE_DEVICES=%d", gpu.Index))
			for n := range gpu.Instances {
				words = append(words, fmt.Sprintf("NVIDIA_VISIBLE_DEVICES=%d:%d", gpu.Index, n))
			}
		}
	}
	return append(words, "NVIDIA_DRIVER_CAPABILITIES=all"), cobra.ShellCompDirectiveNoFileComp
}
