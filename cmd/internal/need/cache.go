// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package need

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
)

// Cached returns the directory name in the user's cache directory. If it does not exist, fill makes
// its contents first. If that fails, Cached calls [Missing] with what, the words for the contents.
func Cached(t testing.TB, name, what string, fill func(dir string) error) string {
	t.Helper()
	cache, err := os.UserCacheDir()
	if err != nil {
		cache = "/var/cache"
	}
	dir := filepath.Join(cache, name)
	if _, err := os.Stat(dir); err == nil {
		return dir
	}
	require.NoError(t, os.MkdirAll(filepath.Dir(dir), 0o755))
	work, err := os.MkdirTemp(filepath.Dir(dir), "making-") //nolint:usetesting // it becomes dir
	require.NoError(t, err)
	defer os.RemoveAll(work)
	require.NoError(t, os.Chmod(work, 0o755)) //nolint:gosec // other users' programs read it
	if err := fill(work); err != nil {
		Missing(t, "%s, which cannot be made: %v", what, err)
	}
	// Another process may have been faster.
	if err := os.Rename(work, dir); !errors.Is(err, fs.ErrExist) {
		require.NoError(t, err)
	}
	return dir
}

// criuScript runs the program of its own name with the C library beside it.
const criuScript = `#!/bin/sh
tree=$(dirname "$(readlink -f "$0")")/tree/usr
lib=$tree/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$tree"/*bin/"${0##*/}" "$@"
`

// CRIU returns a directory with the programs criu and crun of Debian's next release. Debian 12's CRIU
// does not know the vDSO of current kernels, Debian 13's hangs in virtual machines without hardware
// breakpoints, and Debian 12's crun is built without CRIU. CRIU needs root.
func CRIU(t testing.TB) string {
	t.Helper()
	Root(t)
	Program(t, "mmdebstrap")
	dir := Cached(t, "nvcr-criu/forky", "CRIU of Debian's forky", func(dir string) error {
		out, err := exec.Command("mmdebstrap", "--quiet", "--mode=root", "--variant=extract",
			// The next release's list may be older than it says it is good for.
			`--aptopt=Acquire::Check-Valid-Until "false"`, `--aptopt=APT::Install-Recommends "false"`,
			"--include=criu,libcriu2,crun", "forky", filepath.Join(dir, "tree")).CombinedOutput()
		if err != nil {
			return fmt.Errorf("mmdebstrap: %w: %s", err, out)
		}
		return errors.Join(
			os.WriteFile(filepath.Join(dir, "criu"), []byte(criuScript), 0o755), //nolint:gosec // a program
			os.Symlink("criu", filepath.Join(dir, "crun")))
	})
	if out, err := exec.Command(filepath.Join(dir, "criu"), "check").CombinedOutput(); err != nil {
		Missing(t, "a kernel that CRIU works with: %v: %s", err, out)
	}
	return dir
}
