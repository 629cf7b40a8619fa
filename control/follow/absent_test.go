package follow

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// A store that has lost everything takes nothing from those who know it, neither at once
// nor after a restart; what is written anew holds, and so does that it is deleted.
func TestNothingIsLostWithTheStore(t *testing.T) {
	for _, restart := range []bool{false, true} {
		t.Run(fmt.Sprint("restart ", restart), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				memory, dir := memkv.New(), t.TempDir()
				a := &agent{states: map[string][]*controlv1.RunState{}}
				options := func(o *Options) {
					o.Cache, o.Agents = NewCache(dir, slog.New(slog.DiscardHandler)), []Agent{a}
				}
				r := newRig(t, memory, options)
				r.putTimeout("web", "a", 7, 1)
				r.putTimeout("*", "b", 3, 2)
				r.putTimeout("web", "c", 1, 3)
				r.put(control.DocumentKey(control.Canary, "web", "x"), []byte("{")) // its state counts
				r.putState(&controlv1.RunState{Kind: "canary", Name: "x", Service: "web", Number: 4, Phase: controlv1.Phase_PHASE_RUNNING, Weight: 10_000})
				r.start()
				synctest.Wait()
				r.want("states at first", a.own(), 1)
				if restart {
					r.stop()
					r.lose()
					r = newRig(t, memory, options)
					r.start()
				} else {
					r.lose()
				}
				defer func() { r.stop() }()
				time.Sleep(time.Hour)
				r.want("a", r.timeout("a"), "1s")
				r.want("b", r.timeout("b"), "2s")
				r.want("states", a.own(), 1)
				if st := r.status("a"); st.GetProblem() != lostProblem || st.GetInForce() != 7 || st.GetRevision() != 7 {
					t.Errorf("status of a: %v", st)
				}

				r.putTimeout("web", "a", 1, 9)
				synctest.Wait()
				r.want("a, written anew", r.timeout("a"), "9s")
				r.want("its problem", r.status("a").GetProblem(), "")
				r.want("c, whose owner comes later", r.timeout("c"), "3s")
				r.delete(control.DocumentKey(control.Policy, "web", "a"))
				synctest.Wait()
				r.want("a, deleted", r.timeout("a"), "")

				// Too quick to be seen.
				r.store.SetFault(memkv.Fault{Err: errors.New("away")})
				r.putTimeout("web", "c", 1, 3)
				r.delete(control.DocumentKey(control.Policy, "web", "c"))
				r.store.SetFault(memkv.Fault{})
				time.Sleep(2 * askMost)
				r.want("c, written anew and deleted", r.timeout("c"), "")
				r.want("b in the end", r.timeout("b"), "2s")
			})
		})
	}
}

// What is deleted goes also where the store cannot be asked at once.
func TestDeletedOnceTheStoreSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		answers := &answering{Store: r.store, err: errors.New("busy")}
		r.f.o.Store = answers
		r.putTimeout("web", "a", 1, 1)
		r.putState(&controlv1.RunState{Kind: "canary", Name: "x", Service: "web", Number: 4})
		r.start()
		defer r.stop()
		synctest.Wait()
		r.delete(control.DocumentKey(control.Policy, "web", "a"))
		time.Sleep(10 * time.Second)
		r.want("a while it is not clear", r.timeout("a"), "1s")
		r.want("its problem", r.status("a").GetProblem(), "")
		answers.set(nil)
		time.Sleep(time.Minute)
		r.want("a", r.timeout("a"), "")
	})
}

// Where a token may not see histories, a store that holds anything is believed.
func TestWithoutTheRightToSeeHistories(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t, memkv.New(), nil)
		r.f.o.Store = &answering{Store: r.store, err: fmt.Errorf("no: %w", kv.ErrDenied)}
		r.putTimeout("web", "a", 1, 1)
		r.putTimeout("other", "o", 1, 1)
		r.start()
		defer r.stop()
		synctest.Wait()
		r.delete(control.DocumentKey(control.Policy, "web", "a"))
		synctest.Wait()
		r.want("a, deleted", r.timeout("a"), "")
		r.putTimeout("web", "b", 1, 2)
		synctest.Wait()
		r.delete(control.DocumentKey(control.Policy, "other", "o"))
		r.delete(control.DocumentKey(control.Policy, "web", "b"))
		time.Sleep(time.Hour)
		r.want("b, the last of all", r.timeout("b"), "2s")
		r.want("its problem", r.status("b").GetProblem(), lostProblem)
	})
}

// answering is a store that answers to Get with an error.
type answering struct {
	*memkv.Store
	mu  sync.Mutex
	err error
}

func (a *answering) Get(ctx context.Context, key string) (kv.Entry, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.err != nil {
		return kv.Entry{}, a.err
	}
	return a.Store.Get(ctx, key)
}

func (a *answering) set(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.err = err
}
