// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"strings"
)

// invocation is a low-level runtime's command line, as far as we need it. The arguments themselves
// are passed on unchanged.
type invocation struct {
	command   string // first word that is neither a global option nor its value; "" if none
	help      bool   // help or version is requested: the runtime prints and exits
	version   bool   // --version, -v (-V) before any command
	nameless  bool   // create, run or restore without a container's name
	bundle    string // value of the last -b or --bundle after one of these; "" = current directory
	config    string // value of crun's -f or --config after create or run; "" = config.json in the bundle
	images    string // value of --image-path after restore
	root      string // value of --root
	log       string // value of --log
	logFormat string // value of --log-format
	debug     bool   // --debug
	resources string // value of crun's -r or --resources after update

	systemdCgroup bool // --systemd-cgroup, or crun's --cgroup-manager=systemd

	rest     []string // the arguments after the command
	operands []string // the arguments after the options of crun's update
}

// creates reports whether the command creates a container.
func (inv invocation) creates() bool {
	return inv.command == "create" || inv.command == "run" || inv.command == "restore"
}

// intercepted reports whether this invocation creates a container.
func (inv invocation) intercepted() bool {
	return inv.creates() && !inv.help && !inv.nameless
}

// configFile is the bundle's config.json, or the file that crun's --config names.
func (inv invocation) configFile() string {
	if inv.config == "" || inv.config == "config.json" {
		return filepath.Join(inv.bundle, "config.json")
	}
	return inv.config
}

// dialect is the option syntax of a low-level runtime. runc parses options like Go's flag package:
// one or two dashes are equivalent, and options may follow the container's id. crun uses GNU argp:
// long options need two dashes and may be abbreviated, short ones may be combined with each other
// and with their value, and the command's options end at the first other word.
type dialect struct {
	gnu     bool
	global  options
	command options // of create and run
	restore options // of restore, in addition
	update  options // of update, if we need them
	names   options // known commands
}

// options are names separated by spaces; "=" marks those that take a value. Unlike a map, a string
// needs no initialization at each start.
type options string

// find reports whether name is one of the options, and whether it takes a value.
func (o options) find(name string) (takesValue, known bool) {
	for word := range strings.FieldsSeq(string(o)) {
		if found, takes := strings.CutSuffix(word, "="); found == name {
			return takes, true
		}
	}
	return false, false
}

// Option tables: runc's main.go, create.go, run.go and restore.go (1.0 to
// 1.5), crun's crun.c, create.c, run.c and restore.c (1.0 to 1.29).
var (
	runcDialect = dialect{
		global: "log= log-format= root= rootless= criu= debug systemd-cgroup version v help h",
		// runc 1.5 also accepts the global options in the last line.
		command: "bundle= b= console-socket= pidfd-socket= pid-file= preserve-fds= no-pivot no-new-keyring " +
			"no-subreaper detach d keep help h " +
			"log= log-format= root= rootless= debug systemd-cgroup",
		restore: "image-path= work-path= tcp-established ext-unix-sk shell-job file-locks manage-cgroups-mode= " +
			"empty-ns= auto-dedup lazy-pages lsm-profile= lsm-mount-context=",
		names: "checkpoint create delete events exec kill list pause ps restore resume run spec start state " +
			"update features help h init",
	}
	crunDialect = dialect{
		gnu: true,
		global: "cgroup-manager= log= log-format= log-level= root= rootless= debug systemd-cgroup " +
			"version v V help ? usage",
		command: "bundle= b= config= f= console-socket= pid-file= preserve-fds= no-pivot no-new-keyring " +
			"no-subreaper detach d keep help ? usage version V",
		restore: "image-path= work-path= tcp-established tcp-close ext-unix-sk shell-job file-locks " +
			"manage-cgroups-mode= lsm-profile= lsm-mount-context=",
		update: "resources= r= blkio-weight= cpu-period= cpu-quota= cpu-share= cpu-rt-period= cpu-rt-runtime= " +
			"cpuset-cpus= cpuset-mems= kernel-memory= kernel-memory-tcp= memory= memory-reservation= memory-swap= " +
			"pids-limit= l3-cache-schema= mem-bw-schema=",
		names: "checkpoint create delete exec list kill ps run spec start state update pause resume features " +
			"restore mounts",
	}
)

// parseArgs parses args, the command line without the program's name, as the low-level runtime of
// that dialect would.
func parseArgs(d dialect, args []string) invocation {
	var inv invocation
	rest := d.options(d.global, args, func(name, value string) { inv.set(name, value, true) }, true)
	if len(rest) == 0 {
		return inv
	}
	inv.command = rest[0]
	rest = rest[1:]
	inv.rest = rest
	if inv.command == "update" && d.update != "" {
		inv.operands = d.options(d.update, rest, func(name, value string) { inv.set(name, value, false) }, false)
	}
	if !inv.creates() {
		return inv
	}
	known := d.command
	if inv.command == "restore" {
		known += " " + d.restore
	}
	inv.nameless = true
	for len(rest) > 0 {
		rest = d.options(known, rest, func(name, value string) { inv.set(name, value, false) }, false)
		// rest starts with a word. runc accepts options after it; in crun, and after "--", options
		// have ended.
		if len(rest) > 0 && rest[0] == "--" {
			inv.nameless = inv.nameless && len(rest) == 1
			break
		}
		inv.nameless = inv.nameless && len(rest) == 0
		if len(rest) == 0 || d.gnu {
			break
		}
		rest = rest[1:]
	}
	return inv
}

// set stores one option.
func (inv *invocation) set(name, value string, global bool) {
	on := value != "false" && value != "0" && value != "f" && value != "F" && value != "FALSE" && value != "False"
	switch name {
	case "root":
		inv.root = value
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
	case "image-path":
		inv.images = value
	case "resources", "r":
		inv.resources = value
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
func (d dialect) options(known options, args []string, set func(name, value string), global bool) []string {
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
		takes, ok := known.find(name)
		switch {
		case joined:
		case ok && takes, !ok && global && len(args) > 1 && !strings.HasPrefix(args[0], "-") && !d.isCommand(args[0]):
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

func (d dialect) isCommand(word string) bool {
	_, known := d.names.find(word)
	return known
}

// cluster takes a word of short options, "-dbDIR", and returns what follows.
func (d dialect) cluster(known options, letters string, args []string, set func(name, value string)) []string {
	for i := range len(letters) {
		name := letters[i : i+1]
		if takes, _ := known.find(name); !takes {
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
func complete(known options, name string) string {
	if _, ok := known.find(name); ok || name == "" {
		return name
	}
	found := name
	n := 0
	for word := range strings.FieldsSeq(string(known)) {
		if k := strings.TrimSuffix(word, "="); len(k) > 1 && strings.HasPrefix(k, name) {
			found = k
			n++
		}
	}
	if n == 1 {
		return found
	}
	return name
}
