// Package recording remembers a sample of RPCs, for people who ask what other policies
// would make of them: where they went, and of their metadata just what policies look at,
// without secrets. It is memory alone, bounded in number, bytes and time.
//
// It does not choose which RPCs are remembered: [Ring.Gap] says how many are not.
package recording

import (
	"math"
	"strings"
	"sync"
	"time"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/proxy/policy"
)

// Options say what is remembered.
type Options struct {
	// Size is how many RPCs are remembered at most; 0: none.
	Size int
	// OneIn is one of how many RPCs is remembered, at random. 0 stands for 1.
	OneIn int
	// MaxAge is how long one is remembered. 0: as long as there is room.
	MaxAge time.Duration
	// MaxBytes is how many bytes they all may take. Default 16 MiB.
	MaxBytes int
}

const (
	defaultMaxBytes = 16 << 20
	// maxFields is how many values are remembered of one RPC, and maxValue how many bytes
	// one may have; what is longer is left out.
	maxFields, maxValue = 32, 256
	// maxText is how many bytes a path or a service's name may have; other RPCs are not
	// remembered.
	maxText = 512
	// overhead is what an RPC takes beside its texts, and a field of it.
	overhead, fieldOverhead = 128, 64
)

// RPC is one RPC that is remembered. Whoever gets it must not change it.
type RPC struct {
	// Time is when it came.
	Time time.Time
	// Service is the one that it was addressed to.
	Service string
	// Path is its :path.
	Path string
	// Caller is the service that it came from; "": it is not known.
	Caller string
	// Fields are those of its metadata that policies mention. Each cookie is a field
	// "cookie: name=value" of its own. Values that are secret by their names (see Secret)
	// are replaced: what is there tells only whether two of them are the same.
	Fields []hpack.Field
}

// Ring is what is remembered. A nil one remembers nothing.
type Ring struct {
	opts   Options
	keeper keeper

	mu       sync.Mutex
	mentions *policy.Mentions
	rpcs     []RPC // a ring, once it is full
	first    int   // the oldest
	count    int
	bytes    int
	timer    *time.Timer // set while there is something to forget
	closed   bool
}

// New returns an empty ring; nil where nothing is to be remembered.
func New(o Options) *Ring {
	if o.Size <= 0 {
		return nil
	}
	o.OneIn = max(o.OneIn, 1)
	if o.MaxBytes <= 0 {
		o.MaxBytes = defaultMaxBytes
	}
	return &Ring{opts: o, keeper: newKeeper()}
}

// OneIn is one of how many RPCs is remembered; 0: none is.
func (r *Ring) OneIn() int {
	if r == nil {
		return 0
	}
	return r.opts.OneIn
}

// never is the gap where nothing is remembered, before one asks again.
const never = math.MaxUint32

// Gap draws at which of the RPCs that come from now on the next one is remembered: 1 is
// the next. It depends on nothing that was, so that each of many that count on their own
// may ask whenever it likes, and forget what it was told.
func (r *Ring) Gap(random func() uint64) uint32 {
	switch {
	case r == nil:
		return never
	case r.opts.OneIn == 1:
		return 1
	}
	u := (float64(random()>>11) + 0.5) / (1 << 53)
	gap := 1 + math.Log(u)/math.Log1p(-1/float64(r.opts.OneIn))
	return uint32(min(gap, never))
}

// SetMentions says what of metadata policies look at from now on. What they do not any
// more is forgotten at once.
func (r *Ring) SetMentions(m *policy.Mentions) {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.mentions = m
	for i := range r.count {
		rpc := r.at(i)
		before := len(rpc.Fields)
		var kept []hpack.Field // those who were handed the others still look at them
		for _, f := range rpc.Fields {
			if m.Has(f) {
				kept = append(kept, f)
			}
		}
		if len(kept) < before {
			r.bytes -= rpc.size()
			rpc.Fields = kept
			r.bytes += rpc.size()
		}
	}
}

// Add remembers an RPC that came now. Its strings need to be valid only during the call.
func (r *Ring) Add(now time.Time, service, path, caller string, fields []hpack.Field) {
	if r == nil || len(path) > maxText || len(service) > maxText || len(caller) > maxText {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return
	}
	rpc := RPC{Time: now, Service: strings.Clone(service), Path: strings.Clone(path), Caller: strings.Clone(caller)}
	r.mentions.Fields(fields, func(f hpack.Field) bool {
		if f, ok := r.keeper.kept(f); ok {
			rpc.Fields = append(rpc.Fields, f)
		}
		return len(rpc.Fields) < maxFields
	})
	size := rpc.size()
	if size > r.opts.MaxBytes {
		return
	}
	r.expire(now)
	for r.count == r.opts.Size || r.bytes+size > r.opts.MaxBytes {
		r.drop()
	}
	if r.count == len(r.rpcs) {
		r.grow()
	}
	*r.at(r.count) = rpc
	r.count++
	r.bytes += size
	r.watch(now)
}

// Recorded returns what is remembered, the oldest first.
func (r *Ring) Recorded() []RPC {
	if r == nil {
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.expire(time.Now())
	list := make([]RPC, r.count)
	for i := range list {
		list[i] = *r.at(i)
	}
	return list
}

// Close forgets everything, and what comes after.
func (r *Ring) Close() {
	if r == nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.closed = true
	r.rpcs, r.first, r.count, r.bytes = nil, 0, 0, 0
	if r.timer != nil {
		r.timer.Stop()
	}
}

// at returns the i-th, the oldest first.
func (r *Ring) at(i int) *RPC { return &r.rpcs[(r.first+i)%len(r.rpcs)] }

// grow makes more room: most sidecars never need all.
func (r *Ring) grow() {
	larger := make([]RPC, min(max(2*len(r.rpcs), 16), r.opts.Size))
	for i := range r.count {
		larger[i] = *r.at(i)
	}
	r.rpcs, r.first = larger, 0
}

// drop forgets the oldest.
func (r *Ring) drop() {
	oldest := r.at(0)
	r.bytes -= oldest.size()
	*oldest = RPC{}
	r.first = (r.first + 1) % len(r.rpcs)
	r.count--
}

// expire forgets those that are too old.
func (r *Ring) expire(now time.Time) {
	if r.opts.MaxAge <= 0 {
		return
	}
	for r.count > 0 && now.Sub(r.at(0).Time) >= r.opts.MaxAge {
		r.drop()
	}
}

// watch has what is too old forgotten also where no RPC comes any more.
func (r *Ring) watch(now time.Time) {
	if r.opts.MaxAge <= 0 || r.count == 0 || r.closed {
		return
	}
	if r.timer == nil {
		r.timer = time.AfterFunc(r.due(now), r.onTimer)
	} else if r.count == 1 {
		r.timer.Reset(r.due(now))
	}
}

// due is when the oldest is too old, and a little: not one after the other is forgotten.
func (r *Ring) due(now time.Time) time.Duration {
	return max(r.opts.MaxAge-now.Sub(r.at(0).Time), 0) + r.opts.MaxAge/100
}

// onTimer is called by the timer.
func (r *Ring) onTimer() {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	r.expire(now)
	if r.count > 0 && !r.closed {
		r.timer.Reset(r.due(now))
	}
}

// size is how many bytes an RPC takes, about.
func (p *RPC) size() int {
	n := overhead + len(p.Service) + len(p.Path) + len(p.Caller)
	for i := range p.Fields {
		n += fieldOverhead + len(p.Fields[i].Name) + len(p.Fields[i].Value)
	}
	return n
}
