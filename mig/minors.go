// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"strings"
)

// minors is the content of /proc/driver/nvidia-caps/mig-minors, which also has capabilities that do
// not exist.
type minors struct {
	byName map[string]int // nil: no such file, use the formula
}

// readMinors reads /proc/driver/nvidia-caps/mig-minors.
func readMinors(fsys fs.FS) (*minors, error) {
	data, err := fs.ReadFile(fsys, minorsFile)
	if errors.Is(err, fs.ErrNotExist) {
		return &minors{}, nil
	}
	if err != nil {
		return nil, err
	}
	byName, err := parseMinors(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", minorsFile, err)
	}
	return &minors{byName}, nil
}

// parseMinors parses lines of a name and a minor with one blank between them:
//
//	config 1
//	monitor 2
//	gpu0/gi0/access 3
//	gpu0/gi0/ci0/access 4
//
// Unlike the paths below /proc/driver/nvidia/capabilities, names have no "mig/".
func parseMinors(r io.Reader) (map[string]int, error) {
	byName := make(map[string]int)
	lines := bufio.NewScanner(r)
	for line := 1; lines.Scan(); line++ {
		fields := strings.Fields(lines.Text())
		if len(fields) == 0 {
			continue
		}
		if len(fields) != 2 {
			return nil, fmt.Errorf("line %d: %s is not a name and a number", line, quote(lines.Text()))
		}
		minor, ok := parseNumber(fields[1])
		if !ok || minor > maxMinor {
			return nil, fmt.Errorf("line %d: minor %s is not a number up to %d", line, quote(fields[1]), maxMinor)
		}
		if _, again := byName[fields[0]]; again {
			return nil, fmt.Errorf("line %d: second %s", line, quote(fields[0]))
		}
		byName[fields[0]] = minor
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	return byName, nil
}

// minor looks up an instance; ci is -1 for the GPU instance.
func (m *minors) minor(gpu, gi, ci int) (int, error) {
	if m.byName == nil {
		if gpu < 0 || gpu >= maxGPUs || gi < 0 || gi >= maxGPUInstances || ci < -1 || ci >= maxComputeInstances {
			return 0, fmt.Errorf("no minor is known for gpu%d/gi%d/ci%d", gpu, gi, ci)
		}
		return formula(gpu, gi, ci), nil
	}
	name := fmt.Sprintf("gpu%d/gi%d/ci%d/access", gpu, gi, ci)
	if ci < 0 {
		name = fmt.Sprintf("gpu%d/gi%d/access", gpu, gi)
	}
	minor, ok := m.byName[name]
	if !ok {
		return 0, fmt.Errorf("no line %s in %s", name, minorsFile)
	}
	return minor, nil
}

// control looks up "config" or "monitor".
func (m *minors) control(name string) int {
	if minor, ok := m.byName[name]; ok {
		return minor
	}
	return map[string]int{"config": 1, "monitor": 2}[name]
}

// formula computes the table, as nvidia-modprobe does: 1 and 2 are config and monitor, then each
// GPU has 15 groups of a GPU instance (ci is -1) and its 8 compute instances.
func formula(gpu, gi, ci int) int {
	const group = 1 + maxComputeInstances
	return 3 + gpu*maxGPUInstances*group + gi*group + 1 + ci
}
