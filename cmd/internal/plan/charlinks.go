// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Values of dev-char-links: when the links below /dev/char are created.
const (
	CharLinksAuto   = "auto"   // for the systemd cgroup driver
	CharLinksAlways = "always" // for every container with GPUs
	CharLinksNever  = "never"
)

// CharLink is a link to a device node, named after the device number:
//
//	/dev/char/195:0 -> ../nvidia0
//
// udev creates such links for nodes of devtmpfs, which NVIDIA's are not. With the systemd cgroup
// driver the low-level runtime passes each device to systemd by this name (generateDeviceProperties
// in github.com/opencontainers/cgroups/devices). runc 1.1.3 to 1.1.6, and later versions with
// systemd before 240, skip devices whose link is missing: the container loses them when systemd
// next applies its rules, for example at "systemctl daemon-reload".
type CharLink struct {
	Name   string // "/dev/char/195:0"
	Target string // "../nvidia0"
	Found  string // what is there instead; "" for nothing
	Dead   bool   // Found is a dangling link, which can be replaced
}

// Command is the shell command that creates the link.
func (l CharLink) Command() string {
	return fmt.Sprintf("ln -sfn %s %s", l.Target, l.Name)
}

// charLinks returns the links for nodes that are missing or lead elsewhere.
func (m *Machine) charLinks(nodes []sysfs.Node) []CharLink {
	var bad []CharLink
	seen := map[string]bool{}
	for _, n := range nodes {
		l := CharLink{
			Name:   fmt.Sprintf("/dev/char/%d:%d", n.Major, n.Minor),
			Target: ".." + strings.TrimPrefix(n.Path, "/dev"),
		}
		// by-path names the same devices again. A node with a wrong number gets no link.
		if strings.Contains(n.Path, "/by-path/") || n.Instead != "" || seen[l.Name] {
			continue
		}
		seen[l.Name] = true
		if dev := m.devRoot(); dev != m.Root && n.OnHost {
			l.Target = path.Join("/", strings.TrimPrefix(dev.Path(n.Path), m.Root.Path("/")))
		}
		if !l.check(m.Root, n) {
			bad = append(bad, l)
		}
	}
	return bad
}

// check tells whether the link is right; if not, it sets Found and Dead.
func (l *CharLink) check(root sysfs.Root, n sysfs.Node) bool {
	info, err := root.Stat(l.Name[1:])
	if err == nil && isDevice(info, n) {
		return true
	}
	target, linkErr := root.ReadLink(l.Name[1:])
	switch {
	case linkErr == nil && target == l.Target:
		return true // the node itself is what is missing
	case linkErr == nil:
		l.Dead = errors.Is(err, fs.ErrNotExist)
		l.Found = fmt.Sprintf("a link to %.100q", target)
	case !errors.Is(linkErr, fs.ErrNotExist) && !errors.Is(linkErr, syscall.ENOTDIR):
		l.Found = "not a link"
	}
	return false
}

func isDevice(info fs.FileInfo, n sysfs.Node) bool {
	st, ok := info.Sys().(*syscall.Stat_t)
	return ok && info.Mode()&fs.ModeCharDevice != 0 && uint64(st.Rdev) == unix.Mkdev(uint32(n.Major), uint32(n.Minor))
}

// CharLinksMatter tells whether a container needs the links.
func (c Config) CharLinksMatter(systemdCgroup bool) bool {
	return systemdCgroup || c.DevCharLinks == CharLinksAlways
}

// MayMakeCharLinks tells whether missing links are created: by root, on the machine itself, unless
// the configuration forbids it.
func (c Config) MayMakeCharLinks(root sysfs.Root) bool {
	return root == "/" && os.Geteuid() == 0 && c.DevCharLinks != CharLinksNever
}

// makeCharLinks creates links below /dev/char. It returns notes, not errors: no container fails for
// lack of a link.
func makeCharLinks(cfg Config, root sysfs.Root, bad []CharLink) []string {
	if cfg.DevCharLinks == CharLinksNever {
		return nil
	}
	var notes, commands []string
	may := cfg.MayMakeCharLinks(root)
	for _, l := range bad {
		reason := "missing"
		if l.Found != "" {
			reason = l.Found
		}
		if may && (l.Found == "" || l.Dead) {
			err := l.make()
			if err == nil {
				continue
			}
			reason = err.Error()
		}
		notes = append(notes, fmt.Sprintf("%s (%s)", l.Name, reason))
		commands = append(commands, l.Command())
	}
	if len(notes) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("wrong links to device nodes: %s; with the systemd cgroup driver the container "+
		"may lose these devices at the next 'systemctl daemon-reload'; create them with 'mkdir -p /dev/char && %s'",
		strings.Join(notes, ", "), strings.Join(commands, " && "))}
}

// make creates the link, or atomically replaces a dangling one.
func (l CharLink) make() error {
	if err := os.Mkdir(path.Dir(l.Name), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if !l.Dead {
		err := os.Symlink(l.Target, l.Name)
		if errors.Is(err, fs.ErrExist) {
			return nil // another start was faster
		}
		return err
	}
	temp := fmt.Sprintf("%s/.%s.%d", path.Dir(l.Name), path.Base(l.Name), os.Getpid())
	if err := os.Symlink(l.Target, temp); err != nil {
		return err
	}
	if err := os.Rename(temp, l.Name); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return nil
}
