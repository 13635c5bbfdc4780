// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"fmt"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

const (
	// hookName is what dockerd looks up in its PATH when it starts.
	hookName = "nvidia-container-runtime-hook"
	// hookHome is where it is installed: not in /usr/local, where it would hide the classic
	// runtime's hook if that is installed later.
	hookHome = "/usr/bin/" + hookName
	// hookMark is in every version of the placeholder, and distinguishes it from the classic hook.
	hookMark = "placeholder that belongs to nvidia-container-runtime.experimental"
	// hookScript is the placeholder. This runtime removes it from a container's hooks, so if it
	// runs, the container has another runtime and no GPU: it makes the start fail.
	hookScript = `#!/bin/sh
# This is a ` + hookMark + `.
# dockerd accepts --gpus only if it finds a command of this name.
echo "nvidia-container-runtime-hook: the container was started with --gpus, ` +
		`but not with --runtime=nvidia-experimental," \
	"and would have no GPU: add --runtime=nvidia-experimental, or run 'nvsysfs configure docker --set-as-default'." >&2
exit 1
`
)

// hook plans what --gpus asks for, or notes that there is such a flag.
func hook(o options, p *plan) error {
	found := FindProgram(o.root, hookName, ProgramDirs)
	if !o.gpus {
		switch {
		case o.remove && found != "" && isPlaceholder(o.root, found):
			p.notes = append(p.notes, found+", which makes dockerd accept --gpus, remains: --remove --gpus removes it")
		case !o.remove && found == "":
			p.notes = append(p.notes, "docker run --gpus needs "+hookName+" in dockerd's PATH: "+
				"\"nvsysfs configure docker --gpus\" installs a placeholder")
		}
		return nil
	}
	if found != "" && !isPlaceholder(o.root, found) {
		p.notes = append(p.notes, found+" is another program, left alone; dockerd finds it, so docker run --gpus works")
		return nil
	}
	f, err := look(o.root, hookHome)
	if err != nil {
		return err
	}
	ours := f.info != nil && bytes.Contains(f.before, []byte(hookMark))
	if f.info != nil && !ours {
		return fmt.Errorf("%s exists and is not nvsysfs's placeholder: check what it is, and remove it by hand",
			hookHome)
	}
	if o.remove {
		f.remove, f.binary = ours, true
		p.files = append(p.files, f)
		return nil
	}
	f.after, f.perm, f.binary = []byte(hookScript), 0o755, true
	p.files = append(p.files, f)
	p.notes = append(p.notes, "--gpus needs a restart of dockerd, not just a reload; then: "+
		"docker run --rm --gpus all --runtime="+o.name+" ubuntu nvidia-smi -L")
	return nil
}

// isPlaceholder distinguishes our placeholder from the classic hook.
func isPlaceholder(root sysfs.Root, name string) bool {
	data, err := root.ReadFileMax(name, maxFile)
	return err == nil && bytes.Contains(data, []byte(hookMark))
}
