// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// TestCaptureFixtures captures every machine: the capture lists the same GPUs, has no file the machine had not, and captured
// again it is the same.
func TestCaptureFixtures(t *testing.T) {
	for _, name := range fixtures.Names() {
		t.Run(name, func(t *testing.T) {
			machine, err := fixtures.Load(name)
			require.NoError(t, err)
			root := unpack(t, machine)
			captured, warnings := capture(root)
			assert.Empty(t, warnings)

			known := map[string]fixtures.Kind{}
			libraries := 0
			for _, e := range machine.Entries {
				known[e.Name] = e.Kind
				if isDriverLibrary(filepath.Base(e.Name)) && e.Kind == fixtures.ELF {
					libraries++
				}
			}
			for _, e := range captured.Entries {
				assert.Equal(t, known[e.Name], e.Kind, e.Name)
				if isDriverLibrary(filepath.Base(e.Name)) && e.Kind == fixtures.ELF {
					libraries--
				}
			}
			assert.Zero(t, libraries, "libraries that were not captured")

			copied := unpack(t, captured)
			assert.Equal(t, listed(t, root), listed(t, copied))
			assert.Equal(t, driverFiles(t, root), driverFiles(t, copied))
			again, warnings := capture(copied)
			assert.Empty(t, warnings)
			assert.Equal(t, format(t, captured), format(t, again))

			scrubMachine(again)
			text := format(t, again)
			for line := range strings.Lines(format(t, captured)) {
				if uuid, ok := strings.CutPrefix(line, "GPU UUID: \t "); ok && !strings.Contains(uuid, "?") {
					assert.NotContains(t, text, strings.TrimSpace(uuid))
				}
			}
		})
	}
}

// driverFiles are the names of the driver's files that a container would get, or why it would get none.
func driverFiles(t *testing.T, root sysfs.Root) []string {
	t.Helper()
	inv, err := sysfs.Read(root, false)
	require.NoError(t, err)
	if inv.Driver == nil {
		return nil
	}
	o := driver.Options{Version: inv.Driver.Version, Arch: ldcache.X8664, Classes: driver.All}
	if inv.Driver.Arch == "aarch64" {
		o.Arch = ldcache.AArch64
	}
	files, notes, err := driver.Find(root, o)
	if err != nil {
		notes = append(notes, err.Error())
	}
	for i := range notes {
		notes[i] = strings.ReplaceAll(notes[i], string(root), "")
	}
	for _, f := range files {
		notes = append(notes, f.Dest+" "+f.Path)
	}
	return notes
}

func unpack(t *testing.T, machine fixtures.Archive) sysfs.Root {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "root")
	_, err := machine.Unpack(dir, fixtures.UnpackOptions{NoDevices: true})
	require.NoError(t, err)
	root, err := sysfs.NewRoot(dir)
	require.NoError(t, err)
	return root
}

func listed(t *testing.T, root sysfs.Root) string {
	t.Helper()
	var out strings.Builder
	if err := run([]string{"list", "--json", "--root", string(root)}, nil, &out, os.Stderr); err != nil {
		require.ErrorContains(t, err, "no NVIDIA driver is loaded")
	}
	return strings.ReplaceAll(out.String(), string(root), "")
}

func format(t *testing.T, machine fixtures.Archive) string {
	t.Helper()
	text, err := machine.Format()
	require.NoError(t, err)
	return string(text)
}

// TestCaptureHostile captures a machine full of what must not be kept, opened or followed.
func TestCaptureHostile(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) {
		t.Helper()
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(content), 0o644))
	}
	link := func(name, target string) {
		t.Helper()
		file := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.Symlink(target, file))
	}
	write("proc/devices", "Character devices:\n195 nvidia\n\nBlock devices:\n")
	write("proc/driver/nvidia/version", "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (alice@secret-host)  Tue Mar  5 22:16:25 UTC 2024\nGCC version:  gcc version 12\n")
	write("proc/driver/nvidia/params", "ModifyDeviceFiles: 1\nRegistryDwords: \"secret=1\"\nTemporaryFilePath: \"/home/secret\"\nExcludedGpus: \"GPU-AAAAAAAA-bbbb-cccc-dddd-eeeeeeeeeeee\"\n")
	write("proc/driver/nvidia/registry", "Binary: \"secret\"\n")
	write("proc/driver/nvidia/gpus/0000:01:00.0/registry", "Binary: \"secret\"\n")
	write("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: NVIDIA L4\nGPU UUID: GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\nDevice Minor: 0\nVideo BIOS: no newline GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeef")
	write("etc/hostname", "secret\n")
	write("etc/os-release", "NAME=\"Debian\"\nID=debian\nBUILD_ID=secret\n")
	write("sys/bus/pci/devices/0000:02:00.0/vendor", "0x10de\n") // a directory where sysfs has a link
	link("sys/bus/pci/devices/0000:03:00.0", "/etc")
	write("etc/vendor", "0x10de\n")
	link("usr/lib64/libcuda.so.1", "libcuda.so.1")
	link("usr/lib64/libnvidia-ml.so.1", "/etc/hostname")
	write("usr/lib64/libnvidia-cfg.so.1", "not an elf file\n")
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "usr/bin"), 0o755))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "usr/bin/nvidia-smi"), 0o666))
	require.NoError(t, syscall.Mkfifo(filepath.Join(dir, "etc/ld.so.cache"), 0o666))
	write("usr/bin/nvidia-bug-report.sh", "#!/bin/sh\n# secret\n")

	root, err := sysfs.NewRoot(dir)
	require.NoError(t, err)
	machine, warnings := capture(root)
	scrubMachine(machine)
	for i := range warnings {
		warnings[i] = strings.ReplaceAll(warnings[i], dir, "")
	}
	slices.Sort(warnings)
	for i, want := range []string{
		`leaving out "etc/hostname": reading elf file`,
		`leaving out "etc/ld.so.cache": `,
		`leaving out "sys/bus/pci/devices/0000:02:00.0": not a relative link`,
		`leaving out "sys/bus/pci/devices/0000:03:00.0": not a relative link`,
		`leaving out "usr/lib64/libcuda.so.1": following links`,
		`leaving out "usr/lib64/libnvidia-cfg.so.1": reading elf file`,
	} {
		require.Less(t, i, len(warnings), want)
		assert.Contains(t, warnings[i], want)
	}
	assert.Len(t, warnings, 6)
	assert.Equal(t, `A machine captured by nvsysfs capture: 1 GPUs (NVIDIA L4), driver 550.54.15.
-- etc/os-release --
NAME="Debian"
ID=debian
-- proc/devices --
Character devices:
195 nvidia

Block devices:
-- proc/driver/nvidia/gpus/0000:01:00.0/information [hex] --
4d6f64656c3a204e5649444941204c340a47505520555549443a204750552d30
303030303030312d303030302d343030302d383030302d303030303030303030
3030310a446576696365204d696e6f723a20300a566964656f2042494f533a20
6e6f206e65776c696e65204750552d30303030303030322d303030302d343030
302d383030302d303030303030303030303032
-- proc/driver/nvidia/params --
ModifyDeviceFiles: 1
RegistryDwords: ""
TemporaryFilePath: ""
ExcludedGpus: "GPU-00000001-0000-4000-8000-000000000001"
-- proc/driver/nvidia/version --
NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (builder@)  Tue Mar  5 22:16:25 UTC 2024
GCC version:  gcc version 12
-- usr/bin/nvidia-bug-report.sh --
#!/bin/sh
-- usr/lib64/libcuda.so.1 -> libcuda.so.1 --
-- usr/lib64/libnvidia-ml.so.1 -> /etc/hostname --
`, format(t, machine))
}

func FuzzScrubUUIDs(f *testing.F) {
	f.Add([]byte("GPU-aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee\n"))
	f.Add([]byte("0aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"))
	f.Fuzz(func(t *testing.T, data []byte) {
		replaced := map[string]string{}
		got := scrubUUIDs(data, replaced)
		assert.Len(t, got, len(data))
		seen := map[string]bool{}
		for _, new := range replaced {
			assert.False(t, seen[new], "two UUIDs have become one")
			seen[new] = true
			assert.Contains(t, string(got), new)
		}
		if len(replaced) == 0 {
			assert.Equal(t, string(data), string(got))
		}
	})
}
