package demo

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control/experiment/report"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

// A story waits until something is so, gives up when it does not come to be, and ends
// when somebody ends it.
func TestUntil(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &stage{fleet: &fleet{}, screen: newScreen(&bytes.Buffer{}, false, nil)}
		start := time.Now()
		if err := s.rest(t.Context(), 3*time.Second); err != nil || time.Since(start) > 3100*time.Millisecond {
			t.Errorf("it rests for %v: %v", time.Since(start), err)
		}
		err := s.until(t.Context(), "it rains", time.Minute, func() bool { return false })
		if !errors.Is(err, ErrNotSo) || !strings.Contains(err.Error(), "after 1m0s still not: it rains") {
			t.Errorf("what does not come to be: %v", err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if err := s.rest(ctx, time.Hour); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("when it is ended: %v", err)
		}
	})
}

// Only those sidecars may be elected that the story names.
func TestDeciders(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		f      fleet
		beside string
		want   string
	}{
		{fleet{}, "v1", ""},
		{fleet{controlled: true}, "v1", "control: {dir: control}\n"},
		{fleet{controlled: true, deciders: []string{"v1"}}, "v1", "control: {dir: control}\n"},
		{fleet{controlled: true, deciders: []string{"v1"}}, "v2", "control: {dir: control, candidate: false}\n"},
		{fleet{controlled: true, deciders: []string{"v1"}}, "", "control: {dir: control}\n"},
	} {
		if got := c.f.control(c.beside); got != c.want {
			t.Errorf("beside %q: %q, want %q", c.beside, got, c.want)
		}
	}
}

// Which sidecar was faster than the elected one is told from what they logged.
func TestTrips(t *testing.T) {
	t.Parallel()
	start := time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)
	one, two := &process{name: "the sidecar of client 1"}, &process{name: "the sidecar of client 2"}
	one.hear(`{"time":"2026-01-31T12:00:02Z","msg":"` + tripped + `","canary":"greeter-v3","run":1}`)
	one.hear(`{"time":"2026-01-31T12:00:09Z","msg":"` + tripped + `","canary":"greeter-v3","run":2}`)
	two.hear(`{"time":"2026-01-31T12:00:01Z","msg":"` + tripped + `","canary":"greeter-v3","run":1}`)
	two.hear(`{"time":"2026-01-31T12:00:01Z","msg":"` + tripped + `","canary":"another","run":1}`)
	s := &stage{fleet: &fleet{clients: []sidecar{{process: one}, {process: two}}}}
	const want = "these had seen enough by themselves, and took their own RPCs off v3: the sidecar of client 2 after 1.00 s, the sidecar of client 1 after 2.00 s"
	if got := s.tripsTold("greeter-v3", 1, start, start.Add(3*time.Second)); got != want {
		t.Errorf("it tells:\n%s\nwant:\n%s", got, want)
	}
	if got := s.tripsTold("greeter-v3", 1, start, start.Add(time.Second)); !strings.HasPrefix(got, "no sidecar") {
		t.Errorf("before the first one it tells %q", got)
	}
}

func TestStepsOf(t *testing.T) {
	t.Parallel()
	var run []*controlv1.RunState
	for i, weight := range []uint32{1000, 5000, 10000} {
		run = append(run, &controlv1.RunState{Phase: controlv1.Phase_PHASE_RUNNING, Weight: weight, Since: timestamppb.New(time.Unix(int64(i), 0))})
	}
	run = append(run, &controlv1.RunState{Phase: controlv1.Phase_PHASE_PROMOTED, Weight: 10000, Since: timestamppb.New(time.Unix(3, 0))})
	weights, changes := stepsOf(run)
	if weights != "10 %, 50 %, 100 %" || len(changes) != 4 || !changes[3].Equal(time.Unix(3, 0)) {
		t.Errorf("the steps are %s, at %v", weights, changes)
	}
}

func TestEvidenceTold(t *testing.T) {
	t.Parallel()
	e := &meshv1.EvidenceResponse{
		State:  &controlv1.RunState{Phase: controlv1.Phase_PHASE_RUNNING, Weight: 1000},
		Guards: []*controlv1.GuardState{{Name: "a", P: 1}, {Name: "b", P: 0.004}},
		Tally:  &controlv1.Tally{StableRpcs: 900, StableFailures: 1, CanaryRpcs: 100, CanaryFailures: 7},
	}
	if got, want := evidenceTold(e), "canary 10 %: 7 of 100 RPCs failed, stable 1 of 900, p 0.004"; got != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
	e.State.Phase = controlv1.Phase_PHASE_PROMOTED
	if got, want := evidenceTold(e), "canary promoted"; got != want {
		t.Errorf("it tells %q, want %q", got, want)
	}
}

// Each verdict there is has words, and the intervals that were seen have to become narrower.
func TestVerdicts(t *testing.T) {
	t.Parallel()
	for _, v := range []report.Verdict{report.Better, report.Worse, report.Open, report.Negligible, report.TooFew, report.None} {
		if verdicts[v] == "" {
			t.Errorf("%q has no words", v)
		}
	}
	wide, narrow := report.Range{Low: -1, High: 1}, report.Range{Low: 0, High: 0.5}
	if looks := []report.Range{wide, narrow}; !narrower(looks) || narrower(looks[:1]) {
		t.Error("one that became narrower did not")
	} else if slices.Reverse(looks); narrower(looks) {
		t.Error("one that became wider is narrower")
	}
	for name, known := range map[string]bool{experimentName: true, alikeName: true, "another": false} {
		a, err := analyze(name, &meshv1.ResultsResponse{})
		if (err == nil) != known {
			t.Errorf("%s: %v", name, err)
		}
		if known && (a.Measures[revenue].Name != "revenue" || len(a.Measures[revenue].Comparisons) != 1) {
			t.Errorf("%s does not compare revenue: %+v", name, a.Measures)
		}
	}
}
