// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"
)

// printParentDeathSignal is a program that prints its parent death signal.
func printParentDeathSignal() {
	var signal int32
	if err := unix.Prctl(unix.PR_GET_PDEATHSIG, uintptr(unsafe.Pointer(&signal)), 0, 0, 0); err != nil {
		fmt.Println(err)
	}
	fmt.Println(signal)
}

// TestParentDeathSignal checks that the low-level runtime gets the parent death signal set by our
// caller. Many concurrent creates keep threads waiting for a processor, so that Go moves goroutines
// to other threads.
func TestParentDeathSignal(t *testing.T) {
	machine, bundle := largeMachine(t)
	writeLargeConfig(t, bundle, "all")
	path, err := built()
	require.NoError(t, err)
	runc, err := exec.LookPath("parent-death-signal")
	require.NoError(t, err)
	const workers, each = 6, 10
	got := make(chan string, workers*each)
	for range workers {
		own := t.TempDir()
		require.NoError(t, os.Symlink(filepath.Join(bundle, "rootfs"), filepath.Join(own, "rootfs")))
		writeLargeConfig(t, own, "all")
		go func() {
			runtime.LockOSThread() // this thread is the parent
			for range each {
				cmd := exec.Command(path, "create", "--bundle", own, "id")
				cmd.Env = []string{"NVIDIA_CONTAINER_RUNTIME_PATH=" + runc, "NVIDIA_CONTAINER_RUNTIME_SYSROOT=" + machine, "XDG_CONFIG_HOME=" + bundle}
				cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGUSR1}
				out, err := cmd.CombinedOutput()
				if err != nil {
					out = fmt.Append(out, err)
				}
				got <- strings.TrimSpace(string(out))
			}
		}()
	}
	seen := map[string]int{}
	for range workers * each {
		seen[<-got]++
	}
	assert.Equal(t, map[string]int{"10": workers * each}, seen)
}
