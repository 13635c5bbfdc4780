// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rawjson_test

import (
	"fmt"
	"log"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// What is not looked at remains bytes of the text.
func Example() {
	value, err := rawjson.Parse([]byte(`{"root": {"path": "rootfs"}, "x-unknown": [1.0, 1e400]}`))
	if err != nil {
		log.Fatal(err)
	}
	for member := range value.Members() {
		fmt.Printf("%s %s\n", member.Key.Text(), member.Value.Raw())
	}
	// Output:
	// root {"path": "rootfs"}
	// x-unknown [1.0, 1e400]
}
