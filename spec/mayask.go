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

// MayAsk reports whether the config.json at path may contain anything that [NewRequest] acts on or
// notes under the policy. If not, the container asks for nothing, whoever reads the file and
// whatever else is wrong with it.
//
// The text is searched, not parsed: every request contains one of a few words, and JSON can spell
// their characters in two ways, literally or as \u and a number. Symbolic links are followed; size
// and nesting do not matter. The text ends at a NUL byte, as it does for low-level runtimes: runc
// fails there, crun stops reading.
//
// A file that cannot be read, a missing one for example, is left to the low-level runtime to
// complain about: false. So is a file that is not regular, since reading from a FIFO would take the
// text away from the runtime.
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
	// Do not block if another kind of file has taken its place.
	fd, err := openat(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return !absent(err)
	}
	defer unix.Close(fd)
	return w.read(func(p []byte) (int, error) { return unix.Read(fd, p) }, st.Size)
}

// absent reports whether err is about the path, so that the low-level runtime will fail as well.
// Other errors, such as a failing disk, may be gone by then and must not hide a request.
func absent(err error) bool {
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR), errors.Is(err, unix.EACCES),
		errors.Is(err, unix.ELOOP), errors.Is(err, unix.ENAMETOOLONG), errors.Is(err, unix.ENXIO),
		errors.Is(err, unix.EINVAL):
		return true
	}
	return false
}

// words are the variables and the directory name of marker mounts; every request contains one of
// them.
type words struct {
	variables []string
	longest   int
	plain     []byte // a window with its escapes decoded
}

// newWords returns the words for a policy. It fails for a variable whose name JSON may spell in
// other ways.
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

// in reports whether the text contains one of the words. It searches for the rarest bytes: a
// config.json has few equals signs, and fewer dashes than letters.
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

// windowSize is how many bytes are searched at a time: few enough for the processor's inner caches.
const windowSize = 64 << 10

// read searches a text of about size bytes.
func (w *words) read(read func([]byte) (int, error), size int64) bool {
	// Windows overlap by the length of a word written entirely in escapes.
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

// inEscapes is in for the text with escapes of ASCII characters decoded. It need not know where
// strings begin and end or which backslashes are themselves escaped: escapes cannot overlap, so
// none is missed, and decoding one too many does no harm.
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
