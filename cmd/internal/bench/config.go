// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// dockerCapabilities are Docker's default capabilities.
var dockerCapabilities = strings.Fields("CAP_CHOWN CAP_DAC_OVERRIDE CAP_FSETID CAP_FOWNER CAP_MKNOD " +
	"CAP_NET_RAW CAP_SETGID CAP_SETUID CAP_SETFCAP CAP_SETPCAP CAP_NET_BIND_SERVICE CAP_SYS_CHROOT " +
	"CAP_KILL CAP_AUDIT_WRITE")

// dockerSyscalls are the system calls that Docker's profile allows.
var dockerSyscalls = strings.Fields(`
accept accept4 access adjtimex alarm bind brk cachestat capget capset chdir chmod chown chown32 clock_adjtime
clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep clock_nanosleep_time64 clone close
close_range connect copy_file_range creat dup dup2 dup3 epoll_create epoll_create1 epoll_ctl epoll_ctl_old
epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 execve execveat exit exit_group faccessat
faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat
fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs
fstatfs64 fsync ftruncate ftruncate64 futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake futimesat
getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32
getitimer getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresgid32 getresuid
getresuid32 getrlimit get_robust_list getrusage getsid getsockname getsockopt get_thread_area gettid gettimeofday
getuid getuid32 getxattr inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy
io_getevents io_pgetevents io_pgetevents_time64 ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule
landlock_create_ruleset landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr llistxattr
_llseek lremovexattr lseek lsetxattr lstat lstat64 madvise map_shadow_stack membarrier memfd_create memfd_secret
mincore mkdir mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open
mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget msgrcv msgsnd
msync munlock munlockall munmap name_to_handle_at nanosleep newfstatat _newselect open openat openat2 pause
pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl pread64
preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read readahead readlink
readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages removexattr rename renameat
renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn
rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sched_getaffinity sched_getattr
sched_getparam sched_get_priority_max sched_get_priority_min sched_getscheduler sched_rr_get_interval
sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam sched_setscheduler sched_yield seccomp
select semctl semget semop semtimedop semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid
setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid
setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid
setsockopt set_thread_area set_tid_address setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack
signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx symlink
symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete timer_getoverrun
timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime timerfd_gettime64
timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname unlink unlinkat utime
utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev socket
`)

// ordinary returns the config.json that Docker writes for an ordinary container with these
// variables.
func ordinary(env ...string) *specs.Spec {
	errno := uint(1)
	allow := func(names ...string) specs.LinuxSyscall {
		return specs.LinuxSyscall{Names: names, Action: specs.ActAllow}
	}
	personality := allow("personality")
	personality.Args = []specs.LinuxSeccompArg{{Value: 8, Op: specs.OpEqualTo}}
	mount := func(destination, kind, source, options string) specs.Mount {
		return specs.Mount{Destination: destination, Type: kind, Source: source, Options: strings.Fields(options)}
	}
	return &specs.Spec{
		Version:  "1.0.2",
		Hostname: "3f1c0b9d2a47",
		Root:     &specs.Root{Path: "rootfs"},
		Process: &specs.Process{
			Args: []string{"/usr/bin/program"}, Cwd: "/",
			Env: append([]string{
				"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOSTNAME=3f1c0b9d2a47",
			}, env...),
			Capabilities: &specs.LinuxCapabilities{
				Bounding: dockerCapabilities, Effective: dockerCapabilities, Permitted: dockerCapabilities,
			},
			OOMScoreAdj:     new(int),
			NoNewPrivileges: false,
		},
		Mounts: []specs.Mount{
			mount("/proc", "proc", "proc", "nosuid noexec nodev"),
			mount("/dev", "tmpfs", "tmpfs", "nosuid strictatime mode=755 size=65536k"),
			mount("/dev/pts", "devpts", "devpts", "nosuid noexec newinstance ptmxmode=0666 mode=0620"),
			mount("/dev/shm", "tmpfs", "shm", "nosuid noexec nodev mode=1777 size=67108864"),
			mount("/dev/mqueue", "mqueue", "mqueue", "nosuid noexec nodev"),
		},
		Linux: &specs.Linux{
			Namespaces: []specs.LinuxNamespace{
				{Type: "pid"}, {Type: "ipc"}, {Type: "uts"}, {Type: "mount"}, {Type: "network"},
			},
			MaskedPaths: []string{
				"/proc/asound", "/proc/acpi", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
				"/proc/sched_debug", "/proc/scsi", "/sys/firmware",
			},
			ReadonlyPaths: []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"},
			Resources:     &specs.LinuxResources{Devices: []specs.LinuxDeviceCgroup{{Allow: false, Access: "rwm"}}},
			Seccomp: &specs.LinuxSeccomp{
				DefaultAction: specs.ActErrno, DefaultErrnoRet: &errno,
				Architectures: []specs.Arch{specs.ArchX86_64, specs.ArchX86, specs.ArchX32},
				Syscalls: []specs.LinuxSyscall{
					allow(dockerSyscalls...), allow("arch_prctl"), allow("modify_ldt"), allow("chroot"), personality,
				},
			},
		},
	}
}

// config returns an ordinary config.json of at least size bytes. Half of the padding is
// environment, such as Kubernetes adds for each service; the rest is mounts and annotations.
func config(size int, env ...string) ([]byte, error) {
	s := ordinary(env...)
	data, err := json.Marshal(s)
	if err != nil || len(data) >= size {
		return data, err
	}
	const each = 2*70 + 190 + 90 // bytes that one turn adds
	s.Annotations = map[string]string{}
	for i := range (size-len(data))/each + 1 {
		s.Process.Env = append(s.Process.Env,
			fmt.Sprintf("SERVICE_NUMBER_%06d_PORT_443_TCP_ADDR=10.100.%d.%d, and the like", i, i/256%256, i%256),
			fmt.Sprintf("SERVICE_NUMBER_%06d_PORT_443_TCP_PORT=443 of protocol tcp, too", i))
		s.Mounts = append(s.Mounts, specs.Mount{
			Destination: fmt.Sprintf("/var/data/volume-%06d", i), Type: "bind",
			Source:  fmt.Sprintf("/var/lib/kubelet/pods/3f1c0b9d-2a47/volumes/kubernetes.io~configmap/volume-%06d", i),
			Options: []string{"rbind", "rprivate", "ro"},
		})
		s.Annotations[fmt.Sprintf("io.example.annotation/number-%06d", i)] = "a value as long as such values are"
	}
	return json.Marshal(s)
}
