package canary

import (
	"fmt"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// stateOf is a state as the elected sidecar writes it.
func stateOf(t testing.TB, c *configv1.Canary, number uint64, phase controlv1.Phase, step, weight uint32) *controlv1.RunState {
	t.Helper()
	raw, err := proto.Marshal(c)
	if err != nil {
		t.Fatal(err)
	}
	return &controlv1.RunState{
		Kind: kind, Name: c.GetName(), Service: c.GetService(), Run: 1, Number: number, Phase: phase, Step: step, Weight: weight,
		Since: timestamppb.New(time.Unix(int64(number), 0)), Document: raw,
	}
}

// weights writes what the policies of a service give each canary.
func weights(a *Agent) string {
	var parts []string
	for _, p := range a.Policies(service) {
		d := p.GetSplit().GetSplit().GetDestinations()
		parts = append(parts, strings.TrimPrefix(p.GetName(), "canary.")+" "+d[0].GetSubset()+"="+itoa(d[0].GetWeight())+" "+d[1].GetSubset()+"="+itoa(d[1].GetWeight()))
	}
	return strings.Join(parts, ", ")
}

func itoa(n uint32) string { return strconv.FormatUint(uint64(n), 10) }

// The sidecar's own judge takes its RPCs off a bad canary within milliseconds, says so at
// once, stays off for the rest of the step, and joins in again in the next.
func TestOwnJudge(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		metrics := &Metrics{}
		var changed, urgent []time.Time
		a := NewAgent(Options{Metrics: metrics, Changed: func(string) { changed = append(changed, time.Now()) }})
		defer a.Close()
		a.Urgent(func(string) { urgent = append(urgent, time.Now()) })
		c := canary(stepOf(2000, time.Minute), stepOf(5000, time.Minute))
		a.States(service, []*controlv1.RunState{stateOf(t, c, 1, running, 1, 2000)})
		stable := a.Observer(telemetry.GroupKey{Policy: "canary.greeter-v2", Group: StableGroup})
		canaries := a.Observer(telemetry.GroupKey{Policy: "canary.greeter-v2", Group: CanaryGroup})
		if canaries != a.Observer(telemetry.GroupKey{Policy: "canary.greeter-v2", Group: CanaryGroup}) {
			t.Error("who counts is another when policies are compiled anew")
		}
		for _, key := range []telemetry.GroupKey{{Policy: "canary.greeter-v2", Group: "other"}, {Policy: "greeter-v2", Group: CanaryGroup}, {Policy: "canary.greeter-v2", Rule: "1", Group: CanaryGroup}} {
			if a.Observer(key) != nil {
				t.Errorf("%v is counted", key)
			}
		}
		for range 400 {
			stable.Ended(&telemetry.Outcome{Took: time.Millisecond})
		}
		for range 100 { // neither of these says anything of the version
			canaries.Ended(&telemetry.Outcome{Code: codes.Internal, Excused: true})
			canaries.Ended(&telemetry.Outcome{Code: codes.Internal, Forced: true})
		}
		time.Sleep(time.Second)
		if got := weights(a); got != "greeter-v2 v1=8000 v2=2000" || changed != nil {
			t.Fatalf("before anything failed: %s, %v", got, changed)
		}
		for range 25 {
			canaries.Ended(&telemetry.Outcome{Code: codes.Internal, Took: time.Millisecond})
		}
		at := time.Now()
		time.Sleep(5 * time.Millisecond)
		synctest.Wait()
		if got := weights(a); got != "greeter-v2 v1=10000 v2=0" || len(changed) != 1 || changed[0].Sub(at) > 3*time.Millisecond || len(urgent) != 1 {
			t.Fatalf("after 25 failures: %s, %v after %v, %v", got, changed, at, urgent)
		}
		report := func(all bool) *meshv1.CanaryCounts {
			var r meshv1.ReportRequest
			a.Collect(service, &r, all)
			if len(r.GetCanaries()) == 0 {
				return nil
			}
			return r.GetCanaries()[0]
		}
		if c := report(false); c.GetTripped() != "errors/against_stable" || c.GetStep() != 1 || c.GetCanary().GetCodes()[13] != 25 || c.GetStable().GetCodes()[0] != 400 {
			t.Errorf("reported %v", c)
		}
		if c := report(false); c != nil {
			t.Errorf("reported again %v", c)
		}
		if c := report(true); c.GetTripped() == "" {
			t.Errorf("a new stream is told %v", c)
		}
		// Pauses change nothing about it.
		a.Obey(service, []*controlv1.RunState{stateOf(t, c, 2, controlv1.Phase_PHASE_PAUSED, 1, 2000)}, nil)
		a.Obey(service, []*controlv1.RunState{stateOf(t, c, 3, running, 1, 2000)}, nil)
		if got := weights(a); got != "greeter-v2 v1=10000 v2=0" {
			t.Errorf("after a pause: %s", got)
		}
		if err := testutil.CollectAndCompare(metrics, strings.NewReader(`
# HELP pillion_canary_phase 1 for the phase that the canary is in.
# TYPE pillion_canary_phase gauge
pillion_canary_phase{canary="greeter-v2",phase="running",service="greeter"} 1
# HELP pillion_canary_trips_total How often this sidecar took its own RPCs off the canary.
# TYPE pillion_canary_trips_total counter
pillion_canary_trips_total{canary="greeter-v2",service="greeter"} 1
# HELP pillion_canary_weight The canary's share of RPCs here, from 0 to 1.
# TYPE pillion_canary_weight gauge
pillion_canary_weight{canary="greeter-v2",service="greeter"} 0
`)); err != nil {
			t.Error(err)
		}
		a.Obey(service, []*controlv1.RunState{stateOf(t, c, 4, running, 2, 5000)}, nil)
		if got := weights(a); got != "greeter-v2 v1=5000 v2=5000" {
			t.Errorf("in the next step: %s", got)
		}
		if c := report(true); c.GetStep() != 2 || len(c.GetCanary().GetCodes()) != 0 {
			t.Errorf("in the next step it reports %v", c)
		}
	})
}

// Groups of canaries that are gone are bounded, and those of canaries that are there stay.
func TestGroupsAreBounded(t *testing.T) {
	t.Parallel()
	a := NewAgent(Options{})
	defer a.Close()
	a.Obey(service, []*controlv1.RunState{stateOf(t, canary(stepOf(2000, time.Minute)), 1, running, 1, 2000)}, nil)
	key := func(name, group string) telemetry.GroupKey {
		return telemetry.GroupKey{Policy: PolicyName(name), Group: group}
	}
	stable, other := a.Observer(key("greeter-v2", StableGroup)), a.Observer(key("greeter-v2", CanaryGroup))
	for i := range 10 * maxGroups {
		name := fmt.Sprintf("gone-%d", i)
		if a.Observer(key(name, StableGroup)) == a.Observer(key(name, CanaryGroup)) {
			t.Fatal("two groups are one")
		}
	}
	if n := len(a.groups); n > maxGroups {
		t.Errorf("%d groups are kept", n)
	}
	if a.Observer(key("greeter-v2", StableGroup)) != stable || a.Observer(key("greeter-v2", CanaryGroup)) != other {
		t.Error("those of a canary that runs are others now")
	}
}

// Of what the store and the elected sidecar say the newer holds.
func TestStatesByNumber(t *testing.T) {
	t.Parallel()
	changed := 0
	a := NewAgent(Options{Changed: func(string) { changed++ }})
	defer a.Close()
	c := canary(stepOf(1000, time.Minute), stepOf(5000, time.Minute))
	one, two := stateOf(t, c, 1, running, 1, 1000), stateOf(t, c, 2, running, 2, 5000)
	back := stateOf(t, c, 3, rolledBack, 2, 0)
	does := func(what string, do func(), want string, tells bool) {
		t.Helper()
		before := changed
		do()
		if got := weights(a); got != want || changed > before != tells {
			t.Errorf("%s: %s, told: %v", what, got, changed > before)
		}
	}
	store := func(states ...*controlv1.RunState) func() { return func() { a.States(service, states) } }
	says := func(s *controlv1.RunState) func() {
		return func() { a.Obey(service, []*controlv1.RunState{s}, nil) }
	}
	first, second, none := "greeter-v2 v1=9000 v2=1000", "greeter-v2 v1=5000 v2=5000", "greeter-v2 v1=10000 v2=0"
	does("the store begins", store(one), first, false)
	does("the elected one is ahead", says(two), second, true)
	does("and repeats itself", says(proto.CloneOf(two)), second, false)
	does("the store is behind", store(one), second, false)
	does("an old word comes late", says(one), second, false)
	does("the store has caught up", store(two), second, false)
	does("it is rolled back", says(back), none, true)
	forward := stateOf(t, c, 3, running, 3, 9000)
	does("another has written the same number", store(forward), none, false)
	does("the store goes beyond", store(stateOf(t, c, 4, promoted, 2, 10000)), "greeter-v2 v1=0 v2=10000", false)
	does("another service's", says(func() *controlv1.RunState { s := proto.CloneOf(back); s.Service, s.Number = "other", 9; return s }()), "greeter-v2 v1=0 v2=10000", false)
	broken := stateOf(t, c, 5, running, 1, 1000)
	broken.Document = []byte{0xff}
	does("one that cannot be read", store(broken), "greeter-v2 v1=0 v2=10000", false)
	huge := stateOf(t, c, 6, running, 1, 1<<31)
	does("one with a weight that cannot be", store(huge), "greeter-v2 v1=0 v2=10000", false)
	endless := stateOf(t, c, 1<<63, running, 1, 1000)
	does("one after which nothing could come", store(endless), "greeter-v2 v1=0 v2=10000", false)
	does("and said so", says(endless), "greeter-v2 v1=0 v2=10000", false)
	does("the state is removed", store(), "", false)

	// Snapshots of Consul's are restored.
	seven := stateOf(t, c, 7, running, 2, 5000)
	does("another run", store(seven), second, false)
	does("as the elected one says too", says(seven), second, false)
	does("the store is set back", store(one), first, false)
	does("and goes on from there", says(stateOf(t, c, 2, running, 2, 5000)), second, true)
	does("it is rolled back", store(stateOf(t, c, 8, rolledBack, 2, 0)), none, false)
	does("the store forgets that", store(stateOf(t, c, 2, running, 2, 5000)), none, false)
	var r meshv1.ReportRequest
	if a.Collect(service, &r, true); len(r.GetCanaries()) != 1 || r.GetCanaries()[0].GetRolledBack() != 8 {
		t.Errorf("the elected one is told %v", &r)
	}
	does("and is told again", store(stateOf(t, c, 9, rolledBack, 2, 0)), none, false)
	next := stateOf(t, c, 4, running, 1, 1000)
	next.Run = 2
	does("it is set back to another run", store(next), first, false)
}

// A canary that was promoted holds until a later one says otherwise, and those that get no
// RPCs by that are left out.
func TestSeveralCanaries(t *testing.T) {
	t.Parallel()
	a := NewAgent(Options{})
	defer a.Close()
	named := func(name, stable, to string, methods ...string) *configv1.Canary {
		c := canary(stepOf(1000, time.Minute))
		c.Name, c.Stable, c.Canary, c.Methods = name, stable, to, methods
		return c
	}
	a.States(service, []*controlv1.RunState{
		stateOf(t, named("a", "v1", "v2"), 1, promoted, 1, 10000),
		stateOf(t, named("b", "v2", "v3"), 5, promoted, 1, 10000),
		stateOf(t, named("c", "v3", "v4", "helloworld.Greeter/SayHello"), 7, rolledBack, 1, 0),
		stateOf(t, named("d", "v3", "v5", "helloworld.Greeter/SayHello"), 6, running, 1, 1000),
	})
	if got, want := weights(a), "d v3=9000 v5=1000, c v3=10000 v4=0, b v2=0 v3=10000"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
	order := uint32(0)
	for _, p := range a.Policies(service) {
		if p.GetSplit().GetOrder() <= order {
			t.Errorf("%s comes %d", p.GetName(), p.GetSplit().GetOrder())
		}
		order = p.GetSplit().GetOrder()
	}
}

// Ejections count from the beginning of a step on, also where who counts them begins anew.
func TestEjections(t *testing.T) {
	t.Parallel()
	events := uint64(7)
	a := NewAgent(Options{Events: func(_, subset string) (uint64, int, bool) { return events, 3, subset == "v2" }})
	defer a.Close()
	c := canary(stepOf(1000, time.Minute))
	a.States(service, []*controlv1.RunState{stateOf(t, c, 1, running, 1, 1000)})
	for _, step := range []struct{ now, want uint64 }{{7, 0}, {9, 2}, {9, 2}, {1, 3}, {3, 5}} {
		events = step.now
		var r meshv1.ReportRequest
		a.Collect(service, &r, true)
		counts := r.GetCanaries()[0]
		if counts.GetCanary().GetEjections() != step.want || counts.GetCanary().GetInstances() != 3 || counts.GetStable().GetInstances() != 0 {
			t.Errorf("with %d events it reports %v, not %d", step.now, counts, step.want)
		}
	}
}
