// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
)

// targets compares what was measured with what was aimed at. Text says what
// stands between the two; the figures are those of this run.
func targets(g *ground, _ options, out io.Writer) error {
	fmt.Fprint(out, "\n## Targets\n\n| | aim | measured | |\n|---|---:|---:|---|\n")
	for _, t := range []struct {
		name, figure, unit string
		aim                float64
	}{
		{"pass-through", "`state`", "× floor", 1.25},
		{"create with one GPU", "`create`, one GPU", "× floor", 2.2},
		{"create on the largest machine, one GPU", "`create`, largest machine, one GPU", "× floor", 3},
		{"whole life, nothing asked, runc", "runc, nothing asked", "× (floor × 3)", 1.03},
		{"whole life, compute and utility, runc", "runc, compute and utility", "× (floor × 3)", 1.15},
		{"whole life, all driver capabilities, runc", "runc, all driver capabilities", "× (floor × 3)", 1.2},
		{"whole life, nothing asked, crun", "crun, nothing asked", "× (floor × 3)", 1.03},
		{"whole life, compute and utility, crun", "crun, compute and utility", "× (floor × 3)", 1.25},
		{"whole life, all driver capabilities, crun", "crun, all driver capabilities", "× (floor × 3)", 1.35},
		{"the same on a new ext4, runc", "runc, all driver capabilities, ext4", "× (floor × 3)", 1.2},
		{"the same on a new ext4, crun", "crun, all driver capabilities, ext4", "× (floor × 3)", 1.35},
		{"most memory of any create above, MiB", "memory", "", 12},
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
What stands in between, by the stages above, and what the next step would cost:

- A create with one GPU spends most of its own time on the machine and the driver's files, in about 150 system calls for 40 names, and in
  code that runs once and so is read from memory for the first time. A list of the driver's files, kept on the host from one start to
  the next, would save a part of that. It is not done: somebody would have to notice that it is out of date, and a stale list is a container that
  does not start after an upgrade of the driver, which is the fault that users of other runtimes know best.
- On the largest machine all GPUs mean 112 files of procfs for the MIG devices, with six calls each so that nothing but a regular file is opened,
  and 120 device nodes and rules in config.json. Nothing of that is read for one GPU.
- A large config.json of a container with GPUs is parsed whole: two members of one name would be read differently by runc and crun.
- A start that asks for nothing costs a tenth of a Go program's start more than one that only execs: a larger program has more pages to be
  mapped, and the configuration and the low-level runtime are looked for. A small program in front that starts the large one only for containers
  with GPUs would save a part of that, at the price of a second program to install.
- Of a whole life, three starts of a program are a part that nobody in front of a runtime gets around. The rest is one mount, device rules, and
  new files in the image: what an inode costs on the file system decides.
`)
	return nil
}
