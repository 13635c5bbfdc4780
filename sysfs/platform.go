// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"strings"
)

// PlatformError reports a machine whose NVIDIA GPU does not use the ordinary driver: a Tegra board,
// or a WSL2 guest.
type PlatformError struct {
	Machine string // "a Tegra board (NVIDIA Jetson Orin Nano)"
	Sign    string // the evidence: "/etc/nv_tegra_release exists"
	Advice  string // what to do
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("this machine is %s (%s): %s", e.Machine, e.Sign, e.Advice)
}

// CheckPlatform returns a [*PlatformError] for unsupported machines, even those with
// /proc/driver/nvidia: Orin has one, only for its display. driver is that of the inventory, or nil.
func CheckPlatform(root Root, driver *Driver) error {
	if driver == nil || driver.Arch != "x86_64" {
		if err := checkTegra(root); err != nil {
			return err
		}
	}
	if driver == nil {
		return checkWSL(root)
	}
	return nil
}

// checkTegra recognizes the boards of NVIDIA's Linux for Tegra by any of:
//
//	/etc/nv_tegra_release            # R36 (release), REVISION: 4.3, …
//	/sys/devices/soc0/family         Tegra
//	/proc/device-tree/compatible     nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0
func checkTegra(root Root) error {
	const release, family, tree = "etc/nv_tegra_release", "sys/devices/soc0/family", "proc/device-tree/"
	read := func(name string) string {
		data, _ := root.ReadFileMax(name, 64<<10)
		return string(data)
	}
	e := &PlatformError{
		Machine: "a Tegra board",
		Advice:  "its GPU has a different driver and is not supported; use NVIDIA's container toolkit",
	}
	switch compatible := read(tree + "compatible"); {
	case hasPrefixFold(strings.TrimSpace(read(family)), "tegra"):
		e.Sign = "/" + family + " says so"
	case strings.Contains(compatible, "nvidia,tegra"):
		e.Sign = "/" + tree + "compatible says so"
	default:
		if _, err := root.Stat(release); err != nil {
			return nil //nolint:nilerr // no Tegra
		}
		e.Sign = "/" + release + " exists"
	}
	if model := strings.Trim(read(tree+"model"), "\x00\n "); model != "" {
		e.Machine += " (" + strings.Trim(quote(model), `"`) + ")"
	}
	return e
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// checkWSL recognizes a WSL2 guest. /dev/dxg only proves WSL's kernel; the library comes with the
// Windows driver.
func checkWSL(root Root) error {
	const dxg, cuda = "dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"
	if _, err := root.Stat(dxg); err != nil {
		return nil //nolint:nilerr // no WSL2
	}
	if _, err := root.Stat(cuda); err != nil {
		return &PlatformError{
			Machine: "a WSL2 guest without an NVIDIA driver", Sign: "/" + dxg + " exists, /" + cuda + " does not",
			Advice: "GPUs in WSL2 are not supported",
		}
	}
	return &PlatformError{
		Machine: "a WSL2 guest", Sign: "/" + dxg + " exists, /proc/driver/nvidia does not",
		Advice: "GPUs in WSL2 are not supported",
	}
}
