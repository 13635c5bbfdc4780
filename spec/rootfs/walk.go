// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	mostLinks = 40  // as in the kernel
	mostDepth = 256 // directories held open at a time
)

// walk does what openat2 does with RESOLVE_IN_ROOT where there is no openat2 (before Linux 5.6, or
// hidden by seccomp): it opens one component after the other without following links, and reads
// links as text. The directories passed through stay open, and ".." returns to the one we came
// from, not to what the kernel calls the parent, so moving a directory while we are in it cannot
// lead us out of the root. A magic link of /proc is just its text here.
func (f *FS) walk(rel string, directory, sameMount bool) (_ int, err error) {
	root, err := unix.Openat(f.root, ".", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, err
	}
	held := []int{root} // from the root to where we are
	back := func(n int) {
		for len(held) > n {
			unix.Close(held[len(held)-1])
			held = held[:len(held)-1]
		}
	}
	defer func() { back(0) }()

	links := 0
	for todo := rel; todo != ""; {
		var name string
		var more bool
		name, todo, more = strings.Cut(todo, "/")
		switch name {
		case "", ".":
			continue
		case "..":
			back(max(1, len(held)-1))
			continue
		}
		fd, err := unix.Openat(held[len(held)-1], name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, err
		}
		var st unix.Stat_t
		if err := unix.Fstat(fd, &st); err != nil {
			unix.Close(fd)
			return -1, err
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFDIR:
			held = append(held, fd)
			if len(held) > mostDepth {
				return -1, unix.ELOOP
			}
		case unix.S_IFLNK:
			target, err := readlink(fd, "")
			unix.Close(fd)
			if err != nil {
				return -1, err
			}
			if links++; links > mostLinks {
				return -1, unix.ELOOP
			}
			if target == "" {
				return -1, unix.ENOENT
			}
			if target[0] == '/' {
				back(1)
			}
			if more {
				target += "/" + todo
			}
			todo = target
		default:
			if more || directory {
				unix.Close(fd)
				return -1, unix.ENOTDIR
			}
			if err := f.checkMount(fd, sameMount); err != nil {
				unix.Close(fd)
				return -1, err
			}
			return fd, nil
		}
	}
	if err := f.checkMount(held[len(held)-1], sameMount); err != nil {
		return -1, err
	}
	fd := held[len(held)-1]
	held = held[:len(held)-1]
	return fd, nil
}

// checkMount returns EXDEV, as openat2 with RESOLVE_NO_XDEV does, if the handle is on another mount
// than the root. Device numbers do not tell: a bind mount may be of the same file system.
func (f *FS) checkMount(handle int, sameMount bool) error {
	if !sameMount {
		return nil
	}
	want, err := f.mountID(f.root)
	if err != nil {
		return err
	}
	got, err := f.mountID(handle)
	if err != nil {
		return err
	}
	if got != want {
		return unix.EXDEV
	}
	return nil
}

// mountID returns the ID of a handle's mount from /proc/self/fdinfo/N, where fs/proc/fd.c prints
// since Linux 3.15 a line like
//
//	mnt_id:	29
func (f *FS) mountID(handle int) (string, error) {
	proc, err := f.procfs()
	if err != nil {
		return "", err
	}
	fd, err := unix.Openat(proc, "../fdinfo/"+strconv.Itoa(handle), unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return "", err
	}
	defer unix.Close(fd)
	var buf [512]byte
	n, err := unix.Read(fd, buf[:])
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(buf[:n])) {
		if id, ok := strings.CutPrefix(line, "mnt_id:"); ok {
			return strings.TrimSpace(id), nil
		}
	}
	return "", unix.ENOTSUP
}
