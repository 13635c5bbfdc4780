// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
)

// TestHostileEnvironment requests devices in ways that try to be slow, to forge messages or to get
// more than was granted. Each answer arrives, has a reasonable length, and contains nothing that a
// terminal would interpret.
func TestHostileEnvironment(t *testing.T) {
	many := func(item string, n int) string { return strings.Repeat(item+",", n-1) + item }
	var numbers []string
	for i := range 100_000 {
		numbers = append(numbers, fmt.Sprint(i))
	}
	var variables []string
	for i := range 100_000 {
		variables = append(variables, fmt.Sprintf("V%d=%d", i, i))
	}
	const v = "NVIDIA_VISIBLE_DEVICES="
	tests := []struct {
		name   string
		env    []string
		starts bool
		gpus   int // of those that start
		says   string
	}{
		{name: "one id of 1 MB", env: []string{v + strings.Repeat("x", 1<<20)}, says: "unknown device"},
		{name: "a number of 1 MB", env: []string{v + strings.Repeat("0", 1<<20) + "1"}},
		{name: "a UUID of 1 MB", env: []string{v + "GPU-" + strings.Repeat("0", 1<<20)}},
		{name: "an address of 1 MB", env: []string{v + strings.Repeat("0", 1<<20-8) + ":00:1e.0"}, starts: true, gpus: 1},
		{name: "16 MB of one number", env: []string{v + strings.Repeat("0,", 8<<20)}, says: "more than the limit of 1048576"},
		{name: "100,000 numbers", env: []string{v + strings.Join(numbers, ",")}, says: `"1"`},
		{name: "100,000 times the same", env: []string{v + many("0", 100_000)}, starts: true, gpus: 1},
		{name: "1,000,000 commas", env: []string{v + strings.Repeat(",", 1_000_000)}, starts: true},
		{name: "a million blanks", env: []string{v + strings.Repeat(" ", 1_000_000) + "0"}, starts: true, gpus: 1},
		{name: "line ends", env: []string{v + "9\ntime=\"2026\" level=info msg=\"all is well\""}},
		{name: "carriage return", env: []string{v + "9\r" + program + ": all is well"}},
		{name: "escape codes", env: []string{v + "\x1b[2J\x1b]0;title\x07\x9b31m"}},
		{name: "NUL", env: []string{v + "0\x00"}},
		{name: "NUL and more", env: []string{v + "0\x00,../../etc/passwd"}},
		{name: "writing from right to left", env: []string{v + "\u202e0\u2028"}},
		{name: "no UTF-8", env: []string{v + "\xff\xfe0\xc0\xaf"}},
		{name: "format verbs", env: []string{v + "%s%n%d%!v(PANIC=)"}},
		{name: "a path", env: []string{v + "../../etc/passwd"}},
		{name: "a path that ends well", env: []string{v + "../0"}},
		{name: "a path that begins well", env: []string{v + "0/../../../etc"}},
		{name: "a node", env: []string{v + "/dev/nvidia0"}},
		{name: "a UUID with a path", env: []string{v + "GPU-../../../../etc"}},
		{name: "a MIG device with a path", env: []string{v + "MIG-GPU-../../x/1/0"}},
		{name: "a MIG device far out", env: []string{v + "0:18446744073709551616"}},
		{name: "negative", env: []string{v + "-1"}},
		{name: "hexadecimal", env: []string{v + "0x0"}},
		{name: "with a sign", env: []string{v + "+0"}},
		{name: "beyond 64 bits", env: []string{v + "18446744073709551616"}},
		{name: "Arabic digits", env: []string{v + "\u0660"}},
		{name: "wildcards", env: []string{v + "*"}},
		{name: "all and more", env: []string{v + "all,../../x"}, starts: true, gpus: 1},
		{name: "the last one counts", env: []string{v + "9", v + "0"}, starts: true, gpus: 1},
		{name: "the last one counts, and is none", env: []string{v + "0", v + "none"}, starts: true},
		{name: "entries that are none", env: []string{"", "=", "NVIDIA_VISIBLE_DEVICES", "=NVIDIA_VISIBLE_DEVICES=all", "\x00", " " + v + "all", "nvidia_visible_devices=all"}, starts: true},
		{name: "100,000 variables", env: append(slices.Clone(variables), v+"0"), starts: true, gpus: 1},
		{name: "a variable of 16 MB", env: []string{"X=" + strings.Repeat("x", 16<<20), v + "0"}, starts: true, gpus: 1},
		{name: "what a dynamic linker obeys", env: []string{"LD_PRELOAD=/proc/self/cwd/evil.so", "LD_LIBRARY_PATH=/proc/self/cwd", "GODEBUG=x", "GOTRACEBACK=crash", v + "0"}, starts: true, gpus: 1},
		{
			name: "our own settings", env: []string{"NVIDIA_CONTAINER_RUNTIME_PATH=/evil", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=/", "NVIDIA_CTK_CONFIG_FILE_PATH=/evil", "PATH=/evil", v + "0"},
			starts: true, gpus: 1,
		},
		{name: "capabilities of 1 MB", env: []string{v + "0", "NVIDIA_DRIVER_CAPABILITIES=" + strings.Repeat("x", 1<<20)}},
		{name: "100,000 capabilities", env: []string{v + "0", "NVIDIA_DRIVER_CAPABILITIES=" + many("utility", 100_000)}, starts: true, gpus: 1},
		{name: "capabilities with escape codes", env: []string{v + "0", "NVIDIA_DRIVER_CAPABILITIES=\x1b[2J\nutility"}},
		{name: "a requirement of 1 MB", env: []string{v + "0", "NVIDIA_REQUIRE_X=" + strings.Repeat("cuda>=1.0,", 100_000) + "cuda>=1.0"}, starts: true, gpus: 1},
		{name: "alternatives without end", env: []string{v + "0", "NVIDIA_REQUIRE_X=" + strings.Repeat("cuda>=99.0 ", 100_000)}},
		{name: "a requirement with escape codes", env: []string{v + "0", "NVIDIA_REQUIRE_\x1b[2J=\x1b[2J>=\n1"}},
		{name: "a requirement with escape codes in its name", env: []string{v + "0", "NVIDIA_REQUIRE_\x1b[2J\n=cuda>=99.0"}},
		{name: "a requirement with a name of 1 MB", env: []string{v + "0", "NVIDIA_REQUIRE_" + strings.Repeat("X", 1<<20) + "=cuda>=99.0"}},
		{name: "a requirement of a brand with escape codes", env: []string{v + "0", "NVIDIA_REQUIRE_X=brand=\x1b[2J"}},
		{name: "a requirement's number beyond 64 bits", env: []string{v + "0", "NVIDIA_REQUIRE_X=cuda>=" + strings.Repeat("9", 1000)}},
		{name: "10,000 requirements", env: requirements(10_000), starts: true, gpus: 1},
		{name: "IMEX channels of 1 MB", env: []string{v + "0", "NVIDIA_IMEX_CHANNELS=" + strings.Repeat("9", 1<<20)}},
		{name: "an IMEX channel below 0", env: []string{v + "0", "NVIDIA_IMEX_CHANNELS=-1"}},
		{name: "an IMEX channel as a path", env: []string{v + "0", "NVIDIA_IMEX_CHANNELS=../../../dev/sda"}},
		{name: "MIG configuration without the right", env: []string{v + "0", "NVIDIA_MIG_CONFIG_DEVICES=all"}},
		{name: "MIG configuration with escape codes", env: []string{v + "0", "NVIDIA_MIG_CONFIG_DEVICES=\x1b[2J"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			b := newBundle(t, "t4", debian(t))
			text := config(tt.env...)
			if slices.ContainsFunc(tt.env, func(e string) bool { return strings.Contains(e, "\xff") }) {
				text = bytes.ReplaceAll(config(strings.ToValidUTF8(tt.env[0], "\u1234")), []byte("\u1234"), []byte("\xff")) // Go would not write it
			}
			if !tt.starts {
				assert.Contains(t, b.fails(t, text), tt.says)
				b.logged(t)
				return
			}
			spec := b.starts(t, text)
			gpus := 0
			for _, d := range spec.Linux.Devices {
				if d.Path == "/dev/nvidia0" {
					gpus++
				}
			}
			assert.Equal(t, tt.gpus, gpus)
			before := new(specs.Spec)
			require.NoError(t, json.Unmarshal(text, before))
			assert.Equal(t, before.Process.Env, spec.Process.Env, "the environment is not ours to change")
			b.logged(t)
		})
	}
}

func requirements(n int) []string {
	env := []string{"NVIDIA_VISIBLE_DEVICES=0"}
	for i := range n {
		env = append(env, fmt.Sprintf("NVIDIA_REQUIRE_%d=cuda>=1.0", i))
	}
	return env
}

// TestHostileVolumes requests devices by mounts, if the operator allows that.
func TestHostileVolumes(t *testing.T) {
	const at = "/var/run/nvidia-container-devices/"
	tests := []struct {
		name         string
		destinations []string
		source       string
		gpus         int
		fails        bool
	}{
		{name: "a device", destinations: []string{at + "0"}, gpus: 1},
		{name: "a way out", destinations: []string{at + "../../../etc/passwd"}},
		{name: "a way out and back", destinations: []string{at + "../nvidia-container-devices/0"}},
		{name: "beside it", destinations: []string{"/var/run/nvidia-container-devices-too/0"}},
		{name: "another source", destinations: []string{at + "0"}, source: "/dev/zero"},
		{name: "line ends", destinations: []string{at + "9\nmsg"}, fails: true},
		{name: "escape codes", destinations: []string{at + "\x1b[2J"}, fails: true},
		{name: "NUL", destinations: []string{at + "0\x00"}, fails: true},
		{name: "1 MB", destinations: []string{at + strings.Repeat("x", 1<<20)}, fails: true},
		{name: "20,000", destinations: slices.Repeat([]string{at + "0"}, 20_000), gpus: 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			b := newBundle(t, "t4", debian(t))
			dir := filepath.Join(filepath.Dir(b.dir), "nvidia-container-runtime")
			require.NoError(t, os.Mkdir(dir, 0o755))
			require.NoError(t, os.WriteFile(filepath.Join(dir, "config.toml"), []byte(
				"accept-nvidia-visible-devices-envvar-when-unprivileged = false\naccept-nvidia-visible-devices-as-volume-mounts = true\n"), 0o644))
			spec := new(specs.Spec)
			require.NoError(t, json.Unmarshal(config("NVIDIA_VISIBLE_DEVICES=all"), spec))
			for _, d := range tt.destinations {
				source := "/dev/null"
				if tt.source != "" {
					source = tt.source
				}
				spec.Mounts = append(spec.Mounts, specs.Mount{Destination: d, Type: "bind", Source: source})
			}
			text, err := json.Marshal(spec)
			require.NoError(t, err)
			if tt.fails {
				b.fails(t, text)
				b.logged(t)
				return
			}
			got := b.starts(t, text)
			assert.Len(t, slices.DeleteFunc(got.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path != "/dev/nvidia0" }), tt.gpus)
			b.logged(t)
		})
	}
}

// TestAnnotationsGrantNothing: annotations and labels of a pod or an image do not request anything.
func TestAnnotationsGrantNothing(t *testing.T) {
	b := newBundle(t, "t4", debian(t))
	spec := new(specs.Spec)
	require.NoError(t, json.Unmarshal(config(), spec))
	spec.Annotations = map[string]string{
		"NVIDIA_VISIBLE_DEVICES": "all", "nvidia.com/gpu": "all", "cdi.k8s.io/x": "nvidia.com/gpu=all", "com.nvidia.cuda.version": "12",
		"org.opencontainers.image.env": "NVIDIA_VISIBLE_DEVICES=all", "x\n\x1b[2J": strings.Repeat("x", 1<<20),
	}
	spec.Process.Args = []string{"NVIDIA_VISIBLE_DEVICES=all"}
	spec.Process.Cwd = "/NVIDIA_VISIBLE_DEVICES=all"
	text, err := json.Marshal(spec)
	require.NoError(t, err)
	b.starts(t, text)
	assert.Equal(t, string(text), string(read(t, b.configFile())))
	b.logged(t)
}

// mutations is how many damaged config.json files TestWhatTheRuntimeReads tries.
const mutations = 400

// TestWhatTheRuntimeReads damages config.json in ways in which JSON readers differ: duplicate keys,
// keys in another case or spelling, byte order marks, invalid UTF-8, huge numbers, deep nesting.
// Each is refused, or edited so that both runc and crun see the GPU: runc's reader uses the last of
// equal keys and ignores case, crun's uses the first and does not.
func TestWhatTheRuntimeReads(t *testing.T) {
	b := newBundle(t, "t4", debian(t))
	random := rand.New(rand.NewPCG(1, 0))
	started, refused, ours := 0, 0, 0
	for range share(mutations) {
		text := mutate(random, string(config(gpu0)))
		r := b.create(t, []byte(text))
		if r.code != 0 {
			refused++
			assertLine(t, r.stderr)
			require.Equal(t, text, string(read(t, b.configFile())))
			continue
		}
		started++
		require.True(t, r.reached("create", "--bundle", "b", "id"), "%+v", r)
		now := string(read(t, b.configFile()))
		if now == text {
			// We found no request, so neither of the others may find one.
			spec := new(specs.Spec)
			if json.Unmarshal([]byte(text), spec) == nil && spec.Process != nil {
				require.NotContains(t, spec.Process.Env, gpu0, text)
			}
			continue
		}
		ours++
		spec := new(specs.Spec)
		if json.Unmarshal([]byte(now), spec) != nil {
			require.Error(t, json.Unmarshal([]byte(text), new(specs.Spec)), "%s", now)
			continue // runc would have refused the text as it was
		}
		assert.True(t, slices.ContainsFunc(spec.Linux.Devices, func(d specs.LinuxDevice) bool { return d.Path == "/dev/nvidia0" }), "runc does not see the device: %s", now)
		assert.NotEmpty(t, libcuda(spec), "runc does not see the driver: %s", now)
		first, err := firstWins(json.NewDecoder(strings.NewReader(now)))
		require.NoError(t, err, "%s", now)
		linux, _ := first["linux"].(map[string]any)
		assert.Contains(t, fmt.Sprint(linux["devices"]), "/dev/nvidia0", "crun does not see the device: %s", now)
		assert.Contains(t, fmt.Sprint(first["mounts"]), plan.Dir, "crun does not see the driver: %s", now)
	}
	b.logged(t)
	assert.Positive(t, refused)
	assert.Positive(t, ours)
	t.Logf("%d started, of which %d edited, %d refused", started, ours, refused)
}

// mutate damages the text of a config.json.
func mutate(random *rand.Rand, text string) string {
	pick := func(list ...string) string { return list[random.IntN(len(list))] }
	keys := []string{
		"process", "env", "root", "path", "mounts", "linux", "resources", "devices", "namespaces", "maskedPaths", "capabilities", "bounding", "hooks",
		"annotations", "ociVersion", "seccomp", "uidMappings", "unknown", "type", "destination", "access",
	}
	for range 1 + random.IntN(2) {
		key := pick(keys...)
		switch random.IntN(6) {
		case 0:
			key = strings.ToUpper(key)
		case 1:
			key = strings.ToUpper(key[:1]) + key[1:]
		case 2:
			key = fmt.Sprintf(`\u%04x%s`, key[0], key[1:])
		case 3: // to readers that ignore case these are s and k
			key = strings.NewReplacer("s", "\u017f", "k", "\u212a").Replace(key)
		}
		value := pick(`[]`, `{}`, `null`, `["NVIDIA_VISIBLE_DEVICES=none"]`, `[{}]`, `{"env":[]}`, `{"devices":[]}`, `1e400`, `-0`, `18446744073709551616`,
			`"\ud800"`, "\"\xff\"", `"x"`, `true`, strings.Repeat("[", 200)+strings.Repeat("]", 200))
		member := `"` + key + `":` + value
		// Into some object, at its start or its end.
		var places []int
		for i, c := range text {
			if c == '{' || c == '}' {
				places = append(places, i)
			}
		}
		at := places[random.IntN(len(places))]
		if text[at] == '{' {
			comma := ","
			if text[at+1] == '}' {
				comma = ""
			}
			text = text[:at+1] + member + comma + text[at+1:]
			continue
		}
		comma := ","
		if text[at-1] == '{' {
			comma = ""
		}
		text = text[:at] + comma + member + text[at:]
	}
	switch random.IntN(30) {
	case 0:
		text = "\ufeff" + text
	case 1:
		text += text
	case 2:
		text = text[:random.IntN(len(text))]
	case 3:
		text = strings.Replace(text, "\"", "'", 1)
	case 4:
		text = strings.Repeat(`{"x":`, 2000) + text + strings.Repeat("}", 2000)
	case 5:
		text = strings.Replace(text, "PATH", "PA\xffTH", 1)
	}
	return text
}

// firstWins reads an object as a reader that uses the first of equal keys.
func firstWins(d *json.Decoder) (map[string]any, error) {
	d.UseNumber()
	value, err := firstWinsValue(d)
	object, _ := value.(map[string]any)
	return object, err
}

func firstWinsValue(d *json.Decoder) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch token {
	case json.Delim('{'):
		object := map[string]any{}
		for d.More() {
			key, err := d.Token()
			if err != nil {
				return nil, err
			}
			value, err := firstWinsValue(d)
			if err != nil {
				return nil, err
			}
			if _, ok := object[key.(string)]; !ok {
				object[key.(string)] = value
			}
		}
		_, err = d.Token()
		return object, err
	case json.Delim('['):
		var array []any
		for d.More() {
			value, err := firstWinsValue(d)
			if err != nil {
				return nil, err
			}
			array = append(array, value)
		}
		_, err = d.Token()
		return array, err
	}
	return token, nil
}

// TestConfigOfManyMegabytes: a file that is too large is refused, a large one is edited, and the
// file's size limits the memory.
func TestConfigOfManyMegabytes(t *testing.T) {
	b := newBundle(t, "t4", debian(t))
	text := config(gpu0, "X="+strings.Repeat("x", 60<<20))
	require.NoError(t, os.WriteFile(b.configFile(), text, 0o644))
	r := b.run(t, "create", "--bundle", "b", "id")
	assert.True(t, r.reached("create", "--bundle", "b", "id"), "%d %.300s", r.code, r.stderr)
	assert.Less(t, r.maxRSS, int64(1<<20), "more than 1 GiB for 60 MiB")
	assert.Contains(t, b.fails(t, config(gpu0, "X="+strings.Repeat("x", 64<<20))), "more than the limit of 67108864")
}
