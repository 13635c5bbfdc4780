// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ps

import (
	"regexp"
	"strings"
)

// Container is a container identified by the name of its cgroup.
type Container struct {
	Engine string `json:"engine"` // "docker", "podman", "cri-o", "containerd", "kubernetes"; "" if unknown
	ID     string `json:"id"`     // 64 hexadecimal digits
}

// containerID matches the last part of a container's cgroup, with or without the systemd driver.
//
//	/system.slice/docker-<id>.scope
//	/machine.slice/libpod-<id>.scope/container
//	/docker/<id>
//	/kubepods/burstable/pod<uid>/<id>
//	/kubepods.slice/kubepods-pod<uid>.slice/cri-containerd-<id>.scope
var containerID = regexp.MustCompile(`^(?:([a-z][a-z-]*)-)?([0-9a-f]{64})(?:\.scope)?$`)

// scopes maps the prefix of the id to the engine.
var scopes = map[string]string{
	"docker": "docker", "libpod": "podman", "crio": "cri-o", "cri-containerd": "containerd", "nerdctl": "containerd",
}

// parseCgroup returns the innermost container in the path of a cgroup.
func parseCgroup(path string) (Container, bool) {
	var container Container
	above := ""
	for part := range strings.SplitSeq(path, "/") {
		if m := containerID.FindStringSubmatch(part); m != nil {
			container = Container{Engine: scopes[m[1]], ID: m[2]}
			switch {
			case m[1] != "":
			case strings.HasSuffix(above, "/docker"):
				container.Engine = "docker"
			case strings.Contains(above, "/kubepods"):
				container.Engine = "kubernetes"
			}
		}
		above += "/" + part
	}
	return container, container.ID != ""
}
