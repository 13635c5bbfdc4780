// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"errors"
	"fmt"
	"strings"
)

// Name is the name of an instance before R470, MIG-GPU-<uuid>/<gi>/<ci>. Everything in it is in
// procfs.
type Name struct {
	GPU    string // "GPU-" and the lower-case UUID of the GPU, or a prefix
	GI, CI int
}

// ParseName parses MIG-GPU-<uuid>/<gi>/<ci>, as in
//
//	MIG-GPU-cd9ee947-34d2-d0fe-93e0-2195b3f2fd52/1/0
//	MIG-GPU-cd9ee947/1/0
//
// in upper or lower case. A prefix of the UUID suffices, with at least one digit.
func ParseName(s string) (Name, error) {
	uuid, ids, ok := strings.Cut(s, "/")
	if !ok || !hasPrefix(uuid, "MIG-GPU-") {
		return Name{}, errors.New("not of the form MIG-GPU-<uuid>/<gi>/<ci>")
	}
	gpu, ok := UUIDPrefix(uuid[len("MIG-"):], "GPU-")
	if !ok {
		return Name{}, fmt.Errorf("%s is not a prefix of a GPU's UUID", quote(uuid[len("MIG-"):]))
	}
	gi, ci, ok := strings.Cut(ids, "/")
	if !ok {
		return Name{}, errors.New("not of the form MIG-GPU-<uuid>/<gi>/<ci>")
	}
	name := Name{GPU: gpu}
	if name.GI, ok = parseNumber(gi); !ok {
		return Name{}, fmt.Errorf("GPU instance %s is not a number", quote(gi))
	}
	if name.CI, ok = parseNumber(ci); !ok {
		return Name{}, fmt.Errorf("compute instance %s is not a number", quote(ci))
	}
	return name, nil
}

// String returns the name in the form of [ParseName].
func (n Name) String() string {
	return fmt.Sprintf("MIG-%s/%d/%d", n.GPU, n.GI, n.CI)
}

const uuidForm = "xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx"

// UUIDPrefix reports whether s is prefix, such as "GPU-", followed by a UUID or at least its first
// digit, both in upper or lower case. It returns s with the prefix as given and the digits in lower
// case.
func UUIDPrefix(s, prefix string) (string, bool) {
	if !hasPrefix(s, prefix) {
		return "", false
	}
	digits := s[len(prefix):]
	if digits == "" || len(digits) > len(uuidForm) {
		return "", false
	}
	for i := range len(digits) {
		if uuidForm[i] == '-' != (digits[i] == '-') || digits[i] != '-' && !hex(digits[i]) {
			return "", false
		}
	}
	return prefix + strings.ToLower(digits), true
}

// hasPrefix is strings.HasPrefix, ignoring the case of ASCII letters.
func hasPrefix(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

func hex(c byte) bool {
	return '0' <= c && c <= '9' || 'a' <= c && c <= 'f' || 'A' <= c && c <= 'F'
}
