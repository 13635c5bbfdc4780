// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package sysfs_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// The GPUs of a machine, and what a container gets that asks for NVIDIA_VISIBLE_DEVICES=0:1. Where
// the program runs on the machine itself, the root is "/".
func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	machine, err := fixtures.Load("a100-mig")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := machine.Unpack(filepath.Join(dir, "machine"), fixtures.UnpackOptions{NoDevices: true}); err != nil {
		log.Fatal(err)
	}
	root, err := sysfs.NewRoot(filepath.Join(dir, "machine"))
	if err != nil {
		log.Fatal(err)
	}

	inventory, err := sysfs.Read(root, true)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(inventory.Driver.Version)
	for _, gpu := range inventory.GPUs[:2] {
		fmt.Println(gpu.Index, gpu.Address, gpu.Model, len(gpu.Instances))
	}

	selection, err := inventory.Select(sysfs.ParseQuery([]string{"0:1"}))
	if err != nil {
		log.Fatal(err)
	}
	nodes, err := inventory.SelectionNodes(root, selection)
	if err != nil {
		log.Fatal(err)
	}
	for _, node := range nodes {
		fmt.Printf("%s %d:%d\n", node.Path, node.Major, node.Minor)
	}
	// Output:
	// 550.90.07
	// 0 0000:07:00.0 NVIDIA A100-SXM4-80GB 7
	// 1 0000:0f:00.0 NVIDIA A100-SXM4-80GB 1
	// /dev/nvidia2 195:2
	// /dev/nvidia-caps/nvidia-cap345 237:345
	// /dev/nvidia-caps/nvidia-cap346 237:346
}
