package balance

import (
	"math/bits"
	"sync/atomic"
)

// shares gives each of n instances its share of a sequence or of random
// numbers, at the same cost for any n and any weights.
//
// It is an alias table (Walker; Vose): n slots are as likely as each other,
// and a slot belongs to its own instance with a certain probability and to one
// other instance, its alias, with the rest.
//
// gRFC A58 walks the instances instead and leaves out the lighter ones at
// times; its cost grows with the heaviest weight over the mean, without bound
// where one of ten thousand instances is much heavier than the others.
type shares struct {
	n     uint64
	slots []slot // nil where all weights are equal
}

// slot is one of an alias table's.
type slot struct {
	own   uint32 // how many in 2^32 of the slot's turns are its own instance's
	alias uint32 // whose the other turns are
}

func newShares(n int, weights []uint32) shares {
	s := shares{n: uint64(n)}
	var sum uint64
	equal := true
	for i := range n {
		sum += uint64(weightOf(weights, i))
		equal = equal && weightOf(weights, i) == weightOf(weights, 0)
	}
	if equal {
		return s
	}

	// In units in which a slot holds sum, and instance i has n times its weight
	// to put into slots. Whole numbers, so nothing is lost to rounding here.
	s.slots = make([]slot, n)
	rest := make([]uint64, n)
	var light, heavy []uint32 // have less than a slot's fill left; have at least that
	for i := range n {
		rest[i] = uint64(weightOf(weights, i)) * uint64(n)
		if rest[i] < sum {
			light = append(light, uint32(i))
		} else {
			heavy = append(heavy, uint32(i))
		}
	}
	for len(light) > 0 { // then some other is heavy: the mean is sum
		l, h := light[len(light)-1], heavy[len(heavy)-1]
		light = light[:len(light)-1]
		own, _ := bits.Div64(rest[l], 0, sum) // rest[l]<<64 / sum
		s.slots[l] = slot{own: uint32(own >> 32), alias: h}
		if rest[h] -= sum - rest[l]; rest[h] < sum {
			heavy = heavy[:len(heavy)-1]
			light = append(light, h)
		}
	}
	for _, h := range heavy { // exactly sum is left: a slot for itself alone
		s.slots[h] = slot{alias: h}
	}
	return s
}

// at returns whose turn it is at a position of the sequence. Every n positions
// visit each slot once; a slot's turns are its own instance's in an even
// rhythm: over any number of rounds the count is off by less than one.
func (s *shares) at(position uint64) int {
	round := position / s.n
	i := position - round*s.n
	if s.slots == nil {
		return int(i)
	}
	sl := s.slots[i]
	// A step of own around a circle of 2^32 lands in its first own points once
	// each time it comes around. The golden ratio spreads where slots start,
	// lest all of them give way to one heavy instance in the same round.
	const golden = 0x9E3779B9
	if uint32(round)*sl.own+uint32(i)*golden < sl.own {
		return int(i)
	}
	return int(sl.alias)
}

// draw returns an instance at random, given 64 random bits.
func (s *shares) draw(random uint64) int {
	i, _ := bits.Mul64(random&^0xffffffff, s.n)
	if s.slots == nil {
		return int(i)
	}
	if sl := s.slots[i]; uint32(random) >= sl.own {
		return int(sl.alias)
	}
	return int(i)
}

// rotation is a shared position in the sequence of shares.
type rotation struct {
	shares
	_    [64]byte // what is written by every pick stays off the lines that are only read
	next atomic.Uint64
	_    [56]byte
}

// start puts the rotation somewhere. It is short of 2^32, because a division
// takes longer the larger its result.
func (r *rotation) start(random uint64) { r.next.Store(random >> 32) }

// turn takes the next turn and returns whose it is.
func (r *rotation) turn() int { return r.at(r.next.Add(1) - 1) }
