package admission

import (
	"math"
	"time"
)

// Concurrency configures the adaptive limit. The zero value of a field means its
// default.
type Concurrency struct {
	// MinLimit is what the limit never falls below, MaxLimit what it never rises
	// above, InitialLimit where it begins. Defaults 1, 1000 and 20.
	MinLimit, MaxLimit, InitialLimit int
	// Tolerance is how much of the latency without a queue may come on top of it,
	// as a share, before the limit shrinks. Default 0.25.
	Tolerance float64
	// MeasureInterval is how often the latency without a queue is measured while
	// the limit is in force, give or take 15 %. Default 30 s.
	MeasureInterval time.Duration
	// Random returns a number from 0 to 1; nil: 0.5 always.
	Random func() float64
}

// WithDefaults returns a copy in which every field has a value.
func (c Concurrency) WithDefaults() Concurrency {
	def := func(p *int, v int) {
		if *p == 0 {
			*p = v
		}
	}
	def(&c.MinLimit, 1)
	def(&c.MaxLimit, max(1000, c.MinLimit))
	def(&c.InitialLimit, 20)
	c.InitialLimit = min(max(c.InitialLimit, c.MinLimit), c.MaxLimit)
	if c.Tolerance == 0 {
		c.Tolerance = 0.25
	}
	if c.MeasureInterval == 0 {
		c.MeasureInterval = 30 * time.Second
	}
	if c.Random == nil {
		c.Random = func() float64 { return 0.5 }
	}
	return c
}

const (
	// windowTime is the shortest time over which latencies are gathered; it is at
	// least as long as one latency.
	windowTime = 100 * time.Millisecond
	// windowSamples is how many latencies it takes. Where they show no queue so far,
	// growSamples will do, so that a low limit is soon left, and after lowRateTime
	// fewSamples have to.
	windowSamples = 20
	growSamples   = 10
	lowRateTime   = 2 * time.Second
	fewSamples    = 5
	// The gradient's bounds: how much a single window may change the limit.
	leastGradient, mostGradient = 0.5, 2
	// drift is the share by which a window moves the latency without a queue,
	// where it is seen without measuring.
	drift = 1.0 / 8
	// A limit that has changed by more than these since the last measurement asks
	// for another: the app may have become slower, or quicker.
	shrunk, grown = 1 / 1.4, 1.5
	// less is what a measurement must find of the one before to ask for another:
	// it may have left a queue itself.
	less = 0.93
	// Measurements that are not due keep this distance, and so many times what the
	// last one took: RPCs are refused meanwhile. The distance doubles with each
	// that finds what was known.
	measureDistance = time.Second
	measureShare    = 10
	// news is by how much a measurement must differ to find something new.
	news = 1.1
	// giveUp is how many latencies a measurement may take, and measurePatience
	// how long at least.
	giveUp          = 10
	measurePatience = time.Second
	// measureJitter keeps the sidecars of a service from measuring together.
	measureJitter = 0.15
)

// state is what the controller is at.
type state uint8

const (
	// steady: each window adjusts the limit. Goes to measuring where the latency
	// without a queue is not known, is old, or is likely to have changed.
	steady state = iota
	// measuring: the limit is lowered so that no queue is left. Goes to steady
	// once there are latencies enough, or time is over.
	measuring
)

// window is what was seen since the limit last changed and the app had time to
// feel it.
type window struct {
	now     time.Duration // since the limiter was made
	took    time.Duration
	samples int64
	median  time.Duration // 0 without samples
	peak    int64         // the most RPCs that were counted at once
}

// controller decides what the limit is. It is not safe for concurrent use.
type controller struct {
	Concurrency
	state      state
	limit      float64
	latency    time.Duration // without a queue; 0: not known
	last       time.Duration // the last window's median, bounded
	before     float64       // measuring: the limit to go back to
	settled    float64       // the limit as of the last measurement
	falling    bool          // the last measurement found much less than the one before
	began      time.Duration // of the last measurement
	measuredAt time.Duration // its end
	distance   time.Duration // to the next that is not due
	dueAt      time.Duration // of the next measurement
}

func newController(c Concurrency) *controller {
	return &controller{
		Concurrency: c, limit: float64(c.InitialLimit), settled: float64(c.InitialLimit),
		distance: measureDistance,
	}
}

// lag is how long the app needs to feel a change of the limit after a window:
// what it answers until then was taken in before. Where the queue has just grown,
// that is longer than what was answered last has taken.
func (c *controller) lag(w window) time.Duration {
	drained := time.Duration(float64(w.took) * float64(w.peak) / float64(max(w.samples, 1)))
	return max(c.last, min(drained, giveUp*c.last))
}

// windowFor returns how long the present window lasts at least.
func (c *controller) windowFor() time.Duration { return max(windowTime, c.last) }

// complete says that a window can be judged.
func (c *controller) complete(w window) bool {
	switch {
	case w.samples >= windowSamples:
		return true
	case c.state == steady && w.samples >= growSamples && w.median <= c.allowed():
		return true
	case c.state == measuring:
		return w.took >= max(measurePatience, giveUp*c.latency, giveUp*c.last)
	}
	return w.samples >= fewSamples && w.took >= lowRateTime
}

// allowed is the latency up to which the limit grows.
func (c *controller) allowed() time.Duration {
	return time.Duration((1 + c.Tolerance) * float64(c.latency))
}

// step judges a window that is complete.
func (c *controller) step(w window) {
	if w.median > 0 {
		// Nothing waits for longer than RPCs are counted: after a hang the median is
		// whatever the callers' deadlines were.
		c.last = min(w.median, patienceFor(c.latency))
	}
	if c.state == measuring {
		c.measured(w)
		return
	}
	pressed := 2*w.peak > int64(c.limit)
	switch {
	case c.latency == 0 && pressed:
		// Whatever was seen so far may be a queue already: begin from below.
		c.measure(w, c.limit/4)
	case c.latency == 0:
		c.latency = w.median
		c.settle(w)
	case !pressed:
		c.follow(w)
		c.settle(w)
	default:
		c.adjust(w)
		if c.wantsMeasurement(w) {
			c.measure(w, min(c.limit/2, c.room(w)))
		}
	}
}

// follow moves the latency without a queue towards what was seen.
func (c *controller) follow(w window) {
	c.latency += time.Duration(drift * float64(w.median-c.latency))
}

// adjust is the gradient.
func (c *controller) adjust(w window) {
	if w.median < c.latency {
		c.follow(w)
	}
	gradient := float64(c.allowed()) / float64(w.median)
	limit := c.limit * min(max(gradient, leastGradient), mostGradient)
	c.set(limit + math.Sqrt(limit))
}

func (c *controller) set(limit float64) {
	c.limit = min(max(limit, float64(c.MinLimit)), float64(c.MaxLimit))
}

// room is how many RPCs the app has at once without a queue, going by what it
// answers and by the latency that is known (Little's law).
func (c *controller) room(w window) float64 {
	return float64(w.samples) * float64(c.latency) / float64(max(w.took, 1))
}

func (c *controller) wantsMeasurement(w window) bool {
	if w.now < c.measuredAt+max(c.distance, measureShare*(c.measuredAt-c.began)) {
		return false
	}
	return w.now >= c.dueAt || c.falling || c.limit < c.settled*shrunk || c.limit > c.settled*grown
}

// measure begins a measurement: nothing begins until no more than limit are
// left.
func (c *controller) measure(w window, limit float64) {
	c.state, c.before, c.began = measuring, c.limit, w.now
	c.set(limit)
}

// measured ends a measurement, with a result or without.
func (c *controller) measured(w window) {
	c.state, c.limit = steady, c.before
	c.measuredAt, c.falling = w.now, false
	c.distance = min(2*c.distance, c.MeasureInterval)
	if w.samples >= fewSamples {
		found, known := float64(w.median), float64(c.latency)
		if found > known*news || found < known/news {
			c.distance = measureDistance
		}
		c.falling = known == 0 || found < less*known
		c.latency = w.median
	}
	c.settle(w)
}

// settle notes that the latency without a queue is fresh.
func (c *controller) settle(w window) {
	c.settled = c.limit
	jitter := 1 + measureJitter*(2*c.Random()-1)
	c.dueAt = w.now + time.Duration(jitter*float64(c.MeasureInterval))
}
