// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/cdi"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

func newCDI(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "cdi",
		Short: "describe GPUs in CDI files, for engines that read them",
		Long: `Describes the machine's GPUs in files of the Container Device Interface, from
which docker, podman, containerd and CRI-O give them to containers without any
runtime but runc or crun.`,
		Example: `  nvsysfs cdi generate --output /etc/cdi/nvidia.yaml
  podman run --device nvidia.com/gpu=0 IMAGE nvidia-smi`,
	}
	cmd.AddCommand(newCDIGenerate(i), newCDIList(i), newCDICheck(i))
	return cmd
}

// warn prints what is not as one might think, and no reason to fail.
func (i invocation) warn(format string, args ...any) {
	// Nothing is left to be done if stderr cannot be written.
	_, _ = fmt.Fprintf(i.stderr, "nvsysfs: warning: %s\n", strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; "))
}

// words splits at commas.
func words(list string) []string {
	var result []string
	for word := range strings.SplitSeq(list, ",") {
		if word = strings.TrimSpace(word); word != "" {
			result = append(result, word)
		}
	}
	return result
}

// generateOptions are the flags of cdi generate.
type generateOptions struct {
	cdi.Options
	root, fixture, output, format, capabilities, with string
	names                                             []string
	force                                             bool
}

func newCDIGenerate(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "generate",
		Short: "write a CDI file for this machine",
		Long: `Describes the machine's GPUs as a CDI file: each GPU, each MIG device, and
"all". With --output the file is replaced in one step, and only if it would
change; without, it is printed. Engines read /etc/cdi and /var/run/cdi. A file
that this command did not write, or that was edited since, needs --force.

Names of devices, by --name (index and uuid by default):
  index       0, 0:1
  uuid        GPU-<uuid>, and MIG-<uuid> where "nvsysfs learn" learned it
  type-index  gpu0, mig0:1

The file has no hooks: nothing runs in or for the container. The driver's
libraries are mounted under their SONAMEs where CUDA images look, in
/usr/local/nvidia/lib64 (32-bit ones in /usr/local/nvidia/lib). Other images
need LD_LIBRARY_PATH=/usr/local/nvidia/lib64; or name their distribution or
their loader's directory. The container gets NVIDIA_VISIBLE_DEVICES=void, so
that a runtime for NVIDIA GPUs adds nothing.

The file gets the lowest CDI version that can express it: 0.7.0 where containers
need a group for a device node, else 0.5.0 (0.6.0 in JSON). Generate it anew at
each boot and after the driver or MIG devices change.`,
		Example: `  nvsysfs cdi generate --output /etc/cdi/nvidia.yaml
  nvsysfs cdi generate --name type-index --distribution debian`,
		Args: noArguments,
	}
	var o generateOptions
	flags := cmd.Flags()
	flags.StringVar(&o.output, "output", "", "write to `FILE`, in the format of its name (.yaml or .json)")
	flags.BoolVar(&o.force, "force", false, "replace a file that this command did not write")
	flags.StringVar(&o.format, "format", "", "`yaml|json`, where no --output tells")
	flags.StringVar(&o.DriverRoot, "driver-root", "",
		"the root of the driver's files is `DIR`, such as /run/nvidia/driver (default: from config.toml)")
	flags.StringVar(&o.Vendor, "vendor", "nvidia.com", "vendor `NAME` of the devices")
	flags.StringVar(&o.Class, "class", "gpu", "class `NAME` of the devices")
	flags.StringArrayVar(&o.names, "name", nil, "name devices by `index|uuid|type-index`; repeatable, or comma-separated")
	flags.StringVar(&o.capabilities, "capabilities", "all",
		"driver capabilities `LIST`, as in NVIDIA_DRIVER_CAPABILITIES")
	flags.StringVar(&o.with, "with", "", "further devices `LIST`: gds, mofed, gdrcopy, nvswitch, imex")
	flags.StringVar(&o.Distribution, "distribution", "", "the images' distribution `NAME`: "+
		"alpine, amazon, arch, debian, fedora, opensuse, rhel, ubuntu")
	flags.StringVar(&o.LibraryDir, "library-dir", "", "the images' loader searches `DIR`")
	flags.StringVar(&o.LibraryDir32, "library-dir32", "", "the same, for 32-bit libraries: `DIR`")
	flags.StringVar(&o.MaxVersion, "cdi-version", "", "newest `VERSION` of CDI that the engines read (podman 4.3: 0.5.0)")
	flags.StringVar(&o.fixture, "fixture", "", "the machine `NAME` that \"nvsysfs fixture up\" unpacked, with device nodes that nobody can open")
	isFile(cmd, "output")
	isDirectory(cmd, "driver-root")
	isOneOf(cmd, "format", "yaml", "json")
	isOneOf(cmd, "name", cdi.ByIndex, cdi.ByUUID, cdi.ByType)
	root := rootFlag(cmd, "")
	cmd.MarkFlagsMutuallyExclusive("root", "fixture")
	cmd.RunE = func(*cobra.Command, []string) error {
		o.root = *root
		return runCDIGenerate(i, o)
	}
	return cmd
}

func runCDIGenerate(i invocation, g generateOptions) error {
	o := g.Options
	for _, list := range g.names {
		o.Names = append(o.Names, words(list)...)
	}
	if len(o.Names) == 0 {
		o.Names = []string{cdi.ByIndex, cdi.ByUUID}
	}
	o.Capabilities, o.Extras = words(g.capabilities), words(g.with)
	inJSON, err := cdiFormat(g.format, g.output)
	if err == nil {
		err = o.Check()
	}
	if err == nil && g.force && g.output == "" {
		err = errors.New("--force goes with --output")
	}
	if err != nil {
		return &usageError{"cdi generate: " + err.Error()}
	}
	if g.fixture != "" {
		if g.root, err = fixtureRoot(i.environ, g.fixture); err != nil {
			return err
		}
		o.ClosedNodes = true
	}
	if err := o.SetRoot(g.root); err != nil {
		return err
	}
	file, notes, err := cdi.Generate(i.environ, o)
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	file.JSON = inJSON
	data, err := file.Encode()
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	for _, note := range notes {
		i.warn("%s", note)
	}
	if g.output == "" {
		_, err := i.stdout.Write(data)
		return err
	}
	return i.saveCDI(g.output, file, data, g.force)
}

// saveCDI writes the file and tells what has come of it.
func (i invocation) saveCDI(output string, file cdi.File, data []byte, force bool) error {
	written, err := cdi.Write(output, data, force)
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	absolute, err := filepath.Abs(output)
	if err != nil {
		return err
	}
	others, err := cdi.Rivals(absolute, os.Geteuid())
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	if len(others) > 0 {
		i.warn("%s describes devices of the same names: engines give none that two files of one directory have", fileName(strings.Join(others, ", ")))
	}
	if !written {
		_, err = fmt.Fprintf(i.stdout, "%s is up to date.\n", fileName(output))
		return err
	}
	spec, err := file.Versioned()
	if err != nil {
		return err
	}
	hint := ""
	if file.Record.Options.MaxVersion == "" && spec.Version > "0.5.0" {
		hint = "; engines that read older ones only take --cdi-version"
	}
	_, err = fmt.Fprintf(i.stdout, "%s written: %d devices of %s, for driver %s (CDI %s%s).\n", fileName(output), len(spec.Devices), file.Kind(), file.Record.Driver, spec.Version, hint)
	return err
}

// cdiFormat tells whether a file is to be JSON.
func cdiFormat(format, output string) (bool, error) {
	if output != "" {
		extension, ok := strings.CutPrefix(filepath.Ext(output), ".")
		if !ok || extension != "yaml" && extension != "json" {
			return false, fmt.Errorf("engines read files whose names end in .yaml or .json, not %.100q", output)
		}
		if format != "" && format != extension {
			return false, fmt.Errorf("the format %.100q does not go with %.100q: engines take it from the name", format, output)
		}
		format = extension
	}
	switch format {
	case "", "yaml":
		return false, nil
	case "json":
		return true, nil
	}
	return false, fmt.Errorf("the format %.100q is neither yaml nor json", format)
}

// fileName shows the name of a file; one with odd characters in it as Go would write it.
func fileName(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// readCDI reads the files in the directories that engines read, and in more.
func readCDI(dir string, more []string) ([]cdi.Found, error) {
	root, err := plan.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	found, err := cdi.ReadDirs(root, cdi.Dirs, os.Geteuid())
	if err != nil {
		return nil, err
	}
	for _, name := range more {
		absolute, err := filepath.Abs(name)
		if err != nil {
			return nil, err
		}
		others, err := cdi.ReadDirs("/", []string{absolute}, os.Geteuid())
		if err != nil {
			return nil, err
		}
		found = append(found, others...)
	}
	return found, nil
}

type leftAside struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

func newCDIList(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the devices that CDI files describe",
		Long: `Lists the devices of the CDI files in /etc/cdi, /var/run/cdi and --spec-dir.
Of devices with the same name, the one in the later directory counts. Files that
cannot be read, or that others than root may write, are named on standard error
and ignored.`,
		Example: `  nvsysfs cdi list
  nvsysfs cdi list --vendor nvidia.com --class gpu --json`,
		Args: noArguments,
	}
	more := cmd.Flags().StringArray("spec-dir", nil, "read CDI files in `DIR`, too; repeatable")
	vendor := cmd.Flags().String("vendor", "", "only devices of vendor `NAME`")
	class := cmd.Flags().String("class", "", "only devices of class `NAME`")
	isDirectory(cmd, "spec-dir")
	dir, as := rootFlag(cmd, "/"), outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return runCDIList(i, *dir, *more, *vendor, *class, *as) }
	return cmd
}

func runCDIList(i invocation, dir string, more []string, vendor, class string, as outputFormat) error {
	found, err := readCDI(dir, more)
	if err != nil {
		return fmt.Errorf("cdi list: %w", err)
	}
	aside := []leftAside{}
	found = slices.DeleteFunc(found, func(f cdi.Found) bool {
		if f.Err != nil {
			aside = append(aside, leftAside{f.Path, f.Err.Error()})
		}
		v, c, _ := strings.Cut(f.File.Kind(), "/")
		return f.Err != nil || vendor != "" && v != vendor || class != "" && c != class
	})
	devices := cdi.Devices(found)
	if as != asTable {
		return as.write(i.stdout, struct {
			Devices   []cdi.Device `json:"devices"`
			LeftAside []leftAside  `json:"left_aside"`
		}{devices, aside})
	}
	for _, f := range aside {
		i.warn("%s is left aside: %s", fileName(f.File), f.Reason)
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, d := range devices {
		fmt.Fprintf(w, "%s\t%s", d.Name, fileName(d.File))
		if d.Remark != "" {
			fmt.Fprintf(w, "\t(%s)", fileName(d.Remark))
		}
		fmt.Fprintln(w)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if len(devices) == 0 {
		out.WriteString("No CDI file has such a device.\n")
	}
	_, err = i.stdout.Write(out.Bytes())
	return err
}

func newCDICheck(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE...]",
		Short: "check whether generated CDI files still match the machine",
		Long: `Generates each FILE anew, with the options it was generated with, and tells what
is different: the driver's version, devices, numbers of nodes, files. Without
FILE, it checks those that "nvsysfs cdi generate" wrote to /etc/cdi and
/var/run/cdi.

The exit status is 0 if nothing differs, 1 if something does (the command that
fixes it is shown), and 2 if that cannot be told.`,
		Example: `  nvsysfs cdi check
  nvsysfs cdi check /etc/cdi/nvidia.yaml --json`,
		Args: cobra.ArbitraryArgs,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, files []string) error { return runCDICheck(i, files, *dir, *as) }
	return cmd
}

func runCDICheck(i invocation, files []string, dir string, as outputFormat) error {
	checked, aside := []cdi.Checked{}, []leftAside{}
	troubles := 0
	found, err := readCDI(cmp.Or(dir, "/"), nil)
	if err != nil {
		return cannotTell(err)
	}
	check := func(name string, f cdi.File) {
		c, err := cdi.Check(i.environ, dir, found, name, f)
		if err != nil {
			aside = append(aside, leftAside{name, err.Error()})
			troubles++
			return
		}
		checked = append(checked, c)
	}
	if len(files) == 0 {
		for _, f := range found {
			switch {
			case f.Err != nil:
				aside = append(aside, leftAside{f.Path, f.Err.Error()})
			case f.File.Ours():
				check(f.Path, f.File)
			}
		}
	}
	for _, name := range files {
		absolute, err := filepath.Abs(name)
		if err != nil {
			return cannotTell(err)
		}
		f, _, err := cdi.Read("/", absolute, os.Geteuid())
		if err == nil && !f.Ours() {
			err = errors.New("nvsysfs cdi generate did not write it")
		}
		if err != nil {
			aside = append(aside, leftAside{name, err.Error()})
			troubles++
			continue
		}
		check(absolute, f)
	}
	if err := i.printChecked(checked, aside, as); err != nil {
		return err
	}
	drifted := 0
	for _, c := range checked {
		if c.Drifted {
			drifted++
		}
	}
	switch {
	case troubles > 0:
		return cannotTell(fmt.Errorf("%d of %d files could not be compared", troubles, troubles+len(checked)))
	case len(checked) == 0:
		return cannotTell(fmt.Errorf("nvsysfs cdi generate wrote no file in %s", strings.Join(cdi.Dirs, " or ")))
	case drifted > 0:
		return fmt.Errorf("cdi check: %d of %d files drifted", drifted, len(checked))
	}
	return nil
}

// cannotTell makes the exit status 2, as cmp and diff have it: 1 is kept for a file that has
// drifted.
func cannotTell(err error) error { return &usageError{"cdi check: " + err.Error()} }

func (i invocation) printChecked(checked []cdi.Checked, aside []leftAside, as outputFormat) error {
	if as != asTable {
		return as.write(i.stdout, struct {
			Files     []cdi.Checked `json:"files"`
			LeftAside []leftAside   `json:"left_aside"`
		}{checked, aside})
	}
	for _, f := range aside {
		i.warn("%s is left aside: %s", fileName(f.File), f.Reason)
	}
	var out bytes.Buffer
	for _, c := range checked {
		for _, note := range c.Notes {
			i.warn("%s: %s", fileName(c.File), note)
		}
		if !c.Drifted {
			fmt.Fprintf(&out, "%s matches the machine.\n", fileName(c.File))
			continue
		}
		fmt.Fprintf(&out, "%s has drifted:\n", fileName(c.File))
		w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		for _, d := range c.Differences {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", d.What, d.Name, d)
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if c.Fix != "" {
			fmt.Fprintf(&out, "Fix it with: %s\n", c.Fix)
		} else {
			out.WriteString("Remove one of the files that describe these devices.\n")
		}
	}
	_, err := i.stdout.Write(out.Bytes())
	return err
}
