// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package ldcache

import (
	"slices"
	"strconv"
)

// Arch is an architecture that a C library can be built for, as uname -m names it: "x86_64". "" is
// none. The constants are the architectures of NVIDIA's driver.
type Arch string

// The architectures of the driver's libraries.
const (
	X8664   Arch = "x86_64"
	AArch64 Arch = "aarch64"
	PPC64LE Arch = "ppc64le"
	I386    Arch = "i386" // 32-bit programs on X8664
	ARM     Arch = "arm"  // hard float, 32-bit programs on AArch64
)

type arch struct {
	name    Arch
	machine uint16
	class   byte
	flags   int32
	triplet string
	compat  Arch
}

// arches describes the known architectures. Machine and class are e_machine and e_ident[EI_CLASS]
// of an ELF header (elf.h). Package debug/elf is not used: its initialization and that of its
// imports take a twentieth of a static program's start.
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

// ArchOf returns the architecture of an ELF header: 62 and 2 are "x86_64". An unknown one is named
// by the numbers, "machine 247, class 2". If the header alone does not distinguish hard and soft
// float, it is hard float; ppc64 of either byte order is PPC64LE.
func ArchOf(machine uint16, class byte) Arch {
	for _, a := range arches {
		if a.machine == machine && a.class == class {
			return a.name
		}
	}
	return Arch("machine " + strconv.Itoa(int(machine)) + ", class " + strconv.Itoa(int(class)))
}

// known returns the description of an architecture, the zero value if it is unknown.
func (a Arch) known() (k arch) {
	if i := slices.IndexFunc(arches[:], func(k arch) bool { return k.name == a }); i >= 0 {
		k = arches[i]
	}
	return k
}

// Flags returns the flags that ldconfig gives a library of the architecture; 0, which no library
// has, if it is unknown.
func (a Arch) Flags() int32 { return a.known().flags }

// Bits returns the size of a pointer, 32 or 64; 0 for an unknown architecture.
func (a Arch) Bits() int { return 32 * int(a.known().class) }

// Triplet returns the library directory below /usr/lib of Debian and its derivatives:
// "x86_64-linux-gnu".
func (a Arch) Triplet() string { return a.known().triplet }

// Compat returns the 32-bit architecture whose programs a machine of architecture a also runs, ""
// if the driver has no libraries for it.
func (a Arch) Compat() Arch { return a.known().compat }
