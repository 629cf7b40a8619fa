package health

import (
	"testing"
	"time"

	"pgregory.net/rapid"
)

var (
	good     = Answer{Good: true, Told: true, Text: "SERVING"}
	bad      = Answer{Told: true, Text: "NOT_SERVING"}
	silent   = Failed("no answer within 2s")
	ignorant = Answer{Good: true, Unsupported: true}
)

func TestThresholds(t *testing.T) {
	t.Parallel()
	check := &Config{Unhealthy: 3, Healthy: 2}
	watch := &Config{Unhealthy: 3, Healthy: 2, Watch: true}
	for _, tc := range []struct {
		name    string
		cfg     *Config
		answers []Answer
		want    string // after each: + well, - not
	}{
		{"well from the start", check, []Answer{good, good}, "++"},
		{"three in a row", check, []Answer{bad, bad, bad, bad}, "++--"},
		{"not in a row", check, []Answer{bad, bad, good, bad, bad}, "+++++"},
		{"whatever is bad", check, []Answer{bad, silent, bad}, "++-"},
		{"two to return", check, []Answer{bad, bad, bad, good, bad, good, good, bad}, "++----++"},
		{"knows no checks", check, []Answer{bad, bad, bad, ignorant, ignorant}, "++--+"},
		{"watched: its word holds", watch, []Answer{bad, good, bad}, "-+-"},
		{"watched: silence is counted", watch, []Answer{silent, silent, silent}, "++-"},
		{"watched: returns by a word", watch, []Answer{silent, silent, silent, good}, "++-+"},
		{"watched: a word ends the count", watch, []Answer{silent, silent, good, silent}, "++++"},
		{"watched: knows no checks", watch, []Answer{bad, ignorant}, "-+"},
		{"one of each", &Config{Unhealthy: 1, Healthy: 1}, []Answer{silent, good}, "-+"},
	} {
		var tally Tally
		got, was := "", false
		for _, a := range tc.answers {
			changed := tally.Add(time.Time{}, tc.cfg, a)
			if changed != (tally.Unhealthy() != was) {
				t.Errorf("%s: changed %v, from %v to %v", tc.name, changed, was, tally.Unhealthy())
			}
			was = tally.Unhealthy()
			got += map[bool]string{true: "-", false: "+"}[was]
		}
		if got != tc.want {
			t.Errorf("%s: %s, want %s", tc.name, got, tc.want)
		}
	}
}

// For all answers, the belief is what the last that agreed in so many say.
func TestTallyAgainstHistory(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		cfg := &Config{Unhealthy: rapid.IntRange(1, 4).Draw(t, "unhealthy"), Healthy: rapid.IntRange(1, 4).Draw(t, "healthy")}
		answers := rapid.SliceOfN(rapid.Bool(), 1, 60).Draw(t, "answers")
		var tally Tally
		unhealthy := false
		for i, ok := range answers {
			now := time.Unix(int64(i), 0)
			a := good
			if !ok {
				a = bad
			}
			tally.Add(now, cfg, a)
			row := 0 // how many in a row say what the last says
			for row <= i && answers[i-row] == ok {
				row++
			}
			if ok == unhealthy && row >= map[bool]int{true: cfg.Unhealthy, false: cfg.Healthy}[!ok] {
				unhealthy = !ok
			}
			r := tally.Report(cfg)
			if tally.Unhealthy() != unhealthy || r.Unhealthy != unhealthy || r.Last != a || !r.LastAt.Equal(now) || r.Against >= r.Needed {
				t.Fatalf("after %v: %+v, want unhealthy %v", answers[:i+1], r, unhealthy)
			}
		}
	})
}

func TestSchedule(t *testing.T) {
	t.Parallel()
	c := &Config{Interval: 10 * time.Second}
	for _, tc := range []struct {
		name      string
		got, want time.Duration
	}{
		{"first, soonest", c.First(0), 0},
		{"first, later", c.First(0.5), 5 * time.Second},
		{"next, soonest", c.Next(0), 9 * time.Second},
		{"next", c.Next(0.5), 10 * time.Second},
		{"again", c.Again(0, 0.5), 10 * time.Second},
		{"again, once more", c.Again(1, 0.5), 16 * time.Second},
		{"again, at length", c.Again(100, 0.5), 2 * time.Minute},
		{"again, with a long interval", (&Config{Interval: time.Hour}).Again(3, 0.5), time.Hour},
		{"not supported", c.Unsupported(0.5), 2 * time.Minute},
		{"not supported, with a long interval", (&Config{Interval: time.Hour}).Unsupported(0.5), time.Hour},
	} {
		if tc.got != tc.want {
			t.Errorf("%s: %v, want %v", tc.name, tc.got, tc.want)
		}
	}
	if latest := c.Next(1); latest != 11*time.Second {
		t.Errorf("next, latest: %v", latest)
	}
}
