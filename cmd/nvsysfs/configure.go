// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
)

func newConfigure(i invocation) *cobra.Command {
	var engines []*cobra.Command
	for _, name := range configure.Engines() {
		engines = append(engines, newConfigureEngine(i, name))
	}
	cmd := &cobra.Command{
		Use:   "configure",
		Short: "register the runtime with a container engine",
		Long: `Registers nvidia-container-runtime.experimental with a container engine, or
unregisters it with --remove. Only our own entries in the engine's files change:
comments, order and unknown keys stay, and a second run changes nothing.
It prints what to restart, and restarts nothing.`,
		Example: `  nvsysfs configure docker --gpus
  nvsysfs configure containerd --runtime-class | kubectl apply -f -`,
	}
	cmd.AddCommand(engines...)
	return cmd
}

func newConfigureEngine(i invocation, engine string) *cobra.Command {
	cmd := &cobra.Command{
		Use:   engine,
		Short: "register the runtime with " + engine,
		Long: fmt.Sprintf(`Registers nvidia-container-runtime.experimental with %s, or with
--remove unregisters it. A second run changes nothing.`, engine),
		Example: fmt.Sprintf("  nvsysfs configure %[1]s --dry-run\n  nvsysfs configure %[1]s --remove", engine),
		Args:    noArguments,
	}
	var f configure.Flags
	flags := flag.NewFlagSet(engine, flag.ContinueOnError)
	f.Define(engine, flags)
	cmd.Flags().AddGoFlagSet(flags)
	for _, name := range []string{"config", "runtime-path"} {
		if flags.Lookup(name) != nil {
			isFile(cmd, name)
		}
	}
	isDirectory(cmd, "root")
	cmd.RunE = func(*cobra.Command, []string) error {
		err := configure.Run(f, i.stdout, i.stderr)
		if errors.Is(err, configure.ErrUsage) {
			text := strings.TrimPrefix(err.Error(), configure.ErrUsage.Error()+": ")
			return &usageError{"configure " + engine + ": " + text}
		}
		return err
	}
	return cmd
}
