// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package learnt_test

import (
	"fmt"
	"log"

	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
)

// The file says which MIG device of a GPU has which UUID.
func Example() {
	store, err := learnt.Parse([]byte("version 1\n" +
		"gpu GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16\n" +
		"device MIG-feb88891-0321-5fef-9c87-d4af3b54259e 7 0 52f1c0de90ab3344\n" +
		"end\n"))
	if err != nil {
		log.Fatal(err)
	}
	gpu, known := store.Find("GPU-7fdaf0a5-179b-f636-d15d-daf243e3ff16")
	for _, device := range gpu.Devices {
		fmt.Println(known, device.UUID, device.GI, device.CI)
	}
	// Output: true MIG-feb88891-0321-5fef-9c87-d4af3b54259e 7 0
}
