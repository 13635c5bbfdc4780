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

// registration is the path of a runtime's entry in an engine's file, and of its program.
type registration struct {
	entry   []string
	program []string // below entry; nil if the entry itself is a list that begins with the program
	ours    string   // --runtime-path
}

// States of an entry.
const (
	absent   = iota
	own      // names our program, or is in our block
	replaced // another program's, replaced by ours
	foreign  // another program's
)

// isOurs tells whether a path is that of the runtime, or of a link to it with its own settings.
func isOurs(name string) bool {
	base := path.Base(name)
	return base == program || strings.HasPrefix(base, runtimeplan.RegistrationMark)
}

// state returns the state of an entry and its program.
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

// refuseForeign returns an error if another program has our runtime's name in a file.
func (o options) refuseForeign(f importedFile, reg registration) error {
	if o.replace || f.tree == nil {
		return nil
	}
	data, err := o.root.ReadFileMax(f.name, maxFile)
	if err != nil {
		return nil //nolint:nilerr // no such file yet
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

// collision returns the error about a name that another program has.
func (o options) collision(file, other string) error {
	hint := "nvsysfs"
	if o.name == hint {
		hint = "nvsysfs-gpu"
	}
	return fmt.Errorf("%s already has a runtime %s, another program: %s; choose another name (--name %s), "+
		"or replace it with --replace, which --remove undoes", file, o.name, quote(other), hint)
}

func leftAlone(name, file, other string) string {
	return fmt.Sprintf("the runtime %s in %s is another program (%s), left alone; "+
		"--runtime-path with that program removes it", name, file, quote(other))
}

// overridden warns about a file read after ours.
func overridden(file, runtime string) string {
	return fmt.Sprintf("%s is read later and makes %s the default runtime", file, quote(runtime))
}

func (o options) reachedByPods() string {
	return fmt.Sprintf("pods with runtimeClassName: %s use it, after "+
		"\"nvsysfs configure %s --runtime-class --name %[1]s | kubectl apply -f -\"", o.name, o.engine)
}
