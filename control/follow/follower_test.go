package follow

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	"github.com/pillion-proxy/pillion/registry"
)

func TestFollowsServicesInUse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		r.putTimeout("web", "own", 1, 1)
		r.putTimeout("*", "all", 1, 2)
		r.putTimeout("greeter", "greeter", 1, 3)
		r.start()
		defer r.stop()
		synctest.Wait()
		r.want("own", r.timeout("own"), "1s")
		r.want("all", r.timeout("all"), "2s")
		r.want("a service that nobody asked for", r.timeout("greeter"), "")

		release := r.f.Follow("greeter")
		again := r.f.Follow("greeter")
		synctest.Wait()
		r.want("greeter", r.timeout("greeter"), "3s")
		r.putTimeout("greeter", "greeter", 2, 4)
		synctest.Wait()
		r.want("greeter changed", r.timeout("greeter"), "4s")
		st := r.status("greeter")
		r.want("revision", []any{st.GetRevision(), st.GetInForce(), st.GetProblem()}, []any{2, 2, ""})

		release()
		release()
		synctest.Wait()
		r.want("greeter is still asked for", r.timeout("greeter"), "4s")
		again()
		synctest.Wait()
		r.want("greeter, which nobody asks for any more", r.timeout("greeter"), "")
		r.delete(control.DocumentKey(control.Policy, "web", "own"))
		synctest.Wait()
		r.want("own, deleted", r.timeout("own"), "")
		r.want("status of what was deleted", r.status("own"), (*controlv1.DocumentStatus)(nil))
	})
}

func TestRefusesWhatIsWrongAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		r.putTimeout("web", "a", 1, 1)
		r.putTimeout("web", "b", 1, 1)
		r.putPolicy(&configv1.Policy{Name: "c", Service: "web", Kind: &configv1.Policy_Route{Route: split(10_000)}}, 1)
		r.start()
		defer r.stop()
		synctest.Wait()

		r.put(control.DocumentKey(control.Policy, "web", "a"), []byte(`{"revision":"2","policy":{"name":"a","service":"web","timeout":{"default":"-1s"}}}`))
		r.putTimeout("web", "b", 2, 2)
		r.putPolicy(&configv1.Policy{Name: "c", Service: "web", Kind: &configv1.Policy_Route{Route: split(9_000)}}, 2) // compiles not
		synctest.Wait()
		r.want("the last good version of a", r.timeout("a"), "1s")
		r.want("b", r.timeout("b"), "2s")
		for _, name := range []string{"a", "c"} {
			st := r.status(name)
			r.want(name, []any{st.GetRevision(), st.GetInForce(), st.GetProblem() != ""}, []any{2, 1, true})
		}

		for _, bad := range []string{
			`{`, `[]`, `{"revision":"3"}`, `{"revision":"3","policy":{"name":"other","service":"web","timeout":{"default":"9s"}}}`,
			`{"revision":"3","policy":{"name":"a","service":"other","timeout":{"default":"9s"}}}`,
			`{"revision":"3","policy":{"name":"a","service":"web","timeout":{"default":"9s"},"unheard":1}}`,
			`{"policy":{"name":"a","service":"web","timeout":{"default":"9s"}}}`,
		} {
			r.put(control.DocumentKey(control.Policy, "web", "a"), []byte(bad))
			synctest.Wait()
			r.want("a after "+bad, r.timeout("a"), "1s")
			if st := r.status("a"); st.GetProblem() == "" || st.GetInForce() != 1 {
				t.Errorf("%s: status %v", bad, st)
			}
		}
		r.putTimeout("web", "a", 4, 4)
		synctest.Wait()
		r.want("a in order again", r.timeout("a"), "4s")
		r.want("its problem", r.status("a").GetProblem(), "")
	})
}

func split(weight uint32) *configv1.RoutePolicy {
	return &configv1.RoutePolicy{Rules: []*configv1.RouteRule{{Name: "r", Action: &configv1.RouteRule_Split{Split: &configv1.Split{
		Destinations: []*configv1.WeightedDestination{{Weight: weight, Service: "a"}},
	}}}}}
}

func TestKeepsTheLastGoodVersionsOverARestart(t *testing.T) {
	for _, away := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			memory, dir := memkv.New(), t.TempDir()
			cached := func(o *Options) { o.Cache = NewCache(dir, slog.New(slog.DiscardHandler)) }
			r := newRig(t, memory, cached)
			r.putTimeout("web", "a", 1, 1)
			r.putTimeout("greeter", "g", 1, 1)
			r.putPolicy(&configv1.Policy{Name: "c", Service: "web", Kind: &configv1.Policy_Route{Route: split(10_000)}}, 1)
			r.start()
			r.f.Follow("greeter")
			synctest.Wait()
			r.put(control.DocumentKey(control.Policy, "web", "a"), []byte(`{"revision":"2","policy":{"name":"a","service":"web","timeout":{"default":"-1s"}}}`))
			r.putPolicy(&configv1.Policy{Name: "c", Service: "web", Kind: &configv1.Policy_Route{Route: split(9_000)}}, 2)
			synctest.Wait()
			r.stop()

			r = newRig(t, memory, cached)
			if away {
				r.store.SetFault(memkv.Fault{Err: errors.New("away")})
			}
			r.start()
			defer r.stop()
			r.f.Follow("greeter")
			r.f.Await(t.Context(), "web")
			r.f.Await(t.Context(), "greeter")
			r.want("a", r.timeout("a"), "1s")
			r.want("greeter", r.timeout("g"), "1s")
			if _, ok := r.set.Policy("c"); !ok {
				t.Error("the last good version of c does not hold")
			}
			r.want("unknown", r.unknowns(), 0)
			if !away {
				st := r.status("c")
				r.want("c", []any{st.GetRevision(), st.GetInForce(), st.GetProblem() != ""}, []any{2, 1, true})
				return
			}
			if r.f.Err() == nil {
				t.Error("nothing says that the store is away")
			}
			r.store.SetFault(memkv.Fault{})
			r.putTimeout("web", "a", 3, 3)
			time.Sleep(time.Minute)
			r.want("a when the store is back", r.timeout("a"), "3s")
			r.want("an error", r.f.Err(), error(nil))
		})
	}
}

func TestRPCsWaitForPoliciesButNotForever(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		r.store.SetFault(memkv.Fault{Err: errors.New("away")})
		r.putTimeout("web", "a", 1, 1)
		start := time.Now()
		r.start()
		defer r.stop()
		r.f.Await(t.Context(), "web")
		r.want("waited", time.Since(start), defaultPatience)
		r.want("own policies are unknown", r.unknowns(), 1)
		r.mu.Lock()
		r.want("times that policies came while everybody was refused", len(r.refusing), r.handed)
		r.mu.Unlock()
		r.store.SetFault(memkv.Fault{})
		time.Sleep(time.Minute)
		r.want("own policies are known", r.unknowns(), 0)
		r.mu.Lock()
		defer r.mu.Unlock()
		// Nobody slips in before, nor in between.
		if n := len(r.refusing); n < 2 || r.refusing[0] != "0" || r.refusing[n-1] != "1" {
			t.Errorf("refused while so many policies were handed over: %v", r.refusing)
		}
	})
}

// Nobody is to elect or report for a service that is not used any more.
func TestServicesThatAreNotUsedAreNotActive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		r.start()
		defer r.stop()
		key := control.DocumentKey(control.Canary, "greeter", "new")
		r.put(key, []byte(`{"revision":"1","canary":{"name":"new","service":"greeter","stable":"v1","canary":"v2","steps":[{"weight":1000}]}}`))
		r.putState(&controlv1.RunState{Kind: "canary", Name: "new", Service: "greeter", Number: 1, Run: 1, Phase: controlv1.Phase_PHASE_RUNNING})
		release := r.f.Follow("greeter")
		synctest.Wait()
		r.want("active while it is used", r.isActive("greeter"), true)
		release()
		synctest.Wait()
		r.want("active when it is not used any more", r.isActive("greeter"), false)
		defer r.f.Follow("greeter")()
		synctest.Wait()
		r.want("active when it is used again", r.isActive("greeter"), true)
	})
}

func TestTellsWhoChangedWhat(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		r := newRig(t, memkv.New(), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
		r.putTimeout("web", "a", 1, 1)
		r.start()
		synctest.Wait()
		key := control.DocumentKey(control.Policy, "web", "a")
		r.put(key, []byte(`{"revision":"2","author":"alice","message":"one\nline","policy":{"name":"a","service":"web","timeout":{"default":"2s"}}}`))
		synctest.Wait()
		r.put(key, []byte(`{"revision":"3","author":"mallory"}`))
		synctest.Wait()
		r.delete(key)
		synctest.Wait()
		r.stop()
		var told []string
		for line := range strings.Lines(log.String()) {
			if _, text, is := strings.Cut(line, "audit=true "); is {
				told = append(told, strings.TrimSpace(text))
			}
		}
		r.want("told", strings.Join(told, "; "), `document=policy/a service=web revision=2 author=alice message="one line"; document=policy/a service=web`)
	})
}

// static is a source that says one thing at once.
type static struct{ registry.Source }

func (static) Watch(ctx context.Context, service string, update func(*registry.Service)) {
	update(&registry.Service{Name: service})
	<-ctx.Done()
}

func TestTellsOfAServiceOnlyWhenItsPoliciesHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		r.putTimeout("greeter", "g", 1, 7)
		r.start()
		defer r.stop()
		synctest.Wait()
		r.store.SetFault(memkv.Fault{Slow: time.Second})
		start := time.Now()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		told := make(chan string, 2)
		go r.f.Source(static{}).Watch(ctx, "greeter", func(*registry.Service) { told <- r.timeout("g") })
		r.want("the policy when the service is told of", <-told, "7s")
		if waited := time.Since(start); waited < time.Second {
			t.Errorf("told after %v, before the store has answered", waited)
		}
		cancel()
		synctest.Wait()
		r.want("after the watch", r.timeout("g"), "")
	})
}

// agent remembers the states that it was handed, and makes a policy of each.
type agent struct {
	mu     sync.Mutex
	states map[string][]*controlv1.RunState
}

func (a *agent) States(service string, states []*controlv1.RunState) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.states[service] = states
}

// own returns how many states of the app's service there are.
func (a *agent) own() int {
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.states["web"])
}

func (a *agent) Policies(service string) (list []*configv1.Policy) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, s := range a.states[service] {
		list = append(list, &configv1.Policy{Name: "canary." + s.GetName(), Service: service, Kind: &configv1.Policy_Route{Route: split(s.GetWeight())}})
	}
	return list
}

func TestStatesReachAgents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := &agent{states: map[string][]*controlv1.RunState{}}
		dir := t.TempDir()
		memory := memkv.New()
		options := func(o *Options) {
			o.Agents = []Agent{a}
			o.Cache = NewCache(dir, slog.New(slog.DiscardHandler))
		}
		r := newRig(t, memory, options)
		r.start()
		synctest.Wait()
		key := control.DocumentKey(control.Canary, "web", "new")
		data, err := protojson.Marshal(&controlv1.Document{Revision: 1, Body: &controlv1.Document_Canary{Canary: &configv1.Canary{
			Name: "new", Service: "web", Stable: "v1", Canary: "v2", Steps: []*configv1.CanaryStep{{Weight: 1000}},
		}}})
		if err != nil {
			t.Fatal(err)
		}
		r.put(control.HistoryKey(control.Canary, "new", 1), data)
		r.put(key, data)
		synctest.Wait()
		r.want("status", r.status("new").GetInForce(), 1)
		r.want("active before it is asked for", r.isActive("web"), false)
		r.put(control.RequestKey(control.Canary, "web", "new"), []byte(`{"number":"1","action":"ACTION_START"}`))
		synctest.Wait()
		r.want("active once it is asked for", r.isActive("web"), true)
		state := &controlv1.RunState{Kind: "canary", Name: "new", Service: "web", Number: 1, Request: 1, Run: 1, Phase: controlv1.Phase_PHASE_RUNNING, Weight: 10_000}
		r.putState(state)
		synctest.Wait()
		if _, ok := r.set.Policy("canary.new"); !ok {
			t.Error("the agent's policy does not hold")
		}
		state.Number, state.Weight = 2, 1
		r.putState(state)
		synctest.Wait()
		if p := r.status("new").GetProblem(); p == "" {
			t.Error("nobody is told that the canary's policy is refused")
		}
		state.Number, state.Weight = 3, 10_000
		r.putState(state)
		synctest.Wait()
		r.want("its problem", r.status("new").GetProblem(), "")
		r.stop()

		// After a restart without the store, the canary goes on.
		a.States("web", nil)
		r = newRig(t, memory, options)
		r.store.SetFault(memkv.Fault{Err: errors.New("away")})
		r.start()
		r.f.Await(t.Context(), "web")
		synctest.Wait() // others are told once who waits is
		r.want("states from the disk", a.own(), 1)
		r.want("active", r.isActive("web"), true)
		r.store.SetFault(memkv.Fault{})
		time.Sleep(time.Minute)

		// What has ended holds as long as its document is there.
		state.Number, state.Phase = 4, controlv1.Phase_PHASE_PROMOTED
		r.putState(state)
		synctest.Wait()
		r.want("active when it has ended", r.isActive("web"), false)
		r.want("states", a.own(), 1)
		r.delete(key)
		synctest.Wait()
		r.want("states of what was deleted", a.own(), 0)
		r.stop()
	})
}

func TestGeneratedPoliciesOfServicesThatAreCalled(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		asked := map[string]func(*registry.Policies){}
		r := newRig(t, memkv.New(), func(o *Options) {
			o.Entries = func(ctx context.Context, service string, update func(*registry.Policies)) {
				mu.Lock()
				asked[service] = update
				mu.Unlock()
				<-ctx.Done()
			}
		})
		r.start()
		defer r.stop()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		told := make(chan *registry.Service, 1)
		go r.f.Source(static{}).Watch(ctx, "greeter", func(s *registry.Service) { told <- s })
		synctest.Wait()
		mu.Lock()
		update := asked["greeter"]
		r.want("services asked for", len(asked), 1)
		mu.Unlock()
		select {
		case <-told:
			t.Error("the service is told of before its entries are known")
		default:
		}
		update(&registry.Policies{List: []*configv1.Policy{{Name: "consul.greeter.x", Service: "greeter"}}})
		<-told
		r.mu.Lock()
		r.want("generated", r.generated, 1)
		r.mu.Unlock()
		cancel()
		synctest.Wait()
		r.mu.Lock()
		r.want("generated after the watch", r.generated, 0)
		r.mu.Unlock()
	})
}
