// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func completionScript(t *testing.T, shell string) string {
	t.Helper()
	var out, errs bytes.Buffer
	require.NoError(t, run([]string{"completion", shell}, nil, &out, &errs))
	assert.Empty(t, errs.String())
	return out.String()
}

func TestComplete(t *testing.T) {
	for _, tt := range []struct {
		name string
		in   command
		want completed
	}{
		{"a plain one", command{name: "fixtures", summary: "s"}, completed{name: "fixtures", summary: "s"}},
		{"flags of the usage", command{name: "list", usage: "[--root DIR] [--json]"}, completed{
			name: "list", flags: []completedFlag{{name: "json"}, {name: "root", value: "DIR"}},
		}},
		{"arguments", command{name: "capture", usage: "[--scrub] [--root DIR] DIR|FILE.txtar"}, completed{
			name: "capture", files: true, flags: []completedFlag{{name: "root", value: "DIR"}, {name: "scrub"}},
		}},
		{"words", command{name: "completion", usage: "bash|zsh|fish"}, completed{name: "completion", words: []string{"bash", "zsh", "fish"}}},
		{"fixtures", command{name: "unpack", usage: "FIXTURE DIR"}, completed{name: "unpack", words: fixtures.Names(), files: true}},
		{"all that a usage can have", command{name: "x", usage: "[--output FILE [--force]] [--format yaml|json] [--n N]... [--a | --b B] one|two [THREE...]"}, completed{
			name: "x", words: []string{"one", "two"}, flags: []completedFlag{
				{name: "a"}, {name: "b", value: "B"}, {name: "force"}, {name: "format", value: "yaml|json"}, {name: "n", value: "N"}, {name: "output", value: "FILE"},
			},
		}},
		{"one that is not there", command{name: "none", usage: "[--x]"}, completed{name: "none", flags: []completedFlag{{name: "x"}}}},
	} {
		t.Run(tt.name, func(t *testing.T) { assert.Equal(t, tt.want, complete(tt.in)) })
	}
}

// What the sources define as a flag is completed, and nothing else: the help is where that comes from, so a flag that is
// missing there is found here too.
func TestCompletionKnowsEveryFlag(t *testing.T) {
	defined := map[string]bool{}
	for _, dir := range []string{".", "../internal/configure"} {
		names, err := filepath.Glob(dir + "/*.go")
		require.NoError(t, err)
		require.NotEmpty(t, names)
		for _, name := range names {
			if strings.HasSuffix(name, "_test.go") {
				continue
			}
			file, err := parser.ParseFile(token.NewFileSet(), name, nil, parser.SkipObjectResolution)
			require.NoError(t, err)
			ast.Inspect(file, func(n ast.Node) bool {
				if flag, ok := definedFlag(n); ok {
					defined[flag] = true
				}
				return true
			})
		}
	}
	require.True(t, defined["root"])
	delete(defined, "inside") // of demo, for itself
	known := map[string]bool{}
	for _, c := range allCompleted() {
		for _, f := range c.flags {
			known[f.name] = true
		}
	}
	assert.Equal(t, defined, known)
}

// definedFlag returns the name in set.String("root", …), flags.BoolVar(&x, "json", …) and the like.
func definedFlag(n ast.Node) (string, bool) {
	call, ok := n.(*ast.CallExpr)
	if !ok {
		return "", false
	}
	method, ok := call.Fun.(*ast.SelectorExpr)
	if !ok {
		return "", false
	}
	set, ok := method.X.(*ast.Ident)
	if !ok || set.Name != "set" && set.Name != "flags" {
		return "", false
	}
	at := 0
	switch strings.TrimSuffix(method.Sel.Name, "Var") {
	case "String", "Bool", "Int", "Uint", "Int64", "Duration", "Func", "BoolFunc", "Text", "":
	default:
		return "", false
	}
	if strings.HasSuffix(method.Sel.Name, "Var") {
		at = 1
	}
	if len(call.Args) <= at {
		return "", false
	}
	literal, ok := call.Args[at].(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	name, err := strconv.Unquote(literal.Value)
	return name, err == nil
}

// completions are what a shell is to offer for a command line, of which the last word is being written.
var completions = []struct {
	name  string
	words []string
	want  []string
}{
	{"a command", []string{"co"}, []string{"completion", "configure"}},
	{"any word that is a command's beginning", []string{"un"}, []string{"unpack"}},
	{"no command", []string{"zzz"}, nil},
	{"flags", []string{"list", "--j"}, []string{"--json"}},
	{"a flag after a flag", []string{"explain", "--json", "--sys"}, []string{"--systemd-cgroup"}},
	{"an engine", []string{"configure", "c"}, []string{"containerd", "crio"}},
	{"a flag after an engine", []string{"configure", "docker", "--gpus-"}, []string{"--gpus-hook"}},
	{"a directory", []string{"list", "--root", "some"}, []string{"some dir/", "some.d/"}},
	{"a file", []string{"configure", "docker", "--config", "some"}, []string{"some dir/", "some.d/", "some.txtar"}},
	{"a machine", []string{"demo", "--fixture", "t"}, []string{"t4", "talos", "two-versions"}},
	{"a machine or a file", []string{"unpack", "t"}, []string{"t4", "talos", "talos.txtar", "two-versions"}},
	{"one of a few values", []string{"cdi", "generate", "--format", "j"}, []string{"json"}},
	{"a file after a word", []string{"cdi", "check", "some"}, []string{"some dir/", "some.d/", "some.txtar"}},
	{"a word after a command", []string{"cdi", "g"}, []string{"generate"}},
	{"a shell", []string{"completion", "f"}, []string{"fish"}},
	{"the flag of another command", []string{"fixtures", "--j"}, nil},
	{"a command as an argument", []string{"configure", "list", "--scr"}, nil},
}

// completionDir has what the file names of completions are found among.
func completionDir(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"some dir", "some.d"} {
		require.NoError(t, os.Mkdir(filepath.Join(dir, name), 0o755))
	}
	for _, name := range []string{"some.txtar", "talos.txtar"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	return dir
}

// offered are the lines that a shell printed, sorted, without what it says of each, and with a slash after directories of
// dir.
func offered(dir string, out []byte) []string {
	var list []string
	for line := range strings.Lines(string(out)) {
		line, _, _ = strings.Cut(strings.TrimRight(line, "\n"), "\t")
		line = strings.TrimSuffix(strings.ReplaceAll(line, `\ `, " "), "/")
		if info, err := os.Stat(filepath.Join(dir, line)); err == nil && info.IsDir() {
			line += "/"
		}
		if !slices.Contains(list, line) {
			list = append(list, line)
		}
	}
	slices.Sort(list)
	return list
}

func TestBashCompletion(t *testing.T) {
	bash := need.Program(t, "bash")
	script := filepath.Join(t.TempDir(), "nvsysfs")
	require.NoError(t, os.WriteFile(script, []byte(completionScript(t, "bash")), 0o600))
	tests := append(slices.Clone(completions), []struct {
		name  string
		words []string
		want  []string
	}{
		{"the value of --flag=", []string{"demo", "--fixture", "=", "t4"}, []string{"t4"}},
		{"nothing yet of it", []string{"list", "--root", "="}, []string{"some dir/", "some.d/"}},
		{"no flag where a value is due", []string{"configure", "docker", "--name", "--r"}, nil},
		{"nothing yet of a flag", []string{"list", ""}, []string{"--json", "--root"}},
	}...)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			const call = `set -eu; source "$1"; shift; [[ $(complete -p nvsysfs) == "complete -F _nvsysfs nvsysfs" ]]
				COMP_WORDS=(nvsysfs "$@"); COMP_CWORD=$#; set +eu; _nvsysfs
				for reply in "${COMPREPLY[@]}"; do printf '%s\n' "$reply"; done`
			cmd := exec.Command(bash, append([]string{"--norc", "-c", call, "bash", script}, tt.words...)...)
			cmd.Dir = completionDir(t)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Equal(t, tt.want, offered(cmd.Dir, out))
		})
	}
}

func TestFishCompletion(t *testing.T) {
	fish := need.Program(t, "fish")
	home := t.TempDir()
	script := filepath.Join(home, "nvsysfs.fish")
	require.NoError(t, os.WriteFile(script, []byte(completionScript(t, "fish")), 0o600))
	for _, tt := range completions {
		t.Run(tt.name, func(t *testing.T) {
			cmd := exec.Command(fish, "--no-config", "-c", `source $argv[1]; complete -C "nvsysfs $argv[2]"`, script, strings.Join(tt.words, " "))
			cmd.Dir = completionDir(t)
			cmd.Env = append(os.Environ(), "HOME="+home, "XDG_CONFIG_HOME="+home, "XDG_DATA_HOME="+home)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			assert.Equal(t, tt.want, offered(cmd.Dir, out))
		})
	}
}

// zshrc has each match written to a file, and the shell end after the first completion.
const zshrc = `fpath=($FUNCTIONS $fpath)
autoload -Uz compinit
compinit -u -d $ZDOTDIR/dump
PS1=
bindkey '^I' complete-word
zstyle ':completion:*' insert-tab false
compadd() {
	if [[ ${@[1,(i)(-|--)]} == *-(O|A|D)\ * ]]; then
		builtin compadd "$@"
		return
	fi
	local -a hits
	builtin compadd -A hits "$@"
	(($#hits)) && print -rl -- $hits >>$OFFERED
	builtin compadd "$@"
}
finish() { print done >$OFFERED.done; exit }
comppostfuncs=(finish)
`

// zshTypes writes a line and a tab to an interactive zsh on a terminal, and waits for its end.
const zshTypes = `zmodload zsh/zpty || exit 3
zpty shell zsh -i
zpty -w -n shell "$1"$'\t'
while zpty -r shell reply; do :; done
`

func TestZshCompletion(t *testing.T) {
	zsh := need.Program(t, "zsh")
	home, functions := t.TempDir(), t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(home, ".zshrc"), []byte(zshrc), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(functions, "_nvsysfs"), []byte(completionScript(t, "zsh")), 0o600))
	for _, tt := range completions {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "offered")
			cmd := exec.Command(zsh, "-f", "-c", zshTypes, "zsh", "nvsysfs "+strings.Join(tt.words, " "))
			cmd.Dir = completionDir(t)
			cmd.Env = append(os.Environ(), "ZDOTDIR="+home, "FUNCTIONS="+functions, "OFFERED="+file)
			out, err := cmd.CombinedOutput()
			require.NoError(t, err, "%s", out)
			require.FileExists(t, file+".done", "zsh has completed nothing: %s", out)
			out, err = os.ReadFile(file)
			if err != nil {
				require.ErrorIs(t, err, fs.ErrNotExist)
			}
			assert.Equal(t, tt.want, offered(cmd.Dir, out))
		})
	}
}

func TestCompletionErrors(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		err  string
	}{
		{"no shell", nil, "completion: 0 arguments instead of 1\nUsage: nvsysfs completion bash|zsh|fish"},
		{"two shells", []string{"bash", "zsh"}, "completion: 2 arguments instead of 1\nUsage: nvsysfs completion bash|zsh|fish"},
		{"another", []string{"tcsh\x1b[2J"}, `completion: "tcsh\x1b[2J" is none of bash, zsh, fish`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out bytes.Buffer
			err := run(append([]string{"completion"}, tt.args...), nil, &out, io.Discard)
			var misused *usageError
			require.ErrorAs(t, err, &misused)
			assert.EqualError(t, err, tt.err)
			assert.Empty(t, out.String())
		})
	}
}

// The manual page has every command, the words that may follow, and every flag.
func TestManualPage(t *testing.T) {
	data, err := os.ReadFile("../internal/dist/man/nvsysfs.8")
	require.NoError(t, err)
	var missing []string
	words := strings.Fields(string(data))
	commands := map[string]bool{}
	for line := range strings.Lines(string(data)) {
		if f := strings.Fields(line); len(f) > 2 && f[0] == ".It" && f[1] == "Cm" {
			commands[f[2]] = true
		}
	}
	want := map[string]bool{}
	for _, c := range allCompleted() {
		want[c.name] = true
		for _, f := range c.flags {
			// mdoc's Fl writes one of the dashes.
			if !slices.Contains(words, "-"+f.name) {
				missing = append(missing, c.name+" --"+f.name)
			}
		}
		for _, word := range c.words {
			if !slices.Contains(words, word) && !slices.Contains(fixtures.Names(), word) {
				missing = append(missing, c.name+" "+word)
			}
		}
	}
	assert.Equal(t, want, commands)
	assert.Empty(t, missing)
}
