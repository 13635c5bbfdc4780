// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package requirement_test

import (
	"fmt"
	"log"

	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
)

func ExampleCheck() {
	wanted, err := requirement.Parse("cuda>=12.4 brand=tesla,driver>=450")
	if err != nil {
		log.Fatal(err)
	}
	machine := requirement.Properties{Driver: "470.256.02", CUDA: "11.4"}
	_, err = requirement.Check([]requirement.Requirement{wanted}, machine, []requirement.GPU{{Name: "GPU 0", Brand: "geforce", Arch: "8.6"}})
	fmt.Println(err != nil)
	_, err = requirement.Check([]requirement.Requirement{wanted}, machine, []requirement.GPU{{Name: "GPU 0", Brand: "tesla", Arch: "7.5"}})
	fmt.Println(err)
	// Output:
	// true
	// <nil>
}
