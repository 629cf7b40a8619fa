package kvtest

import (
	"errors"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

var sessionCases = []Case{
	{"keys go with their session", keysGo},
	{"a lock is one session's", lockIsExclusive},
	{"a lock is never held twice", lockIsNeverHeldTwice},
	{"a commit on the condition of a lock", heldCommit},
	{"who was deposed writes nothing", deposedWritesNothing},
	{"a lost session", lostSession},
	{"a session that cannot be renewed", notRenewed},
}

// lock takes a lock, or says that it cannot be.
func lock(t *testing.T, s kv.Session, key, value string, want bool) {
	t.Helper()
	got, err := s.TryLock(t.Context(), key, []byte(value))
	must(t, err)
	if got != want {
		t.Fatalf("lock %s taken: %v, want %v", key, got, want)
	}
}

func keysGo(t *testing.T, r Rig) {
	ctx := t.Context()
	w := watch(t, r.B, "p/")
	set(t, r.A, "p/other", "1")
	first, second := session(t, r.A, kv.SessionOptions{}), session(t, r.B, kv.SessionOptions{})
	must(t, first.Put(ctx, "p/a", []byte("1")))
	must(t, first.Put(ctx, "p/a", []byte("2")))
	must(t, first.Put(ctx, "p/b", []byte("1")))
	must(t, first.Put(ctx, "p/c", []byte("1")))
	must(t, first.Put(ctx, "p/d", []byte("1")))
	equal(t, "written twice", get(t, r.B, "p/a"), "2")
	w.await(t, "the keys", holds("p/d", "1"))
	set(t, r.B, "p/a", "3")                                         // is its still
	must(t, second.Put(ctx, "p/b", []byte("2")))                    // takes over
	must(t, r.B.Commit(ctx, kv.Op{Key: "p/c", Any: true}))          // it is not its any more,
	must(t, r.B.Commit(ctx, kv.Op{Key: "p/c", Value: []byte("n")})) // and this is another
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/d", Any: true}))          //
	must(t, first.Put(ctx, "p/d", []byte("2")))                     // is its again
	if ended(first) || ended(second) {
		t.Fatal("a session has ended")
	}
	must(t, first.Close(ctx))
	for key, want := range map[string]string{"p/a": "-", "p/b": "2", "p/c": "n", "p/d": "-", "p/other": "1"} {
		equal(t, key, get(t, r.B, key), want)
	}
	w.await(t, "that the keys are gone", holds("p/d", "-"))
	if !ended(first) {
		t.Error("Done is open after Close")
	}
	_, locked := first.TryLock(ctx, "p/l", nil)
	for what, err := range map[string]error{"Put": first.Put(ctx, "p/x", nil), "TryLock": locked, "Unlock": first.Unlock(ctx, "p/x")} {
		if !errors.Is(err, kv.ErrLost) {
			t.Errorf("%s after Close: %v", what, err)
		}
	}
	must(t, first.Close(ctx))
	if ended(second) {
		t.Error("the other session has ended")
	}
	must(t, second.Put(ctx, "p/b", []byte("3")))
	for _, key := range []string{"", "p/\x00"} {
		_, locked := second.TryLock(ctx, key, nil)
		for what, err := range map[string]error{"Put": second.Put(ctx, key, nil), "TryLock": locked, "Unlock": second.Unlock(ctx, key)} {
			if err == nil {
				t.Errorf("%s of key %q is well", what, key)
			}
		}
	}
	if err := second.Put(ctx, "p/x", make([]byte, kv.MaxValue+1)); err == nil {
		t.Error("a value that is too large is well")
	}
	must(t, second.Put(ctx, "p/empty", nil))
	equal(t, "an empty value", get(t, r.A, "p/empty"), "")
}

func lockIsExclusive(t *testing.T, r Rig) {
	ctx := t.Context()
	// As long as it may be: it must not hold where a lock is given back.
	options := kv.SessionOptions{LockDelay: time.Minute}
	first, second := session(t, r.A, options), session(t, r.B, options)
	lock(t, first, "p/l", "first", true)
	lock(t, second, "p/l", "second", false)
	lock(t, first, "p/l", "first again", true)
	lock(t, second, "p/other", "second", true)
	equal(t, "the lock's value", get(t, r.B, "p/l"), "first again")
	must(t, second.Unlock(ctx, "p/l")) // not its own
	must(t, second.Unlock(ctx, "p/none"))
	equal(t, "the lock's value", get(t, r.B, "p/l"), "first again")
	lock(t, second, "p/l", "second", false)

	set(t, r.B, "p/l", "changed") // does not take it away
	lock(t, second, "p/l", "second", false)

	must(t, first.Unlock(ctx, "p/l"))
	equal(t, "after Unlock", get(t, r.B, "p/l"), "-")
	lock(t, second, "p/l", "second", true)
	lock(t, first, "p/l", "first", false)
	must(t, second.Close(ctx))
	equal(t, "after Close", get(t, r.A, "p/l"), "-")
	equal(t, "after Close", get(t, r.A, "p/other"), "-")
	lock(t, first, "p/l", "first", true)
	if ended(first) {
		t.Error("a session has ended")
	}

	// Who deletes its key takes it away.
	must(t, r.B.Commit(ctx, kv.Op{Key: "p/l", Any: true}))
	third := session(t, r.B, options)
	lock(t, third, "p/l", "third", true)
	lock(t, first, "p/l", "first", false)

	// A key that is no session's can be locked.
	set(t, r.A, "p/plain", "x")
	lock(t, third, "p/plain", "third", true)
	lock(t, first, "p/plain", "first", false)
}

func lockIsNeverHeldTwice(t *testing.T, r Rig) {
	var holders, turns atomic.Int32
	var all sync.WaitGroup
	for n, s := range []kv.Store{r.A, r.B, r.A} {
		holder := session(t, s, kv.SessionOptions{})
		all.Go(func() {
			for done := 0; done < 5 && !t.Failed(); {
				got, err := holder.TryLock(t.Context(), "p/l", []byte(strconv.Itoa(n)))
				if err != nil {
					t.Error(err)
					return
				}
				if !got {
					time.Sleep(time.Millisecond)
					continue
				}
				if holders.Add(1) > 1 {
					t.Error("held twice")
				}
				done++
				turns.Add(1)
				time.Sleep(time.Millisecond)
				holders.Add(-1)
				if err := holder.Unlock(t.Context(), "p/l"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	all.Wait()
	if got := turns.Load(); got != 15 {
		t.Errorf("%d turns", got)
	}
}

func heldCommit(t *testing.T, r Rig) {
	ctx := t.Context()
	first, second := session(t, r.A, kv.SessionOptions{}), session(t, r.B, kv.SessionOptions{})
	if first.ID() == "" || first.ID() == second.ID() {
		t.Fatalf("sessions %q and %q", first.ID(), second.ID())
	}
	held := func(s kv.Session) kv.Op { return kv.Op{Key: "p/l", Holder: s.ID()} }
	conflict(t, r.A.Commit(ctx, held(first)), "p/l") // it is not even there
	set(t, r.A, "p/l", "x")
	conflict(t, r.A.Commit(ctx, held(first), kv.Op{Key: "p/a", Value: []byte("1")}), "p/l") // nobody holds it
	lock(t, first, "p/l", "first", true)
	before := version(t, r.B, "p/l")
	must(t, r.A.Commit(ctx, held(first)))
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("1")}, held(first)))
	// Who commits does not matter, just who holds it.
	must(t, r.B.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("2"), Any: true}, held(first)))
	conflict(t, r.A.Commit(ctx, held(second), kv.Op{Key: "p/a", Any: true}), "p/l")
	conflict(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("3")}, held(second)), "p/a", "p/l")
	equal(t, "the value", get(t, r.B, "p/a"), "2")
	if equal(t, "the lock", get(t, r.B, "p/l"), "first"); version(t, r.B, "p/l") != before {
		t.Error("a condition has changed the lock")
	}
	for _, op := range []kv.Op{{Value: []byte("x")}, {Any: true}, {Version: 1}} {
		op.Key, op.Holder = "p/l", first.ID()
		if err := r.A.Commit(ctx, op); err == nil || errors.As(err, new(*kv.ConflictError)) {
			t.Errorf("%+v: %v", op, err)
		}
	}
}

// Between its reading and its writing another takes the lock: without the fence both would
// be written, as each has a key of its own.
func deposedWritesNothing(t *testing.T, r Rig) {
	ctx := t.Context()
	for name, depose := range map[string]func(first kv.Session){
		"given back": func(first kv.Session) { must(t, first.Unlock(ctx, "p/l")) },
		"taken away": func(kv.Session) { must(t, r.B.Commit(ctx, kv.Op{Key: "p/l", Any: true})) },
		"lost": func(first kv.Session) {
			if r.Lose == nil {
				must(t, first.Close(ctx))
				return
			}
			r.Lose(t, first)
		},
	} {
		first, second := session(t, r.A, kv.SessionOptions{}), session(t, r.B, kv.SessionOptions{})
		lock(t, first, "p/l", "first", true)
		old, now := kv.Fence(r.A, "p/l", first), kv.Fence(r.B, "p/l", second)
		set(t, r.B, "p/first", "before")
		read := version(t, old, "p/first")
		if err := now.Commit(ctx, kv.Op{Key: "p/second", Value: []byte("too early")}); !errors.Is(err, kv.ErrNotHeld) {
			t.Errorf("%s: before it is elected: %v", name, err)
		}
		depose(first)
		eventually(t, "the lock is taken", func() bool {
			got, err := second.TryLock(ctx, "p/l", []byte("second"))
			must(t, err)
			return got
		})
		must(t, now.Commit(ctx, kv.Op{Key: "p/second", Value: []byte(name), Any: true}))
		if err := old.Commit(ctx, kv.Op{Key: "p/first", Value: []byte(name), Version: read}); !errors.Is(err, kv.ErrNotHeld) {
			t.Errorf("%s: %v", name, err)
		}
		equal(t, name, get(t, r.A, "p/first"), "before")
		equal(t, name, get(t, r.A, "p/second"), name)
		must(t, second.Unlock(ctx, "p/l"))
		must(t, r.B.Commit(ctx, kv.Op{Key: "p/second", Any: true}))
	}
}

func lostSession(t *testing.T, r Rig) {
	if r.Lose == nil {
		t.Skip("no session can be lost here")
	}
	const delay = 700 * time.Millisecond
	lost, other := session(t, r.A, kv.SessionOptions{LockDelay: delay}), session(t, r.B, kv.SessionOptions{})
	must(t, lost.Put(t.Context(), "p/a", []byte("1")))
	lock(t, lost, "p/l", "first", true)
	lock(t, lost, "p/free", "first", true)
	must(t, lost.Unlock(t.Context(), "p/free"))
	w := watch(t, r.B, "p/")
	w.await(t, "the keys", holds("p/a", "1"))

	start := time.Now()
	r.Lose(t, lost)
	w.await(t, "that the keys are gone", func(s kv.State) bool { return holds("p/a", "-")(s) && holds("p/l", "-")(s) })
	lock(t, other, "p/free", "second", true) // was given back: nothing delays it
	eventually(t, "the lock is taken", func() bool {
		known := ended(lost)
		got, err := other.TryLock(t.Context(), "p/l", []byte("second"))
		must(t, err)
		if got && !known {
			t.Error("taken before who had it could know")
		}
		return got
	})
	took := time.Since(start)
	t.Logf("the lock was taken %v after its session was lost", took.Round(time.Millisecond))
	if took < delay*9/10 {
		t.Errorf("taken after %v, in spite of a delay of %v", took, delay)
	}
	if _, err := lost.TryLock(t.Context(), "p/l", nil); !errors.Is(err, kv.ErrLost) {
		t.Errorf("TryLock by the lost session: %v", err)
	}
	if err := lost.Put(t.Context(), "p/a", nil); !errors.Is(err, kv.ErrLost) {
		t.Errorf("Put by the lost session: %v", err)
	}
	equal(t, "the lock's value", get(t, r.A, "p/l"), "second")
	must(t, lost.Close(t.Context()))
	equal(t, "the lock's value", get(t, r.A, "p/l"), "second")
}

func notRenewed(t *testing.T, r Rig) {
	if r.Break == nil || r.Expires == 0 {
		t.Skip("that would take too long here")
	}
	lost, other := session(t, r.A, kv.SessionOptions{TTL: r.Expires}), session(t, r.B, kv.SessionOptions{})
	lock(t, lost, "p/l", "first", true)
	mend := r.Break(t)
	eventually(t, "the lock is taken", func() bool {
		known := ended(lost)
		got, err := other.TryLock(t.Context(), "p/l", []byte("second"))
		must(t, err)
		if got && !known {
			t.Error("taken before who had it could know")
		}
		return got
	})
	mend()
	if ended(other) {
		t.Error("the other session has ended too")
	}
}
