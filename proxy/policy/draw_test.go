package policy

import (
	"fmt"
	"math/rand/v2"
	"strings"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
	"github.com/pillion-proxy/pillion/proxy/h2/hpack"
)

// What is drawn comes from small worlds, so that it meets often.

var (
	worldKeys    = []string{"a", "b", "c-bin"}
	worldCookies = []string{"a", "b"}
	worldValues  = []string{"", "1", "2", "12", "1,2", "x", "1,x", "MTI=", "MTI", "MQ"}
	worldCallers = []string{"", "web", "batch"}
	worldMethods = []string{"a/x", "a/y", "b/x"}
)

func drawCondition(t *rapid.T) *configv1.MetadataMatch {
	m := drawConditionOn(t, rapid.SampledFrom(worldKeys).Draw(t, "key"))
	if strings.HasSuffix(m.Key, "-bin") && rapid.Bool().Draw(t, "bytes") {
		m.Condition = &configv1.MetadataMatch_Bytes{Bytes: []byte(rapid.SampledFrom(worldValues).Draw(t, "value"))}
	}
	return m
}

func drawConditionOn(t *rapid.T, key string) *configv1.MetadataMatch {
	m := &configv1.MetadataMatch{Key: key, Invert: rapid.IntRange(0, 3).Draw(t, "invert") == 0}
	value := rapid.SampledFrom(worldValues).Draw(t, "value")
	switch rapid.SampledFrom([]string{"exact", "exact", "exact", "prefix", "suffix", "regex", "present", "range"}).Draw(t, "condition") {
	case "exact":
		m.Condition = &configv1.MetadataMatch_Exact{Exact: value}
	case "prefix":
		m.Condition = &configv1.MetadataMatch_Prefix{Prefix: value}
	case "suffix":
		m.Condition = &configv1.MetadataMatch_Suffix{Suffix: value}
	case "regex":
		m.Condition = &configv1.MetadataMatch_Regex{Regex: rapid.SampledFrom([]string{"1.*", "x", ".*2", "[^,]*"}).Draw(t, "regex")}
	case "present":
		m.Condition = &configv1.MetadataMatch_Present{Present: rapid.Bool().Draw(t, "present")}
	case "range":
		start := rapid.Int64Range(-1, 13).Draw(t, "start")
		m.Condition = &configv1.MetadataMatch_Range{Range: &configv1.Int64Range{Start: start, End: start + rapid.Int64Range(1, 12).Draw(t, "length")}}
	}
	return m
}

func drawFields(t *rapid.T) (list []hpack.Field) {
	for range rapid.IntRange(0, 4).Draw(t, "fields") {
		list = append(list, hpack.Field{Name: rapid.SampledFrom(worldKeys).Draw(t, "key"), Value: rapid.SampledFrom(worldValues).Draw(t, "value")})
	}
	return list
}

// drawRPC draws a whole RPC by one number: rapid takes longer to draw than Decide to
// decide.
func drawRPC(t *rapid.T) *RPC {
	seed := rapid.Uint64().Draw(t, "rpc")
	random := rand.New(rand.NewPCG(seed, 1))
	one := func(of []string) string { return of[random.IntN(len(of))] }
	rpc := &RPC{Path: "/" + one(append(worldMethods, "c/z")), Caller: one(worldCallers), Peer: "192.0.2.1", Random: random.Uint64}
	for range random.IntN(5) {
		rpc.Fields = append(rpc.Fields, hpack.Field{Name: one(worldKeys), Value: one(worldValues)})
	}
	if random.IntN(4) == 0 { // values that are joined
		rpc.Fields = append(rpc.Fields, fields("a: 1", "b: 1", "a: 2", "b: x")...)
	}
	for range random.IntN(3) {
		var pairs []string
		for range random.IntN(4) {
			pairs = append(pairs, one(worldCookies)+"="+one(worldValues))
		}
		rpc.Fields = append(rpc.Fields, hpack.Field{Name: "cookie", Value: strings.Join(pairs, "; ")})
	}
	if random.IntN(4) == 0 {
		rpc.Fields = append(rpc.Fields, hpack.Field{Name: ForceKey, Value: one([]string{"v1", "v2", "nobody"})})
	}
	return rpc
}

func drawMatch(t *rapid.T) *configv1.RouteMatch {
	m := &configv1.RouteMatch{}
	if rapid.Bool().Draw(t, "by method") {
		m.Methods = rapid.SliceOfNDistinct(rapid.SampledFrom(append(worldMethods, "a", "b/*", "a/x*", "*")), 1, 2, func(s string) string { return strings.TrimSuffix(s, "/*") }).Draw(t, "methods")
	}
	for range rapid.IntRange(0, 2).Draw(t, "conditions") {
		m.Metadata = append(m.Metadata, drawCondition(t))
	}
	if rapid.IntRange(0, 2).Draw(t, "by cookie") == 0 {
		m.Cookies = append(m.Cookies, drawConditionOn(t, rapid.SampledFrom(worldCookies).Draw(t, "cookie")))
	}
	if rapid.IntRange(0, 2).Draw(t, "by caller") == 0 {
		m.Callers = rapid.SliceOfNDistinct(rapid.SampledFrom(worldCallers[1:]), 1, 2, rapid.ID).Draw(t, "callers")
	}
	if rapid.IntRange(0, 2).Draw(t, "by chance") == 0 {
		m.Fraction = proto.Uint32(rapid.SampledFrom([]uint32{0, 1, 5000, 9999, 10000}).Draw(t, "fraction"))
	}
	return m
}

func drawRoute(t *rapid.T) *configv1.RoutePolicy {
	r := &configv1.RoutePolicy{}
	for i := range rapid.IntRange(1, 12).Draw(t, "rules") {
		rule := &configv1.RouteRule{Name: fmt.Sprintf("r%d", i), Match: drawMatch(t)}
		switch rapid.IntRange(0, 2).Draw(t, "action") {
		case 0:
			rule.Action = &configv1.RouteRule_To{To: &configv1.Destination{Service: fmt.Sprintf("s%d", i)}}
		case 1:
			rule.Action = &configv1.RouteRule_Status{Status: &configv1.FixedStatus{Code: "NOT_FOUND"}}
		case 2:
			rule.Action = &configv1.RouteRule_Split{Split: drawSplit(t)}
		}
		r.Rules = append(r.Rules, rule)
	}
	return r
}

func drawSplit(t *rapid.T) *configv1.Split {
	canary := rapid.Uint32Range(0, 10000).Draw(t, "weight")
	s := &configv1.Split{
		GroupKey:     DefaultGroupKey,
		AllowForce:   rapid.Bool().Draw(t, "force"),
		Destinations: []*configv1.WeightedDestination{{Weight: 10000 - canary, Subset: "v1"}, {Weight: canary, Subset: "v2"}},
	}
	if rapid.Bool().Draw(t, "sticky") {
		s.Sticky = &configv1.Sticky{Missing: rapid.SampledFrom([]string{"", "v1", "v2"}).Draw(t, "missing")}
		s.Sticky.Key = rapid.SampledFrom([]*configv1.HashKey{
			{From: &configv1.HashKey_Metadata{Metadata: "a"}},
			{From: &configv1.HashKey_Cookie{Cookie: "a"}},
			{From: &configv1.HashKey_Caller{Caller: true}},
		}).Draw(t, "key")
	}
	return s
}
