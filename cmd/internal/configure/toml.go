// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2"
	"github.com/pelletier/go-toml/v2/unstable"
)

// A TOML file is edited as text: go-toml locates its keys and tables, and everything else stays
// byte for byte. Settings without an existing table are appended as one block:
//
//	# BEGIN nvsysfs configure nvidia-experimental
//	[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.nvidia-experimental]
//	runtime_type = "io.containerd.runc.v2"
//	# END nvsysfs configure nvidia-experimental
//
// A key in an existing table is marked, with its previous value if any:
//
//	default_runtime_name = "nvidia-experimental" # nvsysfs: was "runc"
//
// The new text is parsed and compared with the intended result: no other key may change.
const (
	beginMark = "# BEGIN nvsysfs configure "
	endMark   = "# END nvsysfs configure "
	wasMark   = " # nvsysfs: was "
	addedMark = " # nvsysfs: added"
	madeMark  = "# Made by nvsysfs configure, which removes it with --remove.\n"
)

// setting is a key of a table and its new value: a string, bool, int64, float64 or a list ([]any)
// of these.
type setting struct {
	table []string
	key   string
	value any
}

func (s setting) path() []string {
	return append(slices.Clone(s.table), s.key)
}

// expression is a table header, or a key and its value, in the text.
type expression struct {
	path   []string // a key's includes that of its table
	table  []string // of a key
	header bool
	many   bool // header of an array of tables

	start, end int // including indentation, comment and line feed
	value      [2]int
	kind       unstable.Kind
}

// document is a parsed TOML text.
type document struct {
	text  []byte
	list  []expression
	tree  map[string]any
	crlf  bool
	block [2]int // our block, from BEGIN to the end of END; empty if none
}

// parse parses a TOML text and finds the block of a runtime.
func parse(text []byte, name string) (document, error) {
	d := document{text: text, crlf: bytes.Contains(text, []byte("\r\n"))}
	if err := toml.Unmarshal(text, &d.tree); err != nil {
		if at := new(toml.DecodeError); errors.As(err, &at) {
			row, column := at.Position()
			return document{}, fmt.Errorf("line %d, column %d: %w", row, column, err)
		}
		return document{}, err
	}
	if d.tree == nil {
		d.tree = map[string]any{}
	}
	var p unstable.Parser
	p.Reset(text)
	var table []string
	for p.NextExpression() {
		n := p.Expression()
		var e expression
		var first, last unstable.Range
		for it := n.Key(); it.Next(); {
			if e.path == nil {
				first = it.Node().Raw
			}
			last = it.Node().Raw
			e.path = append(e.path, string(it.Node().Data))
		}
		from, to := int(first.Offset), int(last.Offset+last.Length)
		switch n.Kind {
		case unstable.Table, unstable.ArrayTable:
			e.header, e.many = true, n.Kind == unstable.ArrayTable
			table = e.path
		case unstable.KeyValue:
			e.path = append(slices.Clone(table), e.path...)
			e.table = table
			e.kind = n.Value().Kind
			equals := to + bytes.IndexByte(text[to:], '=')
			e.value[0] = equals + 1 + len(text[equals+1:]) - len(bytes.TrimLeft(text[equals+1:], " \t"))
			to = int(n.Raw.Offset + n.Raw.Length)
			to -= len(text[e.value[0]:to]) - len(bytes.TrimRight(text[e.value[0]:to], " \t"))
			e.value[1] = to
		default:
			continue
		}
		e.start = bytes.LastIndexByte(text[:from], '\n') + 1
		e.end = lineEnd(text, to)
		d.list = append(d.list, e)
	}
	if err := p.Error(); err != nil {
		return document{}, err
	}
	begin := lineOf(text, beginMark+name)
	end := lineOf(text, endMark+name)
	if begin >= 0 && end > begin {
		d.block = [2]int{begin, lineEnd(text, end)}
	}
	return d, nil
}

// lineEnd returns the offset after the line feed of the line at i.
func lineEnd(text []byte, i int) int {
	if n := bytes.IndexByte(text[i:], '\n'); n >= 0 {
		return i + n + 1
	}
	return len(text)
}

// lineOf finds the first line equal to want, ignoring trailing blanks; -1 if none.
func lineOf(text []byte, want string) int {
	for i := 0; i < len(text); {
		end := lineEnd(text, i)
		if string(bytes.TrimRight(text[i:end], " \t\r\n")) == want {
			return i
		}
		i = end
	}
	return -1
}

func (d document) lineNumber(at int) int {
	return bytes.Count(d.text[:at], []byte("\n")) + 1
}

// newline returns the file's line ending.
func (d document) newline() string {
	if d.crlf {
		return "\r\n"
	}
	return "\n"
}

func (d document) inBlock(e expression) bool {
	return d.block[0] <= e.start && e.end <= d.block[1]
}

// at returns the value at a path of keys.
func at(tree map[string]any, path ...string) (any, bool) {
	var v any = tree
	for _, key := range path {
		m, ok := v.(map[string]any)
		if !ok {
			return nil, false
		}
		if v, ok = m[key]; !ok {
			return nil, false
		}
	}
	return v, true
}

// text returns the string at a path of keys, "" for anything else.
func text(tree map[string]any, path ...string) string {
	v, _ := at(tree, path...)
	s, _ := v.(string)
	return s
}

// table returns the table at a path of keys, nil for anything else.
func table(tree map[string]any, path ...string) map[string]any {
	v, _ := at(tree, path...)
	m, _ := v.(map[string]any)
	return m
}

// below tells whether a path is at or below an entry, which may be nil.
func below(path, entry []string) bool { return len(entry) > 0 && hasPrefix(path, entry) }

func hasPrefix(path, prefix []string) bool {
	return len(path) >= len(prefix) && slices.Equal(path[:len(prefix)], prefix)
}

// setKeys applies the settings to a TOML text. entry is the path of an entry that is entirely ours:
// replaced values below it are not recorded.
func setKeys(data []byte, name string, entry []string, settings []setting) ([]byte, error) {
	want, err := parse(data, name)
	if err != nil {
		return nil, err
	}
	out := data
	var rest []setting
	for _, s := range settings {
		if err := want.obstacle(s, entry); err != nil {
			return nil, err
		}
	}
	for _, s := range settings {
		if err := put(want.tree, s); err != nil {
			return nil, err
		}
		next, done, err := setInPlace(out, name, s, !below(s.path(), entry))
		if err != nil {
			return nil, err
		}
		if !done {
			rest = append(rest, s)
			continue
		}
		out = next
	}
	if out, err = appendBlock(out, name, rest); err != nil {
		return nil, err
	}
	return out, verify(out, name, want.tree)
}

// obstacle returns why a setting cannot be edited into the text.
func (d document) obstacle(s setting, entry []string) error {
	if old, ok := at(d.tree, s.path()...); ok && reflect.DeepEqual(old, s.value) {
		return nil
	}
	for _, e := range d.list {
		line := d.lineNumber(e.start)
		switch {
		case !hasPrefix(s.path(), e.path):
		case e.many:
			return fmt.Errorf("line %d: [[%s]] is an array of tables where a table is expected", line, dotted(e.path))
		case e.header:
		case len(e.path) < len(s.path()) && e.kind == unstable.InlineTable:
			return fmt.Errorf("line %d: inline table %s cannot be edited: write it as [%[2]s] and try again",
				line, dotted(e.path))
		case len(e.path) < len(s.path()):
			return fmt.Errorf("line %d: %s is not a table", line, dotted(e.path))
		case !below(s.path(), entry) && bytes.ContainsAny(d.text[e.value[0]:e.value[1]], "\r\n"):
			return fmt.Errorf("line %d: multi-line value of %s: write it on one line and try again",
				line, dotted(e.path))
		}
	}
	return nil
}

// setInPlace changes an existing key, or adds it to an existing table; otherwise it does nothing.
func setInPlace(data []byte, name string, s setting, remember bool) (out []byte, done bool, err error) {
	d, err := parse(data, name)
	if err != nil {
		return nil, false, err
	}
	if old, ok := at(d.tree, s.path()...); ok && reflect.DeepEqual(old, s.value) {
		return data, true, nil
	}
	literal, err := encode(s.value)
	if err != nil {
		return nil, false, err
	}
	var home *expression
	for i, e := range d.list {
		switch {
		case e.header && slices.Equal(e.path, s.table):
			home = &d.list[i]
		case !e.header && slices.Equal(e.path, s.path()):
			rest, note := data[e.value[1]:e.end], ""
			marked := bytes.HasPrefix(rest, []byte(wasMark)) || bytes.HasPrefix(rest, []byte(addedMark))
			if remember && !d.inBlock(e) && !marked {
				note = wasMark + string(data[e.value[0]:e.value[1]])
				if bytes.HasPrefix(bytes.TrimLeft(rest, " \t"), []byte("#")) {
					note += " ;"
				}
			}
			return splice(data, e.value[0], e.value[1], literal+note), true, nil
		}
	}
	if home == nil {
		return data, false, nil
	}
	indent := indentation(data, home.start)
	for _, e := range d.list {
		if !e.header && slices.Equal(e.table, home.path) && e.start > home.start {
			indent = indentation(data, e.start)
			break
		}
	}
	added := indent + key(s.key) + " = " + literal
	if remember && !d.inBlock(*home) {
		added += addedMark
	}
	if data[home.end-1] != '\n' {
		return splice(data, home.end, home.end, d.newline()+added), true, nil
	}
	return splice(data, home.end, home.end, added+d.newline()), true, nil
}

func indentation(data []byte, start int) string {
	rest := data[start:]
	return string(rest[:len(rest)-len(bytes.TrimLeft(rest, " \t"))])
}

// appendBlock appends tables with settings to our block, or adds a block at the end of the file.
func appendBlock(data []byte, name string, settings []setting) ([]byte, error) {
	if len(settings) == 0 {
		return data, nil
	}
	d, err := parse(data, name)
	if err != nil {
		return nil, err
	}
	var body strings.Builder
	for i, s := range settings {
		if len(s.table) > 0 && (i == 0 || !slices.Equal(s.table, settings[i-1].table)) {
			if i > 0 {
				body.WriteByte('\n')
			}
			fmt.Fprintf(&body, "[%s]\n", dotted(s.table))
		}
		literal, err := encode(s.value)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&body, "%s = %s\n", key(s.key), literal)
	}
	where := len(data)
	added := "\n" + beginMark + name + "\n" + body.String() + endMark + name + "\n"
	if d.block[1] > 0 {
		where = lineOf(data, endMark+name)
		added = "\n" + body.String()
	}
	if len(data) == 0 {
		added = added[1:]
	}
	return splice(data, where, where, strings.ReplaceAll(added, "\n", d.newline())), nil
}

// unsetKeys undoes setKeys: it removes everything below entry, and settings that have the given
// value, are in our block or are marked. what describes other effects.
func unsetKeys(data []byte, name string, entry []string, settings []setting) (out []byte, what []string, err error) {
	d, err := parse(data, name)
	if err != nil {
		return nil, nil, err
	}
	want := d.tree
	there := false
	if len(entry) > 0 {
		_, there = at(want, entry...)
		drop(want, entry)
	}
	ours := func(e expression) bool {
		if below(e.path, entry) || e.header && hasPrefix(entry, e.path) {
			return true
		}
		for _, s := range settings {
			if !e.header && slices.Equal(e.path, s.path()) {
				rest := data[e.value[1]:]
				return s.value != nil && holds(data[e.value[0]:e.value[1]], s.value) ||
					d.inBlock(e) || bytes.HasPrefix(rest, []byte(wasMark)) || bytes.HasPrefix(rest, []byte(addedMark))
			}
			// A header that exists only for such a key.
			if e.header && hasPrefix(s.path(), e.path) {
				return true
			}
		}
		return false
	}
	type cutting struct {
		start, end int
		with       string
	}
	var cuts []cutting
	cut := func(start, end int, with string) { cuts = append(cuts, cutting{start, end, with}) }

	whole := d.block[1] > 0
	for _, e := range d.list {
		whole = whole && (!d.inBlock(e) || ours(e))
	}
	switch {
	case whole:
		for _, e := range d.list {
			if d.inBlock(e) && !e.header {
				drop(want, e.path)
			}
		}
		start := d.block[0]
		if before := data[:start]; bytes.HasSuffix(before, []byte("\r\n")) {
			start -= 2
		} else if bytes.HasSuffix(before, []byte("\n")) {
			start--
		}
		data = splice(data, start, d.block[1], "")
		if d, err = parse(data, name); err != nil {
			return nil, nil, fmt.Errorf("removing the block of %s: %w", name, err)
		}
	case d.block[1] > 0:
		what = append(what, fmt.Sprintf("kept other keys in the block of %s", name))
		cut(d.block[0], lineEnd(data, d.block[0]), "")
		end := lineOf(data, endMark+name)
		cut(end, lineEnd(data, end), "")
	}
	for _, e := range d.list {
		if !e.header && len(e.path) < len(entry) && hasPrefix(entry, e.path) && e.kind == unstable.InlineTable {
			if there {
				return nil, nil, fmt.Errorf("line %d: inline table %s cannot be edited: remove %s from it by hand",
					d.lineNumber(e.start), dotted(e.path), name)
			}
		}
		if below(e.path, entry) {
			cut(e.start, e.end, "")
			continue
		}
		if e.header || !ours(e) {
			continue
		}
		rest := string(data[e.value[1]:e.end])
		switch was, ok := strings.CutPrefix(rest, wasMark); {
		case ok:
			was, length, old, ok := remembered(strings.TrimRight(was, "\r\n"))
			if !ok {
				return nil, nil, fmt.Errorf("line %d: the recorded previous value of %s is invalid: "+
					"fix the line by hand", d.lineNumber(e.start), dotted(e.path))
			}
			cut(e.value[0], e.value[1]+len(wasMark)+length, was)
			if err := put(want, setting{e.path[:len(e.path)-1], e.path[len(e.path)-1], old}); err != nil {
				return nil, nil, err
			}
		default:
			start := e.start
			if data[e.end-1] != '\n' && start > 0 { // end of file: the preceding line feed was ours
				start = len(bytes.TrimSuffix(bytes.TrimSuffix(data[:start], []byte("\n")), []byte("\r")))
			}
			cut(start, e.end, "")
			drop(want, e.path)
			if !strings.HasPrefix(rest, addedMark) {
				what = append(what, fmt.Sprintf("removed %s: the engine's default applies again", dotted(e.path)))
			}
		}
	}
	slices.SortStableFunc(cuts, func(a, b cutting) int { return b.start - a.start })
	out = data
	for _, c := range cuts {
		out = splice(out, c.start, c.end, c.with)
	}
	return out, what, verify(out, name, want)
}

// remembered parses the value at the start of a mark, which ends at the end of the line, or at " ;"
// if the line had a comment.
func remembered(note string) (literal string, length int, value any, ok bool) {
	for i := 0; i <= len(note); i++ {
		if i < len(note) && !strings.HasPrefix(note[i:], " ;") {
			continue
		}
		var m map[string]any
		if err := toml.Unmarshal([]byte("v = "+note[:i]), &m); err == nil && len(m) == 1 {
			return note[:i], min(i+len(" ;"), len(note)), m["v"], true
		}
	}
	return "", 0, nil, false
}

// holds tells whether a TOML literal has the given value.
func holds(literal []byte, value any) bool {
	var m map[string]any
	err := toml.Unmarshal(append([]byte("v = "), literal...), &m)
	return err == nil && reflect.DeepEqual(m["v"], value)
}

// verify parses a new text and compares it with the intended result, ignoring empty tables.
func verify(data []byte, name string, want map[string]any) error {
	got, err := parse(data, name)
	if err != nil {
		return fmt.Errorf("not edited: the result would be invalid: %w", err)
	}
	prune(got.tree)
	prune(want)
	if !reflect.DeepEqual(got.tree, want) {
		return errors.New("not edited: other keys would change, as the file's tables are in an unsupported form")
	}
	return nil
}

func prune(tree map[string]any) {
	for k, v := range tree {
		if m, ok := v.(map[string]any); ok {
			if prune(m); len(m) == 0 {
				delete(tree, k)
			}
		}
	}
}

// put sets a value in a tree.
func put(tree map[string]any, s setting) error {
	for i, k := range s.table {
		next, ok := tree[k].(map[string]any)
		if !ok {
			if _, there := tree[k]; there {
				return fmt.Errorf("%s is not a table", dotted(s.table[:i+1]))
			}
			next = map[string]any{}
			tree[k] = next
		}
		tree = next
	}
	if m, ok := tree[s.key].(map[string]any); ok && len(m) > 0 {
		return fmt.Errorf("%s is a table", dotted(s.path()))
	}
	tree[s.key] = s.value
	return nil
}

// drop removes a path from a tree.
func drop(tree map[string]any, path []string) {
	if m := table(tree, path[:len(path)-1]...); m != nil {
		delete(m, path[len(path)-1])
	}
}

func splice(data []byte, start, end int, with string) []byte {
	return slices.Concat(data[:start], []byte(with), data[end:])
}

// dotted formats a path of keys as TOML.
func dotted(path []string) string {
	keys := make([]string, len(path))
	for i, k := range path {
		keys[i] = key(k)
	}
	return strings.Join(keys, ".")
}

// key formats a key as TOML, bare if possible.
func key(k string) string {
	if k == "" || !only(k, lower+upper+digits+"-_") {
		return literalString(k)
	}
	return k
}

// literalString formats a basic string of TOML, in the subset that all versions of TOML share.
func literalString(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < ' ' || r == 0x7f:
			fmt.Fprintf(&b, `\u%04X`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// encode formats a value as TOML.
func encode(v any) (string, error) {
	switch v := v.(type) {
	case string:
		return literalString(v), nil
	case bool:
		return strconv.FormatBool(v), nil
	case int64:
		return strconv.FormatInt(v, 10), nil
	case float64:
		if math.IsInf(v, 0) || math.IsNaN(v) {
			return "", fmt.Errorf("cannot copy the number %v", v)
		}
		s := strconv.FormatFloat(v, 'f', -1, 64)
		if !strings.Contains(s, ".") {
			s += ".0"
		}
		return s, nil
	case []any:
		items := make([]string, len(v))
		for i, item := range v {
			s, err := encode(item)
			if err != nil {
				return "", err
			}
			items[i] = s
		}
		return "[" + strings.Join(items, ", ") + "]", nil
	}
	return "", fmt.Errorf("cannot copy a value of type %T", v)
}

// copied returns the plain keys of a table as settings, sorted, except those named.
func copied(from map[string]any, to []string, without ...string) []setting {
	var out []setting
	for _, k := range slices.Sorted(maps.Keys(from)) {
		if slices.Contains(without, k) {
			continue
		}
		if _, err := encode(from[k]); err == nil {
			out = append(out, setting{to, k, from[k]})
		}
	}
	return out
}
