// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"
)

// Key is a key of config.toml. Its row in [Keys] defines it: parsing, "nvsysfs info", "nvsysfs
// config check", the example file and the manual page all follow from the row.
type Key struct {
	Name     string   // dotted: "nvidia-container-cli.root"
	Over     string   // the less specific key that it overrides; "" if none
	Variable string   // the runtime's environment variable that overrides it; "" if none
	Default  string   // a TOML value
	Values   []string // allowed values; nil if any
	Doc      string   // what it does, in sentences; code in backquotes

	field func(*Config) any // see set
}

// ours is the table that only this runtime reads.
const ours = "nvidia-container-runtime.experimental."

// Keys are the keys that the runtime reads, in the order of the file.
var Keys = []Key{
	{
		Name: "disable-require", Default: "false", field: func(c *Config) any { return &c.DisableRequire },
		Doc: "Do not check `NVIDIA_REQUIRE_*`, the image's requirements for driver and GPU.",
	},
	{
		Name: "swarm-resource", Default: `""`, field: func(c *Config) any { return (*words)(&c.SwarmResources) },
		Doc: "Comma-separated container variables, set by Docker Swarm, that replace `NVIDIA_VISIBLE_DEVICES`.",
	},
	{
		Name: "accept-nvidia-visible-devices-envvar-when-unprivileged", Default: "true",
		field: func(c *Config) any { return &c.EnvWhenUnprivileged },
		Doc:   "If false, requests in the environment need CAP_SYS_ADMIN.",
	},
	{
		Name: "accept-nvidia-visible-devices-as-volume-mounts", Default: "false",
		field: func(c *Config) any { return &c.VolumeMounts },
		Doc:   "If true, mounts of `/dev/null` below `/var/run/nvidia-container-devices` request devices.",
	},
	{
		Name: "supported-driver-capabilities", Default: `"compat32,compute,display,graphics,ngx,utility,video"`,
		field: func(c *Config) any { return (*words)(&c.SupportedCapabilities) },
		Doc:   "The driver capabilities that `NVIDIA_DRIVER_CAPABILITIES` may request, separated by commas.",
	},
	{
		Name: "nvidia-container-cli.root", Default: `"/"`, field: func(c *Config) any { return &c.DriverRoot },
		Doc: "The driver's root directory: `/run/nvidia/driver` with a driver container.",
	},
	{
		Name: "nvidia-container-cli.ldcache", Default: `"/etc/ld.so.cache"`,
		field: func(c *Config) any { return &c.LDCache },
		Doc:   "The loader cache that lists the driver's libraries, below `root`.",
	},
	{
		Name: "nvidia-container-cli.load-kmods", Default: "true", field: func(c *Config) any { return &c.LoadKmods },
		Doc: "Create missing device nodes on the host. No kernel module is ever loaded.",
	},
	{
		Name: "nvidia-container-cli.no-cgroups", Default: "false", field: func(c *Config) any { return &c.NoCgroups },
		Doc: "Do not change the container's device cgroup rules.",
	},
	{
		Name: "nvidia-container-runtime.debug", Default: `""`, field: func(c *Config) any { return &c.Debug },
		Doc: "Log file: errors, and what a start ignored or left out. Empty or `/dev/null` for none.",
	},
	{
		Name: "nvidia-container-runtime.log-level", Default: `"info"`,
		field:  func(c *Config) any { return &c.LogLevel },
		Values: []string{"trace", "debug", "info", "warning", "warn", "error", "fatal", "panic"},
		Doc:    "The lowest level that is logged: `trace`, `debug`, `info`, `warning` or `error`.",
	},
	{
		Name: "nvidia-container-runtime.runtimes", Default: `["docker-runc", "runc", "crun"]`,
		field: func(c *Config) any { return &c.Runtimes },
		Doc:   "Low-level runtimes; the first one found in `PATH` or the usual directories is used.",
	},
	{
		Name: "nvidia-container-runtime.modes.legacy.cuda-compat-mode", Default: `""`,
		Values: []string{"", "ldconfig", "mount", "hook", "disabled"},
		field:  func(c *Config) any { return word{&c.CUDACompat, "disabled", "enabled"} },
		Doc:    "If `disabled`, an image's forward-compatibility libcuda is never preferred over the host's.",
	},
	{
		Name: ours + "debug", Over: "nvidia-container-runtime.debug", Default: `""`,
		Variable: "NVIDIA_CONTAINER_RUNTIME_DEBUG", field: func(c *Config) any { return &c.Debug },
		Doc: "As `nvidia-container-runtime.debug`.",
	},
	{
		Name: ours + "log-level", Over: "nvidia-container-runtime.log-level", Default: `""`,
		Values:   []string{"", "trace", "debug", "info", "warning", "warn", "error", "fatal", "panic"},
		Variable: "NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL", field: func(c *Config) any { return &c.LogLevel },
		Doc: "As `nvidia-container-runtime.log-level`.",
	},
	{
		Name: ours + "runtime-path", Default: `""`,
		Variable: "NVIDIA_CONTAINER_RUNTIME_PATH", field: func(c *Config) any { return &c.RuntimePath },
		Doc: "The low-level runtime: a path, or a name in `PATH`. Empty for the first of `runtimes`.",
	},
	{
		Name: ours + "root", Over: "nvidia-container-cli.root", Default: `""`,
		Variable: "NVIDIA_CONTAINER_RUNTIME_ROOT", field: func(c *Config) any { return &c.DriverRoot },
		Doc: "As `nvidia-container-cli.root`.",
	},
	{
		Name: ours + "sysroot", Default: `"/"`,
		Variable: "NVIDIA_CONTAINER_RUNTIME_SYSROOT", field: func(c *Config) any { return &c.Sysroot },
		Doc: "The root directory of the machine to read, such as an unpacked fixture.",
	},
	{
		Name: ours + "sysroot-nodes", Default: `"closed"`, Values: []string{NodesClosed, NodesOpen},
		Variable: "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES", field: func(c *Config) any { return &c.SysrootNodes },
		Doc: "Device nodes if `sysroot` is not `/`: `closed`, which cannot be opened, or `open`, " +
			"which open whatever has their numbers on this machine.",
	},
	{
		Name: ours + "library-search-path", Default: "[]", field: func(c *Config) any { return &c.LibrarySearchPath },
		Doc: "Directories below `root` to search first for the driver's libraries.",
	},
	{
		Name: ours + "seccomp-fence", Default: `"profile"`, Values: []string{FenceProfile, FenceAlways, FenceOff},
		field: func(c *Config) any { return &c.Fence },
		Doc: "Keep containers from creating device nodes of other GPUs: `profile` if they have a seccomp profile, " +
			"`always`, or `off`.",
	},
	{
		Name: ours + "refused-request", Default: `"ignore"`, Values: []string{"ignore", "error"},
		field: func(c *Config) any { return word{&c.RefuseUnprivileged, "ignore", "error"} },
		Doc:   "What to do with a refused request: `ignore` it and start without a GPU, or fail with an `error`.",
	},
	{
		Name: ours + "dev-char-links", Default: `"auto"`,
		Values: []string{CharLinksAuto, CharLinksAlways, CharLinksNever},
		field:  func(c *Config) any { return &c.DevCharLinks },
		Doc: "Create the `/dev/char` links that systemd's device policy needs: `auto` (with the systemd cgroup " +
			"driver), `always`, or `never`.",
	},
	{
		Name: ours + "driver-directory", Default: `"auto"`, field: func(c *Config) any { return &c.DriverDirectory },
		Doc: "Mount the driver as one directory of hard links, kept in `/usr/lib/nvidia-container-runtime` " +
			"or in `/var/lib` (`auto` and `always`), or at this path; `off` mounts each file. " +
			"Containers see the same files either way.",
	},
	{
		Name: "features.ignore-imex-channel-requests", Default: "false",
		field: func(c *Config) any { return &c.IgnoreIMEX },
		Doc:   "Ignore `NVIDIA_IMEX_CHANNELS`.",
	},
	{
		Name: "features.no-additional-gids-for-device-nodes", Default: "false",
		field: func(c *Config) any { return &c.NoAdditionalGIDs },
		Doc:   "Do not give the container's user the groups that own the device nodes.",
	},
}

// words is a list that the file writes as one comma-separated string.
type words []string

// word is a choice of two: false for the first word, true for any other.
type word struct {
	is     *bool
	no     string
	others string
}

// set stores a file's value of the key in c. A blank string counts as absent, so that templates may
// fill in nothing.
func (k Key) set(c *Config, v any) error {
	text, isText := v.(string)
	items, isList := v.([]any)
	want := ""
	switch field := k.field(c).(type) {
	case *bool:
		is, ok := v.(bool)
		if ok {
			*field = is
			return nil
		}
		want = "true or false"
	case *[]string:
		list := make([]string, len(items))
		for i, item := range items {
			s, ok := item.(string)
			if !ok {
				return fmt.Errorf("%s holds %s where a string is expected", k.Name, describeTOML(item))
			}
			list[i] = s
		}
		if isList {
			*field = list
			return nil
		}
		want = "a list of strings"
		if isText {
			want += fmt.Sprintf(" ([%q])", text)
		}
	case *words:
		if isText {
			*field = split(text)
			return nil
		}
		want = "a comma-separated string"
	case word:
		if isText {
			if text = strings.TrimSpace(text); text != "" {
				*field.is = text != field.no
			}
			return k.checkWord(text)
		}
		want = "a string"
	case *string:
		if isText {
			if strings.TrimSpace(text) == "" {
				return nil
			}
			*field = text
			return k.checkWord(text)
		}
		want = "a string"
	}
	return fmt.Errorf("%s is %s where %s is expected", k.Name, describeTOML(v), want)
}

// checkWord rejects unknown values, but only in our own table: NVIDIA's programs may know more
// values of their keys, see [Config.Check].
func (k Key) checkWord(text string) error {
	if text != "" && strings.HasPrefix(k.Name, ours) && !strings.HasSuffix(k.Name, "log-level") {
		return k.unknownWord(text)
	}
	return nil
}

// unknownWord returns an error for a value that the key cannot have.
func (k Key) unknownWord(text string) error {
	if k.Values == nil || slices.Contains(k.Values, text) {
		return nil
	}
	var list []string
	for _, v := range k.Values {
		if v != "" && v != "warn" && v != "fatal" && v != "panic" {
			list = append(list, strconv.Quote(v))
		}
	}
	name := k.Name[strings.LastIndex(k.Name, ".")+1:]
	return fmt.Errorf("%s %q is none of %s", name, text, strings.Join(list, ", "))
}

// get returns the key's value in a configuration: a string, a bool or a list of strings.
func (k Key) get(c Config) any {
	switch field := k.field(&c).(type) {
	case *bool:
		return *field
	case *[]string:
		return *field
	case *words:
		return []string(*field)
	case word:
		if *field.is {
			return field.others
		}
		return field.no
	case *string:
		return *field
	}
	return nil
}

// describeTOML describes the type of a value, and the value if it is short.
func describeTOML(v any) string {
	switch v := v.(type) {
	case string:
		return fmt.Sprintf("the string %.40q", v)
	case bool:
		return fmt.Sprintf("%t", v)
	case int64, float64:
		return fmt.Sprintf("the number %v", v)
	case []any:
		return "a list"
	case map[string]any:
		return "a table"
	}
	return "a date or time"
}

// find returns the value of a key in a decoded file. It fails if the key's table is not a table.
func (k Key) find(tree map[string]any) (any, bool, error) {
	path := strings.Split(k.Name, ".")
	for i, name := range path {
		v, ok := tree[name]
		if !ok || i == len(path)-1 {
			return v, ok, nil
		}
		if tree, ok = v.(map[string]any); !ok {
			table := strings.Join(path[:i+1], ".")
			return nil, false, &tableError{table, describeTOML(v)}
		}
	}
	return nil, false, nil
}

// tableError reports a value where a table belongs.
type tableError struct{ table, found string }

func (e *tableError) Error() string {
	return fmt.Sprintf("%s is %s where a table is expected ([%[1]s])", e.table, e.found)
}

// configFile is one configuration file, decoded.
type configFile struct {
	name string
	data []byte
	tree map[string]any
}

// apply stores the file's values in c, in the order of [Keys].
func (f configFile) apply(c *Config) error {
	for _, k := range Keys {
		name := k.Name
		v, ok, err := k.find(f.tree)
		var noTable *tableError
		if errors.As(err, &noTable) {
			name = noTable.table
		}
		if err == nil && ok {
			err = k.set(c, v)
		}
		if err != nil {
			return f.at(name, err)
		}
	}
	for name := range f.unknown() {
		if near, ok := nearest(name, ours); ok {
			return f.at(name, fmt.Errorf("%s is not a key; did you mean %s?", name, near))
		}
	}
	return nil
}

// unknown yields the keys of our own table that are not in [Keys], sorted.
func (f configFile) unknown() func(yield func(string) bool) {
	return func(yield func(string) bool) {
		runtime, _ := f.tree["nvidia-container-runtime"].(map[string]any)
		table, _ := runtime["experimental"].(map[string]any)
		var names []string
		for name := range table {
			if !isKey(ours + name) {
				names = append(names, ours+name)
			}
		}
		slices.Sort(names)
		for _, name := range names {
			if !yield(name) {
				return
			}
		}
	}
}

func isKey(name string) bool {
	return slices.ContainsFunc(Keys, func(k Key) bool { return k.Name == name })
}

// at prefixes an error with the file's name and the key's line.
func (f configFile) at(name string, err error) error {
	if line, column := f.position(name); line > 0 {
		return fmt.Errorf("configuration %s: line %d, column %d: %w", f.name, line, column, err)
	}
	return fmt.Errorf("configuration %s: %w", f.name, err)
}

// position finds a key, or the first key of a table, in the file; 0 if there is none.
func (f configFile) position(name string) (line, column int) {
	for key, at := range f.positions() {
		if key == name || strings.HasPrefix(key, name+".") {
			return at.Line, at.Column
		}
	}
	return 0, 0
}

// positions yields the keys and tables of the file in order.
func (f configFile) positions() func(yield func(string, unstable.Position) bool) {
	return func(yield func(string, unstable.Position) bool) {
		var p unstable.Parser
		p.Reset(f.data)
		table := ""
		for p.NextExpression() {
			n := p.Expression()
			if n.Kind == unstable.Comment {
				continue
			}
			var path []string
			var first unstable.Range
			for it := n.Key(); it.Next(); {
				if path == nil {
					first = it.Node().Raw
				}
				path = append(path, string(it.Node().Data))
			}
			name := strings.Join(path, ".")
			if n.Kind == unstable.Table || n.Kind == unstable.ArrayTable {
				table = name + "."
			} else {
				name = table + name
			}
			if !yield(name, p.Shape(first).Start) {
				return
			}
		}
	}
}

// nearest finds the key that a name was probably meant to be: one that begins with prefix and whose
// last word differs by at most two letters, one in a short word. Case, - and _ do not count.
func nearest(name, prefix string) (string, bool) {
	fold := func(s string) string {
		s = s[strings.LastIndex(s, ".")+1:]
		return strings.ReplaceAll(strings.ToLower(s), "_", "-")
	}
	last := fold(name)
	best, distance := "", 3
	for _, k := range Keys {
		word := fold(k.Name)
		if !strings.HasPrefix(k.Name, prefix) || abs(len(word)-len(last)) >= distance {
			continue
		}
		if d := editDistance(last, word); d < distance && (d < 2 || len(word) > 6) {
			best, distance = k.Name, d
		}
	}
	return best, best != ""
}

func abs(n int) int { return max(n, -n) }

// editDistance is the Levenshtein distance of a and b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			cost := diagonal
			if a[i] != b[j] {
				cost++
			}
			diagonal = row[j+1]
			row[j+1] = min(cost, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// Setting is the value of a key and where it comes from.
type Setting struct {
	Key    string `json:"key"`            // dotted
	Value  any    `json:"value"`          // string, bool or []string
	Origin string `json:"origin"`         // "default", a key of config.toml or a variable
	File   string `json:"file,omitempty"` // the file with the key; "" for other origins
}

// Settings lists each value of c and its origin. environ is what LoadConfig was given. It returns
// false if there is no configuration file.
func (c Config) Settings(environ []string) ([]Setting, bool, error) {
	files, err := c.files()
	if err != nil {
		return nil, false, err
	}
	var list []Setting
	for _, k := range Keys {
		if slices.ContainsFunc(Keys, func(other Key) bool { return other.Over == k.Name }) {
			continue // shown as the more specific key
		}
		s := Setting{Key: k.Name, Value: k.get(c), Origin: "default"}
		for _, f := range files {
			if f.name == c.Registration && c.Registration != "" && k.Variable != "" {
				// The registration's file overrides the environment.
				k.fromEnviron(environ, &s)
			}
			for _, name := range []string{k.Over, k.Name} {
				v, ok, _ := Key{Name: name}.find(f.tree)
				text, isText := v.(string)
				if ok && (!isText || strings.TrimSpace(text) != "") {
					s.Origin, s.File = name, f.name
				}
			}
		}
		if c.Registration == "" {
			k.fromEnviron(environ, &s)
		}
		list = append(list, s)
	}
	return list, len(files) > 0, nil
}

func (k Key) fromEnviron(environ []string, s *Setting) {
	if k.Variable != "" && Getenv(environ, k.Variable) != "" {
		s.Origin, s.File = k.Variable, ""
	}
}

// files reads those of c's files that exist.
func (c Config) files() ([]configFile, error) {
	var files []configFile
	for _, name := range []string{c.File, c.Registration} {
		if name == "" {
			continue
		}
		f, there, err := readConfig(name)
		if err != nil {
			return nil, err
		}
		if there {
			files = append(files, f)
		}
	}
	return files, nil
}

// split splits a comma-separated list, dropping blanks and empty items.
func split(list string) []string {
	var out []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// check checks values that set cannot.
func (c *Config) check() error {
	for _, d := range []struct{ key, value string }{{"sysroot", c.Sysroot}, {"root", c.DriverRoot}} {
		if !filepath.IsAbs(d.value) {
			return fmt.Errorf("%s %q is not an absolute path", d.key, d.value)
		}
	}
	switch d := c.DriverDirectory; {
	case d == DirectoryAlways, d == DirectoryAuto, d == DirectoryOff, filepath.IsAbs(d):
	default:
		return fmt.Errorf("driver-directory %q is none of \"auto\", \"always\", \"off\", and no absolute path", d)
	}
	if slices.Contains(c.SupportedCapabilities, "all") {
		c.SupportedCapabilities = DriverCapabilities
	}
	for _, name := range c.SupportedCapabilities {
		if !slices.Contains(DriverCapabilities, name) {
			return fmt.Errorf("supported-driver-capabilities: %q is none of %s",
				name, strings.Join(DriverCapabilities, ", "))
		}
	}
	if len(c.Runtimes) == 0 {
		c.Runtimes = DefaultConfig().Runtimes
	}
	return nil
}
