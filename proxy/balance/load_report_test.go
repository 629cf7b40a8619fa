package balance_test

import (
	"encoding/base64"
	"math"
	"strings"
	"testing"

	"google.golang.org/protobuf/encoding/protowire"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/proxy/balance"
)

// number appends a field of a report.
func number(m []byte, field protowire.Number, v float64) []byte {
	return protowire.AppendFixed64(protowire.AppendTag(m, field, protowire.Fixed64Type), math.Float64bits(v))
}

// measures appends a map of measures of the app's own, as request_cost is one.
func measures(m []byte, field protowire.Number, names ...string) []byte {
	for _, name := range names {
		entry := protowire.AppendString(protowire.AppendTag(nil, 1, protowire.BytesType), name)
		m = protowire.AppendBytes(protowire.AppendTag(m, field, protowire.BytesType), number(entry, 2, 0.5))
	}
	return m
}

func encode(m []byte) string { return base64.RawStdEncoding.EncodeToString(m) }

func TestParseLoadReport(t *testing.T) {
	t.Parallel()
	all := number(number(number(number(nil, 1, 0.5), 6, 100), 7, 3), 9, 0.75)
	want := balance.LoadReport{CPU: 0.5, RPS: 100, EPS: 3, Application: 0.75}
	for _, c := range []struct {
		what, value string
		ok          bool
		want        balance.LoadReport
	}{
		{"nothing", "", true, balance.LoadReport{}},
		{"all", encode(all), true, want},
		{"padded", base64.StdEncoding.EncodeToString(all), true, want},
		// What google.golang.org/protobuf makes of an OrcaLoadReport, of some fields and
		// of all.
		{"some of a real one", "CQAAAAAAAOA/MQAAAAAAAFlA", true, balance.LoadReport{CPU: 0.5, RPS: 100}},
		{
			"all of a real one",
			"CQAAAAAAAOA/EQAAAAAAAMA/GAciDAoBYxEAAAAAAADwPyoMCgFxEQAAAAAAAOA/MQAAAAAAAFlAOQAAAAAAAABAQgwKAW4RAAAAAAAACEBJAAAAAAAA0D8",
			true, balance.LoadReport{CPU: 0.5, RPS: 100, EPS: 2, Application: 0.25},
		},
		{"with others", encode(measures(number(measures(all, 4, "cost"), 2, 0.9), 8, "a", "b")), true, want},
		{"with an old rps", encode(protowire.AppendVarint(protowire.AppendTag(all, 3, protowire.VarintType), 7)), true, want},
		{"long", encode(measures(all, 8, strings.Repeat("a", 3000))), true, want},
		{"a field of another type", encode(protowire.AppendVarint(protowire.AppendTag(all, 1, protowire.VarintType), 7)), true, want},
		{"too long", encode(measures(all, 8, strings.Repeat("a", 10_000))), false, balance.LoadReport{}},
		{"not base64", "!", false, balance.LoadReport{}},
		{"two values", encode(all) + "," + encode(all), false, balance.LoadReport{}},
		{"cut off", encode(all[:len(all)-1]), false, balance.LoadReport{}},
		{"negative", encode(number(all, 6, -1)), false, balance.LoadReport{}},
		{"not a number", encode(number(all, 6, math.NaN())), false, balance.LoadReport{}},
		{"infinite", encode(number(all, 6, math.Inf(1))), false, balance.LoadReport{}},
	} {
		got, ok := balance.ParseLoadReport(c.value)
		if ok != c.ok || ok && got != c.want {
			t.Errorf("%s: %+v, %v, want %+v, %v", c.what, got, ok, c.want, c.ok)
		}
	}
}

func TestParseLoadReportReadsWhatIsWritten(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		number64 := rapid.Float64Range(0, 1e12)
		want := balance.LoadReport{
			CPU: number64.Draw(t, "cpu"), RPS: number64.Draw(t, "rps"),
			EPS: number64.Draw(t, "eps"), Application: number64.Draw(t, "app"),
		}
		m := measures(nil, 5, rapid.SliceOfN(rapid.StringN(0, 20, 40), 0, 5).Draw(t, "names")...)
		m = number(number(number(number(m, 9, want.Application), 7, want.EPS), 6, want.RPS), 1, want.CPU)
		if got, ok := balance.ParseLoadReport(encode(m)); !ok || got != want {
			t.Fatalf("read %+v, %v, want %+v", got, ok, want)
		}
	})
}

// TestParseLoadReportAllocatesNothing is not parallel: AllocsPerRun counts what every
// goroutine allocates.
func TestParseLoadReportAllocatesNothing(t *testing.T) {
	value := encode(measures(number(number(nil, 1, 0.5), 6, 100), 8, "queue", "cache"))
	if got := testing.AllocsPerRun(100, func() { balance.ParseLoadReport(value) }); got != 0 {
		t.Errorf("a report costs %v allocations", got)
	}
}

func FuzzParseLoadReport(f *testing.F) {
	f.Add(encode(number(number(nil, 1, 0.5), 6, 100)))
	f.Add(encode(measures(nil, 4, "cost")))
	f.Add("!")
	f.Fuzz(func(t *testing.T, value string) {
		r, ok := balance.ParseLoadReport(value)
		for _, v := range []float64{r.CPU, r.RPS, r.EPS, r.Application} {
			if ok && !(v >= 0 && v <= math.MaxFloat64) {
				t.Errorf("%q reads as %+v", value, r)
			}
		}
		var reports balance.Reports
		reports.Observe(start, &balance.ReportOptions{}, r)
		if w := reports.Weight(start, &balance.ReportOptions{Expiration: 1}); ok && !(w >= 0 && w <= math.MaxFloat64) {
			t.Errorf("%q weighs %v", value, w)
		}
	})
}
