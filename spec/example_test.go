// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec_test

import (
	"fmt"
	"log"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
)

// What a container asks for.
func Example() {
	document, err := spec.Parse([]byte(`{
		"ociVersion": "1.0.2",
		"process": {"env": ["NVIDIA_VISIBLE_DEVICES=0:1,GPU-fef8089b", "NVIDIA_DRIVER_CAPABILITIES=compute,utility"]},
		"root": {"path": "rootfs"}
	}`))
	if err != nil {
		log.Fatal(err)
	}
	facts, err := document.Facts()
	if err != nil {
		log.Fatal(err)
	}
	request, asked, err := spec.NewRequest(facts, spec.Policy{EnvWhenUnprivileged: true})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(asked, request.Devices, request.Capabilities)
	// Output: true [0:1 GPU-fef8089b] [compute utility]
}
