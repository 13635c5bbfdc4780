// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"slices"
	"strings"

	specs "tags.cncf.io/container-device-interface/specs-go"
)

// Difference is a difference between a file and the machine.
type Difference struct {
	What   string `json:"what"`             // "driver", "device", "node", "mount", "environment", "groups", …
	Name   string `json:"name,omitempty"`   // name of the device, or path in the container
	File   string `json:"file,omitempty"`   // value in the file; "" if missing
	Now    string `json:"now,omitempty"`    // value on the machine; "" if missing
	Reason string `json:"reason,omitempty"` // what is wrong, if the values do not show it
}

// String describes the difference without What and Name.
func (d Difference) String() string {
	text := d.File + " is now " + d.Now
	switch {
	case d.File == "" && d.Now == "":
		return d.Reason
	case d.File == "":
		text = "new: " + d.Now
	case d.Now == "":
		text = "gone: " + d.File
	}
	if d.Reason != "" {
		text += ", which " + d.Reason
	}
	return text
}

// Compare compares old, a file, with now, which [Make] has just made. It reads the host's files
// only to explain why a mount is gone.
func Compare(old, now File) []Difference {
	var list []Difference
	add := func(d Difference) {
		if !slices.Contains(list, d) { // "0", the GPU's UUID and "all" have the same nodes
			list = append(list, d)
		}
	}
	if old.Edited() {
		add(Difference{What: "file", Reason: "edited since it was written"})
	}
	if a, b := old.Record.Driver, now.Record.Driver; a != b {
		add(Difference{What: "driver", File: a, Now: b})
	}
	if a, b := old.Spec.Version, now.Spec.Version; a != b {
		add(Difference{What: "version", File: a, Now: b})
	}
	if a, b := old.Kind(), now.Kind(); a != b {
		add(Difference{What: "kind", File: a, Now: b})
	}
	devices := map[string]specs.ContainerEdits{}
	for _, d := range now.Spec.Devices {
		devices[d.Name] = d.ContainerEdits
	}
	compareEdits(old.Spec.ContainerEdits, now.Spec.ContainerEdits, add)
	known := map[string]bool{}
	for _, d := range old.Spec.Devices {
		known[d.Name] = true
		edits, ok := devices[d.Name]
		if !ok {
			add(Difference{What: "device", Name: d.Name, File: nodesOf(d.ContainerEdits)})
			continue
		}
		compareEdits(d.ContainerEdits, edits, add)
	}
	for _, d := range now.Spec.Devices {
		if !known[d.Name] {
			add(Difference{What: "device", Name: d.Name, Now: nodesOf(d.ContainerEdits)})
		}
	}
	return list
}

// nodesOf names the first nodes of a device.
func nodesOf(e specs.ContainerEdits) string {
	const most = 3
	var list []string
	for i, n := range e.DeviceNodes {
		if i == most {
			list = append(list, "…")
			break
		}
		list = append(list, n.Path)
	}
	return strings.Join(list, " ")
}

func compareEdits(old, now specs.ContainerEdits, add func(Difference)) {
	compareLists("environment", texts(old.Env, envText), texts(now.Env, envText), add)
	compareLists("node", texts(old.DeviceNodes, nodeText), texts(now.DeviceNodes, nodeText), add)
	compareLists("mount", texts(old.Mounts, mountText), texts(now.Mounts, mountText), func(d Difference) {
		if d.Now == "" {
			d.Reason = missing(d.Name, old.Mounts)
		}
		add(d)
	})
	if a, b := gidText(old), gidText(now); a != b {
		add(Difference{What: "groups", File: a, Now: b})
	}
	if a, b := otherText(old), otherText(now); a != b {
		add(Difference{What: "other edits", File: a, Now: b})
	}
}

// named is an item of a list: its name and everything else as text.
type named struct{ name, text string }

func texts[T any](list []T, text func(T) named) []named {
	var result []named
	for _, item := range list {
		result = append(result, text(item))
	}
	return result
}

func compareLists(what string, old, now []named, add func(Difference)) {
	find := func(list []named, name string) (string, bool) {
		i := slices.IndexFunc(list, func(n named) bool { return n.name == name })
		if i < 0 {
			return "", false
		}
		return list[i].text, true
	}
	for _, o := range old {
		if text, ok := find(now, o.name); !ok || text != o.text {
			add(Difference{What: what, Name: o.name, File: o.text, Now: text})
		}
	}
	for _, n := range now {
		if _, ok := find(old, n.name); !ok {
			add(Difference{What: what, Name: n.name, Now: n.text})
		}
	}
}

func envText(entry string) named {
	name, value, _ := strings.Cut(entry, "=")
	return named{name, fmt.Sprintf("%q", value)}
}

// nodeText returns "195:0 mode 0666 group 0 rw".
func nodeText(n *specs.DeviceNode) named {
	text := fmt.Sprintf("%d:%d", n.Major, n.Minor)
	if n.Type != "c" {
		text = fmt.Sprintf("%q %s", n.Type, text)
	}
	if n.FileMode != nil {
		text += fmt.Sprintf(" mode %04o", n.FileMode.Perm())
	}
	if n.UID != nil && *n.UID != 0 {
		text += fmt.Sprintf(" user %d", *n.UID)
	}
	if n.GID != nil {
		text += fmt.Sprintf(" group %d", *n.GID)
	}
	text += " " + n.Permissions
	if n.HostPath != "" {
		text += " from " + n.HostPath
	}
	return named{n.Path, text}
}

// mountText returns the host's path, and the options if they are not those of a regular file.
func mountText(m *specs.Mount) named {
	text := m.HostPath
	if options := strings.Join(m.Options, ","); options != "ro,nosuid,nodev,rbind,rprivate" {
		text += " (" + options + ")"
	}
	if m.Type != "" {
		text += " type " + m.Type
	}
	return named{m.ContainerPath, text}
}

func gidText(e specs.ContainerEdits) string {
	if len(e.AdditionalGIDs) == 0 {
		return ""
	}
	return strings.Trim(fmt.Sprint(e.AdditionalGIDs), "[]")
}

// otherText summarizes edits that we never write.
func otherText(e specs.ContainerEdits) string {
	var list []string
	for _, o := range []struct {
		name string
		n    int
	}{{"hooks", len(e.Hooks)}, {"network devices", len(e.NetDevices)}} {
		if o.n > 0 {
			list = append(list, fmt.Sprintf("%d %s", o.n, o.name))
		}
	}
	if e.IntelRdt != nil {
		list = append(list, "intelRdt")
	}
	return strings.Join(list, ", ")
}

// missing returns why a mount is gone.
func missing(containerPath string, mounts []*specs.Mount) string {
	for _, m := range mounts {
		if m.ContainerPath != containerPath {
			continue
		}
		info, err := os.Stat(m.HostPath)
		switch {
		case errors.Is(err, fs.ErrNotExist):
			return "no longer exists: containers cannot start"
		case err != nil:
			return "cannot be read: " + bare(err).Error()
		case info.IsDir():
			return "is now a directory"
		case info.Mode().Type()&fs.ModeSocket != 0:
			return "is now a socket"
		case info.Mode().Type()&fs.ModeNamedPipe != 0:
			return "is now a named pipe"
		case info.Mode().Type()&fs.ModeDevice != 0:
			return "is now a device"
		}
		return "exists, but no longer belongs to the driver"
	}
	return ""
}
