// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// nobody is what the kernel shows for an owner that has no number in the user
// namespace; /proc/sys/kernel/overflowuid can change it, and nobody does.
const nobody = 65534

// ReadMIGUUIDs reads what "nvsysfs learn" has learnt of the MIG devices of the
// inventory. The file has to belong to root or to the user who runs this
// program; in a user namespace the machine's root is nobody.
func ReadMIGUUIDs(root sysfs.Root, inv sysfs.Inventory) (sysfs.MIGUUIDs, error) {
	owners, err := LearntOwners()
	if err != nil {
		return sysfs.MIGUUIDs{}, err
	}
	return sysfs.ReadMIGUUIDs(root, inv, owners...), nil
}

// LearntOwners are the users whose file of what was learnt is trusted.
func LearntOwners() ([]int, error) {
	inside, err := inUserNamespace()
	return learntOwners(inside), err
}

func learntOwners(insideUserNS bool) []int {
	owners := []int{0, os.Geteuid()}
	if insideUserNS {
		owners = append(owners, nobody)
	}
	return owners
}
