// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// escaped spells every character in the way that is hardest to find.
func escaped(text string) string {
	var b strings.Builder
	for i := range len(text) {
		fmt.Fprintf(&b, `\u00%02X`, text[i])
	}
	return b.String()
}

func TestMayAsk(t *testing.T) {
	swarm := Policy{SwarmResources: []string{"DOCKER_RESOURCE_GPU, X", "A<B&C"}}
	env := func(entry string) string { return `{"process":{"env":["PATH=/bin","` + entry + `"]}}` }
	filler := strings.Repeat(`"SERVICE_PORT=tcp://10.0.0.1:443",`, 2*windowSize/34)
	for _, tt := range []struct {
		name   string
		policy Policy
		text   string
		want   bool
	}{
		{name: "empty"},
		{name: "nothing", text: env("HOME=/root")},
		{name: "device list", text: env("NVIDIA_VISIBLE_DEVICES=0"), want: true},
		{name: "device list, empty", text: env("NVIDIA_VISIBLE_DEVICES="), want: true},
		{name: "other variables ask for nothing alone", text: env("NVIDIA_DRIVER_CAPABILITIES=all")},
		{name: "a variable that goes on", text: env("NVIDIA_VISIBLE_DEVICES_OLD=0")},
		{name: "no equals sign", text: env("NVIDIA_VISIBLE_DEVICES")},
		{name: "legacy image", text: env("CUDA_VERSION=9.0.176"), want: true},
		{name: "escaped name", text: env(`NVIDIA_VISIBLE_DEVICE\u0053=0`), want: true},
		{name: "escaped equals sign", text: env(`NVIDIA_VISIBLE_DEVICES\u003d0`), want: true},
		{name: "all escaped", text: env(escaped("CUDA_VERSION=9.0")), want: true},
		{name: "escapes in front", text: env(`\u00\u004eVIDIA_VISIBLE_DEVICES=0`), want: true},
		{name: "escapes of other characters", text: env(`X=\u0026\u0026\u00e4\u4e4e\ud83d\ude00\u00`)},
		{name: "escape at the very end", text: `{"\u004`},
		{name: "marker", text: `{"mounts":[{"source":"/dev/null","destination":"/var/run/nvidia-container-devices/0"}]}`, want: true},
		{name: "marker, other spelling", text: `{"mounts":[{"destination":"\/var\/run//x/../nvidia-container\u002ddevices\/0"}]}`, want: true},
		{name: "swarm variable of nobody", text: env("DOCKER_RESOURCE_GPU=0")},
		{name: "swarm variable", policy: swarm, text: env("DOCKER_RESOURCE_GPU=0"), want: true},
		{name: "short swarm variable", policy: swarm, text: env("X=0"), want: true},
		{name: "swarm variable that Go escapes", policy: swarm, text: env(`A\u003cB\u0026C=0`), want: true},
		{name: "swarm variable with several spellings", policy: Policy{SwarmResources: []string{"A/B"}}, text: env("HOME=/root"), want: true},
		{name: "in an object that is there twice", text: `{"process":{"env":["NVIDIA_VISIBLE_DEVICES=0"],"Env":[]}}`, want: true},
		{name: "far behind", text: `{"x":[` + filler + `"NVIDIA_VISIBLE_DEVICES=0"]}`, want: true},
		{name: "far behind, escaped", text: `{"x":[` + filler + `"` + escaped("NVIDIA_VISIBLE_DEVICES=") + `"]}`, want: true},
		{name: "nothing in a large one", text: `{"x":[` + filler + `""]}`},
		{name: "behind a NUL byte", text: env("HOME=/root") + "\x00" + env("NVIDIA_VISIBLE_DEVICES=0")},
		{name: "before a NUL byte", text: env("NVIDIA_VISIBLE_DEVICES=0") + "\x00", want: true},
		{name: "deep", text: strings.Repeat("[", 1001)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			assert.Equal(t, tt.want, MayAsk(filepath.Join(write(t, "config.json", tt.text), "config.json"), tt.policy))
		})
	}
}

// TestMayAskWindows puts a request at every place where the end of a window could split it.
func TestMayAskWindows(t *testing.T) {
	w, ok := newWords(Policy{})
	require.True(t, ok)
	for _, word := range []string{"NVIDIA_VISIBLE_DEVICES=", escaped("NVIDIA_VISIBLE_DEVICES=")} {
		for at := range len(word) + 1 {
			text := bytes.Repeat([]byte(" "), windowSize+w.longest*6-at)
			text = append(append(text, word...), bytes.Repeat([]byte(" "), windowSize)...)
			assert.True(t, w.read(bytes.NewReader(text).Read, int64(len(text))), "%s at %d", word, at)
			assert.True(t, w.read(bytes.NewReader(text).Read, 0), "%s at %d, a size of 0", word, at)
		}
	}
}

// TestMayAskFiles is about other files than regular ones: MayAsk neither waits for them nor rejects
// them.
func TestMayAskFiles(t *testing.T) {
	asks := write(t, "config.json", `{"process":{"env":["NVIDIA_VISIBLE_DEVICES=0"]}}`)
	for _, tt := range []struct {
		name  string
		place func(name string) error
		want  bool
	}{
		{"nothing", func(string) error { return nil }, false},
		{"link", func(name string) error { return os.Symlink(filepath.Join(asks, "config.json"), name) }, true},
		{"dangling link", func(name string) error { return os.Symlink("nowhere", name) }, false},
		{"directory", func(name string) error { return os.Mkdir(name, 0o755) }, false},
		{"FIFO", func(name string) error { return unix.Mkfifo(name, 0o644) }, false},
		{"device", func(name string) error { return os.Symlink("/dev/zero", name) }, false},
		{"larger than what is read of a container with GPUs, with a request at the end", func(name string) error {
			f, err := os.Create(name)
			if err != nil {
				return err
			}
			blanks := bytes.Repeat([]byte(" "), 1<<20)
			for range MaxSize>>20 + 2 {
				if _, err := f.Write(blanks); err != nil {
					return err
				}
			}
			_, err = f.WriteString(`{"process":{"env":["NVIDIA_VISIBLE_DEVICES=0"]}}`)
			return err
		}, true},
		{"a hole of a TiB", func(name string) error {
			f, err := os.Create(name)
			if err != nil {
				return err
			}
			return f.Truncate(1 << 40)
		}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := filepath.Join(t.TempDir(), "config.json")
			require.NoError(t, tt.place(name))
			assert.Equal(t, tt.want, MayAsk(name, Policy{}))
		})
	}
}

// FuzzMayAsk compares the search with two parsers: ours, and a more lenient one like the low-level
// runtime's. The search must find every request that either of them finds.
func FuzzMayAsk(f *testing.F) {
	for _, text := range []string{
		`{"process":{"env":["PATH=/bin","NVIDIA_VISIBLE_DEVICES=0"]},"root":{"path":"rootfs"}}`,
		`{"Process":{"env":["A=\"\\"],"ENV":["\u004eVIDIA_VISIBLE_DEVICES\u003d\ud800all"]}} {}`,
		`{"process":{"env":["\\\u0043UDA_VERSION=9.0"]}}`,
		`{"mounts":[{"source":"/dev/null","destination":"\/var/run/nvidia-container-devices\/all"}]}`,
		`{"process":{"env":["X=1"]}}`,
	} {
		for _, swarm := range []string{"", "X", "A_B,É"} {
			f.Add([]byte(text), swarm)
		}
	}
	f.Fuzz(func(t *testing.T, text []byte, swarm string) {
		policy := Policy{SwarmResources: []string{swarm}, VolumeMounts: len(text)%2 == 0, EnvWhenUnprivileged: true}
		w, ok := newWords(policy)
		if !ok || w.read(bytes.NewReader(text).Read, int64(len(text))/2) {
			return
		}
		nothing := func(facts Facts) {
			r, asked, err := NewRequest(facts, policy)
			require.NoError(t, err)
			assert.False(t, asked)
			assert.Empty(t, r.Notes)
		}
		if d, err := Parse(text); err == nil {
			if facts, err := d.Facts(); err == nil {
				nothing(facts)
			}
		}
		var s specs.Spec
		if json.NewDecoder(bytes.NewReader(text)).Decode(&s) != nil {
			return
		}
		var facts Facts
		if s.Process != nil {
			facts.Env = s.Process.Env
		}
		for _, m := range s.Mounts {
			facts.Mounts = append(facts.Mounts, Mount{Destination: m.Destination, Source: m.Source, Type: m.Type})
		}
		nothing(facts)
	})
}

func BenchmarkMayAsk(b *testing.B) {
	entry := `"SERVICE_NUMBER_000001_PORT_443_TCP_ADDR=10.100.0.1","/var/lib/kubelet/pods/3f1c0b9d-2a47/volumes/configmap",`
	name := filepath.Join(b.TempDir(), "config.json")
	text := `{"x":[` + strings.Repeat(entry, 4<<20/len(entry)) + `""]}`
	require.NoError(b, os.WriteFile(name, []byte(text), 0o644))
	b.SetBytes(int64(len(text)))
	for b.Loop() {
		require.False(b, MayAsk(name, Policy{}))
	}
}
