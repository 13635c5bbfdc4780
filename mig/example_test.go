// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/mig"
)

// The GPU with minor 1, which has index 3, has three MIG devices. Each has two nodes in
// /dev/nvidia-caps.
func ExampleReadInstances() {
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
	instances, _, err := mig.ReadInstances(os.DirFS(filepath.Join(dir, "machine")), 1)
	if err != nil {
		log.Fatal(err)
	}
	for n, i := range instances {
		fmt.Printf("%d is GPU instance %d, compute instance %d: nvidia-cap%d and nvidia-cap%d\n", n, i.GI, i.CI, i.GICap.Minor, i.CICap.Minor)
	}
	// Output:
	// 0 is GPU instance 1, compute instance 0: nvidia-cap147 and nvidia-cap148
	// 1 is GPU instance 5, compute instance 0: nvidia-cap183 and nvidia-cap184
	// 2 is GPU instance 13, compute instance 0: nvidia-cap255 and nvidia-cap256
}

func ExampleParseName() {
	name, err := mig.ParseName("MIG-GPU-9de3d0e8-33f5-10dc-0c79-2c88a7ab0a23/9/0")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(name.GPU, name.GI, name.CI)
	// Output: GPU-9de3d0e8-33f5-10dc-0c79-2c88a7ab0a23 9 0
}
