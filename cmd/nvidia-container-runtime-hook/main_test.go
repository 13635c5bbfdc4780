// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

// unreadable fails the test that reads from it.
type unreadable struct{ t *testing.T }

func (u unreadable) Read([]byte) (int, error) {
	u.t.Error("stdin was read")
	return 0, errors.New("not to be read")
}

func TestRun(t *testing.T) {
	state := `{"ociVersion":"1.0.2","id":"x","pid":1,"annotations":{"a":"` + strings.Repeat("x", 1<<17) + `"}}`
	for _, tt := range []struct {
		name string
		args []string
		in   io.Reader
	}{
		{"as a hook", []string{"nvidia-container-runtime-hook", "prestart"}, strings.NewReader(state)},
		{"by hand", []string{"nvidia-container-runtime-hook"}, unreadable{t}},
		{"without a name", nil, unreadable{t}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			run(tt.args, tt.in, &out)
			assert.Equal(t, message, out.String())
			// What nvsysfs looks for in the file.
			assert.Contains(t, message, "placeholder that belongs to nvidia-container-runtime.experimental")
			if r, ok := tt.in.(*strings.Reader); ok {
				assert.Zero(t, r.Len(), "the runtime's write does not fail")
			}
		})
	}
}
