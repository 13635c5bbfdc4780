// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package rootfs reads and writes files inside a container's root filesystem, and never outside.
//
// Every byte of such a tree comes from an image, and another container may be changing the tree
// while we look. So [Open] opens the root once, as a handle; the kernel resolves every name below
// that handle; and only what was opened is used. The main methods are [FS.ReadFile], [FS.Link] and
// [FS.Update].
//
// # Guarantees
//
//   - A symbolic link, absolute or with any number of "..", leads below the root or nowhere. Links
//     of /proc that are not paths ("magic links") are not followed.
//   - Only regular files are opened for reading: an object is first held by a handle that does not
//     open it (O_PATH), examined, and then that same object is reopened. A FIFO does not block, a
//     device is not touched, and a file over the size limit is not read.
//   - Only new objects are written: they are created exclusively in a directory that is held open,
//     or replace another one by rename. No existing object is truncated, and none has its mode or
//     owner changed. The last component of a name is never followed.
//   - Nothing is written if the root is the machine's own "/", nor to another file system mounted
//     somewhere below the root: a bind mount there may be a directory of the host.
//   - All descriptors are close-on-exec.
//
// Not guaranteed: that an object is not replaced between two of our calls. All an attacker gets is
// a link or a file of ours in a directory that they could write to anyway.
//
// # Why not a library
//
// Two ways passed the hostile cases of the tests: github.com/cyphar/filepath-securejoin/pathrs-lite
// v0.7.0, and calling openat2(2) with RESOLVE_IN_ROOT and RESOLVE_NO_MAGICLINKS here. Counted with
// strace on Linux 6.18, opening a file through the library and reopening it for reading takes about
// 26 system calls (50 the first time, when it mounts its own procfs); here it takes 4 (6 the first
// time). The library adds 250 KiB to a stripped static binary of 2 MiB; the calls add 12 KiB. The
// library cannot express "not into another mount", which writing needs, and can neither create a
// link nor replace a file. Its own procfs protects against a fake /proc, which in the host's mount
// namespace is trusted; here /proc is checked to be a procfs, and the reopened object to be the one
// that was examined. What remains in the library's favor is its walk for kernels before 5.6 and for
// seccomp profiles that do not know openat2. Here that is a short function (walk.go), and both ways
// pass the same tests.
package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrHostRoot is returned by everything that writes if the root filesystem is the machine's own
// "/", under any name.
var ErrHostRoot = errors.New("the root filesystem is that of the host")

// FS is a container's root filesystem, held by a handle. It is not safe for concurrent use.
//
// Names passed to its methods are paths in the container, with or without a leading slash. They are
// cleaned lexically before use.
type FS struct {
	root int   // O_PATH handle of the root
	host bool  // the root is this process's "/"
	proc int   // O_PATH handle of /proc/self/fd, -1 until needed
	self Owner // owner of what this process creates

	walkOnly bool // the kernel, or its seccomp profile, has no openat2

	dir     int    // O_PATH handle of the directory last written to, -1 if none
	dirName string // its name

	fault error // see Fault
}

// Owner is the user and group that will own what is created, as IDs of our own namespace: for a
// container with a user namespace, those that its root is mapped to.
type Owner struct{ UID, GID int }

// An OccupiedError says that the name to write is taken by something else than a symbolic link or,
// for a file, a regular file, and was left alone.
type OccupiedError struct {
	Name string      // path in the container
	Mode fs.FileMode // type and permissions of the existing object
	Size int64       // in bytes; an empty regular file may be left from an earlier mount
}

func (e *OccupiedError) Error() string {
	return fmt.Sprintf("%s is taken by %s", quote(e.Name), kind(e.Mode))
}

// Open opens a directory as a root filesystem. The path must be absolute; symbolic links in it are
// followed, since it comes from the engine and not from the image.
func Open(dir string) (_ *FS, err error) {
	if !filepath.IsAbs(dir) {
		return nil, fmt.Errorf("opening root filesystem %s: path is not absolute", quote(dir))
	}
	root, err := openat(unix.AT_FDCWD, dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, fmt.Errorf("opening root filesystem %s: %w", quote(dir), err)
	}
	var st, host unix.Stat_t
	if err = unix.Fstat(root, &st); err == nil {
		err = unix.Stat("/", &host)
	}
	if err != nil {
		unix.Close(root)
		return nil, fmt.Errorf("examining root filesystem %s: %w", quote(dir), err)
	}
	return &FS{
		root: root,
		host: st.Dev == host.Dev && st.Ino == host.Ino,
		self: Owner{UID: os.Geteuid(), GID: os.Getegid()},
		proc: -1,
		dir:  -1,
	}, nil
}

// Close closes all handles.
func (f *FS) Close() error {
	f.forget()
	if f.proc >= 0 {
		unix.Close(f.proc)
	}
	err := unix.Close(f.root)
	f.root, f.proc = -1, -1
	return err
}

// IsHost reports whether the root filesystem is the machine's own "/", which is never written to.
func (f *FS) IsHost() bool { return f.host }

// Fault returns the first error while reading that no image can cause: a failing disk, or a machine
// out of memory or descriptors. What was taken for absent may exist then.
func (f *FS) Fault() error { return f.fault }

// blame records an error for Fault if no image can cause it.
func (f *FS) blame(err error) {
	var errno unix.Errno
	if f.fault != nil || !errors.As(err, &errno) {
		return
	}
	switch errno {
	case unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.ENAMETOOLONG, unix.EACCES, unix.EPERM, unix.EXDEV, unix.EISDIR,
		unix.EINVAL, unix.ENXIO, unix.ENODEV, unix.EOVERFLOW, unix.ETXTBSY, unix.EAGAIN, unix.EBUSY, unix.ESTALE,
		unix.EOPNOTSUPP, unix.ENOTCONN, unix.ENOSYS:
	default:
		f.fault = err
	}
}

// uninterrupted repeats a call that was interrupted by a signal: on FUSE and network file systems
// even a lookup can be, whatever the signal's flags.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}

// openat opens a name, close-on-exec.
func openat(dir int, name string, flags int, perm uint32) (fd int, err error) {
	err = uninterrupted(func() error {
		fd, err = unix.Openat(dir, name, flags|unix.O_CLOEXEC, perm)
		return err
	})
	return fd, err
}

// eagain bounds how often a lookup that was disturbed by a rename elsewhere on the machine is
// repeated. Then the walk takes over, which cannot be disturbed.
const eagain = 16

// open returns an O_PATH handle of a name below the root, with all symbolic links resolved. flags
// may be O_DIRECTORY; sameMount rejects what is not on the root's mount.
func (f *FS) open(name string, flags int, sameMount bool) (_ int, err error) {
	defer func() { f.blame(err) }()
	rel, err := relative(name)
	if err != nil {
		return -1, err
	}
	how := unix.OpenHow{
		Flags:   uint64(unix.O_PATH | unix.O_CLOEXEC | flags),
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	}
	if sameMount {
		how.Resolve |= unix.RESOLVE_NO_XDEV
	}
	for range eagain {
		if f.walkOnly {
			break
		}
		fd, err := unix.Openat2(f.root, rel, &how)
		switch err {
		case nil:
			return fd, nil
		case unix.EAGAIN, unix.EINTR:
		case unix.ENOSYS, unix.EPERM: // old seccomp profiles answer EPERM to unknown calls
			f.walkOnly = true
		default:
			return -1, err
		}
	}
	return f.walk(rel, flags&unix.O_DIRECTORY != 0, sameMount)
}

// procfs returns a handle of /proc/self/fd, after checking that it is on a procfs.
func (f *FS) procfs() (int, error) {
	if f.proc >= 0 {
		return f.proc, nil
	}
	fd, err := openat(unix.AT_FDCWD, "/proc/self/fd", unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return -1, fmt.Errorf("opening /proc/self/fd: %w", err)
	}
	var st unix.Statfs_t
	if err := unix.Fstatfs(fd, &st); err != nil {
		unix.Close(fd)
		return -1, fmt.Errorf("examining /proc/self/fd: %w", err)
	}
	if int64(st.Type) != unix.PROC_SUPER_MAGIC {
		unix.Close(fd)
		return -1, errors.New("/proc is not a procfs")
	}
	f.proc = fd
	return fd, nil
}

// realName returns the path in the container of an open handle, according to the kernel.
func (f *FS) realName(handle int) (_ string, err error) {
	defer func() { f.blame(err) }()
	proc, err := f.procfs()
	if err != nil {
		return "", err
	}
	root, err := readlink(proc, strconv.Itoa(f.root))
	if err != nil {
		return "", err
	}
	name, err := readlink(proc, strconv.Itoa(handle))
	if err != nil {
		return "", err
	}
	if root == "/" {
		root = ""
	}
	rest, ok := strings.CutPrefix(name, root)
	switch {
	case !ok:
		return "", errors.New("no longer below the root filesystem")
	case rest == "":
		return "/", nil
	case rest[0] != '/':
		return "", errors.New("no longer below the root filesystem")
	}
	return rest, nil
}

// readlink returns the target of a symbolic link, or EINVAL if it is not one.
func readlink(dir int, name string) (string, error) {
	var buf [unix.PathMax]byte
	var n int
	err := uninterrupted(func() (err error) {
		n, err = unix.Readlinkat(dir, name, buf[:])
		return err
	})
	if err != nil {
		return "", err
	}
	if n == len(buf) {
		return "", unix.ENAMETOOLONG
	}
	return string(buf[:n]), nil
}

// relative cleans a name and strips its leading slash: "/etc//x" is "etc/x", "/" is ".".
func relative(name string) (string, error) {
	if strings.IndexByte(name, 0) >= 0 {
		return "", unix.EINVAL
	}
	if len(name) >= unix.PathMax {
		return "", unix.ENAMETOOLONG
	}
	rel := path.Clean("/" + name)[1:]
	if rel == "" {
		return ".", nil
	}
	return rel, nil
}

// base checks that a name is a single component, and not one with a special meaning.
func base(name string) error {
	if name == "" || name == "." || name == ".." || strings.ContainsAny(name, "/\x00") {
		return fmt.Errorf("%s is not the name of a file", quote(name))
	}
	return nil
}

// fileMode converts type and permissions of a kernel st_mode.
func fileMode(mode uint32) fs.FileMode {
	m := fs.FileMode(mode & 0o777)
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		m |= fs.ModeDir
	case unix.S_IFLNK:
		m |= fs.ModeSymlink
	case unix.S_IFIFO:
		m |= fs.ModeNamedPipe
	case unix.S_IFSOCK:
		m |= fs.ModeSocket
	case unix.S_IFCHR:
		m |= fs.ModeDevice | fs.ModeCharDevice
	case unix.S_IFBLK:
		m |= fs.ModeDevice
	}
	return m
}

// kind describes the type of a file in a message.
func kind(mode fs.FileMode) string {
	switch mode.Type() {
	case 0:
		return "a regular file"
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a link"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// quote quotes a name chosen by an image for a message.
func quote(s string) string {
	const most = 100
	if len(s) > most {
		return strconv.Quote(s[:most]) + "…"
	}
	return strconv.Quote(s)
}
