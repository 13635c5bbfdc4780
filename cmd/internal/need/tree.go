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

// Made returns the directory name in the user's cache directory. If it does not exist, fill fills it
// first. If that fails, Made calls [Missing] with the words for what the directory has.
func Made(t testing.TB, name, words string, fill func(dir string) error) string {
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
		Missing(t, "%s, which cannot be made: %v", words, err)
	}
	// Another process may have been faster.
	if err := os.Rename(work, dir); !errors.Is(err, fs.ErrExist) {
		require.NoError(t, err)
	}
	return dir
}

// CRIU returns a directory with the programs criu and crun of Debian's next release, which run with
// their own C library. Debian 12's CRIU does not know the vDSO of current kernels, Debian 13's hangs
// in virtual machines without hardware breakpoints, and Debian 12's crun is built without CRIU. CRIU
// needs root.
func CRIU(t testing.TB) string {
	t.Helper()
	Root(t)
	Program(t, "mmdebstrap")
	dir := Made(t, "nvcr-criu/forky", "CRIU of Debian's forky", func(dir string) error {
		cmd := exec.Command("mmdebstrap", "--quiet", "--mode=root", "--variant=extract",
			// The next release's list may be older than it says it is good for.
			`--aptopt=Acquire::Check-Valid-Until "false"`,
			`--aptopt=APT::Install-Recommends "false"`, "--include=criu,libcriu2,crun", "forky", filepath.Join(dir, "tree"))
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("mmdebstrap: %w: %s", err, out)
		}
		for name, path := range map[string]string{"criu": "usr/sbin/criu", "crun": "usr/bin/crun"} {
			text := fmt.Sprintf(`#!/bin/sh
tree=$(dirname "$(readlink -f "$0")")/tree
lib=$tree/usr/lib/x86_64-linux-gnu
exec "$lib/ld-linux-x86-64.so.2" --library-path "$lib" "$tree/%s" "$@"
`, path)
			if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o755); err != nil { //nolint:gosec // a program
				return err
			}
		}
		return nil
	})
	if out, err := exec.Command(filepath.Join(dir, "criu"), "check").CombinedOutput(); err != nil {
		Missing(t, "a kernel that CRIU works with: %v: %s", err, out)
	}
	return dir
}
