// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"slices"
	"strconv"
)

// Arch is an architecture that a C library can be built for, by the name that uname -m gives the
// machine: "x86_64". "" is none. The constants are those that NVIDIA's driver exists for.
type Arch string

// The architectures of the driver's libraries.
const (
	X8664   Arch = "x86_64"
	AArch64 Arch = "aarch64"
	PPC64LE Arch = "ppc64le"
	I386    Arch = "i386" // beside X8664
	ARM     Arch = "arm"  // hard float, beside AArch64
)

type arch struct {
	name    Arch
	machine uint16
	class   byte
	flags   int32
	triplet string
	compat  Arch
}

// arches has what is known of each. Machine and class are e_machine and e_ident[EI_CLASS] of an ELF
// header (elf.h). This is not package debug/elf, whose initialization and that of what it imports
// take a twentieth of a static program's start.
var arches = [...]arch{
	{X8664, 62, 2, FlagX8664, "x86_64-linux-gnu", I386},
	{AArch64, 183, 2, FlagAArch64, "aarch64-linux-gnu", ARM},
	{PPC64LE, 21, 2, FlagPPC64, "powerpc64le-linux-gnu", ""},
	{I386, 3, 1, Flag32, "i386-linux-gnu", ""},
	{ARM, 40, 1, FlagARMHard, "arm-linux-gnueabihf", ""},
	{"x32", 62, 1, FlagX32, "x86_64-linux-gnux32", ""},
	{"s390x", 22, 2, FlagS390X, "s390x-linux-gnu", ""},
	{"riscv64", 243, 2, FlagRISCV, "riscv64-linux-gnu", ""},
	{"loongarch64", 258, 2, FlagLoong, "loongarch64-linux-gnu", ""},
}

// ArchOf returns the architecture that an ELF header tells: 62 and 2 are "x86_64". One that is not
// known is named by the numbers, "machine 247, class 2". Where the header alone does not decide
// between a hard and a soft float ABI it is the hard one, and ppc64 of either byte order is
// PPC64LE.
func ArchOf(machine uint16, class byte) Arch {
	for _, a := range arches {
		if a.machine == machine && a.class == class {
			return a.name
		}
	}
	return Arch("machine " + strconv.Itoa(int(machine)) + ", class " + strconv.Itoa(int(class)))
}

// known is what is known of an architecture; all zero if nothing is.
func (a Arch) known() (k arch) {
	if i := slices.IndexFunc(arches[:], func(k arch) bool { return k.name == a }); i >= 0 {
		k = arches[i]
	}
	return k
}

// Flags returns the flags that ldconfig gives a library of the architecture; 0, which is no
// library's, if it is not known.
func (a Arch) Flags() int32 { return a.known().flags }

// Bits is 32 or 64, the size of a pointer; 0 for an architecture that is not known.
func (a Arch) Bits() int { return 32 * int(a.known().class) }

// Triplet is the directory below /usr/lib in which Debian and its children have the libraries:
// "x86_64-linux-gnu".
func (a Arch) Triplet() string { return a.known().triplet }

// Compat is the 32-bit architecture whose programs run beside those of a, "" if the driver has no
// libraries for any.
func (a Arch) Compat() Arch { return a.known().compat }
