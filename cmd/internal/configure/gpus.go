// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"fmt"
	"os"
	"path"
	"path/filepath"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

const (
	// hookName is what dockerd looks for in its PATH when it starts.
	hookName = "nvidia-container-runtime-hook"
	// hookHome is where it is installed: not in /usr/local, where it would come before the hook of the
	// classic runtime, should that be installed some day.
	hookHome = "/usr/bin/" + hookName
	// hookMark is in every version of cmd/nvidia-container-runtime-hook, and tells it from the classic one.
	hookMark = "placeholder that belongs to nvidia-container-runtime.experimental"
)

// dockerPath is the PATH that systemd gives to dockerd.
var dockerPath = []string{"/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"}

// hook plans what --gpus asks for, and otherwise tells that it could be asked for.
func hook(o options, p *plan) error {
	found := ""
	for _, dir := range dockerPath {
		if name := path.Join(dir, hookName); executable(o.root, name) == nil {
			found = name
			break
		}
	}
	if !o.gpus {
		switch {
		case o.remove && found != "" && isPlaceholder(o.root, found):
			p.notes = append(p.notes, fmt.Sprintf("%s, which makes dockerd accept --gpus, is still there: --remove --gpus removes it", found))
		case !o.remove && found == "":
			p.notes = append(p.notes, fmt.Sprintf("dockerd accepts docker run --gpus only if it finds %s in its PATH: \"nvsysfs configure docker --gpus\" installs one that does nothing", hookName))
		}
		return nil
	}
	if found != "" && !isPlaceholder(o.root, found) {
		p.notes = append(p.notes, fmt.Sprintf("%s is another program of that name: left alone; dockerd finds it, so docker run --gpus works", found))
		return nil
	}
	f, err := look(o.root, hookHome)
	if err != nil {
		return err
	}
	ours := f.info != nil && bytes.Contains(f.before, []byte(hookMark))
	if f.info != nil && !ours {
		return fmt.Errorf("%s exists and is not nvsysfs' placeholder, and is not overwritten: see what it is, and remove it by hand", hookHome)
	}
	if o.remove {
		f.remove, f.binary = ours, true
		p.files = append(p.files, f)
		return nil
	}
	source := o.hook
	if source == "" {
		self, err := os.Executable()
		if err != nil {
			return fmt.Errorf("looking for %s beside nvsysfs: %w", hookName, err)
		}
		source = filepath.Join(filepath.Dir(self), hookName)
		if _, err := os.Stat(source); err != nil {
			// A package keeps it out of PATH, where dockerd would find it unasked.
			if packaged := filepath.Join(filepath.Dir(self), "../libexec/nvidia-container-runtime-experimental", hookName); executable("/", packaged) == nil {
				source = packaged
			}
		}
	}
	abs, err := filepath.Abs(source)
	if err != nil {
		return err
	}
	data, err := sysfs.Root("/").ReadFileMax(abs, maxFile)
	if err != nil {
		return fmt.Errorf("%w: name the command to install with --gpus-hook", err)
	}
	if !bytes.Contains(data, []byte(hookMark)) {
		return fmt.Errorf("%s is not nvsysfs' placeholder: name it with --gpus-hook", quote(abs))
	}
	f.after, f.perm, f.binary = data, 0o755, true
	p.files = append(p.files, f)
	p.notes = append(p.notes, "restart dockerd, a reload is not enough for --gpus; then: docker run --rm --gpus all --runtime="+o.name+" ubuntu nvidia-smi -L")
	return nil
}

// isPlaceholder tells our command from the classic hook.
func isPlaceholder(root sysfs.Root, name string) bool {
	data, err := root.ReadFileMax(name, maxFile)
	return err == nil && bytes.Contains(data, []byte(hookMark))
}
