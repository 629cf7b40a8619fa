package canary

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/hooks"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	"github.com/pillion-proxy/pillion/control/ledger"
	"github.com/pillion-proxy/pillion/control/mesh"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/proxy/telemetry"
)

const (
	service = "greeter"
	method  = "/helloworld.Greeter/SayHello"
	latency = 2 * time.Millisecond // between sidecars
)

// behaviour says what an RPC to a version comes to.
type behaviour func(r *rand.Rand, version, key string) (codes.Code, time.Duration)

// failing has a share of the RPCs to v2, and one in a thousand to v1, fail.
func failingShare(p float64) behaviour {
	return func(r *rand.Rand, version, _ string) (codes.Code, time.Duration) {
		share := 0.001
		if version == "v2" {
			share = p
		}
		took := time.Duration(float64(5*time.Millisecond) * (0.7 + r.ExpFloat64()))
		if r.Float64() < share {
			return codes.Internal, took
		}
		return codes.OK, took
	}
}

// world is a mesh in virtual time: sidecars that call one service, a store, and one that
// is elected.
type world struct {
	t       testing.TB
	memory  *memkv.Memory
	people  *memkv.Store
	ctx     context.Context
	cancel  context.CancelFunc
	running sync.WaitGroup

	fence    func(kv.Store) kv.Store                    // of who is elected next
	known    func(service string) []*controlv1.RunState // what it has heard of
	sidecars []*sidecar
	behave   atomic.Pointer[behaviour]

	mu      sync.Mutex
	elected *elected
	deaf    bool // what is reported and published is lost
	seq     uint64
	now     memkv.Fault // of the store
	eager   bool        // all report to who is elected before that one knows anything
}

// elected is the sidecar that decides.
type elected struct {
	leading  mesh.Leading
	store    *memkv.Store
	cancel   context.CancelFunc
	deciding sync.Mutex
	over     bool
}

// sidecar is one that sends RPCs.
type sidecar struct {
	w       *world
	id      string
	process uint64
	store   *memkv.Store
	agent   *Agent
	random  *rand.Rand

	mu  sync.Mutex // of set
	set *policy.Set

	reports chan struct{}
	last    *elected    // who was told all, under world.mu
	keeps   atomic.Bool // what the store has lost holds
	// on is told of every RPC.
	on func(now time.Time, s *sidecar, key, version string, code codes.Code)

	v1, v2, failed atomic.Int64
	lastCanary     atomic.Int64 // Unix nanoseconds
}

// newWorld begins a mesh of n sidecars in a bubble of synctest. All ends with w.end.
func newWorld(t testing.TB, n int) *world {
	w := &world{t: t, memory: memkv.New()}
	w.people = w.memory.Store()
	w.ctx, w.cancel = context.WithCancel(context.Background())
	b := failingShare(0.001)
	w.behave.Store(&b)
	for i := range n {
		w.sidecars = append(w.sidecars, w.newSidecar(i))
	}
	return w
}

func (w *world) newSidecar(i int) *sidecar {
	s := &sidecar{
		w: w, id: fmt.Sprintf("caller-%d", i), process: uint64(i + 1), store: w.memory.Store(),
		random: rand.New(rand.NewPCG(uint64(i), 17)), reports: make(chan struct{}, 1),
	}
	s.agent = NewAgent(Options{Changed: func(string) { s.compile() }})
	s.agent.Urgent(func(string) {
		select {
		case s.reports <- struct{}{}:
		default:
		}
	})
	s.compile()
	w.running.Go(func() {
		var last map[string]*controlv1.RunState // by name
		s.store.Watch(w.ctx, control.StatePrefix(service), func(state kv.State) {
			if !state.Known {
				return
			}
			var states []*controlv1.RunState
			before := last
			last = map[string]*controlv1.RunState{}
			for _, e := range state.Entries {
				one := &controlv1.RunState{}
				if err := protojson.Unmarshal(e.Value, one); err != nil {
					w.t.Error(err)
				}
				states = append(states, one)
				last[one.GetName()] = one
			}
			for name, one := range before {
				if last[name] == nil && s.keeps.Load() {
					states, last[name] = append(states, one), one
				}
			}
			s.agent.States(service, states)
			s.compile()
		})
	})
	w.running.Go(s.report)
	return s
}

// subsets is the policy that names the versions.
var subsets = configyaml.EffectivePolicy(&configv1.Policy{Name: "versions", Service: service, Kind: &configv1.Policy_Subsets{Subsets: &configv1.SubsetsPolicy{
	Subsets: map[string]*configv1.Subset{"v1": {Meta: map[string]string{"version": "v1"}}, "v2": {Meta: map[string]string{"version": "v2"}}},
}}})

// compile has the policies of now be in force.
func (s *sidecar) compile() {
	s.mu.Lock()
	defer s.mu.Unlock()
	policies := append([]*configv1.Policy{subsets}, s.agent.Policies(service)...)
	set, refused := policy.Compile(policies, s.set, policy.Env{Observer: s.agent.Observer})
	for _, r := range refused {
		s.w.t.Errorf("refused: %v", r)
	}
	s.set = set
}

// send sends an RPC and says which version it went to.
func (s *sidecar) send(key string) string {
	s.mu.Lock()
	set := s.set
	s.mu.Unlock()
	rpc := &policy.RPC{Path: method, Authority: service, Random: s.random.Uint64}
	if key != "" {
		rpc.Fields = []hpack.Field{{Name: "x-user", Value: key}}
	}
	d := policy.Decision{Service: service}
	groups := set.Service(service).Splits(method).Decide(rpc, &d, nil, nil)
	version := d.Subset
	if version == "" {
		version = "v1"
	}
	code, took := (*s.w.behave.Load())(s.random, version, key)
	for _, g := range groups {
		if g.Observer != nil {
			g.Observer.Ended(&telemetry.Outcome{Code: code, Took: took, Unit: g.Unit, Forced: g.Forced})
		}
	}
	if version == "v2" {
		s.v2.Add(1)
		s.lastCanary.Store(time.Now().UnixNano())
	} else {
		s.v1.Add(1)
	}
	if code != codes.OK {
		s.failed.Add(1)
	}
	if s.on != nil {
		s.on(time.Now(), s, key, version, code)
	}
	return version
}

// load has each sidecar send RPCs for a time, with one of so many keys; 0: without.
func (w *world) load(perSecond, keys int, d time.Duration) {
	var wg sync.WaitGroup
	for _, s := range w.sidecars {
		wg.Go(func() {
			ticker := time.NewTicker(time.Second / time.Duration(perSecond))
			defer ticker.Stop()
			for end := time.Now().Add(d); time.Now().Before(end); {
				<-ticker.C
				key := ""
				if keys > 0 {
					key = fmt.Sprintf("user-%d", s.random.IntN(keys))
				}
				s.send(key)
			}
		})
	}
	wg.Wait()
}

// report tells who is elected what was counted.
func (s *sidecar) report() {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	for {
		select {
		case <-ticker.C:
		case <-s.reports:
		case <-s.w.ctx.Done():
			return
		}
		s.w.mu.Lock()
		to, all := s.w.elected, s.w.elected != s.last
		if s.w.deaf {
			to = nil
		}
		s.last = to
		s.w.mu.Unlock()
		if to == nil {
			continue
		}
		var r meshv1.ReportRequest
		s.agent.Collect(service, &r, all)
		if len(r.GetCanaries()) > 0 || len(r.GetHeard()) > 0 {
			time.Sleep(latency)
			to.do(func(l mesh.Leading) {
				l.Take(s.hello(), &r)
			})
		}
	}
}

func (s *sidecar) hello() *meshv1.Hello {
	return &meshv1.Hello{Id: s.id, Service: "caller", Process: s.process, About: service}
}

func (e *elected) do(f func(mesh.Leading)) {
	e.deciding.Lock()
	defer e.deciding.Unlock()
	if !e.over {
		f(e.leading)
	}
}

// elect has a sidecar be elected.
func (w *world) elect(told *hooks.Teller) {
	e := &elected{store: w.memory.Store()}
	ctx, cancel := context.WithCancel(w.ctx)
	e.cancel = cancel
	w.mu.Lock()
	w.seq++
	id := fmt.Sprintf("elected-%d", w.seq)
	w.mu.Unlock()
	var store kv.Store = e.store
	if w.fence != nil {
		store = w.fence(store)
	}
	e.leading = Lead(LeadOptions{ID: id, Hooks: told, Known: w.known})(ctx, service, store, func(said *meshv1.ReportResponse) {
		said = proto.CloneOf(said)
		for _, s := range w.sidecars {
			w.running.Go(func() {
				time.Sleep(latency)
				w.mu.Lock()
				lost := w.deaf
				w.mu.Unlock()
				if !lost {
					s.agent.Obey(service, said.GetStates(), nil)
				}
			})
		}
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	w.elected = e
	for _, s := range w.sidecars {
		if !w.eager || w.deaf {
			break
		}
		var r meshv1.ReportRequest
		s.agent.Collect(service, &r, true)
		e.leading.Take(s.hello(), &r)
		s.last = e
	}
}

// kill ends the sidecar that is elected, in the middle of whatever it does.
func (w *world) kill() {
	w.mu.Lock()
	e := w.elected
	w.elected = nil
	w.mu.Unlock()
	if e == nil {
		return
	}
	e.store.Kill()
	e.cancel()
	e.deciding.Lock()
	defer e.deciding.Unlock()
	e.over = true
	e.leading.Close()
}

// end ends everything.
func (w *world) end() {
	w.cancel()
	w.kill()
	w.running.Wait()
	for _, s := range w.sidecars {
		s.agent.Close()
	}
}

// canary is the document that most tests use.
func canary(steps ...*configv1.CanaryStep) *configv1.Canary {
	return &configv1.Canary{
		Name: "greeter-v2", Service: service, Stable: "v1", Canary: "v2", Steps: steps,
		Guards: &configv1.CanaryGuards{Errors: []*configv1.ErrorGuard{{}}, Latency: []*configv1.LatencyGuard{{}}},
	}
}

func stepOf(weight uint32, hold time.Duration) *configv1.CanaryStep {
	return &configv1.CanaryStep{Weight: weight, Hold: durationpb.New(hold)}
}

// apply writes a document, as people do.
func (w *world) apply(c *configv1.Canary) {
	w.put(control.DocumentKey(control.Canary, c.GetService(), c.GetName()), &controlv1.Document{
		Revision: 1, Time: timestamppb.Now(), Author: "ann", Body: &controlv1.Document_Canary{Canary: c},
	})
}

func (w *world) put(key string, m proto.Message) {
	value, err := protojson.Marshal(m)
	if err != nil {
		w.t.Fatal(err)
	}
	if err := w.people.Commit(w.ctx, kv.Op{Key: key, Value: value, Any: true}); err != nil {
		w.t.Fatal(err)
	}
}

// ask writes a request, as people do.
func (w *world) ask(name string, action controlv1.Action) uint64 {
	q := controlv1.Request{Number: w.lastRequest(name) + 1, Action: action, Author: "ann", Time: timestamppb.Now()}
	w.put(control.RequestKey(control.Canary, service, name), &q)
	return q.GetNumber()
}

// lastRequest is the number of the last request.
func (w *world) lastRequest(name string) uint64 {
	var q controlv1.Request
	if e, err := w.people.Get(w.ctx, control.RequestKey(control.Canary, service, name)); err == nil {
		if err := protojson.Unmarshal(e.Value, &q); err != nil {
			w.t.Fatal(err)
		}
	} else if !errors.Is(err, kv.ErrNotFound) {
		w.t.Fatal(err)
	}
	return q.GetNumber()
}

// state returns what the store has of a canary.
func (w *world) state(name string) *controlv1.RunState {
	p, err := ledger.Book{Store: w.people, Kind: control.Canary, Service: service}.Read(context.Background(), name)
	if err != nil || p.Problem != nil {
		w.t.Fatal(err, p.Problem)
	}
	return p.State
}

// start applies a canary and starts it.
func (w *world) start(c *configv1.Canary) {
	w.apply(c)
	n := w.ask(c.GetName(), controlv1.Action_ACTION_START)
	w.until(5*time.Second, "the canary to be started", func() bool { return w.state(c.GetName()).GetRequest() >= n })
}

// until waits in virtual time.
func (w *world) until(most time.Duration, what string, is func() bool) {
	w.t.Helper()
	for end := time.Now().Add(most); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			w.t.Fatalf("waited %v for %s: %v", most, what, w.state("greeter-v2"))
		}
	}
	time.Sleep(2 * latency) // all have heard of it
	synctest.Wait()
}

// counts returns what all have sent.
func (w *world) counts() (v1, v2, failed int64) {
	for _, s := range w.sidecars {
		v1 += s.v1.Load()
		v2 += s.v2.Load()
		failed += s.failed.Load()
	}
	return v1, v2, failed
}

// history returns the canary's transitions.
func (w *world) history(name string) (list []*controlv1.Transition) {
	entries, err := w.people.List(context.Background(), control.TransitionsPrefix(control.Canary, service, name))
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range entries {
		var one controlv1.Transition
		if err := protojson.Unmarshal(e.Value, &one); err != nil {
			w.t.Fatal(err)
		}
		list = append(list, &one)
	}
	return list
}
