package consul

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"
)

// watch starts a watch that ends with the test, or by the book's stop.
func watch(t *testing.T, source *Source, service string) *watchBook {
	t.Helper()

	book := &watchBook{}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		source.Watch(ctx, service, book.update)
	}()
	book.stop = func() { cancel(); <-done }
	t.Cleanup(book.stop)

	return book
}

// after lets virtual time pass, and then everything settle.
func after(wait time.Duration) {
	time.Sleep(wait)
	synctest.Wait()
}

func refuse(*http.Request) (*http.Response, error) {
	return nil, &os.SyscallError{Syscall: "connect", Err: syscall.ECONNREFUSED}
}

func answerWith(status int, body string) func(*http.Request) (*http.Response, error) {
	return func(*http.Request) (*http.Response, error) { return respond(status, nil, body), nil }
}

func want(t *testing.T, what string, got, wanted any) {
	t.Helper()
	if g, w := fmt.Sprint(got), fmt.Sprint(wanted); g != w {
		t.Fatalf("%s: got %s, want %s", what, g, w)
	}
}

func TestWatchHandsOverEachChangeOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")

		after(0)
		want(t, "at first", book.addresses(t), []string{"10.0.0.1:1"})
		want(t, "id", book.last(t).Endpoints[0].ID, "node-a/a")

		fake.setApps("greeter", appEntry("a", 1), appEntry("b", 2))
		after(100 * time.Millisecond)
		want(t, "after a second instance", book.addresses(t), []string{"10.0.0.1:1", "10.0.0.1:2"})

		// Queries that come back with nothing new, and changes of something else.
		fake.setApps("other", appEntry("x", 9))
		after(10 * time.Minute)
		want(t, "states handed over", book.count(), 2)
		book.stop()
	})
}

func TestWatchSaysThatThereIsNoSuchService(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "nobody")
		after(0)
		if service := book.last(t); service != nil {
			t.Fatalf("got %+v, want nil", service)
		}

		fake.setApps("nobody", appEntry("a", 1))
		after(time.Second)
		want(t, "once it is there", book.addresses(t), []string{"10.0.0.1:1"})

		// What cannot be a name never becomes a path at the agent.
		odd := watch(t, source, "../agent/self")
		after(0)
		if odd.last(t) != nil || len(fake.asked("/v1/agent")) > 0 {
			t.Fatal("a name that is none was asked for")
		}
		book.stop()
		odd.stop()
	})
}

func TestKnownServiceWithoutHealthyInstances(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Checks = api.HealthChecks{checkOf("a", api.HealthCritical, "rpc error: refused")}
		}))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(0)
		if service := book.last(t); service == nil || len(service.Endpoints) != 0 {
			t.Fatalf("got %+v, want a service without endpoints", service)
		}
		book.stop()
	})
}

func TestWatchesOfOneServiceShareItsQueries(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		fake.setSidecars("greeter", sidecarEntry("a", 2))
		source, _ := newFakeSource(t, fake, Config{})
		first := watch(t, source, "greeter")
		after(0)
		asked := len(fake.asked("/v1/health"))
		second := watch(t, source, "greeter")
		after(0)
		want(t, "second watch", second.addresses(t), []string{"10.0.0.1:2"})
		want(t, "queries", len(fake.asked("/v1/health")), asked)

		first.stop()
		fake.setSidecars("greeter", sidecarEntry("a", 3))
		after(time.Second)
		want(t, "the one that is left", second.addresses(t), []string{"10.0.0.1:3"})
		want(t, "the one that ended", first.addresses(t), []string{"10.0.0.1:2"})

		second.stop()
		asked = len(fake.asked("/v1/health"))
		after(5 * time.Minute)
		want(t, "queries once nobody watches", len(fake.asked("/v1/health")), asked)
	})
}

func TestIndexRules(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		asked, answered, next uint64
	}{
		{0, 10, 10}, {10, 11, 11}, {10, 10, 10},
		{10, 9, 0}, // backwards: another server, or a restored snapshot
		{0, 0, 1},  // never 0 from the server, or the query would not block
		{10, 0, 0}, {1, 0, 0},
	} {
		want(t, fmt.Sprint(test), nextIndex(test.asked, test.answered), test.next)
	}

	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)

		fake.change(func() {
			fake.index = 3 // from 11
			fake.apps["greeter"] = []*api.ServiceEntry{appEntry("b", 2)}
		})
		after(time.Second)
		want(t, "after going backwards", book.addresses(t), []string{"10.0.0.1:1", "10.0.0.1:2"})
		after(relearnFor)
		want(t, "later", book.addresses(t), []string{"10.0.0.1:2"})
		fake.setApps("greeter", appEntry("c", 3))
		after(time.Second)
		want(t, "and on", book.addresses(t), []string{"10.0.0.1:3"})

		// An index of 0 must not become a storm of queries.
		fake.change(func() { fake.index = 0 })
		after(time.Second)
		before := len(fake.asked("/v1/health"))
		after(time.Minute)
		if asked := len(fake.asked("/v1/health")) - before; asked > 2*2*60 { // two sides, half a second
			t.Fatalf("%d queries in a minute at index 0", asked)
		}
		book.stop()
	})
}

func TestSidecarIsNeverPassedByForAMoment(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		fake.setSidecars("greeter", sidecarEntry("a", 1001))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		want(t, "at first", book.addresses(t), []string{"10.0.0.1:1001"})

		// The query for sidecars wakes late: the app of a new pair is seen first, and
		// of a pair that goes the sidecar's going is.
		slow := func(side string) func(*http.Request) (*http.Response, error) {
			return func(req *http.Request) (*http.Response, error) {
				if strings.Contains(req.URL.Path, side) && req.URL.Query().Get("index") != "" {
					select {
					case <-time.After(300 * time.Millisecond):
					case <-req.Context().Done():
					}
				}

				return nil, errPass
			}
		}
		seen := func() (direct []string) {
			book.mu.Lock()
			defer book.mu.Unlock()
			for _, state := range book.states {
				if state == nil {
					continue
				}
				for _, endpoint := range state.Endpoints {
					if !strings.HasSuffix(endpoint.Address, "001") && !strings.HasSuffix(endpoint.Address, "002") {
						direct = append(direct, endpoint.Address)
					}
				}
			}

			return direct
		}
		fake.failWith(slow("connect"))
		after(time.Minute)
		fake.change(func() {
			fake.apps["greeter"] = append(fake.apps["greeter"], appEntry("b", 2))
			fake.sidecars["greeter"] = append(fake.sidecars["greeter"], sidecarEntry("b", 1002))
		})
		after(time.Minute)
		want(t, "both", book.addresses(t), []string{"10.0.0.1:1001", "10.0.0.1:1002"})
		want(t, "dialled directly", seen(), []string{})

		fake.failWith(slow("/service/"))
		after(time.Minute)
		fake.change(func() {
			fake.apps["greeter"] = fake.apps["greeter"][:1]
			fake.sidecars["greeter"] = fake.sidecars["greeter"][:1]
		})
		after(time.Minute)
		want(t, "one", book.addresses(t), []string{"10.0.0.1:1001"})
		want(t, "dialled directly", seen(), []string{})
		book.stop()
	})
}

func TestDatacentreInTheName(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		fake.setApps("greeter.blue", appEntry("b", 2))
		source, _ := newFakeSource(t, fake, Config{})

		there := watch(t, source, "greeter.dc2")
		after(0)
		want(t, "in dc2", there.addresses(t), []string{"10.0.0.1:1"})
		for _, request := range fake.asked("/v1/health/") {
			want(t, "path", strings.TrimPrefix(strings.TrimPrefix(request.path, "/v1/health/service/"), "/v1/health/connect/"), "greeter")
			want(t, "dc", request.query["dc"], []string{"dc2"})
		}

		dotted := watch(t, source, "greeter.blue")
		after(0)
		want(t, "a name with a dot", dotted.addresses(t), []string{"10.0.0.1:2"})
		want(t, "lists of datacentres", len(fake.asked("/v1/catalog/datacenters")), 1)
		there.stop()
		dotted.stop()
	})
}

func TestManyServicesTakeTurns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const services = 150
		fake := newFakeAgent()
		name := func(i int) string { return fmt.Sprintf("service-%d", i) }
		fake.change(func() {
			for i := range services {
				fake.apps[name(i)] = []*api.ServiceEntry{appEntry("a", 1)}
			}
		})
		source, _ := newFakeSource(t, fake, Config{})
		books := make([]*watchBook, services)
		for i := range books {
			books[i] = watch(t, source, name(i))
		}
		after(10 * time.Second)

		// News arrives within 2 s, though each change wakes every query.
		for i := 0; i < services; i += 29 {
			fake.setApps(name(i), appEntry("a", 2))
			after(2 * time.Second)
			want(t, name(i), books[i].addresses(t), []string{"10.0.0.1:2"})
		}
		before := len(fake.asked("/v1/health"))
		after(10 * time.Second)
		if asked := len(fake.asked("/v1/health")) - before; asked > 10*maxTurns*11/10 {
			t.Fatalf("%d queries in 10 s", asked)
		}
		if fake.most > defaultMaxConnections {
			t.Fatalf("%d at once", fake.most)
		}
		status := source.Status()
		want(t, "queries", status.Queries, 2*services)
		want(t, "slots", status.Slots, defaultMaxConnections-shortCalls)
		for i, book := range books {
			if book.last(t).Stale {
				t.Errorf("%s is stale", name(i))
			}
			book.stop()
		}
		after(2 * longWait)
		want(t, "queries at the end", source.Status().Queries, 0)
	})
}

func TestAnsweringAndServices(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		fake.setApps("greeter-sidecar-proxy", appEntry("b", 1))
		fake.setApps("farewell", appEntry("c", 1))
		source, _ := newFakeSource(t, fake, Config{})

		names, err := source.Services(t.Context())
		want(t, "services", fmt.Sprint(names, err), "[farewell greeter] <nil>")
		names, err = source.Answering(t.Context(), "helloworld.Greeter")
		want(t, "answering", fmt.Sprint(names, err), "[farewell greeter] <nil>")
		requests := fake.asked("/v1/catalog/services")
		filter := requests[len(requests)-1].query["filter"][0]
		if !strings.Contains(filter, `ServiceMeta["grpc-services-2"] contains "helloworld.Greeter"`) {
			t.Fatalf("filter: %s", filter)
		}

		// What is no name never becomes part of an expression.
		for _, name := range []string{"", `x" or ServiceName != "`, "a..b", "a b", strings.Repeat("a", 300)} {
			names, err = source.Answering(t.Context(), name)
			want(t, name, fmt.Sprint(names, err), "[] <nil>")
		}
		want(t, "requests", len(fake.asked("/v1/catalog/services")), len(requests))

		fake.failWith(refuse)
		names, err = source.Services(t.Context())
		want(t, "services while it is away", fmt.Sprint(names, err), "[farewell greeter] <nil>")
		if names, err = source.Answering(t.Context(), "helloworld.Greeter"); err == nil {
			t.Fatalf("answering while it is away: %v", names)
		}
		if failure, ok := errors.AsType[*failure](err); !ok || failure.kind != unreachable {
			t.Fatalf("error: %v", err)
		}
		if status := source.Status(); status.Connected || status.Contact.IsZero() || status.LastError == "" {
			t.Fatalf("status: %+v", status)
		}
	})
}
