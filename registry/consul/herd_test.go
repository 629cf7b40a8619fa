package consul

import (
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// TestNobodyComesBackWithTheHerd has an agent whom many sidecars ask go away or lose its
// leader, under all of their queries at one instant.
func TestNobodyComesBackWithTheHerd(t *testing.T) {
	t.Parallel()
	const sidecars, services = 30, 4
	leaderless := func(f *fakeAgent) {
		f.index++ // or nobody would hear of it
		f.headers["X-Consul-KnownLeader"] = "false"
	}
	failing := func(fault func(*http.Request) (*http.Response, error)) func(*fakeAgent) {
		return func(f *fakeAgent) { f.fault = fault }
	}
	for name, test := range map[string]struct {
		begins func(*fakeAgent)
		lasts  time.Duration
		within time.Duration // all is as before, once it is over
		each   float64       // the most that a sidecar asks meanwhile, a second
	}{
		"all connections are lost":      {failing(refuse), 0, lostBase + returnWithin, 0},
		"restarts at once":              {failing(refuse), 30 * time.Millisecond, lostBase + returnWithin, 0},
		"restarts":                      {failing(refuse), time.Second, failureMost + returnWithin, 20},
		"is away":                       {failing(refuse), 30 * time.Second, failureMost + returnWithin, 4},
		"has lost its leader":           {failing(answerWith(500, "No cluster leader")), time.Second, failureMost, 25},
		"has lost its leader for long":  {failing(answerWith(500, "No cluster leader")), 15 * time.Second, failureMost, 6},
		"answers without a leader":      {leaderless, time.Second, lagMost, 25},
		"answers long without a leader": {leaderless, 10 * time.Second, lagMost, 12},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeAgent()
				var watches []*watchBook
				for i := range services {
					fake.setApps(fmt.Sprintf("app-%d", i), appEntry("a", 1))
				}
				for i := range sidecars {
					source := newHerdSource(t, fake, uint64(i))
					for i := range services {
						watches = append(watches, watch(t, source, fmt.Sprintf("app-%d", i)))
					}
				}
				after(10 * time.Second)
				held := fake.held()
				want(t, "queries held", held, sidecars*services*int(sides))

				before := len(fake.asked(""))
				fake.change(func() { fake.index--; test.begins(fake) })
				synctest.Wait()
				after(test.lasts)
				during := len(fake.asked("")) - before
				fake.change(func() { fake.index--; fake.fault = nil; clear(fake.headers) })
				after(test.within + 2*quickPause)
				want(t, "queries held", fake.held(), held)

				asked := fake.asked("")[before:]
				if most := crowd(asked, 100*time.Millisecond); most > held/3 {
					t.Errorf("of %d queries %d are asked again within 100 ms", held, most)
				}
				if most := test.each * sidecars * test.lasts.Seconds(); float64(during) > most {
					t.Errorf("meanwhile %d queries were asked, more than %.0f", during, most)
				}
				// Each is asked once, and once more to wait.
				if returned := len(asked) - during; returned > 5*held/2 {
					t.Errorf("for %d queries %d were asked once it was over", held, returned)
				}
				for _, w := range watches {
					if w.last(t).Stale {
						t.Fatal("still stale")
					}
					w.stop()
				}
			})
		})
	}
}

// TestOneOfManyTriesForAll says what the queries of one sidecar do while its agent is away.
func TestOneOfManyTriesForAll(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		for _, service := range []string{"a", "b", "c"} {
			fake.setApps(service, appEntry(service, 1))
		}
		source := newHerdSource(t, fake, 1)
		a, b, c := watch(t, source, "a"), watch(t, source, "b"), watch(t, source, "c")
		after(10 * time.Second)

		before := len(fake.asked(""))
		fake.failWith(refuse)
		synctest.Wait()
		after(time.Second)
		if asked := len(fake.asked("")) - before; asked < 3 || asked > 5 {
			t.Errorf("in the first second %d tried", asked)
		}
		for _, w := range []*watchBook{a, b, c} {
			if !w.last(t).Stale {
				t.Error("who does not try does not know that it is stale")
			}
		}

		// Whoever tries may be one whom nobody needs any more.
		a.stop()
		b.stop()
		before = len(fake.asked(""))
		after(time.Minute)
		if asked := len(fake.asked("")) - before; asked < 15 {
			t.Errorf("in a minute %d tried", asked)
		}
		fake.failWith(nil)
		after(failureMost + returnWithin)
		if c.last(t).Stale {
			t.Error("still stale")
		}
		c.stop()
	})
}

// TestLostConnectionIsMendedAtOnce has one query of many fail, again and again.
func TestLostConnectionIsMendedAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeAgent()
		fake.setApps("greeter", appEntry("a", 1))
		source := newHerdSource(t, fake, 1)
		book := watch(t, source, "greeter")
		for range 20 {
			after(10 * time.Second)
			var once sync.Once
			fake.failWith(func(req *http.Request) (*http.Response, error) {
				err := errPass
				once.Do(func() { _, err = refuse(req) })

				return nil, err
			})
			after(lostBase + quickPause)
			want(t, "queries held", fake.held(), 2)
		}
		want(t, "states handed over", book.count(), 1)
		book.stop()
	})
}

// newHerdSource is one of many sources, with chance of its own.
func newHerdSource(t *testing.T, fake *fakeAgent, seed uint64) *Source {
	t.Helper()
	var mu sync.Mutex
	random := rand.New(rand.NewPCG(seed, 7))
	source, err := New(Config{Address: "127.0.0.1:8500"}, Deps{
		Log: slog.New(slog.DiscardHandler), Transport: fake,
		Random: func() float64 {
			mu.Lock()
			defer mu.Unlock()

			return random.Float64()
		},
	})
	if err != nil {
		t.Fatal(err)
	}

	return source
}

// held is how many requests are being answered.
func (f *fakeAgent) held() int {
	f.mu.Lock()
	defer f.mu.Unlock()

	return f.waiting
}

// crowd is the most requests that came within a while.
func crowd(asked []fakeRequest, within time.Duration) (most int) {
	first := 0
	for i, request := range asked {
		for request.at.Sub(asked[first].at) >= within {
			first++
		}
		most = max(most, i-first+1)
	}

	return most
}
