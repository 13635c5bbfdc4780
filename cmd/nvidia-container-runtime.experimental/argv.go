// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import "strings"

// invocation is what this program learns from a low-level runtime's command
// line. The words themselves are handed on as they came.
type invocation struct {
	command   string // first word that is neither a global option nor its value; "" if none
	help      bool   // help or version is asked for: the runtime prints and exits
	version   bool   // --version, -v (-V) before any command
	bundle    string // value of the last -b or --bundle after create or run; "" = current directory
	config    string // value of crun's -f or --config after create or run; "" = config.json in the bundle
	log       string // value of --log
	logFormat string // value of --log-format
	debug     bool   // --debug

	systemdCgroup bool // --systemd-cgroup, or crun's --cgroup-manager=systemd
}

// intercepted tells whether this invocation creates a container.
func (inv invocation) intercepted() bool {
	return (inv.command == "create" || inv.command == "run") && !inv.help
}

// dialect is the option syntax of a low-level runtime. runc uses a library
// of the Go flag family: one or two dashes are alike, options may follow
// the container's id. crun uses GNU argp: long options take two dashes and
// may be abbreviated, short ones may be joined with each other and with
// their value, and the command's options end at the first other word.
type dialect struct {
	gnu     bool
	global  map[string]bool // option name to "takes a value"
	command map[string]bool // options of create and run together
	names   map[string]bool // known commands
}

// Option tables: runc's main.go, create.go and run.go (1.0 to 1.5),
// crun's crun.c, create.c and run.c (1.0 to 1.29).
var (
	runcDialect = dialect{
		global: map[string]bool{
			"log": true, "log-format": true, "root": true, "rootless": true, "criu": true,
			"debug": false, "systemd-cgroup": false,
			"version": false, "v": false, "help": false, "h": false,
		},
		command: map[string]bool{
			"bundle": true, "b": true, "console-socket": true, "pidfd-socket": true, "pid-file": true, "preserve-fds": true,
			"no-pivot": false, "no-new-keyring": false, "no-subreaper": false, "detach": false, "d": false, "keep": false,
			"help": false, "h": false,
			// runc 1.5 accepts its global options here, too.
			"log": true, "log-format": true, "root": true, "rootless": true, "debug": false, "systemd-cgroup": false,
		},
		names: words("checkpoint create delete events exec kill list pause ps restore resume run spec start state update features help h init"),
	}
	crunDialect = dialect{
		gnu: true,
		global: map[string]bool{
			"cgroup-manager": true, "log": true, "log-format": true, "log-level": true, "root": true, "rootless": true,
			"debug": false, "systemd-cgroup": false,
			"version": false, "v": false, "V": false, "help": false, "?": false, "usage": false,
		},
		command: map[string]bool{
			"bundle": true, "b": true, "config": true, "f": true, "console-socket": true, "pid-file": true, "preserve-fds": true,
			"no-pivot": false, "no-new-keyring": false, "no-subreaper": false, "detach": false, "d": false, "keep": false,
			"help": false, "?": false, "usage": false, "version": false, "V": false,
		},
		names: words("checkpoint create delete exec list kill ps run spec start state update pause resume features restore mounts"),
	}
)

func words(s string) map[string]bool {
	m := make(map[string]bool)
	for w := range strings.FieldsSeq(s) {
		m[w] = true
	}
	return m
}

// parseArgs reads args, the command line without the program's own name, as
// the low-level runtime of that dialect would.
func parseArgs(d dialect, args []string) invocation {
	var inv invocation
	rest := d.options(d.global, args, func(name, value string) { inv.set(name, value, true) }, true)
	if len(rest) == 0 {
		return inv
	}
	inv.command = rest[0]
	if inv.command != "create" && inv.command != "run" {
		return inv
	}
	rest = rest[1:]
	for len(rest) > 0 {
		rest = d.options(d.command, rest, func(name, value string) { inv.set(name, value, false) }, false)
		// What is left starts with a word. runc takes options behind it; for
		// crun, and behind "--", options have ended.
		if len(rest) == 0 || d.gnu || rest[0] == "--" {
			break
		}
		rest = rest[1:]
	}
	return inv
}

// set takes one option.
func (inv *invocation) set(name, value string, global bool) {
	on := value != "false" && value != "0" && value != "f" && value != "F" && value != "FALSE" && value != "False"
	switch name {
	case "log":
		inv.log = value
	case "log-format":
		inv.logFormat = value
	case "debug":
		inv.debug = on
	case "systemd-cgroup":
		inv.systemdCgroup = on
	case "cgroup-manager":
		inv.systemdCgroup = value == "systemd"
	case "bundle", "b":
		inv.bundle = value
	case "config", "f":
		inv.config = value
	case "help", "h", "?", "usage":
		inv.help = inv.help || on
	case "version", "v", "V":
		inv.help = inv.help || on
		inv.version = inv.version || on && global
	}
}

// options takes the options at the head of args and returns what follows:
// nothing, a list that starts with the first other word, or, for a
// command's options, one that starts with "--".
func (d dialect) options(known map[string]bool, args []string, set func(name, value string), global bool) []string {
	for len(args) > 0 {
		word := args[0]
		if word == "--" {
			if global {
				return args[1:]
			}
			return args
		}
		if len(word) < 2 || word[0] != '-' {
			return args
		}
		args = args[1:]
		if d.gnu && word[1] != '-' {
			args = d.cluster(known, word[1:], args, set)
			continue
		}
		name, value, joined := strings.Cut(strings.TrimPrefix(word[1:], "-"), "=")
		if d.gnu {
			name = complete(known, name)
		}
		takes, ok := known[name]
		switch {
		case joined:
		case ok && takes, !ok && global && len(args) > 1 && !strings.HasPrefix(args[0], "-") && !d.names[args[0]]:
			// An option that is not known may or may not take a value: if
			// the next word is a command, it does not.
			if len(args) > 0 {
				value, args = args[0], args[1:]
			}
		}
		set(name, value)
	}
	return nil
}

// cluster takes a word of short options, "-dbDIR", and returns what follows.
func (d dialect) cluster(known map[string]bool, letters string, args []string, set func(name, value string)) []string {
	for i := range len(letters) {
		name := letters[i : i+1]
		if !known[name] {
			set(name, "")
			continue
		}
		value := letters[i+1:]
		if value == "" && len(args) > 0 {
			value, args = args[0], args[1:]
		}
		set(name, value)
		break
	}
	return args
}

// complete returns the long option that name stands for: itself, or the only
// one it begins.
func complete(known map[string]bool, name string) string {
	if _, ok := known[name]; ok || name == "" {
		return name
	}
	found := name
	n := 0
	for k := range known {
		if len(k) > 1 && strings.HasPrefix(k, name) {
			found = k
			n++
		}
	}
	if n == 1 {
		return found
	}
	return name
}
