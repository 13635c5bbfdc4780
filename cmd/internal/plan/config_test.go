// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
)

// defaults returns the configuration that an empty config.toml stands for.
func defaults() Config {
	return Config{
		LogLevel:              "info",
		Runtimes:              []string{"docker-runc", "runc", "crun"},
		Sysroot:               "/",
		SysrootNodes:          NodesClosed,
		DriverRoot:            "/",
		LDCache:               "/etc/ld.so.cache",
		LoadKmods:             true,
		EnvWhenUnprivileged:   true,
		SupportedCapabilities: []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"},
		CUDACompat:            true,
		Fence:                 FenceProfile,
		DevCharLinks:          CharLinksAuto,
		DriverDirectory:       DirectoryAuto,
	}
}

// parse does what LoadConfig does with the text of one file.
func parse(data []byte) (Config, error) {
	f := configFile{name: "/config.toml", data: data}
	if err := f.decode(); err != nil {
		return Config{}, err
	}
	c := DefaultConfig()
	if err := f.apply(&c); err != nil {
		return Config{}, err
	}
	if err := c.check(); err != nil {
		return Config{}, err
	}
	return c, nil
}

func with(change func(c *Config)) Config {
	c := defaults()
	change(&c)
	return c
}

// shipped has all keys, including the commented ones, of the config.toml that NVIDIA's packages
// install and of the one that nvidia-ctk writes. Keys that are honored have non-default values.
const shipped = `
accept-nvidia-visible-devices-as-volume-mounts = true
accept-nvidia-visible-devices-envvar-when-unprivileged = false
disable-require = true
supported-driver-capabilities = "compute,utility"
swarm-resource = "DOCKER_RESOURCE_GPU,DOCKER_RESOURCE_NVIDIA"

[nvidia-container-cli]
debug = "/var/log/nvidia-container-toolkit.log"
environment = ["A=B"]
ldcache = "/run/ld.so.cache"
ldconfig = "@/sbin/ldconfig.real"
load-kmods = false
no-cgroups = true
no-pivot = false
path = "/usr/bin/nvidia-container-cli"
root = "/run/nvidia/driver"
user = "root:video"

[nvidia-container-runtime]
debug = "/var/log/nvidia-container-runtime.log"
log-level = "debug"
mode = "auto"
runtimes = ["crun", "runc"]

[nvidia-container-runtime.modes.cdi]
annotation-prefixes = ["cdi.k8s.io/"]
default-kind = "nvidia.com/gpu"
spec-dirs = ["/etc/cdi", "/var/run/cdi"]

[nvidia-container-runtime.modes.csv]
mount-spec-path = "/etc/nvidia-container-runtime/host-files-for-container.d"

[nvidia-container-runtime.modes.jit-cdi]
load-kernel-modules = ["nvidia"]

[nvidia-container-runtime.modes.legacy]
cuda-compat-mode = "disabled"

[nvidia-container-runtime-hook]
path = "nvidia-container-runtime-hook"
skip-mode-detection = false

[nvidia-ctk]
path = "nvidia-ctk"

[features]
allow-ldconfig-from-container = false
allow-unknown-oci-spec-fields = true
disable-imex-channel-creation = true
ignore-imex-channel-requests = true
no-additional-gids-for-device-nodes = true
`

func TestConfig(t *testing.T) {
	tests := []struct {
		name, in string
		want     Config
		err      string
	}{
		{name: "empty", want: defaults()},
		{name: "comment", in: "# nothing\n", want: defaults()},
		{name: "NVIDIA's own", in: shipped, want: Config{
			Debug: "/var/log/nvidia-container-runtime.log", LogLevel: "debug",
			Runtimes: []string{"crun", "runc"},
			Sysroot:  "/", SysrootNodes: NodesClosed, DriverRoot: "/run/nvidia/driver", LDCache: "/run/ld.so.cache",
			NoCgroups: true, DisableRequire: true,
			SwarmResources:        []string{"DOCKER_RESOURCE_GPU", "DOCKER_RESOURCE_NVIDIA"},
			VolumeMounts:          true,
			SupportedCapabilities: []string{"compute", "utility"},
			Fence:                 FenceProfile,
			DevCharLinks:          CharLinksAuto,
			DriverDirectory:       DirectoryAuto,
			IgnoreIMEX:            true, NoAdditionalGIDs: true,
		}},
		{
			name: "our own table wins",
			in: `
[nvidia-container-cli]
root = "/theirs"
[nvidia-container-runtime]
debug = "/theirs.log"
log-level = "error"
runtimes = ["theirs"]
[nvidia-container-runtime.experimental]
debug = "/ours.log"
log-level = "debug"
runtime-path = "ours"
root = "/ours"
sysroot = "/machine"
library-search-path = ["/a", "/b"]
seccomp-fence = "always"
dev-char-links = "never"
driver-directory = "/srv/links"
refused-request = "error"
`,
			want: with(func(c *Config) {
				c.Debug, c.LogLevel, c.RuntimePath, c.Runtimes = "/ours.log", "debug", "ours", []string{"theirs"}
				c.DriverRoot, c.Sysroot, c.LibrarySearchPath = "/ours", "/machine", []string{"/a", "/b"}
				c.Fence, c.RefuseUnprivileged, c.DevCharLinks = FenceAlways, true, CharLinksNever
				c.DriverDirectory = "/srv/links"
			}),
		},
		{
			name: "blank values are ignored",
			in:   "swarm-resource = \" , \"\n[nvidia-container-runtime.experimental]\nroot = \" \"\nseccomp-fence = \"\"\nrefused-request = \"\"\n[nvidia-container-runtime]\nruntimes = []\n",
			want: defaults(),
		},
		{name: "all capabilities", in: `supported-driver-capabilities = "utility,all"`, want: defaults()},
		{name: "no capability", in: `supported-driver-capabilities = ""`, want: with(func(c *Config) { c.SupportedCapabilities = nil })},
		{name: "dotted keys", in: `nvidia-container-cli.no-cgroups = true`, want: with(func(c *Config) { c.NoCgroups = true })},
		{name: "Windows line endings", in: "disable-require = true\r\n", want: with(func(c *Config) { c.DisableRequire = true })},
		{name: "unknown keys of every type", in: "a = 1\nb = [1, \"x\"]\nc = {d = 2.5}\n[nvidia-container-cli]\ne = 1979-05-27\n[nvidia-container-runtime.experimental]\nf = 1\n[[g.h]]\n", want: defaults()},
		{name: "other compat modes", in: "[nvidia-container-runtime.modes.legacy]\ncuda-compat-mode = \"mount\"\n", want: defaults()},

		{name: "not TOML", in: "disable-require = true\nhello\n", err: "configuration /config.toml: line 2, column 6: "},
		{name: "cut off", in: "[nvidia-container-cli]\nroot = \"/run", err: "line 2, column "},
		{name: "twice", in: "disable-require = true\ndisable-require = false\n", err: "disable-require"},
		{
			name: "string for a boolean", in: "\n\ndisable-require = \"true\"\n",
			err: `line 3, column 1: disable-require is the string "true" where true or false is expected`,
		},
		{
			name: "number for a boolean", in: "[nvidia-container-cli]\nno-cgroups = 1\n",
			err: "line 2, column 1: nvidia-container-cli.no-cgroups is the number 1 where true or false is expected",
		},
		{
			name: "string for a list", in: "[nvidia-container-runtime]\nruntimes = \"runc\"\n",
			err: `line 2, column 1: nvidia-container-runtime.runtimes is the string "runc" where a list of strings (["runc"]) is expected`,
		},
		{
			name: "number in a list", in: "[nvidia-container-runtime]\nruntimes = [\"runc\", 7]\n",
			err: "line 2, column 1: nvidia-container-runtime.runtimes holds the number 7 where a string is expected",
		},
		{
			name: "list for a string", in: "swarm-resource = []\n",
			err: "line 1, column 1: swarm-resource is a list where a comma-separated string is expected",
		},
		{
			name: "list for a path", in: "nvidia-container-cli.root = [\"/\"]\n",
			err: "line 1, column 1: nvidia-container-cli.root is a list where a string is expected",
		},
		{
			name: "date for a word", in: "nvidia-container-runtime.experimental.refused-request = 1979-05-27\n",
			err: "refused-request is a date or time where a string is expected",
		},
		{
			name: "value for a section", in: "nvidia-container-cli = 3\n",
			err: "line 1, column 1: nvidia-container-cli is the number 3 where a table is expected ([nvidia-container-cli])",
		},
		{
			name: "section for a value", in: "[nvidia-container-cli.root]\nx = 1\n",
			err: "line 1, column 2: nvidia-container-cli.root is a table where a string is expected",
		},
		{
			name: "misspelled in our own table", in: "[nvidia-container-runtime.experimental]\nroot = \"/\"\nrefused_requests = \"error\"\n",
			err: "line 3, column 1: nvidia-container-runtime.experimental.refused_requests is not a key; did you mean nvidia-container-runtime.experimental.refused-request?",
		},
		{name: "unknown in our own table, unlike any key", in: "[nvidia-container-runtime.experimental]\ndiscover-mode = \"legacy\"\n", want: defaults()},
		{name: "misspelled in NVIDIA's table", in: "[nvidia-container-cli]\nno-cgroup = true\n", want: defaults()},
		{name: "unknown log level", in: "nvidia-container-runtime.log-level = \"verbose\"\n", want: with(func(c *Config) { c.LogLevel = "verbose" })},
		{name: "fence", in: "nvidia-container-runtime.experimental.seccomp-fence = \"yes\"\n", err: `seccomp-fence "yes" is none of "profile", "always", "off"`},
		{name: "links", in: "nvidia-container-runtime.experimental.dev-char-links = \"on\"\n", err: `dev-char-links "on" is none of "auto", "always", "never"`},
		{name: "directory", in: "nvidia-container-runtime.experimental.driver-directory = \"links\"\n", err: `driver-directory "links" is none of "auto", "always", "off", and no absolute path`},
		{name: "refused request", in: "nvidia-container-runtime.experimental.refused-request = \"fail\"\n", err: `refused-request "fail" is none of "ignore", "error"`},
		{name: "capability", in: `supported-driver-capabilities = "compute,cuda"`, err: `supported-driver-capabilities: "cuda" is none of compat32, compute, `},
		{name: "bytes", in: "\x00\xff", err: "line 1, column 1"},
		{name: "deep", in: "a = " + strings.Repeat("[", 100_000), err: "line 1, column "},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := parse([]byte(tt.in))
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestLoadConfig(t *testing.T) {
	dir := t.TempDir()
	write := func(name, content string) string {
		path := filepath.Join(dir, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(content), 0o644))
		return path
	}
	ctk := write("ctk.toml", "[nvidia-container-runtime.experimental]\nruntime-path = \"ctk\"\nroot = \"/file\"\n")
	xdg := write("xdg/nvidia-container-runtime/config.toml", "[nvidia-container-runtime.experimental]\nruntime-path = \"xdg\"\n")
	relative := write("relative.toml", "[nvidia-container-runtime.experimental]\nroot = \"run/nvidia/driver\"\n")
	broken := write("broken.toml", "x")
	none := filepath.Join(dir, "none.toml")

	link := write(RegistrationMark+"crun", "")
	write(RegistrationMark+"crun.toml", `
[nvidia-container-cli]
root = "/registration"
[nvidia-container-runtime.experimental]
runtime-path = "/usr/bin/crun"
log-level = " "
`)
	misspelt := write(RegistrationMark+"misspelt", "")
	write(RegistrationMark+"misspelt.toml", "nvidia-container-runtime.experimental.sys-root = \"/x\"")

	tests := []struct {
		name    string
		argv0   string
		environ []string
		want    Config
		err     string
	}{
		{
			name: "the file in /etc if XDG_CONFIG_HOME has none", environ: []string{"XDG_CONFIG_HOME=" + dir},
			want: with(func(c *Config) { c.File = "/etc/nvidia-container-runtime/config.toml" }),
		},
		{
			name: "a registration overrides the environment, which overrides the file", argv0: link,
			environ: []string{
				"NVIDIA_CTK_CONFIG_FILE_PATH=" + ctk, "NVIDIA_CONTAINER_RUNTIME_PATH=env", "NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL=debug",
			},
			want: with(func(c *Config) {
				c.File, c.Registration = ctk, link+".toml"
				c.RuntimePath, c.DriverRoot, c.LogLevel = "/usr/bin/crun", "/registration", "debug"
			}),
		},
		{
			name: "another name is no registration", argv0: filepath.Join(dir, "nvidia-container-runtime.experimental"),
			environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + none},
			want:    with(func(c *Config) { c.File = none }),
		},
		{
			name: "a registration without a file", argv0: filepath.Join(dir, RegistrationMark+"none"), environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + ctk},
			err: "none.toml is missing: write it, or unregister the runtime",
		},
		{
			name: "a registration by its bare name", argv0: RegistrationMark + "crun", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + none},
			err: "register the runtime by its absolute path",
		},
		{
			name: "a registration with a misspelled key", argv0: misspelt, environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + none},
			err: misspelt + ".toml: line 1, column 1: nvidia-container-runtime.experimental.sys-root is not a key; did you mean nvidia-container-runtime.experimental.sysroot?",
		},
		{
			name: "XDG_CONFIG_HOME", environ: []string{"XDG_CONFIG_HOME=" + filepath.Join(dir, "xdg")},
			want: with(func(c *Config) { c.File, c.RuntimePath = xdg, "xdg" }),
		},
		{
			name:    "NVIDIA_CTK_CONFIG_FILE_PATH comes first",
			environ: []string{"XDG_CONFIG_HOME=" + filepath.Join(dir, "xdg"), "NVIDIA_CTK_CONFIG_FILE_PATH=" + ctk},
			want:    with(func(c *Config) { c.File, c.RuntimePath, c.DriverRoot = ctk, "ctk", "/file" }),
		},
		{
			name: "missing", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + none},
			want: with(func(c *Config) { c.File = none }),
		},
		{
			name: "below a file", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + ctk + "/x"},
			err: "reading configuration",
		},
		{
			name: "the environment overrides",
			environ: []string{
				"NVIDIA_CTK_CONFIG_FILE_PATH=" + ctk,
				"NVIDIA_CONTAINER_RUNTIME_PATH=/env/runc", "NVIDIA_CONTAINER_RUNTIME_DEBUG=/env.log", "NVIDIA_CONTAINER_RUNTIME_LOG_LEVEL=debug",
				"NVIDIA_CONTAINER_RUNTIME_ROOT=/env/root", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=/env/sysroot",
			},
			want: with(func(c *Config) {
				c.File, c.RuntimePath, c.Debug, c.LogLevel, c.DriverRoot, c.Sysroot = ctk, "/env/runc", "/env.log", "debug", "/env/root", "/env/sysroot"
			}),
		},
		{
			name: "variables for the driver's files", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + none, "XDG_DATA_DIRS=/a:/b/share", "CUDA_MPS_PIPE_DIRECTORY=/run/mps"},
			want: with(func(c *Config) {
				c.File, c.DataDirs, c.MPSDirectory = none, []string{"/a", "/b/share"}, "/run/mps"
			}),
		},
		{
			name:    "blank values do not, and the last of duplicates wins",
			environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + ctk, "NVIDIA_CONTAINER_RUNTIME_ROOT=/first", "NVIDIA_CONTAINER_RUNTIME_ROOT= ", "NVIDIA_CONTAINER_RUNTIME_PATH= a ", "NVIDIA_CONTAINER_RUNTIME_PATH"},
			want:    with(func(c *Config) { c.File, c.RuntimePath, c.DriverRoot = ctk, "a", "/file" }),
		},
		{name: "broken", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + broken}, err: "configuration " + broken + ": line 1, column "},
		{name: "directory", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + dir}, err: "reading configuration: "},
		{name: "relative root", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + relative}, err: `configuration ` + relative + `: root "run/nvidia/driver" is not an absolute path`},
		{name: "relative sysroot", environ: []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + none, "NVIDIA_CONTAINER_RUNTIME_SYSROOT=m"}, err: `sysroot "m" is not an absolute path`},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, err := LoadConfig(tt.argv0, tt.environ)
			if tt.err != "" {
				require.ErrorContains(t, err, tt.err)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
		})
	}
}

func TestPolicy(t *testing.T) {
	c := with(func(c *Config) {
		c.VolumeMounts, c.SwarmResources, c.DisableRequire, c.IgnoreIMEX, c.RefuseUnprivileged = true, []string{"X"}, true, true, true
		c.SupportedCapabilities = []string{"utility"}
	})
	assert.Equal(t, spec.Policy{
		EnvWhenUnprivileged: true, VolumeMounts: true, SwarmResources: []string{"X"}, Supported: []string{"utility"},
		DisableRequire: true, IgnoreIMEX: true, RefuseUnprivileged: true,
	}, c.Policy())
}

// FuzzConfig checks that a file that is accepted yields a usable configuration, that an error comes
// without one, and that unknown tables, such as those of NVIDIA's programs, change nothing.
func FuzzConfig(f *testing.F) {
	f.Add([]byte(shipped))
	f.Add([]byte("[nvidia-container-runtime.experimental]\nseccomp-fence = \"off\"\nrefused-request = \"ignore\"\n"))
	f.Add([]byte("supported-driver-capabilities = \"all\"\n[nvidia-container-cli]\nload-kmods = false"))
	f.Add([]byte("a.b.c = [[{}]]"))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := parse(data)
		if err != nil {
			assert.Zero(t, c)
			assert.NotEmpty(t, err.Error())
			return
		}
		assert.NotEmpty(t, c.Runtimes)
		assert.NotEmpty(t, c.Sysroot)
		assert.NotEmpty(t, c.DriverRoot)
		assert.Contains(t, []string{FenceProfile, FenceAlways, FenceOff}, c.Fence)
		assert.Contains(t, []string{CharLinksAuto, CharLinksAlways, CharLinksNever}, c.DevCharLinks)
		assert.Subset(t, DriverCapabilities, c.SupportedCapabilities)

		more, err := parse(append(data, "\n[zz-nobody-has-this-section]\nkey = 1\n"...))
		require.NoError(t, err)
		assert.Equal(t, c, more)
	})
}
