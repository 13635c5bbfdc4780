// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// muslDefault is where musl's loader searches if there is no path file (ldso/dynlink.c).
var muslDefault = []string{"/lib", "/usr/local/lib", "/usr/lib"}

// muslPathName is the file that replaces musl's search path: directories separated by colons or
// newlines, as in
//
//	/lib:/usr/local/lib:/usr/lib
//
// For the loader /lib/ld-musl-x86_64.so.1 it is /etc/ld-musl-x86_64.path (ldso/dynlink.c).
func muslPathName(loader string) string {
	return "etc/" + strings.TrimSuffix(loader, ".so.1") + ".path"
}

// WriteMuslPath gives an image with musl the file that names the directories its loader searches:
// the loader's own defaults, then l.LibDir if it is none of them. It reports whether the file was
// written. An image that has something of that name keeps it as it is, and has got a LibDir that its
// file names, if there is any; an image without musl needs none.
func (f *FS) WriteMuslPath(l Layout, o Owner) (bool, error) {
	if l.Musl == "" {
		return false, nil
	}
	if err := base(l.Musl); err != nil {
		return false, err
	}
	if !placeable(l.LibDir) {
		return false, fmt.Errorf("%s cannot be in a search path", quote(l.LibDir))
	}
	name := muslPathName(l.Musl)
	etc, err := f.open("etc", unix.O_DIRECTORY, false)
	if err == nil {
		var st unix.Stat_t
		err = unix.Fstatat(etc, strings.TrimPrefix(name, "etc/"), &st, unix.AT_SYMLINK_NOFOLLOW)
		unix.Close(etc)
	}
	switch {
	case err == nil:
		return false, nil
	case !errors.Is(err, unix.ENOENT):
		return false, fmt.Errorf("looking for %s: %w", quote("/"+name), err)
	}
	dirs := slices.Clone(muslDefault)
	if !slices.Contains(dirs, l.LibDir) {
		dirs = append(dirs, l.LibDir)
	}
	if err := f.WriteFile(name, []byte(strings.Join(dirs, "\n")+"\n"), 0o644, o); err != nil {
		return false, err
	}
	return true, nil
}

// muslDir chooses a directory that the image's musl searches: /usr/lib if it is one, else the first
// that may be used.
func (f *FS) muslDir(loader string) string {
	const most = 64 << 10
	dirs := muslDefault
	if data, err := f.readFile(muslPathName(loader), most); err == nil {
		dirs = parseMuslPath(data)
	}
	if slices.Contains(dirs, "/usr/lib") {
		dirs = append([]string{"/usr/lib"}, dirs...)
	}
	for _, d := range dirs {
		// Not the form below /usr, which musl would not search.
		if real, ok := f.realDir(d); ok {
			return real
		}
	}
	return f.firstDir([]string{"/usr/lib", "/usr/local/lib"})
}

// parseMuslPath returns the directories of a path file that may be used, at most 64.
func parseMuslPath(data []byte) []string {
	const most = 64
	text, _, _ := strings.Cut(string(data), "\x00")
	var dirs []string
	for d := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ':' || r == '\n' }) {
		if len(dirs) < most && placeable(d) {
			dirs = append(dirs, d)
		}
	}
	return dirs
}
