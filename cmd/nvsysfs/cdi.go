// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
	specs "tags.cncf.io/container-device-interface/specs-go"

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
func (i invocation) warn(format string, args ...any) error {
	_, err := fmt.Fprintf(i.stderr, "nvsysfs: warning: %s\n", strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; "))
	return err
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
	if g.root != "" {
		dir, err := openRoot(g.root)
		if err != nil {
			return err
		}
		if dir != "/" {
			o.Root = string(dir)
		}
	}
	file, notes, err := makeCDI(i.environ, o)
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	file.JSON = inJSON
	data, err := file.Encode()
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	for _, note := range notes {
		if err := i.warn("%s", note); err != nil {
			return err
		}
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
	others, err := rivals(output, file)
	if err != nil {
		return fmt.Errorf("cdi generate: %w", err)
	}
	if len(others) > 0 {
		if err := i.warn("%s describes devices of the same names: engines give none that two files of one directory have", strings.Join(others, ", ")); err != nil {
			return err
		}
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

// makeCDI describes the machine that the options name. Programs of the driver are looked for in the usual directories
// alone: what is in the file is not to depend on the PATH of the one who makes it.
func makeCDI(environ []string, o cdi.Options) (cdi.File, []string, error) {
	classes, err := o.Classes()
	if err != nil {
		return cdi.File{}, nil, err
	}
	cfg, err := loadConfig(environ, o.Root)
	if err != nil {
		return cdi.File{}, nil, err
	}
	if o.DriverRoot != "" {
		cfg.DriverRoot = o.DriverRoot
	}
	parts, err := plan.ReadSurvey(cfg, classes, "", o.Extras...)
	if err == nil {
		err = parts.Err()
	}
	if err != nil {
		return cdi.File{}, nil, err
	}
	return cdi.Make(parts, o)
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
	root, err := openRoot(dir)
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

// listedCDI is a device of a CDI file.
type listedCDI struct {
	Name   string `json:"name"` // "nvidia.com/gpu=0"
	File   string `json:"file"`
	Remark string `json:"remark,omitempty"` // why no engine gives it
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
	devices, aside := []listedCDI{}, []leftAside{}
	for _, f := range found {
		if f.Err != nil {
			aside = append(aside, leftAside{f.Path, f.Err.Error()})
			continue
		}
		v, c, _ := strings.Cut(f.File.Kind(), "/")
		if vendor != "" && v != vendor || class != "" && c != class {
			continue
		}
		for _, d := range f.File.Spec.Devices {
			devices = append(devices, listedCDI{Name: f.File.Kind() + "=" + d.Name, File: f.Path})
		}
	}
	remark(devices)
	if as != asTable {
		return as.write(i.stdout, struct {
			Devices   []listedCDI `json:"devices"`
			LeftAside []leftAside `json:"left_aside"`
		}{devices, aside})
	}
	for _, f := range aside {
		if err := i.warn("%s is left aside: %s", fileName(f.File), f.Reason); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, d := range devices {
		fmt.Fprintf(w, "%s\t%s", d.Name, fileName(d.File))
		if d.Remark != "" {
			fmt.Fprintf(w, "\t(%s)", d.Remark)
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

// remark says which devices engines do not give: none of a name that two files of one directory have, not even if a later
// directory has it, too; else that of the last directory.
func remark(devices []listedCDI) {
	last := map[string]string{}     // name to file
	twice := map[string]string{}    // name to what is wrong with it
	inDir := map[[2]string]string{} // name and directory to file
	for _, d := range devices {
		last[d.Name] = d.File
		place := [2]string{d.Name, filepath.Dir(d.File)}
		if other, ok := inDir[place]; ok {
			twice[d.Name] = "not given: " + fileName(other) + " and " + fileName(d.File) + " have it"
		}
		inDir[place] = d.File
	}
	for n := range devices {
		d := &devices[n]
		if d.Remark = twice[d.Name]; d.Remark == "" && last[d.Name] != d.File {
			d.Remark = "hidden by " + fileName(last[d.Name])
		}
	}
}

// rivals are files beside name that have devices of its names: engines then give none of these.
func rivals(name string, file cdi.File) ([]string, error) {
	absolute, err := filepath.Abs(name)
	if err != nil {
		return nil, err
	}
	found, err := cdi.ReadDirs("/", []string{filepath.Dir(absolute)}, os.Geteuid())
	if err != nil {
		return nil, err
	}
	var list []string
	for _, f := range found {
		if f.Err != nil || f.Path == absolute || f.File.Kind() != file.Kind() {
			continue
		}
		if slices.ContainsFunc(f.File.Spec.Devices, func(d specs.Device) bool {
			return slices.ContainsFunc(file.Spec.Devices, func(own specs.Device) bool { return own.Name == d.Name })
		}) {
			list = append(list, fileName(f.Path))
		}
	}
	return list, nil
}

// checkedCDI is what came of one file.
type checkedCDI struct {
	File        string           `json:"file"`
	Drifted     bool             `json:"drifted"`
	Differences []cdi.Difference `json:"differences"`
	Mend        string           `json:"mend,omitempty"`  // the command that does
	Notes       []string         `json:"notes,omitempty"` // what generate would warn of
}

func newCDICheck(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "check [FILE...]",
		Short: "check whether generated CDI files still fit the machine",
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
	checked, aside := []checkedCDI{}, []leftAside{}
	troubles := 0
	found, err := readCDI(orRoot(dir), nil)
	if err != nil {
		return cannotTell(err)
	}
	check := func(name string, f cdi.File) {
		c, err := checkCDI(i, name, f, dir)
		if err != nil {
			aside = append(aside, leftAside{name, err.Error()})
			troubles++
			return
		}
		c.addTaken(found)
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

func orRoot(dir string) string {
	if dir == "" {
		return "/"
	}
	return dir
}

// cannotTell makes the exit status 2, as cmp and diff have it: 1 is kept for a file that has drifted.
func cannotTell(err error) error { return &usageError{"cdi check: " + err.Error()} }

// checkCDI makes a file anew, of the machine below dir if that is given, and compares the two.
func checkCDI(i invocation, name string, f cdi.File, dir string) (checkedCDI, error) {
	o := f.Record.Options
	if dir != "" {
		root, err := openRoot(dir)
		if err != nil {
			return checkedCDI{}, err
		}
		o.Root = string(root)
		if root == "/" {
			o.Root = ""
		}
	}
	now, notes, err := makeCDI(i.environ, o)
	if err != nil {
		return checkedCDI{}, err
	}
	now.JSON = f.JSON
	if now.Spec, err = now.Versioned(); err != nil {
		return checkedCDI{}, err
	}
	c := checkedCDI{File: name, Differences: cdi.Compare(f, now), Notes: notes}
	if c.Differences == nil {
		c.Differences = []cdi.Difference{}
	}
	if c.Drifted = len(c.Differences) > 0; c.Drifted {
		c.Mend = mendCDI(o, name, f.Edited())
	}
	return c, nil
}

// addTaken adds the devices that another file takes away. Writing this one anew does not help.
func (c *checkedCDI) addTaken(found []cdi.Found) {
	taken := cdi.Taken(found, c.File)
	for _, device := range slices.Sorted(maps.Keys(taken)) {
		c.Differences = append(c.Differences, cdi.Difference{What: "device", Name: device, Reason: taken[device]})
		c.Drifted = true
	}
}

// mendCDI is the command that writes a file anew.
func mendCDI(o cdi.Options, name string, force bool) string {
	args := []string{"nvsysfs", "cdi", "generate"}
	for _, f := range []struct{ flag, value, usual string }{
		{"--root", o.Root, ""},
		{"--driver-root", o.DriverRoot, ""},
		{"--vendor", o.Vendor, "nvidia.com"},
		{"--class", o.Class, "gpu"},
		{"--name", strings.Join(o.Names, ","), cdi.ByIndex + "," + cdi.ByUUID},
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

// shellWord quotes a word for a shell if it needs to be.
func shellWord(word string) string {
	if word != "" && !strings.ContainsFunc(word, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune("/._-,:=+@%", r)
	}) {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func (i invocation) printChecked(checked []checkedCDI, aside []leftAside, as outputFormat) error {
	if as != asTable {
		return as.write(i.stdout, struct {
			Files     []checkedCDI `json:"files"`
			LeftAside []leftAside  `json:"left_aside"`
		}{checked, aside})
	}
	for _, f := range aside {
		if err := i.warn("%s is left aside: %s", fileName(f.File), f.Reason); err != nil {
			return err
		}
	}
	var out bytes.Buffer
	for _, c := range checked {
		for _, note := range c.Notes {
			if err := i.warn("%s: %s", fileName(c.File), note); err != nil {
				return err
			}
		}
		if !c.Drifted {
			fmt.Fprintf(&out, "%s fits the machine.\n", fileName(c.File))
			continue
		}
		fmt.Fprintf(&out, "%s has drifted:\n", fileName(c.File))
		w := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		for _, d := range c.Differences {
			fmt.Fprintf(w, "  %s\t%s\t%s\n", d.What, d.Name, sayDifference(d))
		}
		if err := w.Flush(); err != nil {
			return err
		}
		if c.Mend != "" {
			fmt.Fprintf(&out, "Mend it with: %s\n", c.Mend)
		} else {
			out.WriteString("Remove one of the files that describe these devices.\n")
		}
	}
	_, err := i.stdout.Write(out.Bytes())
	return err
}

func sayDifference(d cdi.Difference) string {
	var text string
	switch {
	case d.File == "" && d.Now == "":
		return d.Reason
	case d.File == "":
		text = "new: " + d.Now
	case d.Now == "":
		text = "gone: " + d.File
	default:
		text = d.File + " is " + d.Now + " now"
	}
	if d.Reason != "" {
		text += ", which " + d.Reason
	}
	return text
}
