// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// maxResources bounds what is read of the resources of an update. Those of
// containerd have a few KiB.
const maxResources = 16 << 20

// keepDevices lets crun's "update --resources -" find on its standard input
// what was there, without device rules.
//
// containerd's CRI plugin sends the resources of the container as it knows
// them when the kubelet changes its processors or memory. It does not know
// our devices; runc leaves device rules alone in an update, but crun applies
// those it is given, and the container would lose its GPU (crun's update.c
// and cgroup-resources.c).
func keepDevices() error {
	data, err := io.ReadAll(io.LimitReader(os.Stdin, maxResources+1))
	if err != nil {
		return fmt.Errorf("reading the resources to update: %w", err)
	}
	if len(data) > maxResources {
		return fmt.Errorf("reading the resources to update: more than %d bytes", maxResources)
	}
	fd, err := unix.MemfdCreate("resources", unix.MFD_CLOEXEC)
	if err != nil {
		return fmt.Errorf("handing on the resources to update: %w", err)
	}
	f := os.NewFile(uintptr(fd), "resources")
	defer f.Close()
	if _, err := f.Write(withoutDevices(data)); err != nil {
		return fmt.Errorf("handing on the resources to update: %w", err)
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return fmt.Errorf("handing on the resources to update: %w", err)
	}
	if err := unix.Dup3(fd, 0, 0); err != nil {
		return fmt.Errorf("handing on the resources to update: %w", err)
	}
	return nil
}

// withoutDevices empties the list of device rules in a runtime-spec
// linux.resources. What is none is left for crun to refuse.
func withoutDevices(resources []byte) []byte {
	top, err := rawjson.Parse(resources)
	if err != nil || top.Kind() != rawjson.Object {
		return resources
	}
	var s rawjson.Splices
	for m := range top.Members() {
		if m.Key.Text() == "devices" && m.Value.Kind() == rawjson.Array {
			s.Replace(m.Value, []byte("[]"))
		}
	}
	out, err := s.Apply(resources)
	if err != nil {
		return resources
	}
	return out
}
