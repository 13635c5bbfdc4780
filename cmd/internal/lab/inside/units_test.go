// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package inside

import (
	"os"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// smi stands in for nvidia-smi and does what that must be allowed to do: open device nodes, and
// create missing ones.
const smi = `#!/bin/sh
{
	: </dev/nvidia0 && : </dev/nvidiactl && echo opened
	mknod /dev/nvidia-made c 195 7 && rm /dev/nvidia-made && echo made
} >/var/lib/nvidia-container-runtime/smi 2>&1
case $1 in
-L) echo "GPU 0: Tesla T4 (UUID: GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245)" ;;
-q) cat <<END
==============NVSMI LOG==============

Attached GPUs : 1
GPU 00000000:00:1E.0
    GPU UUID : GPU-fef8089b-2c1e-4b57-9d3a-61f0c8a7e245
END
	;;
esac
`

// TestUnits checks that the package's units work within the sandbox that they define.
func TestUnits(t *testing.T) {
	t.Run("nvsysfs-learn asks nvidia-smi", func(t *testing.T) {
		const program = "/usr/bin/nvidia-smi"
		before, err := os.ReadFile(program)
		require.NoError(t, err)
		t.Cleanup(func() { assert.NoError(t, os.WriteFile(program, before, 0o755)) })
		require.NoError(t, os.WriteFile(program, []byte(smi), 0o755))
		for _, unit := range []string{"nvsysfs-learn.service", "nvsysfs-learn-changed.service"} {
			must(t, "systemctl", "start", unit)
		}
		const dir = "/var/lib/nvidia-container-runtime"
		got, err := os.ReadFile(dir + "/smi")
		require.NoError(t, err)
		assert.Equal(t, "opened\nmade\n", string(got))
		got, err = os.ReadFile(dir + "/mig.learnt")
		require.NoError(t, err)
		assert.Equal(t, must(t, "nvsysfs", "learn", "--dry-run"), string(got))
	})
	t.Run("nvsysfs-cdi writes the CDI file", func(t *testing.T) {
		must(t, "systemctl", "start", "nvsysfs-cdi.service")
		defer must(t, "rm", "/run/cdi/nvidia.yaml")
		got, err := os.ReadFile("/run/cdi/nvidia.yaml")
		require.NoError(t, err)
		assert.Equal(t, must(t, "nvsysfs", "cdi", "generate"), string(got))
	})
	for _, unit := range []string{"nvsysfs-learn.service", "nvsysfs-learn-changed.service", "nvsysfs-cdi.service"} {
		t.Run("systemd-analyze security of "+unit, func(t *testing.T) {
			m := regexp.MustCompile(`Overall exposure level for \S+: (\d+\.\d)`).FindStringSubmatch(must(t, "systemd-analyze", "security", "--no-pager", unit))
			require.NotNil(t, m)
			exposure, err := strconv.ParseFloat(m[1], 64)
			require.NoError(t, err)
			assert.LessOrEqual(t, exposure, 4.5)
		})
	}
}

// TestDoctor checks that nvsysfs doctor succeeds on the machine, and that no links in /dev/char are
// needed.
func TestDoctor(t *testing.T) {
	for _, level := range levels {
		t.Run(level, func(t *testing.T) {
			lowLevel(t, level)
			assert.Regexp(t, `(?m)^ok +char-links +`+level+` version \S+ needs no links in /dev/char with systemd \d+`, must(t, "nvsysfs", "doctor"))
		})
	}
}
