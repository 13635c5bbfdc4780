// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package doctor

import (
	"bytes"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/cdi"
	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/configure"
)

func checkRegistered(p patient) []Finding {
	var places, names []string
	var without []configure.Engine
	for _, e := range p.engines {
		if len(e.Runtimes) == 0 {
			without, names = append(without, e), append(names, e.Name)
		}
		for _, r := range e.Runtimes {
			place := fmt.Sprintf("%s as %q (%s)", e.Name, r.Name, r.File)
			if r.Default {
				place += ", the default"
			}
			places = append(places, place)
		}
	}
	switch {
	case len(p.engines) == 0 && p.captured():
		return nil
	case len(p.engines) == 0:
		return note("",
			"no container engine found: looked for dockerd, containerd, crio and podman, and their configuration")
	case len(places) == 0 && slices.ContainsFunc(p.cdi, hasNVIDIADevices):
		return note("nvsysfs configure "+without[0].Argument(),
			"the runtime is registered with none of %s: they get GPUs only from CDI files", strings.Join(names, ", "))
	case len(places) == 0:
		return wrong("nvsysfs configure "+without[0].Argument(),
			"the runtime is registered with none of %s", strings.Join(names, ", "))
	}
	for _, e := range without {
		if e.Argument() != e.Name {
			return wrong("nvsysfs configure "+e.Argument(),
				"the runtime is not registered with %s, which reads its own files; it is with %s",
				e.Name, strings.Join(places, "; "))
		}
	}
	text := "with " + strings.Join(places, "; ")
	if len(without) > 0 {
		text += "; not with " + strings.Join(names, ", ")
	}
	return ok("%s", text)
}

func hasNVIDIADevices(f cdi.Found) bool { return strings.HasPrefix(f.File.Kind(), "nvidia.com/") }

// checkEngineConfig: engines' own errors about a wrong path are misleading.
func checkEngineConfig(p patient) []Finding {
	var found []Finding
	for _, e := range p.engines {
		for _, problem := range e.Errors {
			found = append(found, wrong("edit the file", "%s: %s", e.Name, problem)...)
		}
		for _, r := range e.Runtimes {
			if !configure.IsProgram(p.root, r.Program) {
				fix := fmt.Sprintf("nvsysfs configure %s --name %s", e.Argument(), r.Name)
				found = append(found, wrong(fix,
					"%s: the runtime %q in %s starts %q, which is not a program", e.Name, r.Name, r.File, r.Program)...)
			}
		}
	}
	return found
}

// checkCDIFiles: engines apply CDI files even if the machine has changed since.
func checkCDIFiles(p patient) []Finding {
	if p.cdiErr != nil {
		return wrong("", "%v", p.cdiErr)
	}
	var list []Finding
	dir := ""
	if p.root != "/" {
		dir = string(p.root)
	}
	for _, f := range p.cdi {
		switch {
		case f.Err != nil:
			list = append(list, wrong("edit the file, or remove it", "%s: engines ignore it: %v", f.Path, f.Err)...)
			continue
		case !f.File.Ours():
			continue
		}
		c, err := cdi.Check(p.environ, dir, p.cdi, f.Path, f.File)
		switch {
		case err != nil:
			list = append(list, wrong("nvsysfs cdi check",
				"%s cannot be compared with the machine: %v", f.Path, err)...)
		case c.Drifted && c.Fix == "":
			d := c.Differences[0]
			list = append(list, wrong("nvsysfs cdi list", "%s: device %s is %s", f.Path, d.Name, d.Reason)...)
		case c.Drifted:
			list = append(list, wrong(c.Fix, "%s no longer matches the machine", f.Path)...)
		default:
			list = append(list, ok("%s matches the machine", f.Path)...)
		}
	}
	return list
}

// checkDockerGPUs: dockerd supports --gpus only if nvidia-container-runtime-hook is in its PATH.
func checkDockerGPUs(p patient) []Finding {
	registered := func(e configure.Engine) bool { return e.Name == "docker" && len(e.Runtimes) > 0 }
	if !slices.ContainsFunc(p.engines, registered) {
		return nil
	}
	var found []Finding
	if file := configure.FindProgram(p.root, "nvidia-cdi-hook", configure.ProgramDirs); file != "" {
		found = append(found, note("",
			"%s exists: with it, dockerd 29 and later handles 'docker run --gpus' with CDI files; "+
				"-e NVIDIA_VISIBLE_DEVICES=all requests GPUs from this runtime", file)...)
	}
	if file := configure.FindProgram(p.root, "nvidia-container-runtime-hook", configure.ProgramDirs); file != "" {
		return append(found, ok("'docker run --gpus' works: dockerd finds %s", file)...)
	}
	return append(found, note("nvsysfs configure docker --gpus",
		"'docker run --gpus' does not work: dockerd finds no nvidia-container-runtime-hook")...)
}

// checkClassicHook: podman and CRI-O run the hooks of these directories for every container.
func checkClassicHook(p patient) []Finding {
	var found []Finding
	for _, dir := range []string{"/usr/share/containers/oci/hooks.d", "/etc/containers/oci/hooks.d"} {
		entries, err := p.root.ReadDir(dir[1:])
		if err != nil {
			continue
		}
		for _, e := range entries {
			file := path.Join(dir, e.Name())
			data, err := p.root.ReadFileMax(file, 64<<10)
			if err != nil || !bytes.Contains(data, []byte("nvidia-container")) {
				continue
			}
			found = append(found, note("rm "+file,
				"%s adds the hook of the classic runtime to containers: "+
					"this runtime drops it, but others still run it", file)...)
		}
	}
	if len(found) == 0 {
		return ok("no hook of the classic runtime")
	}
	return found
}
