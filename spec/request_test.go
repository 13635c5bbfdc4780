// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec"
	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
)

var (
	defaultPolicy = spec.Policy{EnvWhenUnprivileged: true}
	defaultCaps   = []string{"compute", "utility"}
	allCaps       = []string{"compat32", "compute", "display", "graphics", "ngx", "utility", "video"}
	privileged    = []string{"CAP_CHOWN", "CAP_SYS_ADMIN"}
)

// mark is a mount that requests a device.
func mark(rest string) spec.Mount {
	return spec.Mount{Source: "/dev/null", Destination: "/var/run/nvidia-container-devices/" + rest, Type: "bind"}
}

// cuda is the requirement of a legacy image.
func cuda(version string) []requirement.Requirement {
	return []requirement.Requirement{{
		Variable: "CUDA_VERSION",
		Terms:    []requirement.Term{{{Property: "cuda", Operator: ">=", Value: version}}},
	}}
}

// TestRequestDevices covers device lists.
func TestRequestDevices(t *testing.T) {
	const mib = 1 << 20
	long := strings.Repeat("x", mib)
	for _, tt := range []struct {
		name string
		env  []string
		want []string // nil: nothing is asked
		err  string
	}{
		{name: "unset", env: []string{"PATH=/bin"}},
		{name: "empty", env: []string{"NVIDIA_VISIBLE_DEVICES="}},
		{name: "blanks", env: []string{"NVIDIA_VISIBLE_DEVICES=  \t"}},
		{name: "comma", env: []string{"NVIDIA_VISIBLE_DEVICES=,"}},
		{name: "commas and blanks", env: []string{"NVIDIA_VISIBLE_DEVICES= , ,,"}},
		{name: "void", env: []string{"NVIDIA_VISIBLE_DEVICES=void"}},
		{name: "void last", env: []string{"NVIDIA_VISIBLE_DEVICES=0,all,none, void "}},
		{name: "void beside what is malformed", env: []string{"NVIDIA_VISIBLE_DEVICES=amd.com/gpu=0,void"}},
		{name: "none", env: []string{"NVIDIA_VISIBLE_DEVICES=none"}, want: []string{"none"}},
		{name: "none in a list", env: []string{"NVIDIA_VISIBLE_DEVICES=0,none,1"}, want: []string{"none"}},
		{name: "none before all", env: []string{"NVIDIA_VISIBLE_DEVICES=none,all"}, want: []string{"none"}},
		{name: "all", env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, want: []string{"all"}},
		{name: "all in a list", env: []string{"NVIDIA_VISIBLE_DEVICES=0, all ,1"}, want: []string{"all"}},
		{name: "all before none", env: []string{"NVIDIA_VISIBLE_DEVICES=all,none"}, want: []string{"all"}},
		{name: "ALL", env: []string{"NVIDIA_VISIBLE_DEVICES=ALL"}, want: []string{"all"}},
		{name: "All before none", env: []string{"NVIDIA_VISIBLE_DEVICES=All,none"}, want: []string{"all"}},
		{name: "None and Void are left to the inventory", env: []string{"NVIDIA_VISIBLE_DEVICES=None,Void"}, want: []string{"None", "Void"}},
		{name: "one twice", env: []string{"NVIDIA_VISIBLE_DEVICES=0,0"}, want: []string{"0"}},
		{name: "order of first use", env: []string{"NVIDIA_VISIBLE_DEVICES=1,0,1"}, want: []string{"1", "0"}},
		{name: "blanks around items", env: []string{"NVIDIA_VISIBLE_DEVICES= 0 , 1 "}, want: []string{"0", "1"}},
		{name: "empty item", env: []string{"NVIDIA_VISIBLE_DEVICES=0,,1"}, want: []string{"0", "1"}},
		{name: "newline at the end", env: []string{"NVIDIA_VISIBLE_DEVICES=all\n"}, want: []string{"all"}},
		{
			name: "every form, as spelled", env: []string{"NVIDIA_VISIBLE_DEVICES=3,GPU-FEF8089b,0000:01:00.0,0:1,MIG-GPU-fef8089b/0/1,MIG-1cf5aa34-0000-5000-8000-000000000000"},
			want: []string{"3", "GPU-FEF8089b", "0000:01:00.0", "0:1", "MIG-GPU-fef8089b/0/1", "MIG-1cf5aa34-0000-5000-8000-000000000000"},
		},

		{name: "last of two, as dockerd appends it", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=2"}, want: []string{"2"}},
		{name: "last of two is void", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES=void"}},
		{name: "last of two is empty", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_VISIBLE_DEVICES="}},
		{name: "entry without equals sign", env: []string{"NVIDIA_VISIBLE_DEVICES=1", "NVIDIA_VISIBLE_DEVICES"}, want: []string{"1"}},
		{name: "only an entry without equals sign", env: []string{"NVIDIA_VISIBLE_DEVICES"}},
		{name: "empty entry and empty name", env: []string{"", "=all", "="}},
		{name: "name in another case", env: []string{"nvidia_visible_devices=all"}},
		{name: "name is a prefix", env: []string{"NVIDIA_VISIBLE_DEVICES_X=all"}},

		{name: "CDI name", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0"}, want: []string{"0"}},
		{name: "CDI name, all", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=all"}, want: []string{"all"}},
		{name: "CDI name, none", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=none"}, want: []string{"none"}},
		{name: "CDI name, void", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=void"}},
		{name: "CDI name, uuid", env: []string{"NVIDIA_VISIBLE_DEVICES=runtime.nvidia.com/gpu=GPU-fef8089b-dead-beef-0000-000000000000"}, want: []string{"GPU-fef8089b-dead-beef-0000-000000000000"}},
		{name: "CDI name, instance", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=0:1,nvidia.com/gpu=MIG-GPU-fef8089b/1/0"}, want: []string{"0:1", "MIG-GPU-fef8089b/1/0"}},
		{name: "mixed list, one device twice", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=1, 0 ,runtime.nvidia.com/gpu=1,1"}, want: []string{"1", "0"}},
		{name: "mixed list with all", env: []string{"NVIDIA_VISIBLE_DEVICES=0,runtime.nvidia.com/gpu=all"}, want: []string{"all"}},
		{name: "path that is no CDI name", env: []string{"NVIDIA_VISIBLE_DEVICES=../../etc=x,a/b,c=d,/gpu=0,nvidia.com/=0"}, want: []string{"../../etc=x", "a/b", "c=d", "/gpu=0", "nvidia.com/=0"}},
		{
			name: "foreign vendor", env: []string{"NVIDIA_VISIBLE_DEVICES=0,amd.com/gpu=0"},
			err: `NVIDIA_VISIBLE_DEVICES="0,amd.com/gpu=0": device "amd.com/gpu=0" is of kind "amd.com/gpu", but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`,
		},
		{
			name: "foreign vendor beside all", env: []string{"NVIDIA_VISIBLE_DEVICES=all,amd.com/gpu=0"},
			err: `NVIDIA_VISIBLE_DEVICES="all,amd.com/gpu=0": device "amd.com/gpu=0" is of kind "amd.com/gpu", but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`,
		},
		{
			name: "other class", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gds=all"},
			err: `NVIDIA_VISIBLE_DEVICES="nvidia.com/gds=all": device "nvidia.com/gds=all" is of kind "nvidia.com/gds", but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`,
		},
		{name: "CDI name without device", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu="}, err: `NVIDIA_VISIBLE_DEVICES="nvidia.com/gpu=": device "nvidia.com/gpu=": want a device after nvidia.com/gpu=`},
		{name: "CDI name in a CDI name", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=nvidia.com/gpu=0"}, err: `NVIDIA_VISIBLE_DEVICES="nvidia.com/gpu=nvidia.com/gpu=0": device "nvidia.com/gpu=nvidia.com/gpu=0": want a device after nvidia.com/gpu=`},

		{name: "hostile names are left to the inventory", env: []string{"NVIDIA_VISIBLE_DEVICES=../../etc,0/../..,0\x00,\x1b[31m,a\nb"}, want: []string{"../../etc", "0/../..", "0\x00", "\x1b[31m", "a\nb"}},
		{name: "a name of a megabyte", env: []string{"NVIDIA_VISIBLE_DEVICES=" + long}, want: []string{long}},
		{name: "100000 times one", env: []string{"NVIDIA_VISIBLE_DEVICES=" + strings.Repeat("7,", 100_000)}, want: []string{"7"}},
		{
			name: "more than a megabyte", env: []string{"NVIDIA_VISIBLE_DEVICES=" + strings.Repeat("0,", mib/2) + "0"},
			err: `NVIDIA_VISIBLE_DEVICES="` + strings.Repeat("0,", 50) + `…": its value has 1048577 bytes, more than the limit of 1048576`,
		},
		{
			name: "replica of a device plugin", env: []string{"NVIDIA_VISIBLE_DEVICES=0,GPU-fef8089b::12"},
			err: `NVIDIA_VISIBLE_DEVICES="0,GPU-fef8089b::12": device "GPU-fef8089b::12": unknown device: "::12" is a replica of Kubernetes' device plugin; ask for "GPU-fef8089b"`,
		},
		{
			name: "quotes", env: []string{`NVIDIA_VISIBLE_DEVICES="all"`},
			err: `NVIDIA_VISIBLE_DEVICES="\"all\"": device "\"all\"": unknown device: the quotes are part of the value; leave them out`,
		},
		{name: "carriage return", env: []string{"NVIDIA_VISIBLE_DEVICES=0,1\r"}, want: []string{"0", "1"}},
		{
			name: "folder of volume mounts", env: []string{"NVIDIA_VISIBLE_DEVICES=/var/run/nvidia-container-devices"},
			err: `NVIDIA_VISIBLE_DEVICES="/var/run/nvidia-container-devices": device "/var/run/nvidia-container-devices": unknown device: it stands for the mounts below that directory; ` +
				`this needs such mounts, and accept-nvidia-visible-devices-as-volume-mounts = true in config.toml`,
		},
		{name: "void beside them", env: []string{`NVIDIA_VISIBLE_DEVICES="0",1::2,void`}},
		{
			name: "messages are quoted and shortened", env: []string{"NVIDIA_VISIBLE_DEVICES=\x1b[31m\n,evil.com/gpu=" + long[:mib/2]},
			err: `NVIDIA_VISIBLE_DEVICES="\x1b[31m\n,evil.com/gpu=` + strings.Repeat("x", 80) + `…": device "evil.com/gpu=` + strings.Repeat("x", 87) + `…" is of kind "evil.com/gpu", ` +
				`but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := spec.NewRequest(spec.Facts{Env: tt.env}, defaultPolicy)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.False(t, ok)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			want := spec.Request{}
			if tt.want != nil {
				want = spec.Request{Devices: tt.want, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps}
			}
			assert.Equal(t, want, got)
			assert.Equal(t, tt.want != nil, ok)
		})
	}
}

// TestRequestMany parses a list of 100,000 different devices.
func TestRequestMany(t *testing.T) {
	var want []string
	for n := range 100_000 {
		want = append(want, fmt.Sprintf("GPU-%d", n))
	}
	got, ok, err := spec.NewRequest(spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=" + strings.Join(want, ",")}}, defaultPolicy)
	require.NoError(t, err)
	assert.True(t, ok)
	assert.Equal(t, want, got.Devices)
}

// TestRequestSources covers who may request devices, and where.
func TestRequestSources(t *testing.T) {
	const noAdmin = "the container lacks CAP_SYS_ADMIN in its bounding set and accept-nvidia-visible-devices-envvar-when-unprivileged is false"
	mounts := spec.Policy{EnvWhenUnprivileged: true, VolumeMounts: true}
	mountsOnly := spec.Policy{VolumeMounts: true}
	swarm := spec.Policy{EnvWhenUnprivileged: true, SwarmResources: []string{"DOCKER_RESOURCE_GPU, DOCKER_RESOURCE_TESLA", "DOCKER_RESOURCE_GPU"}}
	for _, tt := range []struct {
		name   string
		facts  spec.Facts
		policy spec.Policy
		want   spec.Request
		err    string
	}{
		{
			name: "environment, privileged, not accepted from others", facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=0"}, Bounding: privileged},
			want: spec.Request{Devices: []string{"0"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps},
		},
		{
			name: "environment, unprivileged, not accepted", facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=0"}, Bounding: []string{"CAP_MKNOD", "CAP_SYS_ADMINS"}},
			want: spec.Request{Notes: []string{`NVIDIA_VISIBLE_DEVICES="0" ignored: ` + noAdmin}},
		},
		{
			name: "environment, unprivileged, refused", facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=0\n"}}, policy: spec.Policy{RefuseUnprivileged: true},
			err: `insufficient privileges to read device list from NVIDIA_VISIBLE_DEVICES envvar: NVIDIA_VISIBLE_DEVICES="0\n": ` + noAdmin,
		},
		{name: "nothing asked, nothing refused", facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=void"}}, policy: spec.Policy{RefuseUnprivileged: true}},
		{
			name: "refusing does not hit the privileged", facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=none"}, Bounding: privileged}, policy: spec.Policy{RefuseUnprivileged: true},
			want: spec.Request{Devices: []string{"none"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps},
		},
		{
			name: "what is ignored is not parsed", facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=amd.com/gpu=0", "NVIDIA_DRIVER_CAPABILITIES=x", "NVIDIA_REQUIRE_CUDA=x"}},
			want: spec.Request{Notes: []string{`NVIDIA_VISIBLE_DEVICES="amd.com/gpu=0" ignored: ` + noAdmin}},
		},
		{
			name: "legacy image, not accepted", facts: spec.Facts{Env: []string{"CUDA_VERSION=9.0"}},
			want: spec.Request{Notes: []string{`CUDA_VERSION="9.0" without NVIDIA_REQUIRE_CUDA (a legacy image, which means all devices) ignored: ` + noAdmin}},
		},

		{
			name: "mounts win over the environment", policy: mounts,
			facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, Mounts: []spec.Mount{{Destination: "/proc", Source: "proc"}, mark("1"), mark("GPU-fef8089b"), mark("1")}},
			want: spec.Request{
				Devices: []string{"1", "GPU-fef8089b"}, Source: "volume mounts", Capabilities: defaultCaps,
			},
		},
		{
			name: "mounts need no privilege", policy: mountsOnly, facts: spec.Facts{Mounts: []spec.Mount{mark("all")}},
			want: spec.Request{Devices: []string{"all"}, Source: "volume mounts", Capabilities: defaultCaps},
		},
		{
			name: "mounts win, so the environment is not refused", policy: spec.Policy{VolumeMounts: true, RefuseUnprivileged: true},
			facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, Mounts: []spec.Mount{mark("0")}},
			want:  spec.Request{Devices: []string{"0"}, Source: "volume mounts", Capabilities: defaultCaps},
		},
		{
			name: "mount of void: nothing, whatever the environment says", policy: mounts,
			facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=all"}, Mounts: []spec.Mount{mark("void")}},
		},
		{
			name: "mounts not accepted", policy: defaultPolicy, facts: spec.Facts{Mounts: []spec.Mount{mark("0")}},
			want: spec.Request{Notes: []string{`mount "/var/run/nvidia-container-devices/0" does not request a device: accept-nvidia-visible-devices-as-volume-mounts is false`}},
		},
		{
			name: "mounts not accepted, refused", policy: spec.Policy{RefuseUnprivileged: true}, facts: spec.Facts{Mounts: []spec.Mount{mark("0")}},
			err: `mount "/var/run/nvidia-container-devices/0" does not request a device: accept-nvidia-visible-devices-as-volume-mounts is false`,
		},
		{
			name: "mounts not accepted, the environment serves", policy: spec.Policy{EnvWhenUnprivileged: true, RefuseUnprivileged: true},
			facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=1"}, Mounts: []spec.Mount{mark("0"), mark("cdi/x")}},
			want: spec.Request{
				Devices: []string{"1"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps,
				Notes: []string{`mount "/var/run/nvidia-container-devices/0" does not request a device: accept-nvidia-visible-devices-as-volume-mounts is false`},
			},
		},
		{
			name: "spellings that are cleaned", policy: mountsOnly,
			facts: spec.Facts{Mounts: []spec.Mount{{Source: "//dev/./null/", Destination: "/var//run/./nvidia-container-devices/0/"}}},
			want:  spec.Request{Devices: []string{"0"}, Source: "volume mounts", Capabilities: defaultCaps},
		},
		{
			name: "what is no marker", policy: mountsOnly,
			facts: spec.Facts{Mounts: []spec.Mount{
				{Source: "/dev/null", Destination: "/var/run/nvidia-container-devicesX/foo"},
				{Source: "/dev/null", Destination: "/var/run/nvidia-container-devices-0"},
				{Source: "/dev/null", Destination: "/var/run/nvidia-container-devices"},
				{Source: "/dev/null", Destination: "/var/run/nvidia-container-devices/"},
				{Source: "/dev/null", Destination: "/var/run/nvidia-container-devices/../x"},
				{Source: "/dev/null", Destination: "/x/var/run/nvidia-container-devices/0"},
				{Source: "/dev/null", Destination: "var/run/nvidia-container-devices/0"},
				{Source: "/dev/nullx", Destination: "/var/run/nvidia-container-devices/0"},
				{Source: "/dev/zero", Destination: "/var/run/nvidia-container-devices/0"},
				{Source: "dev/null", Destination: "/var/run/nvidia-container-devices/0"},
				{Source: "", Destination: "/var/run/nvidia-container-devices/0"},
				{Source: "/dev/null", Destination: ""},
			}},
		},
		{
			name: "dots in a marker", policy: mounts,
			facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=0"}, Mounts: []spec.Mount{mark("a/../1")}},
			want: spec.Request{
				Devices: []string{"0"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps,
				Notes: []string{`mount "/var/run/nvidia-container-devices/a/../1" does not request a device: ".." in its destination`},
			},
		},
		{
			name: "a marker on a destination that has another mount is kept", policy: mountsOnly,
			facts: spec.Facts{Mounts: []spec.Mount{mark("0"), {Source: "/data", Destination: "/var/run/nvidia-container-devices/0"}, mark("1"), mark("1")}},
			want:  spec.Request{Devices: []string{"0", "1"}, Source: "volume mounts", Capabilities: defaultCaps},
		},
		{
			name: "device with slashes, CDI forms", policy: mountsOnly,
			facts: spec.Facts{Mounts: []spec.Mount{
				mark("MIG-GPU-fef8089b/1/0"), mark("cdi/nvidia.com/gpu/3"), mark("cdi/runtime.nvidia.com/gpu=4"), mark("nvidia.com/gpu=5"), mark("cdi/nvidia.com/gpu/MIG-GPU-fef8089b/2/0"), mark("cdi"),
			}},
			want: spec.Request{
				Devices: []string{"MIG-GPU-fef8089b/1/0", "3", "4", "5", "MIG-GPU-fef8089b/2/0", "cdi"}, Source: "volume mounts", Capabilities: defaultCaps,
			},
		},
		{
			name: "CDI mount of a foreign vendor", policy: mountsOnly, facts: spec.Facts{Mounts: []spec.Mount{mark("cdi/amd.com/gpu/0")}},
			err: `mount "/var/run/nvidia-container-devices/cdi/amd.com/gpu/0": device "amd.com/gpu=0" is of kind "amd.com/gpu", but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`,
		},
		{
			name: "CDI mount without a device", policy: mountsOnly, facts: spec.Facts{Mounts: []spec.Mount{mark("cdi/nvidia.com/gpu")}},
			err: `mount "/var/run/nvidia-container-devices/cdi/nvidia.com/gpu": want /var/run/nvidia-container-devices/cdi/vendor/class/name`,
		},
		{
			name: "hostile CDI mount", policy: mountsOnly, facts: spec.Facts{Mounts: []spec.Mount{mark("cdi/\x1b/g\n/0")}},
			err: `mount "/var/run/nvidia-container-devices/cdi/\x1b/g\n/0": want /var/run/nvidia-container-devices/cdi/vendor/class/name`,
		},

		{
			name: "swarm variables replace NVIDIA_VISIBLE_DEVICES", policy: swarm,
			facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=all", "DOCKER_RESOURCE_TESLA= 2 ,0", "DOCKER_RESOURCE_GPU=1,2"}},
			want:  spec.Request{Devices: []string{"1", "2", "0"}, Source: "DOCKER_RESOURCE_GPU,DOCKER_RESOURCE_TESLA", Capabilities: defaultCaps},
		},
		{
			name: "one swarm variable", policy: swarm, facts: spec.Facts{Env: []string{"DOCKER_RESOURCE_TESLA=1", "DOCKER_RESOURCE_TESLA=3"}},
			want: spec.Request{Devices: []string{"3"}, Source: "DOCKER_RESOURCE_TESLA", Capabilities: defaultCaps},
		},
		{
			name: "no swarm variable", policy: swarm, facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=5"}},
			want: spec.Request{Devices: []string{"5"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps},
		},
		{name: "empty swarm variable", policy: swarm, facts: spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=all", "DOCKER_RESOURCE_GPU="}}},
		{name: "empty swarm variable of a legacy image", policy: swarm, facts: spec.Facts{Env: []string{"CUDA_VERSION=9.0", "DOCKER_RESOURCE_GPU="}}},
		{name: "void in one swarm variable", policy: swarm, facts: spec.Facts{Env: []string{"DOCKER_RESOURCE_GPU=void", "DOCKER_RESOURCE_TESLA=1"}}},
		{
			name: "swarm variable, not accepted", policy: spec.Policy{SwarmResources: swarm.SwarmResources}, facts: spec.Facts{Env: []string{"DOCKER_RESOURCE_GPU=1"}},
			want: spec.Request{Notes: []string{`DOCKER_RESOURCE_GPU="1" ignored: ` + noAdmin}},
		},
		{
			name: "swarm variable, refused", policy: spec.Policy{SwarmResources: swarm.SwarmResources, RefuseUnprivileged: true}, facts: spec.Facts{Env: []string{"DOCKER_RESOURCE_GPU=1"}},
			err: `insufficient privileges to read device list from DOCKER_RESOURCE_GPU envvar: DOCKER_RESOURCE_GPU="1": ` + noAdmin,
		},
		{
			name: "swarm variable with a foreign vendor", policy: swarm, facts: spec.Facts{Env: []string{"DOCKER_RESOURCE_GPU=1", "DOCKER_RESOURCE_TESLA=amd.com/gpu=0"}},
			err: `DOCKER_RESOURCE_TESLA="amd.com/gpu=0": device "amd.com/gpu=0" is of kind "amd.com/gpu", but only nvidia.com/gpu and runtime.nvidia.com/gpu are supported; ask the container engine for CDI devices of other kinds`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := spec.NewRequest(tt.facts, tt.policy)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.False(t, ok)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.want.Devices != nil, ok)
		})
	}
}

// TestRequestLegacy covers images with CUDA_VERSION and without NVIDIA_REQUIRE_CUDA.
func TestRequestLegacy(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want spec.Request
	}{
		{
			name: "all devices, all capabilities, a requirement", env: []string{"CUDA_VERSION=9.0.116"},
			want: spec.Request{Devices: []string{"all"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: allCaps, Requirements: cuda("9.0")},
		},
		{
			name: "devices set", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_VISIBLE_DEVICES=1"},
			want: spec.Request{Devices: []string{"1"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: allCaps, Requirements: cuda("9.0")},
		},
		{name: "devices set to nothing", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_VISIBLE_DEVICES="}},
		{name: "devices set to blanks", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_VISIBLE_DEVICES= , "}},
		{name: "void", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_VISIBLE_DEVICES=void"}},
		{
			name: "capabilities set", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_DRIVER_CAPABILITIES=utility"},
			want: spec.Request{Devices: []string{"all"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: []string{"utility"}, Requirements: cuda("9.0")},
		},
		{
			name: "capabilities set to nothing", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_DRIVER_CAPABILITIES="},
			want: spec.Request{Devices: []string{"all"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps, Requirements: cuda("9.0")},
		},
		{
			name: "empty requirement", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_REQUIRE_CUDA="},
			want: spec.Request{Devices: []string{"all"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: allCaps, Requirements: cuda("9.0")},
		},
		{name: "with a requirement it is no legacy image", env: []string{"CUDA_VERSION=12.4.1", "NVIDIA_REQUIRE_CUDA=cuda>=12.4"}},
		{name: "no version", env: []string{"CUDA_VERSION="}},
		{
			name: "another requirement comes first", env: []string{"CUDA_VERSION=9.0.116", "NVIDIA_REQUIRE_BRAND=brand=tesla"},
			want: spec.Request{
				Devices: []string{"all"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: allCaps,
				Requirements: append([]requirement.Requirement{{
					Variable: "NVIDIA_REQUIRE_BRAND",
					Terms:    []requirement.Term{{{Property: "brand", Operator: "=", Value: "tesla"}}},
				}}, cuda("9.0")...),
			},
		},
		{
			name: "checks disabled, version not looked at", env: []string{"CUDA_VERSION=foo", "NVIDIA_DISABLE_REQUIRE=1"},
			want: spec.Request{Devices: []string{"all"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: allCaps},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := spec.NewRequest(spec.Facts{Env: tt.env}, defaultPolicy)
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.want.Devices != nil, ok)
		})
	}
}

func TestRequestCUDAVersion(t *testing.T) {
	for in, want := range map[string]string{
		"0": "0.0", "8": "8.0", "7.5": "7.5", "9.0.116": "9.0", "v11.6": "11.6", "v8": "8.0", "13.0.0": "13.0",
		"4294967295.4294967295.4294967295": "4294967295.4294967295",
	} {
		got, _, err := spec.NewRequest(spec.Facts{Env: []string{"CUDA_VERSION=" + in}}, defaultPolicy)
		require.NoError(t, err, in)
		assert.Equal(t, cuda(want), got.Requirements, in)
	}
	for _, in := range []string{
		"foo", "foo.5.10", "9.0.116.50", "9.0.116foo", "7.foo", "9.0.bar", "9.4294967296", "9.0.116.", "9..0", "9.", ".5.10", "-9", "+9", "-9.1.116", "-9.-1.-116",
		"v", "vv9", " 9", "9 ", "9\x00", "9\n", "0x9", "٩", "4294967296", ".", "...", strings.Repeat("9", 1<<20), strings.Repeat(".", 1<<20),
	} {
		got, ok, err := spec.NewRequest(spec.Facts{Env: []string{"CUDA_VERSION=" + in}}, defaultPolicy)
		quoted := fmt.Sprintf("%q", in)
		if len(in) > 100 {
			quoted = fmt.Sprintf(`"%s…"`, in[:100])
		}
		assert.EqualError(t, err, "requirement error: CUDA_VERSION="+quoted+
			": invalid CUDA version, want MAJOR, MAJOR.MINOR or MAJOR.MINOR.PATCH; NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check")
		assert.False(t, ok)
		assert.Zero(t, got)
	}
}

func TestRequestCapabilities(t *testing.T) {
	const asked = "NVIDIA_DRIVER_CAPABILITIES="
	const seven = "compat32,compute,display,graphics,ngx,utility,video"
	for _, tt := range []struct {
		name      string
		env       []string
		supported []string
		want      []string
		err       string
	}{
		{name: "unset", want: defaultCaps},
		{name: "empty", env: []string{asked}, want: defaultCaps},
		{name: "blanks and commas", env: []string{asked + " , ,"}, want: defaultCaps},
		{name: "unset, all supported by name", supported: []string{"all"}, want: defaultCaps},
		{name: "unset, part of the defaults supported", supported: []string{"utility,video"}, want: []string{"utility"}},
		{name: "unset, none of the defaults supported", supported: []string{"video"}, want: []string{}},
		{name: "unset, nothing supported", supported: []string{}, want: []string{}},
		{name: "each", env: []string{asked + "video,utility,ngx,graphics,display,compute,compat32"}, want: allCaps},
		{name: "one", env: []string{asked + "graphics"}, want: []string{"graphics"}},
		{name: "trimmed, sorted, once", env: []string{asked + " utility , compute,,utility"}, want: defaultCaps},
		{name: "implied classes are the driver's affair", env: []string{asked + "video,display"}, want: []string{"display", "video"}},
		{name: "all", env: []string{asked + "all"}, want: allCaps},
		{name: "all in a list", env: []string{asked + "utility, all"}, want: allCaps},
		{name: "all of what is supported", env: []string{asked + "all"}, supported: []string{"utility, video", "compute"}, want: []string{"compute", "utility", "video"}},
		{name: "all beside one that is not supported", env: []string{asked + "all,graphics"}, supported: []string{"utility"}, want: []string{"utility"}},
		{name: "last of two", env: []string{asked + "all", asked + "utility"}, want: []string{"utility"}},
		{
			name: "unknown", env: []string{asked + "compute,foo"},
			err: `unsupported capabilities found in 'compute,foo' (allowed '` + seven + `'): NVIDIA_DRIVER_CAPABILITIES: unknown capability "foo"`,
		},
		{
			name: "unknown beside all", env: []string{asked + "all,foo"},
			err: `unsupported capabilities found in 'all,foo' (allowed '` + seven + `'): NVIDIA_DRIVER_CAPABILITIES: unknown capability "foo"`,
		},
		{
			name: "another case", env: []string{asked + "Compute"},
			err: `unsupported capabilities found in 'Compute' (allowed '` + seven + `'): NVIDIA_DRIVER_CAPABILITIES: unknown capability "Compute"`,
		},
		{
			name: "none is no capability", env: []string{asked + "none"},
			err: `unsupported capabilities found in 'none' (allowed '` + seven + `'): NVIDIA_DRIVER_CAPABILITIES: unknown capability "none"`,
		},
		{
			name: "not supported", env: []string{asked + "utility,video"}, supported: []string{"utility", "compute"},
			err: `unsupported capabilities found in 'utility,video' (allowed 'compute,utility'): NVIDIA_DRIVER_CAPABILITIES: supported-driver-capabilities in config.toml does not include "video"`,
		},
		{
			name: "hostile", env: []string{asked + "\x1b[2J\x00" + strings.Repeat("x", 1<<19)},
			err: `unsupported capabilities found in '\x1b[2J\x00` + strings.Repeat("x", 95) + `…' (allowed '` + seven + `'): NVIDIA_DRIVER_CAPABILITIES: unknown capability "\x1b[2J\x00` + strings.Repeat("x", 95) + `…"`,
		},
		{name: "configured by a name there is not", supported: []string{"compute,foo"}, err: `supported-driver-capabilities has "foo", want some of ` + seven},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := spec.Policy{EnvWhenUnprivileged: true, Supported: tt.supported}
			got, ok, err := spec.NewRequest(spec.Facts{Env: append(tt.env, "NVIDIA_VISIBLE_DEVICES=none")}, p)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.False(t, ok)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, spec.Request{Devices: []string{"none"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: tt.want}, got)
		})
	}
	t.Run("not looked at where nothing is asked", func(t *testing.T) {
		_, ok, err := spec.NewRequest(spec.Facts{Env: []string{asked + "foo", "NVIDIA_REQUIRE_CUDA=foo", "NVIDIA_MIG_CONFIG_DEVICES=foo", "NVIDIA_IMEX_CHANNELS=foo"}}, defaultPolicy)
		require.NoError(t, err)
		assert.False(t, ok)
	})
}

func TestRequestRequirements(t *testing.T) {
	const skip = "; NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check"
	cuda124 := requirement.Requirement{Variable: "NVIDIA_REQUIRE_CUDA", Terms: []requirement.Term{{{Property: "cuda", Operator: ">=", Value: "12.4"}}}}
	brand := requirement.Requirement{Variable: "NVIDIA_REQUIRE_BRAND", Terms: []requirement.Term{{{Property: "brand", Operator: "=", Value: "tesla"}}}}
	notBoolean := func(quoted string) []string {
		return []string{"NVIDIA_DISABLE_REQUIRE=" + quoted + " is not a boolean such as 1 or true: requirements are checked"}
	}
	for _, tt := range []struct {
		name   string
		env    []string
		policy spec.Policy
		want   []requirement.Requirement
		notes  []string
		err    string
	}{
		{name: "none"},
		{name: "one", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12.4"}, want: []requirement.Requirement{cuda124}},
		{name: "by name", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12.4", "NVIDIA_REQUIRE_BRAND=brand=tesla"}, want: []requirement.Requirement{brand, cuda124}},
		{name: "last of two", env: []string{"NVIDIA_REQUIRE_CUDA=foo", "NVIDIA_REQUIRE_CUDA=cuda>=12.4"}, want: []requirement.Requirement{cuda124}},
		{name: "empty", env: []string{"NVIDIA_REQUIRE_CUDA=", "NVIDIA_REQUIRE_BRAND= , "}},
		{name: "Jetson", env: []string{"NVIDIA_REQUIRE_JETPACK=csv-mounts=all", "NVIDIA_REQUIRE_JETPACK_HOST_MOUNTS=base-only"}},
		{name: "not the prefix", env: []string{"NVIDIA_REQUIRED=foo", "XNVIDIA_REQUIRE_CUDA=foo", "nvidia_require_cuda=foo"}},
		{name: "disabled by config", env: []string{"NVIDIA_REQUIRE_CUDA=foo"}, policy: spec.Policy{DisableRequire: true}},
		{name: "disabled by 1", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=1"}},
		{name: "disabled by t", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=t"}},
		{name: "disabled by T", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=T"}},
		{name: "disabled by true", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=true"}},
		{name: "disabled by TRUE", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=99", "NVIDIA_DISABLE_REQUIRE=TRUE"}},
		{name: "disabled by True, and malformed", env: []string{"NVIDIA_REQUIRE_CUDA=cuda==9", "NVIDIA_DISABLE_REQUIRE=True"}},
		{name: "disabled, then enabled", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12.4", "NVIDIA_DISABLE_REQUIRE=1", "NVIDIA_DISABLE_REQUIRE=0"}, want: []requirement.Requirement{cuda124}},
		{name: "disabled by nothing", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12.4", "NVIDIA_DISABLE_REQUIRE="}, want: []requirement.Requirement{cuda124}},
		{name: "not disabled by yes", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12.4", "NVIDIA_DISABLE_REQUIRE=yes"}, want: []requirement.Requirement{cuda124}, notes: notBoolean(`"yes"`)},
		{name: "not disabled by tRUE", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12.4", "NVIDIA_DISABLE_REQUIRE=tRUE"}, want: []requirement.Requirement{cuda124}, notes: notBoolean(`"tRUE"`)},
		{
			name: "malformed", env: []string{"NVIDIA_REQUIRE_CUDA=cuda>=12 cuda==9"},
			err: `requirement error: NVIDIA_REQUIRE_CUDA="cuda>=12 cuda==9": invalid expression "cuda==9": unknown operator "==", want one of = != < <= > >=` + skip,
		},
		{
			name: "unknown property", env: []string{"NVIDIA_REQUIRE_X=os=linux"},
			err: `requirement error: NVIDIA_REQUIRE_X="os=linux": invalid expression "os=linux": unknown property "os", want cuda, driver, arch or brand` + skip,
		},
		{
			name: "hostile", env: []string{"NVIDIA_REQUIRE_X=\x1b\n" + strings.Repeat("x", 1<<19)},
			err: `requirement error: NVIDIA_REQUIRE_X="\x1b\n` + strings.Repeat("x", 98) + `…": invalid expression "\x1b\n` + strings.Repeat("x", 98) + `…": no operator, want one of = != < <= > >=` + skip,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.policy.EnvWhenUnprivileged = true
			got, ok, err := spec.NewRequest(spec.Facts{Env: append(tt.env, "NVIDIA_VISIBLE_DEVICES=0")}, tt.policy)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.False(t, ok)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, spec.Request{Devices: []string{"0"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps, Requirements: tt.want, Notes: tt.notes}, got)
		})
	}
}

func TestRequestMIG(t *testing.T) {
	for _, tt := range []struct {
		name            string
		env             []string
		bounding        []string
		config, monitor bool
		err             string
	}{
		{name: "unset", env: []string{"NVIDIA_VISIBLE_DEVICES=0:0"}},
		{name: "empty needs no privilege", env: []string{"NVIDIA_VISIBLE_DEVICES=0:0", "NVIDIA_MIG_CONFIG_DEVICES=", "NVIDIA_MIG_MONITOR_DEVICES= ,"}},
		{name: "config", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_CONFIG_DEVICES=all"}, bounding: privileged, config: true},
		{name: "monitor", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_MONITOR_DEVICES=all"}, bounding: privileged, monitor: true},
		{name: "both, any case", env: []string{"NVIDIA_VISIBLE_DEVICES=0,GPU-fef8089b,0000:01:00.0", "NVIDIA_MIG_CONFIG_DEVICES=ALL", "NVIDIA_MIG_MONITOR_DEVICES= All ,"}, bounding: privileged, config: true, monitor: true},
		{name: "no GPU", env: []string{"NVIDIA_VISIBLE_DEVICES=none", "NVIDIA_MIG_CONFIG_DEVICES=all"}, bounding: privileged, config: true},
		{name: "instances beside all", env: []string{"NVIDIA_VISIBLE_DEVICES=0:0,all", "NVIDIA_MIG_CONFIG_DEVICES=all"}, bounding: privileged, config: true},
		{
			name: "config, unprivileged", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_CONFIG_DEVICES=all"}, bounding: []string{"CAP_MKNOD"},
			err: `NVIDIA_MIG_CONFIG_DEVICES="all": cannot set MIG_CONFIG_DEVICES in non privileged container: it lacks CAP_SYS_ADMIN in its bounding set (give it with '--cap-add SYS_ADMIN')`,
		},
		{
			name: "monitor, unprivileged, whatever the value", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_MONITOR_DEVICES=0"},
			err: `NVIDIA_MIG_MONITOR_DEVICES="0": cannot set MIG_MONITOR_DEVICES in non privileged container: it lacks CAP_SYS_ADMIN in its bounding set (give it with '--cap-add SYS_ADMIN')`,
		},
		{name: "not all", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_CONFIG_DEVICES=0"}, bounding: privileged, err: `NVIDIA_MIG_CONFIG_DEVICES="0": only 'all' devices are currently supported`},
		{name: "all and more", env: []string{"NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_MIG_MONITOR_DEVICES=all,0\n"}, bounding: privileged, err: `NVIDIA_MIG_MONITOR_DEVICES="all,0\n": only 'all' devices are currently supported`},
		{
			name: "config with an instance by index", env: []string{"NVIDIA_VISIBLE_DEVICES=0,1:0", "NVIDIA_MIG_CONFIG_DEVICES=all"}, bounding: privileged,
			err: `NVIDIA_MIG_CONFIG_DEVICES="all": cannot enable mig-config with specific MIG devices selected: device "1:0"`,
		},
		{
			name: "monitor with an instance by name", env: []string{"NVIDIA_VISIBLE_DEVICES=nvidia.com/gpu=mig-GPU-fef8089b/1/0", "NVIDIA_MIG_MONITOR_DEVICES=all"}, bounding: privileged,
			err: `NVIDIA_MIG_MONITOR_DEVICES="all": cannot enable mig-monitor with specific MIG devices selected: device "mig-GPU-fef8089b/1/0"`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := spec.NewRequest(spec.Facts{Env: tt.env, Bounding: tt.bounding}, defaultPolicy)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.False(t, ok)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			want := spec.Request{Devices: got.Devices, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps, MIGConfig: tt.config, MIGMonitor: tt.monitor}
			assert.Equal(t, want, got)
		})
	}
}

func TestRequestIMEX(t *testing.T) {
	const bad = `: want N or channelN with N from 0 to 1048575`
	const noAdmin = "the container lacks CAP_SYS_ADMIN in its bounding set and accept-nvidia-visible-devices-envvar-when-unprivileged is false"
	for _, tt := range []struct {
		name     string
		value    string
		mounts   []string
		policy   spec.Policy // EnvWhenUnprivileged is turned round: false accepts
		channels []int
		all      bool
		notes    []string
		err      string
	}{
		{name: "unset"},
		{name: "one", value: "0", channels: []int{0}},
		{name: "both spellings, sorted, once", value: "channel9, 10,9,,channel10 ,1048575", channels: []int{9, 10, 1048575}},
		{name: "none", value: "none"},
		{name: "none in a list", value: "3,none"},
		{name: "void", value: "3,void"},
		{name: "blanks", value: " , "},
		{name: "all", value: "all", notes: []string{`NVIDIA_IMEX_CHANNELS="all" ignored: the environment cannot ask for all channels`}},
		{name: "all in a list", value: "0,All", notes: []string{`NVIDIA_IMEX_CHANNELS="0,All" ignored: the environment cannot ask for all channels`}},
		{name: "channelall", value: "channelall", err: `NVIDIA_IMEX_CHANNELS="channelall": IMEX channel "channelall"` + bad},
		{name: "channel", value: "channel", err: `NVIDIA_IMEX_CHANNELS="channel": IMEX channel "channel"` + bad},
		{name: "channel twice", value: "channelchannel1", err: `NVIDIA_IMEX_CHANNELS="channelchannel1": IMEX channel "channelchannel1"` + bad},
		{name: "too great", value: "1048576", err: `NVIDIA_IMEX_CHANNELS="1048576": IMEX channel "1048576"` + bad},
		{name: "beyond any integer", value: "18446744073709551616", err: `NVIDIA_IMEX_CHANNELS="18446744073709551616": IMEX channel "18446744073709551616"` + bad},
		{name: "negative", value: "-1", err: `NVIDIA_IMEX_CHANNELS="-1": IMEX channel "-1"` + bad},
		{name: "signed", value: "+1", err: `NVIDIA_IMEX_CHANNELS="+1": IMEX channel "+1"` + bad},
		{name: "leading zero", value: "07", err: `NVIDIA_IMEX_CHANNELS="07": IMEX channel "07"` + bad},
		{name: "hexadecimal", value: "0x1", err: `NVIDIA_IMEX_CHANNELS="0x1": IMEX channel "0x1"` + bad},
		{name: "path", value: "../nvidia0", err: `NVIDIA_IMEX_CHANNELS="../nvidia0": IMEX channel "../nvidia0"` + bad},
		{name: "nul", value: "1\x00", err: `NVIDIA_IMEX_CHANNELS="1\x00": IMEX channel "1\x00"` + bad},
		{name: "malformed beside all", value: "all,x", err: `NVIDIA_IMEX_CHANNELS="all,x": IMEX channel "x"` + bad},
		{
			name: "long", value: strings.Repeat("1", 1<<20),
			err: `NVIDIA_IMEX_CHANNELS="` + strings.Repeat("1", 100) + `…": IMEX channel "` + strings.Repeat("1", 100) + `…"` + bad,
		},
		{
			name: "ignored by config, not parsed", value: "x", policy: spec.Policy{IgnoreIMEX: true},
			notes: []string{`NVIDIA_IMEX_CHANNELS="x" ignored: features.ignore-imex-channel-requests is true`},
		},
		{name: "ignored by config, nothing asked", value: "none", policy: spec.Policy{IgnoreIMEX: true}},
		{
			name: "mounts ignored by config", mounts: []string{"imex/0"}, policy: spec.Policy{VolumeMounts: true, IgnoreIMEX: true},
			notes: []string{`mount "/var/run/nvidia-container-devices/imex/0" ignored: features.ignore-imex-channel-requests is true`},
		},
		{name: "mounts win", value: "7", mounts: []string{"imex/3", "imex/channel1"}, policy: spec.Policy{VolumeMounts: true}, channels: []int{1, 3}},
		{name: "mount of all", mounts: []string{"imex/3", "imex/all"}, policy: spec.Policy{VolumeMounts: true}, all: true},
		{name: "mount of none", value: "7", mounts: []string{"imex/none"}, policy: spec.Policy{VolumeMounts: true}},
		{name: "malformed mount", mounts: []string{"imex/1/2"}, policy: spec.Policy{VolumeMounts: true}, err: `mount "/var/run/nvidia-container-devices/imex/1/2": IMEX channel "1/2"` + bad},
		{
			name: "unprivileged", value: "0", mounts: []string{"0"}, policy: spec.Policy{VolumeMounts: true, EnvWhenUnprivileged: true},
			notes: []string{`NVIDIA_IMEX_CHANNELS="0" ignored: ` + noAdmin},
		},
		{
			name: "unprivileged, refused", value: "0", mounts: []string{"0"}, policy: spec.Policy{VolumeMounts: true, EnvWhenUnprivileged: true, RefuseUnprivileged: true},
			err: `insufficient privileges to read channel list from NVIDIA_IMEX_CHANNELS envvar: NVIDIA_IMEX_CHANNELS="0": ` + noAdmin,
		},
		{name: "unprivileged, by mount", value: "0", mounts: []string{"0", "imex/5"}, policy: spec.Policy{VolumeMounts: true, EnvWhenUnprivileged: true, RefuseUnprivileged: true}, channels: []int{5}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			tt.policy.EnvWhenUnprivileged = !tt.policy.EnvWhenUnprivileged
			f := spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=0", "NVIDIA_IMEX_CHANNELS=" + tt.value}}
			for _, m := range tt.mounts {
				f.Mounts = append(f.Mounts, mark(m))
			}
			got, ok, err := spec.NewRequest(f, tt.policy)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.False(t, ok)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			want := spec.Request{
				Devices: []string{"0"}, Source: got.Source, Capabilities: defaultCaps,
				IMEXChannels: tt.channels, IMEXAll: tt.all, Notes: tt.notes,
			}
			assert.Equal(t, want, got)
		})
	}
	t.Run("alone it asks for no device", func(t *testing.T) {
		got, ok, err := spec.NewRequest(spec.Facts{Env: []string{"NVIDIA_IMEX_CHANNELS=0"}}, defaultPolicy)
		require.NoError(t, err)
		assert.False(t, ok)
		assert.Zero(t, got)
	})
}

// TestRequestOtherDevicesPolicy requests devices with a mount, which gives the environment no
// rights.
func TestRequestOtherDevicesPolicy(t *testing.T) {
	for _, variable := range []string{"NVIDIA_GDS", "NVIDIA_MOFED", "NVIDIA_GDRCOPY", "NVIDIA_NVSWITCH"} {
		t.Run(variable, func(t *testing.T) {
			facts := spec.Facts{Env: []string{variable + "=enabled"}, Mounts: []spec.Mount{mark("0")}}
			policy := spec.Policy{VolumeMounts: true}
			got, ok, err := spec.NewRequest(facts, policy)
			require.NoError(t, err)
			assert.True(t, ok)
			const reason = "the container lacks CAP_SYS_ADMIN in its bounding set and accept-nvidia-visible-devices-envvar-when-unprivileged is false"
			assert.Equal(t, spec.Request{
				Devices: []string{"0"}, Source: "volume mounts", Capabilities: defaultCaps,
				Notes: []string{variable + `="enabled" ignored: ` + reason},
			}, got)

			policy.RefuseUnprivileged = true
			_, _, err = spec.NewRequest(facts, policy)
			assert.EqualError(t, err, "insufficient privileges to read request from "+variable+` envvar: `+variable+`="enabled": `+reason)

			facts.Bounding = privileged
			got, _, err = spec.NewRequest(facts, policy)
			require.NoError(t, err)
			assert.Empty(t, got.Notes)
			assert.True(t, got.GDS || got.MOFED || got.GDRCopy || got.NVSwitch)
		})
	}
}

func TestRequestSwarmNote(t *testing.T) {
	env := []string{"DOCKER_RESOURCE_GPU=GPU-fef8089b", "DOCKER_RESOURCE_NVIDIA-GPU=1", "NVIDIA_VISIBLE_DEVICES=all"}
	notes := func(policy spec.Policy, env ...string) []string {
		got, _, err := spec.NewRequest(spec.Facts{Env: env}, policy)
		require.NoError(t, err)
		return got.Notes
	}
	const rest = " is not read, so the container gets all devices: swarm-resource in config.toml does not name this variable"
	assert.Equal(t, []string{`DOCKER_RESOURCE_GPU="GPU-fef8089b"` + rest, `DOCKER_RESOURCE_NVIDIA-GPU="1"` + rest}, notes(defaultPolicy, env...))
	assert.Empty(t, notes(defaultPolicy, append(env, "NVIDIA_VISIBLE_DEVICES=0")...))
	assert.Empty(t, notes(spec.Policy{EnvWhenUnprivileged: true, SwarmResources: []string{"DOCKER_RESOURCE_GPU"}}, env...))
}

func TestRequestOtherDevices(t *testing.T) {
	for _, tt := range []struct {
		name string
		env  []string
		want spec.Request
	}{
		{name: "GDS", env: []string{"NVIDIA_GDS=enabled"}, want: spec.Request{GDS: true}},
		{name: "MOFED", env: []string{"NVIDIA_MOFED=enabled"}, want: spec.Request{MOFED: true}},
		{name: "GDRCOPY", env: []string{"NVIDIA_GDRCOPY=enabled"}, want: spec.Request{GDRCopy: true}},
		{name: "NVSWITCH", env: []string{"NVIDIA_NVSWITCH=enabled"}, want: spec.Request{NVSwitch: true}},
		{name: "off", env: []string{"NVIDIA_GDS=", "NVIDIA_MOFED=disabled", "NVIDIA_GDRCOPY", "NVIDIA_NVSWITCH=enabled", "NVIDIA_NVSWITCH=disabled"}},
		{
			name: "exactly this word", env: []string{"NVIDIA_GDS=Enabled", "NVIDIA_MOFED=true", "NVIDIA_GDRCOPY= enabled", "NVIDIA_NVSWITCH=enabled\n"},
			want: spec.Request{Notes: []string{
				`NVIDIA_GDS="Enabled" ignored: the only accepted value is "enabled"`,
				`NVIDIA_MOFED="true" ignored: the only accepted value is "enabled"`,
				`NVIDIA_GDRCOPY=" enabled" ignored: the only accepted value is "enabled"`,
				`NVIDIA_NVSWITCH="enabled\n" ignored: the only accepted value is "enabled"`,
			}},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, ok, err := spec.NewRequest(spec.Facts{Env: append(tt.env, "NVIDIA_VISIBLE_DEVICES=0")}, defaultPolicy)
			require.NoError(t, err)
			assert.True(t, ok)
			tt.want.Devices, tt.want.Source, tt.want.Capabilities = []string{"0"}, "NVIDIA_VISIBLE_DEVICES", defaultCaps
			assert.Equal(t, tt.want, got)

			got, ok, err = spec.NewRequest(spec.Facts{Env: tt.env}, defaultPolicy)
			require.NoError(t, err)
			assert.False(t, ok, "no device is requested")
			assert.Zero(t, got)
		})
	}
}

// TestDocumentRequest reads config.json and the request in it.
func TestDocumentRequest(t *testing.T) {
	for _, tt := range []struct {
		name, in string
		want     spec.Request
	}{
		{name: "nothing there", in: `{}`},
		{name: "no environment", in: `{"process":{}}`},
		{
			name: "environment, plain list of capabilities",
			in:   `{"ociVersion":"1.0.0-rc1","process":{"capabilities":["CAP_SYS_ADMIN"],"env":["NVIDIA_VISIBLE_DEVICES=0","NVIDIA_MIG_CONFIG_DEVICES=all"]}}`,
			want: spec.Request{Devices: []string{"0"}, Source: "NVIDIA_VISIBLE_DEVICES", Capabilities: defaultCaps, MIGConfig: true},
		},
		{
			name: "bounding set alone counts",
			in:   `{"process":{"capabilities":{"effective":["CAP_SYS_ADMIN"],"permitted":["CAP_SYS_ADMIN"],"bounding":[]},"env":["NVIDIA_VISIBLE_DEVICES=0"]}}`,
			want: spec.Request{Notes: []string{`NVIDIA_VISIBLE_DEVICES="0" ignored: the container lacks CAP_SYS_ADMIN in its bounding set and accept-nvidia-visible-devices-envvar-when-unprivileged is false`}},
		},
		{
			name: "mount",
			in:   `{"mounts":[{"destination":"/var/run/nvidia-container-devices/3","type":"bind","source":"/dev/null","options":["rbind"]}]}`,
			want: spec.Request{Devices: []string{"3"}, Source: "volume mounts", Capabilities: defaultCaps},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d, err := spec.Parse([]byte(tt.in))
			require.NoError(t, err)
			f, err := d.Facts()
			require.NoError(t, err)
			got, ok, err := spec.NewRequest(f, spec.Policy{VolumeMounts: true})
			require.NoError(t, err)
			assert.Equal(t, tt.want, got)
			assert.Equal(t, tt.want.Devices != nil, ok)
			assert.Equal(t, tt.in, string(d.Bytes()), "reading changes nothing")
		})
	}
}

func FuzzNewRequest(f *testing.F) {
	f.Add("NVIDIA_VISIBLE_DEVICES=all", "NVIDIA_DRIVER_CAPABILITIES=all", "NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla", "0", uint8(3))
	f.Add("NVIDIA_VISIBLE_DEVICES= 0,,nvidia.com/gpu=1,MIG-GPU-fef8089b/1/0", "NVIDIA_IMEX_CHANNELS=0,channel3", "NVIDIA_DISABLE_REQUIRE=1", "cdi/nvidia.com/gpu/0", uint8(1))
	f.Add("CUDA_VERSION=9.0.116", "NVIDIA_MIG_CONFIG_DEVICES=all", "NVIDIA_GDS=enabled", "imex/all", uint8(15))
	f.Add("SWARM=1,void", "NVIDIA_VISIBLE_DEVICES=none", "SWARM=amd.com/gpu=0", "../x", uint8(0))
	f.Add("NVIDIA_VISIBLE_DEVICES=\x00,\x1b,../..,0/../..", "NVIDIA_VISIBLE_DEVICES", "=", "cdi/a/b=c", uint8(2))
	f.Fuzz(func(t *testing.T, a, b, c, marked string, bits uint8) {
		facts := spec.Facts{Env: []string{a, b, c}, Mounts: []spec.Mount{mark(marked)}}
		if bits&4 != 0 {
			facts.Bounding = privileged
		}
		p := spec.Policy{
			EnvWhenUnprivileged: bits&1 != 0, VolumeMounts: bits&2 != 0, RefuseUnprivileged: bits&8 != 0, IgnoreIMEX: bits&16 != 0,
			SwarmResources: []string{"SWARM"},
		}
		got, ok, err := spec.NewRequest(facts, p)
		if err != nil {
			assert.Zero(t, got)
			assert.False(t, ok)
			assert.NotContains(t, err.Error(), "\n")
			assert.NotContains(t, err.Error(), "\x1b")
			return
		}
		for _, note := range got.Notes {
			assert.NotContains(t, note, "\n")
			assert.NotContains(t, note, "\x1b")
		}
		if !ok {
			assert.Equal(t, spec.Request{Notes: got.Notes}, got)
			return
		}
		require.NotEmpty(t, got.Devices)
		seen := map[string]bool{}
		for _, id := range got.Devices {
			assert.NotEmpty(t, id)
			assert.False(t, seen[id], "twice")
			seen[id] = true
		}
		if !p.VolumeMounts {
			assert.NotEqual(t, spec.SourceVolumeMounts, got.Source)
			assert.False(t, got.IMEXAll)
			if !p.EnvWhenUnprivileged {
				assert.NotNil(t, facts.Bounding, "granted to an unprivileged container")
			}
		}
		if got.MIGConfig || got.MIGMonitor {
			assert.NotNil(t, facts.Bounding)
		}
		if p.IgnoreIMEX {
			assert.Empty(t, got.IMEXChannels)
			assert.False(t, got.IMEXAll)
		}
		for _, r := range got.Requirements {
			again, err := requirement.Parse(r.String())
			require.NoError(t, err)
			assert.Equal(t, r.Terms, again.Terms)
		}
		// An accepted value keeps its meaning when requested again.
		if got.Source != spec.SourceVolumeMounts {
			again, ok, err := spec.NewRequest(spec.Facts{Env: []string{"NVIDIA_VISIBLE_DEVICES=" + strings.Join(got.Devices, ",")}}, defaultPolicy)
			require.NoError(t, err)
			assert.True(t, ok)
			assert.Equal(t, got.Devices, again.Devices)
		}
	})
}

func BenchmarkNewRequest(b *testing.B) {
	facts := spec.Facts{Env: []string{
		"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"NVIDIA_VISIBLE_DEVICES=GPU-fef8089b,1,2,3", "NVIDIA_DRIVER_CAPABILITIES=compute,utility",
		"NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471",
	}}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := spec.NewRequest(facts, defaultPolicy); err != nil {
			b.Fatal(err)
		}
	}
}
