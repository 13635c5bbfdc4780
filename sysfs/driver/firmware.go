// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"path"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// firmwarePath is the custom directory of the kernel's firmware loader, one line, empty by default:
//
//	/run/nvidia/driver/lib/firmware
const firmwarePath = "sys/module/firmware_class/parameters/path"

// findFirmware searches for the GSP firmware of the driver, nvidia/<version>/gsp*.bin, in the
// directories where the kernel (drivers/base/firmware_loader/main.c) searches, in the same order.
// The first file of a name counts. It has the same path in the container.
func findFirmware(t *tree, o Options) ([]File, error) {
	dirs, err := firmwareDirs(t.root, o)
	if err != nil {
		return nil, err
	}
	var files []File
	seen := make(map[string]bool)
	for _, dir := range dirs {
		dir = path.Join(dir, "nvidia", o.Version)
		at := t.lookup(dir)
		if !at.isDir() {
			continue
		}
		for _, e := range t.list(at.path) {
			name := e.Name()
			if !strings.HasPrefix(name, "gsp") || !strings.HasSuffix(name, ".bin") || seen[name] {
				continue
			}
			if n := t.entry(at.path, name, 0); n.isRegular() {
				seen[name] = true
				files = append(files, File{Path: n.path, Name: name, Kind: Firmware, Dest: path.Join(dir, name)})
			}
		}
	}
	return files, nil
}

// firmwareDirs returns the kernel's firmware directories in search order.
func firmwareDirs(root sysfs.Root, o Options) ([]string, error) {
	var dirs []string
	custom, err := root.ReadFileMax(firmwarePath, 4096)
	switch {
	case err == nil:
		if dir := strings.TrimSpace(string(custom)); path.IsAbs(dir) {
			dirs = append(dirs, path.Clean(dir))
		}
	case !errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("reading the firmware directory: %w", err)
	}
	for _, dir := range []string{"/lib/firmware/updates", "/lib/firmware"} {
		if validName(o.KernelRelease) {
			dirs = append(dirs, path.Join(dir, o.KernelRelease))
		}
		dirs = append(dirs, dir)
	}
	return dirs, nil
}
