// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"path"
	"strconv"

	"golang.org/x/sys/unix"
)

// Symlink makes dir/name a link to target, and reports whether that changed anything. The
// directory must exist ([FS.MkdirAll]). A link to another target is replaced, by rename; anything
// else that has the name is left alone, and the error is an [*OccupiedError]. Whatever the error,
// nothing was written, and a mount can serve instead.
//
// The handle of the directory is kept for the next call, so that a link that is there already, as at
// every start but a container's first, costs one system call, and a new one two.
func (f *FS) Symlink(dir, name, target string, o Owner) (changed bool, err error) {
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
		if err := uninterrupted(func() error { return unix.Symlinkat(target, d, name) }); err != nil {
			return false, err
		}
		if err := f.own(d, name, o); err != nil {
			unix.Unlinkat(d, name, 0)
			return false, err
		}
		return true, nil
	case err == unix.EINVAL:
		return false, occupied(d, dir, name)
	case err != nil:
		return false, err
	case old == target:
		return false, nil
	}
	tmp, err := create(func(tmp string) error {
		return uninterrupted(func() error { return unix.Symlinkat(target, d, tmp) })
	})
	if err != nil {
		return false, err
	}
	if err = f.own(d, tmp, o); err == nil {
		err = uninterrupted(func() error { return unix.Renameat(d, tmp, d, name) })
	}
	if err != nil {
		unix.Unlinkat(d, tmp, 0)
		if err == unix.EISDIR {
			err = occupied(d, dir, name)
		}
		return false, err
	}
	return true, nil
}

// Symlinks makes names, in one directory, links to target as [FS.Symlink] does, each with an error
// of its own. Links that are missing become one inode with several names: on ext4 a name more
// costs 8 µs, where an inode more costs 15 to 200.
func (f *FS) Symlinks(dir string, names []string, target string, o Owner) []error {
	errs := make([]error, len(names))
	made := ""
	for i, name := range names {
		if made != "" && base(name) == nil {
			if d, err := f.writeDir(dir); err == nil && unix.Linkat(d, made, d, name, 0) == nil {
				continue
			}
		}
		var changed bool
		if changed, errs[i] = f.Symlink(dir, name, target, o); changed {
			made = name
		}
	}
	return errs
}

// WriteFile makes name a regular file with the content, the permissions and the owner given,
// whatever the umask is: a new file beside it, on disk before it takes the name by rename. Missing
// directories are made, as [FS.MkdirAll] does. A regular file or a link of that name is replaced,
// the link not followed; anything else is left alone, and the error is an [*OccupiedError]. A file
// that is all of this already stays.
func (f *FS) WriteFile(name string, data []byte, perm fs.FileMode, o Owner) (err error) {
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
	var st unix.Stat_t
	switch err := unix.Fstatat(d, last, &st, unix.AT_SYMLINK_NOFOLLOW); {
	case err == unix.ENOENT:
	case err != nil:
		return err
	case st.Mode&unix.S_IFMT != unix.S_IFREG && st.Mode&unix.S_IFMT != unix.S_IFLNK:
		return occupied(d, dir, last)
	case st.Mode == unix.S_IFREG|uint32(perm.Perm()) && st.Size == int64(len(data)) && (Owner{UID: int(st.Uid), GID: int(st.Gid)}) == o && f.has(d, last, data):
		return nil
	}

	var fd int
	tmp, err := create(func(tmp string) (err error) {
		fd, err = openat(d, tmp, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		return err
	})
	if err != nil {
		return err
	}
	err = f.fill(fd, data, perm, o)
	if e := unix.Close(fd); err == nil {
		err = e
	}
	if err == nil {
		err = uninterrupted(func() error { return unix.Renameat(d, tmp, d, last) })
	}
	if err != nil {
		unix.Unlinkat(d, tmp, 0)
	}
	return err
}

// has reports whether a regular file has exactly this content.
func (f *FS) has(dir int, name string, data []byte) bool {
	handle, err := openat(dir, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return false
	}
	defer unix.Close(handle)
	file, size, err := f.reopen(handle, int64(len(data)))
	if err != nil {
		return false
	}
	defer unix.Close(int(file))
	have := make([]byte, size)
	n, err := file.ReadAt(have, 0)
	return err == nil && bytes.Equal(have[:n], data)
}

// fill writes a file that was just created.
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
	if err := unix.Fchmod(fd, uint32(perm.Perm())); err != nil {
		return err
	}
	return uninterrupted(func() error { return unix.Fsync(fd) })
}

// MkdirAll makes a directory, and those above it, with permissions 0755. Links on the way are
// resolved in the root, and a link that leads nowhere is an error.
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

// mkdirAll makes a directory that is missing; its name begins with a slash and is clean. It is left
// as the directory last used.
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
	if err == unix.EEXIST { // Made by somebody else just now, or a link that leads nowhere.
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
	// The umask may have taken bits away. What has more bits than we gave, another owner, or
	// directories in it is not what we made.
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
		if err := unix.Fchown(made, o.UID, o.GID); err != nil {
			return err
		}
	}
	_, err = f.writeDir(dir)
	return err
}

// mostEntries bounds the directories that are searched for links.
const mostEntries = 1 << 16

// RemoveLinks removes stale links that lie directly in the directory, and returns their names,
// sorted. Only links are considered, and of these only the ones that candidate accepts by name are
// read, since a library directory holds thousands; stale then decides by name and target. A
// directory that is not there has no links.
func (f *FS) RemoveLinks(dir string, candidate func(name string) bool, stale func(name, target string) bool) (removed []string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("removing links in %s: %w", quote(path.Join("/", dir)), err)
		}
	}()
	d, err := f.writeDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	entries, err := readDir(d, mostEntries)
	if err != nil {
		return nil, err
	}
	for _, e := range entries {
		if e.kind != unix.DT_LNK && e.kind != unix.DT_UNKNOWN || !candidate(e.name) {
			continue
		}
		target, err := readlink(d, e.name)
		if err != nil || !stale(e.name, target) {
			continue // No link, or gone.
		}
		if err := unix.Unlinkat(d, e.name, 0); err != nil && err != unix.ENOENT {
			return removed, err
		}
		removed = append(removed, e.name)
	}
	return removed, nil
}

// writeDir returns the handle of a directory to write in. It belongs to f, and is good until the
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

// forget closes the handle of the directory last written to.
func (f *FS) forget() {
	if f.dir >= 0 {
		unix.Close(f.dir)
	}
	f.dir, f.dirName = -1, ""
}

// create finds a free temporary name: attempt must fail with EEXIST if the name is taken. The names
// are few, so that runs that were killed cannot fill a disk with leftovers.
func create(attempt func(tmp string) error) (string, error) {
	const names = 64
	err := error(unix.EEXIST)
	for first, i := rand.IntN(names), 0; i < names && err == unix.EEXIST; i++ {
		tmp := ".nvidia-container-runtime-" + strconv.Itoa((first+i)%names)
		if err = attempt(tmp); err == nil {
			return tmp, nil
		}
	}
	return "", fmt.Errorf("making a temporary name: %w", err)
}

// own gives a link that was just created its owner, through a handle: so the name cannot be made to
// stand for another object in between.
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

// occupied describes what has the name.
func occupied(d int, dir, name string) error {
	e := &OccupiedError{Name: path.Join("/", dir, name)}
	var st unix.Stat_t
	if err := unix.Fstatat(d, name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	e.Mode, e.Size = fileMode(st.Mode), st.Size
	return e
}
