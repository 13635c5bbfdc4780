// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rawjson

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/bits"
	"slices"
)

// scanner checks a text against the grammar of RFC 8259. Its methods take the offset of a token and
// return the offset after it, or -1 after fail.
type scanner struct {
	text   []byte
	spans  []span
	at     int
	reason string
}

// shortSpan is the length up to which it is cheaper to read an array or object again than to record
// its end.
const shortSpan = 64

// remember records the end of an array or object. Its index in spans, place, was reserved when it
// began.
func (s *scanner) remember(place, end int) int {
	if end < 0 {
		return -1
	}
	if end-int(s.spans[place].start) <= shortSpan {
		s.spans = s.spans[:place] // also drops those inside it
		return end
	}
	s.spans[place].end = int32(end)
	return end
}

func (s *scanner) fail(at int, reason string) int {
	s.at, s.reason = at, reason
	return -1
}

func (s *scanner) failure() *Error {
	return newError(s.text, s.at, s.reason)
}

// unexpected fails at a byte or at the end of the text.
func (s *scanner) unexpected(at int, where string) int {
	if at >= len(s.text) {
		return s.fail(at, "the text ends "+where)
	}
	return s.fail(at, fmt.Sprintf("unexpected %q %s", s.text[at], where))
}

func (s *scanner) value(i, depth int) int {
	if i >= len(s.text) {
		return s.fail(i, "the text ends where a value is expected")
	}
	switch c := s.text[i]; c {
	case '{', '[':
		if depth == MaxDepth {
			return s.fail(i, fmt.Sprintf("values are nested deeper than %d", MaxDepth))
		}
		place := len(s.spans)
		s.spans = append(s.spans, span{start: int32(i)})
		if c == '{' {
			return s.remember(place, s.object(i, depth+1))
		}
		return s.remember(place, s.array(i, depth+1))
	case '"':
		return s.str(i)
	case 't':
		return s.word(i, "true")
	case 'f':
		return s.word(i, "false")
	case 'n':
		return s.word(i, "null")
	default:
		if c == '-' || digit(c) {
			return s.number(i)
		}
		return s.unexpected(i, "where a value is expected")
	}
}

func (s *scanner) object(i, depth int) int {
	i = blanks(s.text, i+1)
	if i < len(s.text) && s.text[i] == '}' {
		return i + 1
	}
	for {
		if i >= len(s.text) || s.text[i] != '"' {
			return s.unexpected(i, "where a key is expected")
		}
		if i = s.str(i); i < 0 {
			return -1
		}
		i = blanks(s.text, i)
		if i >= len(s.text) || s.text[i] != ':' {
			return s.unexpected(i, "after a key")
		}
		if i = s.value(blanks(s.text, i+1), depth); i < 0 {
			return -1
		}
		i = blanks(s.text, i)
		switch {
		case i < len(s.text) && s.text[i] == ',':
			i = blanks(s.text, i+1)
		case i < len(s.text) && s.text[i] == '}':
			return i + 1
		default:
			return s.unexpected(i, "in an object, after a value")
		}
	}
}

func (s *scanner) array(i, depth int) int {
	i = blanks(s.text, i+1)
	if i < len(s.text) && s.text[i] == ']' {
		return i + 1
	}
	for {
		if i = s.value(i, depth); i < 0 {
			return -1
		}
		i = blanks(s.text, i)
		switch {
		case i < len(s.text) && s.text[i] == ',':
			i = blanks(s.text, i+1)
		case i < len(s.text) && s.text[i] == ']':
			return i + 1
		default:
			return s.unexpected(i, "in an array, after a value")
		}
	}
}

func (s *scanner) str(start int) int {
	i := start + 1
	for {
		i = ordinary(s.text, i)
		if i >= len(s.text) {
			return s.fail(start, "the string that begins here does not end")
		}
		switch c := s.text[i]; {
		case c == '"':
			return i + 1
		case c < 0x20:
			return s.unexpected(i, "in a string")
		case i+1 >= len(s.text):
			return s.fail(start, "the string that begins here does not end")
		}
		switch s.text[i+1] {
		case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
			i += 2
		case 'u':
			for j := i + 2; j < i+6; j++ {
				if j >= len(s.text) || !hex(s.text[j]) {
					return s.unexpected(j, "in a \\u escape")
				}
			}
			i += 6
		default:
			return s.unexpected(i+1, "after a backslash")
		}
	}
}

func (s *scanner) word(i int, word string) int {
	if !bytes.HasPrefix(s.text[i:], []byte(word)) {
		return s.fail(i, fmt.Sprintf("neither a value nor %q", word))
	}
	return i + len(word)
}

// number checks -?(0|[1-9][0-9]*)(\.[0-9]+)?([eE][-+]?[0-9]+)?
func (s *scanner) number(i int) int {
	if s.text[i] == '-' {
		i++
	}
	switch {
	case i < len(s.text) && s.text[i] == '0':
		i++
	default:
		if i = s.digits(i); i < 0 {
			return -1
		}
	}
	if i < len(s.text) && s.text[i] == '.' {
		if i = s.digits(i + 1); i < 0 {
			return -1
		}
	}
	if i < len(s.text) && (s.text[i] == 'e' || s.text[i] == 'E') {
		i++
		if i < len(s.text) && (s.text[i] == '+' || s.text[i] == '-') {
			i++
		}
		return s.digits(i)
	}
	return i
}

// digits skips one or more decimal digits.
func (s *scanner) digits(i int) int {
	if i >= len(s.text) || !digit(s.text[i]) {
		return s.unexpected(i, "in a number")
	}
	for i < len(s.text) && digit(s.text[i]) {
		i++
	}
	return i
}

func digit(c byte) bool {
	return '0' <= c && c <= '9'
}

func hex(c byte) bool {
	return digit(c) || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}

// blanks returns the offset of the first byte at or after i that is not blank.
func blanks(text []byte, i int) int {
	for i < len(text) && (text[i] == ' ' || text[i] == '\n' || text[i] == '\t' || text[i] == '\r') {
		i++
	}
	return i
}

// ordinary returns the offset of the first byte at or after i that is special in a string: a quote,
// a backslash or a control character. It looks at eight bytes at a time: in (x-low)&^x the top bit
// of a byte is set if that byte of x is less than that of low. A borrow can set it wrongly, but
// only in bytes after (above) one where it is set rightly, so the lowest one is right.
func ordinary(text []byte, i int) int {
	const (
		ones = 0x0101010101010101
		tops = 0x8080808080808080
	)
	for ; i+8 <= len(text); i += 8 {
		x := binary.LittleEndian.Uint64(text[i:])
		quote, slash := x^(ones*'"'), x^(ones*'\\')
		if hits := ((x-ones*0x20)&^x | (quote-ones)&^quote | (slash-ones)&^slash) & tops; hits != 0 {
			return i + bits.TrailingZeros64(hits)/8
		}
	}
	for i < len(text) && text[i] >= 0x20 && text[i] != '"' && text[i] != '\\' {
		i++
	}
	return i
}

// skip returns the offset after the value at i.
func (s *source) skip(i int) int {
	text := s.text
	if c := text[i]; c == '{' || c == '[' {
		at, known := slices.BinarySearchFunc(s.spans, int32(i), func(s span, start int32) int {
			return int(s.start) - int(start)
		})
		if known {
			return int(s.spans[at].end)
		}
	}
	depth := 0
	for {
		switch text[i] {
		case '"':
			i = skipString(text, i)
		case '{', '[':
			depth++
			i++
		case '}', ']':
			depth--
			i++
		default:
			for i++; i < len(text) && !delimits(text[i]); i++ {
			}
		}
		if depth == 0 {
			return i
		}
		for i < len(text) && (text[i] <= ' ' || text[i] == ',' || text[i] == ':') {
			i++
		}
	}
}

func skipString(text []byte, i int) int {
	for i++; ; i += 2 {
		i = ordinary(text, i)
		if text[i] == '"' {
			return i + 1
		}
	}
}

// delimits reports whether c ends a number or a word.
func delimits(c byte) bool {
	return c <= ' ' || c == ',' || c == ']' || c == '}'
}
