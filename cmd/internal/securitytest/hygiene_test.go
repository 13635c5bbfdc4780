// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

const module = "github.com/nvsysfs/nvidia-container-runtime"

// pkg is a package as go list prints it.
type pkg struct {
	ImportPath, Dir  string
	Module           *struct{ Path string }
	Standard         bool
	GoFiles, Imports []string
	CgoFiles, SFiles []string
}

// closure lists the packages that the program links.
func closure(t *testing.T) []pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json", module+"/cmd/"+program)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOFLAGS=-mod=readonly")
	out, err := cmd.Output()
	require.NoError(t, err)
	var list []pkg
	for d := json.NewDecoder(bytes.NewReader(out)); ; {
		var p pkg
		err := d.Decode(&p)
		if errors.Is(err, io.EOF) {
			return list
		}
		require.NoError(t, err)
		list = append(list, p)
	}
}

// TestSourceIsHarmless checks all of our files in the program: no unsafe, no assembly, no C, no
// network, no child process, and only one exec.
func TestSourceIsHarmless(t *testing.T) {
	forbidden := []string{"unsafe", "C", "os/exec", "plugin", "net", "net/http", "os/signal", "reflect", "text/template", "html/template"}
	var execs []string
	files := 0
	for _, p := range closure(t) {
		if p.Module == nil || p.Module.Path != module {
			continue
		}
		assert.Empty(t, p.CgoFiles, p.ImportPath)
		assert.Empty(t, p.SFiles, p.ImportPath)
		for _, name := range p.GoFiles {
			files++
			name = filepath.Join(p.Dir, name)
			set := token.NewFileSet()
			file, err := parser.ParseFile(set, name, nil, parser.ParseComments)
			require.NoError(t, err)
			for _, i := range file.Imports {
				imported, err := strconv.Unquote(i.Path.Value)
				require.NoError(t, err)
				assert.NotContains(t, forbidden, imported, name)
				assert.False(t, strings.HasPrefix(imported, "net/"), "%s imports %s", name, imported)
			}
			for _, group := range file.Comments {
				for _, c := range group.List {
					assert.False(t, strings.HasPrefix(c.Text, "//go:") && !strings.HasPrefix(c.Text, "//go:build") && !strings.HasPrefix(c.Text, "//go:embed"), "%s: %s", set.Position(c.Pos()), c.Text)
				}
			}
			ast.Inspect(file, func(n ast.Node) bool {
				selector, ok := n.(*ast.SelectorExpr)
				if !ok {
					return true
				}
				from, ok := selector.X.(*ast.Ident)
				if !ok {
					return true
				}
				what := from.Name + "." + selector.Sel.Name
				switch what {
				case "syscall.Exec":
					execs = append(execs, p.ImportPath)
				case "unix.Exec", "unix.Execveat", "syscall.ForkExec", "syscall.StartProcess", "os.StartProcess", "unix.Syscall", "unix.RawSyscall", "unix.Syscall6",
					"syscall.Syscall", "syscall.RawSyscall", "syscall.Syscall6", "unix.Mount", "syscall.Mount", "unix.Chroot", "os.Create", "os.Chdir", "os.Setenv", "unix.Umask", "syscall.Umask":
					assert.Failf(t, "a call that does not belong there", "%s: %s", set.Position(n.Pos()), what)
				}
				return true
			})
		}
	}
	assert.Equal(t, []string{module + "/cmd/" + program}, execs, "syscall.Exec is called once, in the program itself")
	t.Logf("%d files of ours", files)
}

// TestDependencies lists all other packages in the program. Review a new one before adding it here.
// The operator's tool links more, such as cobra and CDI's packages; the runtime must not.
func TestDependencies(t *testing.T) {
	modules := map[string]bool{}
	for _, p := range closure(t) {
		assert.Empty(t, p.CgoFiles, p.ImportPath)
		if p.Standard {
			// Without these, only raw system calls could reach a network or start a process.
			assert.NotContains(t, []string{"net", "net/http", "os/exec", "plugin", "runtime/cgo", "crypto/tls", "os/user"}, p.ImportPath)
			continue
		}
		modules[p.Module.Path] = true
	}
	want := []string{
		module, "github.com/opencontainers/runtime-spec", "github.com/pelletier/go-toml/v2", "github.com/sirupsen/logrus", "golang.org/x/sys",
	}
	var got []string
	for m := range modules {
		got = append(got, m)
	}
	slices.Sort(got)
	assert.Equal(t, want, got)
	for _, m := range []string{"github.com/spf13/cobra", "github.com/spf13/pflag", "tags.cncf.io/container-device-interface"} {
		assert.NotContains(t, got, m, "of nvsysfs alone")
	}
}

// TestModulesAreWhatTheyWere: the sources in the module cache match go.sum.
func TestModulesAreWhatTheyWere(t *testing.T) {
	out, err := exec.Command("go", "mod", "verify").CombinedOutput()
	require.NoError(t, err, "%s", out)
	assert.Equal(t, "all modules verified\n", string(out))
}

// TestStartsNothingElse: a create executes only one other program, the low-level runtime, in the
// same process, with the same arguments and environment, and without inheriting our descriptors.
func TestStartsNothingElse(t *testing.T) {
	need.Program(t, "strace")
	b := newBundle(t, "t4", debian(t))
	b.runtime = filepath.Join(t.TempDir(), "runc")
	require.NoError(t, os.WriteFile(b.runtime, []byte("#!/bin/sh\necho \"$0 $*\"; tr '\\0' '\\n' </proc/$$/environ; ls /proc/$$/fd\n"), 0o755))
	require.NoError(t, os.WriteFile(b.configFile(), config(gpu0, "NVIDIA_DRIVER_CAPABILITIES=all"), 0o644))
	log := filepath.Join(t.TempDir(), "strace")

	// The caller's descriptor, as for --preserve-fds, is passed on.
	theirs, err := os.Open(b.machine)
	require.NoError(t, err)
	defer theirs.Close()
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	args := []string{"--debug", "create", "--bundle", "b", "--preserve-fds", "1", "", "a b\n", "id"}
	cmd := exec.CommandContext(ctx, "strace", append([]string{"-f", "-qq", "-e", "trace=execve,execveat,fork,vfork,clone,clone3,socket,connect,ptrace,mount,setuid,setns,unshare,chroot", "-o", log, built(t)}, args...)...)
	cmd.Env, cmd.Dir, cmd.ExtraFiles = b.environ(), filepath.Dir(b.dir), []*os.File{theirs}
	out, err := cmd.Output()
	require.NoError(t, err, "%s", out)

	want := b.runtime + " " + strings.Join(args, " ") + "\n" + strings.Join(b.environ(), "\n") + "\n"
	require.True(t, strings.HasPrefix(string(out), want), "%s", out)
	// So are those that this test itself inherited.
	alone := exec.Command(b.runtime)
	alone.ExtraFiles = cmd.ExtraFiles
	alone.Env = []string{"PATH=/usr/bin:/bin"}
	inherited, err := alone.Output()
	require.NoError(t, err)
	assert.Equal(t, strings.TrimPrefix(string(inherited), b.runtime+" \nPATH=/usr/bin:/bin\n"), strings.TrimPrefix(string(out), want), "descriptors")

	var execs []string
	for line := range strings.Lines(string(read(t, log))) {
		_, call, _ := strings.Cut(strings.TrimSpace(line), " ")
		call = strings.TrimSpace(call)
		switch {
		case strings.HasPrefix(call, "execve("):
			execs = append(execs, path.Base(strings.Split(call, `"`)[1]))
		case len(execs) == 1 && strings.HasPrefix(call, "clone"):
			assert.Contains(t, call, "CLONE_THREAD")
		case len(execs) == 1 && !strings.HasPrefix(call, "<... ") && !strings.HasPrefix(call, "---"):
			assert.Failf(t, "a call that does not belong there", "%s", call)
		}
		if len(execs) == 2 {
			break // from here on it is the low-level runtime
		}
	}
	assert.Equal(t, []string{program, "runc"}, execs)
}

// TestBuildHoldsNoPlace: the program does not contain the path where it was built. "make
// reproducible" builds it in two places with separate build caches, and compares.
func TestBuildHoldsNoPlace(t *testing.T) {
	data := string(read(t, built(t)))
	out, err := exec.Command("go", "env", "GOMODCACHE", "GOCACHE").Output()
	require.NoError(t, err)
	cwd, err := os.Getwd()
	require.NoError(t, err)
	for _, place := range append(strings.Fields(string(out)), filepath.Dir(filepath.Dir(cwd)), common.dir) {
		assert.NotContains(t, data, place)
	}
}

// TestSecurityNamesTests: the tests that SECURITY.md names for its promises exist in the packages
// that it names.
func TestSecurityNamesTests(t *testing.T) {
	const root = "../../.."
	text := string(read(t, filepath.Join(root, "SECURITY.md")))
	code := regexp.MustCompile("`([^`\n]+)`")
	scripts := regexp.MustCompile("scripts? (`[a-z*-]+`(, )?)+")
	named := 0
	for line := range strings.Lines(text) {
		source := "" // of the package named last in this line
		if strings.HasPrefix(line, "`Test") {
			continue // prose, about this package
		}
		for _, list := range scripts.FindAllString(line, -1) {
			for _, m := range code.FindAllStringSubmatch(list, -1) {
				files, err := filepath.Glob(filepath.Join(root, "cmd", program, "testdata/script", m[1]+".txtar"))
				require.NoError(t, err)
				assert.NotEmpty(t, files, "script %s", m[1])
				named++
			}
		}
		for _, m := range code.FindAllStringSubmatch(line, -1) {
			word := m[1]
			switch {
			case strings.HasPrefix(word, "Test"), strings.HasPrefix(word, "Fuzz"):
				if source == "" {
					continue
				}
				named++
				assert.Contains(t, source, "func "+word+"(", "%s", line)
			case strings.Contains(word, "/") || word == "spec" || word == "sysfs" || word == "ldcache" || word == "mig":
				files, err := filepath.Glob(filepath.Join(root, word, "*_test.go"))
				require.NoError(t, err)
				source = ""
				for _, f := range files {
					source += string(read(t, f))
				}
			}
		}
	}
	assert.Greater(t, named, 80)
}
