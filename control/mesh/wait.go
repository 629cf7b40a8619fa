package mesh

import (
	"math"
	"math/bits"
	"time"
)

const (
	// window is the time within which candidates try, where nobody is elected, and
	// maxWindow what it grows to where that fails.
	window    = 500 * time.Millisecond
	maxWindow = 16 * time.Second
	// reserveAfter is how long nobody has to be elected before those try who others may
	// not reach, and term how long such a one stays.
	reserveAfter = 5 * time.Second
	term         = time.Minute
	// crowd is how many candidates the waits are made for.
	crowd = 10_000
)

// waitToTry draws how long a candidate waits before it tries: up to the window, and the
// longer the more likely, as receivers of a multicast wait of which one is to answer for
// all (the feedback timers of RFC 4654). However many there are, up to the crowd, only a few
// have waited by when the first one's success has spread, if that takes a tenth of the
// window; drawn evenly, a tenth of them all would have. failures is how often it has
// failed since somebody was elected.
func waitToTry(random float64, failures int) time.Duration {
	most := window << min(failures, 10)
	most = min(most, maxWindow)
	x := 1 - random // from (0, 1]
	return max(0, time.Duration(float64(most)*(1+math.Log(x)/math.Log(crowd))))
}

// waitForSlow draws how much longer a candidate waits where the store took so long to
// answer that in a tenth of the window nobody's success can have spread: as if the window
// were ten times as long as that. 0: it is fast enough.
func waitForSlow(random float64, took time.Duration) time.Duration {
	if took <= window/10 {
		return 0
	}
	return waitToTry(random, bits.Len64(uint64(10*took/window)))
}

// backOff is how long is waited before the elected sidecar is connected to again, after
// so many failures.
func backOff(random float64, failures int) time.Duration {
	if failures == 0 {
		return 0
	}
	const first, most = 100 * time.Millisecond, 5 * time.Second
	d := min(first<<min(failures-1, 10), most)
	return time.Duration(float64(d) * (0.5 + random))
}
