// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// SetRoot selects the machine with the root directory dir, which may be relative. "" changes
// nothing.
func (o *Options) SetRoot(dir string) error {
	if dir == "" {
		return nil
	}
	root, err := plan.OpenRoot(dir)
	if o.Root = string(root); root == "/" {
		o.Root = ""
	}
	return err
}

// Generate describes the machine that the options select, and returns notes about what it left out.
// It ignores PATH and looks for the driver's programs in the usual directories only: the file must
// not depend on who generates it.
func Generate(environ []string, o Options) (File, []string, error) {
	classes, err := o.Classes()
	if err != nil {
		return File{}, nil, err
	}
	if environ, err = plan.Below(o.Root, environ); err != nil {
		return File{}, nil, err
	}
	cfg, err := plan.LoadConfig("", environ)
	if err != nil {
		return File{}, nil, err
	}
	if o.DriverRoot != "" {
		cfg.DriverRoot = o.DriverRoot
	}
	parts, err := plan.ReadSurvey(cfg, classes, "", o.Extras...)
	if err == nil {
		err = parts.Err()
	}
	if err != nil {
		return File{}, nil, err
	}
	return Make(parts, o)
}

// Checked is the result of comparing a file with its machine.
type Checked struct {
	File        string       `json:"file"`
	Drifted     bool         `json:"drifted"`
	Differences []Difference `json:"differences"`
	Fix         string       `json:"fix,omitempty"`   // a command; "" if another file is in the way
	Notes       []string     `json:"notes,omitempty"` // what [Generate] left out
}

// Check generates a file again, from the machine below dir if dir is not "", and compares the two.
// It also reports which of found, the files that engines read, override its devices.
func Check(environ []string, dir string, found []Found, name string, f File) (Checked, error) {
	o := f.Record.Options
	if err := o.SetRoot(dir); err != nil {
		return Checked{}, err
	}
	now, notes, err := Generate(environ, o)
	if err != nil {
		return Checked{}, err
	}
	now.JSON = f.JSON
	if now.Spec, err = now.Versioned(); err != nil {
		return Checked{}, err
	}
	c := Checked{File: name, Differences: append([]Difference{}, Compare(f, now)...), Notes: notes}
	if len(c.Differences) > 0 {
		c.Fix = o.command(name, f.Edited())
	}
	for _, d := range Devices(found) {
		if d.File == name && d.Remark != "" {
			c.Differences = append(c.Differences, Difference{What: "device", Name: d.Name, Reason: d.Remark})
		}
	}
	c.Drifted = len(c.Differences) > 0
	return c, nil
}

// command returns the command that generates a file again.
func (o Options) command(name string, force bool) string {
	args := []string{"nvsysfs", "cdi", "generate"}
	for _, f := range []struct{ flag, value, usual string }{
		{"--root", o.Root, ""},
		{"--driver-root", o.DriverRoot, ""},
		{"--vendor", o.Vendor, "nvidia.com"},
		{"--class", o.Class, "gpu"},
		{"--name", strings.Join(o.Names, ","), ByIndex + "," + ByUUID},
		{"--capabilities", strings.Join(o.Capabilities, ","), "all"},
		{"--with", strings.Join(o.Extras, ","), ""},
		{"--distribution", o.Distribution, ""},
		{"--library-dir", o.LibraryDir, ""},
		{"--library-dir32", o.LibraryDir32, ""},
		{"--cdi-version", o.MaxVersion, ""},
	} {
		if f.value != f.usual {
			args = append(args, f.flag, shellWord(f.value))
		}
	}
	if force {
		args = append(args, "--force")
	}
	return strings.Join(append(args, "--output", shellWord(name)), " ")
}

// shellWord quotes a word for a shell if necessary.
func shellWord(word string) string {
	special := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') &&
			!strings.ContainsRune("/._-,:=+@%", r)
	}
	if word != "" && !strings.ContainsFunc(word, special) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}
