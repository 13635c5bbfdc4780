// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// temporaryPrefix begins the name of Save's temporary file in the bundle.
const temporaryPrefix = ".nvidia-container-runtime-"

// Save replaces the file that the document was read from if edits changed it. The new text goes to
// a new file in the same directory, with the owner and mode of the old one, which then takes the
// old one's name in one step. Everything goes through the handle opened by Open, so nobody can
// substitute another directory. If the file is no longer the one that was read, it is not replaced.
//
// Nothing is synced to disk, just as when the engine wrote the file: syncing would take longer than
// everything else (40 ms on ext4), and engines create containers anew after a power loss.
//
// A killed run may leave its temporary file behind; the next Save removes it.
func (d *Document) Save() error {
	if !d.Changed() {
		return nil
	}
	if d.path == "" {
		return errors.New("saving config.json: it was not read from a file")
	}
	if err := d.save(); err != nil {
		return fmt.Errorf("saving %q: %w", d.path, err)
	}
	d.original = d.text
	return nil
}

func (d *Document) save() (err error) {
	tmp := temporaryPrefix + d.name
	fd, made, err := d.temporary(tmp)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = unix.Unlinkat(d.dir, tmp, 0) // the first error matters more; a leftover is harmless
		}
		err = errors.Join(err, unix.Close(fd))
	}()
	if err := d.fill(fd, made); err != nil {
		return err
	}
	if err := unix.Fstat(fd, &made); err != nil {
		return err
	}
	if err := d.unchangedOnDisk(); err != nil {
		return err
	}
	if err := unix.Renameat(d.dir, tmp, d.dir, d.name); err != nil {
		return err
	}
	d.stat = made
	return nil
}

func (d *Document) unchangedOnDisk() error {
	var now unix.Stat_t
	if err := unix.Fstatat(d.dir, d.name, &now, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return err
	}
	if !sameFile(&now, &d.stat) || now.Size != d.stat.Size || now.Mtim != d.stat.Mtim {
		return errors.New("another process changed it since it was read")
	}
	return nil
}

// temporary creates the new file and locks it. An existing unlocked file of that name is left over
// from a run that was interrupted, and is removed.
func (d *Document) temporary(name string) (fd int, made unix.Stat_t, err error) {
	for range 3 {
		fd, err = openat(d.dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW, 0o600)
		if errors.Is(err, unix.EEXIST) {
			if err := d.removeLeftover(name); err != nil {
				return -1, made, err
			}
			continue
		}
		if err != nil {
			return -1, made, err
		}
		// The lock tells other runs that this is not a leftover; one may have removed it before it
		// was locked. File systems without locks do without.
		locked := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB)
		var there unix.Stat_t
		if !errors.Is(locked, unix.EWOULDBLOCK) && unix.Fstat(fd, &made) == nil &&
			unix.Fstatat(d.dir, name, &there, unix.AT_SYMLINK_NOFOLLOW) == nil && sameFile(&made, &there) {
			return fd, made, nil
		}
		unix.Close(fd)
	}
	return -1, made, errBusy
}

var errBusy = errors.New("another process is replacing it")

func (d *Document) removeLeftover(name string) error {
	fd, err := openat(d.dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("opening %s: %w", name, err)
	}
	defer unix.Close(fd)
	if err := unix.Flock(fd, unix.LOCK_EX|unix.LOCK_NB); err != nil {
		return errBusy
	}
	if err := unix.Unlinkat(d.dir, name, 0); err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("removing %s: %w", name, err)
	}
	return nil
}

// fill gives the new file the owner and mode of the old one, and writes the text.
func (d *Document) fill(fd int, made unix.Stat_t) error {
	if d.stat.Uid != made.Uid || d.stat.Gid != made.Gid {
		if err := unix.Fchown(fd, int(d.stat.Uid), int(d.stat.Gid)); err != nil {
			return err
		}
	}
	if err := unix.Fchmod(fd, d.stat.Mode&0o777); err != nil {
		return err
	}
	for text := d.text; len(text) > 0; {
		n, err := unix.Write(fd, text)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		text = text[n:]
	}
	return nil
}
