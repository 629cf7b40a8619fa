package health

import "time"

// maxWait is the longest that a stream of Watch which ended is not begun again.
const maxWait = 2 * time.Minute

// First is when an instance is asked first: within an interval, so that not all are
// at once. random is in [0, 1).
func (c *Config) First(random float64) time.Duration {
	return time.Duration(float64(c.Interval) * random)
}

// Next is how long it is until the next question: the interval, give or take 10 %.
func (c *Config) Next(random float64) time.Duration { return jittered(c.Interval, random) }

// Again is how long it is until Watch is tried again, which has failed so many times
// since the instance said anything: the interval, and 1.6 times as long each time
// (gRPC's connection backoff), up to two minutes, give or take 10 %.
func (c *Config) Again(failures int, random float64) time.Duration {
	wait := float64(c.Interval)
	for range failures {
		if wait *= 1.6; wait >= float64(maxWait) {
			break
		}
	}
	return jittered(max(min(time.Duration(wait), maxWait), c.Interval), random)
}

// Unsupported is how long it is until an instance is asked again to be watched that
// knows no health checks: a new version at its address may know them.
func (c *Config) Unsupported(random float64) time.Duration {
	return jittered(max(c.Interval, maxWait), random)
}

func jittered(d time.Duration, random float64) time.Duration {
	return time.Duration(float64(d) * (0.9 + 0.2*random))
}
