// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/learn"
)

func newLearn(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "learn",
		Short: "record the UUIDs of MIG devices from nvidia-smi",
		Long: `Records the UUIDs of MIG devices, which are not in /proc, so that containers can
request MIG-<uuid>. It runs nvidia-smi -L and nvidia-smi -q, compares their
output with /proc, and writes the result to
/var/lib/nvidia-container-runtime/mig.learnt. Run it as root after creating or
destroying MIG devices, or enable the systemd units nvsysfs-learn.service and
nvsysfs-learn.timer. The records of other GPUs are kept.

If nvidia-smi is neither in PATH nor in a usual directory, it is run inside the
driver container (root in config.toml, else /run/nvidia/driver).

The exit status is 1 if nothing could be learned about a GPU with MIG devices.`,
		Example: `  nvsysfs learn
  nvidia-smi -L | nvsysfs learn --from - --dry-run`,
		Args: noArguments,
	}
	var o learn.Options
	flags := cmd.Flags()
	flags.StringArrayVar(&o.From, "from", nil,
		"read the output of nvidia-smi -L or -q from `FILE` (- is standard input) instead of running it; repeatable")
	flags.StringVar(&o.Output, "output", "", "write the UUIDs to `FILE`")
	flags.BoolVar(&o.DryRun, "dry-run", false, "print what would be written")
	flags.BoolVar(&o.IfChanged, "if-changed", false, "do nothing if all MIG devices are known; reads only /proc")
	isFile(cmd, "from", "output")
	root := rootFlag(cmd, "")
	cmd.RunE = func(*cobra.Command, []string) error {
		o.Root = *root
		return learn.Run(o, i.environ, i.stdout, i.stderr)
	}
	return cmd
}
