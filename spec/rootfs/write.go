// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// Link creates the symbolic link dir/name to target, in an existing directory ([FS.MkdirAll]), and
// reports whether that changed anything. An existing link is replaced if ours, called with its
// target, returns true. Anything else of that name is left alone, and the error is an
// [*OccupiedError].
//
// The handle of the directory is kept for the next call. A link that already exists, as in every
// start but a container's first, costs one system call, and a new one costs two.
func (f *FS) Link(dir, name, target string, o Owner, ours func(target string) bool) (changed bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("making link %s: %w", quote(path.Join("/", dir, name)), err)
		}
	}()
	if err := base(name); err != nil {
		return false, err
	}
	d, err := f.writeDir(dir)
	if err != nil {
		return false, err
	}
	switch old, err := readlink(d, name); {
	case err == unix.ENOENT:
	case err == unix.EINVAL:
		return false, occupied(d, dir, name)
	case err != nil:
		return false, err
	case old == target:
		return false, nil
	case !ours(old):
		return false, occupied(d, dir, name)
	default:
		// Not in one step: that takes a temporary name, which a killed run would leave behind.
		if err := unix.Unlinkat(d, name, 0); err != nil && err != unix.ENOENT {
			return false, err
		}
	}
	err = uninterrupted(func() error { return unix.Symlinkat(target, d, name) })
	if err == unix.EEXIST { // created just now, perhaps by another start on the same root filesystem
		if now, err := readlink(d, name); err == nil && now == target {
			return false, nil
		}
		return false, occupied(d, dir, name)
	}
	if err != nil {
		return false, err
	}
	if err := f.own(d, name, o); err != nil {
		unix.Unlinkat(d, name, 0)
		return false, err
	}
	return true, nil
}

// Update changes the content of a file, or creates it: change gets the old content and true, or
// nothing and false if it is not a readable regular file of at most max bytes, and returns the new
// content. The new content goes to a new file, with the given permissions, independent of the
// umask, and owner, which takes the name by rename. Concurrent updates of a file wait for each
// other, so none is lost; change may be called more than once. Missing directories are created as
// [FS.MkdirAll] does. A symbolic link of that name is replaced, not followed when written; anything
// else but a regular file is left alone, and the error is an [*OccupiedError].
//
// A killed run may leave a temporary file behind; the next update in this directory removes it.
func (f *FS) Update(
	name string, max int64, perm fs.FileMode, o Owner, change func(old []byte, there bool) ([]byte, error),
) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("writing %s: %w", quote(path.Join("/", name)), err)
		}
	}()
	dir, last := path.Split(path.Clean("/" + name))
	if err := base(last); err != nil {
		return err
	}
	if err := f.MkdirAll(dir, o); err != nil {
		return err
	}
	d, err := f.writeDir(dir)
	if err != nil {
		return err
	}
	t := target{d: d, dir: dir, name: last, perm: perm, owner: o}
	byName := func() ([]byte, error) {
		old, err := f.readFile(name, max)
		return change(old, err == nil)
	}
	for range attempts {
		err = f.update(t, max, byName, change)
		if err != errAgain {
			return err
		}
		// Another start is writing it, for less than a millisecond unless it is held up. The image
		// can lock a file forever, so waiting is bounded.
		_ = unix.Nanosleep(&unix.Timespec{Nsec: 200_000}, nil)
	}
	return f.write(t, false, byName)
}

// target describes a file to write: the handle and name of its directory, and its own name,
// permissions and owner.
type target struct {
	d         int
	dir, name string
	perm      fs.FileMode
	owner     Owner
}

// attempts bounds the waiting for others to 50 ms.
const attempts = 250

var errAgain = errors.New("somebody else is writing it")

// update writes a file unless somebody else holds its lock.
func (f *FS) update(
	t target, max int64, byName func() ([]byte, error), change func(old []byte, there bool) ([]byte, error),
) error {
	handle, err := openat(t.d, t.name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err == unix.ENOENT {
		return f.write(t, true, func() ([]byte, error) { return change(nil, false) })
	}
	if err != nil {
		return err
	}
	defer unix.Close(handle)
	var held, now unix.Stat_t
	if err := unix.Fstat(handle, &held); err != nil {
		return err
	}
	switch held.Mode & unix.S_IFMT {
	case unix.S_IFREG:
	case unix.S_IFLNK:
		return f.write(t, false, byName)
	default:
		return occupied(t.d, t.dir, t.name)
	}
	lock, size, err := f.reopen(handle, math.MaxInt64)
	if err == nil {
		defer unix.Close(int(lock))
		if unix.Flock(int(lock), unix.LOCK_EX|unix.LOCK_NB) == unix.EWOULDBLOCK {
			return errAgain
		}
		if err := unix.Fstatat(t.d, t.name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil || now.Ino != held.Ino ||
			now.Dev != held.Dev {
			return errAgain // replaced before it was locked
		}
	}
	return f.write(t, false, func() ([]byte, error) {
		if err != nil || size > max {
			return change(nil, false)
		}
		old := make([]byte, size)
		if n, err := lock.ReadAt(old, 0); n < len(old) {
			return nil, err
		}
		return change(old, true)
	})
}

// write replaces the file t; fresh means that it did not exist.
func (f *FS) write(t target, fresh bool, content func() ([]byte, error)) error {
	data, err := content()
	if err == nil && f.fault != nil {
		err = f.fault // the old file may have content that must not be lost
	}
	if err != nil {
		return err
	}
	tmp, fd, err := f.temporary(t.d)
	if err == unix.EEXIST {
		return errAgain
	}
	if err != nil {
		return err
	}
	defer unix.Close(fd) // also unlocks it
	if err = f.fill(fd, data, t.perm, t.owner); err == nil {
		err = uninterrupted(func() error {
			if fresh {
				err := unix.Renameat2(t.d, tmp, t.d, t.name, unix.RENAME_NOREPLACE)
				if err != unix.EINVAL && err != unix.ENOSYS {
					return err
				}
			}
			return unix.Renameat(t.d, tmp, t.d, t.name)
		})
	}
	if err == nil {
		return nil
	}
	unix.Unlinkat(t.d, tmp, 0)
	switch {
	case fresh && err == unix.EEXIST:
		return errAgain
	case err == unix.EISDIR:
		return occupied(t.d, t.dir, t.name)
	}
	return err
}

// fill writes content, owner and permissions of a new file.
func (f *FS) fill(fd int, data []byte, perm fs.FileMode, o Owner) error {
	for len(data) > 0 {
		n, err := unix.Write(fd, data)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return err
		}
		data = data[n:]
	}
	if o != f.self {
		if err := unix.Fchown(fd, o.UID, o.GID); err != nil {
			return err
		}
	}
	return unix.Fchmod(fd, uint32(perm.Perm()))
}

// MkdirAll creates a directory and its missing parents, with permissions 0755. Symbolic links on
// the way are resolved in the root; a dangling one is an error.
func (f *FS) MkdirAll(dir string, o Owner) error {
	_, err := f.writeDir(dir)
	if err != unix.ENOENT {
		if err != nil {
			err = fmt.Errorf("opening directory %s: %w", quote(path.Join("/", dir)), err)
		}
		return err
	}
	if err := f.mkdirAll(path.Clean("/"+dir), o); err != nil {
		return fmt.Errorf("making directory %s: %w", quote(path.Join("/", dir)), err)
	}
	return nil
}

// mkdirAll creates a missing directory. Its name is absolute and clean. writeDir keeps its handle.
func (f *FS) mkdirAll(dir string, o Owner) error {
	if dir == "/" {
		return unix.ENOENT
	}
	above, name := path.Split(dir)
	above = path.Clean(above)
	parent, err := f.writeDir(above)
	if err == unix.ENOENT {
		if err = f.mkdirAll(above, o); err == nil {
			parent, err = f.writeDir(above)
		}
	}
	if err != nil {
		return err
	}
	err = uninterrupted(func() error { return unix.Mkdirat(parent, name, 0o755) })
	if err == unix.EEXIST { // created just now by somebody else, or a dangling link
		_, err = f.writeDir(dir)
		return err
	}
	if err != nil {
		return err
	}
	made, err := openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer unix.Close(made)
	if err := f.adopt(made, o); err != nil {
		return err
	}
	_, err = f.writeDir(dir)
	return err
}

// adopt sets permissions and owner of a new directory; the umask may have cleared bits. If it has
// more bits than we gave it, another owner, or subdirectories, it is not the one we created.
func (f *FS) adopt(made int, o Owner) error {
	var st unix.Stat_t
	if err := unix.Fstat(made, &st); err != nil {
		return err
	}
	if int(st.Uid) != f.self.UID || st.Nlink > 2 || st.Mode&0o777&^0o755 != 0 {
		return errors.New("another directory took the place of the one just made")
	}
	if st.Mode&0o777 != 0o755 {
		if err := unix.Fchmod(made, st.Mode&0o7000|0o755); err != nil {
			return err
		}
	}
	if o != f.self {
		return unix.Fchown(made, o.UID, o.GID)
	}
	return nil
}

// writeDir returns the handle of a directory to write in. It belongs to f and is valid until the
// next call for another directory.
func (f *FS) writeDir(dir string) (int, error) {
	if f.host {
		return -1, ErrHostRoot
	}
	dir, err := relative(dir)
	if err != nil {
		return -1, err
	}
	if f.dir >= 0 && f.dirName == dir {
		return f.dir, nil
	}
	fd, err := f.open(dir, unix.O_DIRECTORY, true)
	if err == unix.EXDEV {
		return -1, fmt.Errorf("another file system is mounted there: %w", err)
	}
	if err != nil {
		return -1, err
	}
	f.forget()
	f.dir, f.dirName = fd, dir
	return fd, nil
}

// forget closes the handle that writeDir keeps.
func (f *FS) forget() {
	if f.dir >= 0 {
		unix.Close(f.dir)
	}
	f.dir, f.dirName = -1, ""
}

// temporary creates a file with a temporary name, locked while it is open. There are few such
// names; an unlocked file of that name is left over from a killed run and is removed.
func (f *FS) temporary(dir int) (name string, fd int, err error) {
	const names = 4
	for i := range names {
		leftover := temporaryPrefix + strconv.Itoa(i)
		handle, err := openat(dir, leftover, unix.O_PATH|unix.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if old, _, err := f.reopen(handle, math.MaxInt64); err == nil {
			if unix.Flock(int(old), unix.LOCK_EX|unix.LOCK_NB) == nil {
				unix.Unlinkat(dir, leftover, 0)
			}
			unix.Close(int(old))
		}
		unix.Close(handle)
	}
	err = unix.EEXIST
	for i := 0; i < names && err == unix.EEXIST; i++ {
		name = temporaryPrefix + strconv.Itoa(i)
		fd, err = openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if err != nil {
			continue
		}
		// Between creating and locking it, another start may remove it as a leftover. File systems
		// without locks do without.
		var made, there unix.Stat_t
		locked := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		if err = unix.Fstat(fd, &made); err == nil {
			err = unix.Fstatat(dir, name, &there, unix.AT_SYMLINK_NOFOLLOW)
		}
		switch {
		case err == nil && locked != unix.EWOULDBLOCK && made.Ino == there.Ino && made.Dev == there.Dev:
			return name, fd, nil
		case err != nil && err != unix.ENOENT:
			unix.Unlinkat(dir, name, 0)
		default:
			err = unix.EEXIST // it was removed as a leftover
		}
		unix.Close(fd)
	}
	return "", -1, err
}

const temporaryPrefix = ".nvidia-container-runtime-"

// own sets the owner of a new link through a handle, so that the name cannot be switched to another
// object in between.
func (f *FS) own(dir int, name string, o Owner) error {
	if o == f.self {
		return nil
	}
	fd, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFLNK || int(st.Uid) != f.self.UID || st.Nlink != 1 {
		return errors.New("something else took the place of what was just made")
	}
	return unix.Fchownat(fd, "", o.UID, o.GID, unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW)
}

// occupied returns an [*OccupiedError] for what has the name.
func occupied(d int, dir, name string) error {
	e := &OccupiedError{Name: path.Join("/", dir, name)}
	var st unix.Stat_t
	if err := unix.Fstatat(d, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	e.Mode, e.Size = fileMode(st.Mode), st.Size
	return e
}
