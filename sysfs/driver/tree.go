// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import (
	"io/fs"
	"os"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// maxLinks is how many links one name may lead through, as in the kernel.
const maxLinks = 40

// node is what a name inside the root leads to. The zero node is a name that leads nowhere.
type node struct {
	path string      // absolute name inside the root, free of links
	mode fs.FileMode // the type; the permissions only if info is set
	info fs.FileInfo // nil if only the directory's listing was read
}

func (n node) isDir() bool     { return n.path != "" && n.mode.IsDir() }
func (n node) isRegular() bool { return n.path != "" && n.mode.IsRegular() }

// tree looks names up below a root and remembers what it saw: each directory entry is looked at
// once and each directory is listed at most once, however many names lead through them. What
// [sysfs.Root.Resolve] does for one name, tree does for the hundreds that a search tries.
type tree struct {
	root     sysfs.Root
	nodes    map[string]node          // by name: real directory, slash, entry
	listings map[string][]fs.DirEntry // by real directory, sorted by name
}

func newTree(root sysfs.Root) *tree {
	return &tree{root: root, nodes: make(map[string]node), listings: make(map[string][]fs.DirEntry)}
}

// lookup follows an absolute name to its end.
func (t *tree) lookup(name string) node {
	return t.walk("/", name, 0)
}

// walk follows name from dir, which is free of links.
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

// entry follows one entry of dir, which is free of links.
func (t *tree) entry(dir, base string, links int) node {
	name := path.Join(dir, base)
	if known, ok := t.nodes[name]; ok {
		return known
	}
	found := node{path: name}
	if listing, ok := t.listings[dir]; ok {
		i, ok := slices.BinarySearchFunc(listing, base, func(e fs.DirEntry, base string) int {
			return strings.Compare(e.Name(), base)
		})
		if !ok {
			return node{} // not kept: the listing knows
		}
		found.mode = listing[i].Type()
	} else if info, err := os.Lstat(t.root.Path(name)); err == nil {
		found.mode, found.info = info.Mode(), info
	} else {
		found = node{}
	}
	if found.mode&fs.ModeSymlink != 0 {
		found = node{}
		if target, err := os.Readlink(t.root.Path(name)); err == nil && target != "" && links < maxLinks {
			found = t.walk(dir, target, links+1)
		}
	}
	t.nodes[name] = found
	return found
}

// list returns the sorted entries of a directory that is free of links, none if it cannot be read.
func (t *tree) list(dir string) []fs.DirEntry {
	if listing, ok := t.listings[dir]; ok {
		return listing
	}
	// ReadDir opens with O_DIRECTORY: should the directory have been replaced by a
	// named pipe or a device since, the kernel refuses to open it.
	listing, err := os.ReadDir(t.root.Path(dir))
	if err != nil {
		listing = nil
	}
	t.listings[dir] = listing
	return listing
}

// has reports whether a directory that is free of links has the entry base, of any type.
func (t *tree) has(dir, base string) bool {
	_, ok := slices.BinarySearchFunc(t.list(dir), base, func(e fs.DirEntry, base string) int {
		return strings.Compare(e.Name(), base)
	})
	return ok
}

// stat completes a node with permissions and owner.
func (t *tree) stat(n node) (fs.FileInfo, bool) {
	if n.info != nil {
		return n.info, true
	}
	info, err := os.Lstat(t.root.Path(n.path))
	return info, err == nil
}
