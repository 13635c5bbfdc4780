// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"strings"

	runtimeplan "github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// separated is a registration with its own settings: the link that the engine starts, and the file
// next to it. See [runtimeplan.LoadConfig].
type separated struct {
	link, settings file
}

// separate reads the registration of a name.
func separate(o options, name string) (separated, error) {
	at := "/etc/nvidia-container-runtime/" + runtimeplan.RegistrationMark + name
	settings, err := look(o.root, at+".toml")
	if err != nil {
		return separated{}, err
	}
	s := separated{link: file{name: at, dir: settings.dir}, settings: settings}
	if s.link.dir == "" {
		return s, nil
	}
	info, err := os.Lstat(s.link.path())
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return s, nil
	case err != nil:
		return separated{}, err
	case info.Mode()&fs.ModeSymlink == 0:
		return separated{}, fmt.Errorf("%s is not a link: check what it is, and remove it", at)
	}
	target, err := os.Readlink(s.link.path())
	if err != nil {
		return separated{}, err
	}
	s.link.info, s.link.before, s.link.after = info, []byte(target), []byte(target)
	s.link.link = true
	return s, nil
}

// write plans the registration of a program with a low-level runtime; "" keeps the current one.
func (s separated) write(program, lowLevel string) []file {
	s.link.link, s.link.after = true, []byte(program)
	if lowLevel == "" || !bytes.HasPrefix(s.settings.before, []byte(madeMark)) && s.settings.info != nil {
		return []file{s.link} // keep the settings
	}
	s.settings.after = fmt.Appendf([]byte(madeMark),
		"[nvidia-container-runtime.experimental]\nruntime-path = %s\n", literalString(lowLevel))
	return []file{s.settings, s.link}
}

// remove plans to undo write.
func (s separated) remove() []file {
	if s.link.info == nil && s.settings.info == nil {
		return nil
	}
	s.link.remove = s.link.info != nil && isOurs(string(s.link.before))
	s.settings.remove = bytes.HasPrefix(s.settings.before, []byte(madeMark))
	return []file{s.link, s.settings}
}

// path returns the file's path on the host.
func (f file) path() string { return strings.TrimSuffix(f.dir, "/") + "/" + path.Base(f.name) }
