// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"bytes"
	"io"

	"github.com/rogpeppe/go-internal/diff"
)

// writeDiff writes a unified diff of a file.
func writeDiff(w io.Writer, f file) error {
	from, to, after := f.name, f.name, f.after
	if f.info == nil {
		from = "/dev/null"
	}
	if f.remove {
		to, after = "/dev/null", nil
	}
	// Skip the first line, which repeats the two names.
	_, unified, _ := bytes.Cut(diff.Diff(from, f.before, to, after), []byte("\n"))
	_, err := w.Write(unified)
	return err
}
