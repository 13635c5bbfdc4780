// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/mig"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// nvsysfsCommand runs nvsysfs in the script's environment and directory. It builds nvsysfs the
// first time in each script.
func nvsysfsCommand(ts *testscript.TestScript, neg bool, args []string) {
	tool := ts.MkAbs("bin/nvsysfs")
	if _, err := os.Stat(tool); err != nil {
		build := exec.Command("go", "build", "-buildvcs=false", "-o", tool, "../nvsysfs")
		if out, err := build.CombinedOutput(); err != nil {
			ts.Fatalf("building nvsysfs: %v\n%s", err, out)
		}
	}
	err := ts.Exec(filepath.Clean(tool), args...)
	if neg == (err == nil) {
		ts.Fatalf("nvsysfs: %v", err)
	}
}

// learnLarge writes a list of learnt MIG devices, one for each GPU of a large machine, and returns
// their made-up UUIDs.
func learnLarge(t testing.TB, machine string) []string {
	t.Helper()
	root := sysfs.Root(machine)
	inv, err := sysfs.Read(root, true)
	require.NoError(t, err)
	epoch, err := mig.ReadEpoch(root, inv.Driver.Version)
	require.NoError(t, err)
	var store learnt.Store
	var names []string
	for n, gpu := range inv.GPUs {
		instance := gpu.Instances[:1]
		marks, err := mig.ReadMarks(root, gpu.Minor, epoch, instance)
		require.NoError(t, err)
		uuid := mig.Die{PDI: uint64(n), Chip: 0x170}.UUID(instance[0].GI, 0)
		names = append(names, uuid.String())
		store.GPUs = append(store.GPUs, learnt.GPU{UUID: gpu.UUID, Devices: []learnt.Device{{UUID: uuid, GI: instance[0].GI, CI: instance[0].CI, Mark: marks[0]}}})
	}
	file := root.Path(learnt.Path)
	require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
	require.NoError(t, os.WriteFile(file, store.Encode(), 0o644))
	return names
}

// TestCreateMIGUUIDReadsNothingTwice checks that a request for MIG devices by UUID starts no
// process and reads no file more often than mostReads allows, and that other requests do not read
// the list of learnt devices.
func TestCreateMIGUUIDReadsNothingTwice(t *testing.T) {
	machine, bundle := largeMachine(t)
	names := learnLarge(t, machine)
	store := sysfs.Root(machine).Path(learnt.Path)
	create := func(devices string) trace {
		writeLargeConfig(t, bundle, devices)
		return traced(t, machine, "create", "--bundle", bundle, "id")
	}
	for _, devices := range []string{"0", "0:0", "all"} {
		tr := create(devices)
		assert.NotContains(t, tr.reads, store, devices)
		t.Logf("NVIDIA_VISIBLE_DEVICES=%s: %d system calls, %d files read", devices, len(tr.own), len(tr.reads))
	}
	tr := create(strings.Join(names, ","))
	assert.Zero(t, tr.processes)
	for file, n := range tr.reads {
		if info, err := os.Stat(file); err == nil && info.IsDir() {
			continue
		}
		assert.LessOrEqual(t, n, mostReads(bundle, file), file)
	}
	t.Logf("NVIDIA_VISIBLE_DEVICES of %d MIG-<uuid>: %d system calls, %d files read", len(names), len(tr.own), len(tr.reads))
}
