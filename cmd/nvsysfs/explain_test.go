// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// newBundle creates a bundle with the image, whose container requests everything.
func newBundle(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	a, err := fixtures.Parse([]byte(image))
	require.NoError(t, err)
	_, err = a.Unpack(filepath.Join(dir, "rootfs"), fixtures.UnpackOptions{})
	require.NoError(t, err)
	need.Files(t, dir, map[string]string{
		// An earlier driver left this link, which the runtime would remove.
		"rootfs/usr/lib/x86_64-linux-gnu/libcuda.so.1": "-> libcuda.so.100.1",
		"config.json": `{"ociVersion":"1.0.2","process":{"user":{"uid":0,"gid":0},"args":["sh"],"cwd":"/",
			"env":["NVIDIA_VISIBLE_DEVICES=all","NVIDIA_DRIVER_CAPABILITIES=all","NVIDIA_MIG_MONITOR_DEVICES=all"],
			"capabilities":{"bounding":["CAP_SYS_ADMIN"]}},"root":{"path":"rootfs"},"linux":{"maskedPaths":[]}}`,
	})
	return dir
}

// TestExplainChangesNothing compares the bundle, its root filesystem and the machine before and
// after, timestamps included, for every fixture and with and without the driver directory.
func TestExplainChangesNothing(t *testing.T) {
	for _, name := range fixtures.Names() {
		t.Run(name, func(t *testing.T) {
			machine, dir := need.Machine(t, name, false), newBundle(t)
			config := filepath.Join(t.TempDir(), "config.toml")
			before, err := snapshot(machine)
			require.NoError(t, err)
			more, err := snapshot(dir)
			require.NoError(t, err)
			for _, way := range []string{"off", "always"} {
				require.NoError(t, os.WriteFile(config, []byte("nvidia-container-runtime.experimental.driver-directory = \""+way+"\"\n"), 0o600))
				var out, errs bytes.Buffer
				err = run([]string{"explain", "--bundle", dir, "--root", machine, "--systemd-cgroup"}, []string{"PATH=/usr/bin", "NVIDIA_CTK_CONFIG_FILE_PATH=" + config}, &out, &errs)
				if err == nil {
					assert.Contains(t, out.String(), "/dev/nvidiactl")
				} else {
					assert.Empty(t, out.String())
				}
				assert.Empty(t, errs.String())
			}
			after, err := snapshot(machine)
			require.NoError(t, err)
			moreAfter, err := snapshot(dir)
			require.NoError(t, err)
			assert.Equal(t, before, after)
			assert.Equal(t, more, moreAfter)
		})
	}
}

// TestExplainHost runs on the host itself, where the runtime would create nodes and links.
func TestExplainHost(t *testing.T) {
	machine := need.Machine(t, "t4", false)
	if !need.Host(t, machine) {
		return
	}
	dir := newBundle(t)
	before, err := snapshot("/dev")
	require.NoError(t, err)
	more, err := snapshot(dir)
	require.NoError(t, err)
	var out, errs bytes.Buffer
	require.NoError(t, run([]string{"explain", "--bundle", dir, "--systemd-cgroup"},
		[]string{"NVIDIA_CTK_CONFIG_FILE_PATH=/none", "NVIDIA_CONTAINER_RUNTIME_ROOT=" + machine}, &out, &errs))
	assert.Regexp(t, `\n  /dev/nvidia0 +195:0 +0666 +on the host: missing, would be created +GPU 0, 0000:00:1e.0\n`, out.String())
	assert.Regexp(t, `\n  /dev/char/195:0 +-> ../nvidia0 +would be created on the host\n`, out.String())
	after, err := snapshot("/dev")
	require.NoError(t, err)
	moreAfter, err := snapshot(dir)
	require.NoError(t, err)
	assert.Equal(t, before, after)
	assert.Equal(t, more, moreAfter)

	// doctor and info create none, either. They look for the low-level runtime on this machine.
	require.NoError(t, syscall.Mount("tmpfs", "/etc", "tmpfs", 0, ""))
	t.Setenv("PATH", "")
	for _, command := range [][]string{{"doctor"}, {"info", "-o", "wide"}} {
		out.Reset()
		_ = run(command, []string{"NVIDIA_CTK_CONFIG_FILE_PATH=/none", "NVIDIA_CONTAINER_RUNTIME_ROOT=" + machine}, &out, &errs)
		assert.Contains(t, out.String(), "/dev/nvidia0")
	}
	after, err = snapshot("/dev")
	require.NoError(t, err)
	assert.Equal(t, before, after)
	assert.Empty(t, errs.String())
}
