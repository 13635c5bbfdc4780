// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// maxLinks is the kernel's limit of symbolic links in one path.
const maxLinks = 40

// maxPath is the kernel's PATH_MAX.
const maxPath = 4096

// node is what a path inside the root resolves to. The zero node is a path that does not resolve.
type node struct {
	path string      // absolute path inside the root, without symbolic links
	mode fs.FileMode // the type; the permissions only after stat
	uid  uint32      // only after stat
	full bool        // stat was called; otherwise only the directory listing is known
}

func (n node) isDir() bool     { return n.path != "" && n.mode.IsDir() }
func (n node) isRegular() bool { return n.path != "" && n.mode.IsRegular() }

// tree resolves paths below a root and caches what it saw: each directory entry is examined once
// and each directory listed at most once, however many paths lead through them. It is
// [sysfs.Root.Resolve] for the hundreds of paths that a search tries.
type tree struct {
	root     sysfs.Root
	prefix   string                   // of paths inside the root, on the host
	nodes    map[string]node          // by path: real directory, slash, entry
	listings map[string][]fs.DirEntry // by real directory, sorted by name
	fault    error                    // the first error that does not mean "absent"
	notes    []string                 // what the operator may want to know
}

func newTree(root sysfs.Root) *tree {
	return &tree{
		root: root, prefix: strings.TrimSuffix(root.Path("/"), "/"),
		nodes: make(map[string]node), listings: make(map[string][]fs.DirEntry),
	}
}

// blame records an error that says nothing about the root's content: a failing disk, or a machine
// out of memory or descriptors. Otherwise a file of the driver would silently be taken for absent.
func (t *tree) blame(err error) {
	for _, absent := range []error{
		fs.ErrNotExist, fs.ErrPermission, syscall.ENOTDIR, syscall.ELOOP, syscall.ENAMETOOLONG,
		syscall.EINVAL, // no longer a symbolic link, or a name that the file system does not support
	} {
		if errors.Is(err, absent) {
			return
		}
	}
	if t.fault == nil {
		t.fault = err
	}
}

// note records a sentence for the operator, once. Errors of system calls in it are blamed.
func (t *tree) note(format string, args ...any) {
	for _, arg := range args {
		var errno syscall.Errno
		if err, ok := arg.(error); ok && errors.As(err, &errno) {
			t.blame(err)
		}
	}
	if text := fmt.Sprintf(format, args...); !slices.Contains(t.notes, text) {
		t.notes = append(t.notes, text)
	}
}

// lookup resolves an absolute path.
func (t *tree) lookup(name string) node {
	return t.walk("/", name, 0)
}

// walk resolves name relative to dir, which has no symbolic links.
func (t *tree) walk(dir, name string, links int) node {
	at := node{path: dir, mode: fs.ModeDir}
	if path.IsAbs(name) {
		at.path = "/"
	}
	for part := range strings.SplitSeq(name, "/") {
		switch {
		case !at.isDir():
			return node{}
		case part == "" || part == ".":
		case part == "..":
			at = node{path: path.Dir(at.path), mode: fs.ModeDir}
		default:
			at = t.entry(at.path, part, links)
		}
	}
	return at
}

// entry resolves an entry of dir, which has no symbolic links.
func (t *tree) entry(dir, base string, links int) node {
	name := dir + "/" + base
	if dir == "/" {
		name = dir + base
	}
	if known, ok := t.nodes[name]; ok {
		return known
	}
	found := node{path: name}
	if listing, ok := t.listings[dir]; ok {
		i, ok := slices.BinarySearchFunc(listing, base, func(e fs.DirEntry, base string) int {
			return strings.Compare(e.Name(), base)
		})
		if !ok {
			return node{} // not cached: the listing knows
		}
		found.mode = listing[i].Type()
	} else if found, ok = t.stat(found); !ok {
		found = node{}
	}
	if found.mode&fs.ModeSymlink != 0 {
		found = node{}
		var buf [maxPath]byte
		var n int
		err := uninterrupted(func() (err error) {
			n, err = syscall.Readlink(t.prefix+name, buf[:])
			return err
		})
		switch {
		case err != nil:
			t.blame(err)
		case n > 0 && n < len(buf) && links < maxLinks:
			found = t.walk(dir, string(buf[:n]), links+1)
		}
	}
	t.nodes[name] = found
	return found
}

// list returns the sorted entries of a directory without symbolic links in its path, nil if it
// cannot be read.
func (t *tree) list(dir string) []fs.DirEntry {
	if listing, ok := t.listings[dir]; ok {
		return listing
	}
	// ReadDir opens with O_DIRECTORY: if a named pipe or a device has replaced the directory, the
	// kernel refuses to open it.
	listing, err := os.ReadDir(t.prefix + dir)
	if err != nil {
		t.blame(err)
		listing = nil
	}
	t.listings[dir] = listing
	return listing
}

// has reports whether a directory without symbolic links in its path has the entry base, of any
// type.
func (t *tree) has(dir, base string) bool {
	_, ok := slices.BinarySearchFunc(t.list(dir), base, func(e fs.DirEntry, base string) int {
		return strings.Compare(e.Name(), base)
	})
	return ok
}

// stat adds permissions and owner to a node; it returns false if the file does not exist.
func (t *tree) stat(n node) (node, bool) {
	if n.full {
		return n, true
	}
	var st syscall.Stat_t
	if err := uninterrupted(func() error { return syscall.Lstat(t.prefix+n.path, &st) }); err != nil {
		t.blame(err)
		return node{}, false
	}
	n.mode, n.uid, n.full = fs.FileMode(st.Mode&0o777), st.Uid, true
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
	case syscall.S_IFDIR:
		n.mode |= fs.ModeDir
	case syscall.S_IFLNK:
		n.mode |= fs.ModeSymlink
	case syscall.S_IFSOCK:
		n.mode |= fs.ModeSocket
	case syscall.S_IFIFO:
		n.mode |= fs.ModeNamedPipe
	default:
		n.mode |= fs.ModeDevice
	}
	return n, true
}

// uninterrupted repeats a call that was interrupted by a signal, which can happen on FUSE and
// network file systems.
func uninterrupted(call func() error) error {
	for {
		if err := call(); !errors.Is(err, syscall.EINTR) {
			return err
		}
	}
}
