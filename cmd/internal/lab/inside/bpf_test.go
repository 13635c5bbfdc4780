// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// On cgroup v2, a device policy consists of BPF programs attached to a cgroup: a device may be
// opened if all of them allow it. Below are the parts of bpf(2)'s union bpf_attr that the tests
// need.

// bpf calls bpf(2).
func bpf(t *testing.T, command int, attr unsafe.Pointer, size uintptr) int {
	t.Helper()
	r, _, errno := unix.Syscall(unix.SYS_BPF, uintptr(command), uintptr(attr), size)
	require.Zero(t, errno, "bpf command %d: %v", command, errno)
	return int(r)
}

type progAttach struct {
	target, prog    uint32
	attachType      uint32
	flags, replaced uint32
}

func openCgroup(t *testing.T, path string) *os.File {
	t.Helper()
	f, err := os.Open(path)
	require.NoError(t, err)
	t.Cleanup(func() { f.Close() })
	return f
}

// devicePrograms returns the IDs of a cgroup's device programs.
func devicePrograms(t *testing.T, cgroup string) []uint32 {
	t.Helper()
	ids := make([]uint32, 64)
	attr := struct {
		target, attachType, queryFlags, attachFlags uint32
		ids                                         uint64
		count                                       uint32
		_                                           [36]byte
	}{
		target: uint32(openCgroup(t, cgroup).Fd()), attachType: unix.BPF_CGROUP_DEVICE,
		ids: uint64(uintptr(unsafe.Pointer(&ids[0]))), count: uint32(len(ids)),
	}
	bpf(t, unix.BPF_PROG_QUERY, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
	return ids[:attr.count]
}

// detachDevicePrograms removes the device policy of a cgroup.
func detachDevicePrograms(t *testing.T, cgroup string) {
	t.Helper()
	group := openCgroup(t, cgroup)
	for _, id := range devicePrograms(t, cgroup) {
		get := struct{ id, next, flags uint32 }{id: id}
		prog := bpf(t, unix.BPF_PROG_GET_FD_BY_ID, unsafe.Pointer(&get), unsafe.Sizeof(get))
		attr := progAttach{target: uint32(group.Fd()), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE}
		bpf(t, unix.BPF_PROG_DETACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
		require.NoError(t, unix.Close(prog))
	}
}

// allowDevices replaces a cgroup's device policy with one that allows everything, as a hook does
// that adds a device to an existing container.
func allowDevices(t *testing.T, cgroup string) {
	t.Helper()
	detachDevicePrograms(t, cgroup)
	// crun 1.21 also attaches a program to the cgroup that it creates below the unit's.
	below, err := filepath.Glob(filepath.Join(cgroup, "container"))
	require.NoError(t, err)
	for _, c := range below {
		detachDevicePrograms(t, c)
	}
	instructions := []uint64{
		0x1_0000_00b7, // r0 = 1
		0x95,          // exit
	}
	license := []byte("Apache-2.0\x00")
	load := struct {
		progType, count       uint32
		instructions, license uint64
		logLevel, logSize     uint32
		log                   uint64
		version, flags        uint32
	}{
		progType: unix.BPF_PROG_TYPE_CGROUP_DEVICE, count: uint32(len(instructions)),
		instructions: uint64(uintptr(unsafe.Pointer(&instructions[0]))), license: uint64(uintptr(unsafe.Pointer(&license[0]))),
	}
	prog := bpf(t, unix.BPF_PROG_LOAD, unsafe.Pointer(&load), unsafe.Sizeof(load))
	defer unix.Close(prog)
	attr := progAttach{target: uint32(openCgroup(t, cgroup).Fd()), prog: uint32(prog), attachType: unix.BPF_CGROUP_DEVICE, flags: unix.BPF_F_ALLOW_MULTI}
	bpf(t, unix.BPF_PROG_ATTACH, unsafe.Pointer(&attr), unsafe.Sizeof(attr))
}
