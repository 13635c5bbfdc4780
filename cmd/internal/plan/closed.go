// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Values of sysroot-nodes: the device nodes that a container gets if sysroot is another machine.
const (
	NodesClosed = "closed" // nodes that cannot be opened
	NodesOpen   = "open"   // nodes with the same numbers
)

// ClosesNodes tells whether containers get closed nodes: those of another machine may have the
// numbers of any device here. Majors such as 508 are assigned dynamically, and 195:0 may be a real
// GPU.
func (c Config) ClosesNodes(root sysfs.Root) bool {
	return root != "/" && c.SysrootNodes != NodesOpen
}

// ClosedNode returns a nodev mount of the node below dev: the kernel refuses to open it (EACCES),
// whatever the container's device rules and privileges are, in user namespaces too. If there is no
// such node, as only root can create them, this machine's /dev/null is mounted instead.
func ClosedNode(n sysfs.Node, dev sysfs.Root) specs.Mount {
	source := "/dev/null"
	if n.OnHost {
		source = dev.Path(n.Path)
	}
	return bindMount(source, n.Path, []string{"ro", "nosuid", "noexec", "nodev", "bind", "rprivate"})
}
