package filewatch

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

func TestSettle(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		// at are when changes come.
		at []time.Duration
		// acts are when they are acted on, within the first second.
		acts []time.Duration
	}{
		{"none", nil, nil},
		{"one", []time.Duration{0}, []time.Duration{quiet}},
		{"some in a row", []time.Duration{0, quiet / 2, quiet}, []time.Duration{2 * quiet}},
		{"two apart", []time.Duration{0, 2 * quiet}, []time.Duration{quiet, 3 * quiet}},
		{"no end", every(quiet/2, patience+quiet/2), []time.Duration{patience, patience + quiet + quiet/2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), time.Second)
				defer cancel()
				changes := make(chan struct{})
				go func() {
					for _, at := range c.at {
						time.Sleep(time.Until(start.Add(at)))
						changes <- struct{}{}
					}
				}()
				var acts []time.Duration
				settle(ctx, changes, func() { acts = append(acts, time.Since(start)) })
				if !slices.Equal(acts, c.acts) {
					t.Errorf("acted at %v, want %v", acts, c.acts)
				}
			})
		})
	}
}

func every(step, until time.Duration) (at []time.Duration) {
	for d := time.Duration(0); d <= until; d += step {
		at = append(at, d)
	}
	return at
}

func TestSettlePolls(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), 10*pollEvery+pollEvery/2)
		defer cancel()
		acts := 0
		settle(ctx, nil, func() { acts++ })
		if acts != 10 {
			t.Errorf("acted %d times, want 10", acts)
		}
	})
}
