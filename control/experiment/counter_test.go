package experiment

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"pgregory.net/rapid"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// everyUnit returns all that a counter keeps, by unit.
func everyUnit(c *counter) map[uint64]*meshv1.UnitCounts {
	units := map[uint64]*meshv1.UnitCounts{}
	for i := range c.shards {
		for _, u := range c.every(i) {
			units[u.GetUnit()] = u
		}
	}
	return units
}

// What is kept are all units below the threshold, with all that was counted of them from
// the first RPC on; they are no more than there may be, and no fewer than need be.
func TestSampleOfUnits(t *testing.T) {
	t.Parallel()
	measures := compileMeasures(document(t, "all"))
	rapid.Check(t, func(t *rapid.T) {
		most := rapid.IntRange(100, 2000).Draw(t, "most")
		c := newCounter(measures, 2, most)
		random := rand.New(rand.NewPCG(rapid.Uint64().Draw(t, "seed"), 0))
		units := make([]uint64, rapid.IntRange(1, 5000).Draw(t, "units"))
		for i := range units {
			units[i] = random.Uint64() | 1
		}
		raw := map[uint64]cell{}
		for range rapid.IntRange(1, 10_000).Draw(t, "rpcs") {
			unit := units[random.IntN(len(units))]
			o := telemetry.Outcome{Unit: unit, Code: codes.Code(14 * random.IntN(2))}
			c.count(uint8(unit>>63), &o)
			v, _ := measures[0].value(&o)
			raw[unit] = cell{raw[unit].count + 1, raw[unit].sum + v}
		}
		kept, below := everyUnit(c), 0
		for unit, want := range raw {
			u := kept[unit]
			if mix(unit) >= c.threshold.Load() {
				if u != nil {
					t.Fatalf("unit %x is kept, above the threshold", unit)
				}
				continue
			}
			below++
			if m := u.GetMeasures(); len(m) != 2 || m[0].GetCount() != want.count || m[0].GetSum() != want.sum || u.GetVariant() != uint32(unit>>63) {
				t.Fatalf("unit %x has %v, not %+v", unit, u, want)
			}
		}
		if below != len(kept) || below > most {
			t.Fatalf("%d of %d units are kept, at most %d may be", len(kept), below, most)
		}
		if len(raw) < most/4 && c.threshold.Load() != everything {
			t.Fatalf("of %d units, of which %d may be kept, only a part is", len(raw), most)
		}
		if len(raw) > 8*most && below < most/8 {
			t.Fatalf("only %d of %d units are kept, though %d may be", below, len(raw), most)
		}
	})
}

// Two sidecars that have seen other units keep the same ones of those that both have, once
// both have the lower threshold.
func TestSidecarsKeepTheSameUnits(t *testing.T) {
	t.Parallel()
	measures := compileMeasures(document(t, "all"))
	busy, idle := newCounter(measures, 2, 100), newCounter(measures, 2, 100_000)
	for unit := range uint64(5000) {
		busy.count(0, &telemetry.Outcome{Unit: unit + 1})
		idle.count(0, &telemetry.Outcome{Unit: unit + 2501})
	}
	idle.lower(busy.threshold.Load())
	a, b := everyUnit(busy), everyUnit(idle)
	for unit := range uint64(2500) {
		if (a[unit+2501] == nil) != (b[unit+2501] == nil) {
			t.Errorf("unit %d is kept by one of them alone", unit+2501)
		}
	}
	if len(a) == 0 || len(b) == 0 {
		t.Error("nothing is kept")
	}
}

func TestWhatDoesNotCount(t *testing.T) {
	t.Parallel()
	c := newCounter(compileMeasures(document(t, "all")), 2, 100)
	for _, o := range []telemetry.Outcome{{Unit: 7, Forced: true}, {Unit: 7, Excused: true}, {}} {
		c.count(0, &o)
	}
	if n := len(everyUnit(c)); n != 0 {
		t.Errorf("%d units count", n)
	}
}

// A unit that is seen in two variants counts for nothing, and is said to be so.
func TestUnitsThatCross(t *testing.T) {
	t.Parallel()
	c := newCounter(compileMeasures(document(t, "all")), 2, 100)
	for _, variant := range []uint8{0, 0, 1, 0, 1} {
		c.count(variant, &telemetry.Outcome{Unit: 7})
	}
	c.count(1, &telemetry.Outcome{Unit: 8})
	units, crossed := c.sizes()
	if crossed != 1 || units[0] != 0 || units[1] != 1 {
		t.Errorf("%v units, and %d crossed", units, crossed)
	}
	list, more := c.drain(10)
	if len(list) != 2 || more || !everyUnit(c)[7].GetCrossed() || everyUnit(c)[8].GetCrossed() {
		t.Errorf("%v is reported", list)
	}
}

// Counting, reporting and forgetting at once loses nothing of what is kept.
func TestCountingAtOnce(t *testing.T) {
	t.Parallel()
	c := newCounter(compileMeasures(document(t, "all")), 2, 300)
	const workers, each, of = 4, 5000, 2000
	var all sync.WaitGroup
	for range workers {
		all.Go(func() {
			for i := range each {
				c.count(0, &telemetry.Outcome{Unit: uint64(i%of) + 1})
			}
		})
	}
	all.Go(func() {
		for range 50 {
			c.drain(100)
			c.sizes()
		}
	})
	all.Wait()
	if len(everyUnit(c)) == 0 {
		t.Fatal("nothing is kept")
	}
	for unit, u := range everyUnit(c) {
		want := uint64(workers * (each / of))
		if (unit-1)%of < each%of {
			want += workers
		}
		if u.GetMeasures()[0].GetCount() != want {
			t.Errorf("unit %d has %d RPCs, not %d", unit, u.GetMeasures()[0].GetCount(), want)
		}
	}
}

// What an experiment costs an RPC, with units that are known and with ever new ones of
// which a sample is kept.
func BenchmarkCount(b *testing.B) {
	measures := compileMeasures(document(b, "all"))
	for _, units := range []uint64{1000, 10_000_000} {
		b.Run(fmt.Sprintf("units=%d", units), func(b *testing.B) {
			c := newCounter(measures, 2, 20_000)
			b.ReportAllocs()
			b.RunParallel(func(pb *testing.PB) {
				random := rand.New(rand.NewPCG(rand.Uint64(), 0))
				o := telemetry.Outcome{Took: time.Millisecond}
				for pb.Next() {
					unit := mix(random.Uint64N(units)) | 1
					o.Unit = unit
					c.count(uint8(unit>>63), &o)
				}
			})
		})
	}
}
