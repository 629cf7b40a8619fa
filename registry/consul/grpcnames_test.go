package consul

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

func TestJoinGRPC(t *testing.T) {
	t.Parallel()
	long := func(i int) string { return fmt.Sprintf("a%03d.%s", i, strings.Repeat("x", 200)) }
	for _, test := range []struct {
		name  string
		names []string
		meta  map[string]string
		left  int
	}{
		{"none", nil, map[string]string{}, 0},
		{"sorted, once", []string{"b.B", "a.A", "b.B"}, map[string]string{"grpc-services": "a.A,b.B"}, 0},
		{
			"everybody answers these",
			[]string{"grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection", "a.A"},
			map[string]string{"grpc-services": "a.A"}, 0,
		},
		{"no names", []string{"a,b", "", "a b", "a.A"}, map[string]string{"grpc-services": "a.A"}, 3},
		{"goes on", []string{long(1), long(2), long(3)}, map[string]string{
			"grpc-services": long(1) + "," + long(2), "grpc-services-2": long(3),
		}, 0},
	} {
		meta, left := joinGRPC(test.names)
		want(t, test.name, fmt.Sprint(meta, left), fmt.Sprint(test.meta, test.left))
	}
}

func TestGRPCNamesComeBack(t *testing.T) {
	t.Parallel()
	name := rapid.StringMatching(`[a-z_][a-z0-9_]{0,40}(\.[A-Z][a-z0-9]{0,80}){0,2}`)
	rapid.Check(t, func(t *rapid.T) {
		names := rapid.SliceOfN(name, 0, 120).Draw(t, "names")
		meta, left := joinGRPC(names)
		if len(meta) > maxMetaGRPC {
			t.Fatalf("%d keys", len(meta))
		}
		for key, value := range meta {
			if len(value) > maxMetaValue || value == "" {
				t.Fatalf("%s has %d bytes", key, len(value))
			}
		}

		wanted := slices.Compact(slices.Sorted(slices.Values(names)))
		got := splitGRPC(nil, meta)
		if len(got)+left != len(wanted) {
			t.Fatalf("%d came back, %d were left out, of %d", len(got), left, len(wanted))
		}
		if !slices.Equal(got, wanted[:len(got)]) {
			t.Fatalf("got %v, want the first of %v", got, wanted)
		}
		if left > 0 && len(meta) < maxMetaGRPC {
			t.Fatalf("%d left out of %d keys", left, len(meta))
		}
	})
}

func FuzzSplitGRPC(f *testing.F) {
	f.Add("a.A, b.B,,", "c.C")
	f.Fuzz(func(t *testing.T, first, second string) {
		for _, name := range splitGRPC(nil, map[string]string{metaGRPC: first, metaGRPC + "-2": second}) {
			if !isGRPCName(name) {
				t.Fatalf("%q", name)
			}
			// Such a name can be put into a filter as it is.
			if strings.ContainsAny(name, "\"\\`*+?()[]{}|^$ \n") {
				t.Fatalf("%q means something in an expression", name)
			}
		}
	})
}
