// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// usualDirs are searched after PATH: podman starts its runtime with no PATH
// at all.
var usualDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// findRuntime returns the low-level runtime to hand over to: the one
// configured, or the first of candidates that is there. A name without a
// slash is searched in pathVar, the caller's PATH, and then in the usual
// directories. Our own executable is never the answer, under whatever name.
func findRuntime(configured string, candidates []string, pathVar string) (string, error) {
	if configured != "" {
		candidates = []string{configured}
	}
	var self unix.Stat_t
	if err := unix.Stat("/proc/self/exe", &self); err != nil {
		return "", fmt.Errorf("looking for the low-level runtime: %w", err)
	}

	var dirs []string
	for _, dir := range filepath.SplitList(pathVar) {
		// A relative entry would let the bundle's directory name the runtime.
		if filepath.IsAbs(dir) {
			dirs = append(dirs, dir)
		}
	}
	dirs = append(dirs, usualDirs...)
	for i := len(dirs) - 1; i > 0; i-- {
		if slices.Contains(dirs[:i], dirs[i]) {
			dirs = slices.Delete(dirs, i, i+1)
		}
	}

	var tried []string
	for _, name := range candidates {
		var paths []string
		switch {
		case filepath.IsAbs(name):
			paths = []string{name}
		case strings.Contains(name, "/"):
			tried = append(tried, name+": neither a name nor an absolute path")
		default:
			for _, dir := range dirs {
				paths = append(paths, filepath.Join(dir, name))
			}
		}
		for _, path := range paths {
			err := usable(path, &self)
			if err == nil {
				return path, nil
			}
			if filepath.IsAbs(name) || !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				tried = append(tried, fmt.Sprintf("%s: %v", path, err))
			}
		}
	}
	msg := fmt.Sprintf("no low-level runtime found: looked for %s", strings.Join(candidates, ", "))
	if !strings.Contains(configured, "/") {
		msg += fmt.Sprintf(" in %s", strings.Join(dirs, ":"))
	}
	if len(tried) > 0 {
		msg += " (" + strings.Join(tried, "; ") + ")"
	}
	return "", errors.New(msg + "; install runc or crun, or set runtime-path in config.toml")
}

var errSelf = errors.New("is this program itself")

// usable tells whether path can be executed and is not this program.
func usable(path string, own *unix.Stat_t) error {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return errors.New("is not a regular file")
	}
	if err := unix.Access(path, unix.X_OK); err != nil {
		return err
	}
	if st.Dev == own.Dev && st.Ino == own.Ino {
		return errSelf
	}
	// A copy of this program under the runtime's name would exec itself for
	// ever.
	if st.Size == own.Size {
		other, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		mine, err := os.ReadFile("/proc/self/exe")
		if err != nil {
			return err
		}
		if bytes.Equal(other, mine) {
			return errSelf
		}
	}
	return nil
}

func isCrun(runtime string) bool {
	return strings.HasPrefix(filepath.Base(runtime), "crun")
}

// creatorOr returns the low-level runtime that created the container which
// this invocation is about, where its state tells and it is another one
// than runtime or there is no runtime because of err. Else it returns these
// as they are. The configuration may have changed since, or have been
// another one: rootless podman does not call every command with the same
// environment.
//
// runc keeps ROOT/ID/state.json, crun ROOT/ID/status. Usually the first
// look finds it.
func creatorOr(runtime string, err error, configured []string, inv invocation, environ []string) (string, error) {
	for _, word := range inv.rest {
		// Options are not told from their values: a value is hardly ever the name of a container.
		if word == "" || word[0] == '-' || word[0] == '.' || strings.Contains(word, "/") {
			continue
		}
		crun := isCrun(runtime)
		if hasState(crun, word, inv, environ) {
			if err == nil {
				return runtime, nil
			}
		} else if crun = !crun; !hasState(crun, word, inv, environ) {
			continue
		}
		names := slices.DeleteFunc(slices.Clone(configured), func(name string) bool { return isCrun(name) != crun })
		if crun {
			names = append(names, "crun")
		} else {
			names = append(names, "docker-runc", "runc")
		}
		if creator, notFound := findRuntime("", names, plan.Getenv(environ, "PATH")); notFound == nil {
			return creator, nil
		}
		return runtime, err
	}
	return runtime, err
}

// hasState tells whether runc or crun has a container of that name.
func hasState(crun bool, name string, inv invocation, environ []string) bool {
	runtime, file := "runc", "state.json"
	if crun {
		runtime, file = "crun", "status"
	}
	roots := []string{inv.root}
	if inv.root == "" {
		roots = []string{"/run/" + runtime}
		if dir := plan.Getenv(environ, "XDG_RUNTIME_DIR"); dir != "" {
			roots = append(roots, filepath.Join(dir, runtime))
		}
	}
	return slices.ContainsFunc(roots, func(root string) bool {
		return unix.Access(filepath.Join(root, name, file), unix.F_OK) == nil
	})
}
