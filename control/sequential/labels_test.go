package sequential

import (
	"math"
	"testing"
)

func TestLabelsFindACanaryThatFailsOftener(t *testing.T) {
	t.Parallel()
	l, err := NewLabels(1)
	if err != nil {
		t.Fatal(err)
	}
	for range 10 {
		l.Add(LabelCounts{CanaryEvents: 1, CanaryRPCs: 10, StableRPCs: 90, Share: 0.1})
	}
	if !l.Rejects(0.001) || l.P() > 0.001 {
		t.Errorf("ten failures, all the canary's of 10%%: e = exp(%v), p = %v", l.LogE(), l.P())
	}
	again, _ := NewLabels(1)
	if err := again.Restore(l.Evidence(), l.P()); err != nil {
		t.Fatal(err)
	}
	if got := again.LogE(); math.Abs(got-l.LogE()) > 1e-12 {
		t.Errorf("evidence %v after it was kept, before %v", got, l.LogE())
	}
}
