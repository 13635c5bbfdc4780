// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"os"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// nobody is the owner that the kernel shows for IDs not mapped into the user namespace, the default
// of /proc/sys/kernel/overflowuid.
const nobody = 65534

// ReadMIGUUIDs reads the UUIDs of MIG devices that "nvsysfs learn" recorded. The file must be owned
// by root or by the user who runs this program; in a user namespace the machine's root is nobody.
func ReadMIGUUIDs(root sysfs.Root, inv sysfs.Inventory) (sysfs.MIGUUIDs, error) {
	owners, err := LearntOwners()
	if err != nil {
		return sysfs.MIGUUIDs{}, err
	}
	return sysfs.ReadMIGUUIDs(root, inv, owners...), nil
}

// LearntOwners returns the users whose recorded UUIDs are trusted.
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
