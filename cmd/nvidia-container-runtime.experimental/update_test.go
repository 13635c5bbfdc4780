// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestWithoutDevices(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{`{"devices":[{"allow":false,"access":"rwm"}],"cpu":{"shares":2}}`, `{"devices":null,"cpu":{"shares":2}}`},
		{`{ "cpu": {"shares": 2 , "devices":[1]}, "devices" : [ 1 ] }`, `{ "cpu": {"shares": 2 , "devices":[1]}, "devices" : null }`},
		{`{"cpu":{}}`, `{"cpu":{}}`},
		{`{"devices":null}`, `{"devices":null}`},
		{`[]`, `[]`},
		{``, ``},
		{`{"devices":[`, `{"devices":[`},
	} {
		assert.Equal(t, tt.want, string(withoutDevices([]byte(tt.in))))
	}
}
