package scale

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"runtime/pprof"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/consul/api"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	agents "github.com/pillion-proxy/pillion/interop/consul"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry/consul"
)

// hub is a service that all sidecars call.
const hub = "hub"

// size is what a mesh is like.
type size struct {
	sidecars, services int
	uses               int // services that each sidecar calls, the hub among them
	endpoints          int // of those, how many it looks for the instances of
	documents          int // of each service
}

// fleet is many sidecars, and the Consul that they share.
type fleet struct {
	size      size
	agent     *agents.Agent
	wire      *wire
	people    kv.Store // of those who write documents
	sidecars  []*sidecar
	byAddress map[string]*sidecar
	revision  uint64
	talk      talk // of all with who is elected

	awaited atomic.Pointer[awaited]
}

// service is the name of one.
func service(i int) string { return fmt.Sprintf("svc-%02d", i) }

// tunable is the policy of a service that tests change.
func tunable(service string) string {
	if service == "*" {
		return "tunable-all"
	}
	return "tunable-" + service
}

// startFleet starts a Consul with documents and instances, and sidecars, of which each
// obeys all that there is when it returns.
func startFleet(t *testing.T, z size) *fleet {
	t.Helper()
	// Each node's agent has 200 connections for each address; here one agent has all
	// sidecars of the mesh at one.
	agent := agents.Start(t, agents.WithLimits(map[string]any{"http_max_conns_per_client": 19_900}))
	f := &fleet{size: z, agent: agent, wire: newWire(), byAddress: map[string]*sidecar{}}
	f.people = openPeople(t, agent)
	f.prepare(t)
	letGo := configyaml.HoldRules()
	t.Cleanup(letGo)

	random := rand.New(rand.NewPCG(1, 2))
	for i := range z.sidecars {
		id := fmt.Sprintf("s%04d", i)
		uses := []string{hub}
		for _, other := range random.Perm(z.services)[:z.uses-1] {
			uses = append(uses, service(other))
		}
		var s *sidecar
		var err error
		pprof.Do(t.Context(), pprof.Labels("sidecar", id), func(context.Context) {
			s, err = newSidecar(f, id, service(i%z.services), uses)
		})
		if err != nil {
			t.Fatal(err)
		}
		f.sidecars = append(f.sidecars, s)
		f.byAddress[id+":1"] = s
	}
	t.Cleanup(f.close)
	all := f.expect(f.everything(), 1)
	for _, s := range f.sidecars {
		s.start()
	}
	all.wait(t, "all sidecars obey what there is")
	return f
}

func openPeople(t *testing.T, agent *agents.Agent) kv.Store {
	t.Helper()
	base := &http.Transport{}
	store, err := consul.NewStore(consul.Config{Address: agent.Address, Limits: consul.Limits{CallTimeout: patience}}, consul.Deps{Log: slog.New(slog.DiscardHandler), Transport: base})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(base.CloseIdleConnections)
	return store
}

func (f *fleet) close() {
	var closing sync.WaitGroup
	limit := make(chan struct{}, 64)
	for _, s := range f.sidecars {
		limit <- struct{}{}
		closing.Go(func() {
			defer func() { <-limit }()
			s.close()
		})
	}
	closing.Wait()
}

// everything is all services that there are, and "*".
func (f *fleet) everything() []string {
	all := []string{"*", hub}
	for i := range f.size.services {
		all = append(all, service(i))
	}
	return all
}

// prepare writes documents, and registers two instances of each service.
func (f *fleet) prepare(t *testing.T) {
	t.Helper()
	f.revision = 1
	var ops []kv.Op
	for _, service := range f.everything() {
		ops = append(ops, f.timeout(t, tunable(service), service, 1))
		for i := range f.size.documents - 1 {
			ops = append(ops, f.timeout(t, fmt.Sprintf("p%05d-%s", i, tunable(service)), service, 1))
		}
		if service == "*" {
			continue
		}
		for i := range 2 {
			err := f.agent.Client.Agent().ServiceRegister(&api.AgentServiceRegistration{
				Name: service, ID: fmt.Sprintf("%s-%d", service, i), Address: "127.0.0.1", Port: 1 + i,
			})
			if err != nil {
				t.Fatal(err)
			}
		}
	}
	for part := range slices.Chunk(ops, kv.MaxOps) {
		f.commit(t, part...)
	}
}

func (f *fleet) commit(t *testing.T, ops ...kv.Op) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := f.people.Commit(ctx, ops...); err != nil {
		t.Fatal(err)
	}
}

// timeout writes a document that says how long RPCs may take, in milliseconds.
func (f *fleet) timeout(t *testing.T, name, service string, ms int) kv.Op {
	t.Helper()
	return f.document(t, control.Policy, service, name, &controlv1.Document{Body: &controlv1.Document_Policy{Policy: &configv1.Policy{
		Name: name, Service: service, Methods: []string{"test." + name[1:6] + ".S/*"},
		Kind: &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{Default: durationpb.New(time.Duration(ms) * time.Millisecond)}},
	}}})
}

func (f *fleet) document(t *testing.T, kind control.Kind, service, name string, doc *controlv1.Document) kv.Op {
	t.Helper()
	doc.Revision = f.revision
	data, err := protojson.Marshal(doc)
	if err != nil {
		t.Fatal(err)
	}
	return kv.Op{Key: control.DocumentKey(kind, service, name), Value: data, Any: true}
}

// awaited is what sidecars are to have in force, and when each had it.
type awaited struct {
	// holds says whether a sidecar has it.
	holds func(*sidecar, *policy.Set) bool
	began time.Time
	done  chan struct{}

	mu   sync.Mutex
	left map[*sidecar]struct{}
	took []time.Duration
}

// expect begins to look for a value of services' policies, at all who follow one.
func (f *fleet) expect(services []string, ms int) *awaited {
	var who []*sidecar
	for _, s := range f.sidecars {
		if slices.ContainsFunc(services, s.follows) {
			who = append(who, s)
		}
	}
	return f.await(who, func(s *sidecar, set *policy.Set) bool {
		for _, service := range services {
			if s.follows(service) && timeoutOf(set, service) != time.Duration(ms)*time.Millisecond {
				return false
			}
		}
		return true
	})
}

// timeoutOf is what is in force of a service's tunable policy; 0: nothing is.
func timeoutOf(set *policy.Set, service string) time.Duration {
	p, _ := set.Policy(tunable(service))
	return p.Source.GetTimeout().GetDefault().AsDuration()
}

// await begins to look at what sidecars have in force.
func (f *fleet) await(who []*sidecar, holds func(*sidecar, *policy.Set) bool) *awaited {
	a := &awaited{holds: holds, done: make(chan struct{}), left: map[*sidecar]struct{}{}, began: time.Now()}
	for _, s := range who {
		a.left[s] = struct{}{}
	}
	f.awaited.Store(a)
	return a
}

func (s *sidecar) follows(service string) bool {
	return service == "*" || service == s.own || slices.Contains(s.uses, service)
}

// looked is told what a sidecar has in force.
func (f *fleet) looked(s *sidecar, set *policy.Set) {
	a := f.awaited.Load()
	if a == nil {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, is := a.left[s]; !is || !a.holds(s, set) {
		return
	}
	delete(a.left, s)
	a.took = append(a.took, time.Since(a.began))
	if len(a.left) == 0 {
		close(a.done)
	}
}

func (a *awaited) wait(t *testing.T, what string) {
	t.Helper()
	select {
	case <-a.done:
	case <-time.After(2 * patience):
		a.mu.Lock()
		defer a.mu.Unlock()
		t.Fatalf("never: %s; %d lack it", what, len(a.left))
	}
}

// spread is how long it took 50 %, 99 % and all of those concerned.
type spread struct {
	of            int
	p50, p99, all time.Duration
}

func (s spread) String() string {
	r := func(d time.Duration) time.Duration { return d.Round(time.Millisecond) }
	return fmt.Sprintf("%d sidecars: 50 %% %v, 99 %% %v, all %v", s.of, r(s.p50), r(s.p99), r(s.all))
}

func (a *awaited) spread() spread {
	a.mu.Lock()
	defer a.mu.Unlock()
	took := slices.Sorted(slices.Values(a.took))
	n := len(took)
	return spread{n, took[n/2], took[min(n-1, n*99/100)], took[n-1]}
}

// change changes services' policies at once, and waits until all have that in force. It
// counts from before the commit.
func (f *fleet) change(t *testing.T, services ...string) spread {
	t.Helper()
	f.revision++
	ms := int(f.revision)
	var ops []kv.Op
	for _, service := range services {
		ops = append(ops, f.timeout(t, tunable(service), service, ms))
	}
	a := f.expect(services, ms)
	f.commit(t, ops...)
	a.wait(t, "a change is in force")
	return a.spread()
}
