package consul

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
)

func TestConsulAwayKeepsWhatIsKnown(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*http.Request) (*http.Response, error){
		"refused":     refuse,
		"no leader":   answerWith(500, "No cluster leader"),
		"gateway":     answerWith(502, "<html>\n<body>bad gateway"),
		"not Consul":  answerWith(200, "hello"),
		"truncated":   answerWith(200, `[{"Node":{`),
		"rate limits": answerWith(429, "Your IP is issuing too many concurrent connections, please rate limit your calls\n"),
		"hangs": func(req *http.Request) (*http.Response, error) {
			<-req.Context().Done()

			return nil, req.Context().Err()
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeAgent()
				fake.setApps("greeter", appEntry("a", 1))
				source, log := newFakeSource(t, fake, Config{})
				book := watch(t, source, "greeter")
				after(time.Second)

				fake.failWith(fault)
				after(2 * time.Minute)
				want(t, "endpoints while it is away", book.addresses(t), []string{"10.0.0.1:1"})
				if !book.last(t).Stale {
					t.Fatal("not marked stale")
				}
				status := source.Status().Services[0]
				if !status.Stale || status.Error == "" || status.StaleSince.IsZero() || strings.Contains(status.Error, "\n") {
					t.Fatalf("status: %+v", status)
				}
				if warnings := log.with("level=WARN"); len(warnings) == 0 || len(warnings) > 2 {
					t.Fatalf("want one line, or one for each query:\n%s", strings.Join(log.with(""), "\n"))
				}

				fake.failWith(nil)
				after(limitedMost)
				want(t, "endpoints once it is back", book.addresses(t), []string{"10.0.0.1:1"})
				if book.last(t).Stale {
					t.Fatal("still stale")
				}
				if status := source.Status().Services[0]; status.Error != "" || status.Stale {
					t.Fatalf("status: %+v", status)
				}
				want(t, "states handed over", book.count(), 3)
				book.stop()
			})
		})
	}
}

func TestOneFailureIsNoOutage(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		fake.failWith(refuse)
		synctest.Wait()
		fake.failWith(nil)
		after(time.Minute)
		want(t, "states handed over", book.count(), 1)
		book.stop()
	})
}

func TestQueriesBackOff(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.failWith(answerWith(500, "broken"))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Hour)
		want(t, "handed over", book.count(), 0)
		// Two sides, every 2.5 to 5 s.
		if asked := len(fake.asked("/v1/health")); asked > 2*3600/2 {
			t.Fatalf("%d queries in an hour", asked)
		}
		book.stop()
	})
}

func TestSuddenlyEmptyIsConfirmed(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name    string
		entries []*api.ServiceEntry
		within  time.Duration
		gone    bool // handed over as nil
	}{
		{"no instance", nil, confirmGoneAfter, true},
		{"all critical", []*api.ServiceEntry{with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Checks = api.HealthChecks{checkOf("a", api.HealthCritical, "rpc error: refused")}
		})}, confirmAfter, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeAgent()
				fake.setApps("greeter", appEntry("a", 1))
				source, _ := newFakeSource(t, fake, Config{})
				book := watch(t, source, "greeter")
				after(time.Second)

				// For a moment: not believed.
				fake.setApps("greeter", test.entries...)
				after(time.Second)
				want(t, "at once", book.addresses(t), []string{"10.0.0.1:1"})
				fake.setApps("greeter", appEntry("a", 1))
				after(time.Minute)
				want(t, "states handed over", book.count(), 1)

				// For good: believed after a consistent read.
				fake.setApps("greeter", test.entries...)
				after(time.Second)
				want(t, "at once", book.count(), 1)
				// Changes of something else wake the query; they do not put it off.
				for range 4 {
					fake.setApps("other", appEntry("x", 1))
					after(test.within / 3)
				}
				after(time.Second)
				want(t, "then", book.count(), 2)
				if service := book.last(t); (service == nil) != test.gone {
					t.Fatalf("got %+v", service)
				}
				if !slices.ContainsFunc(fake.asked("/v1/health/service"), func(r fakeRequest) bool {
					_, consistent := r.query["consistent"]

					return consistent
				}) {
					t.Fatal("no consistent read")
				}
				book.stop()
			})
		})
	}
}

func TestLossIsNotBelievedWhileItCannotBeConfirmed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)

		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if _, consistent := req.URL.Query()["consistent"]; consistent {
				return respond(500, nil, "No cluster leader"), nil
			}

			return nil, errPass
		})
		fake.setApps("greeter")
		after(time.Minute)
		want(t, "while it fails", book.addresses(t), []string{"10.0.0.1:1"})
		fake.failWith(nil)
		after(2 * confirmAfter)
		if book.last(t) != nil {
			t.Fatal("still there")
		}
		book.stop()
	})
}

func TestLeaderlessServerIsStale(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)

		fake.change(func() { fake.headers["X-Consul-KnownLeader"] = "false" })
		after(time.Second)
		want(t, "stale", book.last(t).Stale, true)
		want(t, "endpoints", book.addresses(t), []string{"10.0.0.1:1"})
		before := len(fake.asked("/v1/health"))
		after(time.Minute)
		if asked := len(fake.asked("/v1/health")) - before; asked < 30 || asked > 200 {
			t.Fatalf("%d queries in a minute without a leader", asked)
		}

		// The agent's own stream of events never knows a leader.
		fake.change(func() { fake.headers["X-Consul-Query-Backend"] = "streaming" })
		after(5 * time.Second)
		want(t, "stale", book.last(t).Stale, false)
		book.stop()
	})
}

func TestDiskIsUsedWhileConsulIsAway(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := filepath.Join(t.TempDir(), "made")
		fake := newFakeAgent()
		fake.setApps("greeter", with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Service.Meta = map[string]string{"version": "v1", metaGRPC: "helloworld.Greeter"}
			e.Service.Tags = []string{"blue"}
			e.Service.Weights.Passing = 7
		}))
		source, _ := newFakeSource(t, fake, Config{CacheDir: dir})
		book := watch(t, source, "greeter")
		after(time.Second)
		fresh := *book.last(t)
		book.stop()

		// A restart without Consul.
		fake.failWith(refuse)
		source, _ = newFakeSource(t, fake, Config{CacheDir: dir})
		book = watch(t, source, "greeter")
		after(cachePatience)
		fresh.Stale = true
		if !same(book.last(t), &fresh) {
			t.Fatalf("got %+v, want %+v", book.last(t), fresh)
		}
		names, err := source.Answering(t.Context(), "helloworld.Greeter")
		want(t, "answering", fmt.Sprint(names, err), "[greeter] <nil>")

		// Consul is back, but its catalogue is still empty: not believed at once.
		fake.change(func() { fake.fault = nil; fake.apps["greeter"] = nil })
		after(confirmAfter)
		want(t, "before the confirmation", book.addresses(t), []string{"10.0.0.1:1"})
		fake.setApps("greeter", appEntry("b", 2))
		after(limitedMost)
		want(t, "when Consul knows", book.addresses(t), []string{"10.0.0.1:2"})
		want(t, "stale", book.last(t).Stale, false)
		book.stop()

		// Gone for good: gone from the disk.
		fake.setApps("greeter")
		book = watch(t, source, "greeter")
		after(time.Minute)
		if book.last(t) != nil {
			t.Fatal("still there")
		}
		book.stop()
		if files, err := os.ReadDir(dir); err != nil || len(files) > 0 {
			t.Fatalf("left on disk: %v, %v", files, err)
		}
	})
}

func TestDiskIsNotUsedWhereConsulAnswers(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dir := t.TempDir()
		disk := &cache{limits: standard, dir: dir}
		old := &registry.Service{Name: "greeter", Endpoints: []registry.Endpoint{{ID: "old", Address: "10.9.9.9:1", Weight: 1}}}
		if err := disk.save("greeter", old); err != nil {
			t.Fatal(err)
		}
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, _ := newFakeSource(t, fake, Config{CacheDir: dir})
		book := watch(t, source, "greeter")
		after(time.Minute)
		want(t, "states handed over", book.count(), 1)
		want(t, "endpoints", book.addresses(t), []string{"10.0.0.1:1"})
		book.stop()
	})
}

func TestInstanceWhoseCheckHasNotRunKeepsItsPlace(t *testing.T) {
	t.Parallel()
	unrun := func(id string, port int) *api.ServiceEntry {
		return with(appEntry(id, port), func(e *api.ServiceEntry) {
			e.Checks = api.HealthChecks{checkOf(id, api.HealthCritical, "")}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1), appEntry("b", 2))
		source, _ := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)

		// The agent has restarted; c is new, and gets nothing before its check ran.
		fake.setApps("greeter", unrun("a", 1), unrun("b", 2), unrun("c", 3))
		after(10 * time.Second)
		want(t, "after the restart", book.addresses(t), []string{"10.0.0.1:1", "10.0.0.1:2"})

		fake.setApps("greeter", appEntry("a", 1), unrun("b", 2), appEntry("c", 3))
		after(time.Second)
		want(t, "a and c are well", book.addresses(t), []string{"10.0.0.1:1", "10.0.0.1:2", "10.0.0.1:3"})
		after(uncheckedFor)
		want(t, "b never is", book.addresses(t), []string{"10.0.0.1:1", "10.0.0.1:3"})
		book.stop()
	})
}
