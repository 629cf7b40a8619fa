package documents

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Change is what becomes of one document.
type Change struct {
	ID      ID
	Service string // that it is for afterwards, or was for
	// Before is what is in the store; nil: nothing is.
	Before *Stored
	// After is what is to be, with its revision; nil: it is deleted.
	After *controlv1.Document
	// Revision is the number of what is written.
	Revision uint64
}

// Verb says in a word what becomes of it.
func (c *Change) Verb() string {
	switch {
	case c.After == nil:
		return "deleted"
	case c.After.GetRestores() != 0:
		return fmt.Sprintf("restored from revision %d", c.After.GetRestores())
	case c.Before == nil:
		return "created"
	}
	return "changed"
}

// Wanted is what is asked for.
type Wanted struct {
	// Documents are to be as they are here; see [Of].
	Documents []*controlv1.Document
	// Delete are not to be there.
	Delete []ID
	// Prune has all other documents deleted of the services that Documents are for.
	Prune bool
	// Restores is the revision that the one document brings back; 0: none.
	Restores uint64

	// Author and Message say who asks, and why.
	Author, Message string
	// Expect are the revisions that documents must have now, 0 for none.
	Expect map[ID]uint64
	// SubsetsElsewhere says that subsets which canaries and experiments name may be
	// defined elsewhere than in documents.
	SubsetsElsewhere bool
	// Force deletes what runs, and what others need.
	Force bool
	// DryRun has nothing be written.
	DryRun bool
}

// changes says what has to be done for what is wanted.
func (w *Wanted) changes(state *State) ([]*Change, error) {
	var all []*Change
	wanted, services := map[ID]bool{}, map[string]bool{}
	for _, d := range w.Documents {
		id, service := IDOf(d)
		if wanted[id] {
			return nil, fmt.Errorf("%s is there twice: leave out one of them", id)
		}
		wanted[id], services[service] = true, true
		before := state.Find(id)
		if before != nil && before.Problem == nil && len(before.stale) == 0 && proto.Equal(Body(before.Document), Body(d)) {
			continue
		}
		after := proto.CloneOf(d)
		after.Restores = w.Restores
		all = append(all, &Change{ID: id, Service: service, Before: before, After: after})
	}
	gone := map[ID]bool{}
	for _, id := range w.Delete {
		before := state.Find(id)
		switch {
		case before == nil:
			return nil, fmt.Errorf("%s: there is no such document", id)
		case !gone[id]:
			gone[id] = true
			all = append(all, &Change{ID: id, Service: before.Service, Before: before})
		}
	}
	if w.Prune {
		for _, one := range state.All {
			if services[one.Service] && !wanted[one.ID] && !gone[one.ID] {
				all = append(all, &Change{ID: one.ID, Service: one.Service, Before: one})
			}
		}
	}
	slices.SortStableFunc(all, func(a, b *Change) int {
		// What defines subsets comes before what names them, what is deleted comes last.
		return cmp.Or(cmp.Compare(a.Service, b.Service), cmp.Compare(a.rank(), b.rank()), a.ID.compare(b.ID))
	})
	return all, nil
}

func (c *Change) rank() int {
	switch {
	case c.After == nil:
		return 2
	case c.After.GetPolicy().GetSubsets() != nil:
		return 0
	}
	return 1
}

// expected checks that documents have the revisions that they must have.
func (w *Wanted) expected(state *State) error {
	var errs []error
	for _, id := range sortedIDs(w.Expect) {
		var is uint64
		one := state.Find(id)
		if one != nil {
			is = one.Document.GetRevision()
		}
		switch want := w.Expect[id]; {
		case is == want:
		case one == nil:
			errs = append(errs, fmt.Errorf("%s: revision %d is expected, but there is no such document", id, want))
		default:
			errs = append(errs, fmt.Errorf("%s: revision %d is expected, but it has %s", id, want, said(one.Document)))
		}
	}
	return errors.Join(errs...)
}

func sortedIDs[V any](m map[ID]V) []ID {
	ids := make([]ID, 0, len(m))
	for id := range m {
		ids = append(ids, id)
	}
	slices.SortFunc(ids, ID.compare)
	return ids
}

// said says which revision it is, by whom, when and why.
func said(d *controlv1.Document) string {
	text := fmt.Sprintf("revision %d by %s", d.GetRevision(), cmp.Or(Printable(d.GetAuthor()), "nobody"))
	if d.GetTime() != nil {
		text += " at " + d.GetTime().AsTime().Format(time.RFC3339)
	}
	if message := Printable(d.GetMessage()); message != "" {
		text += fmt.Sprintf(" (%q)", message)
	}
	return text
}

// number gives a change its revision: the last of its history and one. fresh says that
// what the document says of that is not to be believed.
func (d *Documents) number(ctx context.Context, c *Change, fresh bool) error {
	if c.Before != nil && !fresh && c.Before.Problem == nil {
		c.Revision = c.Before.Document.GetRevision() + 1
		return nil
	}
	entries, err := d.store.List(ctx, control.HistoryPrefix(c.ID.Kind, c.ID.Name))
	if err != nil {
		return d.failed("read the history of "+c.ID.String(), err)
	}
	last := uint64(0)
	for _, e := range entries {
		if n, ok := revisionOf(e.Key); ok {
			last = max(last, n)
		}
	}
	c.Revision = last + 1
	return nil
}

// revisionOf returns the revision that a key of a history is for.
func revisionOf(key string) (uint64, bool) {
	n, err := strconv.ParseUint(key[strings.LastIndexByte(key, '/')+1:], 10, 63)
	return n, err == nil && n > 0
}

// running says whether a canary or an experiment of the store runs.
func (d *Documents) running(ctx context.Context, one *Stored) (bool, error) {
	if one.ID.Kind == control.Policy {
		return false, nil
	}
	e, err := d.store.Get(ctx, control.StateKey(one.ID.Kind, one.Service, one.ID.Name))
	switch {
	case errors.Is(err, kv.ErrNotFound):
		return false, nil
	case err != nil:
		return false, d.failed("read the state of "+one.ID.String(), err)
	}
	var state controlv1.RunState
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(e.Value, &state); err != nil {
		return true, nil //nolint:nilerr // nobody knows, so it might
	}
	return state.GetPhase() == controlv1.Phase_PHASE_RUNNING || state.GetPhase() == controlv1.Phase_PHASE_PAUSED, nil
}

// mind looks at what runs: it is not deleted, or moved to another service, unless that is
// forced, and what is changed of it waits for its next start.
func (d *Documents) mind(ctx context.Context, changes []*Change, force bool) (warnings []string, err error) {
	var errs []error
	for _, c := range changes {
		if c.Before == nil {
			continue
		}
		runs, err := d.running(ctx, c.Before)
		gone := c.After == nil || c.Service != c.Before.Service
		switch {
		case err != nil:
			return nil, err
		case runs && gone && !force:
			end := "pillion canary abort " + c.ID.Name
			if c.ID.Kind == control.Experiment {
				end = "pillion experiment stop " + c.ID.Name
			}
			errs = append(errs, fmt.Errorf("%s: it is running: end it first (%s), or force it", c.ID, end))
		case runs && !gone:
			warnings = append(warnings, fmt.Sprintf("%s: it is running, as it was when it was started: this holds from its next start on", c.ID))
		}
	}
	return warnings, errors.Join(errs...)
}
