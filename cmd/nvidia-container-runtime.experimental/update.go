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

// maxResources limits the size of an update's resources. containerd's have a few KiB.
const maxResources = 16 << 20

// keepDevices removes the device rules from crun's "update --resources FILE ID". It returns the
// arguments for crun, which reads the resources from standard input.
//
// When CPUs or memory change, an engine that does not know our devices sends all of the container's
// resources as it knows them: containerd's CRI plugin on standard input, podman in a file. runc
// ignores device rules in an update. crun applies them, so that the container would lose its GPU;
// since 1.23, with systemd, it refuses them ("updating device access list not supported when using
// BPFProgram"). Since 1.19, crun does not change devices if there is no list (append_resources in
// crun's cgroup-systemd.c); up to 1.22, it applies an empty list.
func keepDevices(inv invocation, args []string) ([]string, error) {
	in := os.Stdin
	if inv.resources != "-" {
		f, err := os.Open(inv.resources)
		if err != nil {
			return args, nil //nolint:nilerr // crun reports it
		}
		defer f.Close()
		in = f
		options := len(args) - len(inv.operands)
		if args[options-1] == "--" {
			options--
		}
		// If there are several, crun uses the last.
		args = slices.Concat(args[:options], []string{"--resources=-"}, args[options:])
	}
	data, err := io.ReadAll(io.LimitReader(in, maxResources+1))
	if err != nil {
		return nil, fmt.Errorf("reading the resources to update: %w", err)
	}
	if len(data) > maxResources {
		return nil, fmt.Errorf("reading the resources to update: more than %d bytes", maxResources)
	}
	if err := setStdin(withoutDevices(data)); err != nil {
		return nil, fmt.Errorf("passing on the resources to update: %w", err)
	}
	return args, nil
}

// setStdin replaces standard input by data.
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

// withoutDevices removes the device rules from a linux.resources of the runtime spec. Invalid input
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
