package documents

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
)

// MaxRevisions is how many revisions are kept of a document: older ones are removed as
// newer ones are written.
const MaxRevisions = 1000

// Pruning says which revisions go: those that are not among the newest Keep of their
// document, and older than Before if that is not zero. The last one always stays: it says
// whether the document was deleted, and which number comes next.
type Pruning struct {
	Keep   int
	Before time.Time
	// Of are the documents that it is about; none: all, also those that were deleted.
	Of []ID
	// DryRun has nothing be removed.
	DryRun bool
}

// Pruned is what went of one document's history.
type Pruned struct {
	ID
	// Removed are the revisions that went, and Left is how many there are yet.
	Removed []uint64
	Left    int
}

// Prune removes old revisions. What is in force is in the documents themselves, and does
// not change. After an error the list says what had gone before.
func (d *Documents) Prune(ctx context.Context, p Pruning) (list []Pruned, err error) {
	entries, err := d.store.List(ctx, historyPrefix)
	if err != nil {
		return nil, d.failed("read the history", err)
	}
	by := map[ID][]kv.Entry{} // in the order of their revisions, as keys are
	for _, e := range entries {
		if id, ok := historyOf(e.Key); ok {
			by[id] = append(by[id], e)
		}
	}
	of := p.Of
	if len(of) == 0 {
		of = sortedIDs(by)
	}
	seen := map[ID]bool{}
	for _, id := range of {
		if seen[id] {
			continue
		}
		seen[id] = true
		if len(by[id]) == 0 {
			return list, fmt.Errorf("%s: there is no such document, and never was", id)
		}
		one := Pruned{ID: id, Left: len(by[id])}
		var old []kv.Entry
		for _, e := range by[id][:max(len(by[id])-max(p.Keep, 1), 0)] {
			if p.Before.IsZero() || older(id, e, p.Before) {
				old = append(old, e)
			}
		}
		for batch := range slices.Chunk(old, kv.MaxOps) {
			if !p.DryRun {
				if err := d.remove(ctx, batch); err != nil {
					return append(list, one), fmt.Errorf("%s: %w", id, err)
				}
			}
			for _, e := range batch {
				n, _ := revisionOf(e.Key)
				one.Removed, one.Left = append(one.Removed, n), one.Left-1
			}
		}
		if len(one.Removed) > 0 {
			list = append(list, one)
		}
	}
	return list, nil
}

// historyPrefix is what the histories of all documents are below.
const historyPrefix = control.Root + "history/"

// historyOf takes the key of a revision apart.
func historyOf(key string) (ID, bool) {
	parts := strings.Split(strings.TrimPrefix(key, historyPrefix), "/")
	if len(parts) != 3 || !slices.Contains(control.Kinds, control.Kind(parts[0])) {
		return ID{}, false
	}
	_, ok := revisionOf(key)
	return ID{control.Kind(parts[0]), parts[1]}, ok
}

// older says whether a revision was written before a time; of one that cannot be read that
// is not known.
func older(id ID, e kv.Entry, than time.Time) bool {
	doc, _ := Decode(id, e.Value)
	return doc.GetTime() != nil && doc.GetTime().AsTime().Before(than)
}

// remove removes entries as they were read.
func (d *Documents) remove(ctx context.Context, entries []kv.Entry) error {
	ops := make([]kv.Op, 0, len(entries))
	for _, e := range entries {
		ops = append(ops, kv.Op{Key: e.Key, Version: e.Version})
	}
	err := d.store.Commit(ctx, ops...)
	switch {
	case errors.As(err, new(*kv.ConflictError)):
		return errors.New("somebody else is changing its history: try again")
	case err != nil:
		return d.notWritten(err)
	}
	return nil
}

// trim removes the revisions that have become too old by what was written. Where that
// fails they stay, until somebody prunes them: what was to be written is written.
func (d *Documents) trim(ctx context.Context, written []*Change) {
	var ops []kv.Op
	for _, c := range written {
		if c.Revision > MaxRevisions {
			ops = append(ops, kv.Op{Key: control.HistoryKey(c.ID.Kind, c.ID.Name, c.Revision-MaxRevisions), Any: true})
		}
	}
	if len(ops) > 0 {
		_ = d.store.Commit(ctx, ops...)
	}
}
