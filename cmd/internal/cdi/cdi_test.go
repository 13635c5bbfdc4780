// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"encoding/json"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	oci "github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
)

// usual has the options without any flags.
var usual = Options{Vendor: "nvidia.com", Class: "gpu", Names: []string{ByIndex, ByUUID}, Capabilities: []string{"all"}}

func parts(t testing.TB, dir string, o Options) (plan.Survey, error) {
	t.Helper()
	cfg := plan.DefaultConfig()
	cfg.Sysroot = dir
	if o.DriverRoot != "" {
		cfg.DriverRoot = o.DriverRoot
	}
	classes, err := o.Classes()
	require.NoError(t, err)
	p, err := plan.ReadSurvey(cfg, classes, "", o.Extras...)
	if err == nil {
		err = p.Err()
	}
	return p, err
}

// made returns the CDI file of a fixture.
func made(t testing.TB, fixture string) File {
	t.Helper()
	p, err := parts(t, need.Machine(t, fixture, false), usual)
	require.NoError(t, err)
	f, _, err := Make(p, usual)
	require.NoError(t, err)
	return f
}

// TestEveryMachine generates a CDI file for every fixture with a usable driver, and checks that the
// engines' own CDI library reads back what was written.
func TestEveryMachine(t *testing.T) {
	described := 0
	for _, fixture := range fixtures.Names() {
		t.Run(fixture, func(t *testing.T) {
			dir := need.Machine(t, fixture, false)
			o := usual
			if _, err := os.Stat(filepath.Join(dir, "run/nvidia/driver")); err == nil {
				o.DriverRoot = "/run/nvidia/driver"
			}
			p, err := parts(t, dir, o)
			if err != nil {
				t.Logf("not described: %v", err)
				return
			}
			described++
			for _, asJSON := range []bool{false, true} {
				f, _, err := Make(p, o)
				require.NoError(t, err)
				f.JSON = asJSON
				data, err := f.Encode()
				require.NoError(t, err)

				again, _, err := Make(p, o)
				require.NoError(t, err)
				again.JSON = asJSON
				same, err := again.Encode()
				require.NoError(t, err)
				assert.Equal(t, string(data), string(same), "the same machine gives the same bytes")

				file := filepath.Join(t.TempDir(), "nvidia.yaml")
				written, err := Write(file, data, false)
				require.NoError(t, err)
				assert.True(t, written)
				theirs, err := cdi.ReadSpec(file, 0)
				require.NoError(t, err)
				got, _, err := Read("/", file, os.Geteuid())
				require.NoError(t, err)
				assert.False(t, got.Edited())
				assert.Equal(t, f.Record, got.Record)
				f.Spec, err = f.Versioned()
				require.NoError(t, err)
				assert.Equal(t, f, got)
				assert.Empty(t, Compare(got, f))
				least, err := specs.MinimumRequiredVersion(theirs.Spec)
				require.NoError(t, err)
				assert.Equal(t, least, theirs.Version)
				checkContainer(t, p, theirs)
			}
		})
	}
	assert.Greater(t, described, 20)
}

// checkContainer lets the engines' CDI library add all devices to a container. The container must
// get the device nodes that the runtime would add and the driver's files, but no host directory
// except that of MPS.
func checkContainer(t *testing.T, p plan.Survey, spec *cdi.Spec) {
	t.Helper()
	container := &oci.Spec{Process: &oci.Process{Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}}}
	require.NoError(t, spec.ApplyEdits(container))
	require.NoError(t, spec.GetDevice("all").ApplyEdits(container))
	assert.Nil(t, container.Hooks)
	assert.Equal(t, []string{"NVIDIA_VISIBLE_DEVICES=void"}, container.Process.Env)

	cfg := plan.DefaultConfig()
	cfg.Sysroot = string(p.Root)
	survey, err := plan.ReadSurvey(cfg, driver.All, "")
	require.NoError(t, err)
	var want, got []string
	for _, n := range survey.AllNodes() {
		want = append(want, nodeText(&specs.DeviceNode{Path: n.Path, Type: "c", Major: int64(n.Major), Minor: int64(n.Minor)}).text+n.Path)
	}
	for _, d := range container.Linux.Devices {
		got = append(got, nodeText(&specs.DeviceNode{Path: d.Path, Type: d.Type, Major: d.Major, Minor: d.Minor}).text+d.Path)
	}
	slices.Sort(got)
	slices.Sort(want)
	assert.Equal(t, want, got)

	places := map[string]bool{}
	for _, m := range container.Mounts {
		assert.False(t, places[m.Destination], m.Destination)
		places[m.Destination] = true
		info, err := os.Lstat(m.Source)
		require.NoError(t, err)
		assert.Zero(t, info.Mode()&fs.ModeSymlink, "%s", m.Source)
		assert.False(t, info.IsDir() && !strings.Contains(m.Source, "mps"), m.Source)
	}
	for _, f := range p.Files {
		if f.Kind == driver.Library {
			assert.True(t, places[filepath.Join(map[int]string{32: cudaDir32, 64: cudaDir}[f.Bits], f.Subdir, f.SONAME)], f.SONAME)
		} else {
			assert.True(t, places[f.Dest], f.Dest)
		}
	}
}

// TestGroups checks that additional groups need CDI 0.7.0, and are left out with a note if that is
// too new.
func TestGroups(t *testing.T) {
	p, err := parts(t, need.Machine(t, "t4", false), usual)
	require.NoError(t, err)
	p.Devices[0].Nodes[0].GID, p.Devices[0].Nodes[0].Mode = 44, 0o660
	f, notes, err := Make(p, usual)
	require.NoError(t, err)
	assert.Empty(t, notes)
	assert.Equal(t, "0.7.0", f.Spec.Version)
	assert.Equal(t, []uint32{44}, f.Spec.Devices[0].ContainerEdits.AdditionalGIDs)
	assert.Empty(t, f.Spec.ContainerEdits.AdditionalGIDs)

	o := usual
	o.MaxVersion = "0.6.0"
	f, notes, err = Make(p, o)
	require.NoError(t, err)
	assert.Equal(t, []string{"non-root processes need the groups [44] for some device nodes, which CDI 0.6.0 cannot express"}, notes)
	assert.Equal(t, "0.5.0", f.Spec.Version)
}

// TestNames covers names that CDI does not allow, and duplicate names.
func TestNames(t *testing.T) {
	p, err := parts(t, need.Machine(t, "mixed-mig", false), usual)
	require.NoError(t, err)
	p.Devices[0].GPU.UUID = "GPU-????????-????-????-????-????????????"
	p.Devices[1].GPU.UUID = p.Devices[4].GPU.UUID
	f, notes, err := Make(p, usual)
	require.NoError(t, err)
	assert.Equal(t, []string{
		`no device is named "GPU-????????-????-????-????-????????????": CDI does not allow the name`,
		`two devices are named GPU-1af86d05-b3c2-97e4-5d78-f60c4ea91b32: only the first one can be requested by that name`,
	}, notes)
	_, err = f.Encode()
	require.NoError(t, err)
}

// TestGraphicsOfMIG checks that a GPU comes with its DRM nodes, and its MIG devices do not.
func TestGraphicsOfMIG(t *testing.T) {
	dir := need.Machine(t, "mixed-mig", false)
	drm := filepath.Join(dir, "sys/bus/pci/devices/0000:41:00.0/drm/card3")
	require.NoError(t, os.MkdirAll(drm, 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(drm, "dev"), []byte("226:3\n"), 0o644))
	p, err := parts(t, dir, usual)
	require.NoError(t, err)
	with := map[int]bool{}
	for _, part := range p.Devices {
		if part.GPU.Index == 1 {
			with[part.Rank] = slices.ContainsFunc(part.Nodes, func(n sysfs.Node) bool { return n.Path == "/dev/dri/card3" })
		}
	}
	assert.Equal(t, map[int]bool{-1: true, 0: false, 1: false}, with)
}

// TestDriverContainer checks that device nodes come from the driver container if it has any, and
// from the host otherwise.
func TestDriverContainer(t *testing.T) {
	dir := need.Machine(t, "driver-container", false)
	o := usual
	o.DriverRoot = "/run/nvidia/driver"
	p, err := parts(t, dir, o)
	require.NoError(t, err)
	assert.Equal(t, sysfs.Root(dir), p.DevRoot)
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "run/nvidia/driver/dev"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "run/nvidia/driver/dev/nvidiactl"), nil, 0o644))
	p, err = parts(t, dir, o)
	require.NoError(t, err)
	assert.Equal(t, sysfs.Root(dir+"/run/nvidia/driver"), p.DevRoot)
}

// TestHostNodes checks that a wrong device node on the host is reported once, however many devices
// have it.
func TestHostNodes(t *testing.T) {
	p, err := parts(t, need.Machine(t, "t4", false), usual)
	require.NoError(t, err)
	p.Common[1].Instead = "regular file"
	p.Devices[0].Nodes[0].Instead = "character device 1:2"
	_, notes, err := Make(p, usual)
	require.NoError(t, err)
	assert.Equal(t, []string{
		"the host's /dev/nvidia-uvm is a regular file, not character device 508:0: containers in user namespaces cannot use it",
		"the host's /dev/nvidia0 is a character device 1:2, not character device 195:0: containers in user namespaces cannot use it",
	}, notes)
}

// TestHostPaths checks that device nodes get a host path if those of the host are not below /.
func TestHostPaths(t *testing.T) {
	p, err := parts(t, need.Machine(t, "t4", false), usual)
	require.NoError(t, err)
	p.DevRoot = "/run/nvidia/driver"
	p.Common[0].OnHost = true
	f, _, err := Make(p, usual)
	require.NoError(t, err)
	assert.Equal(t, "/run/nvidia/driver/dev/nvidia-modeset", f.Spec.ContainerEdits.DeviceNodes[0].HostPath)
	assert.Empty(t, f.Spec.ContainerEdits.DeviceNodes[1].HostPath, "the host has none")
	p.DevRoot = "/"
	f, _, err = Make(p, usual)
	require.NoError(t, err)
	assert.Empty(t, f.Spec.ContainerEdits.DeviceNodes[0].HostPath)
}

func TestCompare(t *testing.T) {
	// Each side gets its own File: copies of a Spec share pointers.
	dir := need.Machine(t, "t4", false)
	describe := func() File {
		p, err := parts(t, dir, usual)
		require.NoError(t, err)
		f, _, err := Make(p, usual)
		require.NoError(t, err)
		return f
	}
	library := func(f *File) *specs.Mount {
		i := slices.IndexFunc(f.Spec.ContainerEdits.Mounts, func(m *specs.Mount) bool { return strings.HasSuffix(m.ContainerPath, "/libcuda.so.1") })
		return f.Spec.ContainerEdits.Mounts[i]
	}
	cuda := filepath.Join(dir, "usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15")
	for _, tt := range []struct {
		name   string
		change func(now *File)
		want   []Difference
	}{
		{"nothing", func(*File) {}, nil},
		{"driver", func(now *File) { now.Record.Driver = "1.2" }, []Difference{{What: "driver", File: "550.54.15", Now: "1.2"}}},
		{"version", func(now *File) { now.Spec.Version = "1.0.0" }, []Difference{{What: "version", File: "0.5.0", Now: "1.0.0"}}},
		{"kind", func(now *File) { now.Spec.Kind = "a/b" }, []Difference{{What: "kind", File: "nvidia.com/gpu", Now: "a/b"}}},
		{"environment", func(now *File) { now.Spec.ContainerEdits.Env = []string{"A=B"} }, []Difference{
			{What: "environment", Name: "NVIDIA_VISIBLE_DEVICES", File: `"void"`},
			{What: "environment", Name: "A", Now: `"B"`},
		}},
		{"major of a common node", func(now *File) { now.Spec.ContainerEdits.DeviceNodes[1].Major = 510 }, []Difference{
			{What: "node", Name: "/dev/nvidia-uvm", File: "508:0 mode 0666 group 0 rw", Now: "510:0 mode 0666 group 0 rw"},
		}},
		{"minor of a device's node, under each of its names", func(now *File) {
			for _, d := range now.Spec.Devices {
				d.ContainerEdits.DeviceNodes[0].Minor = 3
			}
		}, []Difference{{What: "node", Name: "/dev/nvidia0", File: "195:0 mode 0666 group 0 rw", Now: "195:3 mode 0666 group 0 rw"}}},
		{"another type of node", func(now *File) { now.Spec.ContainerEdits.DeviceNodes[1].Type = "b" }, []Difference{
			{What: "node", Name: "/dev/nvidia-uvm", File: "508:0 mode 0666 group 0 rw", Now: `"b" 508:0 mode 0666 group 0 rw`},
		}},
		{"host path of a node", func(now *File) { now.Spec.ContainerEdits.DeviceNodes[1].HostPath = "/a" }, []Difference{
			{What: "node", Name: "/dev/nvidia-uvm", File: "508:0 mode 0666 group 0 rw", Now: "508:0 mode 0666 group 0 rw from /a"},
		}},
		{"host path of a mount", func(now *File) { library(now).HostPath = "/a" }, []Difference{
			{What: "mount", Name: "/usr/local/nvidia/lib64/libcuda.so.1", File: cuda, Now: "/a"},
		}},
		{"mount options", func(now *File) { library(now).Options = []string{"rw"} }, []Difference{
			{What: "mount", Name: "/usr/local/nvidia/lib64/libcuda.so.1", File: cuda, Now: cuda + " (rw)"},
		}},
		{"devices", func(now *File) { now.Spec.Devices[0].Name = "1" }, []Difference{
			{What: "device", Name: "0", File: "/dev/nvidia0"},
			{What: "device", Name: "1", Now: "/dev/nvidia0"},
		}},
		{"groups", func(now *File) { now.Spec.Devices[0].ContainerEdits.AdditionalGIDs = []uint32{44, 107} }, []Difference{{What: "groups", Now: "44 107"}}},
		{"hooks", func(now *File) { now.Spec.ContainerEdits.Hooks = []*specs.Hook{{}} }, []Difference{{What: "other edits", Now: "1 hooks"}}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			now := describe()
			tt.change(&now)
			assert.Equal(t, tt.want, Compare(describe(), now))
		})
	}
	edited := describe()
	edited.Spec.ContainerEdits.Env = nil
	assert.Equal(t, []Difference{{What: "file", Reason: "edited since it was written"}, {What: "environment", Name: "NVIDIA_VISIBLE_DEVICES", Now: `"void"`}}, Compare(edited, describe()))

	// The reasons for mounts of files that no longer belong to the driver.
	gone := describe()
	gone.Spec.ContainerEdits.Mounts = nil
	reason := func() string {
		for _, d := range Compare(describe(), gone) {
			if strings.HasSuffix(d.Name, "/libcuda.so.1") {
				return d.Reason
			}
		}
		return ""
	}
	assert.Equal(t, "exists, but no longer belongs to the driver", reason())
	old := describe()
	require.NoError(t, os.Remove(cuda))
	list := Compare(old, gone)
	assert.Contains(t, list, Difference{What: "mount", Name: "/usr/local/nvidia/lib64/libcuda.so.1", File: cuda, Reason: "no longer exists: containers cannot start"})
	require.NoError(t, os.Mkdir(cuda, 0o755))
	assert.Contains(t, Compare(old, gone), Difference{What: "mount", Name: "/usr/local/nvidia/lib64/libcuda.so.1", File: cuda, Reason: "is now a directory"})
}

// TestRecord checks that the file records every flag.
func TestRecord(t *testing.T) {
	o := Options{
		Root: "/a", DriverRoot: "/b c", Vendor: "example.com", Class: "x", Names: []string{ByType}, Capabilities: []string{"compute", "video"},
		LibraryDir: "/opt/l", LibraryDir32: "/opt/l32", MaxVersion: "0.6.0",
	}
	p, err := parts(t, need.Machine(t, "t4", false), usual)
	require.NoError(t, err)
	for _, asJSON := range []bool{false, true} {
		f, _, err := Make(p, o)
		require.NoError(t, err)
		f.JSON = asJSON
		data, err := f.Encode()
		require.NoError(t, err)
		got, err := Parse(data)
		require.NoError(t, err)
		assert.Equal(t, o, got.Record.Options)
		assert.Equal(t, asJSON, got.JSON)
	}
}

const minimal = "cdiVersion: 0.5.0\nkind: a.b/c\ndevices:\n  - name: \"0\"\n    containerEdits:\n      env: [A=B]\n"

func TestParse(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"good", minimal, ""},
		{"as JSON", `{"cdiVersion":"0.5.0","kind":"a.b/c","devices":[{"name":"0","containerEdits":{"env":["A=B"]}}]}`, ""},
		{"empty", "", "EOF"},
		{"null", "null\n", "it is empty"},
		{"comment", "# nothing\n", "EOF"},
		{"list", "[]", "cannot unmarshal"},
		{"truncated", minimal[:len(minimal)-3], "did not find expected"},
		{"unknown field", minimal + "gpus: []\n", "field gpus not found"},
		{"unknown version", strings.Replace(minimal, "0.5.0", "0.5.1", 1), "invalid version"},
		{"version too low", strings.Replace(minimal, "0.5.0", "0.3.0", 1), "must be at least v0.5.0"},
		{"no kind", strings.Replace(minimal, "a.b/c", "''", 1), "empty name"},
		{"no devices", "cdiVersion: 0.5.0\nkind: a.b/c\ndevices: []\n", "no devices"},
		{"odd name", strings.Replace(minimal, `"0"`, `"0/1"`, 1), "invalid character"},
		{"name twice", minimal + "  - name: \"0\"\n    containerEdits: {env: [A=B]}\n", "two devices have the name 0"},
		{"odd variable", strings.Replace(minimal, "A=B", "A", 1), "invalid environment variable"},
		{"empty node", strings.Replace(minimal, "env: [A=B]", "deviceNodes: [null]", 1), "an item of a list is empty"},
		{"empty mount", minimal + "containerEdits: {mounts: [null]}\n", "an item of a list is empty"},
		{"empty hook", minimal + "containerEdits: {hooks: [null]}\n", "an item of a list is empty"},
		{"empty network device", minimal + "containerEdits: {netDevices: [null]}\n", "an item of a list is empty"},
		{"node without a path", strings.Replace(minimal, "env: [A=B]", "deviceNodes: [{type: c}]", 1), "empty) device path"},
		{"device without edits", "cdiVersion: 0.5.0\nkind: a.b/c\ndevices: [{name: \"0\"}]\n", "the device 0 does nothing"},
		{"malformed options of ours", "# nvsysfs/fingerprint: x\n# nvsysfs/options: {\n" + minimal, "nvsysfs/options: unexpected EOF"},
		{"options of a later version", "# nvsysfs/fingerprint: x\n# nvsysfs/options: {\"new\":1}\n" + minimal, "unknown field"},
		{"missing options of ours", "# nvsysfs/fingerprint: x\n" + minimal, "nvsysfs/options: EOF"},
		{"invalid options of ours", "# nvsysfs/fingerprint: x\n# nvsysfs/options: {\"vendor\":\"a\",\"class\":\"b\",\"capabilities\":[]}\n" + minimal, "no driver capability given"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := Parse([]byte(tt.data))
			if tt.want == "" {
				require.NoError(t, err)
				assert.False(t, f.Ours())
				return
			}
			require.ErrorContains(t, err, tt.want)
			assert.Equal(t, File{}, f)
		})
	}
}

// TestRecordElsewhere checks that only the start of a file counts as a record.
func TestRecordElsewhere(t *testing.T) {
	for _, data := range []string{
		minimal + "# nvsysfs/fingerprint: x\n",
		strings.Replace(minimal, "A=B", `"# nvsysfs/fingerprint: x"`, 1),
		"\n# nvsysfs/fingerprint: x\n" + minimal,
	} {
		f, err := Parse([]byte(data))
		if err == nil {
			assert.False(t, f.Ours(), data)
		}
	}
}

func TestRead(t *testing.T) {
	dir := t.TempDir()
	write := func(name, data string, mode fs.FileMode) {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(data), 0o600))
		require.NoError(t, os.Chmod(filepath.Join(dir, name), mode))
	}
	write("good", minimal, 0o644)
	write("public", minimal, 0o646)
	write("huge", minimal+"#"+strings.Repeat("x", maxFile), 0o644)
	write("escapes", "\x1b[31m: \x07\n", 0o644)
	require.NoError(t, os.Mkdir(filepath.Join(dir, "directory"), 0o755))
	require.NoError(t, unix.Mkfifo(filepath.Join(dir, "pipe"), 0o644))
	require.NoError(t, os.Symlink("good", filepath.Join(dir, "link")))
	require.NoError(t, os.Symlink("loop", filepath.Join(dir, "loop")))
	for _, tt := range []struct{ name, want string }{
		{"good", ""},
		{"link", ""},
		{"missing", "no such file or directory"},
		{"public", "other users may write it (mode 0646)"},
		{"huge", "more than 1048576"},
		{"escapes", "control characters are not allowed"},
		{"directory", "not a regular file but a directory"},
		{"pipe", "not a regular file but a named pipe"},
		{"loop", "too many levels of symbolic links"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, data, err := Read("/", filepath.Join(dir, tt.name), os.Geteuid())
			if tt.want == "" {
				require.NoError(t, err)
				assert.Equal(t, minimal, string(data))
				return
			}
			require.ErrorContains(t, err, tt.want)
			assert.NotContains(t, err.Error(), dir, "the caller names it")
			assert.Equal(t, File{}, f)
			assert.Empty(t, data)
		})
	}
	t.Run("of another user", func(t *testing.T) {
		_, _, err := Read("/", filepath.Join(dir, "good"), os.Geteuid()+1)
		if os.Geteuid() == 0 {
			require.NoError(t, err, "files of root are trusted")
			return
		}
		require.ErrorContains(t, err, "it belongs to user")
	})
	t.Run("of another user, as root", func(t *testing.T) {
		need.Root(t)
		require.NoError(t, os.Chown(filepath.Join(dir, "good"), 65534, 0))
		_, _, err := Read("/", filepath.Join(dir, "good"), 0)
		require.ErrorContains(t, err, "it belongs to user 65534")
		require.NoError(t, os.Chown(filepath.Join(dir, "good"), 0, 65534))
		require.NoError(t, os.Chmod(filepath.Join(dir, "good"), 0o664))
		_, _, err = Read("/", filepath.Join(dir, "good"), 0)
		require.ErrorContains(t, err, "other users may write it (mode 0664)")
	})
}

func TestReadDirs(t *testing.T) {
	root, err := sysfs.NewRoot(t.TempDir())
	require.NoError(t, err)
	require.NoError(t, os.MkdirAll(root.Path("etc/cdi"), 0o755))
	for name, data := range map[string]string{"b.yaml": minimal, "a.json": "{", "c.yml": minimal, ".d.yaml": minimal, "e": minimal} {
		require.NoError(t, os.WriteFile(root.Path("etc/cdi/"+name), []byte(data), 0o644))
	}
	found, err := ReadDirs(root, Dirs, os.Geteuid())
	require.NoError(t, err)
	got := map[string]bool{}
	for _, f := range found {
		got[strings.TrimPrefix(f.Path, string(root))] = f.Err == nil
	}
	assert.Equal(t, map[string]bool{"/etc/cdi/.d.yaml": true, "/etc/cdi/a.json": false, "/etc/cdi/b.yaml": true}, got)

	require.NoError(t, os.RemoveAll(root.Path("etc/cdi")))
	require.NoError(t, os.WriteFile(root.Path("etc/cdi"), nil, 0o644))
	_, err = ReadDirs(root, Dirs, os.Geteuid())
	require.ErrorContains(t, err, "not a directory")
}

// TestWrite checks that a file is replaced in one step, and that no temporary file is left.
func TestWrite(t *testing.T) {
	f := made(t, "t4")
	data, err := f.Encode()
	require.NoError(t, err)
	dir := filepath.Join(t.TempDir(), "a", "cdi")
	file := filepath.Join(dir, "nvidia.yaml")
	names := func() []string {
		entries, err := os.ReadDir(dir)
		require.NoError(t, err)
		var list []string
		for _, e := range entries {
			list = append(list, e.Name())
		}
		return list
	}
	written, err := Write(file, data, false)
	require.NoError(t, err)
	assert.True(t, written)
	assert.Equal(t, []string{"nvidia.yaml"}, names())

	before, err := os.Stat(file)
	require.NoError(t, err)
	written, err = Write(file, data, false)
	require.NoError(t, err)
	assert.False(t, written)
	after, err := os.Stat(file)
	require.NoError(t, err)
	assert.True(t, os.SameFile(before, after))

	// A wrong mode is corrected.
	require.NoError(t, os.Chmod(file, 0o600))
	written, err = Write(file, data, false)
	require.NoError(t, err)
	assert.True(t, written)
	after, err = os.Stat(file)
	require.NoError(t, err)
	assert.Equal(t, fs.FileMode(0o644), after.Mode())

	// Data that is not a CDI file replaces nothing.
	_, err = Write(file, []byte("kind: x\n"), false)
	require.ErrorContains(t, err, "the result is not a valid CDI file")
	assert.Equal(t, []string{"nvidia.yaml"}, names())
	kept, err := os.ReadFile(file)
	require.NoError(t, err)
	assert.Equal(t, string(data), string(kept))
}

// TestMIGDeviceAlone checks that a MIG device comes with only its own nodes and that of its GPU,
// and without permission to create nodes.
func TestMIGDeviceAlone(t *testing.T) {
	f := made(t, "mixed-mig")
	data, err := f.Encode()
	require.NoError(t, err)
	file := filepath.Join(t.TempDir(), "nvidia.yaml")
	_, err = Write(file, data, false)
	require.NoError(t, err)
	spec, err := cdi.ReadSpec(file, 0)
	require.NoError(t, err)
	container := &oci.Spec{}
	require.NoError(t, spec.GetDevice("3:1").ApplyEdits(container))
	var got []string
	for _, d := range container.Linux.Devices {
		got = append(got, d.Path)
	}
	assert.Equal(t, []string{"/dev/nvidia-caps/nvidia-cap453", "/dev/nvidia-caps/nvidia-cap454", "/dev/nvidia3"}, got)
	for _, r := range container.Linux.Resources.Devices {
		assert.Equal(t, "rw", r.Access)
	}
}

// FuzzParse checks that Parse returns either an error and the zero value, or a file that the
// engines' CDI library accepts, too, and that survives a round trip.
func FuzzParse(f *testing.F) {
	f.Add([]byte(minimal))
	f.Add([]byte("# nvsysfs/fingerprint: x\n# nvsysfs/options: {\"vendor\":\"a\",\"class\":\"b\",\"names\":null,\"capabilities\":[\"all\"]}\n" + minimal))
	o := usual
	o.Capabilities = []string{"utility"}
	p, err := parts(f, need.Machine(f, "t4", false), o)
	require.NoError(f, err)
	for _, asJSON := range []bool{false, true} {
		file, _, err := Make(p, o)
		require.NoError(f, err)
		file.JSON = asJSON
		data, err := file.Encode()
		require.NoError(f, err)
		f.Add(data)
		f.Add(data[:len(data)/2])
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse(data)
		if err != nil {
			require.Equal(t, File{}, file)
			return
		}
		name := filepath.Join(dir, "f.yaml")
		require.NoError(t, os.WriteFile(name, data, 0o644))
		theirs, err := cdi.ReadSpec(name, 0)
		if err != nil {
			// Their library additionally validates annotations only.
			assert.Regexp(t, "nnotation|is invalid|too long", err.Error())
			return
		}
		a, err := json.Marshal(theirs.Devices)
		require.NoError(t, err)
		b, err := json.Marshal(file.Spec.Devices)
		require.NoError(t, err)
		require.Equal(t, string(a), string(b))
		if !file.Ours() || file.Edited() {
			return
		}
		encoded, err := file.Encode()
		if err != nil {
			return // its options do not allow the version that it needs
		}
		again, err := Parse(encoded)
		require.NoError(t, err)
		require.False(t, again.Edited())
		require.True(t, maps.Equal(file.Spec.Annotations, again.Spec.Annotations) || len(again.Spec.Annotations) == 0)
	})
}

// TestBare checks that errors.Is still works once the path is cut from an error.
func TestBare(t *testing.T) {
	_, _, err := Read("/", "/nonexistent/x", 0)
	require.ErrorIs(t, err, fs.ErrNotExist)
}
