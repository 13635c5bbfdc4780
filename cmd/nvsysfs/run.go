// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"unicode"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/version"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// invocation is what a command gets from outside.
type invocation struct {
	environ []string
	stdout  io.Writer
	stderr  io.Writer
}

// Groups of commands in the help text.
const (
	groupLook  = "look"
	groupSetUp = "setup"
	groupTest  = "test"
)

// usageError is an error of the command line: the exit status is 2.
type usageError struct{ text string }

func (e *usageError) Error() string { return e.text }

// newRoot returns the whole command line.
func newRoot(i invocation) *cobra.Command {
	root := &cobra.Command{
		Use:   "nvsysfs",
		Short: "inspect a machine's NVIDIA GPUs and set up containers for them",
		Long: `nvsysfs shows what nvidia-container-runtime.experimental sees of a machine,
finds problems that keep containers from using GPUs, and registers the runtime
with Docker, containerd, CRI-O and podman.`,
		Version:       strings.TrimPrefix(version.Line("nvsysfs"), "nvsysfs version "),
		SilenceErrors: true,
		SilenceUsage:  true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return &usageError{"missing command\n\n" + strings.TrimSuffix(cmd.UsageString(), "\n")}
		},
	}
	root.AddGroup(
		&cobra.Group{ID: groupLook, Title: "Look at a machine:"},
		&cobra.Group{ID: groupSetUp, Title: "Set up container engines:"},
		&cobra.Group{ID: groupTest, Title: "Test without a GPU:"},
	)
	for _, group := range []struct {
		id       string
		commands []*cobra.Command
	}{
		{groupLook, []*cobra.Command{newList(i), newInfo(i), newDoctor(i), newExplain(i), newPS(i)}},
		{groupSetUp, []*cobra.Command{newConfigure(i), newConfig(i), newCDI(i), newLearn(i)}},
		{groupTest, []*cobra.Command{newDemo(i), newFixture(i), newUnpack(i), newCapture(i)}},
	} {
		for _, cmd := range group.commands {
			cmd.GroupID = group.id
			root.AddCommand(cmd)
		}
	}
	root.AddCommand(newVersion(i))
	root.SetVersionTemplate("nvsysfs version {{.Version}}\n")
	root.SetUsageTemplate(strings.ReplaceAll(root.UsageTemplate(), "FlagUsages", "FlagUsagesWrapped 79"))
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		var unknown *pflag.NotExistError
		if !errors.As(err, &unknown) || len(unknown.GetSpecifiedName()) < 2 {
			return err
		}
		flags := &cobra.Command{} // cobra suggests only commands, so flags become some
		cmd.Flags().VisitAll(func(f *pflag.Flag) {
			flags.AddCommand(&cobra.Command{
				Use: "--" + f.Name, Hidden: f.Hidden, Run: func(*cobra.Command, []string) {},
			})
		})
		return fmt.Errorf("%w%s", err, didYouMean(flags, "--"+unknown.GetSpecifiedName()))
	})
	root.SetOut(i.stdout)
	root.SetErr(i.stderr)
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	forEach(root, func(cmd *cobra.Command) {
		switch {
		case cmd.Name() == "completion":
			cmd.Short = "print a completion script for a shell"
		case cmd.Name() == "powershell":
			cmd.Hidden = true
		}
		if cmd.HasSubCommands() && !cmd.Runnable() {
			demandSubcommand(cmd)
		}
	})
	return root
}

func newVersion(i invocation) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "print the version", Args: noArguments,
		RunE: func(*cobra.Command, []string) error {
			_, err := fmt.Fprintln(i.stdout, version.Line("nvsysfs"))
			return err
		},
	}
}

// run executes a command line.
func run(args, environ []string, stdout, stderr io.Writer) error {
	root := newRoot(invocation{environ, stdout, stderr})
	root.SetArgs(args)
	started := false
	forEach(root, func(cmd *cobra.Command) {
		if body := cmd.RunE; body != nil {
			cmd.RunE = func(cmd *cobra.Command, args []string) error {
				started = true
				return body(cmd, args)
			}
		}
	})
	cmd, err := root.ExecuteC()
	if err == nil || started {
		return err
	}
	text := strings.Map(func(r rune) rune { // pflag quotes arguments as they are
		if r < ' ' && r != '\n' && r != '\t' || r == 0x7f {
			return unicode.ReplacementChar
		}
		return r
	}, strings.TrimRight(err.Error(), "\n"))
	if _, name, below := strings.Cut(cmd.CommandPath(), " "); below {
		text = name + ": " + text
	}
	return &usageError{fmt.Sprintf("%s\nSee %q.", text, cmd.CommandPath()+" --help")}
}

// forEach visits a command and its subcommands.
func forEach(cmd *cobra.Command, visit func(*cobra.Command)) {
	visit(cmd)
	for _, sub := range cmd.Commands() {
		forEach(sub, visit)
	}
}

// demandSubcommand makes a command fail without a known subcommand.
func demandSubcommand(cmd *cobra.Command) {
	cmd.RunE = func(*cobra.Command, []string) error { return nil } // Args never lets it run
	cmd.Args = func(cmd *cobra.Command, args []string) error {
		var names []string
		for _, sub := range cmd.Commands() {
			names = append(names, sub.Name())
		}
		choices := orList(names)
		if len(args) == 0 {
			return fmt.Errorf("missing subcommand: %s", choices)
		}
		return fmt.Errorf("unknown subcommand %.100q: want %s%s", args[0], choices, didYouMean(cmd, args[0]))
	}
}

// orList returns "a, b or c".
func orList(names []string) string {
	last := len(names) - 1
	if last == 0 {
		return names[0]
	}
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// didYouMean suggests a subcommand with a similar name.
func didYouMean(cmd *cobra.Command, word string) string {
	cmd.SuggestionsMinimumDistance = 2
	if similar := cmd.SuggestionsFor(word); len(similar) > 0 {
		return fmt.Sprintf("\nDid you mean %q?", similar[0])
	}
	return ""
}

// noArguments is [cobra.NoArgs] with a better message.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return fmt.Errorf("unexpected argument %.100q%s", args[0], didYouMean(cmd, args[0]))
	}
	return nil
}

// arguments requires one argument for each name.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < len(names) {
			return fmt.Errorf("missing argument %s", names[len(args)])
		}
		return noArguments(cmd, args[len(names):])
	}
}

// rootFlag defines --root.
func rootFlag(cmd *cobra.Command, value string) *string {
	root := cmd.Flags().String("root", value, "read the machine below the root directory `DIR`")
	isDirectory(cmd, "root")
	cmd.PreRunE = func(*cobra.Command, []string) error {
		if *root == "" && cmd.Flags().Changed("root") {
			return errors.New("--root is empty: omit it for this machine")
		}
		return nil
	}
	return root
}

// isDirectory makes shells complete directories for the flags.
func isDirectory(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		must(cmd.MarkFlagDirname(name))
	}
}

// isFile makes shells complete files for the flags.
func isFile(cmd *cobra.Command, flags ...string) {
	for _, name := range flags {
		must(cmd.MarkFlagFilename(name))
	}
}

// isOneOf makes shells complete values for a flag.
func isOneOf(cmd *cobra.Command, flag string, values ...string) {
	must(cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp)))
}

// must is for errors that only an undefined flag can cause.
func must(err error) {
	if err != nil {
		panic(err)
	}
}

// completeFixture completes the first argument: the name of a fixture, or an archive.
func completeFixture(_ *cobra.Command, args []string, word string) ([]string, cobra.ShellCompDirective) {
	if len(args) > 0 || strings.Contains(word, "/") {
		return nil, cobra.ShellCompDirectiveDefault
	}
	return fixtures.Names(), cobra.ShellCompDirectiveDefault
}

// exitCode prints an error and returns the exit status: 2 for errors of the command line, 1 for
// others.
func exitCode(err error, stderr io.Writer) int {
	if err == nil {
		return 0
	}
	_, _ = fmt.Fprintf(stderr, "nvsysfs: %s\n", err)
	var misused *usageError
	if errors.As(err, &misused) {
		return 2
	}
	return 1
}
