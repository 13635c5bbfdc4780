// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

// Package requirement evaluates the requirements that an image states in its NVIDIA_REQUIRE_*
// variables, such as
//
//	NVIDIA_REQUIRE_CUDA=cuda>=12.4 brand=tesla,driver>=470,driver<471
//
// [Parse] reads one value, and [Check] compares a list of requirements with what the machine has.
//
// A requirement is a blank-separated list of terms, one of which must hold. A term is a
// comma-separated list of factors, all of which must hold. A factor is a property (cuda, driver,
// arch or brand, in any case), an operator (= != < <= > >=) and a value. The language and its rules
// are those of libnvidia-container (src/cli/dsl.c), except that the whole value is validated before
// any of it is evaluated: libnvidia-container overlooks a malformed term after one that holds.
package requirement

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// The properties that a requirement can be about.
const (
	CUDA   = "cuda"   // highest CUDA version of the driver, "12.2"
	Driver = "driver" // driver version, "535.129.03"
	Arch   = "arch"   // compute capability of a GPU, "8.0"
	Brand  = "brand"  // product brand of a GPU, "tesla"
)

// A Factor is one comparison, "driver>=470".
type Factor struct {
	Property string // one of the constants of this package
	Operator string // "=", "!=", "<", "<=", ">" or ">="; for Brand only the first two
	Value    string // as written
}

// String returns the factor as written in a requirement.
func (f Factor) String() string { return f.Property + f.Operator + f.Value }

// A Term is a list of factors that must all hold.
type Term []Factor

// String returns the term as written in a requirement.
func (t Term) String() string {
	var b strings.Builder
	for i, f := range t {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(f.Property)
		b.WriteString(f.Operator)
		b.WriteString(f.Value)
	}
	return b.String()
}

// A Requirement is what one variable requires of the machine: that one of its terms holds. Without
// terms it always holds.
type Requirement struct {
	Variable string // name of the variable it comes from, for messages; Parse leaves it empty
	Terms    []Term
}

// String returns the canonical form of the requirement: one blank between terms, one comma between
// factors, properties in lower case. Parsing it gives the same terms.
func (r Requirement) String() string {
	var b strings.Builder
	for i, t := range r.Terms {
		if i > 0 {
			b.WriteByte(' ')
		}
		b.WriteString(t.String())
	}
	return b.String()
}

// Properties are what a machine, or one of its GPUs, offers. A field that is empty, or should be a
// version and is not, is unknown.
type Properties struct {
	CUDA   string // "12.2"
	Driver string // "535.129.03"
	Arch   string // "8.0"; "" if no GPU is selected
	Brand  string // "tesla"; "" if no GPU is selected
	GPU    string // name of the GPU in messages, "GPU 0000:01:00.0"; "" if none is selected
}

// known returns the value of a property and whether it can be compared.
func (p Properties) known(property string) (string, bool) {
	switch property {
	case CUDA:
		return p.CUDA, isVersion(p.CUDA)
	case Driver:
		return p.Driver, isVersion(p.Driver)
	case Arch:
		return p.Arch, isVersion(p.Arch)
	}
	return p.Brand, p.Brand != ""
}

// String lists the properties: "cuda 12.2, driver 535.129.03, arch unknown, brand tesla".
func (p Properties) String() string {
	fields := []string{}
	for _, property := range []string{CUDA, Driver, Arch, Brand} {
		value, ok := p.known(property)
		if !ok {
			value = "unknown"
		}
		fields = append(fields, property+" "+value)
	}
	return strings.Join(fields, ", ")
}

// Parse parses the value of one NVIDIA_REQUIRE_* variable. Empty terms and factors are skipped; an
// empty value gives a requirement without terms. An unknown property, a missing or unknown operator
// ("=="), an ordering of brands, and a version that is not dot-separated digits are errors that
// quote the factor, shortened.
func Parse(expr string) (Requirement, error) {
	var r Requirement
	for word := range strings.FieldsFuncSeq(expr, isBlank) {
		var t Term
		for text := range strings.SplitSeq(word, ",") {
			if text == "" {
				continue
			}
			f, err := parseFactor(text)
			if err != nil {
				return Requirement{}, fmt.Errorf("invalid expression %s: %w", quote(text), err)
			}
			t = append(t, f)
		}
		if t != nil {
			r.Terms = append(r.Terms, t)
		}
	}
	return r, nil
}

func isBlank(r rune) bool { return r == ' ' || r == '\t' }

// parseFactor parses "driver>=470".
func parseFactor(text string) (Factor, error) {
	const signs = "<>=!"
	start := strings.IndexAny(text, signs)
	if start < 0 {
		return Factor{}, fmt.Errorf("no operator, want one of = != < <= > >=")
	}
	value := strings.TrimLeft(text[start:], signs)
	f := Factor{
		Property: strings.ToLower(text[:start]),
		Operator: text[start : len(text)-len(value)],
		Value:    value,
	}
	switch f.Property {
	case CUDA, Driver, Arch, Brand:
	default:
		return Factor{}, fmt.Errorf("unknown property %s, want cuda, driver, arch or brand", quote(f.Property))
	}
	switch f.Operator {
	case "=", "!=":
	case "<", "<=", ">", ">=":
		if f.Property == Brand {
			return Factor{}, fmt.Errorf("operator %q: brands have no order, want = or !=", f.Operator)
		}
	default:
		return Factor{}, fmt.Errorf("unknown operator %s, want one of = != < <= > >=", quote(f.Operator))
	}
	if f.Property == Brand {
		if !isWord(value) {
			return Factor{}, fmt.Errorf("value %s is not a brand name", quote(value))
		}
	} else if !isVersion(value) {
		return Factor{}, fmt.Errorf("value %s is not a version in dotted digits", quote(value))
	}
	return f, nil
}

// isVersion reports whether s is groups of digits separated by single dots.
func isVersion(s string) bool {
	group := false // a digit was seen since the last dot
	for i := range len(s) {
		switch {
		case '0' <= s[i] && s[i] <= '9':
			group = true
		case s[i] == '.' && group:
			group = false
		default:
			return false
		}
	}
	return group
}

// isWord reports whether s is printable ASCII without characters of the grammar.
func isWord(s string) bool {
	for i := range len(s) {
		if s[i] <= ' ' || s[i] > '~' || strings.IndexByte("<>=!,", s[i]) >= 0 {
			return false
		}
	}
	return s != ""
}

// CompareVersions compares two versions of dot-separated digits, group by group, as numbers of any
// size; a missing group is zero. It returns -1, 0 or 1. Both must be well-formed, like the values
// that [Parse] accepts.
func CompareVersions(a, b string) int {
	for a != "" || b != "" {
		var x, y string
		x, a, _ = strings.Cut(a, ".")
		y, b, _ = strings.Cut(b, ".")
		x, y = strings.TrimLeft(x, "0"), strings.TrimLeft(y, "0")
		if len(x) != len(y) {
			if len(x) < len(y) {
				return -1
			}
			return 1
		}
		if c := strings.Compare(x, y); c != 0 {
			return c
		}
	}
	return 0
}

// holds reports whether the factor holds for the machine's value.
func (f Factor) holds(have string) bool {
	if f.Property == Brand {
		return strings.EqualFold(have, f.Value) == (f.Operator == "=")
	}
	c := CompareVersions(have, f.Value)
	switch f.Operator {
	case "=":
		return c == 0
	case "!=":
		return c != 0
	case "<":
		return c < 0
	case "<=":
		return c <= 0
	case ">":
		return c > 0
	}
	return c >= 0
}

// Evaluate reports whether the requirement holds. A factor about an unknown property counts as
// satisfied; assumed names the properties that the answer depends on, sorted. It is nil if the
// answer is certain.
func (r Requirement) Evaluate(p Properties) (satisfied bool, assumed []string) {
	if len(r.Terms) == 0 {
		return true, nil
	}
	for _, t := range r.Terms {
		ok, unknown := t.evaluate(p)
		if !ok {
			continue
		}
		if unknown == nil {
			return true, nil
		}
		if !satisfied {
			satisfied, assumed = true, unknown
		}
	}
	return satisfied, assumed
}

func (t Term) evaluate(p Properties) (satisfied bool, unknown []string) {
	for _, f := range t {
		have, ok := p.known(f.Property)
		if !ok {
			if !slices.Contains(unknown, f.Property) { // at most four
				unknown = append(unknown, f.Property)
			}
			continue
		}
		if !f.holds(have) {
			return false, nil
		}
	}
	slices.Sort(unknown)
	return true, unknown
}

// A GPU is what a selected GPU adds to the properties of its machine.
type GPU struct {
	Name  string // in messages: "GPU 0000:01:00.0"
	Arch  string // "8.0", "" unknown
	Brand string // "tesla", "" unknown
}

// Check evaluates all requirements for each selected GPU, or once with the machine's own properties
// if no GPU is selected; every requirement must hold each time. The error says what is required,
// what the machine has, and which variable skips the check. assumed are the properties that counted
// as satisfied because they are unknown, sorted, without duplicates.
func Check(requirements []Requirement, machine Properties, gpus []GPU) (assumed []string, err error) {
	candidates := []Properties{machine}
	if len(gpus) > 0 {
		candidates = nil
	}
	for _, g := range gpus {
		p := machine
		p.GPU, p.Arch, p.Brand = g.Name, g.Arch, g.Brand
		candidates = append(candidates, p)
	}
	for _, p := range candidates {
		for _, r := range requirements {
			ok, unknown := r.Evaluate(p)
			if !ok {
				return nil, unsatisfied(r, p)
			}
			for _, name := range unknown {
				if !slices.Contains(assumed, name) { // at most four
					assumed = append(assumed, name)
				}
			}
		}
	}
	slices.Sort(assumed)
	return assumed, nil
}

// unsatisfied starts with the words of the classic runtime, which people search for.
func unsatisfied(r Requirement, p Properties) error {
	condition := r.Terms[0].String()
	advice := ""
	if strings.HasPrefix(condition, CUDA+">=") {
		advice = ", please update your driver to a newer version, or use an earlier cuda container"
	}
	variable, on := r.Variable, p.GPU
	if variable == "" {
		variable = "requirement"
	}
	if on == "" {
		on = "this machine"
	}
	return fmt.Errorf("requirement error: unsatisfied condition: %s%s; %s asks for %s, %s has %s; "+
		"NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check",
		shorten(condition), advice, variable, quote(r.String()), on, p)
}

// quoteLimit is how many bytes of a container's value are shown in a message.
const quoteLimit = 100

// quote quotes a container's value for a message.
func quote(s string) string { return strconv.Quote(shorten(s)) }

func shorten(s string) string {
	if len(s) <= quoteLimit {
		return s
	}
	return strings.ToValidUTF8(s[:quoteLimit], "") + "…"
}
