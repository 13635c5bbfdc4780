// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	stdsha1 "crypto/sha1"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestSHA1(t *testing.T) {
	text := make([]byte, 300)
	for i := range text {
		text[i] = byte(i * 7)
	}
	for n := range text {
		assert.Equal(t, stdsha1.Sum(text[:n]), sha1(text[:n]), n)
	}
}

func FuzzSHA1(f *testing.F) {
	f.Add([]byte("abc"))
	f.Fuzz(func(t *testing.T, text []byte) {
		if stdsha1.Sum(text) != sha1(text) {
			t.Errorf("%x", text)
		}
	})
}
