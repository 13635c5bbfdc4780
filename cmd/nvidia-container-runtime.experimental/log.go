// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// openLog returns the logger for the debug key of config.toml. If the key is empty or the file
// cannot be opened, messages are discarded: a broken log must not keep a container from starting.
func openLog(path, level string, debug bool) *logrus.Logger {
	log := logrus.New()
	log.AddHook(bound{})
	log.SetOutput(io.Discard)
	if l, err := logrus.ParseLevel(level); err == nil {
		log.SetLevel(l)
	}
	if debug {
		log.SetLevel(logrus.DebugLevel)
	}
	if path == "" || path == "/dev/null" {
		return log
	}
	if f, err := openAppend(path, 0o640); err == nil {
		log.SetOutput(patient{f})
	}
	return log
}

// patient ignores errors of its writer, such as a full disk: the logger would report them on
// stderr, which engines read.
type patient struct{ io.Writer }

func (p patient) Write(data []byte) (int, error) {
	_, _ = p.Writer.Write(data)
	return len(data), nil
}

// maxMessage limits messages, in bytes: lists of devices and their problems can be long.
const maxMessage = 8 << 10

// bounded truncates a message that is too long.
func bounded(text string) string {
	if len(text) <= maxMessage {
		return text
	}
	return fmt.Sprintf("%s… (%d bytes more)", strings.ToValidUTF8(text[:maxMessage], ""), len(text)-maxMessage)
}

// bound makes a logger truncate long messages.
type bound struct{}

func (bound) Levels() []logrus.Level { return logrus.AllLevels }

func (bound) Fire(e *logrus.Entry) error {
	e.Message = bounded(e.Message)
	return nil
}

// report appends text to the low-level runtime's log, where engines look for the reason of a
// failure: runc's --log FILE with --log-format text or json, crun's --log [file:]FILE. crun's other
// destinations, journald:ID and syslog:ID, are not files.
func report(inv invocation, text string) {
	path := strings.TrimPrefix(inv.log, "file:")
	if path == "" || strings.HasPrefix(path, "journald:") || strings.HasPrefix(path, "syslog:") {
		return
	}
	f, err := openAppend(path, 0o644)
	if err != nil {
		return
	}
	defer f.Close()
	log := logrus.New()
	log.SetOutput(patient{f})
	if inv.logFormat == "json" {
		log.SetFormatter(&logrus.JSONFormatter{})
	}
	log.Error(text)
}

// openAppend opens a log as low-level runtimes do. It does not wait for the reader of a FIFO.
func openAppend(path string, perm os.FileMode) (*os.File, error) {
	return os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND|unix.O_NONBLOCK|unix.O_NOCTTY, perm)
}
