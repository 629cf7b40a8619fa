package kvtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/pillion-proxy/pillion/control/kv"
)

var entryCases = []Case{
	{"versions", versions},
	{"a commit does all or nothing", allOrNothing},
	{"no update is lost", noUpdateIsLost},
	{"lists", lists},
	{"odd keys and values", oddKeys},
	{"bounds", bounds},
	{"a context that has ended", endedContext},
}

// conflict checks that an error is one of these keys.
func conflict(t *testing.T, err error, keys ...string) {
	t.Helper()
	conflict, ok := errors.AsType[*kv.ConflictError](err)
	if !ok {
		t.Fatalf("got %v, want a conflict of %q", err, keys)
	}
	if got := slices.Sorted(slices.Values(conflict.Keys)); !slices.Equal(got, keys) {
		t.Fatalf("conflict of %q, want %q", got, keys)
	}
}

func versions(t *testing.T, r Rig) {
	ctx, seen := t.Context(), map[uint64]bool{}
	fresh := func() uint64 {
		t.Helper()
		v := version(t, r.B, "p/a")
		if v == 0 || seen[v] {
			t.Fatalf("version %d again", v)
		}
		seen[v] = true
		return v
	}

	equal(t, "before", get(t, r.A, "p/a"), "-")
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("1")}))
	equal(t, "seen by the other", get(t, r.B, "p/a"), "1")
	first := fresh()
	conflict(t, r.B.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("2")}), "p/a")
	conflict(t, r.B.Commit(ctx, kv.Op{Key: "p/a"}), "p/a")
	must(t, r.B.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("2"), Version: first}))
	second := fresh()
	conflict(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("3"), Version: first}), "p/a")
	conflict(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Version: first}), "p/a")
	equal(t, "after conflicts", get(t, r.B, "p/a"), "2")

	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("2"), Version: second}))
	if again := version(t, r.B, "p/a"); again != second {
		t.Fatalf("written what it had already, and has version %d after %d", again, second)
	}
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("1"), Version: second})) // as at first
	third := fresh()

	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Version: third}))
	equal(t, "deleted", get(t, r.B, "p/a"), "-")
	conflict(t, r.B.Commit(ctx, kv.Op{Key: "p/a", Version: third}), "p/a")
	conflict(t, r.B.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("4"), Version: third}), "p/a")
	must(t, r.B.Commit(ctx, kv.Op{Key: "p/a"})) // it is not to be there, and is not
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("1")}))
	fresh()

	must(t, r.B.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("5"), Any: true}))
	fresh()
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Any: true}))
	must(t, r.A.Commit(ctx, kv.Op{Key: "p/a", Any: true}))
	equal(t, "deleted twice", get(t, r.B, "p/a"), "-")
}

func allOrNothing(t *testing.T, r Rig) {
	ctx := t.Context()
	set(t, r.A, "p/a", "1")
	set(t, r.A, "p/b", "1")
	set(t, r.A, "p/c", "1")
	a := version(t, r.A, "p/a")
	conflict(t, r.B.Commit(ctx,
		kv.Op{Key: "p/a", Value: []byte("2"), Version: a},
		kv.Op{Key: "p/b", Value: []byte("2"), Version: a + 12345},
		kv.Op{Key: "p/c", Any: true},
		kv.Op{Key: "p/d", Value: []byte("2")},
		kv.Op{Key: "p/e", Value: []byte("2"), Version: 7},
	), "p/b", "p/e")
	list, err := r.A.List(ctx, "p/")
	must(t, err)
	if len(list) != 3 || slices.ContainsFunc(list, func(e kv.Entry) bool { return string(e.Value) != "1" }) {
		t.Fatalf("half of it was done: %+v", list)
	}

	b := version(t, r.B, "p/b")
	must(t, r.B.Commit(ctx,
		kv.Op{Key: "p/a", Value: []byte("2"), Version: a},
		kv.Op{Key: "p/b", Version: b},
		kv.Op{Key: "p/c", Value: []byte("2"), Any: true},
		kv.Op{Key: "p/d", Value: []byte("2")},
		kv.Op{Key: "p/e"},
	))
	for key, want := range map[string]string{"p/a": "2", "p/b": "-", "p/c": "2", "p/d": "2", "p/e": "-"} {
		equal(t, key, get(t, r.A, key), want)
	}
}

func noUpdateIsLost(t *testing.T, r Rig) {
	const each = 15
	var writers sync.WaitGroup
	for n, s := range []kv.Store{r.A, r.B, r.A, r.B} {
		writers.Go(func() {
			for done := 0; done < each; {
				count, version := 0, uint64(0)
				entry, err := s.Get(t.Context(), "p/count")
				switch {
				case err == nil:
					count, _ = strconv.Atoi(string(entry.Value))
					version = entry.Version
				case !errors.Is(err, kv.ErrNotFound):
					t.Error(err)
					return
				}
				err = s.Commit(t.Context(),
					kv.Op{Key: "p/count", Value: []byte(strconv.Itoa(count + 1)), Version: version},
					kv.Op{Key: fmt.Sprintf("p/done/%03d", count+1), Value: []byte(strconv.Itoa(n))},
				)
				if err == nil {
					done++
				} else if _, ok := errors.AsType[*kv.ConflictError](err); !ok {
					t.Error(err)
					return
				}
			}
		})
	}
	writers.Wait()
	equal(t, "count", get(t, r.A, "p/count"), strconv.Itoa(4*each))
	list, err := r.B.List(t.Context(), "p/done/")
	must(t, err)
	if len(list) != 4*each {
		t.Fatalf("%d are noted, want %d", len(list), 4*each)
	}
}

func lists(t *testing.T, r Rig) {
	keys := []string{"p", "p-/x", "p/a", "p/a/b", "p/a/b/c", "p/ab", "p/b.json", "p/b.json/c", "q/a"}
	shuffled := slices.Clone(keys)
	slices.Reverse(shuffled)
	for _, key := range shuffled {
		set(t, r.A, key, key)
	}
	for prefix, want := range map[string][]string{
		"": keys, "p": keys[:8], "p/": keys[2:8], "p/a": keys[2:6], "p/a/": keys[3:5], "p/b": keys[6:8], "p/b.": keys[6:8],
		"p/b.json/": keys[7:8], "r/": nil, "p/a/b/c/": nil, "p-": keys[1:2],
	} {
		list, err := r.B.List(t.Context(), prefix)
		must(t, err)
		var got []string
		for _, e := range list {
			got = append(got, e.Key)
			if string(e.Value) != e.Key || e.Version != version(t, r.B, e.Key) {
				t.Errorf("%s is %q, version %d", e.Key, e.Value, e.Version)
			}
		}
		if !slices.Equal(got, want) {
			t.Errorf("below %q are %q, want %q", prefix, got, want)
		}
	}
	for _, prefix := range []string{"/", "/p", "p//", "p/../", "p/\xff", strings.Repeat("k", kv.MaxElement+1) + "/"} {
		if list, err := r.B.List(t.Context(), prefix); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("below %q: %+v, %v", prefix, list, err)
		}
	}
}

func oddKeys(t *testing.T, r Rig) {
	for n, key := range []string{
		"p/a b", "p/ä€/\U0001f600", "p/100%", "p/%2F", "p/?x=1&y#z", "p/.hidden", "p/...", "p/a.json", "p/a.json/a", "p/+", "p/\\", "p/a:b",
		"p/*", `p/"'`, "p/<&>", "p/~", "p/.json", "p/a.", "p/%zz", "p/x%2Ejson/y", "p/CON", "p/" + strings.Repeat("x", kv.MaxElement),
	} {
		value := []byte{0, 0xff, '\n', byte(n), '"', '{'}
		must(t, r.A.Commit(t.Context(), kv.Op{Key: key, Value: value}))
		entry, err := r.B.Get(t.Context(), key)
		if err != nil || entry.Key != key || !bytes.Equal(entry.Value, value) {
			t.Errorf("%q: %+v, %v", key, entry, err)
		}
		list, err := r.B.List(t.Context(), key)
		if err != nil || len(list) == 0 || list[0].Key != key {
			t.Errorf("below %q: %+v, %v", key, list, err)
		}
	}
	list, err := r.B.List(t.Context(), "p/")
	must(t, err)
	if len(list) != 22 || !slices.IsSortedFunc(list, func(a, b kv.Entry) int { return strings.Compare(a.Key, b.Key) }) {
		t.Errorf("%d keys: %+v", len(list), list)
	}
	for prefix, want := range map[string]int{"p/.": 3, "p/..": 1, "p/...": 1} {
		if list, err := r.B.List(t.Context(), prefix); err != nil || len(list) != want {
			t.Errorf("below %q: %+v, %v", prefix, list, err)
		}
	}
	for _, key := range []string{"", "/", "/p", "p/", "p//a", "p/./a", "p/../a", "..", "p/\xff", "p/\x00", "p/\n"} {
		_, err := r.A.Get(t.Context(), key)
		for what, err := range map[string]error{"Get": err, "Commit": r.A.Commit(t.Context(), kv.Op{Key: key, Value: []byte("x"), Any: true})} {
			if err == nil || errors.Is(err, kv.ErrNotFound) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%s of key %q: %v", what, key, err)
			}
		}
	}

	set(t, r.A, "p/empty", "")
	equal(t, "an empty value", get(t, r.B, "p/empty"), "")
	must(t, r.B.Commit(t.Context(), kv.Op{Key: "p/empty", Value: []byte{}, Version: version(t, r.B, "p/empty")}))
}

func bounds(t *testing.T, r Rig) {
	ctx := t.Context()
	var full []kv.Op
	for n := range kv.MaxOps {
		full = append(full, kv.Op{Key: fmt.Sprintf("p/%d", n), Value: bytes.Repeat([]byte{'v'}, kv.MaxCommit/kv.MaxOps-6)})
	}
	must(t, r.A.Commit(ctx, full...))
	largest := kv.Op{Key: "q/large", Value: bytes.Repeat([]byte{0xff}, kv.MaxValue)}
	must(t, r.A.Commit(ctx, largest))
	entry, err := r.B.Get(ctx, "q/large")
	if err != nil || !bytes.Equal(entry.Value, largest.Value) {
		t.Errorf("the largest value: %d bytes, %v", len(entry.Value), err)
	}
	long := strings.Repeat(strings.Repeat("k", kv.MaxElement-1)+"/", 2) + strings.Repeat("k", kv.MaxKey-2*kv.MaxElement)
	set(t, r.A, long, "v")
	equal(t, "the longest key", get(t, r.B, long), "v")

	large := bytes.Repeat([]byte{'v'}, kv.MaxCommit/2)
	for what, ops := range map[string][]kv.Op{
		"too many":  append(slices.Clone(full), kv.Op{Key: "p/more", Any: true}),
		"none":      nil,
		"too large": {{Key: "r/a", Value: make([]byte, kv.MaxValue+1)}},
		"together":  {{Key: "r/a", Value: large}, {Key: "r/b", Value: large}},
		"twice":     {{Key: "r/a", Value: large}, {Key: "r/a", Any: true}},
		"long key":  {{Key: long + "k", Value: large}},
		"long name": {{Key: "r/" + strings.Repeat("k", kv.MaxElement+1), Value: large}},
	} {
		if err := r.A.Commit(ctx, ops...); err == nil || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v", what, err)
		}
	}
	if list, err := r.B.List(ctx, "r/"); err != nil || len(list) > 0 {
		t.Errorf("written: %d, %v", len(list), err)
	}
}

func endedContext(t *testing.T, r Rig) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, gets := r.A.Get(ctx, "p/a")
	_, lists := r.A.List(ctx, "p/")
	_, sessions := r.A.Session(ctx, kv.SessionOptions{})
	for what, err := range map[string]error{"Get": gets, "List": lists, "Session": sessions, "Commit": r.A.Commit(ctx, kv.Op{Key: "p/a", Value: []byte("1")})} {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: %v", what, err)
		}
	}
	r.A.Watch(ctx, "p/", func(kv.State) {}) // returns
	equal(t, "nothing was written", get(t, r.B, "p/a"), "-")
}
