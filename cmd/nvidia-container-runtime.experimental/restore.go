// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// maxImage limits how much of CRIU's list of files is read. The list has some 60 bytes for each
// file that a process has open or mapped.
const maxImage = 64 << 20

// checkRestore refuses to restore processes that have libraries of another driver version mapped:
// these do not exist here and need another kernel module. CRIU would fail without explaining why.
func checkRestore(inv invocation, version string) error {
	if inv.command != "restore" {
		return nil
	}
	dirs := []string{inv.images}
	if inv.images == "" {
		dirs = []string{"checkpoint", filepath.Join(inv.bundle, "checkpoint")} // runc's, crun's
	}
	const restoring = "restoring a container with NVIDIA GPUs"
	for _, dir := range dirs {
		// CRIU 3.0 and later; older versions.
		for _, name := range []string{"files.img", "reg-files.img"} {
			file := filepath.Join(dir, name)
			was, library, err := checkpointedDriver(file)
			switch {
			case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			case err != nil:
				return fmt.Errorf("%s: reading the list of its open files: %w", restoring, err)
			case was != "" && was != version:
				return fmt.Errorf("%s: it was checkpointed with driver %s (%s is open according to %s), "+
					"but this machine has driver %s: restore it where driver %s is loaded, or start a new container",
					restoring, was, library, file, version, was)
			}
		}
	}
	return nil
}

// checkpointedDriver finds the driver's version in CRIU's list of files: that of the first libcuda
// or libnvidia-ml, "/usr/lib64/libcuda.so.550.54.15". It is empty if there is none.
func checkpointedDriver(file string) (version, library string, err error) {
	f, err := os.OpenFile(file, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return "", "", err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxImage))
	if err != nil {
		return "", "", err
	}
	for _, stem := range []string{"/libcuda.so.", "/libnvidia-ml.so."} {
		for at := 0; ; at += len(stem) {
			next := bytes.Index(data[at:], []byte(stem))
			if next < 0 {
				break
			}
			at += next
			name := fileName(data, at)
			version, found := strings.CutPrefix(filepath.Base(name), stem[1:])
			if found && strings.Contains(version, ".") {
				return version, name, nil
			}
		}
	}
	return "", "", nil
}

// fileName returns the file name that contains the byte at the offset: field 6 of CRIU's
// reg_file_entry (images/regfile.proto), which is a tag, the length as a varint, and the bytes. It
// is empty if there is none.
func fileName(data []byte, at int) string {
	const tag = 6<<3 | 2
	for start := at; start >= 2 && at-start < unix.PathMax; start-- {
		length, before := int(data[start-1]), start-2
		if start >= 3 && data[start-2] >= 0x80 {
			length, before = length<<7|int(data[start-2]&0x7f), start-3
		}
		if data[start] == '/' && data[start-1] < 0x80 && data[before] == tag &&
			start+length > at && start+length <= len(data) {
			return string(data[start : start+length])
		}
	}
	return ""
}
