// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package listing shows GPUs and MIG devices as "nvsysfs list" prints them.
package listing

import (
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Listing is the GPUs of a machine.
type Listing struct {
	Driver  *Driver    `json:"driver"` // null: none is loaded
	GPUs    []GPU      `json:"gpus"`
	Unbound []Function `json:"unbound"`
}

// Driver is the loaded kernel driver.
type Driver struct {
	Version      string `json:"version"`
	Open         bool   `json:"open"`
	Architecture string `json:"architecture"`
}

// GPU is a GPU bound to the driver.
type GPU struct {
	Index     *int   `json:"index"` // null: excluded
	Model     string `json:"model"`
	UUID      string `json:"uuid"` // "" until the GPU has been used once
	Address   string `json:"address"`
	Minor     *int   `json:"minor"` // null: unknown
	VideoBIOS string `json:"video_bios,omitempty"`
	Firmware  string `json:"firmware,omitempty"` // version of the GSP firmware
	Excluded  bool   `json:"excluded"`
	Error     string `json:"error,omitempty"`
	Instances []MIG  `json:"mig"`
}

// MIG is a MIG device.
type MIG struct {
	Index           string `json:"index"`          // "0:1"
	Name            string `json:"name,omitempty"` // "MIG-GPU-<uuid>/<gi>/<ci>"
	UUID            string `json:"uuid,omitempty"` // "MIG-<uuid>", if "nvsysfs learn" has recorded it
	GPUInstance     int    `json:"gi"`
	ComputeInstance int    `json:"ci"`
}

// Function is an NVIDIA GPU that is not bound to the driver.
type Function struct {
	Address string `json:"address"`
	Vendor  string `json:"vendor"`
	Device  string `json:"device"`
	Driver  string `json:"driver"` // "" if no driver is bound
}

// DriverOf returns the driver of an inventory, nil if none is loaded.
func DriverOf(inventory sysfs.Inventory) *Driver {
	d := inventory.Driver
	if d == nil {
		return nil
	}
	return &Driver{d.Version, d.Open, d.Arch}
}

// Of converts an inventory that was read with MIG instances.
func Of(inventory sysfs.Inventory, unbound []sysfs.PCIFunction, uuids sysfs.MIGUUIDs) Listing {
	l := Listing{Driver: DriverOf(inventory), GPUs: []GPU{}, Unbound: []Function{}}
	for _, gpu := range inventory.GPUs {
		g := GPU{
			Model: gpu.Model, UUID: gpu.UUID, Address: gpu.Address.String(), VideoBIOS: gpu.VideoBIOS,
			Firmware: gpu.Firmware, Excluded: gpu.Excluded, Instances: []MIG{},
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
			m := MIG{
				Index: fmt.Sprintf("%d:%d", gpu.Index, n), Name: migName(gpu, instance),
				GPUInstance: instance.GI, ComputeInstance: instance.CI,
			}
			if uuid, ok := uuids.Of(gpu, n); ok {
				m.UUID = uuid.String()
			}
			g.Instances = append(g.Instances, m)
		}
		l.GPUs = append(l.GPUs, g)
	}
	for _, f := range unbound {
		l.Unbound = append(l.Unbound, Function{
			f.Address.String(), fmt.Sprintf("0x%04x", f.Vendor), fmt.Sprintf("0x%04x", f.Device), f.Driver,
		})
	}
	return l
}

// migName returns the MIG device's name up to R470, "" if the GPU's UUID is unknown.
func migName(gpu sysfs.GPU, instance mig.Instance) string {
	if gpu.UUID == "" {
		return ""
	}
	return mig.Name{GPU: gpu.UUID, GI: instance.GI, CI: instance.CI}.String()
}

// Text has one line per device, like nvidia-smi -L.
func (l Listing) Text() string {
	var out strings.Builder
	if l.Driver == nil {
		out.WriteString("No NVIDIA driver is loaded: " +
			"/proc/driver/nvidia/version and /sys/module/nvidia/version do not exist.\n")
	} else if len(l.GPUs) == 0 {
		out.WriteString("No GPU is bound to the NVIDIA driver: /proc/driver/nvidia/gpus is empty.\n")
	}
	for _, gpu := range l.GPUs {
		switch {
		case gpu.Excluded:
		case gpu.Error != "":
			fmt.Fprintf(&out, "GPU %s: (unusable) %s: %s\n", gpu.Rank(), gpu.Address, gpu.Error)
		default:
			fmt.Fprintf(&out, "GPU %s: %s\n", gpu.Rank(), gpu)
			for _, m := range gpu.Instances {
				fmt.Fprintf(&out, "  MIG %s: %s\n", m.Index, m)
			}
		}
	}
	for _, gpu := range l.GPUs {
		if gpu.Excluded {
			fmt.Fprintf(&out, "GPU -: %s: excluded by the driver's parameter NVreg_ExcludedGpus\n", gpu)
		}
	}
	for _, f := range l.Unbound {
		reason := "bound to " + f.Driver
		switch f.Driver {
		case "":
			reason = "not bound to a driver"
		case "nvidia":
			reason = "bound to nvidia, but not in /proc/driver/nvidia/gpus"
		}
		fmt.Fprintf(&out, "GPU -: PCI device %s:%s, %s: %s\n", f.Vendor[2:], f.Device[2:], f.Address, reason)
	}
	return out.String()
}

// Rank returns the index, "-" if there is none.
func (g GPU) Rank() string { return number(g.Index) }

// Table has a row for each GPU and MIG device.
func (l Listing) Table() string {
	var out strings.Builder
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "INDEX\tMODEL\tUUID\tADDRESS\tNODE\tVBIOS\tFIRMWARE")
	for _, g := range l.GPUs {
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t/dev/nvidia%s\t%s\t%s\n", g.Rank(), cmp.Or(g.Model, "-"),
			cmp.Or(g.UUID, "-"), g.Address, number(g.Minor), cmp.Or(g.VideoBIOS, "-"), cmp.Or(g.Firmware, "-"))
		for _, m := range g.Instances {
			name := cmp.Or(m.UUID, m.Name, "-")
			fmt.Fprintf(table, "%s\tMIG: GI %d, CI %d\t%s\n", m.Index, m.GPUInstance, m.ComputeInstance, name)
		}
	}
	_ = table.Flush() // to a string
	return out.String()
}

func (g GPU) String() string {
	uuid := cmp.Or(g.UUID, "unknown until the GPU has been used once")
	return fmt.Sprintf("%s (UUID: %s) %s, minor %s", g.Model, uuid, g.Address, number(g.Minor))
}

func number(n *int) string {
	if n == nil {
		return "-"
	}
	return strconv.Itoa(*n)
}

func (m MIG) String() string {
	text := fmt.Sprintf("GI %d, CI %d", m.GPUInstance, m.ComputeInstance)
	if m.Name != "" {
		text += " (" + m.Name + ")"
	}
	if m.UUID != "" {
		text += " " + m.UUID
	}
	return text
}
