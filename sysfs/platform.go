// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"fmt"
	"strings"
)

// PlatformError is a machine whose NVIDIA GPU is not to be had through the files of the ordinary driver: a Tegra
// board, or a guest of WSL2.
type PlatformError struct {
	Machine string // "a Tegra board (NVIDIA Jetson Orin Nano)"
	Sign    string // what tells so: "/etc/nv_tegra_release is there"
	Advice  string // what can be done
}

func (e *PlatformError) Error() string {
	return fmt.Sprintf("this machine is %s (%s): %s", e.Machine, e.Sign, e.Advice)
}

// CheckPlatform returns a [*PlatformError] for machines that are not supported, whatever their /proc/driver/nvidia
// has: Orin has one for its display alone. driver is that of the inventory, or nil.
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

// checkTegra recognises the boards of NVIDIA's Linux for Tegra. Any of these is enough:
//
//	/etc/nv_tegra_release            # R36 (release), REVISION: 4.3, …
//	/sys/devices/soc0/family         Tegra
//	/proc/device-tree/compatible     nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0
func checkTegra(root Root) error {
	const release, family, tree = "etc/nv_tegra_release", "sys/devices/soc0/family", "proc/device-tree/"
	read := func(name string) string {
		data, _ := root.ReadFileMax(name, 64<<10) // what cannot be read is no sign
		return string(data)
	}
	e := &PlatformError{
		Machine: "a Tegra board",
		Advice:  "its GPU has another driver than NVIDIA's cards, and is not supported; use NVIDIA's container toolkit there",
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
		e.Sign = "/" + release + " is there"
	}
	if model := strings.Trim(read(tree+"model"), "\x00\n "); model != "" {
		e.Machine += " (" + strings.Trim(quote(model), `"`) + ")"
	}
	return e
}

func hasPrefixFold(s, prefix string) bool {
	return len(s) >= len(prefix) && strings.EqualFold(s[:len(prefix)], prefix)
}

// checkWSL recognises a guest of WSL2. /dev/dxg proves WSL's kernel alone; the driver is the library that Windows'
// driver brings.
func checkWSL(root Root) error {
	const dxg, cuda = "dev/dxg", "usr/lib/wsl/lib/libcuda.so.1"
	if _, err := root.Stat(dxg); err != nil {
		return nil //nolint:nilerr // no WSL2
	}
	if _, err := root.Stat(cuda); err != nil {
		return &PlatformError{
			Machine: "a WSL2 guest without an NVIDIA driver", Sign: "/" + dxg + " is there, /" + cuda + " is not",
			Advice: "GPUs of WSL2 are not supported",
		}
	}
	return &PlatformError{
		Machine: "a WSL2 guest", Sign: "/" + dxg + " is there, /proc/driver/nvidia is not", Advice: "GPUs of WSL2 are not supported",
	}
}
