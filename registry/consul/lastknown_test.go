package consul

import (
	"context"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/registry"
)

// A sidecar that is restarted while Consul is away, or never answers, has watched
// nothing yet: who answers, and which services there are, is on its disk.
func TestARestartWhileConsulIsAwayKnowsWhoAnswers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*http.Request) (*http.Response, error){
		"refused": refuse,
		"hangs": func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()

			return nil, req.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			knowsWhoAnswers(t, fault)
		})
	}
}

func knowsWhoAnswers(t *testing.T, fault func(*http.Request) (*http.Response, error)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(fault)
		dir := t.TempDir()
		disk := &cache{limits: standard, dir: dir}
		for name, grpc := range map[string]string{"greeter": "helloworld.Greeter", "greeter.dc1": "helloworld.Greeter", "old-greeter": "helloworld.Greeter", "shop": "shop.Shop"} {
			if err := disk.save(name, &registry.Service{Name: name, GRPC: []string{grpc}, Endpoints: kept().Endpoints}); err != nil {
				t.Fatal(err)
			}
		}
		source, _ := newFakeSource(t, fake, Config{CacheDir: dir})

		answering := func(grpc string, wanted ...string) {
			t.Helper()
			began := time.Now()
			names, err := source.Answering(t.Context(), grpc)
			if took := time.Since(began); took > time.Second && len(wanted) > 0 {
				t.Errorf("who answers %s was said after %v, though it was known", grpc, took)
			}
			if (err != nil) != (len(wanted) == 0) {
				t.Errorf("who answers %s: %v", grpc, err)
			}
			want(t, "who answers "+grpc, names, wanted)
		}
		answering("shop.Shop", "shop")
		answering("helloworld.Greeter", "greeter", "old-greeter")
		answering("nobody.Knows")
		names, err := source.Services(t.Context())
		if err != nil {
			t.Error(err)
		}
		want(t, "services", names, []string{"greeter", "greeter.dc1", "old-greeter", "shop"})

		// Those that are watched are the ones that are used.
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			var watching sync.WaitGroup
			for _, name := range []string{"greeter", "greeter.dc1"} {
				watching.Go(func() { source.Watch(ctx, name, func(*registry.Service) {}) })
			}
			watching.Wait()
		}()
		time.Sleep(time.Second)
		answering("helloworld.Greeter", "greeter")
		stop()
		<-done
	})
}

func TestLastKnownBelievesNothingUnchecked(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	disk := &cache{limits: standard, dir: dir}
	for _, name := range []string{"greeter", "moved"} {
		if err := disk.save(name, kept()); err != nil {
			t.Fatal(err)
		}
	}
	// In another scope the name means something else.
	if err := (&cache{limits: standard, dir: dir, scope: cacheScope{Namespace: "other"}}).save("elsewhere", kept()); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(disk.path("moved"), filepath.Join(dir, "something-else"+cacheSuffix)); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{
		"broken" + cacheSuffix: `{"version": 1`, ".tmp-1" + cacheSuffix: `{}`, "notes.txt": "hello", "empty" + cacheSuffix: "",
	} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	services := disk.all()
	if len(services) != 1 || services[0].Name != "greeter" {
		t.Errorf("got %d services, the first %+v", len(services), services[0])
	}
	if none := (&cache{limits: standard, dir: filepath.Join(dir, "missing")}).all(); none != nil {
		t.Errorf("of no folder: %v", none)
	}
}

// A process that replaces another knows at once what that one knew, Consul or not,
// and hands on what it has not looked at itself.
func TestLastKnownIsHandedOn(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(refuse)
		shop := &registry.Service{Name: "shop", GRPC: []string{"shop.Shop"}, Endpoints: kept().Endpoints}
		old := &registry.Service{Name: "old", Endpoints: kept().Endpoints}
		source, err := New(Config{Address: "127.0.0.1:8500", CacheDir: t.TempDir()}, Deps{
			Transport: fake, Random: func() float64 { return 0.5 }, LastKnown: []*registry.Service{kept(), shop}, Older: []*registry.Service{old},
		})
		if err != nil {
			t.Fatal(err)
		}
		if names, err := source.Answering(t.Context(), "helloworld.Greeter"); err != nil || !slices.Equal(names, []string{"greeter"}) {
			t.Errorf("who answers: %v, %v", names, err)
		}
		names := func(services []*registry.Service) (names []string) {
			for _, service := range services {
				names = append(names, service.Name)
			}

			return names
		}
		watch := func(name string) (states chan *registry.Service, stop func()) {
			ctx, cancel := context.WithCancel(t.Context())
			states = make(chan *registry.Service, 10)
			done := make(chan struct{})
			go func() {
				defer close(done)
				source.Watch(ctx, name, func(service *registry.Service) { states <- service })
			}()

			return states, func() {
				cancel()
				<-done
			}
		}
		began := time.Now()
		states, stop := watch("greeter")
		defer stop()
		if state := <-states; len(state.Endpoints) != 2 || time.Since(began) > 0 {
			t.Errorf("handed over after %v: %+v", time.Since(began), state)
		}
		if state := <-states; !state.Stale || len(state.Endpoints) != 2 {
			t.Errorf("while Consul is away: %+v", state)
		}
		services, older := source.LastKnown()
		want(t, "handed on", names(services), []string{"greeter"})
		want(t, "handed on, and older", names(older), []string{"old", "shop"})
		// What nobody has watched may be out of date: Consul is asked first.
		began = time.Now()
		states, stopOld := watch("old")
		defer stopOld()
		if state := <-states; !state.Stale || len(state.Endpoints) != 2 || time.Since(began) == 0 {
			t.Errorf("handed over after %v: %+v", time.Since(began), state)
		}
	})
}
