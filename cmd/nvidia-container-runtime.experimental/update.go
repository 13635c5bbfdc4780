// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/spec/rawjson"
)

// maxResources bounds what is read of the resources of an update. Those of
// containerd have a few KiB.
const maxResources = 16 << 20

// keepDevices makes of crun's "update --resources FILE ID" an update that does not speak of
// devices. It returns the arguments for crun, which finds the resources on its standard input.
//
// An engine that knows nothing of our devices sends the container's resources as it knows them when
// processors or memory are changed: containerd's CRI plugin on standard input, podman in a file.
// runc leaves device rules alone in an update. crun applies them, and the container would lose its
// GPU; from 1.23 on, with systemd, it refuses them ("updating device access list not supported when
// using BPFProgram"). crun 1.19 and later leave the devices as they are if there is no list
// (append_resources in crun's cgroup-systemd.c); an empty one is for 1.19 to 1.22 a list as any
// other.
func keepDevices(inv invocation, args []string) ([]string, error) {
	in := os.Stdin
	if inv.resources != "-" {
		f, err := os.Open(inv.resources)
		if err != nil {
			return args, nil //nolint:nilerr // crun says so in its own words
		}
		defer f.Close()
		in = f
		options := len(args) - len(inv.operands)
		if args[options-1] == "--" {
			options--
		}
		args = slices.Concat(args[:options], []string{"--resources=-"}, args[options:]) // of several crun takes the last
	}
	data, err := io.ReadAll(io.LimitReader(in, maxResources+1))
	if err != nil {
		return nil, fmt.Errorf("reading the resources to update: %w", err)
	}
	if len(data) > maxResources {
		return nil, fmt.Errorf("reading the resources to update: more than %d bytes", maxResources)
	}
	if err := setStdin(withoutDevices(data)); err != nil {
		return nil, fmt.Errorf("handing on the resources to update: %w", err)
	}
	return args, nil
}

// setStdin makes data what is read from standard input.
func setStdin(data []byte) error {
	fd, err := unix.MemfdCreate("resources", unix.MFD_CLOEXEC)
	if err != nil {
		return err
	}
	f := os.NewFile(uintptr(fd), "resources")
	defer f.Close()
	if _, err := f.Write(data); err != nil {
		return err
	}
	if _, err := f.Seek(0, io.SeekStart); err != nil {
		return err
	}
	return unix.Dup3(fd, 0, 0)
}

// withoutDevices takes the list of device rules out of a runtime-spec linux.resources. What is none
// is left for crun to refuse.
func withoutDevices(resources []byte) []byte {
	top, err := rawjson.Parse(resources)
	if err != nil || top.Kind() != rawjson.Object {
		return resources
	}
	var s rawjson.Splices
	for m := range top.Members() {
		if m.Key.Text() == "devices" && m.Value.Kind() == rawjson.Array {
			s.Replace(m.Value, []byte("null"))
		}
	}
	out, err := s.Apply(resources)
	if err != nil {
		return resources
	}
	return out
}
