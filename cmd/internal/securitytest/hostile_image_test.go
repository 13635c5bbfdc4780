// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/plan"
	"github.com/nvsysfs/nvidia-container-runtime/ldcache"
)

// Each test starts containers from hostile images, and newBundle checks that no file outside the
// image was opened, changed or created.

// TestImageLinks puts a link that leads out of the image in each place that is read or written.
func TestImageLinks(t *testing.T) {
	places := map[string]string{ // to the place of the same kind in HOST
		"etc": "etc", "usr": "usr", "lib": "lib", "lib64": "lib", "run": "etc", "dev": "empty", "tmp": "empty", "usr/lib": "lib",
		"usr/lib/x86_64-linux-gnu": "x86_64-linux-gnu", "usr/local": "cuda", "usr/local/cuda": "cuda", "usr/local/cuda/compat": "cuda/compat",
		"etc/ld.so.cache": "etc/ld.so.cache", "etc/debian_version": "etc/debian_version", "etc/ld-musl-x86_64.path": "etc/ld-musl-x86_64.path",
		"usr/lib/x86_64-linux-gnu/libc.so.6":    "lib/libc.so.6",
		"usr/lib/x86_64-linux-gnu/libcuda.so.1": "lib/libcuda.so.1",
		"usr/lib/x86_64-linux-gnu/libcuda.so":   "none",
	}
	targets := map[string]string{
		"absolute": "HOST/%s", "relative": "../../../../../../../../../../../../../../../HOST/%s", "one level up": "../../host/%s",
		"/proc/self/root": "/proc/self/root/HOST/%s", "/proc/self/cwd": "/proc/self/cwd/host/%s", "/proc/self/fd": "/proc/self/fd/3/host/%s",
		"/proc/1/root": "/proc/1/root/HOST/%s", "through a link": "links/up/HOST/%s", "a loop": "loop",
	}
	for name, target := range targets {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for place, there := range places {
				link := target
				if strings.Contains(target, "%s") {
					link = fmt.Sprintf(target, there)
				}
				if link == "loop" {
					link = filepath.Base(place)
				}
				image := debian(t).with(tree{
					"links/up": "-> ../../../../../../../../..", "usr/lib/x86_64-linux-gnu/libnvidia-old.so.1": "-> libnvidia-old.so.535.1",
				}).with(tree{place: "-> " + link})
				b := newBundle(t, "t4", image)
				spec := b.starts(t, config(gpu0))
				assert.NotEmpty(t, libcuda(spec), place)
				b.logged(t)
			}
		})
	}
}

// TestImageKinds puts other kinds of files where regular files and directories are expected.
func TestImageKinds(t *testing.T) {
	places := []string{
		"etc/ld.so.cache", "etc/debian_version", "etc/alpine-release", "etc/ld-musl-x86_64.path", "usr/local/cuda/compat/libcuda.so.999.99",
		"etc", "usr", "lib64", "run", "usr/lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu/libcuda.so.1", "usr/lib/x86_64-linux-gnu/libcuda.so.550.54.15",
	}
	for _, kind := range []string{"fifo", "socket", "dir", "size 1099511627776", "zero", "disk", "a file"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			if kind == "zero" || kind == "disk" {
				need.Root(t)
			}
			for _, place := range places {
				image := debian(t).with(tree{"usr/local/cuda/compat/libcuda.so.1": "-> libcuda.so.999.99"}).with(tree{place: kind})
				if strings.HasPrefix(kind, "size") && strings.HasSuffix(place, "alpine-release") {
					image["lib/ld-musl-x86_64.so.1"] = kind // both of what tells musl
					delete(image, "lib")
				}
				b := newBundle(t, "t4", image)
				r := b.create(t, config(gpu0))
				require.True(t, r.reached("create", "--bundle", "b", "id"), "%s: %+v", place, r)
				assert.Less(t, r.maxRSS, int64(256<<10), "memory for %s", place)
				assert.NotEmpty(t, libcuda(b.spec(t)), place)
				b.logged(t)
			}
		})
	}
}

// TestImageNames gives files in an image names that would forge a log line,
// move a cursor, or be taken for an option or another path.
func TestImageNames(t *testing.T) {
	const forged = "\ntime=\"2026-01-01\" level=info msg=\"all is well\""
	image := debian(t).with(tree{
		"usr/lib/x86_64-linux-gnu/libcuda.so.1" + forged:           "-> libcuda.so.535.1" + forged,
		"usr/lib/x86_64-linux-gnu/libnvidia-\x1b[2J\x1b]0;x\a.so":  "-> libnvidia-\x1b[2J.so.1",
		"usr/lib/x86_64-linux-gnu/libnvidia-\xff\xfe\u202e.so.1":   "-> libnvidia-gone.so.535.1",
		"usr/lib/x86_64-linux-gnu/--help.so":                       "-> libnvidia-gone.so.535.1",
		"usr/lib/x86_64-linux-gnu/libnvidia-%s%n%d.so":             "-> libnvidia-%s.so.535.1",
		"opt/\x1b[2J/compat/libcuda.so.1":                          "-> libcuda.so.999.99",
		"opt/\x1b[2J/compat/libcuda.so.999.99":                     "no ELF",
		"usr/local/cuda":                                           "-> ../../opt/\x1b[2J",
		"usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1":               "taken\x1b[2J",
		"usr/lib/x86_64-linux-gnu/libnvidia-long" + filler + ".so": "-> libnvidia-long.so.535.1",
	})
	b := newBundle(t, "t4", image)
	spec := b.starts(t, config(gpu0, "NVIDIA_DRIVER_CAPABILITIES=all"))
	assert.Equal(t, plan.Dir, libcuda(spec))
	for _, m := range spec.Mounts {
		assertPrintable(t, m.Destination+m.Source)
	}
	b.logged(t)
}

var filler = strings.Repeat("x", 200)

// TestImageCaches gives the image a loader cache that lies.
func TestImageCaches(t *testing.T) {
	other := func(name, path string) ldcache.Entry {
		return ldcache.Entry{Name: name, Path: path, Flags: ldcache.FlagX8664}
	}
	for _, path := range []string{
		"/../../host/lib/libc.so.6", "HOST/lib/libc.so.6", "/proc/self/root/HOST/lib/libc.so.6", "/proc/self/cwd/libc.so.6", "/sys/libc.so.6",
		"/dev/shm/libc.so.6", "libc.so.6", "", "/", "//", "/libc.so.6", "/usr/lib/x86_64-linux-gnu/../../../../host/lib/libc.so.6",
		"/usr/lib/\x1b[2J/libc.so.6", "/usr/lib/a\nb/libc.so.6", "/usr/lib/x86_64-linux-gnu/libc.so.6/.", "/" + strings.Repeat("x/", 2000) + "libc.so.6",
		"/usr/lib/x86_64-linux-gnu\xff/libc.so.6", "/usr/lib/%s%n/libc.so.6", "/usr/lib/a,b:c/libc.so.6", "/usr/lib/a\\040b/libc.so.6",
	} {
		t.Run(fmt.Sprintf("libc in %.40q", path), func(t *testing.T) {
			image := debian(t).with(tree{
				"usr/lib/\x1b[2J/libc.so.6": "libc", "usr/lib/a\nb/libc.so.6": "libc", "usr/lib/%s%n/libc.so.6": "libc", "usr/lib/a,b:c/libc.so.6": "libc",
				"usr/lib/x86_64-linux-gnu\xff/libc.so.6": "libc", "usr/lib/a\\040b/libc.so.6": "libc", "libc.so.6": "libc",
				"proc/self/cwd/libc.so.6": "libc", "sys/libc.so.6": "libc", "dev/shm/libc.so.6": "libc",
			})
			b := newBundle(t, "t4", image)
			cache := cacheOf(t, libcEntry(strings.ReplaceAll(path, "HOST", b.host)))
			require.NoError(t, os.WriteFile(filepath.Join(b.rootfs, "etc/ld.so.cache"), []byte(cache), 0o644))
			assert.Equal(t, plan.Dir, libcuda(b.starts(t, config(gpu0))))
			b.logged(t)
		})
	}
	t.Run("its own libcuda first", func(t *testing.T) {
		image := debian(t).with(tree{
			"etc/ld.so.cache": cacheOf(t, libcEntry("/lib/x86_64-linux-gnu/libc.so.6"), other("libcuda.so.1", "/opt/evil/libcuda.so.1"),
				other("libcuda.so.1\n", "/opt/evil/libcuda.so.1\x1b[2J"), ldcache.Entry{Name: "libcuda.so.1", Path: "/opt/evil/v3/libcuda.so.1", Flags: ldcache.FlagX8664, Subdir: "x86-64-v3"}),
			"opt/evil/libcuda.so.1": "evil", "opt/evil/v3/libcuda.so.1": "evil",
		})
		b := newBundle(t, "t4", image)
		b.starts(t, config(gpu0))
		data, err := os.ReadFile(filepath.Join(b.rootfs, "etc/ld.so.cache"))
		require.NoError(t, err)
		cache, err := ldcache.Parse(data)
		require.NoError(t, err)
		found := cache.Lookup("libcuda.so.1", ldcache.FlagX8664)
		require.NotEmpty(t, found)
		assert.Equal(t, plan.Dir+"/libcuda.so.1", found[0].Path)
		b.logged(t)
	})
	t.Run("very many entries", func(t *testing.T) {
		entries := []ldcache.Entry{libcEntry("/lib/x86_64-linux-gnu/libc.so.6")}
		for i := range 200_000 {
			entries = append(entries, other(fmt.Sprintf("libcuda.so.%d", i), fmt.Sprintf("/usr/lib/x86_64-linux-gnu/libcuda.so.%d", i)))
		}
		b := newBundle(t, "t4", debian(t).with(tree{"etc/ld.so.cache": cacheOf(t, entries...)}))
		r := b.create(t, config(gpu0))
		require.True(t, r.reached("create", "--bundle", "b", "id"), "%+v", r)
		assert.Less(t, r.maxRSS, int64(512<<10))
		b.logged(t)
	})
	t.Run("entries that share one long text", func(t *testing.T) {
		// 11 MiB that would become 800 GiB if each entry's text were copied or searched.
		for _, path := range []string{"/" + strings.Repeat("x", 8<<20), strings.Repeat("/x", 4<<20), "/usr/lib/" + strings.Repeat("../lib/", 1<<20) + "libcuda.so.1"} {
			b := newBundle(t, "t4", debian(t).with(tree{"etc/ld.so.cache": rawCache("libcuda.so.1", path, 100_000)}))
			r := b.create(t, config(gpu0))
			require.True(t, r.reached("create", "--bundle", "b", "id"), "%+v", r)
			assert.Less(t, r.maxRSS, int64(512<<10))
			info, err := os.Stat(filepath.Join(b.rootfs, "etc/ld.so.cache"))
			require.NoError(t, err)
			assert.Less(t, info.Size(), int64(32<<20))
			b.logged(t)
		}
	})
}

// rawCache is an ld.so.cache in glibc's new format (elf/cache.c) with n identical entries.
func rawCache(name, path string, n int) string {
	const header, entry = 48, 24
	le := binary.LittleEndian
	text := append(append(append([]byte(name), 0), path...), 0)
	out := append(le.AppendUint32(le.AppendUint32([]byte("glibc-ld.so.cache1.1"), uint32(n)), uint32(len(text))), make([]byte, 20)...)
	for range n {
		out = le.AppendUint32(out, uint32(ldcache.FlagX8664))
		out = le.AppendUint32(out, uint32(header+entry*n))
		out = le.AppendUint32(out, uint32(header+entry*n+len(name)+1))
		out = append(out, make([]byte, 12)...)
	}
	return string(append(out, text...))
}

// raceRounds is how many containers are created while the image changes. It limits the test instead
// of a time.
const raceRounds = 150

// TestImageRace swaps directories and files of the image with links to the host and with files that
// block, as fast as it can, while containers are created from it. Each is created, or refused with
// a reason; the host does not change.
func TestImageRace(t *testing.T) {
	b := newBundle(t, "t4", debian(t).with(tree{
		"evil/etc": "-> HOST/etc", "evil/lib": "-> ../../../host/lib", "evil/gnu": "-> HOST/x86_64-linux-gnu", "evil/cache": "fifo",
		"evil/version": "-> HOST/etc/debian_version", "evil/libcuda": "-> HOST/lib/libcuda.so.1", "evil/compat": "-> HOST/cuda/compat",
		"usr/lib/x86_64-linux-gnu/libcuda.so.1": "-> libcuda.so.535.1", "usr/local/cuda/compat/libcuda.so.1": "-> libcuda.so.999.99",
		"usr/local/cuda/compat/libcuda.so.999.99": "no ELF",
	}))
	// Through handles of the directories, because a name may already lead to the host.
	type place struct {
		dir  int
		name string
	}
	at := func(name string) place {
		dir, err := unix.Open(filepath.Join(b.rootfs, filepath.Dir(name)), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		require.NoError(t, err)
		t.Cleanup(func() { unix.Close(dir) })
		return place{dir, filepath.Base(name)}
	}
	pairs := [][2]place{
		{at("etc/ld.so.cache"), at("evil/cache")},
		{at("etc/debian_version"), at("evil/version")},
		{at("usr/lib/x86_64-linux-gnu/libcuda.so.1"), at("evil/libcuda")},
		{at("usr/lib/x86_64-linux-gnu"), at("evil/gnu")},
		{at("usr/lib"), at("evil/lib")},
		{at("etc"), at("evil/etc")},
		{at("usr/local/cuda/compat"), at("evil/compat")},
	}
	exchange := func(p [2]place) error {
		return unix.Renameat2(p[0].dir, p[0].name, p[1].dir, p[1].name, unix.RENAME_EXCHANGE)
	}
	if err := exchange(pairs[0]); errors.Is(err, unix.EINVAL) {
		need.Missing(t, "a file system that can exchange names")
	}
	stop := make(chan struct{})
	swaps := 0
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			select {
			case <-stop:
				return
			default:
			}
			// The program may be replacing one of the names.
			_ = exchange(pairs[swaps%len(pairs)])
			swaps++
		}
	})
	started, refused := 0, 0
	where := map[string]int{}
	for range share(raceRounds) {
		before := config(gpu0)
		r := b.create(t, before)
		now := read(t, b.configFile())
		spec := new(specs.Spec)
		require.NoError(t, json.Unmarshal(now, spec))
		if r.reached("create", "--bundle", "b", "id") {
			started++
			where[libcuda(spec)]++
			continue
		}
		refused++
		require.Equal(t, 1, r.code, "%+v", r)
		assertLine(t, r.stderr)
		require.Equal(t, string(before), string(now))
	}
	close(stop)
	wg.Wait()
	b.logged(t)
	assert.Positive(t, started)
	assert.NotContains(t, where, "")
	assert.Greater(t, swaps, share(raceRounds), "nothing raced")
	t.Logf("%d started, %d refused, in %d exchanges; libraries in %v", started, refused, swaps, where)
}

// TestImageOfManyEntries has a loader cache with as many entries as are read, each at the end of a
// long chain of links. None is followed, so that a create costs no more than reading and writing
// the cache.
func TestImageOfManyEntries(t *testing.T) {
	cost := func(image tree) time.Duration {
		b := newBundle(t, "t4", image)
		r := b.create(t, config(gpu0))
		require.True(t, r.reached("create", "--bundle", "b", "id"), "%+v", r)
		return r.cpu
	}
	chain := debian(t)
	long := "usr/lib/" + strings.Repeat(strings.Repeat("d", 200)+"/", 15)
	for i := range 38 {
		chain[fmt.Sprintf("%sl%d", long, i)] = fmt.Sprintf("-> /%sl%d", long, i+1)
	}
	chain["etc/ld.so.cache"] = rawCache("libcuda.so.1", "/"+long+"l0/libc.so.6", 690_000)
	plain := cost(debian(t))
	hostile := cost(chain)
	t.Logf("processor time: %v for a plain image, %v for a hostile one", plain, hostile)
	// Resolving each entry took minutes, thousands of times as long.
	assert.Less(t, hostile, 200*plain)
}
