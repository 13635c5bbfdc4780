// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs

import (
	"io/fs"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestWriteMuslPath(t *testing.T) {
	alpine := Layout{LibDir: "/usr/lib", Musl: "ld-musl-x86_64.so.1"}
	const defaults = "/lib\n/usr/local/lib\n/usr/lib\n"
	for _, tt := range []struct {
		name    string
		content tree
		layout  Layout
		changes tree
		is      error
		err     string
	}{
		{name: "new", content: tree{"etc/x": "x"}, layout: alpine, changes: tree{"etc/ld-musl-x86_64.path": defaults}},
		{name: "without etc", content: tree{"x": "x"}, layout: alpine, changes: tree{"etc/ld-musl-x86_64.path": defaults}},
		{
			name: "a directory of its own", content: tree{"etc/x": "x"}, layout: Layout{LibDir: "/opt/lib", Musl: "ld-musl-aarch64.so.1"},
			changes: tree{"etc/ld-musl-aarch64.path": defaults + "/opt/lib\n"},
		},
		{name: "there already", content: tree{"etc/ld-musl-x86_64.path": "/lib"}, layout: alpine},
		{name: "a link that leads nowhere", content: tree{"etc/ld-musl-x86_64.path": "-> nowhere"}, layout: alpine},
		{name: "a link to the host", content: tree{"etc/ld-musl-x86_64.path": "-> HOST/etc/secret"}, layout: alpine},
		{name: "a FIFO", content: tree{"etc/ld-musl-x86_64.path": "fifo"}, layout: alpine},
		{name: "etc is a link to the host", content: tree{"etc": "-> HOST/etc"}, layout: alpine, is: fs.ErrNotExist},
		{name: "no musl", content: tree{"etc/x": "x"}, layout: Layout{LibDir: "/usr/lib64"}},
		{name: "a loader that is no name", content: tree{"etc/x": "x"}, layout: Layout{LibDir: "/usr/lib", Musl: "../x"}, err: "is not the name of a file"},
		{name: "a directory that cannot be listed", content: tree{"etc/x": "x"}, layout: Layout{LibDir: "/a:b", Musl: "ld-musl-x86_64.so.1"}, err: `"/a:b" cannot be in a search path`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			bothWays(t, func(t *testing.T, open func(string) *FS) {
				root, _ := machine(t, tt.content)
				want := dump(t, root).with(tt.changes)
				written, err := open(root).WriteMuslPath(tt.layout, self())
				assert.Equal(t, want, dump(t, root))
				assert.Equal(t, tt.changes != nil, written)
				switch {
				case tt.is != nil:
					assert.ErrorIs(t, err, tt.is)
				case tt.err != "":
					assert.ErrorContains(t, err, tt.err)
				default:
					require.NoError(t, err)
				}
			})
		})
	}
}

func TestParseMuslPath(t *testing.T) {
	for _, tt := range []struct {
		data string
		want []string
	}{
		{"", nil},
		{"/lib", []string{"/lib"}},
		{"/lib:/usr/local/lib:/usr/lib\n", []string{"/lib", "/usr/local/lib", "/usr/lib"}},
		{"\n:/lib\n\n/usr/lib:", []string{"/lib", "/usr/lib"}},
		{"lib:/a/../b:/proc/1:/a b:\x00/usr/lib", nil},
		{"/lib\x00/usr/lib", []string{"/lib"}},
	} {
		assert.Equal(t, tt.want, parseMuslPath([]byte(tt.data)), "%q", tt.data)
	}
}

func FuzzParseMuslPath(f *testing.F) {
	f.Add([]byte("/lib:/usr/local/lib:/usr/lib\n"))
	f.Add([]byte("/lib\n\x00:/x"))
	f.Fuzz(func(t *testing.T, data []byte) {
		dirs := parseMuslPath(data)
		assert.LessOrEqual(t, len(dirs), 64)
		for _, d := range dirs {
			assert.True(t, placeable(d))
			assert.Contains(t, string(data), d)
		}
	})
}
