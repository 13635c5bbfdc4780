// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"errors"
	"path"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// checkConfig: an invalid configuration stops every container.
func checkConfig(p patient) []Finding {
	if p.cfgErr != nil {
		return wrong("edit the file", "%v", p.cfgErr)
	}
	findings, err := p.cfg.Check()
	if err != nil {
		return wrong("edit the file", "%v", err)
	}
	var found []Finding
	for _, f := range findings {
		found = append(found, wrong("edit the file", "%s", f)...)
	}
	if len(found) > 0 {
		return found
	}
	if _, err := sysfs.Root("/").Stat(strings.TrimPrefix(p.cfg.File, "/")); err != nil {
		return ok("no file %s: defaults", p.cfg.File)
	}
	return ok("%s", p.cfg.File)
}

// checkPlatform: on unsupported platforms no container with a GPU starts.
func checkPlatform(p patient) []Finding {
	if err := p.platform(); err != nil {
		return wrong("", "%v", err)
	}
	return nil
}

func checkDriver(p patient) []Finding {
	if p.surveyErr != nil {
		return wrong("", "%v", p.surveyErr)
	}
	if p.platform() != nil {
		return nil // no module to load: the platform has a different driver
	}
	d := p.survey.Inventory.Driver
	if d == nil {
		return wrong("modprobe nvidia",
			"no NVIDIA kernel driver is loaded: "+
				"neither /proc/driver/nvidia/version nor /sys/module/nvidia/version exists")
	}
	kind := "proprietary modules"
	if d.Open {
		kind = "open modules"
	}
	return ok("version %s, %s", d.Version, kind)
}

func checkUVM(p patient) []Finding {
	if p.survey.Inventory.Majors.UVM < 0 {
		return wrong("modprobe nvidia-uvm",
			"the kernel module nvidia-uvm is not loaded: "+
				"CUDA does not work, and containers that name compute or video do not start")
	}
	return ok("loaded, major %d", p.survey.Inventory.Majors.UVM)
}

// checkLibraries: the driver was upgraded without reloading its module, or its libraries are
// elsewhere.
func checkLibraries(p patient) []Finding {
	var skew *driver.VersionError
	var none *driver.NotFoundError
	err := p.survey.FilesErr
	switch {
	case errors.As(err, &skew):
		return wrong("reboot", "%v", err)
	case errors.As(err, &none) && p.survey.DriverRoot == p.root && p.exists("/run/nvidia/driver/usr"):
		return wrong("set root = \"/run/nvidia/driver\" below [nvidia-container-runtime.experimental] in "+p.cfg.File,
			"%v; there is a driver container at /run/nvidia/driver", err)
	case err != nil:
		return wrong("", "%v", err)
	}
	found := ok("%d files of version %s", len(p.survey.Files), p.survey.Inventory.Driver.Version)
	uvm := (&sysfs.ModuleError{Module: "nvidia-uvm", Name: "nvidia-uvm", Command: "modprobe nvidia-uvm"}).Error()
	for _, n := range p.survey.Notes {
		if n == uvm {
			continue // checkUVM says more
		}
		found = append(found, note("", "%s", n)...)
	}
	return found
}

// checkFabricManager: on boards with NVSwitches (HGX), CUDA needs the fabric manager.
func checkFabricManager(p patient) []Finding {
	entries, err := p.root.ReadDir("sys/bus/pci/devices")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		target, err := p.root.ReadLink("sys/bus/pci/devices/" + e.Name() + "/driver")
		if err != nil || path.Base(target) != "nvidia-nvswitch" {
			continue
		}
		if p.exists("/run/nvidia-fabricmanager/socket") || p.exists("/var/run/nvidia-fabricmanager/socket") {
			return ok("running")
		}
		return note("systemctl enable --now nvidia-fabricmanager",
			"the machine has NVSwitches, but no socket of the fabric manager: "+
				"CUDA fails with error 802 unless the fabric manager runs in its own virtual machine")
	}
	return nil
}

func checkPersistence(p patient) []Finding {
	if p.exists("/run/nvidia-persistenced/socket") || p.exists("/var/run/nvidia-persistenced/socket") {
		return ok("nvidia-persistenced is running")
	}
	return note("systemctl enable --now nvidia-persistenced",
		"nvidia-persistenced is not running: "+
			"unless something else keeps a GPU open, its first use takes seconds each time")
}
