package ratelimit

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

// TestKeysAreAsTheirModel plays a limiter against a list of keys in the order of their
// use.
func TestKeysAreAsTheirModel(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(rt *rapid.T) {
		most := rapid.IntRange(1, 8).Draw(rt, "keys")
		l := Limit{Requests: 1, Interval: time.Second, Burst: rapid.IntRange(1, 3).Draw(rt, "burst"), MaxKeys: most}
		m, now := New(l), start
		order := []string{} // the key used last is the first
		tokens := map[string]time.Duration{}
		last := map[string]time.Time{}
		refill := func(key string) {
			tokens[key] = min(tokens[key]+now.Sub(last[key]), time.Duration(l.Burst)*time.Second)
			last[key] = now
		}
		rt.Repeat(map[string]func(*rapid.T){
			"take": func(rt *rapid.T) {
				key := fmt.Sprint(rapid.IntRange(0, 12).Draw(rt, "key"))
				i := slices.Index(order, key)
				if i >= 0 {
					order = slices.Delete(order, i, i+1)
				} else {
					if n := len(order) - 1; n >= 0 {
						oldest := order[n]
						refill(oldest)
						if full := tokens[oldest] == time.Duration(l.Burst)*time.Second; full || n+1 == most {
							order = order[:n]
							delete(tokens, oldest)
						}
					}
					tokens[key], last[key] = time.Duration(l.Burst)*time.Second, now
				}
				order = slices.Insert(order, 0, key)
				refill(key)
				wait, ok := m.Take(now, key)
				if ok != (tokens[key] >= time.Second) || !ok && wait != time.Second-tokens[key] {
					rt.Fatalf("%q: %v, %v; it has tokens for %v", key, ok, wait, tokens[key])
				}
				if ok {
					tokens[key] -= time.Second
				}
			},
			"wait": func(rt *rapid.T) {
				now = now.Add(time.Duration(rapid.IntRange(0, 2500).Draw(rt, "ms")) * time.Millisecond)
			},
			"": func(rt *rapid.T) {
				if m.Keys() != len(order) {
					rt.Fatalf("%d keys, want %v", m.Keys(), order)
				}
			},
		})
	})
}

// Keys of all lengths are told apart, those as well that a fixed length would pad to the
// same, and are spread over all shards.
func TestKeysAreToldApart(t *testing.T) {
	t.Parallel()
	k := newKeys(1 << 20)
	known, used := map[digest]string{}, map[*shard]int{}
	for n := range 2 * shortKey {
		for _, with := range []string{"\x00", "a", "b", "\xff"} {
			for _, end := range []string{"", "\x00", "\x00\x00", "1", "2"} {
				key := strings.Repeat(with, n) + end
				s, d := k.find(key)
				if other, taken := known[d]; taken && other != key {
					t.Fatalf("%q and %q are taken for the same", key, other)
				}
				if again, e := k.find(key); again != s || e != d {
					t.Fatalf("%q is not found again", key)
				}
				known[d] = key
				used[s]++
			}
		}
	}
	for i := range k.shards {
		if n := used[&k.shards[i]]; n < len(known)/len(k.shards)/4 || n > 4*len(known)/len(k.shards) {
			t.Errorf("shard %d of %d has %d of %d keys", i, len(k.shards), n, len(known))
		}
	}
}
