// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package rawjson reads JSON as ranges of bytes, so that a document can be edited in a few places
// while everything else stays as it was written: order, blanks, number spellings, unknown fields.
//
// [Parse] checks the whole text once, and remembers where each array and object of some length
// ends; after that a [Value] is no more than a range of the text, looking into objects and arrays
// neither copies nor allocates, and what is not looked into is not read again. [Splices] collects
// replacements and makes the new text in one go.
//
// The accepted language is exactly that of encoding/json's Valid, except that values nested deeper
// than [MaxDepth] are refused. A byte order mark is refused by both, here with words that say so.
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

// Error is a text that is not JSON, or a value that is not what the caller needs.
type Error struct {
	Offset int    // in bytes, from 0
	Line   int    // from 1
	Column int    // in bytes, from 1
	Reason string // lower case, without position
}

func (e *Error) Error() string {
	return fmt.Sprintf("line %d, column %d (byte %d): %s", e.Line, e.Column, e.Offset, e.Reason)
}

// Value is one value of a text that [Parse] accepted. The zero Value stands for "not there". It
// stays valid as long as nobody changes the bytes. Values of one text are not safe for concurrent
// use.
type Value struct {
	source     *source
	start, end int
}

// source is a text that was checked.
type source struct {
	text  []byte
	copy  string // of text, made when the first string is asked for: all share it
	spans []span // of long arrays and objects, by start
}

// span is the range of an array or object.
type span struct{ start, end int32 }

// text is the text that v is in; nil for the zero Value.
func (v Value) text() []byte {
	if v.source == nil {
		return nil
	}
	return v.source.text
}

// Member is one key and its value, in an object.
type Member struct {
	Key   Value // a string
	Value Value
}

// Parse checks that data is one JSON value with nothing but blanks around it, and returns that
// value. The error, if any, is an [*Error].
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

// Kind tells what v is.
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

// Present tells whether v is there and not null. Go's decoder and libocispec's (crun) both treat
// a null as a field that is not there.
func (v Value) Present() bool {
	k := v.Kind()
	return k != Absent && k != Null
}

// Raw returns the bytes of v, which belong to the text.
func (v Value) Raw() []byte {
	return v.text()[v.start:v.end:v.end]
}

// Start is the offset of the first byte of v in the text.
func (v Value) Start() int {
	return v.start
}

// End is the offset after the last byte of v in the text.
func (v Value) End() int {
	return v.end
}

// Errorf makes an [*Error] at the place of v.
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

// Text returns the string that v, a [String], stands for. Bytes that are not UTF-8 and lone
// surrogates become U+FFFD, as in encoding/json. For other kinds it returns "".
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

// Decode stores v in the value that into points to, as encoding/json does.
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

// first is the offset of the first member or element of v, -1 if it has none or is not of the kind.
func (v Value) first(k Kind) int {
	if v.Kind() != k {
		return -1
	}
	if i := blanks(v.text(), v.start+1); i < v.end-1 {
		return i
	}
	return -1
}

// next is the offset of the member or element behind one that ends at i, -1 if that was the last.
func (v Value) next(i int) int {
	if i = blanks(v.text(), i); v.text()[i] == ',' {
		return blanks(v.text(), i+1)
	}
	return -1
}

// member is the member at an offset, and the offset of the next one.
func (v Value) member(i int) (Member, int) {
	text := v.source.text
	key := Value{v.source, i, skipString(text, i)}
	start := blanks(text, blanks(text, key.end)+1)
	value := Value{v.source, start, v.source.skip(start)}
	return Member{key, value}, v.next(value.end)
}

// Fields stores the values of the named members of the object v into the pointers of the same
// places; those that v lacks become the zero Value. Other members are not looked at.
//
// Two readers of one file must not understand it differently: Go's decoder (runc) takes the last of
// equal keys and does not mind upper and lower case, a C reader (crun) takes the first, minds case,
// and ends a key at U+0000. So a named member that is there twice, or is spelled in another case,
// or continues after a U+0000, is an error.
func (v Value) Fields(names []string, into ...*Value) error {
	if err := v.Want(Object); err != nil {
		return err
	}
	for i := range into {
		*into[i] = Value{}
	}
	// No range over Members here: a closure would move what into points to onto the heap. So would
	// a name in an error, but for its being cloned.
	for at := v.first(Object); at >= 0; {
		var m Member
		m, at = v.member(at)
		i, exact := match(m.Key, names)
		if i < 0 {
			continue
		}
		if !exact {
			return m.Key.Errorf("the key %s is a second spelling of %q: runtimes differ in what they make of it", shortened(m.Key), strings.Clone(names[i]))
		}
		if into[i].Kind() != Absent {
			return m.Key.Errorf("the key %q is here a second time: runtimes differ in which one counts", strings.Clone(names[i]))
		}
		*into[i] = m.Value
	}
	return nil
}

// match finds key among names, by the rules of Fields; -1 for none.
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

// shortened is the key as a message may show it.
func shortened(key Value) string {
	text := key.Text()
	if len(text) > 100 {
		text = text[:100] + "…"
	}
	return fmt.Sprintf("%q", text)
}

// newError finds line and column of an offset.
func newError(text []byte, offset int, reason string) *Error {
	before := text[:min(offset, len(text))]
	return &Error{
		Offset: offset,
		Line:   bytes.Count(before, []byte("\n")) + 1,
		Column: offset - bytes.LastIndexByte(before, '\n'),
		Reason: reason,
	}
}
