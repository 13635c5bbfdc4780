// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version"
)

// invocation is what a subcommand gets from outside.
type invocation struct {
	name    string   // of the subcommand
	usage   string   // its words after the name
	args    []string // what follows the name on the command line
	environ []string
	stdout  io.Writer
	stderr  io.Writer
}

// command is a subcommand.
type command struct {
	name    string
	usage   string // flags and arguments
	summary string // for the list of commands
	help    string // what the flags and arguments mean
	run     func(invocation) error
}

func commands() []command {
	return []command{
		{"list", "[--root DIR] [--json]", "the GPUs of a machine and their MIG devices", listHelp, runList},
		{"info", "[--root DIR]", "a machine, its driver, engines and configuration in one page", infoHelp, runInfo},
		{"doctor", "[--root DIR] [--json]", "check a machine for what keeps containers from their GPUs", doctorHelp, runDoctor},
		{"explain", "[--bundle DIR] [--config FILE] [--systemd-cgroup] [--root DIR] [--json]", "what the runtime would change for a container, and why", explainHelp, runExplain},
		{"learn", "[--root DIR] [--from FILE]... [--output FILE] [--dry-run] [--if-changed]", "learn the UUIDs of MIG devices from nvidia-smi, for containers that ask for MIG-<uuid>", learnHelp, runLearn},
		{"configure", "docker|containerd|crio|podman [FLAG...]", "register the runtime with an engine", "", runConfigure},
		{"cdi", "generate|list|check [FLAG...]", "describe the GPUs for engines that read CDI files, and check such files", cdiHelp, runCDI},
		{"capture", "[--scrub] [--root DIR] DIR|FILE.txtar", "keep what a machine shows of its GPUs, as a tree or an archive", captureHelp, runCapture},
		{"unpack", "FIXTURE DIR", "make a tree of an archive: one of `nvsysfs fixtures`, or a file", unpackHelp, runUnpack},
		{"demo", "[--fixture NAME]", "start a container through the runtime and look at it from inside", demoHelp, runDemo},
		{"fixtures", "", "the machines this program carries", fixturesHelp, runFixtures},
		{"completion", "bash|zsh|fish", "what makes a shell complete the command line of nvsysfs", completionHelp, runCompletion},
	}
}

// usageError is a command line that was not understood: the exit code is 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// errHelp says that help was asked for and has been printed.
var errHelp = errors.New("help was printed")

func run(args, environ []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return &usageError{"a command is missing\n\n" + strings.TrimSuffix(usage(), "\n")}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		_, err := io.WriteString(stdout, usage())
		return err
	case "version", "-version", "--version":
		_, err := fmt.Fprintln(stdout, version.Line("nvsysfs"))
		return err
	}
	for _, c := range commands() {
		if c.name != args[0] {
			continue
		}
		err := c.run(invocation{c.name, c.usage, args[1:], environ, stdout, stderr})
		if errors.Is(err, errHelp) {
			_, err := fmt.Fprintf(stdout, "Usage: nvsysfs %s\n\n%s\n", strings.TrimSpace(c.name+" "+c.usage), c.help)
			return err
		}
		return err
	}
	return &usageError{fmt.Sprintf("there is no command %.100q\n\n%s", args[0], strings.TrimSuffix(usage(), "\n"))}
}

func usage() string {
	var b strings.Builder
	b.WriteString("Usage: nvsysfs COMMAND [ARGUMENT...]\n\nLooks at a machine as nvidia-container-runtime.experimental does. Commands:\n\n")
	for _, c := range commands() {
		fmt.Fprintf(&b, "  %-10s %s\n", c.name, c.summary)
	}
	b.WriteString("\n`nvsysfs COMMAND --help` has the flags of one.\n")
	return b.String()
}

// flags returns an empty set of flags for the subcommand.
func (i invocation) flags() *flag.FlagSet {
	set := flag.NewFlagSet(i.name, flag.ContinueOnError)
	set.SetOutput(io.Discard)
	return set
}

// parse reads the command line into the flags and demands that so many arguments follow them.
func (i invocation) parse(set *flag.FlagSet, arguments int) error {
	err := set.Parse(i.args)
	if errors.Is(err, flag.ErrHelp) {
		return errHelp
	}
	if err == nil && set.NArg() != arguments {
		err = fmt.Errorf("%d arguments instead of %d", set.NArg(), arguments)
	}
	if err != nil {
		return &usageError{fmt.Sprintf("%s: %s\nUsage: nvsysfs %s", i.name, err, strings.TrimSpace(i.name+" "+i.usage))}
	}
	return nil
}

// exitCode prints an error and returns what the process exits with: 2 for a command line that was not understood, 1 for
// everything else that failed.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	// Nothing is left to be done if stderr cannot be written.
	_, _ = fmt.Fprintf(stderr, "nvsysfs: %s\n", err)
	var misused *usageError
	if errors.As(err, &misused) {
		return 2
	}
	return 1
}
