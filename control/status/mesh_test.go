package status

import (
	"context"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func put(t *testing.T, store kv.Store, key string, m proto.Message) {
	t.Helper()
	data, err := protojson.Marshal(m)
	if err != nil {
		t.Fatal(err)
	}
	if err := store.Commit(t.Context(), kv.Op{Key: key, Value: data, Any: true}); err != nil {
		t.Fatal(err)
	}
}

func putPolicy(t *testing.T, store kv.Store, service, name string, revision uint64) {
	t.Helper()
	put(t, store, control.DocumentKey(control.Policy, service, name), &controlv1.Document{
		Revision: revision, Body: &controlv1.Document_Policy{Policy: &configv1.Policy{Name: name, Service: service}},
	})
}

func stands(kind, service, name string, revision, inForce uint64, problem string) *controlv1.DocumentStatus {
	return &controlv1.DocumentStatus{Kind: kind, Service: service, Name: name, Revision: revision, InForce: inForce, Problem: problem}
}

func TestSaysWhoHasWhat(t *testing.T) {
	store := memkv.New().Store()
	putPolicy(t, store, "greeter", "a", 3)
	putPolicy(t, store, "greeter", "b", 1)
	putPolicy(t, store, "*", "all", 1)
	putPolicy(t, store, "other", "o", 1)
	put(t, store, control.RequestKey(control.Canary, "greeter", "c"), &controlv1.Request{Number: 1})
	status := func(id string, services []string, docs ...*controlv1.DocumentStatus) {
		put(t, store, control.StatusKey("web", id), &controlv1.SidecarStatus{Id: id, Service: "web", Services: services, Documents: docs})
	}
	both := []string{"*", "greeter"}
	status("good", both, stands("policy", "greeter", "a", 3, 3, ""), stands("policy", "greeter", "b", 1, 1, ""), stands("policy", "*", "all", 1, 1, ""))
	status("behind", both, stands("policy", "greeter", "a", 2, 2, ""), stands("policy", "*", "all", 1, 1, ""))
	status("other store", both, stands("policy", "greeter", "a", 9, 9, "was lost"), stands("policy", "greeter", "b", 1, 1, ""), stands("policy", "*", "all", 1, 1, ""))
	status("refuses", both, stands("policy", "greeter", "a", 3, 1, "is wrong"), stands("policy", "greeter", "b", 1, 1, ""), stands("policy", "*", "all", 1, 1, ""))
	status("late", []string{"*"}, stands("policy", "*", "all", 1, 1, ""), stands("policy", "*", "gone", 1, 1, ""), stands("policy", "*", "lost", 2, 2, "was lost"))
	if err := store.Commit(t.Context(), kv.Op{Key: control.StatusPrefix + "x/y", Value: []byte("{"), Any: true}); err != nil {
		t.Fatal(err)
	}

	m, err := Read(t.Context(), store, "")
	if err != nil {
		t.Fatal(err)
	}
	by := map[string]*Sidecar{}
	for _, s := range m.Sidecars {
		by[s.ID] = s
	}
	check := func(id string, inForce int, behind string, refused int) {
		t.Helper()
		s := by[id]
		if s.InForce != inForce || strings.Join(s.Behind, "; ") != behind || len(s.Refused) != refused {
			t.Errorf("%s: in force %d, behind %q, refused %v", id, s.InForce, s.Behind, s.Refused)
		}
	}
	check("good", 3, "", 0)
	check("behind", 1, "policy/a revision 3 (has 2); policy/b revision 1 (has none)", 0)
	check("refuses", 2, "", 1)
	check("other store", 2, "policy/a revision 3 (has 9)", 0)
	check("late", 1, "policy/gone (was deleted)", 0)
	if m.Lost() != 1 || by["late"].Lost[0] != (Refusal{"policy/lost", "was lost", 2}) {
		t.Errorf("lost: %v", by["late"].Lost)
	}
	if m.Settled() || m.Refused() != 1 || len(m.Unreadable) != 1 {
		t.Errorf("settled %v, refused %d, unreadable %v", m.Settled(), m.Refused(), m.Unreadable)
	}
	for _, d := range m.Documents {
		got := [4]int{d.Followers, d.InForce, d.Behind, d.Refused}
		want := map[string][4]int{"a": {4, 1, 2, 1}, "b": {4, 3, 1, 0}, "all": {5, 5, 0, 0}, "o": {}}[d.Name]
		if got != want {
			t.Errorf("%s: %v, want %v", d.Name, got, want)
		}
	}
	if one, err := Read(t.Context(), store, "other"); err != nil || len(one.Sidecars) != 0 || len(one.Documents) != 2 {
		t.Errorf("of one service: %+v, %v", one, err)
	}
}

func TestPublishesWhatChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memkv.New()
		store, people := memory.Store(), memory.Store()
		var mu sync.Mutex
		version := "1"
		p := NewPublisher(store, func() *controlv1.SidecarStatus {
			mu.Lock()
			defer mu.Unlock()
			return &controlv1.SidecarStatus{Id: "web-1", Service: "web", Policies: version}
		}, slog.New(slog.DiscardHandler))
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { p.Run(ctx) })
		published := func() string {
			t.Helper()
			e, err := people.Get(t.Context(), control.StatusKey("web", "web-1"))
			if err != nil {
				return err.Error()
			}
			var st controlv1.SidecarStatus
			if err := protojson.Unmarshal(e.Value, &st); err != nil {
				t.Fatal(err)
			}
			return st.GetPolicies()
		}
		want := func(what, version string) {
			t.Helper()
			if got := published(); got != version {
				t.Errorf("%s: %q is published, want %q", what, got, version)
			}
		}
		time.Sleep(2 * spread)
		synctest.Wait()
		want("at first", "1")
		commits := memory.Commits()
		time.Sleep(time.Hour)
		if memory.Commits() != commits {
			t.Errorf("%d commits while nothing changes", memory.Commits()-commits)
		}
		mu.Lock()
		version = "2"
		mu.Unlock()
		p.Changed()
		time.Sleep(pause + 2*spread)
		synctest.Wait()
		want("after a change", "2")

		store.Lose(p.session)
		time.Sleep(2*pause + 2*spread)
		synctest.Wait()
		want("after the session was lost", "2")

		store.SetFault(memkv.Fault{Err: context.DeadlineExceeded})
		time.Sleep(10 * sessionTTL)
		want("while the store is away", kv.ErrNotFound.Error())
		store.SetFault(memkv.Fault{})
		time.Sleep(2 * retryMost)
		synctest.Wait()
		want("when the store is back", "2")
		cancel()
		running.Wait()
		want("at the end", kv.ErrNotFound.Error())
	})
}

// A process that is replaced leaves its status to the one that takes its place.
func TestHandsItsStatusOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		memory := memkv.New()
		started := func(version string, atOnce bool) (*Publisher, func()) {
			p := NewPublisher(memory.Store(), func() *controlv1.SidecarStatus {
				return &controlv1.SidecarStatus{Id: "web-1", Service: "web", Version: version}
			}, slog.New(slog.DiscardHandler))
			p.AtOnce = atOnce
			ctx, cancel := context.WithCancel(t.Context())
			var running sync.WaitGroup
			running.Go(func() { p.Run(ctx) })
			return p, func() { cancel(); running.Wait() }
		}
		there := func(version string) {
			t.Helper()
			e, err := memory.Store().Get(t.Context(), control.StatusKey("web", "web-1"))
			if err != nil || !strings.Contains(string(e.Value), `"`+version+`"`) {
				t.Errorf("the status of version %s: %s, %v", version, e.Value, err)
			}
		}
		old, endOld := started("1", false)
		time.Sleep(2 * spread)
		synctest.Wait()
		there("1")
		old.Succeeded()
		go endOld()
		time.Sleep(handOver / 2) // the successor takes its time
		there("1")
		_, end := started("2", true)
		synctest.Wait()
		there("2")
		time.Sleep(2 * handOver)
		there("2")
		end()

		// One whose successor never publishes goes after all.
		old, endOld = started("3", true)
		synctest.Wait()
		old.Succeeded()
		start := time.Now()
		endOld()
		if took := time.Since(start); took != handOver {
			t.Errorf("it waited for its successor for %v", took)
		}
		if e, err := memory.Store().Get(t.Context(), control.StatusKey("web", "web-1")); err == nil {
			t.Errorf("left behind: %s", e.Value)
		}
	})
}
