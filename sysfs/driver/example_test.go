// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver_test

import (
	"fmt"
	"log"
	"os"
	"path/filepath"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// The files of the driver that a container with NVIDIA_DRIVER_CAPABILITIES=utility gets.
func Example() {
	dir, err := os.MkdirTemp("", "example-")
	if err != nil {
		log.Fatal(err)
	}
	defer os.RemoveAll(dir)
	machine, err := fixtures.Load("t4")
	if err != nil {
		log.Fatal(err)
	}
	if _, err := machine.Unpack(filepath.Join(dir, "machine"), fixtures.UnpackOptions{NoDevices: true}); err != nil {
		log.Fatal(err)
	}

	files, _, err := driver.Find(sysfs.Root(filepath.Join(dir, "machine")), driver.Options{
		Version: "550.54.15", Arch: ldcache.X8664, Classes: driver.Utility,
	})
	if err != nil {
		log.Fatal(err)
	}
	for _, f := range files {
		if f.Kind == driver.Library {
			fmt.Println(f.SONAME, f.Path)
		}
	}
	// Output:
	// libnvidia-cfg.so.1 /usr/lib/x86_64-linux-gnu/libnvidia-cfg.so.550.54.15
	// libnvidia-ml.so.1 /usr/lib/x86_64-linux-gnu/libnvidia-ml.so.550.54.15
}
