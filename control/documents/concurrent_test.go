package documents

import (
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
)

// What many people do at once is as if they had done it one after the other: each that is
// told that it was done has its revision in the history, revisions have no gaps, the last
// of them is what is there, and no change was written over by somebody who had not seen
// it.
func TestConcurrentApplies(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		memory := memkv.New()
		names := []string{"a", "b", "c"}
		type act struct {
			who    string
			names  []string
			value  int
			remove bool
		}
		acts := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) act {
			return act{
				names: rapid.SliceOfNDistinct(rapid.SampledFrom(names), 1, 3, rapid.ID).Draw(t, "names"),
				value: rapid.IntRange(1, 3).Draw(t, "value"), remove: rapid.IntRange(0, 4).Draw(t, "remove") == 0,
			}
		}), 2, 8).Draw(rt, "acts")
		var (
			people sync.WaitGroup
			mu     sync.Mutex
			done   = map[string]string{} // who, by document and revision
		)
		for i := range acts {
			acts[i].who = fmt.Sprint("p", i)
			people.Go(func() {
				a := acts[i]
				d := New(memory.Store(), Options{Now: func() time.Time { return noon }, Made: Made})
				w := Wanted{Author: a.who}
				for _, name := range a.names {
					if a.remove {
						w.Delete = append(w.Delete, ID{control.Policy, name})
						continue
					}
					text := fmt.Sprintf("{name: %s, service: s, methods: [x.Y/%s], timeout: {default: %ds}}", name, strings.ToUpper(name), a.value)
					w.Documents = append(w.Documents, parsed(t, policies(text))...)
				}
				result, err := d.Apply(t.Context(), w)
				conflict := errors.As(err, new(*ConflictError))
				if err != nil && !conflict && !strings.HasSuffix(err.Error(), "there is no such document") {
					t.Error(err)
				}
				if result == nil {
					return
				}
				mu.Lock()
				defer mu.Unlock()
				for _, c := range result.Changes {
					key := fmt.Sprint(c.ID, "@", c.Revision)
					if other := done[key]; other != "" {
						t.Errorf("%s is told of as written by %s and by %s", key, other, a.who)
					}
					done[key] = a.who
				}
			})
		}
		people.Wait()
		d := New(memory.Store(), Options{})
		state, err := d.Load(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		revisions := 0
		for _, name := range names {
			id := ID{control.Policy, name}
			all, err := d.History(t.Context(), id)
			if err != nil {
				t.Fatal(err)
			}
			for i, one := range all {
				revisions++
				key := fmt.Sprint(id, "@", i+1)
				if one.Problem != nil || one.Document.GetRevision() != uint64(i+1) || done[key] != one.Document.GetAuthor() {
					t.Errorf("%s: %v, %v, but %q was told", key, one.Document, one.Problem, done[key])
				}
				if i > 0 && !one.Deleted() && !all[i-1].Deleted() && Text(one.Document) == Text(all[i-1].Document) {
					t.Errorf("%s is written again as it was", key)
				}
			}
			is := state.Find(id)
			switch {
			case len(all) == 0 || all[len(all)-1].Deleted():
				if is != nil {
					t.Errorf("%s is there", id)
				}
			case is == nil || is.Document.GetRevision() != uint64(len(all)):
				t.Errorf("%s is not what its history says last", id)
			}
		}
		if revisions != len(done) {
			t.Errorf("%d revisions are there, %d were told of", revisions, len(done))
		}
	})
}
