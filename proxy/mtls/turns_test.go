package mtls

import (
	"testing"
	"testing/synctest"
	"time"
)

// Others have their turns when turns have followed one another for long, and not where
// there is one now and then.
func TestTurnsMakeWay(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		run := func(n int, each, between time.Duration) (long int) {
			for range n {
				if turns.take() {
					long++
				}
				time.Sleep(each)
				turns.giveBack()
				time.Sleep(between)
			}
			return long
		}
		if long := run(100, 300*time.Microsecond, 2*time.Millisecond); long != 0 {
			t.Errorf("%d of 100 turns with pauses made way", long)
		}
		if long := run(100, 300*time.Microsecond, time.Microsecond); long < 20 || long > 30 {
			t.Errorf("%d of 100 turns in 30 ms made way, want one in each millisecond", long)
		}
	})
}

// There are no more turns at a time than processors.
func TestTurnsAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		turns := newTurns()
		for range cap(turns.taken) {
			turns.take()
		}
		got := false
		go func() {
			turns.take()
			got = true
		}()
		synctest.Wait()
		if got {
			t.Error("there is one more turn than processors")
		}
		turns.giveBack()
		synctest.Wait()
		if !got {
			t.Error("a turn that was given back is not taken")
		}
	})
}
