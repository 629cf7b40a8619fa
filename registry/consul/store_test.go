package consul

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/consul/api"

	"github.com/pillion-proxy/pillion/control/kv"
)

// kvBook collects what a watch of a store hands over.
type kvBook struct {
	mu     sync.Mutex
	states []kv.State
	at     []time.Time
	stop   func()
}

func watchKV(store *Store, prefix string) *kvBook {
	ctx, cancel := context.WithCancel(context.Background())
	book, ended := &kvBook{}, make(chan struct{})
	go func() {
		defer close(ended)
		store.Watch(ctx, prefix, func(state kv.State) {
			book.mu.Lock()
			defer book.mu.Unlock()
			book.states, book.at = append(book.states, state), append(book.at, time.Now())
		})
	}()
	book.stop = func() {
		cancel()
		<-ended
	}

	return book
}

func (b *kvBook) last() (kv.State, time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()

	if len(b.states) == 0 {
		return kv.State{}, time.Time{}
	}

	return b.states[len(b.states)-1], b.at[len(b.at)-1]
}

func fingerprint(state kv.State) (text string) {
	for _, e := range state.Entries {
		text += fmt.Sprintf("%s@%d ", e.Key, e.Version)
	}

	return text
}

// Any server may answer a watch, and all but the leader may be behind: what is handed over
// never goes back, and ends with the truth.
func TestStoreWatchNeverGoesBack(t *testing.T) {
	t.Parallel()
	for seed := range uint64(30) {
		synctest.Test(t, func(t *testing.T) {
			random := rand.New(rand.NewPCG(seed, 7))
			fake := newFakeKV(3)
			store, _ := newFakeStore(t, fake, Config{})
			book := watchKV(store, "p/")
			for range 150 {
				key := fmt.Sprintf("p/%c", 'a'+rune(random.IntN(3)))
				switch random.IntN(6) {
				case 0, 1:
					fake.set(key)
				case 2, 3:
					fake.delete(key)
				case 4:
					fake.set("q/other")
				case 5:
					if random.IntN(4) == 0 {
						// It takes a quarter of an hour, so whoever is that far behind knows it.
						fake.follow(1, len(fake.states)-1)
						fake.follow(2, len(fake.states)-1)
						fake.reap()
					}
				}
				fake.follow(1+random.IntN(2), fake.servers[0]-random.IntN(12))
				switch random.IntN(12) {
				case 0: // whoever asks anew may come to another server
					fake.failWith(refuse)
					time.Sleep(time.Second)
					fake.failWith(nil)
				case 1: // and one that is behind may answer when nothing has changed for long
					time.Sleep(2 * time.Minute)
				}
				time.Sleep(time.Duration(random.IntN(400)) * time.Millisecond)
			}
			fake.follow(1, len(fake.states)-1)
			fake.follow(2, len(fake.states)-1)
			after(5 * time.Second)
			book.stop()

			position := 0
			for n, state := range book.states {
				from := position
				for position < len(fake.states) {
					if found, _ := fake.states[position].below("p/"); found.String() == fingerprint(state) {
						break
					}
					position++
				}
				if position == len(fake.states) {
					t.Fatalf("seed %d: state %d, %q, is older than the one before, which was the %d. of %d", seed, n, fingerprint(state), from, len(fake.states))
				}
			}
			final, _ := fake.states[len(fake.states)-1].below("p/")
			want(t, "the last state", fingerprint(book.states[len(book.states)-1]), final.String())
			if len(book.states) < 10 {
				t.Fatalf("%d states handed over", len(book.states))
			}
		})
	}
}

// With fewer connections than watches all are told soon, and the agent has no more of us
// than it is to have.
func TestStoreWatchesShareTheBudget(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeKV(1)
		store, _ := newFakeStore(t, fake, Config{MaxConnections: minMaxConnections})
		var books []*kvBook
		for n := range 30 {
			books = append(books, watchKV(store, fmt.Sprintf("p/%d/", n)))
		}
		twice := watchKV(store, "p/7/") // shares its query
		after(10 * time.Second)
		for n := range books {
			start := time.Now()
			fake.set(fmt.Sprintf("p/%d/x", n))
			after(2 * time.Second)
			state, at := books[n].last()
			if len(state.Entries) != 1 {
				t.Fatalf("watch %d has not seen the change after 2 s", n)
			}
			if took := at.Sub(start); took > 1500*time.Millisecond {
				t.Errorf("watch %d has seen the change after %v", n, took)
			}
		}
		if state, _ := twice.last(); len(state.Entries) != 1 {
			t.Error("the watch that shares has not seen it")
		}
		if fake.most > minMaxConnections {
			t.Errorf("%d connections at once", fake.most)
		}
		queries, slots := store.agent.budget.load()
		want(t, "queries and slots", []int{queries, slots}, []int{30, minMaxConnections - shortCalls})
		for _, book := range append(books, twice) {
			book.stop()
		}
		queries, _ = store.agent.budget.load()
		want(t, "queries left", queries, 0)
	})
}

// When Consul comes back, those who watched it do not all ask at the same moment.
func TestStoreWatchersReturnOneByOne(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const sidecars = 200
		fake := newFakeKV(1)
		var books []*kvBook
		for range sidecars {
			store, _ := newFakeStore(t, fake, Config{})
			books = append(books, watchKV(store, "p/"))
		}
		after(2 * time.Second)
		fake.failWith(refuse)
		after(time.Minute)
		for _, book := range books {
			if state, _ := book.last(); state.Err == nil || !state.Known {
				t.Fatalf("not told that Consul is away: %+v", state)
			}
		}
		fake.failWith(nil)
		back := time.Now()
		fake.set("p/news")
		after(failureMost + time.Second)
		buckets := map[time.Duration]int{}
		for _, book := range books {
			state, at := book.last()
			if state.Err != nil || len(state.Entries) != 1 {
				t.Fatalf("not back: %+v", state)
			}
			buckets[at.Sub(back)/(250*time.Millisecond)]++
			book.stop()
		}
		for slot, count := range buckets {
			if count > sidecars/5 {
				t.Errorf("%d of %d have returned in quarter of a second %d", count, sidecars, slot)
			}
		}
		if len(buckets) < 8 {
			t.Errorf("all have returned within %d quarters of a second", len(buckets))
		}
	})
}

func TestStoreIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeKV(1)
		store, log := newFakeStore(t, fake, Config{})
		limited := answerWith(http.StatusTooManyRequests, "Your IP is issuing too many concurrent connections, please rate limit your calls\n")
		fake.failWith(limited)
		time.AfterFunc(time.Second, func() { fake.failWith(nil) })
		start := time.Now()
		if err := store.Commit(t.Context(), kv.Op{Key: "a", Value: []byte("1"), Any: true}); err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took < 250*time.Millisecond || took > 3*time.Second {
			t.Errorf("went well after %v", took)
		}
		fake.failWith(limited)
		_, err := store.Get(t.Context(), "a")
		if err == nil || !strings.Contains(err.Error(), "limits us") || strings.Contains(err.Error(), "\n") {
			t.Errorf("limited for good: %v", err)
		}
		if got := len(log.with("limits us")); got != 1 {
			t.Errorf("%d lines", got)
		}
		if _, slots := store.agent.budget.load(); slots >= defaultMaxConnections-shortCalls {
			t.Errorf("%d slots still", slots)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		start = time.Now()
		if _, err := store.Get(ctx, "a"); err == nil || time.Since(start) > time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
	})
}

// What is wrong with an answer is an error of one line, and no state.
func TestStoreAndOddAnswers(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]func(*http.Request) (*http.Response, error){
		"refused":     refuse,
		"no leader":   answerWith(500, "No cluster leader"),
		"gateway":     answerWith(502, "<html>\n<body>bad gateway"),
		"not Consul":  answerWith(200, "hello"),
		"truncated":   answerWith(200, `[{"Key":"p/`),
		"null":        answerWith(200, `[null, {"Key":"elsewhere","ModifyIndex":3}]`),
		"no reason":   answerWith(409, `{}`),
		"odd reason":  answerWith(409, `{"Errors":[{"OpIndex":7,"What":"no"}]}`),
		"null reason": answerWith(409, `{"Errors":[null]}`),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				fake := newFakeKV(1)
				fake.set("p/a")
				fake.failWith(fault)
				store, _ := newFakeStore(t, fake, Config{})
				book := watchKV(store, "p/")
				commit := store.Commit(t.Context(), kv.Op{Key: "p/a", Any: true}, kv.Op{Key: "p/b", Any: true})
				_, get := store.Get(t.Context(), "p/a")
				_, list := store.List(t.Context(), "p/")
				for what, err := range map[string]error{"Commit": commit, "Get": get, "List": list} {
					if name == "null" {
						continue
					}
					if err == nil {
						t.Errorf("%s went well", what)
					}
					if _, ok := errors.AsType[*kv.ConflictError](err); ok || err != nil && strings.Contains(err.Error(), "\n") {
						t.Errorf("%s: %v", what, err)
					}
				}
				after(time.Minute)
				if state, _ := book.last(); name != "null" && (state.Err == nil || state.Known || state.Entries != nil) {
					t.Errorf("handed over: %+v", state)
				}
				fake.failWith(nil)
				after(failureMost)
				if state, _ := book.last(); state.Err != nil || len(state.Entries) != 1 {
					t.Errorf("handed over: %+v", state)
				}
				book.stop()
			})
		})
	}
}

// A server that has no leader may know old things only: they do for a beginning, and never
// replace what is known.
func TestStoreWatchOfServersWithoutALeader(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeKV(1)
		fake.set("p/a")
		leaderless := func(*http.Request) (*http.Response, error) {
			return respond(http.StatusOK, map[string]string{"X-Consul-Index": "99", "X-Consul-Knownleader": "false"}, api.KVPairs{{Key: "p/old", ModifyIndex: 5}}), nil
		}
		fake.failWith(leaderless)
		store, _ := newFakeStore(t, fake, Config{})
		book := watchKV(store, "p/")
		after(time.Second)
		state, _ := book.last()
		if want(t, "at first", fingerprint(state), "p/old@5 "); state.Err == nil || !state.Known {
			t.Errorf("handed over: %+v", state)
		}
		fake.failWith(nil)
		after(failureMost)
		state, _ = book.last()
		if want(t, "with a leader", fingerprint(state), "p/a@11 "); state.Err != nil {
			t.Error(state.Err)
		}
		fake.failWith(leaderless)
		after(2 * time.Minute)
		state, _ = book.last()
		if want(t, "without a leader", fingerprint(state), "p/a@11 "); state.Err == nil {
			t.Error("that it may be old is not said")
		}
		book.stop()
	})
}

func TestStoreSessionThatCannotBeRenewed(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeKV(1)
		store, _ := newFakeStore(t, fake, Config{})
		session, err := store.Session(t.Context(), kv.SessionOptions{TTL: time.Second}) // Consul takes 10 s at least
		if err != nil {
			t.Fatal(err)
		}
		after(time.Hour)
		renewals := len(fake.asked("/v1/session/renew/"))
		if renewals < 3600/4 || renewals > 3600/2 {
			t.Errorf("renewed %d times in an hour", renewals)
		}
		fake.failWith(refuse) // for a while that is shorter than its time
		after(5 * time.Second)
		fake.failWith(nil)
		after(time.Minute)
		select {
		case <-session.Done():
			t.Fatal("lost after 5 s")
		default:
		}
		fake.failWith(refuse)
		start := time.Now()
		<-session.Done()
		if took := time.Since(start); took < 6*time.Second || took > 10*time.Second {
			t.Errorf("known after %v", took)
		}
		fake.failWith(nil)
		after(time.Minute)
		if err := session.Put(t.Context(), "p/a", nil); !errors.Is(err, kv.ErrLost) {
			t.Errorf("Put: %v", err)
		}
		if err := session.Close(t.Context()); err != nil || len(fake.sessions) > 0 {
			t.Errorf("Close: %v, left: %v", err, fake.sessions)
		}
	})
}

// Who holds a lock knows within the lock delay that somebody has ended its session.
func TestStoreSessionThatIsEnded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		fake := newFakeKV(1)
		store, _ := newFakeStore(t, fake, Config{})
		session, err := store.Session(t.Context(), kv.SessionOptions{LockDelay: 2 * time.Second})
		if err != nil {
			t.Fatal(err)
		}
		if got, err := session.TryLock(t.Context(), "p/l", nil); !got || err != nil {
			t.Fatal(got, err)
		}
		after(time.Minute)
		fake.mu.Lock()
		clear(fake.sessions)
		fake.mu.Unlock()
		start := time.Now()
		<-session.Done()
		if took := time.Since(start); took > time.Second {
			t.Errorf("known after %v", took)
		}
		if err := session.Close(t.Context()); err != nil {
			t.Error(err)
		}
	})
}
