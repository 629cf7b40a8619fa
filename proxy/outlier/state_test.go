package outlier

import (
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// Whatever happens, in whatever order: never are all ejected, never more than may be
// at the time, each returns when its time is over, and events and state agree.
func TestAnyHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		r := &rig{TB: quiet{}, now: epoch}
		r.d = New(func() uint64 { return rapid.Uint64().Draw(t, "random") }, func(e Event) { r.events = append(r.events, e) })
		r.cfg = drawConfig(t)
		for range rapid.IntRange(1, 6).Draw(t, "instances") {
			r.add()
		}
		r.configure()
		told := map[*Host]bool{} // who is ejected, going by the events
		check := func() {
			for _, e := range r.events {
				switch e.Kind {
				case Ejected:
					if told[e.Host] || e.Times < 1 || e.Why == "" || e.For <= 0 || e.For > max(r.cfg.BaseTime, r.cfg.MaxTime) {
						t.Fatalf("the event is %+v; ejected before: %v", e, told[e.Host])
					}
					told[e.Host] = true
				case Returned:
					if !told[e.Host] || e.Why == "" {
						t.Fatalf("the event is %+v; ejected before: %v", e, told[e.Host])
					}
					delete(told, e.Host)
				}
			}
			r.events = nil
			for _, in := range r.instances {
				st := in.Status()
				if st.Ejected != in.blocked || st.Ejected != told[in.Host] {
					t.Fatalf("%s: ejected %v, blocked %v, told %v", in.name, st.Ejected, in.blocked, told[in.Host])
				}
			}
		}
		// afterwards has what is due done, and looks whether somebody is left.
		afterwards := func() {
			next := r.d.Tick(r.now)
			check()
			fit, ejected := 0, 0
			for _, in := range r.instances {
				if !in.Fit() {
					continue
				}
				fit++
				if in.blocked {
					ejected++
					if st := in.Status(); !r.now.Before(st.Until) || next.IsZero() || next.After(st.Until) {
						t.Fatalf("%s is ejected until %v; it is %v, and something is due at %v", in.name, st.Until, r.now, next)
					}
				}
			}
			if fit > 0 && ejected == fit {
				t.Fatalf("all %d that could be used are ejected", fit)
			}
		}
		someone := func() *instance { return rapid.SampledFrom(r.instances).Draw(t, "instance") }
		t.Repeat(map[string]func(*rapid.T){
			"rpcs": func(t *rapid.T) {
				in := someone()
				before := count(r)
				failed := rapid.Bool().Draw(t, "failed")
				for range rapid.IntRange(1, 30).Draw(t, "n") {
					in.Record(r.now, failed)
				}
				// Only ejecting is bounded; the rest of the time the others may become unfit.
				if after := count(r); after.ejected > before.ejected && after.ejected > r.d.most(after.fit) {
					t.Fatalf("%d of %d are ejected, at most %d %%", after.ejected, after.fit, r.cfg.MaxPercent)
				}
			},
			"pass": func(t *rapid.T) {
				r.now = r.now.Add(time.Duration(rapid.IntRange(1, 20_000).Draw(t, "ms")) * time.Millisecond)
			},
			"fit": func(t *rapid.T) { in := someone(); in.unfit = !in.unfit },
			"come": func(t *rapid.T) {
				if len(r.instances) < 8 {
					r.add()
					r.configure()
				}
			},
			"go": func(t *rapid.T) {
				if len(r.instances) > 1 {
					n := rapid.IntRange(0, len(r.instances)-1).Draw(t, "who")
					gone := r.instances[n]
					r.instances = append(append([]*instance(nil), r.instances[:n]...), r.instances[n+1:]...)
					r.configure()
					if gone.blocked {
						t.Fatalf("%s went and is still ejected", gone.name)
					}
					if c := count(r); c.ejected > r.d.most(c.fit) {
						t.Fatalf("after one went %d of %d are ejected", c.ejected, c.fit)
					}
				}
			},
			"rules": func(t *rapid.T) {
				check()
				r.cfg = drawConfig(t)
				r.configure()
			},
			"": func(*rapid.T) { afterwards() },
		})
	})
}

type counted struct{ fit, ejected int }

func count(r *rig) (c counted) {
	for _, in := range r.instances {
		if in.Fit() {
			c.fit++
			if in.blocked {
				c.ejected++
			}
		}
	}
	return c
}

// quiet is a testing.TB for where rapid's is at hand.
type quiet struct{ testing.TB }

func drawConfig(t *rapid.T) *Config {
	percent := rapid.IntRange(0, 100)
	cfg := &Config{
		Policy:              "eject",
		Interval:            time.Duration(rapid.IntRange(100, 20_000).Draw(t, "interval")) * time.Millisecond,
		BaseTime:            time.Duration(rapid.IntRange(10, 20_000).Draw(t, "base")) * time.Millisecond,
		MaxTime:             time.Duration(rapid.IntRange(10, 60_000).Draw(t, "max")) * time.Millisecond,
		MaxPercent:          percent.Draw(t, "percent"),
		ConsecutiveFailures: rapid.IntRange(0, 5).Draw(t, "inARow"),
	}
	if rapid.Bool().Draw(t, "bySuccessRate") {
		cfg.SuccessRate = &SuccessRate{
			rapid.IntRange(0, 3000).Draw(t, "factor"), percent.Draw(t, "enforced"), rapid.IntRange(0, 4).Draw(t, "hosts"), rapid.IntRange(0, 20).Draw(t, "volume"),
		}
	}
	if rapid.Bool().Draw(t, "byFailurePercentage") {
		cfg.FailurePercentage = &FailurePercentage{
			percent.Draw(t, "threshold"), percent.Draw(t, "enforced"), rapid.IntRange(0, 4).Draw(t, "hosts"), rapid.IntRange(0, 20).Draw(t, "volume"),
		}
	}
	return cfg
}

// RPCs end at any time, while registry and policy change and the clock ticks.
func TestAtTheSameTime(t *testing.T) {
	t.Parallel()
	d := New(rand.Uint64, func(Event) {})
	targets := make([]*atomicTarget, 5)
	hosts := make([]*Host, len(targets))
	for i := range targets {
		targets[i] = &atomicTarget{}
		hosts[i] = d.NewHost(targets[i])
	}
	cfg := ejection()
	cfg.Interval, cfg.BaseTime = time.Millisecond, time.Millisecond
	cfg.FailurePercentage = &FailurePercentage{Threshold: 40, EnforcementPercentage: 100, MinimumHosts: 1, RequestVolume: 1}
	d.Configure(epoch, cfg, hosts)
	var wg sync.WaitGroup
	for i := range hosts {
		wg.Go(func() {
			for n := range 20_000 {
				hosts[i].Record(epoch.Add(time.Duration(n)*time.Microsecond), n%2 == 0 || i == 0)
			}
		})
	}
	wg.Go(func() {
		for n := range 200 {
			now := epoch.Add(time.Duration(n) * 100 * time.Microsecond)
			d.Configure(now, cfg, hosts[:3+n%3])
			d.Tick(now)
			for _, h := range hosts {
				h.Status()
			}
		}
	})
	wg.Wait()
	d.Configure(epoch, nil, nil)
	for i, target := range targets {
		if target.on {
			t.Errorf("instance %d is still ejected", i)
		}
	}
}

// atomicTarget needs no lock of its own: Eject is called under the Detector's.
type atomicTarget struct{ on bool }

func (a *atomicTarget) Fit() bool     { return true }
func (a *atomicTarget) Eject(on bool) { a.on = on }
