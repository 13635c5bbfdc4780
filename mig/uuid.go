// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package mig

import (
	"encoding/binary"
	stdhex "encoding/hex"
	"strconv"
	"strings"
)

// UUID is the UUID of a MIG device, its name since R470: MIG-<uuid>.
type UUID [16]byte

// ParseUUID parses "MIG-" and a complete UUID, both in upper or lower case, as in
//
//	MIG-feb88891-0321-5fef-9c87-d4af3b54259e
//
// A prefix does not suffice.
func ParseUUID(s string) (UUID, bool) {
	var uuid UUID
	if len(s) != len("MIG-")+len(uuidForm) {
		return UUID{}, false
	}
	name, ok := UUIDPrefix(s, "MIG-")
	if !ok {
		return UUID{}, false
	}
	_, err := stdhex.Decode(uuid[:], []byte(strings.ReplaceAll(name[len("MIG-"):], "-", "")))
	return uuid, err == nil
}

// String returns the UUID in the form of [ParseUUID], in lower case.
func (u UUID) String() string {
	digits := stdhex.EncodeToString(u[:])
	return "MIG-" + digits[:8] + "-" + digits[8:12] + "-" + digits[12:16] + "-" + digits[16:20] + "-" + digits[20:]
}

// Pipes is the maximum number of graphics engines ("sys pipes") of a chip: RM_ENGINE_TYPE_GR_SIZE
// in gpu_engine_type.h of NVIDIA's open kernel modules.
const Pipes = 8

// chips are the chip IDs of the GPUs that support MIG: the list at PDB_PROP_GPU_MIG_SUPPORTED in
// g_gpu_nvoc.c of NVIDIA's open kernel modules 595.45.04, with the numbers of nv_arch.h. A chip ID
// is the architecture times 16 plus the implementation (NV_PMC_BOOT_42_CHIP_ID in nv_ref.h).
var chips = [...]uint16{
	0x170, // GA100
	0x180, // GH100
	0x1a0, // GB100
	0x1a2, // GB102
	0x1a3, // GB110
	0x1a4, // GB112
	0x1ab, // GB10B
	0x1b2, // GB202
	0x1b3, // GB203
}

// maxChip limits chip IDs, which have 10 bits.
const maxChip = 1 << 10

// Die is what the UUIDs of a GPU's MIG devices are derived from, in addition to their place.
type Die struct {
	PDI  uint64 // the die's identifier; in a vGPU guest the first 8 bytes of the GPU's UUID in memory
	Chip uint16 // chip ID; 0 if unknown
}

// UUID returns the UUID of the compute instance with the graphics engine pipe in the GPU instance
// gi. It is a SHA-1 (RFC 4122, version 5) of 50 bytes, from _nvGenerateUuid in gpu_uuid.c of
// NVIDIA's open kernel modules:
//
//	16  c8 16 c9 a3 52 24 56 bf 9d 9a ac 7e a7 03 fb 5b
//	10  "NVIDIA GPU"
//	 3  02 and the chip id, little endian
//	 9  08 and the PDI, little endian
//	 4  0b and "SMC"
//	 4  the GPU instance, little endian
//	 4  the engine, numbered across the chip, little endian
//
// According to a comment in kernel_mig_manager.c, the firmware of a GPU without virtualization uses
// the same function with the PDI; its source is not public.
func (d Die) UUID(gi, pipe int) UUID {
	message := [50]byte{
		0xc8, 0x16, 0xc9, 0xa3, 0x52, 0x24, 0x56, 0xbf, 0x9d, 0x9a, 0xac, 0x7e, 0xa7, 0x03, 0xfb, 0x5b,
		'N', 'V', 'I', 'D', 'I', 'A', ' ', 'G', 'P', 'U',
		26: 0x02, 29: 0x08, 38: 0x0b, 39: 'S', 40: 'M', 41: 'C',
	}
	binary.LittleEndian.PutUint16(message[27:], d.Chip)
	binary.LittleEndian.PutUint64(message[30:], d.PDI)
	binary.LittleEndian.PutUint32(message[42:], uint32(gi))
	binary.LittleEndian.PutUint32(message[46:], uint32(pipe))
	sum := sha1(message[:])
	uuid := UUID(sum[:16])
	uuid[6] = uuid[6]&0x0f | 0x50
	uuid[8] = uuid[8]&0x3f | 0x80
	return uuid
}

// Made reports whether the UUID is that of an instance in the GPU instance gi, with any engine. If
// the chip is unknown, all that support MIG are tried. A false positive would be a collision of 122
// bits.
func (d Die) Made(uuid UUID, gi int) bool {
	if d.Chip != 0 {
		return d.made(uuid, gi)
	}
	for _, chip := range chips {
		if (Die{d.PDI, chip}).made(uuid, gi) {
			return true
		}
	}
	return false
}

func (d Die) made(uuid UUID, gi int) bool {
	for pipe := range Pipes {
		if d.UUID(gi, pipe) == uuid {
			return true
		}
	}
	return false
}

// FindChip tries all possible chip IDs, even of future chips, and returns the one with which the
// UUID is that of an instance in the GPU instance gi, which also proves the PDI.
func FindChip(pdi uint64, uuid UUID, gi int) (chip uint16, ok bool) {
	for chip := uint16(1); chip < maxChip; chip++ {
		if (Die{pdi, chip}).made(uuid, gi) {
			return chip, true
		}
	}
	return 0, false
}

// HasUUIDs reports whether MIG devices have UUIDs with a driver version: since R470. Before, they
// had a [Name].
func HasUUIDs(driver string) bool {
	branch, _, _ := strings.Cut(driver, ".")
	number, err := strconv.Atoi(branch)
	return err != nil || number >= 470
}
