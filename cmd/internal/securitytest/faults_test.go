// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
	"github.com/nvsysfs/nvidia-container-runtime/fixtures"
)

// kind is how a system call goes wrong.
type kind int

const (
	fail kind = iota // it returns errno and does nothing
	half             // it is done for half of the bytes
	kill             // the process is killed before it
)

// fault is one injection point: the n-th call of that name in the whole
// process, counted over all its threads.
type fault struct {
	call  string
	n     int
	kind  kind
	errno unix.Errno
}

func (f fault) String() string {
	switch f.kind {
	case kill:
		return fmt.Sprintf("SIGKILL before %s %d", f.call, f.n)
	case half:
		return fmt.Sprintf("half of %s %d", f.call, f.n)
	}
	return fmt.Sprintf("%s of %s %d", unix.ErrnoName(f.errno), f.call, f.n)
}

// seen is what the tracer saw.
type seen struct {
	counts   map[string]int
	reached  bool   // the fault happened
	path     string // what that call was about
	executed bool   // the low-level runtime was started
	status   unix.WaitStatus
}

// errnos are the errors that are injected.
var errnos = []unix.Errno{unix.EIO, unix.ENOSPC, unix.EMFILE, unix.EROFS, unix.EINTR, unix.ENOMEM}

// faultSample is how many of the injection points go test tries; NVCR_FAULTS sets another number,
// or all.
const faultSample = 250

// TestFaults makes each system call of a create fail once with each error of errnos, or do half of
// its work, or kills the process before it. Afterwards config.json is either the old or the new
// one, complete; the next start works, leaves nothing behind, and yields the same config.json and
// root filesystem as an undisturbed one.
//
// NVCR_SEED selects another sample.
func TestFaults(t *testing.T) {
	if !canInject {
		need.Missing(t, "a 64-bit x86 machine")
	}
	seed, err := strconv.ParseUint(cmp.Or(os.Getenv("NVCR_SEED"), "1"), 10, 64)
	require.NoError(t, err)
	worlds := []struct {
		name, machine string
		env           []string
		directory     bool // the driver comes by one mount
	}{
		{name: "t4", machine: "t4", env: []string{gpu0, "NVIDIA_DRIVER_CAPABILITIES=all"}},
		{name: "a100-mig", machine: "a100-mig", env: []string{"NVIDIA_VISIBLE_DEVICES=0:0,1"}},
		{name: "one mount", machine: "t4", env: []string{gpu0, "NVIDIA_DRIVER_CAPABILITIES=all"}, directory: true},
	}
	for _, tt := range worlds {
		t.Run(tt.name, func(t *testing.T) {
			w := newFaultWorld(t, tt.machine, tt.env, tt.directory)
			counts := w.calls(t)
			points := w.points(counts)
			total := len(points)
			sample := share(faultSample) / len(worlds)
			if v := os.Getenv("NVCR_FAULTS"); v == "all" {
				sample = total
			} else if v != "" {
				sample, err = strconv.Atoi(v)
				require.NoError(t, err)
			}
			rand.New(rand.NewPCG(seed, 0)).Shuffle(total, func(i, j int) { points[i], points[j] = points[j], points[i] })
			points = points[:min(sample, total)]

			tally, failures := w.tryAll(t, points)
			for i, f := range failures {
				if i == 40 {
					t.Errorf("and %d more", len(failures)-i)
					break
				}
				t.Error(f)
			}
			t.Logf("%d injection points of %d tried (seed %d), over %d system calls of one create", len(points), total, seed, sum(counts))
			for _, what := range slices.Sorted(maps.Keys(tally)) {
				t.Logf("%6d %s", tally[what], what)
			}
		})
	}
}

// tryAll tries the points, counts the outcomes, and lists the wrong ones.
func (w *faultWorld) tryAll(t *testing.T, points []fault) (tally map[string]int, failures []string) {
	tally = map[string]int{}
	var mu sync.Mutex
	work := make(chan fault)
	var wg sync.WaitGroup
	workers := runtime.NumCPU()
	if w.directory != "" {
		workers = 1 // for there is one directory
	}
	for i := range workers {
		dir := filepath.Join(t.TempDir(), strconv.Itoa(i))
		wg.Go(func() {
			runtime.LockOSThread() // a tracer is a thread
			for f := range work {
				what, err := w.try(t, dir, f)
				mu.Lock()
				tally[what]++
				if err != nil {
					failures = append(failures, fmt.Sprintf("%v: %v", f, err))
				}
				mu.Unlock()
			}
		})
	}
	for _, f := range points {
		work <- f
	}
	close(work)
	wg.Wait()
	slices.Sort(failures)
	return tally, failures
}

func isFileCall(name string) bool {
	return slices.Contains(slices.Collect(maps.Values(fileCalls)), name)
}

func sum(counts map[string]int) int {
	n := 0
	for _, c := range counts {
		n += c
	}
	return n
}

// faultWorld is a create that does everything a create can do: it creates, replaces and removes
// links, creates directories, writes files and removes leftovers.
type faultWorld struct {
	program, machine, runtime string

	image    tree
	old, new []byte            // config.json
	rootfs   map[string]string // as it is in the end

	directory string // of hard links on the machine, which is then ours alone; "" without
	single    []byte // the new config.json where that directory could not be made
}

// leftover is what an earlier, killed run left in the bundle.
const leftover = ".nvidia-container-runtime-config.json"

// begin makes the bundle as it is before the start.
func (w *faultWorld) begin(t testing.TB, dir string) {
	t.Helper()
	require.NoError(t, os.RemoveAll(dir))
	if w.directory != "" {
		require.NoError(t, os.RemoveAll(w.directory))
	}
	w.image.build(t, filepath.Join(dir, "b/rootfs"), "/nowhere")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b/config.json"), w.old, 0o640))
	w.configure(t, dir, w.directory != "")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "b", leftover), []byte(`{"oci`), 0o600))
}

// configure writes config.toml.
func (w *faultWorld) configure(t testing.TB, dir string, directory bool) {
	t.Helper()
	text := "[nvidia-container-runtime.experimental]\ndriver-directory = \"off\"\n"
	if directory {
		text = ""
	}
	require.NoError(t, os.MkdirAll(filepath.Join(dir, "nvidia-container-runtime"), 0o755))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "nvidia-container-runtime/config.toml"), []byte(text), 0o644))
}

func newFaultWorld(t *testing.T, machine string, env []string, directory bool) *faultWorld {
	w := &faultWorld{program: built(t), machine: machineOf(t, machine), runtime: need.Program(t, "true")}
	w.image = debian(t).with(tree{
		"usr/lib/x86_64-linux-gnu/libcuda.so.1":             "-> libcuda.so.535.54.03",
		"usr/lib/x86_64-linux-gnu/libnvidia-old.so.1":       "-> libnvidia-old.so.535.54.03",
		"usr/lib/x86_64-linux-gnu/libnvidia-ml.so":          "a file, not a link",
		"usr/local/cuda/compat/libcuda.so.1":                "-> libcuda.so.560.28.03",
		"usr/local/cuda/compat/libcuda.so.560.28.03":        "no ELF",
		"usr/lib/x86_64-linux-gnu/libcuda.so.535.54.03.bak": "",
	})
	w.old = config(env...)

	dir := filepath.Join(t.TempDir(), "reference")
	if directory {
		a, err := fixtures.Load(machine)
		require.NoError(t, err)
		w.machine = t.TempDir()
		_, err = a.Unpack(w.machine, fixtures.UnpackOptions{NoDevices: true})
		require.NoError(t, err)
		w.directory = filepath.Join(w.machine, "usr/lib/nvidia-container-runtime")
		w.begin(t, dir)
		w.configure(t, dir, false)
		_, err = w.start(dir, fault{})
		require.NoError(t, err)
		w.single = anywhere(dir, read(t, filepath.Join(dir, "b/config.json")))
	}
	w.begin(t, dir)
	_, err := w.start(dir, fault{})
	require.NoError(t, err)
	w.new = anywhere(dir, read(t, filepath.Join(dir, "b/config.json")))
	w.rootfs = dump(t, filepath.Join(dir, "b/rootfs"))
	require.NotEqual(t, w.old, w.new)
	require.NotEqual(t, w.single, w.new)
	left := slices.DeleteFunc(names(t, filepath.Join(dir, "b")), func(name string) bool { return strings.HasPrefix(name, "nvidia-") })
	require.ElementsMatch(t, []string{"config.json", "rootfs"}, left)
	return w
}

// start creates a container with a fault; untraced, if the fault is zero.
func (w *faultWorld) start(dir string, f fault) (seen, error) {
	output, err := os.OpenFile(filepath.Join(dir, "output"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return seen{}, err
	}
	defer output.Close()
	env := []string{
		"PATH=/usr/bin:/bin", "XDG_CONFIG_HOME=" + dir, "NVIDIA_CONTAINER_RUNTIME_PATH=" + w.runtime,
		"NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + w.machine, "NVIDIA_CONTAINER_RUNTIME_DEBUG=" + filepath.Join(dir, "log"),
	}
	args := []string{"--log", filepath.Join(dir, "runc.log"), "create", "--bundle", "b", "id"}
	if f != (fault{}) {
		return inject(w.program, args, env, dir, output, f)
	}
	p, err := os.StartProcess(w.program, append([]string{w.program}, args...), &os.ProcAttr{Dir: dir, Env: env, Files: []*os.File{nil, output, output}})
	if err != nil {
		return seen{}, err
	}
	state, err := p.Wait()
	if err != nil {
		return seen{}, err
	}
	if text, _ := os.ReadFile(output.Name()); !state.Success() || len(text) > 0 {
		return seen{}, fmt.Errorf("%v: %s", state, text)
	}
	return seen{}, nil
}

// calls counts the system calls of one create.
func (w *faultWorld) calls(t *testing.T) map[string]int {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "count")
	w.begin(t, dir)
	var s seen
	var err error
	var wg sync.WaitGroup
	wg.Go(func() {
		runtime.LockOSThread()
		s, err = w.start(dir, fault{call: "none"})
	})
	wg.Wait()
	require.NoError(t, err)
	require.True(t, s.executed, "%v", s.status)
	require.Equal(t, w.new, anywhere(dir, read(t, filepath.Join(dir, "b/config.json"))))
	for _, name := range []string{"openat2", "write", "renameat", "unlinkat", "symlinkat", "flock", "execve"} {
		require.Positive(t, s.counts[name], "the create does no %s: it shows less than it should", name)
	}
	return s.counts
}

// points lists all injection points, in a fixed order.
func (w *faultWorld) points(counts map[string]int) []fault {
	var points []fault
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		for n := 1; n <= counts[name]; n++ {
			points = append(points, fault{call: name, n: n, kind: kill})
			if !isFileCall(name) {
				points = append(points, fault{call: name, n: n, errno: unix.ENOMEM}, fault{call: name, n: n, errno: unix.EAGAIN})
				continue
			}
			for _, errno := range errnos {
				points = append(points, fault{call: name, n: n, errno: errno})
			}
			if name == "read" || name == "pread64" || name == "write" {
				points = append(points, fault{call: name, n: n, kind: half})
			}
		}
	}
	return points
}

// try injects a fault and returns the outcome.
func (w *faultWorld) try(t testing.TB, dir string, f fault) (what string, _ error) {
	w.begin(t, dir)
	s, err := w.start(dir, f)
	if err != nil {
		return "not to be traced", err
	}
	output, err := os.ReadFile(filepath.Join(dir, "output"))
	if err != nil {
		return "", err
	}
	text := string(output)
	where := fmt.Sprintf("(%s)", s.path)
	what = "started"
	switch {
	case !s.reached:
		what = "fault not reached: another order of threads"
	case f.kind == kill:
		what = "killed"
	case s.executed:
		if s.status.ExitStatus() != 0 || text != "" {
			return what, fmt.Errorf("%s: started, status %#x, prints %q", where, s.status, text)
		}
		what = "started all the same"
	case strings.HasPrefix(text, "runtime: ") || strings.HasPrefix(text, "fatal error: "), !isFileCall(f.call):
		if isFileCall(f.call) && f.call != "fcntl" {
			return what, fmt.Errorf("%s: Go's runtime gives up: %q", where, text)
		}
		what = "given up by Go's runtime or by the program"
	default:
		what = "refused with a reason"
		if s.status.ExitStatus() != 1 || !strings.HasPrefix(text, program+": ") || strings.Count(text, "\n") != 1 {
			return what, fmt.Errorf("%s: no clear error: status %#x, prints %q", where, s.status, text)
		}
	}

	now, err := os.ReadFile(filepath.Join(dir, "b/config.json"))
	if err != nil {
		return what, err
	}
	now = anywhere(dir, now)
	switch {
	case bytes.Equal(now, w.old):
		what += ", config.json is the old one"
		if s.executed {
			return what, fmt.Errorf("%s: started without what was requested", where)
		}
	case bytes.Equal(now, w.new):
		what += ", config.json is the new one"
	case w.directory != "" && (bytes.Equal(now, w.single) || mountsForLinks(w.single, now, w.rootfs)):
		what += ", config.json is the new one with the libraries mounted one by one"
	case mountsForLinks(w.new, now, w.rootfs):
		what += ", config.json is the new one with mounts where links could not be made"
	default:
		return what + ", config.json is another one", fmt.Errorf("%s: config.json is neither the old nor the new one: %s", where, difference(w.new, now))
	}
	left, err := filepath.Glob(filepath.Join(dir, "b/.nvidia-container-runtime-*"))
	if err != nil {
		return what, err
	}
	for _, name := range left {
		// An old one stays if the fault kept us from looking.
		if f.kind != kill && filepath.Base(name) != leftover {
			return what, fmt.Errorf("%s: left behind: %s", where, name)
		}
	}

	if _, err := w.start(dir, fault{}); err != nil {
		return what, fmt.Errorf("%s: the next start: %w", where, err)
	}
	again, err := os.ReadFile(filepath.Join(dir, "b/config.json"))
	if err != nil {
		return what, err
	}
	again = anywhere(dir, again)
	if !bytes.Equal(again, w.new) && (!mountsForLinks(w.new, now, w.rootfs) || !bytes.Equal(again, now)) && (w.directory == "" || !sameMounts(again, w.new)) {
		return what, fmt.Errorf("%s: after the next start config.json is another one: %s", where, difference(w.new, again))
	}
	tree := dump(t, filepath.Join(dir, "b/rootfs"))
	for name := range tree {
		// Links of an earlier start that mounted files one by one stay below the new mount.
		if w.directory != "" && strings.HasPrefix(name, "usr/lib/nvidia-container-driver") {
			delete(tree, name)
		}
		if strings.HasPrefix(filepath.Base(name), ".nvidia-container-runtime-") {
			return what, fmt.Errorf("%s: left in the root filesystem: %s", where, name)
		}
	}
	if !maps.Equal(tree, w.rootfs) {
		return what, fmt.Errorf("%s: after the next start the root filesystem is another one: %s", where, treeDifference(w.rootfs, tree))
	}
	return what, nil
}

// anywhere returns a config.json without the name of the bundle's directory.
func anywhere(dir string, text []byte) []byte {
	return bytes.ReplaceAll(text, []byte(dir), []byte("DIR"))
}

// sameMounts reports whether two config.json differ at most in the order of mounts.
func sameMounts(a, b []byte) bool {
	var x, y specs.Spec
	if json.Unmarshal(a, &x) != nil || json.Unmarshal(b, &y) != nil {
		return false
	}
	for _, s := range []*specs.Spec{&x, &y} {
		slices.SortFunc(s.Mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
	}
	return reflect.DeepEqual(x, y)
}

// mountsForLinks reports whether a config.json is the wanted one, except for mounts in place of
// links or the loader cache in the new root filesystem: each must be of the link's target, or of
// the cache in the bundle.
func mountsForLinks(wanted, text []byte, rootfs map[string]string) bool {
	var want, got specs.Spec
	if json.Unmarshal(wanted, &want) != nil || json.Unmarshal(text, &got) != nil {
		return false
	}
	added := 0
	got.Mounts = slices.DeleteFunc(got.Mounts, func(m specs.Mount) bool {
		at := m.Destination
		if at == "/etc/ld.so.cache" && filepath.Base(m.Source) == "nvidia-ld.so.cache" {
			added++
			return true
		}
		if rest, ok := strings.CutPrefix(at, "/lib/"); ok { // a link to it in this image
			at = "/usr/lib/" + rest
		}
		link := false
		for range 3 { // libcuda.so leads to libcuda.so.1, which leads to libcuda.so.550.54.15
			_, target, ok := strings.Cut(rootfs[at[1:]], " -> ")
			if !ok {
				break
			}
			if !filepath.IsAbs(target) {
				target = filepath.Join(filepath.Dir(at), target)
			}
			at, link = target, true
		}
		stem := func(name string) string { s, _, _ := strings.Cut(filepath.Base(name), ".so"); return s }
		same := stem(m.Source) == stem(at) || strings.HasSuffix(filepath.Base(at), filepath.Base(m.Source)) || strings.TrimPrefix(filepath.Base(m.Source), "nvidia-") == filepath.Base(m.Destination)
		if !link || !same || !slices.Contains(m.Options, "ro") {
			return false
		}
		added++
		return true
	})
	return added > 0 && reflect.DeepEqual(want, got)
}

// difference shows where two texts differ.
func difference(want, got []byte) string {
	i := 0
	for i < len(want) && i < len(got) && want[i] == got[i] {
		i++
	}
	at := func(text []byte) string {
		return fmt.Sprintf("%.160q", text[min(max(0, i-60), len(text)):])
	}
	return fmt.Sprintf("from byte %d on it is %s instead of %s", i, at(got), at(want))
}

func treeDifference(want, got map[string]string) string {
	var out []string
	for name, what := range want {
		if got[name] != what {
			out = append(out, fmt.Sprintf("%s is %q instead of %q", name, got[name], what))
		}
	}
	for name := range got {
		if _, ok := want[name]; !ok {
			out = append(out, name+" is new")
		}
	}
	slices.Sort(out)
	return strings.Join(out, "; ")
}

func read(t testing.TB, name string) []byte {
	t.Helper()
	f, err := os.Open(name)
	require.NoError(t, err)
	defer f.Close()
	data, err := io.ReadAll(f)
	require.NoError(t, err)
	return data
}

func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var out []string
	for _, e := range entries {
		out = append(out, e.Name())
	}
	return out
}

// TestPassThroughFaults makes the system calls of a command that creates nothing fail. The
// low-level runtime is started with exactly the same arguments, or not at all.
func TestPassThroughFaults(t *testing.T) {
	if !canInject {
		need.Missing(t, "a 64-bit x86 machine")
	}
	dir := t.TempDir()
	program, machine := built(t), machineOf(t, "t4")
	once := func(f fault) (seen, string) {
		output, err := os.OpenFile(filepath.Join(dir, "output"), os.O_RDWR|os.O_CREATE|os.O_TRUNC, 0o600)
		require.NoError(t, err)
		defer output.Close()
		var s seen
		var wg sync.WaitGroup
		wg.Go(func() {
			runtime.LockOSThread()
			s, err = inject(program, []string{"state", "id"}, []string{
				"XDG_CONFIG_HOME=" + dir, "NVIDIA_CONTAINER_RUNTIME_PATH=" + need.Program(t, "echo"), "NVIDIA_CONTAINER_RUNTIME_SYSROOT_NODES=open", "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + machine,
			}, dir, output, f)
		})
		wg.Wait()
		require.NoError(t, err)
		return s, string(read(t, output.Name()))
	}
	s, out := once(fault{call: "none"})
	require.Equal(t, "state id\n", out)
	tried := 0
	for _, name := range slices.Sorted(maps.Values(fileCalls)) {
		for n := 1; n <= s.counts[name]; n++ {
			errno := errnos[(tried+n)%len(errnos)]
			s, out := once(fault{call: name, n: n, errno: errno})
			tried++
			if s.executed {
				assert.Equal(t, "state id\n", out)
				continue
			}
			if s.reached && name != "fcntl" { // by which Go's runtime looks at its descriptors
				assert.True(t, strings.HasPrefix(out, "nvidia-container-runtime.experimental: "), "%s %d, %v: %q", name, n, errno, out)
			}
		}
	}
	t.Logf("%d injection points tried", tried)
}
