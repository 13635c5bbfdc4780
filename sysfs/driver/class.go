// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package driver

import "strings"

// Class is a set of driver capabilities, the words of NVIDIA_DRIVER_CAPABILITIES.
type Class uint8

// The driver capabilities.
const (
	Compute  Class = 1 << iota // CUDA and OpenCL
	Compat32                   // the 32-bit libraries of the other classes
	Display                    // X11 display; implies the files of Graphics
	Graphics                   // OpenGL, EGL, Vulkan
	NGX                        // DLSS and the like
	Utility                    // NVML and nvidia-smi
	Video                      // encoders and decoders; implies the libraries of Compute

	All = Compute | Compat32 | Display | Graphics | NGX | Utility | Video
)

var classNames = [...]struct {
	class Class
	name  string
}{
	{Compute, "compute"},
	{Compat32, "compat32"},
	{Display, "display"},
	{Graphics, "graphics"},
	{NGX, "ngx"},
	{Utility, "utility"},
	{Video, "video"},
}

// ParseClass returns the class of a word of NVIDIA_DRIVER_CAPABILITIES, including "all". The
// spelling must match exactly.
func ParseClass(name string) (Class, bool) {
	if name == "all" {
		return All, true
	}
	for _, c := range classNames {
		if c.name == name {
			return c.class, true
		}
	}
	return 0, false
}

// String returns the words of the set, comma-separated: "compute,utility".
func (c Class) String() string {
	var words []string
	for _, n := range classNames {
		if c&n.class != 0 {
			words = append(words, n.name)
		}
	}
	return strings.Join(words, ",")
}

// implied adds the classes whose libraries and configuration files c also needs.
func (c Class) implied() Class {
	if c&Video != 0 {
		c |= Compute
	}
	if c&Display != 0 {
		c |= Graphics
	}
	return c
}

// families maps prefixes of library names to the classes that want them; the longest prefix counts.
// The classes are those of libnvidia-container's lists (src/nvc_info.c). With prefixes instead of
// whole names, libraries of future drivers join their family (libnvidia-nvvm70, libnvidia-egl-xcb).
//
// Two libraries have more classes than there: graphics needs the allocator for GBM and the compiler
// libnvidia-gpucomp for every shader.
var families = [...]struct {
	prefix string
	class  Class
}{
	{"libEGL_nvidia", Graphics},
	{"libGLESv1_CM_nvidia", Graphics},
	{"libGLESv2_nvidia", Graphics},
	{"libGLX_nvidia", Graphics},
	{"libcuda", Compute},
	{"libglxserver_nvidia", Graphics},
	{"libnvcuextend", Compute}, // aarch64, R595 and later
	{"libnvcuvid", Video},
	{"libnvidia-allocator", Compute | Graphics},
	{"libnvidia-api", Graphics},
	{"libnvidia-cbl", Graphics},
	{"libnvidia-cfg", Utility},
	{"libnvidia-compiler", Compute},
	{"libnvidia-egl", Graphics}, // libnvidia-eglcore, libnvidia-egl-gbm, …
	{"libnvidia-encode", Video},
	{"libnvidia-fatbinaryloader", Compute},
	{"libnvidia-fbc", Graphics},
	{"libnvidia-gl", Graphics}, // libnvidia-glcore, -glsi, -glvkspirv
	{"libnvidia-gpucomp", Compute | Graphics},
	{"libnvidia-ifr", Graphics},
	{"libnvidia-ml", Utility},
	{"libnvidia-ngx", NGX},
	{"libnvidia-nscq", Utility},
	{"libnvidia-nvvm", Compute},
	{"libnvidia-opencl", Compute},
	{"libnvidia-opticalflow", Video},
	{"libnvidia-pkcs11", Compute},
	{"libnvidia-present", Graphics},
	{"libnvidia-ptxjitcompiler", Compute},
	{"libnvidia-rtcore", Graphics},
	{"libnvidia-sandboxutils", Utility},
	{"libnvidia-tileiras", Compute},
	{"libnvidia-tls", Graphics},
	{"libnvidia-vksc", Graphics},
	{"libnvidia-vulkan", Graphics},
	{"libnvidia-wfb", Graphics}, // of the X server, up to the 390 branch
	{"libnvoptix", Graphics},
	{"libnvsdm", Utility},
	{"libvdpau_nvidia", Video},
}

type namedProgram struct {
	name  string
	class Class
}

// binaries are the programs of the driver. nvidia-smi and the daemons are those that
// libnvidia-container mounts; the two for IMEX and nvidia-xconfig come from the toolkit.
var binaries = [...]namedProgram{
	{"nv-fabricmanager", Utility},
	{"nvidia-cuda-mps-control", Compute},
	{"nvidia-cuda-mps-server", Compute},
	{"nvidia-debugdump", Utility},
	{"nvidia-imex", Compute | Utility},
	{"nvidia-imex-ctl", Compute | Utility},
	{"nvidia-persistenced", Utility},
	{"nvidia-smi", Utility},
	{"nvidia-xconfig", Graphics | Display},
}

// graphicsWords are prefixes of the words in unknown library names that indicate graphics:
// libnvidia-gtk3, libnvidia-wayland-client.
var graphicsWords = [...]string{"egl", "gbm", "gl", "gtk", "vk", "vulkan", "wayland", "x11", "xcb", "xlib"}

// guessClass returns the class of a library of an unknown family, given its name without ".so". A
// library that a future driver adds is assumed to be for CUDA unless its name says graphics.
func guessClass(stem string) Class {
	isSeparator := func(r rune) bool { return r == '-' || r == '_' }
	parts := strings.FieldsFunc(strings.ToLower(strings.TrimPrefix(stem, "lib")), isSeparator)
	for _, part := range parts {
		for _, word := range graphicsWords {
			if strings.HasPrefix(part, word) {
				return Graphics
			}
		}
	}
	return Compute
}

// foreign are vendor-neutral front ends. They are never taken from the host, even if their version
// looks like the driver's: the image brings its own.
var foreign = [...]string{
	"libEGL", "libGL", "libGLESv1_CM", "libGLESv2", "libGLX", "libGLdispatch", "libOpenCL", "libOpenGL",
}

// ClassOf returns the classes that want a library or program of the driver; any of them is
// sufficient. The name may have a version ("libcuda.so.550.54.14") or none ("libcuda"). It returns
// false for an unknown family.
func ClassOf(name string) (Class, bool) {
	for _, b := range binaries {
		if b.name == name {
			return b.class, true
		}
	}
	stem := name
	if i := strings.Index(name, ".so"); i >= 0 {
		stem = name[:i]
	}
	var class Class
	longest := 0
	for _, f := range families {
		if len(f.prefix) > longest && strings.HasPrefix(stem, f.prefix) {
			class, longest = f.class, len(f.prefix)
		}
	}
	return class, longest > 0
}
