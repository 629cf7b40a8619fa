package ratelimit

import (
	"fmt"
	"math"
	"math/big"
	"sync"
	"sync/atomic"
	"testing"
	"time"
	"unsafe"

	"pgregory.net/rapid"
)

var start = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// passed says how many of n RPCs pass at a time.
func passed(m *Limiter, now time.Time, key string, n int) (ok int) {
	for range n {
		if _, pass := m.Take(now, key); pass {
			ok++
		}
	}
	return ok
}

func TestABurstThenTheRate(t *testing.T) {
	t.Parallel()
	m := New(Limit{Requests: 10, Burst: 3})
	if got := passed(m, start, "", 9); got != 3 {
		t.Fatalf("%d passed at once", got)
	}
	if wait, ok := m.Take(start.Add(30*time.Millisecond), ""); ok || wait != 70*time.Millisecond {
		t.Errorf("%v, %v", wait, ok)
	}
	now := start
	for range 5 {
		now = now.Add(100 * time.Millisecond)
		if got := passed(m, now, "", 5); got != 1 {
			t.Errorf("%d passed at %v", got, now)
		}
	}
	if got := passed(m, now.Add(time.Hour), "", 9); got != 3 {
		t.Errorf("%d passed after a pause", got)
	}
	if m.Refused() != 6+1+5*4+6 {
		t.Errorf("%d refused", m.Refused())
	}
}

func TestDefaults(t *testing.T) {
	t.Parallel()
	if got := passed(New(Limit{Requests: 7}), start, "", 20); got != 7 {
		t.Errorf("%d passed at once: the burst is not the number of requests", got)
	}
	m := New(Limit{})
	if got := passed(m, start, "", 20); got != 1 {
		t.Errorf("%d passed", got)
	}
	if wait, _ := m.Take(start, ""); wait != time.Second {
		t.Errorf("to wait %v", wait)
	}
}

func TestABurstOfAnySize(t *testing.T) {
	t.Parallel()
	// The time for the whole burst has more than 64 bits, of which the lower 64 are few.
	m := New(Limit{Requests: 1, Interval: 24 * time.Hour, Burst: 213_504})
	if got := passed(m, start, "", 10_000); got != 10_000 {
		t.Errorf("%d passed at once", got)
	}
}

func TestKeysHaveBucketsOfTheirOwn(t *testing.T) {
	t.Parallel()
	m := New(Limit{Requests: 2, MaxKeys: 100})
	for _, key := range []string{"ann", "bob", ""} {
		if got := passed(m, start, key, 5); got != 2 {
			t.Errorf("%d of %q passed", got, key)
		}
	}
	if m.Keys() != 2 {
		t.Errorf("%d keys", m.Keys())
	}
	alike := New(Limit{Requests: 2})
	if got := passed(alike, start, "ann", 2) + passed(alike, start, "bob", 2); got != 2 || alike.Keys() != 0 {
		t.Errorf("%d passed, %d keys, where all share one bucket", got, alike.Keys())
	}
}

func TestTheKeyUsedLongestAgoIsForgotten(t *testing.T) {
	t.Parallel()
	m := New(Limit{Requests: 1, Interval: time.Hour, MaxKeys: 3})
	take := func(key string, want bool) {
		t.Helper()
		if _, ok := m.Take(start, key); ok != want {
			t.Errorf("%q passes: %v", key, ok)
		}
	}
	take("a", true)
	take("b", true)
	take("c", true)
	take("a", false) // used again, though in vain
	take("d", true)  // b goes
	take("a", false)
	take("c", false)
	take("d", false)
	take("b", true) // anew; a goes
	take("c", false)
	take("d", false)
	take("b", false)
	take("a", true)
	if m.Keys() != 3 {
		t.Errorf("%d keys", m.Keys())
	}
}

func TestAKeyThatHasAFullBucketAgainMakesRoom(t *testing.T) {
	t.Parallel()
	m := New(Limit{Requests: 10, MaxKeys: 1000})
	for i := range 10_000 {
		m.Take(start.Add(time.Duration(i)*10*time.Millisecond), fmt.Sprint(i))
	}
	if m.Keys() > 11 { // a bucket is full again after 100 ms
		t.Errorf("%d keys", m.Keys())
	}
}

func TestKeysAreBounded(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 1000, 1023, 1024, 10_000} {
		m := New(Limit{Requests: 1, Interval: time.Hour, MaxKeys: limit})
		for i := range limit + limit/2 + 1 {
			m.Take(start, fmt.Sprint(i))
		}
		// Where there are several shards, they are not exactly even.
		if n := m.Keys(); n > limit || float64(n) < 0.97*float64(limit) {
			t.Errorf("%d keys, at most %d", n, limit)
		}
		used := 0
		for i := range m.keys.shards {
			used += len(m.keys.shards[i].nodes)
		}
		if used > limit {
			t.Errorf("memory for %d keys, at most %d", used, limit)
		}
	}
}

func TestWhatIsReturnedMayBeTakenAgain(t *testing.T) {
	t.Parallel()
	for _, key := range []string{"", "ann"} {
		m := New(Limit{Requests: 3, MaxKeys: 1})
		passed(m, start, key, 3)
		m.Return(key)
		if got := passed(m, start, key, 3); got != 1 {
			t.Errorf("%d of %q passed", got, key)
		}
		m.Return("forgotten") // not an error
		// Even what was never taken must not block the bucket.
		for range 100 {
			m.Return(key)
		}
		if _, ok := m.Take(start, key); !ok {
			t.Errorf("none of %q passes", key)
		}
	}
	m := New(Limit{})
	m.Return("")
	if got := passed(m, start, "", 3); got != 1 {
		t.Errorf("%d pass where one was returned before any was taken", got)
	}
}

func TestKeysKeepNoCallersMemory(t *testing.T) {
	t.Parallel()
	m := New(Limit{Requests: 1, Interval: time.Hour, MaxKeys: 10})
	buf := []byte("ann")
	m.Take(start, unsafe.String(&buf[0], len(buf)))
	copy(buf, "bob")
	if _, ok := m.Take(start, "ann"); ok {
		t.Error("ann was forgotten")
	}
	if _, ok := m.Take(start, "bob"); !ok {
		t.Error("bob is taken for ann")
	}
}

// TestNoMoreThanTheLimit holds limiters against what a limit promises: in no span of
// time more than a burst and the rate times the span, and not much less either where
// there is always somebody; and whoever comes when they were told to passes.
func TestNoMoreThanTheLimit(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		l := Limit{
			Requests: rapid.OneOf(rapid.IntRange(1, 50), rapid.IntRange(1, 100_000_000)).Draw(rt, "requests"),
			Interval: time.Duration(rapid.OneOf(rapid.Int64Range(1e6, 1e10), rapid.Int64Range(1e6, 864e11)).Draw(rt, "interval")),
			Burst:    rapid.OneOf(rapid.IntRange(1, 20), rapid.IntRange(1, 100_000_000)).Draw(rt, "burst"),
			MaxKeys:  rapid.IntRange(0, 2).Draw(rt, "keys"),
		}
		m := New(l)
		each := float64(l.Interval) / float64(l.Requests)
		steps := rapid.SliceOfN(rapid.Float64Range(0, 3), 1, 60).Draw(rt, "steps")
		tries := rapid.IntRange(1, 30).Draw(rt, "tries")
		now := start
		var times []time.Time // of those that passed
		for _, step := range steps {
			now = now.Add(time.Duration(step * each))
			for range tries {
				wait, ok := m.Take(now, "ann")
				if ok {
					times = append(times, now)
					continue
				}
				if wait <= 0 || wait > time.Duration(math.Ceil(each)) {
					rt.Fatalf("to wait %v, with one RPC each %v ns", wait, each)
				}
				if early, ok := m.Take(now.Add(wait-1), "ann"); ok || early != 1 {
					rt.Fatalf("passes 1 ns before it should, or is to wait %v", early)
				}
				now = now.Add(wait)
				if _, ok := m.Take(now, "ann"); !ok {
					rt.Fatalf("refused when it was told to come")
				}
				times = append(times, now)
			}
		}
		// Between the i-th and the j-th, (j-i+1-burst) * interval <= requests * span. In
		// whole numbers, because floats err here; and with what i and j bring on one
		// side each, it is enough to look at the largest i.
		var most *big.Int
		for k, at := range times {
			x := new(big.Int).Mul(big.NewInt(int64(l.Requests)), big.NewInt(int64(at.Sub(start))))
			x.Sub(x, new(big.Int).Mul(big.NewInt(int64(k)), big.NewInt(int64(l.Interval))))
			if most == nil || x.Cmp(most) > 0 {
				most = x
			}
			least := new(big.Int).Mul(big.NewInt(int64(1-l.Burst)), big.NewInt(int64(l.Interval)))
			if new(big.Int).Sub(x, most).Cmp(least) < 0 {
				rt.Fatalf("the %d. of %v is too many", k+1, times)
			}
		}
	})
}

func TestAllOfTheRateIsUsed(t *testing.T) {
	t.Parallel()
	for _, l := range []Limit{{Requests: 3}, {Requests: 1000}, {Requests: 999_983}, {Requests: 7, Interval: time.Hour}} {
		l.Burst = 1
		m := New(l)
		l = l.WithDefaults()
		now, ok := start, 0
		span := 1000 * l.Interval / time.Duration(l.Requests)
		for now.Sub(start) < span {
			wait, pass := m.Take(now, "")
			if pass {
				ok++
				continue
			}
			now = now.Add(wait)
		}
		if ok < 998 || ok > 1001 {
			t.Errorf("%+v: %d passed in the time for 1000", l, ok)
		}
	}
}

// TestManyAtOnce has goroutines take from the same buckets.
func TestManyAtOnce(t *testing.T) {
	t.Parallel()
	const burst, workers, tries = 50, 8, 300
	m := New(Limit{Requests: 1, Interval: time.Hour, Burst: burst, MaxKeys: 10})
	var wg sync.WaitGroup
	var ok [2]atomic.Int64
	for range workers {
		wg.Go(func() {
			for i := range tries {
				key := []string{"", "ann"}[i%2]
				if _, pass := m.Take(start, key); pass {
					if ok[i%2].Add(1); i%4 < 2 {
						ok[i%2].Add(-1)
						m.Return(key)
					}
				}
			}
		})
	}
	wg.Wait()
	for i := range ok {
		if n := ok[i].Load(); n > burst || n < 1 {
			t.Errorf("bucket %d: %d passed", i, n)
		}
	}
	for i, key := range []string{"", "ann"} {
		if n := passed(m, start, key, 2*burst) + int(ok[i].Load()); n != burst {
			t.Errorf("bucket %d: %d passed in all", i, n)
		}
	}
}

// TestNothingIsAllocated is not parallel: AllocsPerRun counts what every goroutine
// allocates.
func TestNothingIsAllocated(t *testing.T) {
	m := New(Limit{Requests: 1000, MaxKeys: 10})
	m.Take(start, "ann")
	m.Take(start, "bob")
	now := start
	if n := testing.AllocsPerRun(5000, func() {
		now = now.Add(100 * time.Microsecond)
		m.Take(now, "ann")
		m.Take(now, "bob")
		m.Take(now, "")
		m.Return("ann")
	}); n != 0 {
		t.Errorf("allocates %v times", n)
	}
}
