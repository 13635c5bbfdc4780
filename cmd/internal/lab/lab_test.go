// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/testimage"
)

// patience is how long a machine may take to run all its tests. It is less than what make lab gives
// all of them, so that a machine that hangs is reported with its console.
const patience = 55 * time.Minute

func TestLab(t *testing.T) {
	deb := os.Getenv("NVCR_LAB")
	if deb == "" {
		t.Skip("SKIPPED: only 'make lab' boots a machine with cgroup v2, systemd and current engines")
	}
	need.Root(t)
	chosen := chosen(t)
	results := make([][]result, len(chosen))
	t.Run("on", func(t *testing.T) {
		for i, r := range chosen {
			results[i] = make([]result, len(levels))
			t.Run(r.name, func(t *testing.T) {
				t.Parallel()
				image, programs := r.image(t), r.build(t)
				// Testing on two machines at once takes half the time: each has one processor.
				for j, level := range levels {
					t.Run(level, func(t *testing.T) {
						t.Parallel()
						results[i][j] = r.test(t, image, programs, deb, level)
					})
				}
			})
		}
	})
	var columns []column
	for _, of := range results {
		r := of[0]
		for _, other := range of[1:] {
			r.outcomes = append(r.outcomes, other.outcomes...)
		}
		if r.release != "" {
			columns = append(columns, r.column())
		}
	}
	fmt.Println(table(columns))
	compare(t, columns)
}

// page is the page with the table. Its versions date from the day it was written; its checks are
// those that pass.
const page = "../../../docs/tested.md"

const mark = "<!-- What follows is written by make lab. -->\n\n"

func readPage(t *testing.T) (prose, table string) {
	t.Helper()
	data, err := os.ReadFile(page)
	require.NoError(t, err)
	prose, table, found := strings.Cut(string(data), mark)
	require.True(t, found, "%s has no line %q", page, mark)
	return prose, table
}

func TestPage(t *testing.T) {
	_, text := readPage(t)
	assert.Equal(t, text, table(parse(text)))
}

// compare compares the tested checks with those on the page. With NVCR_LAB_UPDATE=1, it writes the
// page instead.
func compare(t *testing.T, columns []column) {
	t.Helper()
	if t.Failed() || os.Getenv("NVCR_LAB_RUN") != "" {
		return
	}
	prose, text := readPage(t)
	all := parse(text)
	for _, c := range columns {
		i := slices.IndexFunc(all, func(other column) bool { return other.name == c.name })
		switch {
		case os.Getenv("NVCR_LAB_UPDATE") == "":
			require.GreaterOrEqual(t, i, 0, "%s has no %s", page, c.name)
			assert.Equal(t, all[i].checks(), c.checks(), "%s; NVCR_LAB_UPDATE=1 make lab updates it", page)
		case i < 0:
			all = append(all, c)
		default:
			all[i] = c
		}
	}
	if os.Getenv("NVCR_LAB_UPDATE") != "" {
		require.NoError(t, os.WriteFile(page, []byte(prose+mark+table(all)), 0o644))
	}
}

// build builds what the machines need and cannot build themselves.
func (r release) build(t *testing.T) string {
	dir := t.TempDir()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "more"), 0o755))
	gobuild(t, dir, "test", "-c", "-o", filepath.Join(dir, "inside.test"), "./inside")
	gobuild(t, dir, "test", "-c", "-o", filepath.Join(dir, "runtime.test"), "../../nvidia-container-runtime.experimental")
	// The client that stands in for the kubelet is a module of its own.
	gobuild(t, dir, "build", "-C", "../enginetest/cri", "-buildvcs=false", "-o", filepath.Join(dir, "cri"), ".")
	if r.more != nil {
		gobuild(t, dir, slices.Concat([]string{"install"}, r.more)...)
	}
	probe, err := testimage.Probe()
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "probe"), probe, 0o755))
	return dir
}

func gobuild(t *testing.T, dir string, args ...string) {
	t.Helper()
	cmd := exec.Command("go", args...)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off", "GOBIN="+filepath.Join(dir, "more"))
	out, err := cmd.CombinedOutput()
	require.NoError(t, err, "go %q: %s", args, out)
}

// containerTests selects the runtime's own tests with runc and crun that also run here, where
// cgroups and both programs are newer.
const containerTests = "^TestContainer(SeesItsGPU|KeepsItsGPUAfterUpdate|SeesMIGCapabilities|CannotMakeOtherNodes|" +
	"ChangesItsDriver|InUserNamespace|DirectoryInUserNamespace)$"

// test runs the tests with one low-level runtime on a machine with the release, and reports each of
// them as a test of its own.
func (r release) test(t *testing.T, image, programs, deb, level string) result {
	dir, err := os.MkdirTemp("", "nvcr-lab-")
	require.NoError(t, err)
	t.Cleanup(func() {
		if !t.Failed() {
			assert.NoError(t, os.RemoveAll(dir))
			return
		}
		for _, large := range []string{"cow", "programs", "package.deb"} {
			assert.NoError(t, os.RemoveAll(filepath.Join(dir, large)))
		}
		t.Logf("the machine's output is kept in %s", dir)
	})
	require.NoError(t, os.CopyFS(filepath.Join(dir, "programs"), os.DirFS(programs)))
	drivers(t, image, filepath.Join(dir, "programs"))
	data, err := os.ReadFile(deb)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "package.deb"), data, 0o644))

	tests, reboot := r.tests, r.tests+".*Reboot"
	if pattern := os.Getenv("NVCR_LAB_RUN"); pattern != "" {
		tests, reboot = pattern, ""
		if strings.Contains(pattern, "Reboot") {
			reboot = pattern
		}
	}
	runtimeTests := tests
	if tests == "." {
		runtimeTests = containerTests
	}
	// The machine runs this script again after a reboot.
	script := `cd /host/programs
export NVCR_NO_SKIP=1 NVCR_LAB=inside NVCR_LAB_LEVEL=` + level + ` NVCR_TEST_PROGRAMS=$PWD TMPDIR=/tmp
tests() {
	part=$1 of=$2; shift 2
	./$of.test -test.v=test2json "$@" >/host/$part.out 2>&1 || touch /host/failed
}
tests='` + tests + `' reboot='` + reboot + `' skip='` + r.skip + `'
if mkdir /host/rebooted; then
	find more -type f -exec install -t /usr/sbin {} +
	dpkg-query -W -f '${Package} ${Version}\n' >/host/packages
	uname -r >/host/kernel
	dpkg -i /host/package.deb
	# These tests expect a machine without a driver.
	tests runtime runtime -test.run '` + runtimeTests + "/^" + level + `$'
	tests tests inside -test.run "$tests" -test.skip "Reboot|$skip"
	if [ "$reboot" ]; then
		NVCR_LAB_BOOT=1 tests before inside -test.run "$reboot" -test.skip "$skip"
		exit 75
	fi
else
	NVCR_LAB_BOOT=2 tests after inside -test.run "$reboot" -test.skip "$skip"
fi
test ! -e /host/failed
`
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run"), []byte(script), 0o644))
	start := time.Now()
	output := r.run(t, image, dir, patience)
	t.Logf("booted, ran the tests and powered off in %s\n%s", time.Since(start).Round(time.Second), output)

	res := result{release: r.name, versions: versions(t, dir)}
	for _, part := range []string{"runtime", "tests", "before", "after"} {
		out, err := os.ReadFile(filepath.Join(dir, part+".out"))
		if errors.Is(err, fs.ErrNotExist) && reboot == "" {
			continue
		}
		require.NoError(t, err)
		for _, e := range events(t, string(out)) {
			if !e.leaf && e.passed {
				continue
			}
			t.Run(part+"/"+e.name, func(t *testing.T) {
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

// outcome is the result of a test.
type outcome struct {
	name            string
	leaf            bool // it has no subtests
	passed, skipped bool
	output          string
}

// events parses what a test binary prints with -test.v=test2json. A line from the testing package
// has the byte 0x16 in it, such as "=== RUN   TestA/b" or "    --- PASS: TestA/b (0.01s)"; all
// other lines are output of the current test.
func events(t *testing.T, printed string) []*outcome {
	t.Helper()
	byName := map[string]*outcome{}
	var list []*outcome
	get := func(name string) *outcome {
		if byName[name] == nil {
			o := &outcome{name: name, leaf: true}
			byName[name], list = o, append(list, o)
			for above := name; strings.Contains(above, "/"); {
				above = above[:strings.LastIndexByte(above, '/')]
				// A name may have more parts than there are tests.
				if o := byName[above]; o != nil {
					o.leaf = false
				}
			}
		}
		return byName[name]
	}
	current, stray := (*outcome)(nil), ""
	for line := range strings.Lines(printed) {
		before, event, framed := strings.Cut(line, "\x16")
		if f := strings.Fields(event); framed && len(f) > 2 {
			switch f[0] {
			case "===":
				current = get(strings.Join(f[2:], " "))
			case "---":
				name, _, _ := strings.Cut(strings.TrimSpace(event)[len("--- PASS: "):], " (")
				current = get(name)
				current.passed, current.skipped = f[1] == "PASS:", f[1] == "SKIP:"
			}
			line = before
		}
		if current != nil {
			current.output += line
		} else {
			stray += line
		}
	}
	if !strings.Contains(printed, "no tests to run") {
		require.NotEmpty(t, list, "no test ran: %s", stray)
	}
	return list
}

func TestEvents(t *testing.T) {
	got := events(t, "stray\n\x16=== RUN   TestA\n\x16=== RUN   TestA/b_c\nsaid    a.go:1: by b\n    \x16--- FAIL: TestA/b_c (0.01s)\n"+
		"\x16=== RUN   TestA/d\n    a_test.go:2: why\n    \x16--- SKIP: TestA/d (0.00s)\n\x16--- FAIL: TestA (0.02s)\n"+
		"\x16=== RUN   TestE\n\x16=== RUN   TestE/f/g\nno newline\x16--- PASS: TestE/f/g (0.00s)\n\x16--- PASS: TestE (0.00s)\nFAIL\n")
	assert.Equal(t, []*outcome{
		{name: "TestA"},
		{name: "TestA/b_c", leaf: true, output: "said    a.go:1: by b\n    "},
		{name: "TestA/d", leaf: true, skipped: true, output: "    a_test.go:2: why\n    "},
		{name: "TestE", passed: true, output: "FAIL\n"},
		{name: "TestE/f/g", leaf: true, passed: true, output: "no newline"},
	}, got)
}
