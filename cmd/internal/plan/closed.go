// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// Values of sysroot-nodes: what a container is given as the device nodes of a machine that is not this one.
const (
	NodesClosed = "closed" // nodes that nobody can open
	NodesOpen   = "open"   // as on this machine
)

// ClosesNodes tells whether the device nodes of the machine below root are given closed: they are those of another
// machine, and what has the same numbers here may be anything. Majors such as 508 are given out as drivers load, and
// 195:0 is a real GPU where there is one.
func (c Config) ClosesNodes(root sysfs.Root) bool {
	return root != "/" && c.SysrootNodes != NodesOpen
}

// ClosedNode brings a node into a container without the device: the node of the machine below dev is mounted with
// nodev, so that the kernel refuses to open it (EACCES), whatever its numbers stand for here and whatever the
// container's device rules and privileges are. It works in user namespaces too. Where that machine has no
// such node, as an ordinary user cannot make any, this machine's /dev/null stands in, as closed as the others.
func ClosedNode(n sysfs.Node, dev sysfs.Root) specs.Mount {
	source := "/dev/null"
	if n.OnHost {
		source = dev.Path(n.Path)
	}
	return bindMount(source, n.Path, []string{"ro", "nosuid", "noexec", "nodev", "bind", "rprivate"})
}
