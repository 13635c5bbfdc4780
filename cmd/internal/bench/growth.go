// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/elfstub"
)

// size is the size of a machine and a config.json.
type size struct {
	gpus, instances int // MIG devices, distributed over the GPUs
	functions       int // PCI functions of other vendors
	libraries       int // additional libraries of the driver
	config          int // bytes
	devices         string
}

// growth measures how the time of a create grows with the sizes.
func growth(g *ground, o options, out io.Writer) error {
	axes := []struct {
		name  string
		sizes []int
		with  func(n int) size
	}{
		{"GPUs, all given", []int{1, 2, 4, 8, 16, 32}, func(n int) size { return size{gpus: n, devices: "all"} }},
		{"GPUs, one given", []int{1, 2, 4, 8, 16, 32}, func(n int) size { return size{gpus: n, devices: "0"} }},
		{"MIG instances on 32 GPUs, one given", []int{0, 56, 112, 224}, func(n int) size {
			if n == 0 {
				return size{gpus: 32, devices: "0"}
			}
			return size{gpus: 32, instances: n, devices: "0:0"}
		}},
		{"MIG instances on 32 GPUs, a GPU without any given", []int{0, 56, 112, 224}, func(n int) size {
			return size{gpus: 32, instances: n, devices: "31"}
		}},
		{"other PCI functions", []int{100, 500, 1000, 2000}, func(n int) size {
			return size{gpus: 1, functions: n, devices: "all"}
		}},
		{"driver libraries", []int{40, 100, 200, 400}, func(n int) size {
			return size{gpus: 1, libraries: n - usualLibraries, devices: "all"}
		}},
		{"KB of config.json, one GPU", []int{10, 100, 1000, 4000}, func(n int) size {
			return size{gpus: 1, config: n << 10, devices: "all"}
		}},
		{"KB of config.json, nothing requested", []int{10, 100, 1000, 4000}, func(n int) size {
			return size{gpus: 1, config: n << 10}
		}},
	}
	fmt.Fprint(out, "\n## Growth\n\nA create on machines of several sizes: milliseconds (median), "+
		"multiples of the floor in parentheses, then system calls.\n\n")
	for i, axis := range axes {
		floor := subject{name: "floor", argv: []string{g.floor, "state"}, env: g.environment(g.t4, g.stub)}
		subjects := []subject{floor}
		for _, n := range axis.sizes {
			s, err := g.sized(fmt.Sprintf("growth-%d-%d", i, n), axis.with(n))
			if err != nil {
				return err
			}
			subjects = append(subjects, s)
		}
		calls := make([]int, len(subjects))
		for i, s := range subjects {
			for range 2 {
				a, err := count(s)
				if err != nil {
					return fmt.Errorf("counting %s: %w", s.name, err)
				}
				calls[i] = a.calls
			}
		}
		times, err := measure(max(o.rounds/4, 1), subjects)
		if err != nil {
			return err
		}
		fmt.Fprintf(out, "- %s:", axis.name)
		for i, n := range axis.sizes {
			t := times[i+1]
			fmt.Fprintf(out, " %d: %s (%.2f), %d;", n, ms(t.median()), t.times(times[0]), calls[i+1])
		}
		fmt.Fprintln(out)
		for _, s := range subjects[1:] {
			_ = os.RemoveAll(filepath.Join(g.dir, s.name))
			_ = os.RemoveAll(filepath.Join(g.run, s.name))
		}
	}
	return nil
}

// usualLibraries is the number of driver libraries of the fixture t4.
const usualLibraries = 40

// sized makes a machine and a bundle of a size, and returns the create.
func (g *ground) sized(name string, s size) (subject, error) {
	root := filepath.Join(g.dir, name, "machine")
	machine, err := fixtures.Load("t4")
	if err != nil {
		return subject{}, err
	}
	if _, err := machine.Unpack(root, fixtures.UnpackOptions{NoDevices: true}); err != nil {
		return subject{}, err
	}
	if err := os.RemoveAll(filepath.Join(root, "proc/driver/nvidia/gpus")); err != nil {
		return subject{}, err
	}
	if err := os.RemoveAll(filepath.Join(root, "proc/driver/nvidia/capabilities")); err != nil {
		return subject{}, err
	}
	write := func(text string, format string, args ...any) {
		path := filepath.Join(root, fmt.Sprintf(format, args...))
		if err == nil {
			err = os.MkdirAll(filepath.Dir(path), 0o755)
		}
		if err == nil {
			err = os.WriteFile(path, []byte(text), 0o644)
		}
	}
	access := func(minor int) string {
		return fmt.Sprintf("DeviceFileMinor: %d\nDeviceFileMode: 292\nDeviceFileModify: 1\n", minor)
	}
	write(access(1), "proc/driver/nvidia/capabilities/mig/config")
	write(access(2), "proc/driver/nvidia/capabilities/mig/monitor")
	for n := range s.gpus {
		write(fmt.Sprintf("Model: \t\t NVIDIA H100 80GB HBM3\nIRQ:   \t\t %d\n"+
			"GPU UUID: \t GPU-%08x-0000-4000-8000-%012x\nVideo BIOS: \t 96.00.99.00.01\n"+
			"Bus Type: \t PCIe\nDMA Size: \t 52 bits\nDMA Mask: \t 0xfffffffffffff\n"+
			"Bus Location: \t 0000:%02x:00.0\nDevice Minor: \t %d\nGPU Excluded:\t No\n",
			40+n, n, n, n+1, n), "proc/driver/nvidia/gpus/0000:%02x:00.0/information", n+1)
	}
	for n := range s.instances {
		gpu, gi := n/7, 7+n%7 // the last GPUs have none
		minor := 3 + 135*gpu + 9*gi
		write(access(minor), "proc/driver/nvidia/capabilities/gpu%d/mig/gi%d/access", gpu, gi)
		write(access(minor+1), "proc/driver/nvidia/capabilities/gpu%d/mig/gi%d/ci0/access", gpu, gi)
	}
	for n := range s.functions {
		dir := fmt.Sprintf("sys/bus/pci/devices/0001:%02x:%02x.%d", n/256, n/8%32, n%8)
		write("0x8086\n", "%s/vendor", dir)
		write("0x020000\n", "%s/class", dir)
		write("0x1521\n", "%s/device", dir)
	}
	for n := range s.libraries {
		soname := fmt.Sprintf("libnvidia-filler%d.so.1", n)
		library, encodeErr := elfstub.File{Machine: hostMachine(), SONAME: soname}.Encode()
		if encodeErr != nil {
			return subject{}, encodeErr
		}
		write(string(library), "usr/lib/x86_64-linux-gnu/libnvidia-filler%d.so.550.54.15", n)
	}
	if err != nil {
		return subject{}, err
	}
	var env []string
	if s.devices != "" {
		env = gpuEnv(s.devices)
	}
	text, err := config(s.config, env...)
	if err != nil {
		return subject{}, err
	}
	b, err := g.bundle(g.run, name, text)
	if err != nil {
		return subject{}, err
	}
	return subject{
		name: name, prepare: b.reset,
		argv: []string{g.shim, "create", "--bundle", b.dir, "id"},
		env:  g.environment(root, g.stub),
	}, nil
}
