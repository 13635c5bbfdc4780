// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"debug/elf"
	"encoding/binary"
	"fmt"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/cmd/internal/need"
)

// sample is a module of the machine's kernel that shows what a module must look like. The image's
// directory has a copy.
const sample = "kernel/fs/fuse/cuse.ko"

// drivers builds the stand-ins for NVIDIA's kernel modules in dir from testdata/driver.c, for the
// image's kernel.
func drivers(t *testing.T, image, dir string) {
	t.Helper()
	gcc := need.Program(t, "gcc")
	options := append(strings.Fields("-std=gnu11 -Wall -Wextra -Werror -Os -ffreestanding -mcmodel=large -fno-pic -mno-sse "+
		"-fno-stack-protector -fcf-protection=none -fno-asynchronous-unwind-tables -fno-strict-aliasing"),
		defines(t, filepath.Join(image, filepath.Base(sample)))...)
	for _, name := range []string{"nvidia", "nvidia_uvm", "nvidia_modeset", "unplug"} {
		args := append(options[:len(options):len(options)], fmt.Sprintf("-DNAME=%q", name), "-DLIST=\"/var/lib/lab/driver\"",
			"-c", "-o", filepath.Join(dir, name+".ko"), "testdata/driver.c")
		out, err := exec.Command(gcc, args...).CombinedOutput()
		require.NoError(t, err, "gcc %q: %s", args, out)
	}
}

// defines reads from a kernel module what other modules of the same kernel must match.
func defines(t *testing.T, module string) []string {
	t.Helper()
	f, err := elf.Open(module)
	require.NoError(t, err)
	defer f.Close()
	data := func(section string) []byte {
		s := f.Section(section)
		require.NotNil(t, s, "%s has no section %s", module, section)
		data, err := s.Data()
		require.NoError(t, err)
		return data
	}
	symbols, err := f.Symbols()
	require.NoError(t, err)

	const this = ".gnu.linkonce.this_module"
	name, _, _ := strings.Cut(filepath.Base(module), ".")
	found := map[string]int{"SIZE": len(data(this)), "NAME": bytes.Index(data(this), []byte(name+"\x00"))}
	for relocations := data(".rela" + this); len(relocations) > 0; relocations = relocations[24:] {
		where, symbol := binary.LittleEndian.Uint64(relocations), binary.LittleEndian.Uint32(relocations[12:])
		switch symbols[symbol-1].Name {
		case "init_module":
			found["INIT"] = int(where)
		case "cleanup_module":
			found["EXIT"] = int(where)
		}
	}
	var list []string
	for _, n := range []string{"NAME", "INIT", "EXIT", "SIZE"} {
		assert.Positive(t, found[n], "%s in %s", n, module)
		list = append(list, fmt.Sprintf("-DMODULE_%s=%d", n, found[n]))
	}
	for field := range bytes.SplitSeq(data(".modinfo"), []byte{0}) {
		if magic, ok := strings.CutPrefix(string(field), "vermagic="); ok {
			return append(list, fmt.Sprintf("-DVERMAGIC=%q", magic))
		}
	}
	require.Fail(t, "no vermagic", "in %s", module)
	return nil
}
