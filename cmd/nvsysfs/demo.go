// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/demo"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

func newDemo(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "demo",
		Short: "start a container through the runtime, with or without a GPU",
		Long: `Starts a container through nvidia-container-runtime.experimental, which must be
beside this program or in PATH, and shows what it got. If this machine has no
NVIDIA driver, or with --fixture, a fixture stands in for the machine: the
container really starts, but there is no driver behind its device nodes.

Starting a container requires root and runc or crun; without them, a table shows
what it would get. All files are created in a temporary directory, which is
removed.`,
		Example: `  nvsysfs demo
  nvsysfs demo --fixture t4`,
		Args: noArguments,
	}
	fixture := cmd.Flags().String("fixture", "", "the machine: a `NAME` from \"nvsysfs fixture list\"")
	isOneOf(cmd, "fixture", fixtures.Names()...)
	inside := cmd.Flags().Bool("inside", false, "what the container runs")
	must(cmd.Flags().MarkHidden("inside"))
	cmd.RunE = func(*cobra.Command, []string) error {
		if *inside {
			return demo.Inside(i.stdout)
		}
		return demo.Run(*fixture, i.environ, i.stdout, i.stderr)
	}
	return cmd
}
