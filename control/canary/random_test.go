package canary

import (
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/control/kv/memkv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// happening is something that happens to a mesh.
type happening string

const (
	trafficComes happening = "traffic"
	itGetsWorse  happening = "v2 fails"
	itGetsBetter happening = "v2 is well"
	storeIsAway  happening = "the store is away"
	answersAre   happening = "the store's answers are lost"
	storeIsBack  happening = "the store is back"
	electedDies  happening = "the elected sidecar dies"
	oneIsElected happening = "another is elected"
	nobodyHears  happening = "streams break"
	allHear      happening = "streams are back"
	somebodyAsks happening = "a request: " // and which
	timePasses   happening = "time passes"
)

func happenings() *rapid.Generator[happening] {
	list := []happening{
		trafficComes, trafficComes, trafficComes, itGetsWorse, itGetsBetter, storeIsAway, answersAre, storeIsBack, electedDies,
		oneIsElected, nobodyHears, allHear, timePasses,
	}
	for a := controlv1.Action_ACTION_START; a <= controlv1.Action_ACTION_ABORT; a++ {
		list = append(list, somebodyAsks+happening(a.String()))
	}
	list = append(list, somebodyAsks+happening(controlv1.Action_ACTION_START.String()), somebodyAsks+happening(controlv1.Action_ACTION_RESUME.String()))
	return rapid.SampledFrom(list)
}

// happen has something happen.
func (w *world) happen(what happening) {
	switch what {
	case trafficComes:
		w.load(40, 40, time.Second)
	case itGetsWorse, itGetsBetter:
		b := failingShare(map[happening]float64{itGetsWorse: 0.9, itGetsBetter: 0.001}[what])
		w.behave.Store(&b)
	case storeIsAway, answersAre, storeIsBack:
		w.fault(map[happening]memkv.Fault{storeIsAway: {Err: errAway}, answersAre: {Err: errAway, Unheard: true}}[what])
	case electedDies:
		w.kill()
	case oneIsElected:
		w.kill()
		w.elect(nil)
		w.fault(w.now)
	case nobodyHears, allHear:
		w.mu.Lock()
		w.deaf = what == nobodyHears
		w.mu.Unlock()
	case timePasses:
		time.Sleep(3 * time.Second)
	default:
		w.ask("greeter-v2", controlv1.Action(controlv1.Action_value[string(what[len(somebodyAsks):])]))
		time.Sleep(50 * time.Millisecond)
	}
}

// fault has the store be away, or be back, for all but people.
func (w *world) fault(f memkv.Fault) {
	w.now = f
	for _, s := range w.sidecars {
		s.store.SetFault(f)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.elected != nil {
		w.elected.store.SetFault(f)
	}
}

// wrong says what may not be at any time; empty: all is well.
func (w *world) wrong() string {
	committed := map[uint64]*controlv1.RunState{}
	var before *controlv1.RunState
	for _, one := range w.history("greeter-v2") {
		s := one.GetState()
		if before != nil && !follows(before, s) {
			return fmt.Sprintf("after %v came %v", before, s)
		}
		committed[s.GetNumber()], before = s, s
	}
	if s := w.state("greeter-v2"); s.GetNumber() != before.GetNumber() {
		return fmt.Sprintf("the state is %v, the history's last %v", s, before)
	}
	for _, s := range w.sidecars {
		state, weight := s.holds()
		if weight > 0 && (committed[state.GetNumber()] == nil || committed[state.GetNumber()].GetWeight() < weight) {
			return fmt.Sprintf("%s gives the canary %d by %v, which nobody has committed", s.id, weight, state)
		}
	}
	return ""
}

// holds says by which state a sidecar goes, and what it gives the canary.
func (s *sidecar) holds() (*controlv1.RunState, uint32) {
	s.agent.mu.Lock()
	defer s.agent.mu.Unlock()
	r := s.agent.services[service]["greeter-v2"]
	if r == nil {
		return nil, 0
	}
	weight, _ := r.weight()
	return r.state, weight
}

// follows says whether a state may come after another.
func follows(a, b *controlv1.RunState) bool {
	from, to := a.GetPhase(), b.GetPhase()
	paused, aborted := controlv1.Phase_PHASE_PAUSED, controlv1.Phase_PHASE_ABORTED
	if b.GetNumber() <= a.GetNumber() || b.GetRequest() < a.GetRequest() {
		return false
	}
	if b.GetRun() != a.GetRun() {
		return !Active(from) && to == running && b.GetRun() == a.GetRun()+1 && b.GetStep() == 1
	}
	if from == to && a.GetStep() == b.GetStep() && a.GetWeight() == b.GetWeight() {
		return b.GetRequest() > a.GetRequest() // refused
	}
	if to == running && b.GetStep() == a.GetStep()+1 {
		return Active(from)
	}
	next := map[controlv1.Phase][]controlv1.Phase{
		running: {paused, promoted, rolledBack, aborted}, paused: {running, promoted, rolledBack, aborted}, promoted: {aborted},
	}
	if to == rolledBack && b.GetStep() < a.GetStep() {
		return Active(from) // it was decided before it was known that the step had been written
	}
	return b.GetStep() == a.GetStep() && slices.Contains(next[from], to)
}

// Whatever people ask for and whatever breaks, in whatever order: no sidecar gives a canary
// more than was committed, the history is one that the phases allow, no key goes to and fro
// in a step on one sidecar, and in the end all agree.
func TestWhateverHappens(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		story := rapid.SliceOfN(happenings(), 1, 15).Draw(rt, "story")
		if failed := play(t, story, rapid.Bool().Draw(rt, "eager")); failed != "" {
			rt.Fatalf("%q: %s", story, failed)
		}
	})
}

// What has gone wrong once.
func TestWhateverHappened(t *testing.T) {
	t.Parallel()
	for name, story := range map[string][]happening{
		"who is elected next is asked to promote what was rolled back, which could not be written": {
			trafficComes, answersAre, timePasses, itGetsWorse, trafficComes, trafficComes, storeIsBack, somebodyAsks + "ACTION_PROMOTE_FULLY",
		},
		"the same, found by chance": {
			itGetsBetter, trafficComes, answersAre, timePasses, trafficComes, itGetsBetter, itGetsWorse, somebodyAsks + "ACTION_RESUME",
			somebodyAsks + "ACTION_RESUME", trafficComes, somebodyAsks + "ACTION_PAUSE", storeIsBack, somebodyAsks + "ACTION_PROMOTE_FULLY",
		},
	} {
		for _, eager := range []bool{false, true} {
			if failed := play(t, story, eager); failed != "" {
				t.Errorf("%s (eager: %v): %s", name, eager, failed)
			}
		}
	}
}

// play plays a story, and says what went wrong; empty: nothing. eager has all report to who
// is elected before that one knows anything.
func play(t *testing.T, story []happening, eager bool) (failed string) {
	t.Helper()
	document := sticky(canary(stepOf(2000, 2*time.Second), stepOf(5000, 2*time.Second), stepOf(10000, 2*time.Second)))
	document.Guards.Latency = nil
	for _, s := range document.GetSteps() {
		s.MinRpcs = proto.Uint32(15)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		w.eager = eager
		defer w.end()
		seen := w.watch()
		w.elect(nil)
		w.start(sticky(document))
		for i, what := range story {
			w.happen(what)
			if failed = w.wrong(); failed != "" {
				failed = fmt.Sprintf("after %q: %s", story[:i+1], failed)
				return
			}
		}
		// All is mended, and somebody is elected.
		w.happen(allHear)
		w.happen(oneIsElected)
		w.happen(storeIsBack)
		w.happen(itGetsBetter)
		time.Sleep(6 * time.Second)
		synctest.Wait()
		stored := w.state("greeter-v2")
		if failed = w.wrong(); failed != "" {
			return
		}
		for _, s := range w.sidecars {
			state, weight := s.holds()
			if state.GetNumber() != stored.GetNumber() || weight > 0 && over(stored) {
				failed = fmt.Sprintf("in the end %s goes by %v with %d, the store has %v", s.id, state, weight, stored)
				return
			}
		}
		if n := w.lastRequest("greeter-v2"); stored.GetRequest() != n {
			failed = fmt.Sprintf("request %d was not done: %v", n, stored)
			return
		}
		for at, versions := range seen.all {
			if at.by != "" && at.run > 0 && len(versions) > 2 {
				failed = fmt.Sprintf("%s saw %v in step %d of run %d through %s", at.key, versions, at.step, at.run, at.by)
				return
			}
		}
	})
	return failed
}
