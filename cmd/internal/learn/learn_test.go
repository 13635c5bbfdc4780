// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package learn

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// smiStandIn is a program that prints the file /L if its argument is -L, and /q if it is -q.
const smiStandIn = `package main

import "os"

func main() {
	text, err := os.ReadFile("/" + os.Args[1][1:])
	if err != nil {
		os.Exit(9)
	}
	os.Stdout.Write(text)
}
`

// TestLearnDriverContainer checks that the nvidia-smi of a driver container runs with the
// container's root as its own, so that it finds the files there.
func TestLearnDriverContainer(t *testing.T) {
	need.Root(t)
	archive, err := txtar.ParseFile("../../nvsysfs/testdata/script/learn.txtar")
	require.NoError(t, err)
	texts := map[string]string{}
	for _, f := range archive.Files {
		texts[f.Name] = string(f.Data)
	}
	dir := need.Machine(t, "a100-mig", false)
	for _, driver := range []string{"run/nvidia/driver", "elsewhere"} {
		need.Files(t, dir, map[string]string{driver + "/L": texts["list.txt"], driver + "/q": texts["query-pdi.txt"], driver + "/usr/bin/": ""})
	}
	source := filepath.Join(t.TempDir(), "main.go")
	require.NoError(t, os.WriteFile(source, []byte(smiStandIn), 0o600))
	build := exec.Command("go", "build", "-o", filepath.Join(dir, "elsewhere/usr/bin/nvidia-smi"), source)
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	message, err := build.CombinedOutput()
	require.NoError(t, err, string(message))

	if program, err := findSMI("/", "", "/"); err == nil && program.chroot == "" {
		need.Missing(t, "a machine without nvidia-smi") // learn would run it first
	}
	environ := []string{"PATH=/nowhere"}
	var out, errs bytes.Buffer
	require.ErrorContains(t, Run(Options{Root: dir}, environ, &out, &errs), "and not in a driver container at "+dir+"/run/nvidia/driver: pass its output")
	need.Files(t, dir, map[string]string{"etc/nvidia-container-runtime/config.toml": "[nvidia-container-runtime.experimental]\nroot = \"/elsewhere\"\n"})
	require.NoError(t, Run(Options{Root: dir}, environ, &out, &errs))
	assert.Contains(t, out.String(), "GPU 0 at 0000:07:00.0: 7 of 7 MIG devices, PDI 0x145c8e416b389d3e from nvidia-smi, proved by a UUID\n")
	assert.Empty(t, errs.String())

	need.Files(t, dir, map[string]string{"etc/nvidia-container-runtime": "absent"})
	require.NoError(t, os.Rename(filepath.Join(dir, "elsewhere/usr/bin/nvidia-smi"), filepath.Join(dir, "run/nvidia/driver/usr/bin/nvidia-smi")))
	out.Reset()
	require.NoError(t, Run(Options{Root: dir}, environ, &out, &errs))
	assert.Contains(t, out.String(), "mig.learnt is up to date\n")
}
