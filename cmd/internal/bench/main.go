// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command bench measures what a container start through nvidia-container-runtime.experimental
// costs, compared with a start without it and, if NVIDIA_RUNTIME is set to its path, through
// NVIDIA's runtime. It builds what it measures and needs only Go; as root and with runc or crun, it
// also measures whole lives of containers.
//
//	go run ./cmd/internal/bench            print the tables
//	go run ./cmd/internal/bench -write     write them to BENCHMARKS.md, too
//
// The compared runs alternate in a changing order, and ratios are medians of the ratios within one
// round, so that other load on the machine affects all alike. Nothing fails because it is slow.
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

func main() {
	if err := run(os.Args[1:], os.Stdout, os.Stderr); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type options struct {
	write  bool
	rounds int
	lives  int
	many   int
	only   string
	dir    string
	nvidia string
	note   string
}

// sections are the parts of the report, in order.
var sections = []struct {
	name  string
	print func(g *ground, o options, out io.Writer) error
}{
	{"commands", commands},
	{"stages", stages},
	{"lives", lives},
	{"growth", growth},
	{"concurrency", concurrency},
	{"startup", startup},
	{"targets", targets},
}

func run(args []string, stdout, stderr io.Writer) error {
	var o options
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.BoolVar(&o.write, "write", false, "also write the report to BENCHMARKS.md in the current directory")
	flags.IntVar(&o.rounds, "rounds", 200, "rounds of single commands")
	flags.IntVar(&o.lives, "lives", 40, "rounds of whole lives of a container")
	flags.IntVar(&o.many, "many", 500, "number of concurrent creates")
	flags.StringVar(&o.only, "only", "", "comma-separated sections to run")
	flags.StringVar(&o.dir, "dir", "", "directory for bundles and root filesystems (default: that for temporary files)")
	flags.StringVar(&o.note, "note", "", "text for the list at the top, such as how NVIDIA's runtime is set up")
	alone := flags.String("life", "", "internal: measure the lives that this JSON describes")
	staged := flags.String("stages", "", "internal: run the stages of a create in this bundle")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if *alone != "" {
		return lifeAlone(*alone, stdout)
	}
	if *staged != "" {
		return stagesAlone(*staged, os.Environ(), stdout)
	}
	o.nvidia = os.Getenv("NVIDIA_RUNTIME")

	g, err := prepare(o)
	if err != nil {
		return err
	}
	defer g.close()
	var report bytes.Buffer
	out := io.MultiWriter(stdout, &report)
	if err := heading(g, o, out); err != nil {
		return err
	}
	for _, s := range sections {
		if o.only != "" && !slices.Contains(strings.Split(o.only, ","), s.name) {
			continue
		}
		if err := s.print(g, o, out); err != nil {
			return fmt.Errorf("%s: %w", s.name, err)
		}
	}
	fmt.Fprintf(out, "\nLoad average at the end: %s.\n", loadAverage())
	if o.write {
		return os.WriteFile("BENCHMARKS.md", report.Bytes(), 0o644)
	}
	return nil
}
