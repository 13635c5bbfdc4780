// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package spec

import (
	"bytes"
	"errors"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// MayAsk tells whether the config.json at that path may hold anything that [NewRequest] acts on or
// remarks on under the policy. Where it gives false, the container asks for nothing, whoever reads
// the file and whatever else is wrong with it.
//
// The text is searched, not parsed: a request cannot be made without one of a few words, and JSON
// has two spellings of a character of theirs, itself and \u followed by its number. A link is
// followed, size and nesting do not matter, and at a NUL byte the text ends, as it does for
// low-level runtimes: runc fails there, crun reads no further.
//
// What cannot be read, a file that is missing for one, is the low-level runtime's to complain
// about: false. So is what is no regular file: to read a FIFO would be to take the text away from
// the runtime.
func MayAsk(path string, p Policy) bool {
	w, ok := newWords(p)
	if !ok {
		return true
	}
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		return !absent(err)
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return false
	}
	// Should another kind of file have come into its place by now: do not wait for it.
	fd, err := openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return !absent(err)
	}
	defer unix.Close(fd)
	return w.read(func(p []byte) (int, error) { return unix.Read(fd, p) }, st.Size)
}

// absent tells whether an error is about what is at a path: the low-level runtime will fail for it
// too. Any other, a disk that fails for one, may be gone by then, and must not hide a request.
func absent(err error) bool {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES),
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ENXIO),
		errors.Is(err, unix.EINVAL):
		return true
	}
	return false
}

// words are what there is no request without: one of the variables, or the folder of markers.
type words struct {
	variables []string
	longest   int
	plain     []byte // a window without escapes
}

// newWords gives the words for a policy. It fails for a variable that JSON may spell in another
// way.
func newWords(p Policy) (*words, bool) {
	w := &words{longest: len(markBase)}
	w.variables = append([]string{visibleDevices, cudaVersion}, splitLists(p.SwarmResources)...)
	for _, name := range w.variables {
		for i := range len(name) {
			if c := name[i]; c <= ' ' || c > '~' || c == '"' || c == '\\' || c == '/' {
				return nil, false
			}
		}
		w.longest = max(w.longest, len(name)+len("="))
	}
	return w, true
}

// in tells whether any of the words is in the text. Few bytes of a config.json are equals signs,
// and fewer are dashes than the letters before them.
func (w *words) in(text []byte) bool {
	if bytes.Contains(text, []byte(strings.TrimPrefix(markBase, "nvidia"))) {
		return true
	}
	for rest := text; ; {
		name, after, found := bytes.Cut(rest, []byte("="))
		if !found {
			return false
		}
		for _, v := range w.variables {
			if len(v) <= len(name) && string(name[len(name)-len(v):]) == v {
				return true
			}
		}
		rest = after
	}
}

// windowSize is how much of a text is looked at at a time: little enough for a processor's nearer
// cache.
const windowSize = 64 << 10

// read searches a text of about size bytes.
func (w *words) read(read func([]byte) (int, error), size int64) bool {
	// The end of a window is the beginning of the next one, with room for a word all in escapes.
	overlap := w.longest * len(`\u0041`)
	window := make([]byte, overlap+int(min(size+1, windowSize)))
	kept := 0
	for {
		n, err := read(window[kept:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return true
		}
		if n <= 0 {
			return false
		}
		text := window[:kept+n]
		end := bytes.IndexByte(text, 0)
		if end >= 0 {
			text = text[:end]
		}
		if w.in(text) || w.inEscapes(text) {
			return true
		}
		if end >= 0 {
			return false
		}
		kept = copy(window, text[max(0, len(text)-overlap):])
	}
}

// inEscapes is in for what the text has if escapes of ASCII characters are replaced. It need not
// know where strings begin and end or which backslash is itself escaped: an escape has no other one
// within it, so that none is missed, and what is taken for one too many does no harm.
func (w *words) inEscapes(text []byte) bool {
	escape := []byte(`\u00`)
	if !bytes.Contains(text, escape) {
		return false
	}
	w.plain = w.plain[:0]
	for {
		before, after, found := bytes.Cut(text, escape)
		w.plain = append(w.plain, before...)
		if !found {
			return w.in(w.plain)
		}
		text = after
		if len(after) < 2 {
			continue
		}
		if c, err := strconv.ParseUint(string(after[:2]), 16, 8); err == nil {
			w.plain = append(w.plain, byte(c))
			text = after[2:]
		}
	}
}
