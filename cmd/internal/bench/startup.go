// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"time"
)

// startup measures the initialization of each linked package. With GODEBUG=inittrace=1 the Go
// runtime prints a line for each package that has something to do before main:
//
//	init encoding/base64 @0.44 ms, 0.010 ms clock, 1408 bytes, 4 allocs
func startup(g *ground, o options, out io.Writer) error {
	clocks := map[string]samples{}
	allocs := map[string]string{}
	const rounds = 51
	for range rounds {
		cmd := exec.Command(g.shim, "state", "id")
		cmd.Env = append(g.environment(g.t4, g.stub), "GODEBUG=inittrace=1")
		var text bytes.Buffer
		cmd.Stderr = &text
		if err := cmd.Run(); err != nil {
			return err
		}
		for line := range strings.Lines(text.String()) {
			f := strings.Fields(line)
			if len(f) < 10 || f[0] != "init" {
				continue
			}
			clock, err := strconv.ParseFloat(f[4], 64)
			if err != nil {
				return fmt.Errorf("init trace %q: %w", line, err)
			}
			clocks[f[1]] = append(clocks[f[1]], time.Duration(clock*float64(time.Millisecond)))
			allocs[f[1]] = f[7] + " bytes, " + f[9] + " allocations"
		}
	}
	type row struct {
		name  string
		clock time.Duration
	}
	var rows []row
	var sum time.Duration
	for name, s := range clocks {
		rows = append(rows, row{name, s.median()})
		sum += s.median()
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(b.clock, a.clock), cmp.Compare(a.name, b.name))
	})
	fmt.Fprintf(out, "\n## Initialization of packages\n\n"+
		"From `GODEBUG=inittrace=1`, medians of %d starts. %d packages initialize something, in %.3f ms together "+
		"(internal/godebug takes longer than usual because GODEBUG is set); those that take 5 µs or more:\n\n"+
		"| package | ms | |\n|---|---:|---|\n", rounds, len(rows), float64(sum)/float64(time.Millisecond))
	for _, r := range rows {
		if r.clock < 5*time.Microsecond {
			break
		}
		fmt.Fprintf(out, "| %s | %.3f | %s |\n", r.name, float64(r.clock)/float64(time.Millisecond), allocs[r.name])
	}
	return nil
}
