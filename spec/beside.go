// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// WriteBeside creates a world-readable file in the directory of config.json and returns its
// absolute path. A file of that name left by an earlier run is replaced by a new one. The engine
// deletes it together with the bundle. A label other than "" becomes the file's SELinux label if it
// can be set; with [Facts].MountLabel the container can read the file.
func (d *Document) WriteBeside(name string, data []byte, label string) (_ string, err error) {
	if d.path == "" {
		return "", errors.New("writing beside config.json: it was not read from a file")
	}
	dir, err := filepath.Abs(filepath.Dir(d.path))
	if err != nil {
		return "", err
	}
	full := filepath.Join(dir, name)
	if filepath.Base(name) != name || name == d.name {
		return "", fmt.Errorf("writing %q: not the name of a file of ours", full)
	}
	fd := -1
	for range 3 { // the name may be taken by an earlier or a concurrent run
		if err := unix.Unlinkat(d.dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
			return "", fmt.Errorf("writing %q: %w", full, err)
		}
		fd, err = openat(d.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o644)
		if !errors.Is(err, unix.EEXIST) {
			break
		}
	}
	if err != nil {
		return "", fmt.Errorf("writing %q: %w", full, err)
	}
	if label != "" {
		_ = unix.Fsetxattr(fd, "security.selinux", []byte(label), 0) // without SELinux it makes no difference
	}
	f := os.NewFile(uintptr(fd), full)
	defer func() { err = errors.Join(err, f.Close()) }()
	if err := f.Chmod(0o644); err != nil {
		return "", err
	}
	if _, err := f.Write(data); err != nil {
		return "", err
	}
	return full, nil
}
