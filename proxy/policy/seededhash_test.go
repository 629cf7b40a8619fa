package policy

import (
	"strings"
	"testing"

	"github.com/cespare/xxhash/v2"
	"pgregory.net/rapid"
)

func TestSeededHashIsXXH64(t *testing.T) {
	t.Parallel()
	check := func(t rapid.TB, seed uint64, key string) {
		d := xxhash.NewWithSeed(seed)
		_, _ = d.WriteString(key)
		if got, want := seededHash(seed, key), d.Sum64(); got != want {
			t.Errorf("of %q with %d: %d, want %d", key, seed, got, want)
		}
	}
	for n := range 100 {
		check(t, 1, strings.Repeat("é", n)[:n])
	}
	rapid.Check(t, func(t *rapid.T) {
		check(t, rapid.Uint64().Draw(t, "seed"), rapid.StringN(0, -1, 70).Draw(t, "key"))
	})
}
