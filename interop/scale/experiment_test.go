package scale

import (
	"context"
	"fmt"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/experiment"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	"github.com/pillion-proxy/pillion/control/requests"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// question is the experiment that all sidecars count for.
const question = "hub-button"

var variants = []string{"control", "treatment"}

// halves says which variant a unit is in.
var halves = policy.NewAssignment([]int{5000, 5000})

func questionDocument() *configv1.Experiment {
	e := &configv1.Experiment{Name: question, Service: hub, Unit: &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: "user-id"}}}
	for _, v := range variants {
		e.Variants = append(e.Variants, &configv1.Variant{Name: v, Weight: 5000})
	}
	return e
}

// experiment has all sidecars count for one, and says what that costs.
func (f *fleet) experiment(t *testing.T) {
	t.Helper()
	started := f.during(t, func() { t.Logf("experiment: runs on %v", f.startExperiment(t)) })
	t.Logf("  until then: %v", started)

	const each = 20 // units a second at each sidecar
	var units int
	said := f.talk.during(func() {
		if *full {
			t.Logf("experiment: the elected one takes %s", share(t, f.elected(), func() { units = f.visits(each, 8*time.Second) }))
		} else {
			units = f.visits(each, time.Second)
		}
	})
	t.Logf("experiment: %d units/s at each sidecar, each seen at another one too: %v", each, said)
	r := f.awaitUnits(t, units)
	if r.GetLostSidecars() != 0 || r.GetCrossed() != 0 || r.GetSampled() != 1 {
		t.Errorf("what %d sidecars have counted is lost, %d units crossed, %v are sampled", r.GetLostSidecars(), r.GetCrossed(), r.GetSampled())
	}
	if most := int64(float64(len(f.sidecars)) * (said.took.Seconds() + 2)); said.reports > most {
		t.Errorf("%d sidecars report %d times in %v, more than once a second each", len(f.sidecars), said.reports, said.took)
	}
	f.stopExperiment(t)
}

// startExperiment starts it, and waits until all sidecars divide by it and report.
func (f *fleet) startExperiment(t *testing.T) spread {
	t.Helper()
	f.revision++
	f.commit(t, f.document(t, control.Experiment, hub, question, &controlv1.Document{Body: &controlv1.Document_Experiment{Experiment: questionDocument()}}))
	a := f.await(f.sidecars, func(_ *sidecar, set *policy.Set) bool {
		_, is := set.Policy(experiment.PolicyName(question))
		return is
	})
	subject := requests.Subject{Kind: control.Experiment, Service: hub, Name: question}
	if _, err := requests.Ask(t.Context(), f.people, subject, &controlv1.Request{Action: controlv1.Action_ACTION_START}); err != nil {
		t.Fatal(err)
	}
	a.wait(t, "the experiment runs everywhere")
	f.awaitReporters(t)
	return a.spread()
}

// stopExperiment stops it, and waits until nobody divides by it.
func (f *fleet) stopExperiment(t *testing.T) {
	t.Helper()
	a := f.await(f.sidecars, func(_ *sidecar, set *policy.Set) bool {
		_, is := set.Policy(experiment.PolicyName(question))
		return !is
	})
	subject := requests.Subject{Kind: control.Experiment, Service: hub, Name: question}
	if _, err := requests.Ask(t.Context(), f.people, subject, &controlv1.Request{Action: controlv1.Action_ACTION_STOP}); err != nil {
		t.Fatal(err)
	}
	a.wait(t, "the experiment is over everywhere")
}

// visits has each sidecar see so many units a second, each of which has an RPC here and one
// at the next sidecar. It says how many there were.
func (f *fleet) visits(each int, lasts time.Duration) (units int) {
	const every = 100 * time.Millisecond
	for end := time.Now().Add(lasts); time.Now().Before(end); time.Sleep(every) {
		for i := range f.sidecars {
			for range max(1, each*int(every)/int(time.Second)) {
				units++
				visit(f.sidecars[i].experiments, units)
				visit(f.sidecars[(i+1)%len(f.sidecars)].experiments, units)
			}
		}
	}
	return units
}

// visit has a unit have an RPC.
func visit(a *experiment.Agent, unit int) {
	hash := uint64(unit) * 0x9E3779B97F4A7C15
	o := a.Observer(telemetry.GroupKey{Policy: experiment.PolicyName(question), Group: variants[halves.Group(hash)]})
	o.Ended(&telemetry.Outcome{Code: codes.OK, Took: time.Duration(unit%100) * time.Millisecond, Unit: hash})
}

// awaitUnits waits until the elected sidecar knows of so many units, and of what all have
// counted.
func (f *fleet) awaitUnits(t *testing.T, units int) *meshv1.ResultsResponse {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	var r *meshv1.ResultsResponse
	for ; ; time.Sleep(50 * time.Millisecond) {
		if s := f.elected(); s != nil {
			if now, err := s.member.Results(ctx, hub, question); err == nil {
				r = now
			}
		}
		if unitsOf(r) == units && int(r.GetSidecars()) == len(f.sidecars) {
			return r
		}
		if ctx.Err() != nil {
			t.Fatalf("of %d units %d are known of, of %d sidecars %d have counted", units, unitsOf(r), len(f.sidecars), r.GetSidecars())
		}
	}
}

func unitsOf(r *meshv1.ResultsResponse) (n int) {
	for _, v := range r.GetVariants() {
		n += int(v.GetUnits())
	}
	return n
}

// TestUnits says what units cost in memory, at a sidecar that counts them and at the one
// that is elected, and what a report of all of them has in bytes.
func TestUnits(t *testing.T) {
	if !*full {
		t.Skip("it is for `make scale`")
	}
	for _, units := range []int{100_000, 400_000} {
		t.Run(fmt.Sprint(units), func(t *testing.T) {
			doc := questionDocument()
			doc.MaxUnits = new(uint32(2 * units)) // none is left out by chance
			document, err := proto.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			state := &controlv1.RunState{
				Kind: string(control.Experiment), Service: hub, Name: question, Number: 1, Run: 1,
				Phase: controlv1.Phase_PHASE_RUNNING, Document: document,
			}
			before := memory()
			agent := experiment.NewAgent(experiment.Options{})
			defer agent.Close()
			agent.States(hub, []*controlv1.RunState{state})
			for unit := range units {
				visit(agent, 1+unit)
			}
			counted := memory() - before

			store := memkv.New().Store()
			value, err := protojson.Marshal(state)
			if err != nil {
				t.Fatal(err)
			}
			if err := store.Commit(t.Context(), kv.Op{Key: control.StateKey(control.Experiment, hub, question), Value: value, Any: true}); err != nil {
				t.Fatal(err)
			}
			lead := experiment.Lead(experiment.LeadOptions{ID: "elected"})(t.Context(), hub, store, func(*meshv1.ReportResponse) {})
			defer lead.Close()
			for lead.Results(question) == nil {
				time.Sleep(10 * time.Millisecond)
			}
			before = memory()
			bytes, parts := 0, 0
			for all := true; ; all = false {
				r := &meshv1.ReportRequest{}
				agent.Collect(hub, r, all)
				if len(r.GetExperiments()) == 0 {
					break
				}
				bytes, parts = bytes+proto.Size(r), parts+1
				lead.Take(&meshv1.Hello{Id: "other", Process: 1}, r)
			}
			pooled := memory() - before
			for unitsOf(lead.Results(question)) != units {
				time.Sleep(100 * time.Millisecond)
			}
			t.Logf("%d units: %d bytes each at the sidecar, %d at the elected one for each sidecar that has seen it; a report of all has %d bytes each, in %d parts",
				units, counted/units, pooled/units, bytes/units, parts)
		})
	}
}
