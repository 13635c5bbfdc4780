// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"cmp"
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/mig/learnt"
)

// repository is the root directory of the repository.
const repository = "../../.."

// sections returns the texts below the headings of a level, by heading.
func sections(text, level string) map[string]string {
	found := map[string]string{}
	heading := ""
	for line := range strings.Lines(text) {
		title, ok := strings.CutPrefix(line, level+" ")
		switch {
		case ok:
			heading = strings.TrimSpace(title)
			found[heading] = ""
		case strings.HasPrefix(line, "#") && strings.IndexByte(line, ' ') < len(level):
			heading = ""
		case heading != "":
			found[heading] += line
		}
	}
	return found
}

// rows returns the cells of the tables in a text, row by row.
func rows(text string) [][]string {
	var list [][]string
	for line := range strings.Lines(text) {
		if !strings.HasPrefix(line, "|") || strings.HasPrefix(line, "|--") {
			continue
		}
		cells := strings.Split(strings.Trim(strings.TrimSpace(line), "|"), "|")
		for n := range cells {
			cells[n] = strings.TrimSpace(cells[n])
		}
		list = append(list, cells)
	}
	return list
}

// verb matches a formatting verb of package fmt.
var verb = regexp.MustCompile(`%[#+]?(\[\d\])?\d*[a-z]`)

// parseFile parses a Go file of this repository.
func parseFile(t *testing.T, name string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join(repository, name), nil, 0)
	require.NoError(t, err)
	return file
}

// goFiles returns the files of a package without its tests.
func goFiles(t *testing.T, dir string) []string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(repository, dir, "*.go"))
	require.NoError(t, err)
	var names []string
	for _, file := range files {
		if !strings.HasSuffix(file, "_test.go") {
			names = append(names, filepath.Join(dir, filepath.Base(file)))
		}
	}
	return names
}

// text returns the value of a string literal, or of several that are concatenated.
func text(n ast.Node) (string, bool) {
	if sum, ok := n.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
		left, first := text(sum.X)
		right, second := text(sum.Y)
		return left + right, first && second
	}
	literal, ok := n.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	s, err := strconv.Unquote(literal.Value)
	return s, err == nil
}

// TestDocsDoctor checks that docs/troubleshooting.md has a section for each check of "nvsysfs
// doctor", and no others, and that each section quotes everything that the check may complain
// about.
func TestDocsDoctor(t *testing.T) {
	var declarations []ast.Decl
	for _, file := range goFiles(t, "cmd/internal/doctor") {
		declarations = append(declarations, parseFile(t, file).Decls...)
	}
	ids := map[string]string{} // of checks, by function name
	complaints := map[string][]string{}
	for _, decl := range declarations {
		switch decl := decl.(type) {
		case *ast.GenDecl:
			for _, spec := range decl.Specs {
				value, ok := spec.(*ast.ValueSpec)
				if !ok || value.Names[0].Name != "checks" {
					continue
				}
				for _, element := range value.Values[0].(*ast.CompositeLit).Elts {
					check := element.(*ast.CompositeLit).Elts
					id, ok := text(check[0])
					require.True(t, ok)
					ids[check[1].(*ast.Ident).Name] = id
				}
			}
		case *ast.FuncDecl:
			ast.Inspect(decl, func(n ast.Node) bool {
				call, ok := n.(*ast.CallExpr)
				if !ok {
					return true
				}
				if name, ok := call.Fun.(*ast.Ident); !ok || name.Name != "note" && name.Name != "wrong" || len(call.Args) < 2 {
					return true
				}
				if format, ok := text(call.Args[1]); ok {
					complaints[decl.Name.Name] = append(complaints[decl.Name.Name], format)
				}
				return true
			})
		}
	}
	require.NotEmpty(t, ids)
	page := sections(pages(t)["troubleshooting.md"], "##")["Findings of nvsysfs doctor"]
	require.NotEmpty(t, page)
	found := sections(page, "###")
	assert.ElementsMatch(t, slices.Collect(maps.Values(ids)), slices.Collect(maps.Keys(found)))
	for function, id := range ids {
		section := strings.Join(strings.Fields(found[id]), " ")
		for _, format := range complaints[function] {
			fixed := slices.MaxFunc(verb.Split(format, -1), func(a, b string) int { return len(a) - len(b) })
			if len(fixed) > len(": it is, ") {
				assert.Contains(t, section, strings.Trim(fixed, " :;"), "section %s", id)
			}
		}
	}
}

// provocation is a setup that makes the runtime print a message.
type provocation struct {
	fixture string            // the machine
	env     []string          // of the container
	config  string            // config.toml
	caps    []string          // of the container
	linux   object            // linux of config.json
	mounts  []object          // mounts of config.json
	runtime string            // the low-level runtime, if not /bin/true
	as      string            // the name of a link through which the shim is started
	files   map[string]string // of the machine, in addition to the fixture's
}

// provocations provoke the messages that docs/troubleshooting.md explains. The keys are the
// messages as that page has them.
var provocations = map[string]provocation{
	`device "…": unknown device: …; available: …`:                                                        {fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=7"}},
	`…; NVIDIA GPUs not bound to the nvidia driver: …`:                                                   {fixture: "vfio", env: []string{"NVIDIA_VISIBLE_DEVICES=0000:71:00.0"}},
	`NVIDIA GPUs were requested (…), but no NVIDIA kernel driver is loaded: …`:                           {fixture: "no-nvidia", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}},
	`the loaded kernel module has version …, but the driver's libraries have …`:                          {fixture: "version-skew", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}},
	`requirement error: unsatisfied condition: …`:                                                        {fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_REQUIRE_X=driver>=999"}},
	`unsupported capabilities found in '…' (allowed '…'): …`:                                             {fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=x"}},
	`no low-level runtime found: looked for …; install runc or crun, or set runtime-path in config.toml`: {fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, runtime: "/nonexistent/runc"},
	`this machine is a WSL2 guest… (…): GPUs in WSL2 are not supported`: {
		fixture: "no-nvidia", files: map[string]string{"dev/dxg": ""}, env: []string{"NVIDIA_VISIBLE_DEVICES=all"},
	},
	`this machine is a Tegra board… (…): …`: {
		fixture: "grace-aarch64", files: map[string]string{"etc/nv_tegra_release": ""}, env: []string{"NVIDIA_VISIBLE_DEVICES=all"},
	},
	`a library of driver version … is damaged: …; reinstall the libraries of version …`: {
		fixture: "t4", files: map[string]string{"usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15": ""}, env: []string{"NVIDIA_VISIBLE_DEVICES=all"},
	},
	`…; install this version's libraries, or set library-search-path to their directory, or root to the root of a driver container, in config.toml`: {
		fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, config: "nvidia-container-cli.root = \"/proc\"\n",
	},
	`"…" is not in /proc/devices: the kernel module … is not loaded (load it with "modprobe …")`: {
		fixture: "desktop-graphics", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=compute"},
	},
	`insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar: …`: {
		fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"},
		config: "accept-nvidia-visible-devices-envvar-when-unprivileged = false\nnvidia-container-runtime.experimental.refused-request = \"error\"\n",
	},
	`… ignored: the container lacks CAP_SYS_ADMIN in its bounding set and accept-nvidia-visible-devices-envvar-when-unprivileged is false`: {
		fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, config: "accept-nvidia-visible-devices-envvar-when-unprivileged = false\n",
	},
	`… does not request a device: accept-nvidia-visible-devices-as-volume-mounts is false`: {
		fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, mounts: []object{{"source": "/dev/null", "destination": "/var/run/nvidia-container-devices/0"}},
	},
	`cannot set MIG_CONFIG_DEVICES in non privileged container`: {fixture: "a100-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_CONFIG_DEVICES=all"}},
	`device … is of kind …, but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`: {
		fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=vendor.test/net=0"},
	},
	`a user namespace needs the host's …, character device …: …`: {
		fixture: "a100-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=0:0", "NVIDIA_DRIVER_CAPABILITIES=utility"},
		linux: object{"namespaces": []object{{"type": "user"}}, "uidMappings": []object{{"containerID": 0, "hostID": 100000, "size": 65536}}},
	},
	`IMEX channel …: no character device … at …`:              {fixture: "imex-nvswitch", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_IMEX_CHANNELS=2047"}},
	`started as "…@…", but its configuration … is missing: …`: {fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, as: shimName + "@x"},
	`configuration …: line …, column …: …`:                    {fixture: "t4", config: "disable-require = 1\n"},
	`driver root … (root in config.toml): …`: {
		fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, config: "nvidia-container-cli.root = \"/run/nvidia/driver\"\n",
	},
	`cannot enable mig-config with specific MIG devices selected`: {
		fixture: "a100-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=0:0", "NVIDIA_MIG_CONFIG_DEVICES=all"}, caps: []string{"CAP_SYS_ADMIN"},
	},
	`is this program itself`: {fixture: "t4", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, runtime: shimName},
	`MIG UUIDs are not in /proc, and none are recorded (no file …); run 'nvsysfs learn' as root on the host`: {
		fixture: "a100-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=MIG-6f9619ff-8b86-5011-b42d-00c04fc964ff"},
	},
	`MIG UUIDs are not in /proc, and the record is not trusted: …; remove it, then run 'nvsysfs learn' as root on the host`: {
		fixture: "mixed-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=MIG-6f9619ff-8b86-5011-b42d-00c04fc964ff"}, files: map[string]string{learnt.Path: "damaged"},
	},
	`unknown device: no recorded MIG device has this UUID, and those of GPU … are not recorded or have changed; run 'nvsysfs learn' as root on the host`: {
		fixture: "mixed-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=MIG-6f9619ff-8b86-5011-b42d-00c04fc964ff"}, files: map[string]string{learnt.Path: "version 1\n\nend\n"},
	},
}

// TestDocsMessages checks that the runtime prints the messages that docs/troubleshooting.md
// explains, and that these include all failures that the engine tests check.
func TestDocsMessages(t *testing.T) {
	require.NoError(t, programs.shim())
	ours, _, found := strings.Cut(sections(pages(t)["troubleshooting.md"], "##")["Messages"], "Messages that are the engine's")
	require.True(t, found)
	machines, said := t.TempDir(), ""
	var messages []string
	for _, row := range rows(ours)[1:] {
		message := strings.Trim(row[0], "`")
		messages = append(messages, message)
		if p, ok := provocations[message]; ok {
			out := p.provoke(t, machines)
			assert.Regexp(t, strings.ReplaceAll(regexp.QuoteMeta(message), "…", ".*"), out)
			said += out
		}
	}
	assert.ElementsMatch(t, slices.Collect(maps.Keys(provocations)), messages)
	for _, f := range failures {
		assert.True(t, strings.Contains(said, f.want), "not explained: %s", f.want) //nolint:testifylint // assert.Contains would print everything
	}
}

// provoke returns the runtime's output and its log.
func (p provocation) provoke(t *testing.T, machines string) string {
	t.Helper()
	dir, machine := t.TempDir(), filepath.Join(machines, p.fixture)
	if p.files != nil {
		machine = filepath.Join(dir, "machine")
	}
	if _, err := os.Stat(machine); err != nil {
		require.NoError(t, os.Mkdir(machine, 0o755))
		archive, err := fixtures.Load(p.fixture)
		require.NoError(t, err)
		_, err = archive.Unpack(machine, fixtures.UnpackOptions{NoDevices: true})
		require.NoError(t, err)
	}
	for name, text := range p.files {
		file := filepath.Join(machine, name)
		require.NoError(t, os.MkdirAll(filepath.Dir(file), 0o755))
		require.NoError(t, os.WriteFile(file, []byte(text), 0o644))
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "rootfs/etc"), 0o755))
	data, err := json.Marshal(object{
		"ociVersion": "1.0.2", "process": object{"env": p.env, "args": []string{"true"}, "cwd": "/", "capabilities": object{"bounding": append([]string{}, p.caps...)}}, "root": object{"path": "rootfs"},
		"mounts": append([]object{}, p.mounts...), "linux": p.linux,
	})
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.json"), data, 0o644))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "config.toml"), []byte(p.config), 0o644))
	log := filepath.Join(dir, "log")
	shim := filepath.Join(programs.dir, shimName)
	if p.as != "" {
		link := filepath.Join(dir, p.as)
		require.NoError(t, os.Symlink(shim, link))
		shim = link
	}
	cmd := exec.Command(shim, "create", "--bundle", dir, "id") //nolint:gosec // the shim
	cmd.Env = []string{
		"PATH=" + programs.dir, "NVIDIA_CTK_CONFIG_FILE_PATH=" + filepath.Join(dir, "config.toml"), "NVIDIA_CONTAINER_RUNTIME_DEBUG=" + log,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + machine, "NVIDIA_CONTAINER_RUNTIME_PATH=" + cmp.Or(p.runtime, "/bin/true"),
	}
	out, err := cmd.CombinedOutput()
	logged, _ := os.ReadFile(log)
	said := string(out) + strings.ReplaceAll(string(logged), `\"`, `"`)
	require.NotEmpty(t, said, "%v", err)
	return said
}

// toolkitKeys are the config.toml keys that NVIDIA's toolkit knows, from the structs in
// api/config/v1 of its 2026 source.
var toolkitKeys = []string{
	"disable-require", "swarm-resource", "accept-nvidia-visible-devices-envvar-when-unprivileged",
	"accept-nvidia-visible-devices-as-volume-mounts", "supported-driver-capabilities",
	"nvidia-container-cli.root", "nvidia-container-cli.path", "nvidia-container-cli.environment", "nvidia-container-cli.debug",
	"nvidia-container-cli.ldcache", "nvidia-container-cli.load-kmods", "nvidia-container-cli.no-pivot", "nvidia-container-cli.no-cgroups",
	"nvidia-container-cli.user", "nvidia-container-cli.ldconfig",
	"nvidia-container-runtime.debug", "nvidia-container-runtime.log-level", "nvidia-container-runtime.runtimes", "nvidia-container-runtime.mode",
	"nvidia-container-runtime.modes.csv.mount-spec-path", "nvidia-container-runtime.modes.csv.compat-container-root",
	"nvidia-container-runtime.modes.cdi.spec-dirs", "nvidia-container-runtime.modes.cdi.default-kind", "nvidia-container-runtime.modes.cdi.annotation-prefixes",
	"nvidia-container-runtime.modes.jit-cdi.nvcdi-feature-flags", "nvidia-container-runtime.modes.jit-cdi.nvcdi-disable-hooks",
	"nvidia-container-runtime.modes.legacy.cuda-compat-mode",
	"nvidia-container-runtime-hook.path", "nvidia-container-runtime-hook.skip-mode-detection", "nvidia-ctk.path",
	"features.allow-cuda-compat-libs-from-container", "features.allow-ldconfig-from-container", "features.allow-unknown-oci-spec-fields",
	"features.disable-cuda-compat-lib-hook", "features.disable-imex-channel-creation", "features.ignore-imex-channel-requests",
	"features.no-additional-gids-for-device-nodes",
}

// TestDocsMigration checks that docs/migration.md has a row for each of NVIDIA's keys, and that the
// page is right about which of them this runtime reads.
func TestDocsMigration(t *testing.T) {
	honoured := map[string]bool{}
	for _, k := range plan.Keys {
		honoured[k.Name] = true
	}
	require.NotEmpty(t, honoured)

	var keys []string
	for _, row := range rows(sections(pages(t)["migration.md"], "##")["config.toml, key by key"])[1:] {
		key := strings.Trim(row[0], "`")
		keys = append(keys, key)
		assert.Contains(t, []string{"same", "differs", "ignored"}, row[1], "%s", key)
		assert.Equal(t, honoured[key], row[1] != "ignored", "%s", key)
	}
	assert.ElementsMatch(t, toolkitKeys, keys)
	for key := range honoured {
		if !strings.HasPrefix(key, "nvidia-container-runtime.experimental.") {
			assert.Contains(t, keys, key)
		}
	}
}

// TestDocsNames checks that what the pages name exists: the files and headings that links point to,
// tests, scripts, and nvsysfs commands with their options.
func TestDocsNames(t *testing.T) {
	link, span := regexp.MustCompile(`\]\(([^)#]*)(#[^)]*)?\)`), regexp.MustCompile("`(nvsysfs [^`]+)`")
	test, script := regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w+)`"), regexp.MustCompile("`([a-z0-9-]+\\.txtar)`")
	tests := testNames(t)
	require.NoError(t, build("nvsysfs"))
	help := map[string]string{}
	texts := map[string]string{} // by path
	for name, page := range pages(t) {
		texts["docs/"+name] = page
	}
	for _, name := range []string{"README.md", "CONTRIBUTING.md", "SECURITY.md"} {
		data, err := os.ReadFile(filepath.Join(repository, name))
		require.NoError(t, err)
		texts[name] = string(data)
	}
	assert.Contains(t, texts["docs/kubernetes.md"], "`/"+learnt.Path+"`")
	for name, page := range texts {
		for _, m := range link.FindAllStringSubmatch(page, -1) {
			target := page
			if m[1] != "" {
				data, err := os.ReadFile(filepath.Join(repository, filepath.Dir(name), m[1]))
				if !assert.NoError(t, err, "%s", name) {
					continue
				}
				target = string(data)
			}
			if m[2] != "" {
				assert.Contains(t, anchors(target), m[2], "%s: %s", name, m[0])
			}
		}
		for _, m := range test.FindAllStringSubmatch(page, -1) {
			assert.True(t, tests[m[1]], "%s: there is no %s", name, m[1])
		}
		if name == "docs/comparison.md" {
			for _, m := range script.FindAllStringSubmatch(page, -1) {
				assert.FileExists(t, filepath.Join(repository, "cmd", shimName, "testdata/script", m[1]))
			}
		}
		for _, m := range span.FindAllStringSubmatch(page, -1) {
			words := strings.Fields(m[1])[1:]
			command := words[:1]
			// These two have subcommands.
			if (words[0] == "cdi" || words[0] == "configure") && len(words) > 1 {
				command = words[:2]
			}
			key := strings.Join(command, " ")
			if _, ok := help[key]; !ok {
				out, err := exec.Command(filepath.Join(programs.dir, "nvsysfs"), append(command[:len(command):len(command)], "--help")...).CombinedOutput() //nolint:gosec // a command of this repository
				assert.NoError(t, err, "%s: %s: %s", name, m[1], out)
				help[key] = string(out)
			}
			for _, word := range words {
				if strings.HasPrefix(word, "--") {
					assert.Contains(t, help[key], word, "%s: %s", name, m[1])
				}
			}
		}
	}
}

// anchors returns the headings of a page in the form that links use.
func anchors(page string) []string {
	var list []string
	for line := range strings.Lines(page) {
		if strings.HasPrefix(line, "#") {
			title := strings.ToLower(strings.TrimSpace(strings.TrimLeft(line, "#")))
			title = strings.Map(func(r rune) rune {
				switch {
				case r == ' ':
					return '-'
				case r == '-' || r == '_' || 'a' <= r && r <= 'z' || '0' <= r && r <= '9':
					return r
				}
				return -1
			}, title)
			list = append(list, "#"+title)
		}
	}
	return list
}

// testNames returns the names of the functions in this repository's test files.
func testNames(t *testing.T) map[string]bool {
	t.Helper()
	names := map[string]bool{}
	require.NoError(t, filepath.WalkDir(repository, func(name string, d fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case d.IsDir() && strings.HasPrefix(d.Name(), ".") && name != repository:
			return fs.SkipDir
		case !strings.HasSuffix(name, "_test.go"):
			return nil
		}
		relative, err := filepath.Rel(repository, name)
		require.NoError(t, err)
		for _, decl := range parseFile(t, relative).Decls {
			if function, ok := decl.(*ast.FuncDecl); ok {
				names[function.Name.Name] = true
			}
		}
		return nil
	}))
	return names
}
