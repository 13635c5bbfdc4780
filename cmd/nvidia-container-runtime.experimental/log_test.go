// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// errHostile is an error that quotes a value from an image.
var errHostile = errors.New("device \"x\nlevel=info msg=forged\x1b[2J\": unknown")

func TestReport(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)

	t.Run("json", func(t *testing.T) {
		require.NoError(t, os.WriteFile("json.log", []byte("before\n"), 0o600))
		report(invocation{log: "json.log", logFormat: "json"}, errHostile.Error())
		data, err := os.ReadFile("json.log")
		require.NoError(t, err)
		require.Regexp(t, `^before\n\{[^\n]*\}\n$`, string(data))
		var entry map[string]string
		require.NoError(t, json.Unmarshal(data[len("before\n"):], &entry))
		_, err = time.Parse(time.RFC3339, entry["time"])
		require.NoError(t, err)
		delete(entry, "time")
		assert.Equal(t, map[string]string{"level": "error", "msg": errHostile.Error()}, entry)
	})
	for _, inv := range []invocation{{log: "text.log"}, {log: "text.log", logFormat: "text"}, {log: "file:text.log", logFormat: "unheard of"}} {
		t.Run("text "+inv.log+inv.logFormat, func(t *testing.T) {
			require.NoError(t, os.RemoveAll("text.log"))
			report(inv, errHostile.Error())
			data, err := os.ReadFile("text.log")
			require.NoError(t, err)
			assert.Regexp(t, `^time="[^"]*" level=error msg="device \\"x\\nlevel=info msg=forged\\x1b\[2J\\": unknown"\n$`, string(data))
		})
	}
	t.Run("nowhere", func(t *testing.T) {
		t.Chdir(t.TempDir())
		require.NoError(t, os.Mkdir("directory", 0o755))
		require.NoError(t, unix.Mkfifo("fifo", 0o600))
		require.NoError(t, os.Symlink("loop", "loop"))
		for _, log := range []string{"", "journald:x", "syslog:x", "file:", "directory", "fifo", "loop", "none/x.log", "/dev/full", "a\x00b"} {
			report(invocation{log: log}, errHostile.Error()) // must return
		}
		after, err := filepath.Glob("*")
		require.NoError(t, err)
		assert.Equal(t, []string{"directory", "fifo", "loop"}, after)
	})
}

func TestOpenLog(t *testing.T) {
	dir := t.TempDir()
	fifo := filepath.Join(dir, "fifo")
	require.NoError(t, unix.Mkfifo(fifo, 0o600))
	for _, tt := range []struct {
		name, path, level string
		debug             bool
		want              logrus.Level
		lines             bool // whether messages reach the file
	}{
		{name: "file", path: filepath.Join(dir, "a"), level: "warning", want: logrus.WarnLevel, lines: true},
		{name: "debug beats level", path: filepath.Join(dir, "b"), level: "error", debug: true, want: logrus.DebugLevel, lines: true},
		{name: "no level", path: filepath.Join(dir, "c"), want: logrus.InfoLevel, lines: true},
		{name: "bad level", path: filepath.Join(dir, "d"), level: "chatty\n", want: logrus.InfoLevel, lines: true},
		{name: "none", want: logrus.InfoLevel, level: "info"},
		{name: "null", path: "/dev/null", level: "info", want: logrus.InfoLevel},
		{name: "no such directory", path: filepath.Join(dir, "x/y"), level: "info", want: logrus.InfoLevel},
		{name: "directory", path: dir, level: "info", want: logrus.InfoLevel},
		{name: "fifo without reader", path: fifo, level: "info", want: logrus.InfoLevel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			log := openLog(tt.path, tt.level, tt.debug)
			assert.Equal(t, tt.want, log.GetLevel())
			log.Error(errHostile)
			if !tt.lines {
				return
			}
			data, err := os.ReadFile(tt.path)
			require.NoError(t, err)
			assert.Regexp(t, `^time=.* level=error msg=.*\n$`, string(data))
			info, err := os.Stat(tt.path)
			require.NoError(t, err)
			assert.Zero(t, info.Mode().Perm()&0o007, "others have no access")
		})
	}
}

// TestBounded checks that messages have a limited length, whatever they quote.
func TestBounded(t *testing.T) {
	long := strings.Repeat("ä", 1<<20)
	assert.Equal(t, "short", bounded("short"))
	assert.Equal(t, "x"+strings.Repeat("ä", maxMessage/2-1)+"… (2088961 bytes more)", bounded("x"+long))
	file := filepath.Join(t.TempDir(), "log")
	openLog(file, "info", false).Error(errors.New(long))
	info, err := os.Stat(file)
	require.NoError(t, err)
	assert.Less(t, info.Size(), int64(maxMessage+200))
}
