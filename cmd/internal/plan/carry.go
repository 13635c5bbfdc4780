// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"errors"
	"os"
	"path"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver/linkdir"
)

// Carry carries out the plan on the host, in the image, and in doc, the config.json of the
// container, which it saves. It returns notes for the operator.
func (p Plan) Carry(doc *spec.Document) ([]string, error) {
	if err := makeNodes(p.Missing); err != nil {
		p.note(err.Error())
	}
	p.note(makeCharLinks(p.config, p.Root, p.CharLinks)...)
	if p.Directory != "" && !p.made {
		p.inDirectories(func(base string, boot linkdir.Boot, set linkdir.Set) (string, bool, error) {
			dir, err := linkdir.Make(base, boot, set)
			return dir, err == nil, err
		})
		p.place()
	}
	if p.Directory == "" {
		if err := p.bringData(doc); err != nil {
			return p.Notes, err
		}
	}
	if err := p.writeImage(doc); err != nil {
		return p.Notes, err
	}
	report, err := doc.Apply(p.Edits)
	if err != nil {
		return p.Notes, err
	}
	p.note(Notes(report)...)
	return p.Notes, doc.Save()
}

// bringData writes generated files next to config.json, to be mounted from there.
func (p *Plan) bringData(doc *spec.Document) error {
	for i, f := range p.Files {
		if f.Source != "" {
			continue
		}
		source, err := doc.WriteBeside("nvidia-"+path.Base(f.Place), f.Data, p.container.Facts.MountLabel)
		if err != nil {
			return err
		}
		p.Files[i].Source = source
	}
	p.place()
	return nil
}

// writeImage creates the links and updates files in the image. A link or loader cache that cannot
// be written becomes a mount; only errors of the bundle fail the container.
func (p *Plan) writeImage(doc *spec.Document) error {
	var image *rootfs.FS
	err := errors.New("no root filesystem")
	if p.Image.Root != "" {
		if image, err = rootfs.Open(p.Image.Root); err == nil {
			defer func() { _ = image.Close() }()
		}
	}
	dirs := map[string]error{}
	for _, l := range p.Links {
		dir, name := path.Split(l.Path)
		failed, known := dirs[dir]
		if !known {
			if failed = err; image != nil {
				failed = image.MkdirAll(dir, p.Image.Owner)
			}
			dirs[dir] = failed
		}
		if failed == nil {
			ours := func(target string) bool { return madeByUs(image, dir, target) }
			_, failed = image.Link(dir, name, l.Target, p.Image.Owner, ours)
		}
		var taken *rootfs.OccupiedError
		switch {
		case failed == nil:
		case l.Source == "" || errors.As(failed, &taken) && taken.Mode.IsDir() != isDir(l.Source):
			p.notef("%s is left out: %v", l.Path, failed)
		default:
			p.notef("%s is mounted instead of linked: %v", l.Path, failed)
			p.Edits.Mounts = append(p.Edits.Mounts, bindMount(l.Source, l.Path, fileOptions))
		}
	}
	for _, u := range p.Updates {
		failed := err
		if u.Covered {
			failed = errors.New("hidden by a mount of the container")
		} else if image != nil {
			failed = p.update(image, u)
		}
		var taken *rootfs.OccupiedError
		switch cover, _ := p.cover(u.Path); {
		case failed == nil:
		case u.Entries == nil, errors.As(failed, &taken) && taken.Mode.IsDir(),
			cover != nil && !mountable(*cover, u.Path):
			p.notef("%s is not written: %v", u.Path, failed)
		default:
			source, err := doc.WriteBeside("nvidia-"+path.Base(u.Path), u.New, p.container.Facts.MountLabel)
			if err != nil {
				return err
			}
			p.notef("%s is mounted instead of written: %v", u.Path, failed)
			p.Edits.Mounts = append(p.Edits.Mounts, bindMount(source, u.Path, fileOptions))
		}
	}
	sortMounts(p.Edits.Mounts)
	return nil
}

// madeByUs tells whether a link in a directory of the image was created by this program: it leads
// to the driver or, from an earlier version, to a library next to it that is gone or is an empty
// mount point.
func madeByUs(image *rootfs.FS, dir, target string) bool {
	if strings.HasPrefix(target, Dir+"/") {
		return true
	}
	if strings.Contains(target, "/") || !ofDriver(target) {
		return false
	}
	size, err := image.Size(path.Join(dir, target))
	return err != nil || size == 0
}

// update writes an update, merged with what other starts on the same root filesystem have written.
func (p *Plan) update(image *rootfs.FS, u Update) error {
	return image.Update(u.Path, maxCacheSize, 0o644, p.Image.Owner, func(old []byte, there bool) ([]byte, error) {
		if there == (u.Old != nil) && bytes.Equal(old, u.Old) {
			return u.New, nil
		}
		return u.merge(old, p.Inventory.Driver.Version)
	})
}

func isDir(name string) bool {
	info, err := os.Stat(name)
	return err == nil && info.IsDir()
}
