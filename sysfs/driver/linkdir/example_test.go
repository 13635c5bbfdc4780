// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package linkdir_test

import (
	"fmt"
	"log"
	"os"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver/linkdir"
)

// Where the directory of a set of files would be, and whether it is there.
func ExampleFind() {
	boot, err := linkdir.ThisBoot()
	if err != nil {
		log.Fatal(err)
	}
	library, err := os.Executable() // stands in for one
	if err != nil {
		log.Fatal(err)
	}
	files := []linkdir.File{{Name: "libcuda.so.550.54.15", Source: library}, {Name: "libcuda.so.1", Target: "libcuda.so.550.54.15"}}
	dir, there, err := linkdir.Find("/usr/lib/example", boot, linkdir.Set{Version: "550.54.15", Files: files})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(strings.HasPrefix(dir, "/usr/lib/example/boot-"+boot.ID+"/550.54.15-"), there)
	// Output: true false
}
