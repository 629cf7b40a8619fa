package documents

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
)

func (r *rig) rollback(t testing.TB, who, id string, to uint64) (*Result, error) {
	t.Helper()
	of, err := ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	return r.Rollback(t.Context(), of, to, Wanted{Author: who})
}

func TestRollback(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	_, err := r.rollback(t, "bob", "policy/slow", 0)
	expectError(t, err, "policy/slow: there is no revision before the last one")
	r.must(t, "alice", policies(slower))
	result, err := r.rollback(t, "bob", "policy/slow", 0)
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "done", verbs(result), "restored from revision 1 policy/slow@3")
	if _, err := r.rollback(t, "bob", "policy/slow", 2); err != nil {
		t.Fatal(err)
	}
	result, err = r.rollback(t, "bob", "policy/slow", 2)
	if err != nil || len(result.Changes) != 0 || result.Unchanged != 1 {
		t.Errorf("%v %v", result, err)
	}
	if _, err := r.Apply(t.Context(), Wanted{Delete: []ID{{control.Policy, "slow"}}, Author: "carol"}); err != nil {
		t.Fatal(err)
	}
	_, err = r.rollback(t, "bob", "policy/slow", 5)
	expectError(t, err, "policy/slow: revision 5 is a deletion: give another revision, or delete it (pillion delete policy/slow)")
	if _, err := r.rollback(t, "bob", "policy/slow", 0); err != nil {
		t.Fatal(err)
	}
	expect(t, "history", r.history(t, "policy/slow"), "1 alice, 2 alice, 3 bob restores 1, 4 bob restores 2, 5 carol deleted, 6 bob restores 4")
	expect(t, "there is", r.has(t), "policy/slow@6")
	_, err = r.rollback(t, "bob", "policy/none", 0)
	expectError(t, err, "policy/none: there is no such document, and never was")
	_, err = r.rollback(t, "bob", "policy/slow", 7)
	expectError(t, err, "policy/slow: there is no revision 7: see pillion history policy/slow")
}

// What is brought back is checked like all else.
func TestRollbackIsChecked(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(subsets)+"canaries: ["+release+"]\n")
	r.must(t, "alice", policies(strings.Replace(subsets, "v2:", "v3:", 1))+"canaries: ["+strings.Replace(release, "canary: v2", "canary: v3", 1)+"]\n")
	_, err := r.rollback(t, "bob", "canary/release", 0)
	expectError(t, err, `canary/release: canary: service "checkout" has no subset "v2": policy "parts" has v1, v3`)
	r.put(t, control.HistoryKey(control.Policy, "parts", 1), `{"revision":"1","policy":{"name":"parts"}}`)
	_, err = r.rollback(t, "bob", "policy/parts", 1)
	if err == nil || !strings.HasPrefix(err.Error(), "policy/parts: revision 1: write one of route, ") {
		t.Error(err)
	}
}

// "The one before the last" means the last one that was looked at.
func TestRollbackMeetsAChange(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	r.must(t, "alice", policies(slower))
	r.store.before = func() { r.must(t, "carol", policies(strings.Replace(slow, "2s", "9s", 1))) }
	_, err := r.rollback(t, "bob", "policy/slow", 0)
	if !errors.As(err, new(*ConflictError)) {
		t.Errorf("%v", err)
	}
	expect(t, "history", r.history(t, "policy/slow"), "1 alice, 2 alice, 3 carol")
}

func TestHistoryOfHand(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	for n, value := range map[uint64]string{
		2: "", 3: "{", 4: `{"revision":"1"}`, 5: `{"revision":"5","canary":{"name":"slow"}}`,
		6: `{"revision":"6","author":"mallory","policy":{"name":"slow","new_field":1}}`,
	} {
		r.put(t, control.HistoryKey(control.Policy, "slow", n), value)
	}
	r.put(t, control.HistoryPrefix(control.Policy, "slow")+"x", "?")
	revisions, err := r.History(t.Context(), ID{control.Policy, "slow"})
	if err != nil || len(revisions) != 6 {
		t.Fatalf("%d revisions, %v", len(revisions), err)
	}
	for i, one := range revisions {
		if one.Document.GetRevision() != uint64(i+1) || (one.Problem == nil) != (i == 0) || one.Deleted() {
			t.Errorf("%d: %v %v", i+1, one.Document, one.Problem)
		}
	}
	expect(t, "author", revisions[5].Document.GetAuthor(), "mallory")
	// The next revision is behind all of them.
	if result := r.must(t, "bob", policies(slower)); verbs(result) != "changed policy/slow@7" {
		t.Error(verbs(result))
	}
}

func TestIDs(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"policy/a": "policy/a", "policies/a": "policy/a", "canaries/a.b-c": "canary/a.b-c", "experiments/x": "experiment/x",
	} {
		if id, err := ParseID(text); err != nil || id.String() != want {
			t.Errorf("%s: %v %v", text, id, err)
		}
	}
	for _, text := range []string{"", "policy", "policy/", "policy/a/b", "service/a"} {
		if id, err := ParseID(text); err == nil {
			t.Errorf("%q is %v", text, id)
		}
	}
}

// Keys below those of documents that are something else are left alone.
func TestLoadLooksAtDocumentsAlone(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(subsets)+"canaries: ["+release+"]\n")
	r.put(t, control.RequestKey(control.Canary, "checkout", "release"), `{"number":"1"}`)
	r.put(t, servicesPrefix+"checkout/policy/a/b", "?")
	r.put(t, servicesPrefix+"checkout/other/a", "?")
	r.put(t, servicesPrefix+"x", "?")
	expect(t, "there is", r.has(t), "policy/parts@1 canary/release@1")
}

func TestLine(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"two\nlines \x1b[31mred\x1b[0m": "two lines [31mred [0m",
		strings.Repeat("é", 600):        strings.Repeat("é", 500),
		"x" + strings.Repeat("é", 600):  "x" + strings.Repeat("é", 499),
		"\xff":                          "\ufffd",
	} {
		if got := Line(in); got != want {
			t.Errorf("of %q it makes %q", in, got)
		}
	}
}

func TestPrintable(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		"a b": "a b", " a\n\tb ": "a b", "\x1b[2Jx": "[2Jx", "a\u202eb": "a b", "\u009b31m": "31m", "a\xffb": "a�b", "ü✓": "ü✓", "a\u0085b\u2028c": "a b c",
	} {
		if got := Printable(in); got != want {
			t.Errorf("%q: %q, want %q", in, got, want)
		}
	}
}

// Whatever lies in a store, commands and sidecars read it without harm.
func FuzzStored(f *testing.F) {
	for _, value := range []string{
		"", "{", "null", "[]", `{"revision":"1"}`, `{"revision":"1","policy":null}`, `{"revision":"1","policy":{}}`, `{"revision":-1}`,
		`{"revision":"1","policy":{"name":"p","service":"s","timeout":{"default":"2s"}}}`,
		`{"revision":"1","canary":{"name":"p","service":"s","stable":"a","canary":"b","steps":[{"weight":1}]}}`,
		`{"revision":"1","experiment":{"name":"p","service":"s","unit":{"caller":true},"variants":[{"name":"a","weight":5000},{"name":"b","weight":5000}]}}`,
		`{"revision":"1","canary":{"name":"p","service":"s","stable":"a","canary":"b","steps":[]}}`, `{"author":"\u001b[2J","time":"0001-01-01T00:00:00Z"}`,
	} {
		for i := range control.Kinds {
			f.Add(i, []byte(value))
		}
	}
	f.Fuzz(func(t *testing.T, kind int, value []byte) {
		if kind < 0 || kind >= len(control.Kinds) {
			return
		}
		id := ID{control.Kinds[kind], "p"}
		d, err := Decode(id, value)
		if d == nil {
			t.Fatal("nothing at all")
		}
		if err != nil && strings.ContainsAny(err.Error(), "\n\r\x1b") {
			t.Errorf("%q", err)
		}
		if text := Text(d); strings.ContainsAny(text, "\r\x1b") {
			t.Errorf("%q", text)
		}
		if err == nil && d.GetBody() != nil {
			if _, err := encode(d); err != nil && len(value) < MaxDocument/2 {
				t.Errorf("%s cannot be written again: %v", value, err)
			}
			if is, _ := IDOf(d); is != id {
				t.Errorf("%v is %v", id, is)
			}
		}
		s := stored(kv.Entry{Key: control.DocumentKey(id.Kind, "s", id.Name), Value: value, Version: 1})
		if s == nil || s.ID != id || s.Document == nil || (err != nil && s.Problem == nil) {
			t.Errorf("%+v", s)
		}
		_ = said(d)
		_ = revision(id, 3, value)
		if s.Problem == nil { // it takes part in every check of others
			set := &set{all: Of(Collect(nil)), made: Made}
			set.all = append(set.all, Effective(s.Document))
			_ = fmt.Sprint(set.refusals(), set.warnings(map[ID]bool{id: true}))
		}
	})
}

// Old revisions go, and the last one never, for it says whether there is such a document.
func TestHistoryIsPruned(t *testing.T) {
	t.Parallel()
	prune := func(t *testing.T, r *rig, p Pruning) string {
		t.Helper()
		list, err := r.Prune(t.Context(), p)
		if err != nil {
			t.Fatal(err)
		}
		var texts []string
		for _, one := range list {
			texts = append(texts, fmt.Sprintf("%s %d, %d stay", one.ID, one.Removed, one.Left))
		}
		return strings.Join(texts, "; ")
	}
	six := func(t *testing.T) *rig {
		t.Helper()
		r := newRig()
		at := noon
		r.Documents = New(r.store, Options{Made: Made, Now: func() time.Time {
			at = at.Add(time.Minute)
			return at
		}})
		for n := range 5 {
			r.must(t, "alice", policies(strings.Replace(slow, "2s", fmt.Sprintf("%ds", n+1), 1), subsets))
		}
		if _, err := r.Apply(t.Context(), Wanted{Delete: []ID{{control.Policy, "slow"}}, Author: "carol"}); err != nil {
			t.Fatal(err)
		}
		r.put(t, control.HistoryPrefix(control.Policy, "slow")+"x", "?") // which is nobody's revision
		r.put(t, historyPrefix+"recipe/soup/1", "?")
		return r
	}
	t.Run("by number", func(t *testing.T) {
		t.Parallel()
		r := six(t)
		p := Pruning{Keep: 2, DryRun: true}
		want := "policy/slow [1 2 3 4], 2 stay"
		expect(t, "would go", prune(t, r, p), want)
		p.DryRun = false
		expect(t, "gone", prune(t, r, p), want)
		expect(t, "gone again", prune(t, r, p), "")
		expect(t, "history", r.history(t, "policy/slow"), "5 alice, 6 carol deleted")
		expect(t, "another's", r.history(t, "policy/parts"), "1 alice")
		expect(t, "gone", prune(t, r, Pruning{}), "policy/slow [5], 1 stay")
		if _, err := r.rollback(t, "bob", "policy/slow", 0); err == nil {
			t.Error("what is gone was brought back")
		}
		if result := r.must(t, "bob", policies(slow)); verbs(result) != "created policy/slow@7" {
			t.Error(verbs(result))
		}
	})
	t.Run("by age", func(t *testing.T) {
		t.Parallel()
		r := six(t)
		third, err := r.At(t.Context(), ID{control.Policy, "slow"}, 3)
		if err != nil {
			t.Fatal(err)
		}
		r.put(t, control.HistoryKey(control.Policy, "slow", 1), "{") // nobody knows when that was
		at := third.Document.GetTime().AsTime()
		expect(t, "gone", prune(t, r, Pruning{Before: at, Of: []ID{{control.Policy, "slow"}}}), "policy/slow [2], 5 stay")
		expect(t, "of the newest nothing", prune(t, r, Pruning{Keep: 5, Before: at.Add(time.Hour)}), "")
	})
	t.Run("what is wrong", func(t *testing.T) {
		t.Parallel()
		r := six(t)
		_, err := r.Prune(t.Context(), Pruning{Of: []ID{{control.Canary, "slow"}}})
		expectError(t, err, "canary/slow: there is no such document, and never was")
		r.store.before = func() { r.put(t, control.HistoryKey(control.Policy, "slow", 2), "{}") }
		_, err = r.Prune(t.Context(), Pruning{})
		expectError(t, err, "policy/slow: somebody else is changing its history: try again")
	})
}

// The history is bounded without that anybody does something.
func TestHistoryIsBounded(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	// As if it had been changed often.
	r.put(t, control.HistoryKey(control.Policy, "slow", 2), `{}`)
	key := control.DocumentKey(control.Policy, "checkout", "slow")
	doc, err := r.store.Get(t.Context(), key)
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, key, strings.Replace(string(doc.Value), `"revision":"1"`, fmt.Sprintf(`"revision":"%d"`, MaxRevisions), 1))
	if result := r.must(t, "bob", policies(slower)); verbs(result) != fmt.Sprintf("changed policy/slow@%d", MaxRevisions+1) {
		t.Error(verbs(result))
	}
	revisions, err := r.History(t.Context(), ID{control.Policy, "slow"})
	if err != nil || len(revisions) != 2 || revisions[0].Document.GetRevision() != 2 {
		t.Errorf("%v %v", revisions, err)
	}
}
