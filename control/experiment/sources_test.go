package experiment

import (
	"fmt"
	"math"
	"testing"
	"time"

	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// What sidecars counted that were gone when another was elected is lost, and that is said.
func TestWhatIsLostIsSaid(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		dir := t.TempDir()
		for range 4 {
			w.sidecar(Options{})
		}
		w.elect(LeadOptions{Dir: dir, Owner: "first"})
		w.running(document(t, "checkout"))
		w.visit(w.people(300), 3000, 0.1)
		w.pass(2 * sourcesEvery)
		gone := w.sidecars[1]
		counted := len(everyUnit(gone.agent.runs["checkout"].counter))
		gone.stop()
		w.pass(2 * unitsEvery)
		says := func(when string, sidecars, units int) {
			t.Helper()
			if r := w.results("checkout"); int(r.GetLostSidecars()) != sidecars || int(r.GetLostUnits()) != units {
				t.Errorf("%s: %d sidecars with %d units are lost, not %d with %d", when, r.GetLostSidecars(), r.GetLostUnits(), sidecars, units)
			}
		}
		says("as long as the same one leads", 0, 0)

		w.elect(LeadOptions{})
		w.sidecars[2].cut = true
		w.pass(returnFor / 2)
		says("while they come", 0, 0)
		w.pass(returnFor)
		says("after a takeover, with one cut off", 2, counted+len(everyUnit(w.sidecars[2].agent.runs["checkout"].counter)))
		w.sidecars[2].cut, w.sidecars[2].fresh = false, true
		w.pass(sourcesEvery)
		says("with that one back", 1, counted)

		w.elect(LeadOptions{})
		w.pass(2 * returnFor)
		says("after another takeover", 1, counted)

		w.elect(LeadOptions{Dir: dir, Owner: "first"})
		w.pass(2 * returnFor)
		says("led by one that has kept it", 0, 0)

		w.elect(LeadOptions{})
		w.pass(time.Second)
		w.ask("checkout", controlv1.Action_ACTION_STOP, 0)
		says("at the end", 1, counted)
	})
}

// Whoever has nothing to count does not count as one who has counted.
func TestSidecarsWithoutRPCs(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		w.sidecar(Options{})
		w.elect(LeadOptions{})
		w.running(document(t, "checkout"))
		w.visit(w.people(30), 100, 0)
		for range 3 {
			w.sidecar(Options{})
		}
		w.pass(2 * sourcesEvery)
		if n := w.results("checkout").GetSidecars(); n != 1 {
			t.Errorf("%d sidecars have counted, not 1", n)
		}
	})
}

func TestWhoIsBelievedOfWhatWasThere(t *testing.T) {
	t.Parallel()
	source := func(mark, units uint64) *meshv1.Source { return &meshv1.Source{Mark: mark, Units: units} }
	heard := func(list ...*meshv1.Source) *meshv1.Sources {
		return &meshv1.Sources{List: list, All: uint32(len(list))}
	}
	flood := func(from uint64) *meshv1.Sources {
		s := &meshv1.Sources{All: math.MaxUint32}
		for i := range uint64(maxMarks) {
			s.List = append(s.List, source(from+i, math.MaxUint64))
		}
		return s
	}
	for name, test := range map[string]struct {
		by              []*meshv1.Sources // by process
		sidecars, units int
	}{
		"nobody":                      {nil, 0, 0},
		"one alone":                   {[]*meshv1.Sources{heard(source(1, 10), source(2, 20))}, 2, 30},
		"two":                         {[]*meshv1.Sources{heard(source(1, 10)), heard(source(1, 8))}, 1, 8},
		"one who is alone among many": {[]*meshv1.Sources{heard(source(1, 10)), heard(source(1, 10)), flood(100)}, 1, 10},
		"one who says the most":       {[]*meshv1.Sources{flood(1), heard(source(1, 10), source(2, 20))}, 2, 30},
		"one who says too much":       {[]*meshv1.Sources{{List: append(flood(1).List, source(0, 1)), All: 65}}, 0, 0},
		"nothing":                     {[]*meshv1.Sources{{}, nil}, 0, 0},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPool(nil, []int{1, 1}, 100)
			for process, said := range test.by {
				p.claims.hear(uint64(process), said)
			}
			if sidecars, units := p.lost(); int(sidecars) != test.sidecars || int(units) != test.units {
				t.Errorf("%d sidecars with %d units", sidecars, units)
			}
		})
	}
}

// With more sidecars than are spoken of, those who are stand for all, and what is kept of
// what is said stays bounded.
func TestManySidecarsThatWereThere(t *testing.T) {
	t.Parallel()
	const all = 400
	before := newPool(nil, []int{1, 1}, 100)
	after := newPool(nil, []int{1, 1}, 100)
	for i := range uint64(all) {
		counts := &meshv1.ExperimentCounts{Epoch: i}
		for u := range uint64(10) {
			unit := 1 + i*10 + u
			counts.Units = append(counts.Units, &meshv1.UnitCounts{Unit: unit, Variant: uint32(before.assignment.Group(unit))})
		}
		for _, p := range []*pool{before, after} {
			if p == after && i%4 == 0 {
				continue // it is gone
			}
			if err := p.take(fmt.Sprint(i), i, counts); err != nil {
				t.Fatal(err)
			}
		}
	}
	said := before.said()
	if len(said.GetList()) != maxMarks || said.GetAll() != all {
		t.Fatalf("%d of %d are spoken of", len(said.GetList()), said.GetAll())
	}
	for process := range uint64(3) {
		after.claims.hear(process, said)
	}
	sidecars, units := after.lost()
	// Of 64 that are spoken of about 16 are gone, give or take 4 standard deviations.
	if sidecars < all/64*2 || sidecars > all/64*30 || units != 10*uint64(sidecars) {
		t.Errorf("%d sidecars with %d units are lost, of %d", sidecars, units, all)
	}
	for process := range uint64(200) {
		flood := &meshv1.Sources{All: 1}
		for i := range uint64(maxMarks) {
			flood.List = append(flood.List, &meshv1.Source{Mark: 1000*process + i})
		}
		after.claims.hear(process, flood)
	}
	if len(after.claims.of) > maxClaims {
		t.Errorf("%d are kept", len(after.claims.of))
	}
}
