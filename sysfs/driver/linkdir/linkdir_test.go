// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package linkdir

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

const version = "550.54.15"

var boot = Boot{ID: "4d7a2c9e-3f1b-4c6d-9a58-0e7f6b2d8c1e", Time: time.Now().Add(-time.Hour)}

// host is a file system with a driver: a directory of libraries and the
// parent of the base.
type host struct {
	t          *testing.T
	lib, above string
	base       string
}

func newHost(t *testing.T) host {
	t.Helper()
	dir, err := filepath.EvalSymlinks(t.TempDir())
	require.NoError(t, err)
	h := host{t: t, lib: filepath.Join(dir, "lib"), above: filepath.Join(dir, "usr"), base: filepath.Join(dir, "usr", "links")}
	for _, d := range []string{h.lib, h.above} {
		require.NoError(t, os.Mkdir(d, 0o755))
		require.NoError(t, os.Chmod(d, 0o755))
	}
	for _, name := range []string{"libcuda", "libnvidia-ml", "libGLX_nvidia"} {
		h.write(name+".so."+version, name)
	}
	return h
}

// write replaces a library as a package manager does.
func (h host) write(name, text string) {
	h.t.Helper()
	temporary := filepath.Join(h.lib, "new")
	require.NoError(h.t, os.WriteFile(temporary, []byte(text), 0o644))
	require.NoError(h.t, os.Rename(temporary, filepath.Join(h.lib, name)))
}

func (h host) files(names ...string) []File {
	var files []File
	for _, name := range names {
		name += ".so." + version
		files = append(files, File{Name: "64/" + name, Source: filepath.Join(h.lib, name)})
	}
	return files
}

func (h host) make(names ...string) string {
	h.t.Helper()
	dir, err := Make(h.base, boot, Set{Version: version, Files: h.files(names...)})
	require.NoError(h.t, err)
	return dir
}

// tree lists what is below dir: the mode of directories, the text of files.
func tree(t *testing.T, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(dir, name)
		if err != nil || rel == "." {
			return err
		}
		if !d.IsDir() {
			data, err := os.ReadFile(name)
			got[rel] = string(data)
			return err
		}
		info, err := d.Info()
		if err == nil {
			got[rel] = info.Mode().String()
		}
		return err
	}))
	return got
}

func TestMake(t *testing.T) {
	h := newHost(t)
	old := unix.Umask(0o077) // of an engine that is careful
	dir := h.make("libcuda", "libnvidia-ml")
	unix.Umask(old)

	assert.Equal(t, filepath.Join(h.base, "boot-"+boot.ID), filepath.Dir(dir))
	assert.True(t, strings.HasPrefix(filepath.Base(dir), version+"-"), dir)
	assert.Equal(t, map[string]string{
		"64":                           "drwxr-xr-x",
		"64/libcuda.so.550.54.15":      "libcuda",
		"64/libnvidia-ml.so.550.54.15": "libnvidia-ml",
	}, tree(t, dir))
	for _, d := range []string{h.base, filepath.Dir(dir), dir} {
		info, err := os.Stat(d)
		require.NoError(t, err)
		assert.Equal(t, fs.ModeDir|0o755, info.Mode(), d)
	}
	source, err := os.Stat(filepath.Join(h.lib, "libcuda.so.550.54.15"))
	require.NoError(t, err)
	link, err := os.Stat(filepath.Join(dir, "64/libcuda.so.550.54.15"))
	require.NoError(t, err)
	assert.True(t, os.SameFile(source, link))

	// An existing directory is used, and not touched.
	before := stamps(t, h.above)
	assert.Equal(t, dir, h.make("libcuda", "libnvidia-ml"))
	assert.Equal(t, before, stamps(t, h.above))

	// A container that gets other files gets another directory.
	other := h.make("libcuda", "libGLX_nvidia")
	assert.NotEqual(t, dir, other)
	assert.NotContains(t, tree(t, dir), "64/libGLX_nvidia.so.550.54.15")
	assert.NotContains(t, tree(t, other), "64/libnvidia-ml.so.550.54.15")
	assert.NotEqual(t, dir, h.make("libcuda"))
}

// What is created has the label, the driver's own files do not, and directories with different
// labels are distinct.
func TestMakeLabels(t *testing.T) {
	h := newHost(t)
	set := Set{Version: version, Label: "system_u:object_r:container_file_t:s0", Files: append(h.files("libcuda"),
		File{Name: "libcuda.so.1", Target: "libcuda.so." + version},
		File{Name: "share/profile", Data: []byte("{}")})}
	before := labels(t, h.lib)
	dir, err := Make(h.base, boot, set)
	require.NoError(t, err)
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root, whom a kernel without SELinux lets set labels")
	}
	assert.Equal(t, map[string]string{
		".": set.Label, "64": set.Label, "share": set.Label, "libcuda.so.1": set.Label, "share/profile": set.Label,
		"64/libcuda.so.550.54.15": before["libcuda.so.550.54.15"],
	}, labels(t, dir))
	set.Label = ""
	other, err := Make(h.base, boot, set)
	require.NoError(t, err)
	assert.NotEqual(t, dir, other)
	assert.NotContains(t, labels(t, other)["share/profile"], "container_file_t")
}

// labels returns the SELinux label of each file below dir, "" if it has none.
func labels(t *testing.T, dir string) map[string]string {
	t.Helper()
	list := map[string]string{}
	require.NoError(t, fs.WalkDir(os.DirFS(dir), ".", func(name string, _ fs.DirEntry, err error) error {
		var value [256]byte
		n, _ := unix.Lgetxattr(filepath.Join(dir, name), "security.selinux", value[:])
		list[name] = string(value[:max(n, 0)])
		return err
	}))
	return list
}

// Symbolic links and files of our own are part of a directory, and of its name.
func TestMakeLinksAndFiles(t *testing.T) {
	h := newHost(t)
	files := append(h.files("libcuda"),
		File{Name: "libcuda.so.1", Target: "libcuda.so." + version},
		File{Name: "share/profile", Data: []byte("{}")})
	dir, err := Make(h.base, boot, Set{Version: version, Files: files})
	require.NoError(t, err)
	target, err := os.Readlink(filepath.Join(dir, "libcuda.so.1"))
	require.NoError(t, err)
	assert.Equal(t, "libcuda.so."+version, target)
	data, err := os.ReadFile(filepath.Join(dir, "share/profile"))
	require.NoError(t, err)
	assert.Equal(t, "{}", string(data))

	again, err := Make(h.base, boot, Set{Version: version, Files: files})
	require.NoError(t, err)
	assert.Equal(t, dir, again)
	for _, change := range []func(){
		func() { files[1].Target = "x" },
		func() { files[2].Data = []byte("{ }") },
	} {
		change()
		other, err := Make(h.base, boot, Set{Version: version, Files: files})
		require.NoError(t, err)
		assert.NotEqual(t, again, other)
		again = other
	}
}

// stamps returns the modification times of everything.
func stamps(t *testing.T, dir string) map[string]unix.Timespec {
	t.Helper()
	got := map[string]unix.Timespec{}
	require.NoError(t, filepath.WalkDir(dir, func(name string, _ fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err == nil {
			err = unix.Lstat(name, &st)
		}
		got[name] = st.Ctim
		return err
	}))
	return got
}

func TestMakeTwoArchitectures(t *testing.T) {
	h := newHost(t)
	files := h.files("libcuda", "libnvidia-ml")
	files[1].Name = strings.Replace(files[0].Name, "64/", "32/", 1)
	dir, err := Make(h.base, boot, Set{Version: version, Files: files})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{
		"64": "drwxr-xr-x", "64/libcuda.so.550.54.15": "libcuda",
		"32": "drwxr-xr-x", "32/libcuda.so.550.54.15": "libnvidia-ml",
	}, tree(t, dir))
}

// A driver that was reinstalled in the same version is a different one: existing containers keep
// the old files.
func TestMakeAfterReplacement(t *testing.T) {
	h := newHost(t)
	first := h.make("libcuda")
	h.write("libcuda.so."+version, "rebuilt")
	second := h.make("libcuda")
	assert.NotEqual(t, first, second)
	assert.Equal(t, "libcuda", tree(t, first)["64/libcuda.so.550.54.15"])
	assert.Equal(t, "rebuilt", tree(t, second)["64/libcuda.so.550.54.15"])
}

func TestMakeRefusesFiles(t *testing.T) {
	h := newHost(t)
	good := h.files("libcuda")[0]
	name := func(name string) []File { return []File{good, {Name: name, Source: good.Source}} }
	source := func(name string) []File { return []File{good, {Name: "64/x", Source: filepath.Join(h.lib, name)}} }

	setuid := filepath.Join(h.lib, "setuid")
	require.NoError(t, os.WriteFile(setuid, nil, 0o755))
	require.NoError(t, os.Chmod(setuid, 0o755|fs.ModeSetuid))
	require.NoError(t, os.Symlink(good.Source, filepath.Join(h.lib, "link")))
	require.NoError(t, unix.Mkfifo(filepath.Join(h.lib, "fifo"), 0o644))
	tests := []struct {
		name  string
		files []File
		want  string
	}{
		{name: "none", want: "no files"},
		{name: "too deep", files: name("64/a/b"), want: "is not a valid name"},
		{name: "leading out", files: name("64/../../x"), want: "is not a valid name"},
		{name: "link out", files: []File{good, {Name: "x", Target: "../x"}}, want: "is not a valid name"},
		{name: "links alone", files: []File{{Name: "x", Target: "y"}}, want: "no files"},
		{name: "hidden directory", files: name(".new-1/x"), want: "is not a valid name"},
		{name: "absolute", files: name("/etc/passwd"), want: "is not a valid name"},
		{name: "NUL", files: name("64/a\x00b"), want: "is not a valid name"},
		{name: "twice the same name", files: []File{good, {Name: good.Name, Source: filepath.Join(h.lib, "libnvidia-ml.so."+version)}}, want: "file exists"},
		{name: "missing", files: source("missing"), want: "no such file or directory"},
		{name: "link", files: source("link"), want: "is not a regular file"},
		{name: "FIFO", files: source("fifo"), want: "is not a regular file"},
		{name: "directory", files: source("."), want: "is not a regular file"},
		{name: "set-user-ID", files: source("setuid"), want: "is set-user-ID or set-group-ID"},
		{name: "other file system", files: []File{good, {Name: "64/x", Source: "/proc/self/status"}}, want: "is on another file system than"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir, err := Make(h.base, boot, Set{Version: version, Files: tt.files})
			require.ErrorContains(t, err, tt.want)
			assert.Empty(t, dir)
			assertNoLeftovers(t, h)
		})
	}
	_, err := Make(h.base, boot, Set{Version: "../x", Files: h.files("libcuda")})
	require.ErrorContains(t, err, "cannot be part of a name")
	_, err = Make(h.base, Boot{ID: "../../../../../../../../../../../../"}, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorContains(t, err, "cannot be part of a name")
	for _, base := range []string{"", "/", "links", h.above + "/../usr/links", h.base + "/"} {
		_, err = Make(base, boot, Set{Version: version, Files: h.files("libcuda")})
		require.ErrorContains(t, err, "not an absolute, clean path", base)
	}
}

// assertNoLeftovers checks that no unfinished directory is left.
func assertNoLeftovers(t *testing.T, h host) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(h.base, "boot-"+boot.ID))
	if err == nil {
		assert.Empty(t, entries)
	}
}

// What others put in our place is rejected and left unchanged.
func TestMakeRefusesPlantedDirectories(t *testing.T) {
	mkdir := func(perm fs.FileMode) func(*testing.T, host, string) {
		return func(t *testing.T, _ host, name string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.Mkdir(name, 0o755))
			require.NoError(t, os.Chmod(name, perm))
		}
	}
	tests := []struct {
		name  string
		plant func(t *testing.T, h host, name string)
		want  string
	}{
		{name: "others may write", plant: mkdir(0o777), want: "has permissions 0777, not 0755"},
		{name: "the group may write", plant: mkdir(0o775), want: "has permissions 0775, not 0755"},
		{name: "sticky", plant: mkdir(0o755 | fs.ModeSticky), want: "has permissions 01755, not 0755"},
		{name: "nobody else may look", plant: mkdir(0o700), want: "has permissions 0700, not 0755"},
		{name: "another owner", want: "belongs to user 12345", plant: func(t *testing.T, h host, name string) {
			needRoot(t)
			mkdir(0o755)(t, h, name)
			require.NoError(t, os.Chown(name, 12345, 12345))
		}},
		{name: "file", want: "not a directory", plant: func(t *testing.T, _ host, name string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.WriteFile(name, nil, 0o755))
		}},
		{name: "link to a good directory", want: "not a directory", plant: func(t *testing.T, h host, name string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.Symlink(h.lib, name))
		}},
		{name: "dangling link", want: "not a directory", plant: func(t *testing.T, _ host, name string) {
			require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
			require.NoError(t, os.Symlink("/nowhere", name))
		}},
	}
	for _, tt := range tests {
		for _, level := range []string{"base", "boot", "directory"} {
			t.Run(tt.name+"/"+level, func(t *testing.T) {
				h := newHost(t)
				name := map[string]string{
					"base": h.base, "boot": filepath.Join(h.base, "boot-"+boot.ID), "directory": h.make("libcuda"),
				}[level]
				require.NoError(t, os.RemoveAll(h.base))
				tt.plant(t, h, name)
				before := stamps(t, h.above)
				dir, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda")})
				require.ErrorContains(t, err, tt.want)
				assert.Empty(t, dir)
				assert.Equal(t, before, stamps(t, h.above))
			})
		}
	}
}

// A directory that was changed is rejected, not repaired: containers may use it.
func TestMakeRefusesChangedDirectories(t *testing.T) {
	tests := []struct {
		name   string
		change func(t *testing.T, dir string)
		want   string
	}{
		{name: "link missing", want: "was changed after it was made", change: func(t *testing.T, dir string) {
			require.NoError(t, os.Remove(filepath.Join(dir, "64/libcuda.so.550.54.15")))
		}},
		{name: "a copy in its place", want: "was changed after it was made", change: func(t *testing.T, dir string) {
			name := filepath.Join(dir, "64/libcuda.so.550.54.15")
			require.NoError(t, os.Remove(name))
			require.NoError(t, os.WriteFile(name, []byte("libcuda"), 0o644))
		}},
		{name: "another library in its place", want: "was changed after it was made", change: func(t *testing.T, dir string) {
			name := filepath.Join(dir, "64/libcuda.so.550.54.15")
			require.NoError(t, os.Remove(name))
			require.NoError(t, os.Link(filepath.Join(dir, "64/libnvidia-ml.so.550.54.15"), name))
		}},
		{name: "a symbolic link in its place", want: "was changed after it was made", change: func(t *testing.T, dir string) {
			name := filepath.Join(dir, "64/libcuda.so.550.54.15")
			require.NoError(t, os.Rename(name, name+".real"))
			require.NoError(t, os.Symlink(name+".real", name))
		}},
		{name: "libraries elsewhere", want: "was changed after it was made", change: func(t *testing.T, dir string) {
			require.NoError(t, os.Rename(filepath.Join(dir, "64"), filepath.Join(dir, "x")))
			require.NoError(t, os.Symlink("x", filepath.Join(dir, "64")))
		}},
		{name: "something added", want: "was changed after it was made", change: func(t *testing.T, dir string) {
			require.NoError(t, os.WriteFile(filepath.Join(dir, "libcuda.so.1"), nil, 0o644))
		}},
		{name: "others may write", want: "64: has permissions 0777, not 0755", change: func(t *testing.T, dir string) {
			require.NoError(t, os.Chmod(filepath.Join(dir, "64"), 0o777))
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			h := newHost(t)
			dir := h.make("libcuda", "libnvidia-ml")
			tt.change(t, dir)
			before := stamps(t, h.above)
			got, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda", "libnvidia-ml")})
			require.ErrorContains(t, err, tt.want)
			assert.Empty(t, got)
			assert.Equal(t, before, stamps(t, h.above))
		})
	}
}

// If others can write above the base, they can replace it.
func TestMakeRefusesPlacesOfOthers(t *testing.T) {
	h := newHost(t)
	require.NoError(t, os.Chmod(h.above, 0o777))
	_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorContains(t, err, "others may write here")
	require.NoError(t, os.Chmod(h.above, 0o775))
	_, err = Make(h.base, boot, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorContains(t, err, "others may write here")
	// Unless only the owner of an entry can replace it (sticky).
	require.NoError(t, os.Chmod(h.above, 0o777|fs.ModeSticky))
	h.make("libcuda")

	_, err = Make(filepath.Join(h.above, "missing", "links"), boot, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorIs(t, err, fs.ErrNotExist)
	require.NoError(t, os.Symlink(h.above, filepath.Join(h.lib, "alias")))
	_, err = Make(filepath.Join(h.lib, "alias", "links"), boot, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorContains(t, err, "not a directory")

	t.Run("owner", func(t *testing.T) {
		needRoot(t)
		require.NoError(t, os.Chmod(h.above, 0o755))
		require.NoError(t, os.Chown(h.above, 12345, 12345))
		_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda")})
		require.ErrorContains(t, err, "others may write here: owner 12345")
	})
}

func TestMakeElsewhere(t *testing.T) {
	h := newHost(t)
	_, err := Make("/proc/links", boot, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorContains(t, err, "/proc: on another file system than the files")
	assert.True(t, linkable(unix.EXT4_SUPER_MAGIC))
	assert.False(t, linkable(unix.OVERLAYFS_SUPER_MAGIC))
	assert.False(t, linkable(unix.NFS_SUPER_MAGIC))
	assert.False(t, linkable(unix.FUSE_SUPER_MAGIC))
}

// mounted returns a host whose files are on their own file system.
func mounted(t *testing.T, kind, options string) host {
	t.Helper()
	needRoot(t)
	dir := t.TempDir()
	require.NoError(t, os.Chmod(dir, 0o755))
	require.NoError(t, unix.Mount(kind, dir, kind, 0, options))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(dir, unix.MNT_DETACH)) })
	h := host{t: t, lib: filepath.Join(dir, "lib"), above: filepath.Join(dir, "usr"), base: filepath.Join(dir, "usr", "links")}
	for _, d := range []string{h.lib, h.above} {
		require.NoError(t, os.Mkdir(d, 0o755))
	}
	for _, name := range []string{"libcuda", "libnvidia-ml", "libGLX_nvidia"} {
		h.write(name+".so."+version, name)
	}
	return h
}

func TestMakeOnFullFileSystem(t *testing.T) {
	h := mounted(t, "tmpfs", "mode=755,nr_inodes=12") // the root, two directories, three files: six are left
	dir := h.make("libcuda")                          // base, boot, directory, 64, link: five
	_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda", "libnvidia-ml")})
	require.ErrorIs(t, err, unix.ENOSPC)
	entries, err := os.ReadDir(filepath.Dir(dir))
	require.NoError(t, err)
	assert.Len(t, entries, 1, "nothing is left of what did not fit")
	assert.Equal(t, dir, h.make("libcuda"))
}

func TestMakeOnReadOnlyFileSystem(t *testing.T) {
	h := mounted(t, "tmpfs", "mode=755")
	dir := h.make("libcuda")
	require.NoError(t, unix.Mount("", filepath.Dir(h.lib), "", unix.MS_REMOUNT|unix.MS_RDONLY, ""))
	_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libnvidia-ml")})
	require.ErrorIs(t, err, unix.EROFS)
	// An existing directory can be used.
	assert.Equal(t, dir, h.make("libcuda"))
}

// One file system, two mounts: the device numbers are equal, but links are impossible.
func TestMakeAcrossMounts(t *testing.T) {
	h := mounted(t, "tmpfs", "mode=755")
	require.NoError(t, unix.Mount(h.lib, h.lib, "", unix.MS_BIND, ""))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(h.lib, unix.MNT_DETACH)) })
	_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda")})
	require.ErrorIs(t, err, unix.EXDEV)
	assertNoLeftovers(t, h)
}

func TestMakeOnOverlay(t *testing.T) {
	needRoot(t)
	dir := t.TempDir()
	for _, d := range []string{"lower/lib", "lower/usr", "upper", "work", "merged"} {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, d), 0o755))
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "lower/lib/libcuda.so."+version), []byte("libcuda"), 0o644))
	merged := filepath.Join(dir, "merged")
	require.NoError(t, unix.Mount("overlay", merged, "overlay", 0,
		"lowerdir="+filepath.Join(dir, "lower")+",upperdir="+filepath.Join(dir, "upper")+",workdir="+filepath.Join(dir, "work")))
	t.Cleanup(func() { assert.NoError(t, unix.Unmount(merged, unix.MNT_DETACH)) })
	h := host{t: t, lib: filepath.Join(merged, "lib"), base: filepath.Join(merged, "usr/links")}
	_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libcuda")})
	// The kernel may give a lower file another device number than a directory.
	assert.Regexp(t, `hard links are not used on a file system of type 0x794c7630|on another file system`, err)
	assert.NoFileExists(t, filepath.Join(dir, "upper/lib"), "nothing is copied up")
}

// Many concurrent starts after a reboot: each gets the directory, and one remains.
func TestMakeAtOnce(t *testing.T) {
	h := newHost(t)
	var wait sync.WaitGroup
	dirs, errs := make([]string, 50), make([]error, 50)
	for i := range dirs {
		wait.Go(func() {
			names := []string{"libcuda", "libnvidia-ml", "libGLX_nvidia"}[:2+i%2]
			dirs[i], errs[i] = Make(h.base, boot, Set{Version: version, Files: h.files(names...)})
		})
	}
	wait.Wait()
	for i := range dirs {
		require.NoError(t, errs[i])
		assert.Equal(t, dirs[i%2], dirs[i])
	}
	entries, err := os.ReadDir(filepath.Join(h.base, "boot-"+boot.ID))
	require.NoError(t, err)
	assert.Len(t, entries, 2)
}

func TestMakeRemovesOldBoots(t *testing.T) {
	h := newHost(t)
	old := Boot{ID: "00000000-0000-4000-8000-000000000001", Time: time.Now().Add(-2 * time.Hour)}
	oldDir, err := Make(h.base, old, Set{Version: version, Files: h.files("libcuda")})
	require.NoError(t, err)
	// As left by a machine that was switched off in between.
	require.NoError(t, os.MkdirAll(filepath.Join(filepath.Dir(oldDir), ".new-1/64"), 0o755))
	foreign := filepath.Join(h.base, "boot-of-mine")
	require.NoError(t, os.Mkdir(foreign, 0o755))

	// According to the clock that directory is of this boot: the boot ID alone does not count.
	dir := h.make("libcuda")
	assert.DirExists(t, oldDir)
	// Using an existing directory removes nothing.
	later := Boot{ID: boot.ID, Time: time.Now().Add(time.Hour)}
	_, err = Make(h.base, later, Set{Version: version, Files: h.files("libcuda")})
	require.NoError(t, err)
	assert.DirExists(t, oldDir)

	second, err := Make(h.base, later, Set{Version: version, Files: h.files("libcuda", "libnvidia-ml")})
	require.NoError(t, err)
	assert.NoDirExists(t, filepath.Dir(oldDir))
	assert.DirExists(t, foreign)
	assert.DirExists(t, dir)
	assert.DirExists(t, second)
	assert.FileExists(t, filepath.Join(h.lib, "libcuda.so."+version))
}

func TestMakeIsBounded(t *testing.T) {
	h := newHost(t)
	dir := h.make("libcuda")
	for i := range mostDirs {
		require.NoError(t, os.Mkdir(filepath.Join(filepath.Dir(dir), ".new-"+strings.Repeat("x", i%200)+string(rune('a'+i/200))), 0o755))
	}
	_, err := Make(h.base, boot, Set{Version: version, Files: h.files("libnvidia-ml")})
	require.ErrorContains(t, err, "512 directories are there already")
	assert.Equal(t, dir, h.make("libcuda"))
}

func TestThisBoot(t *testing.T) {
	got, err := ThisBoot()
	require.NoError(t, err)
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	require.NoError(t, err)
	assert.Equal(t, strings.TrimSpace(string(data)), got.ID)
	assert.True(t, got.Time.Before(time.Now()))
	for _, s := range []string{"", strings.Repeat("-", 36), strings.Repeat("0", 36), boot.ID + "\n", strings.ToUpper(boot.ID), "../" + boot.ID[3:]} {
		assert.False(t, isUUID(s), s)
	}
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("SKIPPED: needs root")
	}
}

// A file that changes between being examined and being linked is rejected, although its inode is
// the same.
func TestFillRefusesChangedFiles(t *testing.T) {
	for name, change := range map[string]func(name string) error{
		"size":        func(name string) error { return os.Truncate(name, 1) },
		"permissions": func(name string) error { return os.Chmod(name, 0o4755) },
		"nothing":     func(string) error { return nil },
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			files := h.files("libcuda")
			s, err := newSet(Set{Version: version, Files: files})
			require.NoError(t, err)
			require.NoError(t, change(files[0].Source))
			above, err := unix.Open(h.above, unix.O_PATH|unix.O_DIRECTORY, 0)
			require.NoError(t, err)
			defer unix.Close(above)
			err = s.fill(above, "new")
			if name == "nothing" {
				require.NoError(t, err)
				return
			}
			assert.ErrorContains(t, err, "is not "+files[0].Source)
		})
	}
}
