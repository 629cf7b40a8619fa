package ledger

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// keptTransitions is how many transitions of a history are kept.
	keptTransitions = 1000
	// MaxBytes is how long a document may be, and what comes of it, each: they are written
	// at once, in base64.
	MaxBytes = kv.MaxCommit / 3
)

var unmarshal = protojson.UnmarshalOptions{DiscardUnknown: true}

// Book is where the states of one service's canaries, or experiments, are written, and
// their history. It remembers nothing.
type Book struct {
	Store   kv.Store
	Kind    control.Kind
	Service string
}

// Page is what a store has of one state.
type Page struct {
	// State is nil where there is none, or where it cannot be read: Problem says why.
	State   *controlv1.RunState
	Problem error
	// Version is that of the state's key; 0: there is none, or it is not known.
	Version uint64
}

// Key is where the state of a name is.
func (b Book) Key(name string) string { return control.StateKey(b.Kind, b.Service, name) }

// Read reads a state.
func (b Book) Read(ctx context.Context, name string) (Page, error) {
	e, err := b.Store.Get(ctx, b.Key(name))
	if errors.Is(err, kv.ErrNotFound) {
		return Page{}, nil
	}
	if err != nil {
		return Page{}, err
	}
	return b.page(name, e), nil
}

// pages returns those of entries that are states of this kind, by name.
func (b Book) pages(entries []kv.Entry) map[string]Page {
	pages := map[string]Page{}
	for _, e := range entries {
		if name, ok := strings.CutPrefix(e.Key, b.Key("")); ok && name != "" {
			pages[name] = b.page(name, e)
		}
	}
	return pages
}

func (b Book) page(name string, e kv.Entry) Page {
	s := &controlv1.RunState{}
	err := unmarshal.Unmarshal(e.Value, s)
	switch {
	case err != nil:
	case s.GetName() != name || s.GetService() != b.Service || s.GetKind() != string(b.Kind):
		err = fmt.Errorf("it is of %s %q of %q", s.GetKind(), s.GetName(), s.GetService())
	default:
		err = Check(s)
	}
	if err != nil {
		return Page{Problem: err, Version: e.Version}
	}
	return Page{State: s, Version: e.Version}
}

// Check says why a state cannot be one that an elected sidecar has written.
func Check(s *controlv1.RunState) error {
	if n := max(s.GetNumber(), s.GetRun(), s.GetRequest()); n > control.MaxNumber {
		return fmt.Errorf("it cannot have come to the number %d", n)
	}
	return nil
}

// Write writes a state, and its entry in the history, of which results may be nil, if the
// store has the given version of the state before it (0: none). written says that the
// store has it; the page is what it has otherwise: another has written that.
//
// After an error it is not known whether it was written, now or in a moment.
func (b Book) Write(ctx context.Context, next *controlv1.RunState, version uint64, results []byte) (now Page, written bool, err error) {
	state, err := protojson.Marshal(next)
	if err != nil {
		return Page{}, false, err
	}
	history, err := protojson.Marshal(transition(next, results))
	if err != nil {
		return Page{}, false, err
	}
	ops := []kv.Op{
		{Key: b.Key(next.GetName()), Value: state, Version: version},
		{Key: b.transitionKey(next, 0), Value: history, Any: true}, // one that is there is of states that were deleted
	}
	if next.GetNumber() > keptTransitions {
		ops = append(ops, kv.Op{Key: b.transitionKey(next, keptTransitions), Any: true})
	}
	err = b.Store.Commit(ctx, ops...)
	// What the state's version is now only reading tells, and whether it was written where
	// the answer was lost.
	now, readErr := b.Read(ctx, next.GetName())
	switch {
	case readErr == nil && proto.Equal(now.State, next):
		return now, true, nil
	case err == nil && readErr != nil:
		return Page{State: next}, true, nil //nolint:nilerr // it was written, of a version that is not known
	case err == nil, errors.As(err, new(*kv.ConflictError)):
		return now, false, readErr
	}
	return Page{}, false, err
}

// last returns what the history says of the highest number and run of a name.
func (b Book) last(ctx context.Context, name string) (*controlv1.RunState, error) {
	entries, err := b.Store.List(ctx, control.TransitionsPrefix(b.Kind, b.Service, name))
	if err != nil {
		return nil, err
	}
	var found Entry
	for _, e := range entries {
		t := &controlv1.Transition{}
		if unmarshal.Unmarshal(e.Value, t) == nil && Check(t.GetState()) == nil {
			found.remember(t.GetState())
		}
	}
	return &controlv1.RunState{Number: found.number, Run: found.run}, nil
}

// transition is a state's entry in the history.
func transition(s *controlv1.RunState, results []byte) *controlv1.Transition {
	t := &controlv1.Transition{State: proto.CloneOf(s), Results: results}
	t.State.Document = nil // it is in the history of documents, by its revision
	return t
}

// transitionKey is where the entry of a state is, or of the one that is so many before it.
func (b Book) transitionKey(s *controlv1.RunState, before uint64) string {
	return control.TransitionKey(b.Kind, b.Service, s.GetName(), s.GetNumber()-before)
}
