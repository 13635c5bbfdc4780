// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache_test

import (
	"fmt"
	"log"
	"os"

	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// A library is put into the cache of an image, as ldconfig would.
func Example() {
	data, err := os.ReadFile("testdata/glibc-2.36-new.cache")
	if err != nil {
		log.Fatal(err)
	}
	cache, err := ldcache.Parse(data)
	if err != nil {
		log.Fatal(err)
	}
	flags := ldcache.X8664.Flags()
	cache.Merge([]ldcache.Entry{{Name: "libcuda.so.1", Path: "/usr/lib/driver/libcuda.so.1", Flags: flags}})
	for _, e := range cache.Lookup("libcuda.so.1", flags) {
		fmt.Println(e.Name, "=>", e.Path)
	}
	if _, err := cache.Encode(); err != nil { // what is written to /etc/ld.so.cache
		log.Fatal(err)
	}
	// Output:
	// libcuda.so.1 => /usr/lib/driver/libcuda.so.1
}
