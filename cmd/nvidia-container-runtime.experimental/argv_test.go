// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestParseArgs(t *testing.T) {
	tests := []struct {
		args string // arguments separated by blanks; ” stands for an empty one
		runc invocation
		crun *invocation // nil: the same as runc
	}{
		{args: "", runc: invocation{}},
		{args: "create id", runc: invocation{command: "create"}},
		{args: "run id", runc: invocation{command: "run"}},
		{args: "create --bundle /b id", runc: invocation{command: "create", bundle: "/b"}},
		{args: "create --bundle=/b id", runc: invocation{command: "create", bundle: "/b"}},
		{args: "create -b /b id", runc: invocation{command: "create", bundle: "/b"}},
		{args: "create --bundle /a --bundle /b id", runc: invocation{command: "create", bundle: "/b"}},
		{args: "create --bundle= id", runc: invocation{command: "create"}},
		{
			args: "create -b=/b id", runc: invocation{command: "create", bundle: "/b"},
			crun: &invocation{command: "create", bundle: "=/b"},
		},
		{
			args: "create -bundle /b id", runc: invocation{command: "create", bundle: "/b"},
			crun: &invocation{command: "create", bundle: "undle"}, // of a container named /b
		},
		{
			args: "create -b/b id", runc: invocation{command: "create"},
			crun: &invocation{command: "create", bundle: "/b"},
		},
		{
			args: "run -db/b id", runc: invocation{command: "run"},
			crun: &invocation{command: "run", bundle: "/b"},
		},
		{
			args: "create --bun /b id", runc: invocation{command: "create"},
			crun: &invocation{command: "create", bundle: "/b"},
		},
		{
			args: "create id --bundle /b", runc: invocation{command: "create", bundle: "/b"},
			crun: &invocation{command: "create"},
		},
		{args: "create -- --bundle /b", runc: invocation{command: "create"}},
		{args: "create --console-socket --bundle --bundle /b id", runc: invocation{command: "create", bundle: "/b"}},
		{args: "create id --pid-file -b", runc: invocation{command: "create"}},
		{args: "--root=/r restore", runc: invocation{command: "restore", root: "/r", nameless: true}},
		{args: "create --pid-file -b id", runc: invocation{command: "create"}},
		{args: "create --bundle", runc: invocation{command: "create", nameless: true}},
		{args: "create", runc: invocation{command: "create", nameless: true}},
		{args: "run --bundle /b", runc: invocation{command: "run", bundle: "/b", nameless: true}},
		{args: "run --bundle /b --", runc: invocation{command: "run", bundle: "/b", nameless: true}},
		{
			args: "run id --", runc: invocation{command: "run"},
		},
		{
			args: "restore --image-path /i --work-path /w --detach --pid-file /p --bundle /b --tcp-established id",
			runc: invocation{command: "restore", bundle: "/b", images: "/i"},
		},
		{
			args: "restore --manage-cgroups-mode soft --lsm-profile p --image-path=/i id --bundle /b",
			runc: invocation{command: "restore", bundle: "/b", images: "/i"},
			crun: &invocation{command: "restore", images: "/i"},
		},
		{
			args: "restore --empty-ns network --status-fd 3 --bundle /b id", runc: invocation{command: "restore", bundle: "/b"},
			crun: &invocation{command: "restore"},
		},
		{
			args: "restore --tcp-close --image /i -db/b id", runc: invocation{command: "restore"},
			crun: &invocation{command: "restore", bundle: "/b", images: "/i"},
		},
		{args: "create --no-pivot --bundle /b id", runc: invocation{command: "create", bundle: "/b"}},
		{
			args: "create --config /c.json id", runc: invocation{command: "create"},
			crun: &invocation{command: "create", config: "/c.json"},
		},
		{args: "--root create state id", runc: invocation{command: "state", root: "create"}},
		{args: "--log create delete x", runc: invocation{command: "delete", log: "create"}},
		{args: "exec id create", runc: invocation{command: "exec"}},
		{args: "kill create", runc: invocation{command: "kill"}},
		{args: "state create", runc: invocation{command: "state"}},
		{args: "--root=create state id", runc: invocation{command: "state", root: "create"}},
		{
			args: "--root /r --log /l --log-format json --systemd-cgroup create --bundle /b --pid-file /p id",
			runc: invocation{command: "create", bundle: "/b", root: "/r", log: "/l", logFormat: "json", systemdCgroup: true},
		},
		{args: "--debug --systemd-cgroup=false run id", runc: invocation{command: "run", debug: true}},
		{args: "--rootless=true create id", runc: invocation{command: "create"}},
		{args: "--rootless true create id", runc: invocation{command: "create"}},
		{args: "--criu /criu create id", runc: invocation{command: "create"}},
		{args: "--cgroup-manager systemd create id", runc: invocation{command: "create", systemdCgroup: true}},
		{args: "--cgroup-manager=cgroupfs create id", runc: invocation{command: "create"}},
		{
			args: "update --resources - id", runc: invocation{command: "update"},
			crun: &invocation{command: "update", resources: "-", operands: []string{"id"}},
		},
		{
			args: "update --cpu-quota -r --memory 1 -r- id", runc: invocation{command: "update"},
			crun: &invocation{command: "update", resources: "-", operands: []string{"id"}},
		},
		{
			args: "update id --resources -", runc: invocation{command: "update"},
			crun: &invocation{command: "update", operands: []string{"id", "--resources", "-"}},
		},
		// Future options: with a separate value, without one, and with a joined one.
		{args: "--new value create id", runc: invocation{command: "create"}},
		{args: "--new create id", runc: invocation{command: "create"}},
		{args: "--new=create state id", runc: invocation{command: "state"}},
		{args: "--version", runc: invocation{help: true, version: true}},
		{args: "-v", runc: invocation{help: true, version: true}},
		{args: "--version create id", runc: invocation{command: "create", help: true, version: true}},
		{args: "--help", runc: invocation{help: true}},
		{args: "create --help", runc: invocation{command: "create", help: true, nameless: true}},
		{args: "-- create id", runc: invocation{command: "create"}},
		{args: "” create id", runc: invocation{command: ""}},
		{args: "- create id", runc: invocation{command: "-"}},
		{
			args: "-log /l create id", runc: invocation{command: "create", log: "/l"},
			crun: &invocation{command: "/l"},
		},
		{args: "--log", runc: invocation{}},
	}
	for _, tt := range tests {
		t.Run(tt.args, func(t *testing.T) {
			args := strings.Fields(tt.args)
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "”", "")
			}
			want := tt.runc
			assert.Equal(t, want, parsed(runcDialect, args), "runc")
			if tt.crun != nil {
				want = *tt.crun
			}
			assert.Equal(t, want, parsed(crunDialect, args), "crun")
		})
	}
}

// parsed returns what parseArgs makes of args, without the arguments it keeps.
func parsed(d dialect, args []string) invocation {
	inv := parseArgs(d, args)
	inv.rest = nil
	return inv
}

// FuzzParseArgs checks that parsing terminates, leaves the arguments unchanged, and takes the
// command from them.
func FuzzParseArgs(f *testing.F) {
	for _, s := range []string{
		"create\x00id", "--root\x00create\x00state\x00id", "--log=x\x00run\x00-b\x00/b\x00id",
		"create\x00-db/b\x00id", "--\x00create", "create\x00--\x00-b", "-", "--=", "-=",
	} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		args := strings.Split(s, "\x00")
		before := slices.Clone(args)
		for _, d := range []dialect{runcDialect, crunDialect} {
			inv := parseArgs(d, args)
			if !slices.Equal(before, args) {
				t.Fatalf("arguments changed: %q", args)
			}
			if !slices.Contains(args, inv.command) && inv.command != "" {
				t.Fatalf("command %q is not among %q", inv.command, args)
			}
			if inv.intercepted() && !slices.Contains(args, "create") && !slices.Contains(args, "run") && !slices.Contains(args, "restore") {
				t.Fatalf("intercepted: %q", args)
			}
		}
	})
}
