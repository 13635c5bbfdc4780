// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs

import (
	"slices"
	"testing"

	"github.com/stretchr/testify/assert"
)

// Ids are from the public PCI ID database, one or more per chip.
func TestComputeCapability(t *testing.T) {
	for device, want := range map[uint16]string{
		0x102d: "3.7", 0x1023: "3.5", 0x118f: "3.0", 0x1288: "3.5", 0x1380: "5.0", 0x13c0: "5.2", 0x17c2: "5.2", 0x15f8: "6.0", 0x1b38: "6.1", 0x1cb3: "6.1",
		0x1db1: "7.0", 0x1db6: "7.0", 0x1eb8: "7.5", 0x1e07: "7.5", 0x2184: "7.5", 0x1f82: "7.5", 0x20b0: "8.0", 0x20b7: "8.0", 0x2204: "8.6", 0x2236: "8.6",
		0x2331: "9.0", 0x2342: "9.0", 0x2484: "8.6", 0x2684: "8.9", 0x27b8: "8.9", 0x28e1: "8.9", 0x2901: "10.0", 0x2b85: "12.0", 0x2bb5: "12.0",
		0x2c02: "12.0", 0x2e12: "12.1", 0x3182: "10.3", 0x31c2: "10.3", 0x3200: "",
		0x0000: "", 0x0fbf: "", 0x1aef: "", 0x22a3: "", 0xffff: "",
	} {
		got, ok := ComputeCapability(device)
		assert.Equal(t, want, got, "%#x", device)
		assert.Equal(t, want != "", ok, "%#x", device)
	}
	for i, chip := range chips {
		assert.LessOrEqual(t, chip.first, chip.last)
		assert.True(t, i == 0 || chips[i-1].last < chip.first, "%#x", chip.first)
	}
}

func TestBrand(t *testing.T) {
	for model, want := range map[string]string{
		"Tesla T4": "tesla", "NVIDIA Tesla V100-SXM2-16GB": "tesla", "Tesla V100-SXM2-16GB": "tesla",
		"NVIDIA GeForce RTX 3090": "geforce", "GeForce GTX 1070": "geforce",
		"Quadro RTX 6000": "quadrortx", "Quadro P2000": "quadro", "NVIDIA TITAN Xp": "titan", "TITAN RTX": "titan", "Titan V": "titan", "NVS 510": "nvs",
		"NVIDIA RTX A6000": "nvidiartx", "NVIDIA H100 80GB HBM3": "nvidia", "NVIDIA A100-SXM4-40GB": "nvidia", "NVIDIA L4": "nvidia",
		"A100-SXM4-40GB": "", "RTX A6000": "", "GRID P40-24Q": "", "NVIDIA A40-48Q": "", "GRID A100-2-10C": "", "NVIDIA A100X": "", "NVIDIA GB10": "", "NVIDIA": "", "": "", "Tesla": "",
	} {
		got, ok := Brand(model, "525.85.12")
		assert.Equal(t, want, got, model)
		assert.Equal(t, want != "", ok, model)
	}
	for version, want := range map[string]string{"529.9": "tesla", "530.30.02": "nvidia", "1000.1": "nvidia", "390.157": "tesla", "99.1": "tesla", "": "tesla"} {
		got, _ := Brand("Tesla T4", version)
		assert.Equal(t, want, got, version)
	}
	got, _ := Brand("Tesla V100-SXM2-16GB", "550.54.15")
	assert.Equal(t, "tesla", got)
}

func TestCUDAVersion(t *testing.T) {
	for version, want := range map[string]string{
		"550.54.15": "12.4", "470.256.02": "11.4", "390.157": "9.1", "418.67": "10.1", "430.26": "10.1", "535.104.05": "12.2", "580.142": "13.0", "590.48.01": "13.1",
		"595.84": "13.2", "595.45.04": "13.2", "384.81": "9.0", "346.46": "7.0", "352.31": "7.5",
		"340.108": "", "96.43.09": "", "600.10": "13.2", "610.43.02": "13.3", "615.71.09": "13.4", "700.10": "13.4", "550": "", "550.": "", "-550.1": "", "99999.1": "", "": "", "x": "",
	} {
		got, ok := CUDAVersion(version)
		assert.Equal(t, want != "", ok, version)
		assert.Equal(t, want, got, version)
	}
	assert.True(t, slices.IsSortedFunc(branches, func(a, b struct {
		branch int
		cuda   string
	},
	) int {
		return a.branch - b.branch
	}))
}
