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

// MaxSize is the size in bytes up to which a config.json is read. Ordinary ones have 10 to 100 KB.
const MaxSize = 64 << 20

// Document is a config.json. It is not safe for concurrent use.
type Document struct {
	dir  int         // handle of the bundle, -1 after Parse and Close
	path string      // as given to Open, for messages
	name string      // of the file in dir
	stat unix.Stat_t // of the file that was read

	original []byte
	text     []byte
	top      rawjson.Value // of text; the zero Value after an edit, until it is needed
	mounts   []Mount       // of text, nil until they are needed
}

// Open reads config.json in the bundle directory. It must be a regular file, not a link: anything
// else is refused without being opened. The bundle stays open, for [Document.Save], until
// [Document.Close].
//
// Errors of syntax name file, line and column.
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

// openat opens a name below a handle, close-on-exec.
func openat(dir int, name string, flags int, perm uint32) (int, error) {
	for {
		fd, err := unix.Openat(dir, name, flags|unix.O_CLOEXEC, perm)
		if !errors.Is(err, unix.EINTR) {
			return fd, err
		}
	}
}

// readRegular reads a file that must be regular, before and after it is opened. It makes system
// calls itself, and so does [Document.Save]: an os.File would be made known to the poller, at six
// more calls for the first one.
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

// readSame reads the file that was looked at before. Should another kind of file have come into its
// place by now, it is neither waited for nor followed.
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
		return nil, after, errors.New("it was exchanged while being opened")
	}
	if after.Size > MaxSize {
		return nil, after, fmt.Errorf("its size is %d bytes, more than the %d that are read", after.Size, MaxSize)
	}
	data := make([]byte, after.Size)
	for n := 0; n < len(data); {
		more, err := unix.Pread(fd, data[n:], int64(n))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return nil, after, err
		case more == 0: // it became shorter
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

// Parse makes a document of the text of a config.json. The text must be a JSON object; data must
// not be changed afterwards. Syntax errors wrap a [*rawjson.Error].
func Parse(data []byte) (*Document, error) {
	d := &Document{dir: -1, original: data, text: data}
	if _, err := d.value(); err != nil {
		return nil, err
	}
	return d, nil
}

// value is the text as it is now, checked.
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

// Bytes returns the text as it is now. It belongs to the document.
func (d *Document) Bytes() []byte {
	return d.text
}

// Close gives the handle on the bundle back.
func (d *Document) Close() error {
	if d.dir < 0 {
		return nil
	}
	err := unix.Close(d.dir)
	d.dir = -1
	return err
}
