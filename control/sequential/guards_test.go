package sequential

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"pgregory.net/rapid"
)

// weather is a failure ratio that both versions share, and which changes all the time.
func weather(rpc int) float64 {
	if rpc/700%5 == 4 { // an outage now and then
		return 0.5
	}
	return 0.02 + 0.019*math.Sin(float64(rpc)/300)
}

const (
	guardRuns  = 400
	guardRPCs  = 3000
	guardAlpha = 0.05 // a large one shows sooner where a test is wrong
)

// guardWorld is what a guard against the stable version sees, RPC by RPC, of two versions
// that are alike.
type guardWorld struct {
	name string
	// canary says whose an RPC is, and fails whether it fails.
	next func(r *rand.Rand, rpc int) (canary, fails bool)
	// share is the assigned share, and every how many RPCs they are added.
	share func(rpc int) float64
	batch int
	// ratio is the guard's.
	ratio float64
}

func guardWorlds() []guardWorld {
	steady := func(share float64) func(int) float64 { return func(int) float64 { return share } }
	steps := func(rpc int) float64 { return []float64{0.1, 0.5, 0.9}[min(rpc/(guardRPCs/3), 2)] }
	common := func(share func(int) float64) func(*rand.Rand, int) (bool, bool) {
		return func(r *rand.Rand, rpc int) (bool, bool) {
			return r.Float64() < share(rpc), r.Float64() < weather(rpc)
		}
	}
	return []guardWorld{
		{name: "after every RPC", next: common(steady(0.1)), share: steady(0.1), batch: 1, ratio: 1},
		{name: "half", next: common(steady(0.5)), share: steady(0.5), batch: 1, ratio: 1},
		{name: "in batches", next: common(steady(0.1)), share: steady(0.1), batch: 97, ratio: 1},
		{name: "over steps", next: common(steps), share: steps, batch: 10, ratio: 1},
		{name: "as bad as it may be", next: func(r *rand.Rand, rpc int) (bool, bool) {
			canary, p := r.Float64() < 0.1, min(weather(rpc), 0.33)
			if canary {
				p *= 3
			}
			return canary, r.Float64() < p
		}, share: steady(0.1), batch: 1, ratio: 3},
		{name: "the canary has busier keys than assigned", next: common(steady(0.2)), share: steady(0.1), batch: 1, ratio: 1},
		{name: "the canary answers faster", next: func(r *rand.Rand, rpc int) (bool, bool) {
			// Those of the stable version arrive 50 RPCs late.
			return rpc < 5 || r.Float64() < 0.1, r.Float64() < weather(rpc)
		}, share: steady(0.1), batch: 1, ratio: 1},
	}
}

// TestLabelsRaiseNoFalseAlarms looks after every RPC (or batch) of long runs in which the
// canary is just as bad as it may be, while the common failure ratio goes up and down.
func TestLabelsRaiseNoFalseAlarms(t *testing.T) {
	t.Parallel()
	for _, w := range guardWorlds() {
		t.Run(w.name, func(t *testing.T) {
			t.Parallel()
			alarms, naive := 0, 0
			for i := range uint64(guardRuns) {
				r := rand.New(rand.NewPCG(5, i))
				test, err := NewLabels(w.ratio)
				if err != nil {
					t.Fatal(err)
				}
				var c, all LabelCounts
				alarm, naiveAlarm := false, false
				for rpc := range guardRPCs {
					canary, fails := w.next(r, rpc)
					c.count(canary, fails)
					if (rpc+1)%w.batch > 0 {
						continue
					}
					c.Share = w.share(rpc)
					test.Add(c)
					all.CanaryEvents, all.StableEvents = all.CanaryEvents+c.CanaryEvents, all.StableEvents+c.StableEvents
					all.CanaryRPCs, all.StableRPCs = all.CanaryRPCs+c.CanaryRPCs, all.StableRPCs+c.StableRPCs
					if fresh := c.CanaryEvents > 0; fresh {
						alarm = alarm || test.Rejects(guardAlpha)
						naiveAlarm = naiveAlarm || all.oftener(w.ratio)
					}
					c = LabelCounts{}
				}
				if alarm != (test.P() <= guardAlpha) {
					t.Fatalf("run %d: the guard rejected: %v, but its least p-value is %v", i, alarm, test.P())
				}
				if alarm {
					alarms++
				}
				if naiveAlarm {
					naive++
				}
			}
			t.Logf("%d of %d runs (%.1f %%); comparison of two rates at each look: %.1f %%", alarms, guardRuns, 100*float64(alarms)/guardRuns, 100*float64(naive)/guardRuns)
			if alarms > guardRuns*guardAlpha {
				t.Errorf("%d of %d canaries that are no worse than they may be are rolled back", alarms, guardRuns)
			}
			if naive < 2*guardRuns*guardAlpha {
				t.Errorf("an ordinary test at each look rolls only %d back: the simulation tests nothing", naive)
			}
		})
	}
}

func (c *LabelCounts) count(canary, fails bool) {
	event := uint64(0)
	if fails {
		event = 1
	}
	if canary {
		c.CanaryRPCs, c.CanaryEvents = c.CanaryRPCs+1, c.CanaryEvents+event
	} else {
		c.StableRPCs, c.StableEvents = c.StableRPCs+1, c.StableEvents+event
	}
}

// oftener is the ordinary one-sided test at 5 % of whether the canary's RPCs fail oftener.
func (c *LabelCounts) oftener(ratio float64) bool {
	w := float64(c.CanaryRPCs) / float64(c.CanaryRPCs+c.StableRPCs)
	q, n := ratio*w/(ratio*w+1-w), float64(c.CanaryEvents+c.StableEvents)
	return c.CanaryEvents >= 5 && (float64(c.CanaryEvents)-n*q)/math.Sqrt(n*q*(1-q)) > 1.645
}

// TestLabelsOfStickyKeys shows what clustering does: one key in twenty fails half of its
// RPCs, on either version. If all failures count, keys that happen to be the canary's are
// taken for the canary's fault; if a key's first failure counts alone, they are not.
func TestLabelsOfStickyKeys(t *testing.T) {
	t.Parallel()
	const keys, rpcs, share = 200, 2000, 0.1
	everyAlarms, firstAlarms := 0, 0
	for i := range uint64(guardRuns) {
		r := rand.New(rand.NewPCG(6, i))
		var canary, bad, failed [keys]bool
		for k := range keys {
			canary[k], bad[k] = r.Float64() < share, r.Float64() < 0.05
		}
		every, _ := NewLabels(1)
		first, _ := NewLabels(1)
		for range rpcs {
			k := r.IntN(keys)
			fails := bad[k] && r.Float64() < 0.5
			one := LabelCounts{Share: share}
			one.count(canary[k], fails)
			every.Add(one)
			if one = (LabelCounts{Share: share}); true {
				one.count(canary[k], fails && !failed[k])
			}
			first.Add(one)
			failed[k] = failed[k] || fails
		}
		if every.P() <= guardAlpha {
			everyAlarms++
		}
		if first.P() <= guardAlpha {
			firstAlarms++
		}
	}
	t.Logf("all failures: %.1f %% false alarms; each key's first: %.1f %%", 100*float64(everyAlarms)/guardRuns, 100*float64(firstAlarms)/guardRuns)
	if firstAlarms > guardRuns*guardAlpha {
		t.Errorf("%d of %d false alarms although only the first failure of each key counts", firstAlarms, guardRuns)
	}
	if everyAlarms < 2*guardRuns*guardAlpha {
		t.Errorf("only %d of %d false alarms where all count: the simulation tests nothing", everyAlarms, guardRuns)
	}
}

// TestLabelsTogether has slow RPCs come in bursts of 20 of one instance.
func TestLabelsTogether(t *testing.T) {
	t.Parallel()
	const bursts, of, share = 60, 20, 0.1
	alone, together := 0, 0
	for i := range uint64(guardRuns) {
		r := rand.New(rand.NewPCG(8, i))
		all, weighed := must(NewLabels(1)), must(NewLabels(1))
		for range bursts {
			c := LabelCounts{CanaryRPCs: 100, StableRPCs: 900, Share: share, StableEvents: of}
			if r.Float64() < share {
				c.CanaryEvents, c.StableEvents = of, 0
			}
			all.Add(c)
			c.Together = of
			weighed.Add(c)
		}
		if all.P() <= guardAlpha {
			alone++
		}
		if weighed.P() <= guardAlpha {
			together++
		}
	}
	t.Logf("as single events: %.1f %% false alarms; as bursts: %.1f %%", 100*float64(alone)/guardRuns, 100*float64(together)/guardRuns)
	if together > guardRuns*guardAlpha || alone < 2*guardRuns*guardAlpha {
		t.Errorf("%d of %d false alarms as bursts, %d as single events", together, guardRuns, alone)
	}
}

// TestExceedsRaisesNoFalseAlarms looks after every RPC of long runs that are as bad as
// they may be at most.
func TestExceedsRaisesNoFalseAlarms(t *testing.T) {
	t.Parallel()
	for _, limit := range []float64{0.001, 0.01, 0.2} {
		alarms, naive := 0, 0
		for i := range uint64(guardRuns) {
			r := rand.New(rand.NewPCG(9, i))
			test := must(NewExceeds(limit))
			failures, naiveAlarm := 0.0, false
			for rpc := range guardRPCs {
				p := limit
				if i%2 == 0 && rpc/500%2 == 0 { // It may be better at times.
					p /= 2
				}
				if r.Float64() >= p {
					test.Add(1, 0)
					continue
				}
				test.Add(1, 1)
				failures++
				n := float64(rpc + 1)
				naiveAlarm = naiveAlarm || failures >= 3 && (failures-n*limit)/math.Sqrt(n*limit*(1-limit)) > 1.645
			}
			if test.P() <= guardAlpha {
				alarms++
			}
			if naiveAlarm {
				naive++
			}
		}
		t.Logf("limit %v: %d of %d runs; ordinary test at each look: %d", limit, alarms, guardRuns, naive)
		if alarms > guardRuns*guardAlpha {
			t.Errorf("limit %v: %d of %d canaries that are no worse than they may be are rolled back", limit, alarms, guardRuns)
		}
		if naive < 2*guardRuns*guardAlpha {
			t.Errorf("limit %v: an ordinary test at each look rolls only %d back: the simulation tests nothing", limit, naive)
		}
	}
}

// TestDetection says how fast a canary is found that fails 10 % of its RPCs, where 0.1 %
// of the stable version's fail. The figures are in docs/experiments.md.
func TestDetection(t *testing.T) {
	t.Parallel()
	d := Detection{Stable: 0.001, Canary: 0.1, Alpha: 0.005, MinRPCs: 20, MinFailures: 5}
	about := func(got, want uint64) bool { return math.Abs(float64(got)/float64(want)-1) < 0.1 }
	for _, c := range []struct {
		share        float64
		median, most uint64
	}{{0.01, 47, 77}, {0.1, 46, 76}, {0.25, 51, 87}, {0.5, 96, 148}, {0.9, 616, 778}} {
		d.Share = c.share
		got := must(d.Labels(1))
		t.Logf("against stable, with %v of the RPCs: %+v", c.share, got)
		if !about(got.Median, c.median) || !about(got.Most, c.most) {
			t.Errorf("against stable, with %v of the RPCs: %+v, want about %d and %d", c.share, got, c.median, c.most)
		}
	}
	if got := must(d.Exceeds(0.01)); !about(got.Median, 47) || !about(got.Most, 99) {
		t.Errorf("at most 1 %%: %+v, want about 47 and 99", got)
	}
	d.Canary = 0.001
	d.Share = 0.1
	if got := must(d.Labels(1)); got != (Detected{}) {
		t.Errorf("a canary that is no worse is found: %+v", got)
	}
	if _, err := (Detection{Canary: 0.1, Alpha: 0.01}).Exceeds(0); err == nil {
		t.Error("a limit of 0 is taken")
	}
}

// TestFewFailures holds that three failed RPCs do not decide where min_failures is 5,
// however plain they are; and nor do they where nothing is known of the stable version.
func TestFewFailures(t *testing.T) {
	t.Parallel()
	const alpha = 0.005
	labels := must(NewLabels(1))
	for range 3 {
		labels.Add(LabelCounts{CanaryEvents: 1, CanaryRPCs: 1, Share: 0.1})
	}
	if labels.Rejects(alpha) {
		t.Error("three RPCs of the canary have failed, and it is worse than a version of which nothing is known")
	}
	// A canary all of whose RPCs fail is found at once, but not before the minimum.
	d := Detection{Share: 0.1, Stable: 0.001, Canary: 1, Alpha: alpha, MinRPCs: 1, MinFailures: 5}
	if got := must(d.Exceeds(0.01)); got != (Detected{5, 5}) {
		t.Errorf("found after %+v RPCs, of at least 5", got)
	}
	if got := must(d.Labels(1)); got.Median < 5 || got.Median > 7 {
		t.Errorf("found after %+v RPCs, of at least 5", got)
	}
	d.MinFailures = 1
	if got := must(d.Exceeds(0.01)); got.Median >= 5 {
		t.Errorf("found after %+v RPCs: it was not min_failures that three failures had to wait for", got)
	}
}

// TestEvidenceIsExpectedToBeOne checks the heart of it exactly, without simulation: at the
// border of the null hypothesis every alternative's evidence is expected to be 1 after
// one event, and less as the canary's share grows.
func TestEvidenceIsExpectedToBeOne(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := rapid.Float64Range(0.001, 0.999).Draw(t, "share")
		ratio := rapid.Float64Range(1, 100).Draw(t, "ratio")
		one := func(w float64, canary bool) []float64 {
			test := must(NewLabels(ratio))
			c := LabelCounts{Share: w, StableEvents: 1}
			if canary {
				c.CanaryEvents, c.StableEvents = 1, 0
			}
			test.Add(c)
			return test.Evidence()
		}
		q := ratio * w / (ratio*w + 1 - w)
		canary, stable := one(w, true), one(w, false)
		larger := w + (1-w)*rapid.Float64Range(0, 0.999).Draw(t, "more")
		canaryMore, stableMore := one(larger, true), one(larger, false)
		for i := range canary {
			if e := q*math.Exp(canary[i]) + (1-q)*math.Exp(stable[i]); math.Abs(e-1) > 1e-9 {
				t.Fatalf("alternative %d is expected to be %v", i, e)
			}
			if canaryMore[i] > canary[i]+1e-12 || stableMore[i] > stable[i]+1e-12 {
				t.Fatalf("alternative %d: a share of %v makes more evidence than %v", i, larger, w)
			}
		}
		limit := rapid.Float64Range(1e-6, 0.999).Draw(t, "limit")
		fails, fine := must(NewExceeds(limit)), must(NewExceeds(limit))
		fails.Add(1, 1)
		fine.Add(1, 0)
		for i := range fails.Evidence() {
			if e := limit*math.Exp(fails.Evidence()[i]) + (1-limit)*math.Exp(fine.Evidence()[i]); math.Abs(e-1) > 1e-9 {
				t.Fatalf("limit %v, alternative %d is expected to be %v", limit, i, e)
			}
		}
	})
}

// TestEvidenceIsKept holds that a test goes on from what was kept as if it had not been
// interrupted, in the next step with another share.
func TestEvidenceIsKept(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		whole, exceeds := must(NewLabels(1.5)), must(NewExceeds(0.01))
		parts, exceedsParts := must(NewLabels(1.5)), must(NewExceeds(0.01))
		steps := rapid.SliceOfN(rapid.Float64Range(0.01, 0.99), 1, 5).Draw(t, "shares")
		for i, share := range slices.Compact(steps) {
			if i > 0 {
				kept := must(NewLabels(1.5))
				if err := kept.Restore(parts.Evidence(), parts.P()); err != nil {
					t.Fatal(err)
				}
				keptExceeds := must(NewExceeds(0.01))
				if err := keptExceeds.Restore(exceedsParts.Evidence(), exceedsParts.P()); err != nil {
					t.Fatal(err)
				}
				parts, exceedsParts = kept, keptExceeds
			}
			for range rapid.IntRange(1, 20).Draw(t, "adds") { // none would not end a block
				c := LabelCounts{
					CanaryEvents: rapid.Uint64Range(0, 3).Draw(t, "canary events"),
					StableEvents: rapid.Uint64Range(0, 3).Draw(t, "stable events"),
					CanaryRPCs:   rapid.Uint64Range(3, 300).Draw(t, "canary"),
					StableRPCs:   rapid.Uint64Range(3, 300).Draw(t, "stable"),
					Share:        share,
				}
				whole.Add(c)
				parts.Add(c)
				exceeds.Add(c.CanaryRPCs, c.CanaryEvents)
				exceedsParts.Add(c.CanaryRPCs, c.CanaryEvents)
			}
		}
		if math.Abs(whole.LogE()-parts.LogE()) > 1e-9 || math.Abs(math.Log(whole.P()/parts.P())) > 1e-9 {
			t.Fatalf("whole: exp(%v), p %v; in parts: exp(%v), p %v", whole.LogE(), whole.P(), parts.LogE(), parts.P())
		}
		if exceeds.LogE() != exceedsParts.LogE() || math.Abs(math.Log(exceeds.P()/exceedsParts.P())) > 1e-9 {
			t.Fatalf("whole: exp(%v), p %v; in parts: exp(%v), p %v", exceeds.LogE(), exceeds.P(), exceedsParts.LogE(), exceedsParts.P())
		}
	})
}

// TestOddInputs holds that what makes no sense is refused, or no evidence.
func TestOddInputs(t *testing.T) {
	t.Parallel()
	for _, limit := range []float64{0, 1, -1, 2, math.NaN(), math.Inf(1)} {
		if _, err := NewExceeds(limit); err == nil {
			t.Errorf("a limit of %v is taken", limit)
		}
	}
	for _, ratio := range []float64{0, -1, math.NaN(), math.Inf(1)} {
		if _, err := NewLabels(ratio); err == nil {
			t.Errorf("a ratio of %v is taken", ratio)
		}
	}
	for _, c := range []LabelCounts{
		{CanaryEvents: 1000},
		{CanaryEvents: 1000, Share: 1},
		{CanaryEvents: 1000, Share: math.NaN()},
		{CanaryEvents: 1000, Share: -1},
		{CanaryEvents: 1000, CanaryRPCs: 1000, Share: 0.1},
		{StableEvents: 1000, StableRPCs: 1000, Share: 0.1, Together: math.NaN()},
	} {
		test := must(NewLabels(1))
		test.Add(c)
		if e := test.LogE(); !(e <= 0) {
			t.Errorf("%+v is evidence: %v", c, e)
		}
	}
	exceeds := must(NewExceeds(0.5))
	exceeds.Add(1, 100) // more failures than RPCs
	one := must(NewExceeds(0.5))
	one.Add(1, 1)
	if exceeds.LogE() != one.LogE() {
		t.Errorf("100 failures of 1 RPC are evidence of exp(%v)", exceeds.LogE())
	}
	labels, before := must(NewLabels(1)), must(NewLabels(1))
	for _, kept := range [][]float64{nil, {1}, slices.Repeat([]float64{math.NaN()}, 10), slices.Repeat([]float64{math.Inf(1)}, 10), slices.Repeat([]float64{math.Inf(-1)}, 10)} {
		if err := labels.Restore(kept, 0.5); err == nil {
			t.Errorf("%v is restored", kept)
		}
	}
	if labels.LogE() != before.LogE() || labels.P() != 1 {
		t.Error("evidence that cannot be restored has changed the test")
	}
}

func must[T any](value T, err error) T {
	if err != nil {
		panic(err)
	}
	return value
}
