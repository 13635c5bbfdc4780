// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package configure is "nvsysfs configure": it registers nvidia-container-runtime.experimental with
// Docker, containerd, CRI-O or podman, and unregisters it.
//
// It edits the engines' files as text and keeps everything else byte for byte, including comments,
// order and unknown keys; where that is impossible (an inline table, a multi-line value) it reports
// the line and changes nothing. The new text is parsed and compared with the intended result before
// it is written. Files are replaced by rename, with the old mode and owner; links and special files
// are refused. A second run changes nothing. --remove restores the previous bytes, and removes a
// file that did not exist before.
//
// # Files
//
// Docker: /etc/docker/daemon.json, "runtimes" and "default-runtime". dockerd rejects unknown keys,
// so replaced values are kept in daemon.json.nvsysfs-NAME. dockerd does not start if a key is also
// given as a flag.
//
// containerd: /etc/containerd/config.toml, the CRI plugin's table, whose name depends on the file's
// version: plugins.cri in version 1, plugins."io.containerd.grpc.v1.cri" in 2,
// plugins."io.containerd.cri.v1.runtime" in 3 and 4. Imported files are read after it. containerd
// 1.x replaces a plugin's whole table by that of an imported file (mergeConfig in
// services/server/config/config.go up to 1.7), so a drop-in would drop its CRI configuration; 2.0
// and later merge key by key (cmd/containerd/server/config/config.go). Versions 3 and 4 need
// containerd 2.0 and 2.3. So a drop-in, 99-NAME.toml, is written only if config.toml has version 3
// or later and imports a directory's *.toml, as in the output of "containerd config default" since
// 2.2 (/etc/containerd/conf.d/*.toml); otherwise config.toml itself is edited. Without imports,
// conf.d is not read. In containerd 1.x, a file with any table below runtimes loses the built-in
// runtimes.runc (seen in 1.6.20 with "containerd config dump"), so that table is added if missing.
// For files without a version see form.
//
// A runtime of the same name that is another program is left alone without --replace: NVIDIA's
// toolkit container also registers nvidia-experimental. --remove restores what was replaced.
//
// Kubernetes distributions with a containerd of their own: see distribution.
//
// CRI-O: /etc/crio/crio.conf.d/99-NAME.conf. CRI-O merges all files there in the order of their
// names (UpdateFromPath in pkg/config/config.go). For a container without a handler's name it asks
// the current default runtime (getRuntimeHandler in internal/oci), not the one that started it. So
// a new default gets the state directory and conmon of the old one, and executes its program, by a
// registration with its own settings: see LoadConfig in cmd/internal/plan.
//
// podman: /etc/containers/containers.conf.d/99-NAME.conf, which rootless podman also reads. A list
// replaces that of an earlier file, so runtime_supports_json repeats podman's built-in names and
// those of earlier files. The key makes podman request a JSON log from the runtime and show its
// last error.
//
// # docker run --gpus
//
// dockerd knows --gpus only if, when it starts, exec.LookPath finds "nvidia-container-runtime-hook"
// in its PATH (daemon/nvidia_linux.go in moby 19.03 to 28.0, daemon/devices_nvidia_linux.go later).
// Else docker run fails with: could not select device driver "" with capabilities: [[gpu]]. With
// it, dockerd appends NVIDIA_VISIBLE_DEVICES (the ids; 0 to n-1 for a number; all) and
// NVIDIA_DRIVER_CAPABILITIES (of compute, compat32, graphics, utility, video, display those that
// were named) to the container's environment, and a prestart hook of that path with the arguments
// "nvidia-container-runtime-hook prestart". The runtime acts on the variables and drops the hook.
// Since moby 29, an "nvidia-cdi-hook" in PATH is enough as well, and is tried first: then --gpus
// asks for CDI devices of nvidia.com/gpu, and this runtime has no part in it.
//
// "configure docker --gpus" installs a script of that name to /usr/bin, unless there is one. A
// container started with
// --gpus but another runtime runs it as a hook, and fails with its message.
package configure

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// ErrUsage is wrapped by command-line errors.
var ErrUsage = errors.New("usage")

const (
	defaultName = "nvidia-experimental"
	program     = "nvidia-container-runtime.experimental"
)

type options struct {
	engine     string
	name       string
	program    string // the runtime's path
	config     string
	root       sysfs.Root
	setDefault bool
	replace    bool // replace another program of that name
	remove     bool
	template   bool // containerd: write a template of k3s or RKE2

	dropInVersion int // of a file to be created, 0 if it does not matter
	gpus          bool
}

// plan is what to do.
type plan struct {
	files    []file
	notes    []string // for information
	warnings []string // to act on
	restart  string   // how to apply it
	reached  string   // how to use the runtime
}

var engines = map[string]func(options) (plan, error){
	"docker":     docker,
	"containerd": containerd,
	"crio":       crio,
	"podman":     podman,
}

// Engines returns the names of the engines.
func Engines() []string { return slices.Sorted(maps.Keys(engines)) }

// Flags are the flags of "nvsysfs configure ENGINE".
type Flags struct {
	options
	root          string
	dryRun, class bool
}

// Define adds an engine's flags to a set.
func (f *Flags) Define(engine string, flags *flag.FlagSet) {
	f.engine = engine
	flags.StringVar(&f.name, "name", defaultName, "register the runtime as `NAME`")
	flags.StringVar(&f.program, "runtime-path", "", "register `FILE`, not the runtime next to nvsysfs or in /usr/bin")
	flags.StringVar(&f.config, "config", "", "edit `FILE` instead of the engine's default")
	flags.StringVar(&f.root, "root", "/", "configure the machine whose root directory is `DIR`")
	flags.BoolVar(&f.setDefault, "set-as-default", false, "also make it the engine's default runtime")
	flags.BoolVar(&f.replace, "replace", false, "replace another program of that name; --remove restores it")
	flags.BoolVar(&f.remove, "remove", false, "unregister the runtime")
	flags.BoolVar(&f.dryRun, "dry-run", false, "print the change as a unified diff, change nothing")
	if engine == "containerd" || engine == "crio" {
		flags.BoolVar(&f.class, "runtime-class", false, "only print the Kubernetes RuntimeClass")
	}
	if engine == "containerd" {
		flags.BoolVar(&f.template, "template", false, "k3s and RKE2: write their config.toml template")
	}
	if engine == "docker" {
		flags.BoolVar(&f.gpus, "gpus", false, `make "docker run --gpus" work: install the `+
			"nvidia-container-runtime-hook that dockerd looks for; with --remove: remove it")
	}
}

// Run registers the runtime with the engine. It writes what it did, or a diff, to stdout, and
// warnings to stderr. Errors about flags wrap [ErrUsage].
func Run(f Flags, stdout, stderr io.Writer) error {
	o, root, dryRun, class := f.options, f.root, f.dryRun, f.class
	engine := engines[o.engine]
	switch {
	case root == "":
		return fmt.Errorf("%w: --root is empty: omit it for this machine", ErrUsage)
	case o.remove && o.setDefault:
		return fmt.Errorf("%w: --remove and --set-as-default exclude each other", ErrUsage)
	}
	if err := CheckName(o.name); err != nil {
		return fmt.Errorf("%w: %w", ErrUsage, err)
	}
	if class {
		manifest, err := runtimeClass(o)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrUsage, err)
		}
		_, err = io.WriteString(stdout, manifest)
		return err
	}
	abs, err := filepath.Abs(root)
	if err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	if o.root, err = sysfs.NewRoot(abs); err != nil {
		return fmt.Errorf("--root: %w", err)
	}
	if o.config != "" && !path.IsAbs(o.config) {
		if o.root != "/" {
			return fmt.Errorf("%w: --config %s: with --root it must be an absolute path inside the root",
				ErrUsage, quote(o.config))
		}
		if o.config, err = filepath.Abs(o.config); err != nil {
			return fmt.Errorf("--config: %w", err)
		}
	}
	if !o.remove {
		if o.program, err = FindRuntime(o.root, o.program); err != nil {
			return err
		}
	}
	p, err := engine(o)
	if err != nil {
		return fmt.Errorf("configuring %s: %w", o.engine, err)
	}
	return carryOut(p, o, dryRun, stdout, stderr)
}

// carryOut writes the files, or shows the change.
func carryOut(p plan, o options, dryRun bool, stdout, stderr io.Writer) error {
	words := stdout
	if dryRun {
		words = stderr // so that stdout is the diff alone
	}
	changes := false
	for _, f := range p.files {
		if !f.changed() {
			if f.info != nil || !o.remove {
				fmt.Fprintf(words, "%s: no change\n", f.name)
			}
			continue
		}
		changes = true
		if dryRun {
			switch {
			case f.link && !f.remove:
				fmt.Fprintf(words, "%s: would become a link to %s\n", f.name, f.after)
				continue
			case (f.binary || f.link) && f.remove:
				fmt.Fprintf(words, "%s: would be removed\n", f.name)
				continue
			case f.binary:
				fmt.Fprintf(words, "%s: %d bytes would be installed\n", f.name, len(f.after))
				continue
			}
			if err := writeDiff(stdout, f); err != nil {
				return err
			}
			continue
		}
		if err := f.save(o.root); err != nil {
			return err
		}
		done := "changed"
		switch {
		case f.remove:
			done = "removed"
		case f.info == nil:
			done = "written"
		}
		fmt.Fprintf(words, "%s: %s\n", f.name, done)
	}
	if !changes && o.remove && len(p.files) > 0 {
		fmt.Fprintf(words, "%s: no runtime %s, nothing to remove\n", o.engine, o.name)
	}
	for _, w := range p.warnings {
		fmt.Fprintf(stderr, "warning: %s\n", w)
	}
	for _, n := range p.notes {
		fmt.Fprintf(words, "note: %s\n", n)
	}
	if changes && p.restart != "" {
		fmt.Fprintf(words, "to apply it: %s\n", p.restart)
	}
	if !o.remove && p.reached != "" {
		fmt.Fprintf(words, "then: %s\n", p.reached)
	}
	return nil
}

const (
	lower  = "abcdefghijklmnopqrstuvwxyz"
	upper  = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
	digits = "0123456789"
)

// only tells whether s consists of the given letters.
func only(s, letters string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(letters, r) })
}

// CheckName checks the name of a runtime, which becomes part of file names, keys and flags.
func CheckName(name string) error {
	switch {
	case !only(name, lower+upper+digits+"-_."), name != "" && !only(name[:1], lower+upper+digits):
		return fmt.Errorf("--name %s: want letters and digits, and after the first also - or _ or a period",
			quote(name))
	case name == "" || len(name) > 63:
		return fmt.Errorf("--name %s: must have 1 to 63 characters", quote(name))
	case name == "runc" || name == "crun" || strings.HasPrefix(name, "io.containerd."):
		return fmt.Errorf("--name %s: reserved for an engine's built-in runtime", name)
	}
	return nil
}

// FindRuntime finds the runtime to register: an absolute path inside the root, by default next to
// this program or in /usr/bin. With a path that does not exist, CRI-O would not start, and other
// engines would fail only when they start a container.
func FindRuntime(root sysfs.Root, given string) (string, error) {
	candidates := []string{given}
	if given == "" {
		candidates = nil
		if self, err := os.Executable(); err == nil && root == "/" {
			candidates = append(candidates, filepath.Join(filepath.Dir(self), program))
		}
		candidates = append(candidates, "/usr/bin/"+program)
	} else if !path.IsAbs(given) {
		return "", fmt.Errorf("%w: --runtime-path %s is not an absolute path", ErrUsage, quote(given))
	}
	var why []string
	for _, c := range candidates {
		c = path.Clean(c)
		if strings.ContainsAny(c, "\x00\n\r") {
			return "", fmt.Errorf("%w: --runtime-path %s cannot be written to a configuration file", ErrUsage, quote(c))
		}
		err := executable(root, c)
		if err == nil {
			return c, nil
		}
		why = append(why, fmt.Sprintf("%s: %s", quote(c), err))
	}
	return "", fmt.Errorf("runtime not found (%s): install it, or name it with --runtime-path", strings.Join(why, "; "))
}

// executable returns an error unless name is an executable file.
func executable(root sysfs.Root, name string) error {
	info, err := root.Stat(strings.TrimPrefix(path.Clean(name), "/"))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("not there")
	case err != nil:
		return err
	}
	if err := plain(info); err != nil {
		return err
	}
	if info.Mode()&0o111 == 0 {
		return errors.New("is not executable")
	}
	return nil
}

// runtimeClass returns the Kubernetes object that a pod's runtimeClassName refers to; its handler
// is the name of the runtime in the engine's configuration.
func runtimeClass(o options) (string, error) {
	if !only(o.name, lower+digits+"-") || strings.HasSuffix(o.name, "-") {
		return "", fmt.Errorf("--name %s: Kubernetes allows lowercase letters, digits and inner - in a handler", o.name)
	}
	return fmt.Sprintf(`apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: %[1]s
handler: %[1]s
`, yamlName(o.name)), nil
}

// yamlName quotes a name that YAML would read as a number, bool or null.
func yamlName(name string) string {
	words := []string{"null", "true", "false", "y", "n", "yes", "no", "on", "off"}
	if strings.ContainsAny(name[:1], "0123456789") || slices.Contains(words, name) {
		return `"` + name + `"`
	}
	return name
}
