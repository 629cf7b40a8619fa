package canary

import (
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/grpc/codes"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// sightings are what keys have seen: which version at which step, as a sidecar knew it.
type sightings struct {
	mu  sync.Mutex
	all map[sighting][]string // versions, those that are like the one before left out
}

type sighting struct {
	key, by string // by "" is: by any sidecar
	run     uint64
	step    uint32
}

func (s *sightings) note(_ time.Time, by *sidecar, key, version string, _ codes.Code) {
	state, _ := by.holds()
	step := state.GetStep()
	if state.GetPhase() == promoted {
		step = afterSteps
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, id := range []string{by.id, ""} {
		at := sighting{key, id, state.GetRun(), step}
		if list := s.all[at]; len(list) == 0 || list[len(list)-1] != version {
			s.all[at] = append(list, version)
		}
	}
}

func (w *world) watch() *sightings {
	s := &sightings{all: map[sighting][]string{}}
	for _, one := range w.sidecars {
		one.on = s.note
	}
	return s
}

func sticky(c *configv1.Canary) *configv1.Canary {
	c.Sticky = &configv1.HashKey{From: &configv1.HashKey_Metadata{Metadata: "x-user"}}
	return c
}

const stickyKeys = 400

// afterSteps is where sightings of a canary that was promoted are.
const afterSteps = 1000

// A key sees one version in a step, on whatever sidecar, and stays with the canary from
// step to step.
func TestStickyCanary(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		seen := w.watch()
		w.elect(nil)
		w.start(sticky(canary(stepOf(1000, 8*time.Second), stepOf(5000, 8*time.Second), stepOf(10000, 8*time.Second))))
		w.load(100, stickyKeys, 27*time.Second)
		if !w.stateIs(promoted, 3)() {
			t.Fatalf("it stands at %v", w.state("greeter-v2"))
		}
		on := map[uint32]int{}
		for i := range stickyKeys {
			had := false
			for step := uint32(1); step <= 3; step++ {
				versions := seen.all[sighting{fmt.Sprintf("user-%d", i), "", 1, step}]
				if len(versions) > 1 || had && len(versions) == 1 && versions[0] != "v2" {
					t.Errorf("user %d saw %v in step %d", i, versions, step)
				}
				if len(versions) > 0 && versions[0] == "v2" {
					had = true
					on[step]++
				}
			}
		}
		if on[1] < 20 || on[1] > 70 || on[2] < 150 || on[2] > 250 || on[3] < 390 {
			t.Errorf("of %d keys the canary had %v by steps", stickyKeys, on)
		}
	})
}

// Whatever is found and by whom, no key sees the canary, then the stable version, then the
// canary on one sidecar in one step; and after a roll-back none sees the canary.
func TestStickyRollBack(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 3)
		defer w.end()
		seen := w.watch()
		w.elect(nil)
		w.start(sticky(canary(stepOf(1000, 8*time.Second), stepOf(5000, time.Minute))))
		w.load(200, stickyKeys, 12*time.Second)
		b := failingShare(0.2)
		w.behave.Store(&b)
		w.load(200, stickyKeys, 10*time.Second)
		if !w.stateIs(rolledBack, 2)() {
			t.Fatalf("it stands at %v", w.state("greeter-v2"))
		}
		saw := 0
		for at, versions := range seen.all {
			if at.by != "" && (len(versions) > 2 || len(versions) == 2 && versions[0] != "v2") {
				t.Errorf("%s saw %v in step %d through %s", at.key, versions, at.step, at.by)
			}
			if len(versions) == 2 {
				saw++
			}
		}
		if saw == 0 {
			t.Error("no key saw the roll-back")
		}
		_, v2, _ := w.counts()
		w.load(200, stickyKeys, 5*time.Second)
		if _, now, _ := w.counts(); now != v2 {
			t.Errorf("after the roll-back the canary got %d RPCs", now-v2)
		}
	})
}

// A few users for whom everything fails, on either version, do not make a canary worse;
// if they were counted by their RPCs, they would.
func TestKeysThatAlwaysFail(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 2)
		defer w.end()
		unlucky := ""
		b := behaviour(func(_ *rand.Rand, _, key string) (codes.Code, time.Duration) {
			if key == unlucky && key != "" {
				return codes.Internal, time.Millisecond
			}
			return codes.OK, time.Millisecond
		})
		w.behave.Store(&b)
		w.elect(nil)
		c := sticky(canary(stepOf(2000, time.Hour)))
		c.Guards.Latency = nil
		w.start(c)
		w.load(300, stickyKeys, 3*time.Second) // the canary has keys enough
		for i := 0; unlucky == ""; i++ {
			if key := fmt.Sprintf("unlucky-%d", i); w.sidecars[0].send(key) == "v2" {
				unlucky = key
			}
		}
		for range 200 {
			for _, s := range w.sidecars {
				s.send(unlucky)
			}
			time.Sleep(5 * time.Millisecond)
		}
		time.Sleep(time.Second)
		if !w.stateIs(running, 1)() {
			t.Errorf("it stands at %v", w.state("greeter-v2"))
		}
	})
}
