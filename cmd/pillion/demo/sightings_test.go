package demo

import (
	"errors"
	"testing"
	"time"
)

// What users met is told in the order in which their RPCs began, and moves at the moment
// of a change are told apart.
func TestSightings(t *testing.T) {
	t.Parallel()
	start := time.Now()
	at := func(ms int) time.Time { return start.Add(time.Duration(ms) * time.Millisecond) }
	s := newSightings()
	for _, one := range []sighting{
		{user: 1, version: "v1", began: at(0)},
		{user: 1, version: "v2", began: at(1000)}, // when the step begins
		{user: 1, version: "v1", began: at(900)},  // an earlier RPC that took longer
		{user: 2, version: "v2", began: at(1010)},
		{user: 2, version: "v1", began: at(1020)}, // by a sidecar that is a moment late
		{user: 2, version: "v2", began: at(2000)},
		{user: 3, version: "v2", began: at(3000), failed: true},
		{user: 3, version: "v1", began: at(4000)}, // back
		{user: 3, version: "v1", began: at(5000), failed: true},
		{user: 4, began: at(6000), failed: true}, // by whom is not known
		{user: -1, version: "v2", began: at(100), leaked: true},
	} {
		s.note(one)
	}
	changes := []time.Time{at(1000)}
	if there, between := s.moved("v1", "v2", changes, 100*time.Millisecond); there != 1 || between != 1 {
		t.Errorf("%d users moved there, and %d at the moment of the change", there, between)
	}
	if back, between := s.moved("v2", "v1", changes, 100*time.Millisecond); back != 1 || between != 1 {
		t.Errorf("%d users moved back, and %d at the moment of the change", back, between)
	}
	if len(s.hurt) != 2 || s.leaked != 1 || s.rpcs != 11 || !s.failing.Equal(at(6000)) {
		t.Errorf("%d users saw an error, the last at %v; %d of %d RPCs were leaked", len(s.hurt), s.failing, s.leaked, s.rpcs)
	}
	if !s.last["v2"].Equal(at(3000)) || !s.last["v1"].Equal(at(5000)) {
		t.Errorf("the last ones are %v", s.last)
	}
}

func TestWhose(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		message string
		err     error
		want    string
	}{
		{"Hello 7, says greeter v2", nil, "v2"},
		{"", errors.New("rpc error: code = Unavailable desc = " + unwell + "v3"), "v3"},
		{"", errors.New("deadline exceeded"), ""},
	} {
		if got := whose(c.message, c.err); got != c.want {
			t.Errorf("%q, %v: it met %q, want %q", c.message, c.err, got, c.want)
		}
	}
}
