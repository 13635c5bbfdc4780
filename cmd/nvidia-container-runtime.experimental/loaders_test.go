// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"debug/elf"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures/elfstub"
)

// TestLoadersFindTheDriver checks that the loaders of other releases, in root trees made by
// ldcache/testdata/glibc-trees.sh, find each of the driver's libraries by SONAME: immediately and
// after their own ldconfig, with the LD_LIBRARY_PATH of CUDA images, and with and without a cache
// and an include line in ld.so.conf. When the driver is gone, as in an image committed from the
// container, ldconfig still works and does not list it.
func TestLoadersFindTheDriver(t *testing.T) {
	need.Root(t)
	trees := os.Getenv("GLIBC_TREES")
	if trees == "" {
		need.Missing(t, "GLIBC_TREES: root trees of other releases (see ldcache/testdata/glibc-trees.sh)")
	}
	names, err := filepath.Glob(filepath.Join(trees, "*", ".complete"))
	require.NoError(t, err)
	require.NotEmpty(t, names, "GLIBC_TREES is set but contains no tree")
	for _, name := range names {
		for variant, change := range map[string]func(t *testing.T, tree string){
			"as it is": func(*testing.T, string) {},
			"no cache": func(t *testing.T, tree string) {
				require.NoError(t, os.RemoveAll(filepath.Join(tree, "etc/ld.so.cache")))
			},
			"no include": func(t *testing.T, tree string) {
				require.NoError(t, os.WriteFile(filepath.Join(tree, "etc/ld.so.conf"), []byte("/usr/local/lib\n"), 0o644))
			},
		} {
			t.Run(filepath.Base(filepath.Dir(name))+"/"+variant, func(t *testing.T) {
				w := &world{t: t, runtime: lowLevel{name: "true", path: need.Program(t, "true")}, bundle: t.TempDir(), id: "id"}
				w.machine, w.rootfs, w.state = filepath.Join(w.bundle, "machine"), filepath.Join(w.bundle, "rootfs"), filepath.Join(w.bundle, "state")
				w.unpack("t4")
				copyAll(t, filepath.Dir(name), w.rootfs)
				inTree := func(env []string, args ...string) string {
					cmd := exec.Command(args[0], args[1:]...)
					cmd.Dir, cmd.Env, cmd.SysProcAttr = "/", env, &syscall.SysProcAttr{Chroot: w.rootfs}
					out, err := cmd.CombinedOutput()
					require.NoError(t, err, "%s", out)
					return string(out)
				}
				if is32Bit(t, filepath.Join(w.rootfs, "sbin/ldconfig")) {
					t.Log("not every kernel runs 32-bit programs, and this tree's ldconfig is one")
					return
				}
				inTree(nil, "/sbin/ldconfig")
				change(t, w.rootfs)
				w.config("true", allCapabilities, nil)
				out, err := w.do("create", "--bundle", w.bundle, w.id)
				require.NoError(t, err, "%s", out)

				// Copy what the low-level runtime would mount.
				data, err := os.ReadFile(filepath.Join(w.bundle, "config.json"))
				require.NoError(t, err)
				var spec specs.Spec
				require.NoError(t, json.Unmarshal(data, &spec))
				at := slices.IndexFunc(spec.Mounts, func(m specs.Mount) bool { return m.Destination == plan.Dir })
				require.GreaterOrEqual(t, at, 0)
				copyAll(t, spec.Mounts[at].Source, filepath.Join(w.rootfs, plan.Dir))

				entries, err := os.ReadDir(spec.Mounts[at].Source)
				require.NoError(t, err)
				needed, want := []string{"libc.so.6"}, map[string]string{}
				for _, e := range entries {
					// libGLX_indirect.so.0 is another name of libGLX_nvidia.so.0, which is loaded
					// only once.
					if soname := e.Name(); strings.HasPrefix(soname, "lib") && soname != "libGLX_indirect.so.0" && strings.Contains(soname, ".so.") && (!e.Type().IsRegular() || strings.HasSuffix(soname, "eglcore.so.550.54.15")) {
						needed = append(needed, soname)
						want[soname] = filepath.Join(plan.Dir, soname)
					}
				}
				require.Greater(t, len(want), 20)
				probe, err := elfstub.File{Machine: elf.EM_X86_64, SONAME: "probe.so", Needed: needed}.Encode()
				require.NoError(t, err)
				require.NoError(t, os.WriteFile(filepath.Join(w.rootfs, "probe.so"), probe, 0o755))
				found := func(env ...string) map[string]string {
					libraries := map[string]string{}
					for line := range strings.Lines(inTree(env, "/lib64/ld-linux-x86-64.so.2", "--list", "/probe.so")) {
						if library, rest, ok := strings.Cut(strings.TrimSpace(line), " => "); ok && library != "libc.so.6" {
							libraries[library], _, _ = strings.Cut(rest, " (")
						}
					}
					return libraries
				}
				cuda := "LD_LIBRARY_PATH=/usr/local/nvidia/lib:/usr/local/nvidia/lib64"
				assert.Equal(t, want, found())
				assert.Equal(t, want, found(cuda))
				assert.Contains(t, inTree(nil, "/sbin/ldconfig", "-p"), "libcuda.so.1 (libc6,x86-64) => "+plan.Dir+"/libcuda.so.1\n")
				inTree(nil, "/sbin/ldconfig")
				assert.Equal(t, want, found())
				assert.Equal(t, want, found(cuda))

				require.NoError(t, os.RemoveAll(filepath.Join(w.rootfs, plan.Dir)))
				inTree(nil, "/sbin/ldconfig")
				assert.NotContains(t, inTree(nil, "/sbin/ldconfig", "-p"), "libcuda")
			})
		}
	}
}

func is32Bit(t *testing.T, name string) bool {
	t.Helper()
	f, err := elf.Open(name)
	require.NoError(t, err)
	defer f.Close()
	return f.Class == elf.ELFCLASS32
}

// copyAll copies a directory with all attributes.
func copyAll(t *testing.T, from, to string) {
	t.Helper()
	out, err := exec.Command("cp", "-aT", from, to).CombinedOutput()
	require.NoError(t, err, "%s", out)
}
