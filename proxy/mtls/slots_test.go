package mtls

import (
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

func TestSlots(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(2, time.Second)
		later := time.Now().Add(10 * time.Second)
		var told [3]atomic.Int32
		tell := func(i int) func() { return func() { told[i].Add(1) } }
		first, err := s.take(later, tell(0))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(500 * time.Millisecond)
		second, err := s.take(later, tell(1))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Second)
		if told[0].Load()+told[1].Load() > 0 {
			t.Error("slots are lost though nobody waits")
		}
		began := time.Now()
		var third *slot
		go func() { third, err = s.take(began.Add(10*time.Second), tell(2)) }()
		synctest.Wait()
		if told[0].Load() != 1 || told[1].Load() != 0 {
			t.Errorf("the first was told %d times, the second %d times, for one who waits", told[0].Load(), told[1].Load())
		}
		s.giveBack(first)
		synctest.Wait()
		if err != nil || third == nil {
			t.Fatalf("who waited has none: %v", err)
		}
		if _, err := s.take(time.Now().Add(100*time.Millisecond), nil); err != errNoSlot || told[1].Load() != 1 || told[2].Load() != 0 {
			t.Errorf("%v; the second was told %d times, the third %d times", err, told[1].Load(), told[2].Load())
		}
		if time.Since(began) != 100*time.Millisecond {
			t.Errorf("it took %v", time.Since(began))
		}
		s.giveBack(second)
		s.giveBack(third)
		if s.held.Len() != 0 || s.waiting.Len() != 0 {
			t.Errorf("%d are held, %d wait", s.held.Len(), s.waiting.Len())
		}
	})
}

// A slot that is young is lost when it is old enough, and somebody still waits.
func TestYoungSlotsAreLostLater(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := newSlots(1, time.Second)
		began := time.Now()
		gone := make(chan time.Duration, 1)
		first, _ := s.take(began.Add(time.Minute), func() { gone <- time.Since(began) })
		go func() {
			if after := <-gone; after != time.Second {
				t.Errorf("it was lost after %v", after)
			}
			s.giveBack(first)
		}()
		second, err := s.take(began.Add(time.Minute), func() {})
		if err != nil || time.Since(began) != time.Second {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		s.giveBack(second)
	})
}

// There are never more than so many, and all are served or told in time.
func TestSlotsAreBounded(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 5).Draw(rt, "most")
		starts := rapid.SliceOfN(rapid.IntRange(0, 2000), 1, 40).Draw(rt, "starts")
		lasts := rapid.SliceOfN(rapid.IntRange(0, 3000), len(starts), len(starts)).Draw(rt, "lasts")
		synctest.Test(t, func(t *testing.T) {
			s := newSlots(most, 200*time.Millisecond)
			var held, refused, served atomic.Int32
			var group sync.WaitGroup
			for i := range starts {
				group.Go(func() {
					time.Sleep(time.Duration(starts[i]) * time.Millisecond)
					lost := make(chan struct{})
					slot, err := s.take(time.Now().Add(time.Second), func() { close(lost) })
					if err != nil {
						refused.Add(1)
						return
					}
					if n := held.Add(1); int(n) > most {
						t.Errorf("%d of %d are held", n, most)
					}
					select {
					case <-lost:
					case <-time.After(time.Duration(lasts[i]) * time.Millisecond):
					}
					held.Add(-1)
					s.giveBack(slot)
					served.Add(1)
				})
			}
			group.Wait()
			if int(refused.Load()+served.Load()) != len(starts) || s.held.Len() != 0 || s.waiting.Len() != 0 {
				t.Errorf("%d served, %d refused of %d; %d held, %d wait", served.Load(), refused.Load(), len(starts), s.held.Len(), s.waiting.Len())
			}
		})
	})
}

// Everybody who waits gets a slot as soon as those before have had theirs for the grace
// time, also where nobody comes any more who would press for it.
func TestSlotsGoRound(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const most, grace = 2, time.Second
		s := newSlots(most, grace)
		began := time.Now()
		got := make(chan time.Duration, 8)
		for range cap(got) {
			go func() {
				lost := make(chan struct{})
				slot, err := s.take(time.Now().Add(time.Hour), func() { close(lost) })
				if err != nil {
					t.Error(err)
					return
				}
				got <- time.Since(began)
				select { // it is never done by itself
				case <-lost:
				case <-time.After(time.Minute):
				}
				s.giveBack(slot)
			}()
			synctest.Wait()
		}
		for i := range cap(got) {
			if after, want := <-got, time.Duration(i/most)*grace; after != want {
				t.Errorf("slot %d came after %v, want %v", i, after, want)
			}
		}
		time.Sleep(2 * time.Minute) // the last ones give theirs back
	})
}
