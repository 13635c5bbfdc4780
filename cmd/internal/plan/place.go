// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package plan

import (
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver"
	"github.com/nvsysfs/nvidia-container-runtime/sysfs/driver/linkdir"
)

// Dir is where every container has the driver: libraries under all their names, 32-bit ones in
// lib32, and programs, manifests and firmware in subdirectories, to which links lead. It must not
// be in the LD_LIBRARY_PATH of images (CUDA's have /usr/local/nvidia/lib64), which would override
// forward-compatibility libraries.
const Dir = "/usr/lib/nvidia-container-driver"

// lib32 is the subdirectory of Dir for 32-bit libraries.
const lib32 = "lib32"

// Values of Config.DriverDirectory other than a path.
const (
	DirectoryAuto   = "auto"   // below /usr/lib or /var/lib of the driver root
	DirectoryAlways = "always" // same as auto
	DirectoryOff    = "off"    // mount each file
)

// directoryName is the name of the directory of hard links on the host.
const directoryName = "nvidia-container-runtime"

// File is a file of the driver and its place in a container.
type File struct {
	driver.File
	Source string        // on the host; "" if the file is generated
	Data   []byte        // content of a generated file
	Place  string        // below Dir: "libcuda.so.550.54.15", "bin/nvidia-smi"; "": mounted at Dest only
	Beside []driver.Link // symbolic links in the directory of Place, such as the SONAME
}

// Link is a symbolic link in the image.
type Link struct {
	Path, Target string
	Source       string // mounted instead if the link cannot be created; "" if the link is dispensable
}

// byPath are the libraries that well-known programs open or link by path in the distribution's
// library directory: CUDA's stubs and nvcc, PyCUDA and Triton (libcuda), monitoring agents
// (libnvidia-ml), ffmpeg and GStreamer, older loaders of glvnd and OpenCL. Loading by name needs
// none of these links.
var byPath = [...]string{
	"libcuda.so", "libcuda.so.1", "libnvidia-ml.so", "libnvidia-ml.so.1", "libnvcuvid.so.1", "libnvidia-encode.so.1",
	"libGLX_nvidia.so.0", "libGLX_indirect.so.0", "libEGL_nvidia.so.0", "libnvidia-opencl.so.1",
}

// placeFiles assigns each file of the driver its place.
func (p *Plan) placeFiles(files []driver.File, classes driver.Class) []File {
	var placed []File
	for _, f := range files {
		placed = append(placed, placeOf(f, p.DriverRoot.Path(f.Path)))
	}
	for _, name := range p.GDS {
		file := driver.File{Name: path.Base(name), Kind: driver.Config, Dest: name}
		placed = append(placed, File{File: file, Source: p.Root.Path(name)})
	}
	if classes&(driver.Graphics|driver.Display) != 0 {
		if profile, ok := p.applicationProfile(); ok {
			placed = append(placed, profile)
		}
	}
	// Places are unique. Of two libraries of one name the first wins, as it does for the driver;
	// other files get distinct places, such as the manifests of Vulkan and VulkanSC.
	taken := map[string]bool{"": true}
	for i := range placed {
		if f := &placed[i]; taken[f.Place] {
			f.Place = ""
			if f.Dest != "" && f.Data != nil {
				f.Place = "share/" + strings.ReplaceAll(strings.TrimPrefix(f.Dest, "/"), "/", "-")
			}
		}
		taken[placed[i].Place] = true
	}
	return placed
}

func placeOf(f driver.File, source string) File {
	place := File{File: f, Source: source, Data: f.Content}
	if f.Content != nil {
		place.Source = ""
	}
	switch f.Kind {
	case driver.Library:
		dir := f.Subdir
		if f.Bits == 32 {
			dir = strings.TrimSuffix(lib32+"-"+f.Subdir, "-")
		}
		place.Place = path.Join(dir, f.Name)
		for _, l := range f.Links {
			if !strings.Contains(l.Name+l.Target, "/") {
				place.Beside = append(place.Beside, l)
			}
		}
	case driver.Binary:
		place.Place = "bin/" + f.Name
	case driver.XorgModule:
		place.Place = "xorg/" + f.Name
	case driver.Config:
		// "icd.d-nvidia_icd.json": two directories have an nvidia_layers.json.
		place.Place = "share/" + path.Base(path.Dir(f.Dest)) + "-" + f.Name
	case driver.Firmware:
		place.Place = "firmware/" + f.Name
	}
	return place
}

// applicationProfile limits EGL and Vulkan to the container's GPUs, as the classic runtime does:
// otherwise they find every GPU of the machine and fail at the first that they may not open. The
// mask's bits are device minors.
func (p *Plan) applicationProfile() (File, bool) {
	var mask uint64
	for _, g := range p.Selection.GPUs {
		if g.GPU.Minor >= 64 {
			return File{}, false // not expressible
		}
		mask |= 1 << g.GPU.Minor
	}
	const name, dir = "10-container.conf", "/etc/nvidia/nvidia-application-profiles-rc.d"
	file := driver.File{
		Name: name, Kind: driver.Config, Class: driver.Graphics | driver.Display, Dest: path.Join(dir, name),
	}
	text := fmt.Appendf(nil, `{"profiles": [{"name": "_container_", "settings": ["EGLVisibleDGPUDevices", 0x%x]}], `+
		`"rules": [{"pattern": [], "profile": "_container_"}]}`+"\n", mask)
	return File{File: file, Data: text, Place: "share/" + name}, mask != 0
}

// directory lists the files of the host directory that is mounted at Dir.
func (p *Plan) directory() []linkdir.File {
	var files []linkdir.File
	for _, f := range p.Files {
		if f.Place == "" {
			continue
		}
		files = append(files, linkdir.File{Name: f.Place, Source: f.Source, Data: f.Data})
		for _, l := range f.Beside {
			files = append(files, linkdir.File{Name: path.Join(path.Dir(f.Place), l.Name), Target: l.Target})
		}
	}
	return files
}

// findDirectory decides where the directory is or would be, or notes why there is none.
func (p *Plan) findDirectory(view *view) {
	if f := p.container.Facts; p.config.DriverDirectory == DirectoryOff || f.RootPath == "" || view.fs == nil {
		return
	}
	if cover, own := p.cover(Dir); own {
		p.notef("the driver's files are mounted one by one: the container mounts something at %q", cover.Destination)
		return
	}
	p.inDirectories(linkdir.Find)
}

// inDirectories tries find, linkdir's Find or Make, in each place where the directory may be.
func (p *Plan) inDirectories(find func(string, linkdir.Boot, linkdir.Set) (string, bool, error)) {
	p.Directory = ""
	if p.boot.ID == "" {
		var err error
		if p.boot, err = linkdir.ThisBoot(); err != nil {
			p.notef("the driver's files are mounted one by one: %v", err)
			return
		}
	}
	set := linkdir.Set{Version: p.Inventory.Driver.Version, Files: p.directory()}
	var errs []error
	for _, base := range p.directories() {
		set.Label = sharedLabel(p.container.Facts.MountLabel, base)
		dir, there, err := find(base, p.boot, set)
		if err == nil {
			p.Directory, p.made = dir, there
			return
		}
		errs = append(errs, err)
	}
	if err := errors.Join(errs...); err != nil {
		p.notef("the driver's files are mounted one by one: %v", err)
	}
}

// directories returns where the directory of links may be. /usr/lib comes first: it is on the
// libraries' file system, and has a label that SELinux lets containers read.
func (p *Plan) directories() []string {
	if path.IsAbs(p.config.DriverDirectory) {
		return []string{path.Clean(p.config.DriverDirectory)}
	}
	var dirs []string
	for _, above := range []string{"/usr/lib", "/var/lib"} {
		if resolved, err := p.DriverRoot.Resolve(above); err == nil {
			dirs = append(dirs, path.Join(p.DriverRoot.Path(resolved), directoryName))
		}
	}
	return dirs
}

// sharedLabel returns the SELinux label of what is created in a directory that several containers
// mount, "" to leave it to the policy. Below /usr that is lib_t, which every container may read.
// Elsewhere it is the label of the container's files, without the categories that keep other
// containers out, as engines label a volume with ":z".
func sharedLabel(mountLabel, dir string) string {
	parts := strings.SplitN(mountLabel, ":", 4)
	if len(parts) < 4 || strings.HasPrefix(dir, "/usr/") {
		return ""
	}
	parts[3] = "s0"
	return strings.Join(parts, ":")
}

// place plans mounts and links, whether the driver comes in p.Directory or file by file.
func (p *Plan) place() {
	p.Edits.Mounts, p.Edits.RemoveBinds, p.Links = nil, nil, nil
	if p.config.ClosesNodes(p.Root) {
		for _, n := range p.Nodes {
			p.Edits.Mounts = append(p.Edits.Mounts, ClosedNode(n, p.devRoot()))
		}
	}
	if p.Directory != "" {
		p.mount(p.Directory, Dir, fileOptions)
	}
	for _, f := range p.Files {
		if p.Directory == "" && f.Place != "" {
			p.mount(f.Source, path.Join(Dir, f.Place), fileOptions) // Carry sets the source of generated files
			for _, l := range f.Beside {
				source := ""
				if l.Name == f.SONAME {
					source = f.Source
				}
				p.link(path.Join(Dir, path.Dir(f.Place), l.Name), l.Target, source)
			}
		}
		p.linkOutside(f)
	}
	if p.Image.Nix {
		p.link("/run/opengl-driver/lib", Dir, "")
		p.link("/run/opengl-driver-32/lib", path.Join(Dir, lib32), "")
	}
	sortMounts(p.Edits.Mounts)
	slices.SortStableFunc(p.Links, func(a, b Link) int { return strings.Compare(a.Path, b.Path) })
	p.Links = slices.CompactFunc(p.Links, func(a, b Link) bool { return a.Path == b.Path })
	p.dropOtherWay()
}

// linkOutside links a file where programs look for it by path.
func (p *Plan) linkOutside(f File) {
	place, source := path.Join(Dir, f.Place), f.Source
	switch {
	case f.Kind == driver.Socket || f.Kind == driver.Directory:
		p.mount(source, f.Dest, socketOptions)
		return
	case f.Place == "" && f.Dest != "":
		p.mount(source, f.Dest, fileOptions)
		return
	case f.Place == "": // another library has its name
		return
	}
	if source == "" && p.Directory != "" {
		source = path.Join(p.Directory, f.Place)
	}
	switch f.Kind {
	case driver.Library:
		lib := p.Image.LibDir
		if f.Bits == 32 {
			lib = p.Image.LibDir32
		}
		if lib == "" {
			return
		}
		dir := path.Dir(place)
		for _, l := range f.Links {
			name := path.Join(lib, f.Subdir, l.Name)
			switch {
			case path.Dir(l.Name) != ".": // libgbm only searches the directory gbm
				p.link(name, path.Join(dir, path.Base(l.Target)), source)
			case f.Subdir != "" && l.Name == f.SONAME: // libvdpau likewise
				p.link(name, path.Join(dir, l.Name), source)
			case f.Subdir == "" && f.Bits == 64 && slices.Contains(byPath[:], l.Name):
				p.link(name, path.Join(dir, l.Name), "")
			}
		}
	case driver.Firmware:
		// One directory has all of a version.
		p.link(path.Dir(f.Dest), path.Dir(place), path.Dir(source))
	default:
		p.link(f.Dest, place, source)
		for _, l := range f.Links {
			p.link(path.Join(path.Dir(f.Dest), l.Name), place, source)
		}
	}
}

// mount adds a mount unless a mount of the container prevents it.
func (p *Plan) mount(source, destination string, options []string) {
	if cover, own := p.cover(destination); cover != nil {
		if own {
			p.notef("%s is left out: the container mounts something there (%q)", destination, cover.Destination)
			return
		}
		if !mountable(*cover, destination) {
			p.notef("%s is left out: it is missing in %q, which the container mounts read-only",
				destination, cover.Destination)
			return
		}
	}
	p.Edits.Mounts = append(p.Edits.Mounts, bindMount(source, destination, options))
}

// link adds a link, or a mount where a mount of the container would hide a link in the image.
func (p *Plan) link(name, target, source string) {
	cover, own := p.cover(name)
	switch {
	case cover == nil:
		p.Links = append(p.Links, Link{name, target, source})
	case own:
		p.notef("%s is left out: the container mounts something there (%q)", name, cover.Destination)
	case source != "":
		p.mount(source, name, fileOptions)
	}
}

// dropOtherWay removes mounts that an earlier start from the same config.json, or an earlier
// version of this program, added in another way or for another driver: those with our options in
// Dir, or where files of a driver go.
func (p *Plan) dropOtherWay() {
	wanted := make(map[string]bool, len(p.Edits.Mounts))
	for _, m := range p.Edits.Mounts {
		wanted[m.Destination] = true
	}
	for _, m := range p.container.Facts.Mounts {
		if !slices.Equal(m.Options, fileOptions) || wanted[m.Destination] {
			continue
		}
		if strings.HasPrefix(path.Clean(m.Destination)+"/", Dir+"/") || path.Base(m.Destination) == "ld.so.cache" ||
			ofDriver(m.Destination) ||
			slices.ContainsFunc(p.Links, func(l Link) bool { return l.Path == m.Destination }) {
			p.Edits.RemoveBinds = append(p.Edits.RemoveBinds, bindMount(m.Source, m.Destination, fileOptions))
		}
	}
}

// ofDriver tells whether a path is that of firmware or of a driver library: of a known family, or
// one of another driver.
func ofDriver(name string) bool {
	base := path.Base(name)
	if !strings.Contains(base, ".so") {
		return strings.Contains(name, "/firmware/nvidia/")
	}
	_, known := driver.ClassOf(base)
	return known || strings.HasPrefix(base, "libnvidia-") || strings.Contains(base, "_nvidia.so") ||
		base == "libGLX_indirect.so.0"
}

// Mount options: files can only be read and executed; sockets need no restriction but nosuid and
// nodev.
var (
	fileOptions   = []string{"ro", "nosuid", "nodev", "rbind", "rprivate"}
	socketOptions = []string{"nosuid", "nodev", "rbind", "rprivate", "noexec"}
)

// MountOptions returns the options for mounting a file of the kind.
func MountOptions(kind driver.Kind) []string {
	if kind == driver.Socket || kind == driver.Directory {
		return slices.Clone(socketOptions)
	}
	return slices.Clone(fileOptions)
}

// sortMounts sorts by destination, so that nested mounts come after their parents.
func sortMounts(mounts []specs.Mount) {
	slices.SortStableFunc(mounts, func(a, b specs.Mount) int { return strings.Compare(a.Destination, b.Destination) })
}

func bindMount(source, destination string, options []string) specs.Mount {
	return specs.Mount{Destination: destination, Type: "bind", Source: source, Options: options}
}
