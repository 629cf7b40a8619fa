package kvtest

import (
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/kv"
)

var watchCases = []Case{
	{"a watch sees what there is, and what changes", watchSees},
	{"a watch never goes back, and sees commits whole", watchNeverGoesBack},
	{"a watch survives that the store is away", watchSurvives},
	{"a watch of what cannot be", watchOfNothing},
}

func watchSees(t *testing.T, r Rig) {
	empty := watch(t, r.B, "p/")
	first := empty.await(t, "that there is nothing", func(s kv.State) bool { return s.Known && s.Err == nil })
	if len(first.Entries) > 0 {
		t.Fatalf("handed over first: %+v", first)
	}
	set(t, r.A, "p/a", "1")
	set(t, r.A, "pa", "1")
	set(t, r.A, "q/a", "1")
	state := empty.await(t, "the first key", holds("p/a", "1"))
	if len(state.Entries) != 1 || state.Entries[0].Version != version(t, r.A, "p/a") {
		t.Fatalf("handed over: %+v", state)
	}
	late := watch(t, r.B, "p/")
	late.await(t, "what was there before", holds("p/a", "1"))
	set(t, r.B, "p/a", "2") // by its own process
	empty.await(t, "the change", holds("p/a", "2"))
	late.await(t, "the change", holds("p/a", "2"))
	late.stop()
	must(t, r.A.Commit(t.Context(), kv.Op{Key: "p/a", Any: true}))
	empty.await(t, "the deletion", holds("p/a", "-"))
	set(t, r.A, "p/a", "3")
	empty.await(t, "that it is back", holds("p/a", "3"))
	for _, state := range late.all() {
		if value(state, "p/a") == "3" {
			t.Error("handed over after the watch had ended")
		}
	}

	// Changes elsewhere are no news.
	before := len(empty.all())
	for n := range 5 {
		set(t, r.A, "q/a", strconv.Itoa(n))
	}
	set(t, r.A, "p/end", "")
	empty.await(t, "the end", holds("p/end", ""))
	if got := len(empty.all()) - before; got != 1 {
		t.Errorf("%d states handed over for one change", got)
	}
}

func watchNeverGoesBack(t *testing.T, r Rig) {
	const rounds = 25
	watches := []*watching{watch(t, r.A, "p/"), watch(t, r.B, "p/")}
	var writers sync.WaitGroup
	for who, s := range map[string]kv.Store{"a": r.A, "b": r.B} {
		writers.Go(func() {
			for n := range rounds {
				text := []byte(strconv.Itoa(n + 1))
				if err := s.Commit(t.Context(), kv.Op{Key: "p/x" + who, Value: text, Any: true}, kv.Op{Key: "p/y" + who, Value: text, Any: true}); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	for _, w := range watches {
		w.await(t, "the last state", func(s kv.State) bool {
			return holds("p/xa", strconv.Itoa(rounds))(s) && holds("p/yb", strconv.Itoa(rounds))(s)
		})
		last := map[string]int{}
		for _, state := range w.all() {
			for _, who := range []string{"a", "b"} {
				x, y := value(state, "p/x"+who), value(state, "p/y"+who)
				if x != y {
					t.Errorf("half a commit: %s and %s", x, y)
				}
				n, _ := strconv.Atoi(x)
				if n < last[who] {
					t.Errorf("went back from %d to %d", last[who], n)
				}
				last[who] = n
			}
		}
	}
}

func watchSurvives(t *testing.T, r Rig) {
	if r.Break == nil {
		t.Skip("the store cannot be cut off here")
	}
	set(t, r.A, "p/a", "1")
	w := watch(t, r.A, "p/")
	w.await(t, "the key", holds("p/a", "1"))
	mend := r.Break(t)
	w.await(t, "that it may be out of date", func(s kv.State) bool { return s.Known && s.Err != nil && value(s, "p/a") == "1" })
	fresh := watch(t, r.A, "p/")
	fresh.await(t, "that the store is away", func(s kv.State) bool {
		// The process may know already, from the other watch.
		return s.Err != nil && (!s.Known && s.Entries == nil || s.Known && value(s, "p/a") == "1")
	})
	if err := r.A.Commit(t.Context(), kv.Op{Key: "p/a", Value: []byte("?"), Any: true}); err == nil {
		t.Error("a commit went well")
	}
	mend()
	w.await(t, "that all is well", holds("p/a", "1"))
	set(t, r.B, "p/a", "2")
	w.await(t, "the change", holds("p/a", "2"))
	fresh.await(t, "the change", holds("p/a", "2"))
	for _, state := range w.all() {
		if value(state, "p/a") == "-" {
			t.Errorf("what was known went away: %+v", state)
		}
	}
}

func watchOfNothing(t *testing.T, r Rig) {
	w := watch(t, r.A, "p/\x00")
	w.await(t, "the error", func(s kv.State) bool { return s.Err != nil && !s.Known })
	time.Sleep(10 * time.Millisecond)
	if got := len(w.all()); got != 1 {
		t.Errorf("handed over %d times", got)
	}
	w.stop() // returns
}
