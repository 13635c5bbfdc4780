// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package rawjson reads JSON as ranges of bytes, so that a document can be edited in a few places
// while everything else stays as written: order, blanks, number spellings, unknown fields.
//
// [Parse] checks the whole text once and records where the longer arrays and objects end. After
// that, a [Value] is just a range of the text: looking into arrays and objects neither copies nor
// allocates, and skips what is not looked into. [Splices] collects replacements and applies them in
// one go.
//
// The accepted language is exactly that of encoding/json's Valid, except that values nested deeper
// than [MaxDepth] are rejected. Both reject a byte order mark; the error here says so.
package rawjson

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"math"
	"strings"
	"unicode/utf8"
)

// MaxDepth is how deep arrays and objects may be nested.
const MaxDepth = 1000

// Kind is the type of a JSON value.
type Kind uint8

// The kinds. Absent is the kind of the zero [Value].
const (
	Absent Kind = iota
	Null
	Bool
	Number
	String
	Array
	Object
)

var kindNames = [...]string{"absent", "null", "a boolean", "a number", "a string", "an array", "an object"}

// String names the kind with its article, for messages: "an array".
func (k Kind) String() string {
	return kindNames[k]
}

// Error says why a text is not JSON, or a value is not what the caller needs.
type Error struct {
	Offset int    // in bytes, from 0
	Line   int    // from 1
	Column int    // in bytes, from 1
	Reason string // lower case, without position
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d (byte %d): %s", e.Line, e.Column, e.Offset, e.Reason)
}

// Value is a value in a text that [Parse] accepted. The zero Value means "absent". It stays valid
// as long as the bytes are unchanged. Values of one text are not safe for concurrent use.
type Value struct {
	source     *source
	start, end int
}

// source is a parsed text.
type source struct {
	text  []byte
	copy  string // of text, shared by all strings; made when the first one is needed
	spans []span // of long arrays and objects, by start
}

// span is the range of an array or object.
type span struct{ start, end int32 }

// text is the text that contains v; nil for the zero Value.
func (v Value) text() []byte {
	if v.source == nil {
		return nil
	}
	return v.source.text
}

// Member is a key of an object and its value.
type Member struct {
	Key   Value // a string
	Value Value
}

// Parse checks that data is one JSON value, surrounded by nothing but blanks, and returns it. The
// error, if any, is an [*Error].
func Parse(data []byte) (Value, error) {
	s := scanner{text: data}
	if len(data) > math.MaxInt32 {
		return Value{}, newError(nil, 0, "the text is longer than 2 GiB")
	}
	if bytes.HasPrefix(data, []byte("\xef\xbb\xbf")) {
		s.reason = "the text starts with a UTF-8 byte order mark, which JSON does not allow"
		return Value{}, s.failure()
	}
	start := blanks(data, 0)
	end := s.value(start, 0)
	if end < 0 {
		return Value{}, s.failure()
	}
	if i := blanks(data, end); i < len(data) {
		s.fail(i, fmt.Sprintf("unexpected %q after the end of the value", data[i]))
		return Value{}, s.failure()
	}
	return Value{&source{text: data, spans: s.spans}, start, end}, nil
}

// Kind returns the kind of v.
func (v Value) Kind() Kind {
	if v.start >= v.end {
		return Absent
	}
	switch v.source.text[v.start] {
	case '{':
		return Object
	case '[':
		return Array
	case '"':
		return String
	case 't', 'f':
		return Bool
	case 'n':
		return Null
	}
	return Number
}

// Present reports whether v is neither absent nor null. Go's decoder and libocispec's (crun) both
// treat null like a missing field.
func (v Value) Present() bool {
	k := v.Kind()
	return k != Absent && k != Null
}

// Raw returns the bytes of v, which belong to the text.
func (v Value) Raw() []byte {
	return v.text()[v.start:v.end:v.end]
}

// Start returns the offset of the first byte of v in the text.
func (v Value) Start() int {
	return v.start
}

// End returns the offset after the last byte of v in the text.
func (v Value) End() int {
	return v.end
}

// Errorf returns an [*Error] with the position of v.
func (v Value) Errorf(format string, args ...any) error {
	return newError(v.text(), v.start, fmt.Sprintf(format, args...))
}

// Want returns an error unless v is of kind k.
func (v Value) Want(k Kind) error {
	if got := v.Kind(); got != k {
		return v.Errorf("%v where %v is expected", got, k)
	}
	return nil
}

// Text returns the value of v, a [String]. Invalid UTF-8 and lone surrogates become U+FFFD, as in
// encoding/json. For other kinds it returns "".
func (v Value) Text() string {
	if v.Kind() != String {
		return ""
	}
	if v.source.copy == "" {
		v.source.copy = string(v.source.text)
	}
	inner := v.source.copy[v.start+1 : v.end-1]
	if strings.IndexByte(inner, '\\') < 0 && utf8.ValidString(inner) {
		return inner
	}
	var s string
	if err := json.Unmarshal(v.Raw(), &s); err != nil {
		return ""
	}
	return s
}

// Decode decodes v into the value that into points to, as encoding/json does.
func (v Value) Decode(into any) error {
	if err := json.Unmarshal(v.Raw(), into); err != nil {
		var wrong *json.UnmarshalTypeError
		if errors.As(err, &wrong) {
			return newError(v.text(), v.start, fmt.Sprintf("%s does not fit here", wrong.Value))
		}
		return newError(v.text(), v.start, err.Error())
	}
	return nil
}

// Members yields the members of v in order. For anything but an object there are none.
func (v Value) Members() iter.Seq[Member] {
	return func(yield func(Member) bool) {
		i := v.first(Object)
		for i >= 0 {
			var m Member
			if m, i = v.member(i); !yield(m) {
				return
			}
		}
	}
}

// Elements yields the elements of v in order. For anything but an array there are none.
func (v Value) Elements() iter.Seq[Value] {
	return func(yield func(Value) bool) {
		i := v.first(Array)
		for i >= 0 {
			e := Value{v.source, i, v.source.skip(i)}
			if i = v.next(e.end); !yield(e) {
				return
			}
		}
	}
}

// first returns the offset of the first member or element of v, -1 if it has none or is not of kind
// k.
func (v Value) first(k Kind) int {
	if v.Kind() != k {
		return -1
	}
	if i := blanks(v.text(), v.start+1); i < v.end-1 {
		return i
	}
	return -1
}

// next returns the offset of the member or element after the one that ends at i, -1 if that was the
// last.
func (v Value) next(i int) int {
	if i = blanks(v.text(), i); v.text()[i] == ',' {
		return blanks(v.text(), i+1)
	}
	return -1
}

// member returns the member at offset i, and the offset of the next one.
func (v Value) member(i int) (Member, int) {
	text := v.source.text
	key := Value{v.source, i, skipString(text, i)}
	start := blanks(text, blanks(text, key.end)+1)
	value := Value{v.source, start, v.source.skip(start)}
	return Member{key, value}, v.next(value.end)
}

// Fields stores the values of the named members of the object v in the pointers at the same
// indexes; a member that v lacks becomes the zero Value. Other members are ignored.
//
// Two readers of one file must not understand it differently: Go's decoder (runc) takes the last of
// equal keys and ignores case; a C reader (crun) takes the first, respects case, and ends a key at
// U+0000. So a named member that occurs twice, is spelled in another case, or continues after a
// U+0000 is an error.
func (v Value) Fields(names []string, into ...*Value) error {
	if err := v.Want(Object); err != nil {
		return err
	}
	for i := range into {
		*into[i] = Value{}
	}
	// No range over Members here: its closure would move what into points to onto the heap. So
	// would a name in an error that is not cloned.
	for at := v.first(Object); at >= 0; {
		var m Member
		m, at = v.member(at)
		i, exact := match(m.Key, names)
		if i < 0 {
			continue
		}
		if !exact {
			return m.Key.Errorf("the key %s is another spelling of %q: runtimes interpret it differently",
				shortened(m.Key), strings.Clone(names[i]))
		}
		if into[i].Kind() != Absent {
			return m.Key.Errorf("duplicate key %q: runtimes differ in which one counts", strings.Clone(names[i]))
		}
		*into[i] = m.Value
	}
	return nil
}

// match returns the index of key in names by the rules of Fields, -1 if absent.
func match(key Value, names []string) (index int, exact bool) {
	inner := key.text()[key.start+1 : key.end-1]
	plain := true
	for _, c := range inner {
		if c >= 0x80 || c == '\\' {
			plain = false
			break
		}
	}
	if plain {
		for i, name := range names {
			if len(name) == len(inner) && strings.EqualFold(name, string(inner)) {
				return i, name == string(inner)
			}
		}
		return -1, false
	}
	text := key.Text()
	short, _, _ := strings.Cut(text, "\x00")
	for i, name := range names {
		if strings.EqualFold(name, short) {
			return i, name == text
		}
	}
	return -1, false
}

// shortened quotes a key for a message.
func shortened(key Value) string {
	text := key.Text()
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return fmt.Sprintf("%q", text)
}

// newError computes line and column of an offset.
func newError(text []byte, offset int, reason string) *Error {
	before := text[:min(offset, len(text))]
	return &Error{
		Offset: offset,
		Line:   bytes.Count(before, []byte("\n")) + 1,
		Column: offset - bytes.LastIndexByte(before, '\n'),
		Reason: reason,
	}
}
