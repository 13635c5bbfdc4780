// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"regexp"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

const completionHelp = `Prints what makes a shell complete the commands, flags and arguments of nvsysfs. Packages bring it along; without one:

  bash  source <(nvsysfs completion bash)
  zsh   nvsysfs completion zsh >DIR/_nvsysfs, where DIR is in fpath before compinit runs
  fish  nvsysfs completion fish | source`

// shells are those there are scripts for.
var shells = []struct {
	name  string
	write func([]completed) string
}{
	{"bash", bashCompletion},
	{"zsh", zshCompletion},
	{"fish", fishCompletion},
}

func runCompletion(i invocation) error {
	set := i.flags()
	if err := i.parse(set, 1); err != nil {
		return err
	}
	for _, shell := range shells {
		if shell.name == set.Arg(0) {
			_, err := io.WriteString(i.stdout, shell.write(allCompleted()))
			return err
		}
	}
	return &usageError{fmt.Sprintf("%s: %.100q is none of bash, zsh, fish", i.name, set.Arg(0))}
}

// completed is what can follow the name of a command, as its help tells.
type completed struct {
	name, summary string
	words         []string // for the first argument
	files         bool     // an argument may name a file or a directory
	filesLater    bool     // one after the first may
	flags         []completedFlag
}

// completedFlag is one flag with what its value is.
type completedFlag struct {
	name    string // without dashes
	value   string // as the help calls it: DIR, or yaml|json; "" is a flag without a value
	summary string // "" where the help has no line of its own for it
}

var (
	// flagInHelp is a line of its own for a flag: "  --name NAME   name of the runtime".
	flagInHelp = regexp.MustCompile(`^ +--([a-z][a-z0-9-]*)(?:[ =]([^ ]+))?(?:  +(.*))?$`)
	// word is what is to be written as it stands.
	word = regexp.MustCompile(`^[a-z][a-z0-9-]*$`)
)

// allCompleted reads the help of every command.
func allCompleted() []completed {
	var all []completed
	for _, c := range commands() {
		all = append(all, complete(c))
	}
	return append(all, completed{name: "help", summary: "the commands there are"}, completed{name: "version", summary: "which build this is"})
}

// complete reads the help of a command, and that which it has for each word that may follow it.
func complete(c command) completed {
	out := completed{name: c.name, summary: c.summary}
	flags, arguments := readUsage(c.usage)
	out.addFlags(flags)
	out.addHelp(helpText(c.name))
	for _, argument := range arguments {
		for alternative := range strings.SplitSeq(argument, "|") {
			switch {
			case word.MatchString(alternative):
				out.words = append(out.words, alternative)
				out.addHelp(helpText(c.name, alternative))
			case alternative == "FIXTURE":
				out.words = append(out.words, fixtures.Names()...)
				out.files = true
			case isFile(alternative):
				out.files = true
			}
		}
	}
	out.filesLater = out.filesLater && !out.files
	slices.SortFunc(out.flags, func(a, b completedFlag) int { return strings.Compare(a.name, b.name) })
	return out
}

// helpText is what a command prints for --help; "" where it has no help of that name.
func helpText(words ...string) string {
	var text strings.Builder
	if run(append(words, "--help"), nil, &text, io.Discard) != nil {
		return ""
	}
	return text.String()
}

// readUsage takes what follows a command's name apart:
//
//	[--output FILE [--force]] [--format yaml|json] [--name NAME | --list] DIR|FILE.txtar
//
// A word after a flag, with no bracket or bar between them, is the flag's value; the others are arguments.
func readUsage(usage string) (flags []completedFlag, arguments []string) {
	flag := -1 // of flags, if its value may follow
	for token := range strings.FieldsSeq(strings.NewReplacer("[", " [ ", "]", " ] ", "...", " ").Replace(usage)) {
		name, isFlag := strings.CutPrefix(token, "--")
		switch {
		case isFlag:
			flags = append(flags, completedFlag{name: name})
			flag = len(flags) - 1
			continue
		case token == "[" || token == "]" || token == "|":
		case flag >= 0:
			flags[flag].value = token
		default:
			arguments = append(arguments, token)
		}
		flag = -1
	}
	return flags, arguments
}

// addHelp adds the flags that a help names in its usage, or has a line for.
func (c *completed) addHelp(help string) {
	for line := range strings.Lines(help) {
		if usage, ok := strings.CutPrefix(line, "Usage:"); ok {
			flags, arguments := readUsage(usage)
			c.addFlags(flags)
			c.filesLater = c.filesLater || slices.ContainsFunc(arguments, isFile)
		}
		if m := flagInHelp.FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			c.addFlags([]completedFlag{{name: m[1], value: m[2], summary: m[3]}})
		}
	}
}

func (c *completed) addFlags(flags []completedFlag) {
	for _, f := range flags {
		i := slices.IndexFunc(c.flags, func(have completedFlag) bool { return have.name == f.name })
		switch {
		case i < 0:
			c.flags = append(c.flags, f)
		case c.flags[i].summary == "":
			c.flags[i].summary = f.summary
		}
	}
}

// isFile tells from what help calls a value whether it names a file or a directory.
func isFile(value string) bool {
	return strings.Contains(value, "FILE") || strings.Contains(value, "DIR") || strings.Contains(value, "PATH")
}

// isDirectory tells whether it can only be a directory.
func isDirectory(value string) bool { return value == "DIR" }

// choices are the values a flag can have, if these can be listed.
func (f completedFlag) choices() []string {
	if f.name == "fixture" {
		return fixtures.Names()
	}
	choices := strings.Split(f.value, "|")
	if slices.ContainsFunc(choices, func(choice string) bool { return !word.MatchString(choice) }) {
		return nil
	}
	return choices
}

// names lists the flags that are chosen, with dashes.
func (c completed) names(chosen func(completedFlag) bool) string {
	var names []string
	for _, f := range c.flags {
		if chosen(f) {
			names = append(names, "--"+f.name)
		}
	}
	return strings.Join(names, " ")
}

// bashCompletion is for bash 4 or later.
func bashCompletion(all []completed) string {
	var b strings.Builder
	var names []string
	for _, c := range all {
		names = append(names, c.name)
	}
	fmt.Fprintf(&b, `# Made by "nvsysfs completion bash".
_nvsysfs() {
	local cur=${COMP_WORDS[COMP_CWORD]} prev=${COMP_WORDS[COMP_CWORD-1]} before=$COMP_CWORD
	local words='' flags='' dirs='' files='' choices='' others='' arguments=0 reply=()
	COMPREPLY=()
	# bash takes --flag=value for three words.
	if [[ $cur == = ]]; then
		cur=''
	elif [[ $prev == = ]]; then
		((before--))
		prev=${COMP_WORDS[before-1]}
	fi
	if ((COMP_CWORD == 1)); then
		mapfile -t COMPREPLY < <(compgen -W '%s' -- "$cur")
		return
	fi
	case ${COMP_WORDS[1]} in
`, strings.Join(names, " "))
	for _, c := range all {
		fmt.Fprintf(&b, "\t%s)\n", c.name)
		for _, v := range []struct{ variable, value string }{
			{"words", strings.Join(c.words, " ")},
			{"flags", c.names(func(completedFlag) bool { return true })},
			{"dirs", c.names(func(f completedFlag) bool { return isDirectory(f.value) })},
			{"files", c.names(func(f completedFlag) bool { return isFile(f.value) && !isDirectory(f.value) })},
			{"others", c.names(func(f completedFlag) bool { return f.value != "" && !isFile(f.value) })},
		} {
			if v.value != "" {
				fmt.Fprintf(&b, "\t\t%s='%s'\n", v.variable, v.value)
			}
		}
		if c.files {
			b.WriteString("\t\targuments=1\n")
		}
		if c.filesLater {
			b.WriteString("\t\targuments=2\n")
		}
		if slices.ContainsFunc(c.flags, func(f completedFlag) bool { return f.choices() != nil }) {
			b.WriteString("\t\tcase $prev in\n")
			for _, f := range c.flags {
				if choices := f.choices(); choices != nil {
					fmt.Fprintf(&b, "\t\t--%s) choices='%s' ;;\n", f.name, strings.Join(choices, " "))
				}
			}
			b.WriteString("\t\tesac\n")
		}
		b.WriteString("\t\t;;\n")
	}
	b.WriteString(`	esac
	case " $dirs " in *" $prev "*)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -d -- "$cur")
		return
		;;
	esac
	case " $files " in *" $prev "*)
		compopt -o filenames 2>/dev/null
		mapfile -t COMPREPLY < <(compgen -f -- "$cur")
		return
		;;
	esac
	case " $others " in *" $prev "*)
		mapfile -t COMPREPLY < <(compgen -W "$choices" -- "$cur")
		return
		;;
	esac
	if [[ $cur == -* ]]; then
		mapfile -t COMPREPLY < <(compgen -W "$flags --help" -- "$cur")
		return
	fi
	if ((COMP_CWORD == 2)); then
		mapfile -t COMPREPLY < <(compgen -W "$words" -- "$cur")
	fi
	if ((arguments && COMP_CWORD > arguments)); then
		compopt -o filenames 2>/dev/null
		mapfile -t reply < <(compgen -f -- "$cur")
		COMPREPLY+=("${reply[@]}")
	elif ((${#COMPREPLY[@]} == 0)); then
		mapfile -t COMPREPLY < <(compgen -W "$flags" -- "$cur")
	fi
}
complete -F _nvsysfs nvsysfs
`)
	return b.String()
}

// zshCompletion is a file for a directory of fpath, whose name must be _nvsysfs.
func zshCompletion(all []completed) string {
	var b strings.Builder
	b.WriteString(`#compdef nvsysfs
# Made by "nvsysfs completion zsh".
_nvsysfs() {
	local curcontext=$curcontext state line
	typeset -A opt_args
	local -a commands
	commands=(
`)
	for _, c := range all {
		fmt.Fprintf(&b, "\t\t%s\n", completionWord(c.name+":"+strings.ReplaceAll(c.summary, ":", `\:`)))
	}
	b.WriteString(`	)
	_arguments -C '1:command:->command' '*::argument:->argument'
	case $state in
	command)
		_describe command commands
		;;
	argument)
		case $line[1] in
`)
	// What these stand for has a meaning in a specification of _arguments.
	plain := strings.NewReplacer("[", "(", "]", ")", ":", `\:`)
	for _, c := range all {
		fmt.Fprintf(&b, "\t\t%s)\n\t\t\t_arguments '--help'", c.name)
		for _, f := range c.flags {
			spec := "--" + f.name
			if f.summary != "" {
				spec += "[" + plain.Replace(f.summary) + "]"
			}
			switch {
			case f.choices() != nil:
				spec += ":" + f.name + ":(" + strings.Join(f.choices(), " ") + ")"
			case isDirectory(f.value):
				spec += ":" + f.value + ":_files -/"
			case isFile(f.value):
				spec += ":" + f.value + ":_files"
			case f.value != "":
				spec += ":" + f.value + ": "
			}
			b.WriteString(" \\\n\t\t\t\t" + completionWord(spec))
		}
		switch {
		case c.files && len(c.words) > 0:
			b.WriteString(" \\\n\t\t\t\t" + completionWord(`1:argument:{ _alternative "words:argument:(`+strings.Join(c.words, " ")+`)" "files:file:_files" }`))
			b.WriteString(" \\\n\t\t\t\t'*:file:_files'")
		case len(c.words) > 0:
			b.WriteString(" \\\n\t\t\t\t" + completionWord("1:argument:("+strings.Join(c.words, " ")+")"))
			if c.filesLater {
				b.WriteString(" \\\n\t\t\t\t'*:file:_files'")
			}
		case c.files:
			b.WriteString(" \\\n\t\t\t\t'*:file:_files'")
		}
		b.WriteString("\n\t\t\t;;\n")
	}
	b.WriteString("\t\tesac\n\t\t;;\n\tesac\n}\n_nvsysfs \"$@\"\n")
	return b.String()
}

// fishCompletion is for fish 3 or later.
func fishCompletion(all []completed) string {
	var b strings.Builder
	b.WriteString(`# Made by "nvsysfs completion fish".
function __nvsysfs_command
	set -l words (commandline -opc)
	test (count $words) -ge 2; and test "$words[2]" = "$argv[1]"
end
function __nvsysfs_first
	__nvsysfs_command $argv; and test (count (commandline -opc)) -eq 2
end
complete -c nvsysfs -f
`)
	for _, c := range all {
		fmt.Fprintf(&b, "complete -c nvsysfs -n 'test (count (commandline -opc)) -eq 1' -a %s -d %s\n", c.name, completionWord(c.summary))
		if len(c.words) > 0 {
			fmt.Fprintf(&b, "complete -c nvsysfs -n '__nvsysfs_first %s' -a '%s'\n", c.name, strings.Join(c.words, " "))
		}
		if c.files {
			fmt.Fprintf(&b, "complete -c nvsysfs -n '__nvsysfs_command %s' -F\n", c.name)
		}
		if c.filesLater {
			fmt.Fprintf(&b, "complete -c nvsysfs -n '__nvsysfs_command %[1]s; and not __nvsysfs_first %[1]s' -F\n", c.name)
		}
		for _, f := range c.flags {
			fmt.Fprintf(&b, "complete -c nvsysfs -n '__nvsysfs_command %s' -l %s", c.name, f.name)
			switch {
			case f.choices() != nil:
				fmt.Fprintf(&b, " -x -a '%s'", strings.Join(f.choices(), " "))
			case isDirectory(f.value):
				b.WriteString(" -x -a '(__fish_complete_directories)'")
			case isFile(f.value):
				b.WriteString(" -r -F")
			case f.value != "":
				b.WriteString(" -x")
			}
			if f.summary != "" {
				b.WriteString(" -d " + completionWord(f.summary))
			}
			b.WriteString("\n")
		}
	}
	return b.String()
}

// completionWord is a word for sh, zsh and fish alike.
func completionWord(s string) string { return "'" + strings.ReplaceAll(s, "'", `'"'"'`) + "'" }
