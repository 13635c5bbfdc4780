// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// TestLdconfig compares with what the machine's ldconfig prints and writes for its own cache.
func TestLdconfig(t *testing.T) {
	ldconfig := hostLdconfig(t)
	data, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Skipf("SKIPPED: needs a cache on this machine to compare with: %v", err)
	}
	want := output(t, "", ldconfig, "-p")
	c, err := Parse(data)
	require.NoError(t, err)
	var text bytes.Buffer
	require.NoError(t, c.WriteText(&text))
	assert.Equal(t, want, text.String())
	listed, err := ParseText(&text)
	require.NoError(t, err)
	for i := range listed {
		// The text never has the ISA level, and "64bit" is ambiguous.
		listed[i].HWCap, listed[i].Flags = c.Entries[i].HWCap, c.Entries[i].Flags
	}
	assert.Equal(t, c.Entries, listed)

	for _, format := range []Format{New, Combined, Old} {
		c.Format = format
		encoded, err := c.Encode()
		require.NoError(t, err)
		name := filepath.Join(t.TempDir(), "ld.so.cache")
		require.NoError(t, os.WriteFile(name, encoded, 0o600))
		again, err := Parse(encoded)
		require.NoError(t, err)
		text.Reset()
		require.NoError(t, again.WriteText(&text))
		printed := strings.Replace(output(t, "", ldconfig, "-p", "-C", name), name, "/etc/ld.so.cache", 1)
		assert.Equal(t, text.String(), printed)
		if format != Old {
			assert.Equal(t, want, printed)
		}
	}
}

// TestHostLoader runs the checks of testTree in a directory with this
// machine's own loader, C library and ldconfig.
func TestHostLoader(t *testing.T) {
	ldconfig := hostLdconfig(t)
	data, err := os.ReadFile("/etc/ld.so.cache")
	if err != nil {
		t.Skipf("SKIPPED: needs a cache on this machine, to find its C library: %v", err)
	}
	c, err := Parse(data)
	require.NoError(t, err)
	flags := ArchOf(uint16(hostMachine()), byte(elf.ELFCLASS64)).Flags()
	libc := c.Lookup("libc.so.6", flags)
	if len(libc) == 0 {
		t.Skip("SKIPPED: no libc.so.6 for 64 bits in this machine's cache")
	}
	loader := loaderPath(t, "/")

	tree := t.TempDir()
	for from, to := range map[string]string{
		loader:       loader,
		libc[0].Path: libc[0].Path,
		ldconfig:     "/sbin/ldconfig",
	} {
		content, err := os.ReadFile(from)
		require.NoError(t, err)
		require.NoError(t, os.MkdirAll(filepath.Join(tree, path.Dir(to)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(tree, to), content, 0o755))
	}
	testTree(t, tree)
}

// TestTrees runs the checks of testTree on the C libraries of other releases,
// which testdata/glibc-trees.sh fetches.
func TestTrees(t *testing.T) {
	trees := os.Getenv("GLIBC_TREES")
	if trees == "" {
		t.Skipf("SKIPPED: needs GLIBC_TREES: root trees of other releases (see testdata/glibc-trees.sh)")
	}
	if runtime.GOARCH != "amd64" {
		t.Skip("SKIPPED: loaders of other releases not tested: their trees are for amd64")
	}
	names, err := filepath.Glob(filepath.Join(trees, "*", ".complete"))
	require.NoError(t, err)
	require.NotEmpty(t, names, "GLIBC_TREES is set, but holds no tree")
	for _, name := range names {
		t.Run(filepath.Base(filepath.Dir(name)), func(t *testing.T) {
			tree := t.TempDir()
			copyTree(t, filepath.Dir(name), tree)
			testTree(t, tree)
		})
	}
}

// testTree merges libraries into the cache written by a tree's own ldconfig, in each format, and
// checks the result with that ldconfig and the tree's loader.
func testTree(t *testing.T, tree string) {
	t.Helper()
	if out, err := chroot(tree, "/sbin/ldconfig", "-V").CombinedOutput(); err != nil {
		if errors.Is(err, syscall.ENOEXEC) {
			t.Log("the kernel runs no 32-bit programs, as in virtual machines with encrypted memory, and this tree's ldconfig is one")
			return
		}
		if errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EINVAL) || errors.Is(err, syscall.ENOSPC) {
			t.Skipf("SKIPPED: needs root or user namespaces for the real loader: %v", err)
		}
		require.NoError(t, err, "%s", out)
	}
	machine := hostMachine()
	flags := ArchOf(uint16(machine), byte(elf.ELFCLASS64)).Flags()
	require.NotZero(t, flags)
	loader := loaderPath(t, tree)
	write := func(name string, data []byte) {
		t.Helper()
		require.NoError(t, os.MkdirAll(filepath.Join(tree, path.Dir(name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(tree, name), data, 0o755))
	}

	// Libraries that the tree has: one in a directory that ld.so.conf puts first, one with a
	// variant for a processor, and its own libcuda.so.1.
	conf, err := os.ReadFile(filepath.Join(tree, "etc/ld.so.conf"))
	if !errors.Is(err, fs.ErrNotExist) {
		require.NoError(t, err)
	}
	write("/etc/ld.so.conf", append([]byte("/opt/theirs\n"), conf...))
	write("/opt/theirs/libtheirs.so.1", sharedObject(machine, "libtheirs.so.1"))
	write("/opt/theirs/libvariant.so.1", sharedObject(machine, "libvariant.so.1"))
	write("/opt/theirs/glibc-hwcaps/x86-64-v2/libvariant.so.1", sharedObject(machine, "libvariant.so.1"))
	write("/opt/cuda.so", sharedObject(machine, "cuda.so", "libcuda.so.1"))
	write("/opt/probe.so", sharedObject(machine, "probe.so", "libtheirs.so.1", "libvariant.so.1", "libc.so.6"))

	// Libraries to add: in the C library's directory, where no ldconfig looks, and many whose names
	// sort oddly.
	list(t, tree, "/sbin/ldconfig")
	theirs := readCache(t, tree)
	libc := theirs.Lookup("libc.so.6", flags)
	require.NotEmpty(t, libc, "the tree's ldconfig has not found its C library")
	standard := path.Dir(libc[0].Path)
	added := []Entry{
		{Name: "libcuda.so.1", Path: standard + "/libcuda.so.1", Flags: flags},
		{Name: "libours.so.1", Path: "/opt/ours/libours.so.1", Flags: flags},
	}
	for i, name := range oddNames() {
		added = append(added, Entry{Name: name, Path: fmt.Sprintf("/opt/ours/%d.so", i), Flags: flags})
	}
	needed := []string{"libcuda.so.1", "libours.so.1"}
	for _, e := range added {
		write(e.Path, sharedObject(machine, e.Name))
		needed = append(needed, e.Name)
	}
	write("/opt/all.so", sharedObject(machine, "all.so", needed...))

	for _, format := range []struct {
		option string
		want   Format
	}{{"new", New}, {"compat", Combined}, {"old", Old}} {
		t.Run(format.option, func(t *testing.T) {
			write("/opt/theirs/libcuda.so.1", sharedObject(machine, "libcuda.so.1"))
			list(t, tree, "/sbin/ldconfig", "-c", format.option)
			before := resolved(t, tree, loader, "/opt/probe.so")
			require.Equal(t, "/opt/theirs/libcuda.so.1", resolved(t, tree, loader, "/opt/cuda.so")["libcuda.so.1"])
			c := readCache(t, tree)
			require.Equal(t, format.want, c.Format)
			generator := c.Generator

			c.Merge(added)
			data, err := c.Encode()
			require.NoError(t, err)
			write("/etc/ld.so.cache", data)

			// Its ldconfig lists what is in it.
			merged, err := Parse(data)
			require.NoError(t, err)
			assert.Equal(t, generator, merged.Generator)
			var text bytes.Buffer
			require.NoError(t, merged.WriteText(&text))
			assert.Equal(t, text.String(), list(t, tree, "/sbin/ldconfig", "-p"))

			// Its loader finds each library, and theirs as before. The variant
			// is not compared where ldconfig misplaces the variants' names.
			got := resolved(t, tree, loader, "/opt/all.so")
			for _, e := range added {
				assert.Equal(t, e.Path, got[e.Name], "library %q", e.Name)
			}
			after := resolved(t, tree, loader, "/opt/probe.so")
			if format.want != New {
				delete(before, "libvariant.so.1")
				delete(after, "libvariant.so.1")
			}
			assert.Equal(t, before, after)
			assert.Equal(t, "/opt/theirs/libtheirs.so.1", after["libtheirs.so.1"])

			// A library in a standard directory is still there after the tree's ldconfig ran;
			// libraries of ld.so.conf come first, as always.
			list(t, tree, "/sbin/ldconfig", "-c", format.option)
			kept := readCache(t, tree)
			assert.Contains(t, kept.Lookup("libcuda.so.1", flags), added[0])
			require.NoError(t, os.Remove(filepath.Join(tree, "opt/theirs/libcuda.so.1")))
			list(t, tree, "/sbin/ldconfig", "-c", format.option)
			assert.Equal(t, added[0].Path, resolved(t, tree, loader, "/opt/cuda.so")["libcuda.so.1"])
		})
	}
}

// oddNames returns library names that differ for the loader, and that it does not sort
// alphabetically.
func oddNames() []string {
	var names []string
	for _, middle := range []string{"", "-", "_", ".", "a", "A", "z", "aa", "+", "é"} {
		for _, number := range []string{"", "0", "9", "10", "09a", "100", "2147483647", "99999999999"} {
			for _, end := range []string{".so", ".so.1", ".so.10", ".so.9", ".so.1.2"} {
				names = append(names, "libnv"+middle+number+end)
			}
		}
	}
	var distinct []string
	for _, name := range names {
		if !slices.ContainsFunc(distinct, func(have string) bool { return compareNames(name, have) == 0 }) {
			distinct = append(distinct, name)
		}
	}
	return distinct
}

// chroot returns a command that runs in a tree, as root of a user namespace unless we are root.
func chroot(tree, name string, args ...string) *exec.Cmd {
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = "/", []string{"PATH=/"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Chroot: tree}
	if uid, gid := os.Getuid(), os.Getgid(); uid != 0 {
		cmd.SysProcAttr.Cloneflags = syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: uid, Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: gid, Size: 1}}
	}
	return cmd
}

// list runs a command in a tree and returns what it prints.
func list(t *testing.T, tree, name string, args ...string) string {
	t.Helper()
	var stderr bytes.Buffer
	cmd := chroot(tree, name, args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	require.NoError(t, err, "%s", stderr.Bytes())
	return string(out)
}

// output runs a command of the machine.
func output(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir, cmd.Env = dir, []string{"LC_ALL=C"}
	out, err := cmd.Output()
	require.NoError(t, err)
	return string(out)
}

// resolved returns the paths that a tree's loader finds for the libraries that a file needs.
func resolved(t *testing.T, tree, loader, name string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	for line := range strings.Lines(list(t, tree, loader, "--list", name)) {
		if library, rest, ok := strings.Cut(strings.TrimSpace(line), " => "); ok {
			file, _, _ := strings.Cut(rest, " (")
			found[library] = file
		}
	}
	return found
}

func readCache(t *testing.T, tree string) *Cache {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(tree, "etc/ld.so.cache"))
	require.NoError(t, err)
	c, err := Parse(data)
	require.NoError(t, err)
	return c
}

// hostLdconfig returns the path of the machine's ldconfig.
func hostLdconfig(t *testing.T) string {
	t.Helper()
	for _, name := range []string{"/sbin/ldconfig.real", "/sbin/ldconfig", "/usr/sbin/ldconfig", "/usr/bin/ldconfig"} {
		if info, err := os.Stat(name); err == nil && info.Mode().IsRegular() {
			return name
		}
	}
	t.Skipf("SKIPPED: needs an ldconfig on this machine to compare with")
	return ""
}

func hostMachine() elf.Machine {
	switch runtime.GOARCH {
	case "amd64":
		return elf.EM_X86_64
	case "arm64":
		return elf.EM_AARCH64
	case "ppc64le":
		return elf.EM_PPC64
	}
	return elf.EM_NONE
}

// loaderPath returns the path of the 64-bit loader in a tree.
func loaderPath(t *testing.T, tree string) string {
	t.Helper()
	for _, name := range []string{"/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1", "/lib64/ld64.so.2"} {
		if _, err := os.Lstat(filepath.Join(tree, name)); err == nil {
			return name
		}
	}
	t.Skipf("SKIPPED: the real loader was not tested: no known loader of glibc in %s", tree)
	return ""
}

// copyTree copies directories, links and files.
func copyTree(t *testing.T, from, to string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(from, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		target := to + strings.TrimPrefix(name, from)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case entry.Type() == fs.ModeSymlink:
			link, err := os.Readlink(name)
			if err != nil {
				return err
			}
			return os.Symlink(link, target)
		case !entry.Type().IsRegular() || strings.Contains(name, "/usr/share/") || strings.Contains(name, "/gconv/"):
			return nil
		}
		content, err := os.ReadFile(name)
		if err != nil {
			return err
		}
		return os.WriteFile(target, content, 0o755)
	}))
}

// sharedObject returns the smallest 64-bit shared object that a loader accepts: one segment with a
// dynamic section that has a SONAME and needed libraries.
func sharedObject(machine elf.Machine, soname string, needed ...string) []byte {
	names := []byte{0}
	name := func(s string) uint64 {
		at := len(names)
		names = append(append(names, s...), 0)
		return uint64(at)
	}
	var dynamic []elf.Dyn64
	for _, s := range needed {
		dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_NEEDED), Val: name(s)})
	}
	dynamic = append(dynamic, elf.Dyn64{Tag: int64(elf.DT_SONAME), Val: name(soname)})

	const headers = 64 + 3*56
	hash := uint64(headers + 16*(len(dynamic)+6))
	symbols := hash + 4*4
	strs := symbols + 24
	size := strs + uint64(len(names))
	dynamic = append(dynamic,
		elf.Dyn64{Tag: int64(elf.DT_HASH), Val: hash},
		elf.Dyn64{Tag: int64(elf.DT_SYMTAB), Val: symbols},
		elf.Dyn64{Tag: int64(elf.DT_SYMENT), Val: 24},
		elf.Dyn64{Tag: int64(elf.DT_STRTAB), Val: strs},
		elf.Dyn64{Tag: int64(elf.DT_STRSZ), Val: uint64(len(names))},
		elf.Dyn64{},
	)
	dynamicSize := uint64(16 * len(dynamic))
	header := elf.Header64{
		Type: uint16(elf.ET_DYN), Machine: uint16(machine), Version: 1,
		Phoff: 64, Ehsize: 64, Phentsize: 56, Phnum: 3, Shentsize: 64,
	}
	order := byte(elf.ELFDATA2LSB)
	if nativeEndian() == endianBig {
		order = byte(elf.ELFDATA2MSB)
	}
	copy(header.Ident[:], elf.ELFMAG)
	copy(header.Ident[elf.EI_CLASS:], []byte{byte(elf.ELFCLASS64), order, 1})
	rw := uint32(elf.PF_R | elf.PF_W)
	file := []any{
		header,
		elf.Prog64{Type: uint32(elf.PT_LOAD), Flags: rw, Filesz: size, Memsz: size, Align: 0x10000},
		elf.Prog64{
			Type: uint32(elf.PT_DYNAMIC), Flags: rw, Off: headers, Vaddr: headers, Paddr: headers,
			Filesz: dynamicSize, Memsz: dynamicSize, Align: 8,
		},
		elf.Prog64{Type: uint32(elf.PT_GNU_STACK), Flags: rw, Align: 16},
		dynamic,
		[4]uint32{1, 1}, // a hash table of one bucket that leads to no symbol
		elf.Sym64{},
		names,
	}
	var out bytes.Buffer
	for _, part := range file {
		if err := binary.Write(&out, binary.NativeEndian, part); err != nil {
			panic(err)
		}
	}
	return out.Bytes()
}
