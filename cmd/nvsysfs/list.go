// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

func newList(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list GPUs and MIG devices",
		Long: `Lists the machine's GPUs as nvidia-smi -L does, with PCI address and device
minor, and below each its MIG devices with GPU instance and compute instance.
GPUs that containers cannot use come last, with the reason instead of an index.

NVIDIA_VISIBLE_DEVICES takes a GPU's index, UUID or PCI address, and a MIG
device's index ("0:1"), name, or MIG-<uuid> if "nvsysfs learn" has recorded it.`,
		Example: `  nvsysfs list
  nvsysfs list --json | jq -r '.gpus[].uuid'`,
		Args: noArguments,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd, asWide)
	cmd.RunE = func(*cobra.Command, []string) error { return runList(i, *dir, *as) }
	return cmd
}

func runList(i invocation, dir string, as outputFormat) error {
	root, err := i.machine(dir)
	if err != nil {
		return err
	}
	inventory, err := sysfs.Read(root, true)
	if err != nil {
		return err
	}
	uuids, err := plan.ReadMIGUUIDs(root, inventory)
	if err != nil {
		return err
	}
	unbound, err := sysfs.UnboundGPUs(root, inventory)
	if err != nil {
		// The GPUs that could be read are worth printing.
		i.warn("%v", err)
	}

	l := listing.Of(inventory, unbound, uuids)
	text := l.Text()
	if as == asWide {
		text = l.Table()
	}
	err = as.print(i.stdout, l, []byte(text))
	if err == nil && inventory.Driver == nil {
		err = errors.New("list: no NVIDIA driver is loaded")
	}
	return err
}

// machine returns the root of the machine: the flag's value, else that of config.toml, if it can be
// read.
func (i invocation) machine(dir string) (sysfs.Root, error) {
	if dir == "" {
		dir = "/"
		if cfg, err := plan.LoadConfig("", i.environ); err == nil {
			dir = cfg.Sysroot
		}
	}
	return plan.OpenRoot(dir)
}
