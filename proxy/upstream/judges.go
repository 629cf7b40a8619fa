package upstream

import (
	"context"
	"log/slog"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/pillion-proxy/pillion/proxy/internal/later"
	"github.com/pillion-proxy/pillion/proxy/outlier"
)

// judges look at how the instances of a cluster do, as its policy demands.
type judges struct {
	cluster  *Cluster
	detector *outlier.Detector
	later    later.Queue
	lost     atomic.Uint64 // changes that were not logged, and are not told of yet

	// ticking is held while the detector does what is due; nudged says that
	// something came up meanwhile.
	ticking sync.Mutex
	nudged  atomic.Bool
	timer   *time.Timer

	// changing is held while judges are replaced, so that none blocks its instance
	// after that.
	changing sync.Mutex

	// Guarded by Cluster.mu.

	rules     *judging
	instances []*Instance
}

func newJudges(c *Cluster) *judges {
	j := &judges{cluster: c, rules: new(judging)}
	j.detector = outlier.New(c.opts.Random, j.ejection)
	j.timer = time.AfterFunc(time.Hour, j.tick)
	j.timer.Stop()
	return j
}

// judge sets which instances are judged from now on, and by what. What is known of
// those that stay, stays, as far as the rules do that it is about. c.mu is held.
func (c *Cluster) judge(instances []*Instance, rules *judging) {
	j := c.judges
	if j == nil {
		if rules.none() {
			return
		}
		j = newJudges(c)
		c.judges = j
	}
	stay := make(map[*Instance]bool, len(instances))
	hosts := make([]*outlier.Host, 0, len(instances))
	j.changing.Lock()
	for _, in := range instances {
		stay[in] = true
		if next := j.replace(in, rules); next != nil && next.host != nil {
			hosts = append(hosts, next.host)
		}
	}
	for _, in := range j.instances {
		if !stay[in] {
			j.replace(in, new(judging))
		}
	}
	j.changing.Unlock()
	j.rules, j.instances = rules, slices.Clone(instances)
	c.counts.Judgement.InForce.Store(!rules.none())
	j.detector.Configure(time.Now(), rules.ejection, hosts)
	j.nudge()
}

// replace makes the judge that an instance has under the rules, and keeps what is
// known of it as far as they are the same. j.changing is held.
func (j *judges) replace(in *Instance, rules *judging) *judge {
	old := in.judge.Load()
	if old == nil {
		old = &judge{rules: new(judging)}
	}
	var next *judge
	if !rules.none() {
		next = &judge{of: j, rules: rules}
	}
	if rules.ejection != nil {
		if next.host = old.host; next.host == nil {
			next.host = j.detector.NewHost((*ejectable)(in))
		}
	}
	switch {
	case rules.trip == nil:
		in.Block(Broken, false)
	case old.breaker != nil && reflect.DeepEqual(old.rules.trip, rules.trip):
		next.breaker = old.breaker
	default:
		next.breaker = j.newBreaker(in, rules)
		in.Block(Broken, false)
	}
	switch {
	case rules.health == nil:
		old.asker.stop()
	case old.asker != nil && old.asker.asksAs(rules.health):
		next.asker = old.asker
	default:
		old.asker.stop()
		next.asker = newAsker(j, in, rules.health)
	}
	in.judge.Store(next)
	return next
}

// nudge has the detector look whether something is due. Any lock may be held but the
// detector's.
func (j *judges) nudge() {
	j.nudged.Store(true)
	j.timer.Reset(0)
}

// tick has the detector do what is due.
func (j *judges) tick() {
	j.ticking.Lock()
	defer j.ticking.Unlock()
	j.nudged.Store(false)
	now := time.Now()
	next := j.detector.Tick(now)
	if next.IsZero() {
		return // the next Configure nudges
	}
	j.timer.Reset(next.Sub(now))
	if j.nudged.Load() {
		j.timer.Reset(0)
	}
}

// lost says that the instance cannot be used any more, so that one that is ejected
// may be better than none.
func (in *Instance) lost() {
	if j := in.judge.Load(); j != nil && j.host != nil {
		j.of.nudge()
	}
}

// log has something logged about an instance, in order: whoever finds it out may hold
// an RPC's lock.
func (j *judges) log(level slog.Level, what string, in *Instance, policy string, numbers ...any) {
	args := append([]any{"service", j.cluster.name, "instance", in.address, "policy", policy}, numbers...)
	if !j.later.Offer(func() { slog.Log(context.Background(), level, what, args...) }) && j.lost.Add(1) == 1 {
		j.later.Do(func() {
			slog.Warn("changes of instances were not logged: there are too many", "service", j.cluster.name, "changes", j.lost.Swap(0))
		})
	}
}
