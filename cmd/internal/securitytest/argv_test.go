// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// randomLines is how many random command lines TestCommandLines tries with each runtime, besides
// those in commandLines.
const randomLines = 250

// commandLines run in a directory that contains the bundles A and B, and is one itself.
var commandLines = []string{
	"create id", "run id", "create --bundle A id", "create --bundle=A id", "create -b A id", "create -b=A id", "create -bA id", "create -bundle A id",
	"create -bundle=A id", "create --bundle A --bundle B id", "create -b A --bundle B id", "create id --bundle A", "create id -b A", "create -- id --bundle A",
	"create --bundle A -- id", "-- create --bundle A id", "create --bundle= id", "create --bun A id", "create --b A id", "run -dbA id", "run -bdA id", "run -d -b A id",
	"create --pid-file -b id", "create --pid-file --bundle --bundle A id", "create --no-pivot --bundle A id", "create --no-pivot=true --bundle A id",
	"create --no-pivot=false -b B id", "create --no-pivot true --bundle A id", "create --preserve-fds 0 --bundle A id", "create --preserve-fds=0 -b B id",
	"create --pid-file=p --bundle A id", "create --console-socket s --bundle A id", "run --keep --bundle A id", "run --no-subreaper --no-new-keyring -b A id",
	"--root r create --bundle A id", "--root=r create -b B id", "--root create state id", "--log l create -b A id", "--log=l --log-format json create -b A id",
	"--log-format=json create -b A id", "--debug create -b A id", "--systemd-cgroup create -b A id", "--systemd-cgroup=false create -b A id", "--debug=true create -b B id",
	"-debug create -b A id", "-root r create -b A id", "--rootless true create -b A id", "--rootless=auto create -b A id", "--log create create -b A id",
	"--cgroup-manager cgroupfs create -b A id", "--cgroup-manager=disabled run -b A id", "create --config A/config.json id", "create -f A/config.json id",
	"create -fA/config.json id", "create --bundle B --config A/config.json id", "create --config config.json -b A id", "create -b A -f config.json id",
	"--help create -b A id", "create --help -b A id", "create -b A --help id", "-h create -b A id", "--version create -b A id", "-v create -b A id", "create -h id", "create -v id",
	"create -b A", "create", "run", "create -b", "create --bundle", "create id id2 -b A", "create --unknown -b A id", "--unknown create -b A id", "create -x -b A id",
	"state id", "exec -b A id", "kill id", "delete id", "list", "spec -b A", "create - -b A id", "- create -b A id", "create -b - id", "create -b -- id", "create -b -d id",
}

// globalWords and words are the words of random command lines before and after the command.
var (
	globalWords = []string{
		"--root r", "--root=r", "--root create", "--log l", "--log=l", "--log-format json", "--log-format=json", "--debug", "--systemd-cgroup", "--systemd-cgroup=false",
		"-root r", "--rootless true", "--rootless=auto", "--log-f json", "--cgroup-manager disabled", "--log run",
	}
	commandWords = []string{
		"-b A", "--bundle B", "--bundle=A", "--bundle=B", "-bA", "-b=B", "-bundle A", "-bundle=B", "-d", "--detach", "-db A", "-dbB", "--pid-file p", "--pid-file=p", "--pid-file -b",
		"--no-pivot", "--no-pivot=true", "--no-new-keyring", "--console-socket s", "--console-socket --bundle", "--preserve-fds 0", "--preserve-fds=0", "--", "--bund A", "--bundl=B",
		"--no-p", "--config A/config.json", "--config=B/config.json", "-f A/config.json", "-fB/config.json", "-b", "--bundle", "A", "B", "--pid A", "-b --",
	}
)

// randomLine returns a command line with the container's name somewhere after the command.
func randomLine(random *rand.Rand) []string {
	var line []string
	add := func(from []string, most int) {
		for range random.IntN(most + 1) {
			line = append(line, strings.Fields(from[random.IntN(len(from))])...)
		}
	}
	add(globalWords, 2)
	line = append(line, []string{"create", "run"}[random.IntN(2)])
	add(commandWords, 3)
	line = append(line, "id")
	if random.IntN(4) == 0 {
		add(commandWords, 2)
	}
	return line
}

// TestCommandLines compares which config.json this program edits and the real runtime reads for the
// same command line. The files are not JSON, so that the runtime starts nothing; inotify shows
// which one it opens. Command lines for which it opens none do not matter.
func TestCommandLines(t *testing.T) {
	for _, name := range []string{"runc", "crun"} {
		t.Run(name, func(t *testing.T) {
			lines := make([][]string, 0, len(commandLines)+randomLines)
			for _, l := range commandLines {
				lines = append(lines, strings.Fields(l))
			}
			random := rand.New(rand.NewPCG(1, 0))
			for range share(randomLines) {
				lines = append(lines, randomLine(random))
			}
			runtime := need.Program(t, name)
			ours := newBundle(t, "t4", debian(t))
			ours.runtime = stub(t, name)
			compared := map[string]int{}
			for _, line := range lines {
				theirs := whatTheyRead(t, runtime, line)
				if theirs == "" {
					compared["not started"]++
					continue
				}
				compared["read "+theirs]++
				assert.Equal(t, theirs, whatWeEdit(t, ours, line), "%q", line)
			}
			t.Logf("%d command lines: %v", len(lines), compared)
			assert.Positive(t, compared["read A"])
			assert.Positive(t, compared["read B"])
			assert.Positive(t, compared["read ."])
		})
	}
}

// bundles are the directories with a config.json.
var bundles = []string{".", "A", "B"}

// whatTheyRead returns the directory in which the runtime opens a config.json, "" for none.
func whatTheyRead(t *testing.T, runtime string, line []string) string {
	t.Helper()
	dir := t.TempDir()
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC | unix.IN_NONBLOCK)
	require.NoError(t, err)
	defer unix.Close(fd)
	watches := map[int]string{}
	for _, name := range bundles {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		file := filepath.Join(dir, name, "config.json")
		require.NoError(t, os.WriteFile(file, []byte("no JSON"), 0o644))
		wd, err := unix.InotifyAddWatch(fd, file, unix.IN_OPEN)
		require.NoError(t, err)
		watches[wd] = name
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, runtime, line...)
	cmd.Dir = dir
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "XDG_RUNTIME_DIR=" + dir}
	if _, err := cmd.CombinedOutput(); err == nil {
		return "" // it has helped, or listed, or the like
	}
	require.NoError(t, ctx.Err(), "%q does not end", line)
	buf := make([]byte, 64<<10)
	n, err := unix.Read(fd, buf)
	if errors.Is(err, unix.EAGAIN) {
		return ""
	}
	require.NoError(t, err)
	var opened []string
	for buf = buf[:n]; len(buf) >= unix.SizeofInotifyEvent; buf = buf[unix.SizeofInotifyEvent:] { // events of a file have no name
		opened = append(opened, watches[int(binary.NativeEndian.Uint32(buf))])
	}
	slices.Sort(opened)
	return strings.Join(slices.Compact(opened), " ")
}

// whatWeEdit returns the directory in which this program edits a config.json, "" for none.
func whatWeEdit(t *testing.T, b *bundle, line []string) string {
	t.Helper()
	dir := t.TempDir()
	before := bytes.Replace(config(gpu0), []byte(`"rootfs"`), []byte(fmt.Sprintf("%q", b.rootfs)), 1)
	for _, name := range bundles {
		require.NoError(t, os.MkdirAll(filepath.Join(dir, name), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(dir, name, "config.json"), before, 0o644))
	}
	ctx, cancel := context.WithTimeout(t.Context(), deadline)
	defer cancel()
	cmd := exec.CommandContext(ctx, built(t), line...)
	cmd.Dir = dir
	cmd.Env = b.environ()
	out, err := cmd.CombinedOutput()
	require.NoError(t, ctx.Err(), "%q does not end", line)
	var edited []string
	for _, name := range bundles {
		if !bytes.Equal(before, read(t, filepath.Join(dir, name, "config.json"))) {
			edited = append(edited, name)
		}
	}
	slices.Sort(edited)
	if err != nil {
		return fmt.Sprintf("%s: %v: %s", strings.Join(edited, " "), err, out)
	}
	return strings.Join(edited, " ")
}
