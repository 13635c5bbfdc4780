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

// maxConfigSize limits config.toml; NVIDIA's has about 2 KiB.
const maxConfigSize = 1 << 20

// Values of seccomp-fence: how containers are kept from creating device nodes of other GPUs.
const (
	FenceProfile = "profile" // extend the container's seccomp profile, if it has one
	FenceAlways  = "always"  // add a minimal profile if there is none
	FenceOff     = "off"
)

// Config is the configuration from config.toml and the environment, with defaults filled in; see
// [Keys].
type Config struct {
	// File is the path of config.toml, which need not exist.
	File string
	// Registration is the file of the registration that the runtime was started as, "" if none: see
	// [LoadConfig].
	Registration string

	Debug       string   // log file; "" or /dev/null = none
	LogLevel    string   // logrus's name
	RuntimePath string   // the low-level runtime; "" = search Runtimes
	Runtimes    []string // names or paths of low-level runtimes

	Sysroot           string   // root directory of the machine to read
	SysrootNodes      string   // NodesClosed or NodesOpen: the nodes of a Sysroot other than "/"
	DriverRoot        string   // root directory of the driver, below Sysroot
	LDCache           string   // ld.so.cache below the driver root
	LibrarySearchPath []string // below the driver root
	DataDirs          []string // below the driver root: XDG_DATA_DIRS of the host
	MPSDirectory      string   // of the multi-process service: CUDA_MPS_PIPE_DIRECTORY of the host
	LoadKmods         bool     // create missing nodes on the host
	NoCgroups         bool     // add no device cgroup rules

	DisableRequire        bool     // ignore NVIDIA_REQUIRE_*
	SwarmResources        []string // variables that replace NVIDIA_VISIBLE_DEVICES
	EnvWhenUnprivileged   bool     // accept requests in the environment without CAP_SYS_ADMIN
	VolumeMounts          bool     // accept requests as mounts
	RefuseUnprivileged    bool     // refused requests are errors
	SupportedCapabilities []string // of DriverCapabilities
	CUDACompat            bool     // prefer an image's forward-compatibility libcuda if it is newer
	Fence                 string   // one of Fence…
	DevCharLinks          string   // one of CharLinks…
	DriverDirectory       string   // one of Directory… or a path

	IgnoreIMEX       bool // ignore NVIDIA_IMEX_CHANNELS
	NoAdditionalGIDs bool // no groups for device nodes
}

// DriverCapabilities are the values of NVIDIA_DRIVER_CAPABILITIES.
var DriverCapabilities = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}

// RegistrationMark is followed by the registration's name in the program's name: see [LoadConfig].
const RegistrationMark = "nvidia-container-runtime.experimental@"

// LoadConfig reads the configuration of a runtime that was started as argv0 with the environment
// environ:
//
//   - $NVIDIA_CTK_CONFIG_FILE_PATH, else ${XDG_CONFIG_HOME:-/etc}/nvidia-container-runtime/config.toml, else the one in
//     /etc. None need exist.
//   - The variables of [Keys] in environ override the keys of that file.
//   - An engine may have the runtime several times with different settings: as links to the program, in any directory,
//     named nvidia-container-runtime.experimental@NAME. The file of that name plus .toml, next to the link, overrides
//     everything else, and must exist. Unlike the environment, the path by which the engine starts the runtime is the
//     same for every command of a container.
//
// Invalid TOML, and invalid values of our keys, are errors with path and line.
func LoadConfig(argv0 string, environ []string) (Config, error) {
	c := DefaultConfig()
	base, err := c.loadBase(environ)
	if err != nil {
		return Config{}, err
	}
	if err := base.apply(&c); err != nil {
		return Config{}, err
	}
	for _, k := range Keys {
		if k.Variable == "" {
			continue
		}
		if v := Getenv(environ, k.Variable); v != "" {
			if err := k.set(&c, v); err != nil {
				return Config{}, fmt.Errorf("%s in the environment: %w", k.Variable, err)
			}
		}
	}
	if dirs := Getenv(environ, "XDG_DATA_DIRS"); dirs != "" {
		c.DataDirs = filepath.SplitList(dirs)
	}
	c.MPSDirectory = Getenv(environ, "CUDA_MPS_PIPE_DIRECTORY")
	named := c.File
	if strings.HasPrefix(filepath.Base(argv0), RegistrationMark) {
		if !filepath.IsAbs(argv0) {
			return Config{}, fmt.Errorf("started as %q, without the directory that has its configuration: "+
				"register the runtime by its absolute path", argv0)
		}
		c.Registration = argv0 + ".toml"
		named = c.Registration
		f, there, err := readConfig(c.Registration)
		if err == nil && !there {
			err = fmt.Errorf("started as %q, but its configuration %s is missing: write it, or unregister the runtime",
				argv0, c.Registration)
		}
		if err != nil {
			return Config{}, err
		}
		if err := f.apply(&c); err != nil {
			return Config{}, err
		}
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("configuration %s: %w", named, err)
	}
	return c, nil
}

// loadBase reads the file that all registrations share and sets c.File.
func (c *Config) loadBase(environ []string) (configFile, error) {
	const below = "nvidia-container-runtime/config.toml"
	names := []string{Getenv(environ, "NVIDIA_CTK_CONFIG_FILE_PATH")}
	if names[0] == "" {
		names[0] = filepath.Join("/etc", below)
		if home := Getenv(environ, "XDG_CONFIG_HOME"); home != "" {
			names = []string{filepath.Join(home, below), names[0]}
		}
	}
	for _, name := range names {
		abs, err := filepath.Abs(name)
		if err != nil {
			return configFile{}, fmt.Errorf("configuration %q: %w", name, err)
		}
		c.File = abs
		f, there, err := readConfig(abs)
		if err != nil || there {
			return f, err
		}
	}
	return configFile{}, nil
}

// readConfig reads and decodes a file; it returns false if there is none.
func readConfig(name string) (configFile, bool, error) {
	f := configFile{name: name}
	var err error
	f.data, err = sysfs.Root("/").ReadFileMax(name[1:], maxConfigSize)
	if errors.Is(err, fs.ErrNotExist) {
		return configFile{}, false, nil
	}
	if err != nil {
		return configFile{}, false, fmt.Errorf("reading configuration: %w", err)
	}
	if err := f.decode(); err != nil {
		return configFile{}, false, err
	}
	return f, true, nil
}

func (f *configFile) decode() error {
	err := toml.Unmarshal(f.data, &f.tree)
	if err == nil {
		return nil
	}
	what := strings.TrimPrefix(err.Error(), "toml: ")
	var at *toml.DecodeError
	if errors.As(err, &at) {
		line, column := at.Position()
		return fmt.Errorf("configuration %s: line %d, column %d: %s", f.name, line, column, what)
	}
	return fmt.Errorf("configuration %s: %s", f.name, what)
}

// DefaultConfig returns the configuration without a file.
func DefaultConfig() Config {
	return Config{
		LogLevel:              "info",
		Runtimes:              []string{"docker-runc", "runc", "crun"},
		Sysroot:               "/",
		SysrootNodes:          NodesClosed,
		DriverRoot:            "/",
		LDCache:               "/etc/ld.so.cache",
		LoadKmods:             true,
		EnvWhenUnprivileged:   true,
		SupportedCapabilities: DriverCapabilities,
		CUDACompat:            true,
		Fence:                 FenceProfile,
		DevCharLinks:          CharLinksAuto,
		DriverDirectory:       DirectoryAuto,
	}
}

// Getenv returns the last value of a variable in environ, trimmed.
func Getenv(environ []string, name string) string {
	for _, e := range slices.Backward(environ) {
		if v, ok := strings.CutPrefix(e, name+"="); ok {
			return strings.TrimSpace(v)
		}
	}
	return ""
}
