package follow

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"testing"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/proxy/policy"
	"github.com/pillion-proxy/pillion/registry"
)

// rig is a follower with what compiles its policies, as a sidecar does.
type rig struct {
	t      *testing.T
	memory *memkv.Memory
	people kv.Store // not the follower's
	store  *memkv.Store
	f      *Follower
	cancel context.CancelFunc
	done   sync.WaitGroup

	mu        sync.Mutex
	set       *policy.Set
	refused   []registry.RefusedPolicy
	handed    int
	generated int // policies of others
	unknown   []string
	refusing  []string // each time that policies came while the app's own were not known, what came
	active    map[string]bool
}

func newRig(t *testing.T, memory *memkv.Memory, change func(*Options)) *rig {
	t.Helper()
	r := &rig{t: t, memory: memory, people: memory.Store(), store: memory.Store(), active: map[string]bool{}}
	o := Options{
		Store: r.store, Own: "web", Logger: slog.New(slog.DiscardHandler),
		Refused: func() []registry.RefusedPolicy { r.mu.Lock(); defer r.mu.Unlock(); return r.refused },
		Unknown: func(names []string) { r.mu.Lock(); defer r.mu.Unlock(); r.unknown = names },
		Active:  func(service string, is bool) { r.mu.Lock(); defer r.mu.Unlock(); r.active[service] = is },
	}
	if change != nil {
		change(&o)
	}
	r.f = New(o)
	return r
}

// start has the follower work.
func (r *rig) start() {
	ctx, cancel := context.WithCancel(r.t.Context())
	r.cancel = cancel
	r.done.Go(func() { r.f.WatchPolicies(ctx, r.take) })
}

func (r *rig) stop() {
	r.cancel()
	r.done.Wait()
}

func (r *rig) take(now *registry.Policies) {
	r.mu.Lock()
	defer r.mu.Unlock()
	set, wrong := policy.Compile(now.List, r.set, policy.Env{})
	r.refused = append([]registry.RefusedPolicy(nil), now.Refused...)
	for _, w := range wrong {
		r.refused = append(r.refused, registry.RefusedPolicy{Policy: w.Policy, Problem: now.Place(w.Policy, w.Field) + ": " + w.Message})
	}
	r.set = set
	r.handed++
	if len(r.unknown) > 0 {
		r.refusing = append(r.refusing, fmt.Sprint(len(now.List)))
	}
	r.generated = 0
	for _, g := range now.Generated {
		r.generated += len(g.List)
	}
}

// timeout returns what is in force of a timeout policy; "": nothing is.
func (r *rig) timeout(name string) string {
	r.mu.Lock()
	defer r.mu.Unlock()
	p, ok := r.set.Policy(name)
	if !ok {
		return ""
	}
	return p.Source.GetTimeout().GetDefault().AsDuration().String()
}

func (r *rig) status(name string) *controlv1.DocumentStatus {
	r.t.Helper()
	list, _ := r.f.Documents()
	for _, d := range list {
		if d.GetName() == name {
			return d
		}
	}
	return nil
}

// put writes a key as people would who check nothing.
func (r *rig) put(key string, value []byte) {
	r.t.Helper()
	if err := r.people.Commit(context.Background(), kv.Op{Key: key, Value: value, Any: true}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) delete(key string) {
	r.t.Helper()
	if err := r.people.Commit(context.Background(), kv.Op{Key: key, Any: true}); err != nil {
		r.t.Fatal(err)
	}
}

func (r *rig) putTimeout(service, name string, revision uint64, seconds int64) {
	r.t.Helper()
	p := &configv1.Policy{Name: name, Service: service, Methods: []string{"t." + name + "/*"}, Kind: &configv1.Policy_Timeout{Timeout: &configv1.TimeoutPolicy{Default: &durationpb.Duration{Seconds: seconds}}}}
	r.putPolicy(p, revision)
}

func (r *rig) putPolicy(p *configv1.Policy, revision uint64) {
	r.t.Helper()
	data, err := protojson.Marshal(&controlv1.Document{Revision: revision, Body: &controlv1.Document_Policy{Policy: p}})
	if err != nil {
		r.t.Fatal(err)
	}
	r.put(control.HistoryKey(control.Policy, p.GetName(), revision), data)
	r.put(control.DocumentKey(control.Policy, p.GetService(), p.GetName()), data)
}

// lose empties the store, as if it were another, or had come back without its data.
func (r *rig) lose() {
	r.t.Helper()
	all, err := r.people.List(context.Background(), control.Root)
	if err != nil {
		r.t.Fatal(err)
	}
	for _, e := range all {
		r.delete(e.Key)
	}
}

func (r *rig) putState(state *controlv1.RunState) {
	r.t.Helper()
	data, err := protojson.Marshal(state)
	if err != nil {
		r.t.Fatal(err)
	}
	r.put(control.TransitionKey(control.Kind(state.GetKind()), state.GetService(), state.GetName(), state.GetNumber()), data)
	r.put(control.StateKey(control.Kind(state.GetKind()), state.GetService(), state.GetName()), data)
}

func (r *rig) want(what string, got, want any) {
	r.t.Helper()
	if fmt.Sprint(got) != fmt.Sprint(want) {
		r.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

func (r *rig) isActive(service string) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.active[service]
}

func (r *rig) unknowns() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.unknown)
}
