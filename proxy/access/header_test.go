package access

import (
	"fmt"
	"testing"

	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
	"github.com/pillion-proxy/pillion/registry"
)

// Envoy 1.40 says the same of each (interop/identity).
func TestHeaderConditions(t *testing.T) {
	t.Parallel()
	none, one, two := []string{}, []string{"Red-1"}, []string{"Red-1", "Red-2"}
	for _, c := range []struct {
		condition registry.IntentionHeader
		values    []string
		want      bool
	}{
		{registry.IntentionHeader{Exact: "Red-1"}, none, false},
		{registry.IntentionHeader{Exact: "Red-1"}, one, true},
		{registry.IntentionHeader{Exact: "Red-1"}, two, true},
		{registry.IntentionHeader{Exact: "Red-2"}, one, false},
		{registry.IntentionHeader{Exact: "Red-2"}, two, true},
		{registry.IntentionHeader{Exact: "Red-1,Red-2"}, two, false},
		{registry.IntentionHeader{Exact: "rED-1"}, one, false},
		{registry.IntentionHeader{Exact: "rED-1", IgnoreCase: true}, one, true},
		{registry.IntentionHeader{Exact: "Blue", Invert: true}, none, false},
		{registry.IntentionHeader{Exact: "Blue", Invert: true}, two, true},
		{registry.IntentionHeader{Exact: "Red-2", Invert: true}, one, true},
		{registry.IntentionHeader{Exact: "Red-2", Invert: true}, two, false},
		{registry.IntentionHeader{Prefix: "rED", IgnoreCase: true}, two, true},
		{registry.IntentionHeader{Prefix: "Red-12"}, two, false},
		{registry.IntentionHeader{Suffix: "-1"}, two, true},
		{registry.IntentionHeader{Suffix: "-3"}, two, false},
		{registry.IntentionHeader{Contains: "d-"}, one, true},
		{registry.IntentionHeader{Contains: "1,R"}, two, false},
		{registry.IntentionHeader{Contains: "D-2", IgnoreCase: true}, two, true},
		{registry.IntentionHeader{Regex: "Red-[0-9]"}, two, true},
		{registry.IntentionHeader{Regex: "Red"}, one, false},
		{registry.IntentionHeader{Regex: "Red-2", Invert: true}, two, false},
		{registry.IntentionHeader{Present: true}, none, false},
		{registry.IntentionHeader{Present: true}, two, true},
		{registry.IntentionHeader{Present: true, Invert: true}, none, true},
		{registry.IntentionHeader{Present: true, Invert: true}, one, false},
	} {
		t.Run(fmt.Sprintf("%+v of %q", c.condition, c.values), func(t *testing.T) {
			t.Parallel()
			c.condition.Name = "X-Team"
			h, ok := compileHeader(&c.condition)
			if !ok {
				t.Fatal("not understood")
			}
			fields := []hpack.Field{{Name: "x-other", Value: "Red-2"}}
			for _, value := range c.values {
				fields = append(fields, hpack.Field{Name: "x-team", Value: value}, hpack.Field{Name: "x-other", Value: "Blue"})
			}
			for _, unsure := range []bool{true, false} {
				if got := h.holds(fields, unsure); got != c.want {
					t.Errorf("%v, want %v", got, c.want)
				}
			}
		})
	}
}
