package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

func asking(names []string, err error) func(context.Context) ([]string, error) {
	return func(context.Context) ([]string, error) { return names, err }
}

func greeter() Registration {
	return Registration{
		Name: "greeter", Address: "127.0.0.1:50051", Meta: map[string]string{"version": "v1"},
		Check: &Check{}, Sidecar: &Sidecar{Address: "0.0.0.0:15006"},
	}
}

func register(t *testing.T, source *Source, registration Registration) *Registrar {
	t.Helper()
	registrar, err := source.Register(registration)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = registrar.Close(context.Background()) })
	synctest.Wait()

	return registrar
}

// stands are the ids that are registered, and the meta of one.
func (f *fakeAgent) stands() []string {
	f.mu.Lock()
	defer f.mu.Unlock()

	ids := []string{}
	for id := range f.registered {
		ids = append(ids, id)
	}
	slices.Sort(ids)

	return ids
}

func (f *fakeAgent) metaOf(id string) map[string]string {
	f.mu.Lock()
	defer f.mu.Unlock()

	if f.registered[id] == nil {
		return nil
	}

	return f.registered[id].Meta
}

var both = []string{"greeter-50051", "greeter-50051-sidecar-proxy"}

func TestRegistersAndDeregisters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		source, _ := newFakeSource(t, fake, Config{})
		registrar := register(t, source, greeter())
		want(t, "registered", fake.stands(), both)
		<-registrar.Registered()

		// It stays, without being written again.
		after(10 * time.Minute)
		want(t, "writes", len(fake.asked("/v1/agent/service/register")), 2)
		want(t, "times", registrar.Status().Times, 1)
		if looks := len(fake.asked("/v1/agent/services")); looks < 30 || looks > 70 {
			t.Fatalf("looked %d times in 10 minutes", looks)
		}

		if err := registrar.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, "registered at the end", fake.stands(), []string{})
		gone := fake.asked("/v1/agent/service/deregister/")
		want(t, "order", []string{gone[0].path, gone[1].path}, []string{"/v1/agent/service/deregister/greeter-50051", "/v1/agent/service/deregister/greeter-50051-sidecar-proxy"})
		if err := registrar.Close(t.Context()); err != nil || len(fake.asked("/v1/agent/service/deregister/")) != 2 {
			t.Fatalf("a second Close did something: %v", err)
		}
	})
}

func TestRegistersAgain(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		change func(*fakeAgent)
		within time.Duration
	}{
		"the agent has forgotten": {func(f *fakeAgent) { clear(f.registered) }, 2 * time.Second},
		"the app was reaped":      {func(f *fakeAgent) { delete(f.registered, both[0]) }, 2 * time.Second},
		"the sidecar was reaped":  {func(f *fakeAgent) { delete(f.registered, both[1]) }, lookEvery + 2*time.Second},
		"somebody changed it":     {func(f *fakeAgent) { f.registered[both[0]].Meta = map[string]string{"version": "v666"} }, 2 * time.Second},
		"a check is gone":         {func(f *fakeAgent) { f.registered[both[0]].Checks = nil }, lookEvery + 2*time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeAgent()
				source, log := newFakeSource(t, fake, Config{})
				registrar := register(t, source, greeter())
				after(time.Minute)
				fake.change(func() { test.change(fake) })
				after(test.within)
				want(t, "registered", fake.stands(), both)
				want(t, "meta", fake.metaOf(both[0]), map[string]string{"version": "v1"})
				want(t, "checks", len(fake.registered[both[0]].Checks), 1)
				want(t, "times", registrar.Status().Times, 2)
				if len(log.with("registered again")) == 0 {
					t.Error("not logged")
				}
				_ = registrar.Close(t.Context())
			})
		})
	}
}

func TestRegistersWhenConsulComes(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(refuse)
		source, log := newFakeSource(t, fake, Config{})
		registrar := register(t, source, greeter())
		after(10 * time.Minute)
		if status := registrar.Status(); status.Registered || !strings.Contains(status.Error, "connection refused") {
			t.Fatalf("%+v", status)
		}
		want(t, "lines", len(log.with("level=WARN")), 1)
		if calls := len(fake.requests); calls > 600 {
			t.Fatalf("%d calls in 10 minutes", calls)
		}

		fake.failWith(nil)
		after(failureMost)
		want(t, "registered", fake.stands(), both)
		if status := registrar.Status(); !status.Registered || status.Error != "" {
			t.Fatalf("%+v", status)
		}
		_ = registrar.Close(t.Context())
	})
}

func TestAppIsNotRegisteredWithoutItsSidecar(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		denied := true
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if denied && req.Method == http.MethodPut {
				return respond(403, nil, `Permission denied: token with AccessorID 'x' lacks permission 'service:write' on "greeter-sidecar-proxy"`), nil
			}

			return nil, errPass
		})
		source, log := newFakeSource(t, fake, Config{})
		registrar := register(t, source, greeter())
		after(time.Minute)
		want(t, "registered", fake.stands(), []string{})
		if lines := log.with(`; add to its policy: service \"greeter-sidecar-proxy\" { policy = \"write\" }`); len(lines) != 1 {
			t.Fatalf("log:\n%s", strings.Join(log.with(""), "\n"))
		}
		fake.change(func() { denied = false })
		after(failureMost)
		want(t, "registered", fake.stands(), both)
		_ = registrar.Close(t.Context())
	})
}

func TestGRPCServicesFollowTheApp(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var (
			mu    sync.Mutex
			names []string
			err   = errors.New("not up yet")
		)
		set := func(now []string, failing error) {
			mu.Lock()
			defer mu.Unlock()
			names, err = now, failing
		}
		fake := newFakeAgent()
		source, log := newFakeSource(t, fake, Config{})
		registration := greeter()
		registration.AskGRPC = func(ctx context.Context) ([]string, error) {
			if _, bounded := ctx.Deadline(); !bounded {
				t.Error("asked without a bound")
			}
			mu.Lock()
			defer mu.Unlock()

			return names, err
		}
		registrar := register(t, source, registration)
		want(t, "before the app is up", fake.metaOf(both[0]), map[string]string{"version": "v1"})

		set([]string{"b.B", "a.A"}, nil)
		after(askSoon + time.Second)
		for _, id := range both {
			want(t, id, fake.metaOf(id)[metaGRPC], "a.A,b.B")
		}
		want(t, "status", registrar.Status().GRPC, []string{"a.A", "b.B"})

		set(nil, errors.New("restarting"))
		after(5 * time.Minute)
		want(t, "while it fails", fake.metaOf(both[0])[metaGRPC], "a.A,b.B")

		set([]string{"c.C"}, nil)
		after(askEvery + lookEvery + time.Second)
		want(t, "changed", fake.metaOf(both[0])[metaGRPC], "c.C")

		var many []string
		for i := range 60 {
			many = append(many, fmt.Sprintf("s%02d.%s", i, strings.Repeat("x", 240)))
		}
		set(many, nil)
		after(askEvery + lookEvery + time.Second)
		want(t, "keys", len(fake.metaOf(both[0])), maxMetaGRPC+1)
		want(t, "lines", len(log.with("36 of its gRPC services are not registered")), 1)
		_ = registrar.Close(t.Context())
	})
}

func TestRotatedTokenIsToldToTheAgent(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		fake := newFakeAgent()
		source, _ := newFakeSource(t, fake, Config{TokenFile: file})
		registrar := register(t, source, greeter())
		after(time.Minute + lookEvery/3)
		if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		after(tokenLook + 2*time.Second)
		var used []string
		for _, request := range fake.asked("/v1/agent/service/register") {
			used = append(used, request.token)
		}
		want(t, "tokens", used, []string{"first", "first", "second", "second"})
		_ = registrar.Close(t.Context())
	})
}

func TestMaintenanceIsLeftAlone(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		source, _ := newFakeSource(t, fake, Config{})
		registrar := register(t, source, greeter())
		replaces := func() (all []bool) {
			for _, request := range fake.asked("/v1/agent/service/register") {
				all = append(all, len(request.query["replace-existing-checks"]) > 0)
			}

			return all
		}
		want(t, "at first", replaces(), []bool{true, true})
		fake.change(func() {
			id := api.ServiceMaintPrefix + both[0]
			fake.extra[id] = &api.AgentCheck{CheckID: id, ServiceID: both[0]}
			fake.registered[both[0]].Tags = []string{"changed"}
		})
		after(2 * time.Second)
		want(t, "in maintenance", replaces(), []bool{true, true, false})
		_ = registrar.Close(t.Context())
	})
}

func TestCloseIsBounded(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		fault func(*http.Request) (*http.Response, error)
		bound time.Duration
	}{
		"refused": {refuse, 200 * time.Millisecond},
		"hangs": {func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()

			return nil, req.Context().Err()
		}, closeTimeout},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeAgent()
				source, _ := newFakeSource(t, fake, Config{})
				registrar := register(t, source, greeter())
				fake.failWith(test.fault)
				start := time.Now()
				err := registrar.Close(t.Context())
				if err == nil || strings.Contains(err.Error(), "\n") {
					t.Fatalf("got %v", err)
				}
				if strings.Contains(err.Error(), "trying again") {
					t.Errorf("nobody does after this: %v", err)
				}
				if took := time.Since(start); took > test.bound {
					t.Fatalf("took %v", took)
				}
			})
		})
	}
}

func TestCloseTouchesNothingThatIsNotOurs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(refuse)
		source, _ := newFakeSource(t, fake, Config{})
		registrar := register(t, source, greeter())
		fake.failWith(nil)
		if err := registrar.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
		want(t, "never registered, so not deregistered", len(fake.asked("/v1/agent/service/deregister/")), 0)

		// What is gone already is no error.
		registrar = register(t, source, greeter())
		fake.change(func() { clear(fake.registered) })
		if err := registrar.Close(t.Context()); err != nil {
			t.Fatal(err)
		}
	})
}

// A registration that another process goes on with stays, and is not fought for.
func TestReleaseLeavesTheRegistration(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		source, _ := newFakeSource(t, fake, Config{})
		registrar := register(t, source, greeter())
		after(time.Minute)
		registrar.Release()
		want(t, "registered", fake.stands(), both)
		asked := len(fake.asked(""))
		fake.change(func() { fake.registered[both[0]].Meta = map[string]string{"version": "v2"} })
		after(time.Minute)
		if now := len(fake.asked("")); now != asked {
			t.Errorf("it asked the agent %d times more", now-asked)
		}
		if err := registrar.Close(t.Context()); err != nil {
			t.Error(err)
		}
		want(t, "registered", fake.stands(), both)
		want(t, "meta", fake.metaOf(both[0]), map[string]string{"version": "v2"})
	})
}

// What another process has registered is left alone until that one has let go of it. Who
// is closed before ends it all the same: the other one may be gone.
func TestARegistrationWaitsForWhoHadIt(t *testing.T) {
	t.Parallel()
	for name, ends := range map[string]bool{"it goes on": false, "it is closed before": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeAgent()
				first, _ := newFakeSource(t, fake, Config{})
				before := register(t, first, greeter())
				meta := fake.metaOf(both[0])
				let := make(chan struct{})
				registration := greeter()
				registration.Meta, registration.After = map[string]string{"version": "v2"}, let
				second, _ := newFakeSource(t, fake, Config{})
				next, err := second.Register(registration)
				if err != nil {
					t.Fatal(err)
				}
				after(time.Minute)
				want(t, "meta while another has it", fake.metaOf(both[0]), meta)
				if status := next.Status(); status.Registered || status.Times > 0 {
					t.Errorf("%+v", status)
				}
				if !ends {
					before.Release()
					close(let)
					after(time.Minute)
					want(t, "meta", fake.metaOf(both[0]), registration.Meta)
				}
				before.Release()
				if err := next.Close(t.Context()); err != nil {
					t.Error(err)
				}
				want(t, "registered in the end", fake.stands(), []string{})
			})
		})
	}
}

// A sidecar that takes a registration over knows what the app answers from it,
// until the app says so itself.
func TestGRPCServicesAreTakenOver(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		first, _ := newFakeSource(t, fake, Config{})
		registration := greeter()
		registration.AskGRPC = asking([]string{"helloworld.Greeter"}, nil)
		register(t, first, registration).Release()
		want(t, "meta", fake.metaOf(both[0])["grpc-services"], "helloworld.Greeter")

		var answers atomic.Bool
		registration.AskGRPC = func(context.Context) ([]string, error) {
			if !answers.Load() {
				return nil, errors.New("busy")
			}

			return []string{"helloworld.Greeter2"}, nil
		}
		second, _ := newFakeSource(t, fake, Config{})
		register(t, second, registration)
		after(time.Minute)
		want(t, "meta while the app is busy", fake.metaOf(both[0])["grpc-services"], "helloworld.Greeter")
		answers.Store(true)
		after(time.Minute)
		want(t, "meta in the end", fake.metaOf(both[0])["grpc-services"], "helloworld.Greeter2")
	})
}
