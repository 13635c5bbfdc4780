// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"crypto/sha256"
	_ "embed"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// image is an archive of a container's root filesystem.
//
//go:embed testdata/image.txtar
var image string

var update = flag.Bool("update", false, "write what the commands print into the scripts")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"nvsysfs": main})
}

// TestScripts runs testdata/script/*.txtar. Besides the usual commands, they have:
//
//	machine NAME [DIR]  unpacks a fixture without device nodes to DIR (default: NAME)
//	image [DIR]         unpacks testdata/image.txtar, a Debian with only a C library, to DIR
//	                    (default: b/rootfs)
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Setup: func(env *testscript.Env) error {
			// Hide this machine's own configuration and PATH.
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			env.Setenv("PATH", strings.SplitN(env.Getenv("PATH"), ":", 2)[0]+":/usr/bin:/bin")
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"machine": func(ts *testscript.TestScript, _ bool, args []string) {
				a, err := fixtures.Load(args[0])
				ts.Check(err)
				_, err = a.Unpack(ts.MkAbs(args[len(args)-1]), fixtures.UnpackOptions{NoDevices: true})
				ts.Check(err)
			},
			"image": func(ts *testscript.TestScript, _ bool, args []string) {
				a, err := fixtures.Parse([]byte(image))
				ts.Check(err)
				_, err = a.Unpack(ts.MkAbs(append(args, "b/rootfs")[0]), fixtures.UnpackOptions{})
				ts.Check(err)
			},
		},
		Dir:                 "testdata/script",
		UpdateScripts:       *update,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
	})
}

// snapshot describes a tree so that any change shows, including one of mtime or ctime. Access times
// are left out.
func snapshot(dir string) (string, error) {
	var b strings.Builder
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		fmt.Fprintf(&b, "%s %v inode %d owner %d:%d device %d times %d %d", name, info.Mode(), st.Ino, st.Uid, st.Gid, st.Rdev, st.Mtim, st.Ctim)
		switch {
		case info.Mode().IsRegular():
			data, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " %d bytes %x", len(data), sha256.Sum256(data))
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(&b, " -> %s", target)
		}
		b.WriteByte('\n')
		return nil
	})
	return b.String(), err
}
