package chain

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	configv1 "github.com/pillion-proxy/pillion/proto/pillion/config/v1"
)

// shares are all RPCs that are divided.
const shares = 10_000

// leg is a part of the RPCs that are divided.
type leg struct {
	weight            uint32 // of shares
	to                *configv1.Destination
	problem           string // why it cannot be reached
	where             string
	request, response *configv1.MetadataChange
}

// legs are those of a splitter, whose weights come to shares: as with Envoy, what is
// missing is shared out as the rest is. There are none where no leg has a weight.
func (t *translation) legs(n *Node, where string) []leg {
	var total float64
	weights := make([]float64, len(n.Splits))
	for i, s := range n.Splits {
		w := float64(s.Weight)
		if !(w >= 0.005) || math.IsInf(w, 0) { // less than can be told from none; or nonsense
			w = 0
		}
		weights[i] = w
		total += w
	}
	if total == 0 || math.IsInf(total, 0) {
		return nil
	}
	legs := make([]leg, 0, len(weights))
	given, most := 0, 0
	for i, s := range n.Splits {
		l := leg{weight: uint32(math.Round(weights[i] / total * shares)), where: fmt.Sprintf("%s: splits[%d]", where, i)}
		l.to, l.problem = t.destination(t.chain.Nodes[s.NextNode].Resolver.Target)
		if d := s.Definition; d != nil {
			l.request = t.changes(d.RequestHeaders, l.where+".request_headers")
			l.response = t.changes(d.ResponseHeaders, l.where+".response_headers")
		}
		given += int(l.weight)
		legs = append(legs, l)
		if legs[most].weight < l.weight {
			most = i
		}
	}
	// What rounding made too much or too little is where it is the least.
	legs[most].weight = uint32(max(0, int(legs[most].weight)+shares-given))
	return legs
}

// maxDestinations is how many a split may have.
const maxDestinations = 64

// fitsSplit says whether a split can say what the legs do.
func fitsSplit(legs []leg) bool {
	var sum uint32
	for i := range legs {
		if legs[i].problem != "" || legs[i].response != nil {
			return false
		}
		sum += legs[i].weight
	}
	return len(legs) <= maxDestinations && sum == shares
}

// splitOf makes a split of legs. What the rule changes is done after what a leg does, as
// with Envoy, so where both change the same keys the legs take it over. Then the rule does
// not yield: who went elsewhere would miss what the rule changes.
func (t *translation) splitOf(legs []leg, rule *configv1.RouteRule) *configv1.Split {
	s := &configv1.Split{GroupKey: "-"}
	names := map[string]int{}
	takeOver := slices.ContainsFunc(legs, func(l leg) bool { return meet(l.request, rule.GetRequest()) })
	if takeOver && rule.GetYields() {
		rule.Yields = false
		t.notef("rule %q: a route and a split change the same request headers, so that canaries and experiments divide none of these RPCs", rule.GetName())
	}
	for i := range legs {
		l := &legs[i]
		name := cmp.Or(l.to.GetSubset(), l.to.GetService(), "default")
		if names[name]++; names[name] > 1 {
			name = fmt.Sprintf("%.110s-%d", name, i)
		}
		s.Destinations = append(s.Destinations, &configv1.WeightedDestination{
			Weight: l.weight, Group: name, Service: l.to.GetService(), Subset: l.to.GetSubset(),
			Request: l.request,
		})
		if takeOver {
			s.Destinations[i].Request = then(l.request, rule.GetRequest())
		}
	}
	if takeOver {
		rule.Request = nil
	}
	return s
}
