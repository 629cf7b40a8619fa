package soak

import (
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

const mib = 1 << 20

func TestMemoryThatGrowsIsFound(t *testing.T) {
	t.Parallel()

	for _, test := range []struct {
		name string
		of   func(second int) float64
		flat bool
	}{
		{"level", func(int) float64 { return 60 * mib }, true},
		{"level with peaks", func(s int) float64 {
			if s%10 == 0 {
				return 400 * mib
			}

			return 60 * mib
		}, true},
		{"grows at first", func(s int) float64 { return 60*mib + float64(min(s, 50))*mib }, true},
		{"falls", func(s int) float64 { return float64(200-s) * mib }, true},
		{"grows all the time", func(s int) float64 { return 60*mib + float64(s)*mib/2 }, false},
	} {
		var values []float64
		for second := range 180 {
			values = append(values, test.of(second))
		}
		if err := flat("it", values, flatTolerance(long)); (err == nil) != test.flat {
			t.Errorf("%s: %v", test.name, err)
		}
	}
	if err := flat("it", []float64{1, 2}, tolerance{}); err != nil {
		t.Errorf("two samples: %v", err)
	}
}

func TestWhatIsLeftIsFound(t *testing.T) {
	t.Parallel()

	before := rest{Goroutines: 40, FDs: 20}
	for name, test := range map[string]struct {
		now  rest
		none bool
	}{
		"nothing":                  {rest{Goroutines: 40, FDs: 20}, true},
		"less":                     {rest{Goroutines: 30, FDs: 10}, true},
		"whoever asks":             {rest{Goroutines: 43, FDs: 21}, true},
		"goroutines":               {rest{Goroutines: 44, FDs: 20}, false},
		"files":                    {rest{Goroutines: 40, FDs: 24}, false},
		"an RPC":                   {rest{InFlight: 1}, false},
		"a byte":                   {rest{Buffered: 1}, false},
		"a caller's connection":    {rest{Downstream: 1}, false},
		"an instance's connection": {rest{Upstream: 1}, false},
	} {
		if err := left(before, test.now); (err == nil) != test.none {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestGoroutinesAreCounted(t *testing.T) {
	t.Parallel()

	all, kept := countGoroutines(`goroutine profile: total 9
4 @ 0x1 0x2
#	0x1	net/http.(*persistConn).readLoop+0x1	transport.go:1
#	0x2	net/http.(*persistConn).somethingElse+0x1	transport.go:1

4 @ 0x3
#	0x1	net/http.(*persistConn).writeLoop+0x1	transport.go:1

1 @ 0x1
#	0x1	main.main+0x1	main.go:1
`)
	if all != 9 || kept != 8 {
		t.Errorf("%d goroutines, %d of them kept; want 9 and 8", all, kept)
	}
}

func TestOnlyBurstsExcuse(t *testing.T) {
	t.Parallel()

	var b bursts
	now := time.Now()
	b.list = []burst{{from: now, to: now.Add(time.Second)}}
	shed := status.Error(codes.ResourceExhausted, "")
	for name, test := range map[string]struct {
		err         error
		began, done time.Duration
		excused     bool
	}{
		"shed in a burst":          {shed, 100 * time.Millisecond, 200 * time.Millisecond, true},
		"begun in a burst":         {shed, 900 * time.Millisecond, 5 * time.Second, true},
		"shed before":              {shed, -2 * time.Second, -time.Second, false},
		"shed long after":          {shed, time.Minute, time.Minute + time.Second, false},
		"broken in a burst":        {status.Error(codes.Internal, ""), 100 * time.Millisecond, 200 * time.Millisecond, false},
		"the inbound side refused": {status.Error(codes.Unavailable, ""), 100 * time.Millisecond, 200 * time.Millisecond, true},
	} {
		if got := b.excuse(test.err, now.Add(test.began), now.Add(test.done)); got != test.excused {
			t.Errorf("%s: excused is %v", name, got)
		}
	}
}
