// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestFindRuntime(t *testing.T) {
	dir := t.TempDir()
	one, two := filepath.Join(dir, "one"), filepath.Join(dir, "two")
	write := func(path string, mode os.FileMode) {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"), 0o644))
		require.NoError(t, os.Chmod(path, mode))
	}
	write(one+"/nvcr-a", 0o644) // not executable
	write(two+"/nvcr-a", 0o755)
	write(two+"/nvcr-b", 0o755)
	write(one+"/nvcr-c", 0o755)
	write(two+"/nvcr-c", 0o755)
	require.NoError(t, os.Mkdir(one+"/nvcr-b", 0o755))
	require.NoError(t, os.Symlink(two+"/nvcr-b", one+"/nvcr-link"))
	require.NoError(t, os.Symlink(one+"/gone", one+"/nvcr-dangling"))
	require.NoError(t, os.Symlink("/proc/self/exe", one+"/nvcr-self"))
	require.NoError(t, os.Symlink("nvcr-loop", one+"/nvcr-loop"))
	copied, err := os.ReadFile("/proc/self/exe")
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(one+"/nvcr-copy", copied, 0o755))
	// Another program of the same size as this one.
	other := slices.Clone(copied)
	other[len(other)-1] ^= 1
	require.NoError(t, os.WriteFile(one+"/nvcr-other", other, 0o755))
	t.Chdir(two)

	both := one + ":" + two
	tests := []struct {
		name       string
		configured string
		candidates []string
		pathVar    string
		want       string
		err        []string
	}{
		{name: "first candidate", candidates: []string{"nvcr-c", "nvcr-b"}, pathVar: both, want: one + "/nvcr-c"},
		{name: "candidates before directories", candidates: []string{"nvcr-b", "nvcr-c"}, pathVar: both, want: two + "/nvcr-b"},
		{name: "a missing candidate is skipped", candidates: []string{"nvcr-none", "nvcr-c"}, pathVar: both, want: one + "/nvcr-c"},
		{name: "not executable", candidates: []string{"nvcr-a"}, pathVar: both, want: two + "/nvcr-a"},
		{name: "a directory", candidates: []string{"nvcr-b"}, pathVar: both, want: two + "/nvcr-b"},
		{name: "a link", candidates: []string{"nvcr-link"}, pathVar: both, want: one + "/nvcr-link"},
		{name: "configured name", configured: "nvcr-c", candidates: []string{"nvcr-b"}, pathVar: both, want: one + "/nvcr-c"},
		{name: "configured path", configured: two + "/nvcr-c", candidates: []string{"nvcr-b"}, pathVar: both, want: two + "/nvcr-c"},
		{name: "candidate with a path", candidates: []string{"/none", two + "/nvcr-c"}, want: two + "/nvcr-c"},
		{name: "usual directories without PATH", candidates: []string{"nvcr-none", "sh"}, want: "/usr/bin/sh"},
		{name: "usual directories after PATH", candidates: []string{"sh"}, pathVar: both, want: "/usr/bin/sh"},
		{name: "not ourselves", candidates: []string{"nvcr-self", "nvcr-copy", "nvcr-c"}, pathVar: both, want: one + "/nvcr-c"},
		{name: "another program of our size", candidates: []string{"nvcr-other"}, pathVar: both, want: one + "/nvcr-other"},

		{
			name: "none", candidates: []string{"nvcr-x", "nvcr-y"}, pathVar: both,
			err: []string{"looked for nvcr-x, nvcr-y in " + both + ":/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; install runc or crun, or set runtime-path"},
		},
		{
			name: "configured and gone", configured: "/none/runc", candidates: []string{"nvcr-c"}, pathVar: both,
			err: []string{"looked for /none/runc (/none/runc: no such file or directory); "},
		},
		{name: "configured and dangling", configured: one + "/nvcr-dangling", err: []string{"no such file or directory"}},
		{name: "loop", candidates: []string{"nvcr-loop"}, pathVar: both, err: []string{one + "/nvcr-loop: too many levels of symbolic links"}},
		{name: "configured directory", configured: one, err: []string{one + ": is not a regular file"}},
		{name: "below a file", configured: two + "/nvcr-c/x", err: []string{"not a directory"}},
		{
			name: "only ourselves", candidates: []string{"nvcr-self", "nvcr-copy"}, pathVar: both,
			err: []string{one + "/nvcr-self: is this program itself", one + "/nvcr-copy: is this program itself"},
		},
		{name: "relative path", configured: "./nvcr-c", err: []string{"./nvcr-c: neither a name nor an absolute path"}},
		{name: "the current directory is not searched", candidates: []string{"nvcr-c"}, err: []string{"looked for nvcr-c in /usr/local/sbin:"}},
		{name: "relative directories in PATH are not searched", candidates: []string{"nvcr-c"}, pathVar: ".:::" + "../one", err: []string{"looked for nvcr-c in /usr/local/sbin:"}},
		{name: "empty name", candidates: []string{""}, pathVar: both, err: []string{"no low-level runtime found"}},
		{name: "no name", pathVar: both, err: []string{"no low-level runtime found"}},
		{name: "dots", candidates: []string{"..", "."}, pathVar: both, err: []string{": is not a regular file"}},
		{name: "very long", configured: strings.Repeat("x", 5000), pathVar: both, err: []string{"file name too long"}},
		{name: "NUL", configured: "a\x00b", pathVar: both, err: []string{"invalid argument"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := findRuntime(tt.configured, tt.candidates, tt.pathVar)
			if tt.err != nil {
				for _, text := range tt.err {
					require.ErrorContains(t, err, text)
				}
				assert.Empty(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}
