package experiment

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	"github.com/pillion-proxy/pillion/control/mesh"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

// world is a mesh in memory, in virtual time: sidecars with agents, of which one leads.
// What package mesh does is done in the simplest way.
type world struct {
	t        *testing.T
	memory   *memkv.Memory
	sidecars []*sidecar
	elected  *elected
	requests uint64
	random   *rand.Rand
}

type sidecar struct {
	w       *world
	hello   *meshv1.Hello
	o       Options
	agent   *Agent
	changed []string // services, in order
	fresh   bool     // it has not said all to who leads now
	cut     bool     // it does not reach who leads

	mu     sync.Mutex
	ctx    context.Context
	cancel context.CancelFunc
	done   sync.WaitGroup
	// observers are those of the policies that were compiled last.
	set *policy.Set
}

type elected struct {
	leading mesh.Leading
	cancel  context.CancelFunc
	store   *memkv.Store
	mu      sync.Mutex
	told    []*meshv1.ReportResponse // all, for who connects later
}

// play has a test play in a world.
func play(t *testing.T, f func(t *testing.T, w *world)) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := &world{t: t, memory: memkv.New(), random: rand.New(rand.NewPCG(1, 2))}
		f(t, w)
		w.depose()
		for _, s := range w.sidecars {
			s.stop()
		}
		synctest.Wait()
	})
}

// sidecar adds one.
func (w *world) sidecar(o Options) *sidecar {
	s := &sidecar{w: w, o: o, hello: &meshv1.Hello{Id: fmt.Sprintf("sidecar-%d", len(w.sidecars)), About: "shop"}}
	w.sidecars = append(w.sidecars, s)
	s.start()
	return s
}

// start starts its process.
func (s *sidecar) start() {
	s.hello = proto.CloneOf(s.hello)
	s.hello.Process = rand.Uint64()
	o := s.o
	o.Changed = func(service string) {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.changed = append(s.changed, service)
	}
	s.agent, s.fresh = NewAgent(o), true
	s.ctx, s.cancel = context.WithCancel(context.Background())
	agent := s.agent
	s.done.Go(func() {
		s.w.memory.Store().Watch(s.ctx, control.StatePrefix("shop"), func(state kv.State) {
			var list []*controlv1.RunState
			for _, e := range state.Entries {
				one := &controlv1.RunState{}
				if err := protojson.Unmarshal(e.Value, one); err != nil {
					panic(err)
				}
				list = append(list, one)
			}
			agent.States("shop", list)
		})
	})
	synctest.Wait()
}

// stop ends its process in peace.
func (s *sidecar) stop() {
	if s.agent != nil {
		s.kill()
		s.agent.Close()
		s.agent = nil
	}
}

// kill ends its process without a word: what it would have written is not.
func (s *sidecar) kill() {
	s.cancel()
	s.done.Wait()
}

// elect has one lead.
func (w *world) elect(o LeadOptions) *elected {
	w.depose()
	e := &elected{store: w.memory.Store()}
	if o.ID == "" {
		o.ID = "sidecar-0"
	}
	ctx, cancel := context.WithCancel(context.Background())
	e.cancel = cancel
	e.leading = Lead(o)(ctx, "shop", e.store, func(r *meshv1.ReportResponse) {
		e.mu.Lock()
		defer e.mu.Unlock()
		e.told = append(e.told, r)
	})
	w.elected = e
	for _, s := range w.sidecars {
		s.fresh = true
	}
	return e
}

func (w *world) depose() {
	if w.elected != nil {
		w.elected.cancel()
		w.elected.leading.Close()
		w.elected = nil
	}
}

// report has all sidecars report, and obey.
func (w *world) report() {
	if w.elected == nil {
		return
	}
	for _, s := range w.sidecars {
		if s.agent == nil || s.cut {
			continue
		}
		r := &meshv1.ReportRequest{}
		s.agent.Collect("shop", r, s.fresh)
		s.fresh = false
		if len(r.Experiments) > 0 {
			wire, err := proto.Marshal(r)
			if err != nil {
				w.t.Fatal(err)
			}
			if err := proto.Unmarshal(wire, r); err != nil {
				w.t.Fatal(err)
			}
			w.elected.leading.Take(s.hello, r)
		}
	}
	w.elected.mu.Lock()
	told := w.elected.told
	w.elected.mu.Unlock()
	for _, s := range w.sidecars {
		for _, r := range told {
			if s.agent != nil && !s.cut {
				s.agent.Hear("shop", r.GetSources())
				s.agent.Obey("shop", r.GetStates(), r.GetThresholds())
			}
		}
	}
}

// pass lets time pass, with reports five times a second.
func (w *world) pass(d time.Duration) {
	for end := time.Now().Add(d); time.Now().Before(end); {
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		w.report()
	}
}

func (w *world) write(key string, m proto.Message) {
	w.t.Helper()
	value, err := protojson.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.memory.Store().Commit(w.t.Context(), kv.Op{Key: key, Value: value, Any: true}); err != nil {
		w.t.Fatal(err)
	}
}

// apply writes a document.
func (w *world) apply(e *configv1.Experiment, revision uint64) {
	w.t.Helper()
	w.write(control.DocumentKey(control.Experiment, "shop", e.GetName()), &controlv1.Document{
		Revision: revision, Body: &controlv1.Document_Experiment{Experiment: e},
	})
}

// ask asks for something, and returns the state after it.
func (w *world) ask(name string, action controlv1.Action, revision uint64) *controlv1.RunState {
	w.t.Helper()
	w.requests++
	w.write(control.RequestKey(control.Experiment, "shop", name), &controlv1.Request{
		Number: w.requests, Action: action, Author: "ann", Message: "to see", Revision: revision,
	})
	synctest.Wait()
	w.report()
	return w.state(name)
}

// state is what the store says of an experiment; nil: nothing.
func (w *world) state(name string) *controlv1.RunState { return w.stateOf("shop", name) }

// stateOf is the same for an experiment of any service.
func (w *world) stateOf(service, name string) *controlv1.RunState {
	w.t.Helper()
	e, err := w.memory.Store().Get(w.t.Context(), control.StateKey(control.Experiment, service, name))
	if err != nil {
		return nil
	}
	state := &controlv1.RunState{}
	if err := protojson.Unmarshal(e.Value, state); err != nil {
		w.t.Fatal(err)
	}
	return state
}

// history is how many transitions there were.
func (w *world) history(name string) []*controlv1.Transition {
	w.t.Helper()
	list, err := w.memory.Store().List(w.t.Context(), control.TransitionsPrefix(control.Experiment, "shop", name))
	if err != nil {
		w.t.Fatal(err)
	}
	var all []*controlv1.Transition
	for _, e := range list {
		one := &controlv1.Transition{}
		if err := protojson.Unmarshal(e.Value, one); err != nil {
			w.t.Fatal(err)
		}
		all = append(all, one)
	}
	return all
}

func (w *world) results(name string) *meshv1.ResultsResponse {
	w.t.Helper()
	time.Sleep(freshFor)
	synctest.Wait()
	r := w.elected.leading.Results(name)
	if r == nil {
		w.t.Fatalf("there are no results of %s", name)
	}
	return r
}

// running starts an experiment, and checks that it runs.
func (w *world) running(e *configv1.Experiment) {
	w.t.Helper()
	w.apply(e, 1)
	if s := w.ask(e.GetName(), controlv1.Action_ACTION_START, 1); s.GetPhase() != controlv1.Phase_PHASE_RUNNING {
		w.t.Fatalf("it does not run: %v", s)
	}
}

// compile takes over the policies that the agent has now.
func (s *sidecar) compile() {
	s.set = compile(s.w.t, policy.Env{}, s.agent.Policies("shop")...)
}

// user is how the RPCs of one are: how likely one fails and how long they take.
type user struct {
	name    string
	failing float64
	took    time.Duration
}

// people are users who differ from each other.
func (w *world) people(n int) []user {
	list := make([]user, n)
	for i := range list {
		list[i] = user{fmt.Sprintf("u%d", i), 0.1 * w.random.Float64(), time.Duration(math.Exp(w.random.NormFloat64()/2) * float64(50*time.Millisecond))}
	}
	return list
}

// visit has users make RPCs by sidecars by turns; slower is by how much the treatment is.
func (w *world) visit(people []user, rpcs int, slower float64) {
	for i := range rpcs {
		u := people[w.random.IntN(len(people))]
		s := w.sidecars[i%len(w.sidecars)]
		if s.agent == nil {
			continue
		}
		if s.set == nil {
			s.compile()
		}
		groups := divide(s.set, "/a.B/C", "user: "+u.name)
		if len(groups) == 0 {
			continue
		}
		o := telemetry.Outcome{Took: u.took, Unit: groups[0].Unit}
		if w.random.Float64() < u.failing {
			o.Code = codes.Unavailable
		}
		if groups[0].Name == "treatment" {
			o.Took = time.Duration(float64(o.Took) * (1 + slower))
		}
		if ob := s.agent.Observer(telemetry.GroupKey{Policy: PolicyName("checkout"), Group: groups[0].Name}); ob != nil {
			ob.Ended(&o)
		}
	}
}
