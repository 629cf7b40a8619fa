package experiment

import (
	"context"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
	meshv1 "github.com/pillion-proxy/pillion/proto/pillion/mesh/v1"
)

func inLayer(start, end uint32) func(*configv1.Experiment) {
	return func(e *configv1.Experiment) { e.Layer = &configv1.Layer{Name: "prices", Start: start, End: new(end)} }
}

// meeting has two who list all states see nothing of what the other is about to write.
type meeting struct {
	kv.Store
	all  *atomic.Int32
	meet chan struct{}
}

func (m meeting) List(ctx context.Context, prefix string) ([]kv.Entry, error) {
	list, err := m.Store.List(ctx, prefix)
	if prefix == statesPrefix {
		switch m.all.Add(1) {
		case 1:
			<-m.meet
		case 2:
			close(m.meet)
		}
	}
	return list, err
}

// Two elected sidecars start, at once, what has units in common: one of them stays.
func TestStartedInTheSameMoment(t *testing.T) {
	for name, test := range map[string]struct {
		start, end uint32
		runs       int
	}{
		"units in common": {4000, 10_000, 1},
		"none in common":  {5000, 10_000, 2},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, w *world) {
				m := meeting{w.memory.Store(), new(atomic.Int32), make(chan struct{})}
				var leads []interface{ Close() }
				for _, service := range []string{"shop", "search"} {
					e := document(t, "of-"+service, inLayer(0, 5000))
					if service == "search" {
						e = document(t, "of-"+service, inLayer(test.start, test.end))
					}
					e.Service = service
					w.write(control.DocumentKey(control.Experiment, service, e.GetName()), &controlv1.Document{
						Revision: 1, Body: &controlv1.Document_Experiment{Experiment: e},
					})
					w.write(control.RequestKey(control.Experiment, service, e.GetName()), &controlv1.Request{
						Number: 1, Action: controlv1.Action_ACTION_START, Author: "ann", Revision: 1,
					})
					leads = append(leads, Lead(LeadOptions{ID: "of " + service})(t.Context(), service, m, func(*meshv1.ReportResponse) {}))
				}
				synctest.Wait()
				states := func() (running, over []*controlv1.RunState) {
					for _, service := range []string{"shop", "search"} {
						s := w.stateOf(service, "of-"+service)
						if runs(s) {
							running = append(running, s)
						} else {
							over = append(over, s)
						}
					}
					return running, over
				}
				time.Sleep(lookBeside + time.Minute)
				synctest.Wait()
				running, over := states()
				if len(running) != test.runs {
					t.Errorf("%d run, not %d", len(running), test.runs)
				}
				for _, s := range over {
					if s.GetRun() != 1 {
						t.Error("it was never started: the test shows nothing")
					}
					if !strings.Contains(s.GetReason(), `in "`+running[0].GetName()+`", which is running`) {
						t.Errorf("the reason is %q", s.GetReason())
					}
				}
				for _, l := range leads {
					l.Close()
				}
			})
		})
	}
}

// Whoever started earlier stays, also where the other could be seen only later.
func TestWhoGivesWay(t *testing.T) {
	for name, test := range map[string]struct {
		earlier time.Duration
		service string
		yields  bool
	}{
		"it started earlier":             {time.Millisecond, "tail", true},
		"it started later":               {-time.Millisecond, "search", false},
		"its name is before":             {0, "search", true},
		"its name is behind":             {0, "tail", false},
		"it started earlier and is seen": {time.Second, "search", true},
	} {
		t.Run(name, func(t *testing.T) {
			play(t, func(t *testing.T, w *world) {
				w.elect(LeadOptions{})
				w.running(document(t, "checkout", inLayer(0, 5000)))
				time.Sleep(5 * time.Second) // it has looked at once
				other := document(t, "other", inLayer(2000, 3000))
				other.Service = test.service
				raw, _ := proto.Marshal(other)
				started := w.state("checkout").GetStarted().AsTime().Add(-test.earlier)
				w.write(control.StateKey(control.Experiment, test.service, "other"), &controlv1.RunState{
					Kind: "experiment", Name: "other", Service: test.service, Number: 1, Run: 1, Phase: controlv1.Phase_PHASE_RUNNING,
					Document: raw, Started: timestamppb.New(started),
				})
				w.pass(lookBeside)
				if state := w.state("checkout"); runs(state) == test.yields {
					t.Errorf("it is %v: %s", state.GetPhase(), state.GetReason())
				}
			})
		})
	}
}
