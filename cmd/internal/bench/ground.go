// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"debug/elf"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/elfstub"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

const shimName = "nvidia-container-runtime.experimental"

// ground is what the measurements share: programs and unpacked fixtures.
type ground struct {
	dir   string // for machines and root filesystems
	run   string // for bundles: on a tmpfs, as in engines, if there is one
	shim  string
	floor string
	stub  string // exits with 0 at once
	t4    string // root of a machine with one GPU
	large string // root of the largest machine

	figures map[string]float64 // measurements for targets, by their name there
}

func prepare(o options) (_ *ground, err error) {
	dir, err := os.MkdirTemp(o.dir, "nvcr-bench-")
	if err != nil {
		return nil, err
	}
	run := dir
	for _, tmpfs := range []string{"/run", "/dev/shm"} {
		var st unix.Statfs_t
		if unix.Statfs(tmpfs, &st) != nil || st.Type != unix.TMPFS_MAGIC {
			continue
		}
		if made, err := os.MkdirTemp(tmpfs, "nvcr-bench-"); err == nil {
			run = made
			break
		}
	}
	g := &ground{
		figures: map[string]float64{},
		dir:     dir, run: run,
		shim: filepath.Join(dir, shimName), floor: filepath.Join(dir, "floor"), stub: filepath.Join(dir, "stub"),
		t4: filepath.Join(dir, "t4"), large: filepath.Join(dir, "large"),
	}
	defer func() {
		if err != nil {
			g.close()
		}
	}()
	packages := map[string]string{g.shim: "./cmd/" + shimName, g.floor: "./cmd/internal/bench/floor"}
	for path, pkg := range packages {
		if err := build(path, pkg); err != nil {
			return nil, err
		}
	}
	stub, err := elfstub.File{Machine: hostMachine(), Executable: true}.Encode()
	if err != nil {
		return nil, err
	}
	if err := os.WriteFile(g.stub, stub, 0o755); err != nil {
		return nil, err
	}
	for root, name := range map[string]string{g.t4: "t4", g.large: "large"} {
		machine, err := fixtures.Load(name)
		if err != nil {
			return nil, err
		}
		if _, err := machine.Unpack(root, fixtures.UnpackOptions{NoDevices: true}); err != nil {
			return nil, err
		}
	}
	return g, nil
}

func (g *ground) close() {
	_ = os.RemoveAll(g.dir)
	_ = os.RemoveAll(g.run)
}

// build builds a program as the Makefile does.
func build(path, pkg string) error {
	cmd := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", path, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("building %s: %w: %s", pkg, err, out)
	}
	return nil
}

// oneByOne is environment with a separate mount for each of the driver's files.
func (g *ground) oneByOne(machine, lowLevel string) ([]string, error) {
	home := filepath.Join(g.dir, "onebyone")
	dir := filepath.Join(home, "nvidia-container-runtime")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	text := "[nvidia-container-runtime.experimental]\ndriver-directory = \"off\"\n"
	if err := os.WriteFile(filepath.Join(dir, "config.toml"), []byte(text), 0o644); err != nil {
		return nil, err
	}
	// The first XDG_CONFIG_HOME wins.
	return append([]string{"XDG_CONFIG_HOME=" + home}, g.environment(machine, lowLevel)...), nil
}

func hostMachine() elf.Machine {
	if runtime.GOARCH == "arm64" {
		return elf.EM_AARCH64
	}
	return elf.EM_X86_64
}

// environment returns the environment of a command on the machine with that root directory.
func (g *ground) environment(machine, lowLevel string) []string {
	return []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
		"XDG_CONFIG_HOME=" + g.dir,
		"NVIDIA_CONTAINER_RUNTIME_PATH=" + lowLevel,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + machine,
	}
}

// makeImage makes a root filesystem like Debian's, with the loader cache of an image with some
// packages.
func makeImage(dir string, program []byte) error {
	flags, triplet := ldcache.FlagX8664, "x86_64-linux-gnu"
	if runtime.GOARCH == "arm64" {
		flags, triplet = ldcache.FlagAArch64, "aarch64-linux-gnu"
	}
	libDir := "/lib/" + triplet
	cache := ldcache.Cache{Format: ldcache.New, Generator: "ldconfig (GNU libc) stable release version 2.36"}
	cache.Entries = append(cache.Entries, ldcache.Entry{Name: "libc.so.6", Path: libDir + "/libc.so.6", Flags: flags})
	for i := range 150 {
		name := fmt.Sprintf("libpackage%d.so.%d", i, i%7)
		cache.Entries = append(cache.Entries, ldcache.Entry{Name: name, Path: libDir + "/" + name, Flags: flags})
	}
	cache.Merge(cache.Entries[:1]) // sorts
	data, err := cache.Encode()
	if err != nil {
		return err
	}
	for _, d := range []string{"proc", "sys", "dev", "etc", "tmp", "usr/bin", "usr/lib64", "usr/lib/" + triplet} {
		if err := os.MkdirAll(filepath.Join(dir, d), 0o755); err != nil {
			return err
		}
	}
	for _, l := range []string{"bin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+l, filepath.Join(dir, l)); err != nil {
			return err
		}
	}
	for name, content := range map[string][]byte{
		"etc/debian_version": []byte("12.11\n"), "etc/ld.so.cache": data,
		"usr" + libDir + "/libc.so.6": []byte("libc"), "usr/bin/program": program,
	} {
		if err := os.WriteFile(filepath.Join(dir, name), content, 0o755); err != nil {
			return err
		}
	}
	return nil
}

// bundle is a bundle with its own root filesystem.
type bundle struct {
	dir    string
	rootfs string
	config []byte // config.json as the engine wrote it
}

// bundle makes a bundle below a directory. In config, the path of the root filesystem is "rootfs".
func (g *ground) bundle(below, name string, config []byte) (bundle, error) {
	b := bundle{dir: filepath.Join(below, name), rootfs: filepath.Join(g.dir, name, "rootfs")}
	b.config = withRoot(config, b.rootfs)
	for _, dir := range []string{b.dir, b.rootfs} {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return bundle{}, err
		}
	}
	if err := makeImage(b.rootfs, nil); err != nil {
		return bundle{}, err
	}
	return b, b.reset()
}

// withRoot replaces the path of the root filesystem in an ordinary config.
func withRoot(config []byte, rootfs string) []byte {
	return bytes.Replace(config, []byte(`"path":"rootfs"`), fmt.Appendf(nil, `"path":%q`, rootfs), 1)
}

// reset undoes a create's changes of config.json, but not those of the root filesystem.
func (b bundle) reset() error {
	return os.WriteFile(filepath.Join(b.dir, "config.json"), b.config, 0o644)
}

// afresh undoes all changes of a create.
func (b bundle) afresh() error {
	if err := os.RemoveAll(b.rootfs); err != nil {
		return err
	}
	if err := os.Mkdir(b.rootfs, 0o755); err != nil {
		return err
	}
	if err := makeImage(b.rootfs, nil); err != nil {
		return err
	}
	return b.reset()
}
