// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// A container with a library of the driver open is checkpointed and restored, from the config.json
// of its start and from one as an engine writes it; with another driver it is not restored.
func TestContainerIsRestored(t *testing.T) {
	const script = "exec </dev/null >/dev/null 2>&1 3</usr/lib/x86_64-linux-gnu/libcuda.so.1 sleep 1000"
	criu := need.CRIU(t)
	for _, r := range lowLevels(t) {
		if r.name == "crun" {
			r.path = filepath.Join(criu, "crun")
		}
		for way, text := range ways {
			t.Run(r.name+"/"+way, func(t *testing.T) {
				w := newWorld(t, r, "t4", "debian")
				w.runtime.wrapper = inCgroup(t, w.id, r.wrapper)
				w.configToml(text)
				w.environ = []string{"PATH=" + criu + ":" + os.Getenv("PATH")}
				config := func() { w.config(script, []string{"NVIDIA_VISIBLE_DEVICES=0"}, nil) }
				images := filepath.Join(w.bundle, "images")
				restore := func() (string, error) {
					return w.do("restore", "--detach", "--image-path", images, "--bundle", w.bundle, w.id)
				}
				config()
				require.NoError(t, w.command("run", "--detach", "--bundle", w.bundle, w.id).Run())
				t.Cleanup(func() {
					out, err := w.do("delete", "--force", w.id)
					assert.NoError(t, err, "%s", out)
				})
				const seen = look + "probe libcuda.so.1; readlink -f /proc/1/fd/3"
				before := w.inside(seen)
				require.Contains(t, before, "/libcuda.so.550.54.15\n")
				for _, engine := range []func(){func() {}, config} {
					require.NoError(t, os.RemoveAll(images))
					require.NoError(t, os.Mkdir(images, 0o755))
					out, err := w.do("checkpoint", "--image-path", images, w.id)
					require.NoError(t, err, "%s", out)
					engine()
					out, err = restore()
					require.NoError(t, err, "%s", out)
					assert.Equal(t, before, w.inside(seen))
				}
				out, err := w.do("checkpoint", "--image-path", images, w.id)
				require.NoError(t, err, "%s", out)
				w.unpack("driver-595")
				out, err = restore()
				require.Error(t, err)
				assert.Contains(t, out, "it was checkpointed with driver 550.54.15")
			})
		}
	}
}

// inCgroup returns a wrapper that enters a cgroup of the unified hierarchy before it runs another
// one, if any. crun leaves processes where they are in the unified hierarchy of a hybrid one, and
// CRIU saves and restores all cgroups below the one of the processes.
func inCgroup(t *testing.T, name string, wrapper []string) []string {
	t.Helper()
	if wrapper == nil {
		return nil
	}
	dir := filepath.Join("/sys/fs/cgroup/unified", name)
	require.NoError(t, os.Mkdir(dir, 0o755))
	t.Cleanup(func() {
		// A killed process needs a moment to be gone.
		assert.Eventually(t, func() bool { return os.Remove(dir) == nil }, time.Minute, 50*time.Millisecond)
	})
	return append([]string{"sh", "-c", `echo $$ >"$0/cgroup.procs" && exec "$@"`, dir}, wrapper...)
}
