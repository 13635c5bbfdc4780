// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// MaxSize is the size in bytes up to which a config.json is read. Ordinary ones have 10 to 100 KB.
const MaxSize = 64 << 20

// Document is a config.json. It is not safe for concurrent use.
type Document struct {
	dir  *os.Root    // the bundle, nil after Parse
	path string      // as given to Open, for messages
	name string      // of the file in dir
	info fs.FileInfo // of the file that was read

	original []byte
	text     []byte
	top      rawjson.Value // of text
}

// Open reads config.json in the bundle directory. It must be a regular file, not a link: anything else is
// refused without being opened. The bundle stays open, for [Document.Save], until [Document.Close].
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
	dir, err := os.OpenRoot(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, dir.Close())
		}
	}()
	name := filepath.Base(path)
	data, info, err := readRegular(dir, name)
	if err != nil {
		return nil, err
	}
	d, err := Parse(data)
	if err != nil {
		return nil, err
	}
	d.dir, d.path, d.name, d.info = dir, path, name, info
	return d, nil
}

// readRegular reads a file that must be regular, before and after it is opened.
func readRegular(dir *os.Root, name string) (_ []byte, _ fs.FileInfo, err error) {
	before, err := dir.Lstat(name)
	if err != nil {
		return nil, nil, err
	}
	if !before.Mode().IsRegular() {
		return nil, nil, fmt.Errorf("it is %s, not a regular file", kindOf(before.Mode()))
	}
	// Should another kind of file have come into its place by now: neither wait for it nor follow it.
	f, err := dir.OpenFile(name, os.O_RDONLY|syscall.O_NONBLOCK|syscall.O_NOFOLLOW, 0)
	if err != nil {
		return nil, nil, err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	info, err := f.Stat()
	if err != nil {
		return nil, nil, err
	}
	if !info.Mode().IsRegular() || !os.SameFile(before, info) {
		return nil, nil, errors.New("it was exchanged while being opened")
	}
	if info.Size() > MaxSize {
		return nil, nil, fmt.Errorf("its size is %d bytes, more than the %d that are read", info.Size(), MaxSize)
	}
	data := make([]byte, info.Size())
	n, err := io.ReadFull(f, data)
	if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return nil, nil, err
	}
	return data[:n], info, nil
}

func kindOf(mode fs.FileMode) string {
	switch mode.Type() {
	case fs.ModeDir:
		return "a directory"
	case fs.ModeSymlink:
		return "a symbolic link"
	case fs.ModeNamedPipe:
		return "a FIFO"
	case fs.ModeSocket:
		return "a socket"
	}
	return "a device"
}

// Parse makes a document of the text of a config.json. The text must be a JSON object; data must not be
// changed afterwards. Syntax errors wrap a [*rawjson.Error].
func Parse(data []byte) (*Document, error) {
	d := &Document{original: data}
	if err := d.set(data); err != nil {
		return nil, err
	}
	return d, nil
}

func (d *Document) set(text []byte) error {
	top, err := rawjson.Parse(text)
	if err != nil {
		return err
	}
	if err := top.Want(rawjson.Object); err != nil {
		return err
	}
	d.text, d.top = text, top
	return nil
}

// Bytes returns the text as it is now. It belongs to the document.
func (d *Document) Bytes() []byte {
	return d.text
}

// Close gives the handle on the bundle back.
func (d *Document) Close() error {
	if d.dir == nil {
		return nil
	}
	return d.dir.Close()
}
