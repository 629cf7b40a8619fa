package experiment

import (
	"fmt"
	"math"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	"github.com/pillion-proxy/pillion/control/requests"
	"github.com/pillion-proxy/pillion/control/sequential"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// samples are what a measure came to in control and treatment.
func samples(r *meshv1.ResultsResponse, measure int) (control, treatment sequential.Sample) {
	of := func(v int) sequential.Sample {
		m := r.GetVariants()[v].GetMeasures()[measure]
		return sequential.Sample{Units: m.GetUnits(), Mean: m.GetMean(), Variance: m.GetVariance()}
	}
	return of(0), of(1)
}

// An effect that is there is found, and the interval covers it; where there is none,
// nothing is claimed, however often one looks.
func TestExperimentOverAMesh(t *testing.T) {
	for _, c := range []struct {
		name   string
		slower float64
	}{{"an effect", 0.3}, {"no effect", 0}} {
		t.Run(c.name, func(t *testing.T) {
			play(t, func(t *testing.T, w *world) {
				for range 5 {
					w.sidecar(Options{})
				}
				w.elect(LeadOptions{})
				w.running(document(t, "checkout"))
				people := w.people(1000)
				for range 15 {
					w.visit(people, 1000, c.slower)
					w.pass(2 * time.Second)
					control, treatment := samples(w.results("checkout"), 1)
					test := sequential.Means{Scale: 0.02}
					if in := test.Relative(0.01, control, treatment); in.Low > c.slower || in.High < c.slower {
						t.Fatalf("the interval %v does not cover %v", in, c.slower)
					}
				}
				r := w.results("checkout")
				control, treatment := samples(r, 1)
				in := sequential.Means{Scale: 0.02}.Relative(0.01, control, treatment)
				if found := in.Low > 0; found != (c.slower > 0) {
					t.Errorf("the interval is %v", in)
				}
				if r.GetSampled() != 1 || r.GetSidecars() != 5 || r.GetCrossed() != 0 {
					t.Errorf("%v sampled on %d sidecars, %d crossed", r.GetSampled(), r.GetSidecars(), r.GetCrossed())
				}
				if n := r.GetVariants()[0].GetUnits() + r.GetVariants()[1].GetUnits(); n < 990 || n > 1000 {
					t.Errorf("%d units count", n)
				}
				if n := len(r.GetSeries()); n < 15 || n > maxPoints {
					t.Errorf("%d points", n)
				}
			})
		})
	}
}

// What people ask for is done once, refused with a reason, and in the history.
func TestLifeOfAnExperiment(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s := w.sidecar(Options{})
		w.elect(LeadOptions{})
		if state := w.ask("checkout", controlv1.Action_ACTION_START, 1); state.GetPhase() != controlv1.Phase_PHASE_UNSPECIFIED ||
			!strings.Contains(requests.Refused(state), "start was refused: there is no such document") {
			t.Fatalf("%v", state)
		}
		w.running(document(t, "checkout"))
		if len(s.agent.Policies("shop")) != 1 {
			t.Fatal("nothing is divided")
		}
		for _, c := range []struct {
			action controlv1.Action
			why    string
		}{
			{controlv1.Action_ACTION_START, "running already"},
			{controlv1.Action_ACTION_PROMOTE, "promote was refused: an experiment can be started and stopped"},
		} {
			if state := w.ask("checkout", c.action, 1); state.GetPhase() != controlv1.Phase_PHASE_RUNNING || !strings.Contains(requests.Refused(state), c.why) {
				t.Errorf("%v: %v", c.action, state)
			}
		}
		w.visit(w.people(500), 1000, 0)
		w.pass(3 * time.Second)
		state := w.ask("checkout", controlv1.Action_ACTION_STOP, 0)
		if state.GetPhase() != controlv1.Phase_PHASE_ENDED || state.GetReason() != "to see" || state.GetBy() != "ann" || state.GetRun() != 1 {
			t.Errorf("%v", state)
		}
		w.pass(time.Second)
		if len(s.agent.Policies("shop")) != 0 {
			t.Error("it goes on dividing")
		}
		history := w.history("checkout")
		if len(history) != 5 {
			t.Errorf("%d transitions", len(history))
		}
		results := &meshv1.ResultsResponse{}
		if err := proto.Unmarshal(history[len(history)-1].GetResults(), results); err != nil || results.GetVariants()[0].GetUnits() < 100 {
			t.Errorf("the history has %v, %v", results, err)
		}
		if now := w.results("checkout"); now.GetState().GetPhase() != controlv1.Phase_PHASE_ENDED || now.GetVariants()[0].GetUnits() != results.GetVariants()[0].GetUnits() {
			t.Errorf("the results after the end are %v", now)
		}
		if state := w.ask("checkout", controlv1.Action_ACTION_STOP, 0); !strings.Contains(requests.Refused(state), "it does not run") {
			t.Errorf("%v", state)
		}
		if state := w.ask("checkout", controlv1.Action_ACTION_START, 1); state.GetRun() != 2 || state.GetPhase() != controlv1.Phase_PHASE_RUNNING {
			t.Errorf("%v", state)
		}
		w.pass(3 * time.Second)
		if n := w.results("checkout").GetVariants()[0].GetUnits(); n != 0 {
			t.Errorf("the second run begins with %d units", n)
		}
		w.visit(w.people(500), 1000, 0)
		w.pass(3 * time.Second)
		if n := w.results("checkout").GetVariants()[0].GetUnits(); n == 0 {
			t.Error("the second run counts nothing")
		}
	})
}

func TestStartsThatAreRefused(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		w.elect(LeadOptions{})
		layer := func(start, end uint32) func(*configv1.Experiment) {
			return func(e *configv1.Experiment) {
				e.Layer = &configv1.Layer{Name: "prices", Start: start, End: new(end)}
			}
		}
		w.running(document(t, "first", layer(0, 5000)))
		w.apply(document(t, "second", layer(4999, 10_000)), 1)
		if state := w.ask("second", controlv1.Action_ACTION_START, 1); !strings.Contains(requests.Refused(state), `"first", which is running`) {
			t.Errorf("%v", state)
		}
		// Also where the other one is of another service.
		other := document(t, "elsewhere", layer(9000, 10_000))
		other.Service = "search"
		raw, _ := proto.Marshal(other)
		w.write(control.StateKey(control.Experiment, "search", "elsewhere"), &controlv1.RunState{
			Kind: "experiment", Name: "elsewhere", Service: "search", Number: 1, Phase: controlv1.Phase_PHASE_RUNNING, Document: raw,
		})
		w.apply(document(t, "third", layer(5000, 9001)), 1)
		if state := w.ask("third", controlv1.Action_ACTION_START, 1); !strings.Contains(requests.Refused(state), `"elsewhere", which is running`) {
			t.Errorf("%v", state)
		}
		w.apply(document(t, "fourth", layer(5000, 9000)), 7)
		if state := w.ask("fourth", controlv1.Action_ACTION_START, 6); !strings.Contains(requests.Refused(state), "revision 6 was meant, but the document is at 7") {
			t.Errorf("%v", state)
		}
		// What is asked before its document is seen waits for it.
		if state := w.ask("fourth", controlv1.Action_ACTION_START, 8); state.GetPhase() == controlv1.Phase_PHASE_RUNNING {
			t.Errorf("%v", state)
		}
		w.apply(document(t, "fourth", layer(5000, 9000)), 8)
		w.pass(2 * time.Second)
		if state := w.state("fourth"); state.GetPhase() != controlv1.Phase_PHASE_RUNNING || state.GetRevision() != 8 {
			t.Errorf("%v", state)
		}
		w.apply(document(t, "late", func(e *configv1.Experiment) { e.End = timestamppb.New(time.Now().Add(-time.Hour)) }), 1)
		if state := w.ask("late", controlv1.Action_ACTION_START, 1); !strings.Contains(requests.Refused(state), "it ended at") {
			t.Errorf("%v", state)
		}
		wrong := document(t, "wrong")
		wrong.Variants[0].Weight = 1
		w.apply(wrong, 1)
		if state := w.ask("wrong", controlv1.Action_ACTION_START, 1); !strings.Contains(requests.Refused(state), "its document is wrong") {
			t.Errorf("%v", state)
		}
	})
}

// Each sidecar divides from the start to the end by its own clock, and then the elected
// one ends the experiment.
func TestTimesOfAnExperiment(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s := w.sidecar(Options{})
		w.elect(LeadOptions{ID: "sidecar-0"})
		begin := time.Now()
		w.running(document(t, "checkout", func(e *configv1.Experiment) {
			e.Start, e.End = timestamppb.New(begin.Add(10*time.Minute)), timestamppb.New(begin.Add(3*time.Hour))
		}))
		divides := func() bool { return len(s.agent.Policies("shop")) > 0 }
		w.pass(10*time.Minute - time.Second)
		if divides() {
			t.Error("it divides before its start")
		}
		s.changed = nil
		w.pass(2 * time.Second)
		if !divides() || fmt.Sprint(s.changed) != "[shop]" {
			t.Errorf("it divides at its start: %v, and %v is told", divides(), s.changed)
		}
		w.elected.cancel() // nobody ends it, but sidecars do
		time.Sleep(time.Until(begin.Add(3*time.Hour + time.Second)))
		synctest.Wait()
		if divides() || w.state("checkout").GetPhase() != controlv1.Phase_PHASE_RUNNING {
			t.Error("it divides after its end")
		}
		w.elect(LeadOptions{ID: "sidecar-0"})
		w.pass(2 * time.Second)
		if state := w.state("checkout"); state.GetPhase() != controlv1.Phase_PHASE_ENDED || state.GetBy() != "sidecar-0" || !strings.Contains(state.GetReason(), "its time was over") {
			t.Errorf("%v", state)
		}
	})
}

// With more units than are kept, all sidecars come to keep the same sample of them, and
// what is said of it is right.
func TestSampleOverAMesh(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		for range 3 {
			w.sidecar(Options{})
		}
		w.elect(LeadOptions{})
		w.running(document(t, "checkout", func(e *configv1.Experiment) { e.MaxUnits = proto.Uint32(500) }))
		people := w.people(4000)
		w.visit(people[:100], 1000, 0)
		w.pass(5 * time.Second)
		if r := w.results("checkout"); r.GetSampled() != 1 {
			t.Errorf("%v of 100 are sampled", r.GetSampled())
		}
		for range 5 {
			w.visit(people, 4000, 0)
			w.pass(10 * time.Second)
		}
		r := w.results("checkout")
		low := w.sidecars[0].agent.runs["checkout"].counter.threshold.Load()
		for _, s := range w.sidecars {
			if t := s.agent.runs["checkout"].counter.threshold.Load(); t != low {
				w.t.Errorf("thresholds are %x and %x", t, low)
			}
		}
		if r.GetSampled() != sampled(low) || low == everything {
			t.Errorf("%v is sampled, but %x is kept", r.GetSampled(), low)
		}
		n := float64(r.GetVariants()[0].GetUnits() + r.GetVariants()[1].GetUnits())
		if got := n / r.GetSampled(); math.Abs(got-4000) > 5*math.Sqrt(n)/r.GetSampled() {
			t.Errorf("%v units are sampled by %v: %v in all", n, r.GetSampled(), got)
		}
	})
}

// Whoever is elected next is told all that is still known, and cannot be written over by
// the one before.
func TestTakeover(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		for range 3 {
			w.sidecar(Options{})
		}
		first := w.elect(LeadOptions{ID: "first"})
		w.running(document(t, "checkout"))
		people := w.people(300)
		w.visit(people, 3000, 0.1)
		w.pass(3 * time.Second)
		before := w.results("checkout")
		first.store.SetFault(memkv.Fault{Err: kv.ErrDenied})
		w.elected = nil // it still thinks that it is elected
		w.elect(LeadOptions{ID: "second"})
		w.pass(3 * time.Second)
		after := w.results("checkout")
		sameMoments(t, before, after)
		if state := w.ask("checkout", controlv1.Action_ACTION_STOP, 0); state.GetPhase() != controlv1.Phase_PHASE_ENDED {
			t.Errorf("%v", state)
		}
		first.store.SetFault(memkv.Fault{})
		w.pass(5 * time.Second)
		if n := len(w.history("checkout")); n != 2 || w.state("checkout").GetNumber() != 2 {
			t.Errorf("%d transitions, and the state is %v", n, w.state("checkout"))
		}
		first.cancel()
		first.leading.Close()
	})
}

func sameMoments(t *testing.T, a, b *meshv1.ResultsResponse) {
	t.Helper()
	for v := range a.GetVariants() {
		if a.GetVariants()[v].GetUnits() != b.GetVariants()[v].GetUnits() {
			t.Errorf("variant %d has %d units, and then %d", v, a.GetVariants()[v].GetUnits(), b.GetVariants()[v].GetUnits())
		}
		for m, x := range a.GetVariants()[v].GetMeasures() {
			y := b.GetVariants()[v].GetMeasures()[m]
			if x.GetUnits() != y.GetUnits() || !near(x.GetMean(), y.GetMean()) || !near(x.GetVariance(), y.GetVariance()) {
				t.Errorf("variant %d, measure %d: %v, and then %v", v, m, x, y)
			}
		}
	}
}

func near(a, b float64) bool { return math.Abs(a-b) <= 1e-9*(math.Abs(a)+math.Abs(b)) }

// Reports that are lost on the way do no harm.
func TestReportsThatAreLost(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s, other := w.sidecar(Options{}), w.sidecar(Options{})
		w.elect(LeadOptions{})
		w.running(document(t, "checkout"))
		people := w.people(200)
		for range 4 {
			w.visit(people, 500, 0)
			w.pass(3 * time.Second)
			// What was collected is lost with its stream.
			s.agent.Collect("shop", &meshv1.ReportRequest{}, false)
			s.cut = !s.cut
			s.fresh = true
		}
		s.cut = false
		w.pass(3 * time.Second)
		r := w.results("checkout")
		var rpcs uint64
		for _, one := range []*sidecar{s, other} {
			for _, u := range everyUnit(one.agent.runs["checkout"].counter) {
				rpcs += u.GetMeasures()[0].GetCount()
			}
		}
		if got := pooledRPCs(w); rpcs != 2000 || got != rpcs || r.GetSidecars() != 2 {
			t.Errorf("of 2000 RPCs %d are counted, and %d pooled", rpcs, got)
		}
	})
}

// pooledRPCs is how many RPCs the elected sidecar has heard of.
func pooledRPCs(w *world) (n uint64) {
	l := w.elected.leading.(*leading)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.runs["checkout"].pool.sources {
		for r := range s.rows {
			n += s.of(r, len(l.runs["checkout"].pool.measures))[0].count
		}
	}
	return n
}

// A large experiment is reported in several messages, none of them too long.
func TestReportsAreBounded(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s := w.sidecar(Options{})
		w.elect(LeadOptions{})
		w.running(document(t, "checkout", func(e *configv1.Experiment) { e.MaxUnits = proto.Uint32(100_000) }))
		c := s.agent.runs["checkout"].counter
		ob := s.agent.Observer(telemetry.GroupKey{Policy: "experiment.checkout", Group: "control"})
		for unit := range uint64(20_000) {
			ob.Ended(&telemetry.Outcome{Unit: unit + 1, Took: time.Second})
		}
		seen, longest := 0, 0
		for range 100 {
			r := &meshv1.ReportRequest{}
			s.agent.Collect("shop", r, seen == 0)
			for _, e := range r.GetExperiments() {
				seen += len(e.GetUnits())
			}
			longest = max(longest, proto.Size(r))
		}
		if n := len(everyUnit(c)); seen != n || longest > 2*collectBytes {
			t.Errorf("%d of %d units are reported, in up to %d bytes", seen, n, longest)
		}
	})
}

// Whoever compiled the policy of one run counts for the next one too, if that is the same
// policy: it may never be compiled again.
func TestObserversOverRuns(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s := w.sidecar(Options{})
		w.elect(LeadOptions{})
		w.running(document(t, "checkout"))
		ob := s.agent.Observer(telemetry.GroupKey{Policy: "experiment.checkout", Group: "control"})
		kept := func() int {
			if r := s.agent.runs["checkout"]; r != nil {
				return len(everyUnit(r.counter))
			}
			return -1
		}
		ob.Ended(&telemetry.Outcome{Unit: 1})
		w.ask("checkout", controlv1.Action_ACTION_STOP, 0)
		ob.Ended(&telemetry.Outcome{Unit: 2}) // of an RPC that was still under way
		if n := kept(); n != -1 {
			t.Errorf("%d units are kept of a run that is over", n)
		}
		changed := document(t, "checkout", allMeasures)
		w.apply(changed, 2)
		w.ask("checkout", controlv1.Action_ACTION_START, 2)
		ob.Ended(&telemetry.Outcome{Unit: 3})
		if n := kept(); n != 1 {
			t.Errorf("%d units are kept of the second run", n)
		}
		// Of another policy the observers are others.
		w.ask("checkout", controlv1.Action_ACTION_STOP, 0)
		w.apply(document(t, "checkout", func(e *configv1.Experiment) { e.Salt = "new" }), 3)
		w.ask("checkout", controlv1.Action_ACTION_START, 3)
		ob.Ended(&telemetry.Outcome{Unit: 4})
		if n := kept(); n != 0 {
			t.Errorf("%d units are kept by the policy before", n)
		}
	})
}

// A state that is deleted ends the division, and one that comes back begins it again.
func TestStatesThatAreDeleted(t *testing.T) {
	play(t, func(t *testing.T, w *world) {
		s := w.sidecar(Options{})
		w.elect(LeadOptions{})
		w.running(document(t, "checkout"))
		key := control.StateKey(control.Experiment, "shop", "checkout")
		w.pass(time.Second)
		state, _ := w.memory.Store().Get(t.Context(), key)
		w.depose() // who would do again what was asked for
		for range 3 {
			for _, op := range []kv.Op{{Key: key, Any: true}, {Key: key, Value: state.Value, Any: true}} {
				if err := w.memory.Store().Commit(t.Context(), op); err != nil {
					t.Fatal(err)
				}
				time.Sleep(time.Second)
				synctest.Wait()
				if divides := len(s.agent.Policies("shop")) == 1; divides != (op.Value != nil) {
					t.Errorf("it divides: %v", divides)
				}
			}
		}
		w.elect(LeadOptions{})
		w.visit(w.people(50), 200, 0)
		w.pass(5 * time.Second)
		if n := pooledRPCs(w); n != 200 {
			t.Errorf("%d of 200 RPCs count", n)
		}
	})
}
