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
// Everything on a machine is read through its Root. Links are resolved inside it: absolute links
// start at the root, and ".." stops there. Content below a root is trusted, its shape is not: only
// regular files are opened, and reads are limited.
//
// A Root is an [fs.FS] whose names are those of io/fs ("proc/devices", without a leading slash).
// [Root.Path], [Root.Resolve] and [Root.ReadFileMax] also take names with the slash.
type Root string

// MaxFile limits [Root.ReadFile], in bytes. The longest file that it reads, mig-minors, has 150
// KiB.
const MaxFile = 4 << 20

// maxLinks is the kernel's limit of symbolic links in one name.
const maxLinks = 40

// maxName limits names with their links resolved. The kernel's PATH_MAX is 4096.
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

// Path returns the host's name for a name below the root, without reading the disk. Links in it may
// lead out of the root: resolve the name first where that matters.
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

// Resolve follows every link of name inside the root and returns the absolute name inside the root.
// The result exists and has no links, so its Path is safe to use as long as the root does not
// change.
func (r Root) Resolve(name string) (string, error) {
	resolved, err := r.walk(name, true)
	if err != nil {
		return "", &fs.PathError{Op: "resolve", Path: r.Path(name), Err: err}
	}
	return resolved, nil
}

// ReadFileMax reads a regular file of at most limit bytes. Longer files are errors, and so are
// special files, which are not opened.
func (r Root) ReadFileMax(name string, limit int64) ([]byte, error) {
	data, err := r.read(name, limit)
	if err != nil {
		return nil, &fs.PathError{Op: "read", Path: r.Path(name), Err: err}
	}
	return data, nil
}

// ReadFile is [Root.ReadFileMax] with the limit [MaxFile], for names in the form of io/fs.
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
	// With O_DIRECTORY the kernel refuses pipes and devices before opening them.
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

// Stat describes the file without opening it. The name in the result is the one given.
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

// Lstat describes name itself, which may be a link; links in the directories before it are
// followed.
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

// ReadLink returns the target of the link name; links in the directories before it are followed.
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

// host reports whether the root is "/", where the kernel resolves links correctly.
func (r Root) host() bool { return r == "/" || r == "" }

// openat opens name inside the root. On roots other than "/" the kernel resolves links (openat2,
// Linux 5.6), or walk does.
func (r Root) openat(name string, flags int) (int, error) {
	flags |= unix.O_CLOEXEC
	if strings.IndexByte(name, 0) >= 0 {
		return -1, unix.EINVAL
	}
	if r.host() {
		return retry(func() (int, error) { return unix.Open("/"+name, flags, 0) })
	}
	// Most names have no links: one call suffices.
	if !strings.Contains(name, "..") {
		how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_NO_SYMLINKS}
		fd, err := retry(func() (int, error) { return unix.Openat2(unix.AT_FDCWD, string(r)+"/"+name, &how) })
		if err == nil || errors.Is(err, unix.ENOENT) {
			return fd, err
		}
	}
	root, err := retry(func() (int, error) {
		return unix.Open(string(r), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	})
	if err != nil {
		return -1, err
	}
	defer unix.Close(root)
	how := unix.OpenHow{Flags: uint64(flags), Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS}
	fd, err := retry(func() (int, error) { return unix.Openat2(root, name, &how) })
	// A seccomp profile that does not know the call may return EPERM.
	if !errors.Is(err, unix.ENOSYS) && !errors.Is(err, unix.EPERM) {
		return fd, err
	}
	resolved, err := r.walk(name, true)
	if err != nil {
		return -1, err
	}
	return retry(func() (int, error) { return unix.Open(r.Path(resolved), flags|unix.O_NOFOLLOW, 0) })
}

// retry repeats a system call that a signal interrupted, and one that lost against a rename
// (openat2).
func retry(call func() (int, error)) (int, error) {
	const most = 100
	for tries := 0; ; tries++ {
		n, err := call()
		if !errors.Is(err, unix.EINTR) && (!errors.Is(err, unix.EAGAIN) || tries == most) {
			return n, err
		}
	}
}

// selfFD is a name for an open descriptor.
func selfFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

// parent returns a host name for name whose directories are resolved in the root, while its last
// component is not.
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

// walk resolves name component by component; the last one only if last is set.
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

// open opens name if its mode is accepted, and returns its size. It uses O_PATH to check the file
// before it opens it.
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
	// Files of procfs and sysfs have a size of 0 or a page, so the size is only a hint. One byte
	// more lets the second read find the end of the file.
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
			break // exactly the announced size
		}
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("more than %d bytes", limit)
	}
	return data, nil
}

// reason strips the name from an error of package os; ours has it already.
func reason(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// unexpected returns an error that names the type of a special file.
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

// quote quotes and shortens foreign text for a message.
func quote(s string) string {
	const limit = 100
	if len(s) > limit {
		return fmt.Sprintf("%q… (%d bytes)", s[:limit], len(s))
	}
	return fmt.Sprintf("%q", s)
}
