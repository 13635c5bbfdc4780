// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"slices"
	"strconv"
	"strings"
)

// chips are ranges of PCI device IDs and the compute capability of their chip. Sources: the public
// PCI ID database (pci.ids, vendor 10de) and NVIDIA's list "CUDA GPU Compute Capability". IDs
// between the ranges are unknown.
var chips = []struct {
	first, last uint16
	capability  string
}{
	{0x0fc0, 0x0fff, "3.0"},  // GK107
	{0x1001, 0x102c, "3.5"},  // GK110
	{0x102d, 0x102d, "3.7"},  // GK210, Tesla K80
	{0x102e, 0x103f, "3.5"},  // GK110B, GK180
	{0x1180, 0x11ff, "3.0"},  // GK104, GK106
	{0x1280, 0x12bf, "3.5"},  // GK208
	{0x1340, 0x13bf, "5.0"},  // GM108, GM107
	{0x13c0, 0x13ff, "5.2"},  // GM204
	{0x1400, 0x143f, "5.2"},  // GM206
	{0x15f0, 0x15ff, "6.0"},  // GP100
	{0x1617, 0x1667, "5.2"},  // GM204, mobile
	{0x1725, 0x172f, "6.0"},  // GP100
	{0x174d, 0x174e, "5.0"},  // GM108
	{0x1789, 0x179c, "5.0"},  // GM107
	{0x17c0, 0x17ff, "5.2"},  // GM200
	{0x1b00, 0x1d7f, "6.1"},  // GP102, GP104, GP106, GP107, GP108
	{0x1d80, 0x1dff, "7.0"},  // GV100
	{0x1e00, 0x1fff, "7.5"},  // TU102, TU104, TU106, TU117
	{0x2080, 0x20ff, "8.0"},  // GA100
	{0x2180, 0x21ff, "7.5"},  // TU116
	{0x2200, 0x227f, "8.6"},  // GA102
	{0x2300, 0x237f, "9.0"},  // GH100
	{0x2400, 0x25ff, "8.6"},  // GA103, GA104, GA106, GA107
	{0x2680, 0x28ff, "8.9"},  // AD102, AD103, AD104, AD106, AD107
	{0x2900, 0x297f, "10.0"}, // GB100
	{0x2b80, 0x2bff, "12.0"}, // GB202
	{0x2c00, 0x2c7f, "12.0"}, // GB203
	{0x2d00, 0x2dff, "12.0"}, // GB206, GB207
	{0x2e12, 0x2e12, "12.1"}, // GB10
	{0x2f00, 0x2f7f, "12.0"}, // GB205
	{0x3180, 0x31ff, "10.3"}, // GB110
}

// ComputeCapability returns the compute capability of an NVIDIA GPU by its PCI device ID: "7.5" for
// 0x1eb8, a Tesla T4. It is the "arch" of NVIDIA_REQUIRE_* conditions.
func ComputeCapability(device uint16) (string, bool) {
	for _, chip := range chips {
		if chip.first <= device && device <= chip.last {
			return chip.capability, true
		}
	}
	return "", false
}

// brands are prefixes of model names, without "NVIDIA ", and NVML's brands: nvmlBrandType_t of
// nvml.h in lower case without separators, as CUDA images spell them ("brand=quadrortx"). The first
// match wins. nvml.h marks GEFORCE_RTX and TITAN_RTX as unused.
var brands = []struct{ prefix, brand string }{
	{"Tesla ", "tesla"},
	{"GeForce ", "geforce"},
	{"Quadro RTX ", "quadrortx"},
	{"Quadro ", "quadro"},
	{"TITAN ", "titan"},
	{"NVS ", "nvs"},
	{"RTX ", "nvidiartx"},
}

// dataCenter are the boards whose brand is just NVIDIA.
var dataCenter = []string{
	"A2", "A10", "A10G", "A16", "A30", "A40", "A100", "A800", "L2", "L4", "L20", "L40", "L40S",
	"H20", "H100", "H200", "H800", "GH200", "B200", "B300", "GB200", "GB300",
}

// Brand returns the brand of a GPU by its model, as NVIDIA_REQUIRE_* conditions spell it: "geforce"
// for "NVIDIA GeForce RTX 3090". The brand of a virtual GPU is that of its license, which the model
// does not show. Since R530 at the latest, a Tesla T4 is no longer a Tesla.
func Brand(model, driverVersion string) (string, bool) {
	name, renamed := strings.CutPrefix(model, "NVIDIA ")
	if name == "Tesla T4" {
		first, _, _ := strings.Cut(driverVersion, ".")
		if branch, err := strconv.Atoi(first); err == nil && branch >= 530 {
			return "nvidia", true
		}
	}
	words := strings.FieldsFunc(name, func(r rune) bool { return r == ' ' || r == '-' })
	if len(words) == 0 || isVirtual(words[len(words)-1]) {
		return "", false
	}
	for _, b := range brands {
		has := len(name) >= len(b.prefix) && strings.EqualFold(name[:len(b.prefix)], b.prefix)
		if has && (renamed || b.brand != "nvidiartx") {
			return b.brand, true
		}
	}
	// Older drivers, which omit "NVIDIA ", had another brand for these.
	if renamed && slices.Contains(dataCenter, words[0]) {
		return "nvidia", true
	}
	return "", false
}

// isVirtual recognizes the last word of a vGPU's model, memory in GB and the series: "GRID
// P40-24Q", "A100-2-10C".
func isVirtual(word string) bool {
	digits := strings.TrimRight(word, "ABCQ")
	return len(digits) == len(word)-1 && isNumber(digits)
}

// branches are driver branches, the number before the first dot of a version, and the CUDA version
// of their libcuda, ascending. Source: the table "CUDA Toolkit and Corresponding Driver Versions"
// in NVIDIA's CUDA Toolkit Release Notes. Branches between two rows have the CUDA version of the
// lower one. 418 and 430 have two, of which this is the lower.
var branches = []struct {
	branch int
	cuda   string
}{
	{346, "7.0"},
	{352, "7.5"},
	{361, "8.0"},
	{384, "9.0"},
	{387, "9.1"},
	{396, "9.2"},
	{410, "10.0"},
	{418, "10.1"},
	{440, "10.2"},
	{450, "11.0"},
	{455, "11.1"},
	{460, "11.2"},
	{465, "11.3"},
	{470, "11.4"},
	{495, "11.5"},
	{510, "11.6"},
	{515, "11.7"},
	{520, "11.8"},
	{525, "12.0"},
	{530, "12.1"},
	{535, "12.2"},
	{545, "12.3"},
	{550, "12.4"},
	{555, "12.5"},
	{560, "12.6"},
	{565, "12.7"},
	{570, "12.8"},
	{575, "12.9"},
	{580, "13.0"},
	{590, "13.1"},
	{595, "13.2"},
	{610, "13.3"},
	{615, "13.4"},
}

// CUDAVersion returns the newest CUDA version that a driver is known to support: "12.4" for
// "550.54.15". It is unknown for drivers older than the table. Newer ones support at least the
// version of the last row.
func CUDAVersion(driverVersion string) (string, bool) {
	first, _, _ := strings.Cut(driverVersion, ".")
	branch, err := strconv.ParseUint(first, 10, 16)
	if err != nil || !isVersion(driverVersion) {
		return "", false
	}
	for _, row := range slices.Backward(branches) {
		if int(branch) >= row.branch {
			return row.cuda, true
		}
	}
	return "", false
}
