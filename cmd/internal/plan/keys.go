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

// Key is one key of config.toml. The table of them, [Keys], is all there is to a key: reading the file,
// "nvsysfs info", "nvsysfs config check", the example file and the manual are made from it.
type Key struct {
	Name     string   // with the names of its tables in front: "nvidia-container-cli.root"
	Over     string   // the key whose value it replaces, as more specific; "" if none
	Variable string   // of the runtime's environment, that replaces its value; "" if none
	Default  string   // as in the file, a TOML value
	Values   []string // the words it can be; nil if anything
	Doc      string   // what it does, in sentences; code in backquotes

	field func(*Config) any // where the value goes: see set
}

// ours is the table that no other program reads.
const ours = "nvidia-container-runtime.experimental."

// Keys are the keys that the runtime reads, in the order of the file.
var Keys = []Key{
	{
		Name: "disable-require", Default: "false", field: func(c *Config) any { return &c.DisableRequire },
		Doc: "Do not check `NVIDIA_REQUIRE_*`, which says what the image needs of the driver and the GPU.",
	},
	{
		Name: "swarm-resource", Default: `""`, field: func(c *Config) any { return (*words)(&c.SwarmResources) },
		Doc: "Variables of the container, separated by commas, that replace `NVIDIA_VISIBLE_DEVICES`, as Docker Swarm sets them.",
	},
	{
		Name: "accept-nvidia-visible-devices-envvar-when-unprivileged", Default: "true",
		field: func(c *Config) any { return &c.EnvWhenUnprivileged },
		Doc:   "If false, the container's environment counts only for containers with CAP_SYS_ADMIN.",
	},
	{
		Name: "accept-nvidia-visible-devices-as-volume-mounts", Default: "false",
		field: func(c *Config) any { return &c.VolumeMounts },
		Doc:   "If true, mounts of `/dev/null` below `/var/run/nvidia-container-devices` name devices.",
	},
	{
		Name: "supported-driver-capabilities", Default: `"compat32,compute,display,graphics,ngx,utility,video"`,
		field: func(c *Config) any { return (*words)(&c.SupportedCapabilities) },
		Doc:   "The driver capabilities that a container may get, separated by commas, whatever `NVIDIA_DRIVER_CAPABILITIES` says.",
	},
	{
		Name: "nvidia-container-cli.root", Default: `"/"`, field: func(c *Config) any { return &c.DriverRoot },
		Doc: "The root directory of the driver's files: `/run/nvidia/driver` with a driver container.",
	},
	{
		Name: "nvidia-container-cli.ldcache", Default: `"/etc/ld.so.cache"`, field: func(c *Config) any { return &c.LDCache },
		Doc: "The loader cache that lists the driver's libraries, below `root`.",
	},
	{
		Name: "nvidia-container-cli.load-kmods", Default: "true", field: func(c *Config) any { return &c.LoadKmods },
		Doc: "Make device nodes that the host lacks. No kernel module is ever loaded.",
	},
	{
		Name: "nvidia-container-cli.no-cgroups", Default: "false", field: func(c *Config) any { return &c.NoCgroups },
		Doc: "Leave the container's device rules alone.",
	},
	{
		Name: "nvidia-container-runtime.debug", Default: `""`, field: func(c *Config) any { return &c.Debug },
		Doc: "A log file: what was done for each container, and what was left out. Empty or `/dev/null` for none.",
	},
	{
		Name: "nvidia-container-runtime.log-level", Default: `"info"`, field: func(c *Config) any { return &c.LogLevel },
		Values: []string{"trace", "debug", "info", "warning", "warn", "error", "fatal", "panic"},
		Doc:    "The least severe messages that are logged: `trace`, `debug`, `info`, `warning` or `error`.",
	},
	{
		Name: "nvidia-container-runtime.runtimes", Default: `["docker-runc", "runc", "crun"]`,
		field: func(c *Config) any { return &c.Runtimes },
		Doc:   "Low-level runtimes: the first one found is used. `PATH` is searched, then the usual directories.",
	},
	{
		Name: "nvidia-container-runtime.modes.legacy.cuda-compat-mode", Default: `""`,
		Values: []string{"", "ldconfig", "mount", "hook", "disabled"},
		field:  func(c *Config) any { return word{&c.CUDACompat, "disabled", "enabled"} },
		Doc:    "If `disabled`, the forward-compatibility libcuda of an image is never preferred to the host's.",
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
		Doc: "The low-level runtime: a path, or a name to look up in `PATH`. Empty for the first of `runtimes`.",
	},
	{
		Name: ours + "root", Over: "nvidia-container-cli.root", Default: `""`,
		Variable: "NVIDIA_CONTAINER_RUNTIME_ROOT", field: func(c *Config) any { return &c.DriverRoot },
		Doc: "As `nvidia-container-cli.root`.",
	},
	{
		Name: ours + "sysroot", Default: `"/"`,
		Variable: "NVIDIA_CONTAINER_RUNTIME_SYSROOT", field: func(c *Config) any { return &c.Sysroot },
		Doc: "The root directory of the machine that is read.",
	},
	{
		Name: ours + "sysroot-nodes", Default: `"closed"`, Values: []string{NodesClosed, NodesOpen},
		Variable: "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES", field: func(c *Config) any { return &c.SysrootNodes },
		Doc: "The device nodes of a container if `sysroot` is not `/`: `closed`, so that nobody can open them, " +
			"whatever has their numbers here, or `open`, as on this machine.",
	},
	{
		Name: ours + "library-search-path", Default: "[]", field: func(c *Config) any { return &c.LibrarySearchPath },
		Doc: "Directories below `root` to search first for the driver's libraries.",
	},
	{
		Name: ours + "seccomp-fence", Default: `"profile"`, Values: []string{FenceProfile, FenceAlways, FenceOff},
		field: func(c *Config) any { return &c.Fence },
		Doc: "Keep containers from making device nodes of other GPUs: `profile` if they have a seccomp profile, " +
			"`always`, or `off`.",
	},
	{
		Name: ours + "refused-request", Default: `"ignore"`, Values: []string{"ignore", "error"},
		field: func(c *Config) any { return word{&c.RefuseUnprivileged, "ignore", "error"} },
		Doc: "What to do with a request that is not granted: `ignore` it and start without a GPU, or fail the " +
			"container with an `error`.",
	},
	{
		Name: ours + "dev-char-links", Default: `"auto"`, Values: []string{CharLinksAuto, CharLinksAlways, CharLinksNever},
		field: func(c *Config) any { return &c.DevCharLinks },
		Doc: "Make the `/dev/char` links that systemd's device policy needs: `auto`, with the systemd cgroup driver, " +
			"`always`, or `never`.",
	},
	{
		Name: ours + "driver-directory", Default: `"auto"`, field: func(c *Config) any { return &c.DriverDirectory },
		Doc: "Mount the driver as one directory of hard links, kept in `/usr/lib/nvidia-container-runtime` " +
			"or in `/var/lib` (`auto` and `always`), or in the directory with this path; `off` mounts each file. " +
			"A container sees the same either way.",
	},
	{
		Name: "features.ignore-imex-channel-requests", Default: "false", field: func(c *Config) any { return &c.IgnoreIMEX },
		Doc: "Ignore `NVIDIA_IMEX_CHANNELS`.",
	},
	{
		Name: "features.no-additional-gids-for-device-nodes", Default: "false",
		field: func(c *Config) any { return &c.NoAdditionalGIDs },
		Doc:   "Do not give the container's user the groups that own the device nodes.",
	},
}

// words is a list that the file has as one string with commas.
type words []string

// word is a choice between two: is false by the first word, true by any other.
type word struct {
	is     *bool
	no     string
	others string
}

// set gives c the value that a file has for the key. A blank string stands for the key's absence, so that
// a configuration management may fill in nothing.
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
		want = "a string with commas"
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

// checkWord checks a value against those that there are. Only a key of our own table is an error:
// what NVIDIA's programs make of theirs is not known here, see [Config.Check].
func (k Key) checkWord(text string) error {
	if text != "" && strings.HasPrefix(k.Name, ours) && !strings.HasSuffix(k.Name, "log-level") {
		return k.unknownWord(text)
	}
	return nil
}

// unknownWord is the error about a value that the key cannot have, nil for one that it can.
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

// get returns the value that counts in a configuration: a string, a bool or a list of strings.
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

// describeTOML tells the kind of a value in words, and shows it if it is short.
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

// find returns the value of a key in a decoded file. What stands in the place of its table is an error.
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

// tableError tells of a value where a table belongs.
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

// apply gives c the values that the file has, in the order of [Keys].
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

// unknown yields the names of keys of our own table that are not in [Keys], sorted.
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

// at puts the file's name and the line of a key in front of an error.
func (f configFile) at(name string, err error) error {
	if line, column := f.position(name); line > 0 {
		return fmt.Errorf("configuration %s: line %d, column %d: %w", f.name, line, column, err)
	}
	return fmt.Errorf("configuration %s: %w", f.name, err)
}

// position finds where a key, or the first key of a table, is in the file; 0 if nowhere.
func (f configFile) position(name string) (line, column int) {
	for key, at := range f.positions() {
		if key == name || strings.HasPrefix(key, name+".") {
			return at.Line, at.Column
		}
	}
	return 0, 0
}

// positions yields the keys and tables of the file, in its order.
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

// nearest finds the key that a name was probably meant to be: one of those whose names begin with prefix
// whose last word differs by two letters at most, one in a short word. Case and - or _ do not count.
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

// editDistance counts the letters to be put in, taken out or replaced to make b of a.
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

// Setting is one thing that can be configured.
type Setting struct {
	Key    string `json:"key"`            // in config.toml, with dots
	Value  any    `json:"value"`          // string, bool or []string, as it counts
	Origin string `json:"origin"`         // "default", the key of config.toml or the variable that it comes from
	File   string `json:"file,omitempty"` // the file that has the key; "" for the other origins
}

// Settings lists each value of c, and where it comes from. environ is what LoadConfig was given. It is
// false if there is no configuration file.
func (c Config) Settings(environ []string) ([]Setting, bool, error) {
	files, err := c.files()
	if err != nil {
		return nil, false, err
	}
	var list []Setting
	for _, k := range Keys {
		if slices.ContainsFunc(Keys, func(other Key) bool { return other.Over == k.Name }) {
			continue // the more specific key has the line
		}
		s := Setting{Key: k.Name, Value: k.get(c), Origin: "default"}
		for _, f := range files {
			if f.name == c.Registration && c.Registration != "" && k.Variable != "" {
				// The registration's file comes after the environment.
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

// files reads the files that c was made from, those that are there.
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

// split takes a comma-separated list apart, dropping blanks and empty items.
func split(list string) []string {
	var out []string
	for item := range strings.SplitSeq(list, ",") {
		if item = strings.TrimSpace(item); item != "" {
			out = append(out, item)
		}
	}
	return out
}

// check checks what a single value does not tell.
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
			return fmt.Errorf("supported-driver-capabilities: %q is none of %s", name, strings.Join(DriverCapabilities, ", "))
		}
	}
	if len(c.Runtimes) == 0 {
		c.Runtimes = DefaultConfig().Runtimes
	}
	return nil
}
