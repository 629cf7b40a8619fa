package soak

import (
	"fmt"
	"slices"
	"time"
)

// Tolerances of what is judged. A short run proves that the soak works rather
// than that nothing leaks: few samples, and the pools are still filling. In one that
// is not long, thirds hold different attacks, which take different memory.
const (
	short = 2 * time.Minute
	long  = 10 * time.Minute
	// few is how many goroutines or descriptors more than before may be there: of
	// whoever asks, and of timers that are just running.
	few = 3
)

// tolerance is how much memory may grow: by a share of what it was, and some
// bytes.
type tolerance struct{ share, bytes float64 }

func (l tolerance) most(before float64) float64 { return before*(1+l.share) + l.bytes }

func flatTolerance(run time.Duration) tolerance {
	switch {
	case run < short:
		return tolerance{0.5, 64 << 20}
	case run < long:
		return tolerance{0.5, 16 << 20}
	}

	return tolerance{0.15, 8 << 20}
}

func liveTolerance(run time.Duration) tolerance {
	if run < short {
		return tolerance{0.25, 16 << 20}
	}

	return tolerance{0.15, 2 << 20}
}

// flat compares the last third of a series with the one before, by their medians:
// peaks are not what is looked for.
func flat(what string, values []float64, allowed tolerance) error {
	third := len(values) / 3
	if third == 0 {
		return nil
	}
	middle := median(values[len(values)-2*third : len(values)-third])
	last := median(values[len(values)-third:])
	if last > allowed.most(middle) {
		return fmt.Errorf("%s grows: %.1f MiB in the last third, %.1f MiB in the one before", what, last/(1<<20), middle/(1<<20))
	}

	return nil
}

func median(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))

	return sorted[len(sorted)/2]
}

// grown says how much more live heap there is than before, nil where it is none to
// speak of.
func grown(before, now rest) error {
	if most := liveTolerance(*duration).most(float64(before.Live)); float64(now.Live) > most {
		return fmt.Errorf("there are %.1f MiB of live heap, before %.1f MiB, want at most %.1f MiB",
			float64(now.Live)/(1<<20), float64(before.Live)/(1<<20), most/(1<<20))
	}

	return nil
}

// idle says what is still going on, nil where nothing is.
func (r rest) idle() error { return left(r, r) }

// like says whether a sidecar that was like before has come to rest: the heap may
// still go down by what pools and timers held.
func (r rest) like(before rest) bool {
	return r.Goroutines == before.Goroutines && r.FDs == before.FDs && float64(r.Live) > 0.98*float64(before.Live)
}

// left says what is there that was not there before, nil where nothing is.
func left(before, now rest) error {
	var more []string
	compare := func(what string, before, now, allowed int) {
		if now > before+allowed {
			more = append(more, fmt.Sprintf("%d %s, before %d", now, what, before))
		}
	}
	compare("goroutines", before.Goroutines, now.Goroutines, few)
	compare("open files", before.FDs, now.FDs, few)
	compare("RPCs under way", 0, now.InFlight, 0)
	compare("buffered bytes", 0, now.Buffered, 0)
	compare("connections of callers", 0, now.Downstream, 0)
	compare("connections to instances", 0, now.Upstream, 0)
	if more == nil {
		return nil
	}

	return fmt.Errorf("there are %q", more)
}
