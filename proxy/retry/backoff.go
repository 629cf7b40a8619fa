package retry

import "time"

// Backoff returns the wait before the retry that has n before it, counted from the
// last time that a server said how long to wait: InitialBackoff × Multiplier^n,
// at most MaxBackoff, times a random factor between 0.8 and 1.2 (gRFC A6).
func (p *Policy) Backoff(n int, random func() uint64) time.Duration {
	wait, most := float64(p.InitialBackoff), float64(p.MaxBackoff)
	for range n {
		if wait >= most {
			break
		}
		wait *= p.Multiplier
	}
	return Jitter(time.Duration(min(wait, most)), 0.2, random)
}

// Jitter returns d times a random factor between 1-by and 1+by.
func Jitter(d time.Duration, by float64, random func() uint64) time.Duration {
	unit := float64(random()>>11) / (1 << 53) // in [0, 1)
	return time.Duration(float64(d) * (1 - by + 2*by*unit))
}
