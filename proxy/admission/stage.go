package admission

import (
	"sync/atomic"
	"time"
)

// Stage is how far an RPC's request has come. What is not complete may keep its place
// for as long as its caller likes, without any work for the app; so that it cannot
// keep the places of those that are, it has a share of the limit only.
type Stage uint8

// The stages.
const (
	// Begun: the headers. Such RPCs do not count against the limit, and a quarter of
	// it may be with the app.
	Begun Stage = iota
	// Said: the first message too, though not the end. Such RPCs may be three quarters
	// of those that count.
	Said
	// Whole: all of it.
	Whole
	stages
)

// share is how many RPCs of a stage that is not Whole a limit allows.
func (s Stage) share(limit int64) int64 {
	if s == Begun {
		return reserved(limit)
	}
	return max(limit-reserved(limit), 1)
}

// reserved is how many places of a limit only Whole requests get.
func reserved(limit int64) int64 { return max(limit/4, 1) }

// class is the RPCs of one stage that the limiter counts.
type class struct {
	stage   Stage
	count   atomic.Int64  // those that have a share; not kept for Whole
	waiting *atomic.Int64 // all those that count against the limit
	cohort  atomic.Pointer[cohort]
	cohorts []*cohort // not retired yet, the oldest first; limiter.mu guards it
}

func (c *class) init(stage Stage, waiting *atomic.Int64) {
	c.stage, c.waiting = stage, waiting
	c.begin(0)
}

// take takes a place of the class's share.
func (c *class) take(limit int64) bool {
	if c.stage == Whole {
		return true
	}
	most := c.stage.share(limit)
	if c.count.Load() >= most {
		return false
	}
	if c.count.Add(1) > most {
		c.count.Add(-1)
		return false
	}
	return true
}

// release gives n places back.
func (c *class) release(n int64) {
	if c.stage != Whole {
		c.count.Add(-n)
	}
	if c.stage != Begun {
		c.waiting.Add(-n)
	}
}

// join makes an RPC that was counted one of the present cohort.
func (c *class) join() *cohort {
	for {
		if present := c.cohort.Load(); present.join() {
			return present
		}
	}
}

func (c *class) begin(now time.Duration) {
	next := &cohort{class: c, began: now}
	c.cohorts = append(c.cohorts, next)
	c.cohort.Store(next)
}

// age begins a new cohort and retires those whose RPCs have all been counted for so
// long. limiter.mu is held.
func (c *class) age(now, counted time.Duration) {
	c.begin(now)
	for len(c.cohorts) > 1 && now-c.cohorts[1].began >= counted { // where the next began, it ended
		if n := c.cohorts[0].retire(); n > 0 {
			c.release(n)
		}
		c.cohorts = c.cohorts[1:]
	}
}
