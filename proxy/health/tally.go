package health

import "time"

// Tally decides by thresholds whether an instance is well. It is, until the answers
// say otherwise. The zero value is ready.
type Tally struct {
	unhealthy bool
	// against is how many answers in a row were against what is believed.
	against int
	since   time.Time
	last    Answer
	lastAt  time.Time
}

// Add takes an answer and says whether the belief changed.
func (t *Tally) Add(now time.Time, cfg *Config, a Answer) (changed bool) {
	t.last, t.lastAt = a, now
	if a.Good != t.unhealthy {
		t.against = 0
		return false
	}
	t.against++
	need := cfg.Unhealthy
	if t.unhealthy {
		need = cfg.Healthy
	}
	// A watched instance tells of each change once, and means it.
	if t.against < need && (!cfg.Watch || !a.Told && !a.Unsupported) {
		return false
	}
	t.unhealthy, t.against, t.since = !t.unhealthy, 0, now
	return true
}

// Unhealthy says whether the instance is believed to be unwell.
func (t *Tally) Unhealthy() bool { return t.unhealthy }

// Report describes a Tally to people.
type Report struct {
	Unhealthy bool
	// Since is when that began; the zero time where it was never otherwise.
	Since time.Time
	// Last is the last answer, and LastAt when it came; zero where there was none.
	Last   Answer
	LastAt time.Time
	// Against is how many answers in a row, up to the last, say otherwise, of Needed.
	Against, Needed int
}

// Report returns what there is to say.
func (t *Tally) Report(cfg *Config) Report {
	r := Report{Unhealthy: t.unhealthy, Since: t.since, Last: t.last, LastAt: t.lastAt, Against: t.against, Needed: cfg.Unhealthy}
	if t.unhealthy {
		r.Needed = cfg.Healthy
	}
	return r
}
