// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"slices"
	"time"
)

// subject is a command to measure.
type subject struct {
	name    string
	prepare func() error // before each run, not measured
	argv    []string
	env     []string
	dir     string
}

// samples are the times of one subject, by round.
type samples []time.Duration

// measure runs the subjects in turn; each round begins with the next one. The times are from the
// start of the process until wait returns.
func measure(rounds int, subjects []subject) ([]samples, error) {
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	defer null.Close()
	times := make([]samples, len(subjects))
	const warm = 2 // rounds that do not count
	for round := range rounds + warm {
		for i := range subjects {
			n := (i + round) % len(subjects)
			d, err := once(subjects[n], null)
			if err != nil {
				return nil, err
			}
			if round >= warm {
				times[n] = append(times[n], d)
			}
		}
	}
	return times, nil
}

func once(s subject, null *os.File) (time.Duration, error) {
	if s.prepare != nil {
		if err := s.prepare(); err != nil {
			return 0, fmt.Errorf("preparing %s: %w", s.name, err)
		}
	}
	attr := &os.ProcAttr{Env: s.env, Dir: s.dir, Files: []*os.File{null, null, null}}
	start := time.Now()
	p, err := os.StartProcess(s.argv[0], s.argv, attr)
	if err != nil {
		return 0, fmt.Errorf("starting %s: %w", s.name, err)
	}
	state, err := p.Wait()
	elapsed := time.Since(start)
	if err != nil {
		return 0, err
	}
	if !state.Success() {
		return 0, fmt.Errorf("%s: %v: %v", s.name, s.argv, state)
	}
	return elapsed, nil
}

func (s samples) sorted() samples {
	s = slices.Clone(s)
	slices.Sort(s)
	return s
}

func (s samples) median() time.Duration { return s.sorted()[len(s)/2] }

func (s samples) least() time.Duration { return slices.Min(s) }

// times is the median ratio of s to base in the same round.
func (s samples) times(base samples) float64 {
	ratios := make([]float64, len(s))
	for i := range s {
		ratios[i] = float64(s[i]) / float64(base[i])
	}
	slices.Sort(ratios)
	return ratios[len(ratios)/2]
}

// ms formats a time in milliseconds.
func ms(d time.Duration) string {
	return fmt.Sprintf("%.2f", float64(d)/float64(time.Millisecond))
}
