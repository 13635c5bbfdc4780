// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package replace replaces files atomically: readers, even after a crash, see the old file or the
// new one.
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

// Prefix begins the names of unfinished files. They have no extension, so that no engine reads them
// except CRI-O, which reads all files in its directory.
const Prefix = ".nvsysfs-"

// File is a new file.
type File struct {
	Data  []byte
	Perm  fs.FileMode
	Owner *syscall.Stat_t // gives the owner and group; nil: those of the process
	// Check is called before the rename, with the new file's temporary name in the same directory;
	// may be nil.
	Check func(temp string) error
}

// Dir opens a directory below root. It creates missing directories with the permissions 0755 less
// the umask. Links in dir are resolved below root.
func Dir(root sysfs.Root, dir string) (*os.Root, error) {
	there, missing := path.Clean("/"+dir), ""
	for there != "/" {
		resolved, err := root.Resolve(there)
		if err == nil {
			there = resolved
			break
		}
		// It may exist: a dangling link. MkdirAll creates its target, inside the root.
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

// Write replaces name in the directory d: it writes a new file under another name, syncs it to disk
// and renames it. It also removes the unfinished files of killed processes.
func Write(d *os.Root, name string, f File) (err error) {
	sweep(d)
	temp := Prefix + rand.Text()
	out, err := d.OpenFile(temp, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		_ = out.Close() // it has been synced, or is removed
		if err != nil {
			err = errors.Join(err, d.Remove(temp))
		}
	}()
	// The lock keeps other processes from removing the file. File systems may lack locks.
	_ = unix.Flock(int(out.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if _, err = out.Write(f.Data); err != nil {
		return err
	}
	// The owner first: changing it may clear bits of the mode.
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
	// The file is complete and in place, so this may fail.
	_ = Sync(d)
	return nil
}

// Sync syncs the directory itself to disk: renames and removals.
func Sync(d *os.Root) error {
	dir, err := d.Open(".")
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// own changes the owner of a file, unless it is right already.
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

// sweep removes the files of killed processes, which are not locked. It ignores errors.
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
