// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package cdi

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"syscall"

	"go.yaml.in/yaml/v3"
	"tags.cncf.io/container-device-interface/pkg/cdi"
	"tags.cncf.io/container-device-interface/pkg/parser"
	specs "tags.cncf.io/container-device-interface/specs-go"

	"github.com/nvsysfs/nvidia-container-runtime/sysfs"
)

// File is a CDI file.
type File struct {
	Spec   specs.Spec // without the annotations that Record holds
	Record Record
	JSON   bool // JSON instead of YAML
}

// Record is how a file was generated. Files that [Make] did not make have no Fingerprint.
type Record struct {
	Driver      string // version
	Fingerprint string // "sha256:…" of the contents
	Options     Options
}

// Keys of the record. Annotations need CDI 0.6.0, which containerd 1.7 and podman 4.3 do not
// support, so YAML files have comments at the beginning instead:
//
//	# nvsysfs/driver-version: 550.54.15
//	# nvsysfs/fingerprint: sha256:9b2e…
//	# nvsysfs/options: {"vendor":"nvidia.com","class":"gpu",…}
const (
	keyDriver      = "nvsysfs/driver-version"
	keyFingerprint = "nvsysfs/fingerprint"
	keyOptions     = "nvsysfs/options"
)

const heading = "# This machine's GPUs, written by \"nvsysfs cdi generate\". " +
	"\"nvsysfs cdi check\" tells whether they still match.\n"

// fingerprint covers everything except the CDI version, which depends on the format.
func (f File) fingerprint() (string, error) {
	f.Spec.Version = ""
	data, err := json.Marshal(struct {
		Spec    specs.Spec
		Driver  string
		Options Options
	}{f.Spec, f.Record.Driver, f.Record.Options})
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("sha256:%x", sha256.Sum256(data)), nil
}

// Ours reports whether [Make] made the file.
func (f File) Ours() bool { return f.Record.Fingerprint != "" }

// Edited reports whether a file of ours was changed since.
func (f File) Edited() bool {
	fingerprint, err := f.fingerprint()
	return err != nil || fingerprint != f.Record.Fingerprint
}

// Kind is vendor and class: "nvidia.com/gpu".
func (f File) Kind() string { return f.Spec.Kind }

// Encode serializes the file. The same file gives the same bytes.
func (f File) Encode() ([]byte, error) {
	options, err := json.Marshal(f.Record.Options)
	if err != nil {
		return nil, err
	}
	record := [][2]string{
		{keyDriver, f.Record.Driver}, {keyFingerprint, f.Record.Fingerprint}, {keyOptions, string(options)},
	}
	spec, err := f.Versioned()
	if err != nil {
		return nil, err
	}
	var out bytes.Buffer
	if f.JSON {
		spec.Annotations = map[string]string{}
		for _, r := range record {
			spec.Annotations[r[0]] = r[1]
		}
		encoder := json.NewEncoder(&out)
		encoder.SetEscapeHTML(false)
		encoder.SetIndent("", "  ")
		if err := encoder.Encode(spec); err != nil {
			return nil, err
		}
	} else {
		out.WriteString(heading)
		for _, r := range record {
			fmt.Fprintf(&out, "# %s: %s\n", r[0], r[1])
		}
		encoder := yaml.NewEncoder(&out)
		encoder.SetIndent(2)
		if err := encoder.Encode(spec); err != nil {
			return nil, err
		}
	}
	if _, err := Parse(out.Bytes()); err != nil {
		return nil, fmt.Errorf("the result is not a valid CDI file: %w", err)
	}
	return out.Bytes(), nil
}

// Versioned returns the description with the lowest CDI version that supports it.
func (f File) Versioned() (specs.Spec, error) {
	spec := f.Spec
	if f.JSON {
		spec.Version = max(spec.Version, "0.6.0")
	}
	if limit := f.Record.Options.MaxVersion; limit != "" && older(limit, spec.Version) {
		what := "the description needs"
		if f.JSON && spec.Version == "0.6.0" {
			what = "unlike YAML, JSON needs annotations, and so"
		}
		return specs.Spec{}, fmt.Errorf("%s CDI %s, but the newest allowed version is %s", what, spec.Version, limit)
	}
	return spec, nil
}

// Parse parses a CDI file as engines do: JSON is YAML.
func Parse(data []byte) (File, error) {
	spec, err := cdi.ParseSpec(data)
	if err != nil {
		return File{}, err
	}
	if spec == nil {
		return File{}, errors.New("it is empty")
	}
	if err := validate(spec); err != nil {
		return File{}, err
	}
	f := File{Spec: *spec, JSON: bytes.HasPrefix(bytes.TrimLeft(data, " \t\r\n"), []byte("{"))}
	record := comments(data)
	if spec.Annotations[keyFingerprint] != "" {
		record = spec.Annotations
		f.Spec.Annotations = nil
		for key, value := range record {
			if key != keyDriver && key != keyFingerprint && key != keyOptions {
				if f.Spec.Annotations == nil {
					f.Spec.Annotations = map[string]string{}
				}
				f.Spec.Annotations[key] = value
			}
		}
	}
	if record[keyFingerprint] == "" {
		return f, nil
	}
	f.Record = Record{Driver: record[keyDriver], Fingerprint: record[keyFingerprint]}
	decoder := json.NewDecoder(strings.NewReader(record[keyOptions]))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&f.Record.Options); err != nil {
		return File{}, fmt.Errorf("%s: %w", keyOptions, err)
	}
	if err := f.Record.Options.Check(); err != nil {
		return File{}, fmt.Errorf("%s: %w", keyOptions, err)
	}
	return f, nil
}

// comments returns the record in the comments at the beginning.
func comments(data []byte) map[string]string {
	record := map[string]string{}
	for line := range bytes.Lines(data) {
		text, ok := bytes.CutPrefix(bytes.TrimSuffix(line, []byte("\n")), []byte("# "))
		if !ok {
			return record
		}
		if key, value, ok := strings.Cut(string(text), ": "); ok && strings.HasPrefix(key, "nvsysfs/") {
			record[key] = value
		}
	}
	return record
}

// validate checks a file as engines do.
func validate(spec *specs.Spec) error {
	edits := []*specs.ContainerEdits{&spec.ContainerEdits}
	for i := range spec.Devices {
		edits = append(edits, &spec.Devices[i].ContainerEdits)
	}
	for _, e := range edits {
		// The CDI library does not expect nil.
		if slices.Contains(e.DeviceNodes, nil) || slices.Contains(e.Mounts, nil) ||
			slices.Contains(e.Hooks, nil) || slices.Contains(e.NetDevices, nil) {
			return errors.New("an item of a list is empty")
		}
	}
	if err := specs.ValidateVersion(spec); err != nil {
		return err
	}
	vendor, class := parser.ParseQualifier(spec.Kind)
	if err := parser.ValidateVendorName(vendor); err != nil {
		return err
	}
	if err := parser.ValidateClassName(class); err != nil {
		return err
	}
	for _, e := range edits {
		if err := (&cdi.ContainerEdits{ContainerEdits: e}).Validate(); err != nil {
			return err
		}
	}
	if len(spec.Devices) == 0 {
		return errors.New("it has no devices")
	}
	names := map[string]bool{}
	for _, d := range spec.Devices {
		if err := parser.ValidateDeviceName(d.Name); err != nil {
			return err
		}
		if names[d.Name] {
			return fmt.Errorf("two devices have the name %s", d.Name)
		}
		names[d.Name] = true
		e := d.ContainerEdits
		lists := len(e.Env) + len(e.DeviceNodes) + len(e.NetDevices) + len(e.Hooks) + len(e.Mounts)
		if lists+len(e.AdditionalGIDs) == 0 && e.IntelRdt == nil {
			return fmt.Errorf("the device %s does nothing", d.Name)
		}
	}
	return nil
}

// maxFile limits the size of CDI files. With 8 GPUs, 56 MIG devices and all of the driver's
// libraries, a file has 120 KB.
const maxFile = 1 << 20

// Read reads a CDI file of a machine. It must be a regular file of at most maxFile bytes that
// belongs to root or the caller and that nobody else may write.
func Read(root sysfs.Root, name string, caller int) (File, []byte, error) {
	data, err := readFile(root, name, caller)
	if err != nil {
		return File{}, nil, err
	}
	f, err := Parse(data)
	if err != nil {
		return File{}, nil, errors.New(shorten(err.Error()))
	}
	return f, data, nil
}

func readFile(root sysfs.Root, name string, caller int) ([]byte, error) {
	file, err := root.Open(strings.TrimPrefix(path.Clean(name), "/"))
	if err != nil {
		return nil, bare(err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return nil, bare(err)
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("not a regular file but a directory")
	}
	if info.Size() > maxFile {
		return nil, fmt.Errorf("%d bytes, more than %d", info.Size(), maxFile)
	}
	if st, ok := info.Sys().(*syscall.Stat_t); ok {
		if st.Uid != 0 && int(st.Uid) != caller {
			return nil, fmt.Errorf("it belongs to user %d, who thereby controls what engines give to containers", st.Uid)
		}
		if mode := info.Mode().Perm(); mode&0o002 != 0 || mode&0o020 != 0 && st.Gid != 0 {
			return nil, fmt.Errorf("other users may write it (mode %04o) and so control "+
				"what engines give to containers", mode)
		}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err != nil {
		return nil, bare(err)
	}
	if len(data) > maxFile {
		return nil, fmt.Errorf("more than %d bytes", maxFile)
	}
	return data, nil
}

// bare removes the file name from an error: the caller adds it.
func bare(err error) error {
	var pathErr *fs.PathError
	if errors.As(err, &pathErr) {
		return pathErr.Err
	}
	return err
}

// shorten turns an error that quotes a file into one short line.
func shorten(text string) string {
	const most = 200
	text = strings.Join(strings.Fields(text), " ")
	text = strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f {
			return '?'
		}
		return r
	}, text)
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}
