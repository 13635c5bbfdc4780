// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package securitytest

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// canInject reports whether faults can be injected on this architecture.
const canInject = true

// calls are the system calls that fail, by what they do.
var (
	// fileCalls work on files and programs: the program itself makes them and handles their errors.
	fileCalls = map[uint64]string{
		unix.SYS_OPENAT: "openat", unix.SYS_OPENAT2: "openat2", unix.SYS_CLOSE: "close",
		unix.SYS_READ: "read", unix.SYS_PREAD64: "pread64", unix.SYS_WRITE: "write", unix.SYS_PWRITE64: "pwrite64",
		unix.SYS_FSYNC: "fsync", unix.SYS_FDATASYNC: "fdatasync", unix.SYS_FTRUNCATE: "ftruncate", unix.SYS_LSEEK: "lseek",
		unix.SYS_RENAME: "rename", unix.SYS_RENAMEAT: "renameat", unix.SYS_RENAMEAT2: "renameat2",
		unix.SYS_UNLINK: "unlink", unix.SYS_UNLINKAT: "unlinkat", unix.SYS_SYMLINKAT: "symlinkat", unix.SYS_LINKAT: "linkat",
		unix.SYS_MKDIRAT: "mkdirat", unix.SYS_MKNODAT: "mknodat", unix.SYS_FCHMOD: "fchmod", unix.SYS_FCHMODAT: "fchmodat",
		unix.SYS_FCHOWN: "fchown", unix.SYS_FCHOWNAT: "fchownat", unix.SYS_FSTAT: "fstat", unix.SYS_NEWFSTATAT: "newfstatat",
		unix.SYS_STATX: "statx", unix.SYS_FSTATFS: "fstatfs", unix.SYS_STATFS: "statfs", unix.SYS_READLINKAT: "readlinkat",
		unix.SYS_GETDENTS64: "getdents64", unix.SYS_FACCESSAT: "faccessat", unix.SYS_FACCESSAT2: "faccessat2",
		unix.SYS_FLOCK: "flock", unix.SYS_FCNTL: "fcntl", unix.SYS_GETCWD: "getcwd", unix.SYS_EXECVE: "execve",
	}
	// ownCalls are made by Go's runtime, for memory, threads and waiting: if they fail, it may give
	// up with its own message.
	ownCalls = map[uint64]string{
		unix.SYS_MMAP: "mmap", unix.SYS_CLONE: "clone", unix.SYS_EPOLL_CREATE1: "epoll_create1", unix.SYS_EPOLL_CTL: "epoll_ctl",
		unix.SYS_EVENTFD2: "eventfd2", unix.SYS_GETRANDOM: "getrandom", unix.SYS_PRLIMIT64: "prlimit64",
		unix.SYS_RT_SIGACTION: "rt_sigaction", unix.SYS_SIGALTSTACK: "sigaltstack", unix.SYS_SCHED_GETAFFINITY: "sched_getaffinity",
		unix.SYS_MADVISE: "madvise", unix.SYS_MUNMAP: "munmap",
	}
)

// inject traces a program until it execs another one or exits, and injects the fault once. It must
// be called on a locked thread. The program's output goes to output.
func inject(path string, args, env []string, dir string, output *os.File, f fault) (seen, error) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		return seen{}, err
	}
	defer null.Close()
	pid, err := syscall.ForkExec(path, append([]string{path}, args...), &syscall.ProcAttr{
		Dir: dir, Env: env, Files: []uintptr{null.Fd(), output.Fd(), output.Fd()}, Sys: &syscall.SysProcAttr{Ptrace: true},
	})
	if err != nil {
		return seen{}, err
	}
	hung := time.AfterFunc(deadline, func() { _ = unix.Kill(pid, unix.SIGKILL) })
	s, err := follow(pid, f)
	if !hung.Stop() {
		err = errors.Join(err, errors.New("it does not end"))
	}
	return s, err
}

// follow is the tracer's loop.
func follow(pid int, f fault) (s seen, err error) {
	s.counts = map[string]int{}
	type thread struct {
		inside bool // between entry and exit of a call
		result int  // what the call shall return, if not 0
	}
	threads := map[int]*thread{}
	first := true
	for {
		var status unix.WaitStatus
		tid, err := unix.Wait4(-1, &status, unix.WALL|unix.WNOTHREAD, nil)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return s, fmt.Errorf("waiting: %w", err)
		}
		if status.Exited() || status.Signaled() {
			delete(threads, tid)
			if tid == pid {
				s.status = status
				return s, nil
			}
			continue
		}
		if first {
			first = false
			if err := unix.PtraceSetOptions(pid, unix.PTRACE_O_TRACESYSGOOD|unix.PTRACE_O_TRACECLONE|unix.PTRACE_O_TRACEEXEC|unix.PTRACE_O_EXITKILL); err != nil {
				return s, err
			}
			threads[tid] = &thread{}
			if err := resume(tid, 0); err != nil {
				return s, err
			}
			continue
		}
		th := threads[tid]
		if th == nil { // a new thread, stopped as all new ones are
			threads[tid] = &thread{}
			if err := resume(tid, 0); err != nil {
				return s, err
			}
			continue
		}
		signal := status.StopSignal()
		switch {
		case signal == unix.SIGTRAP|0x80:
			th.inside = !th.inside
			var regs unix.PtraceRegs
			if err := unix.PtraceGetRegs(tid, &regs); err != nil {
				if errors.Is(err, unix.ESRCH) {
					continue // it was killed just now
				}
				return s, err
			}
			if !th.inside {
				if th.result != 0 {
					regs.Rax, th.result = uint64(th.result), 0
					if err := unix.PtraceSetRegs(tid, &regs); err != nil {
						return s, err
					}
				}
				break
			}
			name := fileCalls[regs.Orig_rax]
			if name == "" {
				name = ownCalls[regs.Orig_rax]
			}
			if name == "" {
				break
			}
			s.counts[name]++
			if name != f.call || s.counts[name] != f.n {
				break
			}
			s.reached = true
			s.path = argument(tid, name, regs)
			switch f.kind {
			case kill:
				if err := unix.Kill(pid, unix.SIGKILL); err != nil {
					return s, err
				}
				continue
			case half:
				if regs.Rdx > 1 {
					regs.Rdx /= 2
				}
			default:
				regs.Orig_rax, th.result = ^uint64(0), -int(f.errno)
			}
			if err := unix.PtraceSetRegs(tid, &regs); err != nil {
				return s, err
			}
		case signal == unix.SIGTRAP && status.TrapCause() == unix.PTRACE_EVENT_EXEC:
			// From here on it is the low-level runtime.
			s.executed = true
			if err := unix.PtraceDetach(tid); err != nil {
				return s, err
			}
			continue
		case signal == unix.SIGTRAP && status.TrapCause() > 0, signal == unix.SIGSTOP:
		default:
			if err := resume(tid, int(signal)); err != nil {
				return s, err
			}
			continue
		}
		if err := resume(tid, 0); err != nil {
			return s, err
		}
	}
}

func resume(tid, signal int) error {
	err := unix.PtraceSyscall(tid, signal)
	if errors.Is(err, unix.ESRCH) {
		return nil // it was killed
	}
	return err
}

// argument reads the name that a call is about, for messages.
func argument(tid int, name string, regs unix.PtraceRegs) string {
	at := regs.Rsi
	switch name {
	case "execve", "statfs", "rename", "unlink", "symlinkat":
		at = regs.Rdi
	case "openat", "openat2", "newfstatat", "readlinkat", "renameat", "unlinkat", "mkdirat", "faccessat", "faccessat2", "fchownat", "mknodat":
	default:
		return fmt.Sprintf("descriptor %d", int(regs.Rdi))
	}
	var text [128]byte
	if n, err := unix.PtracePeekData(tid, uintptr(at), text[:]); err != nil {
		return fmt.Sprintf("%d bytes, %v", n, err)
	}
	path, _, _ := bytes.Cut(text[:], []byte{0})
	return string(path)
}
