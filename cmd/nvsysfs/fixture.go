// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"path"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/fixture"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

func newFixture(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "fixture",
		Short: "run containers on a fixture, without a GPU",
		Long: `Makes a fixture a runtime of a container engine: containers that are started
with it see what they would see on that machine. Device nodes are closed: nobody
can open them, whatever has their numbers here. nvidia-smi prints the
container's devices; libraries can be loaded, and have no functions.`,
		Example: `  nvsysfs fixture up a100-mig --engine docker
  nvsysfs fixture down a100-mig`,
	}
	cmd.AddCommand(newFixtureUp(i), newFixtureDown(i), newFixtureList(i))
	return cmd
}

func newFixtureUp(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "up FIXTURE|FILE.txtar",
		Short: "unpack a fixture and register it with an engine",
		Long: `Unpacks a fixture, one of "nvsysfs fixtures" or an archive of "nvsysfs capture",
and registers it with an engine as a runtime named after it. Several fixtures
can be up, and one with several engines. Without --engine it is only unpacked,
for ctr and "nvsysfs cdi generate --fixture".`,
		Example: `  nvsysfs fixture up a100-mig --engine docker
  nvsysfs fixture up ./captured.txtar --engine podman --name lab`,
		Args:              arguments("FIXTURE"),
		ValidArgsFunction: completeFixture,
	}
	var o fixture.Options
	flags := cmd.Flags()
	flags.StringVar(&o.Engine, "engine", "", "register with `docker|containerd|crio|podman`")
	flags.StringVar(&o.Name, "name", "", "the runtime's `NAME` (default: the fixture's)")
	flags.StringVar(&o.Config, "config", "", "edit the engine's `FILE` instead of its usual one")
	flags.StringVar(&o.Runtime, "runtime-path", "", "the runtime is `FILE` (default: beside nvsysfs, else in /usr/bin)")
	fixtureDirFlag(cmd, &o.Dir)
	isOneOf(cmd, "engine", "docker", "containerd", "crio", "podman")
	isFile(cmd, "config", "runtime-path")
	cmd.RunE = func(_ *cobra.Command, args []string) error { return runFixtureUp(i, o, args[0]) }
	return cmd
}

func newFixtureDown(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "down NAME",
		Short: "take a fixture out of the engines, and remove it",
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

func newFixtureList(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the fixtures that are up, their files and engines",
		Long: `Lists each fixture that is up: its name, the directory of its files, which
other commands take as --root, and the engines it is registered with.`,
		Example: `  nvsysfs fixture list
  nvsysfs fixture list --dir /srv/fixtures`,
		Args: noArguments,
	}
	var dir string
	fixtureDirFlag(cmd, &dir)
	cmd.RunE = func(*cobra.Command, []string) error { return runFixtureList(i, dir) }
	return cmd
}

func fixtureDirFlag(cmd *cobra.Command, dir *string) {
	cmd.Flags().StringVar(dir, "dir", "", "keep fixtures in `DIR` (default: /var/lib/nvsysfs/fixtures, or ~/.local/share/nvsysfs/fixtures)")
	isDirectory(cmd, "dir")
}

// fixtureDir is the directory of the fixtures that are up.
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

// fixtureRoot is the directory of the files of a machine that is up.
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
	return "", fmt.Errorf("no fixture %.100q is up: \"nvsysfs fixture up\" unpacks one, \"nvsysfs fixture list\" shows which are", name)
}

func runFixtureList(i invocation, dir string) error {
	dir, err := fixtureDir(i.environ, dir)
	if err != nil {
		return err
	}
	machines, err := fixture.List(dir)
	if err != nil {
		return err
	}
	table := tabwriter.NewWriter(i.stdout, 0, 0, 2, ' ', 0)
	for _, m := range machines {
		var engines []string
		for _, r := range m.Engines {
			engines = append(engines, r.Engine)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", m.Name, m.Root, strings.Join(engines, ","))
	}
	return table.Flush()
}
