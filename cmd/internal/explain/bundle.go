// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"runtime"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// WriteBundle makes a bundle for a container of which only the environment is known: variables,
// each NAME=VALUE. Its root filesystem is the image or, without one, laid out like Debian's and all
// but empty.
func WriteBundle(bundle, image string, environ []string) error {
	root := "rootfs"
	if image != "" {
		absolute, err := filepath.Abs(image)
		if err != nil {
			return err
		}
		if info, err := os.Stat(absolute); err != nil || !info.IsDir() {
			return fmt.Errorf("image %q is not a directory: unpack its root filesystem first", image)
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
			{
				Destination: "/dev", Type: "tmpfs", Source: "tmpfs",
				Options: []string{"nosuid", "mode=755", "size=65536k"},
			},
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"},
			},
			Resources: &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}},
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
