// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/ps"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

func newPS(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "ps",
		Short: "list the processes that use GPUs, with their containers",
		Long: `Lists the processes that have a device node of the driver open or one of its
libraries mapped, from /proc alone: who keeps "modprobe -r nvidia" or a change
of MIG devices from working, and which containers still run with the libraries
of another driver version than the loaded module's.

DEVICES are GPUs and MIG devices by index, else the names of device nodes. What
others run is seen by root only; how many processes were hidden is printed last.
"-o wide" has whole command lines and container ids.`,
		Example: `  nvsysfs ps
  nvsysfs ps -o json | jq -r '.processes[].container.id'`,
		Args: noArguments,
	}
	dir, as := rootFlag(cmd, "/"), outputFlag(cmd, asWide)
	cmd.RunE = func(*cobra.Command, []string) error { return runPS(i, *dir, *as) }
	return cmd
}

func runPS(i invocation, dir string, as outputFormat) error {
	root, err := plan.OpenRoot(dir)
	if err != nil {
		return err
	}
	inventory, err := sysfs.Read(root, true)
	if err != nil {
		return err
	}
	list, err := ps.Read(root, inventory)
	if err != nil {
		return fmt.Errorf("ps: %w", err)
	}
	return as.print(i.stdout, list, printProcesses(list, as == asWide))
}

func printProcesses(list ps.List, wide bool) []byte {
	var out bytes.Buffer
	if len(list.Processes) == 0 {
		out.WriteString("No process uses the NVIDIA driver.\n")
	} else {
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		fmt.Fprintln(table, "PID\tUSER\tCOMMAND\tCONTAINER\tDEVICES\tLIBRARIES")
		for _, p := range list.Processes {
			container := "-"
			if p.Container != nil {
				id := p.Container.ID
				if !wide {
					id = id[:12]
				}
				container = strings.TrimPrefix(p.Container.Engine+":"+id, ":")
			}
			command := p.Command
			if wide {
				command = cmp.Or(strings.Join(p.Args, " "), command)
			}
			var libraries []string
			for _, l := range p.Libraries {
				libraries = append(libraries, l.Version+remarkOn(l, list.Module))
			}
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n", p.PID, cmp.Or(p.User, strconv.Itoa(p.UID)), fileName(command),
				container, cmp.Or(strings.Join(p.Devices, ","), "-"), cmp.Or(strings.Join(libraries, ", "), "-"))
		}
		_ = table.Flush() // to a buffer
	}
	if list.Hidden > 0 {
		fmt.Fprintf(&out, "This user may not look at %s; run it as root.\n", counted(list.Hidden, "more process", "more processes"))
	}
	return out.Bytes()
}

// remarkOn tells what is wrong with libraries that a process has mapped.
func remarkOn(l ps.Libraries, module string) string {
	var words []string
	if module != "" && l.Version != module {
		words = append(words, "the module is "+module)
	}
	if l.Deleted {
		words = append(words, "deleted")
	}
	if len(words) == 0 {
		return ""
	}
	return " (" + strings.Join(words, "; ") + ")"
}
