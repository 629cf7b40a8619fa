package server

import (
	"slices"
	"testing"
)

func TestReadiness(t *testing.T) {
	t.Parallel()
	r := NewReadiness("outbound", "registry")
	var told []bool
	r.watch(func(ready bool) { told = append(told, ready) })
	for _, step := range []struct {
		name, reason string
		want         bool
	}{
		{"outbound", "", false},
		{"registry", "no answer yet", false},
		{"registry", "", true},
		{"inbound", "the app is not healthy", false}, // not named before
		{"inbound", "", true},
	} {
		r.Set(step.name, step.reason)
		if got := r.Ready(); got != step.want {
			t.Errorf("after %s was set to %q it is ready: %v, want %v", step.name, step.reason, got, step.want)
		}
	}
	r.Drain()
	r.Set("outbound", "")
	if r.Ready() {
		t.Error("it is ready while draining")
	}
	if want := []bool{false, false, false, true, false, true, false, false}; !slices.Equal(told, want) {
		t.Errorf("told %v, want %v", told, want)
	}
	if !NewReadiness().Ready() {
		t.Error("it is not ready with nothing to wait for")
	}
}
