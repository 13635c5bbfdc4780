// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/cdi"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// States of a finding.
const (
	stateOK    = "ok"
	stateNote  = "note"
	stateWrong = "wrong"
)

// finding is the result of a check.
type finding struct {
	ID    string `json:"id"`
	State string `json:"state"`
	Text  string `json:"text"`
	Fix   string `json:"fix,omitempty"` // a command, or what to do
}

// patient is what the checks look at.
type patient struct {
	root      sysfs.Root
	cfg       plan.Config
	cfgErr    error
	environ   []string
	survey    plan.Survey
	surveyErr error
	engines   []engine
	lowLevel  string // path
	version   string // what the low-level runtime says of itself; "" if it was not asked
}

// check is one check. It returns nil if it does not apply.
type check struct {
	id  string
	run func(patient) []finding
}

// checks are all checks, in the order in which they are printed.
var checks = []check{
	{"config", checkConfig},
	{"platform", checkPlatform},
	{"driver", checkDriver},
	{"module-uvm", checkUVM},
	{"gpus", checkGPUs},
	{"nested", checkNested},
	{"gpu-unreadable", checkUnreadable},
	{"gpu-lost", checkLost},
	{"gpu-uuid", checkUUIDs},
	{"gpu-unbound", checkUnbound},
	{"mig-uuids", checkMIGUUIDs},
	{"libraries", checkLibraries},
	{"nodes", checkNodes},
	{"node-permissions", checkPermissions},
	{"char-links", checkCharLinks},
	{"fabric-manager", checkFabricManager},
	{"persistence", checkPersistence},
	{"low-level-runtime", checkLowLevel},
	{"cgroup", checkCgroup},
	{"registered", checkRegistered},
	{"engine-config", checkEngineConfig},
	{"cdi", checkCDIFiles},
	{"docker-gpus", checkDockerGPUs},
	{"classic-hook", checkClassicHook},
	{"selinux", checkSELinux},
	{"user-namespaces", checkUserNamespaces},
}

func newDoctor(i invocation) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "find what keeps containers from their GPUs",
		Long: `Checks the machine for what keeps containers from their GPUs. Each check prints
ok, note (worth knowing) or wrong, and below it the command that fixes it.
Checks that do not concern the machine are left out. The exit status is 1 if
anything is wrong. The ids in the JSON form do not change between versions.

Nothing is changed. On this machine the low-level runtime is asked for its
version; everything else is read from files.`,
		Example: `  nvsysfs doctor
  nvsysfs doctor --json | jq '.findings[] | select(.state == "wrong")'`,
		Args: noArguments,
	}
	dir, as := rootFlag(cmd, ""), outputFlag(cmd)
	cmd.RunE = func(*cobra.Command, []string) error { return runDoctor(i, *dir, *as) }
	return cmd
}

func runDoctor(i invocation, dir string, as outputFormat) error {
	environ, err := machineEnviron(i.environ, dir)
	if err != nil {
		return err
	}
	p, err := examine(environ)
	if err != nil {
		return err
	}
	findings := diagnose(p)
	if as != asTable {
		err = as.write(i.stdout, struct {
			Findings []finding `json:"findings"`
		}{findings})
	} else {
		_, err = i.stdout.Write(printFindings(findings))
	}
	if err != nil {
		return err
	}
	wrong := 0
	for _, f := range findings {
		if f.State == stateWrong {
			wrong++
		}
	}
	switch wrong {
	case 0:
		return nil
	case 1:
		return errors.New("doctor: one thing is wrong")
	}
	return fmt.Errorf("doctor: %d things are wrong", wrong)
}

// examine reads all that the checks look at.
func examine(environ []string) (patient, error) {
	p := patient{environ: environ}
	if p.cfg, p.cfgErr = plan.LoadConfig("", environ); p.cfgErr != nil {
		p.cfg = plan.DefaultConfig()
		if dir := strings.TrimSpace(lookup(environ, "NVIDIA_CONTAINER_RUNTIME_SYSROOT")); dir != "" {
			p.cfg.Sysroot = dir
		}
	}
	var err error
	if p.root, err = sysfs.NewRoot(p.cfg.Sysroot); err != nil {
		return patient{}, err
	}
	pathVar := lookup(environ, "PATH")
	p.survey, p.surveyErr = plan.ReadSurvey(p.cfg, driver.All, pathVar)
	p.engines = findEngines(p.root)
	if p.lowLevel = findLowLevel(p.root, p.cfg, pathVar); p.lowLevel != "" && p.root == "/" {
		p.version = askVersion(p.lowLevel)
	}
	return p, nil
}

// askVersion is the first line of a low-level runtime's --version: "runc version 1.1.5".
func askVersion(program string) string {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	out, err := exec.CommandContext(ctx, program, "--version").Output() //nolint:forbidigo // this is the low-level runtime
	if err != nil {
		return ""
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

// diagnose runs the checks.
func diagnose(p patient) []finding {
	findings := []finding{}
	for _, c := range checks {
		for _, f := range c.run(p) {
			f.ID = c.id
			findings = append(findings, f)
		}
	}
	return findings
}

func printFindings(findings []finding) []byte {
	var out bytes.Buffer
	table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
	for _, f := range findings {
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.State, f.ID, f.Text)
		if f.Fix != "" {
			fmt.Fprintf(table, "\t\t  > %s\n", f.Fix)
		}
	}
	_ = table.Flush() // to a buffer
	return out.Bytes()
}

func ok(format string, args ...any) []finding {
	return []finding{{State: stateOK, Text: fmt.Sprintf(format, args...)}}
}

func note(fix, format string, args ...any) []finding {
	return []finding{{State: stateNote, Text: fmt.Sprintf(format, args...), Fix: fix}}
}

func wrong(fix, format string, args ...any) []finding {
	return []finding{{State: stateWrong, Text: fmt.Sprintf(format, args...), Fix: fix}}
}

// some lists a few of many.
func some(list []string) string {
	const few = 6
	if len(list) <= few {
		return strings.Join(list, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(list[:few], ", "), len(list)-few)
}

func (p patient) driverLoaded() bool { return p.surveyErr == nil && p.survey.Inventory.Driver != nil }

// platform is the error of a machine that is not supported.
func (p patient) platform() error {
	if p.surveyErr != nil {
		return nil //nolint:nilerr // another check tells that
	}
	return sysfs.CheckPlatform(p.root, p.survey.Inventory.Driver)
}

func (p patient) exists(name string) bool {
	_, err := p.root.Stat(strings.TrimPrefix(name, "/"))
	return err == nil
}

// captured tells that the root has a machine's GPUs and nothing else of it, as what "nvsysfs capture" keeps.
func (p patient) captured() bool { return p.root != "/" && !p.exists("/bin/sh") }

// word is the first word of a small file, "" if it cannot be read.
func (p patient) word(name string) string {
	data, err := p.root.ReadFileMax(name, 4096)
	if fields := strings.Fields(string(data)); err == nil && len(fields) > 0 {
		return fields[0]
	}
	return ""
}

// checkConfig: a configuration that cannot be understood stops every container.
func checkConfig(p patient) []finding {
	if p.cfgErr != nil {
		return wrong("edit the file", "%v", p.cfgErr)
	}
	findings, err := p.cfg.Check()
	if err != nil {
		return wrong("edit the file", "%v", err)
	}
	var found []finding
	for _, f := range findings {
		found = append(found, wrong("edit the file", "%s", f)...)
	}
	if len(found) > 0 {
		return found
	}
	if _, err := sysfs.Root("/").Stat(strings.TrimPrefix(p.cfg.File, "/")); err != nil {
		return ok("no file %s: defaults", p.cfg.File)
	}
	return ok("%s", p.cfg.File)
}

// checkPlatform: a machine whose GPU has another driver stops every container that asks for it.
func checkPlatform(p patient) []finding {
	if err := p.platform(); err != nil {
		return wrong("", "%v", err)
	}
	return nil
}

func checkDriver(p patient) []finding {
	if p.surveyErr != nil {
		return wrong("", "%v", p.surveyErr)
	}
	d := p.survey.Inventory.Driver
	if d == nil && p.platform() != nil {
		return nil // no module of the ordinary driver's fits such a machine
	}
	if d == nil {
		return wrong("modprobe nvidia", "no NVIDIA kernel driver is loaded: neither /proc/driver/nvidia/version nor /sys/module/nvidia/version is there")
	}
	kind := "proprietary modules"
	if d.Open {
		kind = "open modules"
	}
	return ok("version %s, %s", d.Version, kind)
}

func checkUVM(p patient) []finding {
	switch {
	case !p.driverLoaded():
		return nil
	case p.survey.Inventory.Majors.UVM < 0:
		return wrong("modprobe nvidia-uvm", "the kernel module nvidia-uvm is not loaded: CUDA does not work, and containers that ask for compute do not start")
	}
	return ok("loaded, major %d", p.survey.Inventory.Majors.UVM)
}

func checkGPUs(p patient) []finding {
	if !p.driverLoaded() {
		return nil
	}
	usable, excluded := 0, 0
	for _, g := range p.survey.Inventory.GPUs {
		switch {
		case g.Excluded:
			excluded++
		case g.Err == nil:
			usable++
		}
	}
	text := fmt.Sprintf("%d usable", usable)
	if excluded > 0 {
		text += fmt.Sprintf(", %d excluded by the driver's parameter NVreg_ExcludedGpus", excluded)
	}
	if usable == 0 {
		return wrong("", "no GPU can be given to a container: %s", text)
	}
	return ok("%s", text)
}

// checkUnreadable: a GPU that fell off the bus, or whose driver is stuck, often shows so.
func checkUnreadable(p patient) []finding {
	var found []finding
	for _, g := range p.survey.Inventory.GPUs {
		if g.Err != nil {
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'", "GPU %s cannot be given to a container, and \"all\" leaves it out: %v", g.Name, g.Err)...)
		}
	}
	return found
}

// checkLost: the driver keeps showing a GPU as it was when it is gone from the bus, as long as something has it open.
func checkLost(p patient) []finding {
	var found []finding
	for _, g := range p.survey.Inventory.GPUs {
		function := "sys/bus/pci/devices/" + g.Address.String()
		if g.Err != nil || !p.exists("sys/bus/pci/devices") {
			continue
		}
		if !p.exists(function) {
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'", "GPU %s is in /proc/driver/nvidia/gpus, but not on the PCI bus: it was unplugged in use, and containers that get it cannot open it", g.Name)...)
			continue
		}
		// Where no device answers, all bits of its configuration space are set.
		config, err := p.root.ReadFileMax(function+"/config", 8192)
		if err == nil && len(config) >= 64 && len(bytes.Trim(config, "\xff")) == 0 {
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'", "GPU %s has fallen off the bus: it does not answer, and containers that get it cannot use it until the machine is restarted", g.Name)...)
		}
	}
	return found
}

// nested tells that this is a container whose runtime shows it a part of the machine's GPUs: the classic one mounts a small
// file system over /proc/driver/nvidia, others mask directories in it.
func (p patient) nested() bool {
	if len(p.survey.Inventory.Masked) > 0 {
		return true
	}
	mounts, err := p.root.ReadFileMax("proc/self/mountinfo", 16<<20)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(mounts)) {
		// 36 35 0:32 / /proc/driver/nvidia ro,nosuid - tmpfs tmpfs rw
		if fields := strings.Fields(line); len(fields) > 4 && fields[4] == "/proc/driver/nvidia" {
			return true
		}
	}
	return false
}

func checkNested(p patient) []finding {
	if !p.driverLoaded() || !p.nested() {
		return nil
	}
	return note("", "this is a container that was given a part of the machine's GPUs: the rest is not shown here, and GPUs are counted anew")
}

// checkUUIDs: the driver knows a GPU's UUID from its first use on.
func checkUUIDs(p patient) []finding {
	var unknown []string
	for _, g := range p.survey.Inventory.GPUs {
		if g.Err == nil && !g.Excluded && g.UUID == "" {
			unknown = append(unknown, fmt.Sprintf("%d (%s)", g.Index, g.Address))
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	return note("nvidia-smi -L", "the UUID is not known yet of GPU %s: it can be asked for by index and address only, and NVIDIA's tools may number GPUs otherwise if it is broken", some(unknown))
}

func checkUnbound(p patient) []finding {
	var found []finding
	for _, f := range p.survey.Unbound {
		switch f.Driver {
		case "":
			found = append(found, note("echo "+f.Name+" > /sys/bus/pci/drivers_probe", "GPU %s has no driver: no container gets it", f.Name)...)
		case "nvidia":
			if p.nested() {
				continue // it was not given to this container
			}
			found = append(found, wrong("dmesg | grep -E 'NVRM|Xid'", "GPU %s is bound to nvidia, but not in /proc/driver/nvidia/gpus: the driver could not start it", f.Name)...)
		default:
			fix := fmt.Sprintf("echo > /sys/bus/pci/devices/%[1]s/driver_override && echo %[1]s > /sys/bus/pci/drivers/%[2]s/unbind && echo %[1]s > /sys/bus/pci/drivers_probe", f.Name, f.Driver)
			found = append(found, note(fix, "GPU %s is bound to %s: no container gets it", f.Name, f.Driver)...)
		}
	}
	return found
}

// checkLibraries: the driver was upgraded and its module not reloaded, or is not where it is looked for.
func checkLibraries(p patient) []finding {
	if !p.driverLoaded() {
		return nil
	}
	var skew *driver.VersionError
	var none *driver.NotFoundError
	err := p.survey.FilesErr
	switch {
	case errors.As(err, &skew):
		return wrong("reboot", "%v", err)
	case p.platform() != nil:
		return nil // its libraries are other ones
	case errors.As(err, &none) && p.survey.DriverRoot == p.root && p.exists("/run/nvidia/driver/usr"):
		return wrong("set root = \"/run/nvidia/driver\" below [nvidia-container-runtime.experimental] in "+p.cfg.File, "%v; there is a driver container at /run/nvidia/driver", err)
	case err != nil:
		return wrong("", "%v", err)
	}
	findings := ok("%d files of version %s", len(p.survey.Files), p.survey.Inventory.Driver.Version)
	uvm := (&sysfs.ModuleError{Module: "nvidia-uvm", Name: "nvidia-uvm", Command: "modprobe nvidia-uvm"}).Error()
	for _, n := range p.survey.Notes {
		if n == uvm {
			continue // checkUVM says more
		}
		findings = append(findings, note("", "%s", n)...)
	}
	return findings
}

// checkNodes: control nodes vanish with a reload of the module, and the major of nvidia-uvm changes.
func checkNodes(p patient) []finding {
	if !p.driverLoaded() {
		return nil
	}
	if p.survey.NodesErr != nil {
		return wrong("", "%v", p.survey.NodesErr)
	}
	var found []finding
	var missing, commands []string
	for _, n := range p.survey.AllNodes() {
		switch {
		case n.Instead != "":
			fix := fmt.Sprintf("rm -r %s && %s", n.Path, n.Command())
			found = append(found, wrong(fix, "%s is %s, and has to be character device %d:%d: programs of the host and containers in user namespaces fail", n.Path, n.Instead, n.Major, n.Minor)...)
		case !n.OnHost && !strings.HasPrefix(n.Path, "/dev/dri/"):
			missing = append(missing, n.Path)
			commands = append(commands, n.Command())
		}
	}
	if len(missing) > 0 {
		fix := strings.Join(commands, " && ")
		if len(commands) > 6 {
			fix = "nvidia-smi -L && nvidia-modprobe -u -c 0 && nvidia-modprobe -m"
		}
		text := "containers in user namespaces go without them or do not start"
		if p.cfg.LoadKmods {
			text += ", and the first container that root starts makes them"
		}
		found = append(found, note(fix, "the host lacks %s: %s", some(missing), text)...)
	}
	if len(found) == 0 {
		return ok("all %d are there", len(p.survey.AllNodes()))
	}
	return found
}

func checkPermissions(p patient) []finding {
	if !p.driverLoaded() || p.survey.NodesErr != nil {
		return nil
	}
	var closed []string
	groups := map[uint32]bool{}
	for _, n := range p.survey.AllNodes() {
		need := fs.FileMode(0o006)
		if strings.HasPrefix(n.Path, "/dev/nvidia-caps/") {
			need = 0o004
		}
		if strings.HasPrefix(n.Path, "/dev/dri/") || n.Mode&need == need {
			continue
		}
		closed = append(closed, fmt.Sprintf("%s (%04o, group %d)", n.Path, n.Mode.Perm(), n.GID))
		groups[n.GID] = true
	}
	switch {
	case len(closed) == 0:
		return ok("everybody may open the nodes")
	case groups[0]:
		return wrong("set NVreg_DeviceFileMode=0666 for the module nvidia, and chmod 0666 the nodes", "only root may open %s: programs of other users fail in containers too", some(closed))
	case p.cfg.NoAdditionalGIDs:
		return wrong("remove no-additional-gids-for-device-nodes from "+p.cfg.File, "only a group may open %s, and containers are not given it", some(closed))
	}
	return note("", "only a group may open %s: containers are given it, rootless ones only if their user has it", some(closed))
}

// checkCharLinks: with the systemd cgroup driver, a device without such a link may be lost when systemd reloads.
func checkCharLinks(p patient) []finding {
	if !p.driverLoaded() || p.survey.NodesErr != nil || !p.exists("/run/systemd/system") {
		return nil
	}
	links := p.survey.CharLinks()
	if len(links) == 0 {
		return ok("/dev/char has a link to each node")
	}
	var names, commands []string
	stuck := p.cfg.DevCharLinks == plan.CharLinksNever
	for _, l := range links {
		name := l.Name
		if l.Found != "" {
			name += " (" + l.Found + ")"
			stuck = stuck || !l.Dead
		}
		names = append(names, name)
		commands = append(commands, l.Command())
	}
	fix := "mkdir -p /dev/char && " + strings.Join(commands, " && ")
	if stuck {
		return wrong(fix, "links to nodes are missing or wrong: %s; with the systemd cgroup driver containers may lose their GPUs at 'systemctl daemon-reload'", some(names))
	}
	return note(fix, "links to nodes are missing: %s; they are made when a container starts with the systemd cgroup driver", some(names))
}

// checkFabricManager: a board with NVSwitches, as of HGX, runs no CUDA program without the fabric manager.
func checkFabricManager(p patient) []finding {
	if !p.driverLoaded() {
		return nil
	}
	entries, err := p.root.ReadDir("sys/bus/pci/devices")
	if err != nil {
		return nil
	}
	for _, e := range entries {
		target, err := p.root.ReadLink("sys/bus/pci/devices/" + e.Name() + "/driver")
		if err != nil || path.Base(target) != "nvidia-nvswitch" {
			continue
		}
		if p.exists("/run/nvidia-fabricmanager/socket") || p.exists("/var/run/nvidia-fabricmanager/socket") {
			return ok("runs")
		}
		return note("systemctl enable --now nvidia-fabricmanager", "the machine has NVSwitches, and there is no socket of the fabric manager: CUDA fails with error 802 unless it runs in a virtual machine of its own")
	}
	return nil
}

func checkPersistence(p patient) []finding {
	switch {
	case !p.driverLoaded():
		return nil
	case p.exists("/run/nvidia-persistenced/socket"), p.exists("/var/run/nvidia-persistenced/socket"):
		return ok("nvidia-persistenced runs")
	}
	return note("systemctl enable --now nvidia-persistenced", "nvidia-persistenced does not run: where nothing else keeps a GPU open, each first use of it takes seconds")
}

func checkLowLevel(p patient) []finding {
	switch {
	case p.lowLevel == "" && p.captured():
		return nil
	case p.lowLevel == "":
		candidates := p.cfg.Runtimes
		if p.cfg.RuntimePath != "" {
			candidates = []string{p.cfg.RuntimePath}
		}
		return wrong("install runc or crun, or set runtime-path in "+p.cfg.File, "no low-level runtime found: looked for %s", strings.Join(candidates, ", "))
	}
	advice := adviceOn(p.version)
	switch {
	case advice != "":
		return note("install runc 1.3.6, 1.4.3, 1.5.0 or later", "%s, %s: %s", p.lowLevel, p.version, advice)
	case p.version == "":
		return ok("%s", p.lowLevel)
	}
	return ok("%s, %s", p.lowLevel, p.version)
}

// adviceOn tells what is to be known of a version of runc (its CHANGELOG.md); "" if it is recent or another runtime.
func adviceOn(line string) string {
	words, isRunc := strings.CutPrefix(line, "runc version ")
	numbers, isNumber := versionOf(words)
	if !isRunc || !isNumber {
		return ""
	}
	before := func(version ...int) bool { return slices.Compare(numbers, version) < 0 }
	switch {
	case !before(1, 1, 3) && before(1, 1, 7):
		return "with the systemd cgroup driver it leaves out devices that have no link in /dev/char; it lacks security fixes, unless the distribution has added them"
	case before(1, 2, 5):
		return "with the systemd cgroup driver containers may lose their devices at 'systemctl daemon-reload'; it lacks security fixes, unless the distribution has added them"
	case before(1, 3, 6), !before(1, 4, 0) && before(1, 4, 3):
		return "it lacks security fixes, unless the distribution has added them"
	}
	return ""
}

// versionOf reads "1.1.12+ds1-5" as three numbers.
func versionOf(text string) ([]int, bool) {
	end := strings.IndexFunc(text, func(r rune) bool { return r != '.' && (r < '0' || r > '9') })
	if end >= 0 {
		text = text[:end]
	}
	var numbers []int
	for part := range strings.SplitSeq(text, ".") {
		n, err := strconv.Atoi(part)
		if err != nil {
			return nil, false
		}
		numbers = append(numbers, n)
	}
	return numbers, len(numbers) == 3
}

func checkCgroup(p patient) []finding {
	version := ""
	switch {
	case p.exists("/sys/fs/cgroup/cgroup.controllers"):
		version = "version 2"
	case p.exists("/sys/fs/cgroup/devices"):
		version = "version 1"
	}
	switch {
	case p.cfg.NoCgroups:
		return note("remove no-cgroups from "+p.cfg.File, "no-cgroups is set: containers of root get nodes without the right to open them; containers in user namespaces do not need it")
	case version == "":
		return nil
	}
	return ok("%s", version)
}

func checkRegistered(p patient) []finding {
	var places, without []string
	for _, e := range p.engines {
		if len(e.runtimes) == 0 {
			without = append(without, e.name)
		}
		for _, r := range e.runtimes {
			place := fmt.Sprintf("%s as %q (%s)", e.name, r.name, r.file)
			if r.isDefault {
				place += ", the default"
			}
			places = append(places, place)
		}
	}
	switch {
	case len(p.engines) == 0 && p.captured():
		return nil
	case len(p.engines) == 0:
		return note("", "no container engine found: looked for dockerd, containerd, crio and podman, and their configuration")
	case len(places) == 0 && p.describedByCDI():
		return note("nvsysfs configure "+engineOf(without[0]), "the runtime is registered with none of %s: they can take GPUs from CDI files alone", strings.Join(without, ", "))
	case len(places) == 0:
		return wrong("nvsysfs configure "+engineOf(without[0]), "the runtime is registered with none of %s", strings.Join(without, ", "))
	}
	for _, name := range without {
		if engineOf(name) != name {
			return wrong("nvsysfs configure "+engineOf(name), "the runtime is not registered with %s, which reads files of its own; it is with %s", name, strings.Join(places, "; "))
		}
	}
	text := "with " + strings.Join(places, "; ")
	if len(without) > 0 {
		text += "; not with " + strings.Join(without, ", ")
	}
	return ok("%s", text)
}

// engineOf is the argument of nvsysfs configure: "containerd" for "containerd (k3s)".
func engineOf(name string) string {
	engine, _, _ := strings.Cut(name, " ")
	return engine
}

// describedByCDI tells whether a CDI file describes GPUs for engines.
func (p patient) describedByCDI() bool {
	found, err := cdi.ReadDirs(p.root, cdi.Dirs, os.Geteuid())
	return err == nil && slices.ContainsFunc(found, func(f cdi.Found) bool {
		return f.Err == nil && strings.HasPrefix(f.File.Kind(), "nvidia.com/")
	})
}

// checkCDIFiles: engines give what a CDI file says, though the machine has changed since.
func checkCDIFiles(p patient) []finding {
	found, err := cdi.ReadDirs(p.root, cdi.Dirs, os.Geteuid())
	if err != nil {
		return wrong("", "%v", err)
	}
	var list []finding
	dir := ""
	if p.root != "/" {
		dir = string(p.root)
	}
	for _, f := range found {
		switch {
		case f.Err != nil:
			list = append(list, wrong("edit the file, or remove it", "%s: engines leave it aside: %v", f.Path, f.Err)...)
			continue
		case !f.File.Ours():
			continue
		}
		c, err := checkCDI(invocation{environ: p.environ}, f.Path, f.File, dir)
		if err != nil {
			list = append(list, wrong("nvsysfs cdi check", "%s cannot be compared with the machine: %v", f.Path, err)...)
			continue
		}
		c.addTaken(found)
		switch {
		case c.Drifted && c.Mend == "":
			d := c.Differences[0]
			list = append(list, wrong("nvsysfs cdi list", "%s: device %s is %s", f.Path, d.Name, d.Reason)...)
		case c.Drifted:
			list = append(list, wrong(c.Mend, "%s does not fit the machine any more: %s", f.Path, counted(len(c.Differences), "difference", "differences"))...)
		default:
			list = append(list, ok("%s fits the machine", f.Path)...)
		}
	}
	return list
}

// checkEngineConfig: a wrong path fails with words that do not tell so.
func checkEngineConfig(p patient) []finding {
	var found []finding
	for _, e := range p.engines {
		for _, err := range e.errs {
			found = append(found, wrong("edit the file", "%s: %v", e.name, err)...)
		}
		for _, r := range e.runtimes {
			if !filepath.IsAbs(r.program) || !executable(p.root, r.program) {
				fix := fmt.Sprintf("nvsysfs configure %s --name %s", engineOf(e.name), r.name)
				found = append(found, wrong(fix, "%s: the runtime %q in %s starts %q, which is no program", e.name, r.name, r.file, r.program)...)
			}
		}
	}
	return found
}

// checkDockerGPUs: dockerd knows --gpus only with a program of this name in its PATH.
func checkDockerGPUs(p patient) []finding {
	if !slices.ContainsFunc(p.engines, func(e engine) bool { return e.name == "docker" && len(e.runtimes) > 0 }) {
		return nil
	}
	var found []finding
	if file := findProgram(p.root, "nvidia-cdi-hook", programDirs); file != "" {
		found = append(found, note("", "%s is there: dockerd 29 and later takes GPUs of 'docker run --gpus' from CDI files; -e NVIDIA_VISIBLE_DEVICES=all asks this runtime", file)...)
	}
	if file := findProgram(p.root, "nvidia-container-runtime-hook", programDirs); file != "" {
		return append(found, ok("'docker run --gpus' works: dockerd finds %s", file)...)
	}
	return append(found, note("nvsysfs configure docker --gpus", "'docker run --gpus' does not work, as dockerd finds no nvidia-container-runtime-hook")...)
}

// checkClassicHook: podman and CRI-O add hooks that a directory lists to every container.
func checkClassicHook(p patient) []finding {
	var found []finding
	for _, dir := range []string{"/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"} {
		entries, err := p.root.ReadDir(dir[1:])
		if err != nil {
			continue
		}
		for _, e := range entries {
			file := path.Join(dir, e.Name())
			data, err := p.root.ReadFileMax(file, 64<<10)
			if err != nil || !bytes.Contains(data, []byte("nvidia-container")) {
				continue
			}
			found = append(found, note("rm "+file, "%s adds the hook of the classic runtime to containers: this runtime drops it, but others still run it", file)...)
		}
	}
	if len(found) == 0 {
		return ok("no hook of the classic runtime")
	}
	return found
}

// checkSELinux: the policy may keep containers from device nodes.
func checkSELinux(p patient) []finding {
	switch {
	case p.word("/sys/fs/selinux/enforce") != "1":
		return nil
	case p.word("/sys/fs/selinux/booleans/container_use_devices") == "0":
		return note("setsebool -P container_use_devices on", "SELinux is enforcing and container_use_devices is off: where containers cannot open a GPU (ausearch -m avc), allow it")
	}
	return ok("enforcing, container_use_devices is on")
}

// checkUserNamespaces: what rootless containers need beside the nodes.
func checkUserNamespaces(p patient) []finding {
	if p.word("/proc/sys/user/max_user_namespaces") == "0" {
		return note("sysctl -w user.max_user_namespaces=15000", "user namespaces are switched off: there are no rootless containers")
	}
	if p.word("/proc/sys/kernel/unprivileged_userns_clone") == "0" {
		return note("sysctl -w kernel.unprivileged_userns_clone=1", "only root may make user namespaces: there are no rootless containers")
	}
	if slices.ContainsFunc(p.engines, func(e engine) bool { return e.name == "podman" && e.program != "" }) {
		for _, file := range []string{"/etc/subuid", "/etc/subgid"} {
			if p.word(file) == "" {
				return note("usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER", "%s gives no user further ids: rootless podman has but one user in a container", file)
			}
		}
	}
	return nil
}
