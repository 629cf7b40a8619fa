package consul

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// querying takes turns until ctx ends, as a poller does. It notes how many did at
// most, and the longest wait for a turn: so late was the news.
func querying(ctx context.Context, b *budget, running *atomic.Int64, most *atomic.Int64, longest *atomic.Int64) {
	leave := b.join()
	defer leave()

	began := time.Now()
	for {
		asked := time.Now()
		turn, err := b.acquire(ctx, false)
		if err != nil {
			return
		}
		since := int64(time.Since(asked))
		if time.Since(began) < 10*time.Second {
			since = 0 // the first turns were given out while others were still to come
		}
		for seen := longest.Load(); since > seen && !longest.CompareAndSwap(seen, since); seen = longest.Load() {
		}
		now := running.Add(1)
		for seen := most.Load(); now > seen && !most.CompareAndSwap(seen, now); seen = most.Load() {
		}
		sleep(turn.ctx, turn.wait) //nolint:contextcheck // it is made of ours
		running.Add(-1)
		turn.release()
	}
}

func TestBudgetGivesEachItsTurn(t *testing.T) {
	t.Parallel()
	for _, test := range []struct {
		name           string
		slots, queries int
		round          time.Duration
	}{
		{"a slot for each", 56, 56, 0},
		{"one too many", 56, 57, freshness},
		{"as many as fit in a second", 56, 250, freshness},
		{"more", 56, 500, 2 * time.Second},
		{"few slots", 4, 1000, 4 * time.Second},
	} {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithCancel(t.Context())
				var (
					budget                 = newBudget(test.slots)
					running, most, longest atomic.Int64
					queries                sync.WaitGroup
				)
				for range test.queries {
					queries.Go(func() { querying(ctx, budget, &running, &most, &longest) })
				}
				time.Sleep(longWait)
				cancel()
				queries.Wait()

				want(t, "at once", most.Load(), min(test.slots, test.queries))
				if got := time.Duration(longest.Load()); got > test.round*11/10 {
					t.Errorf("somebody waited %v for a turn, want at most %v", got, test.round)
				}
				if left, _ := budget.load(); left != 0 || budget.used != 0 || len(budget.running) != 0 || len(budget.queue) != 0 {
					t.Errorf("left: %d queries, %d used", left, budget.used)
				}
			})
		})
	}
}

func TestBudgetEndsLongWaitsWhereOthersWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		budget := newBudget(1)
		defer budget.join()()
		first, err := budget.acquire(t.Context(), false)
		if err != nil || first.wait != longWait {
			t.Fatalf("%v, %v", first, err)
		}
		leave := budget.join()
		if first.ctx.Err() == nil {
			t.Fatal("the long wait goes on")
		}
		got := make(chan *turn)
		go func() {
			turn, _ := budget.acquire(t.Context(), false)
			got <- turn
		}()
		synctest.Wait()
		first.release()
		second := <-got
		want(t, "a turn of two", second.wait, freshness/2)

		// Who gives up waiting does not keep the slot.
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if turn, err := budget.acquire(ctx, false); err == nil {
			t.Fatalf("got %v", turn)
		}
		second.release()
		leave()
		third, err := budget.acquire(t.Context(), false)
		if err != nil || third.wait != longWait {
			t.Fatalf("%v, %v", third, err)
		}
		third.release()
	})
}

func TestBudgetShrinksAndGrowsAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		budget := newBudget(56)
		if !budget.shrink() || budget.shrink() {
			t.Fatal("want one step for what happens within a second")
		}
		_, slots := budget.load()
		want(t, "slots", slots, 42)
		for range 50 {
			time.Sleep(time.Second)
			budget.shrink()
		}
		_, slots = budget.load()
		want(t, "at the least", slots, minSlots)
		if budget.calm() {
			t.Fatal("calm at once")
		}
		for range 56 {
			time.Sleep(regrow)
			turn, err := budget.acquire(t.Context(), false)
			if err != nil {
				t.Fatal(err)
			}
			turn.release()
		}
		_, slots = budget.load()
		want(t, "in the end", slots, 56)
	})
}

// What is urgent keeps its slot while others take turns with the rest, and gets the
// next one that is free once it has had news.
func TestBudgetDoesNotLetTheUrgentWait(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const slots, others = 8, 100
		ctx, cancel := context.WithCancel(t.Context())
		var (
			budget                 = newBudget(slots)
			running, most, longest atomic.Int64
			queries                sync.WaitGroup
		)
		for range others {
			queries.Go(func() { querying(ctx, budget, &running, &most, &longest) })
		}
		time.Sleep(time.Second)
		for range 20 {
			asked := time.Now()
			turn, err := budget.acquire(ctx, true)
			if err != nil {
				t.Fatal(err)
			}
			if waited := time.Since(asked); waited > 2*freshness*slots/others {
				t.Errorf("waited %v", waited)
			}
			want(t, "wait", turn.wait, longWait)
			if !sleep(turn.ctx, 3*time.Second) {
				t.Error("had to make room")
			}
			turn.release()
		}
		// No more than half of the slots are kept so.
		var held []*turn
		kept := 0
		for range slots - 1 {
			turn, err := budget.acquire(ctx, true)
			if err != nil {
				t.Fatal(err)
			}
			if held = append(held, turn); turn.urgent {
				kept++
			}
		}
		want(t, "kept", kept, slots/2)
		for _, turn := range held {
			turn.release()
		}
		cancel()
		queries.Wait()
		if got := time.Duration(longest.Load()); got > 3*freshness {
			t.Errorf("somebody else waited %v for a turn", got)
		}
		want(t, "left", budget.used+budget.urgent+len(budget.queue), 0)
	})
}
