// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"errors"
	"fmt"
	"io/fs"
	"strings"
)

// Driver is the loaded kernel module.
type Driver struct {
	Version string // also of the user-mode libraries: "550.54.15", "390.157"
	Open    bool   // open kernel modules
	Arch    string // "x86_64", "aarch64"; "" if unknown
}

const (
	procVersion = "proc/driver/nvidia/version"
	sysVersion  = "sys/module/nvidia/version"
)

// readDriver reads /proc/driver/nvidia/version or, if absent, /sys/module/nvidia/version. It
// returns nil without either: no NVIDIA driver is loaded.
func readDriver(root Root) (*Driver, error) {
	data, err := root.ReadFile(procVersion)
	if err == nil {
		driver, err := parseBanner(string(data))
		if err != nil {
			return nil, fmt.Errorf("%s: %w", root.Path(procVersion), err)
		}
		return &driver, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	data, err = root.ReadFile(sysVersion)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	version := strings.TrimSpace(string(data))
	if !isVersion(version) {
		return nil, fmt.Errorf("%s: %s is not a driver version", root.Path(sysVersion), quote(version))
	}
	return &Driver{Version: version}, nil
}

// parseBanner parses the first line of /proc/driver/nvidia/version, in one of two grammars:
//
//	NVRM version: NVIDIA UNIX x86_64 Kernel Module  535.104.05  Sat Aug 19 01:15:15 UTC 2023
//	NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (dvs-builder@U16)  …
//
// The second line is about the compiler.
func parseBanner(text string) (Driver, error) {
	line, _, _ := strings.Cut(text, "\n")
	banner, ok := strings.CutPrefix(line, "NVRM version:")
	if !ok {
		return Driver{}, fmt.Errorf("line 1: %s does not begin with \"NVRM version:\"", quote(line))
	}
	before, after, ok := strings.Cut(banner, " Kernel Module ")
	if !ok {
		return Driver{}, fmt.Errorf("line 1: no \"Kernel Module\" in %s", quote(line))
	}
	words := strings.Fields(before)
	driver := Driver{Open: len(words) > 0 && words[len(words)-1] == "Open"}
	if !driver.Open && len(words) > 0 {
		driver.Arch = words[len(words)-1]
	}
	fields := strings.Fields(after)
	for i, word := range fields {
		if isVersion(word) {
			driver.Version = word
			return driver, nil
		}
		if word == "for" && driver.Open && i+1 < len(fields) {
			driver.Arch = fields[i+1]
		}
	}
	return Driver{}, fmt.Errorf("line 1: no version after \"Kernel Module\" in %s", quote(line))
}

// isVersion accepts two or three groups of digits separated by dots.
func isVersion(s string) bool {
	groups := strings.SplitN(s, ".", 4)
	if len(s) > 64 || len(groups) != 2 && len(groups) != 3 {
		return false
	}
	for _, group := range groups {
		if group == "" || strings.Trim(group, "0123456789") != "" {
			return false
		}
	}
	return true
}
