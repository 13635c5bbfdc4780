// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	stdhex "encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"syscall"
)

// bootFile has a UUID that is new at every boot.
const bootFile = "proc/sys/kernel/random/boot_id"

// ReadEpoch returns the common part of all marks: the driver's version, and
// /proc/sys/kernel/random/boot_id if it exists.
func ReadEpoch(fsys fs.FS, driver string) (string, error) {
	boot, err := fs.ReadFile(fsys, bootFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return driver + " " + strings.TrimSpace(string(boot)), nil
}

// ReadMarks returns a mark for each of the instances of the GPU with the given device minor, in
// their order: 16 hexadecimal digits that stay the same while the instance exists, and almost
// certainly differ for an instance created later with the same IDs.
//
// IDs alone are not enough: the engine of an instance, and thus its UUID, depends on what else
// exists when it is created. So a mark is a hash of the epoch, the IDs, and the inode numbers of
// the directories
//
//	/proc/driver/nvidia/capabilities/gpu<minor>/mig/gi<M>
//	/proc/driver/nvidia/capabilities/gpu<minor>/mig/gi<M>/ci<K>
//
// that the driver creates and removes with the instance. procfs assigns an entry the lowest free
// number when it is created (fs/proc/generic.c of Linux), so instances recreated in another order
// have other numbers.
func ReadMarks(fsys fs.FS, gpuMinor int, epoch string, instances []Instance) ([]string, error) {
	var (
		marks []string
		giID  = -1
		gi    string
		outer uint64
	)
	for _, i := range instances {
		var err error
		if i.GI != giID {
			giID, gi = i.GI, fmt.Sprintf("%s/gpu%d/mig/gi%d", capabilities, gpuMinor, i.GI)
			if outer, err = inode(fsys, gi); err != nil {
				return nil, err
			}
		}
		inner, err := inode(fsys, fmt.Sprintf("%s/ci%d", gi, i.CI))
		if err != nil {
			return nil, err
		}
		sum := sha1(fmt.Appendf(nil, "%s\n%d %d\n%d %d\n", epoch, i.GI, outer, i.CI, inner))
		marks = append(marks, stdhex.EncodeToString(sum[:8]))
	}
	return marks, nil
}

func inode(fsys fs.FS, name string) (uint64, error) {
	info, err := fs.Stat(fsys, name)
	if err != nil {
		return 0, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ino, nil
	}
	return 0, nil
}
