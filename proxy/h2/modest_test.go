package h2

import "testing"

// Who fills a connection to an instance leaves room for the small RPCs of others on
// it.
func TestModestStreamsFindRoom(t *testing.T) {
	simulated(t, func(t *testing.T) {
		g := NewBudget(1 << 20)
		r := newClient(t, Config{Budget: g})
		for range 100 {
			hog := r.open(false, post...)
			hog.write(64<<10, false) // the windows take 64 KiB of all that
		}
		if used := g.Used(); used < 400<<10 || used > 513<<10 {
			t.Fatalf("those who take all they get hold %d bytes of %d", used, 1<<20)
		}
		small := r.open(false, post...)
		if taken := small.write(1000, true); taken != 0 {
			t.Fatalf("%d bytes went on at once: the connection is not full", taken)
		}
		for _, line := range small.log() {
			if len(line) >= 5 && line[:5] == "reset" {
				t.Errorf("the small one: %s", line)
			}
		}
	})
}
