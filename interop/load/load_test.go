package load

import (
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A load goes on at its rate, ends, and leaves nothing behind.
func TestLoad(t *testing.T) {
	t.Parallel()

	l := Start(t, Dial(t, StartApp(t, "a", "").Address), Options{PerSecond: 100, StreamEvery: 10})
	l.More(t, 0)
	if r := l.End(t); r.OK < 50 || r.Answered["a"] != r.OK || r.Control <= 0 || r.Max <= 0 {
		t.Errorf("%+v", r)
	}
}

func TestStuck(t *testing.T) {
	t.Parallel()

	for name, test := range map[string]struct {
		worst, control time.Duration
		want           bool
	}{
		"quick":                   {time.Millisecond, time.Millisecond, false},
		"slow":                    {4 * time.Second, time.Millisecond, false},
		"stuck":                   {6 * time.Second, 10 * time.Millisecond, true},
		"on a busy machine":       {6 * time.Second, 500 * time.Millisecond, false},
		"stuck on a busy machine": {16 * time.Second, 500 * time.Millisecond, true},
	} {
		if got := (Result{Max: test.worst, Control: test.control}).stuck(); got != test.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
