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
		Long: `Writes and checks files of the Container Device Interface, with which docker,
podman, containerd and CRI-O give containers GPUs without a special runtime.`,
		Example: `  nvsysfs cdi generate --output /etc/cdi/nvidia.yaml
  podman run --device nvidia.com/gpu=0 IMAGE nvidia-smi`,
	}
	cmd.AddCommand(newCDIGenerate(i), newCDIList(i), newCDICheck(i))
	return cmd
}

func (i invocation) warn(format string, args ...any) {
	text := strings.ReplaceAll(fmt.Sprintf(format, args...), "\n", "; ")
	_, _ = fmt.Fprintf(i.stderr, "nvsysfs: warning: %s\n", text)
}

// words splits a comma-separated list.
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
		Long: `Writes a CDI file with a device for each GPU, each MIG device, and "all". With
--output, the file is replaced atomically, and only if it changes; otherwise it
is printed. Engines read /etc/cdi and /var/run/cdi. Replacing a file that this
command did not write, or that was edited since, requires --force.

Device names (--name, default: index and uuid):
  index       0, 0:1
  uuid        GPU-<uuid>, and MIG-<uuid> if "nvsysfs learn" has recorded it
  type-index  gpu0, mig0:1

The file contains no hooks. The driver's libraries are mounted under their
SONAMEs where CUDA images look: in /usr/local/nvidia/lib64 (32-bit ones in
/usr/local/nvidia/lib). For other images, set
LD_LIBRARY_PATH=/usr/local/nvidia/lib64, or use --distribution or --library-dir.
The container gets NVIDIA_VISIBLE_DEVICES=void, so that a runtime for NVIDIA
GPUs adds nothing.

The file has the lowest CDI version that supports its contents: 0.7.0 if
containers need a group for a device node, else 0.5.0 (0.6.0 in JSON). Generate
it again at each boot and whenever the driver or MIG devices change.`,
		Example: `  nvsysfs cdi generate --output /etc/cdi/nvidia.yaml
  nvsysfs cdi generate --name type-index --distribution debian`,
		Args: noArguments,
	}
	var o generateOptions
	flags := cmd.Flags()
	flags.StringVar(&o.output, "output", "", "write to `FILE`, which ends in .yaml or .json")
	flags.BoolVar(&o.force, "force", false, "replace a file that this command did not write")
	flags.StringVar(&o.format, "format", "", "print `yaml|json` (default: yaml)")
	flags.StringVar(&o.DriverRoot, "driver-root", "",
		"find the driver's files below `DIR`, such as /run/nvidia/driver (default: from config.toml)")
	flags.StringVar(&o.Vendor, "vendor", "nvidia.com", "vendor `NAME` of the devices")
	flags.StringVar(&o.Class, "class", "gpu", "class `NAME` of the devices")
	flags.StringArrayVar(&o.names, "name", nil,
		"name devices by `index|uuid|type-index`; repeatable, or comma-separated")
	flags.StringVar(&o.capabilities, "capabilities", "all",
		"driver capabilities `LIST`, as in NVIDIA_DRIVER_CAPABILITIES")
	flags.StringVar(&o.with, "with", "", "add devices, `LIST` of gds, mofed, gdrcopy, nvswitch, imex")
	flags.StringVar(&o.Distribution, "distribution", "", "mount libraries for images of distribution `NAME`: "+
		"alpine, amazon, arch, debian, fedora, opensuse, rhel, ubuntu")
	flags.StringVar(&o.LibraryDir, "library-dir", "", "mount libraries in `DIR`")
	flags.StringVar(&o.LibraryDir32, "library-dir32", "", "mount 32-bit libraries in `DIR`")
	flags.StringVar(&o.MaxVersion, "cdi-version", "",
		"newest CDI `VERSION` that the engines support (podman 4.3: 0.5.0)")
	flags.StringVar(&o.fixture, "fixture", "",
		"describe the machine `NAME` of \"nvsysfs fixture up\"; its device nodes cannot be opened")
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
		err = errors.New("--force needs --output")
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

// saveCDI writes the file and reports the result.
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
		i.warn("%s defines devices with the same names: engines ignore devices that two files in a directory define",
			fileName(strings.Join(others, ", ")))
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
		hint = "; for engines that only read older versions, set --cdi-version"
	}
	_, err = fmt.Fprintf(i.stdout, "%s written: %d devices of %s, for driver %s (CDI %s%s).\n",
		fileName(output), len(spec.Devices), file.Kind(), file.Record.Driver, spec.Version, hint)
	return err
}

// cdiFormat reports whether to write JSON.
func cdiFormat(format, output string) (bool, error) {
	if output != "" {
		extension, ok := strings.CutPrefix(filepath.Ext(output), ".")
		if !ok || extension != "yaml" && extension != "json" {
			return false, fmt.Errorf("engines read files whose names end in .yaml or .json, not %.100q", output)
		}
		if format != "" && format != extension {
			return false, fmt.Errorf("the format %.100q contradicts %.100q: engines go by the name", format, output)
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

// fileName returns a printable file name: names with control characters are quoted.
func fileName(name string) string {
	if strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == 0x7f || r == 0xfffd }) {
		return fmt.Sprintf("%q", name)
	}
	return name
}

// readCDI reads the files in the directories that engines read, and in the directories more.
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

type ignoredFile struct {
	File   string `json:"file"`
	Reason string `json:"reason"`
}

func newCDIList(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "list",
		Short: "list the devices that CDI files describe",
		Long: `Lists the devices of the CDI files in /etc/cdi, /var/run/cdi and --spec-dir. If
several directories define a device, the last one wins. Files that cannot be
read, or that users other than root may write, are reported on standard error
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
	cmd.RunE = func(*cobra.Command, []string) error {
		return runCDIList(i, *dir, *more, *vendor, *class, *as)
	}
	return cmd
}

func runCDIList(i invocation, dir string, more []string, vendor, class string, as outputFormat) error {
	found, err := readCDI(dir, more)
	if err != nil {
		return fmt.Errorf("cdi list: %w", err)
	}
	ignored := []ignoredFile{}
	found = slices.DeleteFunc(found, func(f cdi.Found) bool {
		if f.Err != nil {
			ignored = append(ignored, ignoredFile{f.Path, f.Err.Error()})
		}
		v, c, _ := strings.Cut(f.File.Kind(), "/")
		return f.Err != nil || vendor != "" && v != vendor || class != "" && c != class
	})
	devices := cdi.Devices(found)
	if as != asTable {
		return as.write(i.stdout, struct {
			Devices []cdi.Device  `json:"devices"`
			Ignored []ignoredFile `json:"ignored"`
		}{devices, ignored})
	}
	for _, f := range ignored {
		i.warn("%s is ignored: %s", fileName(f.File), f.Reason)
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
		Long: `Generates each FILE again with its original options, and shows what differs: the
driver's version, devices, device numbers, files. Without FILE, it checks those
that "nvsysfs cdi generate" wrote to /etc/cdi and /var/run/cdi.

The exit status is 0 if nothing differs, 1 if something does (the command that
fixes it is printed), and 2 if a file could not be checked.`,
		Example: `  nvsysfs cdi check
  nvsysfs cdi check /etc/cdi/nvidia.yaml --json`,
		Args: cobra.ArbitraryArgs,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd)
	cmd.RunE = func(_ *cobra.Command, files []string) error { return runCDICheck(i, files, *dir, *as) }
	return cmd
}

func runCDICheck(i invocation, files []string, dir string, as outputFormat) error {
	checked, ignored := []cdi.Checked{}, []ignoredFile{}
	failed := 0
	found, err := readCDI(cmp.Or(dir, "/"), nil)
	if err != nil {
		return cannotTell(err)
	}
	check := func(name string, f cdi.File) {
		c, err := cdi.Check(i.environ, dir, found, name, f)
		if err != nil {
			ignored = append(ignored, ignoredFile{name, err.Error()})
			failed++
			return
		}
		checked = append(checked, c)
	}
	if len(files) == 0 {
		for _, f := range found {
			switch {
			case f.Err != nil:
				ignored = append(ignored, ignoredFile{f.Path, f.Err.Error()})
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
			ignored = append(ignored, ignoredFile{name, err.Error()})
			failed++
			continue
		}
		check(absolute, f)
	}
	if err := i.printChecked(checked, ignored, as); err != nil {
		return err
	}
	drifted := 0
	for _, c := range checked {
		if c.Drifted {
			drifted++
		}
	}
	switch {
	case failed > 0:
		return cannotTell(fmt.Errorf("%d of %d files could not be compared", failed, failed+len(checked)))
	case len(checked) == 0:
		dirs := strings.Join(cdi.Dirs, " or ")
		return cannotTell(fmt.Errorf("no file in %s was written by nvsysfs cdi generate", dirs))
	case drifted > 0:
		return fmt.Errorf("cdi check: %d of %d files drifted", drifted, len(checked))
	}
	return nil
}

// cannotTell makes the exit status 2, as cmp and diff do: 1 means that a file has drifted.
func cannotTell(err error) error { return &usageError{"cdi check: " + err.Error()} }

func (i invocation) printChecked(checked []cdi.Checked, ignored []ignoredFile, as outputFormat) error {
	if as != asTable {
		return as.write(i.stdout, struct {
			Files   []cdi.Checked `json:"files"`
			Ignored []ignoredFile `json:"ignored"`
		}{checked, ignored})
	}
	for _, f := range ignored {
		i.warn("%s is ignored: %s", fileName(f.File), f.Reason)
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
