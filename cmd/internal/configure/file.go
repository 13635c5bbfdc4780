// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// maxFile is the longest file that is read: the longest program beside nvsysfs is shorter.
const maxFile = 32 << 20

// tempPrefix begins the names of files that are not finished yet.
const tempPrefix = ".nvsysfs-configure-"

// file is a file of the machine as it was when it was looked at, and what is to become of it.
type file struct {
	name   string      // as the user knows it, inside the root
	dir    string      // on the host, without links; "" while the directory does not exist
	info   fs.FileInfo // nil: the file does not exist
	before []byte

	after  []byte
	perm   fs.FileMode // of a new file, or 0 for that of the old one
	remove bool
	binary bool // not to be shown in a diff
}

// look reads a file below the root. A file that does not exist is no error. What is there but is not a
// plain file is refused without being opened: an engine's configuration is never a pipe, and a link is
// somebody else's way of managing it, which a rename would cut.
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
			return file{}, fmt.Errorf("%s is a symbolic link to %s: name the file itself with --config, or change it where it is made", quote(name), quote(target))
		}
		return file{}, fmt.Errorf("%s %w: left alone", quote(name), err)
	}
	if f.info.Size() > maxFile {
		return file{}, fmt.Errorf("%s has %d bytes, more than the %d that are read", quote(name), f.info.Size(), maxFile)
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
		return file{}, fmt.Errorf("%s was replaced while it was being looked at: try again", quote(name))
	}
	f.before, err = io.ReadAll(io.LimitReader(in, maxFile+1))
	if err != nil {
		return file{}, fmt.Errorf("reading %s: %w", quote(name), err)
	}
	if len(f.before) > maxFile {
		return file{}, fmt.Errorf("%s has more than the %d bytes that are read", quote(name), maxFile)
	}
	f.after = f.before
	return f, nil
}

// plain says what is odd about a file, and nil about a regular one.
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
		return errors.New("is a device or the like")
	}
}

// changed tells whether there is anything to write.
func (f file) changed() bool {
	if f.remove {
		return f.info != nil
	}
	return f.info == nil && f.after != nil || !bytes.Equal(f.before, f.after)
}

// save writes the file under another name beside it, with the old one's mode and owner, and renames it:
// whoever reads meanwhile sees the old file or the new one, whole.
func (f file) save(root sysfs.Root) (err error) {
	defer func() {
		if errors.Is(err, fs.ErrPermission) {
			err = fmt.Errorf("%w (are you root?)", err)
		}
		if err != nil {
			err = fmt.Errorf("writing %s: %w", quote(f.name), err)
		}
	}()
	if f.dir == "" {
		if f.dir, err = makeDir(root, path.Dir(path.Clean(f.name))); err != nil {
			return err
		}
	}
	d, err := os.OpenRoot(f.dir)
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
		return syncDir(f.dir)
	}

	// CRI-O reads all files of its directory: what a run left that was killed must not stay.
	if err := sweep(d); err != nil {
		return err
	}
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
	if _, err = out.Write(f.after); err != nil {
		return err
	}
	perm := f.perm
	if perm == 0 {
		perm = 0o644
	}
	if f.info != nil {
		perm = f.info.Mode().Perm()
		// The owner first: a change of owner may clear bits of the mode.
		if s, ok := f.info.Sys().(*syscall.Stat_t); ok {
			if err = keepOwner(out, s); err != nil {
				return err
			}
		}
	}
	if err = out.Chmod(perm); err != nil {
		return err
	}
	if err = out.Sync(); err != nil {
		return err
	}
	if err = f.same(d, base); err != nil {
		return err
	}
	if err = d.Rename(temp, base); err != nil {
		return err
	}
	return syncDir(f.dir)
}

// sweep removes unfinished files of earlier runs.
func sweep(d *os.Root) error {
	dir, err := d.Open(".")
	if err != nil {
		return err
	}
	defer dir.Close()
	names, err := dir.Readdirnames(-1)
	if err != nil {
		return err
	}
	for _, name := range names {
		if !strings.HasPrefix(name, tempPrefix) {
			continue
		}
		if info, err := d.Lstat(name); err != nil || !info.Mode().IsRegular() {
			continue
		}
		if err := d.Remove(name); err != nil {
			return err
		}
	}
	return nil
}

// keepOwner gives a file the owner of another, and does not try where it has that owner already.
func keepOwner(out *os.File, old *syscall.Stat_t) error {
	info, err := out.Stat()
	if err != nil {
		return err
	}
	if s, ok := info.Sys().(*syscall.Stat_t); ok && s.Uid == old.Uid && s.Gid == old.Gid {
		return nil
	}
	return out.Chown(int(old.Uid), int(old.Gid))
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
	case f.info != nil && os.SameFile(now, f.info) && now.Size() == f.info.Size() && now.ModTime().Equal(f.info.ModTime()):
		return nil
	}
	return errors.New("it changed while it was being edited: try again")
}

// makeDir makes the directories that are missing on the way to dir, and returns its name on the host.
func makeDir(root sysfs.Root, dir string) (string, error) {
	there, missing := dir, ""
	for there != "/" {
		resolved, err := root.Resolve(there)
		if err == nil {
			there = resolved
			break
		}
		// What cannot be resolved may still be there: a dangling link. MkdirAll fails on it.
		if !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		missing = path.Join(path.Base(there), missing)
		there = path.Dir(there)
	}
	d, err := os.OpenRoot(root.Path(there))
	if err != nil {
		return "", err
	}
	defer func() { _ = d.Close() }()
	if missing != "" {
		if err := d.MkdirAll(missing, 0o755); err != nil {
			return "", err
		}
	}
	return path.Join(root.Path(there), missing), nil
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// quote shows a name or value that may be hostile.
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
