package memory

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/registry"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func service(name string, addresses ...string) *registry.Service {
	s := &registry.Service{Name: name}
	for _, address := range addresses {
		s.Endpoints = append(s.Endpoints, registry.Endpoint{ID: address, Address: address, Weight: 1})
	}
	return s
}

// states collects what a watch hands over.
type states struct {
	mu   sync.Mutex
	seen []*registry.Service
}

func (s *states) update(service *registry.Service) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.seen = append(s.seen, service)
}

// take returns what was handed over since the last call, as text.
func (s *states) take() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	var texts []string
	for _, service := range s.seen {
		text := "none"
		if service != nil {
			ids := []string{service.Name}
			for _, e := range service.Endpoints {
				ids = append(ids, e.ID)
			}
			text = strings.Join(ids, " ")
		}
		texts = append(texts, text)
	}
	s.seen = nil
	return texts
}

func TestWatch(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		source := New(service("a", "z:1", "b:1"), service("b"))
		ctx, cancel := context.WithCancel(t.Context())
		var a, b, none states
		var watching sync.WaitGroup
		watching.Go(func() { source.Watch(ctx, "a", a.update) })
		watching.Go(func() { source.Watch(ctx, "b", b.update) })
		watching.Go(func() { source.Watch(ctx, "none", none.update) })
		expect := func(step string, wantA, wantB, wantNone []string) {
			t.Helper()
			synctest.Wait()
			for name, pair := range map[string][2][]string{"a": {a.take(), wantA}, "b": {b.take(), wantB}, "none": {none.take(), wantNone}} {
				if !slices.Equal(pair[0], pair[1]) {
					t.Errorf("%s: service %s: got %q, want %q", step, name, pair[0], pair[1])
				}
			}
		}
		expect("at once", []string{"a b:1 z:1"}, []string{"b"}, []string{"none"})
		source.Replace(service("b"), service("a", "b:1", "z:1"))
		expect("nothing new", nil, nil, nil)
		source.Replace(service("a", "b:1"), service("b"))
		expect("one changed", []string{"a b:1"}, nil, nil)
		source.Replace(service("a", "b:1"), service("none", "c:1"))
		expect("one came, one went", nil, []string{"none"}, []string{"none c:1"})
		source.Replace()
		expect("all went", []string{"none"}, nil, []string{"none"})
		cancel()
		watching.Wait()
		source.Replace(service("a"))
		expect("after the end", nil, nil, nil)
		if len(source.watches) != 0 {
			t.Errorf("watches are left behind: %v", source.watches)
		}
	})
}

func TestWatchThatHasEnded(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	New(service("a")).Watch(ctx, "a", func(*registry.Service) { t.Error("update is called after the end") })
}

// A difference in any field is handed over.
func TestEqual(t *testing.T) {
	t.Parallel()
	base := func() *registry.Service {
		return &registry.Service{Name: "a", GRPC: []string{"x.Y"}, Endpoints: []registry.Endpoint{
			{ID: "1", Address: "a:1", Weight: 1, Meta: map[string]string{"version": "v1"}, Tags: []string{"t"}},
		}}
	}
	if !equal(base(), base()) {
		t.Error("a service differs from its copy")
	}
	for name, change := range map[string]func(*registry.Service){
		"name":     func(s *registry.Service) { s.Name = "b" },
		"grpc":     func(s *registry.Service) { s.GRPC = nil },
		"stale":    func(s *registry.Service) { s.Stale = true },
		"endpoint": func(s *registry.Service) { s.Endpoints = nil },
		"id":       func(s *registry.Service) { s.Endpoints[0].ID = "2" },
		"address":  func(s *registry.Service) { s.Endpoints[0].Address = "a:2" },
		"weight":   func(s *registry.Service) { s.Endpoints[0].Weight = 2 },
		"meta":     func(s *registry.Service) { s.Endpoints[0].Meta = map[string]string{"version": "v2"} },
		"tags":     func(s *registry.Service) { s.Endpoints[0].Tags = []string{"u"} },
	} {
		changed := base()
		change(changed)
		if equal(base(), changed) {
			t.Errorf("a change of %s is not seen", name)
		}
	}
	if equal(nil, base()) || equal(base(), nil) {
		t.Error("a service equals none")
	}
}

func TestLists(t *testing.T) {
	t.Parallel()
	z, a, m := service("z"), service("a"), service("m")
	z.GRPC, a.GRPC = []string{"x.Y", "x.Z"}, []string{"x.Y"}
	source := New(z, a, m)
	names, _ := source.Services(t.Context())
	if !slices.Equal(names, []string{"a", "m", "z"}) {
		t.Errorf("services %q", names)
	}
	for name, want := range map[string][]string{"x.Y": {"a", "z"}, "x.Z": {"z"}, "x.": nil, "": nil} {
		got, err := source.Answering(t.Context(), name)
		if err != nil || !slices.Equal(got, want) {
			t.Errorf("answering %q: %q, %v; want %q", name, got, err, want)
		}
		clear(got) // what is handed out is the caller's
	}
	if got, _ := source.Answering(t.Context(), "x.Y"); !slices.Equal(got, []string{"a", "z"}) {
		t.Errorf("a caller has changed the index: %q", got)
	}
	source.Replace(m)
	if got, _ := source.Answering(t.Context(), "x.Y"); len(got) != 0 {
		t.Errorf("%q still answer", got)
	}
}

// Many watchers and replacements at once: updates of one watch never overlap,
// and each watch ends on the last state.
func TestManyWatchers(t *testing.T) {
	t.Parallel()
	const services, watchers, rounds = 20, 200, 300
	source := New()
	ctx, cancel := context.WithCancel(t.Context())
	var watching, settled sync.WaitGroup
	for i := range watchers {
		name := fmt.Sprintf("s%d", i%services)
		var busy atomic.Bool
		settled.Add(1)
		last := sync.OnceFunc(settled.Done)
		watching.Go(func() {
			source.Watch(ctx, name, func(s *registry.Service) {
				if !busy.CompareAndSwap(false, true) {
					t.Error("two updates of one watch overlap")
				}
				if s != nil && s.Endpoints[0].ID == "last:1" {
					last()
				}
				busy.Store(false)
			})
		})
	}
	for range rounds {
		var set []*registry.Service
		for i := range services {
			if rand.IntN(3) > 0 {
				set = append(set, service(fmt.Sprintf("s%d", i), fmt.Sprintf("a:%d", rand.IntN(3))))
			}
		}
		source.Replace(set...)
	}
	var set []*registry.Service
	for i := range services {
		set = append(set, service(fmt.Sprintf("s%d", i), "last:1"))
	}
	source.Replace(set...)
	settled.Wait()
	cancel()
	watching.Wait()
}
