package upstream

import (
	"errors"
	"testing"
	"time"
)

// An instance whose sidecar cannot reach its app is left alone for a while, and
// longer each time, but is there where no other is.
func TestInstancesWhoseAppIsGone(t *testing.T) {
	simulated(t, func(t *testing.T) {
		r := newRig(t, Options{BackoffBase: time.Second, BackoffMax: 2 * time.Second}, "a:1", "b:1")
		a, b := r.instance("a:1"), r.instance("b:1")
		gone := errors.New("its app is gone")
		picks := func() (got map[*Instance]int) {
			got = map[*Instance]int{}
			for range 10 {
				in, ok := r.cluster.Pick(nil)
				if !ok {
					in, ok = r.cluster.PickRefusing(nil)
				}
				if !ok {
					t.Fatal("nothing is picked")
				}
				got[in]++
			}
			return got
		}

		a.Refused(gone)
		if got := picks(); got[a] != 0 {
			t.Errorf("%d of 10 picks went to the instance whose app is gone", got[a])
		}
		if err := a.LastError(); !errors.Is(err, gone) {
			t.Errorf("it is unusable for %v, want %v", err, gone)
		}
		b.Refused(gone)
		if got := picks(); got[a] != 5 || got[b] != 5 {
			t.Errorf("with no other left, %d and %d of 10 picks went to the two", got[a], got[b])
		}
		time.Sleep(time.Second + time.Millisecond)
		if !a.Usable() || !b.Usable() {
			t.Error("they are not tried again after the back-off")
		}
		a.Refused(gone)
		time.Sleep(1500 * time.Millisecond)
		if a.Usable() {
			t.Error("the second back-off is no longer than the first")
		}
		a.Accepted()
		if !a.Usable() || a.LastError() != nil {
			t.Error("it is left alone although it answers")
		}
		a.Refused(gone)
		time.Sleep(1100 * time.Millisecond)
		if !a.Usable() {
			t.Error("an answer did not end the growth of the back-off")
		}
	})
}
