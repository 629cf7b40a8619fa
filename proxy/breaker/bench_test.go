package breaker

import (
	"testing"
	"time"
)

var everything = Trip{ConsecutiveFailures: 5, FailureRatio: 0.5, SlowCallRatio: 0.5, SlowCall: time.Second}

func BenchmarkClosed(b *testing.B) {
	for name, trip := range map[string]Trip{
		"none":        {},
		"consecutive": {ConsecutiveFailures: 5},
		"all":         everything,
	} {
		b.Run(name, func(b *testing.B) {
			br := New(trip, nil)
			b.ReportAllocs()
			now := time.Now()
			for b.Loop() {
				t, _ := br.Allow(now)
				br.Done(now, t, Success, time.Millisecond)
			}
		})
	}
}

func BenchmarkClosedParallel(b *testing.B) {
	br := New(everything, nil)
	b.RunParallel(func(pb *testing.PB) {
		now := time.Now()
		for pb.Next() {
			t, _ := br.Allow(now)
			br.Done(now, t, Success, time.Millisecond)
		}
	})
}

func BenchmarkOpen(b *testing.B) {
	br := New(Trip{ConsecutiveFailures: 1, OpenFor: time.Hour}, nil)
	now := time.Now()
	t, _ := br.Allow(now)
	br.Done(now, t, Failure, 0)
	b.ReportAllocs()
	for b.Loop() {
		if _, ok := br.Allow(now); ok {
			b.Fatal("allowed")
		}
	}
}

func BenchmarkCircuit(b *testing.B) {
	p := NewPolicy(PolicyOptions{Trip: &everything, MaxConcurrent: 100, MaxPending: 100})
	now := time.Now()
	var place Place
	service, path := "greeter", "/helloworld.Greeter/SayHello"
	b.ReportAllocs()
	for b.Loop() {
		p.Circuit(service, path).Enter(now, &place, nil, 1)
		place.Leave(now, Success, time.Millisecond)
	}
}
