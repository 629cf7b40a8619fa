package canary

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// This is people's side: what commands do with the store alone.

// maxAsks bounds how often a request is tried to be written while others write theirs.
const maxAsks = 10

// Ask writes a request for a canary of a service; whoever is elected does it. Its number is
// filled in, and returned.
func Ask(ctx context.Context, store kv.Store, service, name string, q *controlv1.Request) (uint64, error) {
	key := control.RequestKey(control.Canary, service, name)
	for range maxAsks {
		var before controlv1.Request
		entry, err := store.Get(ctx, key)
		if err == nil {
			err = protojson.UnmarshalOptions{DiscardUnknown: true}.Unmarshal(entry.Value, &before)
		}
		if err != nil && !errors.Is(err, kv.ErrNotFound) {
			return 0, fmt.Errorf("%s: %w", store.Describe(), err)
		}
		state, err := State(ctx, store, service, name)
		if err != nil {
			return 0, err
		}
		// Requests go on counting though somebody has removed the last one.
		q.Number = max(before.GetNumber(), state.GetRequest()) + 1
		if q.Time == nil {
			q.Time = timestamppb.Now()
		}
		value, err := protojson.Marshal(q)
		if err != nil {
			return 0, err
		}
		err = store.Commit(ctx, kv.Op{Key: key, Value: value, Version: entry.Version})
		if errors.As(err, new(*kv.ConflictError)) {
			continue
		}
		if err != nil {
			return 0, fmt.Errorf("%s: %w", store.Describe(), err)
		}
		return q.GetNumber(), nil
	}
	return 0, errors.New("others ask something of the same canary all the time: try again")
}

// RefusedError says why a request was refused.
type RefusedError struct{ Reason string }

// Error is the state's reason, such as "resume was refused: it is running".
func (e *RefusedError) Error() string { return e.Reason }

// Await waits until a request is done, and returns the state just after it. Where it was
// refused the error is a RefusedError.
func Await(ctx context.Context, store kv.Store, service, name string, number uint64, action controlv1.Action) (*controlv1.RunState, error) {
	waiting, found := context.WithCancel(ctx)
	defer found()
	store.Watch(waiting, control.StateKey(control.Canary, service, name), func(kv.State) {
		if s, err := State(waiting, store, service, name); err == nil && s.GetRequest() >= number {
			found()
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	list, err := History(ctx, store, service, name)
	if err != nil {
		return nil, err
	}
	last, err := State(ctx, store, service, name)
	if err != nil {
		return nil, err
	}
	for _, t := range list {
		s := t.GetState()
		if s.GetRequest() < number {
			continue
		}
		if s.GetRun() == last.GetRun() {
			s.Document = last.GetDocument() // which the history does not have
		}
		if s.GetRequest() == number && strings.HasPrefix(s.GetReason(), refusal(action)) {
			return s, &RefusedError{s.GetReason()}
		}
		return s, nil
	}
	return last, nil // the history is bounded
}

// refusal is what the reason of a state begins with after an action was refused.
func refusal(a controlv1.Action) string { return verb(a) + " was refused: " }

// State returns the state of a canary; nil: it was never started.
func State(ctx context.Context, store kv.Store, service, name string) (*controlv1.RunState, error) {
	entry, err := store.Get(ctx, control.StateKey(control.Canary, service, name))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	var s *controlv1.RunState
	if err == nil {
		s, err = readState(entry)
	}
	if err != nil {
		return nil, fmt.Errorf("%s: %w", store.Describe(), err)
	}
	return s, nil
}

// States returns the states of the canaries of all services, those that run first, then
// the others, the last of them first.
func States(ctx context.Context, store kv.Store) ([]*controlv1.RunState, error) {
	entries, err := store.List(ctx, control.Root+"state/")
	if err != nil {
		return nil, fmt.Errorf("%s: %w", store.Describe(), err)
	}
	var list []*controlv1.RunState
	for _, e := range entries {
		if s, err := readState(e); err == nil && s.GetKind() == kind && control.StateKey(control.Canary, s.GetService(), s.GetName()) == e.Key {
			list = append(list, s)
		}
	}
	slices.SortStableFunc(list, func(a, b *controlv1.RunState) int {
		if x, y := Active(a.GetPhase()), Active(b.GetPhase()); x != y {
			if x {
				return -1
			}
			return 1
		}
		return b.GetSince().AsTime().Compare(a.GetSince().AsTime())
	})
	return list, nil
}

// History returns the transitions of a canary, the oldest that is kept first.
func History(ctx context.Context, store kv.Store, service, name string) ([]*controlv1.Transition, error) {
	entries, err := store.List(ctx, control.TransitionsPrefix(control.Canary, service, name))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", store.Describe(), err)
	}
	var list []*controlv1.Transition
	for _, e := range entries {
		t := new(controlv1.Transition)
		if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, t); err != nil {
			return nil, fmt.Errorf("%s: %s: %w", store.Describe(), e.Key, err)
		}
		list = append(list, t)
	}
	return list, nil
}

// Document returns the canary that a state runs, with its defaults.
func Document(s *controlv1.RunState) (*configv1.Canary, error) { return readDocument(s) }
