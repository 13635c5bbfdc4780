// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rawjson

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
)

// Splices is a list of changes to one text, each of which replaces a range with new bytes. The zero
// value is empty. Changes must not overlap; changes at the same place are applied in the order in
// which they were added.
type Splices struct {
	list []splice
}

type splice struct {
	start, end int
	insert     []byte
}

// Empty reports whether there is nothing to change.
func (s *Splices) Empty() bool {
	return len(s.list) == 0
}

// Replace replaces v with text.
func (s *Splices) Replace(v Value, text []byte) {
	s.list = append(s.list, splice{v.start, v.end, text})
}

// AddMember appends a member to the object v, which has no member of that name.
func (s *Splices) AddMember(v Value, name string, text []byte) {
	key, err := json.Marshal(name)
	if err != nil {
		panic(err) // strings always encode
	}
	last := v.start + 1
	separator := ""
	for m := range v.Members() {
		last, separator = m.Value.end, ","
	}
	insert := make([]byte, 0, len(separator)+len(key)+1+len(text))
	insert = append(insert, separator...)
	insert = append(insert, key...)
	insert = append(insert, ':')
	insert = append(insert, text...)
	// A member already added to an empty object comes before this one.
	if separator == "" && slices.ContainsFunc(s.list, func(o splice) bool { return o.start == last && o.end == last }) {
		insert = append([]byte(","), insert...)
	}
	s.list = append(s.list, splice{last, last, insert})
}

// EditArray edits the array v: change is called for each element in order and says what becomes of
// it; added elements are appended.
func (s *Splices) EditArray(v Value, change func(i int, element Value) Change, added [][]byte) {
	var (
		i     int
		kept  = -1 // end of the last element kept
		start = -1 // where the run of dropped elements begins
		last  = v.start + 1
	)
	for e := range v.Elements() {
		c := change(i, e)
		i++
		if c.Drop {
			if start < 0 {
				start = e.start
				if kept >= 0 {
					start = kept
				}
			}
			last = e.end
			continue
		}
		if start >= 0 {
			// The run before this element is removed with the comma before it or, at the start of
			// the array, with the blanks up to this element.
			end := last
			if kept < 0 {
				end = e.start
			}
			s.list = append(s.list, splice{start, end, nil})
			start = -1
		}
		if c.Replace != nil {
			s.list = append(s.list, splice{e.start, e.end, c.Replace})
		}
		kept, last = e.end, e.end
	}
	insert := bytes.Join(added, []byte(","))
	if kept >= 0 && len(added) > 0 {
		insert = append([]byte(","), insert...)
	}
	switch {
	case start >= 0:
		s.list = append(s.list, splice{start, last, insert})
	case len(added) > 0:
		s.list = append(s.list, splice{last, last, insert})
	}
}

// Change says what becomes of an array element. The zero Change keeps it.
type Change struct {
	Drop    bool
	Replace []byte // one value, or several separated by commas; nil keeps it
}

// Apply returns a copy of the text with all changes made.
func (s *Splices) Apply(text []byte) ([]byte, error) {
	return s.apply(text, 0, len(text))
}

// ApplyTo returns the bytes of v with all changes made; they must lie within v.
func (s *Splices) ApplyTo(v Value) ([]byte, error) {
	return s.apply(v.text(), v.start, v.end)
}

func (s *Splices) apply(text []byte, start, end int) ([]byte, error) {
	list := slices.Clone(s.list)
	slices.SortStableFunc(list, func(a, b splice) int {
		return cmp.Or(cmp.Compare(a.start, b.start), cmp.Compare(a.end, b.end))
	})
	size, at := end-start, start
	for _, p := range list {
		if p.start < at || p.end < p.start || p.end > end {
			return nil, fmt.Errorf("changing bytes %d to %d: overlaps another change or the end", p.start, p.end)
		}
		at = p.end
		size += len(p.insert) - (p.end - p.start)
	}
	out := make([]byte, 0, size)
	at = start
	for _, p := range list {
		out = append(out, text[at:p.start]...)
		out = append(out, p.insert...)
		at = p.end
	}
	return append(out, text[at:end]...), nil
}
