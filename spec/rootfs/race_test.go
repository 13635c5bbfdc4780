// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"golang.org/x/sys/unix"
)

// rounds is how often each racing test tries.
const rounds = 2000

// swapping exchanges pairs of names as fast as it can while a test runs, like another container on
// the same tree.
func swapping(t *testing.T, pairs [][2]string, test func()) {
	t.Helper()
	for _, p := range pairs {
		err := unix.Renameat2(unix.AT_FDCWD, p[0], unix.AT_FDCWD, p[1], unix.RENAME_EXCHANGE)
		if errors.Is(err, unix.EINVAL) {
			t.Skipf("SKIPPED: needs a file system that can exchange names, for racing swaps")
		}
		require.NoError(t, err)
	}
	stop := make(chan struct{})
	var swaps, failed int
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			for _, p := range pairs {
				select {
				case <-stop:
					return
				default:
				}
				switch err := unix.Renameat2(unix.AT_FDCWD, p[0], unix.AT_FDCWD, p[1], unix.RENAME_EXCHANGE); {
				case err == nil:
					swaps++
				case !errors.Is(err, unix.ENOENT): // a link that is being replaced is not there for a moment
					failed++
				}
			}
		}
	})
	test()
	close(stop)
	wg.Wait()
	assert.Zero(t, failed)
	assert.Greater(t, swaps, 100, "nothing raced")
}

// TestRaceRead: a directory and a file alternate with links to the host. Reads return the
// container's content, or absent.
func TestRaceRead(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		root, _ := machine(t, tree{
			"lib/data": "inside", "evil": "-> HOST/lib",
			"usr/data": "inside", "evil2": "-> ../host/lib",
			"etc/data": "inside", "etc/evil": "-> HOST/lib/data",
			"opt/data": "inside", "opt/fifo": "fifo",
		})
		f := open(root)
		at := func(name string) string { return filepath.Join(root, name) }
		var inside, absent int
		swapping(t, [][2]string{
			{at("lib"), at("evil")}, {at("usr"), at("evil2")}, {at("etc/data"), at("etc/evil")}, {at("opt/data"), at("opt/fifo")},
		}, func() {
			for range rounds {
				for _, name := range []string{"lib/data", "usr/data", "etc/data", "opt/data"} {
					data, err := f.ReadFile(name, 100)
					if err == nil {
						require.Equal(t, "inside", string(data))
						inside++
						continue
					}
					require.ErrorIs(t, err, fs.ErrNotExist)
					absent++
				}
			}
		})
		assert.Positive(t, inside)
		assert.Positive(t, absent)
	})
}

// TestRaceMovedOut: a directory is moved out of the root and back while a name that goes up through
// it is resolved. Following ".." literally would lead out of the root.
func TestRaceMovedOut(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		root, host := machine(t, tree{
			"a/b/c/x": "x", "a/b/up": "-> c/../../../lib/data", "lib/data": "inside",
		})
		build(t, filepath.Join(host, "empty"), host, tree{"b/other": "x"})
		t.Cleanup(func() { assert.NoError(t, os.RemoveAll(filepath.Join(host, "empty/b"))) })
		f := open(root)
		var inside int
		swapping(t, [][2]string{{filepath.Join(root, "a/b"), filepath.Join(host, "empty/b")}}, func() {
			for range 2 * rounds {
				data, err := f.ReadFile("a/b/up", 100)
				if err == nil {
					require.Equal(t, "inside", string(data))
					inside++
					continue
				}
				require.ErrorIs(t, err, fs.ErrNotExist)
			}
		})
		assert.Positive(t, inside)
	})
}

// TestRaceWrite: the directory that is written to alternates with a link to the host. Writes land
// in the container, and machine checks that none is on the host.
func TestRaceWrite(t *testing.T) {
	bothWays(t, func(t *testing.T, open func(string) *FS) {
		root, _ := machine(t, tree{"lib/old": "-> old", "evil": "-> HOST/lib", "usr/lib/x": "x", "usr/evil": "-> ../../host/lib"})
		f := open(root)
		at := func(name string) string { return filepath.Join(root, name) }
		var written int
		swapping(t, [][2]string{{at("lib"), at("evil")}, {at("usr/lib"), at("usr/evil")}}, func() {
			for i := range rounds {
				for _, dir := range []string{"lib", "usr/lib"} {
					_, err := link(f, dir, "libcuda.so.1", "libcuda.so."+strconv.Itoa(i), self())
					if err == nil {
						written++
					}
					f.forget()
					if i%100 == 0 { // These go to the disk.
						_ = write(f, dir+"/data", []byte("new"), 0o644, self())
						f.forget()
					}
					_ = f.MkdirAll(dir+"/new"+strconv.Itoa(i%100), self())
					f.forget()
				}
			}
		})
		assert.Positive(t, written)
	})
}

// TestRaceLeaf: the name that is written alternates with a link to the host's file, a FIFO and a
// directory.
func TestRaceLeaf(t *testing.T) {
	root, _ := machine(t, tree{"d/f": "old", "d/evil": "-> HOST/etc/secret", "d/l": "-> old", "d/dir": "dir"})
	f, err := Open(root)
	require.NoError(t, err)
	defer f.Close()
	at := func(name string) string { return filepath.Join(root, name) }
	var written int
	swapping(t, [][2]string{{at("d/f"), at("d/evil")}, {at("d/l"), at("d/dir")}}, func() {
		for i := 0; i < rounds || written == 0 && i < 100*rounds; i++ { // a busy machine may let one side run alone for long
			if _, err := link(f, "d", "l", "new"+strconv.Itoa(i), self()); err == nil {
				written++
			}
			if i%100 == 0 {
				_ = write(f, "d/f", []byte("new"), 0o644, self())
			}
		}
	})
	assert.Positive(t, written)
	names, err := f.ReadDir("d", 100)
	require.NoError(t, err)
	assert.Equal(t, []string{"dir", "evil", "f", "l"}, names, "temporary names are left")
}
