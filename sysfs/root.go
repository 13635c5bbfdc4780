// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// Root is the directory that stands for "/": "/" itself for the machine we run on, the directory a
// fixture was unpacked to, or the root of a driver container.
//
// Everything that is read from a machine is read through its Root. Links are resolved inside it: an
// absolute link counts from the root, and ".." stops there. Content below a root is trusted, its shape
// is not: only regular files are opened, and never more than a limit is read.
//
// A Root is an [fs.FS] whose names are those of io/fs ("proc/devices", without a leading slash). [Root.Path],
// [Root.Resolve] and [Root.ReadFileMax] also take names with the slash.
type Root string

// MaxFile is the number of bytes that [Root.ReadFile] reads at most. The longest file it is
// used for, a mig-minors table, has 150 KiB.
const MaxFile = 4 << 20

// maxLinks is how many symbolic links one name may lead through, as in the kernel.
const maxLinks = 40

// maxName is the longest name that is looked at, link targets put in included. The kernel's PATH_MAX
// is 4096.
const maxName = 16 << 10

var (
	_ fs.ReadFileFS = Root("")
	_ fs.ReadDirFS  = Root("")
	_ fs.StatFS     = Root("")
	_ fs.ReadLinkFS = Root("")
)

// NewRoot checks that dir is an absolute name of a directory.
func NewRoot(dir string) (Root, error) {
	if !filepath.IsAbs(dir) {
		return "", fmt.Errorf("root %s: not an absolute path", quote(dir))
	}
	dir = filepath.Clean(dir)
	info, err := os.Stat(dir)
	if err != nil {
		return "", fmt.Errorf("root %s: %w", quote(dir), reason(err))
	}
	if !info.IsDir() {
		return "", fmt.Errorf("root %s: not a directory", quote(dir))
	}
	return Root(dir), nil
}

// Path returns the name of the host for a name below the root, without looking at the disk. A link
// on the way may lead out of the root: resolve the name first where that matters.
func (r Root) Path(name string) string {
	name = path.Clean("/" + name)
	if r.host() {
		return name
	}
	if name == "/" {
		return string(r)
	}
	return string(r) + name
}

// Resolve follows every link of name inside the root and returns the absolute name, inside the root,
// of what it leads to. The result exists and has no link in it, so that Path of it
// is safe to hand on as long as the root does not change.
func (r Root) Resolve(name string) (string, error) {
	resolved, err := r.walk(name, true)
	if err != nil {
		return "", &fs.PathError{Op: "resolve", Path: r.Path(name), Err: err}
	}
	return resolved, nil
}

// ReadFileMax reads a regular file of at most limit bytes. A longer one is an error, and so is a
// directory, a device, a named pipe or a socket, which is not opened at all.
func (r Root) ReadFileMax(name string, limit int64) ([]byte, error) {
	data, err := r.read(name, limit)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: r.Path(name), Err: err}
	}
	return data, nil
}

// ReadFile is [Root.ReadFileMax] with a limit of [MaxFile], for names as io/fs has them.
func (r Root) ReadFile(name string) ([]byte, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrInvalid}
	}
	return r.ReadFileMax(name, MaxFile)
}

// Open opens a regular file or a directory for reading. Nothing else is opened.
func (r Root) Open(name string) (fs.File, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrInvalid}
	}
	file, _, err := r.open(name, func(mode fs.FileMode) bool { return mode.IsRegular() || mode.IsDir() })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.Path(name), Err: err}
	}
	return file, nil
}

// ReadDir lists a directory, sorted by name.
func (r Root) ReadDir(name string) ([]fs.DirEntry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	resolved, err := r.follow(name)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: r.Path(name), Err: err}
	}
	// A named pipe or a device is not opened: with O_DIRECTORY the kernel refuses it beforehand.
	dir, err := os.OpenFile(resolved, os.O_RDONLY|syscall.O_DIRECTORY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: r.Path(name), Err: reason(err)}
	}
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: r.Path(name), Err: reason(err)}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// Stat describes what name leads to, without opening it. The name in the result is that of the link's target.
func (r Root) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	resolved, err := r.follow(name)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: r.Path(name), Err: err}
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: r.Path(name), Err: reason(err)}
	}
	return info, nil
}

// Lstat describes name itself, which may be a link; links in the directories before it are followed.
func (r Root) Lstat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "lstat", Path: name, Err: fs.ErrInvalid}
	}
	at, err := r.parent(name)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: r.Path(name), Err: err}
	}
	info, err := os.Lstat(at)
	if err != nil {
		return nil, &fs.PathError{Op: "lstat", Path: r.Path(name), Err: reason(err)}
	}
	return info, nil
}

// ReadLink returns the text of the link name as it stands; links in the directories before it are
// followed.
func (r Root) ReadLink(name string) (string, error) {
	if !fs.ValidPath(name) {
		return "", &fs.PathError{Op: "readlink", Path: name, Err: fs.ErrInvalid}
	}
	at, err := r.parent(name)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: r.Path(name), Err: err}
	}
	target, err := os.Readlink(at)
	if err != nil {
		return "", &fs.PathError{Op: "readlink", Path: r.Path(name), Err: reason(err)}
	}
	return target, nil
}

// host reports whether the root is the machine's own, where the kernel follows links as we want them.
func (r Root) host() bool { return r == "/" || r == "" }

// follow returns a host name for name with which no system call leaves the root.
func (r Root) follow(name string) (string, error) {
	if r.host() {
		return "/" + name, nil
	}
	resolved, err := r.walk(name, true)
	if err != nil {
		return "", err
	}
	return r.Path(resolved), nil
}

// parent is follow for all but the last component of name.
func (r Root) parent(name string) (string, error) {
	if r.host() {
		return "/" + name, nil
	}
	resolved, err := r.walk(name, false)
	if err != nil {
		return "", err
	}
	return r.Path(resolved), nil
}

// walk resolves name component by component. With last unset a link at the end of name stays.
func (r Root) walk(name string, last bool) (string, error) {
	prefix := string(r)
	if r.host() {
		prefix = ""
	}
	if len(name) > maxName {
		return "", syscall.ENAMETOOLONG
	}
	if strings.IndexByte(name, 0) >= 0 {
		return "", syscall.EINVAL // as the kernel's answer for "not a link" below
	}
	buf := make([]byte, 4096)
	resolved := "" // "" is the root, else "/a/b" without a link in it
	rest := name
	for links := 0; rest != ""; {
		component, tail, _ := strings.Cut(rest, "/")
		rest = tail
		switch component {
		case "", ".":
			continue
		case "..":
			resolved = resolved[:max(strings.LastIndexByte(resolved, '/'), 0)]
			continue
		}
		here := resolved + "/" + component
		if !last && strings.Trim(rest, "/") == "" {
			return here, nil
		}
		n, err := syscall.Readlink(prefix+here, buf)
		switch {
		case errors.Is(err, syscall.EINVAL): // not a link, and it exists
			resolved = here
			continue
		case err != nil:
			return "", err
		case n == len(buf):
			return "", syscall.ENAMETOOLONG
		}
		if links++; links > maxLinks {
			return "", syscall.ELOOP
		}
		target := string(buf[:n])
		if strings.HasPrefix(target, "/") {
			resolved = ""
		}
		if len(target)+len(rest) > maxName {
			return "", syscall.ENAMETOOLONG
		}
		if rest != "" {
			target += "/" + rest
		}
		rest = target
	}
	if resolved == "" {
		return "/", nil
	}
	return resolved, nil
}

// open opens what name leads to if its mode is accepted. The mode is looked at before the file is
// opened, and again afterwards.
func (r Root) open(name string, accept func(fs.FileMode) bool) (*os.File, fs.FileInfo, error) {
	resolved, err := r.follow(name)
	if err != nil {
		return nil, nil, err
	}
	info, err := os.Stat(resolved)
	if err != nil {
		return nil, nil, reason(err)
	}
	if !accept(info.Mode()) {
		return nil, nil, unexpected(info.Mode())
	}
	// O_NONBLOCK: should a named pipe take the file's place now, nothing waits for its writer.
	file, err := os.OpenFile(resolved, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, reason(err)
	}
	info, err = file.Stat()
	if err == nil && !accept(info.Mode()) {
		err = unexpected(info.Mode())
	}
	if err != nil {
		file.Close()
		return nil, nil, reason(err)
	}
	return file, info, nil
}

func (r Root) read(name string, limit int64) ([]byte, error) {
	file, info, err := r.open(name, fs.FileMode.IsRegular)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if info.Size() > limit {
		return nil, fmt.Errorf("%d bytes, more than %d", info.Size(), limit)
	}
	// Files of procfs and sysfs tell a size of 0 or of a page, so the size is a hint only. One byte
	// more than announced lets the read that finds the end of the file be the second one.
	data := make([]byte, 0, max(info.Size()+1, min(limit+1, 4096)))
	for {
		if int64(len(data)) > limit {
			return nil, fmt.Errorf("more than %d bytes", limit)
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
		n, err := file.Read(data[len(data):cap(data)])
		data = data[:len(data)+n]
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, reason(err)
		}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, nil
}

// reason strips the name from an error of package os: ours carries the name already.
func reason(err error) error {
	if pathErr, ok := errors.AsType[*fs.PathError](err); ok {
		return pathErr.Err
	}
	return err
}

// unexpected is the error for a file of another kind than the one wanted.
func unexpected(mode fs.FileMode) error {
	kind := "not a regular file"
	switch {
	case mode.IsDir():
		return syscall.EISDIR
	case mode&fs.ModeNamedPipe != 0:
		kind += " but a named pipe"
	case mode&fs.ModeSocket != 0:
		kind += " but a socket"
	case mode&fs.ModeDevice != 0:
		kind += " but a device"
	}
	return errors.New(kind)
}

// quote quotes text that we did not write, and shortens it to what one reads in a message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return fmt.Sprintf("%q", s)
}
