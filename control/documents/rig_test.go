package documents

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	"github.com/pillion-proxy/pillion/proto/configyaml"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// parsed returns the documents of a file.
func parsed(t testing.TB, text string) []*controlv1.Document {
	t.Helper()
	f, err := configyaml.ParseDocuments("d.yaml", []byte(text))
	if err != nil {
		t.Fatal(err)
	}
	return Of(f.Written)
}

const (
	subsets = `{name: parts, service: checkout, subsets: {subsets: {v1: {meta: {version: v1}}, v2: {meta: {version: v2}}}}}`
	slow    = `{name: slow, service: checkout, timeout: {default: 2s}}`
	slower  = `{name: slow, service: checkout, timeout: {default: 3s}}`
	other   = `{name: other, service: billing, timeout: {default: 1s}}`
	release = `{name: release, service: checkout, stable: v1, canary: v2, steps: [{weight: 1000}]}`
	prices  = `{name: prices, service: checkout, unit: {metadata: user}, variants: [{name: a, weight: 5000}, {name: b, weight: 5000, subset: v2}]}`
)

// policies is a file with these policies.
func policies(list ...string) string { return "policies: [" + strings.Join(list, ", ") + "]\n" }

// rig is a store in memory with documents in it.
type rig struct {
	*Documents
	memory *memkv.Memory
	store  *meddled
}

// meddled is a store in which something happens just before a commit.
type meddled struct {
	kv.Store
	before func()
}

func (m *meddled) Commit(ctx context.Context, ops ...kv.Op) error {
	if f := m.before; f != nil {
		m.before = nil
		f()
	}
	return m.Store.Commit(ctx, ops...)
}

// Made says what canaries and experiments come to. What does so needs this package.
var Made func(*controlv1.Document) *configv1.Policy

var noon = time.Date(2026, 1, 31, 12, 0, 0, 0, time.UTC)

func newRig() *rig {
	memory := memkv.New()
	store := &meddled{Store: memory.Store()}
	return &rig{New(store, Options{Now: func() time.Time { return noon }, Made: Made}), memory, store}
}

// apply applies a file, as somebody.
func (r *rig) apply(t testing.TB, who, text string) (*Result, error) {
	t.Helper()
	return r.Apply(t.Context(), Wanted{Documents: parsed(t, text), Author: who, Message: "by " + who})
}

// must is apply where nothing may go wrong.
func (r *rig) must(t testing.TB, who, text string) *Result {
	t.Helper()
	result, err := r.apply(t, who, text)
	if err != nil {
		t.Fatal(err)
	}
	return result
}

// has returns the documents that there are: "policy/slow@2 canary/release@1".
func (r *rig) has(t testing.TB) string {
	t.Helper()
	state, err := r.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, one := range state.All {
		text := fmt.Sprintf("%s@%d", one.ID, one.Document.GetRevision())
		if one.Problem != nil {
			text += "(" + one.Problem.Error() + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, " ")
}

// history returns the revisions of a document: "1 alice, 2 bob deleted".
func (r *rig) history(t testing.TB, id string) string {
	t.Helper()
	of, err := ParseID(id)
	if err != nil {
		t.Fatal(err)
	}
	revisions, err := r.History(t.Context(), of)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, one := range revisions {
		text := fmt.Sprintf("%d %s", one.Document.GetRevision(), one.Document.GetAuthor())
		if one.Deleted() {
			text += " deleted"
		}
		if n := one.Document.GetRestores(); n > 0 {
			text += fmt.Sprintf(" restores %d", n)
		}
		if one.Problem != nil {
			text += " (" + one.Problem.Error() + ")"
		}
		all = append(all, text)
	}
	return strings.Join(all, ", ")
}

// put writes something past all checks.
func (r *rig) put(t testing.TB, key, value string) {
	t.Helper()
	if err := r.memory.Store().Commit(t.Context(), kv.Op{Key: key, Value: []byte(value), Any: true}); err != nil {
		t.Fatal(err)
	}
}

// starts has a canary or an experiment be running.
func (r *rig) starts(t testing.TB, id ID, service string, phase controlv1.Phase) {
	t.Helper()
	value, err := protojson.Marshal(&controlv1.RunState{Kind: string(id.Kind), Name: id.Name, Service: service, Phase: phase})
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, control.StateKey(id.Kind, service, id.Name), string(value))
}

func verbs(result *Result) string {
	var all []string
	for _, c := range result.Changes {
		all = append(all, fmt.Sprintf("%s %s@%d", c.Verb(), c.ID, c.Revision))
	}
	return strings.Join(all, ", ")
}

func expect(t testing.TB, what, got, want string) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %s\nwant %s", what, got, want)
	}
}

func expectError(t testing.TB, err error, want string) {
	t.Helper()
	if err == nil || err.Error() != want {
		t.Errorf("error:\n got %v\nwant %s", err, want)
	}
}
