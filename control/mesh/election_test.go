package mesh

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
)

// One of several is elected, all others report to it, and it tells all of them what it
// decides.
func TestOneIsElected(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(5)
		l := r.elect()
		if got := l.ids(); !slices.Equal(got, []string{"s0", "s1", "s2", "s3", "s4"}) {
			t.Errorf("reports come from %v", got)
		}
		for _, s := range all {
			s.count(10, false)
		}
		time.Sleep(reportEvery + urgentEvery)
		synctest.Wait()
		if rpcs, n := l.sum(); rpcs != 50 || n != 5 {
			t.Errorf("%d RPCs of %d sidecars are known, want 50 of 5", rpcs, n)
		}
		l.say("new", 1)
		synctest.Wait()
		for _, s := range all {
			if s.number("new") != 1 {
				t.Errorf("%s does not know of what was decided", s.id)
			}
		}
		if _, open := r.attempts(); open != 1 {
			t.Errorf("%d sessions are open, want that of who is elected alone", open)
		}
		for _, s := range all {
			st := s.Status()
			if len(st) != 1 || st[0].Problem != "" || st[0].Since.IsZero() || st[0].Leader.GetId() != l.by.id || st[0].Leading != (s == l.by) {
				t.Errorf("%s says of itself %+v", s.id, st)
			}
			if st[0].Leading && st[0].Reporters != 4 {
				t.Errorf("%d report, want 4", st[0].Reporters)
			}
		}
	})
}

// Who ends in order has given the lock back at once: another decides well within a
// second, and knows all that was counted.
func TestTakeoverInOrder(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(5)
		for _, s := range all {
			s.count(10, false)
			s.view.SetFault(memkv.Fault{Slow: 10 * time.Millisecond})
		}
		first := r.elect()
		began := time.Now()
		first.by.Close(t.Context())
		for r.leader() == nil && time.Since(began) < time.Minute {
			time.Sleep(10 * time.Millisecond)
		}
		if took := time.Since(began); took > 700*time.Millisecond {
			t.Errorf("it took %v until another was elected", took)
		}
		l := r.elect()
		if rpcs, n := l.sum(); rpcs != 40 || n != 4 {
			t.Errorf("%d RPCs of %d sidecars are known, want 40 of 4", rpcs, n)
		}
		if p := all[0].Problems(); len(p) > 0 && all[0] != first.by {
			t.Errorf("there is still something wrong: %v", p)
		}
	})
}

// After a crash another is elected once the session is over.
func TestTakeoverAfterACrash(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(5)
		first := r.elect()
		began := time.Now()
		first.by.kill()
		time.Sleep(5 * time.Second)
		for _, s := range all {
			if p := s.Problems(); s != first.by && (len(p) != 1 || !strings.HasPrefix(p[0], "control: service greeter: sidecar "+first.by.id+" at "+first.by.address+" is elected, and cannot be reported to: ") || strings.Contains(p[0], "\n")) {
				t.Errorf("%s says of what is wrong: %q", s.id, p)
			}
		}
		for (r.leader() == nil || r.leader() == first) && time.Since(began) < 5*time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < defaultTTL || took > 2*defaultTTL+lockDelay+2*window {
			t.Errorf("it took %v until another was elected", took)
		}
		r.elect()
		for _, s := range all {
			if p := s.Problems(); s != first.by && len(p) > 0 {
				t.Errorf("%s still says %q", s.id, p)
			}
		}
	})
}

// Who has lost the lock and has not noticed yet cannot write any more, and so cannot begin
// what another has begun beside it.
func TestDeposedWritesNothing(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		r.several(1)
		first := r.elect()
		if err := first.store.Commit(t.Context(), kv.Op{Key: "a", Value: []byte("1")}); err != nil {
			t.Fatal(err)
		}
		other := r.memory.Store()
		session, err := other.Session(t.Context(), kv.SessionOptions{})
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = session.Close(context.Background()) }()
		key := control.LeaderKey(greeter)
		if err := other.Commit(t.Context(), kv.Op{Key: key, Any: true}); err != nil {
			t.Fatal(err)
		}
		if got, err := session.TryLock(t.Context(), key, []byte("{}")); !got || err != nil {
			t.Fatal(got, err)
		}
		if err := kv.Fence(other, key, session).Commit(t.Context(), kv.Op{Key: "b", Value: []byte("1")}); err != nil {
			t.Error(err)
		}
		if err := first.store.Commit(t.Context(), kv.Op{Key: "c", Value: []byte("1")}); !errors.Is(err, kv.ErrNotHeld) {
			t.Errorf("a commit of who was deposed: %v", err)
		}
		if _, err := other.Get(t.Context(), "c"); !errors.Is(err, kv.ErrNotFound) {
			t.Errorf("it was written: %v", err)
		}
		synctest.Wait()
		if !first.isOver() {
			t.Error("it goes on")
		}
	})
}

// A session that is lost ends the leading at once, and the same sidecar may be elected
// again.
func TestLostSession(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		only := r.several(1)[0]
		first := r.elect()
		only.view.SetFault(memkv.Fault{Err: context.DeadlineExceeded})
		time.Sleep(2*defaultTTL + time.Second)
		synctest.Wait()
		if r.leader() != nil || !first.isOver() {
			t.Error("it still decides")
		}
		if p := only.Problems(); len(p) != 1 {
			t.Errorf("it says of what is wrong: %q", p)
		}
		only.view.SetFault(memkv.Fault{})
		time.Sleep(maxWindow + 5*time.Second)
		if again := r.elect(); again == first {
			t.Error("it is as if nothing had been")
		}
		if p := only.Problems(); len(p) != 0 {
			t.Errorf("it still says %q", p)
		}
	})
}

// Somebody who removes the lock by hand has another election be held.
func TestRemovedLock(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		r.several(3)
		first := r.elect()
		remove(t, r)
		time.Sleep(maxWindow)
		if l := r.elect(); l == first || !first.isOver() {
			t.Error("it still decides")
		}
	})
}

// A service that is not active any more is let go, after a while, and the session too.
func TestNothingRunsAnyMore(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		all := r.several(3)
		l := r.elect()
		for _, s := range all {
			s.Set(greeter, false)
		}
		time.Sleep(linger / 2)
		synctest.Wait()
		if r.leader() != l {
			t.Error("it was given up at once")
		}
		all[0].Set(greeter, true)
		time.Sleep(linger)
		synctest.Wait()
		if now := r.elect(); now.by != all[0] {
			t.Errorf("%s is elected, want the one whose service is active", now.by)
		}
		all[0].Set(greeter, false)
		time.Sleep(linger + time.Second)
		synctest.Wait()
		if _, open := r.attempts(); open != 0 || r.leader() != nil {
			t.Errorf("%d sessions are open, and %v decides", open, r.leader())
		}
		for _, s := range all {
			if len(s.Status()) != 0 {
				t.Errorf("%s looks after %v", s.id, s.Status())
			}
		}
	})
}

// Who cannot be reached by others is elected only where nobody else is there, and goes
// when somebody is.
func TestReserve(t *testing.T) {
	simulated(t, func(t *testing.T, r *rig) {
		client := r.add("client", func(o *Options) { o.Candidacy, o.Address = Reserve, "" })
		never := r.add("never", func(o *Options) { o.Candidacy = Never })
		never.Set(greeter, true)
		time.Sleep(time.Minute)
		if r.leader() != nil || len(never.Problems()) != 1 {
			t.Errorf("%v decides, and it says of what is wrong: %q", r.leader(), never.Problems())
		}
		client.Set(greeter, true)
		began := time.Now()
		for r.leader() == nil && time.Since(began) < time.Minute {
			time.Sleep(100 * time.Millisecond)
		}
		if took := time.Since(began); took < reserveAfter || took > reserveAfter+time.Second {
			t.Errorf("it took %v", took)
		}
		time.Sleep(time.Second)
		if p := never.Problems(); len(p) != 1 || !strings.Contains(p[0], "others cannot reach it") {
			t.Errorf("of who cannot be reached it is said: %q", p)
		}
		r.add("late", nil).Set(greeter, true)
		time.Sleep(term + time.Second)
		if l := r.elect(); l.by.id != "late" {
			t.Errorf("%s decides", l.by)
		}
		if p := append(never.Problems(), client.Problems()...); len(p) != 0 {
			t.Errorf("there is still something wrong: %q", p)
		}
	})
}

func remove(t *testing.T, r *rig) {
	t.Helper()
	if err := r.memory.Store().Commit(t.Context(), kv.Op{Key: control.LeaderKey(greeter), Any: true}); err != nil {
		t.Fatal(err)
	}
}

// lock has a lock say this.
func lock(t *testing.T, r *rig, value string) {
	t.Helper()
	if err := r.memory.Store().Commit(t.Context(), kv.Op{Key: control.LeaderKey(greeter), Value: []byte(value), Any: true}); err != nil {
		t.Fatal(err)
	}
}
