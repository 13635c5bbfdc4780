// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"path/filepath"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// TestFilesHaveTheContainersLabel checks that files that a start creates for a container have its
// SELinux label: with its categories in the bundle, and without them in the directory that several
// containers mount. Without SELinux, the kernel lets root set any label.
func TestFilesHaveTheContainersLabel(t *testing.T) {
	need.Root(t)
	const shared = "system_u:object_r:container_file_t:s0"
	files := []string{"10-container.conf", "etc-vulkansc-icd.d-nvidia_icd.x86_64.json", "icd.d-nvidia_icd.x86_64.json"}
	for _, tt := range []struct{ way, prefix, label string }{
		{"directory", "", shared},
		{"mounts", "nvidia-", shared + ":c1,c2"},
	} {
		t.Run(tt.way, func(t *testing.T) {
			w := newWorld(t, lowLevel{name: "none", path: need.Program(t, "true")}, "fedora-negativo17", "fedora")
			w.configToml(ways[tt.way])
			w.config("true", allCapabilities, func(s *specs.Spec) { s.Linux.MountLabel = shared + ":c1,c2" })
			out, err := w.do("create", "--bundle", w.bundle, w.id)
			require.NoError(t, err, "%s", out)

			made, err := filepath.Glob(filepath.Join(w.bundle, "nvidia-*"))
			require.NoError(t, err)
			inDirectory, err := filepath.Glob(filepath.Join(w.machine, "usr/lib/nvidia-container-runtime/boot-*/*/share/*"))
			require.NoError(t, err)
			want, got := map[string]string{}, map[string]string{}
			for _, name := range files {
				want[tt.prefix+name] = tt.label
			}
			for _, name := range append(made, inDirectory...) {
				var label [256]byte
				// Hard links to the host's own files have no label.
				n, _ := unix.Lgetxattr(name, "security.selinux", label[:])
				if n > 0 {
					got[filepath.Base(name)] = string(label[:n])
				}
			}
			assert.Equal(t, want, got)
		})
	}
}
