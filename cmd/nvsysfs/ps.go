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
		Long: `Lists the processes that have one of the driver's device nodes open or one of
its libraries mapped. They block "modprobe -r nvidia" and changes of MIG
devices; LIBRARIES shows which still use another driver version than that of the
loaded module. Only /proc is read.

DEVICES are the indices of GPUs and MIG devices, else names of device nodes.
Only root sees other users' processes; the number of hidden ones is printed
last. "-o wide" shows whole command lines and container ids.`,
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
			fmt.Fprintf(table, "%d\t%s\t%s\t%s\t%s\t%s\n",
				p.PID, cmp.Or(p.User, strconv.Itoa(p.UID)), fileName(command), container,
				cmp.Or(strings.Join(p.Devices, ","), "-"), cmp.Or(strings.Join(libraries, ", "), "-"))
		}
		_ = table.Flush() // to a buffer
	}
	if list.Hidden > 0 {
		fmt.Fprintf(&out, "%s hidden from this user; run as root to see all.\n",
			counted(list.Hidden, "more process", "more processes"))
	}
	return out.Bytes()
}

// remarkOn returns what is wrong with libraries that a process has mapped, or "".
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
