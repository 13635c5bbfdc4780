// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package enginetest

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/template"

	"github.com/pelletier/go-toml/v2"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// oldContainerd is the last 1.7 release, which clusters still run.
const oldContainerd = "v1.7.29"

// builtOldContainerd builds oldContainerd in its own module: "go install" refuses a module with
// such a go.mod if it is not the main module.
var builtOldContainerd = sync.OnceValues(func() (string, error) {
	out, err := exec.Command("go", "mod", "download", "-json", "github.com/containerd/containerd@"+oldContainerd).Output()
	if err != nil {
		return "", fmt.Errorf("fetching containerd %s: %w: %s", oldContainerd, err, out)
	}
	var module struct{ Dir string }
	if err := json.Unmarshal(out, &module); err != nil {
		return "", err
	}
	program := filepath.Join(programs.dir, "containerd-"+oldContainerd, "containerd")
	cmd := exec.Command("go", "build", "-C", module.Dir, "-mod=readonly", "-trimpath", "-tags=no_btrfs no_devmapper no_zfs", "-o", program, "./cmd/containerd")
	cmd.Env = append(os.Environ(), "GOFLAGS=", "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("building containerd %s: %w: %s", oldContainerd, err, out)
	}
	return program, nil
})

// TestContainerdReadsWhatIsWritten checks what containerd 1.6, 1.7 and 2 read from main and
// imported files of every form, before and after nvsysfs configure.
func TestContainerdReadsWhatIsWritten(t *testing.T) {
	need.Root(t)
	require.NoError(t, builtNvsysfs())
	const v2 = "io.containerd.grpc.v1.cri"
	const runc2 = "[plugins.\"" + v2 + "\".containerd.runtimes.runc]\nruntime_type = \"io.containerd.runc.v2\"\n" +
		"[plugins.\"" + v2 + "\".containerd.runtimes.runc.options]\nSystemdCgroup = true\n"
	runc1 := strings.ReplaceAll(runc2, `"`+v2+`"`, "cri")
	runc3 := strings.ReplaceAll(runc2, v2, "io.containerd.cri.v1.runtime")
	// Debian 12's containerd resolves a relative pattern against its working directory.
	const imports = "imports = [\"@/conf.d/*.toml\"]\n"
	tests := []struct {
		name           string
		main, imported string // files; "" for none
		target         string // the file to configure: main or imported
		systemd        bool   // SystemdCgroup is copied
		fails          map[string]string
	}{
		{name: "no file", target: "main"},
		{name: "version 2", main: "version = 2\n" + runc2, target: "main", systemd: true},
		{name: "version 1", main: runc1, target: "main", systemd: true},
		{name: "explicit version 1", main: "version = 1\n" + runc1, target: "main", systemd: true},
		{name: "only a disabled plugin", main: "disabled_plugins = [\"cgroups\"]\n", target: "main"},
		{
			name: "version 2 without a version line", main: runc2, target: "main", systemd: true,
			fails: map[string]string{"1": "ignores its tables"},
		},
		{name: "imported without a version", main: "version = 2\n" + imports, imported: "# registries\noom_score = 0\n", target: "imported"},
		{name: "imported without a version, with tables", main: "version = 2\n" + imports, imported: runc2, target: "imported", systemd: true},
		{name: "imported into a file without a version", main: imports, imported: "oom_score = 0\n", target: "imported"},
		{name: "imported file sets the version", main: imports, imported: "version = 2\noom_score = 0\n", target: "main"},
		{
			name: "table of the importing file would be lost", main: "version = 2\n" + imports + runc2, imported: "oom_score = 0\n", target: "imported",
			fails: map[string]string{"1": "register the runtime in ", "2": "register the runtime in "},
		},
		{name: "version 3", main: "version = 3\n" + runc3, target: "main", systemd: true, fails: map[string]string{"1": ""}},
		{name: "imported by version 3", main: "version = 3\n" + imports + runc3, imported: "oom_score = 0\n", target: "imported", systemd: true, fails: map[string]string{"1": ""}},
		{
			name: "default_runtime", main: "version = 2\n" + runc2 + "[plugins.\"" + v2 + "\".containerd.default_runtime]\nruntime_type = \"io.containerd.runc.v2\"\n",
			target: "main", systemd: true,
		},
	}
	for _, engine := range containerds(t) {
		for _, tt := range tests {
			t.Run(engine.name+"/"+tt.name, func(t *testing.T) {
				root := t.TempDir()
				at := func(name string) string { return filepath.Join(root, "etc/containerd", name) }
				write := func(name, text string) {
					if text != "" {
						require.NoError(t, os.MkdirAll(filepath.Dir(name), 0o755))
						require.NoError(t, os.WriteFile(name, []byte(text), 0o755))
					}
				}
				main := strings.ReplaceAll(tt.main, "@", at(""))
				write(at("config.toml"), main)
				write(at("conf.d/50.toml"), tt.imported)
				write(filepath.Join(root, "usr/bin/nvidia-container-runtime.experimental"), "#!/bin/sh\n")
				data, err := os.ReadFile(engine.program)
				require.NoError(t, err)
				write(filepath.Join(root, "usr/bin/containerd"), string(data))

				// Files that containerd imports by their path on this machine exist inside the
				// root, too.
				inside := filepath.Join(root, root)
				require.NoError(t, os.MkdirAll(filepath.Dir(inside), 0o755))
				require.NoError(t, os.Symlink("/", inside))

				dump := func() (map[string]any, error) { return engine.dump(at("config.toml")) }
				configure := func(args ...string) (string, error) {
					target := "/etc/containerd/config.toml"
					if tt.target == "imported" {
						target = at("conf.d/50.toml")
					}
					args = append([]string{"configure", "containerd", "--root", root, "--config", target}, args...)
					out, err := exec.Command(filepath.Join(programs.dir, "nvsysfs"), args...).CombinedOutput()
					return string(out), err
				}
				if _, err := dump(); err != nil && main != "" {
					assert.Contains(t, tt.fails, engine.major, "containerd rejects the original file: %v", err)
					return
				}
				out, err := configure("--set-as-default")
				if why, fails := tt.fails[engine.major]; fails && why != "" {
					require.Error(t, err, "%s", out)
					assert.Contains(t, out, why)
					return
				}
				if tt.fails[engine.major] == "" && len(tt.fails) > 0 && engine.major == "1" {
					return // this containerd cannot read the file
				}
				require.NoError(t, err, "%s", out)
				after, err := dump()
				require.NoError(t, err, "containerd rejects the written file")
				cri := criTable(after)
				require.NotNil(t, cri)
				assert.Equal(t, "nvidia-experimental", cri["default_runtime_name"])
				runtimes, _ := cri["runtimes"].(map[string]any)
				entry, _ := runtimes["nvidia-experimental"].(map[string]any)
				options, _ := entry["options"].(map[string]any)
				assert.Equal(t, "io.containerd.runc.v2", entry["runtime_type"])
				assert.Equal(t, "/usr/bin/nvidia-container-runtime.experimental", options["BinaryName"])
				if tt.systemd {
					assert.Equal(t, true, options["SystemdCgroup"])
				}
				assert.Contains(t, runtimes, "runc", "the built-in runtime is still there")
				if table, ok := cri["default_runtime"].(map[string]any); ok && table["runtime_type"] != "" {
					options, _ := table["options"].(map[string]any)
					assert.Equal(t, "/usr/bin/nvidia-container-runtime.experimental", options["BinaryName"])
				}

				out, err = configure("--remove")
				require.NoError(t, err, "%s", out)
				for name, want := range map[string]string{at("config.toml"): main, at("conf.d/50.toml"): tt.imported} {
					got, _ := os.ReadFile(name)
					assert.Equal(t, want, string(got), name)
				}
			})
		}
	}
}

// containerdProgram is a containerd under test.
type containerdProgram struct{ name, major, program string }

// containerds returns the versions of containerd that machines have: Debian's, the last 1.7 and a
// current one.
func containerds(t *testing.T) []containerdProgram {
	t.Helper()
	old, err := builtOldContainerd()
	if err != nil {
		need.Missing(t, "containerd %s: %v", oldContainerd, err)
	}
	return []containerdProgram{
		{"1.6", "1", need.Program(t, "containerd")},
		{"1.7", "1", old},
		{"2", "2", filepath.Join(currentContainerd(t), "bin", "containerd")},
	}
}

// dump returns what containerd reads from a configuration.
func (c containerdProgram) dump(config string) (map[string]any, error) {
	out, err := exec.Command(c.program, "--config", config, "config", "dump").Output()
	if err != nil {
		return nil, err
	}
	tree := map[string]any{}
	return tree, toml.Unmarshal(out, &tree)
}

// TestContainerdReadsDistributions turns templates and drop-ins into configurations for containerd
// as k3s, RKE2, MicroK8s and k0s do, and checks what each containerd reads from them before and
// after nvsysfs configure, and after --remove.
func TestContainerdReadsDistributions(t *testing.T) {
	need.Root(t)
	require.NoError(t, builtNvsysfs())
	archive, err := txtar.ParseFile("../configure/testdata/kubernetes.txtar")
	require.NoError(t, err)
	cases := map[string]string{"k0s_managed.toml": "# k0s_managed=true\nversion = 2\n[plugins.\"io.containerd.grpc.v1.cri\".containerd.runtimes.runc]\n" +
		"runtime_type = \"io.containerd.runc.v2\"\n"}
	for _, f := range archive.Files {
		cases[f.Name] = string(f.Data)
	}
	// rendered executes a template as k3s and RKE2 do, whose own template is the one named base.
	rendered := func(text, base string) string {
		all := template.Must(template.New("file").Parse(text))
		template.Must(all.New("base").Parse(base))
		var out strings.Builder
		node := map[string]any{"SELinux": false, "Containerd": map[string]any{"Opt": "/opt"}, "AgentConfig": map[string]any{"PauseImage": "pause"}}
		require.NoError(t, all.ExecuteTemplate(&out, "file", map[string]any{"NodeConfig": node, "IsRunningInUserNS": false}))
		return out.String()
	}
	const k3s, rke2 = "var/lib/rancher/k3s/agent/etc/containerd/", "var/lib/rancher/rke2/agent/etc/containerd/"
	for _, tt := range []struct {
		name  string
		files map[string]string // path to file of the archive
		main  string            // file from which containerd's is made; if it does not exist, base alone is used
		base  string
		args  []string
		major string // "" for every containerd
	}{
		{name: "k3s template", files: map[string]string{k3s + "config.toml": "k3s.toml"}, main: k3s + "config.toml.tmpl", base: "k3s.toml", args: []string{"--template"}},
		{
			name: "custom k3s template", files: map[string]string{k3s + "config.toml": "k3s-v3.toml", k3s + "config-v3.toml.tmpl": "k3s-own.tmpl"},
			main: k3s + "config-v3.toml.tmpl", base: "k3s-v3.toml", args: []string{"--template"}, major: "2",
		},
		{name: "k3s drop-in", files: map[string]string{k3s + "config.toml": "k3s-v3.toml"}, main: k3s + "config.toml", major: "2"},
		{name: "RKE2 template", files: map[string]string{rke2 + "config.toml.tmpl": "rke2.tmpl"}, main: rke2 + "config.toml.tmpl", args: []string{"--template"}},
		{
			name: "MicroK8s template", files: map[string]string{"var/snap/microk8s/current/args/containerd-template.toml": "microk8s.toml"},
			main: "var/snap/microk8s/current/args/containerd-template.toml",
		},
		{name: "k0s drop-in", files: map[string]string{"etc/k0s/containerd.toml": "k0s_managed.toml"}, main: "etc/k0s/containerd.toml"},
	} {
		for _, engine := range containerds(t) {
			if tt.major != "" && tt.major != engine.major {
				continue
			}
			t.Run(tt.name+"/"+engine.name, func(t *testing.T) {
				root := t.TempDir()
				write := func(name, text string) {
					require.NoError(t, os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o755))
					require.NoError(t, os.WriteFile(filepath.Join(root, name), []byte(text), 0o755))
				}
				for name, file := range tt.files {
					require.Contains(t, cases, file)
					write(name, cases[file])
				}
				write("usr/bin/nvidia-container-runtime.experimental", "#!/bin/sh\n")
				runtimes := func() map[string]any {
					data, err := os.ReadFile(filepath.Join(root, tt.main))
					if errors.Is(err, fs.ErrNotExist) {
						data, err = []byte(cases[tt.base]), nil // there is no template
					}
					require.NoError(t, err)
					text := rendered(string(data), cases[tt.base])
					// k0s itself merges the files in its directory, and containerd gets a single
					// file.
					dropIns, err := filepath.Glob(filepath.Join(root, "etc/k0s/containerd.d/*.toml"))
					require.NoError(t, err)
					for _, name := range dropIns {
						data, err := os.ReadFile(name)
						require.NoError(t, err)
						text = mergedTOML(t, text, string(data))
					}
					text = strings.NewReplacer("${SNAPSHOTTER}", "overlayfs", "${RUNTIME}", "runc", "${RUNTIME_TYPE}", "io.containerd.runc.v2",
						"[\"/var/lib/rancher", "[\""+root+"/var/lib/rancher").Replace(text)
					write("made.toml", text)
					tree, err := engine.dump(filepath.Join(root, "made.toml"))
					require.NoError(t, err, "%s", text)
					list, _ := criTable(tree)["runtimes"].(map[string]any)
					return list
				}
				configure := func(args ...string) {
					args = append([]string{"configure", "containerd", "--root", root}, args...)
					out, err := exec.Command(filepath.Join(programs.dir, "nvsysfs"), args...).CombinedOutput()
					require.NoError(t, err, "%s", out)
				}
				before := runtimes()
				assert.NotContains(t, before, "nvidia-experimental")
				configure(tt.args...)
				after := runtimes()
				entry, _ := after["nvidia-experimental"].(map[string]any)
				options, _ := entry["options"].(map[string]any)
				assert.Equal(t, "io.containerd.runc.v2", entry["runtime_type"])
				assert.Equal(t, "/usr/bin/nvidia-container-runtime.experimental", options["BinaryName"])
				delete(after, "nvidia-experimental")
				assert.Equal(t, before, after)
				configure(append(tt.args, "--remove")...)
				assert.Equal(t, before, runtimes())
			})
		}
	}
}

// mergedTOML merges more into text, table by table.
func mergedTOML(t *testing.T, text, more string) string {
	t.Helper()
	var into, from map[string]any
	require.NoError(t, toml.Unmarshal([]byte(text), &into))
	require.NoError(t, toml.Unmarshal([]byte(more), &from))
	var merge func(into, from map[string]any)
	merge = func(into, from map[string]any) {
		for key, value := range from {
			have, isTable := into[key].(map[string]any)
			if table, ok := value.(map[string]any); ok && isTable {
				merge(have, table)
				continue
			}
			into[key] = value
		}
	}
	merge(into, from)
	out, err := toml.Marshal(into)
	require.NoError(t, err)
	return string(out)
}

// criTable returns the CRI plugin's table in the output of "containerd config dump".
func criTable(tree map[string]any) map[string]any {
	plugins, _ := tree["plugins"].(map[string]any)
	for _, name := range []string{"io.containerd.cri.v1.runtime", "io.containerd.grpc.v1.cri"} {
		if plugin, ok := plugins[name].(map[string]any); ok {
			if cri, ok := plugin["containerd"].(map[string]any); ok {
				return cri
			}
		}
	}
	return nil
}
