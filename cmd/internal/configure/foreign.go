// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	runtimeplan "github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// registration is where an engine's file has the entry of a runtime, and below it the runtime's program.
type registration struct {
	entry   []string
	program []string // from entry on; nil if the entry itself is a list that begins with the program
	ours    string   // what --runtime-path names, "" if nothing
}

// What an entry is to us.
const (
	absent   = iota
	own      // it names our program, or stands in our block
	replaced // it is another program's, and we have put ours in its place
	foreign  // it is another program's
)

// isOurs tells whether a path is that of the runtime, or of a registration of its own.
func isOurs(name string) bool {
	base := path.Base(name)
	return base == program || strings.HasPrefix(base, runtimeplan.RegistrationMark)
}

// state tells what an entry is, and which program it names.
func (r registration) state(d document) (int, string) {
	v, ok := at(d.tree, r.entry...)
	if !ok {
		return absent, ""
	}
	key := slices.Concat(r.entry, r.program)
	if r.program != nil {
		v, _ = at(d.tree, key...)
	}
	named, _ := v.(string)
	if items := list(v); len(items) > 0 {
		named = items[0]
	}
	inBlock := false
	for _, e := range d.list {
		rest := d.text[e.value[1]:]
		if !e.header && slices.Equal(e.path, key) &&
			(bytes.HasPrefix(rest, []byte(wasMark)) || bytes.HasPrefix(rest, []byte(addedMark))) {
			return replaced, named
		}
		inBlock = inBlock || hasPrefix(e.path, r.entry) && d.inBlock(e)
	}
	switch {
	case inBlock || isOurs(named) || named != "" && named == r.ours:
		return own, named
	case named == "":
		named = "the engine's own"
	}
	return foreign, named
}

// refuseForeign returns an error if a file has a runtime of our name that is another program's.
func (o options) refuseForeign(f importedFile, reg registration) error {
	if o.replace || f.tree == nil {
		return nil
	}
	data, err := o.root.ReadFileMax(f.name, maxFile)
	if err != nil {
		return nil //nolint:nilerr // it is not there yet
	}
	d, err := parse(data, o.name)
	if err != nil {
		return fmt.Errorf("%s: %w", quote(f.name), err)
	}
	if state, other := reg.state(d); state == foreign {
		return o.collision(f.name, other)
	}
	return nil
}

// collision is the error about a name that another program has.
func (o options) collision(file, other string) error {
	hint := "nvsysfs"
	if o.name == hint {
		hint = "nvsysfs-gpu"
	}
	return fmt.Errorf("%s has a runtime %s already, which is another program: %s; take another name (--name %s), or put this runtime in its place with --replace, which --remove takes back",
		file, o.name, quote(other), hint)
}
