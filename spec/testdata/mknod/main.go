// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Command mknod creates device nodes with raw system calls, in a container of the fence's tests.
// Each argument is call:type:device, "mknodat:c:0xc307", where device is the whole register; each
// gives one line "call:type:device result", where result is "ok" or the error number.
package main

import (
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"unsafe"
)

// numbers are those of mknod and mknodat; arm64 has no mknod.
var numbers = map[string]map[string]uintptr{
	"amd64": {"mknod": 133, "mknodat": 259},
	"386":   {"mknod": 14, "mknodat": 297},
	"arm64": {"mknodat": 33},
}

// types are the file types of mknod(2).
var types = map[string]uintptr{"c": syscall.S_IFCHR, "b": syscall.S_IFBLK, "p": syscall.S_IFIFO, "f": syscall.S_IFREG}

func main() {
	for i, arg := range os.Args[1:] {
		call, rest, _ := strings.Cut(arg, ":")
		kind, text, _ := strings.Cut(rest, ":")
		device, err := strconv.ParseUint(text, 0, 64)
		if err != nil {
			fmt.Println(arg, err)
			continue
		}
		number, ok := numbers[runtime.GOARCH][call]
		if !ok {
			fmt.Println(arg, "absent")
			continue
		}
		mode := types[kind] | 0o600
		name := fmt.Sprintf("/tmp/node%d", i)
		path := append([]byte(name), 0)
		at := ^uintptr(99) // AT_FDCWD, -100
		var errno syscall.Errno
		if call == "mknod" {
			_, _, errno = syscall.Syscall(number, uintptr(unsafe.Pointer(&path[0])), mode, uintptr(device))
		} else {
			_, _, errno = syscall.Syscall6(number, at, uintptr(unsafe.Pointer(&path[0])), mode, uintptr(device), 0, 0)
		}
		if errno != 0 {
			fmt.Println(arg, int(errno))
			continue
		}
		fmt.Println(arg, "ok")
		_ = os.Remove(name)
	}
}
