// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// The list is that of go version -m, which reads the same file.
func TestDescribe(t *testing.T) {
	path := filepath.Join(t.TempDir(), "nvidia-container-runtime.experimental")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-o", path, "../../nvidia-container-runtime.experimental")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, "%s", out)
	out, err = exec.Command("go", "version", "-m", path).Output()
	require.NoError(t, err)
	want := map[string]string{}
	for line := range strings.Lines(string(out)) {
		if f := strings.Fields(line); len(f) == 4 && f[0] == "dep" {
			want["pkg:golang/"+f[1]+"@"+f[2]] = f[3]
		}
	}
	require.NotEmpty(t, want)

	var text, again bytes.Buffer
	require.NoError(t, run([]string{path, "0.1.0"}, &text))
	require.NoError(t, run([]string{path, "0.1.0"}, &again))
	assert.Equal(t, text.String(), again.String())
	var d document
	require.NoError(t, json.Unmarshal(text.Bytes(), &d))
	got := map[string]string{}
	for _, c := range d.Components {
		if c.Name != "std" {
			require.Len(t, c.Properties, 1)
			got[c.PURL] = c.Properties[0].Value
		}
	}
	assert.Equal(t, want, got)
	data, err := os.ReadFile(path)
	require.NoError(t, err)
	assert.Equal(t, []hash{{"SHA-256", fmt.Sprintf("%x", sha256.Sum256(data))}}, d.Metadata.Component.Hashes)
	assert.Equal(t, "pkg:golang/github.com/nvsysfs/nvidia-container-runtime@0.1.0#cmd/nvidia-container-runtime.experimental", d.Metadata.Component.PURL)
	assert.Len(t, d.Dependencies[0].On, len(d.Components))
}

func TestErrors(t *testing.T) {
	name := filepath.Join(t.TempDir(), "text")
	require.NoError(t, os.WriteFile(name, []byte("no program"), 0o600))
	for _, args := range [][]string{nil, {"a"}, {"a", "b", "c"}, {name, "0.1.0"}, {name + "2", "0.1.0"}} {
		var out bytes.Buffer
		require.Error(t, run(args, &out))
		assert.Empty(t, out.String())
	}
}
