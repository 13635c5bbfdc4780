// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"bytes"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// machine unpacks a fixture without its device nodes.
func machine(t *testing.T, name string) string {
	t.Helper()
	a, err := fixtures.Load(name)
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "machine")
	_, err = a.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	return dir
}

func TestCharLinks(t *testing.T) {
	link := func(target string) func(t *testing.T, name string) {
		return func(t *testing.T, name string) { require.NoError(t, os.Symlink(target, name)) }
	}
	nvidia0 := sysfs.Node{Path: "/dev/nvidia0", Major: 195, Minor: 0}
	missing := CharLink{Name: "/dev/char/195:0", Target: "../nvidia0"}
	found := func(what string, dead bool) []CharLink {
		l := missing
		l.Found, l.Dead = what, dead
		return []CharLink{l}
	}
	tests := []struct {
		name  string
		nodes []sysfs.Node
		there func(t *testing.T, name string) // makes /dev/char/195:0
		want  []CharLink
	}{
		{"nothing", []sysfs.Node{nvidia0}, nil, []CharLink{missing}},
		{"the right link, whose node is missing", []sysfs.Node{nvidia0}, link("../nvidia0"), nil},
		{"a dangling link", []sysfs.Node{nvidia0}, link("../nvidia7"), found(`a link to "../nvidia7"`, true)},
		{"an absolute link that dangles in the machine's root", []sysfs.Node{nvidia0}, link("/dev/null"), found(`a link to "/dev/null"`, true)},
		{"a link to a file", []sysfs.Node{nvidia0}, link("../../proc/devices"), found(`a link to "../../proc/devices"`, false)},
		{"a link to itself", []sysfs.Node{nvidia0}, link("195:0"), found(`a link to "195:0"`, false)},
		{"a directory", []sysfs.Node{nvidia0}, func(t *testing.T, name string) { require.NoError(t, os.Mkdir(name, 0o755)) }, found("not a link", false)},
		{
			"nodes in subdirectories, a number used twice, another number on the host",
			[]sysfs.Node{
				{Path: "/dev/dri/by-path/pci-0000:01:00.0-card", Major: 226, Minor: 1},
				{Path: "/dev/dri/card1", Major: 226, Minor: 1},
				{Path: "/dev/nvidia-caps/nvidia-cap3", Major: 236, Minor: 3},
				{Path: "/dev/nvidia-uvm", Major: 508, Minor: 0, Instead: "character device 510:0"},
			},
			nil,
			[]CharLink{{Name: "/dev/char/226:1", Target: "../dri/card1"}, {Name: "/dev/char/236:3", Target: "../nvidia-caps/nvidia-cap3"}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			dir := machine(t, "t4")
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "dev/char"), 0o755))
			if tt.there != nil {
				tt.there(t, filepath.Join(dir, "dev/char/195:0"))
			}
			m := Machine{Root: sysfs.Root(dir), DriverRoot: sysfs.Root(dir)}
			assert.Equal(t, tt.want, m.charLinks(tt.nodes))
		})
	}
}

// TestCharLinksDriverContainer checks links where the device nodes are in a driver container.
func TestCharLinksDriverContainer(t *testing.T) {
	dir := machine(t, "driver-container")
	device := filepath.Join(dir, "run/nvidia/driver/dev/nvidiactl")
	require.NoError(t, os.MkdirAll(filepath.Dir(device), 0o755))
	require.NoError(t, os.WriteFile(device, nil, 0o600))
	m := Machine{Root: sysfs.Root(dir), DriverRoot: sysfs.Root(filepath.Join(dir, "run/nvidia/driver"))}
	nodes := []sysfs.Node{
		{Path: "/dev/nvidia0", Major: 195, Minor: 0, OnHost: true},
		{Path: "/dev/nvidia1", Major: 195, Minor: 1},
	}
	assert.Equal(t, []CharLink{
		{Name: "/dev/char/195:0", Target: "/run/nvidia/driver/dev/nvidia0"},
		{Name: "/dev/char/195:1", Target: "../nvidia1"},
	}, m.charLinks(nodes))
}

// TestMakeCharLinksElsewhere checks that nothing is written below another root, and that the note
// has the commands to run.
func TestMakeCharLinksElsewhere(t *testing.T) {
	command := "wrong links to device nodes: /dev/char/195:0 (missing), /dev/char/195:255 (a link to \"../nvidia9\"); with the systemd cgroup driver the container may lose these devices at the next 'systemctl daemon-reload'; " +
		"create them with 'mkdir -p /dev/char && ln -sfn ../nvidia0 /dev/char/195:0 && ln -sfn ../nvidiactl /dev/char/195:255'"
	tests := []struct {
		mode    string
		systemd bool
		want    []string
	}{
		{CharLinksAuto, true, []string{command}},
		{CharLinksAuto, false, nil},
		{CharLinksAlways, false, []string{command}},
		{CharLinksNever, true, nil},
		{CharLinksNever, false, nil},
	}
	for _, tt := range tests {
		t.Run(fmt.Sprint(tt.mode, tt.systemd), func(t *testing.T) {
			dir := machine(t, "t4")
			require.NoError(t, os.MkdirAll(filepath.Join(dir, "dev/char"), 0o755))
			require.NoError(t, os.Symlink("../nvidia9", filepath.Join(dir, "dev/char/195:255")))
			m := Machine{Root: sysfs.Root(dir), DriverRoot: sysfs.Root(dir)}
			cfg := Config{DevCharLinks: tt.mode}
			var bad []CharLink
			if cfg.CharLinksMatter(tt.systemd) {
				bad = m.charLinks([]sysfs.Node{{Path: "/dev/nvidia0", Major: 195}, {Path: "/dev/nvidiactl", Major: 195, Minor: 255}})
			}
			before := listing(t, dir)
			assert.Equal(t, tt.want, makeCharLinks(cfg, m.Root, bad))
			assert.Equal(t, before, listing(t, dir))
		})
	}
}

// TestHost creates device nodes and links on the machine itself.
func TestHost(t *testing.T) {
	dir := machine(t, "device-mode")
	if !need.Host(t, dir) {
		return
	}
	// The umask must not affect the modes of the nodes.
	syscall.Umask(0o077)
	require.NoError(t, os.Mkdir("/dev/char", 0o755))
	require.NoError(t, os.Symlink("../gone", "/dev/char/195:0"))
	require.NoError(t, unix.Mknod("/dev/null", unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	require.NoError(t, os.Symlink("../null", "/dev/char/195:255"))
	require.NoError(t, unix.Mknod("/dev/nvidia-uvm", unix.S_IFCHR|0o640, int(unix.Mkdev(508, 0))))

	cfg := DefaultConfig()
	cfg.DriverRoot = dir
	read := func() Plan {
		m, err := New(cfg, Container{Request: spec.Request{Devices: []string{"all"}, Source: "test", Capabilities: []string{"compute", "utility"}}})
		require.NoError(t, err)
		return m
	}
	// NVreg_ModifyDeviceFiles=0 does not apply to the nvidia-uvm module.
	params := filepath.Join(dir, "proc/driver/nvidia/params")
	allowed, err := os.ReadFile(params)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(params, bytes.Replace(allowed, []byte("ModifyDeviceFiles: 1"), []byte("ModifyDeviceFiles: 0"), 1), 0o644))
	assert.Equal(t, []string{"/dev/nvidia-uvm-tools"}, paths(read().Missing))
	require.NoError(t, os.WriteFile(params, allowed, 0o644))
	m := read()
	assert.Equal(t, []string{"/dev/nvidia-uvm-tools", "/dev/nvidia0", "/dev/nvidiactl"}, paths(m.Missing))
	require.NoError(t, makeNodes(m.Missing))
	wantNodes := []string{
		"dev/char/",
		"dev/char/195:0 -> ../gone",
		"dev/char/195:255 -> ../null",
		"dev/null c 1:3 0600 0:0", // created above, under the umask
		"dev/nvidia-uvm c 508:0 0600 0:0",
		"dev/nvidia-uvm-tools c 508:1 0666 0:0",
		"dev/nvidia0 c 195:0 0660 0:483",
		"dev/nvidiactl c 195:255 0660 0:483",
	}
	assert.Equal(t, wantNodes, devices(t))

	// No links are created where this is forbidden.
	cfg.DevCharLinks = CharLinksNever
	assert.Empty(t, makeCharLinks(cfg, m.Root, m.charLinks(m.Nodes)))
	assert.Equal(t, wantNodes, devices(t))

	// Missing and dangling links are set; a link to some other file stays.
	cfg.DevCharLinks = CharLinksAuto
	note := "wrong links to device nodes: /dev/char/195:255 (a link to \"../null\"); with the systemd cgroup driver the container may lose these devices at the next 'systemctl daemon-reload'; " +
		"create them with 'mkdir -p /dev/char && ln -sfn ../nvidiactl /dev/char/195:255'"
	assert.Equal(t, []string{note}, makeCharLinks(cfg, m.Root, m.charLinks(m.Nodes)))
	want := append([]string{
		"dev/char/",
		"dev/char/195:0 -> ../nvidia0",
		"dev/char/195:255 -> ../null",
		"dev/char/508:0 -> ../nvidia-uvm",
		"dev/char/508:1 -> ../nvidia-uvm-tools",
	}, wantNodes[3:]...)
	assert.Equal(t, want, devices(t))

	// For a second container, everything is in place.
	m = read()
	assert.Empty(t, m.Missing)
	require.NoError(t, makeNodes(m.Missing))
	assert.Equal(t, []string{note}, makeCharLinks(cfg, m.Root, m.charLinks(m.Nodes)))
	assert.Equal(t, want, devices(t))

	// A concurrent start may have been faster.
	late := CharLink{Name: "/dev/char/195:0", Target: "../nvidia0"}
	require.NoError(t, late.make())
	m.Missing = m.Nodes
	require.NoError(t, makeNodes(m.Missing))
	assert.Equal(t, want, devices(t))

	// Where links cannot be created, a note is all that happens.
	require.NoError(t, os.RemoveAll("/dev/char"))
	require.NoError(t, os.WriteFile("/dev/char", nil, 0o600))
	notes := makeCharLinks(cfg, m.Root, m.charLinks(m.Nodes))
	require.Len(t, notes, 1)
	assert.Contains(t, notes[0], "/dev/char/195:0 (symlink ../nvidia0 /dev/char/195:0: not a directory)")

	// A missing /dev/char is created, too.
	require.NoError(t, os.Remove("/dev/char"))
	assert.Nil(t, makeCharLinks(cfg, m.Root, m.charLinks(m.Nodes)))
	assert.Contains(t, devices(t), "dev/char/195:255 -> ../nvidiactl")
}

func paths(nodes []sysfs.Node) []string {
	var list []string
	for _, n := range nodes {
		list = append(list, n.Path)
	}
	return list
}

// devices lists /dev.
func devices(t *testing.T) []string {
	t.Helper()
	var list []string
	for _, line := range strings.Split(listing(t, "/dev"), "\n")[1:] {
		list = append(list, "dev/"+line)
	}
	return list
}

// listing lists a directory tree, one entry per line.
func listing(t *testing.T, dir string) string {
	t.Helper()
	var lines []string
	err := filepath.WalkDir(dir, func(name string, d fs.DirEntry, err error) error {
		require.NoError(t, err)
		info, err := d.Info()
		require.NoError(t, err)
		line, _ := filepath.Rel(dir, name)
		st := info.Sys().(*syscall.Stat_t)
		switch {
		case d.IsDir():
			line += "/"
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(name)
			require.NoError(t, err)
			line += " -> " + target
		case info.Mode()&fs.ModeCharDevice != 0:
			line += fmt.Sprintf(" c %d:%d %04o %d:%d", unix.Major(st.Rdev), unix.Minor(st.Rdev), info.Mode().Perm(), st.Uid, st.Gid)
		}
		lines = append(lines, line)
		return nil
	})
	require.NoError(t, err)
	return strings.Join(lines, "\n")
}
