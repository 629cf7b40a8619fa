package relay

import (
	"fmt"
	"math"
	"regexp"
	"strconv"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/h2"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// What apps report is not for callers: their sidecar takes it out, whether anybody wants to
// know or not. The app's own sidecar leaves it in, in what ends an answer, and there alone.
func TestMeasuresAreForTheCallersSidecar(t *testing.T) {
	divided := `- {name: s, service: greeter, split: {split: {destinations: [{weight: 10000, group: g}]}}}`
	measure := []string{"pillion-measure-x", "1", "a", "b", "pillion-measure-", "2", "pillion-measures", "3", "pillion-measure-y-bin", "AA"}
	for _, c := range []struct {
		name   string
		config Config
		yaml   string
		head   string // what is left of measure in a head that does not end the answer
		last   string // and in one that does
	}{
		{name: "the caller's, no policies", head: " a=b pillion-measures=3", last: " a=b pillion-measures=3"},
		{name: "the caller's, an experiment", yaml: divided, head: " a=b pillion-measures=3", last: " a=b pillion-measures=3"},
		{name: "the caller's, other policies", yaml: `- {name: r, service: greeter, retry: {max_attempts: 2, hold_headers: true, retryable_status_codes: [UNAVAILABLE]}}`,
			head: " a=b pillion-measures=3", last: " a=b pillion-measures=3"},
		{name: "the app's", config: Config{Side: telemetry.Inbound, Shield: true}, head: " a=b",
			last: " pillion-measure-x=1 a=b pillion-measure-=2 pillion-measure-y-bin=AA"},
	} {
		t.Run(c.name, func(t *testing.T) {
			simulated(t, func(t *testing.T) {
				c.config.Random = even
				r := newRig(t, options{Config: c.config})
				if c.yaml != "" {
					r.obey(c.yaml)
				}
				a := r.net.Listen("a:1")
				r.ask(a, 1, true).TrailersOnly(1, "0", measure...)
				all := r.heads()
				in := r.ask(a, 3, true)
				in.Headers(3, false, append([]string{":status", "103"}, measure...)...)
				in.Response(3, measure...)
				in.Message(3, 5, false)
				in.Trailers(3, "5", measure...)
				all = append(all, r.heads()...)
				want := []string{
					":status=200 content-type=application/grpc grpc-status=0" + c.last, ":status=103" + c.head,
					":status=200 content-type=application/grpc" + c.head, "grpc-status=5" + c.last,
				}
				expect(t, "the caller got", all, want)
			})
		})
	}
}

// heads returns what the caller got in its heads, all fields.
func (r *rig) heads() (all []string) {
	for _, f := range r.Frames() {
		if f.Type.String() != "HEADERS" {
			continue
		}
		var fields []string
		for _, field := range f.Fields {
			fields = append(fields, field.Name+"="+field.Value)
		}
		all = append(all, strings.Join(fields, " "))
	}
	return all
}

func TestReadMeasures(t *testing.T) {
	t.Parallel()
	many, all := []string{}, ""
	for i := range 20 {
		many = append(many, fmt.Sprintf("m%d: %d", i, i))
		if i < maxMeasures {
			all += fmt.Sprintf("m%d=%d ", i, i)
		}
	}
	for _, c := range []struct {
		in   []string
		want string
	}{
		{[]string{"a: 1.5", "b: -2e3", "c: +0.25E-2"}, "a=1.5 b=-2000 c=0.0025 "},
		{[]string{"a: 1", "a: 2"}, "a=1 "}, // one cannot tell which is meant
		{[]string{"a: x", "a: 2"}, "a=2 "},
		{[]string{": 1", "A: 1", "a b: 1", "ü: 1", "a/b: 1", "a-b_c.d9: 1"}, "a-b_c.d9=1 "},
		{[]string{strings.Repeat("n", 64) + ": 1", strings.Repeat("n", 65) + ": 1"}, strings.Repeat("n", 64) + "=1 "},
		{[]string{"a: 1,2", "b: 1 ", "c: ", "d: 0x1p3", "e: inf", "f: NaN", "g: 1_000", "h: .5", "i: 5.", "j: e5", "k: 1e", "l: --1", "m: 1e999", "n: -1e999"}, ""},
		{[]string{"a: 1e-999", "b: -0"}, "a=0 b=-0 "},
		{[]string{"a: " + strings.Repeat("1", 64), "b: " + strings.Repeat("1", 65)}, "a=1.1111111111111112e+63 "},
		{many, all},
	} {
		var fields []hpack.Field
		for _, text := range c.in {
			name, value, _ := strings.Cut(text, ": ")
			fields = append(fields, hpack.Field{Name: "other", Value: "7"}, hpack.Field{Name: "pillion-measure-" + name, Value: value})
		}
		got := ""
		for _, m := range readMeasures(nil, fields) {
			got += fmt.Sprintf("%s=%v ", m.Name, m.Value)
		}
		if got != c.want {
			t.Errorf("%q: %s, want %s", c.in, got, c.want)
		}
	}
}

var decimal = regexp.MustCompile(`^[+-]?[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?$`)

// A measure is what the expression says, has the value that package strconv gives it, and
// is finite.
func FuzzParseMeasure(f *testing.F) {
	for _, text := range []string{"", "1", "-1.5", "+1e5", "1E-5", ".5", "5.", "1e", "1e+", "0x10", "inf", "NaN", "1_0", "1e400", "00001", "٣", "1.1.1", "1e1e1"} {
		f.Add(text)
	}
	f.Fuzz(func(t *testing.T, text string) {
		got, ok := parseMeasure(text)
		want, err := strconv.ParseFloat(text, 64)
		if valid := len(text) <= maxMeasureValue && decimal.MatchString(text) && err == nil; ok != valid {
			t.Fatalf("%q is read: %v, want %v", text, ok, valid)
		}
		if ok && (got != want || math.IsInf(got, 0) || math.IsNaN(got)) {
			t.Fatalf("%q is %v, want %v", text, got, want)
		}
	})
}

// Nothing of what apps send is allocated for, however wrong it is.
func TestReadingMeasuresAllocatesNothing(t *testing.T) {
	var fields []hpack.Field
	for i, value := range []string{"1", "-1.5e-7", "x", "", "1e", "nan", "123456789.123456789", strings.Repeat("1", 65), "0.1"} {
		fields = append(fields, hpack.Field{Name: "pillion-measure-m" + strconv.Itoa(i), Value: value})
	}
	buf := make([]telemetry.Measure, 0, maxMeasures)
	if n := testing.AllocsPerRun(100, func() { buf = readMeasures(buf[:0], fields) }); n != 0 || len(buf) != 4 {
		t.Errorf("%v allocations for %v", n, buf)
	}
}

// Nearly no answer has a measure, and all are looked at.
func BenchmarkNoMeasures(b *testing.B) {
	fields := []hpack.Field{{Name: "grpc-status", Value: "0"}, {Name: "grpc-message"}, {Name: "pillion-flags", Value: "UF"}}
	h := h2.Head{Kind: h2.HeadTrailers, Regular: fields}
	r := &RPC{p: new(Proxy)}
	for b.Loop() {
		r.takeMeasures(&h)
	}
}

func BenchmarkReadMeasures(b *testing.B) {
	fields := []hpack.Field{{Name: "grpc-status", Value: "0"}, {Name: "pillion-measure-cost", Value: "1.5"}, {Name: "pillion-measure-items", Value: "3"}}
	buf := make([]telemetry.Measure, 0, maxMeasures)
	b.ReportAllocs()
	for b.Loop() {
		buf = readMeasures(buf[:0], fields)
	}
}
