// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/info"
)

func newInfo(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info",
		Short: "show driver, device nodes, engines and configuration",
		Long: `Shows a page about the machine as nvidia-container-runtime.experimental sees it:
the driver and its kernel modules, the GPUs, the number of device nodes and
driver files, the container engines, and the configuration keys that differ from
their defaults. "-o wide" lists all MIG devices, nodes, directories and keys.`,
		Example: `  nvsysfs info
  nvsysfs info -o wide --root /mnt/image`,
		Args: noArguments,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd, asWide)
	cmd.RunE = func(*cobra.Command, []string) error {
		machine, err := info.Read(*dir, i.environ)
		if err != nil {
			return err
		}
		return as.print(i.stdout, machine, machine.Text(*as == asWide))
	}
	return cmd
}
