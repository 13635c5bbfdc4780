// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

var update = flag.Bool("update", false, "write what the program does into the scripts as what is wanted")

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){program: main})
}

// TestScripts runs testdata/script/*.txtar. Beside the usual commands they
// have:
//
//	machine NAME [DIR]   unpacks a fixture, without device nodes, to DIR
//	                     (default machine) and lets NVIDIA_CONTAINER_RUNTIME_SYSROOT
//	                     name it
//	image NAME           makes the root filesystem b/rootfs: debian, fedora,
//	                     arch, alpine or empty
//	bundle FILE [VAR=VALUE…]  makes the bundle b from FILE, a config.json, with
//	                     variables added to its environment
//	config [FILE]        prints b/config.json, or FILE, one element a line
//	tree DIR             lists a directory: links with their target, files
//	ldconfig DIR         prints DIR/etc/ld.so.cache as ldconfig -p would
//
// The low-level runtime is a shell script on PATH that prints how it
// was called. In what is printed, paths of the script's own directory begin
// with $WORK.
func TestScripts(t *testing.T) {
	testscript.Run(t, testscript.Params{
		Dir:           "testdata/script",
		UpdateScripts: *update,
		Setup: func(env *testscript.Env) error {
			bin := filepath.Join(env.WorkDir, "bin")
			if err := os.MkdirAll(bin, 0o755); err != nil {
				return err
			}
			runc := "#!/bin/sh\necho \"${0##*/}\" \"$@\"\n"
			if err := os.WriteFile(filepath.Join(bin, "runc"), []byte(runc), 0o755); err != nil {
				return err
			}
			// Scripts find the runtime and nothing of the machine's own configuration.
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			env.Setenv("NVIDIA_CONTAINER_RUNTIME_DEBUG", filepath.Join(env.WorkDir, "log"))
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"machine":  machineCommand,
			"image":    imageCommand,
			"bundle":   bundleCommand,
			"config":   configCommand,
			"tree":     treeCommand,
			"ldconfig": ldconfigCommand,
		},
	})
}

func machineCommand(ts *testscript.TestScript, neg bool, args []string) {
	dir := "machine"
	switch len(args) {
	case 1:
	case 2:
		dir = args[1]
	default:
		ts.Fatalf("usage: machine NAME [DIR]")
	}
	dir = ts.MkAbs(dir)
	a, err := fixtures.Load(args[0])
	ts.Check(err)
	ts.Check(os.RemoveAll(dir))
	ts.Check(os.MkdirAll(dir, 0o755))
	_, err = a.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	ts.Check(err)
	ts.Setenv("NVIDIA_CONTAINER_RUNTIME_SYSROOT", dir)
}

// images are root filesystems as far as their loader's search path goes.
var images = map[string]struct {
	files map[string]string // path to content; a content "-> x" is a link
	libc  string            // its entry in the cache; "" no cache
}{
	"debian": {
		files: map[string]string{
			"lib": "-> usr/lib", "lib64": "-> usr/lib64", "bin": "-> usr/bin",
			"etc/debian_version":                  "12.11\n",
			"usr/lib/x86_64-linux-gnu/libc.so.6":  "libc",
			"usr/lib/aarch64-linux-gnu/libc.so.6": "libc",
			"usr/lib64/ld-linux-x86-64.so.2":      "loader",
		},
		libc: "/lib/x86_64-linux-gnu/libc.so.6",
	},
	"fedora": {
		files: map[string]string{
			"lib": "-> usr/lib", "lib64": "-> usr/lib64",
			"etc/fedora-release":  "Fedora release 42\n",
			"usr/lib64/libc.so.6": "libc", "usr/lib/libc.so.6": "libc",
		},
		libc: "/lib64/libc.so.6",
	},
	"arch": {
		files: map[string]string{
			"lib": "-> usr/lib", "lib64": "-> usr/lib", "usr/lib64": "-> lib",
			"etc/arch-release":  "",
			"usr/lib/libc.so.6": "libc",
		},
		libc: "/usr/lib/libc.so.6",
	},
	"alpine": {
		files: map[string]string{
			"etc/alpine-release":        "3.21.0\n",
			"lib/ld-musl-x86_64.so.1":   "loader",
			"lib/libc.musl-x86_64.so.1": "-> ld-musl-x86_64.so.1",
			"usr/lib/libz.so.1":         "zlib",
		},
	},
	"empty": {},
}

func imageCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: image NAME")
	}
	image, ok := images[args[0]]
	if !ok {
		ts.Fatalf("no image %s", args[0])
	}
	root := ts.MkAbs("b/rootfs")
	ts.Check(os.RemoveAll(root))
	ts.Check(os.MkdirAll(root, 0o755))
	for name, content := range image.files {
		// Directories first come as links: make what they lead to.
		path := filepath.Join(root, name)
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
			ts.Check(os.Symlink(target, path))
			continue
		}
		ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
		ts.Check(os.WriteFile(path, []byte(content), 0o644))
	}
	if image.libc == "" {
		return
	}
	cache := ldcache.Cache{Entries: []ldcache.Entry{{Name: "libc.so.6", Path: image.libc, Flags: ldcache.FlagX8664}}}
	data, err := cache.Encode()
	ts.Check(err)
	ts.Check(os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	ts.Check(os.WriteFile(filepath.Join(root, "etc/ld.so.cache"), data, 0o644))
}

func bundleCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) < 1 {
		ts.Fatalf("usage: bundle FILE [VAR=VALUE…]")
	}
	text := ts.ReadFile(args[0])
	var quoted strings.Builder
	for _, v := range args[1:] {
		q, err := json.Marshal(v)
		ts.Check(err)
		fmt.Fprintf(&quoted, ",%s", q)
	}
	text = strings.Replace(text, `"env":["PATH=/bin"`, `"env":["PATH=/bin"`+quoted.String(), 1)
	ts.Check(os.MkdirAll(ts.MkAbs("b"), 0o755))
	ts.Check(os.WriteFile(ts.MkAbs("b/config.json"), []byte(text), 0o644))
}

func configCommand(ts *testscript.TestScript, neg bool, args []string) {
	name := "b/config.json"
	if len(args) == 1 {
		name = args[0]
	}
	var out bytes.Buffer
	ts.Check(layOut(&out, []byte(ts.ReadFile(name)), ""))
	printHidingWork(ts, out.String()+"\n")
}

// layOut writes JSON so that a change is a change of few lines: each member
// of an object and each element of an array on one line.
func layOut(out *bytes.Buffer, text []byte, indent string) error {
	d := json.NewDecoder(bytes.NewReader(text))
	open, err := d.Token()
	if err != nil {
		return err
	}
	if open != json.Delim('{') && open != json.Delim('[') {
		out.Write(bytes.TrimSpace(text))
		return nil
	}
	fmt.Fprint(out, open)
	comma := ""
	for d.More() {
		out.WriteString(comma + "\n" + indent + "  ")
		comma = ","
		var value json.RawMessage
		if open == json.Delim('[') {
			if err := d.Decode(&value); err != nil {
				return err
			}
			if err := json.Compact(out, value); err != nil {
				return err
			}
			continue
		}
		key, err := d.Token()
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "%q: ", key)
		if err := d.Decode(&value); err != nil {
			return err
		}
		if err := layOut(out, value, indent+"  "); err != nil {
			return err
		}
	}
	if comma != "" {
		out.WriteString("\n" + indent)
	}
	end, err := d.Token()
	fmt.Fprint(out, end)
	return err
}

func treeCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: tree DIR")
	}
	root := ts.MkAbs(args[0])
	var out strings.Builder
	ts.Check(filepath.WalkDir(root, func(path string, d os.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		switch {
		case d.Type()&os.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			fmt.Fprintf(&out, "%s -> %s\n", name, target)
		case !d.IsDir():
			fmt.Fprintln(&out, name)
		}
		return nil
	}))
	printHidingWork(ts, out.String())
}

func ldconfigCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: ldconfig DIR")
	}
	cache, err := ldcache.Parse([]byte(ts.ReadFile(filepath.Join(args[0], "etc/ld.so.cache"))))
	ts.Check(err)
	var out bytes.Buffer
	ts.Check(cache.WriteText(&out))
	printHidingWork(ts, out.String())
}

func printHidingWork(ts *testscript.TestScript, text string) {
	_, err := fmt.Fprint(ts.Stdout(), strings.ReplaceAll(text, ts.Getenv("WORK"), "$WORK"))
	ts.Check(err)
}
