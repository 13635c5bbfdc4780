// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"debug/elf"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

const (
	repository = "../../.."
	version    = "9.8.7"
	epoch      = 1700000000

	packageName = "nvidia-container-runtime-experimental" // not the name of any NVIDIA package
	summary     = "container runtime for NVIDIA GPUs that reads /proc, /sys and /dev"
	parts       = repository + "/.cache/parts"
)

var programs = []string{"nvidia-container-runtime.experimental", "nvsysfs"}

// scratch is this process's directory. made builds the release there when the first test needs it.
var (
	scratch string
	made    = sync.OnceValue(makeDist)
)

func TestMain(m *testing.M) {
	os.Exit(func() int {
		dir, err := os.MkdirTemp("", "dist")
		if err != nil {
			panic(err)
		}
		defer os.RemoveAll(dir)
		scratch = dir
		return m.Run()
	}())
}

// makeDist runs "make dist".
func makeDist() error {
	cmd := exec.Command("make", "-C", repository, "dist", "DISTDIR="+scratch+"/dist", "VERSION="+version, "COMMIT=0123456789ab")
	cmd.Env = append(slices.DeleteFunc(os.Environ(), func(e string) bool {
		return strings.HasPrefix(e, "MAKE") || strings.HasPrefix(e, "MFLAGS=") || strings.HasPrefix(e, "GOARCH=")
	}), fmt.Sprintf("SOURCE_DATE_EPOCH=%d", epoch))
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("make dist: %w\n%s", err, out)
	}
	return nil
}

// dist returns the directory of the release.
func dist(t *testing.T) string {
	t.Helper()
	need.Program(t, "make")
	require.NoError(t, made())
	return filepath.Join(scratch, "dist")
}

// command runs a program and returns its output.
func command(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.Command(name, args...).CombinedOutput()
	require.NoError(t, err, "%s %v\n%s", name, args, out)
	return string(out)
}

// arches lists the architectures by their Go names, which Debian shares, and their RPM names.
var arches = []struct {
	name, rpm string
	machine   elf.Machine
}{{"amd64", "x86_64", elf.EM_X86_64}, {"arm64", "aarch64", elf.EM_AARCH64}}

// wanted returns the files of a package, by name below /usr, with their modes.
func wanted(t *testing.T, format string) map[string]fs.FileMode {
	t.Helper()
	const name = "nvidia-container-runtime-experimental"
	list := map[string]fs.FileMode{
		"bin/nvidia-container-runtime.experimental": 0o755,
		"bin/nvsysfs":                                                           0o755,
		"share/" + name + "/config.toml":                                        0o644,
		"share/bash-completion/completions/nvsysfs":                             0o644,
		"share/fish/vendor_completions.d/nvsysfs.fish":                          0o644,
		"share/doc/" + name + "/LICENSE":                                        0o644,
		"share/doc/" + name + "/THIRD-PARTY-LICENSES":                           0o644,
		"share/doc/" + name + "/README.md":                                      0o644,
		"share/doc/" + name + "/CHANGELOG.md":                                   0o644,
		"share/doc/" + name + "/SECURITY.md":                                    0o644,
		"share/doc/" + name + "/nvidia-container-runtime.experimental.cdx.json": 0o644,
		"share/doc/" + name + "/nvsysfs.cdx.json":                               0o644,
	}
	if format == "deb" {
		list["share/doc/"+name+"/copyright"] = 0o644
		list["share/zsh/vendor-completions/_nvsysfs"] = 0o644
	} else {
		list["share/zsh/site-functions/_nvsysfs"] = 0o644
	}
	pages, err := filepath.Glob("man/*")
	require.NoError(t, err)
	for _, page := range pages {
		list["share/man/man"+filepath.Ext(page)[1:]+"/"+filepath.Base(page)+".gz"] = 0o644
	}
	docs, err := filepath.Glob(repository + "/docs/*.md")
	require.NoError(t, err)
	for _, page := range docs {
		list["share/doc/"+name+"/"+filepath.Base(page)] = 0o644
	}
	entries, err := os.ReadDir("systemd")
	require.NoError(t, err)
	for _, e := range entries {
		if ext := filepath.Ext(e.Name()); ext == ".service" || ext == ".path" || ext == ".timer" {
			list["lib/systemd/system/"+e.Name()] = 0o644
		}
	}
	return list
}

// readTar reads a tar archive and strips prefix from every name. It checks that the archive has
// only directories and regular files, owned by root and with the release's time, and that in a
// package, each directory comes before its files.
func readTar(t *testing.T, r io.Reader, prefix string, isPackage bool) (modes map[string]fs.FileMode, data map[string][]byte) {
	t.Helper()
	modes, data = map[string]fs.FileMode{}, map[string][]byte{}
	dirs := map[string]bool{}
	for archive := tar.NewReader(r); ; {
		h, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
		type owner struct {
			UID, GID     int
			User, Group  string
			Time, Device int64
		}
		assert.Equal(t, owner{0, 0, "root", "root", epoch, 0}, owner{h.Uid, h.Gid, h.Uname, h.Gname, h.ModTime.Unix(), h.Devmajor}, h.Name)
		if h.Typeflag == tar.TypeDir {
			assert.Equal(t, int64(0o755), h.Mode, h.Name)
			dirs[filepath.Clean(h.Name)] = true
			continue
		}
		require.Equal(t, byte(tar.TypeReg), h.Typeflag, h.Name)
		if isPackage {
			assert.True(t, dirs[filepath.Dir(h.Name)], "%s comes before its directory", h.Name)
		}
		name, ok := strings.CutPrefix(h.Name, prefix)
		require.True(t, ok, h.Name)
		modes[name] = fs.FileMode(h.Mode)
		data[name], err = io.ReadAll(archive)
		require.NoError(t, err)
	}
	return modes, data
}

func TestTar(t *testing.T) {
	dir := dist(t)
	for _, arch := range arches {
		t.Run(arch.name, func(t *testing.T) {
			top := packageName + "-" + version + "-linux-" + arch.name
			f, err := os.Open(filepath.Join(dir, top+".tar.gz"))
			require.NoError(t, err)
			defer f.Close()
			z, err := gzip.NewReader(f)
			require.NoError(t, err)
			assert.Empty(t, z.Name)
			assert.True(t, z.ModTime.IsZero())
			modes, data := readTar(t, z, top+"/", false)
			assert.Equal(t, wanted(t, "tar.gz"), modes)
			for _, p := range programs {
				program, err := elf.NewFile(bytes.NewReader(data["bin/"+p]))
				require.NoError(t, err)
				assert.Equal(t, arch.machine, program.Machine)
				for _, header := range program.Progs {
					assert.NotContains(t, []elf.ProgType{elf.PT_INTERP, elf.PT_DYNAMIC}, header.Type, "%s is not static", p)
				}
				var sbom struct {
					Metadata struct {
						Component  struct{ Version string }
						Properties []struct{ Name, Value string }
					}
				}
				require.NoError(t, json.Unmarshal(data["share/doc/"+packageName+"/"+p+".cdx.json"], &sbom))
				assert.Contains(t, sbom.Metadata.Properties, struct{ Name, Value string }{
					"cdx:gomod:binary:hash:SHA-256", fmt.Sprintf("%x", sha256.Sum256(data["bin/"+p])),
				}, p)
				assert.Equal(t, "v"+version, sbom.Metadata.Component.Version)
			}
		})
	}
}

// TestSums checks that the directory has exactly the files to publish, and the checksums of all.
func TestSums(t *testing.T) {
	dir := dist(t)
	want := map[string]string{}
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var names []string
	for _, e := range entries {
		if e.Name() == "SHA256SUMS" {
			continue
		}
		names = append(names, e.Name())
		data, err := os.ReadFile(filepath.Join(dir, e.Name()))
		require.NoError(t, err)
		want[e.Name()] = fmt.Sprintf("%x", sha256.Sum256(data))
	}
	wantNames := []string{}
	for _, arch := range arches {
		wantNames = append(wantNames, packageName+"_"+version+"_"+arch.name+".deb", packageName+"-"+version+"-1."+arch.rpm+".rpm",
			packageName+"_"+version+"_"+arch.rpm+".apk", packageName+"-"+version+"-1-"+arch.rpm+".pkg.tar.zst")
		top := packageName + "-" + version + "-linux-" + arch.name
		wantNames = append(wantNames, top+".tar.gz")
		for _, p := range programs {
			wantNames = append(wantNames, top+"."+p+".cdx.json")
		}
	}
	assert.ElementsMatch(t, wantNames, names)
	sums, err := os.ReadFile(filepath.Join(dir, "SHA256SUMS"))
	require.NoError(t, err)
	got := map[string]string{}
	for line := range strings.Lines(string(sums)) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		require.True(t, ok, line)
		got[name] = sum
	}
	assert.Equal(t, want, got)
}

func TestDeb(t *testing.T) {
	dpkgDeb := need.Program(t, "dpkg-deb")
	dir := dist(t)
	for _, arch := range arches {
		t.Run(arch.name, func(t *testing.T) {
			name := filepath.Join(dir, packageName+"_"+version+"_"+arch.name+".deb")
			fields := map[string]string{}
			for line := range strings.Lines(command(t, dpkgDeb, "--field", name)) {
				if key, value, ok := strings.Cut(strings.TrimSpace(line), ": "); ok && line[0] != ' ' {
					fields[key] = value
				}
			}
			assert.NotEmpty(t, fields["Installed-Size"])
			delete(fields, "Installed-Size")
			// goreleaser states the baseline, which every amd64 machine meets.
			if variant, ok := fields["Architecture-Variant"]; ok {
				assert.Equal(t, "amd64v1", variant)
				delete(fields, "Architecture-Variant")
			}
			assert.Equal(t, map[string]string{
				"Package": "nvidia-container-runtime-experimental", "Version": version, "Architecture": arch.name, "Section": "admin",
				"Priority": "optional", "Maintainer": "The nvidia-container-runtime authors", "Recommends": "runc | crun",
				"Homepage": "https://github.com/nvsysfs/nvidia-container-runtime", "Description": summary,
			}, fields)
			// Maintainer scripts and a list of conffiles would be here, too.
			control := tar.NewReader(strings.NewReader(command(t, dpkgDeb, "--ctrl-tarfile", name)))
			var parts []string
			for {
				h, err := control.Next()
				if errors.Is(err, io.EOF) {
					break
				}
				require.NoError(t, err)
				parts = append(parts, strings.TrimPrefix(h.Name, "./"))
			}
			assert.ElementsMatch(t, []string{"control", "md5sums"}, parts)
			modes, _ := readTar(t, strings.NewReader(command(t, dpkgDeb, "--fsys-tarfile", name)), "./usr/", true)
			assert.Equal(t, wanted(t, "deb"), modes)
		})
	}
}

func TestRPM(t *testing.T) {
	rpm := need.Program(t, "rpm")
	dir := dist(t)
	for _, arch := range arches {
		t.Run(arch.name, func(t *testing.T) {
			name := filepath.Join(dir, packageName+"-"+version+"-1."+arch.rpm+".rpm")
			query := func(format string) string { return command(t, rpm, "-qp", "--qf", format, name) }
			assert.Equal(t, packageName+"|"+version+"|1|"+arch.rpm+"|linux|Apache-2.0|The nvidia-container-runtime authors|localhost|1700000000|"+
				"https://github.com/nvsysfs/nvidia-container-runtime|"+summary,
				query("%{name}|%{version}|%{release}|%{arch}|%{os}|%{license}|%{packager}|%{buildhost}|%{buildtime}|%{url}|%{summary}"))
			assert.Equal(t, "(runc or crun)\n", query("[%{recommends}\n]"))
			assert.Empty(t, command(t, rpm, "-qp", "--scripts", "--triggers", "--configfiles", name))
			assert.Contains(t, command(t, rpm, "-K", "--nosignature", name), "digests OK")
			files, dirs := map[string]fs.FileMode{}, []string{}
			for line := range strings.Lines(query("[%{filenames}|%{filemodes:octal}|%{fileusername}|%{filegroupname}|%{filemtimes}\n]")) {
				var mode fs.FileMode
				field := strings.Split(strings.TrimSpace(line), "|")
				require.Len(t, field, 5)
				assert.Equal(t, []string{"root", "root", fmt.Sprint(epoch)}, field[2:], line)
				_, err := fmt.Sscanf(field[1], "%o", &mode)
				require.NoError(t, err)
				switch mode &^ 0o777 {
				case syscall.S_IFREG:
					files[strings.TrimPrefix(field[0], "/usr/")] = mode & 0o777
				case syscall.S_IFDIR:
					dirs = append(dirs, field[0])
				default:
					t.Errorf("%s is neither a file nor a directory", field[0])
				}
			}
			assert.Equal(t, wanted(t, "rpm"), files)
			// The package owns the directories that no other package has: otherwise rpm would leave
			// them behind.
			assert.Equal(t, []string{"/usr/share/doc/" + packageName, "/usr/share/" + packageName}, dirs)
		})
	}
}

// tree describes what is below a directory, except the package manager's own files.
func tree(t *testing.T, root string) map[string]string {
	t.Helper()
	list := map[string]string{}
	require.NoError(t, filepath.WalkDir(root, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(root, name)
		if err != nil {
			return err
		}
		if rel == "var/lib" {
			return filepath.SkipDir
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		st := info.Sys().(*syscall.Stat_t)
		list[rel] = fmt.Sprintf("%v %d:%d", info.Mode(), st.Uid, st.Gid)
		return nil
	}))
	return list
}

// newRoot creates the root of a machine with nothing installed.
func newRoot(t *testing.T, dirs ...string) string {
	t.Helper()
	root := t.TempDir()
	for _, dir := range append(dirs, "proc", "var/lib") {
		require.NoError(t, os.MkdirAll(filepath.Join(root, dir), 0o755))
	}
	return root
}

// useInstalled runs the installed programs with root as their "/", which has nothing else except
// /proc. It checks that they work, and that only "configure docker --gpus" puts the placeholder
// hook into PATH.
func useInstalled(t *testing.T, root string) {
	t.Helper()
	unshare := need.Program(t, "unshare")
	inside := func(args ...string) (string, error) {
		cmd := exec.Command(unshare, append([]string{"--mount", "--root=" + root, "--mount-proc=/proc"}, args...)...)
		cmd.Env = []string{"PATH=/usr/bin"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	before := tree(t, root)
	out, err := inside("/usr/bin/nvsysfs", "version")
	require.NoError(t, err, out)
	assert.Equal(t, "nvsysfs version "+version+" (commit 0123456789ab)\n", out)
	out, err = inside("/usr/bin/nvidia-container-runtime.experimental", "--version")
	require.NoError(t, err, out)
	assert.Contains(t, out, "nvidia-container-runtime.experimental version "+version)

	require.NoError(t, os.MkdirAll(filepath.Join(root, "etc/docker"), 0o755))
	withEngine := tree(t, root)
	out, err = inside("/usr/bin/nvsysfs", "configure", "docker", "--gpus")
	require.NoError(t, err, out)
	configured := maps.Clone(withEngine)
	configured["usr/bin/nvidia-container-runtime-hook"] = "-rwxr-xr-x 0:0"
	configured["etc/docker/daemon.json"] = "-rw-r--r-- 0:0"
	assert.Equal(t, configured, tree(t, root))
	data, err := os.ReadFile(filepath.Join(root, "etc/docker/daemon.json"))
	require.NoError(t, err)
	assert.JSONEq(t, `{"runtimes": {"nvidia-experimental": {"path": "/usr/bin/nvidia-container-runtime.experimental"}}}`, string(data))
	out, err = inside("/usr/bin/nvsysfs", "configure", "docker", "--remove", "--gpus")
	require.NoError(t, err, out)
	assert.Equal(t, withEngine, tree(t, root))
	require.NoError(t, os.RemoveAll(filepath.Join(root, "etc/docker")))
	if _, had := before["etc"]; !had {
		require.NoError(t, os.Remove(filepath.Join(root, "etc")))
	}
	require.Equal(t, before, tree(t, root))
}

// installed returns before with the files and directories that a package adds.
func installed(t *testing.T, format string, before map[string]string) map[string]string {
	t.Helper()
	after := maps.Clone(before)
	for name, mode := range wanted(t, format) {
		name = "usr/" + name
		after[name] = mode.String() + " 0:0"
		for dir := filepath.Dir(name); dir != "."; dir = filepath.Dir(dir) {
			after[dir] = "drwxr-xr-x 0:0"
		}
	}
	return after
}

func TestInstallDeb(t *testing.T) {
	need.Root(t)
	dpkg := need.Program(t, "dpkg")
	arch := strings.TrimSpace(command(t, dpkg, "--print-architecture"))
	if arch != runtime.GOARCH {
		need.Missing(t, "a dpkg for %s: this one is for %s", runtime.GOARCH, arch)
	}
	name := filepath.Join(dist(t), packageName+"_"+version+"_"+arch+".deb")
	root := newRoot(t, "var/lib/dpkg/info", "var/lib/dpkg/updates", "var/lib/dpkg/triggers", "var/lib/dpkg/parts")
	for _, file := range []string{"status", "available"} {
		require.NoError(t, os.WriteFile(filepath.Join(root, "var/lib/dpkg", file), nil, 0o600))
	}
	dpkgArgs := func(args ...string) []string {
		return append([]string{"--root=" + root, "--log=" + filepath.Join(root, "var/lib/dpkg/log"), "--force-not-root"}, args...)
	}
	before := tree(t, root)
	command(t, dpkg, dpkgArgs("--install", name)...)
	assert.Equal(t, installed(t, "deb", before), tree(t, root))
	useInstalled(t, root)
	assert.Empty(t, command(t, dpkg, dpkgArgs("--verify", packageName)...), "the checksums do not match the package")
	assert.Contains(t, command(t, dpkg, dpkgArgs("--status", packageName)...), "Status: install ok installed")
	// Install it again, as an upgrade does.
	command(t, dpkg, dpkgArgs("--install", name)...)
	assert.Equal(t, installed(t, "deb", before), tree(t, root))
	command(t, dpkg, dpkgArgs("--purge", packageName)...)
	assert.Equal(t, before, tree(t, root))
	status, err := os.ReadFile(filepath.Join(root, "var/lib/dpkg/status"))
	require.NoError(t, err)
	assert.NotContains(t, string(status), packageName)
}

func TestInstallRPM(t *testing.T) {
	need.Root(t)
	rpm := need.Program(t, "rpm")
	dir := dist(t)
	var name string
	for _, arch := range arches {
		if arch.name == runtime.GOARCH {
			name = filepath.Join(dir, packageName+"-"+version+"-1."+arch.rpm+".rpm")
		}
	}
	root := newRoot(t)
	args := func(args ...string) []string {
		return append([]string{"--root", root, "--dbpath", "/var/lib/rpm"}, args...)
	}
	before := tree(t, root)
	command(t, rpm, args("--initdb")...)
	command(t, rpm, args("--install", name)...)
	assert.Equal(t, installed(t, "rpm", before), tree(t, root))
	useInstalled(t, root)
	assert.Empty(t, command(t, rpm, args("--verify", packageName)...))
	command(t, rpm, args("--erase", packageName)...)
	after := tree(t, root)
	// On a real machine, other packages own the other directories, so ours does not remove them.
	for name := range after {
		if strings.HasPrefix(after[name], "d") && !strings.Contains(name, packageName) {
			delete(after, name)
			delete(before, name)
		}
	}
	assert.Equal(t, before, after)
}

// TestLicenses checks that the package has the license of every linked module.
func TestLicenses(t *testing.T) {
	dist(t)
	want, got := map[string]bool{}, map[string]bool{}
	for _, arch := range arches {
		for _, p := range programs {
			data, err := os.ReadFile(filepath.Join(parts, "sbom", arch.name, p+".cdx.json"))
			require.NoError(t, err)
			var sbom struct {
				Components []struct{ Name, Version string }
			}
			require.NoError(t, json.Unmarshal(data, &sbom))
			for _, c := range sbom.Components {
				want[c.Name+" "+c.Version] = true
			}
		}
	}
	data, err := os.ReadFile(filepath.Join(parts, "usr/share/doc", packageName, "THIRD-PARTY-LICENSES"))
	require.NoError(t, err)
	for line := range strings.Lines(string(data)) {
		if module, ok := strings.CutPrefix(line, "=== "); ok {
			module, _, _ = strings.Cut(module, ": ")
			got[module] = true
		}
	}
	assert.Equal(t, want, got)
}

// TestUnits checks that systemd units only run programs that the package installs.
func TestUnits(t *testing.T) {
	files := wanted(t, "deb")
	for name := range files {
		if !strings.HasPrefix(name, "lib/systemd/system/") {
			continue
		}
		data, err := os.ReadFile(filepath.Join("systemd", filepath.Base(name)))
		require.NoError(t, err)
		for line := range strings.Lines(string(data)) {
			key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
			if !strings.HasPrefix(key, "Exec") {
				continue
			}
			program, _, _ := strings.Cut(strings.TrimLeft(value, "-@:+!"), " ")
			assert.Contains(t, files, strings.TrimPrefix(program, "/usr/"), "%s: %s", name, line)
		}
	}
}

// TestUnitsVerify checks that systemd-analyze finds nothing wrong once the programs exist.
func TestUnitsVerify(t *testing.T) {
	analyze := need.Program(t, "systemd-analyze")
	root := t.TempDir()
	require.NoError(t, os.MkdirAll(filepath.Join(root, "usr/bin"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(root, "usr/bin/nvsysfs"), []byte("#!/bin/sh\n"), 0o755))
	units, err := filepath.Glob("systemd/*")
	require.NoError(t, err)
	require.NotEmpty(t, units)
	var copies []string
	for _, unit := range units {
		data, err := os.ReadFile(unit)
		require.NoError(t, err)
		name := filepath.Join(root, filepath.Base(unit))
		text := strings.ReplaceAll(string(data), "/usr/bin/nvsysfs", filepath.Join(root, "usr/bin/nvsysfs"))
		require.NoError(t, os.WriteFile(name, []byte(text), 0o644))
		copies = append(copies, name)
	}
	cmd := exec.Command(analyze, append([]string{"verify", "--man=no"}, copies...)...)
	cmd.Env = append(os.Environ(), "SYSTEMD_UNIT_PATH="+root+":")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	for line := range strings.Lines(string(out)) {
		assert.NotContains(t, line, "nvsysfs-", "systemd-analyze verify")
	}
}

func TestLicensesOf(t *testing.T) {
	dir := t.TempDir()
	for name, text := range map[string]string{"m/LICENSE.md": "do what you like\n\n", "m/NOTICE": "we did", "m/license.go": "package m", "none/README": "x"} {
		require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600))
	}
	for _, tt := range []struct{ name, list, want, err string }{
		{
			name: "two files", list: "example.com/m v1.0.0 $DIR/m\n",
			want: "=== example.com/m v1.0.0: LICENSE.md\n\ndo what you like\n\n=== example.com/m v1.0.0: NOTICE\n\nwe did\n\n",
		},
		{name: "line without a directory", list: "example.com/m v1.0.0\n", err: `"example.com/m v1.0.0\n" is not a path, a version and a directory`},
		{name: "missing directory", list: "example.com/m v1.0.0 $DIR/x\n", err: "open $DIR/x: no such file or directory"},
		{name: "no license", list: "example.com/m v1.0.0 $DIR/m\nexample.com/n v1.0.0 $DIR/none\n", err: "example.com/n v1.0.0 has no license in $DIR/none"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := licenses(strings.ReplaceAll(tt.list, "$DIR", dir), &out)
			assert.Equal(t, tt.want, out.String())
			if tt.err != "" {
				assert.EqualError(t, err, strings.ReplaceAll(tt.err, "$DIR", dir))
				return
			}
			require.NoError(t, err)
		})
	}
}
