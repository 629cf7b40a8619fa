package documents

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/pillion-proxy/pillion/control"
	"github.com/pillion-proxy/pillion/control/kv"
	"github.com/pillion-proxy/pillion/control/kv/memkv"
	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	controlv1 "github.com/pillion-proxy/pillion/proto/pillion/control/v1"
)

func TestApply(t *testing.T) {
	t.Parallel()
	r := newRig()
	result := r.must(t, "alice", policies(slow, subsets, other)+"canaries: ["+release+"]\nexperiments: ["+prices+"]\n")
	expect(t, "done", verbs(result), "created policy/other@1, created policy/parts@1, created policy/slow@1, created canary/release@1, created experiment/prices@1")
	expect(t, "commits", fmt.Sprint(r.memory.Commits()), "1")
	result = r.must(t, "bob", policies(slower, subsets))
	expect(t, "done", verbs(result)+fmt.Sprint(" unchanged ", result.Unchanged), "changed policy/slow@2 unchanged 1")
	expect(t, "there is", r.has(t), "policy/other@1 policy/parts@1 policy/slow@2 canary/release@1 experiment/prices@1")
	expect(t, "history", r.history(t, "policy/slow"), "1 alice, 2 bob")
	commits := r.memory.Commits()
	result = r.must(t, "carol", policies(slower, subsets))
	if len(result.Changes) != 0 || r.memory.Commits() != commits {
		t.Errorf("what is unchanged was written: %s", verbs(result))
	}
	state, err := r.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := state.Find(ID{control.Policy, "slow"}).Document
	expect(t, "says", said(d), `revision 2 by bob at 2026-01-31T12:00:00Z ("by bob")`)
}

// What a file says is kept as it is written, and gets its defaults where it is read.
func TestDefaultsAreNotWritten(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(subsets)+"canaries: ["+release+"]\n")
	e, err := r.store.Get(t.Context(), control.DocumentKey(control.Canary, "checkout", "release"))
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "kept", string(e.Value), `{"revision":"1","time":"2026-01-31T12:00:00Z","author":"alice","message":"by alice",`+
		`"canary":{"name":"release","service":"checkout","stable":"v1","canary":"v2","steps":[{"weight":1000}]}}`)
}

func TestPrune(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow, subsets, other))
	result, err := r.Apply(t.Context(), Wanted{Documents: parsed(t, policies(subsets)), Prune: true, Author: "bob"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "done", verbs(result), "deleted policy/slow@2")
	expect(t, "there is", r.has(t), "policy/other@1 policy/parts@1")
	expect(t, "history", r.history(t, "policy/slow"), "1 alice, 2 bob deleted")
	r.must(t, "carol", policies(slow))
	expect(t, "history", r.history(t, "policy/slow"), "1 alice, 2 bob deleted, 3 carol")
}

// What somebody else makes while others are pruned is not pruned.
func TestPruneLeavesWhatIsNew(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow, subsets))
	r.store.before = func() {
		r.must(t, "bob", policies(`{name: new, service: checkout, fault: {delay: {for: 1s}}}`)) // and no conflict
		r.put(t, control.HistoryKey(control.Policy, "slow", 2), "{}")                           // a conflict
	}
	result, err := r.Apply(t.Context(), Wanted{Documents: parsed(t, policies(subsets)), Prune: true, Author: "carol"})
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "done", verbs(result), "deleted policy/slow@3")
	expect(t, "there is", r.has(t), "policy/new@1 policy/parts@1")
}

func TestDryRun(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	commits := r.memory.Commits()
	result, err := r.Apply(t.Context(), Wanted{Documents: parsed(t, policies(slower, other)), DryRun: true})
	if err != nil || r.memory.Commits() != commits {
		t.Fatalf("%v, %d commits", err, r.memory.Commits()-commits)
	}
	expect(t, "would", verbs(result), "created policy/other@1, changed policy/slow@2")
	expect(t, "diff", result.Changes[1].Diff(), "--- policy/slow as it is\n+++ policy/slow as it is to be\n@@ -1,4 +1,4 @@\n name: slow\n service: checkout\n timeout:\n-  default: 2s\n+  default: 3s\n")
}

// A document that is for another service now is at one place alone.
func TestMove(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	r.must(t, "bob", policies(strings.Replace(slow, "checkout", `"*"`, 1)))
	expect(t, "there is", r.has(t), "policy/slow@2")
	if e, err := r.store.List(t.Context(), control.ServicePrefix("checkout")); err != nil || len(e) != 0 {
		t.Errorf("%v %v", e, err)
	}
	state, err := r.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	expect(t, "service", state.All[0].Service, "*")
}

// Of a document that somebody has put at two places, the later one counts, and the next
// change clears up.
func TestTwoPlaces(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	r.must(t, "alice", policies(slower))
	for i, service := range []string{"aaa", "zzz"} {
		older := parsed(t, policies(strings.Replace(slow, "checkout", service, 1)))[0]
		older.Revision = uint64(1 + i%2)
		value, err := encode(older)
		if err != nil {
			t.Fatal(err)
		}
		r.put(t, control.DocumentKey(control.Policy, service, "slow"), string(value))
	}
	expect(t, "there is", r.has(t), "policy/slow@2")
	result := r.must(t, "bob", policies(slower))
	expect(t, "done", verbs(result), "changed policy/slow@3")
	if e, err := r.store.List(t.Context(), servicesPrefix); err != nil || len(e) != 1 || e[0].Key != control.DocumentKey(control.Policy, "checkout", "slow") {
		t.Errorf("%v %v", e, err)
	}
}

func TestRefusals(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct{ there, file, want string }{
		"two of one thing": {policies(slow), policies(`{name: s2, service: checkout, timeout: {default: 1s}}`),
			`policy/s2: methods: policy "slow" is the timeout of "*" of service "checkout" already: name other methods, or leave out one of them`},
		"a name of another kind": {policies(subsets, slow), "canaries: [" + strings.Replace(release, "name: release", "name: slow", 1) + "]",
			`canary/slow: name: "slow" is the name of a policy already: choose another`},
		"a canary of subsets that nobody knows": {"", "canaries: [" + release + "]",
			`canary/release: stable: no policy says what the subset "v1" of service "checkout" is: apply a subsets policy with it (or say --subsets-elsewhere, where Consul or mesh files define it)` + "\n" +
				`canary/release: canary: no policy says what the subset "v2" of service "checkout" is: apply a subsets policy with it (or say --subsets-elsewhere, where Consul or mesh files define it)`},
		"a canary of a subset that there is not": {policies(subsets), "canaries: [" + strings.Replace(release, "canary: v2", "canary: v3", 1) + "]",
			`canary/release: canary: service "checkout" has no subset "v3": policy "parts" has v1, v2`},
		"a variant of one": {policies(subsets), "experiments: [" + strings.Replace(prices, "subset: v2", "subset: v9", 1) + "]",
			`experiment/prices: variants[1].subset: service "checkout" has no subset "v9": policy "parts" has v1, v2`},
		"a match that cannot be": {policies(subsets), "canaries: [" + strings.Replace(release, "steps:", "match: {metadata: [{key: a, regex: \"(\"}]}, steps:", 1) + "]",
			"canary/release: match.metadata[0].regex: error parsing regexp: missing closing ): `(`: write it in RE2's syntax, or use prefix, suffix or range"},
		"a unit that cannot be": {policies(subsets), "experiments: [" + strings.Replace(prices, "metadata: user", "metadata: User", 1) + "]",
			`experiment/prices: unit.metadata: "User" has upper case letters, which no metadata key has on the wire: write "user"`},
		"what others need": {policies(subsets) + "canaries: [" + release + "]", policies(strings.Replace(subsets, "v2", "v3", 1)),
			`canary/release: canary: service "checkout" has no subset "v2": policy "parts" has v1, v3`},
		"a route to a subset": {policies(subsets), policies(`{name: r, service: checkout, route: {rules: [{to: {subset: v3}}]}}`),
			`policy/r: route.rules[0].to.subset: service "checkout" has no subset "v3": policy "parts" has v1, v2`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := newRig()
			if test.there != "" {
				r.must(t, "alice", test.there)
			}
			before, commits := r.has(t), r.memory.Commits()
			_, err := r.apply(t, "bob", test.file)
			refused := new(RefusedError)
			if !errors.As(err, &refused) || len(refused.Refusals) == 0 {
				t.Fatalf("%T %v", err, err)
			}
			expect(t, "refused", err.Error(), test.want)
			if r.memory.Commits() != commits || r.has(t) != before {
				t.Errorf("something was written: %s", r.has(t))
			}
		})
	}
}

// What is wrong already, and what nobody can read, does not hold up the rest.
func TestOldProblemsAreNotNew(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	r.put(t, control.DocumentKey(control.Policy, "checkout", "bad"), "\x00")
	value, err := encode(&controlv1.Document{Revision: 1, Body: &controlv1.Document_Policy{Policy: parsed(t, policies(strings.Replace(slow, "slow", "twin", 1)))[0].GetPolicy()}})
	if err != nil {
		t.Fatal(err)
	}
	r.put(t, control.DocumentKey(control.Policy, "checkout", "twin"), string(value))
	r.must(t, "bob", policies(subsets, other))
	// A document that cannot be read is replaced like any other.
	r.put(t, control.HistoryKey(control.Policy, "bad", 7), "{")
	result := r.must(t, "bob", policies(`{name: bad, service: checkout, fault: {delay: {for: 1s}}}`))
	expect(t, "done", verbs(result), "changed policy/bad@8")
}

func TestSubsetsElsewhere(t *testing.T) {
	t.Parallel()
	for _, there := range []string{"", policies(strings.Replace(subsets, "v2", "v3", 1))} {
		r := newRig()
		if there != "" {
			r.must(t, "alice", there)
		}
		if _, err := r.Apply(t.Context(), Wanted{Documents: parsed(t, "canaries: ["+release+"]\nexperiments: ["+prices+"]"), SubsetsElsewhere: true}); err != nil {
			t.Error(err)
		}
	}
}

func TestWarnings(t *testing.T) {
	t.Parallel()
	r := newRig()
	result := r.must(t, "alice", policies(`{name: r, service: checkout, route: {rules: [{to: {subset: v3}}]}}`))
	expect(t, "warned", strings.Join(result.Warnings, "\n"), `policy/r: route.rules[0].to.subset: no policy says what the subset "v3" of service "checkout" is`)
}

func TestExpect(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	slowID, otherID := ID{control.Policy, "slow"}, ID{control.Policy, "other"}
	_, err := r.Apply(t.Context(), Wanted{Documents: parsed(t, policies(slower)), Expect: map[ID]uint64{slowID: 3, otherID: 1}})
	expectError(t, err, "policy/other: revision 1 is expected, but there is no such document\n"+
		`policy/slow: revision 3 is expected, but it has revision 1 by alice at 2026-01-31T12:00:00Z ("by alice")`)
	if _, err := r.Apply(t.Context(), Wanted{Documents: parsed(t, policies(slower, other)), Expect: map[ID]uint64{slowID: 1, otherID: 0}}); err != nil {
		t.Error(err)
	}
}

// Two people change one document at once: the second is told, and nothing of what they
// wrote together is half done.
func TestConflict(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	r.store.before = func() { r.must(t, "bob", policies(slower)) }
	_, err := r.apply(t, "carol", policies(strings.Replace(slow, "2s", "9s", 1), subsets, other))
	if !errors.As(err, new(*ConflictError)) {
		t.Errorf("%T", err)
	}
	expectError(t, err, `policy/slow: it was changed meanwhile, in revision 2 by bob at 2026-01-31T12:00:00Z ("by bob"): look at it with pillion diff, and apply it again`)
	expect(t, "there is", r.has(t), "policy/slow@2")

	r.store.before = func() {
		if _, err := r.Apply(t.Context(), Wanted{Delete: []ID{{control.Policy, "slow"}}, Author: "bob"}); err != nil {
			t.Error(err)
		}
	}
	_, err = r.apply(t, "carol", policies(slow))
	expectError(t, err, `policy/slow: it was deleted meanwhile, in revision 3 by bob at 2026-01-31T12:00:00Z: look at it with pillion diff, and apply it again`)

	r.store.before = func() { r.must(t, "bob", policies(slow)) }
	_, err = r.apply(t, "carol", policies(slower))
	expectError(t, err, `policy/slow: it was changed meanwhile, in revision 4 by bob at 2026-01-31T12:00:00Z ("by bob"): look at it with pillion diff, and apply it again`)
}

// Somebody who is in the way without having changed the same is none.
func TestNoConflict(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(slow))
	r.store.before = func() { r.must(t, "bob", policies(slower)) }
	result := r.must(t, "carol", policies(slower, other))
	expect(t, "done", verbs(result), "created policy/other@1")
	expect(t, "history", r.history(t, "policy/slow"), "1 alice, 2 bob")
	r.store.before = func() { r.put(t, control.HistoryKey(control.Policy, "slow", 3), "?") }
	result = r.must(t, "carol", policies(slow))
	expect(t, "done", verbs(result), "changed policy/slow@4")
}

// Two that collide only with each other may both be written; then there is a warning.
func TestCollisionAtOneMoment(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.store.before = func() { r.must(t, "bob", policies(slow)) }
	result := r.must(t, "carol", policies(strings.Replace(slow, "name: slow", "name: zlow", 1)))
	if len(result.Warnings) != 1 || !strings.HasPrefix(result.Warnings[0], `policy/zlow: methods: policy "slow" is the timeout of "*" of service "checkout" already`) {
		t.Errorf("%q", result.Warnings)
	}
}

// Many documents are written in as few commits as the store takes, those of a service
// together.
func TestBatches(t *testing.T) {
	t.Parallel()
	r := newRig()
	var list []string
	for i := range 50 {
		list = append(list, fmt.Sprintf("{name: p%d, service: s%02d, methods: [a.B/m%d], timeout: {default: 1s}}", i, i/4, i))
	}
	result := r.must(t, "alice", policies(list...))
	if len(result.Changes) != 50 || r.memory.Commits() != 2 {
		t.Errorf("%d documents in %d commits", len(result.Changes), r.memory.Commits())
	}
	long := strings.Repeat("x", 8<<10)
	list = nil
	for i := range 40 {
		list = append(list, fmt.Sprintf(`{name: q%d, service: big, methods: ["a.B/m%d"], route: {rules: [{status: {code: OK, message: "%s"}}]}}`, i, i, long[:1000]))
	}
	r = newRig()
	r.must(t, "alice", policies(list...))
	if n := r.memory.Commits(); n != 2 {
		t.Errorf("%d commits", n)
	}
}

// Where a later commit does not succeed, what was done is said.
func TestHalfDone(t *testing.T) {
	t.Parallel()
	r := newRig()
	var list []string
	for i := range 31 {
		list = append(list, fmt.Sprintf("{name: p%02d, service: s%02d, timeout: {default: 1s}}", i, i))
	}
	r.store.before = func() {
		r.store.before = func() { r.must(t, "bob", policies("{name: p30, service: s30, timeout: {default: 3s}}")) }
	}
	result, err := r.apply(t, "alice", policies(list...))
	expectError(t, err, `30 documents were written, and then: policy/p30: it was changed meanwhile, in revision 1 by bob at 2026-01-31T12:00:00Z ("by bob"): look at it with pillion diff, and apply it again`)
	if result == nil || len(result.Changes) != 30 {
		t.Errorf("%v", result)
	}
}

func TestTooLarge(t *testing.T) {
	t.Parallel()
	r := newRig()
	p := &configv1.Policy{Name: "r", Service: "a", Kind: &configv1.Policy_Route{Route: &configv1.RoutePolicy{}}}
	for i := range 180 {
		p.GetRoute().Rules = append(p.GetRoute().Rules, &configv1.RouteRule{Action: &configv1.RouteRule_Status{Status: &configv1.FixedStatus{Code: "OK", Message: strings.Repeat("x", 1000)}}, Name: fmt.Sprint("r", i)})
	}
	_, err := r.Apply(t.Context(), Wanted{Documents: []*controlv1.Document{{Body: &controlv1.Document_Policy{Policy: p}}}})
	if err == nil || !strings.HasPrefix(err.Error(), "policy/r: takes ") || !strings.HasSuffix(err.Error(), fmt.Sprintf(" bytes, at most %d may be: make two of it", MaxDocument)) {
		t.Error(err)
	}
	p.GetRoute().Rules = p.GetRoute().Rules[:150]
	if _, err := r.Apply(t.Context(), Wanted{Documents: []*controlv1.Document{{Body: &controlv1.Document_Policy{Policy: p}}}}); err != nil {
		t.Error(err)
	}
	if _, err := r.Apply(t.Context(), Wanted{Message: strings.Repeat("x", maxMessage+1)}); err == nil {
		t.Error("a message of any length is taken")
	}
}

func TestStoreFails(t *testing.T) {
	t.Parallel()
	r := newRig()
	store := r.store.Store.(*memkv.Store)
	r.store.before = func() { store.SetFault(memkv.Fault{Err: errors.New("cut off")}) }
	_, err := r.apply(t, "alice", policies(slow))
	expectError(t, err, "cannot write: cut off (it may have been written nevertheless: pillion diff says so)")
	_, err = r.apply(t, "alice", policies(slow))
	expectError(t, err, "cannot read the documents: cut off")
	store.SetFault(memkv.Fault{})
	r.store.before = func() { store.SetFault(memkv.Fault{Err: kv.ErrDenied}) }
	_, err = r.apply(t, "alice", policies(slow))
	expectError(t, err, "cannot write: permission denied")
}

func TestDelete(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(subsets, slow)+"canaries: ["+release+"]\n")
	canary, parts := ID{control.Canary, "release"}, ID{control.Policy, "parts"}
	remove := func(force bool, ids ...ID) error {
		_, err := r.Apply(t.Context(), Wanted{Delete: ids, Author: "bob", Force: force})
		return err
	}
	expectError(t, remove(false, ID{control.Policy, "none"}), "policy/none: there is no such document")
	expectError(t, remove(false, parts), `canary/release: stable: needs the subset "v1" of service "checkout", which would be gone: delete it as well, or force it (--force)`+"\n"+
		`canary/release: canary: needs the subset "v2" of service "checkout", which would be gone: delete it as well, or force it (--force)`)
	r.starts(t, canary, "checkout", controlv1.Phase_PHASE_PAUSED)
	expectError(t, remove(false, canary), "canary/release: it is running: end it first (pillion canary abort release), or force it")
	if err := remove(true, canary); err != nil {
		t.Error(err)
	}
	if err := remove(false, parts, parts); err != nil {
		t.Error(err)
	}
	expect(t, "there is", r.has(t), "policy/slow@1")
	expect(t, "history", r.history(t, "canary/release"), "1 alice, 2 bob deleted")
	expectError(t, remove(false, canary), "canary/release: there is no such document")
}

// What is changed of what runs waits, and is said to.
func TestChangeOfWhatRuns(t *testing.T) {
	t.Parallel()
	r := newRig()
	r.must(t, "alice", policies(subsets)+"canaries: ["+release+"]\n")
	canary := ID{control.Canary, "release"}
	changed := "canaries: [" + strings.Replace(release, "1000", "2000", 1) + "]\n"
	r.starts(t, canary, "checkout", controlv1.Phase_PHASE_RUNNING)
	result := r.must(t, "bob", changed)
	expect(t, "warned", strings.Join(result.Warnings, "\n"), "canary/release: it is running, as it was when it was started: this holds from its next start on")
	_, err := r.apply(t, "bob", policies(strings.NewReplacer("parts", "parts2", "checkout", "billing").Replace(subsets))+strings.Replace(changed, "checkout", "billing", 1))
	expectError(t, err, "canary/release: it is running: end it first (pillion canary abort release), or force it")
	r.starts(t, canary, "checkout", controlv1.Phase_PHASE_PROMOTED)
	if result := r.must(t, "bob", "canaries: ["+release+"]\n"); len(result.Warnings) != 0 {
		t.Errorf("%q", result.Warnings)
	}
	r.put(t, control.StateKey(control.Canary, "checkout", "release"), "?")
	_, err = r.Apply(t.Context(), Wanted{Delete: []ID{canary}})
	expectError(t, err, "canary/release: it is running: end it first (pillion canary abort release), or force it")
}
