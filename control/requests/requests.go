// Package requests is people's side of what becomes of canaries and experiments: it asks
// the elected sidecar for something, waits for its answer, and reads states and their
// history. It decides nothing.
package requests

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/documents"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// maxTries is how often a request is written anew where somebody else has asked for
// something at the same moment.
const maxTries = 10

// Subject is a canary or an experiment.
type Subject struct {
	Kind          control.Kind
	Service, Name string
}

// Ask asks for something. The request's number and time are filled in, and the number is
// returned.
func Ask(ctx context.Context, store kv.Store, s Subject, q *controlv1.Request) (uint64, error) {
	key := control.RequestKey(s.Kind, s.Service, s.Name)
	var err error
	for range maxTries {
		var version, number uint64
		if version, number, err = last(ctx, store, s, key); err != nil {
			return 0, err
		}
		next := proto.CloneOf(q)
		next.Number, next.Time = control.Next(number), timestamppb.Now()
		var value []byte
		if value, err = protojson.Marshal(next); err != nil {
			return 0, err
		}
		err = store.Commit(ctx, kv.Op{Key: key, Value: value, Version: version})
		if err == nil {
			return next.GetNumber(), nil
		}
		if !errors.As(err, new(*kv.ConflictError)) {
			break
		}
	}
	return 0, fmt.Errorf("the request could not be written: %w", err)
}

// last returns the version of the request that is there, and the highest number that is
// known: a state may know of requests that were deleted.
func last(ctx context.Context, store kv.Store, s Subject, key string) (version, number uint64, err error) {
	e, err := store.Get(ctx, key)
	switch {
	case errors.Is(err, kv.ErrNotFound):
	case err != nil:
		return 0, 0, fmt.Errorf("the last request cannot be read: %w", err)
	default:
		version = e.Version
		q := &controlv1.Request{}
		if unmarshal.Unmarshal(e.Value, q) == nil { // what is wrong is written over
			number = q.GetNumber()
		}
	}
	state, err := State(ctx, store, s)
	if err != nil {
		return 0, 0, err
	}
	return version, max(number, state.GetRequest()), nil
}

// Await waits until a request was done or refused, and returns the state after it. Where
// ctx ends before, it returns its error, with what is known.
func Await(ctx context.Context, store kv.Store, s Subject, number uint64) (*controlv1.RunState, error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var (
		found *controlv1.RunState
		away  error
	)
	key := control.StateKey(s.Kind, s.Service, s.Name)
	store.Watch(watching, key, func(now kv.State) {
		away = now.Err
		for _, e := range now.Entries {
			state := &controlv1.RunState{}
			if e.Key == key && unmarshal.Unmarshal(e.Value, state) == nil {
				if found = state; !control.After(number, state.GetRequest()) {
					stop()
				}
			}
		}
	})
	if found != nil && !control.After(number, found.GetRequest()) {
		return found, nil
	}
	if away != nil {
		return found, away
	}
	return found, ctx.Err()
}

// Follow hands each state over to see, the present one first, until that says that it is
// enough, and returns the last. States that were soon followed by others are skipped. It
// waits while the store is away; where there is no state it hands over nil.
func Follow(ctx context.Context, store kv.Store, s Subject, see func(*controlv1.RunState) (enough bool)) (*controlv1.RunState, error) {
	watching, stop := context.WithCancel(ctx)
	defer stop()
	var (
		last   *controlv1.RunState
		denied error
		enough bool
	)
	key := control.StateKey(s.Kind, s.Service, s.Name)
	store.Watch(watching, key, func(now kv.State) {
		if errors.Is(now.Err, kv.ErrDenied) {
			denied = now.Err
			stop()
		}
		if now.Err != nil || enough {
			return
		}
		last = nil
		for _, e := range now.Entries {
			state := &controlv1.RunState{}
			if e.Key == key && unmarshal.Unmarshal(e.Value, state) == nil {
				last = state
			}
		}
		if enough = see(last); enough {
			stop()
		}
	})
	switch {
	case enough:
		return last, nil
	case denied != nil:
		return last, denied
	}
	return last, ctx.Err()
}

// lasting is how long a request waits for somebody to be elected who does it.
const lasting = time.Hour

// Outdated says why a request is not done any more; nil: it is. Whoever asked for something
// does not expect it days later, when a sidecar starts, a state was removed or a snapshot
// of the store restored. What ends a run is done whenever it was asked.
func Outdated(q *controlv1.Request, now time.Time) error {
	switch q.GetAction() {
	case controlv1.Action_ACTION_PAUSE, controlv1.Action_ACTION_ABORT, controlv1.Action_ACTION_STOP:
		return nil
	}
	if asked := q.GetTime(); asked != nil && now.Sub(asked.AsTime()) > lasting {
		return fmt.Errorf("it was asked at %s, which is more than %v ago: ask again", asked.AsTime().Format(time.RFC3339), lasting)
	}
	return nil
}

// Refusal is what the state after a request says that was refused, and when.
func Refusal(q *controlv1.Request, why error, at time.Time) *controlv1.Refusal {
	return &controlv1.Refusal{
		Action: q.GetAction(), Author: documents.Line(q.GetAuthor()), Reason: documents.Line(why.Error()), Time: timestamppb.New(at),
	}
}

// Refused says on one line that a request was refused which a state is the answer to, and
// why; "": it was done.
func Refused(state *controlv1.RunState) string {
	r := state.GetRefusal()
	if r == nil {
		return ""
	}
	return documents.Line(Verb(r.GetAction()) + " was refused: " + r.GetReason())
}

// Verb is what an action is called in commands.
func Verb(a controlv1.Action) string {
	if a == controlv1.Action_ACTION_PROMOTE_FULLY {
		return "promote --fully"
	}
	if _, known := controlv1.Action_name[int32(a)]; !known {
		return fmt.Sprintf("action %d", a)
	}
	return strings.ToLower(strings.TrimPrefix(a.String(), "ACTION_"))
}

// State returns where it stands; nil: it never ran.
func State(ctx context.Context, store kv.Store, s Subject) (*controlv1.RunState, error) {
	e, err := store.Get(ctx, control.StateKey(s.Kind, s.Service, s.Name))
	if errors.Is(err, kv.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("the state of %s %q cannot be read: %w", s.Kind, s.Name, err)
	}
	state := &controlv1.RunState{}
	if err := unmarshal.Unmarshal(e.Value, state); err != nil {
		return nil, fmt.Errorf("the state of %s %q, %s, is wrong: %w", s.Kind, s.Name, e.Key, err)
	}
	return state, nil
}

// statesPrefix is what the states of all services are below.
const statesPrefix = control.Root + "state/"

// States returns the states of all canaries, or experiments, of all services, in the order
// of services and names. What cannot be read is left out.
func States(ctx context.Context, store kv.Store, kind control.Kind) ([]*controlv1.RunState, error) {
	entries, err := store.List(ctx, statesPrefix)
	if err != nil {
		return nil, fmt.Errorf("the states cannot be read: %w", err)
	}
	var list []*controlv1.RunState
	for _, e := range entries {
		state := &controlv1.RunState{}
		if unmarshal.Unmarshal(e.Value, state) == nil && state.GetKind() == string(kind) &&
			control.StateKey(kind, state.GetService(), state.GetName()) == e.Key { // another's state says nothing of this one
			list = append(list, state)
		}
	}
	return list, nil
}

// History returns all transitions, in their order. What cannot be read is left out.
func History(ctx context.Context, store kv.Store, s Subject) ([]*controlv1.Transition, error) {
	entries, err := store.List(ctx, control.TransitionsPrefix(s.Kind, s.Service, s.Name))
	if err != nil {
		return nil, fmt.Errorf("the history of %s %q cannot be read: %w", s.Kind, s.Name, err)
	}
	list := make([]*controlv1.Transition, 0, len(entries))
	for _, e := range entries {
		one := &controlv1.Transition{}
		if unmarshal.Unmarshal(e.Value, one) == nil {
			list = append(list, one)
		}
	}
	return list, nil // their keys are in the order of their numbers, whatever clocks say
}

// Patience is how long commands wait for the elected sidecar: one has to be elected first.
const Patience = 15 * time.Second

var unmarshal = protojson.UnmarshalOptions{DiscardUnknown: true}
