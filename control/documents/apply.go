package documents

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

const (
	// maxBatch bounds how many documents are written in one commit. Each takes two keys,
	// or three where it moves from one service to another.
	maxBatch = 30
	// maxAttempts bounds how often a change is tried again that somebody else was in the
	// way of without having changed the same documents.
	maxAttempts = 10

	// Bounds of what people say of a change, in bytes.
	maxAuthor  = 256
	maxMessage = 4 << 10
)

// Result is what has become of what was asked for.
type Result struct {
	// Changes are those that were made, or, in a dry run, would be.
	Changes []*Change
	// Unchanged is how many documents were as they were to be already.
	Unchanged int
	// Warnings say what is hardly meant, a line each.
	Warnings []string
}

// ConflictError says that somebody else has changed documents meanwhile, which therefore
// were not written.
type ConflictError struct {
	// Lines say who changed what.
	Lines []string
}

// Error has a line for each document.
func (e *ConflictError) Error() string { return strings.Join(e.Lines, "\n") }

// Apply does what is wanted, after all of it was checked. It is done in commits of up to
// 30 documents each: an error may come with a result that says which of them were
// written. Documents that are as they are to be are not written again.
func (d *Documents) Apply(ctx context.Context, w Wanted) (*Result, error) {
	if len(w.Author) > maxAuthor || len(w.Message) > maxMessage {
		return nil, fmt.Errorf("the author's name may have %d bytes, the message %d: say it shorter", maxAuthor, maxMessage)
	}
	defer configyaml.HoldRules()()
	a := &applying{d: d, w: &w, result: &Result{}}
	err := a.run(ctx)
	if len(a.result.Changes) == 0 && err != nil {
		return nil, err
	}
	if err != nil {
		err = fmt.Errorf("%d documents were written, and then: %w", len(a.result.Changes), err)
	}
	return a.result, err
}

// Changes says what would be done for what is wanted, without checking it.
func (d *Documents) Changes(ctx context.Context, w Wanted) ([]*Change, error) {
	state, err := d.Load(ctx)
	if err != nil {
		return nil, err
	}
	return w.changes(state)
}

// applying is the state of one Apply.
type applying struct {
	d      *Documents
	w      *Wanted
	result *Result
	// first is the state that the change is meant for.
	first *State
}

func (a *applying) run(ctx context.Context) error {
	for attempt := range maxAttempts {
		state, err := a.d.Load(ctx)
		if err != nil {
			return err
		}
		if a.first == nil {
			a.first = state
			if err := a.w.expected(state); err != nil {
				return err
			}
		}
		changes, err := a.changes(state)
		if err != nil {
			return err
		}
		if err := a.meanwhile(ctx, changes); err != nil {
			return err
		}
		if err := a.check(ctx, state, changes); err != nil {
			return err
		}
		for _, c := range changes {
			if err := a.d.number(ctx, c, attempt > 0); err != nil {
				return err
			}
		}
		if a.w.DryRun {
			a.result.Changes = changes
			return nil
		}
		err = a.commit(ctx, changes)
		if errors.As(err, new(*kv.ConflictError)) {
			continue
		}
		if err != nil {
			return err
		}
		return a.again(ctx, changes)
	}
	return errors.New("others are changing the same documents all the time: try again")
}

// changes are what is still to be done.
func (a *applying) changes(state *State) ([]*Change, error) {
	w := *a.w
	if state != a.first {
		// What is to be deleted may be gone by now, by our own commits or somebody else's.
		w.Delete = nil
		for _, id := range a.w.Delete {
			if state.Find(id) != nil {
				w.Delete = append(w.Delete, id)
			}
		}
	}
	changes, err := w.changes(state)
	if err != nil {
		return nil, err
	}
	if state == a.first {
		written := 0
		for _, c := range changes {
			if c.After != nil {
				written++
			}
		}
		a.result.Unchanged = len(w.Documents) - written
	}
	kept := changes[:0]
	for _, c := range changes {
		if c.After == nil && a.first.Find(c.ID) == nil {
			continue // somebody has just made it: nobody can have meant to prune that
		}
		kept = append(kept, c)
	}
	return kept, nil
}

// meanwhile finds documents that somebody else has changed since the change was meant.
func (a *applying) meanwhile(ctx context.Context, changes []*Change) error {
	var lines []string
	for _, c := range changes {
		first := a.first.Find(c.ID)
		switch {
		case version(first) == version(c.Before):
		case c.Before == nil:
			by := "somebody else"
			if last, err := a.d.last(ctx, c.ID); err == nil && last != nil {
				by = said(last)
			}
			lines = append(lines, fmt.Sprintf("%s: it was deleted meanwhile, in %s: look at it with pillion diff, and apply it again", c.ID, by))
		default:
			lines = append(lines, fmt.Sprintf("%s: it was changed meanwhile, in %s: look at it with pillion diff, and apply it again", c.ID, said(c.Before.Document)))
		}
	}
	if len(lines) > 0 {
		return &ConflictError{lines}
	}
	return nil
}

func version(s *Stored) uint64 {
	if s == nil {
		return 0
	}
	return s.version
}

// check checks all that is to be done.
func (a *applying) check(ctx context.Context, state *State, changes []*Change) error {
	if err := a.sizes(changes); err != nil {
		return err
	}
	var err error
	if a.result.Warnings, err = a.d.mind(ctx, changes, a.w.Force); err != nil {
		return err
	}
	warnings, err := a.d.verify(state, changes, a.w.SubsetsElsewhere)
	if forced := a.w.Force && onlyDeletes(changes); err != nil && !forced {
		return err
	}
	a.result.Warnings = append(a.result.Warnings, warnings...)
	return nil
}

func onlyDeletes(changes []*Change) bool {
	for _, c := range changes {
		if c.After != nil {
			return false
		}
	}
	return true
}

// sizes checks that each document can be kept.
func (a *applying) sizes(changes []*Change) error {
	var found []Refusal
	for _, c := range changes {
		if c.After == nil {
			continue
		}
		if _, err := encode(a.stamped(c)); err != nil {
			found = append(found, Refusal{ID: c.ID, Message: err.Error()})
		}
	}
	if len(found) > 0 {
		return &RefusedError{found}
	}
	return nil
}

// stamped is what is written of a change.
func (a *applying) stamped(c *Change) *controlv1.Document {
	d := &controlv1.Document{}
	if c.After != nil {
		d = proto.CloneOf(c.After)
	}
	d.Revision, d.Author, d.Message = c.Revision, a.w.Author, a.w.Message
	d.Time = timestamppb.New(a.d.o.Now())
	return d
}

// commit writes the changes, those of a service at once as far as that is possible.
func (a *applying) commit(ctx context.Context, changes []*Change) error {
	var batch []*Change
	var ops []kv.Op
	size := 0
	flush := func() error {
		if len(batch) == 0 {
			return nil
		}
		err := a.d.store.Commit(ctx, ops...)
		if errors.As(err, new(*kv.ConflictError)) {
			return err
		}
		if err != nil {
			return a.d.notWritten(err)
		}
		a.result.Changes = append(a.result.Changes, batch...)
		a.d.trim(ctx, batch)
		batch, ops, size = nil, nil, 0
		return nil
	}
	for start := 0; start < len(changes); {
		end := start + 1
		for end < len(changes) && changes[end].Service == changes[start].Service {
			end++
		}
		var service []*Change
		service, start = changes[start:end], end
		next := make([][]kv.Op, len(service))
		together := 0
		for i, c := range service {
			var err error
			if next[i], err = a.ops(c); err != nil {
				return err
			}
			together += sizeOf(next[i])
		}
		// A service that does not fit beside others begins a batch of its own.
		if len(batch)+len(service) > maxBatch || size+together > kv.MaxCommit {
			if err := flush(); err != nil {
				return err
			}
		}
		for i, c := range service {
			if n := sizeOf(next[i]); len(batch) == maxBatch || len(ops)+len(next[i]) > kv.MaxOps || size+n > kv.MaxCommit {
				if err := flush(); err != nil {
					return err
				}
			}
			batch, ops, size = append(batch, c), append(ops, next[i]...), size+sizeOf(next[i])
		}
	}
	return flush()
}

func sizeOf(ops []kv.Op) (n int) {
	for _, op := range ops {
		n += len(op.Key) + len(op.Value)
	}
	return n
}

// ops are what a change does to the store.
func (a *applying) ops(c *Change) ([]kv.Op, error) {
	stamped := a.stamped(c)
	value, err := encode(stamped)
	if err != nil {
		return nil, Refusal{ID: c.ID, Message: err.Error()}
	}
	ops := []kv.Op{{Key: control.HistoryKey(c.ID.Kind, c.ID.Name, c.Revision), Value: value}}
	if c.Before != nil {
		for _, stale := range c.Before.stale {
			ops = append(ops, kv.Op{Key: stale.key(), Version: stale.version})
		}
	}
	key := control.DocumentKey(c.ID.Kind, c.Service, c.ID.Name)
	switch {
	case c.After == nil:
		return append(ops, kv.Op{Key: c.Before.key(), Version: c.Before.version}), nil
	case c.Before == nil:
		ops = append(ops, kv.Op{Key: key, Value: value})
	case c.Before.key() != key:
		ops = append(ops, kv.Op{Key: key, Value: value}, kv.Op{Key: c.Before.key(), Version: c.Before.version})
	default:
		ops = append(ops, kv.Op{Key: key, Value: value, Version: c.Before.version})
	}
	c.After = stamped
	return ops, nil
}

// notWritten says that the store did not take a commit, or may not have.
func (d *Documents) notWritten(err error) error {
	if errors.Is(err, kv.ErrDenied) {
		return d.failed("write", err)
	}
	return fmt.Errorf("%w (it may have been written nevertheless: pillion diff says so)", d.failed("write", err))
}

// again looks whether what was written still holds beside what others have written at
// the same moment, and warns where it does not.
func (a *applying) again(ctx context.Context, changes []*Change) error {
	if len(changes) == 0 {
		return nil
	}
	state, err := a.d.Load(ctx)
	if err != nil {
		return nil //nolint:nilerr // it is written, and was in order when it was
	}
	ours := map[ID]bool{}
	for _, c := range changes {
		ours[c.ID] = true
	}
	_, now := a.d.sets(state, nil, a.w.SubsetsElsewhere)
	for _, r := range now.refusals() {
		if one := state.Find(r.ID); ours[r.ID] || one != nil && version(one) != version(a.first.Find(r.ID)) {
			a.result.Warnings = append(a.result.Warnings, r.Error()+" (somebody else has changed something at the same moment: sidecars refuse this one)")
		}
	}
	return nil
}
