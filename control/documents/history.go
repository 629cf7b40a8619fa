package documents

import (
	"context"
	"errors"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

// Revision is an entry of a document's history.
type Revision struct {
	// Document is the revision, without defaults; without a body where the document was
	// deleted.
	Document *controlv1.Document
	// Problem says why it cannot be read, or cannot be brought back.
	Problem error
}

// Deleted says that the revision is a deletion.
func (r Revision) Deleted() bool { return r.Problem == nil && r.Document.GetBody() == nil }

// History returns the revisions of a document that are kept, the first one first; none
// where there never was such a document.
func (d *Documents) History(ctx context.Context, id ID) ([]Revision, error) {
	entries, err := d.store.List(ctx, control.HistoryPrefix(id.Kind, id.Name))
	if err != nil {
		return nil, d.failed("read the history of "+id.String(), err)
	}
	defer configyaml.HoldRules()()
	var all []Revision
	for _, e := range entries {
		if n, ok := revisionOf(e.Key); ok {
			all = append(all, revision(id, n, e.Value))
		}
	}
	return all, nil
}

// revision reads an entry of a history.
func revision(id ID, n uint64, value []byte) Revision {
	r := Revision{}
	r.Document, r.Problem = Decode(id, value)
	if r.Document.GetRevision() != n {
		if r.Problem == nil {
			r.Problem = fmt.Errorf("says that it is revision %d: was it written by hand?", r.Document.GetRevision())
		}
		r.Document.Revision = n
	}
	return r
}

// last returns the last revision of a document; nil: there is none.
func (d *Documents) last(ctx context.Context, id ID) (*controlv1.Document, error) {
	all, err := d.History(ctx, id)
	if err != nil || len(all) == 0 {
		return nil, err
	}
	return all[len(all)-1].Document, nil
}

// At returns a revision of a document.
func (d *Documents) At(ctx context.Context, id ID, n uint64) (Revision, error) {
	e, err := d.store.Get(ctx, control.HistoryKey(id.Kind, id.Name, n))
	if errors.Is(err, kv.ErrNotFound) {
		return Revision{}, fmt.Errorf("%s: there is no revision %d: see pillion history %s", id, n, id)
	}
	if err != nil {
		return Revision{}, d.failed("read the history of "+id.String(), err)
	}
	return revision(id, n, e.Value), nil
}

// Rollback brings a revision of a document back, as a new one that restores it. to is its
// number; 0 stands for the one before the last, or, where the document was deleted, for
// the last before that. Of w only what is not about documents counts.
func (d *Documents) Rollback(ctx context.Context, id ID, to uint64, w Wanted) (*Result, error) {
	back, now, err := d.earlier(ctx, id, to)
	if err != nil {
		return nil, err
	}
	if to == 0 && w.Expect == nil {
		w.Expect = map[ID]uint64{id: now} // "before the last" means before the one that was seen
	}
	n := back.Document.GetRevision()
	switch {
	case back.Problem != nil:
		return nil, fmt.Errorf("%s: revision %d: %w", id, n, back.Problem)
	case back.Deleted():
		return nil, fmt.Errorf("%s: revision %d is a deletion: give another revision, or delete it (pillion delete %s)", id, n, id)
	}
	w.Documents = []*controlv1.Document{{Body: proto.CloneOf(back.Document).GetBody()}}
	w.Delete, w.Prune, w.Restores = nil, false, n
	return d.Apply(ctx, w)
}

// earlier returns the revision that a rollback brings back, and, where that was not said,
// which one the document has now; 0: it is not there.
func (d *Documents) earlier(ctx context.Context, id ID, to uint64) (back Revision, now uint64, err error) {
	if to != 0 {
		back, err = d.At(ctx, id, to)
		return back, 0, err
	}
	all, err := d.History(ctx, id)
	switch {
	case err != nil:
		return Revision{}, 0, err
	case len(all) == 0:
		return Revision{}, 0, fmt.Errorf("%s: there is no such document, and never was", id)
	}
	if last := all[len(all)-1]; !last.Deleted() {
		now = last.Document.GetRevision()
	}
	for i := len(all) - 2; i >= 0; i-- {
		if !all[i].Deleted() {
			return all[i], now, nil
		}
	}
	return Revision{}, 0, fmt.Errorf("%s: there is no revision before the last one", id)
}
