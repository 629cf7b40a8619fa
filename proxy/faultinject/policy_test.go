package faultinject

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"google.golang.org/grpc/codes"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// always draws the same number.
func always(n uint64) func() uint64 { return func() uint64 { return n } }

func metadata(pairs ...string) (fields []hpack.Field) {
	for i := 0; i < len(pairs); i += 2 {
		fields = append(fields, hpack.Field{Name: pairs[i], Value: pairs[i+1]})
	}
	return fields
}

func TestFaultsThatThePolicyChooses(t *testing.T) {
	t.Parallel()
	delay := &Delay{For: time.Second, Fraction: 5000}
	abort := &Abort{Code: codes.DataLoss, Message: "gone", Fraction: 2000}
	for _, test := range []struct {
		name string
		o    Options
		draw uint64
		want Fault
	}{
		{"nothing", Options{}, 0, Fault{}},
		{"delay", Options{Delay: delay}, 4999, Fault{Delay: time.Second}},
		{"delay, missed", Options{Delay: delay}, 5000, Fault{}},
		{"a number far beyond a share", Options{Delay: delay}, 70000*Whole + 4999, Fault{Delay: time.Second}},
		{"both", Options{Delay: delay, Abort: abort}, 1999, Fault{Delay: time.Second, Abort: true, Code: codes.DataLoss, Message: "gone"}},
		{"one of both", Options{Delay: delay, Abort: abort}, 2000, Fault{Delay: time.Second}},
		{"abort", Options{Abort: abort}, 1999, Fault{Abort: true, Code: codes.DataLoss, Message: "gone"}},
		{"OK", Options{Name: "x", Abort: &Abort{Fraction: Whole}}, 0, Fault{Abort: true, Message: `policy "x": a fault was injected`}},
		{"share of none", Options{Abort: &Abort{Code: codes.Internal}}, 0, Fault{}},
		{"share of all", Options{Delay: &Delay{For: 1, Fraction: Whole}}, math.MaxUint64, Fault{Delay: 1}},
		{"callers choose, who may not", Options{Delay: &Delay{Fraction: Whole}, Abort: &Abort{FromCaller: true, Fraction: Whole}}, 0, Fault{}},
	} {
		got, ok := New(test.o).Decide(metadata(HeaderDelay, "5", HeaderAbort, "INTERNAL"), always(test.draw))
		if got != test.want || ok != (test.want != Fault{}) {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, ok, test.want)
		}
	}
}

func TestFaultsThatCallersChoose(t *testing.T) {
	t.Parallel()
	open := Options{
		Name: "chaos", AllowMetadata: true,
		Delay: &Delay{Fraction: 5000}, Abort: &Abort{FromCaller: true, Fraction: 2000},
	}
	closed := Options{
		Name: "chaos", AllowMetadata: true,
		Delay: &Delay{For: time.Second, Fraction: 5000}, Abort: &Abort{Code: codes.DataLoss, Fraction: 2000},
	}
	late := Fault{Delay: 53 * time.Millisecond}
	aborted := Fault{Abort: true, Code: codes.Unavailable, Message: `policy "chaos": a fault was injected`}
	both := aborted
	both.Delay = late.Delay
	set := Fault{Delay: time.Second, Abort: true, Code: codes.DataLoss, Message: aborted.Message}
	for _, test := range []struct {
		name   string
		o      Options
		fields []hpack.Field
		draw   uint64
		want   Fault
	}{
		{"nothing chosen", open, metadata("user", "42"), 0, Fault{}},
		{"delay", open, metadata(HeaderDelay, "53"), 0, late},
		{"abort", open, metadata("user", "42", HeaderAbort, "UNAVAILABLE"), 0, aborted},
		{"both", open, metadata(HeaderAbort, "UNAVAILABLE", HeaderDelay, "53"), 0, both},
		{"shares of the policy", open, metadata(HeaderAbort, "UNAVAILABLE", HeaderDelay, "53"), 2000, late},
		{"a share that is lower", open, metadata(HeaderDelay, "53", HeaderPercentage, "10"), 1000, Fault{}},
		{"within it", open, metadata(HeaderPercentage, "10", HeaderDelay, "53"), 999, late},
		{"a share of none", open, metadata(HeaderPercentage, "0", HeaderDelay, "53"), 0, Fault{}},
		{"a share that is higher", open, metadata(HeaderDelay, "53", HeaderPercentage, "100"), 5000, Fault{}},
		{"a share alone", open, metadata(HeaderPercentage, "100"), 0, Fault{}},
		{"OK is no fault", open, metadata(HeaderAbort, "OK"), 0, Fault{}},
		{"the policy chose", closed, metadata(HeaderDelay, "53", HeaderAbort, "UNAVAILABLE", HeaderPercentage, "0"), 0, set},
		{"there is no delay to choose", Options{AllowMetadata: true, Abort: open.Abort}, metadata(HeaderDelay, "53"), 0, Fault{}},
		{"there is no abort to choose", Options{AllowMetadata: true, Delay: open.Delay}, metadata(HeaderAbort, "UNAVAILABLE"), 0, Fault{}},
		{"the longest delay", open, metadata(HeaderDelay, "3600000"), 0, Fault{Delay: time.Hour}},
	} {
		got, ok := New(test.o).Decide(test.fields, always(test.draw))
		if got != test.want || ok != (test.want != Fault{}) {
			t.Errorf("%s: %+v, %v; want %+v", test.name, got, ok, test.want)
		}
	}
}

func TestWrongValuesAreIgnored(t *testing.T) {
	t.Parallel()
	p := New(Options{AllowMetadata: true, Delay: &Delay{Fraction: Whole}, Abort: &Abort{FromCaller: true, Fraction: Whole}})
	for _, wrong := range []string{"", "0", "-1", "+1", "1.5", " 1", "1 ", "0x1", "1_0", "3600001", "18446744073709551616", "1e3", "١", strings.Repeat("9", 5000)} {
		if f, ok := p.Decide(metadata(HeaderDelay, wrong), always(0)); ok {
			t.Errorf("delay %.20q: %+v", wrong, f)
		}
	}
	for _, wrong := range []string{"", "14", "unavailable", "UNAVAILABLE ", "FINE", "OK"} {
		if f, ok := p.Decide(metadata(HeaderAbort, wrong), always(0)); ok {
			t.Errorf("abort %q: %+v", wrong, f)
		}
	}
	for _, wrong := range []string{"", "-1", "101", "50%", "0.5"} {
		if _, ok := p.Decide(metadata(HeaderDelay, "1", HeaderPercentage, wrong), always(Whole-1)); !ok {
			t.Errorf("percentage %q is not ignored", wrong)
		}
	}
	f, _ := p.Decide(metadata(HeaderDelay, "7", HeaderDelay, "no", HeaderAbort, "no", HeaderAbort, "ABORTED"), always(0))
	if f.Delay != 7*time.Millisecond || f.Code != codes.Aborted {
		t.Errorf("the right one of two: %+v", f)
	}
}

// TestSharesAreMet draws many RPCs: each fault has its share, and they are independent.
func TestSharesAreMet(t *testing.T) {
	t.Parallel()
	const n, delay, abort = 200_000, 2000, 500
	p := New(Options{Delay: &Delay{For: time.Second, Fraction: delay}, Abort: &Abort{Code: codes.Internal, Fraction: abort}})
	rnd := rand.New(rand.NewPCG(1, 2))
	var delayed, aborted, both float64
	for range n {
		f, _ := p.Decide(nil, rnd.Uint64)
		if f.Delay > 0 {
			delayed++
		}
		if f.Abort {
			aborted++
		}
		if f.Delay > 0 && f.Abort {
			both++
		}
	}
	for name, test := range map[string]struct{ got, share float64 }{
		"delayed": {delayed, delay / 1e4}, "aborted": {aborted, abort / 1e4}, "both": {both, delay * abort / 1e8},
	} {
		deviation := math.Sqrt(n * test.share * (1 - test.share))
		if math.Abs(test.got-n*test.share) > 5*deviation {
			t.Errorf("%s: %v of %v, want %v", name, test.got, n, n*test.share)
		}
	}
}

func TestFaultsAtATimeAreBounded(t *testing.T) {
	t.Parallel()
	p := New(Options{MaxActive: 2})
	late, dead := Fault{Delay: 1}, Fault{Abort: true}
	if !p.Begin(late) || !p.Begin(Fault{Delay: 1, Abort: true}) || p.Begin(dead) {
		t.Fatal("not just two begin")
	}
	p.End()
	if !p.Begin(dead) {
		t.Error("none begins though one has ended")
	}
	if got, want := p.Counts(), (Counts{Active: 2, Delayed: 2, Aborted: 2, Unharmed: 1}); got != want {
		t.Errorf("%+v, want %+v", got, want)
	}
	free := New(Options{})
	for range 1000 {
		if !free.Begin(late) {
			t.Fatal("bounded without a bound")
		}
	}
}

func TestFaultsAtATimeAreBoundedForMany(t *testing.T) {
	t.Parallel()
	const bound = 3
	p := New(Options{MaxActive: bound})
	var under atomic.Int32
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 1000 {
				if !p.Begin(Fault{Delay: 1}) {
					continue
				}
				if n := under.Add(1); n > bound {
					t.Errorf("%d under a fault", n)
				}
				under.Add(-1)
				p.End()
			}
		})
	}
	wg.Wait()
	if got := p.Counts(); got.Active != 0 || got.Delayed+got.Unharmed != 8000 {
		t.Errorf("%+v", got)
	}
}

func FuzzDecide(f *testing.F) {
	f.Add("5", "UNAVAILABLE", "50", uint64(4711))
	f.Add("", "", "", uint64(0))
	f.Add("3600001", "OK", "100", uint64(math.MaxUint64))
	p := New(Options{Name: "chaos", AllowMetadata: true, Delay: &Delay{Fraction: 9000}, Abort: &Abort{FromCaller: true, Fraction: 9000}})
	f.Fuzz(func(t *testing.T, delay, abort, percentage string, draw uint64) {
		got, ok := p.Decide(metadata(HeaderDelay, delay, HeaderAbort, abort, HeaderPercentage, percentage), always(draw))
		if ok != (got.Abort || got.Delay != 0) || got.Delay < 0 || got.Delay > time.Hour || got.Code > codes.Unauthenticated {
			t.Errorf("%+v, %v", got, ok)
		}
		if ok && draw%Whole >= 9000 {
			t.Errorf("%+v for a draw of %d", got, draw)
		}
		if got.Delay > 0 && fmt.Sprint(int64(got.Delay/time.Millisecond)) != strings.TrimLeft(delay, "0") {
			t.Errorf("%q became %v", delay, got.Delay)
		}
	})
}

// TestNothingIsAllocated is not parallel: AllocsPerRun counts what every goroutine
// allocates.
func TestNothingIsAllocated(t *testing.T) {
	p := New(Options{AllowMetadata: true, Delay: &Delay{Fraction: 5000}, Abort: &Abort{FromCaller: true, Fraction: Whole}})
	fields := metadata(":path", "/g.G/M", HeaderDelay, "5", HeaderAbort, "UNAVAILABLE", HeaderPercentage, "90")
	if n := testing.AllocsPerRun(1000, func() {
		f, ok := p.Decide(fields, rand.Uint64)
		if ok && p.Begin(f) {
			p.End()
		}
	}); n != 0 {
		t.Errorf("allocates %v times", n)
	}
}

func BenchmarkNothingChosen(b *testing.B) {
	p := New(Options{AllowMetadata: true, Delay: &Delay{Fraction: 5000}})
	fields := metadata(":method", "POST", ":scheme", "http", ":path", "/g.G/M", ":authority", "greeter", "content-type", "application/grpc",
		"user-agent", "grpc-go/1.85.0", "te", "trailers", "grpc-timeout", "1S", "pillion-group", "v2")
	b.ReportAllocs()
	for b.Loop() {
		p.Decide(fields, rand.Uint64)
	}
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	chosen := New(Options{AllowMetadata: true, Delay: &Delay{Fraction: 5000}, Abort: &Abort{FromCaller: true, Fraction: Whole}})
	for _, c := range []struct {
		policy   *Policy
		metadata []string
		want     string
	}{
		{New(Options{Delay: &Delay{For: 2 * time.Second, Fraction: 1}, Abort: &Abort{Code: codes.Unavailable, Fraction: 2500}}), nil, "0.01 % wait 2s, 25 % end UNAVAILABLE"},
		{New(Options{Abort: &Abort{Code: codes.Unavailable}}), nil, ""},
		{chosen, nil, ""},
		{chosen, []string{"pillion-fault-delay-ms", "250", "pillion-fault-abort", "ABORTED", "pillion-fault-percentage", "10"}, "10 % wait 250ms, 10 % end ABORTED"},
	} {
		if got := c.policy.Describe(metadata(c.metadata...)); got != c.want {
			t.Errorf("%v: %q, want %q", c.metadata, got, c.want)
		}
	}
}
