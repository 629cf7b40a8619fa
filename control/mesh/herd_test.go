package mesh

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/control/kv/memkv"
)

// However many candidates there are, few try at once, and one does soon. The store takes
// 25 ms for each answer.
func TestNoHerd(t *testing.T) {
	for _, n := range []int{1, 10, 50, 1000} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			simulated(t, func(t *testing.T, r *rig) {
				random := rand.New(rand.NewPCG(7, uint64(n)))
				var mu sync.Mutex
				draw := func() float64 {
					mu.Lock()
					defer mu.Unlock()
					return random.Float64()
				}
				all := make([]*side, n)
				for i := range all {
					all[i] = r.add(fmt.Sprintf("s%d", i), func(o *Options) {
						if o.Random = draw; n == 1000 {
							o.Address = "" // so many connections are more than the race detector bears
						}
					})
					all[i].view.SetFault(memkv.Fault{Slow: 25 * time.Millisecond})
				}
				for _, s := range all {
					s.Set(greeter, true)
				}
				l := r.elect()
				if tried, open := r.attempts(); tried > 20 || open != 1 {
					t.Errorf("%d sidecars have tried, and %d hold a session", tried, open)
				}
				if n == 1 {
					return
				}
				// In order, and then by a crash.
				before, _ := r.attempts()
				l.by.Close(t.Context())
				l = r.elect()
				if tried, _ := r.attempts(); tried-before > 20 {
					t.Errorf("%d sidecars have tried to take over", tried-before)
				}
				before, _ = r.attempts()
				l.by.kill()
				time.Sleep(2*defaultTTL + 5*time.Second)
				if r.elect() == l {
					t.Error("nobody has taken over")
				}
				if tried, _ := r.attempts(); tried-before > 20 {
					t.Errorf("after a crash %d sidecars have tried to take over", tried-before)
				}
			})
		})
	}
}

// The waits stay within their window, and nearly all of a crowd wait for most of it.
func TestWaits(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		x := rapid.Float64Range(0, math.Nextafter(1, 0)).Draw(t, "x")
		failures := rapid.IntRange(0, 1000).Draw(t, "failures")
		most := min(window<<min(failures, 10), maxWindow)
		if w := waitToTry(x, failures); w < 0 || w > most {
			t.Errorf("%v, want at most %v", w, most)
		}
		if d := backOff(x, failures); d < 0 || d > 7500*time.Millisecond || failures > 0 && d < 50*time.Millisecond {
			t.Errorf("back-off %v after %d failures", d, failures)
		}
	})
	random := rand.New(rand.NewPCG(1, 2))
	waits := make([]time.Duration, crowd)
	for i := range waits {
		waits[i] = waitToTry(random.Float64(), 0)
	}
	slices.Sort(waits)
	soon, _ := slices.BinarySearch(waits, waits[0]+window/10)
	if soon > 20 {
		t.Errorf("%d of %d try within a tenth of the window after the first", soon, crowd)
	}
	if waits[0] > window/5 {
		t.Errorf("the first waits for %v", waits[0])
	}
}

// What befalls a mesh.
type event int

const (
	closes event = iota
	dies
	loses
	cutOff
	heals
	comes
	passes
	events
)

// Whatever befalls the sidecars and their ways to the store: nobody decides beyond the
// loss of its session, so that never do two; and once it is quiet one decides.
func TestNeverTwo(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		var mu sync.Mutex
		var wrong []string
		synctest.Test(t, func(t *testing.T) {
			r := newRig(t)
			r.errorf = func(format string, args ...any) {
				mu.Lock()
				defer mu.Unlock()
				wrong = append(wrong, fmt.Sprintf(format, args...))
			}
			healthy := true // all reach the store
			alive := r.several(rapid.IntRange(2, 5).Draw(rt, "sidecars"))
			next := len(alive)
			watch := make(chan struct{})
			go func() { // sees every moment
				for {
					select {
					case <-watch:
						return
					case <-time.After(173 * time.Millisecond):
						r.leader()
					}
				}
			}()
			for range rapid.IntRange(1, 12).Draw(rt, "events") {
				var s *side
				if len(alive) > 0 {
					s = alive[rapid.IntRange(0, len(alive)-1).Draw(rt, "who")]
				}
				without := func() { alive = slices.DeleteFunc(alive, func(o *side) bool { return o == s }) }
				switch e := event(rapid.IntRange(0, int(events)-1).Draw(rt, "event")); {
				case e == comes:
					s = r.add(fmt.Sprintf("s%d", next), nil)
					s.Set(greeter, true)
					alive = append(alive, s)
					next++
				case e == passes || s == nil:
					time.Sleep(time.Duration(rapid.IntRange(1, 40_000).Draw(rt, "ms")) * time.Millisecond)
				case e == closes:
					s.Close(t.Context())
					without()
				case e == dies:
					s.kill()
					without()
				case e == loses && healthy: // who is cut off could not know of it
					remove(t, r)
				case e == cutOff:
					healthy = false
					s.view.SetFault(memkv.Fault{Err: errTaken, Unheard: rapid.Bool().Draw(rt, "unheard")})
				case e == heals:
					healthy = true
					for _, s := range alive {
						s.view.SetFault(memkv.Fault{})
					}
				}
				synctest.Wait()
				r.leader()
			}
			for _, s := range alive {
				s.view.SetFault(memkv.Fault{})
			}
			time.Sleep(2*defaultTTL + 2*maxWindow + 5*time.Second)
			synctest.Wait()
			l := r.leader()
			if l == nil && len(alive) > 0 {
				r.errorf("it is quiet, and nobody decides")
			}
			if l != nil && !slices.Contains(alive, l.by) {
				r.errorf("%s decides, which is dead", l.by)
			}
			close(watch)
			for _, s := range r.sides {
				s.Close(t.Context())
			}
		})
		if len(wrong) > 0 {
			rt.Fatalf("%q", slices.Compact(wrong))
		}
	})
}
