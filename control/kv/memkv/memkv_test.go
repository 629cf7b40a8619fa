package memkv

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/kvtest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestKeepsWhatStoresKeep(t *testing.T) {
	t.Parallel()
	for _, c := range kvtest.Cases() {
		t.Run(c.Name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				memory := New()
				a := memory.Store()
				c.Test(t, kvtest.Rig{
					A: a, B: memory.Store(), Expires: 10 * time.Second,
					Lose: func(_ *testing.T, session kv.Session) { a.Lose(session) },
					Break: func(*testing.T) func() {
						a.SetFault(Fault{Err: errors.New("cut off")})
						return func() { a.SetFault(Fault{}) }
					},
				})
			})
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestFaults(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := New()
		a, b := memory.Store(), memory.Store()
		a.SetFault(Fault{Slow: time.Second})
		start := time.Now()
		must(t, a.Commit(t.Context(), kv.Op{Key: "a", Value: []byte("1")}))
		if took := time.Since(start); took != time.Second {
			t.Errorf("took %v", took)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
		defer cancel()
		if err := a.Commit(ctx, kv.Op{Key: "b", Value: []byte("1")}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("too slow: %v", err)
		}

		away := errors.New("away")
		a.SetFault(Fault{Err: away, Unheard: true})
		if err := a.Commit(t.Context(), kv.Op{Key: "a", Value: []byte("2"), Any: true}); !errors.Is(err, away) {
			t.Errorf("unheard: %v", err)
		}
		if _, err := a.Get(t.Context(), "a"); !errors.Is(err, away) {
			t.Errorf("unheard: %v", err)
		}
		if entry, err := b.Get(t.Context(), "a"); err != nil || string(entry.Value) != "2" {
			t.Errorf("not done though unheard: %+v, %v", entry, err)
		}
		if got := memory.Commits(); got != 2 {
			t.Errorf("%d commits", got)
		}
	})
}

// As with Consul: who has the session knows after its TTL, the others after twice that.
func TestKilledProcessLosesItsLocks(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		memory := New()
		a, b := memory.Store(), memory.Store()
		options := kv.SessionOptions{TTL: 9 * time.Second, LockDelay: 2 * time.Second}
		lost, err := a.Session(t.Context(), options)
		must(t, err)
		next, err := b.Session(t.Context(), options)
		must(t, err)
		defer func() { must(t, next.Close(context.Background())) }()
		if ok, err := lost.TryLock(t.Context(), "l", nil); !ok || err != nil {
			t.Fatal(ok, err)
		}
		time.Sleep(time.Hour)
		a.Kill()
		start := time.Now()
		<-lost.Done()
		if took := time.Since(start); took > 9*time.Second || took < 6*time.Second {
			t.Errorf("known after %v", took)
		}
		for ok := false; !ok; time.Sleep(time.Millisecond) {
			ok, err = next.TryLock(t.Context(), "l", nil)
			must(t, err)
		}
		if took := time.Since(start); took > 20*time.Second+time.Second || took < 16*time.Second {
			t.Errorf("taken over after %v", took)
		}
	})
}
