// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// ReadFile returns the content of a regular file of at most max bytes. Symbolic links are resolved
// in the root.
//
// A file that cannot be used counts as absent, so every error is also an [fs.ErrNotExist]; its text
// says why, for a debug line. This covers a missing file, anything but a regular file, and a file
// that is too large, unreadable, or shrinks while being read.
func (f *FS) ReadFile(name string, max int64) ([]byte, error) {
	data, err := f.readFile(name, max)
	if err != nil {
		return nil, absent(name, err)
	}
	return data, nil
}

func (f *FS) readFile(name string, max int64) (_ []byte, err error) {
	defer func() { f.blame(err) }()
	handle, err := f.open(name, 0, false)
	if err != nil {
		return nil, err
	}
	defer unix.Close(handle)
	file, size, err := f.reopen(handle, max)
	if err != nil {
		return nil, err
	}
	defer unix.Close(int(file))
	data := make([]byte, size)
	if n, err := file.ReadAt(data, 0); n < len(data) {
		return nil, fmt.Errorf("reading: %w", err)
	}
	return data, nil
}

// ReadDir returns the names in a directory, sorted, without "." and "..". More than max entries are
// an error, which is also an [fs.ErrNotExist], as in [FS.ReadFile].
func (f *FS) ReadDir(name string, max int) ([]string, error) {
	handle, err := f.open(name, unix.O_DIRECTORY, false)
	if err != nil {
		return nil, absent(name, err)
	}
	defer unix.Close(handle)
	entries, err := readDir(handle, max)
	if err != nil {
		f.blame(err)
		return nil, absent(name, err)
	}
	names := make([]string, 0, len(entries))
	for _, e := range entries {
		names = append(names, e.name)
	}
	return names, nil
}

// IsDir reports whether name is a directory. Symbolic links are resolved in the root.
func (f *FS) IsDir(name string) bool {
	handle, err := f.open(name, unix.O_DIRECTORY, false)
	if err != nil {
		return false
	}
	unix.Close(handle)
	return true
}

// Kind returns the type and permissions of name, after resolving symbolic links in the root. It
// returns false if there is nothing, or nothing that can be examined.
func (f *FS) Kind(name string) (_ fs.FileMode, there bool) {
	handle, err := f.open(name, 0, false)
	if err != nil {
		return 0, false
	}
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		f.blame(err)
		return 0, false
	}
	return fileMode(st.Mode), true
}

// ReadOnly reports whether the root's file system is mounted read-only.
func (f *FS) ReadOnly() bool {
	var st unix.Statfs_t
	return unix.Fstatfs(f.root, &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// Size returns the size of a regular file without opening it. Symbolic links are resolved in the
// root. As in [FS.ReadFile] every error is an [fs.ErrNotExist].
func (f *FS) Size(name string) (int64, error) {
	handle, err := f.open(name, 0, false)
	if err != nil {
		return 0, absent(name, err)
	}
	defer unix.Close(handle)
	var st unix.Stat_t
	if err := unix.Fstat(handle, &st); err != nil {
		f.blame(err)
		return 0, absent(name, err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return 0, absent(name, fmt.Errorf("is %s, not a regular file", kind(fileMode(st.Mode))))
	}
	return st.Size, nil
}

// IsRegular reports whether name is a regular file, without opening it for reading. Symbolic links
// are resolved in the root.
func (f *FS) IsRegular(name string) bool {
	_, err := f.Size(name)
	return err == nil
}

func absent(name string, reason error) error {
	if errors.Is(reason, fs.ErrNotExist) {
		return fmt.Errorf("%s in the root filesystem: %w", quote(name), reason)
	}
	return fmt.Errorf("%s in the root filesystem: %w (taken as: %w)", quote(name), reason, fs.ErrNotExist)
}

// file is a descriptor open for reading. It is not an os.File, which would register it with the
// poller because of O_NONBLOCK.
type file int

// ReadAt implements [io.ReaderAt].
func (f file) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(int(f), p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err != nil:
			return done, err
		case n == 0:
			return done, io.EOF
		default:
			done += n
		}
	}
	return done, nil
}

// reopen opens the object of an O_PATH handle for reading, after checking that it is a regular file
// of at most max bytes, and returns its size. O_NONBLOCK is for files with a lease.
func (f *FS) reopen(handle int, max int64) (_ file, _ int64, err error) {
	defer func() { f.blame(err) }()
	var held, st unix.Stat_t
	if err := unix.Fstat(handle, &held); err != nil {
		return -1, 0, err
	}
	if held.Mode&unix.S_IFMT != unix.S_IFREG {
		return -1, 0, fmt.Errorf("is %s, not a regular file", kind(fileMode(held.Mode)))
	}
	if held.Size > max {
		return -1, 0, fmt.Errorf("has %d bytes, more than %d", held.Size, max)
	}
	proc, err := f.procfs()
	if err != nil {
		return -1, 0, err
	}
	fd, err := openat(proc, strconv.Itoa(handle), unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return -1, 0, err
	}
	switch err := unix.Fstat(fd, &st); {
	case err != nil:
		unix.Close(fd)
		return -1, 0, err
	case st.Dev != held.Dev || st.Ino != held.Ino || st.Mode&unix.S_IFMT != unix.S_IFREG:
		unix.Close(fd)
		return -1, 0, errors.New("/proc/self/fd led to another file")
	case st.Size > max:
		unix.Close(fd)
		return -1, 0, fmt.Errorf("has %d bytes, more than %d", st.Size, max)
	}
	return file(fd), st.Size, nil
}

// entry is a name in a directory and its DT_ type, which may be DT_UNKNOWN.
type entry struct {
	name string
	kind byte
}

// readDir lists the directory of a handle, sorted by name. It fails if there are more than max
// entries.
func readDir(handle, max int) ([]entry, error) {
	fd, err := openat(handle, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var entries []entry
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err == unix.EINTR {
			continue
		}
		if err != nil {
			return nil, err
		}
		if n == 0 {
			break
		}
		entries = parseDirents(entries, buf[:n])
		if len(entries) > max {
			return nil, fmt.Errorf("has more than %d entries", max)
		}
	}
	slices.SortFunc(entries, func(a, b entry) int {
		return bytes.Compare([]byte(a.name), []byte(b.name))
	})
	return entries, nil
}

// parseDirents parses what getdents64(2) wrote: inode u64, offset u64, record length u16, type u8,
// name up to a NUL.
func parseDirents(entries []entry, buf []byte) []entry {
	const header = 19
	for len(buf) > header {
		size := int(binary.NativeEndian.Uint16(buf[16:]))
		if size <= header || size > len(buf) {
			break
		}
		name, _, _ := bytes.Cut(buf[header:size], []byte{0})
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, entry{name: s, kind: buf[18]})
		}
		buf = buf[size:]
	}
	return entries
}
