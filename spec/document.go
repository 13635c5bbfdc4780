// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// MaxSize is the largest config.json that is read, in bytes. Typical ones have 10 to 100 KB.
const MaxSize = 64 << 20

// Document is a config.json. It is not safe for concurrent use.
type Document struct {
	dir  int         // handle of the bundle; -1 after Parse and Close
	path string      // as given to Open, for messages
	name string      // of the file in dir
	stat unix.Stat_t // of the file that was read

	original []byte
	text     []byte
	top      rawjson.Value // of text; the zero Value after an edit until needed again
	mounts   []Mount       // of text; nil until needed
}

// Open reads config.json in the bundle directory. It must be a regular file, not a symbolic link;
// anything else is rejected without being opened. The bundle directory stays open for
// [Document.Save] until [Document.Close].
//
// Syntax errors give file, line and column.
func Open(bundle string) (*Document, error) {
	return OpenFile(filepath.Join(bundle, "config.json"))
}

// OpenFile is [Open] for a file of another name, as crun's --config allows.
func OpenFile(path string) (_ *Document, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("opening %q: %w", path, err)
		}
	}()
	dir, err := openat(unix.AT_FDCWD, filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			unix.Close(dir)
		}
	}()
	name := filepath.Base(path)
	data, stat, err := readRegular(dir, name)
	if err != nil {
		return nil, err
	}
	d, err := Parse(data)
	if err != nil {
		return nil, err
	}
	d.dir, d.path, d.name, d.stat = dir, path, name, stat
	return d, nil
}

// openat opens a name relative to a directory handle, close-on-exec.
func openat(dir int, name string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, perm)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// readRegular reads a regular file, checking its type before and after opening it. Like
// [Document.Save] it makes the system calls itself: the first os.File would register with the
// poller, which costs six more calls.
func readRegular(dir int, name string) (_ []byte, after unix.Stat_t, err error) {
	var before unix.Stat_t
	if err := unix.Fstatat(dir, name, &before, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return nil, after, err
	}
	if before.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil, after, fmt.Errorf("it is %s, not a regular file", kindOf(before.Mode))
	}
	return readSame(dir, name, &before)
}

// readSame reads the file described by before. If another file has taken its place since, it is
// neither waited for nor followed.
func readSame(dir int, name string, before *unix.Stat_t) (_ []byte, after unix.Stat_t, err error) {
	fd, err := openat(dir, name, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, after, err
	}
	defer unix.Close(fd)
	if err := unix.Fstat(fd, &after); err != nil {
		return nil, after, err
	}
	if after.Mode&unix.S_IFMT != unix.S_IFREG || !sameFile(before, &after) {
		return nil, after, errors.New("it was replaced while being opened")
	}
	if after.Size > MaxSize {
		return nil, after, fmt.Errorf("its size is %d bytes, more than the limit of %d", after.Size, MaxSize)
	}
	data := make([]byte, after.Size)
	for n := 0; n < len(data); {
		more, err := unix.Pread(fd, data[n:], int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, after, err
		case more == 0: // it was truncated
			data = data[:n]
		}
		n += max(more, 0)
	}
	return data, after, nil
}

func sameFile(a, b *unix.Stat_t) bool {
	return a.Dev == b.Dev && a.Ino == b.Ino
}

func kindOf(mode uint32) string {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return "a directory"
	case unix.S_IFLNK:
		return "a symbolic link"
	case unix.S_IFIFO:
		return "a FIFO"
	case unix.S_IFSOCK:
		return "a socket"
	}
	return "a device"
}

// Parse returns a document for the text of a config.json, which must be a JSON object. The caller
// must not change data afterwards. Syntax errors wrap a [*rawjson.Error].
func Parse(data []byte) (*Document, error) {
	d := &Document{dir: -1, original: data, text: data}
	if _, err := d.value(); err != nil {
		return nil, err
	}
	return d, nil
}

// value parses the current text.
func (d *Document) value() (rawjson.Value, error) {
	if d.top.Kind() == rawjson.Absent {
		top, err := rawjson.Parse(d.text)
		if err != nil {
			return top, err
		}
		if err := top.Want(rawjson.Object); err != nil {
			return rawjson.Value{}, err
		}
		d.top = top
	}
	return d.top, nil
}

// Bytes returns the current text, which belongs to the document.
func (d *Document) Bytes() []byte {
	return d.text
}

// Close closes the handle of the bundle.
func (d *Document) Close() error {
	if d.dir < 0 {
		return nil
	}
	err := unix.Close(d.dir)
	d.dir = -1
	return err
}
