// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
)

// patience is how long a machine may take for all its tests.
const patience = 15 * time.Minute

// ground is a test binary, and which of its tests are run in the machine.
type ground struct {
	name, dir string
	tests     string
}

var grounds = []ground{
	{"lab", "inside", "."},
}

func TestLab(t *testing.T) {
	deb := os.Getenv("NVCR_LAB")
	if deb == "" {
		t.Skip("SKIPPED: a machine with cgroup v2, systemd and current engines is booted by 'make lab' alone")
	}
	need.Root(t)
	programs := build(t)
	results := make([]result, len(releases))
	t.Run("on", func(t *testing.T) {
		for i, r := range releases {
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				results[i] = r.test(t, programs, deb)
			})
		}
	})
	report(slices.DeleteFunc(results, func(r result) bool { return r.release == "" }))
}

// build builds what the machines get, and cannot build themselves.
func build(t *testing.T) string {
	dir := t.TempDir()
	for _, g := range grounds {
		gobuild(t, "test", "-c", "-o", filepath.Join(dir, g.name+".test"), "./"+g.dir)
	}
	probe, err := testimage.Probe()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "probe"), probe, 0o755))
	return dir
}

func gobuild(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go %q: %s", args, out)
}

// test runs the tests in a machine with the release, and reports each as a test of its own.
func (r release) test(t *testing.T, programs, deb string) result {
	image := r.image(t)
	dir, err := os.MkdirTemp("", "nvcr-lab-")
	require.NoError(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	require.NoError(t, os.CopyFS(filepath.Join(dir, "programs"), os.DirFS(programs)))
	data, err := os.ReadFile(deb)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "package.deb"), data, 0o644))

	script := `cd /host/programs
dpkg-query -W -f '${Package} ${Version}\n' >/host/packages
uname -r >/host/kernel
export NVCR_NO_SKIP=1 NVCR_LAB=inside NVCR_TEST_PROGRAMS=$PWD
status=0
`
	for _, g := range grounds {
		script += "TMPDIR=/tmp ./" + g.name + ".test -test.v=test2json -test.run '" + g.tests + "' >/host/" + g.name + ".out 2>&1 || status=1\n"
	}
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run"), []byte(script+"exit $status\n"), 0o644))
	start := time.Now()
	output := r.run(t, image, dir, patience)
	t.Logf("booted, tested and turned off in %s\n%s", time.Since(start).Round(time.Second), output)

	res := result{release: r.name, versions: versions(t, dir)}
	for _, g := range grounds {
		out, err := os.ReadFile(filepath.Join(dir, g.name+".out"))
		require.NoError(t, err)
		for _, e := range events(t, out) {
			if !e.leaf && e.passed {
				continue
			}
			t.Run(g.name+"/"+e.name, func(t *testing.T) {
				switch {
				case e.skipped:
					t.Skip(e.output)
				case !e.passed:
					t.Error(e.output)
				}
			})
			if e.leaf {
				res.outcomes = append(res.outcomes, e)
			}
		}
	}
	return res
}

// outcome is how a test ended.
type outcome struct {
	name            string
	leaf            bool // it has no tests in it
	passed, skipped bool
	output          string
}

// events reads what a test binary prints with -test.v=test2json.
func events(t *testing.T, printed []byte) []*outcome {
	t.Helper()
	cmd := exec.Command("go", "tool", "test2json")
	cmd.Stdin = bytes.NewReader(printed)
	out, err := cmd.Output()
	require.NoError(t, err)
	byName := map[string]*outcome{}
	var list []*outcome
	stray := ""
	for d := json.NewDecoder(bytes.NewReader(out)); d.More(); {
		var e struct{ Action, Test, Output string }
		require.NoError(t, d.Decode(&e))
		if e.Test == "" {
			if e.Action == "output" {
				stray += e.Output
			}
			continue
		}
		o := byName[e.Test]
		if o == nil {
			o = &outcome{name: e.Test, leaf: true}
			byName[e.Test] = o
			list = append(list, o)
			if i := strings.LastIndexByte(e.Test, '/'); i > 0 && byName[e.Test[:i]] != nil {
				byName[e.Test[:i]].leaf = false
			}
		}
		switch e.Action {
		case "output":
			o.output += e.Output
		case "pass":
			o.passed = true
		case "skip":
			o.skipped = true
		}
	}
	require.NotEmpty(t, list, "no test was run: %s", stray)
	return list
}
