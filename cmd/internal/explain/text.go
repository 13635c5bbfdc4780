// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"bytes"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// Text formats the explanation as tables.
func (e *Explanation) Text() []byte {
	var out bytes.Buffer
	if !e.Asks {
		fmt.Fprintf(&out, "Nothing changes, the container asks for nothing: %s.\n", e.Why)
		return out.Bytes()
	}
	fmt.Fprintf(&out, "Driver %s, %s.\n", e.Driver.Version, e.Why)
	if !e.Changes {
		out.WriteString("config.json already has all of it.\n")
	}
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	section := func(title string, rows ...[]string) {
		if len(rows) == 0 {
			return
		}
		fmt.Fprintf(table, "\n%s:\n", title)
		for _, row := range rows {
			fmt.Fprintf(table, "  %s\n", strings.Join(row, "\t"))
		}
		_ = table.Flush() // to a buffer
	}
	var gpus, devices, mounts, libraries, links, files, chars [][]string
	for _, g := range e.GPUs {
		gpus = append(gpus, []string{fmt.Sprint(g.Index), g.Address, g.Model, g.UUID, strings.Join(g.MIG, "; ")})
	}
	for _, d := range e.Devices {
		devices = append(devices, []string{d.Path, d.Number, d.Mode, "on the host: " + d.Host, d.Why})
	}
	for _, m := range e.Mounts {
		mounts = append(mounts, []string{m.Path, m.Why, m.Source})
	}
	for _, l := range e.Linked {
		libraries = append(libraries, []string{l.Path, l.Why, l.Source})
	}
	for _, l := range e.Links {
		links = append(links, []string{l.Path, "-> " + l.Target})
	}
	for _, f := range e.Files {
		files = append(files, []string{f.Path, fmt.Sprintf("%d bytes", f.Size), f.Why})
	}
	for _, l := range e.CharLinks {
		chars = append(chars, []string{l.Path, "-> " + l.Target, l.Why})
	}
	section("GPUs", trimmed(gpus)...)
	section("Device nodes, each allowed by a device cgroup rule", devices...)
	section("Mounts", mounts...)
	section("Files in "+plan.Dir+", all from one mount", libraries...)
	section("Links in the root filesystem; mounts where they cannot be created", links...)
	section("Files in the root filesystem", files...)
	section("Masked paths, which describe other GPUs", column(e.Masked)...)
	section("Additional groups, for access to the nodes", column(e.Groups)...)
	section("Creating other GPUs' nodes", []string{e.Fence})
	section("Hooks of the classic runtime, removed", column(e.Hooks)...)
	section("The container's own mounts, kept instead of ours", column(e.Kept)...)
	section("Links below /dev/char, for the systemd cgroup driver", chars...)
	section("Notes", column(e.Notes)...)
	return out.Bytes()
}

func column[T any](items []T) [][]string {
	var rows [][]string
	for _, item := range items {
		rows = append(rows, []string{fmt.Sprint(item)})
	}
	return rows
}

// trimmed drops trailing empty cells.
func trimmed(rows [][]string) [][]string {
	for i, row := range rows {
		for len(row) > 0 && row[len(row)-1] == "" {
			row = row[:len(row)-1]
		}
		rows[i] = row
	}
	return rows
}
