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

// usualDirs are searched after PATH: podman starts its runtime without PATH.
var usualDirs = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// findRuntime returns the path of the low-level runtime: the configured one, or the first of
// candidates that exists. A name without a slash is searched in pathVar, the caller's PATH, and
// then in the usual directories. It never returns our own executable, whatever its name.
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
		// A relative entry would let the bundle's directory choose the runtime.
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

// usable reports why path cannot be executed or is this program.
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
	// A copy of this program under the runtime's name would exec itself forever.
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

// creatorOr returns the low-level runtime that created this invocation's container, according to
// the container's state, or else runtime and err. They differ if the configuration has changed
// since, or was a different one: rootless podman does not call all commands with the same
// environment.
//
// runc keeps ROOT/ID/state.json, crun ROOT/ID/status. Usually the first check finds it.
func creatorOr(runtime string, err error, configured []string, inv invocation, environ []string) (string, error) {
	for _, word := range inv.rest {
		// This does not tell options from their values, but a value is hardly ever a container's
		// name.
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

// hasState reports whether runc or crun has a container of that name.
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
