// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// maxConfigSize bounds config.toml; NVIDIA's own is about 2 KiB.
const maxConfigSize = 1 << 20

// Seccomp fence modes: what is done about device nodes that a container
// might make for GPUs it was not given.
const (
	FenceProfile = "profile" // extend the container's seccomp profile, if it has one
	FenceAlways  = "always"  // make a minimal profile where there is none
	FenceOff     = "off"
)

// Config is what config.toml and the host's environment say, defaults filled
// in. The file is shared with NVIDIA's own programs: keys that are not
// listed here are theirs and are ignored.
type Config struct {
	// File is the path the configuration was looked for at.
	File string

	Debug       string   // nvidia-container-runtime.debug: our log file; "" or /dev/null = none
	LogLevel    string   // nvidia-container-runtime.log-level; "" = info
	RuntimePath string   // nvidia-container-runtime.experimental.runtime-path; "" = search Runtimes
	Runtimes    []string // nvidia-container-runtime.runtimes

	Sysroot           string   // nvidia-container-runtime.experimental.sysroot: stands for "/" when the machine is read
	SysrootNodes      string   // nvidia-container-runtime.experimental.sysroot-nodes: NodesClosed or NodesOpen
	DriverRoot        string   // nvidia-container-runtime.experimental.root, or nvidia-container-cli.root; below Sysroot
	LDCache           string   // nvidia-container-cli.ldcache: ld.so.cache below the driver root
	LibrarySearchPath []string // nvidia-container-runtime.experimental.library-search-path: below the driver root
	LoadKmods         bool     // nvidia-container-cli.load-kmods: make missing nodes on the host
	NoCgroups         bool     // nvidia-container-cli.no-cgroups

	DisableRequire        bool     // disable-require
	SwarmResources        []string // swarm-resource, split
	EnvWhenUnprivileged   bool     // accept-nvidia-visible-devices-envvar-when-unprivileged
	VolumeMounts          bool     // accept-nvidia-visible-devices-as-volume-mounts
	RefuseUnprivileged    bool     // nvidia-container-runtime.experimental.refused-request = "error"
	SupportedCapabilities []string // supported-driver-capabilities, split
	CUDACompat            bool     // nvidia-container-runtime.modes.legacy.cuda-compat-mode is not "disabled"
	Fence                 string   // nvidia-container-runtime.experimental.seccomp-fence
	DevCharLinks          string   // nvidia-container-runtime.experimental.dev-char-links
	DriverDirectory       string   // nvidia-container-runtime.experimental.driver-directory: one of Directory… or a path

	IgnoreIMEX       bool // features.ignore-imex-channel-requests
	NoAdditionalGIDs bool // features.no-additional-gids-for-device-nodes
}

// configFile is the part of config.toml that is ours to honour. Pointers
// tell a key that is absent from one that is false.
type configFile struct {
	DisableRequire bool    `toml:"disable-require"`
	SwarmResource  string  `toml:"swarm-resource"`
	Envvar         *bool   `toml:"accept-nvidia-visible-devices-envvar-when-unprivileged"`
	VolumeMounts   bool    `toml:"accept-nvidia-visible-devices-as-volume-mounts"`
	Supported      *string `toml:"supported-driver-capabilities"`

	CLI struct {
		Root      string `toml:"root"`
		LDCache   string `toml:"ldcache"`
		LoadKmods *bool  `toml:"load-kmods"`
		NoCgroups bool   `toml:"no-cgroups"`
	} `toml:"nvidia-container-cli"`

	Runtime struct {
		Debug    string   `toml:"debug"`
		LogLevel string   `toml:"log-level"`
		Runtimes []string `toml:"runtimes"`
		Modes    struct {
			Legacy struct {
				CUDACompatMode string `toml:"cuda-compat-mode"`
			} `toml:"legacy"`
		} `toml:"modes"`
		Experimental struct {
			Debug             string   `toml:"debug"`
			LogLevel          string   `toml:"log-level"`
			RuntimePath       string   `toml:"runtime-path"`
			Root              string   `toml:"root"`
			Sysroot           string   `toml:"sysroot"`
			SysrootNodes      string   `toml:"sysroot-nodes"`
			LibrarySearchPath []string `toml:"library-search-path"`
			SeccompFence      string   `toml:"seccomp-fence"`
			RefusedRequest    string   `toml:"refused-request"`
			DevCharLinks      string   `toml:"dev-char-links"`
			DriverDirectory   string   `toml:"driver-directory"`
		} `toml:"experimental"`
	} `toml:"nvidia-container-runtime"`

	Features struct {
		IgnoreIMEX       bool `toml:"ignore-imex-channel-requests"`
		NoAdditionalGIDs bool `toml:"no-additional-gids-for-device-nodes"`
	} `toml:"features"`
}

// DriverCapabilities are the seven driver capabilities there are.
var DriverCapabilities = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}

// LoadConfig reads $NVIDIA_CTK_CONFIG_FILE_PATH, else
// ${XDG_CONFIG_HOME:-/etc}/nvidia-container-runtime/config.toml, and lets
// NVIDIA_CONTAINER_RUNTIME_PATH, _DEBUG, _LOG_LEVEL, _ROOT, _SYSROOT and
// _SYSROOT_NODES of the host's environment override it. A missing file means defaults. A file
// that is no TOML, or whose value for one of our keys cannot be understood,
// is an error with path and line.
func LoadConfig(environ []string) (Config, error) {
	env := func(name string) string {
		for _, e := range slices.Backward(environ) {
			if v, ok := strings.CutPrefix(e, name+"="); ok {
				return strings.TrimSpace(v)
			}
		}
		return ""
	}
	path := env("NVIDIA_CTK_CONFIG_FILE_PATH")
	if path == "" {
		home := env("XDG_CONFIG_HOME")
		if home == "" {
			home = "/etc"
		}
		path = filepath.Join(home, "nvidia-container-runtime", "config.toml")
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %q: %w", path, err)
	}
	data, err := sysfs.Root("/").ReadFileMax(abs[1:], maxConfigSize)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return Config{}, fmt.Errorf("reading configuration: %w", err)
	}
	c, err := parseConfig(data)
	if err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", abs, err)
	}
	c.File = abs
	for name, field := range map[string]*string{
		"NVIDIA_CONTAINER_RUNTIME_PATH":          &c.RuntimePath,
		"NVIDIA_CONTAINER_RUNTIME_DEBUG":         &c.Debug,
		"NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL":     &c.LogLevel,
		"NVIDIA_CONTAINER_RUNTIME_ROOT":          &c.DriverRoot,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT":       &c.Sysroot,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES": &c.SysrootNodes,
	} {
		if v := env(name); v != "" {
			*field = v
		}
	}
	for _, d := range []struct{ key, value string }{{"sysroot", c.Sysroot}, {"root", c.DriverRoot}} {
		if !filepath.IsAbs(d.value) {
			return Config{}, fmt.Errorf("configuration %s: %s %q is not an absolute path", abs, d.key, d.value)
		}
	}
	if c.SysrootNodes != NodesClosed && c.SysrootNodes != NodesOpen {
		return Config{}, fmt.Errorf("configuration %s: sysroot-nodes %q is neither %q nor %q", abs, c.SysrootNodes, NodesClosed, NodesOpen)
	}
	return c, nil
}

// parseConfig decodes config.toml and fills in the defaults.
func parseConfig(data []byte) (Config, error) {
	var f configFile
	if len(data) > 0 {
		if err := toml.Unmarshal(data, &f); err != nil {
			var at *toml.DecodeError
			if errors.As(err, &at) {
				line, column := at.Position()
				what := strings.TrimPrefix(err.Error(), "toml: ")
				// The name of a struct field of ours tells the operator nothing; the key does.
				if kind, field, ok := strings.Cut(what, " into struct field "); ok {
					if _, wanted, ok := strings.Cut(field, " of type "); ok {
						what = kind + " as " + wanted
					}
				}
				return Config{}, fmt.Errorf("line %d, column %d: %s: %s", line, column, strings.Join(at.Key(), "."), what)
			}
			return Config{}, err
		}
	}
	x := f.Runtime.Experimental
	c := Config{
		Debug:             first(x.Debug, f.Runtime.Debug),
		LogLevel:          first(x.LogLevel, f.Runtime.LogLevel, "info"),
		RuntimePath:       x.RuntimePath,
		Runtimes:          f.Runtime.Runtimes,
		Sysroot:           first(x.Sysroot, "/"),
		SysrootNodes:      first(x.SysrootNodes, NodesClosed),
		DriverRoot:        first(x.Root, f.CLI.Root, "/"),
		LDCache:           first(f.CLI.LDCache, "/etc/ld.so.cache"),
		LibrarySearchPath: x.LibrarySearchPath,
		LoadKmods:         f.CLI.LoadKmods == nil || *f.CLI.LoadKmods,
		NoCgroups:         f.CLI.NoCgroups,

		DisableRequire:      f.DisableRequire,
		SwarmResources:      split(f.SwarmResource),
		EnvWhenUnprivileged: f.Envvar == nil || *f.Envvar,
		VolumeMounts:        f.VolumeMounts,
		CUDACompat:          f.Runtime.Modes.Legacy.CUDACompatMode != "disabled",
		Fence:               first(x.SeccompFence, FenceProfile),
		DevCharLinks:        first(x.DevCharLinks, CharLinksAuto),
		DriverDirectory:     first(x.DriverDirectory, DirectoryOff),

		IgnoreIMEX:       f.Features.IgnoreIMEX,
		NoAdditionalGIDs: f.Features.NoAdditionalGIDs,
	}
	if len(c.Runtimes) == 0 {
		c.Runtimes = []string{"docker-runc", "runc", "crun"}
	}
	switch x.RefusedRequest {
	case "", "ignore":
	case "error":
		c.RefuseUnprivileged = true
	default:
		return Config{}, fmt.Errorf("refused-request %q is neither \"ignore\" nor \"error\"", x.RefusedRequest)
	}
	switch c.Fence {
	case FenceProfile, FenceAlways, FenceOff:
	default:
		return Config{}, fmt.Errorf("seccomp-fence %q is none of \"profile\", \"always\", \"off\"", c.Fence)
	}
	switch c.DevCharLinks {
	case CharLinksAuto, CharLinksAlways, CharLinksNever:
	default:
		return Config{}, fmt.Errorf("dev-char-links %q is none of \"auto\", \"always\", \"never\"", c.DevCharLinks)
	}
	switch d := c.DriverDirectory; {
	case d == DirectoryAlways, d == DirectoryAuto, d == DirectoryOff, filepath.IsAbs(d):
	default:
		return Config{}, fmt.Errorf("driver-directory %q is none of \"auto\", \"always\", \"off\", and no absolute path", d)
	}
	c.SupportedCapabilities = DriverCapabilities
	if f.Supported != nil {
		c.SupportedCapabilities = split(*f.Supported)
		if slices.Contains(c.SupportedCapabilities, "all") {
			c.SupportedCapabilities = DriverCapabilities
		}
		for _, name := range c.SupportedCapabilities {
			if !slices.Contains(DriverCapabilities, name) {
				return Config{}, fmt.Errorf("supported-driver-capabilities: %q is none of %s", name, strings.Join(DriverCapabilities, ", "))
			}
		}
	}
	return c, nil
}

// first returns the first string that is not blank.
func first(values ...string) string {
	for _, v := range values {
		if strings.TrimSpace(v) != "" {
			return v
		}
	}
	return ""
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
