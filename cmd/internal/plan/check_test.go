// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestCheck(t *testing.T) {
	const x = "[nvidia-container-runtime.experimental]\n"
	tests := []struct {
		name, in string
		want     []Finding // without the file name
	}{
		{name: "NVIDIA's own", in: "[nvidia-container-cli]\nldconfig = \"@/sbin/ldconfig\"\nuser = \"root:video\"\n[nvidia-container-runtime]\nmode = \"auto\"\n" +
			"[nvidia-container-runtime.modes.cdi]\nspec-dirs = []\n[nvidia-ctk]\npath = \"nvidia-ctk\"\n[features]\nallow-unknown-oci-spec-fields = true\n"},
		{name: "from the 2022 branch", in: x + "discover-mode = \"legacy\"\n"},
		{name: "keys of other programs", in: "[my-own]\nx = 1\n[nvidia-container-runtime.modes.cdi]\nanything = 1\n"},
		{
			name: "above the tables", in: "seccomp-fence = \"always\"\n",
			want: []Finding{{Line: 1, Text: "seccomp-fence has no effect above the first table: it belongs in [nvidia-container-runtime.experimental]"}},
		},
		{
			name: "in another table", in: "[nvidia-container-cli]\nruntimes = [\"crun\"]\nrefused-request = \"error\"\n",
			want: []Finding{
				{Line: 2, Text: "runtimes has no effect in [nvidia-container-cli]: it belongs in [nvidia-container-runtime]"},
				{Line: 3, Text: "refused-request has no effect in [nvidia-container-cli]: it belongs in [nvidia-container-runtime.experimental]"},
			},
		},
		{
			name: "misspelled", in: "accept-nvidia-visible-devices-envvar-when-unpriviledged = false\n[nvidia-container-cli]\nno_cgroup = true\n",
			want: []Finding{
				{Line: 1, Text: "accept-nvidia-visible-devices-envvar-when-unpriviledged has no effect: did you mean " +
					"accept-nvidia-visible-devices-envvar-when-unprivileged above the first table?"},
				{Line: 3, Text: "nvidia-container-cli.no_cgroup has no effect: did you mean no-cgroups in [nvidia-container-cli]?"},
			},
		},
		{
			name: "misspelled tables", in: "[nvidia-container-runtime.experimental-]\nrefused-request = \"error\"\n[nvidia-container-runtimes]\ndebug = \"/x\"\n[feature]\n",
			want: []Finding{
				{Line: 1, Text: "[nvidia-container-runtime.experimental-] has no effect: did you mean [nvidia-container-runtime.experimental]?"},
				{Line: 3, Text: "[nvidia-container-runtimes] has no effect: did you mean [nvidia-container-runtime]?"},
				{Line: 5, Text: "[feature] has no effect: did you mean [features]?"},
			},
		},
		{
			name: "unknown", in: x + "x = 1\n",
			want: []Finding{{Line: 2, Text: "nvidia-container-runtime.experimental.x has no effect: there is no such key"}},
		},
		{
			name: "values", in: "[nvidia-container-runtime]\nlog-level = \"verbose\"\nmodes.legacy.cuda-compat-mode = \"disable\"\n" + x + "library-search-path = [\"lib\"]\n",
			want: []Finding{
				{Line: 2, Text: `log-level "verbose" is none of "trace", "debug", "info", "warning", "error": it counts as info`},
				{Line: 3, Text: `cuda-compat-mode "disable" is none of "ldconfig", "mount", "hook", "disabled": an image's forward-compatibility libcuda is preferred where it is newer`},
				{Line: 5, Text: `library-search-path has "lib", which is not an absolute path`},
			},
		},
		{
			name: "a log in a missing directory", in: "[nvidia-container-runtime]\ndebug = \"/nonexistent/dir/log\"\n",
			want: []Finding{{Text: `debug = "/nonexistent/dir/log": its directory /nonexistent/dir: no such file or directory, so nothing is logged`}},
		},
		{
			name: "a log that is a directory", in: "[nvidia-container-runtime]\ndebug = \"/tmp\"\n",
			want: []Finding{{Text: `debug = "/tmp": it is a directory, so nothing is logged`}},
		},
		{
			name: "a log with a relative path", in: "[nvidia-container-runtime]\ndebug = \"log\"\n",
			want: []Finding{{Text: `debug = "log": it is not an absolute path, so nothing is logged`}},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "config.toml")
			require.NoError(t, os.WriteFile(file, []byte(tt.in), 0o600))
			c, err := LoadConfig("", []string{"NVIDIA_CTK_CONFIG_FILE_PATH=" + file})
			require.NoError(t, err)
			got, err := c.Check()
			require.NoError(t, err)
			for i := range got {
				assert.Equal(t, file, got[i].File)
				got[i].File = ""
			}
			assert.Equal(t, tt.want, got)
		})
	}
}
