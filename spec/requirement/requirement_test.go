// SPDX-FileCopyrightText: The nvidia-container-runtime authors
// SPDX-License-Identifier: Apache-2.0

package requirement_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/nvsysfs/nvidia-container-runtime/spec/requirement"
)

// cudaImage is the requirement of a public CUDA 12.4 image.
const cudaImage = "cuda>=12.4 brand=tesla,driver>=470,driver<471 brand=unknown,driver>=470,driver<471 " +
	"brand=nvidia,driver>=470,driver<471 brand=nvidiartx,driver>=470,driver<471 brand=geforce,driver>=470,driver<471"

func TestParse(t *testing.T) {
	factor := func(p, op, v string) requirement.Factor {
		return requirement.Factor{Property: p, Operator: op, Value: v}
	}
	for _, tt := range []struct {
		name, in string
		want     []requirement.Term
		err      string // the whole message
	}{
		{name: "one factor", in: "cuda>=12.4", want: []requirement.Term{{factor("cuda", ">=", "12.4")}}},
		{
			name: "every property and operator", in: "cuda=9,driver!=384.81 arch<3.5,arch<=3.5 arch>3,cuda>=8 brand=tesla,brand!=grid",
			want: []requirement.Term{
				{factor("cuda", "=", "9"), factor("driver", "!=", "384.81")},
				{factor("arch", "<", "3.5"), factor("arch", "<=", "3.5")},
				{factor("arch", ">", "3"), factor("cuda", ">=", "8")},
				{factor("brand", "=", "tesla"), factor("brand", "!=", "grid")},
			},
		},
		{
			name: "names in any case, text as written", in: "CUDA>=8,Brand=TeSLa",
			want: []requirement.Term{{factor("cuda", ">=", "8"), factor("brand", "=", "TeSLa")}},
		},
		{name: "empty", in: ""},
		{name: "blanks", in: " \t "},
		{name: "commas", in: ", ,,"},
		{
			name: "empty terms and factors", in: "  ,cuda>=8,,arch>3, \t driver>1 ",
			want: []requirement.Term{{factor("cuda", ">=", "8"), factor("arch", ">", "3")}, {factor("driver", ">", "1")}},
		},
		{
			name: "number beyond any integer", in: "cuda>=99999999999999999999999999999",
			want: []requirement.Term{{factor("cuda", ">=", "99999999999999999999999999999")}},
		},

		{name: "double equals", in: "cuda==9", err: `invalid expression "cuda==9": unknown operator "==", want one of = != < <= > >=`},
		{name: "exclamation mark alone", in: "cuda!9", err: `invalid expression "cuda!9": unknown operator "!", want one of = != < <= > >=`},
		{name: "operator backwards", in: "cuda=>9", err: `invalid expression "cuda=>9": unknown operator "=>", want one of = != < <= > >=`},
		{name: "no operator", in: "cuda", err: `invalid expression "cuda": no operator, want one of = != < <= > >=`},
		{name: "no property", in: ">=9", err: `invalid expression ">=9": unknown property "", want cuda, driver, arch or brand`},
		{name: "unknown property", in: "jetpack>=4", err: `invalid expression "jetpack>=4": unknown property "jetpack", want cuda, driver, arch or brand`},
		{name: "prefix of a property", in: "cud>=4", err: `invalid expression "cud>=4": unknown property "cud", want cuda, driver, arch or brand`},
		{name: "no value", in: "cuda>=", err: `invalid expression "cuda>=": value "" is not a version in dotted digits`},
		{name: "no brand", in: "brand=", err: `invalid expression "brand=": value "" is not a brand name`},
		{name: "ordering of brands", in: "brand>=tesla", err: `invalid expression "brand>=tesla": operator ">=": brands have no order, want = or !=`},
		{name: "letter in a version", in: "cuda>=9.x", err: `invalid expression "cuda>=9.x": value "9.x" is not a version in dotted digits`},
		{name: "signed version", in: "cuda>=+9", err: `invalid expression "cuda>=+9": value "+9" is not a version in dotted digits`},
		{name: "dot at the end", in: "cuda>=9.", err: `invalid expression "cuda>=9.": value "9." is not a version in dotted digits`},
		{name: "dot at the start", in: "cuda>=.9", err: `invalid expression "cuda>=.9": value ".9" is not a version in dotted digits`},
		{name: "two dots", in: "cuda>=9..1", err: `invalid expression "cuda>=9..1": value "9..1" is not a version in dotted digits`},
		{name: "two operators", in: "cuda>=9<10", err: `invalid expression "cuda>=9<10": value "9<10" is not a version in dotted digits`},
		{name: "operator in a brand", in: "brand=te=sla", err: `invalid expression "brand=te=sla": value "te=sla" is not a brand name`},
		{name: "blanks around the operator", in: "cuda >= 9", err: `invalid expression "cuda": no operator, want one of = != < <= > >=`},
		{name: "malformed after a good term", in: "cuda>=8 nonsense", err: `invalid expression "nonsense": no operator, want one of = != < <= > >=`},
		{name: "newline", in: "cuda>=9\n", err: `invalid expression "cuda>=9\n": value "9\n" is not a version in dotted digits`},
		{name: "nul", in: "brand=a\x00", err: `invalid expression "brand=a\x00": value "a\x00" is not a brand name`},
		{name: "escape codes", in: "brand=\x1b[31m", err: `invalid expression "brand=\x1b[31m": value "\x1b[31m" is not a brand name`},
		{name: "invalid utf-8", in: "brand=\xff", err: `invalid expression "brand=\xff": value "\xff" is not a brand name`},
		{name: "digits of another script", in: "cuda>=٩", err: `invalid expression "cuda>=٩": value "٩" is not a version in dotted digits`},
		{
			name: "a long value is shortened", in: "cuda>=" + strings.Repeat("x", 1<<20),
			err: `invalid expression "cuda>=` + strings.Repeat("x", 94) + `…": value "` + strings.Repeat("x", 100) + `…" is not a version in dotted digits`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := requirement.Parse(tt.in)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.Zero(t, got)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, requirement.Requirement{Terms: tt.want}, got)
		})
	}
}

func TestEvaluate(t *testing.T) {
	machine := requirement.Properties{CUDA: "12.2", Driver: "535.129.03", Arch: "8.0", Brand: "tesla"}
	for _, tt := range []struct {
		name, in  string
		have      requirement.Properties
		satisfied bool
		assumed   []string
	}{
		{name: "no requirement at all", in: "", have: machine, satisfied: true},
		{name: "and", in: "cuda>=12,driver>=535", have: machine, satisfied: true},
		{name: "and, one does not hold", in: "cuda>=12,driver>=550", have: machine},
		{name: "or", in: "cuda>=12.4 driver>=535", have: machine, satisfied: true},
		{name: "or, none holds", in: "cuda>=12.4 driver>=550", have: machine},
		{name: "comma binds closer than blank", in: "cuda>=12.4 brand=tesla,driver>=535", have: machine, satisfied: true},
		{name: "comma binds closer than blank, last does not hold", in: "cuda>=12.4 brand=tesla,driver>=536", have: machine},
		{name: "public image, branch term", in: cudaImage, have: requirement.Properties{CUDA: "11.4", Driver: "470.256.02", Brand: "Tesla"}, satisfied: true},
		{name: "public image, neither", in: cudaImage, have: machine},

		{name: "equal", in: "cuda=12.2", have: machine, satisfied: true},
		{name: "equal, trailing zeros in the requirement", in: "cuda=12.2.0.0", have: machine, satisfied: true},
		{name: "equal, trailing zero on the machine", in: "arch=8", have: machine, satisfied: true},
		{name: "equal, longer", in: "cuda=12.2.1", have: machine},
		{name: "not equal", in: "cuda!=12.3", have: machine, satisfied: true},
		{name: "not equal, but equal", in: "cuda!=12.2.0", have: machine},
		{name: "less", in: "cuda<12.2.1", have: machine, satisfied: true},
		{name: "less, but equal", in: "cuda<12.2", have: machine},
		{name: "less or equal", in: "cuda<=12.2", have: machine, satisfied: true},
		{name: "less or equal, but more", in: "cuda<=12.1.9", have: machine},
		{name: "more", in: "driver>535.129", have: machine, satisfied: true},
		{name: "more, but equal", in: "driver>535.129.3", have: machine},
		{name: "more or equal", in: "driver>=535.129.3.0", have: machine, satisfied: true},
		{name: "more or equal, but less", in: "driver>=535.129.4", have: machine},
		{name: "compared as numbers", in: "cuda>=9", have: machine, satisfied: true},
		{name: "compared as numbers, two groups", in: "driver<535.1000", have: machine, satisfied: true},
		{name: "beyond any integer", in: "cuda<18446744073709551616", have: machine, satisfied: true},
		{name: "beyond any integer, leading zeros", in: "cuda>=" + strings.Repeat("0", 1000) + "12.2", have: machine, satisfied: true},

		{name: "brand in any case", in: "brand=TESLA", have: machine, satisfied: true},
		{name: "other brand", in: "brand=geforce", have: machine},
		{name: "not this brand", in: "brand!=Tesla", have: machine},
		{name: "not another brand", in: "brand!=geforce", have: machine, satisfied: true},
		{name: "brand is not a prefix", in: "brand=tes", have: machine},

		{name: "unknown cuda", in: "cuda>=12.4", satisfied: true, assumed: []string{"cuda"}},
		{name: "unknown is satisfied with every operator", in: "cuda!=1,driver<1,arch=1,brand!=x", satisfied: true, assumed: []string{"arch", "brand", "cuda", "driver"}},
		{name: "unknown and known", in: "cuda>=12,arch>=9", have: requirement.Properties{CUDA: "12.2"}, satisfied: true, assumed: []string{"arch"}},
		{name: "unknown does not save a term", in: "arch>=9,cuda>=13", have: requirement.Properties{CUDA: "12.2"}},
		{name: "certain term after an unknown one", in: "brand=tesla cuda>=12", have: requirement.Properties{CUDA: "12.2"}, satisfied: true},
		{name: "each name once", in: "arch>=9,arch<10", satisfied: true, assumed: []string{"arch"}},
		{name: "malformed property of the machine counts as unknown", in: "driver>=550", have: requirement.Properties{Driver: "N/A"}, satisfied: true, assumed: []string{"driver"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r, err := requirement.Parse(tt.in)
			require.NoError(t, err)
			satisfied, assumed := r.Evaluate(tt.have)
			assert.Equal(t, tt.satisfied, satisfied)
			assert.Equal(t, tt.assumed, assumed)
		})
	}
}

func TestCheck(t *testing.T) {
	machine := requirement.Properties{CUDA: "12.2", Driver: "535.129.03"}
	a100 := requirement.GPU{Name: "GPU 0000:01:00.0", Arch: "8.0", Brand: "tesla"}
	v100 := requirement.GPU{Name: "GPU 0000:02:00.0", Arch: "7.0"}
	for _, tt := range []struct {
		name    string
		in      [][2]string // variable, value
		machine requirement.Properties
		gpus    []requirement.GPU
		assumed []string
		err     string // the whole message
	}{
		{name: "no requirement", machine: machine, gpus: []requirement.GPU{a100}},
		{name: "met", in: [][2]string{{"NVIDIA_REQUIRE_CUDA", "cuda>=12.2"}, {"NVIDIA_REQUIRE_ARCH", "arch>=7"}}, machine: machine, gpus: []requirement.GPU{a100, v100}},
		{name: "no GPU, machine only", in: [][2]string{{"NVIDIA_REQUIRE_CUDA", "cuda>=12.2"}}, machine: machine},
		{name: "no GPU, arch is unknown", in: [][2]string{{"NVIDIA_REQUIRE_ARCH", "arch>=9"}}, machine: machine, assumed: []string{"arch"}},
		{name: "everything is unknown", in: [][2]string{{"NVIDIA_REQUIRE_CUDA", "driver>=1,cuda>=99"}}, assumed: []string{"cuda", "driver"}},
		{name: "brand of one GPU is unknown", in: [][2]string{{"NVIDIA_REQUIRE_BRAND", "brand=tesla"}}, machine: machine, gpus: []requirement.GPU{a100, v100}, assumed: []string{"brand"}},
		{
			name: "cuda, the classic runtime's message", in: [][2]string{{"NVIDIA_REQUIRE_CUDA", "cuda>=12.4"}}, machine: machine, gpus: []requirement.GPU{a100},
			err: `requirement error: unsatisfied condition: cuda>=12.4, please update your driver to a newer version, or use an earlier cuda container; ` +
				`NVIDIA_REQUIRE_CUDA asks for "cuda>=12.4", GPU 0000:01:00.0 has cuda 12.2, driver 535.129.03, arch 8.0, brand tesla; ` +
				`NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check`,
		},
		{
			name: "no GPU", in: [][2]string{{"CUDA_VERSION", "cuda>=13.0"}}, machine: machine,
			err: `requirement error: unsatisfied condition: cuda>=13.0, please update your driver to a newer version, or use an earlier cuda container; ` +
				`CUDA_VERSION asks for "cuda>=13.0", this machine has cuda 12.2, driver 535.129.03, arch unknown, brand unknown; ` +
				`NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check`,
		},
		{
			name: "second requirement, second GPU", in: [][2]string{{"NVIDIA_REQUIRE_CUDA", "cuda>=12"}, {"NVIDIA_REQUIRE_ARCH", "arch>=7.5  brand=geforce,driver>=550"}},
			machine: machine, gpus: []requirement.GPU{a100, {Name: "GPU 0000:03:00.0", Arch: "7.0", Brand: "titan"}},
			err: `requirement error: unsatisfied condition: arch>=7.5; ` +
				`NVIDIA_REQUIRE_ARCH asks for "arch>=7.5 brand=geforce,driver>=550", GPU 0000:03:00.0 has cuda 12.2, driver 535.129.03, arch 7.0, brand titan; ` +
				`NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check`,
		},
		{
			name: "a long requirement is shortened", in: [][2]string{{"", "driver>=" + strings.Repeat("9", 1<<20)}}, machine: machine,
			err: `requirement error: unsatisfied condition: driver>=` + strings.Repeat("9", 92) + `…; ` +
				`requirement asks for "driver>=` + strings.Repeat("9", 92) + `…", this machine has cuda 12.2, driver 535.129.03, arch unknown, brand unknown; ` +
				`NVIDIA_DISABLE_REQUIRE=1 in the container's environment skips the check`,
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var requirements []requirement.Requirement
			for _, in := range tt.in {
				r, err := requirement.Parse(in[1])
				require.NoError(t, err)
				r.Variable = in[0]
				requirements = append(requirements, r)
			}
			assumed, err := requirement.Check(requirements, tt.machine, tt.gpus)
			if tt.err != "" {
				assert.EqualError(t, err, tt.err)
				assert.Zero(t, assumed)
				return
			}
			require.NoError(t, err)
			assert.Equal(t, tt.assumed, assumed)
		})
	}
}

func TestCompareVersions(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{
		{"1", "1", 0},
		{"1", "1.0.0", 0},
		{"1.0", "01.00", 0},
		{"99", "110", -1},
		{"535.129.03", "535.129.3", 0},
		{"535.54.03", "535.129.03", -1},
		{"595.84", "595.84.01", -1},
		{"0", "0.0.1", -1},
		{"18446744073709551617", "18446744073709551616", 1},
	} {
		assert.Equal(t, tt.want, requirement.CompareVersions(tt.a, tt.b), "%s and %s", tt.a, tt.b)
		assert.Equal(t, -tt.want, requirement.CompareVersions(tt.b, tt.a), "%s and %s", tt.b, tt.a)
	}
}

func FuzzParse(f *testing.F) {
	for _, seed := range []string{
		"", " ", ",", cudaImage, "cuda>=12.4", "CUDA!=9.0.116,Arch<=3.5 brand=tesla", "driver>=535.129.03\tbrand!=GeForce",
		"cuda==9", "cuda!9", "brand>x", "arch>=.9", "cuda>=9..1", "brand=\x00", "cuda>=9\n", "x", "=", "cuda>=99999999999999999999999",
	} {
		f.Add(seed, "12.2", "535.129.03", "tesla")
	}
	f.Fuzz(func(t *testing.T, in, cuda, driver, brand string) {
		r, err := requirement.Parse(in)
		if err != nil {
			assert.Zero(t, r)
			assert.Less(t, len(err.Error()), 4*2*100+200, "the message is shortened")
			return
		}
		again, err := requirement.Parse(r.String())
		require.NoError(t, err)
		assert.Equal(t, r, again)
		assert.Equal(t, r.String(), again.String())

		p := requirement.Properties{CUDA: cuda, Driver: driver, Arch: "8.0", Brand: brand}
		satisfied, assumed := r.Evaluate(p)
		if !satisfied {
			assert.Nil(t, assumed)
		}
		// If nothing is known, every requirement is satisfied.
		lenient, _ := r.Evaluate(requirement.Properties{})
		assert.True(t, lenient)
		// Negating a single factor negates the result, if its property is known.
		opposite := map[string]string{"=": "!=", "!=": "=", "<": ">=", ">=": "<", ">": "<=", "<=": ">"}
		for _, term := range r.Terms {
			for _, factor := range term {
				turned := factor
				turned.Operator = opposite[factor.Operator]
				yes, unknown := requirement.Requirement{Terms: []requirement.Term{{factor}}}.Evaluate(p)
				no, _ := requirement.Requirement{Terms: []requirement.Term{{turned}}}.Evaluate(p)
				if unknown == nil {
					assert.NotEqual(t, yes, no, factor.String())
				}
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	for b.Loop() {
		if _, err := requirement.Parse(cudaImage); err != nil {
			b.Fatal(err)
		}
	}
}
