// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rawjson

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// texts are valid and invalid texts, for the table and as seeds.
var texts = []struct {
	in  string
	err string // "" for a good one
}{
	{`{}`, ""},
	{" [ ] \r\n\t", ""},
	{`{"a":1,"b":[true,false,null,"x",-0.5e+10],"c":{"d":{}}}`, ""},
	{`"\u0041\ud800\"\\\/\b\f\n\r\t"`, ""},
	{"\"\xff\xfe\x7f\"", ""},
	{`0`, ""},
	{`-0`, ""},
	{`1e5`, ""},
	{`123456789012345678901234567890.000000000000000000001E-999`, ""},
	{strings.Repeat("[", MaxDepth) + strings.Repeat("]", MaxDepth), ""},
	{`{"a":1,"a":2,"A":3}`, ""},

	{``, "line 1, column 1 (byte 0): the text ends where a value is expected"},
	{"\n\n ", "line 3, column 2 (byte 3): the text ends where a value is expected"},
	{"\xef\xbb\xbf{}", "line 1, column 1 (byte 0): the text starts with a UTF-8 byte order mark, which JSON does not allow"},
	{`{} {}`, "line 1, column 4 (byte 3): unexpected '{' after the end of the value"},
	{`{"a":1,}`, "line 1, column 8 (byte 7): unexpected '}' where a key is expected"},
	{`{"a" 1}`, "line 1, column 6 (byte 5): unexpected '1' after a key"},
	{`{"a":}`, "line 1, column 6 (byte 5): unexpected '}' where a value is expected"},
	{`{a:1}`, "line 1, column 2 (byte 1): unexpected 'a' where a key is expected"},
	{"{\n\t\"a\": 1\n\t\"b\": 2}", "line 3, column 2 (byte 11): unexpected '\"' in an object, after a value"},
	{`[1 2]`, "line 1, column 4 (byte 3): unexpected '2' in an array, after a value"},
	{`[1,]`, "line 1, column 4 (byte 3): unexpected ']' where a value is expected"},
	{`[`, "line 1, column 2 (byte 1): the text ends where a value is expected"},
	{`{`, "line 1, column 2 (byte 1): the text ends where a key is expected"},
	{`{"a":[1`, "line 1, column 8 (byte 7): the text ends in an array, after a value"},
	{`"abc`, "line 1, column 1 (byte 0): the string that begins here does not end"},
	{`"abc\`, "line 1, column 1 (byte 0): the string that begins here does not end"},
	{`"\u12`, "line 1, column 6 (byte 5): the text ends in a \\u escape"},
	{`"\u12g4"`, "line 1, column 6 (byte 5): unexpected 'g' in a \\u escape"},
	{`"\x"`, "line 1, column 3 (byte 2): unexpected 'x' after a backslash"},
	{"\"12345678\x01\"", "line 1, column 10 (byte 9): unexpected '\\x01' in a string"},
	{"\"a\nb\"", "line 1, column 3 (byte 2): unexpected '\\n' in a string"},
	{`'a'`, "line 1, column 1 (byte 0): unexpected '\\'' where a value is expected"},
	{`01`, "line 1, column 2 (byte 1): unexpected '1' after the end of the value"},
	{`-`, "line 1, column 2 (byte 1): the text ends in a number"},
	{`+1`, "line 1, column 1 (byte 0): unexpected '+' where a value is expected"},
	{`1.`, "line 1, column 3 (byte 2): the text ends in a number"},
	{`.5`, "line 1, column 1 (byte 0): unexpected '.' where a value is expected"},
	{`1e`, "line 1, column 3 (byte 2): the text ends in a number"},
	{`0x10`, "line 1, column 2 (byte 1): unexpected 'x' after the end of the value"},
	{`NaN`, "line 1, column 1 (byte 0): unexpected 'N' where a value is expected"},
	{`nul`, `line 1, column 1 (byte 0): neither a value nor "null"`},
	{`truely`, "line 1, column 5 (byte 4): unexpected 'l' after the end of the value"},
	{`{} // comment`, "line 1, column 4 (byte 3): unexpected '/' after the end of the value"},
	{"{}\x00", "line 1, column 3 (byte 2): unexpected '\\x00' after the end of the value"},
	{strings.Repeat("[", MaxDepth+1) + strings.Repeat("]", MaxDepth+1), "line 1, column 1001 (byte 1000): values are nested deeper than 1000"},
	{strings.Repeat(`{"a":`, 5_000_000), "line 1, column 5001 (byte 5000): values are nested deeper than 1000"},
}

func TestParse(t *testing.T) {
	for i, tt := range texts {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			v, err := Parse([]byte(tt.in))
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				assert.Equal(t, Value{}, v)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, strings.Trim(tt.in, " \r\n\t"), string(v.Raw()))
		})
	}
}

func TestError(t *testing.T) {
	_, err := Parse([]byte("{\n\"a\" : tru}"))
	var got *Error
	require.ErrorAs(t, err, &got)
	assert.Equal(t, &Error{Offset: 8, Line: 2, Column: 7, Reason: `neither a value nor "true"`}, got)
}

// seen is a value taken apart.
func seen(v Value) any {
	switch v.Kind() {
	case Object:
		var list []any
		for m := range v.Members() {
			list = append(list, m.Key.Text(), seen(m.Value))
		}
		return map[string]any{"object": list}
	case Array:
		list := []any{}
		for e := range v.Elements() {
			list = append(list, seen(e))
		}
		return list
	case String:
		return v.Text()
	case Absent:
		return "absent!"
	}
	return string(v.Raw())
}

func TestValue(t *testing.T) {
	v, err := Parse([]byte(` { "a\u0062" : [ 1.0 , -2e5,"x\n" , [ ] , { } , null,true ] , "" :false, "dup":1,"dup" : { "y" : "\"]}" } } `))
	require.NoError(t, err)
	want := map[string]any{"object": []any{
		"ab",
		[]any{"1.0", "-2e5", "x\n", []any{}, map[string]any{"object": []any(nil)}, "null", "true"},
		"", "false",
		"dup", "1",
		"dup",
		map[string]any{"object": []any{"y", `"]}`}},
	}}
	assert.Equal(t, want, seen(v))
	for range v.Members() {
		break // leaving early is fine
	}
	for e := range v.Elements() {
		t.Error("an object has no elements, but here is", e.Kind())
	}
}

func TestKind(t *testing.T) {
	for in, want := range map[string]Kind{
		"null": Null, "true": Bool, "false": Bool, "-1": Number, "0": Number, `""`: String, "[]": Array, "{}": Object,
	} {
		v, err := Parse([]byte(in))
		require.NoError(t, err)
		assert.Equal(t, want, v.Kind(), in)
		assert.Equal(t, want != Null, v.Present(), in)
		require.NoError(t, v.Want(want))
	}
	assert.Equal(t, Absent, Value{}.Kind())
	assert.False(t, Value{}.Present())
	assert.Empty(t, Value{}.Text())
	assert.Empty(t, Value{}.Raw())
	require.EqualError(t, Value{}.Want(Array), "line 1, column 1 (byte 0): absent where an array is expected")
}

func TestDecode(t *testing.T) {
	v, err := Parse([]byte(`{"a": 4294967296, "b": -1, "c": 1e2, "d": 7}`))
	require.NoError(t, err)
	var a, b, c, d Value
	require.NoError(t, v.Fields([]string{"a", "b", "c", "d"}, &a, &b, &c, &d))
	var n uint32
	require.NoError(t, d.Decode(&n))
	assert.Equal(t, uint32(7), n)
	require.EqualError(t, a.Decode(&n), "line 1, column 7 (byte 6): number 4294967296 does not fit here")
	require.EqualError(t, b.Decode(&n), "line 1, column 24 (byte 23): number -1 does not fit here")
	require.EqualError(t, c.Decode(&n), "line 1, column 33 (byte 32): number 1e2 does not fit here")
}

func TestFields(t *testing.T) {
	tests := []struct {
		name, in string
		want     []string // raw values of linux and process
		err      string
	}{
		{"both", `{"process":1,"x":{"linux":9},"linux":[2]}`, []string{"[2]", "1"}, ""},
		{"none", `{"x":1,"X":2,"x":3}`, []string{"", ""}, ""},
		{"null", `{"linux":null}`, []string{"null", ""}, ""},
		{"escaped", `{"l\u0069nux":1}`, []string{"1", ""}, ""},
		{"twice", `{"linux":1,"linux":1}`, nil, `line 1, column 12 (byte 11): duplicate key "linux": runtimes differ in which one counts`},
		{"twice, one escaped", `{"linux":1,"\u006cinux":1}`, nil, `line 1, column 12 (byte 11): duplicate key "linux": runtimes differ in which one counts`},
		{"another case", `{"Linux":1}`, nil, `line 1, column 2 (byte 1): the key "Linux" is another spelling of "linux": runtimes interpret it differently`},
		{"another case, escaped", `{"linux":1,"l\u0049nux":1}`, nil, `line 1, column 12 (byte 11): the key "lInux" is another spelling of "linux": runtimes interpret it differently`},
		{"long s", `{"proceſs":1}`, nil, `line 1, column 2 (byte 1): the key "proceſs" is another spelling of "process": runtimes interpret it differently`},
		{"ends early in C", `{"linux\u0000y":1}`, nil, `line 1, column 2 (byte 1): the key "linux\x00y" is another spelling of "linux": runtimes interpret it differently`},
		{"not an object", `[]`, nil, "line 1, column 1 (byte 0): an array where an object is expected"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			v, err := Parse([]byte(tt.in))
			require.NoError(t, err)
			var linux, process Value
			err = v.Fields([]string{"linux", "process"}, &linux, &process)
			if tt.err != "" {
				require.EqualError(t, err, tt.err)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, []string{string(linux.Raw()), string(process.Raw())})
		})
	}
}

func TestEditArray(t *testing.T) {
	tests := []struct {
		in, changes string // one letter for each element: keep, drop, replace
		added       []string
		want        string
	}{
		{`[]`, "", nil, `[]`},
		{`[]`, "", []string{"1", "2"}, `[1,2]`},
		{`[ ]`, "", []string{"1"}, `[1 ]`},
		{`[ 1 , 2 , 3 ]`, "kkk", nil, `[ 1 , 2 , 3 ]`},
		{`[ 1 , 2 , 3 ]`, "kkk", []string{"4"}, `[ 1 , 2 , 3,4 ]`},
		{`[ 1 , 2 , 3 ]`, "dkk", nil, `[ 2 , 3 ]`},
		{`[ 1 , 2 , 3 ]`, "kdk", nil, `[ 1 , 3 ]`},
		{`[ 1 , 2 , 3 ]`, "kkd", nil, `[ 1 , 2 ]`},
		{`[ 1 , 2 , 3 ]`, "ddk", nil, `[ 3 ]`},
		{`[ 1 , 2 , 3 ]`, "dkd", nil, `[ 2 ]`},
		{`[ 1 , 2 , 3 ]`, "kdd", nil, `[ 1 ]`},
		{`[ 1 , 2 , 3 ]`, "ddd", nil, `[  ]`},
		{`[ 1 , 2 , 3 ]`, "ddd", []string{"4", "5"}, `[ 4,5 ]`},
		{`[ 1 , 2 , 3 ]`, "kdd", []string{"4"}, `[ 1,4 ]`},
		{`[ 1 , 2 , 3 ]`, "rrr", []string{"4"}, `[ R , R , R,4 ]`},
		{`[ 1 , 2 , 3 ]`, "drd", []string{"4"}, `[ R,4 ]`},
		{`[ 1 , 2 , 3 , 4 ]`, "kdrk", nil, `[ 1 , R , 4 ]`},
	}
	for _, tt := range tests {
		t.Run(tt.in+" "+tt.changes, func(t *testing.T) {
			v, err := Parse([]byte(tt.in))
			require.NoError(t, err)
			var added [][]byte
			for _, a := range tt.added {
				added = append(added, []byte(a))
			}
			var s Splices
			s.EditArray(v, func(i int, e Value) Change {
				assert.Equal(t, fmt.Sprint(i+1), string(e.Raw()))
				switch tt.changes[i] {
				case 'd':
					return Change{Drop: true}
				case 'r':
					return Change{Replace: []byte("R")}
				}
				return Change{}
			}, added)
			got, err := s.Apply([]byte(tt.in))
			require.NoError(t, err)
			assert.Equal(t, tt.want, string(got))
			assert.Equal(t, tt.want == tt.in, s.Empty())
		})
	}
}

func TestSplices(t *testing.T) {
	const in = ` {"a": { }, "b" : { "c" : 1 } , "d":null } `
	v, err := Parse([]byte(in))
	require.NoError(t, err)
	var a, b, d Value
	require.NoError(t, v.Fields([]string{"a", "b", "d"}, &a, &b, &d))
	var s Splices
	s.AddMember(v, "last", []byte("9"))
	s.AddMember(v, `"quoted"`, []byte("10"))
	s.Replace(d, []byte(`[0]`))
	s.AddMember(b, "x", []byte("2"))
	s.AddMember(a, "y", []byte("3"))
	s.AddMember(a, "z", []byte("4"))
	got, err := s.Apply([]byte(in))
	require.NoError(t, err)
	assert.Equal(t, ` {"a": {"y":3,"z":4 }, "b" : { "c" : 1,"x":2 } , "d":[0],"last":9,"\"quoted\"":10 } `, string(got))

	var within Splices
	within.AddMember(b, "x", []byte("2"))
	got, err = within.ApplyTo(b)
	require.NoError(t, err)
	assert.Equal(t, `{ "c" : 1,"x":2 }`, string(got))
	_, err = within.ApplyTo(a)
	require.ErrorContains(t, err, "overlaps")

	within.Replace(b, nil)
	_, err = within.Apply([]byte(in))
	require.ErrorContains(t, err, "overlaps")
}

// FuzzParse checks that Parse accepts the same texts as encoding/json, and that the parts add up to
// the whole.
func FuzzParse(f *testing.F) {
	for _, tt := range texts {
		if len(tt.in) < 10_000 {
			f.Add([]byte(tt.in))
		}
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		before := bytes.Clone(data)
		v, err := Parse(data)
		require.Equal(t, before, data)
		if err != nil {
			require.Equal(t, Value{}, v)
			if !strings.Contains(err.Error(), "nested deeper") {
				require.False(t, json.Valid(data), err)
			}
			return
		}
		require.True(t, json.Valid(data))
		var compact bytes.Buffer
		require.NoError(t, json.Compact(&compact, data))
		require.Equal(t, compact.String(), string(join(nil, v)))
		if v.Kind() == String {
			var want string
			require.NoError(t, json.Unmarshal(data, &want))
			require.Equal(t, want, v.Text())
		}
	})
}

// join writes a value from its parts.
func join(out []byte, v Value) []byte {
	separator := ""
	switch v.Kind() {
	case Object:
		out = append(out, '{')
		for m := range v.Members() {
			out = append(append(out, separator...), m.Key.Raw()...)
			out = join(append(out, ':'), m.Value)
			separator = ","
		}
		return append(out, '}')
	case Array:
		out = append(out, '[')
		for e := range v.Elements() {
			out = join(append(out, separator...), e)
			separator = ","
		}
		return append(out, ']')
	}
	return append(out, v.Raw()...)
}

func BenchmarkParse(b *testing.B) {
	for _, size := range []int{30_000, 4_000_000} {
		var text bytes.Buffer
		text.WriteString(`{"mounts":[`)
		for text.Len() < size {
			text.WriteString(`{"destination":"/proc","type":"proc","source":"proc","options":["nosuid","noexec","nodev"],"n":[1,2.5,true]}, `)
		}
		text.WriteString(`{}]}`)
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			b.SetBytes(int64(text.Len()))
			b.ReportAllocs()
			for b.Loop() {
				if _, err := Parse(text.Bytes()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
