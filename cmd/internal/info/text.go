// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package info

import (
	"bytes"
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// Text fits on one page; wide adds every MIG device, device node, directory of driver files and
// configuration key.
func (i Info) Text(wide bool) []byte {
	var out bytes.Buffer
	i.writeDriver(&out)
	if wide {
		out.WriteString(i.Listing.Text())
	} else {
		i.writeGPUs(&out)
	}
	i.writeNodes(&out, wide)
	i.writeFiles(&out, wide)
	i.writeEngines(&out)
	i.writeConfig(&out, wide)
	return out.Bytes()
}

func (i Info) writeDriver(out *bytes.Buffer) {
	d, p := i.Driver, i.Parameters
	if d == nil {
		return
	}
	fmt.Fprintf(out, "Driver      %s", d.Version)
	if d.Open {
		out.WriteString(", open kernel modules")
	}
	if d.Architecture != "" {
		out.WriteString(", " + d.Architecture)
	}
	if i.CUDA != "" {
		out.WriteString(", CUDA up to " + i.CUDA)
	}
	if len(i.Modules) > 0 {
		out.WriteString("\nModules     " + strings.Join(i.Modules, ", "))
	}
	out.WriteString("\nMajors      ")
	for n, name := range slices.SortedFunc(maps.Keys(i.Majors), func(a, b string) int {
		return cmp.Or(i.Majors[a]-i.Majors[b], strings.Compare(a, b))
	}) {
		if n > 0 {
			out.WriteString(", ")
		}
		fmt.Fprintf(out, "%s %d", name, i.Majors[name])
	}
	made := "NVIDIA's tools create them"
	if !p.Modify {
		made = "NVIDIA's tools do not create them"
	}
	fmt.Fprintf(out, "\nParameters  device nodes have mode %s, owner %d, group %d; %s\n\n", p.Mode, p.UID, p.GID, made)
}

func (i Info) writeGPUs(out *bytes.Buffer) {
	short := i.Listing
	short.GPUs = nil
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, g := range i.GPUs {
		remark := ""
		switch {
		case g.Excluded:
			remark = "\texcluded by the driver"
		case g.Error != "":
			remark = "\tunusable: " + g.Error
		case len(g.Instances) > 0:
			remark = "\t" + count(len(g.Instances), "MIG device")
		}
		fmt.Fprintf(table, "GPU %s\t%s\t%s%s\n", g.Rank(), cmp.Or(g.Model, "-"), g.Address, remark)
	}
	_ = table.Flush() // to a buffer
	if len(i.GPUs) == 0 || len(i.Unbound) > 0 {
		text := short.Text()
		if len(i.GPUs) > 0 {
			_, text, _ = strings.Cut(text, "\n") // "No GPU …"
		}
		out.WriteString(text)
	}
}

func (i Info) writeNodes(out *bytes.Buffer, wide bool) {
	switch {
	case i.NodesError != "":
		fmt.Fprintf(out, "\nDevice nodes: %s\n", i.NodesError)
	case len(i.Nodes) == 0:
	case wide:
		out.WriteString("\nDevice nodes:\n")
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		for _, n := range i.Nodes {
			fmt.Fprintf(table, "  %s\t%s\t%s\t%d:%d\t%s\n", n.Path, n.Number, n.Mode, n.UID, n.GID, n.Host)
		}
		_ = table.Flush() // to a buffer
	default:
		var odd []string
		for _, n := range i.Nodes {
			if n.Host != "there" {
				odd = append(odd, n.Path+" ("+n.Host+")")
			}
		}
		text := "all present"
		if len(odd) > 0 {
			text = "except " + list(odd)
		}
		fmt.Fprintf(out, "\nDevice nodes: %d, %s\n", len(i.Nodes), text)
	}
}

func (i Info) writeFiles(out *bytes.Buffer, wide bool) {
	switch {
	case i.FilesError != "":
		fmt.Fprintf(out, "\nDriver files: %s\n", i.FilesError)
	case len(i.Files) == 0:
	case wide:
		fmt.Fprintf(out, "\nDriver files below %s:\n", i.DriverRoot)
		table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
		last := ""
		for _, f := range i.Files {
			name := f.Capability
			if name == last {
				name = ""
			}
			last = f.Capability
			fmt.Fprintf(table, "  %s\t%d\t%s\n", name, f.Count, f.Dir)
		}
		_ = table.Flush() // to a buffer
	default:
		var counts []string
		for n := 0; n < len(i.Files); {
			name, sum := i.Files[n].Capability, 0
			for ; n < len(i.Files) && i.Files[n].Capability == name; n++ {
				sum += i.Files[n].Count
			}
			counts = append(counts, fmt.Sprintf("%s %d", name, sum))
		}
		fmt.Fprintf(out, "\nDriver files below %s: %s\n", i.DriverRoot, strings.Join(counts, ", "))
	}
}

func (i Info) writeEngines(out *bytes.Buffer) {
	out.WriteString("\nContainer engines:")
	if len(i.Engines) == 0 {
		out.WriteString(" none found")
	}
	out.WriteByte('\n')
	for _, e := range i.Engines {
		fmt.Fprintf(out, "  %s (%s)", e.Name, cmp.Or(e.Program, "configuration only"))
		if len(e.Runtimes) == 0 {
			out.WriteString(", runtime not registered")
		}
		for _, r := range e.Runtimes {
			fmt.Fprintf(out, ", runtime %q in %s", r.Name, r.File)
			if r.Default {
				out.WriteString(", the default")
			}
		}
		for _, err := range e.Errors {
			out.WriteString(", " + err)
		}
		out.WriteByte('\n')
	}
	fmt.Fprintf(out, "Low-level runtime: %s\n", cmp.Or(i.LowLevel, "none found"))
}

func (i Info) writeConfig(out *bytes.Buffer, wide bool) {
	fmt.Fprintf(out, "\nConfiguration %s", i.Config.File)
	if !i.Config.Exists {
		out.WriteString(" (no such file)")
	}
	settings := i.Config.Settings
	if !wide {
		settings = slices.DeleteFunc(slices.Clone(settings), func(s plan.Setting) bool {
			return s.Origin == "default" || s.Origin == "--root"
		})
		if len(settings) == 0 {
			out.WriteString(": all defaults\n")
			return
		}
		out.WriteString(", except defaults")
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
		fmt.Fprintf(table, "  %s\t%s\t%s\n", s.Key, s.Origin, value)
	}
	_ = table.Flush() // to a buffer
}

func count(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return fmt.Sprintf("%d %s", n, what)
}

// list names at most three.
func list(names []string) string {
	const few = 3
	if len(names) <= few {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:few], ", "), len(names)-few)
}
