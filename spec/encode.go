// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"encoding/json"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// encode encodes strings, numbers and the types of runtime-spec as JSON. The common types are
// written by hand, with the same result as encoding/json: in every start anew, encoding/json takes
// longer to learn a type by reflection than writing a whole edit takes.
func encode(v any) ([]byte, error) {
	switch v := v.(type) {
	case string:
		return appendText(nil, v)
	case uint32:
		return strconv.AppendUint(nil, uint64(v), 10), nil
	case specs.Mount:
		if len(v.UIDMappings)+len(v.GIDMappings) == 0 {
			return encodeMount(v)
		}
	case specs.LinuxDevice:
		return encodeDevice(v)
	case specs.LinuxDeviceCgroup:
		return encodeRule(v)
	case []condition:
		return encodeConditions(v)
	}
	return marshal(v)
}

// marshal is encode for any type.
func marshal(v any) ([]byte, error) {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(v); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte("\n")), nil
}

// appendText appends s as a JSON string.
func appendText(b []byte, s string) ([]byte, error) {
	for i := range len(s) {
		if c := s[i]; c < ' ' || c > '~' || c == '"' || c == '\\' {
			text, err := marshal(s)
			return append(b, text...), err
		}
	}
	b = append(b, '"')
	b = append(b, s...)
	return append(b, '"'), nil
}

// writer writes the members of an object.
type writer struct {
	text []byte
	err  error
}

// name starts a member.
func (w *writer) name(name string) {
	separator := byte(',')
	if len(w.text) == 0 {
		separator = '{'
	}
	w.text = append(w.text, separator, '"')
	w.text = append(w.text, name...)
	w.text = append(w.text, '"', ':')
}

func (w *writer) string(name, value string) {
	w.name(name)
	w.value(value)
}

func (w *writer) value(s string) {
	var err error
	if w.text, err = appendText(w.text, s); err != nil && w.err == nil {
		w.err = err
	}
}

func (w *writer) number(name string, n int64) {
	w.name(name)
	w.text = strconv.AppendInt(w.text, n, 10)
}

func (w *writer) unsigned(name string, n uint64) {
	w.name(name)
	w.text = strconv.AppendUint(w.text, n, 10)
}

func (w *writer) end() ([]byte, error) {
	return append(w.text, '}'), w.err
}

func encodeMount(m specs.Mount) ([]byte, error) {
	w := writer{text: make([]byte, 0, 256)}
	w.string("destination", m.Destination)
	if m.Type != "" {
		w.string("type", m.Type)
	}
	if m.Source != "" {
		w.string("source", m.Source)
	}
	if len(m.Options) > 0 {
		w.name("options")
		for i, o := range m.Options {
			separator := byte(',')
			if i == 0 {
				separator = '['
			}
			w.text = append(w.text, separator)
			w.value(o)
		}
		w.text = append(w.text, ']')
	}
	return w.end()
}

func encodeDevice(d specs.LinuxDevice) ([]byte, error) {
	w := writer{text: make([]byte, 0, 128)}
	w.string("path", d.Path)
	w.string("type", d.Type)
	w.number("major", d.Major)
	w.number("minor", d.Minor)
	if d.FileMode != nil {
		w.unsigned("fileMode", uint64(*d.FileMode))
	}
	if d.UID != nil {
		w.unsigned("uid", uint64(*d.UID))
	}
	if d.GID != nil {
		w.unsigned("gid", uint64(*d.GID))
	}
	return w.end()
}

func encodeRule(r specs.LinuxDeviceCgroup) ([]byte, error) {
	w := writer{text: make([]byte, 0, 96)}
	w.name("allow")
	w.text = strconv.AppendBool(w.text, r.Allow)
	if r.Type != "" {
		w.string("type", r.Type)
	}
	if r.Major != nil {
		w.number("major", *r.Major)
	}
	if r.Minor != nil {
		w.number("minor", *r.Minor)
	}
	if r.Access != "" {
		w.string("access", r.Access)
	}
	return w.end()
}

func encodeConditions(list []condition) ([]byte, error) {
	if list == nil {
		return marshal(list)
	}
	text := []byte{'['}
	for i, c := range list {
		var w writer
		w.unsigned("index", uint64(c.Index))
		w.unsigned("value", c.Value)
		if c.ValueTwo != 0 {
			w.unsigned("valueTwo", c.ValueTwo)
		}
		w.string("op", string(c.Op))
		one, err := w.end()
		if err != nil {
			return nil, err
		}
		if i > 0 {
			text = append(text, ',')
		}
		text = append(text, one...)
	}
	return append(text, ']'), nil
}
