// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// Facts is what config.json says about the container, as far as GPUs are concerned. Fields that the
// file does not have are zero.
type Facts struct {
	// Env is process.env verbatim: "NAME=value". Names may repeat, and "=" may be missing.
	Env []string
	// Bounding is process.capabilities.bounding or, in runtime-spec 1.0.0-rc1 to rc4, the plain
	// list process.capabilities.
	Bounding []string
	// User is process.user.
	User User
	// NoFile is the RLIMIT_NOFILE of process.rlimits, nil if there is none.
	NoFile *Limit

	// HasRoot reports whether there is a root. RootPath is root.path verbatim, perhaps relative to
	// the bundle; RootReadonly is root.readonly.
	HasRoot      bool
	RootPath     string
	RootReadonly bool

	// Mounts are the mounts, in order.
	Mounts []Mount

	// UserNS reports whether linux.namespaces has a user namespace. UserNSPath is the one to join.
	UserNS     bool
	UserNSPath string
	// ContainerUID and ContainerGID are the host IDs that linux.uidMappings and linux.gidMappings
	// map the container's root to, 0 without such a mapping.
	ContainerUID, ContainerGID uint32

	// HasLinux, HasSeccomp and HasMaskedPaths report whether linux, linux.seccomp and
	// linux.maskedPaths exist; an empty list counts.
	HasLinux, HasSeccomp, HasMaskedPaths bool
	// CgroupsPath is linux.cgroupsPath: "/a/b", or "slice:prefix:name" for systemd.
	CgroupsPath string
	// MountLabel is linux.mountLabel, the SELinux label of the container's files:
	// "system_u:object_r:container_file_t:s0:c182,c624".
	MountLabel string
	// Devices is linux.devices[].path, in order.
	Devices []string
}

// User is process.user.
type User struct {
	UID, GID       uint32
	AdditionalGIDs []uint32
}

// Limit is an entry of process.rlimits.
type Limit struct {
	Soft, Hard uint64
}

// Mount has the fields of a mount that are read.
type Mount struct {
	Destination, Type, Source string
	Options                   []string
}

// HasCapability reports whether a capability such as "CAP_SYS_ADMIN" is in the bounding set.
func (f Facts) HasCapability(name string) bool {
	return slices.Contains(f.Bounding, name)
}

// field returns the named member of an object, which must be of the given kind or null. A missing
// member is the zero Value, and so is every member of a missing or null object.
func field(object rawjson.Value, name string, kind rawjson.Kind) (rawjson.Value, error) {
	var v rawjson.Value
	err := fields(object, want{name, kind, &v})
	return v, err
}

type want struct {
	name string
	kind rawjson.Kind
	into *rawjson.Value
}

// fields is field for up to eight members.
func fields(object rawjson.Value, wants ...want) error {
	// On the stack: this runs for every mount, and there may be thousands.
	var (
		names [8]string
		into  [8]*rawjson.Value
	)
	for i, w := range wants {
		*w.into = rawjson.Value{}
		names[i], into[i] = w.name, w.into
	}
	if !object.Present() {
		return nil
	}
	if err := object.Fields(names[:len(wants)], into[:len(wants)]...); err != nil {
		return err
	}
	for _, w := range wants {
		if !w.into.Present() || w.kind == rawjson.Absent {
			continue // null, or any kind will do
		}
		if err := w.into.Want(w.kind); err != nil {
			// Without Clone, everything that wants points to escapes to the heap.
			return fmt.Errorf("%q: %w", strings.Clone(w.name), err)
		}
	}
	return nil
}

// texts reads an array of strings; a missing array is empty.
func texts(array rawjson.Value) ([]string, error) {
	var list []string
	for e := range array.Elements() {
		if err := e.Want(rawjson.String); err != nil {
			return nil, err
		}
		list = append(list, e.Text())
	}
	return list, nil
}

// decode stores a value that may be missing. Plain numbers bypass encoding/json, which is slow the
// first time.
func decode(v rawjson.Value, into any) error {
	if !v.Present() {
		return nil
	}
	var err error
	switch p := into.(type) {
	case *uint32:
		var n uint64
		n, err = strconv.ParseUint(string(v.Raw()), 10, 32)
		*p = uint32(n)
	case *uint64:
		*p, err = strconv.ParseUint(string(v.Raw()), 10, 64)
	case *int64:
		*p, err = strconv.ParseInt(string(v.Raw()), 10, 64)
	default:
		return v.Decode(into)
	}
	if err != nil {
		return v.Decode(into) // succeeds, or its error says where
	}
	return nil
}

// Facts reads the current document. It fails if a part that it reads occurs twice or does not have
// the type that the runtime-spec gives it.
func (d *Document) Facts() (Facts, error) {
	var f Facts
	if err := d.facts(&f); err != nil {
		return Facts{}, fmt.Errorf("reading %s: %w", d.label(), err)
	}
	return f, nil
}

// label names the document in messages.
func (d *Document) label() string {
	if d.path == "" {
		return "config.json"
	}
	return fmt.Sprintf("%q", d.path)
}

func (d *Document) facts(f *Facts) error {
	var process, root, mounts, linux rawjson.Value
	top, err := d.value()
	if err != nil {
		return err
	}
	err = fields(top,
		want{"process", rawjson.Object, &process},
		want{"root", rawjson.Object, &root},
		want{"mounts", rawjson.Array, &mounts},
		want{"linux", rawjson.Object, &linux})
	if err != nil {
		return err
	}
	if err := f.process(process); err != nil {
		return fmt.Errorf("process: %w", err)
	}
	if err := f.root(root); err != nil {
		return fmt.Errorf("root: %w", err)
	}
	if f.Mounts, err = d.readMounts(mounts); err != nil {
		return fmt.Errorf("mounts: %w", err)
	}
	if err := f.linux(linux); err != nil {
		return fmt.Errorf("linux: %w", err)
	}
	return nil
}

func (f *Facts) process(process rawjson.Value) error {
	var env, capabilities, user, rlimits rawjson.Value
	err := fields(process,
		want{"env", rawjson.Array, &env},
		want{"capabilities", rawjson.Absent, &capabilities},
		want{"user", rawjson.Object, &user},
		want{"rlimits", rawjson.Array, &rlimits})
	if err != nil {
		return err
	}
	if f.Env, err = texts(env); err != nil {
		return fmt.Errorf("env: %w", err)
	}
	bounding := capabilities
	if bounding.Kind() != rawjson.Array {
		if bounding, err = field(capabilities, "bounding", rawjson.Array); err != nil {
			return fmt.Errorf("capabilities: %w", err)
		}
	}
	if f.Bounding, err = texts(bounding); err != nil {
		return fmt.Errorf("capabilities: %w", err)
	}
	if err := f.user(user); err != nil {
		return fmt.Errorf("user: %w", err)
	}
	for e := range rlimits.Elements() {
		var kind, soft, hard rawjson.Value
		err := fields(e,
			want{"type", rawjson.String, &kind},
			want{"soft", rawjson.Number, &soft},
			want{"hard", rawjson.Number, &hard})
		if err != nil {
			return fmt.Errorf("rlimits: %w", err)
		}
		if kind.Text() != "RLIMIT_NOFILE" {
			continue
		}
		limit := Limit{}
		if err := decode(soft, &limit.Soft); err != nil {
			return fmt.Errorf("rlimits: soft: %w", err)
		}
		if err := decode(hard, &limit.Hard); err != nil {
			return fmt.Errorf("rlimits: hard: %w", err)
		}
		f.NoFile = &limit
	}
	return nil
}

func (f *Facts) user(user rawjson.Value) error {
	var uid, gid, more rawjson.Value
	err := fields(user,
		want{"uid", rawjson.Number, &uid},
		want{"gid", rawjson.Number, &gid},
		want{"additionalGids", rawjson.Array, &more})
	if err != nil {
		return err
	}
	if err := decode(uid, &f.User.UID); err != nil {
		return fmt.Errorf("uid: %w", err)
	}
	if err := decode(gid, &f.User.GID); err != nil {
		return fmt.Errorf("gid: %w", err)
	}
	if f.User.AdditionalGIDs, err = readGIDs(more); err != nil {
		return fmt.Errorf("additionalGids: %w", err)
	}
	return nil
}

func readGIDs(array rawjson.Value) ([]uint32, error) {
	var list []uint32
	for e := range array.Elements() {
		var gid uint32
		if err := decode(e, &gid); err != nil {
			return nil, err
		}
		list = append(list, gid)
	}
	return list, nil
}

func (f *Facts) root(root rawjson.Value) error {
	var path, readonly rawjson.Value
	if err := fields(root, want{"path", rawjson.String, &path}, want{"readonly", rawjson.Bool, &readonly}); err != nil {
		return err
	}
	f.HasRoot = root.Present()
	f.RootPath = path.Text()
	return decode(readonly, &f.RootReadonly)
}

// readMounts reads the mounts, once per text since there may be thousands. All options share one
// array.
func (d *Document) readMounts(array rawjson.Value) ([]Mount, error) {
	if d.mounts != nil {
		return d.mounts, nil
	}
	var all []string
	list := []Mount{}
	for e := range array.Elements() {
		var destination, kind, source, options rawjson.Value
		err := fields(e,
			want{"destination", rawjson.String, &destination},
			want{"type", rawjson.String, &kind},
			want{"source", rawjson.String, &source},
			want{"options", rawjson.Array, &options})
		if err != nil {
			return nil, err
		}
		m := Mount{Destination: destination.Text(), Type: kind.Text(), Source: source.Text()}
		first := len(all)
		for o := range options.Elements() {
			if err := o.Want(rawjson.String); err != nil {
				return nil, fmt.Errorf("options: %w", err)
			}
			all = append(all, o.Text())
		}
		if len(all) > first {
			m.Options = all[first:len(all):len(all)]
		}
		list = append(list, m)
	}
	if len(list) > 0 {
		d.mounts = list
		return list, nil
	}
	return nil, nil
}

func (f *Facts) linux(linux rawjson.Value) error {
	var namespaces, uids, gids, seccomp, masked, cgroups, label, devices rawjson.Value
	err := fields(linux,
		want{"namespaces", rawjson.Array, &namespaces},
		want{"uidMappings", rawjson.Array, &uids},
		want{"gidMappings", rawjson.Array, &gids},
		want{"seccomp", rawjson.Object, &seccomp},
		want{"maskedPaths", rawjson.Array, &masked},
		want{"cgroupsPath", rawjson.String, &cgroups},
		want{"mountLabel", rawjson.String, &label},
		want{"devices", rawjson.Array, &devices})
	if err != nil {
		return err
	}
	f.HasLinux, f.HasSeccomp, f.HasMaskedPaths = linux.Present(), seccomp.Present(), masked.Present()
	f.CgroupsPath, f.MountLabel = cgroups.Text(), label.Text()
	for e := range namespaces.Elements() {
		var kind, path rawjson.Value
		if err := fields(e, want{"type", rawjson.String, &kind}, want{"path", rawjson.String, &path}); err != nil {
			return fmt.Errorf("namespaces: %w", err)
		}
		if kind.Text() == "user" {
			f.UserNS, f.UserNSPath = true, path.Text()
		}
	}
	if f.ContainerUID, err = hostID(uids); err != nil {
		return fmt.Errorf("uidMappings: %w", err)
	}
	if f.ContainerGID, err = hostID(gids); err != nil {
		return fmt.Errorf("gidMappings: %w", err)
	}
	for e := range devices.Elements() {
		path, err := field(e, "path", rawjson.String)
		if err != nil {
			return fmt.Errorf("devices: %w", err)
		}
		f.Devices = append(f.Devices, path.Text())
	}
	return nil
}

// hostID returns the host ID that the container's 0 is mapped to, 0 without such a mapping.
func hostID(mappings rawjson.Value) (uint32, error) {
	for e := range mappings.Elements() {
		var container, host, size rawjson.Value
		err := fields(e,
			want{"containerID", rawjson.Number, &container},
			want{"hostID", rawjson.Number, &host},
			want{"size", rawjson.Number, &size})
		if err != nil {
			return 0, err
		}
		var c, h, n uint32
		for _, p := range []struct {
			v    rawjson.Value
			into *uint32
		}{{container, &c}, {host, &h}, {size, &n}} {
			if err := decode(p.v, p.into); err != nil {
				return 0, err
			}
		}
		if c == 0 && n > 0 {
			return h, nil
		}
	}
	return 0, nil
}
