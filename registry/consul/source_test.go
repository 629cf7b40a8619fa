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
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/registry"
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
		want(t, "after going backwards", book.addresses(t), []string{"10.0.0.1:2"})
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
		gone    bool // handed over as nil
	}{
		{"no instance", nil, true},
		{"all critical", []*api.ServiceEntry{with(appEntry("a", 1), func(e *api.ServiceEntry) {
			e.Checks = api.HealthChecks{checkOf("a", api.HealthCritical, "rpc error: refused")}
		})}, false},
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
					after(confirmAfter / 3)
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

			return nil, nil
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
		disk := &cache{dir: dir}
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

				return nil, nil
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

func TestDeniedNamesTheRuleAndRecoversWithTheToken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		write := func(token string) {
			if err := os.WriteFile(file, []byte(token+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		write("weak")
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("X-Consul-Token") != "strong" {
				return respond(403, nil, `Permission denied: token with AccessorID 'x' lacks permission 'service:read' on "greeter"`), nil
			}

			return nil, nil
		})
		source, log := newFakeSource(t, fake, Config{TokenFile: file})
		book := watch(t, source, "greeter")
		after(time.Minute)
		want(t, "handed over", book.count(), 0)
		if lines := log.with(`service \"greeter\" { policy = \"read\" }`); len(lines) != 2 { // one for each query
			t.Fatalf("log:\n%s", strings.Join(log.with(""), "\n"))
		}

		write("strong")
		after(failureMost)
		want(t, "with the new token", book.addresses(t), []string{"10.0.0.1:1"})

		// Revoked and rotated while a query waits: the refused one is repeated.
		fake.failWith(func(req *http.Request) (*http.Response, error) {
			if req.Header.Get("X-Consul-Token") != "stronger" {
				return respond(403, nil, "ACL not found"), nil
			}

			return nil, nil
		})
		write("stronger")
		after(failureMost)
		want(t, "states handed over", book.count(), 1)
		book.stop()
	})
}

func TestRotatedTokenIsUsedByQueriesThatWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		file := filepath.Join(t.TempDir(), "token")
		if err := os.WriteFile(file, []byte("first"), 0o600); err != nil {
			t.Fatal(err)
		}
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, log := newFakeSource(t, fake, Config{TokenFile: file})
		book := watch(t, source, "greeter")
		after(10 * time.Second)

		if err := os.WriteFile(file, []byte("second"), 0o600); err != nil {
			t.Fatal(err)
		}
		before := len(fake.asked("/v1/health"))
		after(tokenLook)
		var fresh []string
		for _, request := range fake.asked("/v1/health")[before:] {
			if request.token == "second" && request.query["index"] == nil {
				fresh = append(fresh, request.path)
			}
		}
		if len(fresh) != 2 {
			t.Fatalf("asked anew: %v", fresh)
		}
		want(t, "states handed over", book.count(), 1)
		want(t, "lines", len(log.with("")), 0)
		book.stop()
	})
}

func TestHiddenByACLsIsNotEmpty(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source, log := newFakeSource(t, fake, Config{})
		book := watch(t, source, "greeter")
		after(time.Second)
		fake.change(func() {
			fake.apps["greeter"] = nil
			fake.headers["X-Consul-Results-Filtered-By-ACLs"] = "true"
		})
		after(time.Minute)
		want(t, "endpoints", book.addresses(t), []string{"10.0.0.1:1"})
		want(t, "stale", book.last(t).Stale, true)
		if lines := log.with(`node_prefix \"\" { policy = \"read\" }`); len(lines) == 0 {
			t.Fatalf("log:\n%s", strings.Join(log.with(""), "\n"))
		}
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
		after(time.Minute)
		if asked := len(fake.asked("/v1/health")) - before; asked > 60*maxTurns*11/10 {
			t.Fatalf("%d queries in a minute", asked)
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
