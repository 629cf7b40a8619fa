package later

import (
	"slices"
	"testing"
	"testing/synctest"
)

func TestQueue(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var q Queue
		var done []int
		held := make(chan struct{})
		q.Do(func() { <-held })
		synctest.Wait() // it is at it
		taken := 0
		for i := range 2 * Most {
			if q.Offer(func() { done = append(done, i) }) {
				taken++
			}
		}
		q.Do(func() { done = append(done, -1) })
		close(held)
		synctest.Wait()
		if taken != Most || len(done) != Most+1 || done[Most] != -1 || !slices.IsSorted(done[:Most]) {
			t.Errorf("%d were taken, %d done, the last %d", taken, len(done), done[len(done)-1])
		}
		q.Do(func() { done = nil })
		synctest.Wait()
		if done != nil {
			t.Error("it does not begin anew")
		}
	})
}
