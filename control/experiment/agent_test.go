package experiment

import (
	"fmt"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// A service may have had any number of experiments: what is kept of those that are over is
// bounded, and those that ended last are kept.
func TestRunsThatAreOverAreBounded(t *testing.T) {
	t.Parallel()
	a := NewAgent(Options{})
	defer a.Close()
	const all = 3 * maxOver
	var states []*controlv1.RunState
	for i := range all {
		name := fmt.Sprintf("e%03d", i)
		doc, err := proto.Marshal(document(t, name))
		if err != nil {
			t.Fatal(err)
		}
		state := &controlv1.RunState{
			Kind: string(control.Experiment), Service: "shop", Name: name, Number: 1, Run: 1,
			Phase: controlv1.Phase_PHASE_RUNNING, Document: doc,
		}
		states = append(states, state)
		a.States("shop", states)
		state = proto.CloneOf(state)
		state.Number, state.Phase = 2, controlv1.Phase_PHASE_ENDED
		states[i] = state
		a.States("shop", states)
	}
	if len(a.over) != maxOver {
		t.Errorf("%d runs are kept, not %d", len(a.over), maxOver)
	}
	for i := all - maxOver; i < all; i++ {
		if a.over[fmt.Sprintf("e%03d", i)] == nil {
			t.Errorf("the run that ended as the %dth is not kept", i)
		}
	}
	a.States("shop", nil)
	if len(a.over) != 0 || len(a.services) != 0 {
		t.Errorf("%d runs and %d services are kept of what is deleted", len(a.over), len(a.services))
	}
}
