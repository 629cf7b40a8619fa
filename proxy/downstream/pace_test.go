package downstream

import (
	"testing"
	"testing/synctest"
	"time"
)

func TestPace(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		p := pace{perSecond: 100}
		accept := func(count int) time.Duration {
			start := time.Now()
			for range count {
				p.wait(nil)
			}
			return time.Since(start).Round(time.Millisecond)
		}
		for _, c := range []struct {
			what  string
			pause time.Duration
			count int
			want  time.Duration
		}{
			{"a second's at once", 0, 100, 0},
			{"those after them", 0, 100, time.Second},
			{"what half a second allows", 500 * time.Millisecond, 50, 0},
			{"and ten more", 0, 10, 100 * time.Millisecond},
			{"no more than a second's after a long pause", time.Hour, 200, time.Second},
		} {
			time.Sleep(c.pause)
			if took := accept(c.count); took != c.want {
				t.Errorf("%s: took %v, want %v", c.what, took, c.want)
			}
		}

		accept(100)
		stop := make(chan struct{})
		close(stop)
		start := time.Now()
		for range 100 {
			p.wait(stop)
		}
		if took := time.Since(start); took != 0 {
			t.Errorf("waited %v for a server that stops", took)
		}
		if held := p.held.Load(); held != 410 {
			t.Errorf("%d connections were held back", held)
		}
	})
}

func TestNoPace(t *testing.T) {
	t.Parallel()
	var p pace
	for range 10_000 {
		if late := p.late(time.Now()); late != 0 {
			t.Fatalf("a connection has to wait %v", late)
		}
	}
}
