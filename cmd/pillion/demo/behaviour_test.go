package demo

import (
	"bytes"
	"strings"
	"testing"
	"time"
)

// A greeter is told how to behave in words that it understands, and repeats them.
func TestBehaviour(t *testing.T) {
	t.Parallel()
	for _, b := range []behaviour{{}, {fails: 0.3}, {slow: 200 * time.Millisecond}, {sells: 0.1}} {
		var c conduct
		var out bytes.Buffer
		c.follow(strings.NewReader(b.String()+"\n"), &out)
		if now := c.now.Load(); now == nil || *now != b {
			t.Errorf("told %q it behaves %v", b, now)
		}
		if want := behaves + " " + b.String() + "\n"; out.String() != want {
			t.Errorf("told %q it says %q", b, &out)
		}
	}
	for _, line := range []string{"", "ill", "fail", "fail often", "slow 3", "sell well"} {
		var c conduct
		c.follow(strings.NewReader(line+"\n"), &bytes.Buffer{})
		if now := c.now.Load(); now != nil {
			t.Errorf("told %q it behaves %v", line, now)
		}
	}
}
