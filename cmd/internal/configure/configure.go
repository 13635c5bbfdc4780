// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package configure is "nvsysfs configure": it registers nvidia-container-runtime.experimental with
// Docker, containerd, CRI-O or podman, and takes it out again.
//
// It edits the engines' files as text. What it did not write stays byte for byte, comments, order and
// unknown keys included; where a file is written so that this cannot be done (an inline table, a value over several
// lines) it says where, and changes nothing. Every new text is parsed before it is written and
// compared with what the edit was to achieve. Files are replaced by rename, with mode and owner of the
// old one; links and what is not a regular file are refused. A second run changes nothing. --remove
// gives back the bytes from before, a file that was made for us included.
//
// # Files
//
// Docker: /etc/docker/daemon.json, "runtimes" and "default-runtime". dockerd accepts no unknown key there: what is
// replaced is kept beside it, in daemon.json.nvsysfs-NAME. A directive that is given to dockerd as a flag too stops
// its start.
//
// containerd: /etc/containerd/config.toml, the CRI plugin's table, whose name depends on the file's
// version: plugins.cri in version 1, plugins."io.containerd.grpc.v1.cri" in 2,
// plugins."io.containerd.cri.v1.runtime" in 3 and 4. Files that the key imports names come after it. containerd 1.x
// replaces a plugin's whole table by that of an imported file (mergeConfig in
// services/server/config/config.go up to 1.7), so that a drop-in of ours would make it forget
// its CRI configuration; 2.0 and later merge key by key (cmd/containerd/server/config/config.go).
// Versions 3 and 4 need containerd 2.0 and 2.3. So a drop-in, 99-NAME.toml, is written where config.toml
// has version 3 or later and imports a directory's *.toml, as what "containerd config default" prints
// does since 2.2 (/etc/containerd/conf.d/*.toml); in all other cases config.toml itself is edited. There
// is no default import: without the key, conf.d is not read. In containerd 1.x, a file with any table below
// runtimes also loses the built-in runtimes.runc (seen in 1.6.20 with "containerd config dump"), so
// that table is written too where the file has none. A file without a version is told by the names in it, the file that
// imports it, and the containerd that is installed: see form.
//
// A runtime of the wanted name that is another program's is left alone, unless --replace says otherwise: NVIDIA's
// toolkit container registers nvidia-experimental, too. What is replaced is noted, and --remove puts it back.
//
// Kubernetes distributions with a containerd of their own: see distribution.
//
// CRI-O: /etc/crio/crio.conf.d/99-NAME.conf. CRI-O reads all files there in the order of their names, each into the
// configuration that the ones before left (UpdateFromPath in pkg/config/config.go). A container without a handler's
// name is asked about at the runtime that is the default now (getRuntimeHandler in internal/oci), not at the one
// that started it. So a new default gets the state directory and the conmon of the old one, and hands over to its
// program, by a registration of its own: see LoadConfig in cmd/internal/plan.
//
// podman: /etc/containers/containers.conf.d/99-NAME.conf, which rootless podman reads as well. A list
// replaces that of an earlier file, so runtime_supports_json repeats the names that podman has built in
// and those of the files before ours. The key makes podman ask the runtime for a JSON log, and show its last
// error to the user.
//
// # docker run --gpus
//
// dockerd knows --gpus only if, when it starts, exec.LookPath finds "nvidia-container-runtime-hook" in its
// PATH (daemon/nvidia_linux.go in moby 19.03 to 28.0, daemon/devices_nvidia_linux.go later). Else
// docker run fails with: could not select device driver "" with capabilities: [[gpu]]. With it, dockerd
// appends NVIDIA_VISIBLE_DEVICES (the ids; 0 to n-1 for a number; all) and NVIDIA_DRIVER_CAPABILITIES (of
// compute, compat32, graphics, utility, video, display those that were named) to the container's environment, and
// a prestart hook of that path with the arguments "nvidia-container-runtime-hook prestart". The runtime
// acts on the variables and drops the hook. Since moby 29, an "nvidia-cdi-hook" in PATH is enough as well, and is tried
// first: then --gpus asks for CDI devices of nvidia.com/gpu, and this runtime has no part in it.
//
// "configure docker --gpus" installs a script of that name to /usr/bin, unless one is found already. A container
// that is started with --gpus but with another runtime than ours runs it as a hook, and fails with its text.
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

// ErrUsage is wrapped by errors about the command line.
var ErrUsage = errors.New("usage")

const (
	defaultName = "nvidia-experimental"
	program     = "nvidia-container-runtime.experimental"
)

// options are the command line.
type options struct {
	engine     string
	name       string
	program    string // the runtime's path
	config     string
	root       sysfs.Root
	setDefault bool
	replace    bool // take the name over from another program
	remove     bool
	template   bool // containerd: write a template of k3s or RKE2

	dropInVersion int // of a file that is to be made, 0 if it does not matter
	gpus          bool
}

// plan is what is to be done.
type plan struct {
	files    []file
	notes    []string // for the user to know
	warnings []string // for the user to act on
	restart  string   // what makes it effective
	reached  string   // where it is used from then on
}

// engines are the engines there are.
var engines = map[string]func(options) (plan, error){
	"docker":     docker,
	"containerd": containerd,
	"crio":       crio,
	"podman":     podman,
}

// Engines are the names of the engines, as arguments of [Run].
func Engines() []string { return slices.Sorted(maps.Keys(engines)) }

// Flags are the flags of "nvsysfs configure ENGINE".
type Flags struct {
	options
	root          string
	dryRun, class bool
}

// Define adds the flags that an engine has to a set.
func (f *Flags) Define(engine string, flags *flag.FlagSet) {
	f.engine = engine
	flags.StringVar(&f.name, "name", defaultName, "register the runtime as `NAME`")
	flags.StringVar(&f.program, "runtime-path", "", "the runtime is `FILE`, not the one beside nvsysfs or in /usr/bin")
	flags.StringVar(&f.config, "config", "", "edit `FILE`, not the engine's usual one")
	flags.StringVar(&f.root, "root", "/", "prepare the machine whose root directory is `DIR`")
	flags.BoolVar(&f.setDefault, "set-as-default", false, "make it the engine's default runtime, too")
	flags.BoolVar(&f.replace, "replace", false, "take the name over from another program; --remove gives it back")
	flags.BoolVar(&f.remove, "remove", false, "unregister the runtime")
	flags.BoolVar(&f.dryRun, "dry-run", false, "change nothing; print the change as a unified diff")
	if engine == "containerd" || engine == "crio" {
		flags.BoolVar(&f.class, "runtime-class", false, "print the Kubernetes RuntimeClass, and do nothing else")
	}
	if engine == "containerd" {
		flags.BoolVar(&f.template, "template", false, "k3s and RKE2: write the template that they make their file of")
	}
	if engine == "docker" {
		flags.BoolVar(&f.gpus, "gpus", false, `also make "docker run --gpus" work: install a command `+
			"nvidia-container-runtime-hook, which dockerd looks for; with --remove: remove it")
	}
}

// Run registers the runtime with the engine. What was done, or a diff, goes to stdout, warnings to stderr. Errors about
// the flags wrap [ErrUsage].
func Run(f Flags, stdout, stderr io.Writer) error {
	o, root, dryRun, class := f.options, f.root, f.dryRun, f.class
	engine := engines[o.engine]
	switch {
	case root == "":
		return fmt.Errorf("%w: --root \"\" is no directory: leave --root out for this machine", ErrUsage)
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
			return fmt.Errorf("%w: --config %s: with --root it must be an absolute path, inside the root", ErrUsage, quote(o.config))
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

// carryOut writes the files, or shows what would be written.
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
		fmt.Fprintf(words, "to make it effective: %s\n", p.restart)
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

// only tells whether s has no letters but those.
func only(s, letters string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return !strings.ContainsRune(letters, r) })
}

// CheckName checks the name of a runtime. It becomes part of file names, keys and flags.
func CheckName(name string) error {
	switch {
	case !only(name, lower+upper+digits+"-_."), name != "" && !only(name[:1], lower+upper+digits):
		return fmt.Errorf("--name %s: only letters, digits and, after the first, - _ . may be in it", quote(name))
	case name == "" || len(name) > 63:
		return fmt.Errorf("--name %s: it has 1 to 63 letters", quote(name))
	case name == "runc" || name == "crun" || strings.HasPrefix(name, "io.containerd."):
		return fmt.Errorf("--name %s: this is an engine's own runtime", name)
	}
	return nil
}

// FindRuntime finds the runtime to be registered: an absolute path, inside the root. Unless one is given it is beside
// this program or in /usr/bin. An engine with a path where nothing is may not start at all (CRI-O), or says so only to
// whoever starts a container.
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
			return "", fmt.Errorf("%w: --runtime-path %s cannot stand in a configuration file", ErrUsage, quote(c))
		}
		err := executable(root, c)
		if err == nil {
			return c, nil
		}
		why = append(why, fmt.Sprintf("%s: %s", quote(c), err))
	}
	return "", fmt.Errorf("the runtime is not found (%s): install it first, or name it with --runtime-path", strings.Join(why, "; "))
}

// executable tells whether a name leads to a program, and if not, why.
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

// runtimeClass is the Kubernetes object by which a pod asks for the runtime: its field
// runtimeClassName names the object, whose handler names the runtime in the engine's configuration.
func runtimeClass(o options) (string, error) {
	if !only(o.name, lower+digits+"-") || strings.HasSuffix(o.name, "-") {
		return "", fmt.Errorf("--name %s: Kubernetes allows lower case letters, digits and - between them in a handler", o.name)
	}
	return fmt.Sprintf(`apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata:
  name: %[1]s
handler: %[1]s
`, yamlName(o.name)), nil
}

// yamlName quotes a name that YAML would take for a number or a word of its own.
func yamlName(name string) string {
	if strings.ContainsAny(name[:1], "0123456789") || name == "null" || name == "true" || name == "false" || name == "y" || name == "n" || name == "yes" || name == "no" || name == "on" || name == "off" {
		return `"` + name + `"`
	}
	return name
}
