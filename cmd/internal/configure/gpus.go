// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"fmt"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

const (
	// hookName is what dockerd looks for in its PATH when it starts.
	hookName = "nvidia-container-runtime-hook"
	// hookHome is where it is installed: not in /usr/local, where it would come before the hook of the
	// classic runtime, should that be installed some day.
	hookHome = "/usr/bin/" + hookName
	// hookMark is in every version of the stand-in, and tells it from the classic hook.
	hookMark = "placeholder that belongs to nvidia-container-runtime.experimental"
	// hookScript is the stand-in. This runtime takes it out of a container's hooks. If it runs, the container has another
	// runtime and no GPU: then it fails, so that the start does.
	hookScript = `#!/bin/sh
# This is a ` + hookMark + `.
# dockerd accepts --gpus only if it finds a command of this name.
echo "nvidia-container-runtime-hook: the container was started with --gpus, but not with --runtime=nvidia-experimental," \
	"and would have no GPU: add --runtime=nvidia-experimental, or run 'nvsysfs configure docker --set-as-default'." >&2
exit 1
`
)

// hook plans what --gpus asks for, and otherwise tells that it could be asked for.
func hook(o options, p *plan) error {
	found := FindProgram(o.root, hookName, ProgramDirs)
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
	f.after, f.perm, f.binary = []byte(hookScript), 0o755, true
	p.files = append(p.files, f)
	p.notes = append(p.notes, "restart dockerd, a reload is not enough for --gpus; then: docker run --rm --gpus all --runtime="+o.name+" ubuntu nvidia-smi -L")
	return nil
}

// isPlaceholder tells our command from the classic hook.
func isPlaceholder(root sysfs.Root, name string) bool {
	data, err := root.ReadFileMax(name, maxFile)
	return err == nil && bytes.Contains(data, []byte(hookMark))
}
