// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package configure

import (
	"fmt"
	"io"
	"strings"
)

// context is how many unchanged lines surround a change.
const context = 3

// maxTable is how many pairs of lines are compared at most. Beyond, the whole middle counts as changed.
const maxTable = 4 << 20

// writeDiff writes what changed in a file as a unified diff, which patch(1) understands.
func writeDiff(w io.Writer, f file) error {
	from, to := f.name, f.name
	if f.info == nil {
		from = "/dev/null"
	}
	after := f.after
	if f.remove {
		to, after = "/dev/null", nil
	}
	_, err := fmt.Fprintf(w, "--- %s\n+++ %s\n%s", from, to, hunks(string(f.before), string(after)))
	return err
}

// line is one line of a diff: kept (' '), dropped ('-') or added ('+').
type line struct {
	op   byte
	text string
}

// hunks returns the part of a unified diff that follows the names, "" for equal texts.
func hunks(before, after string) string {
	lines := compare(splitLines(before), splitLines(after))
	var out strings.Builder
	a, b := 0, 0 // lines of before and after that are passed
	for i := 0; i < len(lines); {
		if lines[i].op == ' ' {
			a, b, i = a+1, b+1, i+1
			continue
		}
		// A hunk goes on while the next change is at most two contexts away.
		start := max(i-context, 0)
		end, quiet := i, 0
		for j := i; j < len(lines) && quiet <= 2*context; j++ {
			quiet++
			if lines[j].op != ' ' {
				end, quiet = j+1, 0
			}
		}
		end = min(end+context, len(lines))
		a, b = a-(i-start), b-(i-start)
		na, nb := 0, 0
		var body strings.Builder
		for _, l := range lines[start:end] {
			if l.op != '+' {
				na++
			}
			if l.op != '-' {
				nb++
			}
			body.WriteByte(l.op)
			body.WriteString(l.text)
			if !strings.HasSuffix(l.text, "\n") {
				body.WriteString("\n\\ No newline at end of file\n")
			}
		}
		fmt.Fprintf(&out, "@@ -%s +%s @@\n%s", span(a, na), span(b, nb), body.String())
		a, b, i = a+na, b+nb, end
	}
	return out.String()
}

// span is the range of a hunk: the first line, from 1, and the number of lines if it is not 1.
func span(passed, n int) string {
	switch n {
	case 0:
		return fmt.Sprintf("%d,0", passed)
	case 1:
		return fmt.Sprintf("%d", passed+1)
	}
	return fmt.Sprintf("%d,%d", passed+1, n)
}

// splitLines splits after every line feed.
func splitLines(s string) []string {
	lines := strings.SplitAfter(s, "\n")
	if lines[len(lines)-1] == "" {
		lines = lines[:len(lines)-1]
	}
	return lines
}

// compare finds a longest common subsequence of lines between the equal beginning and the equal end.
func compare(a, b []string) []line {
	var head, tail []line
	for len(a) > 0 && len(b) > 0 && a[0] == b[0] {
		head = append(head, line{' ', a[0]})
		a, b = a[1:], b[1:]
	}
	same := 0
	for same < len(a) && same < len(b) && a[len(a)-1-same] == b[len(b)-1-same] {
		same++
	}
	for _, text := range a[len(a)-same:] {
		tail = append(tail, line{' ', text})
	}
	a, b = a[:len(a)-same], b[:len(b)-same]

	// longest[i][j] is the length for a[i:] and b[j:].
	var longest [][]int32
	if len(a)*len(b) <= maxTable {
		longest = make([][]int32, len(a)+1)
		for i := range longest {
			longest[i] = make([]int32, len(b)+1)
		}
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if a[i] == b[j] {
					longest[i][j] = longest[i+1][j+1] + 1
				} else {
					longest[i][j] = max(longest[i+1][j], longest[i][j+1])
				}
			}
		}
	}
	i, j := 0, 0
	for i < len(a) || j < len(b) {
		switch {
		case i < len(a) && j < len(b) && longest != nil && a[i] == b[j]:
			head = append(head, line{' ', a[i]})
			i, j = i+1, j+1
		case i < len(a) && (j == len(b) || longest == nil || longest[i+1][j] >= longest[i][j+1]):
			head = append(head, line{'-', a[i]})
			i++
		default:
			head = append(head, line{'+', b[j]})
			j++
		}
	}
	return append(head, tail...)
}
