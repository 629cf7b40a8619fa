package ratelimit

import (
	"sync/atomic"
	"time"
)

// Limiter holds a limit's buckets. It is safe for concurrent use.
type Limiter struct {
	rate    rate
	shared  atomic.Int64
	keys    *keys // nil: all share one bucket
	refused atomic.Uint64
}

// New returns a limiter whose buckets are full.
func New(l Limit) *Limiter {
	m := &Limiter{rate: l.WithDefaults().rate()}
	m.shared.Store(full)
	if l.MaxKeys > 0 {
		m.keys = newKeys(l.MaxKeys)
	}
	return m
}

// Take lets an RPC pass, or says after what time there will be room for one with its
// key, if none comes before it. The empty key stands for having none: those RPCs
// share a bucket. key need be valid during the call alone.
func (m *Limiter) Take(now time.Time, key string) (retryAfter time.Duration, ok bool) {
	at := clock(now)
	var wait int64
	if m.keys == nil || key == "" {
		wait = m.takeShared(at)
	} else {
		wait = m.keys.take(m.rate, at, key)
	}
	if wait > 0 {
		m.refused.Add(1)
		return time.Duration(wait), false
	}
	return 0, true
}

func (m *Limiter) takeShared(at int64) (wait int64) {
	for {
		bucket := m.shared.Load()
		next, wait := m.rate.take(bucket, at)
		if wait > 0 {
			return wait
		}
		if m.shared.CompareAndSwap(bucket, next) {
			return 0
		}
	}
}

// Return gives back what an RPC took that was refused elsewhere after all: one that
// has to pass several limits must not use up those that it passed.
func (m *Limiter) Return(key string) {
	if m.keys == nil || key == "" {
		m.shared.Add(-m.rate.each)
		return
	}
	m.keys.giveBack(m.rate, key)
}

// Refused returns how many RPCs were refused since the limiter was made.
func (m *Limiter) Refused() uint64 { return m.refused.Load() }

// Keys returns how many keys have a bucket now.
func (m *Limiter) Keys() int {
	if m.keys == nil {
		return 0
	}
	return m.keys.len()
}
