// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
)

// Image describes the container's root filesystem. Anything odd in it counts as absent: an image
// must not be able to make a start fail. Only a fixed list of names and the directory of CUDA's
// forward-compatibility libraries are read.
type Image struct {
	Root   string // absolute path; "" if it cannot be opened
	Owner  rootfs.Owner
	LibDir string // the distribution's library directory, for programs that open libraries by path

	LibDir32 string // the same for 32-bit libraries; "" if none
	Nix      bool   // has programs built by Nix
}

// view is an open image.
type view struct {
	Image
	fs      *rootfs.FS // nil if none
	volumes []volume
	notes   []string
}

// volume is a mount of the container that covers what we look for.
type volume struct {
	source string
	fs     *rootfs.FS
}

// openImage opens the container's root filesystem. Errors are the machine's, not the image's.
func openImage(c Container) (*view, error) {
	v := &view{Image: Image{Owner: rootfs.Owner{UID: int(c.Facts.ContainerUID), GID: int(c.Facts.ContainerGID)}}}
	if os.Geteuid() != 0 && !c.Facts.UserNS {
		// Only root can change a file's owner.
		v.Owner = rootfs.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	}
	err := errors.New("config.json names none")
	if dir := c.Facts.RootPath; dir != "" {
		if !filepath.IsAbs(dir) {
			dir = filepath.Join(c.Bundle, dir)
		}
		if dir, err = filepath.Abs(dir); err != nil {
			return nil, err
		}
		v.Root = dir
		v.fs, err = rootfs.Open(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("reading the container's root filesystem: %w", err)
		}
	}
	if v.fs == nil {
		v.Root = ""
		v.notes = append(v.notes, fmt.Sprintf("the container's root filesystem is not changed: %v", err))
	}
	return v, nil
}

func (v *view) Close() {
	if v.fs != nil {
		_ = v.fs.Close()
	}
	for _, volume := range v.volumes {
		_ = volume.fs.Close()
	}
}

// fault returns an error that no image can cause.
func (v *view) fault() error {
	for _, volume := range v.volumes {
		if err := volume.fs.Fault(); err != nil {
			return err
		}
	}
	if v.fs == nil {
		return nil
	}
	return v.fs.Fault()
}

func (v *view) isDir(name string) bool     { return v.fs != nil && v.fs.IsDir(name) }
func (v *view) isRegular(name string) bool { return v.fs != nil && v.fs.IsRegular(name) }

// findLibDirs finds the distribution's library directories, ignoring caches and links of the image.
func (v *view) findLibDirs(arch ldcache.Arch) {
	v.LibDir = "/usr/lib"
	for _, dir := range []string{"/usr/lib/" + arch.Triplet(), "/usr/lib64"} {
		if v.isDir(dir) {
			v.LibDir = dir
			break
		}
	}
	if arch != ldcache.X8664 {
		return
	}
	for _, dir := range []string{"/usr/lib/i386-linux-gnu", "/usr/lib32"} {
		if v.isDir(dir) {
			v.LibDir32 = dir
			return
		}
	}
	if v.LibDir == "/usr/lib64" {
		v.LibDir32 = "/usr/lib"
	}
}

// checkPlaces checks that Dir can be a mount point. It leaves out files of the driver where the
// image has a directory, or fails if the driver does not work without them.
func (p *Plan) checkPlaces(v *view) error {
	if cover, own := p.cover(Dir); cover != nil {
		if !own && !mountable(*cover, Dir) {
			return fmt.Errorf("the driver is mounted at %s, but the container mounts %q read-only and it has no such "+
				"directory: create it in %q, or mount that elsewhere", Dir, cover.Destination, cover.Source)
		}
		return nil
	}
	if v.fs == nil {
		return nil
	}
	switch mode, there := v.fs.Kind(Dir); {
	case !there && v.fs.ReadOnly():
		return fmt.Errorf("the driver is mounted at %s, but the root filesystem %q is read-only and has no such "+
			"directory: create it in the image", Dir, v.Root)
	case !there:
		return nil
	case !mode.IsDir():
		return fmt.Errorf("the driver is mounted at %s, which is not a directory in the image", Dir)
	case p.Directory != "":
		return nil
	}
	var err error
	p.Files = slices.DeleteFunc(p.Files, func(f File) bool {
		place := path.Join(Dir, f.Place)
		if mode, there := v.fs.Kind(place); f.Place == "" || !there || !mode.IsDir() {
			return false
		}
		if f.SONAME == "libcuda.so.1" || f.SONAME == "libnvidia-ml.so.1" {
			err = fmt.Errorf("the image has a directory at %s, where the driver's library goes", place)
		}
		p.notef("%s is left out: the image has a directory there", place)
		return true
	})
	return err
}

// read returns the content of a regular file as the container will see it, through the volume that
// covers it if any; false for anything but a regular file of at most max bytes.
func (p *Plan) read(v *view, name string, max int64) ([]byte, bool) {
	filesystem := v.fs
	if cover, _ := p.cover(name); cover != nil {
		filesystem, name = v.volume(*cover), below(*cover, name)
	}
	if filesystem == nil {
		return nil, false
	}
	data, err := filesystem.ReadFile(name, max)
	return data, err == nil
}

// volume opens the source of a mount; nil if it is not a directory.
func (v *view) volume(m spec.Mount) *rootfs.FS {
	for _, open := range v.volumes {
		if open.source == m.Source {
			return open.fs
		}
	}
	if !isBind(m) || !filepath.IsAbs(m.Source) {
		return nil
	}
	opened, err := rootfs.Open(m.Source)
	if err != nil {
		return nil
	}
	v.volumes = append(v.volumes, volume{m.Source, opened})
	return opened
}

func isBind(m spec.Mount) bool {
	return m.Type == "bind" || slices.Contains(m.Options, "bind") || slices.Contains(m.Options, "rbind")
}

// cover returns the container's last mount at or above a path, and whether it is at that path.
func (p *Plan) cover(name string) (_ *spec.Mount, own bool) {
	mounts := p.container.Facts.Mounts
	if p.mounted == nil {
		p.mounted = make(map[string]int, 2*len(mounts))
		for i, m := range mounts {
			if slices.Equal(m.Options, fileOptions) || slices.Equal(m.Options, socketOptions) {
				continue // ours, from an earlier start
			}
			at := path.Clean("/" + m.Destination)
			p.mounted[at], p.mounted[unalias(at)] = i, i
		}
	}
	last := -1
	for _, at := range []string{name, unalias(name)} {
		for ; at != "/"; at = path.Dir(at) {
			if i, ok := p.mounted[at]; ok {
				last = max(last, i)
			}
		}
	}
	if last < 0 {
		return nil, false
	}
	m := &mounts[last]
	return m, unalias(path.Clean("/"+m.Destination)) == unalias(name)
}

// below returns a path relative to the mount that covers it.
func below(m spec.Mount, name string) string {
	at := path.Clean("/" + m.Destination)
	if rest, ok := strings.CutPrefix(name, at); ok {
		return rest
	}
	return strings.TrimPrefix(unalias(name), unalias(at))
}

// mountable tells whether a low-level runtime can mount at name, below the mount m: the mount point
// must exist if m is read-only.
func mountable(m spec.Mount, name string) bool {
	if !slices.Contains(m.Options, "ro") {
		return true
	}
	_, err := os.Stat(filepath.Join(m.Source, below(m, name)))
	return isBind(m) && err == nil
}

// unalias resolves the common aliases of a clean path in the container: in most images /lib is
// /usr/lib and /var/run is /run.
func unalias(name string) string {
	if rest, ok := strings.CutPrefix(name, "/var/run/"); ok {
		return "/run/" + rest
	}
	return "/" + strings.TrimPrefix(strings.TrimPrefix(name, "/usr/"), "/")
}
