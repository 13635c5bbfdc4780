// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"os"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fixture"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func newFixture(i invocation) *cobra.Command {
	cmd := newFixtureList(i)
	cmd.Use, cmd.Aliases = "fixture", []string{"fixtures"}
	cmd.Short = "list fixtures, and run containers on one without a GPU"
	cmd.Long = `Fixtures are machines as text, built into nvsysfs. Without a subcommand, this
lists them.

"up" registers a fixture as a runtime with a container engine: containers
started with it see what they would see on that machine. Device nodes are
closed: nobody can open them, whatever device has their numbers here. nvidia-smi
prints the container's devices; libraries can be loaded, but have no functions.`
	cmd.Example = `  nvsysfs fixture
  nvsysfs fixture up a100-mig --engine docker`
	cmd.AddCommand(newFixtureList(i), newFixtureShow(i), newFixtureUp(i), newFixtureDown(i), newFixturePS(i))
	return cmd
}

func newFixtureList(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:     "list",
		Aliases: []string{"ls"},
		Short:   "list the built-in fixtures",
		Long: `Lists the fixtures built into nvsysfs, with one sentence on each. "nvsysfs
unpack", "nvsysfs demo" and "nvsysfs explain" take their names. "-o wide" shows
their drivers and GPUs.`,
		Example: `  nvsysfs fixture list
  nvsysfs fixture list -o wide`,
		Args: noArguments,
	}
	as := outputFlag(cmd, asWide)
	cmd.RunE = func(*cobra.Command, []string) error { return runFixtureList(i, *as) }
	return cmd
}

func newFixtureShow(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "show NAME",
		Short: "describe a fixture and its GPUs",
		Long: `Describes a fixture and its GPUs. NAME is from "nvsysfs fixture list", or an
archive file, whose name has a slash or ends in .txtar.`,
		Example: `  nvsysfs fixture show a100-mig
  nvsysfs fixture show ./machine.txtar`,
		Args:              arguments("NAME"),
		ValidArgsFunction: completeFixture,
	}
	as := outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		machine, err := readFixture(args[0])
		if err != nil {
			return err
		}
		return as.print(i.stdout, machine, []byte(machine.Description+"\n"+machine.Text()))
	}
	return cmd
}

func newFixtureUp(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up FIXTURE|FILE.txtar",
		Short: "unpack a fixture and register it with an engine",
		Long: `Unpacks a fixture, one of "nvsysfs fixture list" or an archive of "nvsysfs
capture", and registers it with an engine as a runtime with the same name.
Several fixtures can be up, each with several engines. Without --engine, it is
only unpacked, for ctr and "nvsysfs cdi generate --fixture".`,
		Example: `  nvsysfs fixture up a100-mig --engine docker
  nvsysfs fixture up ./captured.txtar --engine podman --name lab`,
		Args:              arguments("FIXTURE"),
		ValidArgsFunction: completeFixture,
	}
	var o fixture.Options
	flags := cmd.Flags()
	flags.StringVar(&o.Engine, "engine", "", "register with `docker|containerd|crio|podman`")
	flags.StringVar(&o.Name, "name", "", "the runtime's `NAME` (default: the fixture's)")
	flags.StringVar(&o.Config, "config", "", "edit the engine's configuration `FILE` instead of the usual one")
	flags.StringVar(&o.Runtime, "runtime-path", "",
		"use the runtime `FILE` (default: next to nvsysfs, else in /usr/bin)")
	fixtureDirFlag(cmd, &o.Dir)
	isOneOf(cmd, "engine", "docker", "containerd", "crio", "podman")
	isFile(cmd, "config", "runtime-path")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return runFixtureUp(i, o, args[0]) }
	return cmd
}

func newFixtureDown(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down NAME",
		Short: "unregister a fixture and remove its files",
		Long: `Unregisters the fixture's runtime from every engine that "nvsysfs fixture up"
registered it with, and removes its files.`,
		Example: `  nvsysfs fixture down a100-mig
  nvsysfs fixture down lab --dir /srv/fixtures`,
		Args: arguments("NAME"),
	}
	var dir string
	fixtureDirFlag(cmd, &dir)
	cmd.RunE = func(_ *cobra.Command, args []string) error {
		dir, err := fixtureDir(i.environ, dir)
		if err != nil {
			return err
		}
		return fixture.Down(dir, args[0], i.stdout, i.stderr)
	}
	return cmd
}

func newFixturePS(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "list the fixtures that are up, their files and engines",
		Long: `Lists each fixture that is up: its name, the directory of its files, which
other commands take as --root, and the engines it is registered with.`,
		Example: `  nvsysfs fixture ps
  nvsysfs fixture ps --dir /srv/fixtures`,
		Args: noArguments,
	}
	var dir string
	fixtureDirFlag(cmd, &dir)
	as := outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return runFixturePS(i, dir, *as) }
	return cmd
}

func fixtureDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "",
		"keep fixtures in `DIR` (default: /var/lib/nvsysfs/fixtures, or ~/.local/share/nvsysfs/fixtures)")
	isDirectory(cmd, "dir")
}

// fixtureDir returns the directory of the fixtures that are up.
func fixtureDir(environ []string, given string) (string, error) {
	if given != "" {
		return given, nil
	}
	return fixture.DefaultDir(func(name string) string { return plan.Getenv(environ, name) })
}

func runFixtureUp(i invocation, o fixture.Options, machine string) error {
	var err error
	if o.Dir, err = fixtureDir(i.environ, o.Dir); err != nil {
		return err
	}
	if o.Machine, err = fixture.Open(machine); err != nil {
		return err
	}
	if o.Name == "" {
		o.Name = strings.TrimSuffix(path.Base(machine), ".txtar")
	}
	if o.Program, err = os.Executable(); err != nil {
		return err
	}
	o.Getenv = func(name string) string { return plan.Getenv(i.environ, name) }
	return fixture.Up(o, i.stdout, i.stderr)
}

// fixtureRoot returns the root directory of a fixture that is up.
func fixtureRoot(environ []string, name string) (string, error) {
	dir, err := fixtureDir(environ, "")
	if err != nil {
		return "", err
	}
	machines, err := fixture.List(dir)
	if err != nil {
		return "", err
	}
	for _, m := range machines {
		if m.Name == name {
			return m.Root, nil
		}
	}
	return "", fmt.Errorf("no fixture %.100q is up: "+
		"\"nvsysfs fixture up\" unpacks one, \"nvsysfs fixture ps\" shows which are", name)
}

func runFixturePS(i invocation, dir string, as outputFormat) error {
	dir, err := fixtureDir(i.environ, dir)
	if err != nil {
		return err
	}
	machines, err := fixture.List(dir)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, m := range machines {
		var engines []string
		for _, r := range m.Engines {
			engines = append(engines, r.Engine)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", m.Name, m.Root, strings.Join(engines, ","))
	}
	_ = table.Flush() // to a buffer
	return as.print(i.stdout, machines, out.Bytes())
}

// shownFixture is a fixture in JSON.
type shownFixture struct {
	Name        string `json:"name"`
	Description string `json:"description"`
	listing.Listing
}

func readFixture(name string) (shownFixture, error) {
	machine, err := fixture.Open(name)
	if err != nil {
		return shownFixture{}, err
	}
	gpus, err := fixture.GPUs(machine)
	return shownFixture{name, machine.Comment, gpus}, err
}

func runFixtureList(i invocation, as outputFormat) error {
	var machines []shownFixture
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	if as == asWide {
		fmt.Fprintln(table, "NAME\tDRIVER\tGPUS\tMIG\tMODEL\tDESCRIPTION")
	}
	for _, name := range fixtures.Names() {
		if as == asTable {
			machine, err := fixtures.Load(name)
			if err != nil {
				return err
			}
			fmt.Fprintf(table, "%s\t%s\n", name, firstSentence(machine.Comment))
			continue
		}
		m, err := readFixture(name)
		if err != nil {
			return err
		}
		machines = append(machines, m)
		driver, model, mig := "", "", 0
		if m.Driver != nil {
			driver = m.Driver.Version
		}
		for _, g := range m.GPUs {
			model, mig = cmp.Or(model, g.Model), mig+len(g.Instances)
		}
		fmt.Fprintf(table, "%s\t%s\t%d\t%d\t%s\t%s\n",
			name, cmp.Or(driver, "-"), len(m.GPUs), mig, cmp.Or(model, "-"), firstSentence(m.Description))
	}
	_ = table.Flush() // to a buffer
	return as.print(i.stdout, machines, out.Bytes())
}

// firstSentence returns the text up to a period before a space or a newline.
func firstSentence(text string) string {
	text, _, _ = strings.Cut(strings.TrimSpace(text), "\n")
	sentence, _, found := strings.Cut(text, ". ")
	if found {
		return sentence + "."
	}
	return sentence
}
