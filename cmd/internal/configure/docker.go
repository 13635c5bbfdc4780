// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// A daemon.json that we create, and what remains of it. An empty object of the user's is never
// mistaken for it: our entry there is indented by four blanks.
const (
	emptyDaemon = "{\n}"
	ownIndent   = "  "
)

func docker(o options) (plan, error) {
	name := "/etc/docker/daemon.json"
	if o.config != "" {
		name = o.config
	}
	f, err := look(o.root, name)
	if err != nil {
		return plan{}, err
	}
	p := plan{
		restart: "systemctl restart docker (stops containers without live-restore; " +
			"without --gpus, systemctl reload docker suffices)",
		reached: fmt.Sprintf("docker run --rm --runtime=%s -e NVIDIA_VISIBLE_DEVICES=all ubuntu nvidia-smi -L", o.name),
	}
	if o.setDefault {
		p.reached = strings.Replace(p.reached, "--runtime="+o.name+" ", "", 1)
	}
	// dockerd rejects unknown keys in daemon.json, so what was replaced is kept in another file.
	memory, err := look(o.root, name+".nvsysfs-"+o.name)
	if err != nil {
		return plan{}, err
	}
	var was memorized
	if len(memory.before) > 0 {
		if err := json.Unmarshal(memory.before, &was); err != nil {
			return plan{}, fmt.Errorf("%s, which has what --remove brings back: %w", quote(memory.name), err)
		}
	}
	switch {
	case !o.remove:
		if f.after, err = addRuntime(f.before, f.info != nil, o, &was); err != nil {
			return plan{}, fmt.Errorf("%s: %w", quote(name), err)
		}
		was.Program = ""
		if !isOurs(o.program) {
			was.Program = o.program
		}
		if was != (memorized{}) {
			if memory.after, err = json.MarshalIndent(was, "", "  "); err != nil {
				return plan{}, err
			}
			memory.after = append(memory.after, '\n')
			p.files = append(p.files, memory)
		}
	case f.info != nil:
		if other := foreignRuntime(f.before, o, was); other != "" {
			p.notes = append(p.notes, leftAlone(o.name, name, other))
			break
		}
		if f.after, err = removeRuntime(f.before, o.name, was); err != nil {
			return plan{}, fmt.Errorf("%s: %w", quote(name), err)
		}
		f.remove = f.after == nil
		memory.remove = true
		if memory.info != nil {
			p.files = append(p.files, memory)
		}
	}
	p.files = append(p.files, f)
	return p, hook(o, &p)
}

// memorized is what daemon.json had before.
type memorized struct {
	Default string `json:"default-runtime,omitempty"`
	Runtime string `json:"runtime,omitempty"` // the JSON of the entry
	Program string `json:"program,omitempty"` // ours, unless its name tells
}

// foreignRuntime returns another program that has our runtime's name, "" if there is none or the
// file cannot be edited.
func foreignRuntime(data []byte, o options, was memorized) string {
	entry, err := jsonMember(bytes.TrimPrefix(data, []byte(bom)), "runtimes", o.name)
	if err != nil || entry.Kind() != rawjson.Object || was.Runtime != "" {
		return ""
	}
	var e struct {
		Path        string `json:"path"`
		RuntimeType string `json:"runtimeType"`
	}
	switch err := entry.Decode(&e); {
	case err != nil, isOurs(e.Path), e.Path != "" && (e.Path == o.program || e.Path == was.Program):
		return ""
	case e.Path != "":
		return e.Path
	}
	return e.RuntimeType
}

// bom may precede daemon.json.
const bom = "\xef\xbb\xbf"

// addRuntime returns daemon.json with the runtime, and stores in was what it replaces.
func addRuntime(data []byte, there bool, o options, was *memorized) (out []byte, err error) {
	head := ""
	if bytes.HasPrefix(data, []byte(bom)) {
		head, data = bom, data[len(bom):]
	}
	unit := ""
	if len(bytes.TrimSpace(data)) == 0 {
		unit = ownIndent
		data = []byte(emptyDaemon)
		if !there {
			data = []byte(emptyDaemon + "\n")
		}
	}
	want, err := daemonTree(data)
	if err != nil {
		return nil, err
	}
	entry, err := jsonMember(data, "runtimes", o.name)
	if err != nil {
		return nil, err
	}
	doc := editor{text: data, unit: unit}
	switch entry.Kind() {
	case rawjson.Absent:
		runtimes, err := jsonMember(data, "runtimes")
		if err != nil {
			return nil, err
		}
		if runtimes.Kind() == rawjson.Null {
			return nil, runtimes.Errorf("\"runtimes\" is null: remove it and try again")
		}
		value := pair{o.name, []pair{{"path", o.program}}}
		if runtimes.Kind() == rawjson.Absent {
			err = doc.add(nil, pair{"runtimes", []pair{value}})
		} else {
			err = doc.add([]string{"runtimes"}, value)
		}
		if err != nil {
			return nil, err
		}
	default:
		if err := entry.Want(rawjson.Object); err != nil {
			return nil, err
		}
		other := foreignRuntime(data, o, *was)
		var e struct {
			Path *string `json:"path"`
		}
		err := entry.Decode(&e)
		switch {
		case err != nil:
			return nil, err
		case other != "" && !o.replace:
			return nil, o.collision("it", other)
		case other != "":
			was.Runtime = string(entry.Raw())
			doc.text = splice(doc.text, entry.Start(), entry.End(), "{ \"path\": "+jsonString(o.program)+" }")
			want["runtimes"].(map[string]any)[o.name] = map[string]any{}
		case e.Path == nil:
			err = doc.add([]string{"runtimes", o.name}, pair{"path", o.program})
		case *e.Path != o.program:
			err = doc.replace([]string{"runtimes", o.name, "path"}, o.program)
		}
		if err != nil {
			return nil, err
		}
	}
	runtimes, _ := want["runtimes"].(map[string]any)
	if runtimes == nil {
		runtimes = map[string]any{}
		want["runtimes"] = runtimes
	}
	if old, ok := runtimes[o.name].(map[string]any); ok {
		old["path"] = o.program
	} else {
		runtimes[o.name] = map[string]any{"path": o.program}
	}

	if o.setDefault {
		old, err := jsonMember(data, "default-runtime")
		if err != nil {
			return nil, err
		}
		switch {
		case old.Kind() == rawjson.Absent:
			err = doc.add(nil, pair{"default-runtime", o.name})
		case old.Kind() != rawjson.String:
			err = old.Want(rawjson.String)
		case old.Text() != o.name:
			was.Default = old.Text()
			err = doc.replace([]string{"default-runtime"}, o.name)
		}
		if err != nil {
			return nil, err
		}
		want["default-runtime"] = o.name
	}
	return append([]byte(head), doc.text...), verifyDaemon(doc.text, want)
}

// removeRuntime returns daemon.json without the runtime; nil if we created it and it has nothing
// else.
func removeRuntime(data []byte, name string, was memorized) ([]byte, error) {
	head := ""
	if bytes.HasPrefix(data, []byte(bom)) {
		head, data = bom, data[len(bom):]
	}
	if len(bytes.TrimSpace(data)) == 0 {
		return append([]byte(head), data...), nil
	}
	want, err := daemonTree(data)
	if err != nil {
		return nil, err
	}
	doc := editor{text: data}
	entry, err := jsonMember(data, "runtimes", name)
	if err != nil {
		return nil, err
	}
	switch {
	case entry.Kind() == rawjson.Absent:
	case was.Runtime != "":
		var old any
		d := json.NewDecoder(strings.NewReader(was.Runtime))
		d.UseNumber()
		if err := d.Decode(&old); err != nil {
			return nil, fmt.Errorf("restoring the previous runtime %s: %w", name, err)
		}
		doc.text = splice(doc.text, entry.Start(), entry.End(), was.Runtime)
		want["runtimes"].(map[string]any)[name] = old
	default:
		if err := doc.drop("runtimes", name); err != nil {
			return nil, err
		}
		left, err := jsonMember(doc.text, "runtimes")
		if err != nil {
			return nil, err
		}
		runtimes, _ := want["runtimes"].(map[string]any)
		delete(runtimes, name)
		// Keep a file that was "{}" before.
		if len(runtimes) == 0 && string(left.Raw()) != "{}" {
			if err := doc.drop("runtimes"); err != nil {
				return nil, err
			}
			delete(want, "runtimes")
		}
	}
	def, err := jsonMember(doc.text, "default-runtime")
	if err != nil {
		return nil, err
	}
	switch {
	case def.Kind() != rawjson.String || def.Text() != name:
	case was.Default != "":
		if err := doc.replace([]string{"default-runtime"}, was.Default); err != nil {
			return nil, err
		}
		want["default-runtime"] = was.Default
	default:
		if err := doc.drop("default-runtime"); err != nil {
			return nil, err
		}
		delete(want, "default-runtime")
	}
	if err := verifyDaemon(doc.text, want); err != nil {
		return nil, err
	}
	if bytes.HasPrefix(data, []byte("{\n"+ownIndent+"\"")) && head == "" {
		switch string(doc.text) {
		case emptyDaemon + "\n":
			return nil, nil
		case emptyDaemon:
			return []byte{}, nil
		}
	}
	return append([]byte(head), doc.text...), nil
}

// jsonMember finds a value by its path of keys; the zero Value if there is none. Keys that dockerd
// might read differently, duplicates and other cases, are errors.
func jsonMember(data []byte, keys ...string) (rawjson.Value, error) {
	v, err := rawjson.Parse(data)
	if err != nil {
		return rawjson.Value{}, err
	}
	for i, k := range keys {
		if i > 0 && v.Kind() == rawjson.Absent {
			return v, nil
		}
		if err := v.Want(rawjson.Object); err != nil {
			return rawjson.Value{}, err
		}
		if i == 0 {
			err = v.Fields([]string{k}, &v)
		} else {
			// Names of runtimes, unlike dockerd's keys, are case-sensitive.
			v, err = exactMember(v, k)
		}
		if err != nil {
			return rawjson.Value{}, err
		}
	}
	return v, nil
}

func exactMember(v rawjson.Value, key string) (rawjson.Value, error) {
	var found rawjson.Value
	for m := range v.Members() {
		if m.Key.Text() != key {
			continue
		}
		if found.Kind() != rawjson.Absent {
			return rawjson.Value{}, m.Key.Errorf("duplicate key %s", quote(key))
		}
		found = m.Value
	}
	return found, nil
}

func daemonTree(data []byte) (map[string]any, error) {
	v, err := rawjson.Parse(data)
	if err != nil {
		return nil, err
	}
	if err := v.Want(rawjson.Object); err != nil {
		return nil, err
	}
	var tree map[string]any
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err := d.Decode(&tree); err != nil {
		return nil, err
	}
	return tree, nil
}

// verifyDaemon compares a new text with the intended result.
func verifyDaemon(data []byte, want map[string]any) error {
	got, err := daemonTree(data)
	if err != nil {
		return fmt.Errorf("not edited: the result would be invalid: %w", err)
	}
	if !reflect.DeepEqual(got, want) {
		return errors.New("not edited: other keys would change")
	}
	return nil
}

// pair is a member to add: its value is a string or a list of members.
type pair struct {
	key   string
	value any
}

// editor edits JSON text in the style that it finds.
type editor struct {
	text []byte
	unit string // of indentation; "": the file's
}

// add appends a member to the object at keys, on its own lines if the object has line feeds.
func (e *editor) add(keys []string, p pair) error {
	obj, err := jsonMember(e.text, keys...)
	if err != nil {
		return err
	}
	if err := obj.Want(rawjson.Object); err != nil {
		return err
	}
	nl := "\n"
	if bytes.Contains(e.text, []byte("\r\n")) {
		nl = "\r\n"
	}
	unit := e.unit
	if unit == "" {
		unit = e.indentUnit()
	}
	var last *rawjson.Member
	before := obj.Start() + 1 // start of the blanks before the last key
	for m := range obj.Members() {
		if last != nil {
			comma := last.Value.End() + bytes.IndexByte(e.text[last.Value.End():], ',')
			before = comma + 1
		}
		last = &m
	}
	if last == nil {
		inner := string(e.text[obj.Start()+1 : obj.End()-1])
		i := strings.LastIndexByte(inner, '\n')
		if i < 0 {
			e.text = splice(e.text, obj.Start()+1, obj.Start()+1, p.render("", "", ""))
			return nil
		}
		indent := inner[i+1:] + unit
		e.text = splice(e.text, obj.Start()+1, obj.Start()+1, nl+indent+p.render(nl, indent, unit))
		return nil
	}
	lead := string(e.text[before:last.Key.Start()])
	at := last.Value.End()
	if i := strings.LastIndexByte(lead, '\n'); i >= 0 {
		indent := lead[i+1:]
		e.text = splice(e.text, at, at, ","+nl+indent+p.render(nl, indent, unit))
		return nil
	}
	e.text = splice(e.text, at, at, ", "+p.render("", "", ""))
	return nil
}

// indentUnit returns the indentation of the file's first member, by default four blanks.
func (e *editor) indentUnit() string {
	if v, err := rawjson.Parse(e.text); err == nil {
		for m := range v.Members() {
			lead := string(e.text[v.Start()+1 : m.Key.Start()])
			if i := strings.LastIndexByte(lead, '\n'); i >= 0 && lead[i+1:] != "" {
				return lead[i+1:]
			}
			break
		}
	}
	return "    "
}

// render formats the member, on one line if nl is "".
func (p pair) render(nl, indent, unit string) string {
	head := jsonString(p.key) + ": "
	members, ok := p.value.([]pair)
	if !ok {
		s, _ := p.value.(string)
		return head + jsonString(s)
	}
	var b strings.Builder
	b.WriteString(head + "{")
	for i, m := range members {
		if i > 0 {
			b.WriteByte(',')
		}
		if nl == "" {
			// The blank distinguishes an object that we created from one that was {} before.
			b.WriteString(" " + m.render("", "", ""))
		} else {
			b.WriteString(nl + indent + unit + m.render(nl, indent+unit, unit))
		}
	}
	if nl == "" {
		b.WriteString(" }")
	} else {
		b.WriteString(nl + indent + "}")
	}
	return b.String()
}

// replace replaces an existing value by a string.
func (e *editor) replace(keys []string, value string) error {
	v, err := jsonMember(e.text, keys...)
	if err != nil {
		return err
	}
	e.text = splice(e.text, v.Start(), v.End(), jsonString(value))
	return nil
}

// drop removes an existing member and a comma.
func (e *editor) drop(keys ...string) error {
	obj, err := jsonMember(e.text, keys[:len(keys)-1]...)
	if err != nil {
		return err
	}
	start, end := obj.Start()+1, 0
	for m := range obj.Members() {
		if end > 0 {
			if start == obj.Start()+1 { // first member: remove the comma and blanks after it
				start += len(e.text[start:]) - len(bytes.TrimLeft(e.text[start:], " \t\r\n"))
				end = m.Key.Start()
			}
			break
		}
		if m.Key.Text() == keys[len(keys)-1] {
			end = m.Value.End()
			continue
		}
		start = m.Value.End()
	}
	e.text = splice(e.text, start, end, "")
	return nil
}

func jsonString(s string) string {
	var b bytes.Buffer
	enc := json.NewEncoder(&b)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(s); err != nil {
		panic(err) // strings are always encoded
	}
	return strings.TrimSuffix(b.String(), "\n")
}
