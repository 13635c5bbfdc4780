// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"path/filepath"
	"slices"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Below adds variables to an environment so that [LoadConfig] describes the machine whose root
// directory is dir and reads the config.toml there; "" is this machine.
func Below(dir string, environ []string) ([]string, error) {
	if dir == "" {
		return environ, nil
	}
	root, err := OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	const variable = "NVIDIA_CONTAINER_RUNTIME_SYSROOT"
	environ = append(slices.Clone(environ), variable+"="+string(root), variable+"_NODES=open")
	if root != "/" && Getenv(environ, "NVIDIA_CTK_CONFIG_FILE_PATH") == "" {
		file := "/etc/nvidia-container-runtime/config.toml"
		if resolved, err := root.Resolve(file); err == nil {
			file = resolved
		}
		environ = append(environ, "NVIDIA_CTK_CONFIG_FILE_PATH="+root.Path(file))
	}
	return environ, nil
}

// OpenRoot checks a root directory from the command line.
func OpenRoot(dir string) (sysfs.Root, error) {
	absolute, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return sysfs.NewRoot(absolute)
}
