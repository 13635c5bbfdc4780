// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/replace"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Write replaces a file of the host atomically, and reports whether it did: a file with the same
// bytes is left alone. Without force, it refuses to replace a file that [Make] did not make, that
// was edited since, or that cannot be read. It never replaces anything but a regular file.
func Write(name string, data []byte, force bool) (written bool, err error) {
	dir, err := filepath.Abs(filepath.Dir(name))
	if err != nil {
		return false, err
	}
	name = filepath.Join(dir, filepath.Base(name))
	defer func() {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (are you root?)", err)
		}
	}()
	info, err := os.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return false, err
	case !info.Mode().IsRegular():
		return false, fmt.Errorf("%s is left alone: it is not a regular file (%s)", name, info.Mode().Type())
	default:
		old, before, err := Read(sysfs.Root("/"), name, os.Geteuid())
		if err == nil && bytes.Equal(before, data) && info.Mode().Perm() == 0o644 {
			return false, nil
		}
		reason := ""
		switch {
		case err != nil:
			reason = err.Error()
		case !old.Ours():
			reason = "nvsysfs cdi generate did not write it"
		case old.Edited():
			reason = "it has been edited since nvsysfs cdi generate wrote it"
		}
		if reason != "" && !force {
			return false, fmt.Errorf("%s is left alone: %s; --force replaces it", name, reason)
		}
	}
	d, err := replace.Dir("/", dir)
	if err != nil {
		return false, err
	}
	defer func() { _ = d.Close() }()
	check := func(temp string) error {
		if _, err := cdi.ReadSpec(filepath.Join(dir, temp), 0); err != nil {
			return fmt.Errorf("the result is not a valid CDI file: %w", err)
		}
		return nil
	}
	return true, replace.Write(d, filepath.Base(name), replace.File{Data: data, Perm: 0o644, Check: check})
}
