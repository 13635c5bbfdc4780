// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package linkdir maintains directories of hard links to the driver's files, so that a container
// gets the whole driver with one mount instead of one per file. The main function is [Make].
//
// # Layout
//
//	/usr/lib/nvidia-container-runtime/             the base, 0755 root:root
//	  boot-4d7a…-8c1e/                             one directory per boot of the machine
//	    550.54.15-9f86d081884c7d65…/               one per set of files, created once, never changed
//	      libcuda.so.550.54.15                     hard link
//	      libcuda.so.1 -> libcuda.so.550.54.15     symbolic link
//	      bin/nvidia-smi                           hard link
//	      share/10-container.conf                  file of our own
//	    .new-5577006791947779410/                  one under construction
//
// A directory holds exactly the requested files: containers share one only if they get the same
// files, so a container never sees a file of a driver capability that it did not get. The
// directory's name is the driver's version and a hash of each file's name and its device, inode,
// size and modification time, its target or its content, and the label: when a package replaces a
// file, the next container gets another directory.
//
// # Creating a directory
//
// A directory is built under a temporary name in the same parent, checked against its sources,
// sealed, and renamed. If another process was faster, the result is removed and the other's is
// used. There is no lock, so no start waits for another. Nothing has to reach the disk: no
// directory from before a crash is used after it.
//
// # Checking a directory
//
// Every call checks, even for an existing directory, that each directory from "/" down is owned by
// root (or our own user) and writable by nobody else, except for sticky ones like /tmp above the
// base; that the base and everything below has permissions 0755; and that each directory of the set
// still has the modification time that sealed it, so nothing was added, removed or renamed in it.
// Its links led to the sources when it was created, and the sources are part of its name. This
// takes one stat per source and about a dozen other system calls. A directory that fails the check
// is an error, and is left alone: containers may use it.
//
// # Removing a directory
//
// No container survives a reboot. So creating a directory removes those of other boots, if the
// clock says that they were last changed before this boot: a system started by systemd-nspawn has
// another boot ID, but the host's clock. Until then the links keep the files of an uninstalled
// driver: their disk space is freed by the next reboot and the next start of a container. An
// operator may remove the base at any time when there is no container with a GPU.
//
// # What is rejected
//
// File systems other than those of [fileSystems]: overlayfs would copy a library for each link.
// Files with a set-user-ID or set-group-ID bit, which a link would keep alive after an update.
// Files on another file system than the base. More than [mostDirs] directories in one boot. In each
// case, and if the kernel refuses (a read-only or full file system, a file of another user under
// fs.protected_hardlinks), [Make] returns an error and removes what it has created.
package linkdir

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"io/fs"
	"math/rand/v2"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// mostDirs limits the directories of one boot. There are 127 sets of driver capabilities.
const mostDirs = 512

// fileSystems are those with proper hard links, by f_type of statfs(2).
var fileSystems = [...]int64{
	unix.BTRFS_SUPER_MAGIC,
	unix.EXT4_SUPER_MAGIC, // ext2 and ext3 too
	unix.F2FS_SUPER_MAGIC,
	unix.TMPFS_MAGIC,
	unix.XFS_SUPER_MAGIC,
	0x2fc12fc1, // ZFS
}

// File is an entry of a directory: a hard link to Source, a symbolic link to Target, or a file with
// Data.
type File struct {
	Name   string // "libcuda.so.550.54.15", "bin/nvidia-smi"
	Source string // absolute path on the host, without symbolic links
	Target string // "libcuda.so.550.54.15", in the same directory
	Data   []byte
}

// Set is the content of a directory.
type Set struct {
	Version string // of the driver, "550.54.15"; starts the directory's name
	Files   []File
	// Label is the SELinux label (security.selinux) of what is created: directories, symbolic links
	// and files with Data. "" leaves it to the policy. Sources keep theirs. Failing to set it is not
	// an error: a kernel without SELinux may refuse, and does not need it.
	Label string
}

// Boot is a boot of the machine.
type Boot struct {
	ID   string    // /proc/sys/kernel/random/boot_id: "4d7a2c9e-3f1b-4c6d-9a58-0e7f6b2d8c1e"
	Time time.Time // when it was
}

// ThisBoot reads /proc/sys/kernel/random/boot_id, which drivers/char/random.c generates once per
// boot, and the clock.
func ThisBoot() (Boot, error) {
	const name = "/proc/sys/kernel/random/boot_id"
	var data [64]byte
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0) // os.ReadFile would start the poller
	if err != nil {
		return Boot{}, fmt.Errorf("reading the boot ID: %w", &fs.PathError{Op: "open", Path: name, Err: err})
	}
	defer done(fd)
	n, err := unix.Read(fd, data[:])
	if err != nil {
		return Boot{}, fmt.Errorf("reading the boot ID: %w", &fs.PathError{Op: "read", Path: name, Err: err})
	}
	id := strings.TrimSpace(string(data[:n]))
	if !isUUID(id) {
		return Boot{}, fmt.Errorf("reading the boot ID: %s: %.100q is not a UUID", name, id)
	}
	var up unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &up); err != nil {
		return Boot{}, fmt.Errorf("reading the boot time: %w", err)
	}
	return Boot{ID: id, Time: time.Now().Add(-time.Duration(up.Nano()))}, nil
}

func isUUID(s string) bool {
	if len(s) != 36 {
		return false
	}
	for i, c := range []byte(s) {
		dash := i == 8 || i == 13 || i == 18 || i == 23
		if dash != (c == '-') || !dash && !strings.ContainsRune("0123456789abcdef", rune(c)) {
			return false
		}
	}
	return true
}

const bootPrefix = "boot-"

// Make returns the directory of a set below base, and creates it if it does not exist. The
// parent of base must exist; the path must be absolute and without symbolic links.
func Make(base string, boot Boot, want Set) (string, error) {
	dir, there, err := Find(base, boot, want)
	if err != nil || there {
		return dir, err
	}
	if err := build(base, boot, want); err != nil {
		return "", fmt.Errorf("directory of links below %q: %w", base, err)
	}
	dir, there, err = Find(base, boot, want)
	if err == nil && !there {
		err = fmt.Errorf("directory of links below %q: another process removes what was just created", base)
	}
	if err != nil {
		return "", err
	}
	return dir, nil
}

// Find is [Make] without creating anything: if the directory does not exist, it returns its name
// and false.
func Find(base string, boot Boot, want Set) (_ string, there bool, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("directory of links below %q: %w", base, err)
		}
	}()
	if !path.IsAbs(base) || path.Clean(base) != base || base == "/" {
		return "", false, errors.New("not an absolute, clean path")
	}
	if !isUUID(boot.ID) || strings.ContainsAny(want.Version, "/\x00") || len(want.Version) > 64 {
		return "", false, fmt.Errorf("boot %.100q, version %.100q: cannot be part of a name", boot.ID, want.Version)
	}
	s, err := newSet(want)
	if err != nil {
		return "", false, err
	}
	if err := checkAbove(path.Dir(base), s.device); err != nil {
		return "", false, err
	}
	bootDir := path.Join(base, bootPrefix+boot.ID)
	dir := path.Join(bootDir, s.name)
	for _, d := range []string{base, bootDir, dir} {
		var st unix.Stat_t
		err := unix.Lstat(d, &st)
		if errors.Is(err, unix.ENOENT) {
			return dir, false, nil
		}
		if err == nil {
			err = checkOwn(&st)
		}
		if err != nil {
			return "", false, about(d, err)
		}
	}
	if err := s.verify(dir); err != nil {
		return "", false, about(dir, err)
	}
	return dir, true, nil
}

// about adds a path to an error.
func about(name string, err error) error {
	var path *fs.PathError
	if err == nil || errors.As(err, &path) {
		return err
	}
	return &fs.PathError{Op: "checking", Path: name, Err: err}
}

// set is a set of files in their current state.
type set struct {
	Set
	name   string        // of the directory
	stats  []unix.Stat_t // of the sources
	dirs   []string      // subdirectories
	device uint64
}

func newSet(want Set) (set, error) {
	s := set{Set: want, stats: make([]unix.Stat_t, len(want.Files))}
	var key []byte
	first := ""
	for i, f := range want.Files {
		dir, base, below := strings.Cut(f.Name, "/")
		if !fs.ValidPath(f.Name) || f.Name == "." || strings.HasPrefix(f.Name, ".") || strings.ContainsAny(base, "/") ||
			strings.Contains(f.Name+f.Target, "\x00") || strings.Contains(f.Target, "/") {
			return set{}, fmt.Errorf("%.100q is not a valid name", f.Name)
		}
		if below && !slices.Contains(s.dirs, dir) {
			s.dirs = append(s.dirs, dir)
		}
		key = append(append(append(key, f.Name...), 0), f.Target...)
		key = append(append(append(key, 0), f.Data...), 0)
		if f.Source == "" {
			continue
		}
		st := &s.stats[i]
		if err := unix.Lstat(f.Source, st); err != nil {
			return set{}, &fs.PathError{Op: "lstat", Path: f.Source, Err: err}
		}
		switch {
		case st.Mode&unix.S_IFMT != unix.S_IFREG:
			return set{}, fmt.Errorf("%q is not a regular file", f.Source)
		case st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0:
			return set{}, fmt.Errorf("%q is set-user-ID or set-group-ID", f.Source)
		case first != "" && st.Dev != s.device:
			return set{}, fmt.Errorf("%q is on another file system than %q", f.Source, first)
		}
		first, s.device = f.Source, st.Dev
		for _, n := range []uint64{st.Dev, st.Ino, uint64(st.Size), uint64(st.Mtim.Sec), uint64(st.Mtim.Nsec)} {
			key = binary.LittleEndian.AppendUint64(key, n)
		}
	}
	if first == "" {
		return set{}, errors.New("no files")
	}
	hash := fnv.New128a()
	hash.Write(append(key, want.Label...))
	s.name = fmt.Sprintf("%s-%x", want.Version, hash.Sum(nil))
	return s, nil
}

// checkAbove checks that nobody else can replace the base or a directory above it. It starts at
// "/", so that what follows a trusted directory cannot be replaced after the check.
func checkAbove(dir string, device uint64) error {
	var st unix.Stat_t
	for end := 0; end < len(dir); {
		end++
		if next := strings.IndexByte(dir[end:], '/'); end > 1 && next >= 0 {
			end += next
		} else if end > 1 {
			end = len(dir)
		}
		name := dir[:end]
		if err := unix.Lstat(name, &st); err != nil {
			return &fs.PathError{Op: "lstat", Path: name, Err: err}
		}
		if st.Mode&unix.S_IFMT != unix.S_IFDIR {
			return about(name, errors.New("not a directory"))
		}
		if !trusted(st.Uid) || st.Mode&0o022 != 0 && st.Mode&unix.S_ISVTX == 0 {
			return about(name, fmt.Errorf("others may write here: owner %d, permissions %#o", st.Uid, st.Mode&0o7777))
		}
	}
	if st.Dev != device {
		return about(dir, errors.New("on another file system than the files"))
	}
	return nil
}

// checkOwn checks a directory created by us or another of our processes.
func checkOwn(st *unix.Stat_t) error {
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFDIR:
		return errors.New("not a directory")
	case !trusted(st.Uid):
		return fmt.Errorf("belongs to user %d", st.Uid)
	case st.Mode&0o777 != 0o755 || st.Mode&(unix.S_ISUID|unix.S_ISVTX) != 0:
		return fmt.Errorf("has permissions %#o, not 0755", st.Mode&0o7777)
	}
	return nil
}

func trusted(uid uint32) bool { return uid == 0 || uid == uint32(os.Geteuid()) }

// sealed is the modification time of every directory of a complete set: adding, removing or
// renaming anything in it changes the time.
var sealed = unix.Timespec{Sec: 1}

// verify checks that the directory of a set is unchanged since it was created.
func (s set) verify(dir string) error {
	for _, d := range append([]string{"."}, s.dirs...) {
		var st unix.Stat_t
		err := unix.Lstat(path.Join(dir, d), &st)
		if err == nil {
			err = checkOwn(&st)
		}
		if err == nil && st.Mtim != sealed {
			err = errors.New("was changed after it was made")
		}
		if err != nil {
			return about(path.Join(dir, d), err)
		}
	}
	return nil
}

// check compares the content of a directory with the sources.
func (s set) check(fd int) error {
	var st unix.Stat_t
	for i, f := range s.Files {
		if f.Source == "" {
			continue
		}
		if err := unix.Fstatat(fd, f.Name, &st, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return fmt.Errorf("%s: %w", f.Name, err)
		}
		want := &s.stats[i]
		if st.Dev != want.Dev || st.Ino != want.Ino || st.Size != want.Size || st.Mode != want.Mode {
			return fmt.Errorf("%s is not %s", f.Name, f.Source)
		}
	}
	return nil
}

// build creates what is missing after Find. Another process may be faster.
func build(base string, boot Boot, want Set) error {
	s, err := newSet(want)
	if err != nil {
		return err
	}
	above, err := unix.Open(path.Dir(base), unix.O_PATH|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer done(above)
	var st unix.Statfs_t
	if err := unix.Fstatfs(above, &st); err != nil {
		return err
	}
	if !linkable(int64(st.Type)) {
		return fmt.Errorf("hard links are not used on a file system of type %#x", st.Type)
	}
	baseFD, err := mkdir(above, path.Base(base))
	if err != nil {
		return err
	}
	defer done(baseFD)
	bootFD, err := mkdir(baseFD, bootPrefix+boot.ID)
	if err != nil {
		return err
	}
	defer done(bootFD)
	if names, err := list(bootFD, mostDirs); err != nil {
		return err
	} else if len(names) >= mostDirs {
		return fmt.Errorf("%d directories are there already", mostDirs)
	}

	temporary := ".new-" + strconv.FormatUint(rand.Uint64(), 10)
	if err := unix.Mkdirat(bootFD, temporary, 0o755); err != nil {
		return err
	}
	if err := s.fill(bootFD, temporary); err != nil {
		remove(bootFD, temporary, 2)
		return err
	}
	if err := unix.Renameat(bootFD, temporary, bootFD, s.name); err != nil {
		remove(bootFD, temporary, 2)
		if errors.Is(err, unix.EEXIST) || errors.Is(err, unix.ENOTEMPTY) {
			return nil // Another process was faster; Find checks its directory.
		}
		return err
	}
	removeOld(baseFD, boot)
	return nil
}

func linkable(kind int64) bool {
	for _, k := range fileSystems {
		if k == kind {
			return true
		}
	}
	return false
}

func (s set) fill(parent int, name string) error {
	fd, err := mkdir(parent, name)
	if err != nil {
		return err
	}
	defer done(fd)
	for _, d := range s.dirs {
		sub, err := mkdir(fd, d)
		if err != nil {
			return err
		}
		done(sub)
	}
	for _, f := range s.Files {
		switch {
		case f.Source != "":
			err = unix.Linkat(unix.AT_FDCWD, f.Source, fd, f.Name, 0)
		case f.Target != "":
			err = unix.Symlinkat(f.Target, fd, f.Name)
		default:
			err = writeFile(fd, f.Name, f.Data)
		}
		if err != nil {
			return &fs.PathError{Op: "link", Path: f.Name, Err: err}
		}
	}
	if err := s.check(fd); err != nil {
		return err
	}
	s.label(fd)
	for _, d := range append(s.dirs, ".") {
		if err := unix.UtimesNanoAt(fd, d, []unix.Timespec{sealed, sealed}, unix.AT_SYMLINK_NOFOLLOW); err != nil {
			return about(d, err)
		}
	}
	return nil
}

// label labels what was created in the directory. No system call sets the label of a link relative
// to a directory handle, so it goes through /proc.
func (s set) label(dir int) {
	if s.Label == "" {
		return
	}
	names := append([]string{"."}, s.dirs...)
	for _, f := range s.Files {
		if f.Source == "" {
			names = append(names, f.Name)
		}
	}
	for _, name := range names {
		_ = unix.Lsetxattr(fmt.Sprintf("/proc/self/fd/%d/%s", dir, name), "security.selinux", []byte(s.Label), 0)
	}
}

// writeFile creates a world-readable file, independent of the umask.
func writeFile(dir int, name string, data []byte) error {
	fd, err := unix.Openat(dir, name, unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o644)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), name)
	defer f.Close()
	if err := f.Chmod(0o644); err != nil {
		return err
	}
	_, err = f.Write(data)
	return err
}

// mkdir creates a directory, independent of the umask, or opens an existing one if it is trusted.
func mkdir(parent int, name string) (int, error) {
	err := unix.Mkdirat(parent, name, 0o755)
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return -1, &fs.PathError{Op: "mkdir", Path: name, Err: err}
	}
	made := err == nil
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, about(name, err)
	}
	// Another process may be between its mkdir and its chmod: then permissions are missing, never
	// extra. If we own the directory we may set them.
	var st unix.Stat_t
	err = unix.Fstat(fd, &st)
	if err == nil && st.Mode&0o777&^0o755 == 0 && st.Mode&0o777 != 0o755 && (made || st.Uid == uint32(os.Geteuid())) {
		if err = unix.Fchmod(fd, 0o755); err == nil {
			err = unix.Fstat(fd, &st)
		}
	}
	if err == nil {
		err = checkOwn(&st)
	}
	if err != nil {
		done(fd)
		return -1, about(name, err)
	}
	return fd, nil
}

// removeOld removes the directories of other boots as far as possible.
func removeOld(base int, boot Boot) {
	names, err := list(base, mostDirs)
	if err != nil {
		return
	}
	for _, name := range names {
		id, ok := strings.CutPrefix(name, bootPrefix)
		if !ok || !isUUID(id) || id == boot.ID {
			continue
		}
		var st unix.Stat_t
		err := unix.Fstatat(base, name, &st, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && time.Unix(st.Ctim.Unix()).Before(boot.Time) {
			remove(base, name, 3)
		}
	}
}

// remove removes a directory with at most the given levels of directories.
func remove(parent int, name string, levels int) {
	fd, err := unix.Openat(parent, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return
	}
	defer done(fd)
	names, _ := list(fd, 1<<16)
	for _, n := range names {
		if err := unix.Unlinkat(fd, n, 0); errors.Is(err, unix.EISDIR) && levels > 1 {
			remove(fd, n, levels-1)
		}
	}
	_ = unix.Unlinkat(parent, name, unix.AT_REMOVEDIR)
}

// done closes a handle that nothing was written through.
func done(fd int) { _ = unix.Close(fd) }

// list returns at most so many names of a directory.
func list(dir, most int) ([]string, error) {
	fd, err := unix.Openat(dir, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	f := os.NewFile(uintptr(fd), "directory")
	defer f.Close()
	names, err := f.Readdirnames(most)
	if len(names) == 0 && err != nil && errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}
