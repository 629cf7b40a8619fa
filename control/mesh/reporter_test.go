package mesh

import (
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// What is urgent is known at once, everything else within a fifth of a second, and what
// is decided comes back at once.
func TestHowFastReportsAre(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(3)
		l := r.elect()
		for _, s := range all {
			for _, urgent := range []bool{true, false} {
				before, _ := l.sum()
				time.Sleep(time.Second)
				began := time.Now()
				s.count(1, urgent)
				for {
					synctest.Wait()
					if now, _ := l.sum(); now > before || time.Since(began) > time.Minute {
						break
					}
					time.Sleep(time.Millisecond)
				}
				most := reportEvery + urgentEvery
				if urgent {
					most = 0
				}
				if took := time.Since(began); took > most {
					t.Errorf("what %s counted, urgent: %v, was known after %v", s.id, urgent, took)
				}
			}
		}
		began := time.Now()
		l.say("new", 7)
		synctest.Wait()
		for _, s := range all {
			if s.number("new") != 7 || s.obeyed[0].Sub(began) > 0 {
				t.Errorf("%s obeys %v after %v", s.id, s.states, s.obeyed)
			}
		}
	})
}

// However often something is urgent, reports do not flood who is elected; and who counts
// nothing says nothing.
func TestReportsAreBounded(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(2)
		l := r.elect()
		before := l.taken()
		time.Sleep(10 * time.Second)
		if n := l.taken() - before; n > 0 {
			t.Errorf("%d reports came that say nothing", n)
		}
		before = l.taken()
		for range 10_000 {
			all[0].count(1, true)
			all[1].count(1, true)
			time.Sleep(100 * time.Microsecond)
		}
		time.Sleep(time.Minute) // what was read no faster
		if n := l.taken() - before; n > 2*int(time.Second/urgentEvery)+2 {
			t.Errorf("%d reports came in a second of 2 sidecars", n)
		}
		if rpcs, _ := l.sum(); rpcs != 20_000 {
			t.Errorf("%d RPCs are known, want all 20,000", rpcs)
		}
	})
}

// Who comes later is told what holds, of each run the newest, and so is who is connected
// anew; all that was counted is known again.
func TestConnectedAnew(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(3)
		l := r.elect()
		l.say("new", 1)
		l.say("new", 3)
		l.say("new", 2)
		l.say("other", 1)
		l.publish(&meshv1.ReportResponse{Thresholds: map[string]uint64{"units/1": 5}})
		l.publish(&meshv1.ReportResponse{Sources: map[string]*meshv1.Sources{"units/1": {All: 7}}})
		l.publish(&meshv1.ReportResponse{Sources: map[string]*meshv1.Sources{"units/1": {All: 8}}})
		late := r.add("late", nil)
		late.Set(greeter, true)
		time.Sleep(time.Second)
		if late.number("new") != 3 || late.number("other") != 1 || late.thresholds["units/1"] != 5 || late.sources["units/1"].GetAll() != 8 {
			t.Errorf("who came later knows %v, %v, %v", late.states, late.thresholds, late.sources)
		}
		all[0].count(5, false)
		all[1].count(6, false)
		before := l.by.dials()
		l.by.mu.Lock()
		for _, nc := range l.by.conns {
			_ = nc.Close()
		}
		l.by.mu.Unlock()
		time.Sleep(time.Second)
		synctest.Wait()
		if n := l.by.dials() - before; n != 3 {
			t.Errorf("there are %d new connections, want 3", n)
		}
		if ids := l.ids(); len(ids) != 4 {
			t.Errorf("%v are there again", ids)
		}
		if rpcs, _ := l.sum(); rpcs != 11 {
			t.Errorf("%d RPCs are known, want 11", rpcs)
		}
		for _, s := range append(all, late) {
			if p := s.Problems(); len(p) > 0 {
				t.Errorf("%s says %q", s.id, p)
			}
		}
	})
}

// Who is elected and says nothing any more is a problem within seconds.
func TestSilence(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(2)
		l := r.elect()
		other := all[0]
		if other == l.by {
			other = all[1]
		}
		before := l.by.dials()
		time.Sleep(time.Minute)
		if p := other.Problems(); len(p) > 0 || l.by.dials() != before {
			t.Errorf("while all is well it says %q, and has connected %d times more", p, l.by.dials()-before)
		}
		l.by.setHole(true)
		other.count(1, true)
		time.Sleep(silence + time.Second)
		if p := other.Problems(); len(p) != 1 || !strings.Contains(p[0], "it does not answer") {
			t.Errorf("it says %q", p)
		}
		l.by.setHole(false)
		time.Sleep(30 * time.Second)
		if p := other.Problems(); len(p) > 0 {
			t.Errorf("when all is well again it says %q", p)
		}
	})
}

// A first report that is larger than one message may be comes in several.
func TestLargeReport(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		const units = 60_000 // of 30 bytes
		all := r.several(1)
		l := r.elect()
		late := r.add("late", func(o *Options) { o.Counting.(*counting).units = units })
		late.Set(greeter, true)
		time.Sleep(10 * time.Second)
		if n := l.unitsOf(numberOf(noID, "late", late.o.Process)); n != units {
			t.Errorf("%d units are known, want %d", n, units)
		}
		if p := append(all[0].Problems(), late.Problems()...); len(p) > 0 {
			t.Errorf("something is wrong: %q", p)
		}
	})
}

// Parts of a report are together what it was, and none is much larger than it may be.
func TestChunks(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := &meshv1.ReportRequest{Hello: &meshv1.Hello{Id: "a"}}
		for range rapid.IntRange(0, 3).Draw(t, "canaries") {
			r.Canaries = append(r.Canaries, &meshv1.CanaryCounts{Name: "c"})
		}
		for i := range rapid.IntRange(0, 4).Draw(t, "experiments") {
			e := &meshv1.ExperimentCounts{Name: string(rune('a' + i)), Run: uint64(i), Epoch: 5, Threshold: 9}
			if i%2 == 0 {
				e.Heard = &meshv1.Sources{All: 3}
			}
			for u := range rapid.IntRange(0, 40).Draw(t, "units") {
				e.Units = append(e.Units, &meshv1.UnitCounts{Unit: uint64(u), Measures: make([]*meshv1.MeasureCounts, 0)})
			}
			r.Experiments = append(r.Experiments, e)
		}
		most := rapid.IntRange(30, 400).Draw(t, "most")
		whole := &meshv1.ReportRequest{}
		for i, part := range chunks(r, most) {
			if size := proto.Size(part); size > most+64 {
				t.Fatalf("a part has %d bytes, want about %d", size, most)
			}
			if (part.GetHello() != nil) != (i == 0) {
				t.Fatalf("part %d: hello is %v", i, part.GetHello())
			}
			whole.Hello = r.GetHello()
			whole.Canaries = append(whole.Canaries, part.GetCanaries()...)
			for _, e := range part.GetExperiments() {
				if n := len(whole.GetExperiments()); n > 0 && whole.GetExperiments()[n-1].GetName() == e.GetName() && e.GetHeard() == nil {
					whole.Experiments[n-1].Units = append(whole.Experiments[n-1].Units, e.GetUnits()...)
					continue
				}
				whole.Experiments = append(whole.Experiments, clone(e))
			}
		}
		if !proto.Equal(whole, r) {
			t.Fatalf("together they are %v, want %v", whole, r)
		}
	})
}

// What is decided in the last moment is done by all, also by who decided it.
func TestLastWord(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		s := r.add("elected", nil)
		s.Set(greeter, true)
		l := r.elect()
		other := r.add("other", nil)
		other.Set(greeter, true)
		time.Sleep(5 * time.Second)
		l.last = func() { l.say("new", 7) }
		s.Close(t.Context())
		time.Sleep(time.Second)
		if own, others := s.number("new"), other.number("new"); own != 7 || others != 7 {
			t.Errorf("who was elected obeys %d, the other %d", own, others)
		}
	})
}
