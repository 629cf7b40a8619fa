package telemetry

import (
	"cmp"
	"slices"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc/codes"
)

// maxGroups bounds the groups that are told apart. Policies name them, but they
// change over months.
const maxGroups = 2000

// GroupKey says which group of which split an RPC belongs to.
type GroupKey struct{ Policy, Rule, Group string }

// Group counts the RPCs of one group of a split, such as a canary or a variant of an
// experiment. Its methods may be called from many goroutines at once; none blocks or
// allocates.
type Group struct {
	nanos atomic.Uint64 // beside codes[codes.OK]: one cache line for both
	codes [numCodes]atomic.Uint64
	took  durations
	_     [cacheLine]byte // a neighbour's counters are not on our last line
}

// Ended counts an RPC that has ended: with which status, and how long after it began.
func (g *Group) Ended(code codes.Code, d time.Duration) {
	if int64(code) >= int64(numCodes) {
		code = codes.Unknown
	}
	d = max(d, 0)
	g.codes[code].Add(1)
	g.took.buckets[bucketOf(d)].Add(1)
	g.nanos.Add(uint64(d))
}

// Group returns the counters of a group. It is for when a policy is set up, not for
// each RPC: it takes a lock. Beyond a bound all others share those of the group "other".
func (c *Counters) Group(key GroupKey) *Group {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.groups == nil {
		c.groups = make(map[GroupKey]*Group)
	}
	if g := c.groups[key]; g != nil {
		return g
	}
	if len(c.groups) >= maxGroups {
		key = GroupKey{other, other, other}
		if g := c.groups[key]; g != nil {
			return g
		}
	}
	g := new(Group)
	c.groups[key] = g
	return g
}

var (
	groupDesc = prometheus.NewDesc("pillion_group_rpcs_total",
		"RPCs of a split's groups that have ended, by status.", []string{"policy", "rule", "group", "grpc_code"}, nil)
	groupSecondsDesc = prometheus.NewDesc("pillion_group_rpc_seconds",
		"How long the RPCs of a split's groups took.", []string{"policy", "rule", "group"}, nil)
)

// collectGroups exports the groups, of their statuses only those that occurred.
func (c *Counters) collectGroups(ch chan<- prometheus.Metric) {
	c.mu.Lock()
	keys := make([]GroupKey, 0, len(c.groups))
	for key := range c.groups {
		keys = append(keys, key)
	}
	slices.SortFunc(keys, func(a, b GroupKey) int {
		return cmp.Or(cmp.Compare(a.Policy, b.Policy), cmp.Compare(a.Rule, b.Rule), cmp.Compare(a.Group, b.Group))
	})
	groups := make([]*Group, 0, len(keys))
	for _, key := range keys {
		groups = append(groups, c.groups[key])
	}
	c.mu.Unlock()
	for i, key := range keys {
		g := groups[i]
		for code := range g.codes {
			if n := g.codes[code].Load(); n > 0 {
				ch <- prometheus.MustNewConstMetric(groupDesc, prometheus.CounterValue, float64(n),
					key.Policy, key.Rule, key.Group, codes.Code(code).String())
			}
		}
		count, buckets := g.took.snapshot()
		ch <- prometheus.MustNewConstHistogram(groupSecondsDesc, count, time.Duration(g.nanos.Load()).Seconds(), buckets,
			key.Policy, key.Rule, key.Group)
	}
}
