// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strconv"

	"github.com/prometheus/procfs"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
)

func checkGPUs(p patient) []Finding {
	usable, excluded := 0, 0
	for _, g := range p.survey.Inventory.GPUs {
		switch {
		case g.Excluded:
			excluded++
		case g.Err == nil:
			usable++
		}
	}
	text := fmt.Sprintf("%d usable", usable)
	if excluded > 0 {
		text += fmt.Sprintf(", %d excluded by the driver's parameter NVreg_ExcludedGpus", excluded)
	}
	if stray := p.survey.Inventory.StrayNodes(p.root); len(stray) > 0 {
		return wrong("umount /proc/driver/nvidia",
			"no GPU can be given to a container, although %s exists: this is a container "+
				"whose runtime hides /proc/driver/nvidia/gpus, as LXD and Incus do with nvidia.runtime=true",
			some(stray))
	}
	if usable == 0 {
		return wrong("", "no GPU can be given to a container: %s", text)
	}
	return ok("%s", text)
}

// checkUnreadable: often a GPU has fallen off the bus, or its driver is stuck.
func checkUnreadable(p patient) []Finding {
	var found []Finding
	for _, g := range p.survey.Inventory.GPUs {
		if g.Err != nil {
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'",
				"GPU %s cannot be given to a container, and \"all\" leaves it out: %v", g.Name, g.Err)...)
		}
	}
	return found
}

// checkLost: the driver lists a GPU that is gone from the bus as long as something has it open.
func checkLost(p patient) []Finding {
	var found []Finding
	for _, g := range p.survey.Inventory.GPUs {
		function := "sys/bus/pci/devices/" + g.Address.String()
		if g.Err != nil || !p.exists("sys/bus/pci/devices") {
			continue
		}
		if !p.exists(function) {
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'",
				"GPU %s is in /proc/driver/nvidia/gpus, but not on the PCI bus: "+
					"it was unplugged while in use, and containers that get it cannot open it", g.Name)...)
			continue
		}
		// The configuration space of a device that does not answer reads as all ones.
		config, err := p.root.ReadFileMax(function+"/config", 8192)
		if err == nil && len(config) >= 64 && len(bytes.Trim(config, "\xff")) == 0 {
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'",
				"GPU %s has fallen off the bus: it does not answer, "+
					"and containers that get it cannot use it until the machine is restarted", g.Name)...)
		}
	}
	return found
}

// nested reports whether this is a container that sees only some of the machine's GPUs: the classic
// runtime mounts a tmpfs over /proc/driver/nvidia, others mask directories in it.
func (p patient) nested() bool {
	if len(p.survey.Inventory.Masked) > 0 {
		return true
	}
	proc, err := procfs.NewFS(p.root.Path("proc"))
	if err != nil {
		return false
	}
	mounts, err := proc.GetMounts()
	return err == nil && slices.ContainsFunc(mounts, func(m *procfs.MountInfo) bool {
		return m.MountPoint == "/proc/driver/nvidia"
	})
}

func checkNested(p patient) []Finding {
	if !p.nested() {
		return nil
	}
	return note("",
		"this is a container with only some of the machine's GPUs: the others are hidden, and indices are renumbered")
}

// checkUUIDs: the driver learns a GPU's UUID when it is first used.
func checkUUIDs(p patient) []Finding {
	var unknown []string
	for _, g := range p.survey.Inventory.GPUs {
		if g.Err == nil && !g.Excluded && g.UUID == "" {
			unknown = append(unknown, fmt.Sprintf("%d (%s)", g.Index, g.Address))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return note("nvidia-smi -L",
		"the UUID of GPU %s is not known yet: it can be requested by index and address only, "+
			"and if it is broken, NVIDIA's tools may number GPUs differently", some(unknown))
}

func checkUnbound(p patient) []Finding {
	var found []Finding
	for _, f := range p.survey.Unbound {
		switch f.Driver {
		case "":
			found = append(found, note("echo "+f.Name+" > /sys/bus/pci/drivers_probe",
				"GPU %s has no driver: no container gets it", f.Name)...)
		case "nvidia":
			if p.nested() {
				continue // hidden from this container
			}
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'",
				"GPU %s is bound to nvidia, but not in /proc/driver/nvidia/gpus: "+
					"the driver could not start it", f.Name)...)
		default:
			fix := fmt.Sprintf("echo > /sys/bus/pci/devices/%[1]s/driver_override && "+
				"echo %[1]s > /sys/bus/pci/drivers/%[2]s/unbind && echo %[1]s > /sys/bus/pci/drivers_probe",
				f.Name, f.Driver)
			found = append(found, note(fix, "GPU %s is bound to %s: no container gets it", f.Name, f.Driver)...)
		}
	}
	return found
}

// checkMIGUUIDs: since R470 MIG devices have UUIDs that are not in /proc, and Kubernetes passes
// those.
func checkMIGUUIDs(p patient) []Finding {
	if !mig.HasUUIDs(p.survey.Inventory.Driver.Version) {
		return nil
	}
	uuids, err := plan.ReadMIGUUIDs(p.root, p.survey.Inventory)
	if err != nil {
		return wrong("", "%v", err)
	}
	devices, known := 0, 0
	var unlearnt []string
	for _, gpu := range p.survey.Inventory.GPUs {
		before := known
		for n := range gpu.Instances {
			devices++
			if _, ok := uuids.Of(gpu, n); ok {
				known++
			}
		}
		if known-before < len(gpu.Instances) {
			unlearnt = append(unlearnt, strconv.Itoa(gpu.Index))
		}
	}
	const learn = "nvsysfs learn && systemctl enable --now nvsysfs-learn.service nvsysfs-learn.timer"
	file := p.root.Path(learnt.Path)
	switch {
	case devices == 0:
		return nil
	case errors.Is(uuids.Err, fs.ErrNotExist):
		return note(learn,
			"containers cannot request a MIG device by MIG-<uuid>, as Kubernetes does: "+
				"no UUIDs are recorded (no file %s)", file)
	case uuids.Err != nil:
		return wrong("rm "+file+" && nvsysfs learn",
			"containers cannot request a MIG device by MIG-<uuid>, as Kubernetes does: %v", uuids.Err)
	case known < devices:
		return note(learn,
			"the UUIDs of %d of %d MIG devices are not recorded or have changed (GPU %s): "+
				"containers that request MIG-<uuid> may not start", devices-known, devices, some(unlearnt))
	}
	return ok("the UUIDs of all %d MIG devices are recorded", devices)
}
