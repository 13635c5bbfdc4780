// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"io/fs"
	"syscall"
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func directory(inode uint64) *fstest.MapFile {
	return &fstest.MapFile{Mode: fs.ModeDir | 0o555, Sys: &syscall.Stat_t{Ino: inode}}
}

func TestReadMarks(t *testing.T) {
	const gpu = "proc/driver/nvidia/capabilities/gpu2/mig/"
	fsys := func() fstest.MapFS {
		return fstest.MapFS{
			gpu + "gi1": directory(10), gpu + "gi1/ci0": directory(11), gpu + "gi1/ci1": directory(12), gpu + "gi2": directory(13), gpu + "gi2/ci0": directory(14),
			bootFile: {Data: []byte("5c2a0f0e-0d8c-4b0e-9f35-000000000001\n")},
		}
	}
	instances := []Instance{{GI: 1, CI: 0}, {GI: 1, CI: 1}, {GI: 2, CI: 0}}
	marks := func(fsys fs.FS, driver string) []string {
		epoch, err := ReadEpoch(fsys, driver)
		require.NoError(t, err)
		marks, err := ReadMarks(fsys, 2, epoch, instances)
		require.NoError(t, err)
		require.Len(t, marks, 3)
		return marks
	}
	before := marks(fsys(), "550.90.07")
	for _, mark := range before {
		assert.Regexp(t, "^[0-9a-f]{16}$", mark)
	}
	assert.NotEqual(t, before[0], before[1])
	assert.NotEqual(t, before[0], before[2])
	assert.Equal(t, before, marks(fsys(), "550.90.07"))

	// A new driver version or boot changes every mark, a new directory those below it.
	assert.NotContains(t, marks(fsys(), "550.90.08"), before[0])
	again := fsys()
	again[bootFile].Data = []byte("5c2a0f0e-0d8c-4b0e-9f35-000000000002\n")
	for n, mark := range marks(again, "550.90.07") {
		assert.NotEqual(t, before[n], mark)
	}
	again = fsys()
	again[gpu+"gi1"] = directory(15)
	after := marks(again, "550.90.07")
	assert.Equal(t, []bool{false, false, true}, []bool{before[0] == after[0], before[1] == after[1], before[2] == after[2]})
	again = fsys()
	again[gpu+"gi1/ci0"], again[gpu+"gi1/ci1"] = again[gpu+"gi1/ci1"], again[gpu+"gi1/ci0"]
	after = marks(again, "550.90.07")
	assert.Equal(t, []bool{false, false, true}, []bool{before[0] == after[0], before[1] == after[1], before[2] == after[2]})

	// A kernel without the boot ID file, a destroyed instance, and no instances.
	again = fsys()
	delete(again, bootFile)
	assert.NotContains(t, marks(again, "550.90.07"), before[0])
	delete(again, gpu+"gi1/ci1")
	got, err := ReadMarks(again, 2, "", instances)
	require.ErrorIs(t, err, fs.ErrNotExist)
	assert.Nil(t, got)
	delete(again, gpu+"gi1")
	_, err = ReadMarks(again, 2, "", instances[2:])
	require.NoError(t, err)
	got, err = ReadMarks(again, 7, "", nil)
	require.NoError(t, err)
	assert.Nil(t, got)

	again[bootFile] = directory(1)
	_, err = ReadEpoch(again, "")
	require.Error(t, err)
}
