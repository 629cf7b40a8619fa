package upstream

import "github.com/pillion-proxy/pillion/proxy/balance"

// whole is a share that is all.
const whole = 1 << 16

// fitness is how many of some instances are well.
type fitness struct{ well, all int }

func (f fitness) share() float64 {
	if f.all == 0 {
		return 0
	}
	return float64(f.well) / float64(f.all)
}

// nearShare is the part of RPCs, in 1/65536, that goes to the near instances: all as
// long as these are well enough, counted overprovisioning times, and less where the
// far ones can make up for what is missing (as Envoy's priorities).
func nearShare(near, far fitness, overprovisioning float64) uint32 {
	n := min(1, overprovisioning*near.share())
	f := min(1-n, overprovisioning*far.share())
	if n+f == 0 {
		return whole
	}
	return uint32(whole*n/(n+f) + 0.5)
}

// pickByPlace picks a near instance if there is one that will do, or a far one where
// it is that one's turn.
func (v *view) pickByPlace(q *balance.Query[*Instance], rnd func() uint64) (*Instance, bool) {
	first, second := &v.near, &v.far
	if share := v.nearShare.Load(); share < whole {
		// What has the same hash goes the same way, and bits of the hash that the
		// picker does not go by first decide which.
		drawn := (q.Hash * 0x9E3779B97F4A7C15) >> 48
		if !q.Hashed {
			drawn = rnd() >> 48
		}
		if drawn >= uint64(share) {
			first, second = second, first
		}
	}
	in, ok := first.pick(q)
	if !ok {
		return second.pick(q)
	}
	if first == &v.near && v.policy.Locality.MaxLoadRatio > 0 && v.busy(in) {
		peek := *q
		peek.Peek = true
		if other, ok := v.far.pick(&peek); ok && v.spills(in, other) {
			return v.far.pick(q)
		}
	}
	return in, true
}

// busy reports whether a near instance has so much to do that a far one might have
// less.
func (v *view) busy(in *Instance) bool {
	if ratio := v.policy.Locality.MaxLoadRatio; ratio >= 1 && in.InFlight() <= 0 {
		return false
	}
	return v.queue(in) > v.policy.Locality.MaxLoadRatio
}

// spills reports whether a near instance has more to do than it may have where a far
// one has what it has.
func (v *view) spills(near, far *Instance) bool {
	return v.queue(near) > v.policy.Locality.MaxLoadRatio*v.queue(far)
}

// queue is how many RPCs an instance of the mean weight would have under way, with
// the one to come, where this one has what it has.
func (v *view) queue(in *Instance) float64 {
	return 1 + float64(max(in.InFlight(), 0))*v.meanWeight/float64(max(in.Endpoint().Weight, 1))
}
