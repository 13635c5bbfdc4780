// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"syscall"
)

// temporaryPrefix begins the names of the files that Save makes in the bundle.
const temporaryPrefix = ".nvidia-container-runtime-"

// Save replaces the file that the document was read from, if edits changed it. The new text is written to
// a new file in the same directory, which gets owner and mode of the old one, is synchronised to disk, and
// takes the old one's name in one step. All goes through the handle that Open got, so nobody can put
// another directory in between. The file is not replaced when it is no longer the one that was read.
//
// A run that is killed may leave its temporary file behind; the next Save removes it.
func (d *Document) Save() error {
	if !d.Changed() {
		return nil
	}
	if d.dir == nil {
		return errors.New("saving config.json: it was not read from a file")
	}
	if err := d.save(); err != nil {
		return fmt.Errorf("saving %q: %w", d.path, err)
	}
	d.original = d.text
	return nil
}

func (d *Document) save() (err error) {
	if err := d.unchangedOnDisk(); err != nil {
		return err
	}
	removeLeftovers(d.dir)
	name := temporaryPrefix + rand.Text()
	f, err := d.dir.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, f.Close())
		if err != nil {
			_ = d.dir.Remove(name) // the first error is the one to tell; a leftover does not hurt
		}
	}()
	// The lock tells others that this is no leftover. A file system without locks does without.
	_ = syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
	if err := takeOver(f, d.info); err != nil {
		return err
	}
	if _, err := f.Write(d.text); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if err := d.unchangedOnDisk(); err != nil {
		return err
	}
	if err := d.dir.Rename(name, d.name); err != nil {
		return err
	}
	d.info = info
	return syncDirectory(d.dir)
}

func (d *Document) unchangedOnDisk() error {
	now, err := d.dir.Lstat(d.name)
	if err != nil {
		return err
	}
	if !os.SameFile(now, d.info) || now.Size() != d.info.Size() || !now.ModTime().Equal(d.info.ModTime()) {
		return errors.New("it was changed by somebody else since it was read")
	}
	return nil
}

// takeOver gives f owner and mode of another file.
func takeOver(f *os.File, like fs.FileInfo) error {
	mine, err := f.Stat()
	if err != nil {
		return err
	}
	want, ok := like.Sys().(*syscall.Stat_t)
	have, ok2 := mine.Sys().(*syscall.Stat_t)
	if ok && ok2 && (want.Uid != have.Uid || want.Gid != have.Gid) {
		if err := f.Chown(int(want.Uid), int(want.Gid)); err != nil {
			return err
		}
	}
	return f.Chmod(like.Mode().Perm())
}

// removeLeftovers removes temporary files of runs that ended early: those that nobody holds locked. It is
// a service to the owner of the bundle, so what goes wrong with it is nobody's concern.
func removeLeftovers(dir *os.Root) {
	entries, err := fs.ReadDir(dir.FS(), ".")
	if err != nil {
		return
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), temporaryPrefix) || !e.Type().IsRegular() {
			continue
		}
		f, err := dir.OpenFile(e.Name(), os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
		if err != nil {
			continue
		}
		if syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB) == nil {
			_ = dir.Remove(e.Name())
		}
		_ = f.Close()
	}
}

func syncDirectory(dir *os.Root) (err error) {
	f, err := dir.Open(".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return f.Sync()
}
