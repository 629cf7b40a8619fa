package observe

import (
	"errors"
	"math/bits"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// Every duration lies in the bucket whose bounds are on both sides of it.
func TestBucketOf(t *testing.T) {
	t.Parallel()
	for i := range Buckets - 1 {
		for d, want := range map[time.Duration]int{Bound(i): i, Bound(i) + 1: i + 1} {
			if got := BucketOf(d); got != want {
				t.Errorf("BucketOf(%d) = %d, want %d", d, got, want)
			}
		}
	}
	for _, d := range []time.Duration{-1, 0, 1} {
		if BucketOf(d) != 0 {
			t.Errorf("BucketOf(%d) = %d", d, BucketOf(d))
		}
	}
	rapid.Check(t, func(t *rapid.T) {
		d := time.Duration(rapid.Int64().Draw(t, "d"))
		i := BucketOf(d)
		if d > Bound(i) || i > 0 && d <= Bound(i-1) {
			t.Fatalf("BucketOf(%d) = %d, which ends at %d", d, i, Bound(i))
		}
	})
}

// Many goroutines count at once, and nothing is lost, nothing allocated.
func TestCounter(t *testing.T) {
	c, _ := NewPair()
	var wg sync.WaitGroup
	const each = 1000
	for g := range 8 {
		wg.Go(func() {
			for i := range each {
				c.Ended(&telemetry.Outcome{Code: codes.Code(i % 20), Took: time.Duration(i) * time.Millisecond})
				c.Ended(&telemetry.Outcome{Code: codes.Internal, Excused: true, Unit: uint64(g)})
			}
		})
	}
	wg.Wait()
	var got Counts
	c.Read(&got)
	if got.RPCs() != 8*each || got.Timed() != 8*each {
		t.Errorf("counted %d and %d of %d", got.RPCs(), got.Timed(), 8*each)
	}
	// Of 20 codes, 17 to 19 are none of gRPC's: they count as UNKNOWN.
	if got.Codes[codes.Unknown] != 8*each/20*4 {
		t.Errorf("%d UNKNOWN", got.Codes[codes.Unknown])
	}
	if d := got.Percentile(50); d < 499*time.Millisecond || d > 545*time.Millisecond {
		t.Errorf("half took %v", d)
	}
	o := &telemetry.Outcome{Code: codes.Internal, Unit: 77777, Took: time.Second}
	if n := testing.AllocsPerRun(100, func() { c.Ended(o) }); n > 0 {
		t.Errorf("%v allocations for an RPC", n)
	}
}

// One key's failures count no more than once where there are many keys, in one group or
// in the other; where it is one of a few, all do.
func TestUnits(t *testing.T) {
	t.Parallel()
	hash := func(i uint64) uint64 { return bits.Reverse64((i + 1) * 0x9e3779b97f4a7c15) }
	for name, tt := range map[string]struct {
		keys uint64
		want uint64
	}{
		"many keys": {500, 1},
		"few keys":  {10, 50},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := NewPair()
			for i := range tt.keys {
				c := a
				if i%2 == 1 {
					c = b
				}
				c.Ended(&telemetry.Outcome{Unit: hash(i)})
			}
			for i := range 50 {
				c := a
				if i%2 == 1 {
					c = b
				}
				c.Ended(&telemetry.Outcome{Unit: hash(1), Code: codes.Internal})
			}
			var of, other Counts
			a.Read(&of)
			b.Read(&other)
			of.Merge(&other)
			if n := of.Codes[codes.Internal]; n != tt.want {
				t.Errorf("%d failures count, want %d", n, tt.want)
			}
			if of.Codes[codes.OK] != tt.keys {
				t.Errorf("%d of %d successes count", of.Codes[codes.OK], tt.keys)
			}
		})
	}
}

func drawn() *rapid.Generator[Counts] {
	return rapid.Custom(func(t *rapid.T) (c Counts) {
		for i, n := range rapid.MapOf(rapid.IntRange(0, Codes-1), rapid.Uint64Range(0, maxCount)).Draw(t, "codes") {
			c.Codes[i] = n
		}
		for i, n := range rapid.MapOf(rapid.IntRange(0, Buckets-1), rapid.Uint64Range(0, maxCount)).Draw(t, "buckets") {
			c.Buckets[i] = n
		}
		c.Ejections = rapid.Uint64Range(0, maxCount).Draw(t, "ejections")
		c.Instances = rapid.Uint32Range(0, maxInstances).Draw(t, "instances")
		return c
	})
}

// Counts are the same after they went over the wire, and what was added is the difference.
func TestCountsProperties(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		a, b := drawn().Draw(t, "a"), drawn().Draw(t, "b")
		back, err := FromProto(a.Proto())
		if err != nil || back != a {
			t.Fatalf("%+v became %+v, %v", a, back, err)
		}
		sum := a
		sum.add(&b)
		sum.Ejections += b.Ejections
		sum.Instances = b.Instances
		d, err := sum.Since(&a)
		if err != nil || d != b {
			t.Fatalf("the difference is %+v, %v, not %+v", d, err, b)
		}
		if a.RPCs() > 0 {
			if _, err := a.Since(&sum); b.RPCs() > 0 && !errors.Is(err, ErrBackwards) {
				t.Fatalf("counts that go backwards: %v", err)
			}
		}
		if p, ok := a.PercentileBucket(90); ok && a.Over(p)*10 > a.Timed() {
			t.Fatalf("%d of %d take longer than the percentile", a.Over(p), a.Timed())
		}
	})
}

// What another sidecar says is refused where it cannot be.
func FuzzFromProto(f *testing.F) {
	for _, g := range []*meshv1.GroupCounts{
		{},
		{Codes: map[uint32]uint64{0: 1, 16: 2}, Buckets: map[uint32]uint64{0: 3, Buckets - 1: 1}, Ejections: 1, Instances: 4},
		{Codes: map[uint32]uint64{17: 1}},
		{Buckets: map[uint32]uint64{Buckets: 1}},
		{Buckets: map[uint32]uint64{1 << 31: 1 << 63}},
	} {
		b, err := proto.Marshal(g)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		var g meshv1.GroupCounts
		if proto.Unmarshal(b, &g) != nil {
			return
		}
		c, err := FromProto(&g)
		if err != nil {
			return
		}
		if again, err := FromProto(c.Proto()); err != nil || again != c {
			t.Errorf("%v", err)
		}
	})
}

func TestHostileCounts(t *testing.T) {
	t.Parallel()
	for name, g := range map[string]*meshv1.GroupCounts{
		"code":      {Codes: map[uint32]uint64{17: 1}},
		"huge code": {Codes: map[uint32]uint64{1 << 31: 1}},
		"bucket":    {Buckets: map[uint32]uint64{Buckets: 1}},
		"number":    {Codes: map[uint32]uint64{0: 1 << 60}},
		"in bucket": {Buckets: map[uint32]uint64{0: 1 << 60}},
		"ejections": {Ejections: 1 << 60},
		"instances": {Instances: 1 << 30},
	} {
		if c, err := FromProto(g); err == nil {
			t.Errorf("%s: taken as %+v", name, c)
		}
	}
}

func BenchmarkCounter(b *testing.B) {
	c, _ := NewPair()
	b.RunParallel(func(pb *testing.PB) {
		o := &telemetry.Outcome{Took: 700 * time.Microsecond, Unit: 0x9e3779b97f4a7c15}
		for pb.Next() {
			c.Ended(o)
		}
	})
}
