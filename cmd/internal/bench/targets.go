// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
)

// targets compares this run's measurements with the targets, and explains the difference.
func targets(g *ground, _ options, out io.Writer) error {
	fmt.Fprint(out, "\n## Targets\n\n| | target | measured | |\n|---|---:|---:|---|\n")
	for _, t := range []struct {
		name, figure, unit string
		aim                float64
	}{
		{"pass-through", "`state`", "× floor", 1.25},
		{"create with one GPU", "`create`, one GPU", "× floor", 2.2},
		{"create on the largest machine, one GPU", "`create`, largest machine, one GPU", "× floor", 3},
		{"whole life, nothing requested, runc", "runc, nothing requested", "× (floor × 3)", 1.03},
		{"whole life, compute and utility, runc", "runc, compute and utility", "× (floor × 3)", 1.15},
		{"whole life, all driver capabilities, runc", "runc, all driver capabilities", "× (floor × 3)", 1.2},
		{"whole life, nothing requested, crun", "crun, nothing requested", "× (floor × 3)", 1.03},
		{"whole life, compute and utility, crun", "crun, compute and utility", "× (floor × 3)", 1.25},
		{"whole life, all driver capabilities, crun", "crun, all driver capabilities", "× (floor × 3)", 1.35},
		{"the same on a new ext4, runc", "runc, all driver capabilities, ext4", "× (floor × 3)", 1.2},
		{"the same on a new ext4, crun", "crun, all driver capabilities, ext4", "× (floor × 3)", 1.35},
		{"peak memory of any create above, MiB", "memory", "", 12},
		{"binary, MiB", shimName, "", 6},
	} {
		measured, ok := g.figures[t.figure]
		switch {
		case !ok:
			fmt.Fprintf(out, "| %s | %g %s | | not measured |\n", t.name, t.aim, t.unit)
		case measured <= t.aim:
			fmt.Fprintf(out, "| %s | %g %s | %.2f | met |\n", t.name, t.aim, t.unit, measured)
		default:
			fmt.Fprintf(out, "| %s | %g %s | %.2f | missed |\n", t.name, t.aim, t.unit, measured)
		}
	}
	fmt.Fprint(out, `
What the rest of the time goes to, by the stages above, and what the next step would cost:

- A create with one GPU spends most of its own time on the machine and the driver's files: about 150 system calls for
  40 names, and code that runs once and is therefore read from memory for the first time. A list of the driver's
  files, kept on the host between starts, would save part of that. We do not keep one: somebody would have to notice
  when it is out of date. With a stale list, containers do not start after a driver upgrade, the fault that users of
  other runtimes know best.
- On the largest machine, all GPUs mean 112 procfs files for the MIG devices, with six calls each so that only regular
  files are opened, and 120 device nodes and rules in config.json. None of that is needed for one GPU.
- For a container with GPUs, even a large config.json is parsed completely, because runc and crun read duplicate
  members differently.
- A start that requests nothing takes a tenth longer than the floor, a Go program that only execs: a larger program
  has more pages to map, and the configuration and the low-level runtime must be found. A small program that starts
  the large one only for containers with GPUs would save part of that, at the price of a second program to install.
- In a whole life, starting a program three times is unavoidable for any program in front of a runtime. The rest is
  one mount, device rules, and new files in the image, whose price depends on the file system.
`)
	return nil
}
