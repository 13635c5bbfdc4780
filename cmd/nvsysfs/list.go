// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// listing is what --json prints.
type listing struct {
	Driver  *listedDriver    `json:"driver"` // null: none is loaded
	GPUs    []listedGPU      `json:"gpus"`
	Unbound []listedFunction `json:"unbound"`
}

type listedDriver struct {
	Version      string `json:"version"`
	Open         bool   `json:"open"`
	Architecture string `json:"architecture"`
}

type listedGPU struct {
	Index     *int        `json:"index"` // null: it has none, being excluded
	Model     string      `json:"model"`
	UUID      string      `json:"uuid"` // "" while it is not known
	Address   string      `json:"address"`
	Minor     *int        `json:"minor"` // null: unknown
	Excluded  bool        `json:"excluded"`
	Error     string      `json:"error,omitempty"`
	Instances []listedMIG `json:"mig"`
}

type listedMIG struct {
	Index           string `json:"index"`          // "0:1"
	Name            string `json:"name,omitempty"` // "MIG-GPU-<uuid>/<gi>/<ci>"
	UUID            string `json:"uuid,omitempty"` // "MIG-<uuid>", where "nvsysfs learn" has learnt it
	GPUInstance     int    `json:"gi"`
	ComputeInstance int    `json:"ci"`
}

type listedFunction struct {
	Address string `json:"address"`
	Vendor  string `json:"vendor"`
	Device  string `json:"device"`
	Driver  string `json:"driver"` // "" if no driver is bound
}

func newList(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list GPUs and MIG devices",
		Long: `Lists the machine's GPUs as nvidia-smi -L does, with PCI address and device
minor, and below each its MIG devices with GPU instance and compute instance.
GPUs that no container can get come last, without an index, and with the reason.

NVIDIA_VISIBLE_DEVICES takes a GPU's index, UUID or PCI address, and a MIG
device's index ("0:1"), its name, or MIG-<uuid> if "nvsysfs learn" knows it.`,
		Example: `  nvsysfs list
  nvsysfs list --json | jq -r '.gpus[].uuid'`,
		Args: noArguments,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd)
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
		// It comes with what could be read: the list is worth printing all the same.
		i.warn("%v", err)
	}

	if as != asTable {
		if err := as.write(i.stdout, makeListing(inventory, unbound, uuids)); err != nil {
			return err
		}
		return withoutDriver(inventory)
	}
	var out bytes.Buffer
	printList(&out, inventory, unbound, uuids)
	if _, err := i.stdout.Write(out.Bytes()); err != nil {
		return err
	}
	return withoutDriver(inventory)
}

// withoutDriver makes the exit status 1 where no GPU can be used.
func withoutDriver(inventory sysfs.Inventory) error {
	if inventory.Driver == nil {
		return errors.New("list: no NVIDIA driver is loaded")
	}
	return nil
}

// machine is the root of the machine to look at: that of the flag, else what config.toml says, if it can be read.
func (i invocation) machine(dir string) (sysfs.Root, error) {
	if dir == "" {
		dir = "/"
		if cfg, err := plan.LoadConfig("", i.environ); err == nil {
			dir = cfg.Sysroot
		}
	}
	return plan.OpenRoot(dir)
}

func makeListing(inventory sysfs.Inventory, unbound []sysfs.PCIFunction, uuids sysfs.MIGUUIDs) listing {
	l := listing{GPUs: []listedGPU{}, Unbound: []listedFunction{}}
	if d := inventory.Driver; d != nil {
		l.Driver = &listedDriver{d.Version, d.Open, d.Arch}
	}
	for _, gpu := range inventory.GPUs {
		g := listedGPU{
			Model: gpu.Model, UUID: gpu.UUID, Address: gpu.Address.String(), Excluded: gpu.Excluded, Instances: []listedMIG{},
		}
		if gpu.Index >= 0 {
			g.Index = &gpu.Index
		}
		if gpu.Minor >= 0 {
			g.Minor = &gpu.Minor
		}
		if gpu.Err != nil {
			g.Error = gpu.Err.Error()
		}
		for n, instance := range gpu.Instances {
			m := listedMIG{
				Index: fmt.Sprintf("%d:%d", gpu.Index, n), Name: migName(gpu, instance), GPUInstance: instance.GI, ComputeInstance: instance.CI,
			}
			if uuid, ok := uuids.Of(gpu, n); ok {
				m.UUID = uuid.String()
			}
			g.Instances = append(g.Instances, m)
		}
		l.GPUs = append(l.GPUs, g)
	}
	for _, f := range unbound {
		l.Unbound = append(l.Unbound, listedFunction{
			f.Address.String(), fmt.Sprintf("0x%04x", f.Vendor), fmt.Sprintf("0x%04x", f.Device), f.Driver,
		})
	}
	return l
}

// migName is the name drivers before R470 gave the MIG device; "" without a UUID.
func migName(gpu sysfs.GPU, instance mig.Instance) string {
	if gpu.UUID == "" {
		return ""
	}
	return mig.Name{GPU: gpu.UUID, GI: instance.GI, CI: instance.CI}.String()
}

func printList(out *bytes.Buffer, inventory sysfs.Inventory, unbound []sysfs.PCIFunction, uuids sysfs.MIGUUIDs) {
	if inventory.Driver == nil {
		out.WriteString("No NVIDIA driver is loaded: there is neither /proc/driver/nvidia/version nor /sys/module/nvidia/version.\n")
	} else if len(inventory.GPUs) == 0 {
		out.WriteString("No GPU is bound to the NVIDIA driver: /proc/driver/nvidia/gpus is empty.\n")
	}
	for _, gpu := range inventory.GPUs {
		if gpu.Excluded {
			continue
		}
		if gpu.Err != nil {
			fmt.Fprintf(out, "GPU %d: (unusable) %s: %s\n", gpu.Index, gpu.Address, gpu.Err)
			continue
		}
		fmt.Fprintf(out, "GPU %d: %s (UUID: %s) %s, minor %d\n", gpu.Index, gpu.Model, uuidOf(gpu), gpu.Address, gpu.Minor)
		for n, instance := range gpu.Instances {
			fmt.Fprintf(out, "  MIG %d:%d: GI %d, CI %d", gpu.Index, n, instance.GI, instance.CI)
			if name := migName(gpu, instance); name != "" {
				fmt.Fprintf(out, " (%s)", name)
			}
			if uuid, ok := uuids.Of(gpu, n); ok {
				fmt.Fprintf(out, " %s", uuid)
			}
			out.WriteByte('\n')
		}
	}
	for _, gpu := range inventory.GPUs {
		if gpu.Excluded {
			fmt.Fprintf(out, "GPU -: %s (UUID: %s) %s, minor %d: excluded by the driver's parameter NVreg_ExcludedGpus\n",
				gpu.Model, uuidOf(gpu), gpu.Address, gpu.Minor)
		}
	}
	for _, f := range unbound {
		reason := "no driver is bound to it"
		if f.Driver != "" {
			reason = "it is bound to " + f.Driver
		}
		if f.Driver == "nvidia" {
			reason = "it is bound to nvidia, but not in /proc/driver/nvidia/gpus"
		}
		fmt.Fprintf(out, "GPU -: PCI device %04x:%04x, %s: %s\n", f.Vendor, f.Device, f.Address, reason)
	}
}

func uuidOf(gpu sysfs.GPU) string {
	if gpu.UUID == "" {
		return "unknown until the GPU has been used once"
	}
	return gpu.UUID
}
