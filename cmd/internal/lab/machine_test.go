// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"cmp"
	"context"
	"crypto/sha256"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/tools/txtar"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// release is a Debian release with its own engines, or with one from another source.
type release struct {
	name        string // heads its column; used in NVCR_LAB_RELEASES
	suite       string
	tests, skip string // patterns
	// more are arguments of go install, for programs that this machine has instead of, or in
	// addition to, Debian's.
	more []string
}

var releases = []release{
	{name: "forky", suite: "forky", tests: ".", skip: "Kubelet"},
	{name: "trixie", suite: "trixie", tests: ".", skip: "Kubelet"},
	{name: "forky-docker29", suite: "forky", tests: "TestDocker", skip: "^$", more: []string{
		"-ldflags=-s -w", "github.com/moby/moby/v2/cmd/dockerd@v2.0.0-beta.24",
	}},
	{name: "forky-kubelet", suite: "forky", tests: "TestKubelet", skip: "^$", more: []string{
		"-C", "deviceplugin", "-buildvcs=false", "-ldflags=-s -w", ".", "k8s.io/kubernetes/cmd/kubelet",
	}},
}

// chosen returns the releases to test.
func chosen(t *testing.T) []release {
	t.Helper()
	var list []release
	for name := range strings.SplitSeq(cmp.Or(os.Getenv("NVCR_LAB_RELEASES"), "forky"), ",") {
		i := slices.IndexFunc(releases, func(r release) bool { return r.name == name })
		require.GreaterOrEqual(t, i, 0, "NVCR_LAB_RELEASES: there is no %q", name)
		list = append(list, releases[i])
	}
	return list
}

// packages are the packages that the machine has besides Debian's essential ones. Each release
// provides a kernel for User Mode Linux.
const packages = "systemd,systemd-sysv,dbus,dbus-user-session,udev,kmod,iproute2,iptables,procps,util-linux,mount," +
	"busybox-static,apparmor,jq,uidmap,fuse-overlayfs,passwd,libpam-systemd,user-mode-linux,docker.io,docker-cli," +
	"docker-buildx,docker-compose,containerd,podman,crun,runc,netavark,aardvark-dns,passt,catatonit,rootlesskit,slirp4netns"

//go:embed testdata/image.txtar
var imageFiles []byte

// masked are units that would otherwise run alongside the tests.
var masked = strings.Fields("apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer fstrim.timer e2scrub_all.timer " +
	"e2scrub_reap.service getty@tty1.service systemd-networkd.service systemd-networkd.socket ldconfig.service " +
	"systemd-networkd-wait-online.service systemd-journal-catalog-update.service systemd-hwdb-update.service " +
	"systemd-update-done.service podman-auto-update.timer podman-auto-update.service podman-restart.service " +
	"podman-clean-transient.service podman.socket podman.service netavark-dhcp-proxy.socket " +
	"netavark-dhcp-proxy.service netavark-firewalld-reload.service")

// image returns a directory with the release's root.ext4 and, in uml, everything that its User Mode
// Linux needs. It is created once, in the user's cache directory, and again when any of its inputs
// changes.
func (r release) image(t *testing.T) string {
	t.Helper()
	need.Program(t, "mmdebstrap")
	need.Program(t, "mke2fs")
	made := sha256.Sum256(fmt.Append(nil, packages, masked, kept, sample, finish, string(imageFiles)))
	return need.Cached(t, fmt.Sprintf("nvcr-lab/%s-%x", r.suite, made[:6]), "an image of Debian's "+r.suite, r.make)
}

// kept are the AppArmor profiles that concern containers. Loading the others would take longer than
// booting.
var kept = strings.Fields("runc crun podman buildah unprivileged_userns")

// finish makes root.ext4 and uml of a release's tree, which it removes. It runs in the tree; its
// arguments are uml, kept and sample.
const finish = `set -e
	ln -s ../lab.service etc/systemd/system/multi-user.target.wants/lab.service
	cp -a usr/lib/uml/modules/. usr/lib/modules/
	cp usr/lib/uml/modules/*/"$3" ..
	useradd --root "$PWD" -m -s /bin/bash user
	grep -q ^user: etc/subuid || chroot . usermod --add-subuids 100000-165535 --add-subgids 100000-165535 user
	mkdir ../kept
	for p in $2; do [ ! -e etc/apparmor.d/$p ] || mv etc/apparmor.d/$p ../kept/; done
	find etc/apparmor.d -maxdepth 1 -type f -delete
	mv ../kept/* etc/apparmor.d/
	# Their processes take a seventh of a daemon-reload.
	rm usr/lib/systemd/system-generators/systemd-*
	mkdir -p "$1/usr/bin" "$1/lib64" "$1/lib" "$1/proc" "$1/dev" "$1/image" "$1/run"
	cp usr/bin/linux.uml "$1/usr/bin/"
	cp lib64/ld-linux-x86-64.so.2 "$1/lib64/"
	cp usr/lib/x86_64-linux-gnu/libc.so.6 usr/lib/x86_64-linux-gnu/libgcc_s.so.1 "$1/lib/"
	mke2fs -q -t ext4 -E lazy_itable_init=1 -d . ../root.ext4 8G
	rm -rf ../kept "$PWD"`

func (r release) make(dir string) error {
	tree, uml := filepath.Join(dir, "tree"), filepath.Join(dir, "uml")
	err := command("mmdebstrap", "--quiet", "--mode=root", "--variant=minbase",
		// The package list of the next release may have passed its validity date.
		`--aptopt=Acquire::Check-Valid-Until "false"`, `--aptopt=APT::Install-Recommends "false"`,
		`--aptopt=Acquire::Languages "none"`, "--dpkgopt=path-exclude=/usr/share/man/*",
		"--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/doc/*",
		"--include="+packages, r.suite, tree)
	if err != nil {
		return err
	}
	for _, f := range txtar.Parse(imageFiles).Files {
		mode := fs.FileMode(0o644)
		if strings.Contains(f.Name, "bin/") {
			mode = 0o755
		}
		path := filepath.Join(tree, f.Name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(path, f.Data, mode); err != nil {
			return err
		}
	}
	units := filepath.Join(tree, "etc/systemd/system")
	for _, name := range masked {
		if err := os.Symlink("/dev/null", filepath.Join(units, name)); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	cmd := exec.Command("sh", "-c", finish, "sh", uml, strings.Join(kept, " "), sample)
	cmd.Dir = tree
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%w: %s", err, out)
	}
	return nil
}

// command runs a program, whose output it includes in an error.
func command(name string, args ...string) error {
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", name, err, out)
	}
	return nil
}

// run boots a copy of the image, runs dir/run in it, waits until the machine is off, and returns
// the output of dir/run. In the machine, dir is /host.
func (r release) run(t *testing.T, image, dir string, patience time.Duration) string {
	t.Helper()
	require.NoError(t, os.Mkdir(filepath.Join(dir, "uml"), 0o755))
	console, err := os.OpenFile(filepath.Join(dir, "console"), os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o644)
	require.NoError(t, err)
	defer console.Close()
	memory := "/dev/shm"
	var st syscall.Statfs_t
	if err := syscall.Statfs(memory, &st); err != nil || st.Bavail*uint64(st.Bsize) < guestMemory {
		memory = "/run"
	}
	script := `set -e
		mount -t proc proc "$1/uml/proc"
		mount --rbind /dev "$1/uml/dev"
		mount --bind "$1" "$1/uml/image"
		mount --bind "$2" "$1/uml/run"
		exec chroot "$1/uml" /usr/bin/linux.uml ubd0=/run/cow,/image/root.ext4 root=/dev/ubda rw mem="$4" con=null con0=null,fd:1 \
			con1=null ssl=null umid=lab uml_dir=/run/uml/ apparmor=1 security=apparmor systemd.show_status=false \
			quiet seccomp=auto pty.legacy_count=0 lab=/run`
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	// The machine is a process with many children, which are killed with it.
	cmd := exec.CommandContext(ctx, "unshare", "--mount", "--pid", "--fork", "--kill-child",
		"sh", "-c", script, "sh", image, dir, memory, fmt.Sprint(guestMemory))
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "TMPDIR=" + memory}
	cmd.Stdout, cmd.Stderr = console, console
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	err = cmd.Run()
	output, _ := os.ReadFile(filepath.Join(dir, "output"))
	status, _ := os.ReadFile(filepath.Join(dir, "status"))
	if string(status) != "0\n" {
		said, _ := os.ReadFile(console.Name())
		t.Errorf("the machine's tests ended with status %q (%v); the end of its console:\n%s", status, err, last(said, 4000))
	}
	return string(output)
}

// guestMemory is the size of the machine's memory. What the machine does not use takes no memory
// here.
const guestMemory = 3 << 30

func last(data []byte, n int) []byte { return data[max(0, len(data)-n):] }
