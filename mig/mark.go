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

// bootFile has a UUID that every start of the kernel makes anew.
const bootFile = "proc/sys/kernel/random/boot_id"

// ReadEpoch returns what all marks have in common: the driver's version, and /proc/sys/kernel/random/boot_id, which
// may be absent.
func ReadEpoch(fsys fs.FS, driver string) (string, error) {
	boot, err := fs.ReadFile(fsys, bootFile)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return driver + " " + strings.TrimSpace(string(boot)), nil
}

// ReadMarks returns for each of the instances, which are of the GPU with the given device minor, a word of 16
// hexadecimal digits that is the same for as long as the instance exists, and as good as certainly another one for
// an instance that is made later in its place, with the same ids. The order of the result is that of the instances.
//
// The ids do not do for that: which engine an instance gets, and with it which UUID, depends on what else exists
// when it is made. So a mark is made from the epoch, the ids, and the inode numbers of the directories
//
//	/proc/driver/nvidia/capabilities/gpu<minor>/mig/gi<M>
//	/proc/driver/nvidia/capabilities/gpu<minor>/mig/gi<M>/ci<K>
//
// that the driver makes and removes with the instance. procfs gives an entry a number when it is made, the lowest
// that is free, and the entry keeps it (fs/proc/generic.c of Linux). Instances that are made again in another order
// therefore have other numbers.
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
