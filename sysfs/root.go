// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
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
	fd, _, err := r.open(name, func(mode uint32) bool { return mode == unix.S_IFREG || mode == unix.S_IFDIR })
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: r.Path(name), Err: err}
	}
	return os.NewFile(uintptr(fd), r.Path(name)), nil
}

// ReadDir lists a directory, sorted by name.
func (r Root) ReadDir(name string) ([]fs.DirEntry, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "readdir", Path: name, Err: fs.ErrInvalid}
	}
	// A named pipe or a device is not opened: with O_DIRECTORY the kernel refuses it beforehand.
	fd, err := r.openat(name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: r.Path(name), Err: err}
	}
	dir := os.NewFile(uintptr(fd), r.Path(name))
	defer dir.Close()
	entries, err := dir.ReadDir(-1)
	if err != nil {
		return nil, &fs.PathError{Op: "readdir", Path: r.Path(name), Err: reason(err)}
	}
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(a.Name(), b.Name()) })
	return entries, nil
}

// Stat describes what name leads to, without opening it. The name in the result is the one given.
func (r Root) Stat(name string) (fs.FileInfo, error) {
	if !fs.ValidPath(name) {
		return nil, &fs.PathError{Op: "stat", Path: name, Err: fs.ErrInvalid}
	}
	if r.host() {
		info, err := os.Stat("/" + name)
		if err != nil {
			return nil, &fs.PathError{Op: "stat", Path: r.Path(name), Err: reason(err)}
		}
		return info, nil
	}
	fd, err := r.openat(name, unix.O_PATH)
	if err != nil {
		return nil, &fs.PathError{Op: "stat", Path: r.Path(name), Err: err}
	}
	file := os.NewFile(uintptr(fd), r.Path(name))
	defer file.Close()
	info, err := file.Stat()
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

// openat opens what name leads to inside the root. On another root than the machine's own the kernel resolves the links
// in it (openat2, Linux 5.6); where it cannot, they are followed one by one.
func (r Root) openat(name string, flags int) (int, error) {
	flags |= unix.O_CLOEXEC
	if strings.IndexByte(name, 0) >= 0 {
		return -1, unix.EINVAL
	}
	if r.host() {
		return retry(func() (int, error) { return unix.Open("/"+name, flags, 0) })
	}
	// Most names lead through no link at all: then one call does.
	if !strings.Contains(name, "..") {
		how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_NO_SYMLINKS}
		fd, err := retry(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, string(r)+"/"+name, &how) })
		if err == nil || errors.Is(err, unix.ENOENT) {
			return fd, err
		}
	}
	root, err := retry(func() (int, error) { return unix.Open(string(r), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0) })
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(root, name, &how) })
	// A seccomp profile that does not know the call may answer EPERM.
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	resolved, err := r.walk(name, true)
	if err != nil {
		return -1, err
	}
	return retry(func() (int, error) { return unix.Open(r.Path(resolved), flags|unix.O_NOFOLLOW, 0) })
}

// retry repeats a system call that a signal interrupted, and one that lost against a rename (openat2).
func retry(call func() (int, error)) (int, error) {
	const most = 100
	for tries := 0; ; tries++ {
		n, err := call()
		if !errors.Is(err, unix.EINTR) && (!errors.Is(err, unix.EAGAIN) || tries == most) {
			return n, err
		}
	}
}

// selfFD is a name for what a descriptor holds.
func selfFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// parent returns a host name for name whose directories are resolved in the root, while its last component is not.
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

// open opens what name leads to if its mode is accepted, and tells its size. The object is held before it is
// looked at, and only then opened for reading.
func (r Root) open(name string, accept func(mode uint32) bool) (fd int, size int64, err error) {
	handle, err := r.openat(name, unix.O_PATH)
	if err != nil {
		return -1, 0, err
	}
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		return -1, 0, err
	}
	if !accept(st.Mode & unix.S_IFMT) {
		return -1, 0, unexpected(st.Mode & unix.S_IFMT)
	}
	fd, err = retry(func() (int, error) {
		return unix.Open(selfFD(handle), unix.O_RDONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	})
	return fd, st.Size, err
}

func (r Root) read(name string, limit int64) ([]byte, error) {
	fd, size, err := r.open(name, func(mode uint32) bool { return mode == unix.S_IFREG })
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	if size > limit {
		return nil, fmt.Errorf("%d bytes, more than %d", size, limit)
	}
	// Files of procfs and sysfs tell a size of 0 or of a page, so the size is a hint only. One byte
	// more than announced lets the read that finds the end of the file be the second one, where the first does not
	// bring exactly what was announced.
	data := make([]byte, 0, max(size+1, min(limit+1, 4096)))
	for {
		if int64(len(data)) > limit {
			return nil, fmt.Errorf("more than %d bytes", limit)
		}
		if len(data) == cap(data) {
			data = slices.Grow(data, len(data))
		}
		n, err := retry(func() (int, error) { return unix.Read(fd, data[len(data):cap(data)]) })
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		data = data[:len(data)+n]
		if int64(len(data)) == size {
			break // as announced: the end has not to be found
		}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, nil
}

// reason strips the name from an error of package os: ours carries the name already.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// unexpected is the error for a file of another kind than the one wanted.
func unexpected(mode uint32) error {
	switch mode {
	case unix.S_IFDIR:
		return syscall.EISDIR
	case unix.S_IFIFO:
		return errors.New("not a regular file but a named pipe")
	case unix.S_IFSOCK:
		return errors.New("not a regular file but a socket")
	case unix.S_IFCHR, unix.S_IFBLK:
		return errors.New("not a regular file but a device")
	}
	return errors.New("not a regular file")
}

// quote quotes text that we did not write, and shortens it to what one reads in a message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return fmt.Sprintf("%q", s)
}
