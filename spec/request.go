// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
)

// Policy says which requests of a container are granted. Its fields are keys of config.toml. The
// zero Policy trusts only privileged containers.
type Policy struct {
	// EnvWhenUnprivileged lets a container without CAP_SYS_ADMIN in its bounding set request
	// devices through its environment: accept-nvidia-visible-devices-envvar-when-unprivileged, true
	// by default.
	EnvWhenUnprivileged bool
	// VolumeMounts lets mounts below /var/run/nvidia-container-devices request devices:
	// accept-nvidia-visible-devices-as-volume-mounts.
	VolumeMounts bool
	// SwarmResources are variables that replace NVIDIA_VISIBLE_DEVICES in a container that has any
	// of them: swarm-resource. An element may itself be a comma-separated list.
	SwarmResources []string
	// Supported are the driver capabilities that a container can get:
	// supported-driver-capabilities. An element may itself be a comma-separated list; "all", like a
	// nil list, means all of them.
	Supported []string
	// DisableRequire turns off the checks of requirements: disable-require.
	DisableRequire bool
	// IgnoreIMEX ignores requests for IMEX channels: features.ignore-imex-channel-requests.
	IgnoreIMEX bool
	// RefuseUnprivileged turns a request that the policy does not grant into an error. Otherwise it
	// is ignored with a note.
	RefuseUnprivileged bool
}

// Values of [Request.Source]. For swarm resources it is the variable's name, or a comma-separated
// list of names.
const (
	SourceEnvironment  = visibleDevices
	SourceVolumeMounts = "volume mounts"
)

// Request is what a container asks for and the policy grants.
type Request struct {
	// Devices are ["all"], ["none"], or identifiers in the order requested: trimmed, not empty,
	// without duplicates. A CDI name nvidia.com/gpu=X or runtime.nvidia.com/gpu=X has become X.
	// Only the inventory of the machine can tell whether they exist.
	Devices []string
	// Source says where Devices comes from.
	Source string
	// Capabilities are the requested driver capabilities that are supported, sorted: some of
	// compat32, compute, display, graphics, ngx, utility and video. Implied ones are not added.
	Capabilities []string
	// Requirements are what the image requires of the machine, sorted by variable, with the
	// CUDA_VERSION of a legacy image last. Nil if checks are disabled.
	Requirements []requirement.Requirement
	// MIGConfig and MIGMonitor request the right to configure and to monitor MIG on the selected
	// GPUs.
	MIGConfig, MIGMonitor bool
	// IMEXChannels are sorted, without duplicates. IMEXAll requests every channel that has a node;
	// only a mount can do so.
	IMEXChannels []int
	IMEXAll      bool
	// GDS, MOFED, GDRCopy and NVSwitch request /dev/nvidia-fs*, /dev/infiniband, /dev/gdrdrv and
	// /dev/nvidia-nvswitch*.
	GDS, MOFED, GDRCopy, NVSwitch bool
	// Notes say for the log what was ignored and why.
	Notes []string
}

const (
	visibleDevices     = "NVIDIA_VISIBLE_DEVICES"
	driverCapabilities = "NVIDIA_DRIVER_CAPABILITIES"
	imexChannels       = "NVIDIA_IMEX_CHANNELS"
	cudaVersion        = "CUDA_VERSION"
	requireCUDA        = "NVIDIA_REQUIRE_CUDA"
	requirePrefix      = "NVIDIA_REQUIRE_"
	requireJetPack     = "NVIDIA_REQUIRE_JETPACK" // also as a prefix; for Tegra boards
	disableRequire     = "NVIDIA_DISABLE_REQUIRE"

	swarmPrefix = "DOCKER_RESOURCE_" // Docker's generic resources: DOCKER_RESOURCE_<kind>

	sysAdmin = "CAP_SYS_ADMIN"

	acceptEnv    = "accept-nvidia-visible-devices-envvar-when-unprivileged"
	acceptMounts = "accept-nvidia-visible-devices-as-volume-mounts"
)

// NewRequest reads what a container asks for from its environment and, if the policy allows it, its
// mounts:
//
//	NVIDIA_VISIBLE_DEVICES=0,GPU-fef8089b-…        the devices; see also Policy.SwarmResources
//	NVIDIA_DRIVER_CAPABILITIES=compute,utility     classes of driver files
//	NVIDIA_REQUIRE_CUDA=cuda>=12.4                 and others of this prefix; NVIDIA_DISABLE_REQUIRE=1
//	CUDA_VERSION=9.0.176                           without NVIDIA_REQUIRE_CUDA: a legacy image
//	NVIDIA_MIG_CONFIG_DEVICES=all                  and NVIDIA_MIG_MONITOR_DEVICES=all
//	NVIDIA_IMEX_CHANNELS=0,channel1
//	NVIDIA_GDS=enabled                             and NVIDIA_MOFED, NVIDIA_GDRCOPY, NVIDIA_NVSWITCH
//
// If a name repeats, the last entry counts; entries without "=" are ignored. The rules are those of
// the classic runtime (nvidia-container-runtime-hook and libnvidia-container).
//
// It returns false if nothing is requested or granted: the container is not ours then, and the
// Request has only Notes. An invalid or forbidden value is an error that names the variable or
// mount and quotes the value, shortened. Values other than devices are checked only if a device is
// requested. The running time is proportional to the size of the input.
func NewRequest(f Facts, p Policy) (Request, bool, error) {
	r, err := newRequest(f, p)
	if err != nil {
		return Request{}, false, err
	}
	if r.Devices == nil {
		return Request{Notes: r.Notes}, false, nil
	}
	return r, true, nil
}

func newRequest(f Facts, p Policy) (Request, error) {
	swarm := splitLists(p.SwarmResources)
	env := readEnvironment(f.Env, swarm)
	marks := findMarks(f.Mounts)
	var r Request
	var asked, channels []item
	var note string
	var err error
	if p.VolumeMounts {
		r.note(marks.note)
		if asked, channels, err = splitMarks(marks.items); err != nil {
			return Request{}, err
		}
		r.Source = SourceVolumeMounts
	}
	if len(asked) == 0 {
		if asked, r.Source, note, err = env.devices(swarm, f, p); err != nil {
			return Request{}, err
		}
		r.note(note)
	}
	if r.Devices, err = resolveDevices(asked); err != nil {
		return Request{}, err
	}
	if !p.VolumeMounts && len(marks.items) > 0 {
		refusal := fmt.Sprintf("%s does not request a device: %s is false", marks.items[0].origin, acceptMounts)
		if p.RefuseUnprivileged && r.Devices == nil {
			return Request{}, errors.New(refusal)
		}
		r.note(refusal)
	}
	if r.Devices == nil {
		return r, nil
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if err := env.tooLong(name); err != nil {
			return Request{}, err
		}
		if r.Source == SourceEnvironment && r.Devices[0] == "all" &&
			strings.HasPrefix(name, swarmPrefix) && !slices.Contains(swarm, name) {
			const note = " is not read, so the container gets all devices: " +
				"swarm-resource in config.toml does not name this variable"
			r.note(env.origin(name) + note)
		}
	}

	if r.Capabilities, err = env.capabilities(p.Supported); err != nil {
		return Request{}, err
	}
	if r.MIGConfig, err = env.mig("CONFIG", f, r.Devices); err != nil {
		return Request{}, err
	}
	if r.MIGMonitor, err = env.mig("MONITOR", f, r.Devices); err != nil {
		return Request{}, err
	}
	if !p.DisableRequire {
		if r.Requirements, note, err = env.requirements(); err != nil {
			return Request{}, err
		}
		r.note(note)
	}
	if r.IMEXChannels, r.IMEXAll, note, err = env.imex(channels, f, p); err != nil {
		return Request{}, err
	}
	r.note(note)
	for _, v := range []struct {
		name string
		into *bool
	}{
		{"NVIDIA_GDS", &r.GDS},
		{"NVIDIA_MOFED", &r.MOFED},
		{"NVIDIA_GDRCOPY", &r.GDRCopy},
		{"NVIDIA_NVSWITCH", &r.NVSwitch},
	} {
		switch value := env[v.name]; value {
		case "enabled":
			if *v.into, note, err = mayAsk("request", v.name, env.origin(v.name), f, p); err != nil {
				return Request{}, err
			}
			r.note(note)
		case "", "disabled":
		default:
			r.note(env.origin(v.name) + ` ignored: the only accepted value is "enabled"`)
		}
	}
	return r, nil
}

// note adds a note unless it is empty.
func (r *Request) note(text string) {
	if text != "" {
		r.Notes = append(r.Notes, text)
	}
}

// mayAsk reports whether the environment may request what, such as a device list, through the
// variable, which messages call origin. If not, it returns a note for the log or, depending on the
// policy, an error.
func mayAsk(what, variable, origin string, f Facts, p Policy) (ok bool, note string, err error) {
	if p.EnvWhenUnprivileged || f.HasCapability(sysAdmin) {
		return true, "", nil
	}
	reason := fmt.Sprintf("the container lacks %s in its bounding set and %s is false", sysAdmin, acceptEnv)
	if p.RefuseUnprivileged {
		return false, "", fmt.Errorf("insufficient privileges to read %s from %s envvar: %s: %s",
			what, variable, origin, reason)
	}
	return false, origin + " ignored: " + reason, nil
}

// environment has the variables that matter here; the last entry of a name counts.
type environment map[string]string

func readEnvironment(entries, swarm []string) environment {
	wanted := map[string]bool{cudaVersion: true}
	for _, name := range swarm {
		wanted[name] = true
	}
	env := environment{}
	for _, entry := range entries {
		name, value, ok := strings.Cut(entry, "=")
		if ok && (strings.HasPrefix(name, "NVIDIA_") || strings.HasPrefix(name, swarmPrefix) || wanted[name]) {
			env[name] = value
		}
	}
	return env
}

// legacy reports whether the image predates NVIDIA_REQUIRE_CUDA.
func (env environment) legacy() bool {
	return env[cudaVersion] != "" && env[requireCUDA] == ""
}

// An item is an element of a list and, for messages, the variable or mount that it comes from:
// `NVIDIA_VISIBLE_DEVICES="0,1"`.
type item struct{ text, origin string }

// origin shows a variable in messages.
func (env environment) origin(name string) string {
	return escape(name) + "=" + quoteValue(env[name])
}

// maxValue is the longest value of a variable, in bytes. The names of 3,000 replicas take 120 KB.
const maxValue = 1 << 20

// tooLong returns an error for a value that is too long to be read.
func (env environment) tooLong(name string) error {
	if n := len(env[name]); n > maxValue {
		return fmt.Errorf("%s: its value has %d bytes, more than the limit of %d", env.origin(name), n, maxValue)
	}
	return nil
}

// list splits the value of a variable at commas, trims the items, and drops empty ones and
// duplicates: items take memory, and a hostile value can repeat a few of them very often.
func (env environment) list(name string) []item {
	var items []item
	origin := env.origin(name)
	seen := map[string]bool{}
	for text := range strings.SplitSeq(env[name], ",") {
		if text = strings.TrimSpace(text); text != "" && !seen[text] {
			seen[text] = true
			items = append(items, item{text, origin})
		}
	}
	return items
}

// devices returns the devices that the environment requests, unresolved, if it may do so.
func (env environment) devices(swarm []string, f Facts, p Policy) (asked []item, source, note string, err error) {
	variable := visibleDevices
	var present []string
	for _, name := range swarm {
		if _, ok := env[name]; ok && !slices.Contains(present, name) {
			present = append(present, name)
		}
	}
	lists := present
	if present == nil {
		lists = []string{visibleDevices}
	}
	for _, name := range lists {
		if tooLong := env.tooLong(name); tooLong != nil {
			if ok, note, err := mayAsk("device list", name, env.origin(name), f, p); !ok {
				return nil, "", note, err
			}
			return nil, "", "", tooLong
		}
		asked = append(asked, env.list(name)...)
	}
	_, set := env[visibleDevices]
	switch {
	case present != nil:
		variable = strings.Join(present, ",")
		source = variable
	case !set && env.legacy():
		origin := env.origin(cudaVersion) + " without " + requireCUDA + " (a legacy image, which means all devices)"
		asked, source = []item{{"all", origin}}, SourceEnvironment
	default:
		source = SourceEnvironment
	}
	if len(asked) == 0 || keyword(asked) == "void" {
		return nil, "", "", nil
	}
	ok, note, err := mayAsk("device list", variable, asked[0].origin, f, p)
	if !ok {
		return nil, "", note, err
	}
	return asked, source, "", nil
}

// keyword returns the word that decides about a list: "void" if it occurs anywhere, otherwise the
// first of "all" (in any case, as in libnvidia-container) and "none", otherwise "".
func keyword(items []item) string {
	word := ""
	for _, i := range items {
		switch {
		case i.text == "void":
			return "void"
		case word != "":
		case i.text == "none":
			word = "none"
		case strings.EqualFold(i.text, "all"):
			word = "all"
		}
	}
	return word
}

// resolveDevices turns requested items into [Request.Devices].
func resolveDevices(asked []item) ([]string, error) {
	names := make([]item, len(asked))
	var malformed error
	for n, i := range asked {
		text, err := deviceName(i.text)
		if err != nil && malformed == nil {
			malformed = fmt.Errorf("%s: %w", i.origin, err)
		}
		names[n] = item{text, i.origin}
	}
	word := keyword(names)
	switch {
	case word == "void":
		return nil, nil
	case malformed != nil:
		return nil, malformed
	case word != "":
		return []string{word}, nil
	}
	var devices []string
	seen := make(map[string]bool, len(names))
	for _, i := range names {
		if !seen[i.text] {
			seen[i.text] = true
			devices = append(devices, i.text)
		}
	}
	return devices, nil
}

// deviceName strips vendor and class from a CDI name (vendor/class=name) of ours. Other names are
// returned unchanged, except for known mistakes, which are errors.
func deviceName(id string) (string, error) {
	plain := strings.Trim(id, `"'`)
	name, replica, _ := strings.Cut(id, "::")
	switch {
	case id == markRoot:
		return "", fmt.Errorf("device %s: unknown device: it stands for the mounts below that directory; "+
			"this needs such mounts, and %s = true in config.toml", quoteValue(id), acceptMounts)
	case plain != id:
		return "", fmt.Errorf("device %s: unknown device: the quotes are part of the value; leave them out",
			quoteValue(id))
	case isDigits(replica):
		return "", fmt.Errorf("device %s: unknown device: \"::%s\" is a replica of Kubernetes' device plugin; "+
			"ask for %s", quoteValue(id), replica, quoteValue(name))
	}
	kind, name, ok := strings.Cut(id, "=")
	if !ok {
		return id, nil
	}
	vendor, class, ok := strings.Cut(kind, "/")
	if !ok || !isCDIWord(vendor) || !isCDIWord(class) {
		return id, nil
	}
	if kind != "nvidia.com/gpu" && kind != "runtime.nvidia.com/gpu" {
		return "", fmt.Errorf("device %s is of kind %s, but only nvidia.com/gpu and runtime.nvidia.com/gpu "+
			"are supported; ask the container engine for CDI devices of other kinds", quoteValue(id), quoteValue(kind))
	}
	if name = strings.TrimSpace(name); name == "" || strings.Contains(name, "=") {
		return "", fmt.Errorf("device %s: want a device after %s=", quoteValue(id), kind)
	}
	return name, nil
}

// isCDIWord reports whether s can be the vendor or the class of a CDI name: a letter, then letters,
// digits, dots, dashes and underscores.
func isCDIWord(s string) bool {
	for i := range len(s) {
		switch c := s[i]; {
		case 'a' <= c && c <= 'z', 'A' <= c && c <= 'Z':
		case i > 0 && ('0' <= c && c <= '9' || c == '.' || c == '-' || c == '_'):
		default:
			return false
		}
	}
	return s != ""
}

// marks are the mounts that request something.
type marks struct {
	items []item // the path below markRoot
	note  string
}

const (
	markRoot = "/var/run/" + markBase
	markBase = "nvidia-container-devices"
)

// findMarks finds the mounts whose source is /dev/null and whose destination is below markRoot.
func findMarks(mounts []Mount) marks {
	var m marks
	for _, mount := range mounts {
		rest, ok := markOf(mount)
		if !ok {
			continue
		}
		origin := "mount " + quoteValue(mount.Destination)
		if leadsUp(mount.Destination) {
			m.note = origin + ` does not request a device: ".." in its destination`
			continue
		}
		m.items = append(m.items, item{rest, origin})
	}
	return m
}

// markOf returns the path below markRoot of a mount that may be a mark. Its destination may still
// contain "..".
func markOf(mount Mount) (string, bool) {
	if !strings.Contains(mount.Destination, markBase) {
		return "", false
	}
	rest, below := strings.CutPrefix(path.Clean(mount.Destination), markRoot+"/")
	return rest, below && path.Clean(mount.Source) == "/dev/null"
}

func leadsUp(name string) bool {
	return slices.Contains(strings.Split(name, "/"), "..")
}

// splitMarks separates marks by their path below markRoot: a device, except for
//
//	cdi/vendor/class/name   a CDI name, also spelled cdi/vendor/class=name
//	imex/N                  an IMEX channel, or all
func splitMarks(items []item) (devices, channels []item, err error) {
	for _, i := range items {
		if channel, ok := strings.CutPrefix(i.text, "imex/"); ok {
			channels = append(channels, item{channel, i.origin})
			continue
		}
		if name, ok := strings.CutPrefix(i.text, "cdi/"); ok {
			if i.text, err = markedCDIName(name); err != nil {
				return nil, nil, fmt.Errorf("%s: %w", i.origin, err)
			}
		}
		devices = append(devices, i)
	}
	return devices, channels, nil
}

// markedCDIName turns vendor/class/name into vendor/class=name; name may contain slashes.
func markedCDIName(text string) (string, error) {
	vendor, rest, _ := strings.Cut(text, "/")
	end := strings.IndexAny(rest, "/=")
	if end < 0 || !isCDIWord(vendor) || !isCDIWord(rest[:end]) || end+1 == len(rest) {
		return "", fmt.Errorf("want %s/cdi/vendor/class/name", markRoot)
	}
	return vendor + "/" + rest[:end] + "=" + rest[end+1:], nil
}

// allCapabilities are all driver capabilities, sorted.
var allCapabilities = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}

// capabilities reads NVIDIA_DRIVER_CAPABILITIES. It does not add implied capabilities.
func (env environment) capabilities(configured []string) ([]string, error) {
	supported := map[string]bool{}
	if configured == nil {
		configured = []string{"all"}
	}
	for _, name := range splitLists(configured) {
		switch {
		case name == "all":
			for _, c := range allCapabilities {
				supported[c] = true
			}
		case slices.Contains(allCapabilities, name):
			supported[name] = true
		default:
			return nil, fmt.Errorf("supported-driver-capabilities has %s, want some of %s",
				quoteValue(name), strings.Join(allCapabilities, ","))
		}
	}
	allowed := slices.DeleteFunc(slices.Clone(allCapabilities), func(c string) bool { return !supported[c] })

	_, set := env[driverCapabilities]
	asked := env.list(driverCapabilities)
	wanted := map[string]bool{}
	for _, i := range asked {
		wanted[i.text] = true
	}
	switch {
	case len(asked) == 0 && !set && env.legacy():
		wanted["all"] = true
	case len(asked) == 0:
		wanted["compute"], wanted["utility"] = supported["compute"], supported["utility"]
	}
	for _, i := range asked {
		reason := ""
		switch {
		case i.text == "all" || supported[i.text]:
			continue
		case !slices.Contains(allCapabilities, i.text):
			reason = "unknown capability"
		case wanted["all"]:
			continue
		default:
			reason = "supported-driver-capabilities in config.toml does not include"
		}
		return nil, fmt.Errorf("unsupported capabilities found in '%s' (allowed '%s'): %s: %s %s",
			escape(env[driverCapabilities]), strings.Join(allowed, ","), driverCapabilities, reason, quoteValue(i.text))
	}
	if wanted["all"] {
		return allowed, nil
	}
	return slices.DeleteFunc(allowed, func(c string) bool { return !wanted[c] }), nil
}

// mig reads NVIDIA_MIG_CONFIG_DEVICES or NVIDIA_MIG_MONITOR_DEVICES.
func (env environment) mig(word string, f Facts, devices []string) (bool, error) {
	name := "NVIDIA_MIG_" + word + "_DEVICES"
	items := env.list(name)
	if len(items) == 0 {
		return false, nil
	}
	origin := items[0].origin
	if !f.HasCapability(sysAdmin) {
		return false, fmt.Errorf("%s: cannot set MIG_%s_DEVICES in non privileged container: "+
			"it lacks %s in its bounding set (give it with '--cap-add SYS_ADMIN')", origin, word, sysAdmin)
	}
	for _, i := range items {
		if !strings.EqualFold(i.text, "all") {
			return false, fmt.Errorf("%s: only 'all' devices are currently supported", origin)
		}
	}
	if n := slices.IndexFunc(devices, isMIGDevice); n >= 0 {
		return false, fmt.Errorf("%s: cannot enable mig-%s with specific MIG devices selected: device %s",
			origin, strings.ToLower(word), quoteValue(devices[n]))
	}
	return true, nil
}

// isMIGDevice reports whether id has the form of a MIG device: g:m, MIG-<uuid>, or
// MIG-GPU-<uuid>/<gi>/<ci>.
func isMIGDevice(id string) bool {
	if len(id) >= 4 && strings.EqualFold(id[:4], "MIG-") {
		return true
	}
	gpu, instance, ok := strings.Cut(id, ":")
	return ok && isDigits(gpu) && isDigits(instance)
}

func isDigits(s string) bool {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return false
		}
	}
	return s != ""
}

// skipAdvice ends messages about requirements.
const skipAdvice = disableRequire + "=1 in the container's environment skips the check"

// requirements reads NVIDIA_REQUIRE_* and, for a legacy image, CUDA_VERSION.
func (env environment) requirements() (list []requirement.Requirement, note string, err error) {
	if value := env[disableRequire]; value != "" {
		disabled, err := strconv.ParseBool(value)
		if err != nil {
			note = env.origin(disableRequire) + " is not a boolean such as 1 or true: requirements are checked"
		}
		if disabled {
			return nil, "", nil
		}
	}
	for _, name := range slices.Sorted(maps.Keys(env)) {
		if !strings.HasPrefix(name, requirePrefix) || strings.HasPrefix(name, requireJetPack) {
			continue
		}
		r, err := requirement.Parse(env[name])
		if err != nil {
			return nil, "", fmt.Errorf("requirement error: %s: %w; %s", env.origin(name), err, skipAdvice)
		}
		if len(r.Terms) > 0 {
			r.Variable = escape(name) // the image chooses the name after the prefix
			list = append(list, r)
		}
	}
	if env.legacy() {
		version, ok := majorMinor(env[cudaVersion])
		if !ok {
			return nil, "", fmt.Errorf("requirement error: %s: invalid CUDA version, "+
				"want MAJOR, MAJOR.MINOR or MAJOR.MINOR.PATCH; %s", env.origin(cudaVersion), skipAdvice)
		}
		list = append(list, requirement.Requirement{
			Variable: cudaVersion,
			Terms:    []requirement.Term{{{Property: requirement.CUDA, Operator: ">=", Value: version}}},
		})
	}
	return list, note, nil
}

// majorMinor returns "9.0" for "9.0.176", "8.0" for "8", "11.6" for "v11.6".
func majorMinor(version string) (string, bool) {
	parts := strings.SplitN(strings.TrimPrefix(version, "v"), ".", 4)
	if len(parts) > 3 {
		return "", false
	}
	numbers := [3]uint64{}
	for n, part := range parts {
		if !isDigits(part) {
			return "", false
		}
		var err error
		if numbers[n], err = strconv.ParseUint(part, 10, 32); err != nil {
			return "", false
		}
	}
	return fmt.Sprintf("%d.%d", numbers[0], numbers[1]), true
}

// maxIMEXChannel is the largest minor number of a device node.
const maxIMEXChannel = 1<<20 - 1

// imex reads the channels that mounts request or, if none does, NVIDIA_IMEX_CHANNELS.
func (env environment) imex(mounted []item, f Facts, p Policy) (channels []int, all bool, note string, err error) {
	items := mounted
	if len(items) == 0 {
		items = env.list(imexChannels)
	}
	word := keyword(items)
	if len(items) == 0 || word == "void" || word == "none" {
		return nil, false, "", nil
	}
	if p.IgnoreIMEX {
		return nil, false, items[0].origin + " ignored: features.ignore-imex-channel-requests is true", nil
	}
	if len(mounted) == 0 {
		ok, note, err := mayAsk("channel list", imexChannels, items[0].origin, f, p)
		if !ok {
			return nil, false, note, err
		}
	}
	for _, i := range items {
		if i.text == "none" || strings.EqualFold(i.text, "all") {
			continue // see keyword
		}
		n, ok := channelNumber(i.text)
		if !ok {
			return nil, false, "", fmt.Errorf("%s: IMEX channel %s: want N or channelN with N from 0 to %d",
				i.origin, quoteValue(i.text), maxIMEXChannel)
		}
		channels = append(channels, n)
	}
	switch {
	case word == "":
		slices.Sort(channels)
		return slices.Compact(channels), false, "", nil
	case len(mounted) > 0:
		return nil, true, "", nil
	}
	return nil, false, items[0].origin + " ignored: the environment cannot ask for all channels", nil
}

// channelNumber parses "7" or "channel7", without signs or leading zeros.
func channelNumber(text string) (int, bool) {
	text = strings.TrimPrefix(text, "channel")
	if !isDigits(text) || len(text) > 1 && text[0] == '0' {
		return 0, false
	}
	n, err := strconv.Atoi(text)
	return n, err == nil && n <= maxIMEXChannel
}

// splitLists splits each list at commas.
func splitLists(lists []string) []string {
	var names []string
	for _, list := range lists {
		for name := range strings.SplitSeq(list, ",") {
			if name = strings.TrimSpace(name); name != "" {
				names = append(names, name)
			}
		}
	}
	return names
}

// quoteValue quotes a value from the container for a message, cut after 100 bytes.
func quoteValue(s string) string {
	return `"` + escape(s) + `"`
}

// escape is quoteValue without the quotes.
func escape(s string) string {
	more := ""
	if len(s) > 100 {
		s, more = s[:100], "…"
	}
	quoted := strconv.Quote(s)
	return quoted[1:len(quoted)-1] + more
}
