// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"unsafe"

	"golang.org/x/sys/unix"
)

// account is what a command does until it execs the low-level runtime.
type account struct {
	calls     int // system calls
	opened    int // files and directories opened, including O_PATH
	processes int // processes started
	peak      int // peak resident memory in KiB
}

// syscallInfo is the used part of struct ptrace_syscall_info in <linux/ptrace.h>.
type syscallInfo struct {
	op   uint8
	_    [3]uint8
	arch uint32
	ip   uint64
	sp   uint64
	data [7]uint64 // entry: number and arguments; exit: result and whether it is an error
}

const (
	ptraceGetSyscallInfo = 0x420e
	infoEntry            = 1
	infoExit             = 2
)

// count runs a subject once under ptrace. It stops counting at the exec; memory is VmHWM in
// /proc/PID/status at that moment. wait4(2) would return the maximum of all programs that the
// process ran, including this one before and the low-level runtime after it.
func count(s subject) (account, error) {
	if s.prepare != nil {
		if err := s.prepare(); err != nil {
			return account{}, err
		}
	}
	runtime.LockOSThread() // ptrace knows threads
	defer runtime.UnlockOSThread()
	null, err := os.OpenFile(os.DevNull, os.O_RDWR, 0)
	if err != nil {
		return account{}, err
	}
	defer null.Close()
	p, err := os.StartProcess(s.argv[0], s.argv, &os.ProcAttr{
		Env: s.env, Dir: s.dir, Files: []*os.File{null, null, null}, Sys: &unix.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return account{}, err
	}
	a, err := follow(p.Pid)
	if err != nil {
		_ = p.Kill()
	}
	_ = p.Release()
	return a, err
}

func follow(pid int) (account, error) {
	var a account
	var status unix.WaitStatus
	if _, err := unix.Wait4(pid, &status, unix.WALL, nil); err != nil {
		return a, err
	}
	const follow = unix.PTRACE_O_TRACESYSGOOD | unix.PTRACE_O_TRACECLONE | unix.PTRACE_O_TRACEFORK |
		unix.PTRACE_O_TRACEVFORK | unix.PTRACE_O_TRACEEXEC | unix.PTRACE_O_EXITKILL
	if err := unix.PtraceSetOptions(pid, follow); err != nil {
		return a, err
	}
	if err := unix.PtraceSyscall(pid, 0); err != nil {
		return a, err
	}
	number := map[int]uint64{} // the system call that each thread is in
	counting := true
	for {
		id, err := unix.Wait4(-1, &status, unix.WALL, nil)
		if errors.Is(err, unix.ECHILD) {
			return a, nil
		}
		if err != nil {
			return a, err
		}
		if !status.Stopped() {
			if id == pid {
				if !status.Exited() || status.ExitStatus() != 0 {
					return a, fmt.Errorf("ended with %v", status)
				}
				return a, nil
			}
			continue
		}
		signal := 0
		switch s := status.StopSignal(); s {
		case unix.SIGTRAP | 0x80:
			if !counting {
				break
			}
			var info syscallInfo
			_, _, errno := unix.Syscall6(unix.SYS_PTRACE, ptraceGetSyscallInfo,
				uintptr(id), unsafe.Sizeof(info), uintptr(unsafe.Pointer(&info)), 0, 0)
			if errno == unix.ESRCH {
				continue // another thread execs, and ends this one
			}
			if errno != 0 {
				return a, fmt.Errorf("reading a system call: %w", errno)
			}
			switch info.op {
			case infoEntry:
				a.calls++
				number[id] = info.data[0]
				if info.data[0] == unix.SYS_EXECVE {
					if a.peak, err = peak(pid); err != nil {
						return a, err
					}
				}
			case infoExit:
				n := number[id]
				if (n == unix.SYS_OPENAT || n == unix.SYS_OPENAT2 || opens(n)) && int64(info.data[0]) >= 0 {
					a.opened++
				}
			}
		case unix.SIGTRAP:
			switch status.TrapCause() {
			case unix.PTRACE_EVENT_FORK, unix.PTRACE_EVENT_VFORK:
				a.processes++
			case unix.PTRACE_EVENT_CLONE:
				child, err := unix.PtraceGetEventMsg(id)
				if err != nil {
					return a, err
				}
				if !thread(pid, int(child)) {
					a.processes++
				}
			case unix.PTRACE_EVENT_EXEC:
				counting = false
			}
		case unix.SIGSTOP: // a new thread
		default:
			signal = int(s)
		}
		// A thread may be gone by now, because another one execs.
		if err := unix.PtraceSyscall(id, signal); err != nil && !errors.Is(err, unix.ESRCH) {
			return a, err
		}
	}
}

// opens reports whether a system call is open(2), which newer architectures do not have.
func opens(number uint64) bool {
	return runtime.GOARCH == "amd64" && number == 2
}

// thread reports whether a new task is one of the process's threads.
func thread(pid, id int) bool {
	_, err := os.Stat(fmt.Sprintf("/proc/%d/task/%d", pid, id))
	return err == nil
}

// peak reads VmHWM from /proc/PID/status, in KiB.
func peak(pid int) (int, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return 0, err
	}
	for line := range bytes.Lines(data) {
		if rest, ok := bytes.CutPrefix(line, []byte("VmHWM:")); ok {
			return strconv.Atoi(string(bytes.TrimSuffix(bytes.TrimSpace(rest), []byte(" kB"))))
		}
	}
	return 0, errors.New("no VmHWM in /proc/PID/status")
}
