package canary

import (
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control/sequential"
	"github.com/pillion-proxy/pillion/interop/consul"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const running, promoted, rolledBack = controlv1.Phase_PHASE_RUNNING, controlv1.Phase_PHASE_PROMOTED, controlv1.Phase_PHASE_ROLLED_BACK

// The guards' levels: false_alarm for all together, and a tenth of it for each sidecar. Half
// of it is for tests that begin anew as a run goes on.
const pooled, own = 0.01 / 2, 0.001 / 2

// sufficient returns when the RPCs that had ended were evidence enough at a level, by the
// guard's own test, its minima and all; false: they never were.
func sufficient(seen []outcome, share, level float64) (at time.Time, rpcs int, ok bool) {
	test, err := sequential.NewLabels(1)
	if err != nil {
		return time.Time{}, 0, false
	}
	failures := 0
	for _, o := range seen {
		counts := sequential.LabelCounts{Share: share}
		switch {
		case o.version == "v2" && o.failed:
			rpcs++
			failures++
			counts.CanaryEvents, counts.CanaryRPCs = 1, 1
		case o.version == "v2":
			rpcs++
			counts.CanaryRPCs = 1
		default:
			counts.StableRPCs = 1
		}
		test.Add(counts)
		if rpcs >= 20 && failures >= 5 && test.P() <= level {
			return o.ended, rpcs, true
		}
	}

	return time.Time{}, rpcs, false
}

// TestFailingCanary is of a release that fails every tenth RPC.
func TestFailingCanary(t *testing.T) {
	m := startMesh(t, consul.Start(t), "failing", 5)
	m.apply(t, versions+`
canaries:
- name: SERVICE
  service: SERVICE
  stable: v1
  canary: v2
  steps: [{weight: 1000, hold: 60s}, {weight: 5000, hold: 60s}]
  sticky: {metadata: x-user}
  guards: {errors: [{}]}
`)
	m.v2.failing.Store(100)
	c := startCallers(t, m.addresses(), 200, true)
	began := time.Now()
	m.pillion(t, "canary", "start", m.service, "-m", "shall fail")
	state := m.await(t, "rolled back", isIn(rolledBack, 1))
	time.Sleep(2 * time.Second) // what comes to the canary now should not
	c.end()
	seen := c.outcomes()
	failed := check(t, seen)
	t.Logf("rolled back %v after the start: %s", state.GetSince().AsTime().Sub(began).Round(time.Millisecond), state.GetReason())
	report(t, m, seen, failed, 0.1)
	sticky(t, seen, m.transitions(t))
}

// report holds when the canary got its last RPC against when the evidence sufficed, and
// what callers saw.
func report(t *testing.T, m *mesh, seen []outcome, failed int, share float64) {
	t.Helper()

	at, rpcs, ok := sufficient(seen, share, pooled)
	if !ok {
		t.Fatalf("%d RPCs of the canary were no evidence", rpcs)
	}
	last := time.Unix(0, m.v2.last.Load())
	t.Logf("%d of %d RPCs failed (%.2f %%); %d RPCs of the canary were evidence enough, it got %d in all, the last one %v later",
		failed, len(seen), 100*float64(failed)/float64(len(seen)), rpcs, m.v2.calls.Load(), last.Sub(at).Round(time.Millisecond))
	if late := last.Sub(at); late > soon {
		t.Errorf("the canary got its last RPC %v after the evidence sufficed, want within %v", late, soon)
	}
	if 100*failed >= len(seen) {
		t.Errorf("%d of %d RPCs failed, want under 1 %%", failed, len(seen))
	}
}

// TestFailingCanaryWithoutConsul is the same where Consul is gone when the release begins
// to fail, and with it the elected sidecar in the end.
func TestFailingCanaryWithoutConsul(t *testing.T) {
	for _, killed := range []bool{false, true} {
		name := "elected"
		if killed {
			name = "alone"
		}
		t.Run(name, func(t *testing.T) {
			agent := consul.Start(t)
			m := startMesh(t, agent, name, 5)
			m.apply(t, versions+`
canaries:
- name: SERVICE
  service: SERVICE
  stable: v1
  canary: v2
  steps: [{weight: 1000, hold: 120s}]
  sticky: {metadata: x-user}
  guards: {errors: [{}]}
`)
			m.pillion(t, "canary", "start", m.service)
			m.await(t, "elected and running", func(s *controlv1.RunState) bool { return s.GetPhase() == running && m.elected(t) >= 0 })
			elected := m.elected(t)
			c := startCallers(t, without(m.addresses(), elected, killed), 200, false)
			settle(t, c)
			agent.Kill()
			if killed {
				m.sidecars[elected].Kill()
			}
			m.v2.failing.Store(100)
			from := time.Now()
			consul.Eventually(t, "the evidence suffices", func() bool {
				_, all := convinced(c.outcomes(), killed)

				return all
			})
			time.Sleep(from.Add(6*time.Second).Sub(time.Now()) + soon) // what comes later should not
			c.end()
			seen := c.outcomes()
			failed := check(t, seen)
			if 100*failed >= len(seen) {
				t.Errorf("%d of %d RPCs failed, want under 1 %%", failed, len(seen))
			}
			last := time.Unix(0, m.v2.last.Load())
			t.Logf("%d of %d RPCs failed; the canary got its last RPC %v after it began to fail", failed, len(seen), last.Sub(from).Round(time.Millisecond))
			if !killed {
				report(t, m, seen, failed, 0.1)
			} else {
				alone(t, seen)
			}
			sticky(t, seen, nil)
		})
	}
}

// without leaves out the sidecar that is to be killed.
func without(addresses []string, i int, leave bool) (list []string) {
	for n, address := range addresses {
		if !leave || n != i {
			list = append(list, address)
		}
	}

	return list
}

// settle waits until callers have seen both versions.
func settle(t *testing.T, c *callers) {
	t.Helper()

	consul.Eventually(t, "both versions answer", func() bool {
		count := map[string]int{}
		for _, o := range c.outcomes() {
			count[o.version]++
		}

		return count["v1"] > 500 && count["v2"] > 50
	})
}

// evidence is when, and by how many RPCs of the canary, a sidecar has seen enough.
type evidence struct {
	at   time.Time
	rpcs int
}

// convinced returns when each sidecar has seen enough itself, or, unless they are alone,
// all together have; and whether all of them have.
func convinced(seen []outcome, alone bool) (map[int]evidence, bool) {
	level, bySidecar := pooled, map[int][]outcome{}
	if alone {
		level = own
	}
	for _, o := range seen {
		of := 0
		if alone {
			of = o.sidecar
		}
		bySidecar[of] = append(bySidecar[of], o)
	}
	all, found := true, map[int]evidence{}
	for sidecar, list := range bySidecar {
		at, rpcs, ok := sufficient(list, 0.1, level)
		all = all && ok
		found[sidecar] = evidence{at, rpcs}
	}

	return found, all
}

// alone holds each sidecar to what it saw itself.
func alone(t *testing.T, seen []outcome) {
	t.Helper()

	found, _ := convinced(seen, true)
	last := map[int]time.Time{}
	for _, o := range seen {
		if o.version == "v2" && o.began.After(last[o.sidecar]) {
			last[o.sidecar] = o.began
		}
	}
	for sidecar, e := range found {
		if late := last[sidecar].Sub(e.at); late > soon {
			t.Errorf("sidecar %d sent its last RPC to the canary %v after the evidence sufficed, want within %v", sidecar, late, soon)
		} else {
			t.Logf("sidecar %d: %d RPCs of the canary were evidence enough, the last one was sent %v later", sidecar, e.rpcs, late.Round(time.Millisecond))
		}
	}
}

// TestGoodCanary reaches its end without a failed RPC, though the elected sidecar is
// killed between two steps. One without traffic stays where it is.
func TestGoodCanary(t *testing.T) {
	agent := consul.Start(t)
	m := startMesh(t, agent, "good", 5)
	m.apply(t, versions+`
canaries:
- name: SERVICE
  service: SERVICE
  stable: v1
  canary: v2
  steps: [{weight: 1000, hold: 1s}, {weight: 5000, hold: 3s}, {weight: 10000, hold: 1s}]
  sticky: {metadata: x-user}
  guards: {errors: [{}], latency: [{percentile: 90, against_stable: 4, tolerance: 50ms}]}
`)
	m.pillion(t, "canary", "start", m.service)
	m.await(t, "running and elected", func(s *controlv1.RunState) bool { return s.GetPhase() == running && m.elected(t) >= 0 })
	elected := m.elected(t)
	time.Sleep(2 * time.Second)
	if s := m.state(t); s.GetStep() != 1 || s.GetPhase() != running {
		t.Errorf("without traffic it has gone on to %v", s)
	}
	c := startCallers(t, without(m.addresses(), elected, true), 200, true)
	m.await(t, "in step 2", isIn(running, 2))
	killed := time.Now()
	m.sidecars[elected].Kill()
	var next time.Time
	consul.Eventually(t, "another is elected", func() bool {
		next = time.Now()
		now := m.elected(t)

		return now >= 0 && now != elected
	})
	t.Logf("another is elected %v after the first was killed", next.Sub(killed).Round(time.Millisecond))
	m.await(t, "promoted", isIn(promoted, 3))
	promotedAt := time.Now()
	time.Sleep(time.Second)
	c.end()
	seen := c.outcomes()
	check(t, seen)
	for _, o := range seen {
		if o.began.After(promotedAt.Add(soon/2)) && o.version == "v1" {
			t.Error("the stable version still gets RPCs after the canary was promoted")

			break
		}
	}
	sticky(t, seen, m.transitions(t))
}

// TestSlowCanary is of a release that does not fail, but takes longer.
func TestSlowCanary(t *testing.T) {
	m := startMesh(t, consul.Start(t), "slow", 3)
	m.apply(t, versions+`
canaries:
- name: SERVICE
  service: SERVICE
  stable: v1
  canary: v2
  steps: [{weight: 2000, hold: 60s}]
  guards: {errors: [{}], latency: [{percentile: 90}]}
`)
	m.v2.delay.Store(int64(100 * time.Millisecond))
	c := startCallers(t, m.addresses(), 200, false)
	m.pillion(t, "canary", "start", m.service)
	state := m.await(t, "rolled back", isIn(rolledBack, 1))
	t.Logf("after %v: %s", state.GetSince().AsTime().Sub(state.GetStarted().AsTime()).Round(time.Millisecond), state.GetReason())
	c.end()
	check(t, c.outcomes())
}
