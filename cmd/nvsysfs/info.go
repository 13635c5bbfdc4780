// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/listing"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

func newInfo(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "info",
		Short: "show driver, device nodes, engines and configuration",
		Long: `Shows the machine as nvidia-container-runtime.experimental sees it: the driver
and its kernel modules, the GPUs, the device nodes, the driver's files by driver
capability, the container engines, and each configuration key with its origin.`,
		Example: `  nvsysfs info
  nvsysfs info --root /mnt/image`,
		Args: noArguments,
	}
	dir := rootFlag(cmd, "")
	cmd.RunE = func(*cobra.Command, []string) error { return runInfo(i, *dir) }
	return cmd
}

func runInfo(i invocation, dir string) error {
	environ, err := plan.Below(dir, i.environ)
	if err != nil {
		return err
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return err
	}
	settings, there, err := cfg.Settings(environ)
	if err != nil {
		return err
	}
	pathVar := plan.Getenv(environ, "PATH")
	survey, err := plan.ReadSurvey(cfg, driver.All, pathVar)
	if err != nil {
		return err
	}
	var out bytes.Buffer
	printDriver(&out, survey)
	printNodes(&out, survey)
	printFiles(&out, survey)
	printEngines(&out, survey.Root, configure.FindLowLevel(survey.Root, cfg, pathVar))
	if dir != "" {
		for n := range settings {
			if strings.HasPrefix(settings[n].Origin, "NVIDIA_CONTAINER_RUNTIME_SYSROOT") {
				settings[n].Origin = "--root"
			}
		}
	}
	printSettings(&out, cfg, settings, there)
	_, err = i.stdout.Write(out.Bytes())
	return err
}

func printDriver(out *bytes.Buffer, s plan.Survey) {
	inv := s.Inventory
	if d := inv.Driver; d != nil {
		fmt.Fprintf(out, "Driver      %s", d.Version)
		if d.Open {
			out.WriteString(", open kernel modules")
		}
		if d.Arch != "" {
			fmt.Fprintf(out, ", %s", d.Arch)
		}
		if cuda, ok := sysfs.CUDAVersion(d.Version); ok {
			fmt.Fprintf(out, ", CUDA up to %s", cuda)
		}
		out.WriteByte('\n')
		if modules := loadedModules(s.Root); len(modules) > 0 {
			fmt.Fprintf(out, "Modules     %s\n", strings.Join(modules, ", "))
		}
		fmt.Fprintf(out, "Majors      %s\n", strings.Join(majors(inv.Majors), ", "))
		made := "NVIDIA's tools make them"
		if !inv.Params.ModifyDeviceFiles {
			made = "NVIDIA's tools do not make them"
		}
		fmt.Fprintf(out, "Parameters  device nodes have mode %04o, owner %d, group %d; %s\n", inv.Params.DeviceFileMode.Perm(), inv.Params.DeviceFileUID, inv.Params.DeviceFileGID, made)
		out.WriteByte('\n')
	}
	out.WriteString(listing.Of(inv, s.Unbound, sysfs.MIGUUIDs{}).Text())
}

// loadedModules are the kernel modules of the driver, from the directories of /sys/module.
func loadedModules(root sysfs.Root) []string {
	entries, err := root.ReadDir("sys/module")
	if err != nil {
		return nil
	}
	var modules []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "nvidia") || e.Name() == "gdrdrv" {
			modules = append(modules, e.Name())
		}
	}
	return modules
}

func majors(m sysfs.Majors) []string {
	var list []string
	for _, row := range []struct {
		name  string
		major int
	}{
		{"nvidia", m.Nvidia},
		{"nvidiactl", m.Ctl},
		{"nvidia-modeset", m.Modeset},
		{"nvidia-uvm", m.UVM},
		{"nvidia-caps", m.Caps},
		{"nvidia-caps-imex-channels", m.IMEXChannels},
		{"nvidia-nvlink", m.NVLink},
		{"nvidia-nvswitch", m.NVSwitch},
	} {
		if row.major >= 0 {
			list = append(list, fmt.Sprintf("%s %d", row.name, row.major))
		}
	}
	return list
}

func printNodes(out *bytes.Buffer, s plan.Survey) {
	if s.NodesErr != nil {
		fmt.Fprintf(out, "\nDevice nodes: %v\n", s.NodesErr)
		return
	}
	if len(s.AllNodes()) == 0 {
		return
	}
	out.WriteString("\nDevice nodes:\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, n := range s.AllNodes() {
		host := "on the host"
		switch {
		case n.Instead != "":
			host = "on the host: " + n.Instead
		case !n.OnHost:
			host = "not on the host"
		}
		fmt.Fprintf(table, "  %s\t%d:%d\t%04o\t%d:%d\t%s\n", n.Path, n.Major, n.Minor, n.Mode.Perm(), n.UID, n.GID, host)
	}
	_ = table.Flush() // to a buffer
}

// printFiles counts the driver's files by what wants them and where they are.
func printFiles(out *bytes.Buffer, s plan.Survey) {
	if s.FilesErr != nil {
		fmt.Fprintf(out, "\nDriver files: %v\n", s.FilesErr)
		return
	}
	if len(s.Files) == 0 {
		return
	}
	fmt.Fprintf(out, "\nDriver files below %s:\n", s.DriverRoot)
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, class := range []driver.Class{driver.Compute, driver.Utility, driver.Video, driver.Graphics, driver.Display, driver.NGX, driver.Compat32, 0} {
		count := map[string]int{}
		var dirs []string
		for _, f := range s.Files {
			if f.Class&class == 0 && f.Class != class {
				continue
			}
			dir := path.Dir(f.Path)
			if count[dir] == 0 {
				dirs = append(dirs, dir)
			}
			count[dir]++
		}
		slices.Sort(dirs)
		name := class.String()
		if class == 0 {
			name = "always"
		}
		for _, dir := range dirs {
			fmt.Fprintf(table, "  %s\t%d\t%s\n", name, count[dir], dir)
			name = ""
		}
	}
	_ = table.Flush() // to a buffer
}

func printEngines(out *bytes.Buffer, root sysfs.Root, lowLevel string) {
	engines := configure.FindEngines(root)
	out.WriteString("\nContainer engines:")
	if len(engines) == 0 {
		out.WriteString(" none found")
	}
	out.WriteByte('\n')
	for _, e := range engines {
		program := e.Program
		if program == "" {
			program = "configuration only"
		}
		fmt.Fprintf(out, "  %s (%s)", e.Name, program)
		if len(e.Runtimes) == 0 {
			out.WriteString(", this runtime is not registered")
		}
		for _, r := range e.Runtimes {
			fmt.Fprintf(out, ", runtime %q in %s", r.Name, r.File)
			if r.Default {
				out.WriteString(", the default")
			}
		}
		for _, err := range e.Errs {
			fmt.Fprintf(out, ", %v", err)
		}
		out.WriteByte('\n')
	}
	if lowLevel == "" {
		lowLevel = "none found"
	}
	fmt.Fprintf(out, "Low-level runtime: %s\n", lowLevel)
}

func printSettings(out *bytes.Buffer, cfg plan.Config, settings []plan.Setting, there bool) {
	fmt.Fprintf(out, "\nConfiguration %s", cfg.File)
	if !there {
		out.WriteString(", which is not there")
	}
	out.WriteString(":\n")
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, s := range settings {
		value := fmt.Sprint(s.Value)
		switch v := s.Value.(type) {
		case string:
			value = fmt.Sprintf("%q", v)
		case []string:
			value = "[" + strings.Join(v, ", ") + "]"
		}
		origin := s.Origin
		if origin == s.Key {
			origin = "file"
		}
		fmt.Fprintf(table, "  %s\t%s\t%s\n", s.Key, origin, value)
	}
	_ = table.Flush() // to a buffer
}
