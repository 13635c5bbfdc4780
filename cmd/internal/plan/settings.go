// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/pelletier/go-toml/v2"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Setting is one thing that can be configured.
type Setting struct {
	Key    string // in config.toml, with dots
	Value  any    // string, bool or []string, as it counts
	Origin string // "default", the key of config.toml or the variable that it comes from
}

// settings are all there are: their keys, the one that counts first, the
// variable that overrides them, and the value in a Config.
var settings = []struct {
	keys     []string
	variable string
	value    func(Config) any
}{
	{[]string{"disable-require"}, "", func(c Config) any { return c.DisableRequire }},
	{[]string{"swarm-resource"}, "", func(c Config) any { return c.SwarmResources }},
	{[]string{"accept-nvidia-visible-devices-envvar-when-unprivileged"}, "", func(c Config) any { return c.EnvWhenUnprivileged }},
	{[]string{"accept-nvidia-visible-devices-as-volume-mounts"}, "", func(c Config) any { return c.VolumeMounts }},
	{[]string{"supported-driver-capabilities"}, "", func(c Config) any { return c.SupportedCapabilities }},
	{[]string{"nvidia-container-cli.ldcache"}, "", func(c Config) any { return c.LDCache }},
	{[]string{"nvidia-container-cli.load-kmods"}, "", func(c Config) any { return c.LoadKmods }},
	{[]string{"nvidia-container-cli.no-cgroups"}, "", func(c Config) any { return c.NoCgroups }},
	{[]string{"nvidia-container-runtime.experimental.debug", "nvidia-container-runtime.debug"}, "NVIDIA_CONTAINER_RUNTIME_DEBUG", func(c Config) any { return c.Debug }},
	{[]string{"nvidia-container-runtime.experimental.log-level", "nvidia-container-runtime.log-level"}, "NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL", func(c Config) any { return c.LogLevel }},
	{[]string{"nvidia-container-runtime.runtimes"}, "", func(c Config) any { return c.Runtimes }},
	{[]string{"nvidia-container-runtime.modes.legacy.cuda-compat-mode"}, "", func(c Config) any {
		if c.CUDACompat {
			return "enabled"
		}
		return "disabled"
	}},
	{[]string{"nvidia-container-runtime.experimental.runtime-path"}, "NVIDIA_CONTAINER_RUNTIME_PATH", func(c Config) any { return c.RuntimePath }},
	{[]string{"nvidia-container-runtime.experimental.root", "nvidia-container-cli.root"}, "NVIDIA_CONTAINER_RUNTIME_ROOT", func(c Config) any { return c.DriverRoot }},
	{[]string{"nvidia-container-runtime.experimental.sysroot"}, "NVIDIA_CONTAINER_RUNTIME_SYSROOT", func(c Config) any { return c.Sysroot }},
	{[]string{"nvidia-container-runtime.experimental.sysroot-nodes"}, "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES", func(c Config) any { return c.SysrootNodes }},
	{[]string{"nvidia-container-runtime.experimental.library-search-path"}, "", func(c Config) any { return c.LibrarySearchPath }},
	{[]string{"nvidia-container-runtime.experimental.seccomp-fence"}, "", func(c Config) any { return c.Fence }},
	{[]string{"nvidia-container-runtime.experimental.dev-char-links"}, "", func(c Config) any { return c.DevCharLinks }},
	{[]string{"nvidia-container-runtime.experimental.driver-directory"}, "", func(c Config) any { return c.DriverDirectory }},
	{[]string{"nvidia-container-runtime.experimental.refused-request"}, "", func(c Config) any {
		if c.RefuseUnprivileged {
			return "error"
		}
		return "ignore"
	}},
	{[]string{"features.ignore-imex-channel-requests"}, "", func(c Config) any { return c.IgnoreIMEX }},
	{[]string{"features.no-additional-gids-for-device-nodes"}, "", func(c Config) any { return c.NoAdditionalGIDs }},
}

// Settings tells each value of c, which LoadConfig made with environ, and
// where it comes from. There is false if there is no configuration file.
func (c Config) Settings(environ []string) ([]Setting, bool, error) {
	data, err := sysfs.Root("/").ReadFileMax(c.File, maxConfigSize)
	there := !errors.Is(err, fs.ErrNotExist)
	if err != nil && there {
		return nil, false, fmt.Errorf("reading configuration: %w", err)
	}
	var tree map[string]any
	if err := toml.Unmarshal(data, &tree); err != nil {
		return nil, false, fmt.Errorf("configuration %s: %w", c.File, err)
	}
	var list []Setting
	for _, s := range settings {
		origin := "default"
		if i := slices.IndexFunc(s.keys, func(key string) bool { return given(tree, key) }); i >= 0 {
			origin = s.keys[i]
		}
		if s.variable != "" && slices.ContainsFunc(environ, func(e string) bool {
			name, value, _ := strings.Cut(e, "=")
			return name == s.variable && strings.TrimSpace(value) != ""
		}) {
			origin = s.variable
		}
		list = append(list, Setting{Key: s.keys[0], Value: s.value(c), Origin: origin})
	}
	return list, there, nil
}

// given tells whether a key is in the file, and not blank.
func given(tree map[string]any, key string) bool {
	words := strings.Split(key, ".")
	for _, word := range words[:len(words)-1] {
		tree, _ = tree[word].(map[string]any)
	}
	value, ok := tree[words[len(words)-1]]
	text, isText := value.(string)
	return ok && (!isText || strings.TrimSpace(text) != "")
}

// DefaultConfig is the configuration where there is no file.
func DefaultConfig() Config {
	c, _ := parseConfig(nil) // has no text that could be wrong
	return c
}
