// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){
		"nvsysfs-configure": func() {
			if err := runWords(os.Args[1:], os.Stdout, os.Stderr); err != nil {
				fmt.Fprintln(os.Stderr, "nvsysfs:", err)
				os.Exit(1)
			}
		},
	})
}

// runWords runs "nvsysfs configure" with the given arguments.
func runWords(words []string, stdout, stderr io.Writer) error {
	var f Flags
	flags := flag.NewFlagSet("configure", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	f.Define(words[0], flags)
	if err := flags.Parse(words[1:]); err != nil {
		return err
	}
	return Run(f, stdout, stderr)
}

// TestScripts runs testdata/*.txtar. In each, root/ is the machine, with this runtime and
// other-runtime in its /usr/bin. UPDATE_SCRIPTS=1 updates the files that cmp compares with.
func TestScripts(t *testing.T) {
	scripts, err := filepath.Glob("testdata/*.txtar")
	if err != nil || len(scripts) == 0 {
		t.Fatalf("testdata/*.txtar matches %d files: %v", len(scripts), err)
	}
	testscript.Run(t, testscript.Params{
		Dir:           "testdata",
		UpdateScripts: os.Getenv("UPDATE_SCRIPTS") != "",
		Setup: func(e *testscript.Env) error {
			dir := filepath.Join(e.WorkDir, "root", "usr", "bin")
			if err := os.MkdirAll(dir, 0o755); err != nil {
				return err
			}
			for _, name := range []string{program, "other-runtime"} {
				if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"), 0o755); err != nil {
					return err
				}
			}
			return nil
		},
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"mkfifo": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(syscall.Mkfifo(ts.MkAbs(args[0]), 0o644))
			},
			// truncate FILE creates an empty file, which an archive cannot contain.
			"truncate": func(ts *testscript.TestScript, _ bool, args []string) {
				ts.Check(os.MkdirAll(filepath.Dir(ts.MkAbs(args[0])), 0o755))
				ts.Check(os.WriteFile(ts.MkAbs(args[0]), nil, 0o644))
			},
			// chop FILE removes the line endings at the end of the file.
			"chop": func(ts *testscript.TestScript, _ bool, args []string) {
				edit(ts, args[0], func(s string) string { return strings.TrimRight(s, "\r\n") })
			},
			// lineends FILE checks that all lines have Windows line endings.
			"lineends": func(ts *testscript.TestScript, _ bool, args []string) {
				edit(ts, args[0], func(s string) string {
					if n := strings.Count(s, "\n"); n == 0 || n != strings.Count(s, "\r\n") {
						ts.Fatalf("mixed line endings: %q", s)
					}
					return s
				})
			},
			// edit FILE OLD NEW replaces the first OLD with NEW, where \n stands for a newline.
			"edit": func(ts *testscript.TestScript, _ bool, args []string) {
				edit(ts, args[0], func(s string) string {
					return strings.Replace(s, args[1], strings.ReplaceAll(args[2], `\n`, "\n"), 1)
				})
			},
			// mode 0640 FILE checks a file's mode.
			"mode": func(ts *testscript.TestScript, _ bool, args []string) {
				want, err := strconv.ParseUint(args[0], 8, 32)
				ts.Check(err)
				info, err := os.Lstat(ts.MkAbs(args[1]))
				ts.Check(err)
				if info.Mode() != os.FileMode(want) {
					ts.Fatalf("%s has mode %v", args[1], info.Mode())
				}
			},
			// noleftovers DIR fails if a temporary file is left there.
			"noleftovers": func(ts *testscript.TestScript, _ bool, args []string) {
				found, err := filepath.Glob(filepath.Join(ts.MkAbs(args[0]), ".nvsysfs-*"))
				ts.Check(err)
				if len(found) > 0 {
					ts.Fatalf("left over: %v", found)
				}
			},
		},
	})
}

func edit(ts *testscript.TestScript, name string, change func(string) string) {
	ts.Check(os.WriteFile(ts.MkAbs(name), []byte(change(ts.ReadFile(name))), 0o644))
}
