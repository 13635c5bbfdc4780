// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"tags.cncf.io/container-device-interface/pkg/cdi"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// tempPrefix begins the names of files that are not finished yet. They have
// no extension, so no engine reads them.
const tempPrefix = ".nvsysfs-cdi-"

// Write writes data to a file of the host, whole or not at all, and tells
// whether it had to: a file that has the same bytes is left alone. So is,
// without force, one that [Make] did not make, that has been edited since, or that cannot
// be read; and in any case what is not a regular file.
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
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return false, err
	}
	return true, replace(dir, filepath.Base(name), data)
}

// replace writes the file under another name beside it and renames it.
func replace(dir, base string, data []byte) (err error) {
	d, err := os.OpenRoot(dir)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	sweep(d)
	temp := tempPrefix + rand.Text()
	out, err := d.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		out.Close()
		if err != nil {
			err = errors.Join(err, d.Remove(temp))
		}
	}()
	if _, err = out.Write(data); err != nil {
		return err
	}
	if err = out.Chmod(0o644); err != nil {
		return err
	}
	if err = out.Sync(); err != nil {
		return err
	}
	if _, err = cdi.ReadSpec(filepath.Join(dir, temp), 0); err != nil {
		return fmt.Errorf("what would be written is no CDI file: %w", err)
	}
	if err = d.Rename(temp, base); err != nil {
		return err
	}
	handle, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer handle.Close()
	// The file is complete and in its place: nothing is to be taken back if this fails.
	_ = handle.Sync()
	return nil
}

// sweep removes what runs left that were killed, and nothing of one that may
// still be at work. Nothing depends on it.
func sweep(d *os.Root) {
	dir, err := d.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if !strings.HasPrefix(name, tempPrefix) {
			continue
		}
		if info, err := d.Lstat(name); err == nil && info.Mode().IsRegular() && time.Since(info.ModTime()) > time.Hour {
			_ = d.Remove(name)
		}
	}
}
