// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package replace writes files of the operator's tool whole or not at all: whoever reads meanwhile,
// and after a crash, sees the old file or the new one. [Write] is most of it.
package replace

import (
	"crypto/rand"
	"errors"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Prefix begins the names of files that are not finished yet. They have no extension, so no engine
// reads them but CRI-O, which reads all that is in its directory.
const Prefix = ".nvsysfs-"

// File is what a file is to be.
type File struct {
	Data []byte
	Perm fs.FileMode
	// Owner is whose owner and group it gets; nil: those of the process.
	Owner *syscall.Stat_t
	// Check looks at the new file, and at what else matters, just before it takes its place; nil:
	// nothing does. It gets the name that the file has until then, in the same directory.
	Check func(temp string) error
}

// Dir opens a directory below root, and makes it and those above it that are missing, with the
// permissions 0755 less the umask. Links in dir lead to places below root.
func Dir(root sysfs.Root, dir string) (*os.Root, error) {
	there, missing := path.Clean("/"+dir), ""
	for there != "/" {
		resolved, err := root.Resolve(there)
		if err == nil {
			there = resolved
			break
		}
		// What cannot be resolved may still be there: a dangling link. MkdirAll makes what it leads
		// to, inside the root.
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		missing = path.Join(path.Base(there), missing)
		there = path.Dir(there)
	}
	d, err := os.OpenRoot(root.Path(there))
	if err != nil || missing == "" {
		return d, err
	}
	defer func() { _ = d.Close() }()
	if err := d.MkdirAll(missing, 0o755); err != nil {
		return nil, err
	}
	return d.OpenRoot(missing)
}

// Write makes name, in the directory d, the file: a new one under another name, on disk before it
// takes the name by rename. What earlier runs left unfinished that were killed is removed.
func Write(d *os.Root, name string, f File) (err error) {
	sweep(d)
	temp := Prefix + rand.Text()
	out, err := d.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		_ = out.Close() // it is synced by then, or removed
		if err != nil {
			err = errors.Join(err, d.Remove(temp))
		}
	}()
	// It tells other runs that this one is at work. A file system without locks is no reason to
	// fail.
	_ = unix.Flock(int(out.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if _, err = out.Write(f.Data); err != nil {
		return err
	}
	// The owner first: a change of owner may clear bits of the mode.
	if err = own(out, f.Owner); err != nil {
		return err
	}
	if err = out.Chmod(f.Perm); err != nil {
		return err
	}
	if err = out.Sync(); err != nil {
		return err
	}
	if f.Check != nil {
		if err = f.Check(temp); err != nil {
			return err
		}
	}
	if err = d.Rename(temp, name); err != nil {
		return err
	}
	// The file is complete and in its place: nothing is to be taken back if this fails.
	_ = Sync(d)
	return nil
}

// Sync brings the directory itself to the disk: what was renamed or removed in it.
func Sync(d *os.Root) error {
	dir, err := d.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// own gives a file the owner of another, and does not try where it has that owner already.
func own(out *os.File, owner *syscall.Stat_t) error {
	if owner == nil {
		return nil
	}
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid == owner.Uid && s.Gid == owner.Gid {
		return nil
	}
	return out.Chown(int(owner.Uid), int(owner.Gid))
}

// sweep removes what killed runs left: files that nobody holds a lock of. Nothing depends on it.
func sweep(d *os.Root) {
	dir, err := d.Open(".")
	if err != nil {
		return
	}
	defer dir.Close()
	names, _ := dir.Readdirnames(-1)
	for _, name := range names {
		if !strings.HasPrefix(name, Prefix) {
			continue
		}
		if info, err := d.Lstat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		file, err := d.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			continue
		}
		if unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = d.Remove(name)
		}
		_ = file.Close()
	}
}
