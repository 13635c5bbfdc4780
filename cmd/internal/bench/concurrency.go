// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// concurrency measures many creates in separate bundles, at once and one after the other.
func concurrency(g *ground, o options, out io.Writer) error {
	subjects := make([]subject, o.many)
	for i := range subjects {
		s, _, err := g.create(fmt.Sprintf("crowd %d", i), g.shim, g.t4, 0, gpuEnv("0")...)
		if err != nil {
			return err
		}
		subjects[i] = s
	}
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer null.Close()
	inARow := func() error {
		for _, s := range subjects {
			s.prepare = nil
			if _, err := once(s, null); err != nil {
				return err
			}
		}
		return nil
	}
	atOnce := func() error {
		errs := make([]error, len(subjects))
		var group sync.WaitGroup
		for i, s := range subjects {
			s.prepare = nil
			group.Go(func() { _, errs[i] = once(s, null) })
		}
		group.Wait()
		return errors.Join(errs...)
	}
	if err := inARow(); err != nil { // makes links and caches
		return err
	}
	var row, crowd samples
	const rounds = 5
	for round := range rounds {
		ways := []struct {
			run   func() error
			times *samples
		}{{inARow, &row}, {atOnce, &crowd}}
		if round%2 == 1 {
			slices.Reverse(ways)
		}
		for _, way := range ways {
			for _, s := range subjects {
				if err := s.prepare(); err != nil {
					return err
				}
			}
			start := time.Now()
			if err := way.run(); err != nil {
				return err
			}
			*way.times = append(*way.times, time.Since(start))
		}
	}
	fmt.Fprintf(out, `
## Concurrency

%d creates of one GPU, each in its own bundle, %d rounds; none failed.

- one after another: %s ms
- all at once: %s ms, %.2f × as long
`, o.many, rounds, ms(row.median()), ms(crowd.median()), crowd.times(row))
	return nil
}
