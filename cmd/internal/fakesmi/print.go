// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package fakesmi

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// Exit statuses, from nvidia-smi's manual page.
const (
	exitArgument = 2 // an argument is invalid
	exitNotFound = 6 // there is no device, or not the requested one
	exitNoDriver = 9 // the driver is not loaded
)

const noDriver = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. " +
	"Make sure that the latest NVIDIA driver is installed and running.\n\n"

// Main acts as nvidia-smi if the process was started by that name and its program was written by
// [Install]. Otherwise it does nothing and returns false.
func Main(args []string, stdout io.Writer) (status int, ok bool) {
	if len(args) == 0 || filepath.Base(args[0]) != "nvidia-smi" {
		return 0, false
	}
	program, err := os.Open("/proc/self/exe")
	if err != nil {
		return 0, false
	}
	defer program.Close()
	machine, ok := machineOf(program)
	if !ok {
		return 0, false
	}
	return run(os.DirFS("/"), machine, args[1:], stdout), true
}

// run prints information about the GPUs of machine whose device nodes exist in fsys, the
// container's root.
func run(fsys fs.FS, machine Machine, args []string, stdout io.Writer) int {
	there := func(name string) bool {
		_, err := fs.Stat(fsys, name)
		return err == nil
	}
	o, err := parse(args)
	if err != nil {
		fmt.Fprintln(stdout, err)
		return exitArgument
	}
	if !there("dev/nvidiactl") {
		fmt.Fprint(stdout, noDriver)
		return exitNoDriver
	}
	if o.version {
		fmt.Fprintf(stdout, "NVIDIA-SMI version  : %[1]s\nNVML version        : %[2]s\n"+
			"DRIVER version      : %[1]s\nCUDA Version        : %[3]s\n",
			machine.Driver, branch(machine.Driver), orNA(machine.CUDA))
		return 0
	}
	var gpus []GPU
	for _, g := range machine.GPUs {
		if !there(fmt.Sprintf("dev/nvidia%d", g.Minor)) {
			continue
		}
		devices := g.Devices
		g.Devices = nil
		for _, d := range devices {
			missing := func(minor int) bool { return !there(fmt.Sprintf("dev/nvidia-caps/nvidia-cap%d", minor)) }
			if !slices.ContainsFunc(d.Caps, missing) {
				g.Devices = append(g.Devices, d)
			}
		}
		gpus = append(gpus, g)
	}
	if len(gpus) == 0 {
		fmt.Fprintln(stdout, "No devices were found")
		return exitNotFound
	}
	var asked []int
	for i, g := range gpus {
		if len(o.ids) == 0 || slices.ContainsFunc(o.ids, func(id string) bool {
			return id == strconv.Itoa(i) || strings.EqualFold(id, g.UUID) || strings.EqualFold(id, g.Bus) ||
				strings.EqualFold(id, strings.TrimPrefix(g.Bus, "0000"))
		}) {
			asked = append(asked, i)
		}
	}
	if len(asked) == 0 {
		fmt.Fprintln(stdout, "No devices were found")
		return exitNotFound
	}
	switch {
	case o.list:
		for _, i := range asked {
			fmt.Fprintf(stdout, "GPU %d: %s (UUID: %s)\n", i, gpus[i].Name, gpus[i].UUID)
			for n, d := range gpus[i].Devices {
				fmt.Fprintf(stdout, "  MIG %-11s Device %2d: (UUID: %s)\n", d.Profile, n, d.UUID)
			}
		}
	case o.query:
		query(stdout, machine, gpus, asked)
	case len(o.fields) > 0:
		if !o.noHeader {
			fmt.Fprintln(stdout, strings.Join(o.fields, ", "))
		}
		for _, i := range asked {
			var values []string
			for _, field := range o.fields {
				values = append(values, valueOf(field, machine, gpus, i))
			}
			fmt.Fprintln(stdout, strings.Join(values, ", "))
		}
	default:
		table(stdout, machine, gpus, asked)
	}
	return 0
}

type options struct {
	list, query, version, noHeader bool
	fields, ids                    []string
}

func parse(args []string) (options, error) {
	var o options
	format := ""
	for i := 0; i < len(args); i++ {
		name, value, hasValue := strings.Cut(args[i], "=")
		if name == "-i" || name == "--id" || name == "--query-gpu" || name == "--format" {
			if !hasValue && i+1 < len(args) {
				i++
				value, hasValue = args[i], true
			}
			if !hasValue {
				//nolint:staticcheck // NVIDIA's style
				return options{}, fmt.Errorf("Option %s needs a value. Please run 'nvidia-smi -h' for help.", name)
			}
		}
		switch name {
		case "-L", "--list-gpus":
			o.list = true
		case "-q", "--query":
			o.query = true
		case "--version":
			o.version = true
		case "-i", "--id":
			o.ids = strings.Split(value, ",")
		case "--query-gpu":
			for field := range strings.SplitSeq(value, ",") {
				field = strings.TrimSpace(field)
				if !known(field) {
					//nolint:staticcheck // NVIDIA's words
					return options{}, fmt.Errorf("Field %q is not a valid field to query.", field)
				}
				o.fields = append(o.fields, field)
			}
		case "--format":
			format = value
		default:
			//nolint:staticcheck // NVIDIA's words
			return options{}, fmt.Errorf("Invalid combination of input arguments. "+
				"Please run 'nvidia-smi -h' for help.\n(This fixture's nvidia-smi knows -L, -q, "+
				"--query-gpu, --format, -i and --version, but not %q.)", args[i])
		}
	}
	words := strings.Split(format, ",")
	if (len(o.fields) > 0 || format != "") && !slices.Contains(words, "csv") {
		//nolint:staticcheck // NVIDIA's words
		return options{}, errors.New("\"--format=\" switch is missing. Please run 'nvidia-smi -h' for help.")
	}
	o.noHeader = slices.Contains(words, "noheader")
	return o, nil
}

// query prints what identifies the GPUs and MIG devices, in the format of nvidia-smi -q.
func query(w io.Writer, machine Machine, gpus []GPU, asked []int) {
	line := func(indent int, key string, value any) {
		fmt.Fprintf(w, "%*s%-*s: %v\n", indent, "", 55-indent, key, value)
	}
	fmt.Fprint(w, "\n==============NVSMI LOG==============\n\n")
	line(0, "Driver Version", machine.Driver)
	line(0, "CUDA Version", orNA(machine.CUDA))
	fmt.Fprintln(w)
	line(0, "Attached GPUs", len(gpus))
	for _, i := range asked {
		g := gpus[i]
		fmt.Fprintf(w, "GPU %s\n", g.Bus)
		line(4, "Product Name", g.Name)
		for n, d := range g.Devices {
			fmt.Fprint(w, "    MIG Device\n")
			line(8, "Index", n)
			line(8, "GPU Instance ID", d.GI)
			line(8, "Compute Instance ID", d.CI)
		}
		line(4, "GPU UUID", g.UUID)
		if g.PDI != "" {
			line(4, "GPU PDI", g.PDI)
		}
	}
}

// measured are prefixes of the nvidia-smi fields whose values only a GPU can provide.
var measured = []string{
	"timestamp", "vbios_version", "serial", "pcie.", "fan.speed", "pstate", "clocks", "memory.", "compute_mode",
	"compute_cap", "utilization.", "encoder.", "ecc.", "retired_pages.", "temperature.", "power.",
	"persistence_mode", "display_", "accounting.", "inforom.", "gom.", "pci.",
}

func known(field string) bool {
	switch field {
	case "index", "uuid", "gpu_uuid", "name", "gpu_name", "gpu_bus_id", "driver_version", "count",
		"mig.mode.current", "mig.mode.pending":
		return true
	}
	return slices.ContainsFunc(measured, func(prefix string) bool { return strings.HasPrefix(field, prefix) })
}

func valueOf(field string, machine Machine, gpus []GPU, i int) string {
	switch field {
	case "index":
		return strconv.Itoa(i)
	case "uuid", "gpu_uuid":
		return gpus[i].UUID
	case "name", "gpu_name":
		return gpus[i].Name
	case "pci.bus_id", "gpu_bus_id":
		return gpus[i].Bus
	case "driver_version":
		return machine.Driver
	case "count":
		return strconv.Itoa(len(gpus))
	case "mig.mode.current", "mig.mode.pending":
		if len(gpus[i].Devices) > 0 {
			return "Enabled"
		}
	}
	return "[N/A]"
}

// branch shortens the driver version to the form that NVML reports as its own, such as "550.54".
func branch(version string) string {
	parts := strings.SplitN(version, ".", 3)
	return strings.Join(parts[:min(2, len(parts))], ".")
}

func orNA(s string) string {
	if s == "" {
		return "N/A"
	}
	return s
}

// table prints what nvidia-smi prints without arguments, as far as the values are known.
func table(w io.Writer, machine Machine, gpus []GPU, asked []int) {
	const line = "+-----------------------------------------------------------------------------------------+"
	row := func(format string, args ...any) { fmt.Fprintf(w, "| %-87.87s |\n", fmt.Sprintf(format, args...)) }
	fmt.Fprintln(w, line)
	row("NVIDIA-SMI %-22s Driver Version: %-14s CUDA Version: %s", machine.Driver, machine.Driver, orNA(machine.CUDA))
	fmt.Fprintln(w, line)
	row("GPU  Name                                Bus-Id            Memory-Usage   GPU-Util   MIG M.")
	fmt.Fprintln(w, line)
	for _, i := range asked {
		mig := "N/A"
		if len(gpus[i].Devices) > 0 {
			mig = "Enabled"
		}
		row("%3d  %-35.35s %-16s  %12s   %8s   %s", i, gpus[i].Name, gpus[i].Bus, "N/A", "N/A", mig)
	}
	fmt.Fprintln(w, line)
}
