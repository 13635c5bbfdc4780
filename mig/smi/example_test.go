// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package smi_test

import (
	"fmt"
	"log"

	"github.com/nvsysfs/nvidia-container-runtime/mig/smi"
)

func ExampleParse() {
	report, err := smi.Parse([]byte("GPU 0: NVIDIA A100 80GB PCIe (UUID: GPU-41255406-c9af-f94b-4ebf-9d57ad1853da)\n" +
		"  MIG 2g.20gb     Device  0: (UUID: MIG-a65afc88-50b5-5ccf-b0a8-f93b3247ae9e)\n"))
	if err != nil {
		log.Fatal(err)
	}
	for _, gpu := range report.GPUs {
		for _, device := range gpu.Devices {
			fmt.Println(gpu.UUID, device.Index, device.UUID)
		}
	}
	// Output: GPU-41255406-c9af-f94b-4ebf-9d57ad1853da 0 MIG-a65afc88-50b5-5ccf-b0a8-f93b3247ae9e
}
