// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

var update = flag.Bool("update", false, "update the expected output in the scripts")

func TestMain(m *testing.M) {
	testscript.Main(tidy{m}, map[string]func(){program: main, "parent-death-signal": printParentDeathSignal})
}

// tidy runs the tests and then removes the programs that were built for them.
type tidy struct{ m *testing.M }

func (t tidy) Run() int {
	code := t.m.Run()
	if builtNow {
		if path, err := built(); err == nil {
			_ = os.RemoveAll(filepath.Dir(path))
		}
	}
	return code
}

// TestScripts runs testdata/script/*.txtar. In addition to testscript's commands, they can use:
//
//	machine NAME [DIR]   unpacks a fixture, without device nodes, to DIR (default machine) and
//	                     sets NVIDIA_CONTAINER_RUNTIME_SYSROOT to it
//	image NAME           makes the root filesystem b/rootfs: debian, debian-arm64, fedora, arch,
//	                     alpine or empty
//	bundle FILE [VAR=VALUE…]  makes the bundle b from FILE, a config.json, with variables added to
//	                     its environment
//	create FILE [VAR=VALUE…]  does the same, then creates a container from it. Checks that nothing
//	                     is printed or, with !, that stderr has one line and config.json is
//	                     unchanged
//	nodes [NAME…]        checks which nodes of GPUs (0 is /dev/nvidia0) and MIG capabilities (cap3)
//	                     b/config.json has
//	devices, rules, mounts, masked  print linux.devices, the rules about them, mounts and
//	                     linux.maskedPaths of b/config.json, one item per line
//	driver               prints what the container will see in the driver's directory, for either
//	                     way to provide it: files with their source on the machine, links with
//	                     their target
//	libs                 prints the base names of the libraries among those files
//	what                 prints those files except firmware, the devices, and other mounts
//	pick NAME.NAME…      prints a part of b/config.json, or null
//	stamp FILE           prints what changes if a file is written or replaced
//	mkdev PATH MAJ:MIN MODE GID  creates a character device; needs root
//	nvsysfs ARG…         builds nvsysfs and runs it
//	config [FILE]        prints b/config.json, or FILE, one element per line
//	tree DIR             lists a directory: files, and links with their target
//	ldconfig DIR         prints DIR/etc/ld.so.cache as ldconfig -p would
//
// Unless a script has its own, docker.json is a config.json as Docker writes it, and
// privileged.json is one of docker run --privileged.
//
// The low-level runtime is a shell script in PATH that prints how it was called. In the output,
// paths in the script's own directory start with $WORK, and a directory of hard links ends in
// "boot-ID/550.54.15-KEY".
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
			// Scripts find the runtime, but none of this machine's configuration.
			env.Setenv("PATH", bin+":"+env.Getenv("PATH"))
			env.Setenv("XDG_CONFIG_HOME", env.WorkDir)
			env.Setenv("NVIDIA_CONTAINER_RUNTIME_DEBUG", filepath.Join(env.WorkDir, "log"))
			for name, text := range configs {
				if _, err := os.Stat(filepath.Join(env.WorkDir, name)); err == nil {
					continue
				}
				if err := os.WriteFile(filepath.Join(env.WorkDir, name), []byte(text), 0o644); err != nil {
					return err
				}
			}
			env.Values[testingT{}] = env.T()
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"machine":  machineCommand,
			"image":    imageCommand,
			"bundle":   bundleCommand,
			"config":   configCommand,
			"tree":     treeCommand,
			"ldconfig": ldconfigCommand,
			"create":   createCommand,
			"nodes":    nodesCommand,
			"devices":  printer(devices),
			"rules":    printer(rules),
			"mounts":   printer(mounts),
			"driver":   printer(driverFiles),
			"libs":     printer(libs),
			"masked":   printer(masked),
			"what":     printer(what),
			"pick":     pickCommand,
			"stamp":    stampCommand,
			"mkdev":    mkdevCommand,
			"nvsysfs":  nvsysfsCommand,
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
	ts.Setenv("NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES", "open")
}

// images are root filesystems with as much as their loader's search path requires.
var images = map[string]struct {
	files map[string]string // path to content; "-> x" is a link to x
	libc  string            // its path in the cache; "" for no cache
	flags int32             // of that entry; 0 for x86-64
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
	"debian-arm64": {
		files: map[string]string{
			"lib": "-> usr/lib", "etc/debian_version": "12.11\n",
			"usr/lib/aarch64-linux-gnu/libc.so.6": "libc",
		},
		libc: "/lib/aarch64-linux-gnu/libc.so.6", flags: ldcache.FlagAArch64,
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
	root := ts.MkAbs("b/rootfs")
	ts.Check(os.RemoveAll(root))
	ts.Check(makeImage(root, args[0]))
}

// makeImage makes the root filesystem of the image with that name.
func makeImage(root, name string) error {
	image, ok := images[name]
	if !ok {
		return fmt.Errorf("no image %s", name)
	}
	if err := os.MkdirAll(root, 0o755); err != nil {
		return err
	}
	for name, content := range image.files {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if target, ok := strings.CutPrefix(content, "-> "); ok {
			if err := os.Symlink(target, path); err != nil {
				return err
			}
			continue
		}
		if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
			return err
		}
	}
	if image.libc == "" {
		return nil
	}
	cache := ldcache.Cache{Entries: []ldcache.Entry{{Name: "libc.so.6", Path: image.libc, Flags: cmp.Or(image.flags, ldcache.FlagX8664)}}}
	data, err := cache.Encode()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Join(root, "etc"), 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(root, "etc/ld.so.cache"), data, 0o644)
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

// layOut writes JSON with each member of an object and each element of an array on a line of its
// own, so that a change affects few lines.
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
	text = strings.ReplaceAll(text, ts.Getenv("WORK"), "$WORK")
	_, err := fmt.Fprint(ts.Stdout(), directoryName.ReplaceAllString(text, "/boot-ID/$1-KEY"))
	ts.Check(err)
}

// directoryName matches the end of the path of a directory of hard links.
var directoryName = regexp.MustCompile(`/boot-[-0-9a-f]{36}/([0-9.]+)-[0-9a-f]{32}`)

// testingT is the key of the test among a script's values.
type testingT struct{}

// configs are minimal config.json files.
var configs = map[string]string{
	"docker.json": `{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":["sh"],"env":["PATH=/bin"],"cwd":"/",` +
		`"capabilities":{"bounding":["CAP_CHOWN","CAP_MKNOD"]}},"root":{"path":"rootfs"},` +
		`"mounts":[{"destination":"/proc","type":"proc","source":"proc"}],` +
		`"linux":{"resources":{"devices":[{"allow":false,"access":"rwm"}]},"namespaces":[{"type":"mount"}],"maskedPaths":["/proc/kcore"]}}`,
	"privileged.json": `{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":["sh"],"env":["PATH=/bin"],"cwd":"/",` +
		`"capabilities":{"bounding":["CAP_CHOWN","CAP_MKNOD","CAP_SYS_ADMIN"]}},"root":{"path":"rootfs"},` +
		`"linux":{"resources":{"devices":[{"allow":true,"access":"rwm"}]},"namespaces":[{"type":"mount"}]}}`,
}

func createCommand(ts *testscript.TestScript, neg bool, args []string) {
	bundleCommand(ts, false, args)
	before := ts.ReadFile("b/config.json")
	err := ts.Exec(program, "create", "--bundle", "b", "id")
	stdout, stderr := ts.ReadFile("stdout"), ts.ReadFile("stderr")
	if !neg {
		if err != nil || stdout != "runc create --bundle b id\n" || stderr != "" {
			ts.Fatalf("create: %v\nstdout: %s\nstderr: %s", err, stdout, stderr)
		}
		return
	}
	if err == nil || stdout != "" || !strings.HasPrefix(stderr, program+": ") || strings.Count(stderr, "\n") != 1 {
		ts.Fatalf("create does not fail with a single line: %v\nstdout: %s\nstderr: %s", err, stdout, stderr)
	}
	if ts.ReadFile("b/config.json") != before {
		ts.Fatalf("create failed, but changed config.json")
	}
}

// configJSON has the parts of a config.json that the scripts check.
type configJSON struct {
	Root   struct{ Path string }
	Mounts []struct {
		Destination, Source string
		Options             []string
	}
	Linux struct {
		MaskedPaths []string
		Devices     []struct {
			Path, Type   string
			Major, Minor int
			FileMode     *os.FileMode
			UID, GID     *uint32
		}
		Resources struct {
			Devices []struct {
				Allow        bool
				Type, Access string
				Major, Minor *int
			}
		}
	}
}

func printer(text func(ts *testscript.TestScript, c configJSON) []string) func(*testscript.TestScript, bool, []string) {
	return func(ts *testscript.TestScript, neg bool, args []string) {
		var c configJSON
		ts.Check(json.Unmarshal([]byte(ts.ReadFile("b/config.json")), &c))
		out := strings.Join(text(ts, c), "\n")
		if out != "" {
			out += "\n"
		}
		printHidingWork(ts, out)
	}
}

func devices(_ *testscript.TestScript, c configJSON) []string {
	var out []string
	for _, d := range c.Linux.Devices {
		line := fmt.Sprintf("%s %s %d:%d", d.Path, d.Type, d.Major, d.Minor)
		if d.FileMode != nil && d.UID != nil && d.GID != nil {
			line += fmt.Sprintf(" %04o %d:%d", *d.FileMode, *d.UID, *d.GID)
		}
		out = append(out, line)
	}
	return out
}

func rules(_ *testscript.TestScript, c configJSON) []string {
	number := func(n *int) string {
		if n == nil {
			return "*"
		}
		return fmt.Sprint(*n)
	}
	var out []string
	for _, r := range c.Linux.Resources.Devices {
		word := "deny"
		if r.Allow {
			word = "allow"
		}
		out = append(out, fmt.Sprintf("%s %s %s:%s %s", word, cmp.Or(r.Type, "a"), number(r.Major), number(r.Minor), r.Access))
	}
	return out
}

func mounts(_ *testscript.TestScript, c configJSON) []string {
	var out []string
	for _, m := range c.Mounts {
		line := m.Destination + " <- " + m.Source
		if options := strings.Join(m.Options, ","); options != "ro,nosuid,nodev,rbind,rprivate" {
			line += " " + options
		}
		out = append(out, line)
	}
	return out
}

// driverFiles lists what the container will see in plan.Dir.
func driverFiles(ts *testscript.TestScript, c configJSON) []string {
	var out []string
	directory := ""
	for _, m := range c.Mounts {
		if name, ok := strings.CutPrefix(m.Destination, plan.Dir+"/"); ok {
			out = append(out, name+" <- "+m.Source)
		}
		if m.Destination == plan.Dir {
			directory = m.Source
		}
	}
	links := filepath.Join(ts.MkAbs("b"), c.Root.Path)
	if filepath.IsAbs(c.Root.Path) {
		links = c.Root.Path
	}
	below(ts, cmp.Or(directory, filepath.Join(links, plan.Dir)), func(name, path string, st unix.Stat_t) {
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := os.Readlink(path)
			ts.Check(err)
			out = append(out, name+" -> "+target)
		} else if directory != "" {
			out = append(out, name+" <- "+path)
		}
	})
	// Inode numbers tell which file a hard link is a link to.
	inodes := map[uint64]string{}
	below(ts, ts.Getenv("NVIDIA_CONTAINER_RUNTIME_SYSROOT"), func(_, path string, st unix.Stat_t) {
		if !strings.Contains(path, "/boot-") {
			inodes[st.Ino] = path
		}
	})
	for i, line := range out {
		name, source, file := strings.Cut(line, " <- ")
		var st unix.Stat_t
		if !file || unix.Lstat(source, &st) != nil {
			continue
		}
		if out[i] = name; inodes[st.Ino] != "" {
			out[i] += " <- " + inodes[st.Ino]
		}
	}
	slices.Sort(out)
	return out
}

// below calls do for everything below dir except directories. dir may be missing.
func below(ts *testscript.TestScript, dir string, do func(name, path string, st unix.Stat_t)) {
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		do(name, path, st)
		return nil
	})
	if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
		ts.Check(err)
	}
}

func libs(ts *testscript.TestScript, c configJSON) []string {
	var out []string
	for _, line := range driverFiles(ts, c) {
		if strings.Contains(line, " -> ") {
			continue
		}
		if name := filepath.Base(strings.Fields(line)[0]); strings.Contains(name, ".so.") {
			out = append(out, name)
		}
	}
	return out
}

func what(ts *testscript.TestScript, c configJSON) []string {
	var out []string
	for _, d := range c.Linux.Devices {
		out = append(out, d.Path)
	}
	for _, m := range c.Mounts {
		if !strings.HasPrefix(m.Destination, plan.Dir) && m.Source != "proc" {
			out = append(out, m.Destination)
		}
	}
	for _, line := range driverFiles(ts, c) {
		if name := strings.Fields(line)[0]; !strings.Contains(line, " -> ") && !strings.HasPrefix(name, "firmware/") {
			out = append(out, name)
		}
	}
	return out
}

func masked(_ *testscript.TestScript, c configJSON) []string { return c.Linux.MaskedPaths }

func nodesCommand(ts *testscript.TestScript, neg bool, args []string) {
	var c configJSON
	ts.Check(json.Unmarshal([]byte(ts.ReadFile("b/config.json")), &c))
	got := gpuNodes(c)
	want := slices.Sorted(slices.Values(args))
	if !slices.Equal(got, want) {
		ts.Fatalf("config.json has the nodes %q, want %q", got, want)
	}
}

// gpuNodes returns the sorted nodes of GPUs and MIG capabilities, such as "0" and "cap3".
func gpuNodes(c configJSON) []string {
	var got []string
	for _, d := range c.Linux.Devices {
		if name, ok := strings.CutPrefix(d.Path, "/dev/nvidia-caps/nvidia-"); ok {
			got = append(got, name)
		} else if name, ok := strings.CutPrefix(d.Path, "/dev/nvidia"); ok && '0' <= name[0] && name[0] <= '9' {
			got = append(got, name)
		}
	}
	slices.Sort(got)
	return got
}

func pickCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: pick NAME.NAME…")
	}
	text := json.RawMessage(ts.ReadFile("b/config.json"))
	for name := range strings.SplitSeq(args[0], ".") {
		var object map[string]json.RawMessage
		ts.Check(json.Unmarshal(text, &object))
		if text = object[name]; text == nil {
			text = json.RawMessage("null")
		}
	}
	var out bytes.Buffer
	ts.Check(layOut(&out, text, ""))
	printHidingWork(ts, out.String()+"\n")
}

func stampCommand(ts *testscript.TestScript, neg bool, args []string) {
	if len(args) != 1 {
		ts.Fatalf("usage: stamp FILE")
	}
	var st unix.Stat_t
	ts.Check(unix.Stat(ts.MkAbs(args[0]), &st))
	fmt.Fprintln(ts.Stdout(), st.Ino, st.Mtim, st.Ctim, st.Mode)
}

func mkdevCommand(ts *testscript.TestScript, neg bool, args []string) {
	var major, minor, mode, gid uint32
	if len(args) != 4 {
		ts.Fatalf("usage: mkdev PATH MAJ:MIN MODE GID")
	}
	_, err := fmt.Sscanf(strings.Join(args[1:], " "), "%d:%d %o %d", &major, &minor, &mode, &gid)
	ts.Check(err)
	if os.Geteuid() != 0 {
		// This does what package need does, which requires a testing.T that scripts do not have.
		if os.Getenv("NVCR_NO_SKIP") != "" {
			ts.Fatalf("needed here: root")
		}
		ts.Value(testingT{}).(testscript.T).Skip("SKIPPED: needs root")
	}
	path := ts.MkAbs(args[0])
	ts.Check(os.MkdirAll(filepath.Dir(path), 0o755))
	ts.Check(unix.Mknod(path, unix.S_IFCHR|mode, int(unix.Mkdev(major, minor))))
	ts.Check(os.Chmod(path, os.FileMode(mode)))
	ts.Check(os.Chown(path, 0, int(gid)))
}
