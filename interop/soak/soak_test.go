package soak

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime/pprof"
	"slices"
	"strings"
	"testing"
	"time"
)

const (
	// patience bounds every wait, on a busy machine too.
	patience = 90 * time.Second
	// settled is how often in a row a sidecar has to say the same of itself.
	settled = 3
)

// After a time of everything at once, sidecars are what they were after a shorter
// time of the same: no goroutine, descriptor, connection, RPC or byte is left, and
// the memory is flat. Meanwhile no RPC failed that nothing disturbed, and all
// others ended in time.
func TestSoak(t *testing.T) {
	seed := cmp.Or(*seed, rand.Uint64())
	folder := outFolder(t)
	t.Logf("seed %d; %s", seed, folder)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("play it again: %s", replay(seed))
		}
	})

	r := startRig(t, folder, seed)
	rec := &record{}
	defer func() {
		r.keepProfiles(t)
		rec.write(t, folder)
		t.Log(r.tally.String())
	}()

	warmUp := min(*duration/3, 2*time.Minute)
	r.churn(t, rec, "warm-up", warmUp)
	before := r.quiet(t, rec, nil)
	begin := time.Since(r.began)
	r.churn(t, rec, "churn", *duration)
	end := time.Since(r.began)
	now := r.quiet(t, rec, before)

	for _, o := range r.observed() {
		t.Logf("%s: at rest after the warm-up %v, at the end %v", o.name, before[o], now[o])
		if err := left(before[o], now[o]); err != nil {
			t.Errorf("%s does not come to rest: %v", o.name, err)
		}
		if *detector {
			continue
		}
		resident, heap := rec.series(o.name, begin, end)
		for _, err := range []error{
			flat("resident memory of "+o.name, resident, flatTolerance(*duration)),
			flat("heap in use of "+o.name, heap, flatTolerance(*duration)),
		} {
			if err != nil {
				t.Error(err)
			}
		}
		if err := grown(before[o], now[o]); err != nil {
			t.Errorf("%s: %v", o.name, err)
		}
	}
	for _, wrong := range r.ledger.Wrong() {
		t.Error(wrong)
	}
	if running := r.ledger.Running(); running != 0 {
		t.Errorf("apps still have %d RPCs under way", running)
	}
	if err := r.tally.tooManyStarved(); err != nil {
		t.Error(err)
	}
	if r.tally.undisturbed() == 0 {
		t.Error("no RPC was made that nothing disturbed: nothing is proven")
	}
}

// outFolder is where the run's files go. One that nobody asked for is kept only
// if the run fails.
func outFolder(t *testing.T) string {
	t.Helper()

	if *folder != "" {
		path, err := filepath.Abs(*folder)
		if err == nil {
			err = os.MkdirAll(path, 0o750)
		}
		if err != nil {
			t.Fatal(err)
		}

		return path
	}
	path, err := os.MkdirTemp("", "pillion-soak-") //nolint:usetesting // it is kept after a failure
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if !t.Failed() {
			_ = os.RemoveAll(path)
		}
	})

	return path
}

func replay(seed uint64) string {
	flags := []string{fmt.Sprintf("-seed=%d", seed)}
	flag.Visit(func(f *flag.Flag) {
		if f.Name == "for" || f.Name == "detector" || f.Name == "only" {
			flags = append(flags, fmt.Sprintf("-%s=%v", f.Name, f.Value))
		}
	})

	return fmt.Sprintf("make soak SOAKFLAGS='%s'", strings.Join(flags, " "))
}

// churn plays all parts for a while and measures every second. It ends early
// where the test has failed.
func (r *rig) churn(t *testing.T, rec *record, phase string, while time.Duration) {
	t.Helper()

	r.eventf("%s begins", phase)
	// No deadline: RPCs would tell sidecars of it.
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	defer time.AfterFunc(while, cancel).Stop()
	done := make(chan struct{})
	go func() {
		defer close(done)
		r.play(ctx, phase)
	}()
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	over := ctx.Done()
	var overdue <-chan time.Time
	for {
		select {
		case <-tick.C:
			r.measure(t, rec)
			if t.Failed() {
				cancel()
			}
		case <-over:
			over = nil
			overdue = time.After(patience)
		case <-overdue:
			_ = pprof.Lookup("goroutine").WriteTo(os.Stderr, 2)
			t.Fatalf("the %s does not end: see events.log for what does", phase)
		case <-done:
			r.calm()
			if t.Failed() {
				t.FailNow()
			}

			return
		}
	}
}

// measure takes a sample of each sidecar.
func (r *rig) measure(t *testing.T, rec *record) {
	t.Helper()

	for _, o := range r.observed() {
		select {
		case <-o.Done():
			t.Fatalf("%s has ended:\n%s", o.name, o.Output())
		default:
		}
		rec.samples = append(rec.samples, o.sample(t, r.began))
	}
}

// quiet waits until nothing is going on and nothing is left that was not there
// before, and returns what is there. Where there is no before, what is there has
// to stay the same for a while instead. What is left when patience ends is judged
// by whoever called.
func (r *rig) quiet(t *testing.T, rec *record, before map[*observed]rest) map[*observed]rest {
	t.Helper()

	r.eventf("quiet")
	now := map[*observed]rest{}
	same := map[*observed]int{}
	restless := r.observed()
	for deadline := time.Now().Add(patience); len(restless) > 0 && time.Now().Before(deadline); {
		time.Sleep(300 * time.Millisecond) // it can only be asked
		r.measure(t, rec)
		restless = slices.DeleteFunc(restless, func(o *observed) bool {
			at := o.rest(t)
			if at.idle() == nil {
				at.Live = o.live(t)
			}
			wanted, known := before[o]
			switch {
			case at.idle() != nil:
				same[o] = 0
			case known && left(wanted, at) == nil && grown(wanted, at) == nil:
				same[o] = settled
			case !known && at.like(now[o]):
				same[o]++
			default:
				same[o] = 0
			}
			now[o] = at

			return same[o] == settled
		})
	}
	for _, o := range restless {
		if err := now[o].idle(); err != nil {
			t.Fatalf("%s does not come to rest: %v", o.name, err)
		}
	}
	r.eventf("quiet enough")

	return now
}

// keepProfiles keeps what a sidecar holds, if the test has failed.
func (r *rig) keepProfiles(t *testing.T) {
	t.Helper()

	if !t.Failed() {
		return
	}
	for _, o := range r.observed() {
		select {
		case <-o.Done():
			continue
		default:
		}
		for kind, page := range map[string]string{
			"heap": "/debug/pprof/heap?gc=1", "goroutines": "/debug/pprof/goroutine?debug=2",
			"metrics": "/metrics", "endpoints": "/endpoints",
		} {
			path := filepath.Join(r.folder, strings.ReplaceAll(o.name, " ", "-")+"."+kind)
			if err := os.WriteFile(path, []byte(o.Get(t, page)), 0o600); err != nil {
				t.Error(err)
			}
		}
	}
}
