// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package rootfs_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rootfs"
)

// A link in the image never leads out of it.
func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	if err := os.Symlink("/../../../../etc", filepath.Join(dir, "etc")); err != nil {
		log.Fatal(err)
	}
	image, err := rootfs.Open(dir)
	if err != nil {
		log.Fatal(err)
	}
	defer image.Close()
	_, err = image.ReadFile("/etc/passwd", 1<<20)
	fmt.Println(err != nil)
	// Output: true
}
