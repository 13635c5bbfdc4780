// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/replace"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// maxFile limits the size of files; the programs are smaller.
const maxFile = 32 << 20

// file is a file as it was read, and its planned content.
type file struct {
	name   string      // inside the root
	dir    string      // on the host, without links; "" if it does not exist
	info   fs.FileInfo // nil: the file does not exist
	before []byte

	after  []byte
	perm   fs.FileMode // of a new file; 0: that of the old one
	remove bool
	binary bool // not shown in a diff
	link   bool // a symbolic link; before and after are its targets
}

// look reads a file below the root, which need not exist. It refuses special files without opening
// them, and links, which a rename would replace.
func look(root sysfs.Root, name string) (file, error) {
	f := file{name: name}
	if !path.IsAbs(name) || strings.ContainsAny(name, "\x00\n") {
		return file{}, fmt.Errorf("%s is not an absolute path", quote(name))
	}
	dir, err := root.Resolve(path.Dir(path.Clean(name)))
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return file{}, fmt.Errorf("looking for %s: %w", quote(name), err)
	}
	f.dir = root.Path(dir)
	d, err := os.OpenRoot(f.dir)
	if err != nil {
		return file{}, fmt.Errorf("looking for %s: %w", quote(name), err)
	}
	defer func() { _ = d.Close() }()
	base := path.Base(name)
	f.info, err = d.Lstat(base)
	if errors.Is(err, fs.ErrNotExist) {
		f.info = nil
		return f, nil
	}
	if err != nil {
		return file{}, fmt.Errorf("looking for %s: %w", quote(name), err)
	}
	if err := plain(f.info); err != nil {
		if target, linkErr := d.Readlink(base); linkErr == nil {
			return file{}, fmt.Errorf("%s is a symbolic link to %s: name the file itself with --config",
				quote(name), quote(target))
		}
		return file{}, fmt.Errorf("%s %w: left alone", quote(name), err)
	}
	if f.info.Size() > maxFile {
		return file{}, fmt.Errorf("%s has %d bytes, more than %d", quote(name), f.info.Size(), maxFile)
	}
	in, err := d.OpenFile(base, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return file{}, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	defer in.Close()
	opened, err := in.Stat()
	if err != nil {
		return file{}, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	if !os.SameFile(opened, f.info) {
		return file{}, fmt.Errorf("%s was replaced while being read: try again", quote(name))
	}
	f.before, err = io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return file{}, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	if len(f.before) > maxFile {
		return file{}, fmt.Errorf("%s has more than %d bytes", quote(name), maxFile)
	}
	f.after = f.before
	return f, nil
}

// plain returns an error for anything but a regular file.
func plain(info fs.FileInfo) error {
	switch mode := info.Mode(); {
	case mode.IsRegular():
		return nil
	case mode.IsDir():
		return errors.New("is a directory")
	case mode&fs.ModeSymlink != 0:
		return errors.New("is a symbolic link")
	case mode&fs.ModeNamedPipe != 0:
		return errors.New("is a named pipe")
	case mode&fs.ModeSocket != 0:
		return errors.New("is a socket")
	default:
		return errors.New("is not a regular file")
	}
}

func (f file) changed() bool {
	if f.remove {
		return f.info != nil
	}
	return f.info == nil && f.after != nil || !bytes.Equal(f.before, f.after)
}

// save atomically replaces the file, keeping its mode and owner.
func (f file) save(root sysfs.Root) (err error) {
	defer func() {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (are you root?)", err)
		}
		if err != nil {
			err = fmt.Errorf("writing %s: %w", quote(f.name), err)
		}
	}()
	open := func() (*os.Root, error) { return os.OpenRoot(f.dir) }
	if f.dir == "" {
		open = func() (*os.Root, error) { return replace.Dir(root, path.Dir(path.Clean(f.name))) }
	}
	d, err := open()
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }()
	base := path.Base(f.name)
	if err := f.same(d, base); err != nil {
		return err
	}
	if f.remove {
		if err := d.Remove(base); err != nil {
			return err
		}
		return replace.Sync(d)
	}
	if f.link {
		if f.info != nil {
			if err := d.Remove(base); err != nil {
				return err
			}
		}
		if err := d.Symlink(string(f.after), base); err != nil {
			return err
		}
		return replace.Sync(d)
	}
	out := replace.File{Data: f.after, Perm: f.perm, Check: func(string) error { return f.same(d, base) }}
	if out.Perm == 0 {
		out.Perm = 0o644
	}
	if f.info != nil {
		out.Perm = f.info.Mode().Perm()
		out.Owner, _ = f.info.Sys().(*syscall.Stat_t)
	}
	return replace.Write(d, base, out)
}

// same returns an error if the file is no longer the one that look read.
func (f file) same(d *os.Root, base string) error {
	now, err := d.Lstat(base)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if f.info == nil {
			return nil
		}
	case err != nil:
		return err
	case f.info != nil && os.SameFile(now, f.info) &&
		now.Size() == f.info.Size() && now.ModTime().Equal(f.info.ModTime()):
		return nil
	}
	return errors.New("it changed while being edited: try again")
}

// quote quotes a name or value that may be hostile.
func quote(s string) string {
	if len(s) > 100 {
		return fmt.Sprintf("%q…", s[:100])
	}
	for _, r := range s {
		if r <= ' ' || r >= 0x7f || r == '"' {
			return fmt.Sprintf("%q", s)
		}
	}
	if s == "" {
		return `""`
	}
	return s
}
