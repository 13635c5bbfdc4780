// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/spec"
)

// stageNames are the stages of a create, as in the runtime's run.go.
var stageNames = []string{
	"config.toml", "config.json: read, request", "plan: machine, driver's files, image", "carry: image, config.json",
}

// stages measures where a create spends its time. Each measurement is a new process that runs the
// stages once, like the runtime: the first time, a stage takes several times as long as later, when
// code and directories are in the processor's caches.
func stages(g *ground, o options, out io.Writer) error {
	fmt.Fprintf(out, "\n## Stages of a create\n\n"+
		"Milliseconds (median), each measured in a process that runs them once. "+
		"The rest of a create is starting the process, the floor.\n\n"+
		"| | %s | all |\n|---|%s---:|\n", strings.Join(stageNames, " | "), strings.Repeat("---:|", len(stageNames)))
	for _, c := range []struct {
		name, machine, devices string
		size                   int
	}{
		{"one GPU", g.t4, "0", 0},
		{"largest machine, one GPU", g.large, "0", 0},
		{"largest machine, all 8 GPUs", g.large, "all", 0},
		{"largest machine, all, config.json of 1 MB", g.large, "all", 1 << 20},
	} {
		text, err := config(c.size, gpuEnv(c.devices)...)
		if err != nil {
			return err
		}
		b, err := g.bundle(g.run, "stages "+c.name, text)
		if err != nil {
			return err
		}
		columns := make([]samples, len(stageNames)+1)
		for range o.rounds/4 + 2 {
			if err := b.reset(); err != nil {
				return err
			}
			cmd := exec.Command("/proc/self/exe", "-stages", b.dir)
			cmd.Env, cmd.Stderr = g.environment(c.machine, g.stub), os.Stderr
			answer, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("stages of %s: %w", c.name, err)
			}
			var times []time.Duration
			if err := json.Unmarshal(answer, &times); err != nil {
				return err
			}
			for i, d := range append(times, sum(times)) {
				columns[i] = append(columns[i], d)
			}
		}
		fmt.Fprintf(out, "| %s |", c.name)
		for _, column := range columns {
			fmt.Fprintf(out, " %s |", ms(column[2:].median())) // the first one made the links
		}
		fmt.Fprintln(out)
	}
	return nil
}

func sum(times []time.Duration) (all time.Duration) {
	for _, d := range times {
		all += d
	}
	return all
}

// stagesAlone runs the stages of a create once, and prints their times.
func stagesAlone(bundle string, environ []string, out io.Writer) error {
	var times []time.Duration
	last := time.Now()
	lap := func() {
		now := time.Now()
		times, last = append(times, now.Sub(last)), now
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return err
	}
	lap()
	doc, err := spec.Open(bundle)
	if err != nil {
		return err
	}
	defer doc.Close()
	facts, err := doc.Facts()
	if err != nil {
		return err
	}
	request, _, err := spec.NewRequest(facts, cfg.Policy())
	if err != nil {
		return err
	}
	lap()
	p, err := plan.New(cfg, plan.Container{Request: request, Facts: facts, Bundle: bundle, Path: "/usr/bin"})
	if err != nil {
		return err
	}
	lap()
	if _, err := p.Carry(doc); err != nil {
		return err
	}
	lap()
	return json.NewEncoder(out).Encode(times)
}
